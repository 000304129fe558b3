"A sleeve that decides every hour in a profile of days: the loop wakes for it, its neighbours stand, and run and replay take its last closed hour."

import json
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
from typed import SYMBOLS, carnet, planted_settings

from trading.accounting.ledger import Ledger
from trading.core.settings import load_settings
from trading.core.types import Plan
from trading.data.delta_store import BarStore
from trading.pipeline.launch import open_run
from trading.pipeline.notebook_runner import run_in_process
from trading.pipeline.run_record import STAGES
from trading.pipeline.sleeves import grown_weights

pytestmark = pytest.mark.xdist_group("hours")
SHARE, DAYS = 0.4, 1060
LINES = {"forecast": "window = 900\nhorizons = 1\nrefit = weekly", "allocate": "window = 100",
         "limits": "max_weight = 0.45\nmax_turnover = 4", "trade": "drift = 0.002"}
SETTINGS = planted_settings("2019-11-20", **LINES).replace("start = 2015-01-01", "start = 2017-01-01\ncalendar = 24/7")
NAMED = SETTINGS + f"[strategies]\nhourly = {SHARE}\n"
WORDS = ("strategies", "promote", "MaCross", "--grid", "fast=3,5", "--grid", "slow=12,16",
         "--to", "2019-10-31", "--name", "hourly", "--timeframe", "1h")


