"""The access layer against a counting loopback exchange, on a clock that jumps: what it saves, and what it does when the exchange fails."""

import asyncio
import random
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from binance_server import Server

from trading.core.errors import MissingData, StaleData, VenueUnreachable
from trading.testing.virtual_clock import VirtualClockLoop
from trading.venues.access.blocking import CachedVenue
from trading.venues.access.cache import DiskCache, TimeToLive
from trading.venues.access.cached_venue import CachedClient
from trading.venues.access.client import GuardedClient
from trading.venues.access.snapshot import SnapshotVenue
from trading.venues.crypto.async_venue import AsyncCcxtVenue
from trading.venues.crypto.venue import CcxtVenue

TICKERS, KLINES = "GET /api/v3/ticker/24hr", "GET /api/v3/klines"
SYMBOLS = [f"C{n:02d}/USDT" for n in range(50)]


@pytest.fixture
def server():
    with Server(days=30) as running:
        running.exchange.pairs = {s.replace("/", ""): (s[:3], "USDT", 100.0 + n) for n, s in enumerate(SYMBOLS)}
        running.exchange.delay = 0.002
        yield running


class Real:
    """An asynchronous venue whose answers are real: while one is under way, the clock that jumps stands still."""

    def __init__(self, loop, url):
        self.loop, self.venue = loop, AsyncCcxtVenue("binance", base_url=url, timeout=5.0, wait=0.0)  # the clock stands still during a call
        self.venue.budget.clock = loop.time  # what it waits after a refusal passes on the same clock
        self.name = self.venue.name

    async def _count(self, work):
        self.loop.busy += 1
        try:
            return await work
        finally:
            self.loop.busy -= 1

    async def fetch_tickers(self, symbols):
        return await self._count(self.venue.fetch_tickers(symbols))

    async def fetch_ohlcv(self, symbol, timeframe="1d", since=None, until=None):
        return await self._count(self.venue.fetch_ohlcv(symbol, timeframe, since, until))

    async def load_markets(self):
        return await self._count(self.venue.load_markets())


def rehearse(server, work, **options):
    """Run a coroutine with a door on a clock that jumps."""
    loop = VirtualClockLoop()
    try:
        async def run():
            source = Real(loop, server.url)
            door = CachedClient(source, clock=loop.time, **options)
            try:
                await source.load_markets()
                server.exchange.calls.clear()
                return await work(door, loop)
            finally:
                await door.close()
                await source.venue.close()

        return loop.run_until_complete(run())
    finally:
        loop.close()


async def visitors(door, loop, people=500, minutes=10):
    """Five hundred dashboards, stages and scripts: each looks every half minute or so, mostly at the well-known symbols, and sometimes at bars."""
    popular = [1 / (rank + 3) for rank in range(len(SYMBOLS))]
    asks = 0

    async def one(number):
        nonlocal asks
        own = random.Random(number)
        while loop.time() < 60 * minutes:
            asks += 1
            symbol = own.choices(SYMBOLS, popular)[0]
            if own.random() < 0.15:
                assert len(await door.fetch_ohlcv(symbol, "1d")) == 30
            else:
                price = (await door.fetch_tickers([symbol]))[symbol]
                assert price == 100 + SYMBOLS.index(symbol)
            await asyncio.sleep(own.uniform(15, 45))

    await asyncio.gather(*(one(n) for n in range(people)))
    return asks, door.summary()


def test_five_hundred_at_once_over_fifty_symbols_save_nineteen_calls_of_twenty(server):
    asks, told = rehearse(server, visitors)
    calls = server.exchange.calls
    upstream = calls[TICKERS] + calls[KLINES]
    print(f"{asks} asks, {upstream} calls ({dict(calls)}), hit rate {told['hit_rate']:.4f}, {told['sources']}")
    assert asks > 9000 and told["asked"] == asks  # without the door every ask is a call
    assert upstream <= 0.05 * asks and told["hit_rate"] >= 0.90
    assert server.exchange.doubled == []
    assert told["sources"]["binance"]["error_rate"] == 0 and told["sources"]["binance"]["uptime"] == 1


