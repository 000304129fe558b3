"Protection as it leaves for each named venue, and what a day of orders weighs there: documented limits and weights, in literals."

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest
from test_venue_contract import connect
from test_venue_profiles import NAMES, venue_of

from trading.accounting.ledger import Ledger
from trading.core.errors import UnknownOutcome
from trading.core.instruments import Instrument
from trading.core.types import Order, OrderState, Position
from trading.execution.order_manager import OrderContext
from trading.execution.protection import protect_position
from trading.risk.exit_rules import ExitRules
from trading.testing.fake_exchange import FakeExchange
from trading.testing.venue_fakes import FAKES, serve_fake
from trading.venues.crypto.venue import CcxtVenue

# venue → path that a sale at 45,000 or below goes to, and what says so there: its kind, its direction, its trigger
STOPS = {
    "binance": ("/api/v3/order", {"type": "STOP_LOSS", "side": "SELL", "stopPrice": "45000", "quantity": "0.5"}),
    "binanceus": ("/api/v3/order", {"type": "STOP_LOSS", "side": "SELL", "stopPrice": "45000", "quantity": "0.5"}),
    "kraken": ("/0/private/AddOrder", {"ordertype": "stop-loss", "type": "sell", "price": "45000", "volume": "0.5"}),
    "bingx": ("/openApi/spot/v1/trade/order", {"type": "TRIGGER_MARKET", "side": "SELL", "stopPrice": "45000", "quantity": "0.5"}),
    "okx": ("/api/v5/trade/order-algo", {"ordType": "conditional", "side": "sell", "slTriggerPx": "45000", "slOrdPx": "-1", "sz": "0.5"}),
    "bybit": ("/v5/order/create", {"orderFilter": "StopOrder", "side": "Sell", "triggerPrice": "45000", "orderType": "Market", "qty": "0.5"}),
    "kucoin": ("/api/v1/stop-order", {"stop": "loss", "side": "sell", "stopPrice": "45000", "type": "market", "size": "0.5"}),
    "gate": ("/api/v4/spot/price_orders", {
        "put.side": "sell", "put.type": "market", "put.amount": "0.5", "trigger.price": "45000", "trigger.rule": "<="}),
    "bitget": ("/api/v2/spot/trade/place-plan-order", {"side": "sell", "orderType": "market", "size": "0.5", "triggerPrice": "45000"}),
}
WATCHED = {"coinbase"}  # takes stop orders with a limit price only: a stop that must sell is watched here


ASKED = {"stop": {"stop": D(45000)}, "both": {"stop": D(45000), "target": D(60000)}, "trailing": {"trailing": D("0.1")}}


def part(given: dict, path: str) -> str:
    "Return a part of a request as text, dots between names; whole numbers without their zeros."
    for name in path.split("."):
        given = given[name]
    text = str(given)
    return text.removesuffix(".0")


class Desk:
    "An account with half a bitcoin at a venue that takes every order; what left for it is kept as stock ccxt sent it."

    def __init__(self, folder, name: str):
        self.inner, self.taken = venue_of(name), []
        real = self.inner.create_order

        def create(order: Order) -> OrderState:
            with pytest.raises(UnknownOutcome):  # nobody answers
                real(order)
            self.taken.append((order, self.inner.sent[-1]))
            return OrderState(str(len(self.taken)), order.client_order_id, order.symbol, order.side, order.amount, D(0), "open")

        self.inner.create_order = create
        self.inner.fetch_tickers = lambda symbols: {s: D(50000) for s in symbols}
        self.inner.fetch_open_orders = list
        self.inner.load_markets = lambda: {"BTC/USDT": Instrument("BTC/USDT", D("0.00000001"), D("0.01"))}
        ledger, began = Ledger(folder / "books.db"), datetime.now(UTC) - timedelta(hours=1)
        ledger.open_account("mine", "USDT", D(1000), began, [Position("BTC/USDT", D("0.5"), D(50000))])
        self.context = OrderContext(self.inner, ledger, "mine", lambda: datetime.now(UTC), sleep=lambda seconds: None)

    def protect(self, **asked):
        rules = ExitRules(stop_loss=asked.get("trailing"), trailing="trailing" in asked)
        return protect_position(self.context, "BTC/USDT", "ann", rules, asked.get("stop"), asked.get("target"), None)