def hours() -> pd.DataFrame:
    "Trends of two days, hour by hour."
    chance = np.random.default_rng(4)
    trends = np.repeat(chance.choice([-1, 1], (DAYS // 2 + 1, 4)), 48, axis=0)[: DAYS * 24] * 0.002
    times = pd.date_range("2017-01-01", periods=DAYS * 24, freq="h", name="Date")
    return pd.DataFrame(100 * np.exp(np.cumsum(trends + chance.normal(0, 0.003, trends.shape), axis=0)), times, SYMBOLS).round(6)


@pytest.fixture(scope="module")
def promoted(tmp_path_factory):
    home = tmp_path_factory.mktemp("hours")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("CARNET_RUN__DATA", "data")
        Path("settings.ini").write_text(SETTINGS)
        hours().groupby(hours().index.floor("D")).last().to_csv("days.csv")
        code, said = carnet("import", "days.csv")
        assert code == 0, said
        for frame, says in (("1h", "there are no bars of 1h of every symbol"), ("5h", "beside which only parts can stand")):
            code, said = carnet(*WORDS[:-1], frame)
            assert code == 1 and says in said, said
            assert "'carnet import FILES' brings them" in said or frame == "5h"
        hours().loc["2019-06":].to_csv("hours.csv")
        code, said = carnet("import", "hours.csv", "--zone", "UTC")
        assert code == 0 and "bars of 1h" in said, said
        code, said = carnet(*WORDS)
        assert code == 0 and "promoted" in said, said
        Path("settings.ini").write_text(NAMED)
    return home


@pytest.fixture
def home(promoted, tmp_path, monkeypatch):
    copytree(promoted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", "data")
    monkeypatch.setenv("CARNET_RUN__REPORTS", "reports")
    return tmp_path


def rising(now: str) -> set[str]:
    "Return what the strategy is long of by hand: hours that had closed, a fast mean above a slow one."
    params = json.loads(carnet("strategies", "show", "hourly")[1])["params"]
    known = hours().tz_localize("UTC")
    known = known[known.index + pd.Timedelta(hours=1) <= pd.Timestamp(now)]
    fast, slow = (known.iloc[-params[k]:].mean() for k in ("fast", "slow"))
    return {s for s in SYMBOLS if fast[s] > slow[s]}


def test_the_loop_wakes_at_each_hour_decides_on_closed_hours_and_the_policy_stands_between_its_closes(home):
    code, said = carnet("trade", "--from", "2019-11-11T21:00Z", "--until", "2019-11-12T04:00Z")
    assert code == 0, said
    told = json.loads(Path("data/ops/loop-planted.json").read_text())
    assert told["decisions"] == 8 and not told["problems"] and not told["missed"], said
    ledger = Ledger(home / "data" / "ledger.sqlite")
    plans = [Plan.from_json(e.data["text"]) for e in ledger.events("paper-planted", "proposed")]
    wants, fills = ledger.events("paper-planted", "sleeves"), ledger.fills("paper-planted")
    decided = [e.data for e in ledger.events("paper-planted", "decision")]
    ledger.close()
    assert len(plans) > 2 and {p.as_of.hour for p in plans} - {0}, "it traded between two closes of the days"
    for event in wants:
        held = {s for s, units in event.data["wants"].get("hourly", {}).items() if float(units) > 0}
        assert held == rising(event.timestamp.isoformat()), event.timestamp
    inside = [w.data["wants"]["policy"] for w in wants if f"{w.timestamp:%d}" == "12" and w.timestamp.hour]
    for now in inside[1:]:  # units do not move while nothing is decided; weights that stood still would sell what rises
        for symbol, units in now.items():
            assert float(units) == pytest.approx(float(inside[0][symbol]), rel=0.02), symbol
    close = hours().tz_localize("UTC")
    for fill in fills:
        price = close.loc[pd.Timestamp(fill.timestamp) - pd.Timedelta(hours=1), fill.symbol]  # of closes alone: that of the hour after the decision
        assert float(fill.price) == pytest.approx(price, rel=0.001), "an order finds the price of its hour"
    assert len({json.dumps(d["run"]) for d in decided}) <= 2, "forecasts are judged at the closes of the profile alone"


@pytest.mark.parametrize("rule", ["skip", "newest"])
def test_a_daily_close_that_was_missed_is_caught_up_or_skipped_by_the_rule_and_not_decided_an_hour_later(home, rule):
    Path("settings.ini").write_text(NAMED + f"[loop]\nmissed = {rule}\n")
    said = ""
    for begin, end in (("2019-11-11T22:00Z", "2019-11-11T22:01Z"), ("2019-11-12T00:10Z", "2019-11-12T01:01Z")):
        code, told = carnet("trade", "--from", begin, "--until", end)
        assert code == 0, told
        said += told
    state, ledger = json.loads(Path("data/ops/loop-planted.json").read_text()), Ledger(Path("data") / "ledger.sqlite")
    traded = [f"{e.timestamp:%d %H}" for e in ledger.events("paper-planted", "sleeves")]
    ledger.close()
    stood = "the close of 2019-11-12 00:00 was not decided, so what trades on bars of 1d stands as of 2019-11-11 00:00"
    assert "1 close missed since 2019-11-11 22:00" in said and said.count(stood) == (rule == "skip"), said
    assert rising("2019-11-11T22:00Z") == rising("2019-11-12T01:00Z"), "the hourly sleeve wants nothing new"
    assert traded == (["11 22"] if rule == "skip" else ["11 22", "12 00"]), "what the daily policy wants did change at 00:00"
    assert state["policy"] == ("2019-11-11T00:00:00+00:00" if rule == "skip" else "2019-11-12T00:00:00+00:00") and not state["problems"]
    assert (state["decisions"], state["missed"]) == ((1, 2) if rule == "skip" else (2, 1)), state


def test_run_and_replay_take_the_last_closed_hour_and_other_commands_know_the_sleeve(home):
    run = run_in_process(open_run(load_settings(), datetime.now(UTC), "2019-11-12"), STAGES[:-1])
    parts, plan = run.read("sleeve_weights"), run.read("plan", Plan)
    assert {s for s in SYMBOLS if parts["hourly"][s] > 0} == rising("2019-11-13T00:00Z") and 0 < parts["hourly"].sum() <= SHARE + 1e-9
    assert "hourly decides on bars of 1h, the last of which closed on 2019-11-13 00:00" in " ".join(run.read("allocation")["notes"])
    code, said = carnet("replay", "--from", "2019-11-12", "--to", "2019-11-13", "--promoted", "all-along")
    assert code == 0, said
    line = json.loads(next(Path("reports/replays").glob("*/days.jsonl")).read_text().splitlines()[0])
    assert line["targets"] == {s: float(w) for s, w in plan.targets.items() if w}
    code, said = carnet("strategies", "compare")
    assert code == 0 and "hourly" in said and "bars since 2019-10-31" in said, said


def test_bars_that_are_gone_or_old_are_refused_in_a_sentence(home):
    store = BarStore(home / "data" / "bars")
    Path("settings.ini").write_text(NAMED.replace("symbols = KO", "symbols = SPY, KO"))
    days = store.read(["KO"], "1d").rename(columns={"KO": "SPY"}, level=1)
    store.upsert(days, "1d", "file")
    code, said = carnet("trade", "--from", "2019-11-12", "--once")
    assert code == 1 and "no file with 1h bars of SPY was imported" in said, said
    code, said = carnet("ingest", "--timeframe", "1h")
    assert code == 1 and "SPY" in said, said
    assert carnet("ingest", "--timeframe", "hour")[0] != 0


def test_a_part_that_does_not_trade_holds_the_units_that_it_held():
    weights, growth = pd.Series({"A": 0.5, "B": 0.3, "C": 0.0}), pd.Series({"A": 1.2, "B": 0.5, "C": 9.0})
    worth = {"A": 500 * 1.2, "B": 300 * 0.5, "cash": 200.0}  # of 1,000
    expected = {"A": worth["A"] / 950, "B": worth["B"] / 950, "C": 0.0}
    assert grown_weights(weights, growth).to_dict() == pytest.approx(expected) and sum(worth.values()) == 950