def test_without_the_door_every_ask_is_a_call(server):
    venue = CcxtVenue("binance", base_url=server.url)
    venue.load_markets()
    server.exchange.calls.clear()
    for n in range(20):
        venue.fetch_tickers([SYMBOLS[n % 5]])
    assert server.exchange.calls[TICKERS] == 20


def test_lost_answers_are_asked_for_again_and_nobody_notices(server):
    async def work(door, loop):
        server.exchange.fault(TICKERS, "503", "503")
        prices = await door.fetch_tickers(SYMBOLS[:20])
        return prices, door.summary()["sources"]["binance"]

    prices, source = rehearse(server, work)
    assert len(prices) == 20 and source["calls"] == 3 and source["failed"] == 2 and source["breaker"] == "closed"


def test_to_be_told_to_slow_down_ends_all_questions_for_a_minute_and_old_prices_stand_in(server):
    async def work(door, loop):
        first = await door.fetch_tickers(SYMBOLS[:3])
        await asyncio.sleep(40)
        server.exchange.fault(TICKERS, *["429"] * 50)
        before = server.exchange.calls[TICKERS]
        for _ in range(25):
            assert await door.fetch_tickers(SYMBOLS[:3]) == first
            await asyncio.sleep(1)
        asked = server.exchange.calls[TICKERS] - before
        ages = dict(door.stale_since)
        with pytest.raises(VenueUnreachable, match="left alone until"):
            await door.fetch_tickers(SYMBOLS[5:6])
        server.exchange.faults.clear()
        await asyncio.sleep(60)
        again = await door.fetch_tickers(SYMBOLS[:3])
        return asked, ages, again == first, door.stale_since, door.summary()["sources"]["binance"]

    asked, ages, recovered, stale, source = rehearse(server, work)
    assert asked == 1 and len(ages) == 3 and min(ages.values()) > 60
    assert recovered and not stale and source["breaker"] == "closed" and source["uptime"] < 1


def test_past_the_limit_there_is_an_error_and_no_price(server):
    async def work(door, loop):
        await door.fetch_tickers(SYMBOLS[:2])
        server.exchange.fault(TICKERS, *["503"] * 100)
        await asyncio.sleep(901)
        with pytest.raises(StaleData, match="the last answer is .* s old and the source fails"):
            await door.fetch_tickers(SYMBOLS[:2])

    rehearse(server, work)


def test_one_probe_at_a_time_while_it_is_down_and_the_pauses_grow(server):
    async def work(door, loop):
        server.exchange.fault(TICKERS, *["503"] * 1000)
        for _ in range(600):
            with pytest.raises(VenueUnreachable):
                await door.fetch_tickers(SYMBOLS[:1])
            await asyncio.sleep(1)
        return server.exchange.calls[TICKERS]

    assert rehearse(server, work) < 20  # of 600 asks


def test_fifty_symbols_go_out_in_batches_of_twenty(server):
    async def work(door, loop):
        await asyncio.gather(*(door.fetch_tickers([s]) for s in SYMBOLS))
        return server.exchange.calls[TICKERS]

    assert rehearse(server, work) == 3


def test_calls_leave_at_the_agreed_rate(server):
    async def work(door, loop):
        begin = loop.time()
        await asyncio.gather(*(door.fetch_ohlcv(s, "1d") for s in SYMBOLS))
        return loop.time() - begin

    assert 8.5 < rehearse(server, work, rate=5.0, burst=5) < 10.5


def test_someone_who_gives_up_does_not_take_the_answer_from_the_others(server):
    async def work(door, loop):
        server.exchange.delay = 0.05
        impatient = asyncio.ensure_future(door.fetch_tickers(SYMBOLS[:1]))
        patient = asyncio.ensure_future(door.fetch_tickers(SYMBOLS[:1]))
        await asyncio.sleep(0.005)
        impatient.cancel()
        return await patient

    assert len(rehearse(server, work)) == 1


