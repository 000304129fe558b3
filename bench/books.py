"""A year of entries re-folded after a late one, ten years of marks, what an event costs in a ledger that has a million, what a command waits for
in an old account with and without the sums that are kept beside its ledger, and the report of an account with 100,000 trades."""

import json
import math
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from growth import aged  # noqa: E402
from trade import fills, report  # noqa: E402

from trading.accounting.account_book import fill_event
from trading.accounting.ledger import Ledger
from trading.core.types import Event, Fill

D, START = Decimal, datetime(2024, 1, 1, tzinfo=UTC)


def best(times: int, ask) -> float:
    "Return the processor seconds that a call takes, the best of some: another program must not decide."
    spent = []
    for _ in range(times):
        began = time.process_time()
        ask()
        spent.append(time.process_time() - began)
    return min(spent)


def year_of_entries() -> list[Event]:
    "Make 5,000 events of every kind that a year brings, as they happened."
    made = []
    for n in range(5000):
        when, symbol = START + timedelta(hours=1.75 * n), f"S{n % 12}"
        if n % 50 == 7:
            made.append(Event("dividend", "mine", when, {"symbol": symbol, "amount": "1.25", "id": f"d{n}"}))
        elif n % 50 == 19:
            made.append(Event("reward", "mine", when, {"symbol": symbol, "amount": "0.01", "price": "100", "id": f"r{n}"}))
        elif n % 50 == 31:
            made.append(Event("deposit", "mine", when, {"amount": "500", "currency": "EUR", "rate": "1.08", "id": f"p{n}"}))
        elif n % 500 == 43:
            made.append(Event("split", "mine", when, {"symbol": symbol, "ratio": "2", "id": f"s{n}"}))
        else:
            trade = Fill(f"t{n}", f"c{n}", symbol, ("buy", "buy", "sell")[n % 3], D(1 + n % 5), D(100 + n % 17), D("0.1"), when)
            made.append(fill_event(trade, "mine", "v"))
    return made


def refold(folder: Path) -> None:
    "Measure what a late entry costs: every sum of the year anew."
    ledger, events = Ledger(folder / "year.db"), year_of_entries()
    ledger.open_account("mine", "USD", D(10**6), START)
    ledger.append(events)
    whole = best(5, lambda: Ledger(folder / "year.db").book("mine"))
    report("5,000 events of a year added up", whole, "s of processor time", "asked for at most", 0.5)
    ledger.book("mine")
    ledger.append(Event("deposit", "mine", START + timedelta(hours=1), {"amount": "10", "currency": "USD", "id": "late"}))
    began = time.process_time()
    ledger.book("mine")
    report("the same re-folded after a late entry", time.process_time() - began, "s of processor time", "asked for at most", 0.5)


def marks(folder: Path) -> None:
    "Measure an account of thirty assets marked at every daily close of ten years."
    ledger, symbols = Ledger(folder / "marks.db"), [f"A{n:02}" for n in range(30)]
    ledger.open_account("mine", "USD", D(10**6), START)
    bought = (Fill(f"m{n}", f"c{n}", s, "buy", D("12.5"), D(100), D(1), START + timedelta(hours=n + 1)) for n, s in enumerate(symbols))
    ledger.append(fill_event(f, "mine", "v") for f in bought)
    days = pd.date_range(START + timedelta(days=3), periods=3652, freq="1D")
    steps = np.random.default_rng(7).normal(0, 0.01, (len(days), len(symbols)))
    closes = pd.DataFrame((100 * np.exp(steps.cumsum(axis=0))).round(4), days, symbols)
    ledger.mark("mine", dict.fromkeys(symbols, D(100)), START + timedelta(days=2))
    spent = best(3, lambda: ledger.value_closes("mine", closes, days[-1].to_pydatetime()))
    report("30 assets marked at 3,652 daily closes", spent, "s of processor time", "asked for at most", 0.3)
    ledger.mark_closes("mine", closes, days[-1].to_pydatetime())
    report("their history read back, with unit values", best(3, lambda: ledger.equity_history("mine")), "s of processor time")


BEGIN = """
import json, re, sys, time
from datetime import datetime
from decimal import Decimal
import pandas
from trading.accounting.ledger import Ledger
from trading.execution.protection import entered, protections

memory = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
ledger, now = Ledger(sys.argv[1], readonly=sys.argv[2] == "look"), datetime.fromisoformat("2024-01-05T00:00+00:00")
before, began = memory(), time.process_time()
book = ledger.book("mine")
ledger.standing("mine", now, book.cash + 10**6, book.contributed), entered(ledger, "mine", "S0000"), protections(ledger, "mine")
ledger.count("mine", "fill"), ledger.unended("mine"), ledger.accounts(), ledger.equity_history("mine")
print(json.dumps([time.process_time() - began, memory() - before, str(book.cash)]))
"""


