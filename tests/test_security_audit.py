"The audit log under ten thousand alterations, many writers, and a disk that is full."

import errno
import json
import multiprocessing
import os
import random
import threading
from datetime import UTC, datetime

import pytest

from trading.security import audit_log as audit
from trading.security.audit_log import AuditError, AuditLog, check_log, read_line, write_anchor, write_line

NOW = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)
KEY = b"a key of the vault, 32 bytes long"
ACTIONS = ("sign-in", "plan.approve", "limits.raise", "secrets.set", "users.role", "kill.reset")


def made(dice: random.Random, n: int, key: bytes | None = KEY) -> tuple[list[bytes], bytes]:
    "Return the lines of a log and its anchor."
    lines, before = [], ""
    for seq in range(1, n + 1):
        line, before = write_line(
            seq, NOW, dice.choice(("ann", "bob")), dice.choice(ACTIONS), {"n": dice.random(), "plan": dice.randbytes(6).hex()}, before, key
        )
        lines.append(line)
    return lines, write_anchor(n, before, key)


def altered(dice: random.Random, lines: list[bytes], anchor: bytes | None) -> tuple[bytes, bytes | None, str]:
    "Return the log with one random alteration, as somebody without the key can make it."
    lines, whole, way = list(lines), b"".join(lines), dice.randrange(11)
    at = dice.randrange(len(lines))
    if way == 0:  # any byte
        place = dice.randrange(len(whole))
        return whole[:place] + bytes([whole[place] ^ dice.randrange(1, 256)]) + whole[place + 1 :], anchor, "byte"
    if way == 1:
        del lines[at : at + dice.randint(1, 3)]
    elif way == 2:  # another entry, chained as well as can be without the key
        row = read_line(lines[at])
        lines.insert(at, write_line(row.seq, NOW, "eve", "nothing", {}, row.before)[0])
    elif way == 3:
        other = dice.choice([i for i in range(len(lines)) if i != at])
        lines[at], lines[other] = lines[other], lines[at]
    elif way == 4:  # cut off anywhere, in the middle of a line too
        return whole[: dice.randrange(len(whole))], anchor, "truncated"
    elif way == 5:  # cut off behind an entry, the anchor moved along without its seal
        cut = dice.randrange(1, len(lines))
        last = read_line(lines[cut - 1])
        return b"".join(lines[:cut]), dice.choice((None, write_anchor(cut, last.hash), anchor)), "shortened"
    elif way == 6:  # replayed
        lines.insert(dice.randrange(len(lines) + 1), lines[at])
    elif way == 7:  # a detail changed and everything from there computed afresh, without the key
        first, before = read_line(lines[at]), read_line(lines[at]).before
        fresh = []
        for entry in (read_line(line) for line in lines[at:]):
            line, before = write_line(
                entry.seq, entry.time, entry.who, entry.action, {"forged": True} if entry.seq == first.seq else entry.detail, before
            )
            fresh.append(line)
        return (
            b"".join(lines[:at] + fresh),
            dice.choice((anchor, write_anchor(len(lines), before), write_anchor(len(lines), before, b"another key, of eve"))),
            "afresh",
        )
    elif way == 8:  # the anchor itself
        place = dice.randrange(len(anchor))
        return whole, anchor[:place] + bytes([anchor[place] ^ dice.randrange(1, 256)]) + anchor[place + 1 :], "anchor"
    elif way == 9:
        row = json.loads(lines[at])
        row[dice.choice(("who", "action", "time", "seq", "seal", "before"))] = dice.choice(("eve", 7, "", None))
        lines[at] = (json.dumps(row, separators=(",", ":")) + "\n").encode()
    else:  # the same meaning in another spelling
        lines[at] = (json.dumps(json.loads(lines[at]), indent=dice.choice((None, 0)), sort_keys=dice.random() < 0.5) + "\n").encode()
    return b"".join(lines), anchor, str(way)


def test_ten_thousand_alterations_are_all_found():
    dice, sizes = random.Random(7), (2, 3, 5, 9)
    logs = {n: made(dice, n) for n in sizes}
    for lines, anchor in logs.values():
        assert check_log(b"".join(lines), anchor, KEY, sealed_from=1) == []
    for number in range(10_000):
        lines, anchor = logs[dice.choice(sizes)]
        data, end, way = altered(dice, lines, anchor)
        if (data, end) == (b"".join(lines), anchor):
            continue  # a swap or a spelling that changed nothing
        assert check_log(data, end, KEY, sealed_from=1), (number, way)


