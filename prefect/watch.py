"""The watch: put in order what a crash has left, examine the machine, and send the alerts that are owed.

Nothing is decided here. The work is done by the command, in a process of its own: whatever hangs there does not hold the schedule up.
"""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect._internal import observers
from prefect.logging import get_run_logger
from prefect.utilities.services import critical_service_loop

from trading.core.errors import TradingError
from trading.core.files import folder_at_work, lock_folder
from trading.services.flow_runs import choose_portfolio

OBSERVERS = ("prefect.FlowRunCancellingObserver", "prefect.FlowRunSuspendingObserver")
PATIENCE = 2 * 3600.0  # seconds that a job waits for its turn: profiles of one portfolio share a folder, and mostly a cron line
COMMAND = "from trading.cli.main import main; main(prog_name='carnet')"


def in_a_sentence(record: logging.LogRecord) -> bool:
    "Let Prefect tell by a sentence that its server is away, and an error of ours by its own; a fault of the program keeps its traceback."
    if record.exc_info and (record.name in OBSERVERS or isinstance(record.exc_info[1], TradingError)):
        record.exc_info = record.exc_text = None
    return True


def quiet_when_cancelled(told: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    "Return what looks at the end of a task, and passes over one that was only cancelled."
    def ended(self: Any, task: Any) -> None:
        return None if task.cancelled() else told(self, task)

    ended.patient = True
    return ended


def patient(*modules: Any) -> None:
    "Let the loops of modules of Prefect, and what looks for cancelled runs, wait for a server that restarts; they would end after half a minute."
    for module in (observers, *modules):
        module.critical_service_loop = partial(critical_service_loop, consecutive=1_000_000)
    for kind in (observers.FlowRunCancellingObserver, observers.FlowRunSuspendingObserver):  # asked for the error of one that was only cancelled
        told = kind._handle_polling_task_done
        if not getattr(told, "patient", False):  # this file is loaded once for each flow that asks for it
            kind._handle_polling_task_done = quiet_when_cancelled(told)
    for name in (*OBSERVERS, "prefect.flow_runs", "prefect.task_runs", "prefect.engine", "prefect.flow_engine", "prefect.task_engine"):
        logger = logging.getLogger(name)
        if not any(getattr(known, "__name__", "") == in_a_sentence.__name__ for known in logger.filters):
            logger.addFilter(in_a_sentence)


patient()


def carnet(*words: str, seconds: float = 300) -> str:
    "Do one command of ours in a process of its own and return what it said; a failure is said too, it does not raise."
    try:
        done = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"carnet {words[0]} did not end within {seconds:g} s"
    return (done.stdout + done.stderr).strip()


def of_profile(profile: str | None) -> list[str]:
    "Return the words that choose a profile."
    return ["--profile", profile] if profile else []


@contextmanager
def turn(data: Path) -> Iterator[None]:
    "Hold the data folder for a job; one that comes while another is at work there, such as that of another profile, waits for it."
    if folder_at_work(data):
        get_run_logger().info("another job is at work on %s; this one waits for it", data)
    with lock_folder(data, PATIENCE):
        yield


@contextmanager
def told_of(job: str, profile: str | None) -> Iterator[list]:
    "Let people be told when a job fails; not when something in the list tells of it, or a person has cancelled it."
    by_itself: list = []
    try:
        yield by_itself
    except Exception as error:
        if not by_itself:
            carnet("after-job", job, "--failed", str(error) or type(error).__name__, *of_profile(profile), seconds=120)
        raise
    if not by_itself:
        carnet("after-job", job, *of_profile(profile), seconds=120)


def crashed(flow: Any, flow_run: Any, state: Any) -> None:
    "Let people be told that the process of a job has died; a hook of Prefect."
    given = flow_run.parameters or {}
    with choose_portfolio(given.get("portfolio")):
        job = flow.name.removesuffix("-scheduled")
        why = f"its process ended in the middle: {state.message or state.name}"
        carnet("after-job", job, "--failed", why, *of_profile(given.get("profile")), seconds=120)


@flow(name="watch", persist_result=False)
def watch(profile: str | None = None, portfolio: str | None = None) -> str:
    "Look after the system once; what the schedule calls every quarter of an hour."
    with choose_portfolio(portfolio):
        return carnet("watch", *of_profile(profile))


@flow(name="reconcile", persist_result=False)
def reconcile(profile: str | None = None, portfolio: str | None = None) -> str:
    "Compare accounts of real orders with their venues; what the schedule calls every hour. A difference is an alert."
    with choose_portfolio(portfolio):
        return carnet("watch", "--accounts", *of_profile(profile))


@flow(name="loop", persist_result=False)
def loop(profile: str | None = None, portfolio: str | None = None) -> str:
    "Start the trading loop where the settings want it kept (loop.keep) and it neither lives nor was ended by a person."
    with choose_portfolio(portfolio):
        said = carnet("trade", "--keep", *of_profile(profile))
    get_run_logger().info("%s", said)
    return said
