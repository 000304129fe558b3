"The machine looks for strategies: on noise it promotes nothing, a planted edge it finds, and every trial is counted."

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typed import carnet

from trading.backtest.trial_register import TrialRegister
from trading.core.errors import BadInput, TradingError
from trading.services import research_control
from trading.services.commands import Actor, Context, perform
from trading.services.questions import READS
from trading.services.workspace import Workspace

pytestmark = pytest.mark.xdist_group("research-auto")
COMMANDS = ("research auto",)  # what is walked here
SETTINGS = """[run]
profile = mine
[mine:market]
source = file
venue = file
symbols = KO, GE
start = 2018-01-01
[promotion]
min_bars = 250
"""
FOLLOW = """from trading.backtest.strategies import SymbolStrategy


class Follow(SymbolStrategy):
    search = {"n": [2, 4, 8]}

    def __init__(self, n=4):
        self.n = n

    def position(self, one):
        return (one["close"].diff(self.n) > 0).to_numpy().astype("int8")
"""


def market(trend: float) -> pd.DataFrame:
    "Closes that keep going for 25 days, or do not."
    chance = np.random.default_rng(11)
    drift = np.repeat(chance.choice([-1, 1], 32), 25)[:, None] * trend
    moves = drift + chance.normal(0, 0.01, (800, 2))
    return pd.DataFrame(100 * np.exp(moves.cumsum(axis=0)), pd.date_range("2018-01-01", periods=800, freq="B"), ["KO", "GE"])


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", "data")
    monkeypatch.setenv("CARNET_RUN__REPORTS", "reports")
    Path("settings.ini").write_text(SETTINGS)
    return tmp_path


def bring(trend: float) -> None:
    market(trend).rename_axis("Date").round(6).to_csv("closes.csv")
    assert carnet("import", "closes.csv")[0] == 0


def trials(data: str) -> int:
    "Count what is on record about these bars."
    return len(TrialRegister(Path("data/trials.sqlite")).trials(data))


def test_on_noise_nothing_is_promoted_every_trial_is_counted_and_the_report_says_why(home):
    bring(0.0)
    code, said = carnet("research", "auto", "--strategies", "MaCross,Donchian,RsiReversion", "--trials", 30, "--promote")
    assert code == 0 and "Nothing is promoted" in said and "refused because" in said, said
    folder = next(Path("reports/research").iterdir())
    told = json.loads((folder / "research.json").read_text())
    assert 20 < told["trials"] == sum(r["tried"] for r in told["lines"]) <= trials(told["data"]) and not any(j["passes"] for j in told["judged"])
    page, text = (folder / "index.html").read_text(), (folder / "report.md").read_text()
    assert "Nothing passes" in page and "MaCross" in page and "chosen afterwards" in page
    assert "| MaCross |" in text and (folder / "returns.svg").exists()
    assert "no strategy has asked to be promoted yet" in carnet("strategies", "list")[1], "a search leaves nothing in the registry of production"
    routes = {r.path: r.view for r in READS["strategies"]}
    place = Workspace(Path("data").resolve(), Path("reports").resolve(), Path("settings.ini").resolve())
    assert routes["/research"](place)["items"][0]["words"] == told["words"]
    assert routes["/research/{name}"](place, folder.name)["trials"] == told["trials"]
    with pytest.raises(TradingError, match="no finished search"):
        routes["/research/{name}"](place, "../x")


def test_a_planted_edge_of_ones_own_is_found_and_promoted_only_when_that_is_asked_for(home):
    bring(0.006)
    Path("strategies").mkdir()
    Path("strategies/Follow.py").write_text(FOLLOW)
    Path("strategies/Broken.py").write_text("class Broken(:\n")
    words = ("research", "auto", "--trials", 12, "--symbols", "KO,GE")
    code, said = carnet(*words)
    assert code == 0 and "Follow: passes" in said and "was not asked for" in said and "left out: Broken" in said, said
    assert "no strategy has asked" in carnet("strategies", "list")[1]
    code, said = carnet("research", "auto", "--trials", 12, "--strategies", "Follow,RsiReversion", "--promote")
    assert code == 0 and "Promoted: Follow." in said, said
    assert "in production" in carnet("strategies", "list")[1]
    assert json.loads(carnet("strategies", "show", "Follow")[1])["variations"] == 3