def test_every_named_venue_has_its_row():
    assert set(STOPS) | WATCHED == set(NAMES) == set(FAKES)


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
@pytest.mark.parametrize("name", sorted(STOPS))
def test_a_stop_leaves_with_the_venues_word_and_direction_and_what_stays_here_is_told(name, asked, tmp_path):
    desk = Desk(tmp_path, name)
    made, told = desk.protect(**asked)
    path, words = STOPS[name]
    assert len(desk.taken) == 1, "one order stands there, never two that could both sell"
    order, (method, where, given) = desk.taken[0]
    assert (method, where, order.side, order.type, order.amount) == ("POST", path, "sell", "stop", D("0.5"))
    assert {k: part(given, k) for k in words} == words
    assert made.stop_order == order.client_order_id and "stop 45000" in made.words and "at the venue" in made.words
    if "target" in asked:
        assert made.target_order == "" and "take profit 60000 watched here, not at the venue" in made.words
    if "trailing" in asked:
        assert "behind 50000, moved here" in made.words
    assert not made.refused and not told


@pytest.mark.parametrize("name", sorted(WATCHED))
def test_where_a_stop_may_not_rest_it_is_watched_here_and_that_is_told(name, tmp_path):
    desk = Desk(tmp_path, name)
    made, _ = desk.protect(stop=D(45000))
    assert not desk.taken and made.stop_order == "" and "stop 45000 watched here, not at the venue" in made.words


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_target_alone_rests_at_every_venue_as_a_limit_order(name, tmp_path):
    desk = Desk(tmp_path, name)
    made, _ = desk.protect(target=D(60000))
    (order, (_, _, given)), = desk.taken
    assert (order.type, order.side, order.price) == ("limit", "sell", D(60000)) and made.target_order == order.client_order_id
    assert "60000" in str(given) and "sell" in str(given).lower() and "take profit 60000 at the venue" in made.words


def test_the_table_of_venues_says_what_is_done_and_not_what_could_be():
    from click.testing import CliRunner

    from trading.cli.main import main

    rows = {row["venue"]: row for row in json.loads(CliRunner().invoke(main, ["venues", "--json"]).stdout)}
    for name in STOPS:
        assert rows[name]["stops"] == "at the venue" and rows[name]["trailing"].startswith("a stop there, moved from here"), name
    assert rows["coinbase"]["stops"] == "with a limit only" and rows["coinbase"]["trailing"].startswith("watched here")
    assert rows["mt5"]["stops"] == "watched here" and all(row["one cancels other"].startswith("watched here") for row in rows.values())


# venue → what a request of each kind weighs (1 where nothing is said), the limit, and the seconds of its window
LIMITS = {
    "binance": ({"create": 1, "order": 4, "trades": 5}, 6000, 60),  # REST limits: REQUEST_WEIGHT; myTrades with orderId 5
    "binanceus": ({"create": 1, "order": 2, "trades": 10}, 1200, 60),
    "kraken": ({"create": 0, "order": 1, "order_trades": 1, "trades": 2}, 0.5, 1),  # intermediate: of the counter 0.5 come back a second
    "coinbase": ({}, 30, 1),  # Advanced Trade, private endpoints
    "bingx": ({}, 5, 1),  # placing orders; the others have more
    "okx": ({}, 20, 2),  # 60 for orders, 20 for the history of an order's fills
    "bybit": ({}, 10, 1),  # of one account at orders; the others have more
    "kucoin": ({"create": 1, "order": 2, "by_client": 3, "trades": 3}, 4000, 30),  # spot pool of VIP 0
    "gate": ({}, 10, 1),  # placing orders; the others have more
    "bitget": ({}, 10, 1),
}
ORDERS, SENT = 200, 20  # of a day, and how many of them are sent here


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_a_day_of_two_hundred_orders_stays_below_half_of_the_documented_limit(name):
    exchange = FakeExchange()
    with serve_fake(name, exchange) as url:
        venue = connect(CcxtVenue, name, url)
        venue.symbols = ("BTC/USDT", *(f"C{n}/USDT" for n in range(50)))  # the number of symbols changes nothing
        for n in range(SENT):
            ours = f"{n:024x}"
            state = venue.create_order(Order(ours, "BTC/USDT", "buy", D("0.1")))
            if not state.ended:
                state = venue.fetch_order(ours, "BTC/USDT")
            assert sum(f.amount for f in venue.fetch_order_trades(ours, "BTC/USDT")) == state.filled == D("0.1")
        requests, wanted = sum(exchange.calls.values()), 3 * SENT + (name in ("coinbase", "gate", "bitget"))  # and one price
        assert requests <= wanted, exchange.calls
        weights, limit, seconds = LIMITS[name]
        weight = ORDERS / SENT * sum(n * weights.get(kind, 1) for kind, n in exchange.calls.items())
        assert 0 < weight < limit * 86_400 / seconds / 2, "of a day"
        assert weight / ORDERS < limit * 60 / seconds / 2, "and one order is less than half of any minute"
