"""CcxtVenue and AsyncCcxtVenue against a loopback exchange that checks signatures and misbehaves: one contract for both."""

import asyncio
import inspect
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from binance_server import KEY, SECRET, Server

from trading.core.errors import BadInput, MissingData, UnknownOutcome, VenueError, VenueUnreachable
from trading.core.types import MarketData, Order, Venue
from trading.data.delta_store import BarStore
from trading.data.ingest import ingest
from trading.venues.crypto.async_venue import AsyncCcxtVenue
from trading.venues.crypto.venue import CcxtVenue

SINCE = datetime(2024, 1, 1, tzinfo=UTC)
UNTIL = datetime(2025, 11, 30, tzinfo=UTC)
KLINES, ORDER = "GET /api/v3/klines", "POST /api/v3/order"


class Waited:
    """An asynchronous venue, waited for, so that the same tests hold it."""

    def __init__(self, *args, **options):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.venue = self.wait(self.make(*args, **options))
        self.name = self.venue.name

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


@pytest.fixture
def server():
    with Server() as running:
        yield running


@pytest.fixture(params=["blocking", "asynchronous"])
def make(request):
    made = []

    def build(*args, **options):
        made.append((CcxtVenue if request.param == "blocking" else Waited)(*args, **options))
        return made[-1]

    yield build
    for venue in made:
        getattr(venue, "close", lambda: None)()


@pytest.fixture
def venue(server, make):
    return make("binance", KEY, SECRET, base_url=server.url, timeout=3.0)


def buy(client_order_id="c0ffee000001", amount="0.5", **kwargs):
    return Order(client_order_id, "BTC/USDT", "buy", Decimal(amount), **kwargs)


def test_is_a_venue_and_a_source_of_prices(venue):
    assert isinstance(venue, Venue) and isinstance(venue, MarketData)


def test_loading_markets_is_one_call(server, make):
    markets = make("binance", base_url=server.url).load_markets()
    assert markets["BTC/USDT"].amount_step == Decimal("0.00001") and markets["BTC/USDT"].min_cost == 5
    assert sum(server.exchange.calls.values()) == 1


def test_bars_come_page_by_page_and_only_closed_ones(server, make):
    frame = make("binance", base_url=server.url).fetch_ohlcv("BTC/USDT", "1d", SINCE, datetime(2025, 11, 20, 12, tzinfo=UTC))
    assert frame.index[0] == pd.Timestamp(SINCE) and frame.index.is_unique and (frame.index[1:] - frame.index[:-1] == pd.Timedelta("1D")).all()
    assert frame.index[-1] == pd.Timestamp("2025-11-19", tz="UTC")


def test_prices_of_several_symbols_are_one_call(server, make):
    venue = make("binance", base_url=server.url)
    venue.load_markets()
    before = sum(server.exchange.calls.values())
    assert venue.fetch_tickers(["BTC/USDT", "ETH/USDT"]) == {"BTC/USDT": Decimal("40000.0"), "ETH/USDT": Decimal("2500.0")}
    assert sum(server.exchange.calls.values()) == before + 1


@pytest.mark.parametrize(("fault", "error", "words"), [
    ("429", VenueUnreachable, "slow down"),
    ("418", VenueUnreachable, "slow down"),
    ("500", VenueUnreachable, "cannot be reached"),
    ("503", VenueUnreachable, "cannot be reached"),
    ("504", VenueUnreachable, "cannot be reached"),
    ("slow", VenueUnreachable, "no answer in time"),
    ("drop-before", VenueUnreachable, "cannot be reached"),
    ("drop-after", VenueUnreachable, "cannot be reached"),
    ("html", VenueError, "answer"),
    ("empty", VenueError, "answer"),
    ("null-rows", VenueError, "bar 2 of 3"),
    ("short-row", VenueError, "answer"),
])
def test_a_bad_answer_to_a_read_is_one_clear_sentence(server, venue, fault, error, words):
    venue.load_markets()
    getattr(venue, "venue", venue).wait = 0.0
    again = isinstance(venue, Waited) and fault.startswith("drop")  # aiohttp asks once more when a kept connection breaks under a GET
    server.exchange.fault(KLINES, *[fault] * (1 + again))
    with pytest.raises(error, match=words) as said:
        venue.fetch_ohlcv("BTC/USDT", "1d", SINCE, UNTIL)
    assert "\n" not in str(said.value) and SECRET not in str(said.value) and said.value.__cause__ is None
    assert server.exchange.calls[KLINES] == 1 + again


