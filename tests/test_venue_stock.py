"""Stock ccxt, blocking and asynchronous, against the same loopback exchange: what it does with bad answers, and what ours does instead."""

import asyncio
import re
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from binance_server import KEY, SECRET, Server

from trading.core.errors import UnknownOutcome, VenueError
from trading.core.types import Order
from trading.venues.crypto.venue import CcxtVenue

ACCOUNT, KLINES, ORDER = "GET /api/v3/account", "GET /api/v3/klines", "POST /api/v3/order"
SINCE = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def server():
    with Server() as running:
        yield running


@pytest.fixture(params=["blocking", "asynchronous"])
def stock(request, server):
    """Return a caller of stock ccxt: method and arguments in, answer out."""
    import ccxt
    import ccxt.async_support as later

    def call(method, *args, retries=0):
        def made(module):
            client = module.binance({"apiKey": KEY, "secret": SECRET, "timeout": 3000, "enableRateLimit": False,
                                     "options": {"maxRetriesOnFailure": retries, "fetchMarkets": {"types": ["spot"]},
                                                 "fetchCurrencies": False, "fetchMargins": False}})
            client.has["fetchCurrencies"] = False

            def moved(url):
                return {k: moved(u) for k, u in url.items()} if isinstance(url, dict) else re.sub(r"https?://[^/]+", server.url, url)

            client.urls["api"] = moved(client.urls["api"])
            return client

        async def waited():
            client = made(later)
            try:
                await client.load_markets()
                return await getattr(client, method)(*args)
            finally:
                await client.close()

        if request.param == "asynchronous":
            return asyncio.run(waited())
        client = made(ccxt)
        client.load_markets()
        return getattr(client, method)(*args)

    call.kind = request.param
    return call


def test_an_error_page_is_an_empty_account_to_stock_ccxt_and_an_error_to_us(server, stock):
    server.exchange.fault(ACCOUNT, "html")
    assert not stock("fetch_balance").get("total")  # no money, and no error
    ours = CcxtVenue("binance", KEY, SECRET, base_url=server.url, timeout=3.0)
    ours.load_markets()
    server.exchange.fault(ACCOUNT, "html")
    with pytest.raises(VenueError, match="answer"):
        ours.fetch_balance()


def test_rows_of_null_vanish_or_stay_none_in_stock_ccxt_and_are_named_by_us(server, stock):
    server.exchange.fault(KLINES, "null-rows")
    rows = stock("fetch_ohlcv", "BTC/USDT", "1d", int(SINCE.timestamp() * 1000), 10)
    assert len(rows) < 10 or any(None in row for row in rows)  # eight days are gone, or a row has nothing in it
    ours = CcxtVenue("binance", base_url=server.url, timeout=3.0)
    ours.load_markets()
    server.exchange.fault(KLINES, "null-rows")
    with pytest.raises(VenueError, match="bar 2 of 3 is cut off or empty"):
        ours.fetch_ohlcv("BTC/USDT", "1d", SINCE)


def test_an_order_answered_by_an_error_page_has_no_number_in_stock_ccxt(server, stock):
    server.exchange.fault(ORDER, "html")
    assert stock("create_order", "BTC/USDT", "market", "buy", 0.01)["id"] is None
    assert len(server.exchange.orders) == 1  # bought, and nobody knows


def test_stock_retries_buy_three_times_where_we_buy_once(server, stock):
    server.exchange.fault(ORDER, "drop-after", "drop-after")
    stock("create_order", "BTC/USDT", "market", "buy", 0.01, None, {"clientOrderId": "once"}, retries=2)
    assert [o["clientOrderId"] for o in server.exchange.orders] == ["once"] * 3
    server.exchange.orders.clear()
    ours = CcxtVenue("binance", KEY, SECRET, base_url=server.url, timeout=3.0)
    server.exchange.fault(ORDER, "drop-after", "drop-after")
    with pytest.raises(UnknownOutcome):
        ours.create_order(Order("once", "BTC/USDT", "buy", Decimal("0.01")))
    assert len(server.exchange.orders) == 1


def test_a_dropped_answer_to_an_order_has_two_names(server, stock):
    import ccxt

    server.exchange.fault(ORDER, "drop-after")
    with pytest.raises(ccxt.NetworkError if stock.kind == "blocking" else ccxt.ExchangeNotAvailable) as said:
        stock("create_order", "BTC/USDT", "market", "buy", 0.01)
    assert isinstance(said.value, ccxt.OperationFailed)


def test_doubled_rows_stay_doubled_in_stock_ccxt(server, stock):
    server.exchange.fault(KLINES, "double-rows")
    rows = stock("fetch_ohlcv", "BTC/USDT", "1d", int(SINCE.timestamp() * 1000), 10)
    assert len(rows) > len({row[0] for row in rows})


@pytest.mark.parametrize(("fault", "kind"), [("429", "DDoSProtection"), ("418", "DDoSProtection"), ("503", "OperationFailed"),
                                              ("504", "OperationFailed"), ("slow", "RequestTimeout")])
def test_the_classes_that_our_translation_rests_on(server, stock, fault, kind):
    import ccxt

    server.exchange.fault(ACCOUNT, fault)
    with pytest.raises(getattr(ccxt, kind)):
        stock("fetch_balance")
