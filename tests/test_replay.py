"The replay: the same plans as the daily runs of the same days, blind to the future, and going on where it was cut off."

import json
import os
import pickle
import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from trading.accounting.event_kinds import time_text
from trading.accounting.ledger import Ledger
from trading.accounting.unit_values import as_traded, value_history
from trading.backtest.trial_register import TrialRegister
from trading.cli.main import main
from trading.core.bars import bars_from_close, symbols_of
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput, MissingData
from trading.core.settings import load_settings
from trading.core.types import Plan
from trading.data.arrow import content_version
from trading.forecast import forecaster
from trading.forecast.decisions import judge_record
from trading.forecast.model_promotion import past_trials, promotions
from trading.forecast.model_registry import read_meta
from trading.forecast.panel import bar_volatility, features_of, make_panel
from trading.pipeline import decision_world, steps, weekly_search
from trading.pipeline import replay as module
from trading.pipeline.factory import models_of
from trading.pipeline.launch import open_run
from trading.pipeline.replay import Past, run_replay
from trading.pipeline.run_record import versions
from trading.pipeline.weekly_search import WeeklySearch
from trading.testing.sample_runs import SMALL, run_in_process
from trading.venues.paper.matching import BarFeed

pytestmark = pytest.mark.xdist_group("replay")
NOW = datetime(2026, 11, 28, tzinfo=UTC)
FAST = SMALL | {"market.symbols": "AAPL, AMD, CVX, KO", "market.start": "2017-01-03", "forecast.window": "900", "forecast.refit": "weekly"}


def settings_at(home: Path, **more: str):
    return load_settings(overrides=FAST | {"run.data": home / "data", "run.reports": home / "reports"} | more, environ={})


def past_of(bars: pd.DataFrame) -> Past:
    return Past(bars, BarFeed(bars, "1d"), "sample-stocks")


@pytest.fixture(scope="module")
def bars():
    found = sample_bars("stocks")
    return found.loc["2017-01-03":, found.columns.get_level_values(1).isin(["AAPL", "AMD", "CVX", "KO"])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, bars):
    home = tmp_path_factory.mktemp("replay")
    return run_replay(settings_at(home), "2022-12-19", "2022-12-27", NOW, ("forecasts", "costs"), past=past_of(bars))


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(text) for text in (folder / "days.jsonl").read_text().splitlines()]


def test_the_plans_of_a_replay_are_those_of_the_daily_runs_of_its_days(tmp_path):
    refit, days = "run", ("2022-12-23", "2022-12-27")
    daily = settings_at(tmp_path / "daily", **{"forecast.refit": refit})
    plans = [run_in_process(open_run(daily, NOW, day), ("10_ingest", "20_forecast", "30_allocate", "40_trade")).read("plan", Plan) for day in days]
    done = run_replay(settings_at(tmp_path / "replay", **{"forecast.refit": refit}), days[0], days[-1], NOW)
    lines = lines_of(done.folder)
    assert [line["plan"] for line in lines] == [plan.hash for plan in plans] and any(plan.actions for plan in plans)
    cash = [Ledger(folder / "data" / "ledger.sqlite").book("paper-sample").cash for folder in (done.folder, tmp_path / "daily")]
    assert cash[0] == cash[1]
    learnt = [(folder / "data" / "feedback" / "sample.jsonl").read_text() for folder in (done.folder, tmp_path / "daily")]
    assert learnt[0] == learnt[1] and len(learnt[0].splitlines()) == 1, "learnt from the first day on the second, as the daily run"


def test_altering_the_future_changes_nothing_before_it(whole, bars, tmp_path):
    last = pd.Timestamp("2022-12-21", tz="UTC")  # decided at its close, filled on the next bar; what comes later is another world
    other = bars.copy()
    later = other.index > last + pd.Timedelta(days=1)
    other.loc[later] = other.loc[later] * 1.37
    done = run_replay(settings_at(tmp_path), "2022-12-19", "2022-12-27", NOW, past=past_of(other))
    mine, theirs = lines_of(done.folder), lines_of(whole.folder)
    same = [a == b for a, b in zip(mine, theirs, strict=True)]
    count = sum(pd.Timestamp(line["as_of"]) <= last + pd.Timedelta(days=1) for line in theirs)
    assert count == 3 and all(same[:count]) and not any(same[count + 1 :])


