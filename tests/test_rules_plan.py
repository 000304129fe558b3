"""The decision table of the plan: what is traded on each side of each rule, in literals that were worked out by hand.

The account: 40 A at 10 (400), 5 B at 20 (100) and 500 in cash: 1,000 in all, so that a weight of 0.1 is 100.
Nothing costs a fee unless a row has one.
"""

import os
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal as D
from random import Random

import pytest

from trading.core.errors import BadInput, MissingData
from trading.core.instruments import Instrument
from trading.core.types import Action, Plan
from trading.execution.plan import PlanOutcome, apply_plan, make_plan
from trading.execution.plan_sizing import PlanConstraints, PlanLine

NOON = datetime(2024, 5, 3, 12, tzinfo=UTC)
PRICES = {"A": D(10), "B": D(20), "C": D(4), "E": D(1)}
KEEP = {"A": D("0.4"), "B": D("0.1")}  # what is held is what is wanted


def rules(**more) -> PlanConstraints:
    return PlanConstraints(**{"fee_rate": D(0), "min_trade": D(1)} | more)


def plan(targets, holdings=None, cash=D(500), markets=None, **more) -> Plan:
    places = {k: more.pop(k) for k in ("venues", "buy_venue", "groups", "aliases", "prices", "currency") if k in more}
    holdings = {"A": D(40), "B": D(5)} if holdings is None else holdings
    step = {s: Instrument(s, amount_step=D(1), price_step=D(1)) for s in PRICES} | (markets or {})
    return make_plan("x", NOON, holdings, cash, targets, places.pop("prices", PRICES), step, rules(**more), places.pop("currency", "USD"), **places)


def trades(made: Plan) -> list[str]:
    return [f"{a.side} {a.amount} {a.symbol}" + (f" at {a.venue}" if a.venue else "") for a in made.actions]


def w(**weights):
    return KEEP | {s: D(x) for s, x in weights.items()}


