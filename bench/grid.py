"""Grids too large for one table, and sweeps on a cluster: `python bench/grid.py`, several minutes; `… ten`, `… counted` or `… cluster` runs one part.

Ten million variations of three parameters on twenty years of daily bars, of which the best thousand are kept: rate and highest memory, first not
counted, then with every variation in the trial register. Then Dask with one local worker and two, and from what was measured there (seconds of a
variation, of its row on the way, of the scheduler for each task) how busy 8 and 64 workers would be with work for an hour of one.
"""

import heapq
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from trading.backtest.costs import Costs
from trading.backtest.strategies import MaCross
from trading.backtest.sweep import IN_PART, make_job, sweep
from trading.backtest.sweep_engines import run_chunk
from trading.backtest.sweep_jobs import make_chunks
from trading.backtest.sweep_tasks import TASKS_EACH
from trading.backtest.trial_register import TrialRegister
from trading.core.datasets import sample_bars
from trading.core.trial_store import Cells

COSTS = {"fees": 0.001, "slippage": 0.0005}
TEN = {"fast": range(2, 2002), "slow": range(2002, 4502), "short": [False, True]}  # 10,000,000, every one of which makes sense
PAIRS = {"fast": range(2, 202), "slow": range(202, 402)}
METRICS = ["sharpe", "total_return", "max_drawdown"]


def say(figure: str, value: float, unit: str, rival: str = "", rival_value: float | None = None, ratio: float | None = None) -> None:
    value, rival_value, ratio = (None if x is None else float(f"{float(x):.4g}") for x in (value, rival_value, ratio))
    print(json.dumps({"figure": figure, "value": value, "unit": unit, "rival": rival, "rival_value": rival_value, "ratio": ratio}), flush=True)


def index():
    return sample_bars("indices").loc[:, (slice(None), ["S&P 500"])]


