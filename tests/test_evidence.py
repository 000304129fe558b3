"Audit log and ledger, altered by somebody who has the files and not the key, or put back as a whole: 'carnet audit verify' finds it."

import json
import os
import random
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from typed import carnet_at as carnet

from trading.accounting.event_table import head_file
from trading.accounting.ledger import Ledger
from trading.core.errors import TradingError
from trading.core.evidence_key import key_file
from trading.core.hash_chain import chain_hash
from trading.core.settings import load_settings
from trading.core.types import Event
from trading.security.audit_log import AuditLog, read_line, write_anchor, write_line
from trading.security.context import open_audit
from trading.services.evidence import ANCHORS, take_anchor, verify_evidence

pytestmark = pytest.mark.xdist_group("evidence")  # one worker: what they share is made once

DAY = datetime(2026, 5, 4, 8, tzinfo=UTC)
TURNS = int(os.environ.get("ALTERATIONS", "8"))  # of each kind; a thousand takes some minutes


def settings_of(home):
    own = {"run.data": home / "data", "run.reports": home / "reports", "backup.anchors": (str(home / "elsewhere"),)}
    return load_settings("sample", own, environ={})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A data folder with an audit log, a ledger, two days of anchors in two places; and what it was on the first day."
    home = tmp_path_factory.mktemp("evidence")
    settings, data = settings_of(home), home / "data"
    for day in range(2):
        now = DAY + timedelta(days=day)
        log = open_audit(data, None)
        for n in range(3):
            log.append("ann", "plan.approve", {"n": n, "day": day}, now)
        with closing(Ledger(data / "ledger.sqlite")) as ledger:
            if not day:
                ledger.open_account("paper-sample", "USD", Decimal(1000), now)
            ledger.append([Event("note", "paper-sample", now, {"text": f"{day} {n}"}) for n in range(3)])
        assert take_anchor(settings, now, {}) == ([str(home / "reports" / ANCHORS), str(home / "elsewhere" / ANCHORS)], [])
        if not day:
            shutil.copytree(data, home / "first day")
    with closing(sqlite3.connect(data / "ledger.sqlite")) as db:
        db.execute("pragma wal_checkpoint(truncate)")
        db.execute("pragma journal_mode = delete")
        db.executescript("drop trigger no_update; drop trigger no_delete")  # whoever has the file does that first
    return home


def _bytes(dice, file):
    "Change, take out, or add bytes anywhere."
    content, way = bytearray(file.read_bytes()), dice.randrange(4)
    at = dice.randrange(len(content))
    if way == 0:
        content[at] ^= dice.randrange(1, 256)
    elif way == 1:
        del content[at : at + dice.randint(1, 40)]
    elif way == 2:
        content[at:at] = dice.randbytes(dice.randint(1, 40))
    else:
        del content[at:]
    file.write_bytes(bytes(content))


def _lines(dice, file):
    "Take out, repeat or exchange lines."
    lines, way = file.read_bytes().splitlines(True), dice.randrange(3)
    at = dice.randrange(len(lines))
    if way == 0:
        del lines[at : at + dice.randint(1, 2)]
    elif way == 1:
        lines.insert(dice.randrange(len(lines) + 1), lines[at])
    else:
        other = (at + dice.randrange(1, len(lines))) % len(lines)
        lines[at], lines[other] = lines[other], lines[at]
    file.write_bytes(b"".join(lines))


def _log_afresh(dice, data):
    "Write the whole log anew with its head, without the key, one entry being another one."
    file, before, fresh = data / "ops" / "audit.jsonl", "", []
    entries = [read_line(line) for line in file.read_bytes().splitlines()]
    forged = dice.randrange(len(entries))
    for seq, entry in enumerate(entries, 1):
        detail = {"forged": 1} if seq == forged + 1 else entry.detail
        line, before = write_line(seq, entry.time, entry.who, entry.action, detail, before, dice.choice((None, b"k" * 32)))
        fresh.append(line)
    file.write_bytes(b"".join(fresh))
    (data / "ops" / "audit.head").write_bytes(write_anchor(len(fresh), before, dice.choice((None, b"k" * 32))))


