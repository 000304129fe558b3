"Plans of portfolios that nobody drew by hand: money is conserved, no rule is broken, and an executed plan leaves nothing to do."

import os
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trading.core.instruments import Instrument
from trading.core.types import Plan
from trading.execution.plan import PlanConstraints, apply_plan, make_plan
from trading.execution.portfolio_csv import plan_totals

NOON = datetime(2024, 5, 3, 12, tzinfo=UTC)
SYMBOLS = "ABCDEFGH"
D = Decimal


def fine(symbol: str) -> Instrument:
    "An instrument that limits nothing."
    return Instrument(symbol, D("0.00000001"), D("0.00000001"))


@st.composite
def portfolios(draw, turnover=False, venues=False):
    "Draw everything that make_plan asks for: dust and fortunes, coarse lots and fine ones, no cash, no band, fees with a floor."
    held = draw(st.lists(st.sampled_from(SYMBOLS), unique=True, max_size=8))
    wanted = draw(st.lists(st.sampled_from(SYMBOLS), unique=True, max_size=8))
    prices = {s: draw(st.one_of(st.decimals("0.0001", "50000", places=4), st.decimals("0.0001", "2", places=4))) for s in {*held, *wanted}}
    markets = {
        s: Instrument(s, amount_step=D(draw(st.sampled_from(["1", "0.1", "0.00001", "0.25"]))), price_step=D(1),
                      min_cost=D(draw(st.sampled_from(["0", "5"]))))
        for s in prices
    }
    worths = st.one_of(st.decimals(0, 20000, places=2), st.decimals(0, 10, places=2))
    holdings = {s: (draw(worths) / prices[s]).quantize(D("1e-8")) for s in held}
    cash = draw(st.one_of(st.just(D(0)), worths))
    raw = {s: draw(st.integers(0, 100)) for s in wanted}
    invested = D(draw(st.one_of(st.just(100), st.integers(0, 100)))) / 100
    total = sum(raw.values())
    targets = {s: invested * w / total for s, w in raw.items()} if total else {}
    rules = PlanConstraints(
        fee_rate=D(draw(st.sampled_from(["0", "0.0005", "0.001", "0.01"]))),
        min_trade=D(draw(st.sampled_from(["0", "1", "10", "100"]))),
        min_fee=D(draw(st.sampled_from(["0", "0", "1"]))),
        drift=D(draw(st.sampled_from(["0", "0.01", "0.05", "0.25"]))),
        drift_kind=draw(st.sampled_from(["relative", "absolute"])),
        max_turnover=D(draw(st.sampled_from(["0.1", "0.5", "1"]))) if turnover else None,
        min_cash=min(D(draw(st.sampled_from(["0", "0.02", "0.1"]))), 1 - invested) if invested < 1 else D(0),
    )
    made = {"holdings": holdings, "cash": cash, "targets": targets, "prices": prices, "markets": markets, "constraints": rules}
    return made | {"venues": {s: draw(places(units)) for s, units in holdings.items()}, "buy_venue": "kraken"} if venues else made


@st.composite
def places(draw, units):
    "Draw where a holding lies: in one place, two or three."
    first = (units * draw(st.integers(0, 10)) / 10).quantize(D("1e-8"))
    second = ((units - first) * draw(st.integers(0, 10)) / 10).quantize(D("1e-8"))
    return {"kraken": first, "binance": second, "wallet": units - first - second}


def plan_of(given):
    return make_plan("paper", NOON, currency="USD", **given)


def worth(given):
    return given["cash"] + sum(units * given["prices"][s] for s, units in given["holdings"].items())


def done(given, plan):
    "Return the portfolio after the plan was executed, with what lies where."
    after = apply_plan(plan, given["holdings"], given["constraints"])
    left = given | {"holdings": after.holdings, "cash": after.cash}
    if "venues" in given:
        lying = {s: dict(parts) for s, parts in given["venues"].items()}
        for a in plan.actions:
            parts = lying.setdefault(a.symbol, {})
            parts[a.venue] = parts.get(a.venue, D(0)) + (a.amount if a.side == "buy" else -a.amount)
        left["venues"] = {s: {v: u for v, u in lying[s].items() if u} for s in after.holdings}
    return left


EXAMPLES = int(os.environ.get("CARNET_EXAMPLES", "150"))  # tests/soak runs ten thousand of each
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
rich = lambda g: worth(g) > 1  # noqa: E731


