"What people get wrong at the terminal: each mistake ends in one sentence and a code, before anything is begun, and leaves nothing behind."

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from trading.cli.main import main
from trading.core.bars import close_day, days_of_closes, parse_as_of
from trading.core.errors import BadInput
from trading.core.settings import load_settings
from trading.pipeline.named_sleeves import named_sleeves


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    return tmp_path


def carnet(*words: str):
    return CliRunner().invoke(main, list(words))


def test_an_empty_value_takes_a_setting_back(home):
    assert carnet("set", "strategies.mine=0.3, KO 1", "limits.max_weight=0.1").exit_code == 0
    back = carnet("set", "strategies.mine=", "limits.max_weight=")
    assert back.exit_code == 0 and "→ nothing" in back.output and "0.1 → 0.2" in back.output, back.output
    assert "mine" not in Path("settings.ini").read_text() and load_settings().strategies == {}
    text = carnet("do", "write-note", "text=")
    assert text.exit_code == 1 and "JSON" not in text.output


@pytest.mark.parametrize(("words", "sentence"), [
    (("replay", "--from", "1980-01-01", "--to", "1981-01-01"), "1980-01-01 lies before the data of profile 'sample'"),
    (("replay", "--from", "2999-01-01"), "2999-01-01, which has not ended yet"),
    (("replay", "--from", "2022-12-01", "--to", "2022-11-01"), "would end on 2022-11-01, before it begins"),
    (("research", "auto", "--from", "2020-01-01", "--to", "2019-01-01"), "before it begins on 2020-01-01; give the earlier day"),
    (("replay", "--from", "2022-12-24", "--to", "2022-12-25"), "no bar of profile 'sample' closes between 2022-12-24 and 2022-12-25"),
    (("performance", "--since", "2023-13-01"), "'2023-13-01' is not a date"),
    (("performance", "--until", "01/02/2022"), "'01/02/2022' is not a date"),
    (("performance", "--since", "2023-01-02", "--until", "2023-01-02"), "no day passes"),
    (("trade", "--profile", "sample-coins", "--from", "2022-10-04", "--until", "2022-10-02"),
     "would end at 2022-10-03 00:00, before it begins at 2022-10-04 00:00"),
    (("optimise", "--prices", "closes.csv", "--every", "0"), "--every is 0; give 1 bar or more"),
    (("optimise", "--prices", "closes.csv", "--window", "0"), "a window of 0 bars"),
])
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(home, words, sentence):
    days = pd.bdate_range("2023-01-02", periods=90)
    Path("closes.csv").write_text("date,ÄÖÜ,BBB\n" + "".join(f"{d:%Y-%m-%d},{100 + i % 7},{50 + i % 5}\n" for i, d in enumerate(days)))
    said = carnet(*words)
    assert said.exit_code == 1 and said.output.strip().splitlines()[-1].startswith("Error: ") and sentence in said.output, said.output
    assert not list(Path("reports").glob("**/*.json")), "a replay that cannot begin leaves no folder"


@pytest.mark.parametrize(("text", "said"), [
    ("[crpyto:limits]\nmax_weight = 0.1\n", "'crpyto' is a profile of its own, without [crpyto:market]; did you mean 'crypto'?"),
    ("[night:market]\nstart = 2015-01-02\n[nihgt:limits]\nmax_weight = 0.1\n",
     "'nihgt' is a profile of its own, without [nihgt:market]; did you mean 'night'?"),
    ("[crypto2:market]\nstart = 2015-01-02\n[crypto2:limits]\nmax_weight = 0.1\n", ""),  # meant as one
    ("[sample-coins:limits]\nmax_weight = 0.1\n", ""),
    ("[mine:limits]\nmax_weight = 0.1\n", ""),
])
def test_a_profile_that_is_like_another_and_has_no_market_is_told_with_the_name_that_may_be_meant(home, text, said):
    from datetime import UTC, datetime

    from trading.dashboard.components import Viewer
    from trading.dashboard.screens_settings import settings_screen
    from trading.services.commands import Actor, Context, perform
    from trading.services.workspace import workspace_of

    place = workspace_of(load_settings(), Path("settings.ini").resolve())
    answer = perform("replace-settings", {"text": text}, Context(place, Actor("ann"), clock=lambda: datetime(2022, 12, 28, tzinfo=UTC)), None).text
    page = " ".join(str(section.html()) for section in settings_screen(place, Viewer("ann", "viewer")))
    for told in (carnet("settings").output, answer, page.replace("&#39;", "'")):
        assert (said in told) if said else "did you mean" not in told, told


@pytest.mark.parametrize("words", [("replay", "--from", "2022-10-01", "--to", "2022-10-02"),
                                   ("trade", "--from", "2022-10-01", "--until", "2022-10-02")])
def test_a_sleeve_that_cannot_trade_is_named_before_anything_is_begun(home, words):
    Path("settings.ini").write_text("[sample-coins:strategies]\nnope = 0.1\n")  # by hand: 'carnet set' would refuse it
    said = carnet(*words, "--profile", "sample-coins")
    assert said.exit_code == 1 and "nope in [strategies] was never promoted" in said.output, said.output
    assert not list(Path("reports").glob("**/*.json")) and not Path("data/ops/loop-sample-coins.json").exists()


