"""The weekly run: search and judge models, then review what came of the forecasts that were kept."""

from contextlib import ExitStack
from datetime import UTC, datetime

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from trading.core.resources import share_path
from trading.core.settings import load_settings
from trading.pipeline.launch import load_flow
from trading.pipeline.notebook_runner import Kernel
from trading.services.flow_runs import choose_portfolio, printed_lines

NOTEBOOKS = ("60_train", "70_review")


@task(cache_policy=NO_CACHE, persist_result=False)
def execute(kernel: Kernel, name: str, output, parameters: dict, minutes: float) -> None:
    "Execute one notebook of the week."
    try:
        kernel.execute(share_path("runs", f"{name}.ipynb"), output, parameters, minutes)
    finally:
        for line in printed_lines(output):
            get_run_logger().info("%s", line)


@flow(name="weekly", validate_parameters=False, persist_result=False, on_crashed=[load_flow("watch").crashed])
def weekly(profile: str | None = None, portfolio: str | None = None) -> str:
    "Train and review while no run is at work; the executed notebooks and their results are kept in a folder of the week."
    with choose_portfolio(portfolio), load_flow("watch").told_of("weekly", profile), ExitStack() as held:
        settings = load_settings(profile)
        held.enter_context(load_flow("watch").turn(settings.run.data))
        reports = settings.run.reports.resolve()
        folder = reports / "weekly" / f"{datetime.now(UTC):%Y-%m-%d_%H%M}_{settings.run.profile}"
        folder.mkdir(parents=True, exist_ok=True)
        parameters, minutes = {"reports": str(reports), "folder": str(folder), "profile": settings.run.profile}, settings.schedule.notebook_minutes
        with Kernel(folder / "kernel.log", imports=("pandas", "deltalake", "sklearn.linear_model", "optuna")) as kernel:
            for name in NOTEBOOKS:
                execute.with_options(name=name, task_run_name=name)(kernel, name, folder / f"{name}.ipynb", parameters, minutes)
        watch = load_flow("watch")
        get_run_logger().info("%s", watch.carnet("report", "--due", *watch.of_profile(settings.run.profile)))
    return str(folder)