def test_a_read_that_is_told_to_slow_down_waits_and_goes_on(server, venue):
    venue.load_markets()
    server.exchange.fault(KLINES, "429")
    getattr(venue, "venue", venue).budget._pause = 0.01
    assert len(venue.fetch_ohlcv("BTC/USDT", "1d", SINCE, datetime(2024, 2, 1, tzinfo=UTC))) == 31


def test_our_trades_of_sold_out_positions_are_found_or_it_says_that_it_cannot(server, make):
    def connected(symbols=()):
        return make("binance", KEY, SECRET, base_url=server.url, timeout=3.0, symbols=symbols)

    venue = connected()
    venue.create_order(buy())
    venue.create_order(buy("c0ffee000002", "1.5").but(side="sell"))
    assert "BTC" not in venue.fetch_balance()
    with pytest.raises(BadInput, match="tells our trades per symbol only.*what was sold out; name the symbols"):
        venue.fetch_my_trades(None)
    sold = connected(["BTC/USDT", "ETH/USDT"]).fetch_my_trades(None)
    assert [f.side for f in sold] == ["buy", "sell"] and sum(f.amount if f.side == "buy" else -f.amount for f in sold) == -1


def test_a_long_list_of_trades_comes_page_by_page(server, venue):
    for n in range(130):
        server.exchange.trades.append({
            "symbol": "BTCUSDT", "id": n + 1, "orderId": n, "price": "40000", "qty": "0.001", "quoteQty": "40", "commission": "0.1",
            "commissionAsset": "USDT", "time": 1_704_067_200_000 + n * 60_000, "isBuyer": True, "isMaker": False, "isBestMatch": True})
    server.exchange.page = 60
    fills = venue.fetch_my_trades(datetime(2024, 1, 1, tzinfo=UTC), ["BTC/USDT"])
    assert len(fills) == len({f.id for f in fills}) == 130


def test_the_book_is_checked_and_best_first(server, venue):
    book = venue.fetch_order_book("BTC/USDT")
    assert book["bids"][0][0] < book["asks"][0][0] and book["asks"][0] == (Decimal("40040.0"), Decimal("0.5")) and len(book["bids"]) == 5
    server.exchange.fault("GET /api/v3/depth", "html")
    with pytest.raises(VenueError, match="answer"):
        venue.fetch_order_book("BTC/USDT")


def test_doubled_rows_are_removed_by_the_cleaner_and_recorded(server, venue, tmp_path):
    server.exchange.fault(KLINES, "double-rows")
    store = BarStore(tmp_path / "bars")
    report = ingest(venue, store, ["BTC/USDT"], "1d", SINCE, UNTIL)
    assert {r.rule for r in report.repairs} == {"duplicate"} and len(store.read()) == 699 and not report.gaps


def test_the_balance_is_not_believed_when_it_is_an_error_page(server, venue):
    venue.load_markets()
    server.exchange.fault("GET /api/v3/account", "html")
    with pytest.raises(VenueError, match="answer"):
        venue.fetch_balance()
    assert venue.fetch_balance() == {"USDT": Decimal("100000.0"), "BTC": Decimal("1.0")}


def test_a_market_order_is_sent_once_and_read_back(server, venue):
    state = venue.create_order(buy())
    assert state.status == "closed" and state.filled == Decimal("0.5") and state.average == 40_000
    assert venue.fetch_order("c0ffee000001", "BTC/USDT").id == state.id
    (fill,) = venue.fetch_my_trades(symbols=["BTC/USDT"])
    assert fill.amount == Decimal("0.5") and fill.price == 40_000 and Decimal("0.27") < fill.fee < Decimal("0.34")
    assert (fill.fee_currency, fill.fee_amount) == ("BNB", Decimal("0.001"))
    assert venue.fetch_balance()["BTC"] == Decimal("1.5") and server.exchange.calls[ORDER] == 1


