"The books are the same whether a venue pushes what becomes of our orders, is asked, or its line breaks in between: each fill once."

import threading
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest
from test_venue_contract import connect
from waiting import wait_until

from trading.accounting.ledger import Ledger
from trading.core.types import Action, CheckResult, Plan
from trading.execution.approval import approve_plan
from trading.execution.executor import OrderParameters, execute
from trading.execution.order_manager import RetryPolicy
from trading.execution.safe_mode import HaltingVenue
from trading.testing.fake_exchange import FakeExchange
from trading.testing.fake_socket import PUSHING
from trading.testing.pushed_orders import push
from trading.testing.venue_fakes import serve_fake
from trading.venues.crypto.user_stream import PushClient, StreamedVenue, listening, streamed
from trading.venues.crypto.venue import CcxtVenue

LONG = 10.0  # seconds between two looks; a line that pushes ends an order sooner, but for what comes between two questions of ccxt


class Trading:
    "A plan of one limit order that is traded in a thread, at a fake whose fills a test decides."

    def __init__(self, folder, name: str, url: str, exchange: FakeExchange, poll: float, pushed: bool):
        self.exchange, self.done = exchange, None
        self.venue = connect(CcxtVenue, name, url)
        self.venue.fetch_tickers = lambda symbols: {s: D(50000) for s in symbols}
        if pushed:
            self.venue = StreamedVenue(self.venue, lambda: connect(PushClient, name, url))
        self.ledger, began = Ledger(folder / "books.db"), datetime.now(UTC) - timedelta(seconds=1)
        self.ledger.open_account("mine", "USDT", D(1_000_000), began)
        plan = Plan("mine", began, "USDT", D(1_000_000), D(1_000_000), (Action("BTC/USDT", "buy", D("0.6"), D(50000), "below its target"),))
        approve_plan(self.ledger, plan, "the test", began)
        guarded = HaltingVenue(self.venue, lambda: "")
        style = OrderParameters(D("0.001"), type="limit", reprices=0, timeout=timedelta(seconds=200 * LONG))

        def trade() -> None:
            with listening(guarded, pushed) as rest:
                self.done = execute(plan, CheckResult(plan.hash, (), ("max_turnover",)), guarded, self.ledger, lambda: datetime.now(UTC), style,
                                    patience=RetryPolicy(poll=poll), sleep=rest)

        self.thread = threading.Thread(target=trade, daemon=True)
        self.thread.start()
        self.order = wait_until(lambda: exchange.orders and exchange.orders[0])

    def fill(self, units: str) -> dict:
        "Trade a part of the order; return the order as it is then."
        self.exchange.fill(self.order, D(units))
        return deepcopy(self.order)

    def books(self) -> tuple[list, list]:
        "Wait for the end of the plan, and return the fills and the ends of orders as they are written down."
        self.thread.join(40)
        assert not self.thread.is_alive() and self.done is not None
        self.ledger.verify()
        fills = [(f.id, f.symbol, f.side, f.amount, f.price, f.fee, f.fee_currency) for f in sorted(self.ledger.fills("mine"), key=lambda f: f.id)]
        ends = [(e.data["status"], e.data["filled"], e.data["average"], e.data["amount"]) for e in self.ledger.events("mine", "ended")]
        self.ledger.close()
        return fills, ends


@pytest.mark.parametrize("name", PUSHING)
def test_pushed_polled_and_after_a_broken_line_the_books_are_the_same(name, tmp_path):
    # ... asked: nobody listens
    exchange = FakeExchange()
    (tmp_path / "asked").mkdir()
    with serve_fake(name, exchange) as url:
        one = Trading(tmp_path / "asked", name, url, exchange, poll=0.02, pushed=False)
        for units in ("0.1", "0.2", "0.3"):
            one.fill(units)
        asked = one.books()
        assert not exchange.lines
    first = sum(f[3] for f in asked[0] if f[0].split("-")[0] == asked[0][0][0])  # Gate tells a trade in as many parts as it has fees
    assert first == D("0.1") and sum(f[3] for f in asked[0]) == D("0.6") and len(asked[1]) == 1

    # ... pushed: out of order and twice; nobody asks before there is a reason
    exchange = FakeExchange()
    (tmp_path / "pushed").mkdir()
    with serve_fake(name, exchange) as url:
        two = Trading(tmp_path / "pushed", name, url, exchange, poll=LONG, pushed=True)
        stream = wait_until(lambda: exchange.lines and streamed(two.venue).stream)
        first, second = two.fill("0.1"), two.fill("0.2")
        push(exchange, second, first, second)
        wait_until(lambda: stream.heard >= 1)
        rung, last = stream.rung, two.fill("0.3")

        def told() -> bool:  # ccxt keeps what comes between two of its questions until the next message
            push(exchange, last)
            return stream.rung > rung

        wait_until(told, every=0.2)
        push(exchange, second, last)
        assert two.books() == asked
        assert exchange.calls["create"] == 1 and exchange.calls["order"] + exchange.calls["closed"] <= 4 + stream.rung
        assert streamed(two.venue).stream is None and not stream._thread.is_alive(), "nobody listens afterwards"

    # ... the line breaks after a part; the rest is traded while nobody hears it, and the order is asked for
    exchange = FakeExchange()
    (tmp_path / "broken").mkdir()
    with serve_fake(name, exchange) as url:
        three = Trading(tmp_path / "broken", name, url, exchange, poll=LONG, pushed=True)
        stream = wait_until(lambda: exchange.lines and streamed(three.venue).stream)
        push(exchange, three.fill("0.1"))
        wait_until(lambda: stream.heard >= 1)
        three.fill("0.2")
        three.fill("0.3")
        for _, line in list(exchange.lines):
            line.cut()
        assert three.books() == asked