def test_a_replay_that_was_cut_off_goes_on_to_the_same_end(whole, bars, tmp_path, monkeypatch):
    settings, real = settings_at(tmp_path), module.take_decision
    calls = []

    def cut(world, as_of, now, like=None):
        calls.append(as_of)
        if len(calls) == 1:  # the plan is made and its first order is sent: the process dies before anything is written down
            from trading.pipeline import trade_steps

            def dies(*args, **named):
                raise KeyboardInterrupt
            with monkeypatch.context() as patch:
                patch.setattr(trade_steps, "record_step", dies)
                return real(world, as_of, now, like)
        return real(world, as_of, now, like)

    monkeypatch.setattr(module, "take_decision", cut)
    with pytest.raises(KeyboardInterrupt):
        run_replay(settings, "2022-12-19", "2022-12-27", NOW, past=past_of(bars))
    monkeypatch.setattr(module, "take_decision", real)
    folder = next((tmp_path / "reports" / "replays").iterdir())
    with (folder / "days.jsonl").open("a") as file:
        file.write('{"as_of": "2022-12-')  # cut off in the middle of a line
    done = run_replay(settings, "2022-12-19", "2022-12-27", NOW, past=past_of(bars))
    assert done.folder == folder and lines_of(folder) == lines_of(whole.folder)
    books = [Ledger(f / "data" / "ledger.sqlite") for f in (folder, whole.folder)]
    fills = [[(f.client_order_id, f.amount, f.price) for f in book.fills("paper-sample")] for book in books]
    assert fills[0] == fills[1] and fills[0], "nothing was sent twice"
    assert books[0].book("paper-sample").cash == books[1].book("paper-sample").cash


def test_the_result_adds_up(whole):
    told, equity = whole.summary, pd.read_parquet(whole.folder / "equity.parquet")
    book = Ledger(whole.folder / "data" / "ledger.sqlite").book("paper-sample")
    orders = pd.read_parquet(whole.folder / "orders.parquet")
    assert orders["fee"].sum() == pytest.approx(float(book.fees)) == pytest.approx(told["costs"]["fees"])
    assert told["figures"]["equity"]["return"] == pytest.approx(equity["equity"].iloc[-1] / equity["equity"].iloc[0] - 1)
    free = Ledger(whole.folder / "costs" / "data" / "ledger.sqlite").book("paper-sample")
    assert free.fees == 0 and book.fees > 0
    assert told["contributions"]["forecasts"] == 0.0 == told["forecasts_passed"], "no forecast passed the filter, so leaving them out changes nothing"
    assert told["contributions"]["costs"] == pytest.approx(told["figures"]["equity"]["return"] - told["figures"]["without_costs"]["return"])
    weights = pd.read_parquet(whole.folder / "weights.parquet")
    assert weights.groupby("timestamp")["held"].sum().max() <= 1 and set(weights.index.names) == {"timestamp", "symbol"}
    held = sum(p.amount * Decimal(repr(float(sample_bars("stocks")["close"][s].loc["2022-12-28"]))) for s, p in book.positions.items())
    assert float(book.cash + held) == pytest.approx(told["equity"], rel=1e-3)


def test_it_touches_no_account(whole, bars, tmp_path, monkeypatch):
    settings = settings_at(tmp_path)
    books = tmp_path / "shared.sqlite"
    monkeypatch.setenv("CARNET_LEDGER", str(books))
    run_replay(settings, "2022-12-22", "2022-12-23", NOW, past=past_of(bars))
    assert not books.exists() and not (tmp_path / "data" / "ledger.sqlite").exists() and not list((tmp_path / "data").glob("kill-*"))


def test_every_replay_is_one_more_trial_on_its_past_and_the_same_again_is_none(whole, bars, tmp_path):
    "With the parts that it leaves out; other settings are another trial, and a candidate on the same bars is judged with all of them."
    def tried(home):
        return TrialRegister(home / "data" / "trials.sqlite")

    home = whole.folder.parent.parent.parent
    names = tried(home).trials(bars)
    assert sorted(json.loads(p)["without"] for p in names["params"]) == ["", "costs", "forecasts"] and set(names["strategy"]) == {"replay of sample"}
    for words, count in (({}, 1), ({}, 1), ({"limits.max_weight": "0.15"}, 2), ({"trade.drift": "0.2"}, 3)):
        run_replay(settings_at(tmp_path, **words), "2022-12-21", "2022-12-23", NOW, past=past_of(bars))
        assert len(tried(tmp_path).trials(bars.loc["2018":], "replay of sample")) == count, "also on bars that begin elsewhere"


