"Three hundred kill -9 of the service with sixteen writers: nothing is lost, nothing is doubled, and whoever asks again hears the same."

import contextlib
import http.client
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from shutil import copytree

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from waiting import wait_until  # noqa: E402
from web_server import people, template  # noqa: E402

WRITERS = 16
SERVE = """
import os, sys
from pathlib import Path
from trading.api.app import make_app
from trading.api.server import run_server, take_port
from trading.security.context import open_security
from trading.services.commands import load_commands
from trading.services.workspace import Workspace

home = Path(sys.argv[1])
load_commands()
for line in sys.stdin:  # each line is a start: a fork that has imported everything, and opened nothing
    if os.fork() == 0:
        os.setsid()
        taken = take_port("127.0.0.1", 0)
        guard = open_security(home / "data", environ={}, ring=False)
        place = Workspace(home / "data", home / "reports", home / "settings.ini")
        app = make_app(place, guard.users, guard.audit, dashboard=False, rate=1e6, burst=1e6)
        print(os.getpid(), taken.getsockname()[1], flush=True)
        run_server(app, taken)
        os._exit(0)
    os.wait()
    print("dead", flush=True)
"""


def post(line: http.client.HTTPConnection, path: str, body: dict, key: str, once: str) -> tuple[int, bytes, bool]:
    "Act with a key; return status, body, and whether the answer was kept from before."
    line.request("POST", "/api/v1" + path, json.dumps(body), {"X-API-Key": key, "Idempotency-Key": once, "Content-Type": "application/json"})
    answer = line.getresponse()
    return answer.status, answer.read(), answer.headers.get("idempotent-replay") == "true"


def note(text: str) -> tuple[str, dict]:
    return "/portfolio/notes", {"text": text}


def deposit(amount: int) -> tuple[str, dict]:
    return "/commands/book-entry", {"kind": "deposit", "amount": str(amount)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is copied and killed")
def test_three_hundred_kills_with_sixteen_writers(tmp_path):
    rounds, chance = int(os.environ.get("CARNET_KILLS", "300")), random.Random(7)
    copytree(template(), home := tmp_path / "place")
    key = people(home)[0]["trader"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")} | {"PYTHONPATH": str(Path(__file__).parents[2])}
    program, pipe = [sys.executable, "-c", SERVE, str(home)], subprocess.PIPE
    starter = subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, env=environ, cwd=home)
    told: dict[str, tuple[str, dict, int, bytes]] = {}  # key of a request → what was asked and answered
    unknown: dict[str, tuple[str, dict]] = {}
    odd: list[tuple] = []
    again = replayed = unsure = 0

    def start() -> tuple[int, int]:
        starter.stdin.write("start\n")
        starter.stdin.flush()
        pid, port = map(int, starter.stdout.readline().split())
        return pid, port

    def connect(port: int) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def write(port: int, number: int, worker: int) -> None:
        with contextlib.closing(connect(port)) as line:
            for n in range(10_000):
                once, (path, body) = uuid.uuid4().hex, deposit(1 + number) if worker == 0 and n == 0 else note(f"note {number} {worker} {n}")
                try:
                    status, answer, _ = post(line, path, body, key, once)
                except (OSError, http.client.HTTPException):
                    unknown[once] = path, body  # perhaps it was written, perhaps not
                    return
                if status not in (200, 201):
                    odd.append((path, body, status, answer))
                    return
                told[once] = path, body, status, answer

    try:
        for number in range(rounds):
            pid, port = start()
            before, wanted = len(told), chance.choice([0, 1, 5, 20, 60])  # at the start, at the first answer, in the middle of many
            writers = [threading.Thread(target=write, args=(port, number, w)) for w in range(WRITERS)]
            for one in writers:
                one.start()
            wait_until(lambda: odd or len(told) - before >= wanted, every=0.002)  # noqa: B023
            os.kill(pid, signal.SIGKILL)
            for one in writers:
                one.join()
            assert starter.stdout.readline().strip() == "dead" and not odd, odd
            if number % 5 == 4 or number == rounds - 1:  # and every fifth time: whoever does not know asks again, and hears one answer from then on
                pid, port = start()
                with contextlib.closing(connect(port)) as line:
                    unsure += len(unknown)
                    for once, (path, body) in unknown.items():
                        first, second = (post(line, path, body, key, once) for _ in range(2))
                        assert first[0] in (200, 201) and first[:2] == second[:2], (path, body, first, second)
                        told[once] = path, body, *first[:2]
                    unknown.clear()
                    for once in chance.sample(sorted(told), min(10, len(told))):
                        path, body, status, answer = told[once]
                        found = post(line, path, body, key, once)
                        assert found[:2] == (status, answer), (path, body, answer, found)
                        again, replayed = again + 1, replayed + found[2]
                os.kill(pid, signal.SIGKILL)
                assert starter.stdout.readline().strip() == "dead"
    finally:
        starter.stdin.close()
        starter.wait(60)
    db = sqlite3.connect(home / "data" / "ledger.sqlite")
    kept = [(kind, json.loads(data)) for kind, data in db.execute("select kind, data from events where kind in ('note', 'deposit') order by seq")]
    db.close()
    found = [d["text"] for kind, d in kept if kind == "note" and d.get("text", "").startswith("note ")]
    paid = [d["amount"] for kind, d in kept if kind == "deposit" and "person trader" in d.get("source", "")]
    asked = [body["text"] for _, body, *_ in told.values() if "text" in body]
    lost, doubled = set(asked) - set(found), len(found) - len(set(found))
    print(f"{rounds} kills, {len(told):,} requests, {unsure} without an answer asked again, {again} answered once more ({replayed} from memory): "
          f"{len(lost)} lost, {doubled} doubled")
    assert not lost and not doubled and set(found) == set(asked)
    assert sorted(map(int, paid)) == sorted(int(body["amount"]) for _, body, *_ in told.values() if "amount" in body)
    from trading.security.context import open_security

    assert open_security(home / "data", environ={}, ring=False).audit.verify() == []