@pytest.mark.parametrize(("one", "other"), [("momentum", "Momentum"), ("risk-parity", "risk parity"), ("risk_parity", "Risk-Parity"),
                                            ("straße", "STRASSE")])
def test_a_sleeve_has_one_name(tmp_path, one, other):
    lines = {f"strategies.{name}": "0.1" for name in (one, other)}
    settings = load_settings(overrides={"run.data": tmp_path} | lines, environ={})
    with pytest.raises(BadInput, match="one name written in two ways"):
        named_sleeves(settings)


def test_the_one_decision_that_was_asked_for_and_not_made_is_an_error(home, monkeypatch):
    from trading.core.errors import MissingData
    from trading.pipeline import trade_loop

    def no_decision(*_, **__):
        raise MissingData("the bars are gone")

    monkeypatch.setattr(trade_loop, "take_decision", no_decision)
    said = carnet("trade", "--profile", "sample-forex", "--from", "2016-12-20", "--once")
    assert said.exit_code == 1 and "no decision at the close of 2016-12-20 00:00: the bars are gone" in said.output, said.output
    assert "no decision" in json.loads(Path("data/ops/loop-sample-forex.json").read_text())["ended"]


def test_a_grid_of_words_for_a_number_is_refused():
    from trading.backtest.strategies import MaCross, RsiReversion
    from trading.backtest.sweep_jobs import make_grid

    cases = ((MaCross(), {"fast": ["a", "b"], "slow": [50]}), (MaCross(), {"fast": [5], "slow": [50, "60"]}), (RsiReversion(), {"low": ["10 %"]}))
    for strategy, grid in cases:
        with pytest.raises(BadInput, match="which is a number"):
            make_grid(strategy, grid)


def shares(bars, n=2):
    return (bars["close"] > 1 / n).astype(int)


def test_a_promoted_strategy_that_fails_is_named_and_is_no_crash():
    from trading.backtest.strategy_source import source_of
    from trading.core.datasets import sample_bars
    from trading.pipeline.sleeves import carried_on

    bars = sample_bars("stocks").loc["2022-10":, (slice(None), ["KO"])]
    promised = {"strategy": "shares", "symbols": ["KO"], "from": bars.index[0].isoformat(), "timeframe": "1d", "step": 86400.0,
                "source": source_of(shares), "costs": {"fees": 0.001, "slippage": 0.0, "fixed_fees": 0.0}, "cash": 1e4, "fill": "auto",
                "promised": {"periods": 252.0}, "stops": {}}
    assert carried_on(promised | {"parameters": {"n": 2}}, bars)[0]["KO"] == pytest.approx(1.0)
    with pytest.raises(BadInput, match="shares failed in line .*ZeroDivisionError: division by zero; correct it"):
        carried_on(promised | {"parameters": {"n": 0}}, bars)


@pytest.mark.parametrize(("moment", "day"), [
    ("2022-12-28T00:00Z", "2022-12-27"), ("2022-12-27T23:59Z", "2022-12-27"), ("2022-12-28T00:01Z", "2022-12-28"),
    ("2024-03-01T00:00Z", "2024-02-29"), ("2023-01-01T00:00Z", "2022-12-31"),
])
def test_a_close_at_midnight_belongs_to_the_day_that_it_ends(moment, day):
    assert close_day(moment) == close_day(datetime.fromisoformat(moment)) == day
    assert close_day(parse_as_of(day)) == day, "a day that is read is the day that is written"


def test_months_and_axes_name_the_day_that_a_close_ends():
    from trading.services.queries_analytics import months_of

    closes = pd.Series([100.0, 110, 99, 99], pd.DatetimeIndex(["2022-12-31", "2023-01-01", "2023-02-01", "2023-02-02"], tz=UTC))
    table = months_of(closes)
    assert table.loc[2022, 12] == pytest.approx(0.10) and table.loc[2023, 1] == pytest.approx(-0.10) and table.loc[2023, 2] == 0
    assert [f"{t:%d %b}" for t in days_of_closes(closes).index] == ["30 Dec", "31 Dec", "31 Jan", "01 Feb"]
    within = closes.set_axis(closes.index + pd.Timedelta(hours=3))
    assert days_of_closes(within) is within and len(days_of_closes(closes.iloc[:0])) == 0


def test_a_reader_that_has_seen_enough_is_no_crash(home):
    import errno

    import click

    def talk():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    main.add_command(click.Command("talk", callback=talk))
    try:
        done = CliRunner().invoke(main, ["talk"])
    finally:
        del main.commands["talk"]
    assert done.exit_code == 1 and "unexpected" not in done.output and not (home / "carnet.log").exists()


def test_a_disk_that_fills_up_during_a_run_is_one_sentence_and_the_run_is_listed(home):
    resource = pytest.importorskip("resource", reason="Windows has no limit of a file's size")
    environ = {**os.environ, "PYTHONPATH": str(Path(main.callback.__code__.co_filename).parents[2]),
               "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(home / "numba")}  # Python cuts its own caches off in silence
    short = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, 16_384))  # noqa: E731
    done = subprocess.run([sys.executable, "-m", "trading", "run"], cwd=home, env=environ, preexec_fn=short, capture_output=True, text=True)
    said = done.stderr.replace("\n", " ")
    assert done.returncode == 1 and "File too large; free" in said and "unexpected" not in said, said
    listed = carnet("runs")
    assert listed.exit_code == 0 and "carnet run --resume" in listed.output, listed.output
