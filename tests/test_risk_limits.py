"Limits, sizes and the switch, on cases that nobody drew by hand."

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.core.errors import BadInput, Refused
from trading.risk.kill_switch import KillSwitch
from trading.risk.limits import RiskLimits, check_limits, equity_balance
from trading.risk.sizing import size_position

NOON = datetime(2024, 5, 3, 12, tzinfo=UTC)
WEIGHTS = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 0.3), max_size=8)


@given(WEIGHTS)
@settings(max_examples=100, deadline=None)
def test_every_row_compares_the_limit_with_what_a_hand_would_compute(weights):
    groups = {s: "x" if s < "d" else "y" for s in weights}
    limits = RiskLimits(max_weight=0.2, max_group_weight=0.5, min_cash=0.1, max_leverage=1, max_concentration=0.3, group_weights={"x": 0.4})
    table = check_limits(limits, weights, groups)
    total = sum(weights.values())
    by_group = {g: sum(w for s, w in weights.items() if groups[s] == g) for g in "xy"}
    expected = {"max_weight": max(weights.values(), default=0), "max_group_weight": max(by_group.values()), "min_cash": 1 - total}
    expected |= {"max_leverage": total, "max_concentration": sum(w * w for w in weights.values()), "group_weights[x]": by_group["x"]}
    assert table["actual"].to_dict() == pytest.approx(expected, abs=1e-12)
    assert table.loc["min_cash", "ok"] == (1 - total >= 0.1 - 1e-9)


def test_a_limit_that_cannot_be_judged_is_not_ok():
    limits = RiskLimits(max_drawdown=0.2, max_daily_loss=0.1, max_var_95=0.05, max_turnover=1, stop_loss=0.1, max_group_weight=0.5)
    table = check_limits(limits, {"a": 0.6})
    assert not table["ok"].any() and (table["where"] != "").all()
    assert check_limits(limits, {}, equity=pd.Series([1.0], pd.to_datetime([NOON])), turnover=0, losses={})["ok"].all()


def test_short_positions_count_with_their_size():
    table = check_limits(RiskLimits(max_weight=0.3, max_leverage=1), {"a": 0.8, "b": -0.5})
    assert table.loc["max_leverage", "actual"] == pytest.approx(1.3) and not table["ok"].any()


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=50))
@settings(max_examples=60, deadline=None)
def test_the_balance_agrees_with_a_walk_through_the_history(values):
    index = pd.date_range("2024-01-01 05:00", periods=len(values), freq="7h", tz="UTC")
    state = equity_balance(pd.Series(values, index))
    peak, start, day = 0.0, values[0], index[0].date()
    for when, value, previous in zip(index, values, [values[0], *values[:-1]], strict=True):
        if when.date() != day:
            day, start = when.date(), previous
        peak = max(peak, value)
    assert (state.peak, state.day_start) == (peak, start)
    assert state.drawdown == pytest.approx(1 - values[-1] / peak)


@given(st.decimals(100, 10**6, places=2), st.decimals("0.01", 10**5, places=2), st.floats(0, 1), st.sampled_from(["1", "0.001"]))
@settings(max_examples=100, deadline=None)
def test_a_size_never_costs_more_than_its_fraction(equity, price, fraction, step):
    units = size_position(equity, price, fraction, amount_step=Decimal(step))
    assert 0 <= units * price <= equity * Decimal(str(fraction))
    assert units % Decimal(step) == 0


def test_the_switch_survives_restarts_and_damage(tmp_path):
    path = tmp_path / "kill.jsonl"
    KillSwitch(path).engage("check", "drawdown 31 % is above 30 %", NOON)
    for _ in range(3):
        with pytest.raises(Refused, match="drawdown 31 %"):
            KillSwitch(path).require_off()
    KillSwitch(path).reset("Ada", "seen", NOON + timedelta(hours=1))
    KillSwitch(path).require_off()
    for damage in ('{"engaged": tr', "\x00\x00", '{"engaged": "no", "who": 1, "why": 2, "when": 3}', "[]"):
        path.write_text(path.read_text() + damage)
        assert KillSwitch(path).engaged, damage
        KillSwitch(path).reset("Ada", "repaired", NOON)
        assert not KillSwitch(path).engaged
    assert json.loads(path.read_text().splitlines()[0])["who"] == "check"


def test_a_switch_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(OSError):
        KillSwitch(tmp_path / "absent" / "kill.jsonl").engage("check", "why", NOON)


@pytest.mark.parametrize("field", sorted(set(RiskLimits.__dataclass_fields__) - {"group_weights", "cash_groups", "max_price_age"}))
@pytest.mark.parametrize("value", [-0.1, float("nan"), "0.1", True])
def test_every_limit_refuses_what_cannot_be_meant(field, value):
    with pytest.raises(BadInput, match=field):
        RiskLimits(**{field: value})


def test_var_is_that_of_the_weighted_returns():
    returns = pd.DataFrame(np.random.default_rng(0).normal(0, 0.02, (250, 2)), columns=["a", "b"])
    table = check_limits(RiskLimits(max_var_95=0.02), {"a": 0.3, "b": 0.7}, returns=returns)
    assert table.loc["max_var_95", "actual"] == pytest.approx(-np.quantile(0.3 * returns["a"] + 0.7 * returns["b"], 0.05))