@pytest.mark.parametrize("key", [KEY, b"a key that is longer than a block of SHA-256, as a passphrase may well be: seventy bytes"])
def test_the_quick_walk_over_sealed_lines_finds_what_line_by_line_finds(monkeypatch, key):
    dice, before, lines = random.Random(9), "", []
    odd = [("ann", {"n": 1}), ('a "quoted" name', {"n": 2}),
           ("bob", {"text": 'a ","who":"eve" inside, a \\ and é\ud800'}), ("Zoë", {}), ("eve", {"lines": "a\nb"})]
    for seq in range(1, 11):
        line, before = write_line(seq, NOW, odd[seq % 5][0], "plan.approve", odd[seq % 5][1], before, key if seq > 2 else None)
        lines.append(line)
    end, logs = write_anchor(10, before, key), [b"".join(lines)]
    for _ in range(300):
        logs.append(altered(dice, lines, end)[0])
    forged = json.loads(lines[4]) | {"before": "\ud800"}
    logs.append(b"".join([*lines[:4], (json.dumps(forged, separators=(",", ":")) + "\n").encode(), *lines[5:]]))
    quick = [check_log(log, end, key) for log in logs]
    assert not quick[0] and not [x for x in quick[1:] if not x and logs[1:].count(logs[0]) == 0]
    monkeypatch.setattr(audit, "walk_sealed_lines", lambda *_: [])
    assert [check_log(log, end, key) for log in logs] == quick
    monkeypatch.setattr(audit, "_as_written", lambda *_: None)
    assert [check_log(log, end, key) for log in logs] == quick


def test_without_a_key_every_alteration_that_does_not_compute_the_chain_afresh_is_found():
    dice = random.Random(8)
    lines, anchor = made(dice, 12, None)
    assert check_log(b"".join(lines), anchor) == []
    for number in range(1_000):
        data, end, way = altered(dice, lines, anchor)
        if way in ("afresh", "shortened") or (data, end) == (b"".join(lines), anchor):
            continue
        assert check_log(data, end), (number, way)


def test_a_witness_finds_what_no_file_can(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl", KEY)
    log.append("ann", "one", {}, NOW)
    files = [(p, p.read_bytes()) for p in (log.path, log.anchor)]
    log.append("ann", "two", {}, NOW)
    witness = log.head()
    for path, content in files:
        path.write_bytes(content)
    again = AuditLog(tmp_path / "audit.jsonl", KEY)
    assert again.verify() == [] and "put back" in again.verify(witness)[0].what


def _writer(path, n):
    log = AuditLog(path, KEY)
    for k in range(n):
        log.append(f"process {os.getpid()}", "act", {"k": k})


def test_writers_in_processes_and_threads_never_mix(tmp_path):
    path = tmp_path / "audit.jsonl"
    shared = AuditLog(path, KEY)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_writer, args=(path, 40)) for _ in range(2)]
    threads = [threading.Thread(target=lambda: [shared.append("thread", "act", {"k": k}) for k in range(40)]) for _ in range(3)]
    for worker in (*processes, *threads):
        worker.start()
    for worker in (*processes, *threads):
        worker.join()
    assert shared.verify() == [] and [e.seq for e in shared.entries()] == list(range(1, 201))


@pytest.mark.parametrize("broken", ["_add", "_replace"])
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch, broken):
    log = AuditLog(tmp_path / "audit.jsonl", KEY)
    log.append("ann", "one", {"api_key": "q1w2e3r4t5"}, NOW)

    def full(path, content):
        if broken == "_add":
            with path.open("ab") as file:
                file.write(content[: len(content) // 2])  # what a disk does when it fills up
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(audit, broken, full)
    with pytest.raises(AuditError, match=r"No space left on device; nothing was recorded and nothing may be done") as caught:
        log.append("ann", "two", {"api_key": "q1w2e3r4t5"}, NOW)
    assert "q1w2" not in str(caught.value)
    monkeypatch.undo()
    assert log.verify() == [] and log.append("ann", "two", {}, NOW) == 2 and [e.action for e in log.entries()] == ["one", "two"]


def test_a_large_log_is_read_checked_and_continued(tmp_path):
    dice = random.Random(9)
    lines, anchor = made(dice, 5_000)
    log = AuditLog(tmp_path / "audit.jsonl", KEY)
    log.path.write_bytes(b"".join(lines))
    log.anchor.write_bytes(anchor)
    assert log.verify() == [] and log.append("ann", "more", {}, NOW) == 5_001
    assert [e.seq for e in log.entries(after=4_999)] == [5_000, 5_001]


def test_a_huge_or_odd_detail_is_kept_within_bounds(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl", KEY)
    loop = {}
    loop["self"] = loop
    deep = {}
    for _ in range(5_000):
        deep = {"d": deep}
    for detail in (
        {"x": "y" * 10**6},
        loop,
        deep,
        {1: 2, None: float("inf"), (1, 2): "gone"},
        {"at": NOW, "bytes": b"\xff", "text": "é\ud800\n"},
    ):
        log.append("ann\nbob" * 100, "odd", detail, NOW)
    assert log.verify() == [] and max(len(line) for line in log.path.read_bytes().splitlines()) < 20_000 and len(log.entries()) == 5
