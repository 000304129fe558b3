"""How cost grows: processor time of what a user waits for at 1×, 10× and 100×, with the exponent; above 1.15 it fails.

`python bench/growth.py` measures this tree. With PYTHONPATH pointing at another tree it measures that one: so the column "before" was made.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd

from trading.accounting.account_book import fill_event
from trading.accounting.ledger import Ledger
from trading.core.instruments import Instrument
from trading.core.types import Action, CheckResult, Event, Fill, Order, Plan
from trading.data.delta_store import BarStore
from trading.data.price_files import read_price_file
from trading.execution.approval import approve_plan
from trading.execution.executor import OrderParameters, execute
from trading.execution.limit_monitor import check_order_limits, watch_limits
from trading.execution.protection import entered
from trading.execution.reconciliation import reconcile
from trading.risk.limits import RiskLimits
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import QuoteFeed

FIELDS = ["open", "high", "low", "close", "volume"]
LIMIT = 1.15  # of an exponent: above it the whole grows faster than what is added
NOW, D = datetime(2024, 1, 2, 12, tzinfo=UTC), Decimal
BEFORE = Path(__file__).parent / "growth-before.json"  # measured once on the same machine, on the tree before folds were kept


def block(symbols: int, first: str, bars: int, freq: str) -> pd.DataFrame:
    index = pd.date_range(first, periods=bars, freq=freq, tz="UTC", name="timestamp").as_unit("us")
    columns = pd.MultiIndex.from_product([FIELDS, [f"S{n:04d}" for n in range(symbols)]], names=["field", "symbol"])
    return pd.DataFrame(np.random.default_rng(0).normal(100, 1, (bars, len(columns))).round(4), index=index, columns=columns)


def show(figure: str, value: float, unit: str, rival: str = "", rival_value: float | None = None) -> None:
    ratio = None if not rival_value else round(rival_value / value, 2)
    print(json.dumps({"figure": figure, "value": round(value, 4), "unit": unit, "rival": rival,
                      "rival_value": None if rival_value is None else round(rival_value, 4), "ratio": ratio}), flush=True)


def spent(work: Callable) -> float:
    begun = process_time()
    work()
    return process_time() - begun


def exchange(symbols: int, path: Path | None = None) -> PaperVenue:
    markets = {f"S{k:04d}": Instrument(f"S{k:04d}", D("0.01"), D("0.01")) for k in range(symbols)}
    return PaperVenue(QuoteFeed(lambda s, t: D(100)), lambda: NOW, markets, TradingCosts(D("0.001"), D(2), D(3)), {"USD": D(10**9)}, "USD", path)


def aged(path: Path, trades: int, marks: int) -> Ledger:
    "Make an account of so many orders, each with its intent, its names, its trade and its end, and of so many daily marks."
    ledger, begun = Ledger(path), NOW - timedelta(days=marks + 2)
    ledger.open_account("mine", "USD", D(10**9), begun)
    events, step = [], (NOW - timedelta(days=2) - begun) / max(trades, 1)
    for k in range(trades):
        when, symbol, side, plan = begun + step * k, f"S{k % 50:04d}", ("buy", "sell")[k // 50 % 2], f"p{k // 50}"
        order = {"client_order_id": f"c{k}", "symbol": symbol, "side": side, "amount": "1.5", "plan": plan}
        events += [Event("intent", "mine", when, order | {"type": "market", "price": None, "stop_price": None, "time_in_force": "GTC"}),
                   Event("placed", "mine", when, {"client_order_id": f"c{k}", "form": f"c{k}", "id": f"paper-{k}", "venue": "paper"}),
                   fill_event(Fill(f"t{k}", f"c{k}", symbol, side, D("1.5"), D(100 + k % 7), D("0.15"), when), "mine", "paper"),
                   Event("ended", "mine", when, order | {"id": f"paper-{k}", "filled": "1.5", "status": "closed", "average": "100", "fee": "0.15",
                                                         "reason": ""})]
    sums = dict.fromkeys(("equity", "cash", "realised", "unrealised", "fees", "paid_in"), "1000000000")
    events += [Event("equity", "mine", begun + timedelta(days=k + 1), sums | {"prices": {}}) for k in range(marks)]
    for at in range(0, len(events), 8000):
        ledger.append(events[at:at + 8000])
    return ledger


def guarded(folder: Path, orders: int, marks: int = 250, trades: int = 0) -> float:
    "Execute a plan as a run does it: the account and each order are looked at before it leaves."
    venue, ledger = exchange(max(orders, 50), folder / "venue.db"), aged(folder / "ledger.db", trades, marks)
    plan = Plan("mine", NOW, "USD", D(10**9), D(10**9), tuple(Action(f"S{k:04d}", "buy", D("3.5"), D(100), "bench") for k in range(orders)))
    approve_plan(ledger, plan, "bench", NOW)
    limits = RiskLimits(max_drawdown=0.25, max_daily_loss=0.05, max_weight=0.9, max_daily_value=D(10**9))
    told = venue.fetch_tickers([f"S{k:04d}" for k in range(max(orders, 50))])  # a run asks once for every moment
    given = ledger, "mine", limits, lambda: told, lambda: NOW
    ledger.equity_history("mine"), ledger.book("mine"), watch_limits(*given)()  # the first look reads the past, once in a process

    def trade() -> None:
        done = execute(plan, CheckResult(plan.hash, (), ("bench",)), venue, ledger, NOW, OrderParameters(D("0.001")), stop=watch_limits(*given),
                       allow=check_order_limits(*given), sleep=lambda seconds: None)
        assert len(done.fills) == orders

    return spent(trade)


def resting(folder: Path, orders: int) -> float:
    "Send orders that rest in the book."
    venue = exchange(50, folder / "venue.db")

    def send() -> None:
        for k in range(orders):
            assert venue.create_order(Order(f"o{k}", f"S{k % 50:04d}", "buy", D(1), "limit", D(90) - D(k % 1000) / 100)).status == "open"

    return spent(send)


def page(folder: Path, orders: int) -> float:
    "Read the newest fifty events, as the page of events does; the first question counts them, the second is measured."
    ledger = aged(folder / "ledger.db", orders, 10)

    def read() -> None:
        if hasattr(ledger, "backward"):
            list(islice(ledger.backward("mine"), 50)), ledger.count("mine")
        else:
            ledger.events("mine")[::-1][:50]

    read()
    return min(spent(lambda: [read() for _ in range(10)]) / 10 for _ in range(3))


def hourly(folder: Path, orders: int) -> float:
    "Reconcile an account again an hour later."
    ledger, venue = aged(folder / "ledger.db", orders, 10), exchange(50, folder / "venue.db")
    reconcile(ledger, venue, "mine", NOW)
    ledger.append(Event("reconciled", "mine", NOW, {"ok": True, "differences": [], "mended": [], "waiting": []}))
    return min(spent(lambda hours=hours: reconcile(ledger, venue, "mine", NOW + timedelta(hours=hours))) for hours in (1, 2, 3))


def begun(folder: Path, orders: int) -> float:
    "Ask of fifty symbols when their positions were begun, as protection does."
    ledger = aged(folder / "ledger.db", orders, 10)
    return spent(lambda: [entered(ledger, "mine", f"S{k:04d}") for k in range(50)])


def replay(folder: Path, orders: int) -> float:
    "Add an account up from nothing."
    aged(folder / "ledger.db", orders, 10).close()
    return spent(lambda: Ledger(folder / "ledger.db", readonly=True).book("mine"))


def taken_up(folder: Path, orders: int) -> float:
    "Ask as a new process does, when sums were kept and a hundred events came after."
    ledger = aged(folder / "ledger.db", orders, 100)
    ask = lambda books: (books.book("mine"), books.equity_history("mine"), books.count("mine"), entered(books, "mine", "S0000"))  # noqa: E731
    ask(ledger), ledger.append([Event("note", "mine", NOW, {"text": "new"})] * 100)
    return min(spent(lambda: ask(Ledger(folder / "ledger.db", readonly=True))) for _ in range(3))


def checked(folder: Path, orders: int) -> float:
    "Walk the chain at the beginning of a run, when most was walked before."
    ledger = aged(folder / "ledger.db", orders, 10)
    ledger.verify_new(again=1000), ledger.append(Event("note", "mine", NOW, {"text": "new"}))
    return spent(lambda: ledger.verify_new(again=1000))


def marked(folder: Path, days: int) -> float:
    "Add the mark of one day more, and read the history."
    ledger = aged(folder / "ledger.db", 0, days)
    ledger.equity_history("mine")

    def mark() -> None:
        for n in range(5):
            ledger.mark("mine", {}, NOW + timedelta(days=n)), ledger.equity_history("mine")

    return spent(mark) / 5


CURVES = [  # what, how, sizes, what it may grow with: the work itself, or nothing
    ("execution: n guarded orders", guarded, (20, 100, 400), LIMIT),
    ("execution: 30 guarded orders after n marks", lambda folder, n: guarded(folder, 30, n), (100, 1000, 10_000), 0.2),
    ("execution: 30 guarded orders after n orders", lambda folder, n: guarded(folder, 30, 10, n), (100, 1000, 10_000), 0.2),
    ("paper exchange: n orders that rest", resting, (20, 200, 2000), LIMIT),
    ("ledger: a page of 50 events after n orders", page, (100, 1000, 10_000), 0.2),
    ("reconciliation: an hour later, after n orders", hourly, (100, 1000, 10_000), 0.2),
    ("protection: when 50 positions were begun, after n trades", begun, (100, 1000, 10_000), LIMIT),
    ("ledger: n orders added up from nothing", replay, (100, 1000, 10_000), LIMIT),
    ("ledger: a new process takes up what was kept, after n orders", taken_up, (1000, 10_000, 50_000), 0.2),
    ("ledger: the chain at the beginning of a run, after n orders", checked, (1000, 10_000), 0.3),
    ("ledger: a mark more after n days", marked, (100, 1000, 10_000), 0.3),
]


def curves(folder: Path) -> list[str]:
    "Measure every curve, and return what grows too fast."
    before, fast = json.loads(BEFORE.read_text()) if BEFORE.exists() else {}, []
    guarded(Path(tempfile.mkdtemp(dir=folder)), 2, 2)  # what is imported on the way
    for name, work, sizes, most in CURVES:
        cost = []
        for size in sizes:
            place = Path(tempfile.mkdtemp(dir=folder))
            cost.append(work(place, size))
            shutil.rmtree(place)
            show(name.replace(" n ", f" {size:,} "), cost[-1], "s", "before" if name in before else "", dict(before.get(name, ())).get(size))
        exponent = math.log(cost[-1] / cost[0]) / math.log(sizes[-1] / sizes[0])
        show(f"{name}: exponent", exponent, "", "at most", most)
        fast += [f"{name}: {exponent:.2f}, at most {most}"] if exponent > most else []
    return fast


def commits(folder: Path) -> float:
    "A bar of 20 symbols at a time, a thousand times."
    store, bars = BarStore(folder / "bars"), block(20, "2024-01-01", 1010, "5min")
    costs = np.array([spent(lambda n=n: store.upsert(bars.iloc[[n]], "5m", "bench")) for n in range(1010)])[10:]
    for size in (100, 300, 1000):
        show(f"store: a commit of 20 symbols after {size}", float(np.median(costs[size - 100:size])), "s", "asked for", 0.04)
    show("store: of which the slowest, with files joined", float(costs[-100:].max()), "s")
    read = lambda: store.read(timeframe="5m", fields=["close"])  # noqa: E731
    many = min(spent(read) for _ in range(3))
    store.tidy()
    show("store: reading after 1,000 commits", many, "s", "the same, tidied", min(spent(read) for _ in range(3)))
    return float(np.log(costs.sum() / costs[:100].sum()) / np.log(10))


def days(folder: Path) -> None:
    "A day of 2,000 symbols, after 100 days and after 1,000."
    for past in (100, 1000):
        store = BarStore(folder / str(past))
        store.upsert(block(2000, "2000-01-01", past, "D"), "1d", "bench")
        new = [block(2000, f"2010-01-{n + 1:02d}", 1, "D") for n in range(20)]
        costs = [spent(lambda bars=bars, store=store: store.upsert(bars, "1d", "bench")) for bars in new]
        show(f"store: a day of 2,000 symbols after {past:,} days", float(np.median(costs)), "s", "asked for", 0.3)


def minutes(folder: Path) -> None:
    "A million bars of a minute as CSV."
    path, bars = folder / "BTCUSDT-1m.csv", block(1, "2021-01-01", 1_000_000, "min").droplevel("symbol", axis=1)
    bars.abs().assign(high=bars.max(axis=1), low=bars.min(axis=1)).rename_axis("time").to_csv(path, date_format="%Y-%m-%d %H:%M:%S+00:00")
    plain = spent(lambda: pd.read_csv(path, parse_dates=["time"]))
    show("files: a CSV of a million minutes", spent(lambda: read_price_file(path, "BTC/USDT", strict=False)), "s", "pandas.read_csv", plain)


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        exponent = commits(folder)
        show("store: exponent of the whole, 100 to 1,000 commits", exponent, "", "at most", LIMIT)
        days(folder)
        minutes(folder)
        fast = curves(folder)
    finally:
        shutil.rmtree(folder)
    fast += [f"the store: {exponent:.2f} of its commits, at most {LIMIT}"] if exponent > LIMIT else []
    if fast:
        raise SystemExit("grows faster than it may: " + "; ".join(fast))


if __name__ == "__main__":
    main()
