"""Following a venue: lost lines are made good, no unfinished bar is stored, a stream only rings, and Ctrl-C ends it in order."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from binance_server import FIRST, PAIRS, Server, market
from waiting import wait_until

from trading.data.delta_store import BarStore
from trading.data.ingest import ingest
from trading.data.live_ingest import follow_market
from trading.data.quotes import quote_board_file, read_quotes
from trading.venues.access.monitor import connection_statistics
from trading.venues.crypto.candle_stream import CandleStream
from trading.venues.crypto.venue import CcxtVenue

SINCE = datetime(2024, 1, 1, tzinfo=UTC)
KLINES = "GET /api/v3/klines"


class Stop(threading.Event):
    """A stop that nobody waits for: the time passes elsewhere."""

    def wait(self, seconds=None):
        return self.is_set()


class Days:
    """A clock that a bell turns."""

    def __init__(self, start, end):
        self.now, self.end, self.each = start, end, lambda: None

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now

    def wait(self, seconds, stop):
        self.now += timedelta(seconds=seconds)
        self.each()
        if self.now > self.end:
            stop.set()


@pytest.mark.parametrize("seed", [0])
def test_lost_lines_error_pages_and_torn_rows_are_made_good_and_no_unfinished_bar_is_stored(tmp_path, seed):
    chance, lines = random.Random(seed), []
    days = Days(datetime(2024, 2, 10, 12, tzinfo=UTC), datetime(2024, 2, 26, tzinfo=UTC))
    with Server(days=200) as server:  # it has bars far into the future of our clock
        venue = CcxtVenue("binance", base_url=server.url, timeout=3.0)
        store, seen = BarStore(tmp_path / "followed"), []

        def each():
            bars = store.read()
            assert bars.index[-1] + pd.Timedelta(days=1) <= pd.Timestamp(days.now)
            seen.append(len(bars))
            if chance.random() < 0.6:
                server.exchange.fault(KLINES, *chance.choices(["drop-before", "drop-after", "503", "429", "html", "short-row", "double-rows"], k=4))

        days.each = each
        done = follow_market(venue, store, ["BTC/USDT", "ETH/USDT"], "1d", SINCE, Stop(), lines.append, days, clock=days, random=random.Random(1))
        server.exchange.faults.clear()
        last = ingest(venue, store, ["BTC/USDT", "ETH/USDT"], "1d", SINCE, days.now)
        once = ingest(venue, BarStore(tmp_path / "once"), ["BTC/USDT", "ETH/USDT"], "1d", SINCE, days.now)
    assert last.version == once.version and done.lost > 3 and sorted(seen) == seen and len(set(seen)) > 10
    assert any("reached again" in line for line in lines) and all("\n" not in line for line in lines)


def test_a_week_without_a_line_is_fetched_when_it_is_back(tmp_path):
    days = Days(datetime(2024, 2, 10, 12, tzinfo=UTC), datetime(2024, 2, 21, tzinfo=UTC))
    with Server(days=200) as server:
        venue = CcxtVenue("binance", base_url=server.url, timeout=3.0)
        store = BarStore(tmp_path / "bars")
        ingest(venue, store, ["BTC/USDT"], "1d", SINCE, datetime(2024, 2, 1, tzinfo=UTC))
        done = follow_market(venue, store, ["BTC/USDT"], "1d", SINCE, Stop(), lambda _: None, days, clock=days)
    assert store.read().index[-1] == pd.Timestamp("2024-02-19", tz="UTC") and len(store.read()) == 50 and done.lost == 0


class EventStream:
    """Binance's stream of bars on this machine: it sends what it is told, and hangs up when it is told."""

    def __init__(self):
        self.loop, self.sockets, self.port, self.url = asyncio.new_event_loop(), [], 0, ""
        self.listening = threading.Event()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.wait(self.start())

    def wait(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def start(self):
        from aiohttp import web

        app = web.Application()
        app.router.add_get("/api/v3/exchangeInfo", self.info)
        app.router.add_get("/{rest:.*}", self.socket)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def info(self, request):
        from aiohttp import web

        return web.json_response({"symbols": [market(s, *p[:2]) for s, p in PAIRS.items()]})

    async def socket(self, request):
        from aiohttp import web

        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            asked = json.loads(message.data)
            await socket.send_json({"result": None, "id": asked["id"]})
            self.sockets.append(socket)
            self.listening.set()
        return socket

    def send(self, minute, close, socket=-1):
        start = FIRST + minute * 60_000
        bar = {"t": start, "T": start + 59_999, "s": "BTCUSDT", "i": "1m", "o": "1", "c": str(close), "h": "9", "l": "1", "v": "3", "x": False}
        self.wait(self.sockets[socket].send_json({"e": "kline", "E": start + 1, "s": "BTCUSDT", "k": bar}))

    def hang_up(self):
        self.listening.clear()
        self.wait(self.sockets[-1].close())

    def close(self):
        self.wait(self.runner.cleanup())
        self.loop.call_soon_threadsafe(self.loop.stop)


def rung(bell, times):
    wait_until(lambda: bell.rung >= times)
    return bell.rung


def test_a_stream_rings_when_a_bar_has_closed_and_after_a_lost_line():
    stream = EventStream()
    bell = CandleStream("binance", "BTC/USDT", "1m", base_url=stream.url)
    try:
        assert stream.listening.wait(60)
        for close in (5, 6, 7):  # the bar under way grows
            stream.send(0, close)
            time.sleep(0.05)
        assert bell.rung == 0
        stream.send(1, 7)
        assert rung(bell, 1) == 1
        waiter = threading.Thread(target=bell.wait, args=(3600, threading.Event()), daemon=True)  # it has rung: nobody waits an hour
        waiter.start()
        waiter.join(60)
        assert not waiter.is_alive()
        stream.hang_up()
        assert stream.listening.wait(60)  # it built the line up again by itself
        stream.send(5, 8)  # three minutes were missed: the first word afterwards rings
        assert rung(bell, 2) == 2 and bell.lost >= 1
    finally:
        bell.close()
        stream.close()
    assert not bell._thread.is_alive()


SETTINGS = """
[run]
profile = loop

[loop:market]
source = ccxt
venue = binance
symbols = BTC/USDT, ETH/USDT
currency = USDT
start = 2024-01-01
calendar = 24/7

[loop:access]
price_seconds = 1

[loop:live]
address = {address}
"""


async def told_by_stream(data, count):
    """Listen as the service's pages do, and return what is said about prices while another process writes them."""
    from trading.api.event_stream import EventStream
    from trading.services.workspace import Workspace

    found = []
    async for told in EventStream(Workspace(data, data / "reports")).listen(after=0, beat=0.5):
        if told is not None and told.kind == "price":
            found.append(json.loads(told.data))
        if len(found) >= count:
            break
    return found


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_the_command_follows_shows_prices_to_other_processes_and_ctrl_c_ends_it_in_order(tmp_path, number=signal.SIGINT):
    data = tmp_path / "data"
    environ = {**os.environ, "CARNET_RUN__DATA": str(data), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", "from trading.cli.main import main; main(prog_name='carnet')", "ingest", "--follow"]
    begun = time.time()
    with Server(days=40) as server:
        (tmp_path / "settings.ini").write_text(SETTINGS.format(address=server.url))
        process = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        first = process.stdout.readline()
        second = process.stdout.readline()
        told = asyncio.run(asyncio.wait_for(told_by_stream(data, 2), 120))
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert first.startswith("following binance: 2 symbols, 1d, by the clock") and "bars added or corrected" in second
    assert process.returncode == 0 and out.startswith("stopped: asked ") and "stopping: what is being fetched is stored first" in err
    store, shown, seen = BarStore(data / "bars"), read_quotes(quote_board_file(data, "loop")), connection_statistics(data)["binance"]
    assert store.version in out and len(store.read()) == 40
    assert {t["symbol"] for t in told} == set(shown) == {"BTC/USDT", "ETH/USDT"} and all(t["profile"] == "loop" for t in told)
    assert all(not q.closed and q.price > 0 and begun - 60 < q.time.timestamp() < time.time() + 60 for q in shown.values())
    assert seen["calls"] >= 3 and seen["failed"] == 0 and seen["p95_s"] > 0 and seen["asked"] == 0  # nobody asked through the memory
