"""No order is lost or doubled at any venue, wherever the process is killed: the crash test over the fakes of all venues under stock ccxt.

A forked child trades a plan in three parts. A seed decides before which request or ledger statement it kills itself with SIGKILL, and which
requests get no answer, an answer that is lost, or a 429. Another child starts, reconciles and goes on. At the end the venue has each part once,
and the books have what the venue has. VENUE_KILLS is the number of kills at each venue; `make soak` takes two hundred.
"""

import os
import random
import signal
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path

import pytest
from test_crash import fast_folder  # noqa: F401
from test_venue_contract import connect

from trading.accounting.ledger import Ledger
from trading.core.types import Action, CheckResult, Plan, Position
from trading.execution.approval import approve_plan, plan_status
from trading.execution.executor import OrderParameters, execute
from trading.execution.order_manager import OrderContext, RetryPolicy, unresolved
from trading.execution.reconciliation import reconcile
from trading.testing.fake_exchange import FakeExchange
from trading.testing.venue_fakes import FAKES, serve_fake
from trading.venues.crypto.venue import CcxtVenue

KILLS = int(os.environ.get("VENUE_KILLS", "2"))
FAULTS = (["lose"], ["drop"], ["lose", "", "drop"], ["429 0"], ["", "lose"], [], ["drop", "lose", "lose"])  # of the requests that carry an order
READS = ([], ["drop"], ["html"], ["429 0"])  # of the questions about an order


def now() -> datetime:
    return datetime.now(UTC)


def plan_of(began: datetime) -> Plan:
    return Plan("mine", began, "USDT", D(1_500_000), D(1_000_000), (Action("BTC/USDT", "buy", D("0.6"), D(50000), "below its target"),))


def trade(folder: Path, name: str, url: str, began: datetime, kill_at: int) -> int:
    "Start like the daily job: reconcile, trade or go on, reconcile. Return how many steps there were."
    venue, ledger, count, plan = connect(CcxtVenue, name, url), Ledger(folder / "ledger.db"), [0], plan_of(began)

    def step(*seen, **more) -> None:
        count[0] += 1
        if count[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def fetch(*args, real=venue._ccxt.fetch, **options):
        step()  # before it leaves
        answer = real(*args, **options)
        step()  # before it is read
        return answer
    venue._ccxt.fetch = fetch
    ledger._db.set_trace_callback(step)
    options = {"sleep": lambda seconds: None, "symbols": ("BTC/USDT",)}
    # the fakes tell fees and take none
    allowed = {"allowed": {"BTC": D("0.001"), "USDT": D(100)}}
    books = reconcile(ledger, venue, "mine", now, patience=RetryPolicy(), **options, **allowed)
    if plan_status(ledger, "mine", plan.hash) != "executed":
        books.require()
        verdict, style = CheckResult(plan.hash, (), ("max_turnover",)), OrderParameters(D("0.001"), slices=3)
        execute(plan, verdict, venue, ledger, now, style, patience=RetryPolicy(sends=20), sleep=lambda seconds: None)
    reconcile(ledger, venue, "mine", now, patience=RetryPolicy(), **options, **allowed).require()
    return count[0]


def in_child(folder: Path, name: str, url: str, began: datetime, kill_at: int) -> int:
    "Run `trade` in a forked process; return how it ended: 0, 1 for an error, -9 for a kill."
    pid = os.fork()
    if pid == 0:
        try:
            trade(folder, name, url, began, kill_at)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a child must never return into the test
            (folder / "error.txt").write_text(repr(error))
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def play(folder: Path, name: str, seed: int, steps: int) -> int:
    "Play one bad day at a venue and hold its end against what was planned; return how often the process was killed."
    dice, exchange, began, kills = random.Random(f"{name} {seed}"), FakeExchange(), now() - timedelta(seconds=1), 0
    exchange.faults = {"create": list(dice.choice(FAULTS)), "order": list(dice.choice(READS)), "trades": list(dice.choice(READS))}
    ledger = Ledger(folder / "ledger.db")
    ledger.open_account("mine", "USDT", D(1_000_000), began, [Position("BTC/USDT", D(10), D(50000))])
    approve_plan(ledger, plan_of(began), "the test", began)
    ledger.close()
    with serve_fake(name, exchange) as url:
        for kill_at in [dice.randint(1, steps) for _ in range(dice.choice([1, 1, 2]))] + [0] * 6:
            ended = in_child(folder, name, url, began, kill_at)
            kills += ended == -9
            if ended == 0:
                break
        else:
            raise AssertionError(f"{name}, seed {seed}: {(folder / 'error.txt').read_text()}")
        twice = [c for c, n in Counter(o["client"] for o in exchange.orders).items() if n > 1]
        assert not twice and [o["amount"] for o in exchange.orders] == [D("0.2")] * 3, f"{name}, seed {seed}: {exchange.orders}"
        ledger, venue = Ledger(folder / "ledger.db"), connect(CcxtVenue, name, url)
        booked: Counter = Counter()
        for fill in ledger.fills("mine"):  # a venue with several fees tells a trade in as many parts
            booked[fill.client_order_id] += fill.amount
        assert sorted(booked.values()) == [D("0.2")] * 3 and sum(t["amount"] for t in exchange.trades) == D("0.6")
        assert exchange.balances["BTC"] == D("10.6") and D("10.599") < ledger.positions("mine")["BTC/USDT"].amount <= D("10.6")  # a fee in coins
        assert unresolved(OrderContext(venue, ledger, "mine", now)) == [] and plan_status(ledger, "mine", plan_of(began).hash) == "executed"
        ledger.verify()
        ledger.close()
    return kills


def days(folder: Path, name: str, kills: int) -> None:
    "Play days at a venue until the process was killed so often."
    calm = folder / "calm"
    calm.mkdir()
    ledger, began = Ledger(calm / "ledger.db"), now() - timedelta(seconds=1)
    ledger.open_account("mine", "USDT", D(1_000_000), began, [Position("BTC/USDT", D(10), D(50000))])
    approve_plan(ledger, plan_of(began), "the test", began)
    ledger.close()
    with serve_fake(name, FakeExchange()) as url:
        steps = trade(calm, name, url, began, 0)
    done = seed = 0
    while done < kills:
        (own := folder / str(seed)).mkdir()
        done, seed = done + play(own, name, seed, steps), seed + 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
@pytest.mark.parametrize("name", sorted(set(FAKES) - {"binanceus"}))
def test_killed_at_a_venue_no_order_is_lost_or_doubled(fast_folder, name):  # noqa: F811
    days(fast_folder, name, KILLS)
