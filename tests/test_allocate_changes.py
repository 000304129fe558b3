"""Costs, turnover and views: what an optimiser is told beyond the returns."""

import numpy as np
import pandas as pd
import pytest

from trading.core.datasets import sample_bars
from trading.core.errors import BadInput
from trading.portfolio.mean_risk import (
    HERC,
    BlackLitterman,
    EqualWeight,
    HierarchicalRiskParity,
    InverseVolatility,
    MeanRisk,
    NestedClusters,
    RiskParity,
    View,
)
from trading.portfolio.rolling import rolling_weights

RETURNS = sample_bars("stocks")["close"].pct_change().iloc[1:].loc["2020-12-29":]
HELD = pd.Series(0.05, index=RETURNS.columns)


def test_turnover_is_kept_and_more_of_it_never_costs_risk():
    risks = []
    for most in (0.05, 0.2, 0.8, 2.0):
        fitted = MeanRisk(bounds=(0, 0.2), max_turnover=most).fit(RETURNS, current=HELD)
        assert fitted.fallback_ == "" and (fitted.weights_ - HELD).abs().sum() <= most + 1e-6
        risks.append(fitted.weights_ @ fitted.covariance_ @ fitted.weights_)
    free = MeanRisk(bounds=(0, 0.2), solver="direct").fit(RETURNS).weights_
    assert risks == sorted(risks, reverse=True) and risks[-1] == pytest.approx(free @ fitted.covariance_ @ free, rel=1e-6)


EVERY = [EqualWeight, InverseVolatility, RiskParity, HierarchicalRiskParity, HERC, NestedClusters, MeanRisk, BlackLitterman]


@pytest.mark.parametrize("optimizer", EVERY)
def test_a_turnover_that_cannot_reach_the_limits_is_refused_with_the_smallest_that_can(optimizer):
    lopsided = pd.Series({"AAPL": 1.0})
    with pytest.raises(BadInput, match=r"a turnover of 0\.2 cannot reach the limits: the smallest that can is 1\.8000; allow that much"):
        optimizer(bounds=(0, 0.1), max_turnover=0.2).fit(RETURNS, current=lopsided)  # 90 % of AAPL must go, and be bought elsewhere
    just = optimizer(bounds=(0, 0.1), max_turnover=1.8).fit(RETURNS, current=lopsided).weights_
    assert abs(just["AAPL"] - 0.1) < 1e-6 and just.max() <= 0.1 + 1e-9 and abs(just.sum() - 1) < 1e-8


@pytest.mark.parametrize("optimizer", EVERY)
def test_what_is_sold_for_good_counts_as_turnover(optimizer):
    held = pd.Series({"AAPL": 0.5, "DELISTED": 0.5})
    fitted = optimizer(max_turnover=1.3).fit(RETURNS, current=held)
    moved = (fitted.weights_ - held.reindex(RETURNS.columns, fill_value=0.0)).abs().sum() + 0.5
    assert moved <= 1.3 + 1e-6
    with pytest.raises(BadInput, match="the smallest that can is 1.0000, 0.5 of it for symbols that are not weighed any more"):
        optimizer(max_turnover=0.6).fit(RETURNS, current=held)


def test_a_ceiling_on_turnover_without_holdings_or_below_zero_is_refused():
    with pytest.raises(BadInput, match="needs the weights held now"):
        MeanRisk(max_turnover=0.2).fit(RETURNS)
    with pytest.raises(BadInput, match="give the largest sum of absolute changes, 0 or more"):
        RiskParity(max_turnover=-0.2).fit(RETURNS, current=HELD)
    with pytest.raises(BadInput, match="GE: the current weight is missing"):
        RiskParity(max_turnover=0.2).fit(RETURNS, current=HELD.replace(0.05, 0.05).where(HELD.index != "GE"))


