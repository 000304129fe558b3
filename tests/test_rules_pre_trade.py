"""The decision table of the check before orders: each rule with the last input that passes, the first that fails, and the exact verdict.

The account: 600 USD in cash and 40 A at 10. The plan sells 10 A for 100 and buys 6 B at 20 for 120. Without fees it leaves 580 in cash, 300 of A and
120 of B: weights of 0.30 and 0.12 in 1,000.
"""

import ast
import inspect
import os
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import trading.execution.pre_trade as module
from trading.core.errors import BadInput
from trading.core.margin import MarginTerms
from trading.core.types import Action, Plan, Violation
from trading.execution.pre_trade import check_plan
from trading.risk.limits import RiskLimits

NOON = datetime(2024, 5, 3, 12, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
SELL, BUY = Action("A", "sell", D(10), D(10), "above", "X"), Action("B", "buy", D(6), D(20), "below", "X")
PLAN = Plan("hand", NOON, "USD", D(1000), D(600), (SELL, BUY))
FACTS = {
    "prices": {"A": D(10), "B": D(20)}, "price_times": {"A": NOON, "B": NOON}, "now": NOON, "holdings": {"A": D(40)}, "cash": D(600),
    "known_symbols": ("A", "B"), "kill_switch": None, "groups": {"A": "X", "B": "X"},
}  # fmt: skip
CURVE = pd.Series([1000.0, 1250.0, 1100.0, 1000.0], pd.to_datetime([f"2024-05-{day} 00:00" for day in ("01", "02", "02", "03")], utc=True))
RETURNS = pd.DataFrame({"A": [-0.10, 0.0, 0.0, 0.0, 0.0] * 20, "B": 0.0})  # one day in five A loses a tenth: 3 % of the account after the plan


def on(stopped):
    return SimpleNamespace(reason=lambda: stopped)


def acts(*actions, **more):
    return PLAN.but(actions=actions, **more)


@dataclass
class Row:
    rule: str
    passes: dict
    fails: dict
    reason: str  # of the violation, whole
    symbol: str = ""
    limits: dict = field(default_factory=dict)  # those of both cases; "limit" in a case sets the rule's own
    more: tuple = ()  # further violations of the failing case


MARGIN = {"margin": MarginTerms(leverage=D(2))}
ROWS = [
    Row("kill_switch", {"kill_switch": on("")}, {"kill_switch": on("stopped by Ada")}, "the kill switch is on: stopped by Ada"),
    Row("hash", {"expected_hash": PLAN.hash}, {"expected_hash": "0" * 64},
        f"the plan's hash is {PLAN.hash[:12]} and 000000000000 was approved: it was altered since"),
    Row("hash", {"expected_hash": PLAN.hash}, {"expected_hash": PLAN.hash, "plan": PLAN.but(cash=D(601))},
        f"the plan's hash is {PLAN.but(cash=D(601)).hash[:12]} and {PLAN.hash[:12]} was approved: it was altered since"),
    Row("as_of", {"now": NOON}, {"now": NOON - SECOND}, "the plan is of 2024-05-03T12:00:00+00:00, after now, 2024-05-03T11:59:59+00:00"),
    Row("as_of", {"now": NOON + 26 * HOUR, "price_times": dict.fromkeys("AB", NOON + 26 * HOUR)},
        {"now": NOON + 29 * HOUR, "price_times": dict.fromkeys("AB", NOON + 29 * HOUR)},
        "the plan is 29.0 h old and the limit is 26.0 h", limits={"max_price_age": 26 * HOUR}),
    Row("as_of", {"now": NOON + 26 * HOUR, "price_times": dict.fromkeys("AB", NOON + 26 * HOUR)},
        {"now": NOON + 26 * HOUR + SECOND, "price_times": dict.fromkeys("AB", NOON + 26 * HOUR)},
        "the plan is 26.0 h old and the limit is 26.0 h", limits={"max_price_age": 26 * HOUR}),
    Row("max_orders", {"limit": 2}, {"limit": 1}, "2 orders are above the limit of 1"),
    Row("max_turnover", {"limit": 0.22}, {"limit": 0.21}, "turnover 22.00 % is above the limit of 21.00%"),
    Row("max_daily_value", {"traded_today": D(780)}, {"traded_today": D("780.01")},
        "1000.01 USD traded today, this plan included, are above 1000", limits={"max_daily_value": D(1000)}),
    Row("max_daily_value", {"traded_today": D(5000), "plan": acts()}, {"traded_today": D(5000)},
        "5220.00 USD traded today, this plan included, are above 1000", limits={"max_daily_value": D(1000)}),
    Row("known_symbol", {"known_symbols": ["B", "A"]}, {"known_symbols": ["A"]}, "B is unknown to the venue or the settings", "B"),
    Row("one_action", {"plan": acts(BUY.but(venue="one"), BUY.but(venue="two"))}, {"plan": acts(BUY, BUY)}, "B is traded twice in one plan", "B"),
    Row("one_action", {"plan": acts(BUY.but(venue="one"), SELL.but(venue="one"))}, {"plan": acts(BUY.but(venue="one"), BUY.but(venue="one"))},
        "B is traded twice in one plan at one", "B"),
    Row("one_action", {"plan": acts(SELL.but(venue="one"), SELL.but(venue="two"))},
        {"plan": acts(SELL.but(venue="one"), SELL.but(venue="two", side="buy"))}, "A is traded twice in one plan at one", "A",
        more=(Violation("one_action", "A is traded twice in one plan at two", "A"),)),
    Row("max_order_value", {"limit": D(120)}, {"limit": D("119.99")}, "B: 120.00 USD, above 119.99 per order", "B"),
    Row("price_age", {}, {"price_times": {"A": NOON}}, "B: nobody said when its price was seen", "B", {"max_price_age": 26 * HOUR}),
    Row("price_age", {"price_times": {"A": NOON, "B": NOON + 300 * SECOND}}, {"price_times": {"A": NOON, "B": NOON + 301 * SECOND}},
        "B: its price is of 2024-05-03T12:05:01+00:00, after now; check the clocks", "B", {"max_price_age": 26 * HOUR}),
    Row("price_age", {"price_times": {"A": NOON, "B": NOON - 26 * HOUR}}, {"price_times": {"A": NOON, "B": NOON - 26 * HOUR - SECOND}},
        "B: its price is 26.0 h old and the limit is 26.0 h", "B", {"max_price_age": 26 * HOUR}),
    Row("price_age", {"price_times": {"A": NOON, "B": NOON - 26 * HOUR}}, {"price_times": {"A": NOON, "B": NOON - 39 * HOUR}},
        "B: its price is 39.0 h old and the limit is 26.0 h", "B", {"max_price_age": 26 * HOUR}),
    Row("price", {}, {"prices": {"A": D(10)}}, "B: there is no price now", "B",
        more=(Violation("price", "B is held and there is no price now, so nothing can be judged", "B"),)),
    *(Row("price", {}, {"prices": {"A": D(10), "B": wrong}}, "B: there is no price now", "B",
          more=(Violation("price", "B is held and there is no price now, so nothing can be judged", "B"),))
      for wrong in (D(0), D(-20), float("nan"), float("inf"))),
    Row("price", {"holdings": {"A": D(40), "C": D(0)}}, {"holdings": {"A": D(40), "C": D("0.01")}},
        "C is held and there is no price now, so nothing can be judged", "C"),
    Row("price", {"plan": acts(BUY)}, {"plan": acts(SELL.but(amount=D(40))), "prices": {"B": D(20)}}, "A: there is no price now", "A"),
    Row("price_gap", {"prices": {"A": D(10), "B": D(25)}}, {"prices": {"A": D(10), "B": D("25.2")}},
        "B: the plan's price 20 and the market's 25.2 are 26.0% apart, more than 25.0%", "B", {"max_price_gap": 0.25}),
    Row("price_gap", {"prices": {"A": D(10), "B": D(15)}}, {"prices": {"A": D(10), "B": D("14.8")}},
        "B: the plan's price 20 and the market's 14.8 are 26.0% apart, more than 25.0%", "B", {"max_price_gap": 0.25}),
    Row("price_gap", {"second_prices": {"A": 10, "B": 25}}, {"second_prices": {"A": 10, "B": 25.2}},
        "B: the plan's price 20 and the second source's 25.2 are 26.0% apart, more than 25.0%", "B", {"max_price_gap": 0.25}),
    Row("price_gap", {"second_prices": {"A": 10, "B": 15}}, {"second_prices": {"A": 10, "B": 0}},
        "B: the plan's price 20 and the second source's 0 are inf% apart, more than 25.0%", "B", {"max_price_gap": 0.25}),
    Row("price_gap", {"second_prices": {"A": 10, "B": 20}}, {"second_prices": {"A": 10}}, "B: the second source has no price", "B"),
    Row("stop_loss", {"losses": {"A": 0.9, "B": 0.25}}, {"losses": {"A": 0.9, "B": 0.26}},
        "B lost 26.0% since purchase, past the stop of 25.0%: it is not bought again", "B", {"stop_loss": 0.25}),
    Row("short", {"plan": acts(SELL.but(amount=D(40)))}, {"plan": acts(SELL.but(amount=D(41)))},
        "A: 40 units are held, more would be sold, -1 be left", "A"),
    Row("short", {"plan": acts(SELL)}, {"plan": acts(BUY.but(side="sell"))}, "B: 0 units are held, more would be sold, -6 be left", "B"),
    # sold for 100, bought for 120: without fees 20 are needed, at 1 % 1 and 1.20 more, at 2 an order 4 more, at 1.10 an order 1.10 and 1.20
    Row("cash", {"cash": D(20)}, {"cash": D("19.99")}, "cash would be -0.01 USD: there are 19.99 and the plan with fees takes more"),
    Row("cash", {"cash": D("22.20"), "fee_rate": D("0.01")}, {"cash": D("22.19"), "fee_rate": D("0.01")},
        "cash would be -0.01 USD: there are 22.19 and the plan with fees takes more"),
    Row("cash", {"cash": D(24), "fee_rate": D("0.01"), "min_fee": D(2)}, {"cash": D("23.99"), "fee_rate": D("0.01"), "min_fee": D(2)},
        "cash would be -0.01 USD: there are 23.99 and the plan with fees takes more"),
    Row("cash", {"cash": D("22.30"), "fee_rate": D("0.01"), "min_fee": D("1.1")}, {"cash": D("22.29"), "fee_rate": D("0.01"), "min_fee": D("1.1")},
        "cash would be -0.01 USD: there are 22.29 and the plan with fees takes more"),
    Row("max_weight", {"limit": 0.30}, {"limit": 0.299}, "max_weight after the plan: 0.3 is above the limit of 0.299 (A)"),
    # with 1 % of fees the account has 997.80 left: 300 / 997.80 = 0.30066
    Row("max_weight", {"limit": 0.3007, "fee_rate": D("0.01")}, {"limit": 0.3006, "fee_rate": D("0.01")},
        "max_weight after the plan: 0.3007 is above the limit of 0.3006 (A)"),
    # what is bought at 20 and quoted at 40 now is 240 of 1,120: 0.2143, and A 0.2679
    Row("max_weight", {"limit": 0.268, "prices": {"A": 10, "B": 40}}, {"limit": 0.2678, "prices": {"A": 10, "B": 40}},
        "max_weight after the plan: 0.2679 is above the limit of 0.2678 (A)"),
    # a plan that only sells may leave a weight above its limit when it was no better before; one that also buys may not
    Row("max_weight", {"limit": 0.20, "plan": acts(SELL)}, {"limit": 0.20}, "max_weight after the plan: 0.3 is above the limit of 0.2 (A)"),
    # with a fee of 1 the account shrinks to 999, so selling C makes A's 0.40 a 0.4004: worse than before
    Row("max_weight", {"limit": 0.20, "plan": acts(BUY.but(symbol="C", side="sell")), "holdings": {"A": D(40), "C": D(6)}, "cash": D(480),
                       "prices": {"A": 10, "C": 20}, "price_times": dict.fromkeys("AC", NOON), "known_symbols": "AC"},
        {"limit": 0.20, "plan": acts(BUY.but(symbol="C", side="sell")), "holdings": {"A": D(40), "C": D(6)}, "cash": D(480), "min_fee": D(1),
         "prices": {"A": 10, "C": 20}, "price_times": dict.fromkeys("AC", NOON), "known_symbols": "AC"},
        "max_weight after the plan: 0.4004 is above the limit of 0.2 (A)"),
    Row("max_group_weight", {"limit": 0.42}, {"limit": 0.419}, "max_group_weight after the plan: 0.42 is above the limit of 0.419 (X)"),
    Row("max_group_weight", {"limit": 0.42, "groups": None}, {"limit": 0.419, "groups": None},
        "max_group_weight after the plan: 0.42 is above the limit of 0.419 (X)"),
    Row("group_weights[X]", {"limit": {"X": 0.42}}, {"limit": {"X": 0.419}}, "group_weights[X] after the plan: 0.42 is above the limit of 0.419 (X)"),
    Row("min_cash", {"limit": 0.58}, {"limit": 0.581}, "min_cash after the plan: 0.58 is below the limit of 0.581 (cash)"),
    Row("min_cash", {"limit": 0.90, "plan": acts(SELL)}, {"limit": 0.90}, "min_cash after the plan: 0.58 is below the limit of 0.9 (cash)"),
    Row("min_cash", {"limit": 0.60, "plan": acts(SELL), "fee_rate": D("0.5")},  # 600 + 100 - 50 of 950: 0.684
        {"limit": 0.60, "plan": acts(SELL), "fee_rate": D(6)},  # 600 + 100 - 600 of 400: 0.25, and 0.60 before
        "min_cash after the plan: 0.25 is below the limit of 0.6 (cash)"),
    Row("max_leverage", {"limit": 0.42}, {"limit": 0.419}, "max_leverage after the plan: 0.42 is above the limit of 0.419"),
    Row("max_net", {"limit": 0.42}, {"limit": 0.419}, "max_net after the plan: 0.42 is above the limit of 0.419 (longs less shorts)"),
    # 400 of A and 400 of B short: whoever covers B has a net of 0.40 and less at stake; one who turns it, 0.80
    Row("max_net", {"limit": 0.3, "plan": acts(BUY.but(amount=D(20))), "holdings": {"A": D(40), "B": D(-20)}, "cash": D(1000)},
        {"limit": 0.3, "plan": acts(BUY.but(amount=D(40))), "holdings": {"A": D(40), "B": D(-20)}, "cash": D(1000)},
        "max_net after the plan: 0.8 is above the limit of 0.3 (longs less shorts)", limits=MARGIN),
    # a margin account that is lent its equity once more: 400 of A, and 80 B sold short for 1,600, are twice the 1,000; 180 B are 3,600
    Row("initial_margin", {"plan": acts(BUY.but(side="sell", amount=D(80)))}, {"plan": acts(BUY.but(side="sell", amount=D(81)))},
        "positions worth 2,020.00 USD, longs and shorts together, in an account that would be worth 1,000.00 need 1,010.00 of margin to be opened, "
        "10.00 more than there is; lower the targets, the broker lends 2 times the equity at most", limits=MARGIN),
    Row("maintenance_margin", {"plan": acts(BUY.but(side="sell", amount=D(80)))}, {"plan": acts(BUY.but(side="sell", amount=D(180)))},
        "positions worth 4,000.00 USD, longs and shorts together, in an account that would be worth 1,000.00 need 1,000.00 to be kept: "
        "they would be liquidated at once; lower the targets", limits=MARGIN),
    # what takes positions towards zero is let through, also where the margin is used up: 105 B are short, worth 2,100 and 400 of A
    Row("initial_margin", {"plan": acts(BUY), "holdings": {"A": D(40), "B": D(-105)}, "cash": D(2700)},
        {"plan": acts(BUY.but(side="sell", amount=D(1))), "holdings": {"A": D(40), "B": D(-105)}, "cash": D(2700)},
        "positions worth 2,520.00 USD, longs and shorts together, in an account that would be worth 1,000.00 need 1,260.00 of margin to be opened, "
        "260.00 more than there is; lower the targets, the broker lends 2 times the equity at most", limits=MARGIN),
    # by hand: 1,000 - 500 of maintenance, over 400 * 0.75 + 1,600 * 1.25
    Row("min_liquidation_distance", {"limit": 0.2173, "plan": acts(BUY.but(side="sell", amount=D(80)))},
        {"limit": 0.2175, "plan": acts(BUY.but(side="sell", amount=D(80)))},
        "min_liquidation_distance after the plan: 0.2174 is below the limit of 0.2175 (all prices against the account)", limits=MARGIN),
    Row("max_concentration", {"limit": 0.1044}, {"limit": 0.1043},  # 0.30 * 0.30 + 0.12 * 0.12
        "max_concentration after the plan: 0.1044 is above the limit of 0.1043"),
    Row("max_drawdown", {"limit": 0.20, "equity": CURVE}, {"limit": 0.199, "equity": CURVE},  # from 1,250 to 1,000
        "max_drawdown after the plan: 0.2 is above the limit of 0.199 (peak balance 1,250.00)"),
    Row("max_drawdown", {"limit": 0.1, "equity": CURVE, "plan": acts(SELL)}, {"limit": 0.1, "equity": CURVE},
        "max_drawdown after the plan: 0.2 is above the limit of 0.1 (peak balance 1,250.00)"),
    Row("max_daily_loss", {"limit": 0.0910, "equity": CURVE}, {"limit": 0.0909, "equity": CURVE},  # from 1,100 to 1,000: 0.090909
        "max_daily_loss after the plan: 0.09091 is above the limit of 0.0909 (the day began with 1,100.00)"),
    Row("max_daily_loss", {"limit": 0.1, "equity": CURVE}, {"limit": 0.1},
        "max_daily_loss after the plan: cannot be judged (the equity curve was not given)"),
    Row("max_var_95", {"limit": 0.03, "returns": RETURNS}, {"limit": 0.029, "returns": RETURNS},
        "max_var_95 after the plan: 0.03 is above the limit of 0.029 (100 returns)"),
    Row("max_var_95", {"limit": 0.03, "returns": RETURNS, "plan": acts(SELL)}, {"limit": 0.03, "plan": acts(SELL)},
        "max_var_95 after the plan: cannot be judged (no returns were given for A)"),
]  # fmt: skip


def check(row: Row, case: dict):
    case = dict(case)
    limits = dict(row.limits) | ({row.rule.partition("[")[0]: case.pop("limit")} if "limit" in case else {})
    plan = case.pop("plan", PLAN)
    return check_plan(plan, RiskLimits(**limits), **FACTS | case)


@pytest.mark.parametrize("row", ROWS, ids=[f"{n}-{r.rule}" for n, r in enumerate(ROWS)])
def test_a_rule_passes_its_last_good_input_and_refuses_the_first_bad_one(row):
    assert check(row, row.passes).violations == ()
    broken = check(row, row.fails)
    assert broken.violations == (Violation(row.rule, row.reason, row.symbol), *row.more)
    assert not broken.ok


def test_without_a_limit_on_age_nobody_asks_how_old_prices_are():
    assert check_plan(PLAN, RiskLimits(), **FACTS | {"price_times": {}}).ok


def test_every_rule_has_a_row():
    "A new limit, or a new violation in the code, needs its two cases above."
    calls = [n for n in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Violation"]
    named = {c.args[0].value for c in calls if isinstance(c.args[0], ast.Constant)}
    limits = {f.name for f in fields(RiskLimits)} - {"cash_groups", "max_price_age", "max_price_gap", "margin"}
    assert named | limits == {row.rule.partition("[")[0] for row in ROWS}
    assert {"max_price_age", "max_price_gap"} <= {name for row in ROWS for name in row.limits}


def test_what_was_looked_at_is_listed_once_each():
    always = ("as_of", "known_symbol", "one_action", "price", "short", "cash")
    assert check_plan(PLAN, RiskLimits(), **FACTS).checked == always
    everything = check_plan(PLAN, RiskLimits(max_weight=0.5, max_price_gap=0.5), **FACTS | {"kill_switch": on(""), "expected_hash": PLAN.hash})
    assert everything.checked == (*always, "kill_switch", "hash", "price_gap", "max_weight", "max_price_gap")
    assert everything.plan_hash == PLAN.hash and everything.ok


def test_the_same_violation_is_named_once():
    twice = check_plan(acts(BUY, BUY), RiskLimits(), **FACTS | {"known_symbols": "A"})
    assert [v.rule for v in twice.violations] == ["known_symbol", "one_action"]


def test_a_time_without_zone_is_refused():
    with pytest.raises(BadInput, match="now is 2024-05-03T12:00:00, without zone"):
        check_plan(PLAN, RiskLimits(), **FACTS | {"now": NOON.replace(tzinfo=None)})


def test_an_account_without_equity_has_no_weights_to_judge():
    owing = check_plan(acts(), RiskLimits(max_weight=0.1, min_cash=0.5), **FACTS | {"cash": D(-400)})  # 400 of A and 400 owed
    assert [v.rule for v in owing.violations] == ["cash"]


def test_every_rule_decides_both_ways_on_random_plans():
    "Random limits around what the plan leaves: each rule must have passed and refused at least twenty times, and always as the formula says."
    dice, decided = np.random.default_rng(int(os.environ.get("CARNET_SEED", "7"))), {}
    actual = {"max_weight": 0.30, "max_group_weight": 0.42, "max_leverage": 0.42, "max_concentration": 0.1044, "max_turnover": 0.22, "max_orders": 2,
              "max_order_value": 120, "max_daily_value": 220, "max_drawdown": 0.20, "max_daily_loss": 1 - 1000 / 1100, "max_var_95": 0.03,
              "min_cash": 0.58}  # fmt: skip
    for _ in range(160):
        scale = dice.choice([0.5, 0.9, 0.999, 1.001, 1.1, 1.5], len(actual))
        limits = {k: v * s for (k, v), s in zip(actual.items(), scale, strict=True)}
        limits |= {"max_orders": int(dice.integers(1, 4)), **{k: D(repr(float(limits[k]))) for k in ("max_order_value", "max_daily_value")}}
        broken = {v.rule for v in check_plan(PLAN, RiskLimits(**limits), **FACTS | {"equity": CURVE, "returns": RETURNS}).violations}
        for rule, limit in limits.items():
            wrong = float(limit) > actual[rule] if rule == "min_cash" else float(limit) < actual[rule]
            assert (rule in broken) == wrong, (rule, limit)
            decided.setdefault((rule, wrong), []).append(limit)
    assert len(decided) == 2 * len(actual) and min(map(len, decided.values())) >= 20
