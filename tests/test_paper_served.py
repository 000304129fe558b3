"""Programs that never heard of us trade on the paper exchange: stock ccxt, sync and async, and our own ccxt venue, over HTTP."""

import asyncio
import re
from datetime import UTC, datetime
from decimal import Decimal

import ccxt
import httpx
import pandas as pd
import pytest

from trading.accounting.ledger import Ledger
from trading.core.bars import FIELDS, bars_from
from trading.core.errors import MissingData
from trading.core.instruments import Instrument
from trading.core.types import Action, CheckResult, Plan, Position
from trading.execution.approval import approve_plan
from trading.execution.executor import OrderParameters, execute
from trading.execution.reconciliation import expected_holdings, reconcile
from trading.testing.binance_server import Counter, SignatureCheck, make_exchange, served
from trading.venues.crypto.venue import CcxtVenue
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import QuoteFeed

KEY, SECRET, NOON, ZERO = "public-key", "private-secret", datetime(2024, 1, 2, 12, tzinfo=UTC), Decimal(0)
MARKETS = {
    "BTC/USDT": Instrument("BTC/USDT", Decimal("0.00001"), Decimal("0.01"), min_cost=Decimal(5)),
    "ETH/BTC": Instrument("ETH/BTC", Decimal("0.0001"), Decimal("0.000001")),
    "PEPE/USDT": Instrument("PEPE/USDT", Decimal(1), Decimal("0.00000001")),
}
OPTIONS = {"apiKey": KEY, "secret": SECRET, "enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}}
DAYS = pd.date_range("2023-12-28", periods=6, freq="D", tz="UTC")
BARS = bars_from({"BTC/USDT": pd.DataFrame({f: [40_000.0 + 10 * n + i for n in range(6)] for i, f in enumerate(FIELDS)}, index=DAYS)})


@pytest.fixture
def place():
    "The exchange: its paper venue, its prices and its address."
    prices = {"BTC/USDT": Decimal("40000.00"), "ETH/BTC": Decimal("0.055"), "PEPE/USDT": Decimal("0.00000123")}
    venue = PaperVenue(QuoteFeed(lambda s, t: prices.get(s)), lambda: NOON, MARKETS, TradingCosts(Decimal("0.001"), ZERO, ZERO),
                       {"USDT": Decimal(100_000), "BTC": Decimal(1)}, "USDT")
    venue.prices = prices
    with served(make_exchange(Counter(venue, lambda: NOON, BARS), SignatureCheck(KEY, SECRET))) as venue.url:
        yield venue
    venue.close()


def redirect(client, url):
    "Send a stock client to another address, and change nothing else."
    client.urls["api"] = {name: re.sub(r"https://[^/]+", url, address) for name, address in client.urls["api"].items()}
    return client


@pytest.fixture
def client(place):
    made = redirect(ccxt.binance(dict(OPTIONS)), place.url)
    made.session.trust_env = False
    return made


def test_what_can_be_traded_is_read_with_its_precision(client):
    markets = client.load_markets()
    assert set(markets) == set(MARKETS) and markets["PEPE/USDT"]["precision"] == {**markets["PEPE/USDT"]["precision"], "amount": 1.0, "price": 1e-8}
    assert markets["BTC/USDT"]["limits"]["cost"]["min"] == 5 and client.fetch_time() > 0


def test_a_market_order_is_created_looked_up_by_its_client_id_and_listed_as_trade(client, place):
    order = client.create_order("BTC/USDT", "market", "buy", 0.5, None, {"newClientOrderId": "mine-1"})
    assert (order["status"], order["filled"], order["average"], order["clientOrderId"]) == ("closed", 0.5, 40_000, "mine-1")
    assert order["trades"][0]["fee"] == {"cost": 20.0, "currency": "USDT"}
    again = client.fetch_order(None, "BTC/USDT", {"origClientOrderId": "mine-1"})
    by_number = client.fetch_order(order["id"], "BTC/USDT")
    assert again["id"] == by_number["id"] == order["id"] and again["filled"] == 0.5
    (trade,) = client.fetch_my_trades("BTC/USDT")
    assert (trade["amount"], trade["price"], trade["side"], trade["order"]) == (0.5, 40_000, "buy", order["id"])
    assert client.fetch_balance()["total"] == {"USDT": 79_980.0, "BTC": 1.5}
    assert place.fetch_balance() == {"USDT": Decimal("79980"), "BTC": Decimal("1.5")}


def test_a_limit_order_waits_holds_its_money_and_is_cancelled(client):
    order = client.create_order("BTC/USDT", "limit", "buy", 1, 30_000, {"newClientOrderId": "mine-2"})
    assert order["status"] == "open" and [o["id"] for o in client.fetch_open_orders("BTC/USDT")] == [order["id"]]
    assert client.fetch_open_orders("ETH/BTC") == [] and client.fetch_balance()["USDT"] == {"free": 69_970, "used": 30_030, "total": 100_000}
    assert client.cancel_order(None, "BTC/USDT", {"origClientOrderId": "mine-2"})["status"] == "canceled"
    assert client.fetch_open_orders("BTC/USDT") == [] and client.fetch_balance()["USDT"]["used"] == 0
    assert client.fetch_order(order["id"], "BTC/USDT")["status"] == "canceled"


def test_a_limit_order_is_filled_when_the_market_comes(client, place):
    client.create_order("BTC/USDT", "limit", "buy", 1, 39_000, {"newClientOrderId": "mine-3"})
    place.prices["BTC/USDT"] = Decimal("38500.00")
    assert client.fetch_order(None, "BTC/USDT", {"origClientOrderId": "mine-3"})["status"] == "closed"
    assert client.fetch_my_trades("BTC/USDT")[0]["price"] <= 39_000


@pytest.mark.parametrize(("kind", "params", "status"), [
    ("limit", {"timeInForce": "IOC"}, "expired"), ("limit", {"timeInForce": "FOK"}, "expired"), ("limit", {"postOnly": True}, "open"),
    ("limit", {"triggerPrice": 45_000}, "open"), ("market", {"triggerPrice": 45_000}, "open"),
])
def test_each_kind_of_order_arrives_as_it_was_meant(client, kind, params, status):
    order = client.create_order("BTC/USDT", kind, "buy", 0.01, 39_000 if kind == "limit" else None, params)
    seen = client.fetch_order(order["id"], "BTC/USDT")
    assert seen["status"] == status and seen["filled"] == 0 and seen["triggerPrice"] == params.get("triggerPrice")
    assert seen["timeInForce"] == params.get("timeInForce", "GTC") and bool(seen["postOnly"]) == ("postOnly" in params)


def test_the_same_id_twice_is_a_duplicate_and_buys_once(client, place):
    client.create_order("BTC/USDT", "market", "buy", 0.5, None, {"newClientOrderId": "once"})
    with pytest.raises(ccxt.InvalidOrder, match="Duplicate order sent"):
        client.create_order("BTC/USDT", "market", "buy", 0.5, None, {"newClientOrderId": "once"})
    assert len(place.fetch_my_trades(None)) == 1


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda c: c.create_order("BTC/USDT", "market", "buy", 9), ccxt.InsufficientFunds, "insufficient balance"),
    (lambda c: c.create_order("BTC/USDT", "limit", "buy", 0.00001, 30_000), ccxt.BadRequest, "NOTIONAL"),
    (lambda c: c.create_order("BTC/USDT", "limit", "buy", 0.1, 50_000, {"postOnly": True}), ccxt.ExchangeError, "immediately match"),
    (lambda c: c.fetch_order("999", "BTC/USDT"), ccxt.OrderNotFound, "-2013"),
    (lambda c: c.fetch_order(None, "ETH/BTC", {"origClientOrderId": "nobody"}), ccxt.OrderNotFound, "-2013"),
    (lambda c: c.cancel_order("999", "BTC/USDT"), ccxt.OrderNotFound, "-2011"),
    (lambda c: c.fetch_ohlcv("BTC/USDT", "1h"), ccxt.ExchangeError, "-1120"),
])
def test_each_error_has_the_class_that_binance_gives_it(client, place, call, error, words):
    with pytest.raises(error, match=words):
        call(client)
    assert place.fetch_my_trades(None) == [] and place.fetch_balance() == {"USDT": Decimal(100_000), "BTC": Decimal(1)}


