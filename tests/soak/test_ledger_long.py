"Ten million events in one ledger: the last cost what the first did, and adding them up takes ten times as long as one million."

import os
import time
from datetime import UTC, datetime
from decimal import Decimal

from trading.accounting.account_book import fill_event
from trading.accounting.ledger import Ledger
from trading.core.types import Fill

EVENTS = int(os.environ.get("LEDGER_EVENTS", "10000000"))
BATCH = 20_000
NOW = datetime(2024, 1, 2, 12, tzinfo=UTC)


def test_cost_stays_linear_to_ten_million_events(tmp_path):
    ledger, spent, blocks = Ledger(tmp_path / "ledger.db"), [], 10
    ledger.open_account("mine", "USD", Decimal(10**9), NOW)
    for start in range(0, EVENTS, BATCH):
        events = [fill_event(trade(n), "mine", "paper") for n in range(start, start + BATCH)]
        began = time.process_time()
        ledger.append(events)
        spent.append(time.process_time() - began)
        if start == EVENTS // 10 - BATCH:
            early = added_up(tmp_path, EVENTS // 10)
    size = len(spent) // blocks
    by_block = [sum(spent[k * size : (k + 1) * size]) for k in range(blocks)]
    late = added_up(tmp_path, EVENTS)
    print(f"append: {BATCH * size / by_block[0]:,.0f} events/s in the first tenth, {BATCH * size / by_block[-1]:,.0f} in the last; "
          f"added up: {EVENTS / 10 / early:,.0f} events/s of the first tenth, {EVENTS / late:,.0f} of all")
    assert by_block[-1] < 2 * by_block[0] and late < 10 * early * 1.5
    assert ledger.book("mine").fees == Decimal("0.15") * EVENTS


def trade(n: int) -> Fill:
    "Make the trade of a number."
    return Fill(f"t{n}", f"c{n}", f"S{n % 10}", ("buy", "sell")[n // 10 % 2], Decimal("1.5"), Decimal(100 + n % 7), Decimal("0.15"), NOW)


def added_up(folder, count: int) -> float:
    "Return the processor seconds that adding up a fresh ledger takes."
    fresh, began = Ledger(folder / "ledger.db"), time.process_time()
    assert fresh.book("mine").fees == Decimal("0.15") * count
    return time.process_time() - began
