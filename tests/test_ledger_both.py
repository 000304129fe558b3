"A ledger in PostgreSQL is the ledger in SQLite: the same numbers, refusals and deliveries, also when a process is killed."

import os
import signal
import sqlite3
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from test_data_postgres import server  # noqa: F401

from trading.accounting.account_book import fill_event, fold_book
from trading.accounting.event_table import LedgerError, head_file
from trading.accounting.ledger import Ledger
from trading.accounting.ledger_postgres import SharedLedger
from trading.accounting.tax_lots import account_lots
from trading.core.errors import BadInput, Busy
from trading.core.evidence_key import is_sealed, make_evidence_key
from trading.core.instruments import Instrument
from trading.core.types import Action, CheckResult, Event, Fill, Plan, Position
from trading.execution.approval import approve_plan, plan_status
from trading.execution.executor import OrderParameters, execute
from trading.execution.reconciliation import expected_holdings, reconcile
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import QuoteFeed

pytestmark = pytest.mark.xdist_group("postgres-ledger")
NOW = datetime(2024, 1, 2, 12, tzinfo=UTC)
D = Decimal


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request, tmp_path):
    "Return a function that opens the ledger of this test, again and again."
    made = []

    def again(readonly=False):
        if request.param == "sqlite":
            ledger = Ledger(tmp_path / "ledger.db", readonly)
        else:
            schema = f"t{abs(hash(request.node.name)) % 10**12}"
            ledger = SharedLedger(request.getfixturevalue("server"), readonly, schema)
        made.append(ledger)
        return ledger

    yield again
    for ledger in made:
        ledger.close()