def test_a_rejected_order_was_never_there(client):
    with pytest.raises(ccxt.InsufficientFunds):
        client.create_order("BTC/USDT", "market", "buy", 9, None, {"newClientOrderId": "too-much"})
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order(None, "BTC/USDT", {"origClientOrderId": "too-much"})


@pytest.mark.parametrize(("change", "error"), [
    ({"secret": "guessed"}, ccxt.AuthenticationError), ({"apiKey": "stolen"}, ccxt.AuthenticationError),
    ({"milliseconds": lambda: 1_000}, ccxt.InvalidNonce),
])
def test_a_stranger_is_sent_away(client, place, change, error):
    client.load_markets()
    for name, value in change.items():
        setattr(client, name, value)
    with pytest.raises(error):
        client.create_order("BTC/USDT", "market", "buy", 0.1)
    assert place.fetch_my_trades(None) == []


def test_prices_and_bars(client):
    assert client.fetch_ticker("PEPE/USDT")["last"] == 0.00000123
    assert {s: t["last"] for s, t in client.fetch_tickers(["BTC/USDT", "ETH/BTC"]).items()} == {"BTC/USDT": 40_000, "ETH/BTC": 0.055}
    rows = client.fetch_ohlcv("BTC/USDT", "1d", int(DAYS[1].timestamp() * 1000), 2)
    assert rows == [[int(DAYS[n].timestamp() * 1000), *(40_000.0 + 10 * n + i for i in range(5))] for n in (1, 2)]
    assert len(client.fetch_ohlcv("BTC/USDT", "1d")) == 5  # the bar of this noon is still open