def ten(counted: bool) -> None:
    "Ten million variations, the best thousand kept; memory is that of this process at its highest, libraries included."
    what = "10,000,000 combinations, the best 1,000 kept" + ", all counted in the register" * counted
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trials.sqlite"
        began, used = time.perf_counter(), time.process_time()
        table = sweep(index(), MaCross, TEN, METRICS, top=1000, progress=False, register=TrialRegister(path) if counted else False, **COSTS)
        took, used = time.perf_counter() - began, time.process_time() - used
        assert len(table) == 1000 and table.attrs["tried"] == 10_000_000 and table["sharpe"].is_monotonic_decreasing
        say(what, 1e7 / took, "backtests/s")
        say(f"{what}, for a second of processor time", 1e7 / used, "backtests/s")
        say(f"highest memory, {what}", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "GB", "limit", 1.0,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        if counted:
            say("register of 10,000,000 variations on the disk", path.stat().st_size / 2**30, "GB")


def makespan(tasks: list[float], workers: int, job: float, turn: float, back: float) -> float:
    """Seconds until the last result is there, all that one machine does for all of them done one after the other.

    The bars go to one worker after the other, `job` seconds each; the scheduler needs `turn` seconds to hand out a task; a worker that is free gets
    the next one; results come back over one line, `back` seconds each, in the order in which they are ready.
    """
    free = [(job * (n + 1), n) for n in range(workers)]
    heapq.heapify(free)
    handed, ready = 0.0, []
    for seconds in tasks:
        at, n = heapq.heappop(free)
        handed = max(at, handed) + turn
        ready.append(handed + seconds)
        heapq.heappush(free, (handed + seconds, n))
    line = 0.0
    for at in sorted(ready):
        line = max(line, at) + back
    return line


def dips(bars, window=20, depth=0.05):
    close = bars["close"]
    return (close < close.rolling(window).mean() * (1 - depth)).astype(int)


def same(size: int) -> np.ndarray:
    return np.zeros(size)


def task(job, times: int = 3) -> tuple[float, float]:
    "Processor time of a combination where the tables of its chunk lie ready, and the bytes of its row."
    chunks, took = make_chunks(job), []
    chunk = chunks[len(chunks) // 2]
    for _ in range(times + 1):
        began = time.process_time()
        found = run_chunk(job, *chunk)
        took.append(time.process_time() - began)
    return min(took[1:]) / len(found), found.nbytes / len(found)


def cluster() -> None:
    "One local worker, two, and what 64 would do with what was measured on these."
    from dask.distributed import Client, LocalCluster

    stocks, took, plain, sent, turn, line = sample_bars("stocks").loc["2002-12":], {}, {}, {}, {}, {}
    own = {"window": range(5, 205), "depth": [0.02, 0.05]}
    job = make_job(stocks, MaCross, PAIRS, METRICS, Costs(**COSTS), "auto", {"shared": False}, None, "auto")
    for workers in (1, 2):
        with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as there, Client(there) as client:
            few = sweep(stocks, MaCross, {"fast": [5, 10], "slow": [50]}, METRICS, client=client, progress=False, register=False, **COSTS)
            assert len(few) == 2 * len(job.symbols)
            best = []
            for _ in range(3):
                began = time.perf_counter()
                table = sweep(stocks, MaCross, PAIRS, METRICS, client=client, progress=False, register=False, **COSTS)
                best.append(time.perf_counter() - began)
            took[workers], best = min(best), []
            for _ in range(2):
                began = time.perf_counter()
                found = sweep(stocks, dips, own, METRICS, client=client, progress=False, register=False, **COSTS)
                best.append(time.perf_counter() - began)
            plain[workers] = min(best)
            began = time.perf_counter()
            sweep(stocks, MaCross, {"fast": [5, 10], "slow": [50]}, METRICS, workers=1, progress=False, register=False, **COSTS)
            alone = time.perf_counter() - began  # what the one who asks does whatever the grid is
            began = time.perf_counter()
            client.scatter(job, broadcast=True)
            sent[workers] = (time.perf_counter() - began) / workers
            began = time.perf_counter()
            client.gather(client.map(same, [1 + k % 7 for k in range(1000)], pure=False))
            turn[workers] = (time.perf_counter() - began) / 1000
            began = time.perf_counter()
            for k in range(20):
                client.submit(same, 10**6 + k, pure=False).result()
            line[workers] = max((time.perf_counter() - began) / 20 - turn[workers], 0.0) / 8e6
    for what, size, done in (("a plain function", len(found), plain), ("moving averages", len(table), took)):
        say(f"cluster: {what} on {len(job.symbols)} stocks, two workers", size / done[2], "backtests/s", "one", size / done[1], done[1] / done[2])
    say("cluster: the scheduler, a task", turn[2] * 1e3, "ms")
    say("cluster: a result on the way", 1 / line[2] / 1e6, "MB/s")
    say(f"cluster: the bars to a worker, {len(pickle.dumps(job)) / 1e6:.0f} MB", sent[2], "s")
    seconds, size = task(job)
    seconds, size = seconds * len(job.symbols), size * len(job.symbols)  # one chunk is of one symbol
    each = len(job.grid.valid) / (TASKS_EACH * 2)
    told = alone + makespan([seconds * each] * TASKS_EACH * 2, 2, sent[2], turn[2], size * each * line[2])
    say("cluster: moving averages, two workers, the simulation", told, "s", "measured", took[2], told / took[2])
    hour(alone, sent[2], turn[2], line[2])


def hour(alone: float, sent: float, turn: float, line: float) -> None:
    "How much of their time many workers compute when one would need an hour."
    plain = {"window": range(5, 2005), "depth": np.linspace(0.01, 0.1, 20)}
    kernel, own = (make_job(index(), rule, grid, METRICS, Costs(**COSTS), "auto", {"shared": False}, None, "auto")
                   for rule, grid in ((MaCross, TEN), (dips, plain)))
    cells = Cells.of(index().index)
    for what, job, top in (("moving averages, the best 1,000", kernel, 1000), ("moving averages, every row", kernel, 0),
                           ("moving averages, counted", replace(kernel, cells=cells), 0), ("a plain function, every row", own, 0),
                           ("a plain function, counted", replace(own, cells=cells), 0)):
        seconds, size = task(job)
        say(f"cluster: a variation, {what}", seconds * 1e6, "microseconds of processor time")
        for workers in (8, 64):
            count = TASKS_EACH * workers if not top else max(TASKS_EACH * workers, int(3600 / seconds / IN_PART))
            row = top * 8 * (2 + len(METRICS)) if top else size * 3600 / seconds / count
            share = 3600 / workers / (alone + makespan([3600 / count] * count, workers, sent, turn, row * line))
            say(f"cluster: an hour of {what}, {workers} workers by simulation, share of their time that they compute", share, "", "asked for", 0.9)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        for part in ("ten", "counted", "cluster"):  # each in a process of its own
            subprocess.run([sys.executable, __file__, part], check=True)
    elif sys.argv[1] == "cluster":
        cluster()
    else:
        ten(sys.argv[1] == "counted")