def test_what_holding_costs_counts_in_a_promotion_and_in_a_search(home):
    bring(0.006)
    Path("strategies").mkdir()
    Path("strategies/Follow.py").write_text(FOLLOW)
    promised = {}
    for swap in ("0", "4"):
        Path("settings.ini").write_text(f"{SETTINGS}[margin]\nleverage = 1\nswap_long = {swap}\n")
        code, said = carnet("strategies", "promote", "Follow", "--grid", "n=2,4,8")
        told = json.loads(carnet("strategies", "show", "Follow")[1])
        assert (code, told["outcome"]) == ((0, "promoted") if swap == "0" else (1, "refused")), said
        assert told["holding"] == ({} if swap == "0" else {"swap_long": 4.0})
        promised[swap] = told["promised"]["mean"] * told["promised"]["periods"]
    assert promised["4"] < promised["0"] - 0.5, "400 % a year on what is held"
    code, said = carnet("research", "auto", "--trials", 12, "--strategies", "Follow")
    assert code == 0 and "Follow: passes" not in said, said


def test_a_budget_that_is_spent_is_said_and_what_was_not_finished_is_no_candidate(home):
    bring(0.006)
    code, said = carnet("research", "auto", "--strategies", "MaCross,Donchian", "--minutes", "0.0000001")
    assert code == 0 and "not tried: the time was over" in said and "0 variations of 0 strategies" in said
    code, said = carnet("research", "auto", "--strategies", "MaCross,Donchian,RsiReversion", "--trials", 2)
    assert code == 0 and "RsiReversion: not tried: the trials were used up" in said


def test_wrong_words_are_one_sentence_and_nothing_is_written(home):
    bring(0.0)
    for words, what in (
        (("--strategies", "MaCros"), "there is no strategy 'MaCros'"), (("--trials", "0"), "trials"), (("--minutes", "-1"), "minutes"),
        (("--trials", "many"), "trials"), (("--scheduler", "nonsense://x"), "no Dask scheduler answers"), (("--symbols", "TSLA"), "TSLA"),
        (("--profile", "yours"), "yours"),
    ):
        code, said = carnet("research", "auto", *words)
        assert code != 0 and what in said and "Traceback" not in said, said
    assert not list(Path("reports").glob("research/*/research.json")) and not Path("data/trials.sqlite").exists()


def test_from_the_api_it_is_a_job_that_leaves_files_of_ones_own_alone(home, monkeypatch):
    bring(0.0)
    Path("strategies").mkdir()
    Path("strategies/Follow.py").write_text(FOLLOW)
    asked = {}
    monkeypatch.setattr(research_control, "start", lambda place, kind, program, key, who, request: asked.update(program=program) or {"id": "job1"})
    place = Workspace(Path("data").resolve(), Path("reports").resolve(), Path("settings.ini").resolve())
    context = Context(place, Actor("ann", "trader", via="api"))
    done = perform("research-auto", {"trials": 5, "promote": True}, context, lambda *line: None)
    assert "The job job1 searches" in done.text and asked["program"][-1] == "--promote" and "Follow" not in " ".join(asked["program"])
    assert "MaCross" in " ".join(asked["program"])
    for request, what in (({"strategies": ["Follow"]}, "only at the terminal"), ({"scheduler": "tcp://10.0.0.1:1"}, "at the terminal only")):
        with pytest.raises(BadInput, match=what):
            perform("research-auto", request, context, lambda *line: None)
    with pytest.raises(TradingError, match="trader"):
        perform("research-auto", {}, Context(place, Actor("eve", "viewer", via="api")), lambda *line: None)


def test_on_a_scheduler_the_same_is_found(home):
    pytest.importorskip("distributed", reason="Dask comes with carnet[research]")
    from dask.distributed import LocalCluster

    bring(0.006)
    words = ("research", "auto", "--strategies", "MaCross,Donchian", "--trials", 40)
    assert carnet(*words)[0] == 0
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address=None) as cluster:
        code, said = carnet(*words, "--scheduler", cluster.scheduler_address)
        assert code == 0, said
    here, there = (json.loads((f / "research.json").read_text()) for f in sorted(Path("reports/research").iterdir()))
    assert [r["best"] for r in here["lines"]] == [r["best"] for r in there["lines"]] and here["trials"] == there["trials"]
