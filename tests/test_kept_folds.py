"""Sums that are kept beside a ledger: taken up they say what all events say, and whatever is wrong with them, the answer is right and it is told."""

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from functools import partial
from pathlib import Path
from threading import get_ident

import orjson
import pandas as pd
import pytest
from click.testing import CliRunner
from test_data_postgres import server  # noqa: F401
from test_growth import START, entered_slowly, one_more, standing_slowly

from trading.accounting import fold_snapshot, kept_folds
from trading.accounting.account_book import fill_event, fold_book
from trading.accounting.fold_snapshot import fold_file, read_folds, write_folds
from trading.accounting.kept_folds import thin_out
from trading.accounting.ledger import Ledger
from trading.accounting.ledger_postgres import SharedLedger, database_witness, open_ledger_at
from trading.accounting.unit_values import MARK_SUMS
from trading.cli.main import main
from trading.core.evidence_key import make_evidence_key
from trading.core.types import Event, Fill
from trading.execution.protection import entered
from trading.pipeline.launch import open_run
from trading.pipeline.notebook_runner import run_in_process
from trading.services.maintenance import check_chain
from trading.services.workspace import Workspace, ledger_for_reading
from trading.testing.sample_runs import make_sample_runs

TOLD = "it is not used, and every event is added up again"
KINDS = ("fill", "equity", "note", "deposit")


@pytest.fixture
def often(monkeypatch):
    "Sums are written down whenever something was added to them."
    monkeypatch.setattr(Ledger, "keep_every", 1)


def ask(ledger, now):
    "Ask everything whose sums are kept."
    book = ledger.book("mine")
    equity = book.equity({s: D(100) for s in book.positions})
    begun = [entered(ledger, "mine", f"S{n}") for n in range(4)]
    counts = [ledger.count("mine"), ledger.count("mine", "fill"), ledger.count("mine", KINDS)]
    standing, notes = ledger.standing("mine", now, equity, book.contributed), ledger.newest_of_each("mine", "note", "text")
    return book, standing, begun, counts, notes, ledger.equity_history("mine")


def slowly(ledger, now):
    "The same from every event."
    book = fold_book("mine", ((e.kind, e.data) for _, e in ledger.history("mine")))
    equity = book.equity({s: D(100) for s in book.positions})
    begun = [entered_slowly(ledger, "mine", f"S{n}") for n in range(4)]
    counts = [len(ledger.events("mine")), len(ledger.events("mine", "fill")), len(ledger.events("mine", KINDS))]
    notes = {e.data["text"]: e.data for e in ledger.events("mine", "note")}
    return book, standing_slowly(ledger, "mine", now, equity, book.contributed), begun, counts, notes, ledger.history_anew("mine")[0]


def same(fast, slow):
    (*some, history), (*others, anew) = fast, slow
    assert some[0] == others[0] and some[2:] == others[2:] and some[1] == pytest.approx(others[1], rel=1e-12)
    pd.testing.assert_frame_equal(history, anew, rtol=1e-12, check_freq=False, check_index_type=False)


def opened(path):
    ledger = Ledger(path)
    ledger.open_account("mine", "USD", D(10**6), START)
    return ledger


def rows_read(ledger):
    "Count the rows that a ledger reads from now on."
    seen, table = [0], ledger._table._table

    def counted(name, size, found):
        def told(*args, **named):
            answer = found(*args, **named)
            answer = list(answer) if name == "select" else answer
            seen[0] += size(answer)
            return answer
        setattr(table, name, told)

    for name, size in (("select", len), ("by_time", len), ("backward", len), ("block", lambda b: b[1].count(b"\n") + 1 if b[0] else 0)):
        counted(name, size, getattr(table, name))
    return seen