def test_two_processes_share_the_disk(server, tmp_path):
    venue, file = CcxtVenue("binance", base_url=server.url), tmp_path / "answers.sqlite"
    one = CachedVenue(venue, disk=file)
    prices, bars = one.fetch_tickers(SYMBOLS[:4]), one.fetch_ohlcv(SYMBOLS[0], "1d")
    one.close()
    before = sum(server.exchange.calls.values())
    two = CachedVenue(venue, disk=file)
    assert two.fetch_tickers(SYMBOLS[:4]) == prices and two.fetch_ohlcv(SYMBOLS[0], "1d").equals(bars)
    assert sum(server.exchange.calls.values()) == before and two.summary()["from_disk"] == 5
    two.close()


def test_memory_stays_below_its_bound(server):
    async def work(door, loop):
        for symbol in SYMBOLS[:15]:
            await door.fetch_ohlcv(symbol, "1d")
        return door.summary()["bytes"], len(door._memory.items)

    size, kept = rehearse(server, work, limit=8_000, rate=1000.0, burst=100)
    assert size <= 8_000 and 1 < kept < 15


def test_the_stages_of_a_run_read_one_moment(server, tmp_path):
    source = CachedVenue(CcxtVenue("binance", base_url=server.url), lifetimes=TimeToLive(price=0.001))
    scout, plan = SnapshotVenue(source, tmp_path / "prices.sqlite"), SnapshotVenue(source, tmp_path / "prices.sqlite")
    first = scout.fetch_tickers(SYMBOLS[:5])
    server.exchange.pairs = {k: (b, q, p * 2) for k, (b, q, p) in server.exchange.pairs.items()}
    time.sleep(0.01)
    assert plan.fetch_tickers(SYMBOLS[:5]) == first and source.fetch_tickers(SYMBOLS[:1]) != {SYMBOLS[0]: first[SYMBOLS[0]]}
    with pytest.raises(MissingData):
        SnapshotVenue(None, tmp_path / "prices.sqlite").fetch_tickers(SYMBOLS[5:6])
    source.close()


def test_two_stages_that_ask_at_the_same_moment_agree(tmp_path):
    class Rising:
        name = "rising"
        asked = 0

        def fetch_tickers(self, symbols):
            Rising.asked += 1
            mine = Rising.asked
            time.sleep(0.02)
            return dict.fromkeys(symbols, Decimal(mine))

    answers = []
    ask = lambda: answers.append(SnapshotVenue(Rising(), tmp_path / "p.sqlite").fetch_tickers(["A"])["A"])  # noqa: E731
    stages = [threading.Thread(target=ask) for _ in range(6)]
    for stage in stages:
        stage.start()
    for stage in stages:
        stage.join()
    assert len(answers) == 6 and len(set(answers)) == 1


def test_a_blocking_source_is_asked_one_question_at_a_time():
    class Fragile:
        name, inside, most = "fragile", 0, 0

        def fetch_ohlcv(self, *question):
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.005)
            self.inside -= 1
            import pandas as pd

            return pd.DataFrame({"close": [1.0]}, index=pd.DatetimeIndex(["2024-01-01"], tz="UTC"))

    source = Fragile()
    door = CachedVenue(GuardedClient(source, rate=1000.0, burst=100))
    threads = [threading.Thread(target=door.fetch_ohlcv, args=(s,)) for s in SYMBOLS[:20]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    door.close()
    assert source.most == 1


def test_the_disk_is_bounded_and_keeps_what_is_new(tmp_path):
    disk = DiskCache(tmp_path / "a.sqlite", limit=3000)
    for n in range(100):
        disk.put(("v", "price", n), float(n), "x" * 200)
    assert disk.get(("v", "price", 99)) and disk.get(("v", "price", 0)) is None
    disk.close()
