"""The schedule: each flow with its cron line from the settings, served by this process for as long as it runs.

The table of what is scheduled stands in `trading.services.flow_runs`; `carnet schedule --write` makes a `prefect.yaml` from it for those who
have workers of their own.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.schedules import Cron

from trading.core.settings import Settings
from trading.pipeline.launch import load_flow
from trading.services.flow_runs import SCHEDULED, cron_lines

ONCE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)  # a second one waits for the first


def jobs(settings: Settings) -> dict[str, tuple[Any, str]]:
    "Return what is scheduled: name → flow and cron line."
    times = cron_lines(settings)
    return {job: (getattr(load_flow(file), flow), times[job]) for job, (file, flow) in SCHEDULED.items()}


def serve_schedule(every: Sequence[Settings], once: bool = False) -> Iterator[str]:
    "Register each flow for each profile, say when it runs, and start them when their time has come."
    deployments = []
    for settings in every:
        zone, profile = settings.schedule.timezone, settings.run.profile
        for name, (flow, cron) in jobs(settings).items():
            if name == "reconcile" and settings.run.mode != "live":
                continue
            more = {"parameters": {"profile": profile}, "concurrency_limit": ONCE, "tags": ["carnet", profile]}
            deployments.append(flow.to_deployment(f"{name}-{profile}", schedule=Cron(cron, timezone=zone), **more))
            yield f"{name}: {cron} ({zone}), profile {profile}"
    if once:
        for deployment in deployments:
            deployment.apply()
        return
    yield "waiting; end with Ctrl-C"
    serve(*deployments, print_starting_message=False)
