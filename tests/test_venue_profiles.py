"What differs between venues comes from the table: ids, market buys, stops, look-up, candles, trades, coins; stock ccxt, its `fetch` replaced."

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from urllib.parse import parse_qs, urlparse

import ccxt
import pytest

from trading.core.errors import BadInput, NotSent, Refused, UnknownOutcome, VenueError
from trading.core.types import Order
from trading.core.venue_profiles import PROFILES, require_contract
from trading.venues.crypto.venue import CcxtVenue

OURS = "ade0dfc2f763a31a5ff6c87f"
CRYPTO = [name for name in PROFILES if name in ccxt.exchanges and name != "alpaca"]
NAMES = {"binance": "BTCUSDT", "binanceus": "BTCUSDT", "kraken": "XBTUSDT", "coinbase": "BTC-USDT", "bingx": "BTC-USDT", "okx": "BTC-USDT",
         "bybit": "BTCUSDT", "kucoin": "BTC-USDT", "gate": "BTC_USDT", "bitget": "BTCUSDT"}  # fmt: skip
ORDER_TYPES = ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"]  # as Binance lists them


def venue_of(name: str, answer=None) -> CcxtVenue:
    "Return a venue whose markets are known and whose requests are kept; `answer(path, parameters)` answers them, or nobody does."
    venue = CcxtVenue(name, "k" * 32, "c2VjcmV0c2VjcmV0c2VjcmV0", "p")
    exchange, venue.sent, venue.wait = venue._ccxt, [], 0.0
    tick = exchange.precisionMode == ccxt.TICK_SIZE
    exchange.set_markets(
        [
            {
                "id": NAMES[name],
                "symbol": "BTC/USDT",
                "base": "BTC",
                "quote": "USDT",
                "baseId": "BTC",
                "quoteId": "USDT",
                "spot": True,
                "active": True,
                "type": "spot",
                "info": {"orderTypes": ORDER_TYPES},
                "limits": {},
                "precision": {"amount": 1e-8 if tick else 8, "price": 0.01 if tick else 2},
            }
        ]
    )
    exchange.load_markets = lambda *a, **k: exchange.markets
    exchange.options |= {"enableUnifiedMargin": False, "enableUnifiedAccount": True, "uta": False, "unifiedAccount": False}

    def fetch(url, method="GET", headers=None, body=None):
        given = {k: v[0] for k, v in parse_qs(urlparse(url).query).items()}
        given |= (
            json.loads(body)
            if str(body or "").startswith("{")
            else json.loads(body)[0]
            if str(body or "").startswith("[")
            else {k: v[0] for k, v in parse_qs(body or "").items()}
        )
        venue.sent.append((method, urlparse(url).path, given))
        if answer is None:
            raise ccxt.RequestTimeout("lost")
        return answer(urlparse(url).path, given)

    exchange.fetch = fetch
    return venue


def leaves(value) -> list[str]:
    "Return every scalar in nested parameters as text."
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [str(value)] if parts is None else [leaf for part in parts for leaf in leaves(part)]


@pytest.mark.parametrize("name", CRYPTO)
def test_our_id_reaches_the_venue_in_a_form_that_it_takes_and_is_recognised_again(name):
    venue, profile = venue_of(name), PROFILES[name]
    with pytest.raises(UnknownOutcome):
        venue.create_order(Order(OURS, "BTC/USDT", "buy", D("0.01"), "limit", D(50000)))
    form = profile.fitted(OURS)
    assert re.fullmatch(profile.id_pattern, form) and profile.ours(form) == OURS
    assert form in leaves(venue.sent[-1][2]) and not [x for x in leaves(venue.sent[-1][2]) if x.startswith("ccxt-")]


@pytest.mark.parametrize("strange", ["a" * 60, "ümlaut/id", "x", "Order 1", "0" * 24, "T-1", "t-9", "f" * 32])
@pytest.mark.parametrize("name", CRYPTO)
def test_any_id_is_fitted_the_same_way_each_time_and_found_again_in_the_venue_s_memory(name, strange):
    venue = venue_of(name)
    form = PROFILES[name].fitted(strange)
    assert re.fullmatch(PROFILES[name].id_pattern, form) and PROFILES[name].fitted(strange) == form
    venue.learn_orders([(strange, "", "", 0.0, None)])
    assert venue.own_id(form) == strange


@pytest.mark.parametrize("name", CRYPTO)
@pytest.mark.parametrize("force", ["GTC", "IOC", "FOK", "PO"])
def test_a_time_in_force_reaches_the_venue_or_is_refused_here(name, force):
    venue = venue_of(name)
    order = Order(OURS, "BTC/USDT", "sell", D("0.01"), "limit", D(50000), time_in_force=force)
    if force in PROFILES[name].times_in_force:
        with pytest.raises(UnknownOutcome):
            venue.create_order(order)
        words = json.dumps(venue.sent[-1][2]).lower()
        assert force == "GTC" or any(w in words for w in {"IOC": ["ioc"], "FOK": ["fok"], "PO": ["post", "poc", "limit_maker"]}[force])
    else:
        with pytest.raises(BadInput, match=f"takes no orders with {force}"):
            venue.create_order(order)
        assert not [s for s in venue.sent if s[0] != "GET"]


