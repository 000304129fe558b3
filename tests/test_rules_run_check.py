"The check of a run's plan, rule by rule: the last input that passes and the first that fails, and the prices and history that it looks at."

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from functools import cache

import numpy as np
import pandas as pd
import pytest

from trading.core.instruments import Instrument
from trading.core.settings import load_settings
from trading.core.types import Position
from trading.execution.plan import PlanConstraints, make_plan
from trading.pipeline.account import AccountSnapshot, kill_switch
from trading.pipeline.memory_run import MemoryRun
from trading.pipeline.plan_check import SeenPrices, check_run, prices_of_run
from trading.pipeline.price_snapshot import PriceSnapshot
from trading.pipeline.run_record import RunRecord

FRIDAY = datetime(2022, 12, 24, tzinfo=UTC)  # after the close of the 23rd; Monday the 26th is a holiday
SYMBOLS = ("AAPL", "KO", "PEP")
# tests/mutants: pipeline.plan_check


def market(ends: dict[str, str] | None = None) -> pd.DataFrame:
    "Ninety bars of three stocks that move by half a percent up and down; `ends`: the last bar of a symbol."
    days = pd.bdate_range(end="2022-12-23", periods=90, tz="UTC").rename("timestamp")
    close = pd.DataFrame({s: 100.0 * (1 + 0.005 * (np.arange(90) % 2)) for s in SYMBOLS}, days)
    close.iloc[-1] = 100.0
    close.iloc[-3] = 101.25
    for symbol, day in (ends or {}).items():
        close.loc[pd.Timestamp(day, tz="UTC") + pd.Timedelta(days=1) :, symbol] = np.nan
    return pd.concat({"close": close}, axis=1, names=["field", "symbol"])


@cache
def plain_settings():
    return load_settings(None, {"market.symbols": ", ".join(SYMBOLS)}, environ={})  # KO and PEP are one group


def changed(settings, **values):
    "Return settings with some values changed: limits__max_weight and the like."
    for place, value in values.items():
        section, name = place.split("__")
        settings = settings.model_copy(update={section: getattr(settings, section).model_copy(update={name: value})})
    return settings


def run_of(tmp_path, *, bars=None, as_of=FRIDAY, weights=None, held=(), cash="10000", history=None, snapshot=None, **limits):
    "Return a run that has come to its check, and its settings."
    settings = changed(plain_settings(), run__data=tmp_path, **limits)
    state = AccountSnapshot(D(cash), {p.symbol: p for p in held}, D(cash) + sum((p.amount * 100 for p in held), D(0)))
    rules = PlanConstraints(fee_rate=D(0), min_trade=D(1))
    amounts = {p.symbol: p.amount for p in held}
    plan = make_plan("paper-sample", as_of, amounts, state.cash, {"KO": 0.1} if weights is None else weights,
                     dict.fromkeys(SYMBOLS, D(100)), {s: Instrument(s, D("0.0001"), D(1)) for s in SYMBOLS}, rules, "USD")
    record = RunRecord(id="r", profile="sample", as_of=as_of, mode="paper", account="paper-sample", created=as_of, settings={},
                       settings_hash=settings.hash, data_version="v", seed=7)
    run = MemoryRun(record, tmp_path, settings, market() if bars is None else bars)
    run.write("plan", plan)
    history = history or [((as_of - timedelta(days=1)).isoformat(), float(state.equity)), (as_of.isoformat(), float(state.equity))]
    run.write("account", state.state | {"history": history})
    if snapshot:
        run.write("snapshot", snapshot)
    return run, settings


def verdict(tmp_path, *, given=None, **facts) -> set[str]:
    run, settings = run_of(tmp_path, **facts)
    return {v.rule for v in check_run(run, settings, **given or {}).violations}


def test_a_plain_plan_passes(tmp_path):
    assert verdict(tmp_path) == set()


def test_without_a_snapshot_the_last_closes_count_as_old_as_their_markets_were_open(tmp_path):
    run, settings = run_of(tmp_path, bars=market({"KO": "2022-12-21"}), as_of=datetime(2022, 12, 27, tzinfo=UTC))
    seen = prices_of_run(run, settings)
    assert seen.prices == {"AAPL": D(100), "KO": D("101.25"), "PEP": D(100)}, "KO's last bar is that of the 21st"
    assert seen.moment == datetime(2022, 12, 27, tzinfo=UTC)
    assert seen.times["AAPL"] == seen.times["PEP"] == datetime(2022, 12, 26, tzinfo=UTC), "a weekend does not age a price"
    assert seen.times["KO"] == datetime(2022, 12, 22, tzinfo=UTC), "one that has stopped trading grows older while its market is open"


@pytest.mark.parametrize(("last", "hours", "rules"), [("2022-12-23", 24, set()), ("2022-12-21", 119, {"price_age"}), ("2022-12-21", 120, set())])
def test_a_symbol_that_has_stopped_trading_is_stale(tmp_path, last, hours, rules):
    assert verdict(tmp_path, bars=market({"KO": last}), as_of=datetime(2022, 12, 27, tzinfo=UTC), market__max_age_hours=hours) == rules


