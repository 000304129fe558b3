"A plan never breaks the limits that it is held against, and never sells for want of data: through the steps of a run."

import numpy as np
import pandas as pd
import pytest

from trading.core.settings import load_settings
from trading.pipeline.factory import counted_groups, groups_of, risk_limits
from trading.pipeline.sleeves import within_limits
from trading.pipeline.target_weights import missing_prices, recent_day_returns, target_weights
from trading.portfolio.constraints import UNGROUPED
from trading.risk.limits import check_limits

DAYS = pd.date_range("2020-01-01", periods=700, freq="B", tz="UTC")
NAMES = [f"S{n}" for n in range(8)]


def world(grouped, **more):
    told = {"market.symbols": ", ".join(NAMES), "limits.max_weight": "0.4", "limits.max_group_weight": "0.3", "allocate.optimizer": "policy"}
    settings = load_settings("sample", told | more, environ={})
    groups = {f"G{n}": (symbol,) for n, symbol in enumerate(NAMES[:grouped])}
    dice = np.random.default_rng(grouped)
    close = pd.DataFrame(100 * np.exp(np.cumsum(dice.normal(0.0004, 0.01, (len(DAYS), len(NAMES))), 0)), DAYS, NAMES)
    return settings.model_copy(update={"groups": groups}), close


@pytest.mark.parametrize("grouped", [0, 1, 3, 5, 8])
@pytest.mark.parametrize("kind", ["balanced", "aggressive", "momentum"])
def test_what_a_policy_wants_is_within_the_limits_that_count_symbols_without_a_group_together(grouped, kind):
    settings, close = world(grouped, **{"allocate.policy": kind, "allocate.risk_level": "very high"})
    assert len(groups_of(settings)) == grouped and set(counted_groups(settings)) == (set(NAMES) if grouped else set())
    nothing = pd.DataFrame(columns=["expected"], index=pd.MultiIndex.from_arrays([[], []], names=["symbol", "horizon"]))
    table, policy = target_weights(settings, close, nothing, None)
    rows = check_limits(risk_limits(settings), table["target"], groups_of(settings))
    assert rows.loc["max_group_weight", "ok"] and table["target"].sum() > 0.2, rows
    if 0 < grouped < len(NAMES):
        assert table["target"][NAMES[grouped:]].sum() <= 0.3 and UNGROUPED in policy.level.group_limits
    kept, notes = within_limits(pd.Series(0.2, NAMES), policy.level, counted_groups(settings))
    assert check_limits(risk_limits(settings), kept, groups_of(settings)).loc["max_group_weight", "ok"], notes


def test_a_symbol_without_its_newest_bar_is_named_with_the_bar_that_it_has():
    settings, close = world(8)
    close.iloc[-1, 2] = np.nan
    close.iloc[-150:-1, 3] = np.where(np.arange(149) % 2, np.nan, close.iloc[-150:-1, 3])
    settings = settings.model_copy(update={"allocate": settings.allocate.model_copy(update={"window": 252})})
    found = missing_prices(settings, close)
    assert set(found) == {"S2", "S3"} and f"no bar at {DAYS[-1]:%Y-%m-%d}" in found["S2"] and f"{DAYS[-2]:%Y-%m-%d}" in found["S2"]
    assert "is kept and not traded" in found["S2"] and "more than 20% of its bars are missing" in found["S3"] and "delist" in found["S3"]


def test_a_holding_at_cost_counts_like_the_symbol_that_moves_most():
    settings, close = world(0)
    close["S5"] = 100 * np.exp(np.cumsum(np.random.default_rng(9).normal(0, 0.05, len(DAYS))))
    returns = recent_day_returns(settings, close.assign(OLDCO=5.0, NEWCO=close["S1"] / 2))
    assert returns["OLDCO"].equals(returns["S5"].rename("OLDCO")) and not returns["NEWCO"].equals(returns["S5"].rename("NEWCO"))
    var = lambda w: check_limits(risk_limits(settings), pd.Series(w), returns=returns).loc["max_var_95", "actual"]  # noqa: E731
    with_it = var({"S1": 0.5, "OLDCO": 0.4})
    assert with_it == pytest.approx(var({"S1": 0.5, "S5": 0.4})) and with_it > var({"S1": 0.5}) * 2
    assert set(recent_day_returns(settings, close)) == set(NAMES)