def test_prices_of_a_hundred_millionth_keep_their_digits(client, place):
    order = client.create_order("PEPE/USDT", "limit", "buy", 7_000_001, 0.00000124, {"newClientOrderId": "meme"})
    assert order["status"] == "closed" and place.fetch_balance()["PEPE"] == 7_000_001
    assert client.fetch_my_trades("PEPE/USDT")[0]["price"] == 0.00000123


def test_the_async_client_trades_too(place):
    import ccxt.async_support as ccxt_async

    async def trade():
        client = redirect(ccxt_async.binance(dict(OPTIONS)), place.url)
        try:
            await client.load_markets()
            names = [{"newClientOrderId": f"a{n}"} for n in range(20)]
            return await asyncio.gather(*(client.create_order("BTC/USDT", "market", "buy", 0.01, None, name) for name in names))
        finally:
            await client.close()

    orders = asyncio.run(trade())
    assert {o["status"] for o in orders} == {"closed"} and len({o["id"] for o in orders}) == len(place.fetch_my_trades(None)) == 20


def test_nonsense_is_answered_with_an_error_and_never_with_a_crash(place):
    with httpx.Client(base_url=place.url, trust_env=False) as web:
        for path in ("/api/v3/klines?symbol=BTCUSDT&interval=1d&limit=many", "/api/v3/ticker/price?symbols=[", "/api/v3/klines", "/api/v3/order",
                     "/api/v3/nothing", "/api/v3/account?timestamp=now&signature=00", "/sapi/v1/asset/wallet", "/api/v3/ticker/price?symbol=%00"):
            answer = web.get(path)
            assert 400 <= answer.status_code < 500 and answer.json()["code"] < 0, path
        assert web.put("/api/v3/order").status_code == 405 and web.get("/api/v3/ping").json() == {}


def test_our_own_ccxt_venue_executes_a_plan_here_and_the_books_agree(place, tmp_path):
    now = NOON
    venue = CcxtVenue("binance", KEY, SECRET, base_url=place.url, symbols=("BTC/USDT",))
    with pytest.raises(MissingData):
        venue.fetch_order("nobody", "BTC/USDT")
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.open_account("mine", "USDT", Decimal(100_000), now, [Position("BTC/USDT", Decimal(1), Decimal(40_000))])
    plan = Plan("mine", now, "USDT", Decimal(140_000), Decimal(100_000), (Action("BTC/USDT", "buy", Decimal("0.25"), Decimal(40_000), "a test"),))
    approve_plan(ledger, plan, "the test", now)
    done = execute(plan, CheckResult(plan.hash, (), ("a rule",)), venue, ledger, lambda: now, OrderParameters(Decimal("0.001")), sleep=lambda s: None)
    assert not done.failed and done.fees == 10 and expected_holdings(ledger.book("mine")) == place.fetch_balance()
    assert reconcile(ledger, venue, "mine", now, sleep=lambda s: None).ok
