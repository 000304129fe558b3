"Two hundred orders in a minute at a venue that limits requests: each is there once, and a 429, its Retry-After and a ban are obeyed."

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest
from test_venue_contract import connect

from trading.accounting.ledger import Ledger
from trading.core.errors import VenueError
from trading.core.types import Order
from trading.execution.order_manager import OrderContext, RetryPolicy, submit_order
from trading.testing.fake_exchange import FakeExchange
from trading.testing.venue_fakes import FAKES, serve_fake
from trading.venues.crypto.venue import CcxtVenue

NAMES = sorted(set(FAKES) - {"binanceus"})
ORDERS = 200


class Limited(FakeExchange):
    "An exchange that shuts its door for a moment after so many requests, with a 429; who goes on regardless is counted."

    def __init__(self, most: int, seconds: float):
        super().__init__()
        self.most, self.seconds, self.count, self.shut, self.refused, self.regardless = most, seconds, 0, 0.0, 0, 0
        self.faults = self

    def get(self, kind, default=None):
        "Return what strikes the request that has come, as a table of faults would."
        self.count += 1
        if time.monotonic() < self.shut:
            self.regardless += 1
        elif self.count % self.most:
            return None
        else:
            self.shut = time.monotonic() + self.seconds
        self.refused += 1
        return [f"429 {self.seconds:g}"]

    __getitem__ = lambda self, kind: [f"429 {self.seconds:g}"]  # noqa: E731


@pytest.mark.parametrize("name", NAMES)
def test_two_hundred_orders_in_a_minute_are_there_once_each(name, tmp_path):
    exchange = Limited(40, 0.25)
    ledger = Ledger(tmp_path / "books.db")
    ledger.open_account("mine", "USDT", D(1_000_000), datetime.now(UTC) - timedelta(minutes=1))
    with serve_fake(name, exchange) as url:
        venue = connect(CcxtVenue, name, url)
        desk = OrderContext(venue, ledger, "mine", lambda: datetime.now(UTC), RetryPolicy(settle=0.0))
        for n in range(ORDERS):
            order, state = Order(f"{n:024x}", "BTC/USDT", "sell" if n % 2 else "buy", D("0.001")), None
            for _ in range(9):  # what never arrived is sent again, under the same id
                if (state := submit_order(desk, order, "plan")) is not None:
                    break
            assert state is not None and state.status != "rejected", state
        told = {n: venue.fetch_order(f"{n:024x}", "BTC/USDT").filled for n in (0, 1, 99, ORDERS - 1)}
    clients = Counter(o["client"] for o in exchange.orders)
    assert len(exchange.orders) == ORDERS == len(clients) and set(clients.values()) == {1}, "none lost, none doubled"
    assert set(told.values()) == {D("0.001")} and exchange.balances["BTC"] == D(10)
    assert exchange.refused >= ORDERS // 40, "the limit was met, or nothing was tried here"
    assert exchange.regardless == 0, (exchange.refused, exchange.regardless)
    ledger.verify()
    ledger.close()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_sent_while_a_ban_lasts(name):
    exchange = FakeExchange()
    exchange.faults = {"create": ["429 30"]}  # half a minute
    with serve_fake(name, exchange) as url:
        venue = connect(CcxtVenue, name, url)
        venue.wait = 0.0  # nobody has the time to wait
        for _ in range(3):
            with pytest.raises(VenueError):
                venue.create_order(Order("a" * 24, "BTC/USDT", "sell", D("0.1")))
    assert exchange.calls["create"] == 1 and not exchange.orders, "one request, and then none until it is over"
