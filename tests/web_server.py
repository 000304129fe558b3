"A real server on loopback, a process of its own, on a copy of two real runs; shared by the tests of the service."

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from shutil import copytree

import httpx
import psutil
import pyotp
from waiting import wait_until

PASSWORD = "correct horse battery"
RUN = """
import sys
from pathlib import Path
from trading.api.server import run_server, take_port
from trading.services.metrics import open_metrics
from trading.services.workspace import Workspace
from trading.api.app import make_app
from trading.security.context import open_security

home, rate, pages = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "pages"
guard = open_security(home / "data", environ={}, ring=False)
taken = take_port("127.0.0.1", 0)
place = Workspace(home / "data", home / "reports", home / "settings.ini")
app = make_app(place, guard.users, guard.audit, dashboard=pages, rate=rate, burst=2 * rate, metrics=open_metrics(place),
               command=(sys.executable, "-c", f"import time; time.sleep({sys.argv[4]})"))
print(taken.getsockname()[1], flush=True)
run_server(app, taken)
"""


@lru_cache(maxsize=1)
def template() -> Path:
    "Return a folder with two real runs, made once for each process."
    from trading.testing.sample_runs import SMALL, make_sample_runs

    home = Path(tempfile.mkdtemp(prefix="carnet-web-"))
    make_sample_runs(home)
    sections: dict[str, list[str]] = {}
    for name, value in SMALL.items():
        section, key = name.split(".")
        sections.setdefault(section, []).append(f"{key} = {value}")
    (home / "settings.ini").write_text("\n".join(f"[{s}]\n" + "\n".join(lines) for s, lines in sections.items()))
    return home


@dataclass
class Server:
    "A running server, and the keys of three people."

    home: Path
    process: subprocess.Popen
    url: str
    keys: dict[str, str]
    codes: dict[str, pyotp.TOTP]

    def client(self, role: str = "trader", **more) -> httpx.Client:
        "Return a client that shows a key."
        return httpx.Client(base_url=self.url + "/api/v1", headers={"X-API-Key": self.keys[role]}, timeout=120, **more)

    def sign_in(self, role: str = "trader") -> httpx.Client:
        "Return a client with the cookie of somebody who signed in; the number for forms is in its headers."
        client = httpx.Client(base_url=self.url + "/api/v1", timeout=120)
        code = self.codes[role].at(datetime.now(UTC)) if role in self.codes else ""
        answer = client.post("/session", json={"name": role, "password": PASSWORD, "code": code})
        assert answer.status_code == 200, answer.text
        client.headers["X-CSRF-Token"] = answer.json()["csrf"]
        return client


def people(home: Path) -> tuple[dict, dict]:
    "Make a viewer, a trader and an admin, with a key each."
    from trading.security.context import open_security

    guard = open_security(home / "data", environ={}, ring=False)
    keys, codes = {}, {}
    for role in ("viewer", "trader", "admin"):
        guard.users.add_user(role, PASSWORD, role, ["main"])
        if role != "viewer":
            codes[role] = pyotp.parse_uri(guard.users.enrol_totp(role))
        keys[role] = guard.users.make_key(role, "tests", role=role)
    guard.users.close()
    return keys, codes


@contextlib.contextmanager
def serve(folder: Path, rate: float = 100_000, again: Server | None = None, prepare: Callable[[Path], dict[str, str]] | None = None,
          pages: bool = False, seconds: float = 0.2):
    """Start a server on a copy of the runs, or again on the folder of one that died; its jobs end with it.

    `prepare` gets the folder before the start and returns the keys of further people; a run that is asked for takes `seconds`.
    """
    home = again.home if again else folder / "place"
    if again is None:
        copytree(template(), home)
    keys, codes = (again.keys, again.codes) if again else people(home)
    keys |= prepare(home) if prepare else {}
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")} | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    program = [sys.executable, "-c", RUN, str(home), str(rate), "pages" if pages else "none", str(seconds)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environ, cwd=home)
    try:
        port = process.stdout.readline().strip()
        assert port.isdigit(), "the server did not start"
        server = Server(home, process, f"http://127.0.0.1:{port}", keys, codes)
        wait_until(lambda: process.poll() is not None or _is_up(server))
        assert process.poll() is None, "the server ended before it answered"
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(60)
        end_left(home)


def left(home: Path) -> list[psutil.Process]:
    "Return the processes of the jobs of every portfolio that still live."
    found = []
    for file in (home / "data").rglob("jobs/*.json"):
        known = json.loads(file.read_bytes())
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(known["pid"])
            found += [process] if process.create_time() == known["born"] and process.status() != psutil.STATUS_ZOMBIE else []
    return found


def end_left(home: Path) -> None:
    "End by their numbers the jobs that a server left: one that was killed could not do so, and one that trades goes on."
    for process in left(home):
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.Error):
                one.kill()
    wait_until(lambda: not left(home))


def _is_up(server: Server) -> bool:
    "Tell whether the server answers."
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(server.url + "/healthz", timeout=60).status_code == 200
    return False


def raw(server: Server, request: bytes, wait: float = 10) -> bytes:
    "Send bytes as they are and return the beginning of the answer."
    port = int(server.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as line:
        line.sendall(request)
        with contextlib.suppress(TimeoutError, ConnectionError):
            return line.recv(65536)
    return b""


def documented(server: Server) -> dict:
    "Return the OpenAPI description."
    return json.loads(httpx.get(server.url + "/api/v1/openapi.json").content)
