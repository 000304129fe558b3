"""Figures of the replay: 250 days of the twenty sample stocks with weekly training, by the clock, of processor time, and its memory.

`python bench/replay.py DAYS` takes fewer days.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from trading.core.settings import load_settings

FIRST, LAST, DAYS = "2022-01-03", "2022-12-28", 250


def report(figure: str, value: float | str, unit: str) -> None:
    "Print one figure as a JSON line."
    print(json.dumps({"figure": figure, "value": value, "unit": unit}), flush=True)


def processor_seconds() -> float:
    "Return what this process and those that it waited for have used."
    return sum(os.times()[:4])


def peak_memory() -> float:
    "Return the most memory that this process has had, in GB; that of the processes it has started is told apart."
    import resource

    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1e6


def main(days: int) -> None:
    from trading.pipeline.replay import run_replay

    with tempfile.TemporaryDirectory() as home:
        where = {"run.data": Path(home) / "data", "run.reports": Path(home) / "reports", "forecast.refit": "weekly"}
        settings, count = load_settings(overrides=where, environ={}), []
        began, clock = processor_seconds(), time.perf_counter()
        first = FIRST if days >= DAYS else _first_day(days)
        done = run_replay(settings, first, LAST, datetime(2026, 11, 28, tzinfo=UTC), progress=lambda number, of, words: count.append(number))
        report(f"replay of {len(count)} days × 20 symbols, weekly training, by the clock", round(time.perf_counter() - clock, 1), "s")
        report("the same, processor time", round(processor_seconds() - began, 1), "s")
        report("the same, most memory of both processes together", round(peak_memory(), 2), "GB")
        name, told = hashlib.sha256((done.folder / "days.jsonl").read_bytes()).hexdigest()[:16], done.summary
        report("the same, name of its decisions", name, f"{told['decisions']} decisions, {told['orders']} orders")


def _first_day(days: int) -> str:
    "Return the day from which on there are so many closes."
    from trading.core.datasets import sample_bars

    index = sample_bars("stocks").index
    return f"{index[index <= LAST][-days]:%Y-%m-%d}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else DAYS)