def check_rules(given):
    plan, rules = plan_of(given), given["constraints"]
    after = apply_plan(plan, given["holdings"], rules)
    prices, markets = given["prices"], given["markets"]
    assert plan.equity == worth(given)
    assert after.cash + sum(u * prices[s] for s, u in after.holdings.items()) + after.fees == plan.equity
    assert after.cash >= 0 and all(u > 0 for u in after.holdings.values())
    if any(a.side == "buy" for a in plan.actions):
        assert after.cash >= rules.min_cash * (plan.equity - after.fees) * (1 - D("1e-6"))
    assert rules.max_turnover is None or plan.turnover <= rules.max_turnover
    sides = [a.side for a in plan.actions]
    assert sides == sorted(sides, reverse=True), "sells stand before buys"
    assert len({(a.symbol, a.venue) for a in plan.actions}) == len(plan.actions), "an asset is traded once in each place"
    assert len({(a.symbol, a.side) for a in plan.actions}) == len({a.symbol for a in plan.actions}), "an asset is either bought or sold"
    for a in plan.actions:
        assert a.amount % markets[a.symbol].amount_step == 0
        assert a.value >= max(rules.min_trade, markets[a.symbol].min_cost, rules.min_fee)
        assert a.reason
        if "venues" in given and a.side == "sell":
            assert a.amount <= given["venues"][a.symbol][a.venue], "no more is sold than lies there"
    for symbol in {a.symbol for a in plan.actions}:
        traded = sum(a.value if a.side == "buy" else -a.value for a in plan.actions if a.symbol == symbol)
        target = plan.targets.get(symbol, D(0)) * plan.equity
        before = given["holdings"].get(symbol, D(0)) * prices[symbol]
        if traded > 0:
            assert before + traded <= target, "a purchase never goes past its target"
        else:
            fees = 2 * plan.equity * rules.fee_rate + 3 * len(SYMBOLS) * rules.min_fee  # no plan pays more than that
            lowest = plan.targets.get(symbol, D(0)) * max(plan.equity * (1 - D("1e-8")) - fees, D(0))  # equity counts in hundred-millionths
            assert before + traded >= min(lowest, before), "a sale stops at the target of the equity after fees"
    totals = plan_totals(plan, rules)
    assert totals["cash before"] + totals["holdings before"] == totals["total before"] == totals["total after"] + totals["fees"]


def check_nothing_left(given):
    assert plan_of(done(given, plan_of(given))).actions == ()


def check_goes_on(given):
    "A plan that no limit cut leaves nothing; one that was cut goes on, and ends."
    free = plan_of(given | {"constraints": given["constraints"].but(max_turnover=None)})
    uncut = free.turnover <= given["constraints"].max_turnover
    steps = 0
    while (plan := plan_of(given)).actions and steps < 60:
        assert plan.turnover <= given["constraints"].max_turnover
        given, steps = done(given, plan), steps + 1
    assert not plan.actions
    assert steps <= 1 or not uncut


@given(st.one_of(portfolios(), portfolios(turnover=True), portfolios(venues=True)).filter(rich))
@many
def test_money_is_conserved_and_no_rule_is_broken(given):
    check_rules(given)


@given(st.one_of(portfolios(), portfolios(venues=True)).filter(rich))
@many
def test_the_plan_of_an_executed_plan_is_empty(given):
    check_nothing_left(given)