def _rows(dice, data, afresh):
    "Change, delete or insert events; with `afresh`, compute every hash and the head as well as can be without the key."
    with closing(sqlite3.connect(data / "ledger.sqlite", isolation_level=None)) as db:
        db.execute("pragma synchronous = off")
        count, way = db.execute("select max(seq) from events").fetchone()[0], dice.randrange(4)
        at = dice.randint(2, count)
        if way == 0:
            db.execute("update events set data = ? where seq = ?", (json.dumps({"text": f"forged {dice.random()}"}), at))
        elif way == 1:
            db.execute("delete from events where seq >= ?" if dice.random() < 0.5 else "delete from events where seq = ?", (at,))
        elif way == 2:
            db.execute("insert into events select seq + 1000, account, kind, timestamp, key, data, hash, booked from events where seq = ?", (at,))
        else:
            db.execute("update events set timestamp = '2026-01-01T00:00:00.000000+00:00' where seq = ?", (at,))
        if afresh:
            before, seq = "", 0
            rows = db.execute("select seq, account, kind, timestamp, data, booked from events order by seq").fetchall()
            for seq, (old, account, kind, when, content, booked) in enumerate(rows, 1):
                before = chain_hash(before, account, kind, when, content, *[booked] * bool(booked), length=32)
                db.execute("update events set seq = ?, hash = ? where seq = ?", (seq, before, old))
            seal = dice.choice(("-" * 64, "0" * 64))
            head_file(data / "ledger.sqlite").write_text(f"{seq:020d} {before} {seal}\n")


def _first_day(home, *names):
    "Put files back to what they were on the first day."
    for name in names:
        (home / "data" / name).unlink(missing_ok=True)
        shutil.copy(home / "first day" / name, home / "data" / name)


LOG, HEAD, BOOKS, END = "ops/audit.jsonl", "ops/audit.head", "ledger.sqlite", "ledger-head.txt"
FILES = [*(f"data/{n}" for n in (LOG, HEAD, BOOKS, END, "ops/evidence.key")), f"reports/{ANCHORS}"]
WAYS = {
    "bytes of the log": lambda home, dice: _bytes(dice, home / "data" / LOG),
    "bytes of its head": lambda home, dice: _bytes(dice, home / "data" / HEAD),
    "lines of the log": lambda home, dice: _lines(dice, home / "data" / LOG),
    "the log made anew": lambda home, dice: _log_afresh(dice, home / "data"),
    "bytes of the ledger's end": lambda home, dice: _bytes(dice, home / "data" / END),
    "events": lambda home, dice: _rows(dice, home / "data", False),
    "events and every hash": lambda home, dice: _rows(dice, home / "data", True),
    "bytes of the anchors": lambda home, dice: _bytes(dice, home / "reports" / ANCHORS),
    "lines of the anchors elsewhere": lambda home, dice: (home / "elsewhere" / ANCHORS).write_text(
        "".join((home / "elsewhere" / ANCHORS).read_text().splitlines(True)[: dice.randrange(2)])),
    "a file gone": lambda home, dice: (home / dice.choice(FILES)).unlink(),
    "log and head of the first day": lambda home, dice: _first_day(home, LOG, HEAD),
    "ledger and end of the first day": lambda home, dice: _first_day(home, BOOKS, END),
    "everything of the first day": lambda home, dice: _first_day(home, LOG, HEAD, BOOKS, END, "ops/evidence.key"),
    "log, head and key gone": lambda home, dice: [(home / "data" / n).unlink() for n in (LOG, HEAD, "ops/evidence.key")],
    "the key of somebody else": lambda home, dice: key_file(home / "data").write_text("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE= 1 begun\n"),
}
ONCE = {w for w in WAYS if "first day" in w or "key" in w}


@pytest.mark.parametrize("way", WAYS)
def test_every_alteration_is_found(whole, way):
    dice, settings = random.Random(way), settings_of(whole)
    assert verify_evidence(settings, environ={}).findings == []
    kept = {p: (p.read_bytes(), p.stat().st_mode) for p in whole.rglob("*") if p.is_file() and "first day" not in p.parts}
    missed = []
    for turn in range(1 if way in ONCE else TURNS):
        try:
            WAYS[way](whole, dice)
            changed = any(not p.exists() or p.read_bytes() != content for p, (content, _) in kept.items())
            missed += [turn] if changed and not _findings(settings) else []
        finally:
            for path in whole.rglob("*"):
                if path.is_file() and "first day" not in path.parts and path not in kept:
                    path.unlink()
            for path, (content, mode) in kept.items():
                path.write_bytes(content)
                path.chmod(mode)
    assert not missed


def _findings(settings) -> list[str]:
    "Return what the check finds; a sentence instead of an answer is a finding."
    try:
        return verify_evidence(settings, environ={}).findings
    except TradingError as error:
        return [str(error)]