def trades(count: int) -> list[Event]:
    made = [Fill(f"t{n}", f"c{n}", f"S{n % 3}", ("buy", "sell")[n // 3 % 2], D(1 + n % 5), D(100 + n % 7) / 3, D("0.15"), NOW + timedelta(minutes=n))
            for n in range(count)]
    return [fill_event(f.but(price=f.price.quantize(D("1e-8"))), "mine", "paper") for f in made]


def test_events_are_written_once_in_order_and_added_up(opened):
    ledger = opened()
    assert ledger.open_account("mine", "USD", D(10_000), NOW, [Position("S9", D(2), D(50))]) and not ledger.open_account("mine", "USD", D(1), NOW)
    events = trades(300)
    last = ledger.append(events)
    assert ledger.append(events[:50]) == last - 250 and len(ledger.fills("mine")) == 300 == len(ledger.events("mine", "fill"))
    slow = fold_book("mine", ((e.kind, e.data) for e in ledger.events("mine")))
    assert ledger.book("mine") == slow == opened().book("mine") and ledger.verify() == last
    middle = NOW + timedelta(minutes=100)
    assert ledger.book("mine", at=middle) == fold_book("mine", ((e.kind, e.data) for e in ledger.events("mine") if e.timestamp <= middle))
    assert ledger.book("mine", upto=ledger.place("fill", "mine", "paper", "t99")).fees == D(15)
    assert ledger.accounts() == ["mine"] and ledger.last("fill", "mine").data["id"] == "t299"
    assert len(account_lots(ledger, "mine", "fifo").sales) > 100
    ledger.mark("mine", {f"S{n}": D(100) for n in (0, 1, 2, 9)}, NOW)
    assert len(ledger.equity_history("mine")) == 1


def test_both_write_the_same_hashes(server, tmp_path):  # noqa: F811
    one, other = Ledger(tmp_path / "ledger.db"), SharedLedger(server, schema="hashes")
    for ledger in (one, other):
        ledger.open_account("mine", "USD", D(10_000), NOW)
        ledger.append(trades(20))
    told = [[tuple(row) for row in ledger._db.execute("select seq, key, data, hash from events order by seq")] for ledger in (one, other)]
    assert told[0] == told[1] and len(told[0]) == 22


def test_many_trades_are_added_up_the_fast_way_to_the_same_digit(opened):
    ledger = opened()
    ledger.open_account("mine", "USD", D(10_000), NOW)
    for start in range(0, 21_000, 7_000):
        ledger.append(trades(21_000)[start : start + 7_000])
    assert repr(ledger.book("mine")) == repr(fold_book("mine", ((e.kind, e.data) for e in ledger.events("mine"))))


def test_what_an_account_was_worth_is_not_mixed_with_what_is_added_up_meanwhile(opened, monkeypatch):
    import threading

    import pandas as pd

    from trading.accounting import ledger as module

    ledger, writer, real, others = opened(), opened(), module.value_of, []
    ledger.open_account("mine", "USD", D(1000), NOW)
    closes = pd.DataFrame({"KO": [60.0] * 5}, pd.DatetimeIndex([NOW + timedelta(days=n) for n in range(1, 6)]))
    wanted = ledger.value_closes("mine", closes, NOW + timedelta(days=9))
    assert [v["equity"] for v in wanted.values()] == ["1000"] * 5

    def disturbed(*asked):
        if not others:  # somebody else of this process asks for the books, with a deposit in them that came meanwhile
            writer.append(Event("deposit", "mine", NOW + timedelta(days=6), {"amount": "500", "currency": "USD"}))
            others.append(threading.Thread(target=ledger.book, args=("mine",)))
            others[0].start()
            others[0].join(0.5)  # it waits until these closes are valued
        return real(*asked)

    monkeypatch.setattr(module, "value_of", disturbed)
    assert ledger.value_closes("mine", closes, NOW + timedelta(days=9)) == wanted
    others[0].join()
    assert ledger.book("mine").cash == 1500


KEPT = [("book", "end"), ("book", "select"), ("count", "count"), ("newest_of_each", "select"), ("traded", "select")]


@pytest.mark.parametrize(("asked", "step"), KEPT)
def test_what_was_added_up_of_a_write_that_failed_is_kept_by_nobody(opened, monkeypatch, asked, step):
    import threading

    ledger, on, failed, seen = opened(), threading.Event(), threading.Event(), []
    ledger.open_account("mine", "USD", D(10_000), NOW)
    ask = {"book": lambda log: log.book("mine").cash, "count": lambda log: log.count("mine", "fill"), "traded": lambda log: log.traded("mine", NOW),
           "newest_of_each": lambda log: log.newest_of_each("mine", "fill", "symbol")}[asked]
    ask(ledger)
    lost, more = trades(2)
    kept = Event("deposit", "mine", NOW + timedelta(days=1), {"amount": "500", "currency": "USD"})  # gets the number of what was lost
    reader, real = threading.Thread(target=lambda: ask(ledger)), getattr(ledger._table._table, step)

    def slow(*values, **named):
        found = real(*values, **named)
        found = found if step in ("end", "count") else list(found)
        if threading.current_thread() is reader and not seen:
            seen.append(found)
            on.set()
            failed.wait(1)  # the writer fails meanwhile; whoever holds the lock is waited for
        return found

    def fail(last):
        reader.start()
        assert on.wait(30)
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(ledger._table._table, step, slow)
    with pytest.raises(RuntimeError, match="the disk is full"):
        ledger.append(lost, then=fail)
    failed.set()
    reader.join()
    monkeypatch.undo()
    for event in (kept, more):
        ledger.append(event)
        assert ask(ledger) == ask(opened()), "as somebody reads it who has kept nothing"


def test_all_or_nothing_and_nothing_is_ever_changed(opened):
    ledger = opened()
    ledger.open_account("mine", "USD", D(10_000), NOW)
    good, other = trades(2)
    ledger.append(good)
    changed = Event("fill", "mine", NOW, good.data | {"amount": "999"})
    with pytest.raises(BadInput, match="is in the ledger with another content"):
        ledger.append([other, changed])
    assert len(ledger.fills("mine")) == 1
    for statement in ("update events set data = '{}'", "delete from events"):
        with pytest.raises(sqlite3.Error, match="append-only"):
            ledger._db.execute(statement)
    assert ledger.verify() == 3 and ledger.append(other) == 4


def test_readers_get_every_event_at_least_once_in_order_across_restarts(opened):
    ledger, seen = opened(), []
    ledger.open_account("mine", "USD", D(10_000), NOW)
    ledger.append(trades(10))

    def fragile(seq, event):
        if len(seen) == 5:
            seen.append("broken")
            raise RuntimeError("the line is down")
        seen.append(seq)

    with pytest.raises(RuntimeError):
        ledger.deliver("alerts", fragile)
    assert opened().deliver("alerts", fragile) == 7  # the one that failed comes again
    opened().append(trades(12)[10:])
    assert opened().deliver("alerts", fragile) == 2 and opened().deliver("alerts", fragile) == 0
    assert [s for s in seen if s != "broken"] == list(range(1, 15))
    assert opened().deliver("metrics", lambda seq, event: None) == 14


def test_a_second_trader_is_refused_and_a_reader_cannot_write(opened):
    ledger = opened()
    ledger.open_account("mine", "USD", D(10_000), NOW)
    with ledger.lease("mine"), pytest.raises(Busy, match="is being traded by another process"), opened().lease("mine"):
        pass
    with opened().lease("mine"), opened().lease("other"):
        pass
    reader = opened(readonly=True)
    assert reader.cash("mine") == 10_000
    with pytest.raises(LedgerError, match="cannot be written"):
        reader.append(trades(1))
    with pytest.raises(BadInput, match="the account 'yours' was not opened"):
        reader.book("yours")


def test_a_newer_ledger_and_one_that_is_not_there_are_refused(opened):
    with pytest.raises(LedgerError, match="does not exist"):
        opened(readonly=True)
    ledger = opened()
    shared = isinstance(ledger, SharedLedger)
    ledger._db.execute("update about set version = 99" if shared else "pragma user_version = 99")
    with pytest.raises(LedgerError, match="is of version 99 and this carnet knows 3; update carnet"):
        opened()


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_a_process_that_is_killed_while_it_writes_leaves_nothing_and_lets_go(opened):
    opened().open_account("mine", "USD", D(10_000), NOW)
    pid = os.fork()
    if pid == 0:
        ledger = opened()
        with ledger.lease("mine"), ledger._table.transaction():
            ledger._write(trades(5))
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    ledger = opened()
    with ledger.lease("mine"):
        ledger.append(trades(3))
    assert ledger.verify() == 5 and len(ledger.fills("mine")) == 3


def test_a_plan_is_traded_and_reconciled(opened):
    ledger = opened()
    market = {"AAA/USD": Instrument("AAA/USD", D("0.01"), D("0.01"))}
    venue = PaperVenue(QuoteFeed(lambda s, t: D(100)), lambda: NOW, market, TradingCosts(D("0.001"), D(2), D(3)), {"USD": D(10_000)}, "USD")
    ledger.open_account("mine", "USD", D(10_000), NOW)
    plan = Plan("mine", NOW, "USD", D(10_000), D(10_000), (Action("AAA/USD", "buy", D(7), D(100), "below its target"),))
    approve_plan(ledger, plan, "Ada", NOW)
    done = execute(plan, CheckResult(plan.hash, (), ("a rule",)), venue, ledger, NOW, OrderParameters(D("0.001")))
    assert len(done.fills) == 1 and plan_status(opened(), "mine", plan.hash) == "executed"
    assert reconcile(opened(), venue, "mine", NOW).ok and expected_holdings(opened().book("mine")) == venue.fetch_balance()


def test_a_ledger_in_a_database_is_what_every_reader_and_the_backup_see(request, tmp_path, monkeypatch):
    from trading.accounting.ledger_postgres import copy_ledger, last_place
    from trading.accounting.ledger_postgres import open_ledger_at as open_any
    from trading.api.event_stream import EventStream
    from trading.core.settings import load_settings
    from trading.ops.backup import restore
    from trading.services.backups import back_up
    from trading.services.metrics import open_metrics, update_metrics
    from trading.services.queries_portfolio import portfolio
    from trading.services.queries_trading import events, fills
    from trading.services.query_cache import MEMORY
    from trading.services.workspace import has_ledger, ledger_for_reading, ledger_for_writing, workspace_of

    monkeypatch.chdir(tmp_path)
    settings = load_settings("sample", {"run.data": tmp_path / "data", "run.reports": tmp_path / "reports", "backup.reports": False}, environ={})
    place, schema = workspace_of(settings), f"r{abs(hash(str(tmp_path))) % 10**12}"
    place.data.mkdir()
    file = Ledger(place.data / "ledger.sqlite")
    file.open_account("paper-sample", "USD", D(10_000), NOW)
    file.append([fill_event(Fill(f"t{n}", f"c{n}", "AAPL", "buy", D(1), D(100 + n), D("0.1"), NOW), "paper-sample", "paper") for n in range(5)])
    file.mark("paper-sample", {"AAPL": D(120)}, NOW + timedelta(hours=1))
    told = portfolio(place)
    assert told["equity"] == float(10_000 - 510 - D("0.5") + 600)
    monkeypatch.setattr(SharedLedger.__init__, "__defaults__", (False, schema, None))
    monkeypatch.setenv("CARNET_LEDGER", request.getfixturevalue("server"))
    assert not has_ledger(place)
    with pytest.raises(LedgerError, match="does not exist"):
        ledger_for_reading(place)
    shared = open_any(place.ledger)
    assert copy_ledger(file, shared) == file.verify() and shared.book("paper-sample") == file.book("paper-sample")
    (place.data / "ledger.sqlite").rename(tmp_path / "moved-away.sqlite")
    MEMORY.forget()
    assert has_ledger(place) and ledger_for_reading(place).path.name.startswith("postgresql") and portfolio(place)["equity"] == told["equity"]
    stream = EventStream(place)
    stream.seq = stream.ledger.last()
    ledger_for_writing(place).append(Event("note", "paper-sample", NOW, {"text": "written by another"}))
    assert stream.look() == 1 and stream.seq == last_place(shared) == stream.ledger.last()
    assert fills(place)["items"] and events(place)["items"] and update_metrics and open_metrics(place)
    backup = back_up(settings, datetime.now(UTC), tmp_path / "kept", {"CARNET_BACKUP_PASSPHRASE": "correct horse battery staple"})[0]
    restore(backup, tmp_path / "back", "correct horse battery staple")
    copy = Ledger(next((tmp_path / "back").rglob("ledger-of-the-database.sqlite")))
    assert copy.verify() == shared.verify() and copy.book("paper-sample") == shared.book("paper-sample")


@pytest.mark.parametrize("damage", ["shorter", "another", "gone"])
def test_a_ledger_in_a_database_that_was_put_back_is_named_before_anything_is_sent(server, tmp_path, monkeypatch, damage):  # noqa: F811
    "The data folder remembers where the ledger in the database ended, as it does for a file."
    import psycopg

    from trading.accounting.ledger_postgres import database_witness, open_ledger_at

    monkeypatch.setenv("CARNET_LEDGER", server)
    with psycopg.connect(server, autocommit=True) as db:
        db.execute("drop schema if exists carnet cascade")
    make_evidence_key(tmp_path, 1)
    place = tmp_path / "ledger.sqlite"
    ledger = open_ledger_at(place)
    ledger.open_account("paper-sample", "USD", D(1000), NOW)
    ledger.append([Event("note", "paper-sample", NOW, {"text": str(n)}) for n in range(3)])
    ledger.close()
    head = head_file(database_witness(place, server))
    assert is_sealed(head) and not place.exists()
    open_ledger_at(place, readonly=True).close()
    with psycopg.connect(server, autocommit=True) as db:
        if damage == "gone":
            db.execute("drop schema carnet cascade")
        else:
            db.execute("drop trigger no_change on carnet.events")
            db.execute("delete from carnet.events where seq > 3" if damage == "shorter" else "update carnet.events set hash = repeat('a', 32)")
    for readonly in (False, True):
        with pytest.raises(LedgerError, match="does not exist|were written to it|is another one than was written here") as caught:
            open_ledger_at(place, readonly)
    if damage != "gone":
        assert head.name in str(caught.value) and server not in str(caught.value)
    head.write_text(f"{2:020d} {'a' * 32} {'-' * 64}\n")
    with pytest.raises(LedgerError, match="is not sealed with the key of this folder"):
        open_ledger_at(place)
