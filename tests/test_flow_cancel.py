"""A signal in the middle of a stage, as a cancelled flow run of Prefect gets it: the stage has failed, and nothing is left at work.

Every stage, cancelled through a server and resumed in the end: `tests/soak/test_flow_cancel_long.py`.
"""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from waiting import wait_until

from trading.core.files import lock_folder
from trading.core.settings import load_settings
from trading.pipeline.launch import open_run
from trading.pipeline.run_record import Run
from trading.testing.sample_runs import SMALL

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Prefect ends a process by a signal")

WORK = """
import sys
from prefect.utilities.engine import capture_sigterm
from trading.core.files import lock_folder
from trading.pipeline.notebook_runner import Kernel, run_stage
from trading.pipeline.run_record import Run
run = Run(sys.argv[1])
with lock_folder(run.folder.parent.parent / "data"), capture_sigterm(), Kernel(run.folder / "kernel.log", ()) as kernel:
    kernel.set_environment(HELD_BY=sys.argv[2])
    run_stage(run, "10_ingest", kernel)
"""
HOLD = """
import os, pathlib, time
from IPython import get_ipython

def hold(result):
    if get_ipython().user_ns.get("run_dir"):
        (pathlib.Path(__file__).parent / "held").write_text(str(os.getpid()))
        while True:
            time.sleep(0.05)

get_ipython().events.register("post_run_cell", hold)
"""


def gone(pid: int) -> bool:
    "Tell whether a process has ended."
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_signal_in_the_middle_of_a_stage_leaves_a_failed_stage_and_nothing_at_work(tmp_path):
    settings = load_settings(overrides=SMALL | {"run.data": tmp_path / "data", "run.reports": tmp_path / "reports"}, environ={})
    run = open_run(settings, datetime.now(UTC), "2022-12-27")
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "hold.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(f"import sys; sys.path.append({str(tmp_path)!r}); import hold_a_stage")
    (tmp_path / "hold_a_stage.py").write_text(HOLD)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("CARNET_", "PREFECT_"))}
    environ |= {"IPYTHONDIR": str(tmp_path / "ipython"), "PREFECT_HOME": str(tmp_path / "prefect"), "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-c", WORK, str(run.folder), str(tmp_path)]
    with (tmp_path / "said").open("w") as said:
        work = subprocess.Popen(words, env=environ, stdout=said, stderr=said, start_new_session=True)
    try:
        wait_until(lambda: (tmp_path / "held").exists() or work.poll() is not None, 200)
        assert work.poll() is None, (tmp_path / "said").read_text()[-2000:]
        kernel = int((tmp_path / "held").read_text())
        assert next(s.status for s in Run(run.folder).record.stages if s.name == "10_ingest") == "running"
        work.send_signal(signal.SIGTERM)
        wait_until(lambda: work.poll() is not None, 200)
    finally:
        work.kill()
    stage = next(s for s in Run(run.folder).record.stages if s.name == "10_ingest")
    assert stage.status == "failed" and "ended from outside (TerminationSignal)" in stage.error, (stage, (tmp_path / "said").read_text()[-2000:])
    wait_until(lambda: gone(kernel))
    assert list(Path(tmp_path).glob("carnet-*")) == [], "the sockets of the kernel are gone"
    with lock_folder(settings.run.data):
        pass
