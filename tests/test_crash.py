"""No order is lost or doubled, wherever the process is killed and whatever the venue does meanwhile.

A forked child trades a plan on a paper exchange that lives in a file, behind a bad wire. A seed decides before which SQL statement, of the
ledger or of the exchange, the child kills itself with SIGKILL, and which faults the wire has. Then another child starts, reconciles, and goes
on; it may be killed too. At the end the books must equal the venue's to the last digit, and both must equal those of a calm day.

On half of the days the market is thin: every order is filled in several parts, one with each question, so that it dies half filled too.

CRASH_POINTS sets the number of bad days; `make soak` plays a thousand and more.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from trading.accounting.ledger import Ledger
from trading.core.instruments import Instrument
from trading.core.types import Action, CheckResult, Order, OrderState, Plan, Position
from trading.execution.approval import approve_plan, plan_status
from trading.execution.executor import OrderParameters, execute
from trading.execution.order_manager import OrderContext, RetryPolicy, unresolved
from trading.execution.reconciliation import expected_holdings, reconcile
from trading.testing.faulty_venue import Faults, FaultyVenue
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import QuoteFeed

POINTS = int(os.environ.get("CRASH_POINTS", "120"))
NOW = datetime(2024, 1, 2, 12, tzinfo=UTC)
PRICES = {"AAA/USDT": Decimal("100.5"), "BBB/USDT": Decimal("0.00001234"), "CCC/USDT": Decimal("43210.99"), "DDD/USDT": Decimal("7")}
MARKETS = {s: Instrument(s, Decimal("0.00000001"), Decimal("0.00000001")) for s in PRICES}
FUNDS = {"USDT": Decimal(1000), "AAA": Decimal(30), "BBB": Decimal(10**9)}
COSTS = {
    "deep": TradingCosts(Decimal("0.001"), Decimal(2), Decimal(3)),
    "thin": TradingCosts(Decimal("0.001"), Decimal(2), Decimal(3), max_share=Decimal("0.5")),
}
VOLUMES = {"AAA/USDT": Decimal("7.1"), "BBB/USDT": Decimal(150_000_000), "CCC/USDT": Decimal("0.033"), "DDD/USDT": Decimal(300)}
DEPTH = "deep"  # of the market on this day
STYLE = OrderParameters(Decimal("0.001"))
PLAN = Plan("mine", NOW, "USDT", Decimal(20000), Decimal(1000), (
    Action("AAA/USDT", "sell", Decimal("12.34567891"), PRICES["AAA/USDT"], "above its target"),
    Action("BBB/USDT", "sell", Decimal("333333333.3"), PRICES["BBB/USDT"], "above its target"),
    Action("CCC/USDT", "buy", Decimal("0.05"), PRICES["CCC/USDT"], "below its target"),
    Action("DDD/USDT", "buy", Decimal("1500"), PRICES["DDD/USDT"], "below its target, and more than the cash allows")))
VERDICT = CheckResult(PLAN.hash, (), ("max_turnover",))
FAULTS = [
    Faults(),
    Faults(lost_answer=0.6),
    Faults(lost_request=0.4, lost_answer=0.3),
    Faults(late=0.6, slow_lists=0.5),
    Faults(server_error=0.3, rate_limited=0.2),
    Faults(duplicate=0.7, slow_lists=0.5),
    Faults(lost_request=0.2, lost_answer=0.2, late=0.2, server_error=0.1, rate_limited=0.1, duplicate=0.3, slow_lists=0.3),
]


class ThinTape(QuoteFeed):
    "Quotes that say how much was traded, so that an order gets only a share of it each time."

    def after(self, symbol, moment):
        quote = super().after(symbol, moment)
        return quote and quote.but(volume=VOLUMES[symbol])


class Strict(PaperVenue):
    "An exchange that, like most, does not recognise the id of an order that has ended; here the second arrival leaves a mark."

    folder: Path

    def create_order(self, order: Order) -> OrderState:
        if self._row(order.client_order_id) is not None:
            (self.folder / "doubled").touch()
        return super().create_order(order)


def exchange(folder: Path) -> Strict:
    "Open the exchange's file."
    Strict.folder = folder
    tape = (ThinTape if DEPTH == "thin" else QuoteFeed)(lambda s, t: PRICES.get(s))
    return Strict(tape, lambda: NOW, MARKETS, COSTS[DEPTH], FUNDS, "USDT", folder / "venue.db")


def prepare(folder: Path) -> None:
    "Open the account and approve the plan."
    exchange(folder).close()
    ledger = Ledger(folder / "ledger.db")
    held = [Position(f"{a}/USDT", n, PRICES[f"{a}/USDT"]) for a, n in FUNDS.items() if a != "USDT"]
    ledger.open_account("mine", "USDT", FUNDS["USDT"], NOW, held)
    approve_plan(ledger, PLAN, "the test", NOW)
    ledger.close()


def trade(folder: Path, faults: Faults, seed: int, kill_at: int) -> int:
    "Start like the daily job: reconcile, trade or go on, reconcile. Return how many statements were run."
    venue, ledger, count = exchange(folder), Ledger(folder / "ledger.db"), [0]

    def step(statement: str) -> None:
        count[0] += 1
        if count[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    venue._db.set_trace_callback(step)
    ledger._db.set_trace_callback(step)
    wire = FaultyVenue(venue, faults, seed, lambda order: (folder / "late.json").write_text(order.to_json()))
    reconcile(ledger, wire, "mine", NOW, sleep=lambda s: None)
    if plan_status(ledger, "mine", PLAN.hash) != "executed":
        execute(PLAN, VERDICT, wire, ledger, NOW, STYLE, patience=RetryPolicy(sends=20), sleep=lambda s: None)
    reconcile(ledger, wire, "mine", NOW, sleep=lambda s: None).require()
    return count[0]


def in_child(folder: Path, faults: Faults, seed: int, kill_at: int) -> tuple[int, float]:
    "Run `trade` in a forked process; return how it ended (0, 1 for an error, -9 for a kill) and its processor time in seconds."
    pid = os.fork()
    if pid == 0:
        try:
            trade(folder, faults, seed, kill_at)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a child must never return into the test
            (folder / "error.txt").write_text(repr(error))
            os._exit(1)
    _, status, used = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def outcome(folder: Path) -> tuple:
    "Return the books and the trades, after making sure that ledger and venue say the same."
    venue, ledger = exchange(folder), Ledger(folder / "ledger.db")
    trades, book = venue.fetch_my_trades(None), ledger.book("mine")
    assert expected_holdings(book) == venue.fetch_balance()
    assert {f.id: f for f in trades} == {f.id: f for f in ledger.fills("mine")} and len(trades) == len(ledger.fills("mine"))
    assert not (folder / "doubled").exists()
    assert len({f.client_order_id for f in trades}) == 4 and venue.fetch_open_orders() == []
    sold = sum(f.amount for f in trades if f.symbol == "AAA/USDT")
    assert sold == (Decimal("3.55") if DEPTH == "thin" else Decimal("12.34567891"))  # a market order takes its share of the volume and does not rest
    assert plan_status(ledger, "mine", PLAN.hash) == "executed" and unresolved(OrderContext(venue, ledger, "mine", lambda: NOW)) == []
    assert reconcile(ledger, venue, "mine", NOW).ok
    ledger.verify()
    venue.close(), ledger.close()
    return venue_facts(trades), expected_holdings(book)


def venue_facts(trades: list) -> list:
    "Return what must be the same on every day."
    return sorted((f.client_order_id, f.symbol, f.side, f.amount, f.price, f.fee) for f in trades)


def scenario(folder: Path, seed: int, statements: int) -> tuple[tuple, int, float]:
    "Play one bad day; return its outcome, how often the process was killed, and the last start's processor time in seconds."
    dice, kills, slowest = random.Random(seed), 0, 0.0
    faults = FAULTS[seed % len(FAULTS)]
    prepare(folder)
    deaths = [dice.randint(1, statements) for _ in range(dice.choice([1, 1, 2, 3]))] + [0] * 8
    for attempt, kill_at in enumerate(deaths):
        ended, seconds = in_child(folder, faults, seed * 100 + attempt, kill_at)
        if ended == 0:
            slowest = seconds
            break
        assert ended in (1, -9), ended
        kills += ended == -9
        late = folder / "late.json"
        if late.exists() and dice.random() < 0.5:
            venue, order = exchange(folder), Order.from_json(late.read_text())
            if venue._row(order.client_order_id) is None:  # a request arrives once
                venue.create_order(order)
            venue.close()
        late.unlink(missing_ok=True)
    else:
        raise AssertionError(f"seed {seed} never ended: {(folder / 'error.txt').read_text()}")
    return outcome(folder), kills, slowest


def calm(folder: Path) -> tuple[tuple, int]:
    "Play the day on which nothing goes wrong."
    folder.mkdir()
    prepare(folder)
    statements = trade(folder, Faults(), 0, 0)
    return outcome(folder), statements


@pytest.fixture
def fast_folder(tmp_path):
    "A folder in memory where there is one: a killed process, unlike a pulled plug, does not need the disk."
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            yield Path(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
@pytest.mark.parametrize("depth", ["deep", "thin"])
def test_no_order_is_lost_or_doubled_wherever_the_process_dies(fast_folder, monkeypatch, depth):
    monkeypatch.setattr(sys.modules[__name__], "DEPTH", depth)
    wanted, statements = calm(fast_folder / "calm")
    assert len({trade[0] for trade in wanted[0]}) == 4 and statements > 50
    killed = slowest = 0
    for seed in range(POINTS // 2):
        folder = fast_folder / str(seed)
        folder.mkdir()
        got, kills, seconds = scenario(folder, seed, statements)
        assert got == wanted, f"seed {seed}"
        killed, slowest = killed + kills, max(slowest, seconds)
        shutil.rmtree(folder)
    assert killed >= POINTS // 2 * 0.9 and slowest <= 2.0, (killed, slowest)
    print(f"{POINTS // 2} bad days in a {depth} market, {len(wanted[0])} trades each, {killed} kills, slowest recovery {slowest:.2f} s")
