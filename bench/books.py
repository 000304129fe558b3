"A year of entries re-folded after a late one, ten years of marks, and what an event costs in a ledger that has a million."

import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
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
