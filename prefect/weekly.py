"""The weekly run: search and judge models, then review what came of the forecasts that were kept."""

from datetime import UTC, datetime

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from trading.core.files import lock_folder
from trading.core.resources import share_path
from trading.core.settings import load_settings
from trading.pipeline.notebook_runner import Kernel
from trading.services.flow_runs import printed_lines

NOTEBOOKS = ("60_train", "70_review")


@task(cache_policy=NO_CACHE, persist_result=False)
def execute(kernel: Kernel, name: str, output, parameters: dict) -> None:
    "Execute one notebook of the week."
    try:
        kernel.execute(share_path("runs", f"{name}.ipynb"), output, parameters)
    finally:
        for line in printed_lines(output):
            get_run_logger().info("%s", line)


@flow(name="weekly", validate_parameters=False, persist_result=False)
def weekly(profile: str | None = None) -> str:
    "Train and review while no run is at work; the executed notebooks and their results are kept in a folder of the week."
    settings = load_settings(profile)
    with lock_folder(settings.run.data):
        reports = settings.run.reports.resolve()
        folder = reports / "weekly" / f"{datetime.now(UTC):%Y-%m-%d_%H%M}_{settings.run.profile}"
        folder.mkdir(parents=True, exist_ok=True)
        parameters = {"reports": str(reports), "folder": str(folder), "profile": settings.run.profile}
        with Kernel(folder / "kernel.log", imports=("pandas", "deltalake", "sklearn.linear_model", "optuna")) as kernel:
            for name in NOTEBOOKS:
                execute.with_options(name=name, task_run_name=name)(kernel, name, folder / f"{name}.ipynb", parameters)
    return str(folder)
