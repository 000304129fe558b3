"Lines of [strategies] given by 'carnet set': any name that a file can hold, per cent, and nothing that could not trade."

from pathlib import Path

import pytest
from typed import carnet

from trading.core.settings import load_settings


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", "data")
    Path("settings.ini").write_text("[limits]\nmax_weight = 0.3\n")
    return tmp_path


def test_a_name_with_umlauts_a_long_one_and_per_cent_are_taken(home):
    long = "a quite long name of a sleeve that says everything there is to say about it"
    names = {"Übergewicht Öl": "0.2, XOM 60%, CVX 40%", long: "10%, KO 1", "10% gold": "0.1, KO 0.5"}
    for name, line in names.items():
        code, said = carnet("set", f"strategies.{name}={line}")
        assert code == 0, said
    found = load_settings().strategies
    assert set(found) == set(names) and found["Übergewicht Öl"] == {"share": 0.2, "XOM": 0.6, "CVX": 0.4}
    assert found[long]["share"] == pytest.approx(0.1)


@pytest.mark.parametrize(("word", "what"), [
    ("strategies.MaCross=0.3", "MaCross in [strategies] was never promoted"), ("strategies.mine=0.3, KOO 0.6", "did you mean 'KO'"),
    ("strategies.mine=much", "write the share of the capital first"), ("strategies.fixed=0.4", "needs targets"),
    (f"strategies.{'x' * 130}=0.1, KO 1", "at most 120"), ("strategies=0.1", "names no setting"),
    ("strategies.a[b=0.1, KO 1", "which a settings file cannot hold"),
    ("strategies.momentum=0.3, kelly 0.2", "is a policy, which says how much is held"),
    ("strategies.mine=0.2, KO 0.8, kelly 0.5", "has targets, which says"),
])
def test_what_could_not_trade_is_not_written_down(home, word, what):
    before = Path("settings.ini").read_text()
    code, said = carnet("set", word)
    assert code != 0 and what in said and "string_pattern" not in said and Path("settings.ini").read_text() == before, said
