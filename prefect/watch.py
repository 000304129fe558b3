"""The watch: put in order what a crash has left, examine the machine, and send the alerts that are owed.

Nothing is decided here. The work is done by the command, in a process of its own: whatever hangs there does not hold the schedule up.
"""

import subprocess
import sys

from prefect import flow

COMMAND = "from trading.cli.main import main; main(prog_name='carnet')"


def carnet(*words: str, seconds: float = 300) -> str:
    "Do one command of ours in a process of its own and return what it said; a failure is said too, it does not raise."
    try:
        done = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"carnet {words[0]} did not end within {seconds:g} s"
    return (done.stdout + done.stderr).strip()


@flow(name="watch", persist_result=False)
def watch(profile: str | None = None) -> str:
    "Look after the system once; what the schedule calls every quarter of an hour."
    return carnet("watch", *(["--profile", profile] if profile else []))


@flow(name="reconcile", persist_result=False)
def reconcile(profile: str | None = None) -> str:
    "Compare accounts of real orders with their venues; what the schedule calls every hour. A difference is an alert."
    return carnet("watch", "--accounts", *(["--profile", profile] if profile else []))