def test_a_key_is_made_at_the_first_start_and_its_loss_is_said_with_a_way_on(tmp_path):
    assert carnet(tmp_path, "alias", "XBT", "BTC")[0] == 0
    key = key_file(tmp_path / "data")
    assert key.stat().st_mode & 0o777 == 0o600 and all(e.seal for e in AuditLog(tmp_path / "data" / LOG).entries())
    assert "as it was written" in carnet(tmp_path, "audit", "verify")[1]
    key.unlink()
    code, told = carnet(tmp_path, "audit", "verify")
    assert code == 4 and "is gone; bring it back from a backup" in told and not key.exists(), told
    code, told = carnet(tmp_path, "alias", "XETH", "ETH")
    assert code == 1 and "bring ops/evidence.key back" in told, "nothing is done that is not recorded"
    assert "Trading is stopped" in carnet(tmp_path, "kill", "the key is lost")[1], "the brake needs no key"
    code, told = carnet(tmp_path, "doctor")
    assert any(line.startswith("bad") and "evidence.key" in line for line in told.splitlines()), told
    assert carnet(tmp_path, "audit", "renew")[0] == 2 and carnet(tmp_path, "audit", "renew", "--why", "x")[0] == 1
    assert "a new audit log begins" in carnet(tmp_path, "audit", "renew", "--why", "the disk of the key broke")[1]
    assert carnet(tmp_path, "audit", "verify")[0] == 0 and carnet(tmp_path, "alias", "XETH", "ETH")[0] == 0
    shown = carnet(tmp_path, "audit", "show")[1]
    assert "the disk of the key broke" in shown and len(list((tmp_path / "data" / "ops").glob("audit-2*.jsonl"))) == 1


def test_the_watch_anchors_once_a_day_and_a_witness_is_taken_back(tmp_path):
    (tmp_path / "settings.ini").write_text(f"[backup]\nanchors = sqlite:///{tmp_path}/second.db, {tmp_path}/nas\n")
    assert carnet(tmp_path, "alias", "XBT", "BTC")[0] == 0
    assert carnet(tmp_path, "watch")[1].count("ends of audit log and ledgers written to") == 3
    assert "written to" not in carnet(tmp_path, "watch")[1]
    with closing(sqlite3.connect(tmp_path / "second.db")) as db:
        rows = db.execute("select line from carnet_anchors").fetchall()
    assert [r[0] for r in rows] == (tmp_path / "nas" / ANCHORS).read_text().splitlines()
    witness = json.loads(rows[0][0])["audit"]
    assert carnet(tmp_path, "audit", "verify", "--witness", witness)[0] == 0
    code, told = carnet(tmp_path, "audit", "verify", "--witness", "1:" + "0" * 32, "--witness", "main/7:" + "0" * 32)
    assert code == 4 and "is not the one the witness has seen" in told and "the ledger of main is gone, and event 7 of it was anchored" in told
    code, told = carnet(tmp_path, "audit", "verify", "--witness", "main/seven")
    assert code in (1, 4) and "Error" in told or "gone" in told
    (tmp_path / "nas" / ANCHORS).unlink()
    assert "that the audit log knows" in carnet(tmp_path, "audit", "verify")[1]


@pytest.mark.parametrize(("line", "said"), [
    ("channel:letter", "there is no alert channel 'letter' to send anchors to"), ("postgresql://u:hunter22@127.0.0.1:1/x", "cannot be read"),
    ("/proc/none/here", "cannot be written"), ("vault:NOTHING", "there is no key to it")])
def test_a_place_that_cannot_be_reached_is_named_and_the_others_get_theirs(tmp_path, line, said):
    (tmp_path / "settings.ini").write_text(f"[backup]\nanchors = {line}\n")
    carnet(tmp_path, "alias", "XBT", "BTC")
    code, told = carnet(tmp_path, "audit", "anchor")
    assert code == 1 and said in told and "hunter22" not in told, told
    assert line.startswith("vault") or len((tmp_path / "reports" / ANCHORS).read_text().splitlines()) == 1


def test_an_anchor_goes_out_as_a_message_with_the_command_that_checks_it(tmp_path):
    (tmp_path / "settings.ini").write_text("[backup]\nanchors = channel:console\n[alert_channels]\nconsole = info\n")
    carnet(tmp_path, "alias", "XBT", "BTC")
    code, told = carnet(tmp_path, "audit", "anchor")
    assert code == 0 and "carnet audit verify --witness 1:" in told and "written to channel:console" in told, told
    words = told[told.index("carnet audit verify"):].splitlines()[0].split()[1:]
    assert carnet(tmp_path, *words)[0] == 0


def test_anchors_cover_the_ledgers_of_all_portfolios(tmp_path):
    assert carnet(tmp_path, "portfolios", "add", "family")[0] == 0
    family = Path(tmp_path / "data" / "portfolios" / "family" / "ledger.sqlite")
    with closing(Ledger(family)) as ledger:
        ledger.open_account("paper-sample", "USD", Decimal(1000), DAY)
        ledger.append(Event("note", "paper-sample", DAY, {"text": "one"}))
    assert carnet(tmp_path, "audit", "anchor")[0] == 0 and "the ledger of family" in carnet(tmp_path, "audit", "verify")[1]
    with closing(sqlite3.connect(family)) as db:
        db.executescript("drop trigger no_delete; delete from events where seq = (select max(seq) from events)")
    head_file(family).unlink()
    code, told = carnet(tmp_path, "audit", "verify")
    assert code == 4 and "of the ledger of family is not the one that was anchored" in told, told