def test_forecasts_from_another_core_are_those_that_are_made_here(bars, tmp_path, monkeypatch):
    "Day for day and cent for cent, also where the second process dies on the way, and with another future behind the last day."
    first, last, made = "2022-11-01", "2022-11-30", []
    real = decision_world.ForecastsAhead.of

    def counted(ahead, as_of):
        made.append(found := real(ahead, as_of))
        if len(made) == 3:
            lying = [f for f in (tmp_path / name).rglob("*") if f.is_file() and b"sworn-to-silence" in f.read_bytes()]
            assert ahead.process and not lying, "settings with secrets are handed over by a pipe"
        return found

    def dies(ahead, as_of):
        if len(made) == 5:
            ahead.process.kill()
            ahead.process.wait()
        return counted(ahead, as_of)

    def learnt(replayed):
        return (replayed.folder / "data" / "feedback" / "sample.jsonl").read_text()

    done = run_replay(settings_at(tmp_path / "here"), first, last, NOW, past=past_of(bars))
    monkeypatch.setattr(decision_world, "FEWEST_AHEAD", 5)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    other = bars.copy()
    other.loc["2022-12-02":] *= 1.37
    secret = {"backup.anchors": "postgresql://me:sworn-to-silence@127.0.0.1/anchors"}
    for name, past, of in (("ahead", bars, counted), ("dies", bars, dies), ("future", other, counted)):
        made.clear()
        monkeypatch.setattr(decision_world.ForecastsAhead, "of", of)
        again = run_replay(settings_at(tmp_path / name, **secret), first, last, NOW, past=past_of(past))
        assert lines_of(again.folder) == lines_of(done.folder), name
        assert all(made) if of is counted else made[0] and not made[-1], name
        assert learnt(again) == learnt(done) and len(learnt(done).splitlines()) > 15, name
        assert "ended before the close of" in again.summary["notes"][0] if of is dies else not again.summary["notes"], name


LOUD = """
import pandas as pd


def features(bars):
    print("features that say something", flush=True)
    return pd.concat({"day": bars["close"].pct_change(), "week": bars["close"].pct_change(5)}, axis=1)
"""


def test_models_from_a_third_process_are_those_that_are_trained_here(bars, tmp_path, monkeypatch):
    "Every second one of six weeks, with what its record supports; features may print, and a process that dies or speaks nonsense hangs nothing."
    settings = settings_at(tmp_path)
    closes = module.closes_between(bars, "1d", datetime(2022, 11, 1, tzinfo=UTC), datetime(2022, 12, 12, tzinfo=UTC))
    told = {"settings": settings.model_dump(mode="json"), "hash": settings.hash, "source": "sample-stocks", "attrs": bars.attrs}
    told |= {"promises": str(tmp_path / "promises"), "closes": [t.isoformat() for t in closes]}
    bars.to_parquet(table := BytesIO())
    given = json.dumps(told, default=str).encode() + b"\n" + table.getvalue()
    world, closes, again = decision_world._told_world(BytesIO(given))
    assert again == given and len(closes) < decision_world.FEWEST_TRAINED and not decision_world.TrainedAhead(settings, closes, given).due
    weeks = decision_world._trainings(settings, closes)
    decision_world.serve_trainings(BytesIO(given), out := BytesIO())
    out.seek(0)
    made = [pickle.load(out) for _ in list(weeks)[1::2]]
    assert [m[0] for m in made] == list(weeks)[1::2] and len(made) == 3 and not out.read()
    for until, promoted, (trained, judged) in made[:2]:
        run = world.open(weeks[until], weeks[until])
        here = steps.train_forecaster(run)
        assert here.version == trained.version and not promoted
        pd.testing.assert_frame_equal(here.held, trained.held, check_exact=True)
        assert judged.skills == judge_record(here.held, steps._cost(settings)).skills
    monkeypatch.setattr(decision_world, "FEWEST_TRAINED", 5)
    with decision_world.TrainedAhead(settings, closes, given) as ahead:
        for until, promoted, (trained, _) in made:
            there, _ = ahead.of(until, promoted)
            assert there.version == trained.version
            pd.testing.assert_frame_equal(there.held, trained.held, check_exact=True)
    monkeypatch.chdir(tmp_path)
    Path("features").mkdir()
    Path("features/loud.py").write_text(LOUD)
    loud = settings_at(tmp_path, **{"forecast.features": "loud"})
    asked = json.dumps(told | {"settings": loud.model_dump(mode="json"), "hash": loud.hash}, default=str).encode() + b"\n" + table.getvalue()
    with decision_world.TrainedAhead(loud, closes, asked) as ahead:
        there, _ = ahead.of(made[0][0], "")
        run = decision_world._told_world(BytesIO(asked))[0].open(weeks[made[0][0]], weeks[made[0][0]])
        here, _ = steps.train_and_judge(run, weeks[made[0][0]])
        assert here.version == there.version != made[0][2][0].version, "a function of one's own gives a model one name in every process"
        pd.testing.assert_frame_equal(there.held, here.held, check_exact=True)
    with decision_world.TrainedAhead(settings, closes, given) as ahead:
        ahead.process.kill()
        assert ahead.due and ahead.of(made[0][0], "") is None and not ahead.due, "it is trained here then"
    nonsense = [sys.executable, "-c", "import sys; print('hello', flush=True); sys.stdin.read()"]
    monkeypatch.setattr(decision_world, "_program", lambda serve: nonsense)
    with decision_world.TrainedAhead(settings, closes, given) as ahead:
        assert ahead.of(made[0][0], "") is None and not ahead.due
    monkeypatch.setattr(decision_world, "FEWEST_AHEAD", 5)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    versions_at = decision_world.StoreVersions(bars, "sample-stocks", "1d")
    with decision_world.ForecastsAhead(replace(world, bars=bars, settings=settings), versions_at, closes) as ahead:
        assert ahead.of(closes[0]) is None and ahead.process is None and "answer b'hello\\n' cannot be read" in ahead.words[0]


