"""The daily run: ingest → forecast → allocate → trade → report, one task per run notebook.

Nothing is decided here. A stage that reads may be tried again; the one that trades never is: whoever resumes it reconciles first.
"""

from datetime import UTC, datetime

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from trading.core.files import lock_folder
from trading.core.settings import load_settings
from trading.core.tracing import PARENT, span, traceparent
from trading.pipeline.launch import load_flow, open_run
from trading.pipeline.notebook_runner import Kernel, run_stage
from trading.pipeline.run_record import STAGES, Run


def traced_stage(run: Run, name: str, kernel: Kernel) -> float:
    "Carry out one stage; when somebody listens, as a span under which the kernel's own spans hang."
    with span(f"stage {name}", run=run.record.id, profile=run.record.profile) as current:
        if current is not None:
            kernel.set_environment(**{PARENT: traceparent()})
        return run_stage(run, name, kernel)


stage = task(traced_stage, cache_policy=NO_CACHE, persist_result=False)


@flow(name="daily", validate_parameters=False, persist_result=False)
def daily(run: Run, kernel: Kernel) -> str:
    "Carry out every stage of a run that is not done yet, and return its id."
    with span("daily run", run=run.record.id, profile=run.record.profile, mode=run.record.mode):
        for name in STAGES:
            stage.with_options(name=name, task_run_name=name)(run, name, kernel)
    return run.record.id


@flow(name="daily-scheduled", persist_result=False)
def daily_scheduled(profile: str | None = None) -> str:
    "Open today's run from the settings, carry it out, and let people be told; what the schedule calls."
    settings = load_settings(profile)
    with lock_folder(settings.run.data):
        run = open_run(settings, datetime.now(UTC))
        try:
            with Kernel(run.folder / "kernel.log") as kernel:
                return daily(run, kernel)
        finally:
            said = load_flow("watch").carnet("after", run.record.id, "--reports", str(settings.run.reports), seconds=120)
            (run.folder / "alerts.log").write_text(said, encoding="utf-8")
