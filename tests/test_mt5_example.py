"The example client of the MetaTrader bridge, run as a reader runs it: against 'carnet mt5-bridge --simulate', each in a process of its own."

import ast
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from waiting import wait_until

pytestmark = pytest.mark.xdist_group("mt5-example")  # one worker: what they share is made once

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "share" / "mt5_client.py"
KEY = "a key of more than sixteen characters"


def listens(port):
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def bridge():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {**os.environ, "MT5_BRIDGE_KEY": KEY, "PYTHONPATH": str(ROOT)}
    words = ["mt5-bridge", "--simulate", "--account", "7", "--zone", "Europe/Athens", "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-c", "from trading.cli.main import main; main(prog_name='carnet')", *words], env=environ)
    try:
        wait_until(lambda: listens(port) or process.poll() is not None)
        assert process.poll() is None
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def example(url, account="7", key=KEY):
    words = [sys.executable, str(CLIENT), url, account]
    done = subprocess.run(words, env={**os.environ, "MT5_BRIDGE_KEY": key}, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_it_goes_long_and_short_and_ends_flat(bridge):
    code, said, problem = example(bridge)
    assert code == 0, problem
    assert said.startswith("bridge: ready\nbid of EUR/USD 1.")
    told = [line.partition(":")[0] for line in said.splitlines()[2:]]
    assert told == ["long", "looked up", "positions", "closed", "short", "positions", "covered"]
    assert "positions: {'EUR/USD': '10000'}" in said and "positions: {'EUR/USD': '-10000'}" in said and said.endswith("positions: []\n"), said


def test_what_the_bridge_refuses_is_one_sentence(bridge):
    assert example(bridge, key="another key of sixteen characters")[::2] == (1, "Error: 401: wrong key\n")
    code, said, problem = example(bridge, account="8")
    assert problem == "Error: 403: the order is bound to another account than this bridge; correct the account number\n"
    assert code == 1 and "long" not in said


def test_it_needs_nothing_but_requests():
    nodes = list(ast.walk(ast.parse(CLIENT.read_text(encoding="utf-8"))))
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names} | {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    assert {n.partition(".")[0] for n in names} - set(sys.stdlib_module_names) == {"requests"}


def test_the_published_description_is_that_of_the_bridge():
    from click.testing import CliRunner

    from trading.cli.main import main

    published = json.loads((ROOT / "share" / "mt5_bridge.openapi.json").read_text(encoding="utf-8"))
    done = CliRunner().invoke(main, ["mt5-bridge", "--openapi"])
    assert done.exit_code == 0 and json.loads(done.stdout) == published, "write it anew: carnet mt5-bridge --openapi > share/mt5_bridge.openapi.json"
    asked = {(method, path) for path, methods in published["paths"].items() for method in methods}
    assert {("post", "/order"), ("get", "/order"), ("post", "/cancel"), ("post", "/unlock"), ("get", "/positions"), ("get", "/health")} <= asked
    client = CLIENT.read_text(encoding="utf-8")
    assert all(f'"{path}' in client for path in ("/health", "/order", "/positions")), "the example asks for what is described"
