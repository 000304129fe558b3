"""Mt5Venue against a real server on loopback: the bridge, with a simulated terminal behind it."""

import inspect
import itertools
import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx
import numpy as np
import pandas as pd
import pyotp
import pytest
import uvicorn
from waiting import wait_until

from trading.core.errors import BadInput, Locked, MissingData, Refused, UnknownOutcome, VenueError, VenueUnreachable
from trading.core.margin import MarginTerms
from trading.core.types import MarketData, Order, Venue
from trading.venues.mt5.bridge import make_bridge
from trading.venues.mt5.client import Mt5Venue, sign
from trading.venues.mt5.constants import CONSTANTS, FUNCTIONS
from trading.venues.mt5.simulated_broker import Contract
from trading.venues.mt5.simulated_terminal import SimulatedTerminal

KEY, ACCOUNT = "loopback-key-of-the-tests", 5_000_001
NOW = datetime(2024, 3, 29, 12, 30, tzinfo=UTC)  # two days before Europe's clocks change; America's have changed already
ZONE = "America/New_York+7"
CONTRACTS = [
    Contract("EURUSD.m", "EUR", "USD", commission=3.5),
    Contract("USDJPY.m", "USD", "JPY", digits=3, filling=2, commission=3.5),
    Contract("GOLD.m", "XAU", "USD", digits=2, size=100, stops_level=50),
    Contract("GBPUSD.m", "GBP", "USD", execution=1, filling=1),
]


def hourly(days: int = 60) -> pd.DataFrame:
    index = pd.date_range(NOW.replace(hour=0, minute=0) - timedelta(days=days), NOW, freq="h")
    close = 1.1 + np.random.default_rng(5).normal(0, 1e-3, len(index)).cumsum()
    first = np.r_[close[0], close[:-1]]
    high, low = np.maximum(close, first) + 1e-4, np.minimum(close, first) - 1e-4
    return pd.DataFrame({"open": first, "high": high, "low": low, "close": close, "volume": np.arange(len(index)) + 1.0}, index=index)


class Bridge:
    """A bridge that listens on a free port of this machine."""

    def __init__(self, hedging: bool = False, **change):
        self.bars, self.asked = hourly(), itertools.count()
        self.terminal = SimulatedTerminal(CONTRACTS, {"EURUSD.m": self.bars}, ZONE, clock=lambda: NOW, hedging=hedging)
        self.terminal.initialize()
        for name, bid, ask in (("EURUSD.m", 1.0999, 1.1001), ("USDJPY.m", 149.99, 150.01), ("GOLD.m", 1999.0, 2001.0), ("GBPUSD.m", 1.2599, 1.2601)):
            self.terminal.quote(name, bid, ask)
        options = {"keys": {"tests": KEY}, "account": ACCOUNT, "zone": ZONE, "suffix": ".m", "names": {"XAU/USD": "GOLD.m"}, "clock": lambda: NOW}
        self.app = make_bridge(self.terminal, **options | change)

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_level="critical", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(5)
        self.socket.close()

    def venue(self, **change) -> Mt5Venue:
        return Mt5Venue(**{"url": self.url, "key": KEY, "account": ACCOUNT, "timeout": 5.0, "clock": self.clock} | change)

    def clock(self) -> datetime:
        return NOW + timedelta(seconds=next(self.asked) % 25)  # no two requests are signed alike


@pytest.fixture
def bridge():
    with Bridge() as running:
        yield running


@pytest.fixture
def venue(bridge):
    return bridge.venue()


def order(client_order_id="c0ffee" * 4, symbol="EUR/USD", side="buy", amount=10_000, **rest) -> Order:
    return Order(client_order_id, symbol, side, Decimal(amount), **rest)


def lots(bridge) -> dict[str, float]:
    return {p.symbol: p.volume * (1 if p.type == 0 else -1) for p in bridge.terminal.positions_get()}


# ---- prices


def test_is_a_venue_and_a_source_of_prices(venue):
    assert isinstance(venue, Venue) and isinstance(venue, MarketData) and venue.health()["ok"]


