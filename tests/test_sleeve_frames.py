"A sleeve that decides on longer bars than its profile trades: on whole bars that have closed, valued at every close of the profile's."

import json
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
from typed import SYMBOLS, carnet, planted_settings

from trading.backtest.engine import backtest
from trading.backtest.promotion import promote
from trading.backtest.strategies import MaCross
from trading.backtest.strategy_promotion import ProductionRegistry, Thresholds
from trading.backtest.trial_register import TrialRegister
from trading.core.settings import load_settings
from trading.core.types import Plan
from trading.data.delta_store import BarStore
from trading.pipeline.launch import open_run
from trading.pipeline.notebook_runner import run_in_process
from trading.pipeline.run_record import create_run
from trading.pipeline.sleeves import longer_bars, net_targets

pytestmark = pytest.mark.xdist_group("frames")
SHARE = 0.4
SETTINGS = planted_settings("2020-03-10", limits="max_weight = 0.45")
WEEKS = slice("2019-10-18", "2019-11-06")
NO_VIEWS = pd.DataFrame({"expected": []}, index=pd.MultiIndex.from_arrays([[], []], names=["symbol", "horizon"]))


def closes() -> pd.DataFrame:
    "Trends of thirty weeks, on working days that lack some Mondays and Fridays."
    chance, days = np.random.default_rng(4), pd.date_range("2015-01-01", periods=1400, freq="B", name="Date")
    moves = np.repeat(chance.choice([-1, 1], (10, 4)), 140, axis=0) * 0.003 + chance.normal(0, 0.008, (1400, 4))
    table = pd.DataFrame(100 * np.exp(np.cumsum(moves, axis=0)), days, SYMBOLS).round(6)
    return table.drop(table.index[[8, 12, 700, 704, 1300]])


def weeks_by_hand(table: pd.DataFrame, now: pd.Timestamp) -> dict:
    "Return the last close of each week that began on a Monday of the table's time and has ended, day by day."
    found: dict = {}
    for day, row in table.iterrows():
        monday = day - pd.Timedelta(days=day.weekday())
        if monday >= table.index[0] and monday + pd.Timedelta(days=7) <= now:
            found[monday] = row.to_dict()
    return found


@pytest.fixture(scope="module")
def promoted(tmp_path_factory):
    home = tmp_path_factory.mktemp("frames")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("CARNET_RUN__DATA", "data")
        Path("settings.ini").write_text(SETTINGS)
        closes().to_csv("closes.csv")
        assert carnet("import", "closes.csv")[0] == 0
        words = ("strategies", "promote", "MaCross", "--grid", "fast=2,3", "--grid", "slow=7,9", "--to", "2019-12-31", "--name", "weekly")
        for frame, says in (("36h", "from which only multiples can be made"), ("4h", "there are no bars of 4h"), ("week", "timeframe")):
            code, said = carnet(*words, "--timeframe", frame)
            assert code != 0 and says in said, said
        code, said = carnet(*words, "--timeframe", "1w")
        assert code == 0 and "promoted" in said, said
        Path("settings.ini").write_text(SETTINGS + f"[strategies]\nweekly = {SHARE}\n")
    return home