def test_turnover_is_kept_from_one_window_to_the_next():
    slow = rolling_weights(RETURNS, MeanRisk(bounds=(0, 0.2), max_turnover=0.1), window=252, every=60)
    for i in range(1, len(slow)):
        grown = slow.iloc[i - 1] * (1 + RETURNS.loc[slow.index[i - 1] : slow.index[i]].iloc[1:]).prod()
        assert (slow.iloc[i] - grown / grown.sum()).abs().sum() <= 0.1 + 1e-6
    free = rolling_weights(RETURNS, MeanRisk(bounds=(0, 0.2)), window=252, every=60)
    assert (free.diff().abs().sum(axis=1) > 0.1).any()


def test_costs_without_a_way_to_count_them_are_refused():
    with pytest.raises(BadInput, match="not for EVaR MinRisk"):
        MeanRisk(risk="EVaR", max_turnover=0.2).fit(RETURNS, current=HELD)


@pytest.mark.parametrize("risk", ["CVaR", "MAD", "CDaR", "WR"])
def test_turnover_and_costs_are_known_for_other_measures_too(risk):
    free = MeanRisk(risk=risk, bounds=(0, 0.2), max_turnover=2.0).fit(RETURNS, current=HELD)
    kept = MeanRisk(risk=risk, bounds=(0, 0.2), max_turnover=0.3).fit(RETURNS, current=HELD)
    dear = MeanRisk(risk=risk, bounds=(0, 0.2), objective="Utility", cost_rate=1.0).fit(RETURNS, current=HELD)
    assert free.fallback_ == kept.fallback_ == dear.fallback_ == ""
    assert (kept.weights_ - HELD).abs().sum() == pytest.approx(0.3, abs=1e-6) and (dear.weights_ - HELD).abs().max() < 1e-6
    assert (free.weights_ - MeanRisk(risk=risk, bounds=(0, 0.2)).fit(RETURNS).weights_).abs().max() < 2e-3


@pytest.mark.parametrize(
    "params, message",
    [
        ({"views": {"TSLA": 0.001}}, "a view speaks of TSLA"),
        ({"views": {"AAPL": 0.001}, "confidence": 1.5}, "confidence of 1.5 is out of range"),
        ({"prior": {"AAPL": 1.0}}, "the prior has no weight for AMD"),
        ({"views": {"AAPL": float("nan")}}, "the view on AAPL has no expected return"),
        ({"views": {("AAPL", "AAPL"): 0.01}}, "holds a symbol against itself"),
        ({"views": {("KO", "GE", "AAPL"): 0.01}}, "names 3 symbols; give one, a pair"),
        ({"views": {("KO", "GE"): 0.001, ("GE", "KO"): 0.001}}, "contradict each other"),
        ({"views": [View(0.001, ("KO",)), View(0.002, ("KO",))]}, "contradict each other"),
        ({"views": {"KO": 0.001}, "confidence": [0.2, 0.9]}, "2 confidences were given for 1 view"),
        ({"views": [View(0.001, ("KO", "GE"), ("GE",))]}, "holds a symbol against itself"),
        ({"views": [View(0.001, ())]}, "the view on nothing"),
    ],
)
def test_nonsense_in_views_is_refused(params, message):
    with pytest.raises(BadInput, match=message):
        BlackLitterman(solver="direct", **params).fit(RETURNS)


def test_more_confidence_in_a_view_moves_more():
    weights = [BlackLitterman(views={"KO": 0.002}, confidence=c, solver="direct").fit(RETURNS).weights_["KO"] for c in (0.01, 0.2, 0.5, 0.9)]
    assert weights == sorted(weights) and weights[-1] > weights[0]


def test_rolling_fits_what_a_single_fit_finds_for_any_optimiser():
    for optimizer in (HERC(), BlackLitterman(views={"KO": 0.001}, solver="direct"), MeanRisk(risk="CVaR", solver="direct")):
        table = rolling_weights(RETURNS, optimizer, window=252, every=120)
        alone = optimizer.fit(RETURNS.iloc[120:372]).weights_
        assert np.abs(table.iloc[1] - alone).max() < 1e-8 and table.index[1] == RETURNS.index[371]