def test_hourly_bars_are_those_of_the_source_in_utc_across_a_change_of_the_clock(bridge, venue):
    frame = venue.fetch_ohlcv("EUR/USD", "1h", NOW - timedelta(days=40), NOW)
    truth = bridge.bars[NOW - timedelta(days=40) : NOW - timedelta(hours=1)]  # New York's clocks changed on 10 March
    assert frame.index.equals(truth.index.as_unit("us").rename("timestamp"))
    np.testing.assert_allclose(frame.to_numpy(), truth.to_numpy(), rtol=0, atol=1e-12)


def test_daily_bars_begin_at_the_servers_midnight(bridge, venue):
    frame = venue.fetch_ohlcv("EUR/USD", "1d", NOW - timedelta(days=30), NOW)
    offset = frame.index.hour
    change = pd.Timestamp("2024-03-10", tz="UTC")
    assert set(offset[frame.index < change]) == {22} and set(offset[frame.index > change + pd.Timedelta("1D")]) == {21}
    day = bridge.bars[frame.index[5] : frame.index[6] - pd.Timedelta("1s")]
    assert frame["high"].iloc[5] == day["high"].max() and frame["volume"].iloc[5] == day["volume"].sum()


def test_the_bar_that_is_being_written_is_not_told(venue):
    assert venue.fetch_ohlcv("EUR/USD", "1h", NOW - timedelta(hours=3), NOW).index[-1] == pd.Timestamp("2024-03-29 11:00", tz="UTC")


def test_tickers_are_the_middle_and_markets_count_units(venue):
    assert venue.fetch_tickers(["EUR/USD", "XAU/USD"]) == {"EUR/USD": Decimal("1.1"), "XAU/USD": Decimal(2000)}
    markets = venue.load_markets()
    assert set(markets) == {"EUR/USD", "USD/JPY", "XAU/USD", "GBP/USD"}
    assert {m.max_leverage for m in markets.values()} == {100}  # what the broker gives the account
    with pytest.raises(BadInput, match="margin.leverage is 200 and mt5 allows .* at most 100"):
        MarginTerms(leverage=Decimal(200)).at_venue(markets)
    assert markets["EUR/USD"].amount_step == 1000 and markets["USD/JPY"].price_step == Decimal("0.001") and markets["XAU/USD"].min_amount == 1


def test_an_unknown_symbol_and_time_frame_are_named(venue):
    with pytest.raises(MissingData, match="EUR/USB.*did you mean EUR/USD"):
        venue.fetch_tickers(["EUR/USB"])
    with pytest.raises(BadInput, match="has no time frame '7m'"):
        venue.fetch_ohlcv("EUR/USD", "7m", NOW, NOW)


def test_a_wrong_server_zone_is_noticed():
    with Bridge(zone="UTC") as wrong, pytest.raises(BadInput, match="in the future: the server's zone is not UTC"):
        wrong.venue().fetch_tickers(["EUR/USD"])


# ---- orders


def test_a_market_order_is_filled_and_found_again_everywhere(bridge, venue):
    state = venue.create_order(order())
    assert (state.status, state.filled, state.average, state.fee) == ("closed", 10_000, Decimal("1.1001"), Decimal("0.35"))
    assert venue.fetch_order("c0ffee" * 4, "EUR/USD") == state
    (fill,) = venue.fetch_my_trades(NOW - timedelta(hours=1))
    assert (fill.client_order_id, fill.amount, fill.price, fill.fee) == ("c0ffee" * 4, 10_000, Decimal("1.1001"), Decimal("0.35"))
    assert fill.timestamp == NOW
    balance = venue.fetch_balance()
    assert balance == {"EUR": 10_000, "USD": Decimal("9999.65") - 10_000 * Decimal("1.1001")}  # as if the euros had been paid for
    sent = bridge.terminal.history_orders_get(ticket=int(state.id))[0]
    assert sent.comment == "c0ffee" * 4 and 0 < sent.magic < 2**52


def test_a_fee_in_another_currency_is_converted_with_the_terminals_own_rate(venue):
    state = venue.create_order(order(symbol="USD/JPY"))
    assert abs(state.fee - Decimal("0.35") * 150) < Decimal("0.01")