def test_what_a_replay_keeps_from_day_to_day_changes_no_number(whole, bars, tmp_path, monkeypatch):
    "Against the slow way: features of all rows, the whole record looked through, books opened, walked and added up anew for each decision."
    def all_rows(bars, features, names, since=None):
        close = bars["close"][symbols_of(bars)]
        return make_panel(features_of(bars, features), symbols_of(bars), names), bar_volatility(close).to_numpy()

    def from_the_beginning(ledger, account, closes, until):
        last, rows = ledger.last("equity", account) or ledger.find("opened", account), ledger._rows(account)
        prices = as_traded(closes, rows).ffill()
        prices = prices[(prices.index > last.timestamp) & (prices.index <= until)]
        moments = [(time_text(t), {s: Decimal(repr(p)) for s, p in line.items() if p == p}) for t, line in prices.iterrows()]
        return dict(value_history(account, rows, moments))

    calls = []
    monkeypatch.setattr(forecaster, "forecast_inputs", all_rows)
    monkeypatch.setattr(steps, "forecast_inputs", all_rows)
    monkeypatch.setattr(steps.Trained, "recent", property(lambda trained: calls.append("recent") or trained))
    monkeypatch.setattr(Ledger, "value_closes", lambda *given: calls.append("closes") or from_the_beginning(*given))
    monkeypatch.setattr(module, "_own_books", lambda world: nullcontext(world.ledger))
    done = run_replay(settings_at(tmp_path), "2022-12-19", "2022-12-27", NOW, past=past_of(bars))
    assert lines_of(done.folder) == lines_of(whole.folder) and calls.count("recent") == calls.count("closes") == len(lines_of(whole.folder))
    books = [Ledger(f / "data" / "ledger.sqlite", readonly=True) for f in (done.folder, whole.folder)]
    assert books[0].equity_history("paper-sample").equals(books[1].equity_history("paper-sample"))


def bent_market():
    "Closes that rise after a week of large moves, whichever way, and fall after a quiet one: a straight line does not see it."
    days, dice = pd.bdate_range("2017-06-01", "2022-12-30", tz="UTC", name="timestamp"), np.random.default_rng(4)
    noise, moves = dice.normal(0, 0.01, (len(days), 4)), np.zeros((len(days), 4))
    for t in range(len(days)):
        week = np.abs(moves[max(t - 5, 0) : t].sum(axis=0)) / (0.01 * 5**0.5)
        moves[t] = noise[t] + 0.012 * np.clip(week - 0.8, -1, 1)
    close = pd.DataFrame(100 * np.exp(np.cumsum(moves - moves.mean(axis=0), axis=0)), days, ["AAPL", "AMD", "CVX", "KO"])
    return bars_from_close(close)


