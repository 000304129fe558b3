"""The schedule: each flow with its cron line from the settings, served by this process for as long as it runs."""

from collections.abc import Iterator

from prefect import serve
from prefect.schedules import Cron

from trading.core.settings import Settings
from trading.pipeline.launch import load_flow


def serve_schedule(settings: Settings, once: bool = False) -> Iterator[str]:
    "Register each flow, say when it runs, and start them when their time has come."
    times, profile = settings.schedule, settings.run.profile
    jobs = {
        "daily": (load_flow("daily").daily_scheduled, times.daily),
        "weekly": (load_flow("weekly").weekly, times.weekly),
        "maintenance": (load_flow("maintenance").maintenance, times.maintenance),
        "watch": (load_flow("watch").watch, times.watch),
    }
    if settings.run.mode == "live":
        jobs["reconcile"] = (load_flow("watch").reconcile, times.reconcile)
    deployments = []
    for name, (flow, cron) in jobs.items():
        given = {"profile": profile}
        deployments.append(flow.to_deployment(f"{name}-{profile}", schedule=Cron(cron, timezone=times.timezone), parameters=given))
        yield f"{name}: {cron} ({times.timezone}), profile {profile}"
    if once:
        for deployment in deployments:
            deployment.apply()
        return
    yield "waiting; end with Ctrl-C"
    serve(*deployments, print_starting_message=False)