def test_the_same_id_trades_once_even_when_asked_by_two_at_once(bridge):
    venue = bridge.venue()
    states, threads = [], []
    for _ in range(8):
        threads.append(threading.Thread(target=lambda: states.append(venue.create_order(order()))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(states) == 8 and len(set(states)) == 1 and lots(bridge) == {"EURUSD.m": 0.1}


def test_a_recorded_order_cannot_be_played_again(bridge, venue):
    body = b'{"account": 1, "order": {}}'
    at = int(NOW.timestamp())
    head = {"X-Time": str(at), "X-Sign": sign(KEY, "POST", "/order", body, at), "Content-Type": "application/json"}
    answers = [httpx.post(bridge.url + "/order", content=body, headers=head) for _ in range(2)]
    assert [a.status_code for a in answers] == [403, 409] and "received before" in answers[1].text


@pytest.mark.parametrize("fault", ["requote", "bad fill"])
def test_what_the_server_refused_is_asked_again(bridge, venue, fault):
    bridge.terminal.faults = [fault]
    assert venue.create_order(order()).filled == 10_000 and lots(bridge) == {"EURUSD.m": 0.1}


def test_endless_requotes_end_as_a_refusal(bridge, venue):
    bridge.terminal.faults = ["requote"] * 50
    state = venue.create_order(order())
    assert state.status == "rejected" and "10004" in state.reason and lots(bridge) == {}


def test_a_price_that_runs_away_is_not_followed(bridge):
    real = bridge.terminal.order_send

    def running(request):
        bid, ask = bridge.terminal.desk.quotes["GBPUSD.m"]
        bridge.terminal.quote("GBPUSD.m", round(bid + 0.0015, 5), round(ask + 0.0015, 5))  # 150 points
        return real(request)

    bridge.terminal.order_send = running
    state = bridge.venue().create_order(order(symbol="GBP/USD"))
    assert state.status == "rejected" and "more than 20 points" in state.reason and lots(bridge) == {}


def test_a_lost_answer_is_cleared_up_by_the_books(bridge, venue):
    bridge.terminal.faults = ["lost after"]
    assert venue.create_order(order()).status == "closed" and lots(bridge) == {"EURUSD.m": 0.1}


def test_books_that_are_written_late_are_waited_for(bridge, venue):
    real, calls = bridge.terminal.history_orders_get, itertools.count()
    bridge.terminal.history_orders_get = lambda *a, **k: () if next(calls) < 4 else real(*a, **k)
    late, deals = bridge.terminal.history_deals_get, itertools.count()
    bridge.terminal.history_deals_get = lambda *a, **k: () if next(deals) < 2 else late(*a, **k)
    state = venue.create_order(order())
    assert state.filled == 10_000 and state.average == Decimal("1.1001") and lots(bridge) == {"EURUSD.m": 0.1}


def test_a_lost_request_is_an_unknown_outcome_and_then_known_not_to_exist(bridge, venue):
    bridge.terminal.faults = ["lost before"]
    with pytest.raises(UnknownOutcome, match="look the order up"):
        venue.create_order(order())
    with pytest.raises(MissingData, match="knows no order"):
        venue.fetch_order("c0ffee" * 4, "EUR/USD")
    assert lots(bridge) == {}


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"amount": 1500}, None, "steps of 1000"),
        ({"symbol": "XAU/USD", "type": "limit", "price": Decimal("2000.8"), "amount": 10}, "rejected", "10015"),
        ({"type": "limit", "price": Decimal("1.2")}, "rejected", "must be a market order"),
        ({"amount": 5_000_000}, "rejected", "10019"),
        ({"symbol": "USD/JPY", "time_in_force": "FOK"}, None, "no filling mode for FOK"),
        ({"symbol": "MOON"}, None, "does not know 'MOON'"),
    ],
)
def test_orders_that_cannot_be_are_refused_with_the_reason(bridge, venue, change, status, words):
    if status:
        state = venue.create_order(order(**change))
        assert state.status == status and words in state.reason and state.filled == 0
    else:
        with pytest.raises((BadInput, MissingData), match=words):
            venue.create_order(order(**change))
    assert lots(bridge) == {} and not bridge.terminal.orders_get()


