"Limits that the settings name reach the risk checks of a run: one day, decided under limits that nothing can keep, is refused with each of them."

import os
from datetime import UTC, datetime

import pytest

from trading.core.settings import load_settings
from trading.core.types import CheckResult, Plan
from trading.pipeline.account_snapshot import AccountSnapshot
from trading.pipeline.launch import open_run
from trading.pipeline.notebook_runner import Kernel, run_stage

pytestmark = pytest.mark.xdist_group("limits-run")  # one worker: what they share is made once

TIGHT = {"limits.max_orders": "1", "limits.max_order_value": "150", "limits.max_daily_value": "300", "limits.max_concentration": "0.001",
         "limits.stop_loss": "0.2", "limits.max_price_gap": "0.5"}


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    home = tmp_path_factory.mktemp("limits")
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("CARNET_")]:
            patch.delenv(name)
        settings = load_settings(overrides=TIGHT | {"run.reports": home / "reports", "run.data": home / "data"}, environ={})
        run = open_run(settings, datetime.now(UTC), "2020-03-12")
        with Kernel(home / "kernel.log") as kernel:
            for stage in ("10_ingest", "20_forecast", "30_allocate", "40_trade"):
                run_stage(run, stage, kernel)
    return run


def test_a_plan_that_breaks_the_limits_is_refused_with_each_of_them(decided):
    plan, verdict = decided.read("plan", Plan), decided.read("verdict", CheckResult)
    assert len(plan.actions) > 1 and not verdict.ok
    broken = {v.rule for v in verdict.violations}
    assert {"max_orders", "max_order_value", "max_daily_value", "max_concentration"} <= broken
    assert {"stop_loss", "max_price_gap"} <= set(verdict.checked) and not {"stop_loss", "price_gap"} & broken
    reason = next(v.reason for v in verdict.violations if v.rule == "max_orders")
    assert reason == f"{len(plan.actions)} orders are above the limit of 1"
    assert len([v for v in verdict.violations if v.rule == "max_order_value"]) == len([a for a in plan.actions if a.value > 150]) > 0


def test_nothing_is_traded(decided):
    after = AccountSnapshot.of(decided.read("closing"))
    assert after.positions == {} and after.cash == decided.read("plan", Plan).cash
