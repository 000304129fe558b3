"The tests of `tests/test_plan.py` with ten thousand drawn portfolios each, and a hundred thousand more from a faster dice."

import random
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_plan import SYMBOLS, check_goes_on, check_nothing_left, check_rules, many, portfolios, rich  # noqa: E402

from trading.core.instruments import Instrument
from trading.execution.plan import PlanConstraints  # noqa: E402

D = Decimal
thousands = settings(many, max_examples=2500, derandomize=False, database=None, phases=(Phase.generate,))
every = st.one_of(portfolios(), portfolios(turnover=True), portfolios(venues=True)).filter(rich)


@pytest.mark.parametrize("block", range(4))
def test_ten_thousand_portfolios_keep_every_rule(block):
    seed(block)(thousands(given(every)(check_rules)))()


@pytest.mark.parametrize("block", range(4))
def test_ten_thousand_executed_plans_leave_nothing(block):
    seed(block)(thousands(given(st.one_of(portfolios(), portfolios(venues=True)).filter(rich))(check_nothing_left)))()


@pytest.mark.parametrize("block", range(4))
def test_ten_thousand_plans_cut_by_turnover_end_in_an_empty_plan(block):
    seed(block)(thousands(given(portfolios(turnover=True).filter(rich))(check_goes_on)))()


def dice(draw):
    "Throw a portfolio: prices over nine orders of magnitude, values from a cent to twenty thousand."
    one = draw.choice
    held, wanted = draw.sample(SYMBOLS, draw.randint(0, 8)), draw.sample(SYMBOLS, draw.randint(0, 8))
    prices = {s: max(D(repr(round(10 ** draw.uniform(-4, 4.6), 4))), D("0.0001")) for s in sorted({*held, *wanted})}
    markets = {s: Instrument(s, amount_step=D(one(["1", "0.1", "0.00001", "0.25"])), price_step=D(1), min_cost=D(one(["0", "5"]))) for s in prices}
    worths = {s: D(repr(round(one([draw.uniform(0, 20000), 10 ** draw.uniform(-2, 4), 0]), 2))) for s in held}
    raw, invested = {s: draw.randint(0, 100) for s in wanted}, D(one([100, draw.randint(0, 100), 95])) / 100
    total = sum(raw.values())
    rules = PlanConstraints(
        fee_rate=D(one(["0", "0.0005", "0.001", "0.01"])),
        min_trade=D(one(["0", "1", "10", "100"])),
        min_fee=D(one(["0", "0", "1"])),
        drift=D(one(["0", "0.01", "0.05", "0.25"])),
        drift_kind=one(["relative", "absolute"]),
        min_cash=min(D(one(["0", "0.02", "0.1"])), 1 - invested),
    )
    return {
        "holdings": {s: (w / prices[s]).quantize(D("1e-8")) for s, w in worths.items()},
        "cash": D(repr(round(one([0, draw.uniform(0, 20000), draw.uniform(0, 100)]), 2))),
        "targets": {s: invested * w / total for s, w in raw.items()} if total else {},
        "prices": prices,
        "markets": markets,
        "constraints": rules,
    }


@pytest.mark.parametrize("block", range(10))
def test_a_hundred_thousand_more_leave_nothing(block):
    draw = random.Random(block)
    for _ in range(10_000):
        if rich(drawn := dice(draw)):
            check_nothing_left(drawn)