def test_a_closed_market_rejects_and_a_switched_off_terminal_is_unreachable(bridge, venue):
    bridge.terminal.desk.closed.add("EURUSD.m")
    assert "market is closed" in venue.create_order(order()).reason
    bridge.terminal.desk.closed.clear()
    bridge.terminal.autotrading = False
    with pytest.raises(VenueUnreachable, match="Algo Trading"):
        venue.create_order(order("another"))
    assert not venue.health()["ok"]
    bridge.terminal.autotrading = True
    assert venue.create_order(order("another")).status == "closed"


def test_invalid_stops_are_the_servers_10016(bridge):
    mt5 = bridge.terminal
    request = {"action": mt5.TRADE_ACTION_DEAL, "symbol": "GOLD.m", "volume": 0.1, "type": 0, "sl": 1998.8, "type_filling": 0}
    assert mt5.order_send(request).retcode == 10016  # nearer than 50 points


def test_waiting_orders_are_listed_filled_and_cancelled(bridge, venue):
    low = venue.create_order(order("low", type="limit", price=Decimal("1.09")))
    high = venue.create_order(order("high", type="stop", stop_price=Decimal("1.12")))
    assert low.status == high.status == "open" and {o.client_order_id for o in venue.fetch_open_orders()} == {"low", "high"}
    bridge.terminal.quote("EURUSD.m", 1.0898, 1.0899)
    assert venue.fetch_order("low", "EUR/USD").average == Decimal("1.0899") and venue.fetch_open_orders()[0].client_order_id == "high"
    assert venue.cancel_order("high", "EUR/USD").status == "canceled" and venue.fetch_open_orders() == []
    assert venue.cancel_order("low", "EUR/USD").status == "closed"


def test_an_id_longer_than_a_comment_is_found_by_its_number(bridge, venue):
    name = "an-id-of-more-than-thirty-one-characters"
    state = venue.create_order(order(name))
    assert len(bridge.terminal.history_orders_get(ticket=int(state.id))[0].comment) == 31
    assert venue.fetch_order(name, "EUR/USD") == state


def test_selling_on_a_hedging_account_closes_and_does_not_stand_beside():
    with Bridge(hedging=True) as bridge:
        venue = bridge.venue()
        for n in range(3):
            venue.create_order(order(f"buy{n}"))
        sold = venue.create_order(order("sell", side="sell", amount=25_000))
        assert sold.filled == 25_000 and sold.status == "closed" and venue.fetch_balance()["EUR"] == 5_000
        assert [(p.type, p.volume) for p in bridge.terminal.positions_get()] == [(0, 0.05)]
        assert sum(f.amount for f in venue.fetch_my_trades() if f.client_order_id == "sell") == 25_000


# ---- accidents and impostors


def test_a_crashed_terminal_is_started_again(bridge, venue):
    bridge.terminal.crash()
    assert venue.fetch_tickers(["EUR/USD"])["EUR/USD"] == Decimal("1.1") and bridge.terminal.running


def test_a_terminal_that_cannot_start_or_has_no_broker_is_unreachable_and_comes_back(bridge, venue):
    bridge.terminal.crash()
    bridge.terminal.starts = False
    with pytest.raises(VenueUnreachable, match="cannot be started"):
        venue.create_order(order())
    bridge.terminal.starts, bridge.terminal.online = True, False
    with pytest.raises(VenueUnreachable, match="no connection to the broker"):
        venue.create_order(order())
    bridge.terminal.online = True
    assert venue.create_order(order()).status == "closed" and lots(bridge) == {"EURUSD.m": 0.1}


def test_a_wrong_key_clock_or_account_gets_nothing(bridge):
    with pytest.raises(VenueError, match="wrong key") as said:
        bridge.venue(key="another-key-of-the-tests").fetch_balance()
    assert KEY not in str(said.value) and "another-key" not in str(said.value)
    with pytest.raises(VenueError, match="clocks differ by 120 s"):
        bridge.venue(clock=lambda: NOW + timedelta(minutes=2)).fetch_balance()
    with pytest.raises(VenueError, match="bound to another account"):
        bridge.venue(account=7).create_order(order())
    assert lots(bridge) == {} and httpx.get(bridge.url + "/account").status_code == 401 and httpx.get(bridge.url + "/docs").status_code != 200


