"""Maintenance: join the store's small files, forget versions that no run refers to, verify the ledger, and back up."""

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from trading.core.resources import share_path
from trading.core.settings import load_settings
from trading.pipeline.launch import load_flow
from trading.pipeline.notebook_runner import Kernel
from trading.services.flow_runs import choose_portfolio, printed_lines


@task(cache_policy=NO_CACHE, persist_result=False)
def execute(kernel: Kernel, output, parameters: dict, minutes: float) -> None:
    "Execute the maintenance notebook."
    try:
        kernel.execute(share_path("runs", "80_maintain.ipynb"), output, parameters, minutes)
    finally:
        for line in printed_lines(output):
            get_run_logger().info("%s", line)


@flow(name="maintenance", persist_result=False, on_crashed=[load_flow("watch").crashed])
def maintenance(profile: str | None = None, portfolio: str | None = None) -> str:
    "Tidy up while no run is at work; the executed notebook is kept."
    with choose_portfolio(portfolio), load_flow("watch").told_of("maintenance", profile), ExitStack() as held:
        settings = load_settings(profile)
        held.enter_context(load_flow("watch").turn(settings.run.data))
        folder = settings.run.reports / "maintenance"
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / f"{datetime.now(UTC):%Y-%m-%d_%H%M}.ipynb"
        with Kernel(folder / "kernel.log", imports=("pandas", "deltalake")) as kernel:
            places = {"data": str(settings.run.data.resolve()), "reports": str(settings.run.reports.resolve()), "profile": settings.run.profile}
            backup = settings.backup.folder and str(Path(settings.backup.folder).resolve())
            execute(kernel, output, places | {"backup": backup}, settings.schedule.notebook_minutes)
    return str(output)
