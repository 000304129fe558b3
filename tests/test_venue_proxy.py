"Whatever stands in front of a venue is a venue itself, also as Python 3.12 and later look at it."

from datetime import UTC, datetime
from inspect import getattr_static

import pytest

from trading.accounting.ledger import Ledger
from trading.core.tracing import traced
from trading.core.types import MarketData, Venue
from trading.core.venue_proxy import VenueProxy
from trading.execution.circuit_breaker import CircuitBreakerVenue
from trading.execution.safe_mode import SafeModeVenue
from trading.pipeline.multi_venue import SerializedVenue
from trading.testing.faulty_venue import Faults, FaultyVenue
from trading.venues.access.monitor import MeasuredVenue

METHODS = {protocol: [m for m in vars(protocol) if not m.startswith("_")] for protocol in (Venue, MarketData)}
NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)


class Recorder:
    "A venue that answers each call with its name and arguments."

    name = "recorder"

    def __getattr__(self, method):
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *args: (method, args)


class SilentMonitor:
    "Takes each measurement and keeps none."

    def clock(self):
        return 0.0

    def note(self, *args):
        pass


def proxies(tmp_path, monkeypatch):
    "Return one of each proxy around a recorder."
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    venue = Recorder()
    return [VenueProxy(venue), CircuitBreakerVenue(venue, lambda: NOON), SafeModeVenue(venue, Ledger(tmp_path / "l.db"), "mine", lambda: NOON),
            SerializedVenue(venue), MeasuredVenue(venue, SilentMonitor()), traced(venue)]


def test_each_proxy_has_the_methods_of_the_contract_without_running_code(tmp_path, monkeypatch):
    for proxy in proxies(tmp_path, monkeypatch):
        assert isinstance(proxy, VenueProxy) and isinstance(proxy, Venue) and isinstance(proxy, MarketData), proxy
        for protocol in METHODS:
            assert all(callable(getattr_static(proxy, m)) for m in METHODS[protocol]), (type(proxy), protocol)
    assert all(callable(getattr_static(FaultyVenue(Recorder(), Faults(), 1), m)) for m in METHODS[Venue])


ARGUMENTS = {"load_markets": (), "fetch_balance": (), "fetch_open_orders": (), "fetch_my_trades": (NOON,), "fetch_order": ("id", "BTC/USDT"),
             "cancel_order": ("id", "BTC/USDT"), "create_order": ("an order",), "fetch_tickers": (["BTC/USDT"],),
             "fetch_ohlcv": ("BTC/USDT", "1h", NOON, None), "fetch_order_book": ("BTC/USDT", 5)}


@pytest.mark.parametrize("method", ARGUMENTS)
def test_each_call_arrives_with_its_arguments(method, tmp_path, monkeypatch):
    for proxy in proxies(tmp_path, monkeypatch):
        assert getattr(proxy, method)(*ARGUMENTS[method]) == (method, ARGUMENTS[method]), type(proxy)


def test_every_method_of_the_contract_is_tried():
    assert {m for methods in METHODS.values() for m in methods} - {"name"} <= set(ARGUMENTS)