def test_a_replay_trades_on_the_model_that_the_weekly_search_would_have_chosen_then(tmp_path, monkeypatch):
    "As the steps of the week find it by hand from the bars of that moment, in a registry of its own; neither another future nor two cuts change it."
    asked, at = {"forecast.replay_search": "yes", "forecast.horizons": "1, 5", "market.start": "2017-06-01"}, datetime(2022, 12, 17, tzinfo=UTC)
    market, days = bent_market(), ("2022-12-14", "2022-12-22")
    monkeypatch.setattr(weekly_search, "rival_models", lambda settings: {})  # forests and networks take most of the time
    done = run_replay(settings_at(tmp_path / "replay", **asked), *days, NOW, past=past_of(market))
    models, alone = done.folder / "data" / "models" / "sample", settings_at(tmp_path / "alone", **asked)
    known = market[market.index < "2022-12-17"]
    week = WeeklySearch(alone, known.iloc[-900:], None, at, content_version(known, "sample-stocks", "1d"), versions()["carnet"], lambda line: None)
    week.search()
    week.judge()
    result = week.promote()
    found = [(p.version, p.passed, p.at, p.trials, p.reasons) for p in promotions(models)]
    assert found == [(p.version, p.passed, p.at, p.trials, p.reasons) for p in promotions(models_of(alone))] and found
    lines = lines_of(done.folder)
    kinds = {line["as_of"][:10]: read_meta(models, line["model"])["estimator"] for line in lines}
    chosen = read_meta(models, result["in_force"])["estimator"]
    assert result["promoted"], result["words"]
    assert {day: kind == chosen for day, kind in kinds.items()} == {day: day > "2022-12-17" for day in kinds} and len(set(kinds.values())) == 2
    assert "1 weekly search for better models, 1 promoted one" in done.summary["notes"] and not (tmp_path / "replay" / "data" / "models").exists()
    other = market.copy()
    other.loc["2022-12-21":] *= 1.37
    promote, decide = WeeklySearch.promote, module.take_decision

    def dies_behind(real, *given):
        real(*given)
        raise KeyboardInterrupt

    def call(real, *given):
        return real(*given)

    def again_until_cut():
        with pytest.raises(KeyboardInterrupt):
            run_replay(settings_at(tmp_path / "future", **asked), *days, NOW, ("forecasts",), past=past_of(other))

    with monkeypatch.context() as patch:  # within the search, when all but its result is written
        patch.setattr(WeeklySearch, "promote", lambda search: dies_behind(promote, search))
        again_until_cut()
    with monkeypatch.context() as patch:  # and once more two days after it
        patch.setattr(module, "take_decision", lambda world, as_of, *rest: (dies_behind if as_of.day == 21 else call)(decide, world, as_of, *rest))
        again_until_cut()
    again = run_replay(settings_at(tmp_path / "future", **asked), *days, NOW, ("forecasts",), past=past_of(other))
    models = again.folder / "data" / "models" / "sample"
    assert [(p.version, p.passed, p.at, p.trials, p.reasons) for p in promotions(models)] == found
    assert past_trials(models, "forecast") == past_trials(models_of(alone), "forecast"), "no look is counted twice"
    assert len(list((again.folder / "runs" / "weekly").iterdir())) == 1
    assert not (again.folder / "forecasts" / "runs" / "weekly").exists(), "who makes no forecasts needs no model"
    early = [line for line in lines if line["as_of"][:10] <= "2022-12-20"]
    assert lines_of(again.folder)[: len(early)] == early and len(early) > 3


