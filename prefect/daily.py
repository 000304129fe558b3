"""The daily run: ingest → forecast → allocate → trade → report, one task per run notebook.

Nothing is decided here. A stage that reads may be tried again; the one that trades never is: whoever resumes it reconciles first.
*Retry* in Prefect's page goes on with the run that the same flow run had opened; it never opens a second one.
"""

from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Literal

from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from trading.core.errors import TradingError
from trading.core.settings import load_settings
from trading.core.tracing import span
from trading.pipeline.launch import load_flow
from trading.pipeline.notebook_runner import Kernel, run_stage
from trading.pipeline.run_record import STAGES, Run
from trading.pipeline.training import train_after
from trading.services.flow_runs import artifact_key, choose_portfolio, day_note, plan_artifact, run_of_flow, stage_lines
from trading.services.launching import run_named


def logged_stage(run: Run, name: str, kernel: Kernel) -> float:
    "Carry out one stage, and show in Prefect's logs what its notebook printed."
    log = get_run_logger()
    try:
        seconds = run_stage(run, name, kernel)
    except TradingError as error:
        log.error("%s", error)
        raise
    finally:
        for line in stage_lines(run, name):
            log.info("%s", line)
    log.info("%s of %s: %s in %.1f s", name, run.record.id, next(s.status for s in run.record.stages if s.name == name), seconds)
    return seconds


stage = task(logged_stage, cache_policy=NO_CACHE, persist_result=False)


def show(run: Run, name: str) -> None:
    "Leave what a person wants to see of a stage in Prefect's page: the plan as a table, the sentence of the day with its links."
    if name == "40_trade" and run.has("plan"):
        create_table_artifact(plan_artifact(run), artifact_key("plan", run), f"Plan of {run.record.id}")
    if name == "50_report" and (run.folder / "index.html").exists():
        create_markdown_artifact(day_note(run), artifact_key("day", run), f"What happened on the day of {run.record.id}")
        create_link_artifact((run.folder / "index.html").resolve().as_uri(), f"report of {run.record.id}", artifact_key("report", run))


@flow(name="daily", flow_run_name=lambda: flow_run.parameters["run"].record.id, validate_parameters=False, persist_result=False)
def daily(run: Run, kernel: Kernel) -> str:
    "Carry out every stage of a run that is not done yet, and return its id."
    with span("daily run", run=run.record.id, profile=run.record.profile, mode=run.record.mode):
        for name in STAGES:
            stage.with_options(name=name, task_run_name=name)(run, name, kernel)
            show(run, name)
        if said := train_after(run, kernel, datetime.now(UTC)):
            get_run_logger().info("%s", said)
    return run.record.id


def name_flow_run(name: str) -> None:
    "Give the flow run that is at work the name of our run, which is known only once that is opened."
    if flow_run.id:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=name)


@flow(name="daily-scheduled", persist_result=False, on_crashed=[load_flow("watch").crashed])
def daily_scheduled(
    profile: str | None = None,
    as_of: str | None = None,
    mode: Literal["paper", "live"] | None = None,
    portfolio: str | None = None,
    resume: str | None = None,
) -> str:
    """Open today's run from the settings, carry it out, and let people be told; what the schedule calls.

    Args:
        profile: Market to work on; empty: the one of the settings.
        as_of: Decide with what was known after the close of this day, for example 2022-12-27; empty: what the settings say.
        mode: Simulated or real orders; empty: what the settings say.
        portfolio: One of 'carnet portfolios list'; empty: the main one.
        resume: The id of a run to go on with; leave everything else empty then.
    """
    watch = load_flow("watch")
    with choose_portfolio(portfolio), watch.told_of("daily", profile) as by_itself, ExitStack() as held:
        settings = load_settings(profile, {"run.mode": mode})
        its_own = run_named(resume, settings)[1] if resume else settings
        held.enter_context(watch.turn(its_own.run.data))  # a run that goes on does so in the folder that it began in
        run = run_of_flow(settings, datetime.now(UTC), flow_run.id or "", as_of, resume, bool(mode), profile)
        by_itself.append(run)  # from here on the run tells how it went
        name_flow_run(run.record.id)
        more = True
        try:
            with Kernel(run.folder / "kernel.log") as kernel:
                return daily(run, kernel)
        except TerminationSignal:  # cancelled: half a minute is left, which belongs to the words about it
            more = False
            raise
        finally:
            said = watch.carnet("after", run.record.id, "--reports", str(run.folder.parent), seconds=120)
            said += "\n" + watch.carnet("report", "--due", *watch.of_profile(run.record.profile), seconds=300) if more else ""
            (run.folder / "alerts.log").write_text(said, encoding="utf-8")