@pytest.mark.parametrize("seed", range(4))
def test_what_was_kept_at_any_place_and_all_that_came_after_is_what_every_event_says(tmp_path, often, seed):
    writer, chance, now, kept = opened(tmp_path / "l.sqlite"), random.Random(seed), START, []
    file = fold_file(tmp_path / "l.sqlite", "mine")
    for number in range(60):
        now = one_more(writer, chance, number, now)
        fresh = Ledger(tmp_path / "l.sqlite")  # a process that takes up what the one before has kept
        same(ask(fresh, now), slowly(fresh, now))
        fresh.close()
        kept.append(file.read_bytes())
    moments = [e.timestamp for _, e in writer.history("mine")]
    for n, content in enumerate(kept):  # a file of every moment, and all that was written since
        file.write_bytes(content)
        fresh = Ledger(tmp_path / "l.sqlite", readonly=True)
        assert fresh._take("mine", "sums", lambda seq, form: form), n
        at, upto = chance.choice(moments), chance.randrange(2, writer.count("mine"))
        for past in ({"at": at}, {"upto": upto}, {"at": at, "upto": upto}):
            told = [(e.kind, e.data) for _, e in writer.history("mine", **past)]
            assert not told or fresh.book("mine", **past) == fold_book("mine", told)
        same(ask(fresh, now), slowly(fresh, now))
        fresh.close()
    file.write_bytes(kept[-1])
    assert Ledger(tmp_path / "l.sqlite").verify_folds("mine") == [] and file.exists()


