"Two hundred clients for minutes: no answer fails, nothing grows."

import asyncio
import os
import sys
from pathlib import Path

import psutil

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent / "bench")]
from web import reads  # noqa: E402
from web_server import serve  # noqa: E402


def test_two_hundred_clients_for_minutes(tmp_path):
    minutes = float(os.environ.get("CARNET_SOAK_MINUTES", "10"))
    with serve(tmp_path) as server:
        port, process = int(server.url.rsplit(":", 1)[1]), psutil.Process(server.process.pid)
        asyncio.run(reads(port, server.keys["viewer"], 15, 200))
        before = process.memory_info().rss
        rate, waits, bad = asyncio.run(reads(port, server.keys["viewer"], 60 * minutes, 200))
        grown = process.memory_info().rss - before
    said = f"{len(waits):,} answers in {minutes:g} minutes, {rate:,.0f}/s, p99 {1e3 * sorted(waits)[int(0.99 * len(waits))]:.0f} ms, {bad} wrong"
    print(f"{said}; memory {before / 1e6:.0f} MB at first, {grown / 1e6:+.1f} MB since")
    assert not bad and len(waits) > 1000 and grown < 30_000_000, (bad, rate, grown)
