"""The schedule: each flow with its cron line from the settings, served by this process for as long as it runs.

The table of what is scheduled stands in `trading.services.flow_runs`; `carnet schedule --write` makes a `prefect.yaml` from it for those who
have workers of their own.
"""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from httpx import HTTPError, HTTPStatusError
from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.exceptions import ObjectNotFound
from prefect.runner import _scheduled_run_poller
from prefect.schedules import Cron

from trading.core.errors import BadInput, VenueUnreachable
from trading.core.settings import Settings
from trading.pipeline.launch import load_flow
from trading.services.flow_runs import SCHEDULED, cron_lines

ONCE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)  # a second one waits for the first


def jobs(settings: Settings) -> dict[str, tuple[Any, str]]:
    "Return what is scheduled: name → flow and cron line."
    times = cron_lines(settings)
    return {job: (getattr(load_flow(file), flow), times[job]) for job, (file, flow) in SCHEDULED.items()}


def serve_pool(pool: str) -> Iterator[str]:
    "Work for a pool of a Prefect server, as its own worker does, and wait for a server that restarts."
    from prefect.workers import base
    from prefect.workers.process import ProcessWorker

    try:
        with get_client(sync_client=True) as client:
            client.read_work_pool(pool)
    except ObjectNotFound as error:
        raise BadInput(f"the server has no pool {pool[:60]!r}; make it with: prefect work-pool create {pool[:60]} --type process") from error
    except HTTPStatusError as error:
        code, where = error.response.status_code, os.environ["PREFECT_API_URL"]
        if code in (401, 403):
            raise BadInput(f"the Prefect server at {where} lets nobody in who does not sign in ({code}); "
                           "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY to what it asks for") from error
        raise VenueUnreachable(f"the Prefect server at {where} answers with the error {code}; look into its log") from error
    except HTTPError as error:
        raise VenueUnreachable(f"the Prefect server at {os.environ['PREFECT_API_URL']} does not answer: {error or type(error).__name__}") from error
    load_flow("watch").patient(base)
    yield f"working for the pool {pool}; end with Ctrl-C"
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # whoever ends it lets it end in order
    asyncio.run(ProcessWorker(work_pool_name=pool).start(printer=lambda *_, **__: None))


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
    load_flow("watch").patient(_scheduled_run_poller)
    yield "waiting; end with Ctrl-C"
    serve(*deployments, print_starting_message=False)
