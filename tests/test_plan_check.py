"The check in front of orders, from limits to the plan and back."

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trading.core.errors import Refused
from trading.core.instruments import Instrument
from trading.core.types import CheckResult
from trading.execution.plan import PlanConstraints, make_plan
from trading.execution.pre_trade import check_plan
from trading.risk.kill_switch import KillSwitch
from trading.risk.limits import RiskLimits

NOON = datetime(2024, 5, 3, 12, tzinfo=UTC)
D = Decimal
RULES = PlanConstraints(fee_rate=D("0.001"), min_trade=D(1))


def plan_for(weights, cash=D(1000)):
    prices = {s: D(10) for s in "ABCD"}
    return make_plan("paper", NOON, {}, cash, weights, prices, {s: Instrument(s, D("0.00000001"), D(1)) for s in "ABCD"}, RULES, "USD"), prices


def check(plan, limits, prices, cash=D(1000), **more):
    facts = {"prices": prices, "price_times": dict.fromkeys(prices, NOON), "now": NOON, "holdings": {}, "cash": cash}
    return check_plan(plan, limits, **facts | {"known_symbols": "ABCD", "kill_switch": None, "fee_rate": RULES.fee_rate} | more)


@given(st.lists(st.integers(0, 100), min_size=4, max_size=4).filter(any), st.floats(0.05, 1), st.floats(0, 0.5))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_plan_passes_exactly_when_its_result_keeps_the_limits(raw, max_weight, min_cash):
    weights = {s: 0.9 * w / sum(raw) for s, w in zip("ABCD", raw, strict=True)}
    plan, prices = plan_for(weights)
    verdict = check(plan, RiskLimits(max_weight=max_weight, min_cash=min_cash), prices)
    equity = plan.equity - sum(a.value for a in plan.actions) * RULES.fee_rate
    held = {a.symbol: float(a.value / equity) for a in plan.actions}
    broken = {"max_weight"} if max(held.values(), default=0) > max_weight + 1e-9 else set()
    broken |= {"min_cash"} if 1 - sum(held.values()) < min_cash - 1e-9 else set()
    assert {v.rule for v in verdict.violations} == broken
    assert CheckResult.from_json(verdict.to_json()) == verdict


@pytest.mark.parametrize("hours", [0, 25, 27])
def test_a_price_is_stale_after_its_age_and_not_before(hours):
    plan, prices = plan_for({"A": 0.5})
    verdict = check(plan, RiskLimits(max_price_age=timedelta(hours=26)), prices, price_times={"A": NOON - timedelta(hours=hours)})
    assert verdict.ok == (hours <= 26)


def test_the_kill_switch_outranks_everything(tmp_path):
    plan, prices = plan_for({"A": 0.5})
    switch = KillSwitch(tmp_path / "kill")
    assert check(plan, RiskLimits(), prices, kill_switch=switch).ok
    switch.engage("Ada", "drill", NOON)
    with pytest.raises(Refused, match="the kill switch is on: stopped by Ada"):
        check(plan, RiskLimits(), prices, kill_switch=switch).require()


def test_a_plan_altered_by_one_unit_is_refused():
    plan, prices = plan_for({"A": 0.5})
    assert check(plan, RiskLimits(), prices, expected_hash=plan.hash).ok
    altered = plan.but(actions=(plan.actions[0].but(amount=plan.actions[0].amount + 1),))
    assert [v.rule for v in check(altered, RiskLimits(), prices, expected_hash=plan.hash).violations] == ["hash"]


@pytest.mark.parametrize("wrong", [0.0, -3.0, float("nan"), float("inf"), 1000.0])
def test_a_nonsense_price_is_never_near_enough(wrong):
    plan, prices = plan_for({"A": 0.5})
    verdict = check(plan, RiskLimits(max_price_gap=0.05), prices, second_prices={**prices, "A": wrong})
    assert [v.rule for v in verdict.violations] == ["price_gap"]


def test_without_any_limit_the_basic_rules_are_still_looked_at():
    plan, prices = plan_for({"A": 0.5})
    assert set(check(plan, RiskLimits(), prices).checked) >= {"as_of", "known_symbol", "price", "short", "cash"}
    assert {v.rule for v in check(plan, RiskLimits(), prices, cash=D(100)).violations} == {"cash"}
