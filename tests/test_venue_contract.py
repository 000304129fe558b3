"One contract, nine venues: stock ccxt, blocking and asynchronous, against small fakes of their documented REST with faults on request."

import asyncio
import contextlib
import inspect
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest

from trading.core.errors import BadInput, MissingData, UnknownOutcome, VenueError, VenueUnreachable
from trading.core.types import Order
from trading.core.venue_profiles import PROFILES
from trading.testing.fake_exchange import FakeExchange
from trading.testing.venue_fakes import FAKES, serve_fake
from trading.venues.crypto.async_venue import AsyncCcxtVenue
from trading.venues.crypto.venue import CcxtVenue

NAMES = {"binance": "BTCUSDT", "binanceus": "BTCUSDT", "kraken": "XBTUSDT", "bybit": "BTCUSDT", "bitget": "BTCUSDT", "gate": "BTC_USDT"}
OURS = "ade0dfc2f763a31a5ff6c87f"


class Waited:
    "An asynchronous venue, waited for, so that the same contract holds it."

    def __init__(self, *args, **options):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.venue = self.wait(self.make(*args, **options))

    async def make(self, *args, **options):
        return AsyncCcxtVenue(*args, **options)

    def wait(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def __getattr__(self, name):
        call = getattr(self.venue, name)
        return (lambda *args, **options: self.wait(call(*args, **options))) if inspect.iscoroutinefunction(call) else call

    def close(self):
        self.wait(self.venue.close())
        self.loop.call_soon_threadsafe(self.loop.stop)


def connect(kind, name, url):
    "Return a venue whose markets are known already."
    venue = kind(name, "k" * 32, "c2VjcmV0c2VjcmV0c2VjcmV0", "p", base_url=url, timeout=5.0, symbols=("BTC/USDT",))
    inner = getattr(venue, "venue", venue)
    x, tick, ident = inner._ccxt, inner._ccxt.precisionMode == 4, NAMES.get(name, "BTC-USDT")
    market = {"id": ident, "symbol": "BTC/USDT", "base": "BTC", "quote": "USDT", "baseId": "BTC", "quoteId": "USDT", "spot": True,
              "active": True, "limits": {},
              "contract": False, "swap": False, "future": False, "option": False, "margin": False, "linear": None, "inverse": None, "settle": None,
              "contractSize": None, "taker": 0.001, "maker": 0.001,
              "type": "spot", "info": {"orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS"]}, "lowercaseId": ident.lower(),
              "precision": {"amount": 1e-8 if tick else 8, "price": 0.01 if tick else 2}}  # fmt: skip
    x.set_markets([market])
    x.load_markets = (lambda *a, **k: x.markets) if kind is CcxtVenue else _markets(x)
    x.options |= {"enableUnifiedMargin": False, "enableUnifiedAccount": True, "uta": False, "unifiedAccount": False}
    inner.budget._pause = 0.01
    return venue


def _markets(x):
    async def load(*args, **options):
        return x.markets

    return load


@pytest.fixture(params=sorted(FAKES))
def name(request):
    return request.param


@pytest.fixture
def exchange():
    return FakeExchange()


@pytest.fixture
def venue(name, exchange):
    with serve_fake(name, exchange) as url:
        yield connect(CcxtVenue, name, url)


def _without(answer, names):
    "Return an answer without some of its fields, wherever they stand."
    if isinstance(answer, dict):
        return {k: _without(v, names) for k, v in answer.items() if k not in names}
    return [_without(part, names) for part in answer] if isinstance(answer, list) else answer


def buy(client_order_id=OURS, amount="0.5", **more):
    return Order(client_order_id, "BTC/USDT", "buy", D(amount), **more)