TABLE = {  # name: targets and the rest, the trades, the reasons or notes that must stand there
    "nothing to do": (w(), {}, [], ["inside the relative band of 5.00 %: A, B"]),
    "new": (w(C="0.2"), {}, ["buy 50 C"], ["new in the portfolio: target 20.00 % of the account"]),
    "below": (w(B="0.2"), {}, ["buy 5 B"], ["below its target: 10.00 % of the account against 20.00 %"]),
    "above": (w(A="0.3"), {}, ["sell 10 A"], ["above its target: 40.00 % of the account against 30.00 %"]),
    "out": ({"A": D("0.4")}, {}, ["sell 5 B"], ["no longer wanted: 10.00 % of the account, target 0 %"]),
    "out at a target of zero": (w(B=0), {}, ["sell 5 B"], ["no longer wanted: 10.00 % of the account, target 0 %"]),
    "sells before buys, the larger first": (w(A="0.2", B=0, C="0.4", E="0.1"), {}, ["sell 20 A", "sell 5 B", "buy 100 C", "buy 100 E"], []),
    "equal values by name": (w(C="0.1", E="0.1"), {}, ["buy 25 C", "buy 100 E"], []),
    # the band: a gap of 80 from a target of 320 is exactly 25 % of it, and exactly 0.08 of the account
    "relative band touched": (w(A="0.32"), {"drift": D("0.25")}, [], ["inside the relative band of 25.00 %: A, B"]),
    "relative band left": (w(A="0.3199"), {"drift": D("0.25")}, ["sell 8 A"], []),
    "absolute band touched": (w(A="0.32"), {"drift": D("0.08"), "drift_kind": "absolute"}, [], ["inside the absolute band of 8.00 %: A, B"]),
    "absolute band left": (w(A="0.3199"), {"drift": D("0.08"), "drift_kind": "absolute"}, ["sell 8 A"], []),
    "absolute band touched above": (w(A="0.48"), {"drift": D("0.08"), "drift_kind": "absolute"}, [], []),
    "absolute band left above": (w(A="0.4801"), {"drift": D("0.08"), "drift_kind": "absolute"}, ["buy 8 A"], []),
    "a band holds nothing back that is new or out": (w(B=0, C="0.01"), {"drift": D("0.9"), "drift_kind": "absolute"}, ["sell 5 B", "buy 2 C"], []),
    # the smallest trade, by each of the rules that set it; the gap of B is 100, that is 5 units
    "min_trade reached": (w(B="0.2"), {"min_trade": D(100)}, ["buy 5 B"], []),
    "min_trade missed": (w(B="0.2"), {"min_trade": D("100.01")}, [], ["B: the difference of 100.00 USD is below the smallest trade of 100.01 USD"]),
    "dust": (w(B=0), {"min_trade": D("100.01")}, [], ["B: dust of 100.00 USD is below the smallest trade of 100.01 USD"]),
    "min_cost reached": (w(B="0.2"), {"markets": {"B": Instrument("B", D(1), D(1), min_cost=D(100))}}, ["buy 5 B"], []),
    "min_cost missed": (w(B="0.2"), {"markets": {"B": Instrument("B", D(1), D(1), min_cost=D("100.01"))}}, [],
                        ["B: the difference of 100.00 USD is below the smallest trade of 100.01 USD"]),
    "min_amount reached": (w(B="0.2"), {"markets": {"B": Instrument("B", D(1), D(1), min_amount=D(5))}}, ["buy 5 B"], []),
    "min_amount missed": (w(B="0.2"), {"markets": {"B": Instrument("B", D(1), D(1), min_amount=D("5.01"))}}, [],
                          ["B: the difference of 100.00 USD is below the smallest trade of 100.20 USD"]),
    # a fee of at least 1 may be 1 % of a trade: 100; at 0.99 % it is 101.01
    "fee share reached": (w(A="0.3"), {"min_fee": D(1), "max_fee_share": D("0.01")}, ["sell 10 A"], []),
    "fee share missed": (w(A="0.3"), {"min_fee": D(1), "max_fee_share": D("0.0099")}, [],
                         ["A: the difference of 100.00 USD is below the smallest trade of 101.01 USD"]),
    "a trade is worth its fee": (w(A="0.398"), {"min_fee": D(3), "drift": D(0)}, [], []),
    "a step that costs more than the gap": (w(B="0.11"), {"drift": D(0)}, [],
                                            ["B: the difference of 10.00 USD is below the smallest trade of 20.00 USD"]),
    "whole steps": (w(B="0.2"), {"prices": PRICES | {"B": D(20)}, "markets": {"B": Instrument("B", D("0.75"), D(1))}}, ["buy 4.50 B"], []),
    "what is left below a step stays": (w(B=0), {"holdings": {"A": D(40), "B": D("5.3")}, "cash": D(494)}, ["sell 5 B"], []),
    # fees: equity is what is left after them
    "everything, at 1 %": ({"E": D(1)}, {"holdings": {}, "cash": D(1000), "fee_rate": D("0.01")}, ["buy 990 E"], []),  # 990 + 9.90
    "everything, at 20 an order": ({"E": D(1)}, {"holdings": {}, "cash": D(1000), "min_fee": D(20)}, ["buy 980 E"], []),
    "nine tenths, at 1 %": ({"E": D("0.9")}, {"holdings": {}, "cash": D(1000), "fee_rate": D("0.01")}, ["buy 891 E"], []),  # 900 / 1.009 = 891.97
    "cash that purchases leave": ({"E": D("0.9")}, {"holdings": {}, "cash": D(1000), "fee_rate": D("0.01"), "min_cash": D("0.1")}, ["buy 891 E"], []),
    # 500 in cash; a tenth of 1,000 must stay: 400 may be spent, 100 E and 75 C at 4 together
    "min_cash cuts nothing that fits": (w(C="0.3", E="0.1"), {"min_cash": D("0.1")}, ["buy 75 C", "buy 100 E"], []),
    # 560 in cash, of which 60 must stay: 540 of E need 40 more, which A has above its target
    "min_cash is kept by a sale": ({"A": D("0.4"), "E": D("0.54")},
                                   {"holdings": {"A": D(44)}, "cash": D(560), "min_cash": D("0.06"), "drift": D("0.25")},
                                   ["sell 4 A", "buy 540 E"], []),
    # turnover: sales of 100 and purchases of 100 are 0.2 of the account; half of it: 5 A and 2 B, and the 10 left over sell one more A
    "turnover reached": (w(A="0.3", B="0.2"), {"max_turnover": D("0.2")}, ["sell 10 A", "buy 5 B"], []),
    "turnover cut": (w(A="0.3", B="0.2"), {"max_turnover": D("0.1")}, ["sell 6 A", "buy 2 B"],
                     ["above its target: 40.00 % of the account against 30.00 %; cut by cash or turnover"]),
    "turnover of nothing": (w(A="0.3", B="0.2"), {"max_turnover": D(0)}, [],
                            ["A: wanted, but cash or the turnover limit leave less than the smallest trade"]),
    # 42 A stand inside their band, 20 above their target; C needs 30 and there are 10: two A are sold for it
    "sold to pay": ({"A": D("0.4"), "B": D("0.57"), "E": D("0.03")},
                    {"holdings": {"A": D(42), "B": D("28.5")}, "cash": D(10), "drift": D("0.25"), "prices": PRICES}, ["sell 2 A", "buy 30 E"],
                    ["slightly above its target (42.00 % against 40.00 %); sold to pay for purchases"]),
    "ignored": (w(), {"ignore": ("B",), "cash": D(600)}, [], ["B: ignored as asked, 5 units"]),
    "ignored and not counted": ({"A": D("0.4"), "B": D("0.5")}, {"ignore": ("B",), "cash": D(400)}, ["sell 8 A"], []),  # 800: 0.4 is 320
    "nothing is held or wanted": (w(C=0), {"holdings": {"A": D(40), "B": D(5), "E": D(0)}, "prices": {"A": D(10), "B": D(20)}}, [], []),
    # where it lies: a purchase goes to the largest holding, a sale to each, the largest first
    "bought where it lies": (w(B="0.2"), {"venues": {"B": {"one": D(2), "two": D(3)}}}, ["buy 5 B at two"], []),
    "bought where told": (w(C="0.2"), {"buy_venue": "two"}, ["buy 50 C at two"], []),
    "sold at one": (w(A="0.3"), {"venues": {"A": {"one": D(40)}}}, ["sell 10 A at one"], []),
    "sold at both": (w(A="0.1"), {"venues": {"A": {"one": D(25), "two": D(15)}}}, ["sell 25 A at one", "sell 5 A at two"],
                     ["above its target: 40.00 % of the account against 10.00 %; the part that lies at two"]),
    "sold at one of two": (w(A="0.3"), {"venues": {"A": {"one": D(25), "two": D(15)}}}, ["sell 10 A at one"], []),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_what_is_traded_on_each_side_of_each_rule(name):
    targets, more, expected, words = TABLE[name]
    made = plan(targets, **more)
    assert trades(made) == expected
    said = [*(a.reason for a in made.actions), *made.notes]
    assert all(sentence in said for sentence in words), said
    assert all(a.price == PRICES[a.symbol] for a in made.actions)


REFUSED = {
    "a weight below zero": (w(A="-0.000000002"), {}, BadInput, "the target of A is -2E-9: a plan holds no short positions"),
    "more than the account": ({"A": D("1.000002")}, {}, BadInput, "the targets sum to 1.000002, more than the account has"),
    "a weight that is no number": ({"A": float("nan")}, {}, BadInput, "the target of A is nan; find out what is missing"),
    "a word": ({"A": "much"}, {}, BadInput, "the target of A is 'much', which is no number"),
    "targets and cash": ({"A": D("0.95")}, {"min_cash": D("0.06")}, BadInput, "the targets sum to 0.9500 and min_cash is 0.06: more than 1"),
    "no price": (w(C="0.1"), {"prices": {"A": 10, "B": 20}}, MissingData, "no price for C; ingest it, or name it in 'ignore'"),
    "a price of zero": (w(), {"prices": {"A": 0, "B": 20}}, BadInput, "the price of A is 0.0; a price is above zero"),
    "a price below zero": (w(), {"prices": {"A": -1, "B": 20}}, BadInput, "the price of A is -1.0; a price is above zero"),
    "an endless price": (w(), {"prices": {"A": float("inf"), "B": 20}}, BadInput, "the price of A is inf; find out"),
    "another currency": ({"A/EUR": D("0.1")}, {"holdings": {}, "prices": {"A/EUR": 1}}, MissingData,
                         "A/EUR is quoted in EUR and the account counts in USD"),
    "no market for a target": ({"Z": D("0.1")}, {"prices": PRICES | {"Z": 1}}, MissingData,
                               "Z has a target of 10.00 % but the venue does not trade it"),
    "a float held": (w(), {"holdings": {"A": 40.0}}, BadInput, "A: an amount of 40.0; amounts and cash are finite Decimals"),
    "an endless holding": (w(), {"holdings": {"A": D("inf")}}, BadInput, "A: an amount of Decimal\\('Infinity'\\); amounts and cash"),
    "a short holding": (w(), {"holdings": {"A": D("-0.1")}}, BadInput, "A: an amount of -0.1; a plan starts from zero or more"),
    "a debt": (w(), {"cash": D("-0.01")}, BadInput, "cash: an amount of -0.01; a plan starts from zero or more"),
    "nothing": ({}, {"holdings": {}, "cash": D(0)}, BadInput, "account 'x' holds nothing and has no cash; there is nothing to plan"),
    "places that do not add up": (w(), {"venues": {"A": {"one": D(25), "two": D(14)}}}, BadInput,
                                  "A: 40 units are held and the venues have 25 at one, 14 at two"),
    "a place without name": (w(), {"venues": {"A": {"": D(40)}}}, BadInput, "A: a holding lies at a venue without name or below zero"),
    "a place below zero": (w(), {"venues": {"A": {"one": D(41), "two": D(-1)}}}, BadInput, "A: a holding lies at a venue without name or below zero"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_planned_is_refused_with_the_number(name):
    targets, more, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        plan(targets, **more)


def test_the_last_inputs_that_are_still_planned():
    assert trades(plan(w(A="-0.000000001"))) == ["sell 40 A"]  # a rounding error below zero is zero
    assert trades(plan({"E": D("1.000001")}, {}, D(1000))) == ["buy 1000 E"]
    assert plan({"E": D("1.000001")}, {}, D(1000)).targets == {"E": D(1)}
    assert trades(plan({"A": D("0.4"), "E": D("0.54")}, min_cash=D("0.06"), holdings={"A": D(40)}, cash=D(600))) == ["buy 540 E"]
    assert trades(plan({"E/USD": D("0.1"), "F/USD:USD": D("0.1")}, {}, D(1000), {s: Instrument(s, D(1), D(1)) for s in ("E/USD", "F/USD:USD")},
                       prices={"E/USD": 1, "F/USD:USD": 2})) == ["buy 100 E/USD", "buy 50 F/USD:USD"]
    assert plan({"E": 0.1}, {}, D(1000)).targets == {"E": D("0.1")}
    assert plan({"E": D("0.12345678909")}, {}, D(1000)).targets == {"E": D("0.1234567890")}  # ten places, rounded down
    assert plan({"E": D("0.6"), "C": D("0.4000005")}, {}, D(1000)).targets == {"E": D("0.5999997000"), "C": D("0.4000002999")}


def test_a_target_that_is_given_twice_is_refused():
    import pandas as pd

    with pytest.raises(BadInput, match="the target of A is given twice; keep one"):
        plan(pd.Series([0.1, 0.2, 0.1], ["A", "B", "A"]))
    assert trades(plan(pd.Series([0.3, 0.1], ["A", "B"]))) == ["sell 10 A"]


def test_what_a_venue_does_not_trade_counts_and_stays():
    made = plan({"A": D("0.4")}, {"A": D(40), "Z": D(10)}, D(500), prices=PRICES | {"Z": D("12.5")})
    assert made.equity == D(1025) and trades(made) == [] and made.cash == D(500)
    assert made.notes[0] == "Z: not traded at the venue, left alone at 125.00 USD"
    assert plan({"A": D("0.5")}, {"A": D(40), "Z": D(10)}, D(475), prices=PRICES | {"Z": D("12.5")}).equity == D(1000)


def test_a_plan_carries_what_it_rests_on():
    wanted, markets = {"A": D("0.3"), "C": D("0.1")}, {s: Instrument(s, D(1), D(1)) for s in "AC"}
    more = ("USD", "data", "settings", {"ridge": "3"}, {"A": "Tech"}, {"C": "Sea"})
    made = make_plan("x", NOON, {"A": D(40)}, D(600), wanted, PRICES, markets, rules(), *more)
    assert (made.account, made.as_of, made.currency, made.equity, made.cash) == ("x", NOON, "USD", D(1000), D(600))
    assert (made.data_version, made.settings_hash, made.model_versions) == ("data", "settings", {"ridge": "3"})
    assert [(a.symbol, a.group, a.alias, a.venue) for a in made.actions] == [("A", "Tech", "", ""), ("C", "", "Sea", "")]
    assert made.targets == {"A": D("0.3"), "C": D("0.1")}


def test_names_inside_the_band_are_counted_from_the_sixth():
    def calm(names):
        return plan(dict.fromkeys(names, D("0.1")), dict.fromkeys(names, D(100)), 1000 - 100 * D(len(names)),
                    {s: Instrument(s, D(1), D(1)) for s in names},
                    prices=dict.fromkeys(names, D(1))).notes  # fmt: skip

    assert calm("FGHIJKL") == ("inside the relative band of 5.00 %: F, G, H, I, J and 2 more",)
    assert calm("FGHIJ") == ("inside the relative band of 5.00 %: F, G, H, I, J",)


def test_what_a_plan_leaves():
    actions = [("A", "sell", 10, 10), ("B", "sell", 5, 20), ("C", "buy", 50, 4)]
    made = Plan("x", NOON, "USD", D(1000), D(500), tuple(Action(s, side, D(n), D(p), "") for s, side, n, p in actions))
    held = {"A": D(40), "B": D(5)}
    assert apply_plan(made, held, rules()) == PlanOutcome(D(500), D(0), {"A": D(30), "C": D(50)})
    assert apply_plan(made, held, rules(fee_rate=D("0.01"))) == PlanOutcome(D(496), D(4), {"A": D(30), "C": D(50)})  # 1 + 1 + 2
    assert apply_plan(made, held, rules(fee_rate=D("0.01"), min_fee=D("1.5"))) == PlanOutcome(D(495), D(5), {"A": D(30), "C": D(50)})
    assert apply_plan(made.but(actions=()), held, rules()) == PlanOutcome(D(500), D(0), held)


@pytest.mark.parametrize(
    ("name", "last", "first"),
    [("fee_rate", "0.999", "1"), ("fee_rate", "0", "-0.001"), ("drift", "9.99", "10"), ("drift", "0", "-0.01"), ("min_cash", "0.99", "1"),
     ("min_cash", "0", "-0.01"), ("min_trade", "0", "-0.01"), ("min_fee", "0", "-0.01"), ("max_turnover", "0", "-0.01")],
)  # fmt: skip
def test_a_rule_that_cannot_be_meant_is_refused(name, last, first):
    assert getattr(rules(**{name: D(last)}), name) == D(last)
    with pytest.raises(BadInput, match=f"{name} is {first}; it must be zero or more" + (" and below" if not first.startswith("-") else "")):
        rules(**{name: D(first)})


def test_rules_that_contradict_each_other_are_refused():
    assert rules(fee_rate=D("0.01"), max_fee_share=D("0.0101")).max_fee_share == D("0.0101") and rules(min_trade=D(10**6)).min_trade == 10**6
    with pytest.raises(BadInput, match="max_fee_share 0.01 is not above the fee rate 0.01: nothing could ever be traded"):
        rules(fee_rate=D("0.01"), max_fee_share=D("0.01"))
    with pytest.raises(BadInput, match="drift_kind is 'Relative'; choose"):
        rules(drift_kind="Relative")
    for name in ("fee_rate", "min_trade", "min_fee", "max_fee_share", "drift", "max_turnover", "min_cash"):
        with pytest.raises(BadInput, match=f"PlanConstraints.{name} is 0.5: money and amounts are finite Decimals"):
            rules(**{name: 0.5})
    assert (rules().drift, rules().drift_kind, rules().min_fee, rules().min_cash) == (D("0.05"), "relative", D(0), D(0))
    assert (rules().max_turnover, rules().max_fee_share, rules().ignore) == (None, None, ())


def test_fees():
    assert [rules(fee_rate=D("0.01"), min_fee=D(2)).fee(D(v)) for v in (0, 1, 200, 201)] == [D(0), D(2), D(2), D("2.01")]
    assert rules(fee_rate=D("0.01"), min_fee=D(2)).fees([D(100), D(300)]) == D(5) and rules(fee_rate=D("0.01")).fees([D(100), D(300)]) == D(4)
    assert rules(fee_rate=D("0.01"), min_fee=D(2)).fees([]) == 0


def line(pots=(), least=1, step=1, held=None, price=10):
    held = sum(map(D, pots)) if held is None else D(held)
    return PlanLine("A", held, D(price), D(0), D(step), D(least), held * price, D(step) * price, pots=tuple(map(D, pots)))


@pytest.mark.parametrize(
    ("pots", "least", "units", "parts"),  # at a price of 10, in steps of 1; least: smallest value of an order
    [
        ((25, 15), 1, 10, (10, 0)), ((25, 15), 1, 30, (25, 5)), ((25, 15), 1, 40, (25, 15)), ((25, 15), 1, 50, (25, 15)),
        ((25, 15), 50, 30, (25, 5)), ((25, 15), 60, 30, (24, 6)),  # six are the least: one less is sold at the first
        ((25, 15), 200, 30, (25, 0)), ((25, 15), 260, 30, (0, 0)),  # the second has no 20; neither has 26
        ((10, 8), 60, 12, (6, 6)), ((10, 8), 60, 11, (10, 0)),  # five at the first would be too few
        ((10, 8, 6), 1, 20, (10, 8, 2)), ((10, 8, 6), 30, 20, (10, 7, 3)),
        ((2.5, 1.5), 1, 4, (2, 1)), ((0.5, 0.4), 1, 1, (0, 0)),
    ],
)  # fmt: skip
def test_a_sale_is_divided_among_the_places(pots, least, units, parts):
    a = line(pots, least)
    assert a.pieces_by_pot(D(units)) == list(parts) and a.pieces(D(units)) == tuple(p for p in parts if p) and a.sold(D(units)) == sum(parts)
    a.trade = -D(units)
    assert a.values == [p * 10 for p in parts if p]


def test_a_sale_in_one_place_is_one_order_or_none():
    a = line(held=40, least=50)
    assert (a.pieces(D(5)), a.pieces(D(4)), a.sold(D(5)), a.sold(D(4))) == ((D(5),), (), D(5), D(0)) and line((40,), 50).sold(D(4)) == 0
    assert (a.if_large(D(5)), a.if_large(D("4.9")), a.if_large(D(-5)), a.lots(D("59.99"))) == (D(5), D(0), D(0), D(5))
    assert a.values == []
    a.trade = D(-3)
    assert a.values == [D(30)]
    b = line((25, 15))
    b.trade = D(7)  # a purchase is one order
    assert b.values == [D(70)]


SEED = int(os.environ.get("CARNET_SEED", "7"))


def random_case(dice: Random) -> dict:
    "Draw an account in which each rule has something to decide: markets with minimums, fees with a floor, little cash, a turnover limit."
    symbols = dice.sample("ABCDEF", dice.randint(2, 5))
    prices = {s: D(dice.randint(1, 4000)) / 100 for s in symbols}
    markets = {s: Instrument(s, D(dice.choice(["1", "0.1", "0.001"])), D(1), min_amount=D(dice.choice([0, 0, 2, 7])),
                             min_cost=D(dice.choice([0, 0, 5, 40])))
               for s in symbols}  # fmt: skip
    holdings = {s: D(dice.randint(0, 4000)) / 100 for s in symbols if dice.random() < 0.7}
    raw = {s: dice.randint(0, 9) for s in symbols}
    targets = {s: D(x) / max(sum(raw.values()), 1) * D(dice.choice(["1", "0.9", "0.5"])) for s, x in raw.items()}
    more = {"fee_rate": D(dice.choice(["0", "0.001", "0.01"])), "min_fee": D(dice.choice(["0", "0", "1.5"])), "min_trade": D(dice.choice([0, 3, 25])),
            "drift": D(dice.choice(["0", "0.05", "0.3"])), "max_turnover": dice.choice([None, None, D("0.1"), D("0.4")])}  # fmt: skip
    cash = D(dice.randint(1, 30000)) / 100
    if holdings and dice.random() < 0.5:  # near its targets and almost without cash: what stands above pays
        worth = {s: u * prices[s] for s, u in holdings.items()}
        near = {s: max(worth.get(s, D(0)), sum(worth.values()) / 20) * D(dice.randint(80, 120)) for s in symbols}
        targets, cash = {s: x / (sum(near.values()) + 1) for s, x in near.items()}, D(dice.randint(0, 300)) / 100
        more |= {"drift": D("0.3"), "max_turnover": None}
    return {"targets": targets, "holdings": holdings, "cash": cash, "prices": prices, "markets": markets} | more


def test_random_accounts_keep_every_rule_and_decide_each_often():
    "A fresh seed may be given as CARNET_SEED. What is asserted is written anew from the rules, not taken from the code."
    dice, decided = Random(SEED), Counter()
    for _ in range(400):
        case = random_case(dice)
        prices, c = case["prices"], rules(**{k: case[k] for k in ("fee_rate", "min_fee", "min_trade", "drift", "max_turnover")})
        made = plan(**case)
        gross = case["cash"] + sum((u * prices[s] for s, u in case["holdings"].items()), D(0))
        assert made.equity == gross
        cash, traded = case["cash"], D(0)
        for a in made.actions:
            market, held = case["markets"][a.symbol], case["holdings"].get(a.symbol, D(0))
            value, fee = a.amount * prices[a.symbol], max(a.amount * prices[a.symbol] * c.fee_rate, c.min_fee)
            assert a.amount >= market.min_amount and value >= market.min_cost and value >= c.min_trade and value >= c.min_fee
            assert a.amount % market.amount_step == 0 and (a.side == "buy" or a.amount <= held)
            cash, traded = cash + (value if a.side == "sell" else -value) - fee, traded + value
            gap = made.targets.get(a.symbol, D(0)) * gross - held * prices[a.symbol]
            assert (gap > 0) == (a.side == "buy") or c.fee_rate or c.min_fee
            decided["fund" if "sold to pay" in a.reason else a.reason.split(":")[0]] += 1
            decided["cut"] += "; cut by" in a.reason
            decided["floor of the fee"] += bool(c.min_fee) and fee == c.min_fee
            decided["minimum of the market just reached"] += a.amount < 2 * market.min_amount or value < 2 * market.min_cost
        assert cash >= 0 and (c.max_turnover is None or traded <= c.max_turnover * gross)
        decided["turnover used up"] += c.max_turnover is not None and traded > c.max_turnover * gross * D("0.9")
        for note in made.notes:
            decided[next(k for k in ("below the smallest trade", "wanted, but cash", "inside the relative band") if k in note)] += 1
    assert all(n >= 20 for n in decided.values()) and len(decided) == 12, decided
