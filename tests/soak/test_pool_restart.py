"""A process worker of Prefect, as `carnet schedule --pool` starts it, while the server is killed under it and started again.

Minutes, most of them starts of Prefect.
"""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from waiting import wait_until  # noqa: E402

pytestmark = [pytest.mark.xdist_group("flow cancel"), pytest.mark.skipif(sys.platform == "win32", reason="Prefect ends a process by a signal")]

HOLD = """
import time
from pathlib import Path
from prefect import flow
from trading.core.errors import MissingData
from trading.pipeline.launch import load_flow
load_flow("watch")

@flow(name="hold", persist_result=False)
def hold(fail: bool = False):
    "Wait until somebody says so, or fail as our flows do."
    if fail:
        raise MissingData("the store has no bars; load them with 'carnet ingest'")
    Path("begun").touch()
    while not Path("go").exists():
        time.sleep(0.05)
"""


def test_a_worker_of_a_pool_outlasts_a_restart_of_the_server_and_tells_it_and_our_errors_by_sentences(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}/api", tmp_path / "worker.log"
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("CARNET_", "PREFECT_"))}
    plain |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}

    def start(words: list[str], log: Path) -> subprocess.Popen:
        with log.open("ab") as out:
            return subprocess.Popen([sys.executable, "-m", *words], cwd=tmp_path, env=plain, stdout=out, stderr=out, start_new_session=True)

    def server() -> subprocess.Popen:
        process = start(["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"], tmp_path / "server.log")
        running.append(process)  # before it is waited for: whatever fails, it is ended
        wait_until(lambda: healthy() or process.poll() is not None, 200)
        assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
        return process

    def healthy() -> bool:
        try:
            return httpx.get(f"{url}/health").is_success
        except httpx.HTTPError:
            return False

    def ask(what: str, **body) -> dict:
        def answered():  # 503: its file is held by somebody
            return answer if (answer := httpx.post(f"{url}/{what}", json=body, timeout=60)).status_code != 503 else None

        answer = wait_until(answered)
        return answer.raise_for_status().json()

    def state(run: str) -> str:
        return httpx.get(f"{url}/flow_runs/{run}", timeout=60).json().get("state_name")

    (tmp_path / "hold.py").write_text(HOLD)
    running: list[subprocess.Popen] = []
    try:
        first = server()
        ours = ["trading", "schedule", "--pool", "carnet"]
        wrong = subprocess.run([sys.executable, "-m", *ours], cwd=tmp_path, env=plain, capture_output=True, text=True)
        assert wrong.returncode == 1 and "the server has no pool 'carnet'" in wrong.stderr and "Traceback" not in wrong.stderr
        ask("work_pools/", name="carnet", type="process")
        steps = [{"prefect.deployments.steps.set_working_directory": {"directory": str(tmp_path)}}]
        made = ask("deployments/", name="hold", flow_id=ask("flows/", name="hold")["id"], entrypoint="hold.py:hold", work_pool_name="carnet",
                   pull_steps=steps, enforce_parameter_schema=False)
        begin = lambda **given: ask(f"deployments/{made['id']}/create_flow_run", parameters=given, state={"type": "SCHEDULED"})["id"]  # noqa: E731
        running.append(start(ours, log))
        failing = begin(fail=True)
        wait_until(lambda: state(failing) == "Failed", 200)
        held = begin()
        wait_until((tmp_path / "begun").exists, 200)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        wait_until(lambda: log.read_text().count("polling mode") >= 3, 200)  # the worker, and the flow run twice, have noticed
        server()
        (tmp_path / "go").touch()
        wait_until(lambda: state(held) == "Completed", 200)
    finally:
        for process in sorted(running, key=lambda p: "server" in p.args):  # the worker first
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait(60)
    told = log.read_text()
    assert "the store has no bars" in told and "Traceback" not in told, told[-6000:]
