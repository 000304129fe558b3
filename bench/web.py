"""How fast the service answers: reads from memory, durable writes, the way of an event to a hundred listeners, memory. Lines of JSON.

The server is a process of its own (uvicorn, one worker, the gate with a key, rate limits out of reach); this process is the client, on the
same cores. `python bench/web.py --portfolios 50 --listeners 1000` measures instead as many portfolios in one service, and as many listeners.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from web_server import serve  # noqa: E402

PATHS = ("/api/v1/portfolio", "/api/v1/portfolio/holdings", "/api/v1/predictions", "/api/v1/risk/metrics", "/api/v1/runs", "/api/v1/rebalance/plan")


async def exchange(reader, writer, request: bytes) -> int:
    "Send a request and read its answer; return the status."
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    at = head.lower().index(b"content-length: ") + 16
    await reader.readexactly(int(head[at : head.index(b"\r", at)]))
    return int(head[9:12])


class Asker(asyncio.Protocol):
    "A connection that asks again as soon as it is answered; written for little time of its own, since it shares the cores with the service."

    def __init__(self, requests: list[bytes], number: int, until: float, waits: list[float]):
        self.requests, self.number, self.until, self.waits = requests, number, until, waits
        self.got, self.whole, self.bad, self.over = b"", 0, 0, asyncio.get_running_loop().create_future()

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.number += 1
        self.begun = time.perf_counter()
        self.transport.write(self.requests[self.number % len(self.requests)])

    def data_received(self, data: bytes) -> None:
        self.got = self.got + data if self.got else data
        if not self.whole and (end := self.got.find(b"\r\n\r\n")) > 0:
            at = self.got.index(b"content-length: ") + 16
            self.whole = end + 4 + int(self.got[at : self.got.index(b"\r", at)])
        if not self.whole or len(self.got) < self.whole:
            return
        self.waits.append(time.perf_counter() - self.begun)
        self.bad += self.got[9:12] != b"200"
        self.got, self.whole = b"", 0
        if time.perf_counter() < self.until:
            self.ask()
        else:
            self.over.set_result(self.bad)
            self.transport.close()

    def connection_lost(self, error) -> None:
        if not self.over.done():
            self.over.set_exception(ConnectionError(f"the service closed a connection: {error}"))


async def reads(port: int, key: str, seconds: float, connections: int, paths: tuple[str, ...] = PATHS) -> tuple[float, list[float], int]:
    "Ask as fast as the connections allow; return requests a second, waits, and answers that were not 200."
    requests = [f"GET {p} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode() for p in paths]
    waits, begun = [], time.perf_counter()
    connect = asyncio.get_running_loop().create_connection
    askers = [(await connect(lambda n=n: Asker(requests, n, begun + seconds, waits), "127.0.0.1", port))[1] for n in range(connections)]
    bad = sum(await asyncio.gather(*(a.over for a in askers)))
    return len(waits) / (time.perf_counter() - begun), sorted(waits), bad


async def writes(port: int, key: str, path: str, body: bytes, seconds: float, connections: int) -> tuple[float, int]:
    "Act as fast as the connections allow, each time with a new key."
    done, bad, until = 0, 0, time.perf_counter() + seconds

    async def one() -> None:
        nonlocal done, bad
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        while time.perf_counter() < until:
            head = (f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nIdempotency-Key: {uuid.uuid4().hex}\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")
            bad += await exchange(reader, writer, head.encode() + body) >= 300
            done += 1
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    return done / (time.perf_counter() - begun), bad


async def listen(port: int, key: str, ledger: Path, listeners: int, events: int, pause: float = 0.1) -> list[float]:
    "Return for each listener and event the time from the ledger's disk to the listener's socket."
    from datetime import UTC, datetime

    from trading.accounting.ledger import Ledger
    from trading.core.types import Event

    waits: list[float] = []

    async def one(n: int) -> None:
        own = f"127.0.0.{1 + n // 150}", 0  # so many connections of one address may stay open
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20, local_addr=own)
        writer.write(f"GET /api/v1/stream HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode())
        status, heard = await reader.readline(), 0
        assert b" 200 " in status, status
        while heard < events:
            line = await asyncio.wait_for(reader.readline(), 60)
            if line.startswith(b"data: ") and b'"at"' in line:
                waits.append(time.time() - json.loads(line[6:])["data"]["at"])
                heard += 1
        writer.close()

    tasks = [asyncio.create_task(one(n)) for n in range(listeners)]
    await asyncio.sleep(1 + listeners / 200)
    book = Ledger(ledger)
    for _ in range(events):
        await asyncio.to_thread(lambda: book.append(Event("note", "paper-sample", datetime.now(UTC), {"at": time.time()})))
        await asyncio.sleep(pause)
    done, late = await asyncio.wait(tasks, timeout=60)
    for task in late:  # one that was not told everything
        task.cancel()
    for task in done:
        task.result()
    return sorted(waits)


async def crowd(port: int, keys: dict[str, str], ledger: Path, clients: int, seconds: float) -> tuple[int, int, int]:
    """Let many clients ask at once while eight of them also write; return answers, wrong ones, and notes that are missing or doubled.

    An answer is wrong unless its status is 200 and its body is that of the first answer, byte for byte; the ledger is counted afterwards.
    """
    wanted: dict[str, bytes] = {}
    asked, wrong, written, until = 0, 0, [], time.perf_counter() + seconds

    async def body(reader, writer, request: bytes) -> tuple[int, bytes]:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        at = head.lower().index(b"content-length: ") + 16
        return int(head[9:12]), await reader.readexactly(int(head[at : head.index(b"\r", at)]))

    def asking(path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {keys['viewer']}\r\n\r\n".encode()

    async def one(n: int) -> None:
        nonlocal asked, wrong
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
        while time.perf_counter() < until:
            n += 1
            path = PATHS[n % len(PATHS)]
            status, answer = await body(reader, writer, asking(path))
            asked, wrong = asked + 1, wrong + (status != 200 or answer != wanted[path])
            if n % 25 == 0:
                words = json.dumps({"text": f"crowd {n} {uuid.uuid4().hex}"}).encode()
                writer.write(f"POST /api/v1/portfolio/notes HTTP/1.1\r\nHost: x\r\nX-API-Key: {keys['trader']}\r\nIdempotency-Key: {uuid.uuid4().hex}"
                             f"\r\nContent-Type: application/json\r\nContent-Length: {len(words)}\r\n\r\n".encode())
                status, _ = await body(reader, writer, words)
                asked, wrong = asked + 1, wrong + (status >= 300)
                written.append(json.loads(words)["text"])
            await asyncio.sleep(0.2)
        writer.close()

    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    for path in PATHS:
        wanted[path] = (await body(reader, writer, asking(path)))[1]
    writer.close()
    await asyncio.gather(*(one(37 * n) for n in range(clients)))
    from trading.accounting.ledger import Ledger

    book = Ledger(ledger, readonly=True)
    found = [e.data["text"] for e in book.events(kind="note") if str(e.data.get("text", "")).startswith("crowd")]
    book.close()
    return asked, wrong, len(set(written) ^ set(found)) + len(found) - len(set(found))


def say(figure: str, value: float, unit: str, wanted: float, more_is_better: bool = True) -> None:
    "Print a figure beside the one that is asked for."
    ratio = value / wanted if more_is_better else wanted / value
    line = {"figure": figure, "value": round(value, 2), "unit": unit, "rival": "asked for", "rival_value": wanted, "ratio": round(ratio, 2)}
    print(json.dumps(line), flush=True)


def main(seconds: float = 5, crowded: float = 60) -> None:
    "Measure; the crowd stays for a shortened time."
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as server:
        port, viewer, trader = int(server.url.rsplit(":", 1)[1]), server.keys["viewer"], server.keys["trader"]
        process = psutil.Process(server.process.pid)
        asyncio.run(reads(port, viewer, 2, 2))
        before = process.cpu_times()
        rate, waits, bad = asyncio.run(reads(port, viewer, seconds, 16))
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        say("api reads, processor time of the server each", 1e6 * spent / len(waits), "µs", 333, False)
        say("api reads", rate, "requests/s", 10_000)
        say("api reads p99", 1e3 * waits[int(0.99 * len(waits))], "ms", 5, False)
        assert not bad, bad
        rate, bad = asyncio.run(writes(port, trader, "/api/v1/portfolio/notes", b'{"text":"measured"}', seconds, 32))
        say("api durable writes (asked, audited, in the ledger, answered: all on disk)", rate, "requests/s", 400)
        assert not bad, bad
        asked, wrong, lost = asyncio.run(crowd(port, server.keys, server.home / "data" / "ledger.sqlite", 200, crowded))
        told = f"api wrong answers of {asked:,} to 200 clients in {crowded:g} s, notes written meanwhile"
        print(json.dumps({"figure": told, "value": wrong, "unit": "answers", "rival": "asked for", "rival_value": 0}), flush=True)
        told = "notes of 200 clients that were lost or doubled"
        print(json.dumps({"figure": told, "value": lost, "unit": "notes", "rival": "asked for", "rival_value": 0}), flush=True)
        heard = asyncio.run(listen(port, viewer, server.home / "data" / "ledger.sqlite", 100, 20))
        say("ledger to 100 listeners, p99", 1e3 * heard[int(0.99 * len(heard))], "ms", 200, False)
        say("ledger to 100 listeners, median", 1e3 * statistics.median(heard), "ms", 200, False)
        say("memory of the service", process.memory_info().rss / 1e6, "MB", 350, False)


def crowded_house(home: Path, portfolios: int) -> dict[str, str]:
    "Give an installation portfolios with runs, bars and a ledger of their own, and a person who may see them all; return the key."
    from shutil import copytree

    from trading.security.context import open_security
    from trading.services.portfolios import add_portfolio
    from trading.services.workspace import Workspace

    place = Workspace(home / "data", home / "reports", home / "settings.ini")
    kept = [p for p in place.data.iterdir() if p.name not in ("portfolios", "ops", "jobs") and "auth" not in p.name and "users" not in p.name]
    for n in range(portfolios):
        made = add_portfolio(place, f"p{n:02}")
        copytree(place.reports, made.reports, dirs_exist_ok=True)
        made.settings.write_text(place.settings.read_text())
        for path in kept:
            copytree(path, made.data / path.name) if path.is_dir() else (made.data / path.name).write_bytes(path.read_bytes())
    guard = open_security(home / "data", environ={}, ring=False)
    guard.users.add_user("all", "correct horse battery", "viewer", ["main", *(f"p{n:02}" for n in range(portfolios))])
    key = guard.users.make_key("all", "bench", role="viewer")
    guard.users.close()
    return {"all": key}


async def once_each(port: int, key: str, paths: list[str]) -> list[float]:
    "Ask for each address once, one after the other; return the waits."
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    waits = []
    for path in paths:
        begun = time.perf_counter()
        status = await exchange(reader, writer, f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode())
        assert status == 200, (path, status)
        waits.append(time.perf_counter() - begun)
    writer.close()
    return sorted(waits)


def many(portfolios: int, listeners: int, seconds: float = 10) -> None:
    "Measure a service of many portfolios, and one with many listeners."
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder), prepare=lambda home: crowded_house(home, portfolios)) as server:
        port, key, process = int(server.url.rsplit(":", 1)[1]), server.keys["all"], psutil.Process(server.process.pid)
        if portfolios:
            every = [f"{path}?portfolio=p{n:02}" for n in range(portfolios) for path in PATHS]
            for turn, longest, most in (("first", 1000, 100), ("second", 50, 10)):
                before = process.cpu_times()
                waits = asyncio.run(once_each(port, key, every))
                after = process.cpu_times()
                spent = (after.user + after.system - before.user - before.system) / len(every)
                say(f"{portfolios} portfolios, {turn} answers, p99", 1e3 * waits[int(0.99 * len(waits))], "ms", longest, False)
                say(f"{portfolios} portfolios, {turn} answers, processor time of the server each", 1e3 * spent, "ms", most, False)
            rate, waits, bad = asyncio.run(reads(port, key, seconds, 16, tuple(every)))
            assert not bad, bad
            say(f"{portfolios} portfolios, reads of all in turns", rate, "requests/s", 1000)
            say(f"{portfolios} portfolios, memory of the service", process.memory_info().rss / 1e6, "MB", 500, False)
        if listeners:
            heard = asyncio.run(listen(port, key, server.home / "data" / "ledger.sqlite", listeners, 10, 1.0))
            say(f"ledger to {listeners:,} listeners, p99", 1e3 * heard[int(0.99 * len(heard))], "ms", 1000, False)
            say(f"ledger to {listeners:,} listeners, median", 1e3 * statistics.median(heard), "ms", 1000, False)
            told, lost = f"events that {listeners:,} listeners did not hear", listeners * 10 - len(heard)
            print(json.dumps({"figure": told, "value": lost, "unit": "events", "rival": "asked for", "rival_value": 0}), flush=True)
            say(f"{listeners:,} listeners, memory of the service", process.memory_info().rss / 1e6, "MB", 500, False)


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("--portfolios", type=int, default=0)
    asked.add_argument("--listeners", type=int, default=0)
    asked = asked.parse_args()
    with contextlib.suppress(ImportError):  # the loop that the service has too
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    many(asked.portfolios, asked.listeners) if asked.portfolios or asked.listeners else main()