def begin(ledger: Path, how: str) -> tuple[float, float, str]:
    "Ask in a new process what a run asks first; return seconds of processor time, MB that it took, and the cash."
    done = subprocess.run([sys.executable, "-c", BEGIN, str(ledger), how], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout))


def start(folder: Path) -> None:
    "Measure what a process waits for until it knows the account: with kept sums and a thousand events after them, and from nothing."
    spent = {}
    for events in (10**4, 10**5, 10**6):
        path = folder / f"{events}.db"
        ledger = aged(path, events // 4, 1000)
        whole = begin(path, "look")
        begin(path, "keep")
        ledger.append(fills(10**7, 1000))
        first = min(begin(path, "look") for _ in range(3))
        ledger.close()
        size = sum(f.stat().st_size for f in folder.glob(f"{path.name}.*.folds")) / 1e6
        for f in folder.glob(f"{path.name}.*.folds"):
            f.unlink()
        assert begin(path, "look")[2] == first[2]
        spent[events] = first, whole
        for name, unit, value, rival in (("processor time", "s", first[0], whole[0]), ("memory", "MB", first[1], max(whole[1], 0.1))):
            report(f"a process begins with an account of {events:,} events, {name}", value, unit, "every event added up", round(rival, 3))
        report(f"the file of kept sums of {events:,} events", size, "MB")
    for n, name in ((0, "time"), (1, "memory")):
        kept, whole = (math.log(max(spent[10**6][k][n], 0.1 * n) / max(spent[10**4][k][n], 0.1 * n)) / math.log(100) for k in (0, 1))
        report(f"the same: exponent of {name}, 10,000 to 1,000,000 events", kept, "", "every event added up", round(whole, 3))
        if n == 0:
            far = [spent[10**6][k][0] * 100 ** max(e, 0) for k, e in ((0, kept), (1, whole))]
            report("the same at 100,000,000 events, by the exponent", far[0], "s of processor time", "every event added up", round(far[1], 1))


def old_report(home: Path) -> None:
    "Measure the report of a run whose account has traded 100,000 times."
    from trading.core.settings import load_settings
    from trading.pipeline.launch import open_run
    from trading.pipeline.notebook_runner import run_in_process
    from trading.pipeline.run_record import STAGES
    from trading.testing.sample_runs import SMALL

    settings = load_settings(overrides=SMALL | {"run.data": home / "data", "run.reports": home / "reports"}, environ={})
    run_in_process(open_run(settings, datetime.now(UTC), "2022-12-15"))
    ledger, first = Ledger(home / "data" / "ledger.sqlite"), datetime(2022, 12, 16, 1, tzinfo=UTC)
    each = timedelta(seconds=0.7)
    trades = (Fill(f"z{n:06}", f"a{n}", "KO", ("buy", "sell")[n % 2], D("1.5"), D(60), D(0), first + each * n) for n in range(100_000))
    ledger.append(fill_event(f, "paper-sample", "paper", "old") for f in trades)
    run = run_in_process(open_run(settings, datetime.now(UTC), "2022-12-16"), STAGES[:-1])
    began = time.process_time()
    run_in_process(run, STAGES[-1:])
    report("report of a run whose account has 100,000 trades", time.process_time() - began, "s of processor time", "asked for at most", 5)


def append_cost(folder: Path) -> None:
    "Measure what one durable event costs in an empty ledger and in one of a million."
    ledger = Ledger(folder / "million.db")
    ledger.open_account("mine", "USD", D(10**9), START)
    empty = _one_by_one(ledger, fills(5_000_000, 200))
    for start in range(0, 1_000_000, 20_000):
        ledger.append(fills(start, 20_000))
    full = _one_by_one(ledger, fills(6_000_000, 200))
    report("one event into a ledger of a million", full * 1e6, "us of processor time", "into an empty one", empty * 1e6)


def _one_by_one(ledger: Ledger, events: list[Event]) -> float:
    "Return the processor seconds of one event."
    began = time.process_time()
    for event in events:
        ledger.append(event)
    return (time.process_time() - began) / len(events)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        refold(Path(name))
        marks(Path(name))
        append_cost(Path(name))
        start(Path(name))
        old_report(Path(name))