@pytest.mark.parametrize(("fault", "arrived"), [
    ("drop-after", True), ("drop-before", False), ("500", True), ("504", True), ("slow", True), ("html", True), ("empty", True),
])
def test_an_order_whose_answer_is_lost_is_unknown_and_never_sent_again(server, venue, fault, arrived):
    venue.load_markets()
    server.exchange.fault(ORDER, fault)
    with pytest.raises(UnknownOutcome, match="look .* up by its .*id"):
        venue.create_order(buy())
    assert server.exchange.calls[ORDER] == 1 and len(server.exchange.orders) <= 1
    if arrived:
        assert venue.fetch_order("c0ffee000001", "BTC/USDT").filled == Decimal("0.5")
    else:
        with pytest.raises(MissingData, match="knows no order c0ffee000001"):
            venue.fetch_order("c0ffee000001", "BTC/USDT")
    assert len(server.exchange.orders) == int(arrived)


@pytest.mark.parametrize("fault", ["429", "418"])
def test_an_order_refused_for_too_many_requests_is_known_not_to_have_arrived(server, venue, fault):
    venue.load_markets()
    server.exchange.fault(ORDER, fault)
    with pytest.raises(VenueUnreachable, match="refused the request"):
        venue.create_order(buy())
    assert server.exchange.calls[ORDER] == 1


def test_the_same_client_id_twice_gives_the_first_order(server, venue):
    first = venue.create_order(buy(type="limit", price=Decimal(30_000)))
    again = venue.create_order(buy(type="limit", price=Decimal(30_000)))
    assert again.id == first.id and len(server.exchange.orders) == 1 and first.status == "open"


def test_a_limit_order_is_listed_and_cancelled(server, venue):
    venue.create_order(buy(type="limit", price=Decimal(30_000)))
    (order,) = venue.fetch_open_orders()
    assert order.client_order_id == "c0ffee000001"
    assert venue.cancel_order("c0ffee000001", "BTC/USDT").status == "canceled" and venue.fetch_open_orders() == []


def test_too_little_money_is_a_rejection_with_its_reason(venue):
    state = venue.create_order(buy(amount="100"))
    assert state.status == "rejected" and "insufficient" in state.reason and state.filled == 0


def test_a_clock_that_is_off_is_measured_once_and_followed(server, venue):
    venue.load_markets()
    server.exchange.skew = 60_000
    assert venue.fetch_balance()
    assert abs(abs(getattr(venue, "venue", venue).clock_difference) - 60) < 5
    assert venue.create_order(buy()).status == "closed"


def test_a_wrong_key_is_named_and_not_printed(server, make):
    venue = make("binance", "wrong-key-123", "wrong-secret-123", base_url=server.url)
    with pytest.raises(VenueError, match="API key was not accepted; set api_key and secret") as said:
        venue.fetch_balance()
    assert "wrong-key" not in str(said.value) and "wrong-secret" not in str(said.value)
    venue = make("binance", KEY, "wrong-secret-123", base_url=server.url)
    with pytest.raises(VenueError, match="API key was not accepted"):
        venue.fetch_balance()


def test_an_unknown_symbol_gets_suggestions(venue):
    with pytest.raises(BadInput, match="did you mean BTC/USDT"):
        venue.fetch_ohlcv("BTC/USD", "1d")


def test_ingest_over_http_is_incremental_and_names_the_same_content(server, venue, tmp_path):
    store, other = BarStore(tmp_path / "a"), BarStore(tmp_path / "b")
    early, late = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 6, 1, tzinfo=UTC)
    ingest(venue, store, ["BTC/USDT", "ETH/USDT"], "1d", SINCE, early)
    calls = server.exchange.calls[KLINES]
    step = ingest(venue, store, ["BTC/USDT", "ETH/USDT"], "1d", SINCE, late)
    assert step.rows == 2 * 151 and server.exchange.calls[KLINES] - calls <= 4
    assert step.version == ingest(venue, other, ["BTC/USDT", "ETH/USDT"], "1d", SINCE, late).version