def test_nothing_is_told_once_somebody_switched_the_account(bridge, venue):
    bridge.terminal.desk.login = 7
    with pytest.raises(VenueError, match="logged in to another account"):
        venue.create_order(order())
    assert not venue.health()["ok"]


def test_a_server_that_is_gone_leaves_the_outcome_of_reads_clear():
    with Bridge() as bridge:
        venue = bridge.venue()
        assert venue.fetch_balance()["USD"] == 10_000
    with pytest.raises(VenueUnreachable, match="nobody answers"):
        venue.fetch_balance()


# ---- the simulation itself


def test_the_simulated_terminal_has_every_function_and_number_of_the_package():
    terminal = SimulatedTerminal(CONTRACTS)
    assert all(callable(getattr(terminal, f)) for f in FUNCTIONS) and all(getattr(terminal, n) == v for n, v in CONSTANTS.items())
    for name in FUNCTIONS:
        if name not in ("initialize", "shutdown", "last_error", "symbol_select", "login", "market_book_add", "market_book_release"):
            need = [p for p in inspect.signature(getattr(terminal, name)).parameters.values() if p.default is p.empty]
            given = [{"order_send": {}, "order_check": {}}.get(name, "EURUSD.m" if p.name == "symbol" else 1) for p in need]
            assert getattr(terminal, name)(*given) is None, name
            assert terminal.last_error() == (-10004, "No IPC connection")


# --- a second factor, and TLS ----------------------------------------------------------------------------------------------------

SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


def test_with_a_second_factor_orders_wait_for_a_code_that_works_once():
    import pyotp

    with Bridge(totp=SECRET, hours=8) as bridge:
        venue = bridge.venue()
        with pytest.raises(Locked, match="the order desk is locked.*unlock it with a code of the authenticator: carnet mt5 unlock; nothing was sent"):
            venue.create_order(order())
        assert venue.fetch_tickers(["EUR/USD"]) and bridge.terminal.positions_get() == ()  # reading needs no code; nothing was bought
        code = pyotp.TOTP(SECRET).at(NOW)
        with pytest.raises(VenueError, match="did not take the code"):
            venue.unlock("000000" if code != "000000" else "000001")
        assert venue.unlock(code) == NOW + timedelta(hours=8)
        assert venue.create_order(order()).status == "closed"
        with pytest.raises(VenueError, match="was used before"):
            venue.unlock(code)


def test_a_bridge_without_codes_says_so(venue):
    with pytest.raises(BadInput, match="needs no codes"):
        venue.unlock("123456")