@pytest.mark.parametrize("name", CRYPTO)
@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_stop_leaves_as_a_stop_with_its_trigger(name, side):
    profile, venue = PROFILES[name], venue_of(name)
    trigger = D(45000) if side == "sell" else D(55000)
    with pytest.raises(UnknownOutcome):
        venue.create_order(Order(OURS, "BTC/USDT", side, D("0.01"), "stop_limit", D(44900) if side == "sell" else D(55100), trigger))
    method, path, given = venue.sent[-1]
    text = json.dumps(given).lower()
    assert any(D(x) == trigger for x in leaves(given) if re.fullmatch(r"[\d.]+", x)), given
    assert any(w in text + path for w in ("stop", "trigger", "price_orders", "plan", "slord")), (path, given)
    if name == "coinbase":
        assert ("stop_direction_stop_down" in text) == (side == "sell")
    if not profile.stop_market:
        with pytest.raises(BadInput, match="stop orders only with a limit price"):
            venue.create_order(Order(OURS, "BTC/USDT", side, D("0.01"), "stop", stop_price=trigger))


def test_a_word_that_ccxt_drops_is_caught_before_the_order_leaves():
    venue = venue_of("kraken")
    venue.profile = PROFILES["kraken"].but(stop_word="triggerPrice")
    with pytest.raises(BadInput, match="lacks the trigger 45000; nothing was sent: this is a mistake of the program"):
        venue.create_order(Order(OURS, "BTC/USDT", "sell", D("0.01"), "stop", stop_price=D(45000)))
    assert venue.sent == []


@pytest.mark.parametrize("amount", ["0.0000000049", "0.123456789123"])
@pytest.mark.parametrize("name", CRYPTO)
def test_an_amount_off_the_venue_s_steps_is_not_cut_in_silence(name, amount):
    venue = venue_of(name)
    with pytest.raises(BadInput, match="no multiple of the steps"):
        venue.create_order(Order(OURS, "BTC/USDT", "sell", D(amount), "limit", D(50000)))
    assert not [s for s in venue.sent if s[0] != "GET"]


@pytest.mark.parametrize("name", ["gate", "bitget"])
def test_without_a_price_a_purchase_that_is_counted_in_money_is_not_sent_and_that_is_known(name):
    venue = venue_of(name)
    with pytest.raises(NotSent, match="nothing was sent"):
        venue.create_order(Order(OURS, "BTC/USDT", "buy", D("0.01")))
    assert not [s for s in venue.sent if s[0] != "GET"]


def test_a_candle_window_without_bars_is_a_hole_and_the_time_before_listing_is_passed():
    venue, day = venue_of("coinbase"), 86_400_000
    stamp = lambda text: int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)  # noqa: E731
    have = [t for t in range(stamp("2020-01-01"), stamp("2024-06-30"), day) if not stamp("2021-01-20") <= t < stamp("2023-07-13")]
    asked = []

    def pages(symbol, timeframe, since, limit, params={}):  # noqa: B006
        asked.append((timeframe, limit))
        length = day if timeframe == "1d" else 3_600_000
        times = have if timeframe == "1d" else [t + h * 3_600_000 for t in have for h in range(24)]
        return [[t, 1.0, 1.1, 0.9, 1.0, 5.0] for t in times if since <= t < since + min(limit or 300, 300) * length]

    venue._ccxt.fetch_ohlcv = pages
    until = datetime(2024, 6, 1, tzinfo=UTC)
    for since in (datetime(2020, 1, 1, tzinfo=UTC), datetime(2018, 1, 1, tzinfo=UTC), None):
        bars = venue.fetch_ohlcv("BTC/USDT", "1d", since, until)
        assert (len(bars), str(bars.index[-1].date())) == (385 + 324, "2024-05-31")  # days of 2020-01-01..2021-01-19 and 2023-07-13..2024-05-31
    asked.clear()
    hours = venue.fetch_ohlcv("BTC/USDT", "1h", datetime(2021, 1, 1, tzinfo=UTC), datetime(2023, 8, 1, tzinfo=UTC))
    assert len(hours) == 19 * 24 + 19 * 24 and len(asked) < 20  # the hole is passed by days, not by hours


@pytest.mark.parametrize(("name", "total", "info", "expected"), [
    ("kraken", {"ETH.F": 0.5, "ETH": 1, "DOT28.S": 7, "USDT": 3}, {"result": {}}, {"ETH": D("1.5"), "DOT": D(7), "USDT": D(3)}),
    ("binance", {"LDBTC": 0.25, "BTC": 1, "LDO": 4}, {"balances": []}, {"BTC": D("1.25"), "LDO": D(4)}),
    ("kraken", {}, {"error": [], "result": {}}, {}),
    ("okx", {}, {"data": [{"details": []}]}, {}),
    ("bybit", {}, {"result": {"list": []}}, {}),
    ("gate", {}, [], {}),
])  # fmt: skip
def test_staked_and_lent_coins_are_that_coin_with_a_note_and_an_empty_balance_is_proven(name, total, info, expected):
    venue = venue_of(name)
    venue._ccxt.fetch_balance = lambda *a: {"total": total, "info": info}
    assert venue.fetch_balance() == expected
    assert len(venue.coin_notes) == sum("." in c or c == "LDBTC" for c in total)