@given(portfolios(turnover=True).filter(rich))
@settings(many, max_examples=max(EXAMPLES // 5, 10))
def test_plans_that_the_turnover_limit_cuts_end_in_an_empty_plan(given):
    check_goes_on(given)


@given(portfolios(turnover=True).filter(lambda g: worth(g) > 1))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_plan_is_a_value(given):
    plan = plan_of(given)
    assert Plan.from_json(plan.to_json()) == plan
    shuffled = given | {"holdings": dict(reversed(given["holdings"].items())), "targets": dict(reversed(given["targets"].items()))}
    assert plan_of(shuffled).hash == plan.hash, "the order in which things are listed does not matter"


def test_what_stands_a_little_above_pays_for_what_stands_far_below():
    rules = PlanConstraints(fee_rate=D("0.001"), min_trade=D(10))
    markets = {s: Instrument(s, amount_step=D("0.01"), price_step=D(1)) for s in "AB"}
    plan = make_plan("paper", NOON, {"A": D(930), "B": D(70)}, D(0), {"A": 0.9, "B": 0.1}, {"A": 1, "B": 1}, markets, rules, "USD")
    assert [(a.symbol, a.side) for a in plan.actions] == [("A", "sell"), ("B", "buy")]
    assert "sold to pay for purchases" in plan.actions[0].reason


def test_a_fee_with_a_floor_keeps_small_trades_away():
    rules = PlanConstraints(fee_rate=D("0.001"), min_trade=D(10), min_fee=D(5), max_fee_share=D("0.02"))
    plan = make_plan("paper", NOON, {}, D(1000), {"A": 0.2, "B": 0.5}, {"A": 1, "B": 1}, {s: fine(s) for s in "AB"}, rules, "USD")
    assert [a.symbol for a in plan.actions] == ["B"] and any("smallest trade of 250.00 USD" in note for note in plan.notes)


def test_many_small_differences_are_one_sentence_with_their_sum():
    names = [f"S{n:02d}" for n in range(20)]  # a thousand dollars in twenty shares: fifty each, and no order below a hundred
    rules, markets = PlanConstraints(fee_rate=D(0), min_trade=D(100)), {s: fine(s) for s in names}
    wanted, prices = dict.fromkeys(names, 0.045), dict.fromkeys(names, 1)
    plan = make_plan("paper", NOON, {}, D(1000), wanted, prices, markets, rules, "USD")
    assert not plan.actions and len(plan.notes) == 1
    assert plan.notes[0] == ("S00, S01, S02, S03, S04 and 15 more: each difference is below the smallest trade of 100.00 USD, "
                             "together 900.00 USD or 90.00 % of the account; fewer symbols, or a smaller trade.min_trade, would trade them")
    held = make_plan("paper", NOON, dict.fromkeys(names, D(46)), D(80), wanted, prices, markets, replace(rules, drift=D("0.1")), "USD")
    assert held.notes == ("inside the relative band of 10.00 %: S00, S01, S02, S03, S04 and 15 more",)


@pytest.mark.parametrize(("kind", "traded"), [("relative", ["A"]), ("absolute", [])])
def test_relative_and_absolute_drift_differ_as_documented(kind, traded):
    rules = PlanConstraints(fee_rate=D(0), min_trade=D(1), drift_kind=kind)
    plan = make_plan("paper", NOON, {"A": D(12)}, D(88), {"A": 0.1}, {"A": 1}, {"A": fine("A")}, rules, "USD")
    assert [a.symbol for a in plan.actions] == traded


def test_a_purchase_goes_where_the_holding_lies():
    rules = PlanConstraints(fee_rate=D(0), min_trade=D(1))
    lying = {"A": {"kraken": D(3), "ledger": D(9)}}
    plan = make_plan("paper", NOON, {"A": D(12)}, D(88), {"A": 0.5, "B": 0.2}, {"A": 1, "B": 1}, {s: fine(s) for s in "AB"}, rules, "USD",
                     venues=lying, buy_venue="kraken", groups={"A": "DeFi"}, aliases={"A": "Aave"})  # fmt: skip
    assert {a.symbol: (a.venue, a.group, a.alias) for a in plan.actions} == {"A": ("ledger", "DeFi", "Aave"), "B": ("kraken", "", "")}


def test_a_sale_is_one_action_for_each_venue_where_the_holding_lies():
    rules = PlanConstraints(fee_rate=D("0.001"), min_trade=D(5))
    lying = {"A": {"kraken": D("33.33"), "ledger": D("60.02"), "binance": D("2.5")}}
    markets = {"A": Instrument("A", amount_step=D("0.01"), price_step=D(1))}
    plan = make_plan("paper", NOON, {"A": D("95.85")}, D(0), {}, {"A": D("1.37")}, markets, rules, "USD", venues=lying)
    assert [(a.venue, a.amount) for a in plan.actions] == [("ledger", D("60.02")), ("kraken", D("33.33"))]
    assert "the part that lies at kraken" in plan.actions[1].reason
    assert len({plan.client_order_id(a) for a in plan.actions}) == 2, "two orders have two names"
    totals = plan_totals(plan, rules)
    assert totals["cash after"] == totals["sold"] - totals["fees"] and totals["total after"] + totals["fees"] == totals["total before"] == D("131.31")
    assert totals["sold"] == sum(a.value.quantize(D("0.01")) for a in plan.actions) == D("127.89")


def test_what_cannot_be_sold_at_the_venue_counts_but_stays():
    rules = PlanConstraints(fee_rate=D(0), min_trade=D(1))
    plan = make_plan("paper", NOON, {"A": D(10), "OLD": D(30)}, D(60), {"A": 0.5}, {"A": 1, "OLD": 1}, {"A": fine("A")}, rules, "USD")
    assert plan.equity == 100 and [(a.symbol, a.amount) for a in plan.actions] == [("A", D(40))]
    assert any("OLD: not traded at the venue" in note for note in plan.notes)
    rules = rules.but(ignore=("OLD",))
    ignored = make_plan("paper", NOON, {"A": D(10), "OLD": D(30)}, D(60), {"A": 0.5}, {"A": 1}, {"A": fine("A")}, rules, "USD")
    assert ignored.equity == 70 and any("OLD: ignored as asked" in note for note in ignored.notes)