class TestContract:
    "What a venue must keep before it takes real orders; the message of a failure names the point."

    def test_market_orders(self, venue, exchange):
        bought = venue.create_order(buy())
        state = venue.fetch_order(OURS, "BTC/USDT")
        assert (state.client_order_id, state.status, state.filled, state.average) == (OURS, "closed", D("0.5"), D(50000)) and bought.id == state.id
        sold = Order("f" * 24, "BTC/USDT", "sell", D("0.2"))
        assert venue.create_order(sold).client_order_id == "f" * 24 and venue.fetch_order("f" * 24, "BTC/USDT").filled == D("0.2")
        assert exchange.balances["BTC"] == D("10.3") and len(exchange.orders) == 2

    def test_limit_orders_partial_fills_and_cancelling(self, venue, exchange):
        assert venue.create_order(buy(type="limit", price=D(40000))).status == "open"
        exchange.fill(exchange.orders[0], D("0.2"))
        assert [(s.client_order_id, s.filled) for s in venue.fetch_open_orders()] == [(OURS, D("0.2"))]
        state = venue.cancel_order(OURS, "BTC/USDT")
        assert (state.status, state.filled) == ("canceled", D("0.2")) and venue.fetch_open_orders() == []
        assert sum(f.amount for f in venue.fetch_order_trades(OURS, "BTC/USDT")) == D("0.2")

    def test_an_order_cancelled_after_a_part_was_filled_is_found_again_by_whoever_comes_later(self, name, exchange):
        with serve_fake(name, exchange) as url:
            first = connect(CcxtVenue, name, url)
            first.create_order(buy(type="limit", price=D(40000)))
            exchange.fill(exchange.orders[0], D("0.2"))
            first.cancel_order(OURS, "BTC/USDT")
            later = connect(CcxtVenue, name, url)  # another process: it knows our id and nothing else
            state = later.fetch_order(OURS, "BTC/USDT")
            assert (state.status, state.filled) == ("canceled", D("0.2"))
            with pytest.raises(MissingData):
                later.fetch_order("e" * 24, "BTC/USDT")

    def test_a_cancellation_that_comes_too_late_tells_the_fill(self, venue, exchange):
        venue.create_order(buy(type="limit", price=D(40000)))
        exchange.fill(exchange.orders[0], D("0.5"))
        assert venue.cancel_order(OURS, "BTC/USDT").status == "closed"

    @pytest.mark.parametrize("kind", ["market", "limit"])
    def test_a_lost_answer_is_unknown_and_the_order_is_found_by_our_id(self, venue, exchange, kind):
        venue.create_order(buy("0" * 24))  # another one, so that something could be confused
        exchange.faults["create"] = ["lose"]
        with pytest.raises(UnknownOutcome):
            venue.create_order(buy(type=kind, price=D(40000) if kind == "limit" else None))
        state = venue.fetch_order(OURS, "BTC/USDT")
        assert (state.client_order_id, state.filled) == (OURS, D("0.5") if kind == "market" else 0) and state.id == exchange.orders[1]["id"]
        assert len(exchange.orders) == 2

    def test_an_answer_without_a_field_is_never_another_number(self, name, venue, exchange, monkeypatch):
        lost = {}
        form, routes, refuse = FAKES[name]

        def torn(x, kind, q, path):
            answer = form(x, kind, q, path)
            return _without(answer, lost.get(kind, ())) if kind in lost else answer

        monkeypatch.setitem(FAKES, name, (torn, routes, refuse))
        exchange.balances["BTC"] = D(3)
        with serve_fake(name, exchange) as url:
            asked = connect(CcxtVenue, name, url)
            asked.create_order(buy())
            asked.fetch_order(OURS, "BTC/USDT")
            filled = ("executedQty", "vol_exec", "filled_size", "accFillSz", "cumExecQty", "dealSize", "baseVolume")
            lost["order"] = lost["open"] = lost["closed"] = lost["by_client"] = filled
            with contextlib.suppress(VenueError):
                assert asked.fetch_order(OURS, "BTC/USDT").filled == D("0.5"), "a closed order of which nothing was filled would never be booked"
            times = ("time", "trade_time", "ts", "execTime", "createdAt", "create_time", "create_time_ms", "cTime")
            fees = ("commission", "fee", "execFee", "feeDetail", "gt_fee", "point_fee")
            markets = ("symbol", "pair", "product_id", "instId", "currency_pair")
            for parts in (times, fees, markets, ("fills", "trades", "list", "items", "data", "result")):
                lost["trades"] = parts
                with contextlib.suppress(VenueError, BadInput):
                    fills = asked.fetch_my_trades(datetime.now(UTC) - timedelta(hours=1))
                    assert sum(f.amount for f in fills) == D("0.5") and sum(f.fee for f in fills) > 0, (parts, fills)

    def test_a_clock_that_is_an_hour_ahead_hides_no_order(self, name, venue, exchange):
        exchange.skew = -3_600_000  # the venue corrects how we sign, and its lists begin by its own clock
        exchange.faults["create"] = ["clock", "lose"]
        with pytest.raises(UnknownOutcome):
            venue.create_order(buy())
        again = connect(CcxtVenue, name, exchange.address)  # another process, that knows what the ledger says and no clock
        again.learn_orders([(OURS, "", "", venue.sent_at[OURS], buy())])
        for asked in (venue, again):
            state = asked.fetch_order(OURS, "BTC/USDT")
            assert (state.status, state.filled) == ("closed", D("0.5")), "an order that is not found is sent again"
        assert len(exchange.orders) == 1
        assert sum(f.amount for f in venue.fetch_my_trades(datetime.now(UTC) - timedelta(minutes=1))) == D("0.5")

    def test_a_lost_request_is_unknown_and_then_known_not_to_exist(self, venue, exchange):
        exchange.faults["create"] = ["drop"]
        with pytest.raises(UnknownOutcome):
            venue.create_order(buy())
        with pytest.raises(MissingData):
            venue.fetch_order(OURS, "BTC/USDT")
        assert exchange.orders == []

    def test_the_same_id_twice_is_one_order(self, venue, exchange):
        venue.create_order(buy(type="limit", price=D(40000)))
        try:
            again = venue.create_order(buy(type="limit", price=D(40000)))
        except VenueError:
            again = venue.fetch_order(OURS, "BTC/USDT")
        assert len(exchange.orders) == 1 and again.client_order_id == OURS

    def test_a_refusal_is_rejected_with_its_reason(self, venue, exchange):
        state = venue.create_order(buy(amount="100", type="limit", price=D(50000)))
        assert state.status == "rejected" and state.reason and exchange.orders == []

    def test_slow_down_is_obeyed_by_reads_and_means_for_an_order_that_it_did_not_arrive(self, venue, exchange):
        exchange.faults |= {"balance": ["429", "429 0.05"], "create": ["429"]}
        assert venue.fetch_balance()["BTC"] == 10 and exchange.calls["balance"] >= 3
        with pytest.raises(VenueUnreachable) as said:
            venue.create_order(buy(type="limit", price=D(40000)))
        assert not isinstance(said.value, UnknownOutcome) and exchange.orders == []

    def test_maintenance_and_error_pages_are_said_to_be_that(self, venue, exchange):
        exchange.faults |= {"balance": ["closed", "html"], "create": ["html"]}
        for _ in range(2):
            with pytest.raises(VenueError) as said:
                venue.fetch_balance()
            assert not isinstance(said.value, BadInput)
        with pytest.raises(UnknownOutcome):
            venue.create_order(buy(type="limit", price=D(40000)))

    def test_a_clock_that_is_off_is_corrected_once(self, venue, exchange, name):
        exchange.skew, exchange.faults["balance"] = 60_000, ["clock"]
        assert venue.fetch_balance()["BTC"] == 10
        inner = getattr(venue, "venue", venue)
        assert abs(inner.clock_difference + 60) < 5

    def test_requests_of_an_order_are_three_at_most_whatever_the_number_of_symbols(self, venue, exchange):
        venue.create_order(buy("0" * 24, "0.1"))
        inner = getattr(venue, "venue", venue)
        before = inner.budget.requests
        state = venue.create_order(buy())
        if state.status == "open":
            state = venue.fetch_order(OURS, "BTC/USDT")
        fills = venue.fetch_order_trades(OURS, "BTC/USDT")
        assert sum(f.amount for f in fills) == state.filled == D("0.5") and {f.client_order_id for f in fills} == {OURS}
        assert inner.budget.requests - before <= 3

    def test_trades_since_a_moment_carry_our_ids_and_every_fee(self, venue, exchange, name):
        since = datetime.now(UTC) - timedelta(minutes=5)
        venue.create_order(buy())
        venue.create_order(Order("f" * 24, "BTC/USDT", "sell", D("0.2")))
        fills = venue.fetch_my_trades(since)
        assert {f.client_order_id for f in fills} == {OURS, "f" * 24} and sum(f.amount for f in fills) == D("0.7")
        assert sum(f.fee for f in fills) == sum(t["fee"] for t in exchange.trades)

    def test_the_table_says_that_it_keeps_the_contract(self, name):
        assert PROFILES[name].failing == {}


class TestTheSameForCoroutines:
    "The asynchronous client shares every line about orders; what it must not get wrong is held here, venue by venue."

    @pytest.fixture
    def venue(self, name, exchange):
        with serve_fake(name, exchange) as url:
            made = connect(Waited, name, url)
            yield made
            made.close()

    test_a_lost_answer_is_unknown_and_the_order_is_found_by_our_id = TestContract.test_a_lost_answer_is_unknown_and_the_order_is_found_by_our_id
    test_a_clock_that_is_off_is_corrected_once = TestContract.test_a_clock_that_is_off_is_corrected_once
