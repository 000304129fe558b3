"Figures of trading: how fast the ledger writes and is read, and how long a plan of two hundred orders takes."

import json
import sqlite3
import tempfile
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from trading.accounting.account_book import fill_event, fold_book
from trading.accounting.ledger import Ledger
from trading.core.instruments import Instrument
from trading.core.types import Action, CheckResult, Event, Fill, Plan
from trading.execution.approval import approve_plan
from trading.execution.executor import OrderParameters, execute
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import QuoteFeed

NOW = datetime(2024, 1, 2, 12, tzinfo=UTC)


def report(figure: str, value: float, unit: str, rival: str = "", rival_value: float | None = None) -> None:
    "Print one figure as a JSON line."
    ratio = None if rival_value is None else round(value / rival_value, 3)
    line = {"figure": figure, "value": round(value, 3), "unit": unit, "rival": rival, "rival_value": rival_value, "ratio": ratio}
    print(json.dumps(line), flush=True)


def fills(start: int, count: int) -> list[Event]:
    "Make trades of ten symbols, bought and sold in turn."
    sides = ("buy", "sell")
    made = [Fill(f"t{n}", f"c{n}", f"S{n % 10}", sides[n // 10 % 2], Decimal("1.5"), Decimal(100 + n % 7), Decimal("0.15"), NOW)
            for n in range(start, start + count)]
    return [fill_event(f, "mine", "paper") for f in made]


def raw_inserts(folder: Path, count: int) -> float:
    "Return rows a second of bare SQLite in one transaction, the most that a file can do."
    db = sqlite3.connect(folder / "raw.db", isolation_level=None)
    db.executescript("pragma journal_mode = wal; pragma synchronous = full; create table e (seq integer primary key, a text)")
    began = time.perf_counter()
    db.execute("begin")
    db.executemany("insert into e (a) values (?)", (("x" * 300,) for _ in range(count)))
    db.execute("commit")
    return count / (time.perf_counter() - began)


def ledger_figures(folder: Path) -> None:
    "Measure appending in batches and one by one, and replaying."
    ledger, rates, size = Ledger(folder / "ledger.db"), [], 5000
    ledger.open_account("mine", "USD", Decimal(10**6), NOW)
    for batch in range(40):
        events = fills(batch * size, size)
        began = time.perf_counter()
        ledger.append(events)
        rates.append(size / (time.perf_counter() - began))
    report("ledger, batches of 5,000", sorted(rates)[20], "events/s", "bare SQLite insert", round(raw_inserts(folder, 50000)))
    report("ledger, last batch against first", rates[-1] / rates[0], "ratio")
    singles = fills(10**6, 500)
    began = time.perf_counter()
    for event in singles:
        ledger.append(event)
    report("ledger, single durable commits", 500 / (time.perf_counter() - began), "events/s")
    began = time.process_time()
    one_by_one = fold_book("mine", ((e.kind, e.data) for e in ledger.events("mine")))
    slow = 200500 / (time.process_time() - began)
    rates, clocks = [], []
    for _ in range(5):  # processor time: another program must not decide
        fresh = Ledger(folder / "ledger.db")
        began, clock = time.process_time(), time.perf_counter()
        assert fresh.book("mine") == one_by_one
        rates.append(200500 / (time.process_time() - began))
        clocks.append(200500 / (time.perf_counter() - clock))
    report("ledger, replay to positions and cash", max(rates), "events/s of processor time", "one event after the other", round(slow))
    report("ledger, replay to positions and cash, by the clock", max(clocks), "events/s")
    began = time.process_time()
    ledger.verify()
    report("ledger, chain verified", 200500 / (time.process_time() - began), "events/s of processor time")


def plan_figures(folder: Path) -> None:
    "Measure a plan of two hundred orders on the paper exchange."
    symbols = [f"S{n:03}" for n in range(200)]
    venue = PaperVenue(QuoteFeed(lambda s, t: Decimal(100)), lambda: NOW, {s: Instrument(s, Decimal("0.01"), Decimal("0.01")) for s in symbols},
                       TradingCosts(Decimal("0.001"), Decimal(2), Decimal(3)), {"USD": Decimal(10**6)}, "USD", folder / "venue.db")
    ledger = Ledger(folder / "plan.db")
    ledger.open_account("mine", "USD", Decimal(10**6), NOW)
    plan = Plan("mine", NOW, "USD", Decimal(10**6), Decimal(10**6), tuple(Action(s, "buy", Decimal("3.5"), Decimal(100), "bench") for s in symbols))
    approve_plan(ledger, plan, "bench", NOW)
    began = time.perf_counter()
    done = execute(plan, CheckResult(plan.hash, (), ("bench",)), venue, ledger, NOW, OrderParameters(Decimal("0.001")))
    report("a plan of 200 orders on the paper exchange, both files durable", time.perf_counter() - began, "s")
    assert len(done.fills) == 200


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        ledger_figures(Path(name))
        plan_figures(Path(name))