@pytest.mark.parametrize(
    ("name", "info"),
    [("binance", {}), ("kraken", {"error": []}), ("okx", {"data": []}), ("bybit", {"result": {}}), ("gate", "<html>"), ("bitget", None)],
)
def test_an_answer_without_the_list_of_balances_is_no_empty_account(name, info):
    venue = venue_of(name)
    venue._ccxt.fetch_balance = lambda *a: {"total": {}, "info": info}
    with pytest.raises(VenueError, match="without contents"):
        venue.fetch_balance()


def test_several_fees_of_one_trade_are_booked_each_in_its_coin():
    trade = {"id": "7", "order": "9", "symbol": "BTC/USDT", "side": "buy", "timestamp": 1_700_000_000_000, "price": 30000, "amount": 0.3,
             "fees": [{"cost": 0.0003, "currency": "BTC"}, {"cost": 9, "currency": "USDT"}, {"cost": 5, "currency": "GATEPOINT"}]}  # fmt: skip
    venue = venue_of("gate")
    venue._ccxt.fetch_my_trades = lambda *a: [trade]
    fills = venue.fetch_my_trades(datetime(2023, 1, 1, tzinfo=UTC))
    assert sum(f.amount for f in fills) == D("0.3") and {f.price for f in fills} == {D(30000)} and len({f.id for f in fills}) == 3
    assert sum(f.units for f in fills) == D("0.3") - D("0.0003") and sum(f.cash for f in fills) == -9000 - 9
    assert [(f.fee_currency, f.fee_amount) for f in fills if f.fee_currency] == [("BTC", D("0.0003")), ("GATEPOINT", D(5))]


def test_a_state_that_nobody_knows_is_kept_and_does_not_spoil_the_others():
    row = {"id": "1", "clientOrderId": "t-" + OURS, "symbol": "BTC/USDT", "side": "buy", "amount": 1, "filled": 0.25, "status": "half_frozen"}
    venue = venue_of("gate")
    venue._ccxt.fetch_open_orders = lambda *a: [row, row | {"id": "2", "clientOrderId": "web", "status": "open"}]
    strange, plain = venue.fetch_open_orders()
    assert (strange.client_order_id, strange.status, strange.filled, strange.ended) == (
        OURS,
        "unknown",
        D("0.25"),
        False,
    ) and "'half_frozen'" in strange.reason
    assert plain.status == "open" and plain.client_order_id == "web"


def test_a_full_list_without_our_order_proves_nothing():
    venue = venue_of("coinbase")
    rows = [
        {"id": str(n), "clientOrderId": f"other-{n}", "symbol": "BTC/USDT", "side": "buy", "amount": 1, "filled": 0, "status": "open"}
        for n in range(100)
    ]
    venue._ccxt.fetch_orders = lambda *a: rows
    with pytest.raises(UnknownOutcome, match="not among the newest 100 orders"):
        venue.fetch_order(OURS, "BTC/USDT")


@pytest.mark.parametrize("name", CRYPTO)
def test_trades_of_a_month_are_all_found_whichever_end_the_venue_begins_at(name):
    profile, venue = PROFILES[name], venue_of(name)
    now, hour = venue._ccxt.milliseconds(), 3_600_000
    times = [now - n * 3 * hour for n in range(240, 0, -1)]  # every three hours for thirty days

    def page(symbol, since, limit, params):
        end = params.get("until", 10**15)
        assert not profile.trades_days or end - since <= profile.trades_days * 86_400_000, "the venue refuses longer windows"
        rows = [t for t in times if (since or 0) <= t <= end]
        rows = rows[::-1] if profile.trades_newest else rows
        begin = params.get(profile.trades_offset, 0) if profile.trades_offset else 0
        return [
            {"id": str(t), "order": "x", "symbol": "BTC/USDT", "side": "buy", "price": 1, "amount": 1, "timestamp": t, "info": {},
             "fee": {"cost": 0, "currency": "USDT"}}
            for t in rows[begin : begin + min(profile.trades_page, 60)]
        ]

    venue._ccxt.fetch_my_trades = page
    got = venue.fetch_my_trades(datetime.fromtimestamp(times[0] / 1000, UTC), ["BTC/USDT"])
    assert len(got) == 240 and got[0].timestamp < got[-1].timestamp - timedelta(days=29)


def test_a_venue_that_is_not_in_the_table_or_fails_a_point_takes_no_real_orders(monkeypatch):
    with pytest.raises(Refused, match="bitfinex takes no real orders: nobody has held it to its documentation; choose one of binance"):
        require_contract("bitfinex")
    monkeypatch.setitem(PROFILES, "gate", PROFILES["gate"].but(failing={"look-up": "an order is lost after an hour"}))
    with pytest.raises(Refused, match=re.escape("Gate takes no real orders: it fails look-up (an order is lost after an hour)")):
        require_contract("gate")