def test_a_part_without_a_decision_of_the_whole_at_hand_forecasts_with_the_models_of_the_whole(tmp_path, monkeypatch):
    "After a crash between the two, and when the decision of the whole failed behind its forecasts; one search, and one feedback."
    asked = {"forecast.replay_search": "yes", "forecast.horizons": "1, 5", "market.start": "2017-06-01"}
    days, parts = ("2022-12-14", "2022-12-21"), ("policy", "costs")
    monkeypatch.setattr(weekly_search, "rival_models", lambda settings: {})
    decide, trade, forecasts = module.take_decision, module.trade_step, {}

    def cut(world, as_of, *rest):
        if world.without == "policy" and as_of.day == 20:
            raise KeyboardInterrupt
        return decide(world, as_of, *rest)

    def noted(run, now):
        made = (run.record.model_versions["forecast"], run.read("decisions"), run.read("views").to_json())
        forecasts.setdefault(run.record.as_of.day, []).append(made)
        if run.record.as_of.day == 22 and "policy" not in str(run.folder) and "costs" not in str(run.folder):
            raise BadInput("the whole refuses to trade")
        return trade(run, now)

    monkeypatch.setattr(module, "trade_step", noted)
    with monkeypatch.context() as patch:
        patch.setattr(module, "take_decision", cut)
        with pytest.raises(KeyboardInterrupt):
            run_replay(settings_at(tmp_path, **asked), *days, NOW, parts, past=past_of(bent_market()))
    done = run_replay(settings_at(tmp_path, **asked), *days, NOW, parts, past=past_of(bent_market()))
    assert [p["as_of"][8:10] for p in done.summary["problems"]] == ["22"]
    assert len(list((done.folder / "runs" / "weekly").iterdir())) == 1
    lines = {part: lines_of(done.folder / part) for part in ("", *parts)}
    assert len({len(found) for found in lines.values()}) == 1 and len({line["model"] for line in lines["policy"]}) == 2
    assert [line["model"] for line in lines["policy"]] == [line["model"] for line in lines["costs"]]
    assert all(len(made) == 3 and made[0] == made[1] == made[2] for made in forecasts.values())
    for part in parts:
        assert not (done.folder / part / "runs" / "weekly").exists() and not (done.folder / part / "data" / "feedback").exists()


def test_what_cannot_be_replayed_is_refused_in_a_sentence(tmp_path, bars):
    settings = settings_at(tmp_path)
    with pytest.raises(BadInput, match="give the earlier day first"):
        run_replay(settings, "2022-12-27", "2022-12-12", NOW)
    with pytest.raises(BadInput, match="'x' is no part"):
        run_replay(settings, "2022-12-12", None, NOW, ("x",))
    with pytest.raises(MissingData, match="stored bars go from 2017-01-03"):
        run_replay(settings, "2030-01-01", "2030-02-01", NOW, past=past_of(bars))
    with pytest.raises(BadInput, match="is not a date"):
        run_replay(settings, "yesterday", None, NOW)
    assert not list((tmp_path / "reports").rglob("replay.json"))


def test_a_close_without_a_decision_is_told_and_the_rest_goes_on(bars, tmp_path):
    holes = bars.copy()
    holes.loc["2022-12-10":"2022-12-16", ("close", "KO")] = float("nan")
    for field in ("open", "high", "low"):
        if (field, "KO") in holes:
            holes.loc["2022-12-10":"2022-12-16", (field, "KO")] = float("nan")
    done = run_replay(settings_at(tmp_path, **{"market.max_age_hours": "30"}), "2022-12-09", "2022-12-14", NOW, past=past_of(holes))
    problems = done.summary["problems"]
    assert problems and all("KO: the last bar closed" in p["error"] for p in problems) and len(problems) < done.summary["decisions"]


def test_the_command_writes_a_report_and_page_and_api_show_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    lines = {}
    for key, value in FAST.items():
        section, _, name = key.partition(".")
        lines.setdefault(section, []).append(f"{name} = {value}")
    Path("settings.ini").write_text("\n".join(f"[{s}]\n" + "\n".join(v) for s, v in lines.items()))
    result = CliRunner().invoke(main, ["replay", "--from", "2022-12-21", "--to", "2022-12-22", "--without", "policy"])
    assert result.exit_code == 0, result.output
    assert "2 decisions from 2022-12-21 to 2022-12-22:" in result.output and "policy:" in result.output
    page = next(Path("reports/replays").glob("*/index.html")).read_text()
    assert "Replay" in page and "Contribution of the parts" in page and "<script" not in page

    from trading.services.replay_control import list_replays, replay_result
    from trading.services.workspace import Workspace

    place = Workspace(Path("data"), Path("reports"))
    assert (listed := list_replays(place)["items"])[0]["decisions"] == 2 and replay_result(place, listed[0]["name"])["orders"] >= 1
    wrong = CliRunner().invoke(main, ["replay", "--from", "2022-12-30", "--to", "2022-12-20"])
    assert wrong.exit_code == 1 and "give the earlier day first" in wrong.output