@pytest.mark.parametrize("name", PUSHING)
def test_a_line_that_came_back_tells_again(name, tmp_path):
    exchange = FakeExchange()
    with serve_fake(name, exchange) as url:
        one = Trading(tmp_path, name, url, exchange, poll=LONG, pushed=True)
        stream = wait_until(lambda: exchange.lines and streamed(one.venue).stream)
        push(exchange, one.fill("0.1"))
        wait_until(lambda: stream.heard >= 1)
        for _, line in list(exchange.lines):
            line.cut()
        wait_until(lambda: stream.lost >= 1)
        wait_until(lambda: exchange.lines)  # it was built up again
        one.fill("0.2")
        last = one.fill("0.3")

        def ended() -> bool:  # a line counts as built up a moment before it hears
            push(exchange, last)
            return not one.thread.is_alive()

        wait_until(ended, every=0.2)
        fills, ends = one.books()
    assert sum(f[3] for f in fills) == D("0.6") and len({f[0] for f in fills}) == len(fills) and len(ends) == 1


def test_a_live_account_listens_only_where_the_table_says_so(monkeypatch, tmp_path):
    from trading.core.settings import load_settings
    from trading.pipeline.venue_factory import connect as connect_profile

    monkeypatch.chdir(tmp_path)
    for venue, pushes in (("binance", True), ("okx", True), ("binanceus", False)):
        (tmp_path / "settings.ini").write_text(f"[run]\nprofile = crypto\n\n[crypto:market]\nvenue = {venue}\nsymbols = BTC/USDT\ncurrency = USDT\n")
        for end in ("API_KEY", "SECRET", "PASSWORD"):
            monkeypatch.setenv(f"{venue.upper()}_{end}", "k" * 20)
        made = connect_profile(load_settings("crypto"), orders=True)
        assert (streamed(made) is not None) == pushes, venue
        assert streamed(connect_profile(load_settings("crypto"))) is None, "prices need no line of ours"


def test_the_loop_books_a_stop_that_the_venue_pushes_and_the_next_close_finds_it_done(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from trading.cli.main import main
    from trading.core.settings import load_settings
    from trading.core.types import Event, Position
    from trading.pipeline.trade_loop import TradeLoop

    monkeypatch.chdir(tmp_path)
    for name, value in (("BINANCE_API_KEY", "k" * 20), ("BINANCE_SECRET", "s" * 20), ("CARNET_RUN__DATA", str(tmp_path / "data"))):
        monkeypatch.setenv(name, value)
    exchange, told, done = FakeExchange(), [], []
    with serve_fake("binance", exchange) as url:
        (tmp_path / "settings.ini").write_text("[run]\nprofile = crypto\nmode = live\n\n[crypto:market]\nvenue = binance\nsymbols = BTC/USDT\n"
                                               f"currency = USDT\nstart = 2024-01-01\n\n[crypto:live]\naddress = {url}\n")
        began = datetime.now(UTC) - timedelta(hours=1)
        (tmp_path / "data").mkdir()
        ledger = Ledger(tmp_path / "data" / "ledger.sqlite")
        ledger.open_account("live-crypto", "USDT", D(1_000_000), began, [Position("BTC/USDT", D(2), D(50000))])
        ledger.append(Event("connected", "live-crypto", began, {"venue": "binance", "number": ""}))
        ledger.close()
        said = CliRunner().invoke(main, ["orders", "protect", "BTC/USDT", "--stop", "45000"])
        assert said.exit_code == 0 and "at the venue" in said.output, said.output
        order = exchange.orders[0]
        settings = load_settings()
        loop = TradeLoop(settings, lambda: datetime.now(UTC), lambda seconds: threading.Event().wait(0.02), told.append)
        loop.watched = datetime.now(UTC) + timedelta(days=1)  # prices are not looked at: only the line can tell
        thread = threading.Thread(target=lambda: done.append(loop.wait(datetime.now(UTC) + timedelta(hours=1))), daemon=True)
        thread.start()
        wait_until(lambda: exchange.lines)
        exchange.price = D(44900)
        exchange.fill(order, order["amount"])

        def booked() -> bool:  # a line counts as built up a moment before it hears
            push(exchange, deepcopy(order))
            return any("the position was closed" in words for words in told)

        wait_until(booked, every=0.5)
        stop = CliRunner().invoke(main, ["kill", "the test ends"])
        assert stop.exit_code == 0, stop.output
        thread.join(60)
        assert done and "the test ends" in done[0], done
        loop.lines.close()
    ledger = Ledger(tmp_path / "data" / "ledger.sqlite")
    fills = ledger.fills("live-crypto")
    assert [(f.side, f.amount) for f in fills] == [("sell", D(2))] and "BTC/USDT" not in ledger.positions("live-crypto")
    ledger.close()