def grown(path, trades=300, marks=20):
    "An account of trades that were bought and sold, with marks between them."
    ledger, events = opened(path), []
    for k in range(trades):
        when = START + timedelta(minutes=k + 1)
        fill = Fill(f"t{k:05}", f"c{k}", f"S{k % 3}", ("buy", "sell")[k // 3 % 2], D("1.5"), D(100 + k % 7), D("0.1"), when)
        events.append(fill_event(fill, "mine", "paper"))
        if k % (trades // marks) == 0:
            events.append(Event("equity", "mine", when, dict.fromkeys(MARK_SUMS, "1000000") | {"prices": {}}))
    ledger.append(events)
    return ledger


NOW = START + timedelta(days=2)


def cut_in_half(file, ledger):
    file.write_bytes(file.read_bytes()[:700])


def digit(file, ledger):
    content = file.read_bytes()
    at = content.index(b'"cash",{"decimal":"') + len(b'"cash",{"decimal":"')
    file.write_bytes(content[:at] + (b"8" if content[at:at + 1] != b"8" else b"7") + content[at + 1:])


def count_of_its_own(file, ledger):
    "Who alters it counts a check sum anew, and has not the key of the folder."
    digit(file, ledger)
    first, _, body = file.read_bytes().partition(b"\n")
    head = orjson.loads(first)
    head.pop("seal")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_snapshot, "read_evidence_key", lambda folder: None)
        head["seal"] = fold_snapshot._seal(file.parent, head, body)
    file.write_bytes(orjson.dumps(head) + b"\n" + body)


def of_another_account(file, ledger):
    ledger.open_account("yours", "USD", D(7), START)
    Ledger(ledger.path).book("yours")
    shutil.copy(fold_file(ledger.path, "yours"), file)


def of_another_ledger(file, ledger):
    (file.parent / "other").mkdir()
    shutil.copytree(file.parent / "ops", file.parent / "other" / "ops")
    ask(grown(file.parent / "other" / "l.sqlite", 299), NOW)
    shutil.copy(fold_file(file.parent / "other" / "l.sqlite", "mine"), file)


def altered(**said):
    "Another head, sealed as it should be."
    def change(file, ledger):
        first, _, body = file.read_bytes().partition(b"\n")
        head = orjson.loads(first) | said
        head.pop("seal")
        file.write_bytes(orjson.dumps(head | {"seal": fold_snapshot._seal(file.parent, head, body)}) + b"\n" + body)
    return change


def other_form(file, ledger):
    "Sealed as it should be, and the sums are not those of an account."
    write_folds(file, "mine", ledger._table.end(), {"sums": b'[300,[[300,{"tuple":[]},{"dict":[["cash",{"decimal":"1"}]]}]]]', "marks": b"[300,{}]",
                                                  'count ["fill"]': b'[300,"many"]'})


def key_gone(file, ledger):
    (file.parent / "ops" / "evidence.key").unlink()


DAMAGES = {
    "cut": cut_in_half, "digit": digit, "own check sum": count_of_its_own,
    "empty": lambda file, ledger: file.write_bytes(b""), "zeros": lambda file, ledger: file.write_bytes(b"\0" * 4000),
    "text": lambda file, ledger: file.write_text("what is this\nand this"), "a folder": lambda file, ledger: (file.unlink(), file.mkdir()),
    "a pipe": lambda file, ledger: (file.unlink(), os.mkfifo(file)), "another account": of_another_account, "another ledger": of_another_ledger,
    "another code": altered(code="0123456789abcdef"), "another format": altered(format=99), "another end": altered(hash="0" * 32),
    "an end that is not there": altered(seq=10**9), "other sums": other_form, "key gone": key_gone,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_whatever_is_wrong_with_the_file_the_answer_is_right_and_it_is_told(tmp_path, often, caplog, name):
    make_evidence_key(tmp_path, 0)
    ledger = grown(tmp_path / "l.sqlite")
    ask(ledger, NOW)
    file, right = fold_file(ledger.path, "mine"), slowly(ledger, NOW)
    fresh = Ledger(ledger.path, readonly=True)
    seen = rows_read(fresh)
    same(ask(fresh, NOW), right)
    assert seen[0] < 30  # taken up: nothing is read again
    DAMAGES[name](file, ledger)
    caplog.set_level(logging.INFO)
    for readonly in (True, False):
        caplog.clear()
        fresh = Ledger(ledger.path, readonly)
        seen = rows_read(fresh)
        same(ask(fresh, NOW), right)
        assert seen[0] > 300 and ("every event is added up again" in caplog.text), name
    if name not in ("a folder", "a pipe"):
        assert read_folds(file, "mine", ledger._hash_of)[0] and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
        fresh = Ledger(ledger.path)
        seen = rows_read(fresh)
        same(ask(fresh, NOW), right)
        assert seen[0] < 30  # the writer has mended it


def test_what_is_not_believed_is_told_once_and_gone_with_the_next_writer_also_while_there_is_little_to_keep(tmp_path, caplog):
    ledger = grown(tmp_path / "l.sqlite")  # far fewer events than are worth a file
    right, file = slowly(ledger, NOW), fold_file(ledger.path, "mine")
    ledger.close()
    file.write_bytes(b"no sums of ours")
    for readonly, warned in ((True, 1), (False, 1), (False, 0), (True, 0)):  # who only reads leaves it
        caplog.clear()
        same(ask(opened := Ledger(tmp_path / "l.sqlite", readonly=readonly), NOW), right)
        opened.close()
        assert caplog.text.count("is not used, and every event is added up again") == warned and file.exists() == (readonly and warned == 1)


def test_what_another_process_writes_while_all_marks_are_read_is_counted_once_and_raises_no_alarm(tmp_path, often, monkeypatch):
    writer = Ledger(tmp_path / "l.sqlite")
    writer.open_account("mine", "USD", D(1000), START)
    hour = lambda n: START + timedelta(hours=n)  # noqa: E731

    def mark(when: datetime, equity: int, paid: int) -> None:
        sums = dict.fromkeys(("realised", "unrealised", "fees", "income"), "0")
        both = {"equity": str(equity), "cash": str(equity), "paid_in": str(paid), "contributed": str(paid)}
        writer.append(Event("equity", "mine", when, sums | both | {"prices": {}}))

    def deposit(when: datetime) -> None:
        writer.append(Event("deposit", "mine", when, {"amount": "1000", "id": f"{when}"}))

    mark(hour(1), 1000, 1000), mark(hour(3), 1100, 1000)
    reading, anew = Ledger(tmp_path / "l.sqlite"), Ledger.history_anew

    def slowly_read(ledger, *given, **more):
        found = anew(ledger, *given, **more)
        deposit(hour(4 + len(writer.events("mine", "deposit"))))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "history_anew", slowly_read)
        reading.equity_history("mine")
    mark(hour(12), 2310, 2000)
    right = writer.history_anew("mine")[0]["unit"].tolist()
    assert reading.equity_history("mine")["unit"].tolist() == Ledger(tmp_path / "l.sqlite").equity_history("mine")["unit"].tolist() == right
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "history_anew", lambda ledger, *given, **more: (anew(ledger, *given, **more), mark(hour(20), 2400, 2000))[0])
        assert Ledger(tmp_path / "l.sqlite").verify_folds("mine") == []


@pytest.mark.parametrize("when", ["between two questions", "between two blocks"])
def test_what_another_process_writes_while_sums_are_added_up_is_missed_by_nobody(tmp_path, often, monkeypatch, when):
    writer, at = Ledger(tmp_path / "l.sqlite"), lambda n: START + timedelta(minutes=n)
    writer.open_account("mine", "USD", D(1000), START)
    writer.append(Event("deposit", "mine", START, {"amount": "500", "id": "d"}))

    def trade(first: int, last: int) -> None:
        writer.append([fill_event(Fill(f"t{k}", f"c{k}", "X", ("sell", "buy")[k % 2], D(1), D(100), D(0), at(k + 1)), "mine", "paper")
                       for k in range(first, last)])

    def meanwhile() -> None:
        writer.append(Event("correction", "mine", at(500), {"corrects": 3, "note": "x", "id": "k"}))
        trade(204, 205)

    trade(0, 3)
    reading, waiting = Ledger(tmp_path / "l.sqlite"), [meanwhile]
    if when == "between two questions":
        reading.book("mine")
        trade(3, 4)
        table, count = reading._table._table, reading._table._table.count

        def counted(*given, **more):
            found = count(*given, **more)
            if waiting and "correction" in (given[1] if len(given) > 1 else ()):
                waiting.pop()()
            return found

        monkeypatch.setattr(table, "count", counted)
    else:
        monkeypatch.setattr(kept_folds, "MANY", 50)
        trade(3, 200)
        blocks = reading._blocks

        def handed(*given):
            for number, block in enumerate(blocks(*given)):
                yield block
                if number == 1 and waiting:
                    waiting.pop()()

        monkeypatch.setattr(reading, "_blocks", handed)
    reading.book("mine")
    assert not waiting
    trade(210, 211)
    bare = Ledger(tmp_path / "l.sqlite", readonly=True)
    bare.witness = None
    fresh = Ledger(tmp_path / "l.sqlite")
    assert reading.book("mine") == fresh.book("mine") == bare.book("mine") and fresh.verify_folds("mine") == []


def test_a_key_that_is_made_later_is_no_alteration(tmp_path, often, caplog):
    ledger = grown(tmp_path / "l.sqlite")
    right = ask(ledger, NOW)
    ledger.close()
    assert fold_file(ledger.path, "mine").exists()
    make_evidence_key(tmp_path, 1, key=b"k" * 32, begun=True)
    with caplog.at_level("WARNING"):
        same(ask(Ledger(tmp_path / "l.sqlite", readonly=True), NOW), right)
    assert caplog.text == ""


def test_a_ledger_that_was_restored_or_shortened_is_added_up_from_its_own_events(tmp_path, often, caplog):
    ledger = grown(tmp_path / "l.sqlite")
    ledger._db.execute("pragma wal_checkpoint(truncate)")
    shutil.copy(ledger.path, tmp_path / "backup")
    more = [fill_event(Fill(f"u{k}", f"d{k}", "S1", "buy", D(1), D(100), D(1), NOW), "mine", "paper") for k in range(20)]
    ledger.append(more)
    ask(ledger, NOW)
    ledger.close()
    for name in ("l.sqlite-wal", "l.sqlite-shm", "l-head.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup", tmp_path / "l.sqlite")
    same(ask(back := Ledger(tmp_path / "l.sqlite", readonly=True), NOW), slowly(back, NOW))
    assert "belongs to another ledger, or to one from before it was restored" in caplog.text
    back = Ledger(tmp_path / "l.sqlite")
    back.append(e.but(data=e.data | {"price": "7"}) for e in more)  # as many events as before, and others
    caplog.clear()
    same(ask(back, NOW), slowly(back, NOW))
    assert "belongs to another ledger" in caplog.text and back.verify_folds("mine") == []


@pytest.mark.parametrize("late", [Event("deposit", "mine", START + timedelta(minutes=9), {"amount": "50", "id": "late"}),
                                  Event("split", "mine", START + timedelta(minutes=9), {"symbol": "S1", "ratio": "2", "id": "late"}),
                                  Event("correction", "mine", NOW, {"corrects": 40, "id": "late", "note": "it was wrong"})])
def test_what_is_booked_late_counts_in_every_later_process(tmp_path, often, late):
    ledger = grown(tmp_path / "l.sqlite")
    ask(ledger, NOW)
    ledger.append(late)
    for readonly in (True, True, False, True):
        fresh = Ledger(ledger.path, readonly)
        seen = rows_read(fresh)
        same(ask(fresh, NOW), slowly(Ledger(ledger.path, readonly=True), NOW))
    assert seen[0] < 30  # the writer kept it anew


def test_killed_while_it_writes_the_next_one_goes_on(tmp_path):
    ledger = grown(tmp_path / "l.sqlite")
    right, file = slowly(ledger, NOW), fold_file(ledger.path, "mine")
    for when in ("before the name", "in the middle"):
        script = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from trading.accounting.ledger import Ledger
from trading.accounting import fold_snapshot
Ledger.keep_every = 1
if {when!r} == "in the middle":
    class Half:
        def __init__(self, handle): self.handle = handle
        def __enter__(self): return self
        def __exit__(self, *_): pass
        def write(self, content): os.write(self.handle, content[: len(content) // 2]); os.kill(os.getpid(), signal.SIGKILL)
    fold_snapshot.os.fdopen = lambda handle, mode: Half(handle)
else:
    fold_snapshot.os.replace = lambda a, b: os.kill(os.getpid(), signal.SIGKILL)
Ledger({str(ledger.path)!r}).book("mine")
"""
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
        assert not file.exists()
        same(ask(Ledger(ledger.path), NOW), right)


@pytest.mark.parametrize("what", ["open", "replace", "fdopen"])
def test_a_full_disk_or_a_folder_that_may_not_be_written_stops_nothing(tmp_path, often, caplog, monkeypatch, what):
    ledger = grown(tmp_path / "l.sqlite")
    caplog.set_level(logging.INFO)

    opening = os.open

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        mine = f".{os.getpid()}.{get_ident()}.part"
        only_mine = lambda path, *more: full() if str(path).endswith(mine) else opening(path, *more)  # noqa: E731
        patch.setattr(fold_snapshot.os, what, only_mine if what == "open" else full)
        same(ask(ledger, NOW), slowly(ledger, NOW))
        assert "cannot be kept beside its ledger (No space left on device)" in caplog.text
    assert not fold_file(ledger.path, "mine").exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_two_processes_that_write_and_ask_at_once_agree_with_every_event(tmp_path):
    ledger = opened(tmp_path / "l.sqlite")
    script = f"""
import sys
from datetime import timedelta
from decimal import Decimal as D
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from test_kept_folds import Ledger, Event, ask, slowly, same, NOW
Ledger.keep_every = 1
for n in range(25):
    ledger = Ledger({str(ledger.path)!r})
    ledger.append(Event("deposit", "mine", NOW + timedelta(minutes=n), {{"amount": "1.25", "id": sys.argv[1] + str(n)}}))
    assert ledger.book("mine").currency == "USD" and ledger.count("mine", "deposit") > n
    ledger.close()
"""
    both = [subprocess.Popen([sys.executable, "-c", script, name]) for name in "ab"]
    assert [p.wait() for p in both] == [0, 0]
    fresh = Ledger(ledger.path)
    assert fresh.cash("mine") == 10**6 + 50 * D("1.25") and fresh.count("mine", "deposit") == 51
    same(ask(fresh, NOW + timedelta(days=1)), slowly(fresh, NOW + timedelta(days=1)))
    assert fresh.verify_folds("mine") == []


def test_sums_that_differ_from_their_events_are_found_by_doctor_and_audit_removed_and_told(tmp_path, often, monkeypatch):
    (tmp_path / "data").mkdir()
    ledger = grown(tmp_path / "data" / "ledger.sqlite")
    ask(ledger, NOW)
    file = fold_file(ledger.path, "mine")
    end, lines = read_folds(file, "mine", ledger._hash_of)
    assert check_chain(tmp_path / "data").status == "ok" and {n.split(" ")[0] for n in lines} == {"sums", "marks", "fold", "count", "newest"}
    wrong = {"sums": (b'"decimal":"', b'"decimal":"1'), "marks": (b"1000000.0", b"1000001.0"), 'count ["fill"]': (b",300]", b",299]"),
             next(n for n in lines if n.startswith("fold ")): (b'"decimal":"', b'"decimal":"3')}
    for name, (old, new) in wrong.items():
        assert old in lines[name]
        mistaken = lines | {name: lines[name].replace(old, new, 1)}  # and sealed: written by this code, with a mistake in it
        assert write_folds(file, "mine", (end, ledger._hash_of(end)), mistaken)
        found = check_chain(tmp_path / "data")
        what = name.split(" ")[1] if name.startswith("fold") else name.split(" ")[0]
        assert found.status == "bad" and f"what was kept beside the ledger of mine ({what}) was not what its events come to" in found.detail
        assert check_chain(tmp_path / "data").status == "ok"
    monkeypatch.chdir(tmp_path)
    write_folds(file, "mine", (end, ledger._hash_of(end)), lines | {"sums": lines["sums"].replace(b'"decimal":"', b'"decimal":"1', 1)})
    for said, code in ((True, 4), (False, 4)):  # no audit log yet is a finding too
        done = CliRunner(env={k: None for k in os.environ if k.startswith("CARNET_")}).invoke(main, ["audit", "verify"])
        assert ("was not what its events come to; it is removed" in done.output) is said and done.exit_code in (0, code), done.output
    same(ask(Ledger(ledger.path), NOW), slowly(ledger, NOW))


@pytest.mark.xdist_group("postgres-ledger")
def test_a_ledger_in_a_database_has_its_sums_in_the_data_folder_of_who_asks(tmp_path, often, monkeypatch, request):
    url = request.getfixturevalue("server")
    monkeypatch.setenv("CARNET_LEDGER", url)
    place = Workspace(tmp_path, tmp_path / "reports")
    ledger = open_ledger_at(place.ledger)
    assert isinstance(ledger, SharedLedger)
    ledger.open_account("mine", "USD", D(10**6), START)
    chance, now = random.Random(5), START
    for number in range(25):
        now = one_more(ledger, chance, number, now)
        fresh = open_ledger_at(place.ledger)
        same(ask(fresh, now), slowly(fresh, now))
        fresh.close()
    ledger.append(Event("deposit", "mine", now, {"amount": "3", "id": "one more"}))
    file = fold_file(database_witness(place.ledger, url), "mine")
    assert file.exists()
    reader = ledger_for_reading(place)
    seen = rows_read(reader)
    same(ask(reader, now), slowly(ledger, now))
    assert 1 <= seen[0] < 20  # the service reads it too
    digit(file, ledger)
    fresh = open_ledger_at(place.ledger)
    same(ask(fresh, now), slowly(ledger, now))
    assert fresh.verify_folds("mine") == [] and fresh.accounts() == ["mine"]
    ledger.close(), fresh.close()


def test_moments_of_the_past_stand_closer_the_nearer_they_are():
    past = []
    for n in range(1, 2000):
        past = thin_out([*past, (n * 10,)])
    numbers = [p[0] for p in past]
    gaps = [b - a for a, b in zip(numbers, numbers[1:], strict=False)]
    assert len(past) == 12 and numbers[-1] == 19_990 and gaps[-1] < 100 and numbers[0] < 10_000 and gaps[0] > 20 * gaps[-1]


@pytest.mark.parametrize("events", [500, 5000])
def test_what_a_process_reads_at_its_start_does_not_grow_with_the_account(tmp_path, monkeypatch, events):
    monkeypatch.setattr(Ledger, "keep_every", 400)
    ledger = grown(tmp_path / "l.sqlite", events, 20)
    ask(ledger, NOW)
    fills = (Fill(f"u{k}", f"d{k}", "S1", "buy", D(1), D(100), D(1), START + timedelta(days=5, minutes=k)) for k in range(50))
    ledger.append(fill_event(f, "mine", "paper") for f in fills)
    later = START + timedelta(days=9)
    fresh = Ledger(ledger.path, readonly=True)
    seen = rows_read(fresh)
    answer = ask(fresh, later)
    assert 50 <= seen[0] <= 250
    begin = seen[0]
    closes = pd.DataFrame({"S1": [101.0]}, [pd.Timestamp(later)])
    fresh.book("mine", at=START + timedelta(days=6)), fresh.value_closes("mine", closes, later), fresh.accounts()
    assert seen[0] - begin <= 60
    same(answer, slowly(ledger, later))


def command(home, *words):
    places = {"CARNET_RUN__DATA": str(home / "data"), "CARNET_RUN__REPORTS": str(home / "reports")}
    env = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")} | places
    return subprocess.run([sys.executable, "-m", "trading", *words], cwd=home, env=env, capture_output=True, text=True, check=True, timeout=300)


def test_a_person_runs_deposits_and_looks_and_an_altered_digit_changes_no_answer(tmp_path):
    settings = make_sample_runs(tmp_path, days=("2022-12-16",))
    path, account = tmp_path / "data" / "ledger.sqlite", f"paper-{settings.run.profile}"
    ledger = Ledger(path)
    last = ledger.last("equity", account).timestamp
    trades = (Fill(f"z{k:05}", f"age{k}", "KO", ("buy", "sell")[k % 2], D("1.5"), D(60), D(0), last + timedelta(seconds=k + 1)) for k in range(2200))
    ledger.append([fill_event(f, account, "paper", "old") for f in trades])  # an old account: there and back, and nothing is left of it
    ledger.close()
    command(tmp_path, "book", "deposit", "250")
    file = fold_file(path, account)
    assert file.exists()
    run_in_process(open_run(settings, datetime.now(UTC), "2022-12-19"))
    ask_portfolio = partial(command, tmp_path, "ask", "/portfolio")
    after = ask_portfolio()
    said = orjson.loads(after.stdout)
    assert said["paid_in"] == 100_250 and said["as_of"].startswith("2022-12-20") and "folds" not in after.stderr
    whole = file.read_bytes()
    digit(file, None)
    assert file.read_bytes() != whole
    told = ask_portfolio()
    assert told.stdout == after.stdout and f"the file {file.name}, which keeps the sums of {account}, is not as it was written: {TOLD}" in told.stderr
    again = command(tmp_path, "book", "deposit", "1")
    assert "is not as it was written" in again.stderr and "is not as it was written" not in command(tmp_path, "performance").stderr
    assert Ledger(path).verify_folds(account) == []


def test_a_process_that_began_before_an_update_keeps_nothing_in_the_name_of_the_new_code(tmp_path):
    shutil.copytree(Path(fold_snapshot.__file__).parents[1], tmp_path / "trading", ignore=shutil.ignore_patterns("__pycache__"))
    ledger = grown(tmp_path / "l.sqlite")
    script = """
import pathlib, sys
sys.path.insert(0, ".")
from trading.accounting.ledger import Ledger
if sys.argv[1] == "update":
    file = pathlib.Path("trading/accounting/account_book.py")
    file.write_text(file.read_text() + "# another version\\n")
Ledger.keep_every = 1
print(Ledger("l.sqlite").cash("mine"))
"""
    run, env = [sys.executable, "-c", script], os.environ | {"PYTHONPATH": str(tmp_path)}
    said = [subprocess.run([*run, how], cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout for how in ("update", "after")]
    file, old = fold_file(ledger.path, "mine"), []
    new = orjson.loads(file.read_bytes().partition(b"\n")[0])["code"]
    file.unlink()
    shutil.copy(Path(fold_snapshot.__file__).parent / "account_book.py", tmp_path / "trading" / "accounting" / "account_book.py")
    for how in ("update", "nothing"):  # the first has the code of before in its memory
        subprocess.run([*run, how], cwd=tmp_path, env=env, check=True, stdout=subprocess.DEVNULL)
        old.append(orjson.loads(file.read_bytes().partition(b"\n")[0])["code"])
    assert said[0] == said[1] and old[0] != new and old[1] == new