def test_a_snapshot_stands_above_the_closes_and_moves_the_clock(tmp_path):
    taken = FRIDAY + timedelta(minutes=5)
    run, settings = run_of(tmp_path, snapshot=PriceSnapshot("venue", {"KO": D("101.5")}, {"KO": taken}))
    seen = prices_of_run(run, settings)
    assert seen.prices == {"AAPL": D(100), "KO": D("101.5"), "PEP": D(100)}
    assert seen.times["KO"] == taken and seen.times["AAPL"] <= FRIDAY and seen.moment == taken
    early, settings = run_of(tmp_path, snapshot=PriceSnapshot("venue", {"KO": D("101.5")}, {"KO": FRIDAY - timedelta(minutes=1)}))
    assert prices_of_run(early, settings).moment == FRIDAY, "a snapshot of before does not turn the clock back"


@pytest.mark.parametrize(("facts", "rules"), [
    ({"weights": {"KO": 0.2}, "limits__max_weight": 0.2}, set()), ({"weights": {"KO": 0.21}, "limits__max_weight": 0.2}, {"max_weight"}),
    ({"weights": {"KO": 0.15, "PEP": 0.15}, "limits__max_group_weight": 0.3}, set()),
    ({"weights": {"KO": 0.15, "PEP": 0.16}, "limits__max_group_weight": 0.3}, {"max_group_weight"}),
    ({"weights": {"KO": 0.15, "AAPL": 0.16}, "limits__max_group_weight": 0.3}, set()),
    ({"weights": {"KO": 0.2}, "limits__min_cash": 0.81}, {"min_cash"}), ({"weights": {"KO": 0.2}, "limits__min_cash": 0.8}, set()),
    ({"weights": {"KO": 0.2, "PEP": 0.2}, "limits__max_turnover": 0.4}, set()),
    ({"weights": {"KO": 0.2, "PEP": 0.2}, "limits__max_turnover": 0.39}, {"max_turnover"}),
])
def test_the_limits_of_the_settings_hold_for_what_the_plan_makes(tmp_path, facts, rules):
    assert verdict(tmp_path, **facts, costs__fee_rate=0) == rules


@pytest.mark.parametrize(("before", "rules"), [(10_500, set()), (10_600, {"max_daily_loss"})])
def test_the_history_of_the_run_counts_unless_another_is_given(tmp_path, before, rules):
    history = [((FRIDAY - timedelta(days=1)).isoformat(), before), (FRIDAY.isoformat(), 10_000)]
    assert verdict(tmp_path, history=history, limits__max_daily_loss=0.05) == rules
    flat = pd.Series([10_000.0, 10_000.0], pd.DatetimeIndex([FRIDAY - timedelta(days=1), FRIDAY]))
    fallen = pd.Series([20_000.0, 10_000.0], flat.index)
    assert verdict(tmp_path, history=history, limits__max_daily_loss=0.05, given={"equity": flat}) == set()
    assert verdict(tmp_path, limits__max_daily_loss=0.05, limits__max_drawdown=0.9, given={"equity": fallen}) == {"max_daily_loss"}


def test_prices_of_now_count_where_they_are_given(tmp_path):
    now = FRIDAY + timedelta(minutes=1)
    same = SeenPrices(dict.fromkeys(SYMBOLS, D(100)), dict.fromkeys(SYMBOLS, now), now)
    dear = replace(same, prices=same.prices | {"KO": D(600)})
    assert verdict(tmp_path, given={"seen": same}) == set()
    assert "max_weight" in verdict(tmp_path, given={"seen": dear})
    old = replace(same, times=dict.fromkeys(SYMBOLS, now - timedelta(hours=121)))
    assert verdict(tmp_path, given={"seen": old}) == {"price_age"}


@pytest.mark.parametrize(("average", "rules"), [("111", set()), ("112", {"stop_loss"})])
def test_what_was_lost_since_the_purchase_counts(tmp_path, average, rules):
    held = (Position("KO", D(10), D(average)),)
    assert verdict(tmp_path, held=held, weights={"KO": 0.11}, limits__stop_loss=0.1) == rules


@pytest.mark.parametrize(("today", "rules"), [("9000", set()), ("9001", {"max_daily_value"})])
def test_what_was_traded_today_counts(tmp_path, today, rules):
    assert verdict(tmp_path, limits__max_daily_value=D(10000), given={"traded_today": D(today)}) == rules


def test_fees_are_part_of_the_cash_that_a_plan_needs(tmp_path):
    full = {"weights": dict.fromkeys(SYMBOLS, 1 / 3), "limits__max_weight": 0.4, "limits__max_group_weight": 1}
    assert verdict(tmp_path, **full, costs__fee_rate=0) == set()
    assert "cash" in verdict(tmp_path, **full, costs__fee_rate=0.01)


@pytest.mark.parametrize(("var", "rules"), [(0.0011, set()), (0.0005, {"max_var_95"})])
def test_the_returns_of_the_past_count_for_value_at_risk(tmp_path, var, rules):
    assert verdict(tmp_path, weights={"KO": 0.19}, limits__max_var_95=var) == rules  # moves of 0.5 %, a fifth of the account: 0.1 %


def test_the_kill_switch_of_the_account_refuses(tmp_path):
    run, settings = run_of(tmp_path)
    kill_switch(settings, "paper-other").engage("Ada", "drill", FRIDAY)
    assert check_run(run, settings).ok
    kill_switch(settings, "paper-sample").engage("Ada", "drill", FRIDAY)
    assert [v.rule for v in check_run(run, settings).violations] == ["kill_switch"]