@pytest.fixture
def home(promoted, tmp_path, monkeypatch):
    copytree(promoted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", "data")
    monkeypatch.setenv("CARNET_RUN__REPORTS", "reports")
    return tmp_path


def test_a_week_is_made_of_its_days_and_is_known_when_it_has_ended(home):
    table = closes().set_axis(pd.DatetimeIndex(closes().index, tz="UTC"))
    bars = BarStore(home / "data" / "bars").read(SYMBOLS, "1d")
    for now in ("2017-05-13T00:00Z", "2017-05-14T23:59Z", "2017-05-15T00:00Z", "2017-05-16T00:00Z"):
        at = pd.Timestamp(now)
        expected = weeks_by_hand(table[table.index + pd.Timedelta(days=1) <= at], at)
        made = longer_bars(bars[bars.index + pd.Timedelta(days=1) <= at], "1w", at)["close"]
        assert [t.isoformat() for t in made.index] == [t.isoformat() for t in expected], now
        assert np.allclose(made.to_numpy(), pd.DataFrame(expected).T[list(made)].to_numpy(float), equal_nan=True)
    assert made.index[0] > bars.index[0] - pd.Timedelta(days=7) and made.index[0].weekday() == 0, "the week in which the bars begin is not whole"


def test_it_decides_on_closed_weeks_alone_and_is_valued_at_each_close(home):
    settings, evidence = load_settings(), json.loads(carnet("strategies", "show", "weekly")[1])
    fast, slow = evidence["params"]["fast"], evidence["params"]["slow"]
    bars = BarStore(home / "data" / "bars").read(SYMBOLS, "1d")
    table = bars["close"]
    seen = set()
    for day in table.loc[WEEKS].index:
        known, now = bars.loc[:day], day + pd.Timedelta(days=1)
        part = net_targets(settings, known, NO_VIEWS, None, now=now.to_pydatetime()).parts["weekly"]
        weekly = pd.DataFrame(weeks_by_hand(table.loc[:day], now)).T
        up = (weekly.rolling(fast).mean() > weekly.rolling(slow).mean()).iloc[-1]
        assert {s for s in SYMBOLS if part[s] > 0} == {s for s in SYMBOLS if up[s]}, day
        frame = pd.concat(dict.fromkeys(("open", "high", "low", "close"), weekly[SYMBOLS]), axis=1)
        frame = pd.concat([frame, frame.iloc[-1:].set_axis(frame.index[-1:] + pd.Timedelta(days=7))]).rename_axis("timestamp")
        for kind in ("open", "high", "low"):  # of closes alone, a week opens where its first day closed
            by = table.loc[:day].groupby(lambda d: d - pd.Timedelta(days=d.weekday()))[SYMBOLS]
            frame.loc[weekly.index, kind] = {"open": by.first, "high": by.max, "low": by.min}[kind]().loc[weekly.index].to_numpy()
        costs = {"fees": 0.001, "slippage": 0.0005, "cash": evidence["cash"], "fill": evidence["fill"]}
        done = backtest(frame, MaCross(fast, slow), **costs, periods=52, register=False)
        units, week = done.units.iloc[-1], weekly.iloc[-1][SYMBOLS]
        cash = float(done.equity.iloc[-1]) - float((units * week).sum())
        worth = cash + float((units * table.loc[day]).sum())
        assert part.to_dict() == pytest.approx((units * table.loc[day] / worth * SHARE).to_dict(), abs=1e-9), day
        seen.add(tuple(up))
    assert len(seen) > 1, "something was decided in these weeks"


def test_days_of_a_running_week_move_its_value_and_never_a_decision(home):
    settings, bars = load_settings(), BarStore(home / "data" / "bars").read(SYMBOLS, "1d").loc[:"2020-02-20"]  # a Thursday
    crashed = bars.copy()
    crashed.loc["2020-02-17":, ("close", "XOM")] *= 0.2
    crashed.loc["2020-02-17":, ("close", "KO")] *= 3.0
    plain, other = (net_targets(settings, b, NO_VIEWS, None).parts["weekly"] for b in (bars, crashed))
    assert ((plain > 0) == (other > 0)).all() and not np.allclose(plain, other)
    last = bars.loc[:"2020-02-21"]
    friday, monday = (net_targets(settings, last, NO_VIEWS, None, now=datetime(2020, 2, d, tzinfo=UTC)).records[0]["text"] for d in (21, 24))
    assert "decides on bars of 1w, the last of which closed on 2020-02-17 00:00" in friday
    assert "decides on bars of 1w, the last of which closed on 2020-02-24 00:00" in monday, "the same days, after the week's end"


def test_run_and_replay_plan_the_same_and_compare_knows_the_sleeve(home):
    run = run_in_process(open_run(load_settings(), datetime.now(UTC), "2020-03-09"))
    bars = BarStore(home / "data" / "bars").read(SYMBOLS, "1d").loc[:"2020-03-09"]
    again = net_targets(load_settings(), bars, NO_VIEWS, None).parts["weekly"]
    assert run.read("sleeve_weights")["weekly"].to_dict() == pytest.approx(again.to_dict(), abs=1e-12) and again.abs().sum() > 0
    assert "weekly decides on bars of 1w, the last of which closed on 2020-03-09 00:00" in (run.folder / "index.html").read_text()
    before = BarStore(home / "data" / "bars").version
    code, said = carnet("replay", "--from", "2020-03-09", "--to", "2020-03-10", "--promoted", "all-along")
    assert code == 0 and BarStore(home / "data" / "bars").version == before, said
    lines = [json.loads(line) for line in next(Path("reports/replays").glob("*/days.jsonl")).read_text().splitlines()]
    plan = run.read("plan", Plan)  # its data version names the whole import, of which the replay knows what had closed
    assert len(lines) == 2 and "error" not in lines[1] and lines[0]["targets"] == {s: float(w) for s, w in plan.targets.items() if w}
    assert [(o["symbol"], o["side"], float(o["amount"])) for o in lines[0]["orders"]] == [(a.symbol, a.side, float(a.amount)) for a in plan.actions]
    code, said = carnet("strategies", "compare")
    assert code == 0 and "weekly: 19 bars since its promotion" in said, said


def test_a_replay_trades_what_was_in_production_on_each_of_its_days(home):
    "Promoted on the 5th, retired on the 6th, promoted with other parameters on the 9th: the days between are the policy's."
    def replayed(*words: str) -> tuple[list[dict], dict, str]:
        code, said = carnet("replay", "--from", "2020-03-04", "--to", "2020-03-09", *words)
        assert code == 0, said
        folder = Path(next(line for line in said.splitlines() if line.startswith("report: "))[8:]).parent
        lines = [json.loads(text) for text in (folder / "days.jsonl").read_text().splitlines()]
        assert not [d for d in lines if "error" in d]
        words = " ".join([*said.split(), *(folder / "index.html").read_text().split()])
        return lines, json.loads((folder / "replay.json").read_text()), words

    Path("settings.ini").write_text(SETTINGS + "[strategies]\nMaCross = 0.8\n")
    (home / "data" / "production.sqlite").unlink()
    bars = BarStore(home / "data" / "bars").read(SYMBOLS, "1d").loc[:"2020-03-03"]
    registry = ProductionRegistry(home / "data" / "production.sqlite")
    at = lambda day: datetime(2020, 3, day, 12, tzinfo=UTC)  # noqa: E731
    asked = {"name": "MaCross", "registry": registry, "register": TrialRegister(home / "data" / "trials.sqlite")}
    asked["thresholds"] = Thresholds(**load_settings().promotion.model_dump())
    assert promote(MaCross, {"fast": [3], "slow": [15]}, bars, now=at(5), **asked).promoted
    registry.retire("MaCross", "a pause", at(6))
    assert promote(MaCross, {"fast": [20], "slow": [120]}, bars, now=at(9), **asked).promoted
    lines, told, said = replayed()
    assert [d["as_of"][:10] for d in lines] == ["2020-03-05", "2020-03-06", "2020-03-07", "2020-03-10"]
    assert [d["sleeves"] for d in lines] == [[], ["MaCross"], [], ["MaCross"]] and told["promoted"] == "dated"
    assert said.count("MaCross trades on 2 of 4 days: it was in production from 2020-03-05 to 2020-03-06 and from 2020-03-09 on.") == 2
    assert "looks into the future" not in said
    always, told, said = replayed("--promoted", "all-along")
    assert [d["sleeves"] for d in always] == [["MaCross"]] * 4 and told["promoted"] == "all-along"
    assert said.count("MaCross, promoted on 2020-03-09, trades on all days as it stands today") == 2 == said.count("looks into the future")
    Path("settings.ini").write_text(SETTINGS)
    policy, _, _ = replayed()
    same = lambda a, b: a["targets"] == pytest.approx(b["targets"], abs=1e-6)  # noqa: E731
    assert [same(a, b) for a, b in zip(lines, policy, strict=True)] == [True, False, True, False], "without it, its share is the policy's"
    assert same(lines[3], always[3]) and not same(lines[1], always[1]), "each day with the parameters that were in force"
    named = load_settings(overrides={"strategies.MaCross": 0.8})
    registry.retire("MaCross", "for good", at(10))
    unknown, told, said = replayed()  # a line that was taken out, as a daily run asks for it
    assert [same(a, b) for a, b in zip(unknown, policy, strict=True)] == [True] * 4 and told["sleeves"] == []
    assert said.count("The retired strategy MaCross trades on none of these days, though it was in production on some, because no run") == 2
    create_run(Path("reports"), "planted", at(6), "paper", "paper-planted", named.model_dump(mode="json"), named.hash, at(6))
    again, told, said = replayed()
    assert [d["sleeves"] for d in again] == [[], ["MaCross"], [], ["MaCross"]] and [d["targets"] for d in again] == [d["targets"] for d in lines]
    assert "with the share of 80.0% that the run 2020-03-06_planted_1 shows" in told["notes"][0]
    assert said.count("that the run 2020-03-06_planted_1 shows.") == 2, said[:3000]
    Path("settings.ini").write_text(SETTINGS + "[strategies]\nNever = 0.8\n")
    code, said = carnet("replay", "--from", "2020-03-04", "--to", "2020-03-09")
    assert code == 1 and "Never in [strategies] was never promoted" in said
