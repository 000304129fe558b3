"Like coins and purchase lots: nothing is lost, and nothing is traded without need."

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.accounting.lot_selection import OpenLot, choose_lots, realised_gain

NOW = datetime(2024, 5, 3, tzinfo=UTC)
UNITS = st.decimals("0", "400", places=2)


@given(st.lists(st.tuples(st.decimals("0.01", 50, places=2), st.decimals(1, 99, places=2)), min_size=1, max_size=8), st.floats(0.01, 1))
@settings(max_examples=80, deadline=None)
def test_lots_sum_to_the_sale_and_the_dearest_first_gains_least(pairs, part):
    lots = [OpenLot("A", units, price, NOW - timedelta(days=100 * n)) for n, (units, price) in enumerate(pairs)]
    amount = (sum(lot.amount for lot in lots) * Decimal(str(part))).quantize(Decimal("0.0001"))
    gains = {}
    for method in ("fifo", "lifo", "hifo", "long_first"):
        used = choose_lots(lots, amount, method, NOW)
        assert sum(lot.amount for lot in used) == amount
        gains[method] = realised_gain(used, Decimal(50))
    assert gains["hifo"] == min(gains.values())


def test_a_whole_sale_gains_the_same_by_every_method():
    lots = [OpenLot("A", Decimal(2), Decimal(p), NOW) for p in (10, 20)]
    assert {realised_gain(choose_lots(lots, Decimal(4), m, NOW), Decimal(30)) for m in ("fifo", "lifo", "hifo")} == {Decimal(60)}
    with pytest.raises(LookupError):
        choose_lots([], Decimal(1), "fifo", NOW)