def certificate(folder, name="127.0.0.1", days=1):
    """Make a certificate that signs itself, for an address of this machine."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


def test_over_tls_the_bridge_is_believed_only_with_its_certificate(tmp_path, monkeypatch):
    from trading.venues.mt5 import bridge as module

    files, others = certificate(tmp_path), certificate(tmp_path, "127.0.0.2")
    made = Bridge()
    started = []

    class Quiet(uvicorn.Server):
        def run(self, sockets=None):
            started.append(self)
            super().run(sockets)

    monkeypatch.setattr(uvicorn, "run", lambda app, host, port, **options: Quiet(uvicorn.Config(app, host, port, lifespan="off", **options)).run())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {"keys": {"tests": KEY}, "account": ACCOUNT, "zone": ZONE, "mt5_module": made.terminal, "suffix": ".m", "clock": lambda: NOW}
    serve = {"target": module.serve_bridge, "args": ("127.0.0.1", port), "kwargs": options | {"certificate": files[0], "private_key": files[1]}}
    thread = threading.Thread(**serve, daemon=True)
    thread.start()
    wait_until(lambda: started and started[0].started)
    url = f"https://127.0.0.1:{port}"
    try:
        trusting = Mt5Venue(url, KEY, ACCOUNT, certificate=str(files[0]), clock=made.clock)
        assert trusting.fetch_tickers(["EUR/USD"])["EUR/USD"] > 1
        assert trusting.create_order(order()).status == "closed"
        for name in ("", str(others[0])):  # the public authorities, and somebody else's certificate
            with pytest.raises(VenueUnreachable):
                Mt5Venue(url, KEY, ACCOUNT, certificate=name, clock=made.clock).fetch_tickers(["EUR/USD"])
        with pytest.raises((VenueUnreachable, VenueError)):
            Mt5Venue(url.replace("https", "http"), KEY, ACCOUNT, clock=made.clock).fetch_tickers(["EUR/USD"])
    finally:
        started[0].should_exit = True
        thread.join(5)
    with pytest.raises(BadInput, match="cannot be used"):
        Mt5Venue(url, KEY, certificate=str(tmp_path / "nothing.pem")).fetch_tickers(["EUR/USD"])
    for pair, words in (((files[0], None), "needs both files"), ((files[0], tmp_path / "no.key"), "does not exist")):
        with pytest.raises(BadInput, match=words):
            module.serve_bridge(**options, certificate=pair[0], private_key=pair[1])


# ---- what an order says is done, or refused


def posted(bridge, path: str, body: dict) -> httpx.Response:
    content, at = json.dumps(body).encode(), int(bridge.clock().timestamp())
    return httpx.post(
        bridge.url + path,
        content=content,
        headers={"X-Time": str(at), "X-Sign": sign(KEY, "POST", path, content, at), "Content-Type": "application/json"},
        trust_env=False,
    )


@pytest.mark.parametrize(
    ("where", "field"), [("order", "sl"), ("order", "trailing"), ("body", "order_type"), ("order", "stoploss"),
                        ("order", "linked")]
)
def test_a_field_that_the_bridge_does_not_know_is_refused_and_nothing_is_sent(bridge, where, field):
    body = {"account": ACCOUNT, "order": json.loads(order().to_json())}
    (body["order"] if where == "order" else body)[field] = "1.05"
    answer = posted(bridge, "/order", body)
    assert answer.status_code == 422 and repr(field) in answer.json()["detail"] and not lots(bridge)


@pytest.mark.parametrize("hedging", [False, True])
def test_an_order_that_only_reduces_is_cut_to_the_position_and_opens_nothing(hedging):
    with Bridge(hedging=hedging) as bridge:
        venue = bridge.venue()
        venue.create_order(order("short", side="sell"))
        done = venue.create_order(order("cover", amount=30_000, reduce_only=True))
        assert done.filled == 10_000 and not lots(bridge) and venue.create_order(order("cover", amount=30_000, reduce_only=True)).filled == 10_000
        none = venue.create_order(order("again", amount=30_000, reduce_only=True))
        assert none.status == "rejected" and "no position that a buy order takes towards zero" in none.reason and not lots(bridge)
        with pytest.raises(BadInput, match="knows no limit order with 'reduce_only'"):
            venue.create_order(order("later", type="limit", price=Decimal("1.05"), reduce_only=True))


def test_stop_loss_and_take_profit_reach_the_broker(bridge, venue):
    venue.create_order(order(stop_loss=Decimal("1.0900"), take_profit=Decimal("1.1200")))
    (held,) = bridge.terminal.positions_get()
    assert (held.sl, held.tp) == (1.09, 1.12)
    bridge.terminal.quote("EURUSD.m", 1.0898, 1.0900)
    assert not bridge.terminal.positions_get()  # the broker closed it


@pytest.mark.parametrize("change", [{"amount": Decimal(20_000)}, {"side": "sell"}, {"type": "limit", "price": Decimal("1.05")},
                                    {"stop_loss": Decimal("1.08")},
                                    {"symbol": "GBP/USD"}])  # fmt: skip
def test_the_same_id_with_another_order_is_refused(bridge, venue, change):
    first = venue.create_order(order())
    with pytest.raises(BadInput, match="belongs to another order"):
        venue.create_order(order().but(**change))
    assert venue.create_order(order()) == first and lots(bridge) == {"EURUSD.m": 0.1}


@pytest.mark.parametrize(
    "change", [{"price": Decimal("1.0400")}, {"amount": Decimal(30_000)}, {"type": "stop", "price": None, "stop_price": Decimal("1.2")}]
)
def test_the_same_id_with_another_waiting_order_is_refused(bridge, venue, change):
    waiting = order(type="limit", price=Decimal("1.0500"))
    first = venue.create_order(waiting)
    with pytest.raises(BadInput, match="belongs to another order"):
        venue.create_order(waiting.but(**change))
    assert venue.create_order(waiting) == first and len(venue.fetch_open_orders()) == 1


def test_a_locked_desk_says_so_before_an_order_and_tells_how_long_it_is_open():
    secret = pyotp.random_base32()
    with Bridge(totp=secret) as bridge:
        venue = bridge.venue()
        assert venue.readiness() == ["mt5: the order desk is locked; unlock it with a code of the authenticator: carnet mt5 unlock"]
        until = venue.unlock(pyotp.TOTP(secret).at(NOW))
        told = venue.health()
        assert venue.readiness() == [] and told["open_until"] == until.isoformat() and not told["locked"]


def test_a_locked_desk_ends_an_approved_plan_with_an_error_and_the_plan_goes_on_after_the_code(tmp_path):
    from trading.accounting.ledger import Ledger
    from trading.core.types import Action, CheckResult, Plan
    from trading.execution.approval import approve_plan
    from trading.execution.executor import OrderParameters, execute
    from trading.execution.preflight import preflight

    secret = pyotp.random_base32()
    with Bridge(totp=secret) as bridge:
        venue, ledger = bridge.venue(), Ledger(tmp_path / "l.sqlite")
        ledger.open_account("live-fx", "USD", Decimal(10_000), NOW)
        plan = Plan(
            "live-fx",
            NOW,
            "USD",
            Decimal(10_000),
            Decimal(10_000),
            (Action("EUR/USD", "buy", Decimal(1_000), Decimal("1.1001"), "below its target"),),
        )
        with pytest.raises(Refused, match="cannot be traded as it stands: mt5: the order desk is locked"):
            preflight(plan, venue).require()
        approve_plan(ledger, plan, "Ada", NOW)
        def trade():
            return execute(plan, CheckResult(plan.hash, (), ("x",)), venue, ledger, lambda: NOW, OrderParameters(Decimal(0)), sleep=lambda s: None)

        with pytest.raises(Locked):
            trade()
        assert not lots(bridge)
        venue.unlock(pyotp.TOTP(secret).at(NOW))
        assert preflight(plan, venue).problems == ()
        assert trade().orders[0].filled == 1_000 and lots(bridge) == {"EURUSD.m": 0.01}


# ---- what moves the balance besides trades


def test_deals_besides_trades_are_proposed_and_booked_once(bridge, venue, tmp_path):
    from trading.accounting.ledger import Ledger
    from trading.execution.order_manager import OrderContext
    from trading.execution.reconciliation import book_reported
    from trading.venues.mt5.constants import fill

    since = datetime(2015, 1, 1, tzinfo=UTC)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.open_account("live-forex", "USD", Decimal(10_000), since)
    desk, when = bridge.terminal.desk, bridge.terminal.desk.now()
    deals = [("BALANCE", 500.0, 0.0, ""), ("BALANCE", -120.5, 0.0, ""), ("CHARGE", -3.0, 0.0, ""), ("INTEREST", 1.25, 0.0, "")]
    deals.append(("SELL", 0.0, -2.35, "EURUSD"))
    for n, (kind, money, swap, symbol) in enumerate(deals):
        name = next(c for c in desk.contracts if c.startswith(symbol)) if symbol else ""
        more = {"type": CONSTANTS[f"DEAL_TYPE_{kind}"], "profit": money, "swap": swap, "symbol": name}
        desk.deals.append(fill("TradeDeal", ticket=7000 + n, time=when // 1000, time_msc=when, **more))
    told = {e.data["id"]: e for e in venue.fetch_activity(since)}
    assert [e.kind for e in told.values()] == ["deposit", "withdrawal", "fee", "interest", "swap"]
    assert told["mt5:7004:swap"].data["symbol"] == "EUR/USD"
    context = OrderContext(venue, ledger, "live-forex", lambda: datetime.now(UTC))
    assert len(book_reported(context, since)) == 5 and book_reported(context, since) == []
    book = ledger.book("live-forex")
    assert book.cash == Decimal("10375.40") and book.fees == 3 and book.income == Decimal("-1.10") and book.paid_in == Decimal("10379.5")
