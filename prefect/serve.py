"""The schedule: each flow with its cron line from the settings, served by this process for as long as it runs.

The table of what is scheduled stands in `trading.services.flow_runs`; `carnet schedule --write` makes a `prefect.yaml` from it for those who
have workers of their own.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from prefect import serve
from prefect._internal import observers
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.runner import _scheduled_run_poller
from prefect.schedules import Cron
from prefect.utilities.services import critical_service_loop

from trading.core.settings import Settings
from trading.pipeline.launch import load_flow
from trading.services.flow_runs import SCHEDULED, cron_lines

ONCE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)  # a second one waits for the first


def jobs(settings: Settings) -> dict[str, tuple[Any, str]]:
    "Return what is scheduled: name → flow and cron line."
    times = cron_lines(settings)
    return {job: (getattr(load_flow(file), flow), times[job]) for job, (file, flow) in SCHEDULED.items()}


def patient() -> None:
    "Let the loops of a runner wait for a server that restarts, with a sentence instead of tracebacks; they would end after half a minute."
    waiting = partial(critical_service_loop, consecutive=1_000_000)
    for module in (_scheduled_run_poller, observers):
        module.critical_service_loop = waiting

    def plain(record: logging.LogRecord) -> bool:
        record.exc_info = record.exc_text = None
        return True

    logging.getLogger("prefect.FlowRunCancellingObserver").addFilter(plain)


def serve_schedule(every: Sequence[tuple[str, Settings]], once: bool = False) -> Iterator[str]:
    "Register each flow for each portfolio and profile, say when it runs, and start them when their time has come."
    deployments = []
    for portfolio, settings in every:
        zone, profile = settings.schedule.timezone, settings.run.profile
        own = {} if portfolio == "main" else {"portfolio": portfolio}
        for name, (flow, cron) in jobs(settings).items():
            if (name == "reconcile" and settings.run.mode != "live") or (name == "loop" and not settings.loop.keep):
                continue
            more = {"parameters": {"profile": profile} | own, "concurrency_limit": ONCE, "tags": ["carnet", profile, *own.values()]}
            deployments.append(flow.to_deployment("-".join((name, *own.values(), profile)), schedule=Cron(cron, timezone=zone), **more))
            yield f"{name}: {cron} ({zone}), profile {profile}" + (f", portfolio {portfolio}" if own else "")
    if once:
        for deployment in deployments:
            deployment.apply()
        return
    patient()
    yield "waiting; end with Ctrl-C"
    serve(*deployments, print_starting_message=False)
