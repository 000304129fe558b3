"""Verification of a long audit log: a million sealed lines, by the fast way and by the slow one that it must agree with. Lines of JSON."""

import gc
import json
import os
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from trading.core.evidence_key import make_evidence_key
from trading.security import audit_log
from trading.security.audit_log import AuditLog, check_log, write_anchor, write_line

LINES, BEGIN = int(os.environ.get("LINES", "1000000")), datetime(2026, 1, 1, tzinfo=UTC)


def write_log(path: Path, key: bytes) -> None:
    "Write the log of many acts, as `AuditLog.append` writes it, without waiting for the disk at each line."
    before = ""
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for n in range(1, LINES + 1):
            detail = {"plan": f"{n:016x}", "orders": n % 40, "reason": "the weekly rebalance"}
            line, before = write_line(n, BEGIN + timedelta(seconds=n), "ann", "plan.approve", detail, before, key)
            file.write(line)
    path.with_suffix(".head").write_bytes(write_anchor(LINES, before, key))


def say(figure: str, value: float, unit: str, rival: str = "", wanted: float | None = None) -> None:
    ratio = round(wanted / value, 2) if wanted else None
    print(json.dumps({"figure": figure, "value": round(value, 2), "unit": unit, "rival": rival, "rival_value": wanted, "ratio": ratio}), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, key = Path(folder) / "data", b"k" * 32
        path = data / "ops" / "audit.jsonl"
        write_log(path, key)
        make_evidence_key(data, 1, key=key, begun=True)
        gc.collect()
        begun, clock = time.perf_counter(), time.process_time()
        assert AuditLog(path, key, sealed_from=1).verify() == []
        took, spent = time.perf_counter() - begun, time.process_time() - clock
        content = path.read_bytes()
        part = content[: content.index(b"\n", len(content) // 20) + 1]
        fast = audit_log.walk_sealed_lines, audit_log._as_written
        audit_log.walk_sealed_lines, audit_log._as_written = (lambda *_: []), (lambda *_: None)
        begun = time.perf_counter()
        slow = check_log(part, None, key)
        slow_took = (time.perf_counter() - begun) * len(content) / len(part)
        audit_log.walk_sealed_lines, audit_log._as_written = fast
        assert check_log(part, None, key) == slow, "the fast way finds what the slow one finds"
        broken = bytearray(content)
        broken[len(broken) // 2] ^= 1
        assert check_log(bytes(broken), path.with_suffix(".head").read_bytes(), key), "one bit"
        say(f"audit log of {LINES:,} sealed lines ({len(content) / 1e6:.0f} MB) verified", took, "s", "asked for", 10)
        say("the same, processor time", spent, "s", "the slow reference, from a twentieth of it", slow_took)


if __name__ == "__main__":
    main()
