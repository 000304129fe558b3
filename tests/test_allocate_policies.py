"""Policies keep their limits whatever they are told, and their history knows only the past."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.core.calendars import bars_a_year
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput, MissingData
from trading.portfolio.estimators import covariance
from trading.portfolio.policies import AVERSION, REGIMES, RISK_LEVELS, past_drawdown, policy
from trading.portfolio.rolling import policy_history, rebalance

PRICES = sample_bars("stocks")["close"]
RETURNS = PRICES.pct_change().iloc[1:]
NAMES = (*AVERSION, "tactical")


def forecast_of(expected, confidence, horizon=20):
    frame = pd.DataFrame({"expected": expected, "confidence": confidence}, index=list(RETURNS.columns))
    frame.index = pd.MultiIndex.from_product([frame.index, [horizon]], names=["symbol", "horizon"])
    return frame


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from(list(RISK_LEVELS)), st.integers(0, 7800), st.integers(0, 10**6), st.floats(0, 1), st.booleans())
def test_every_limit_holds_on_any_day_for_any_forecast(name, label, start, seed, confidence, playful):
    rng, part, level = np.random.default_rng(seed), RETURNS.iloc[start : start + 504], RISK_LEVELS[label]
    regime = dict(zip(REGIMES, rng.dirichlet(np.ones(6)), strict=True))
    groups = {s: "Memecoins" if s in ("AMD", "RRC", "GE") else "Others" for s in part} if playful else None
    decide = policy(name, label, groups=groups)
    w = decide.weights(part, forecast_of(rng.normal(0, 0.05, 20), confidence), regime)
    cov = covariance(part).to_numpy()
    assert w.min() >= 0 and w.max() <= level.max_weight + 1e-9 and w.sum() <= 1 - level.min_cash + 1e-9
    assert np.sqrt(w @ cov @ w * bars_a_year(part.index)) <= level.volatility + 1e-9
    assert past_drawdown(part.to_numpy() @ w.to_numpy()) <= level.max_drawdown + 1e-9
    assert set(decide.reasons_) == set(part.columns) and all(decide.reasons_.values()) and decide.fallback_ == ""
    if playful:
        assert w[["AMD", "RRC", "GE"]].sum() <= level.group_limits["Memecoins"] + 1e-9


def test_riskfolio_and_the_direct_solver_decide_alike():
    part = RETURNS.iloc[-504:]
    views = forecast_of(np.random.default_rng(8).normal(0, 0.02, 20), 0.4)
    for name in ("conservative", "balanced", "aggressive"):
        daily, quick = (policy(name, solver=s).weights(part, views) for s in ("riskfolio", "direct"))
        assert (daily - quick).abs().max() < 1e-5


def test_without_a_view_each_policy_is_its_anchor():
    part = RETURNS.iloc[-504:]
    wide = {"max_weight": 1.0, "volatility": 1.0, "max_drawdown": 1.0, "min_cash": 0.0}
    from skfolio.optimization import RiskBudgeting

    balanced = policy("balanced", limits=wide).weights(part)
    shrunk = covariance(part).to_numpy()
    assert np.allclose(balanced * (shrunk @ balanced) / (balanced @ shrunk @ balanced), 0.05, atol=1e-8)
    assert np.abs(balanced.to_numpy() - RiskBudgeting().fit(part).weights_).max() < 0.02  # of the unshrunk covariance
    assert policy("aggressive", limits=wide).weights(part).to_numpy() == pytest.approx(0.05, abs=1e-9)


def test_a_view_without_confidence_does_not_count():
    part = RETURNS.iloc[-504:]
    silent = policy("balanced").weights(part, forecast_of(0.5, 0.0))
    assert silent.equals(policy("balanced").weights(part))


def test_tactical_moves_between_its_parts():
    part, wide = RETURNS.iloc[-504:], {"max_weight": 1.0, "volatility": 1.0, "max_drawdown": 1.0, "min_cash": 0.0}
    sure = {r: policy("tactical", limits=wide).weights(part, regime={r: 1.0}) for r in REGIMES}
    assert sure["bull calm"].to_numpy() == pytest.approx(0.05, abs=1e-9)
    assert sure["bear calm"].sum() == pytest.approx(0.5, abs=1e-8)
    half = policy("tactical", limits=wide).weights(part, regime=pd.Series({"bull calm": 0.5, "sideways": 0.5}))
    assert np.abs(half - (sure["bull calm"] + sure["sideways"]) / 2).max() < 1e-8


def test_momentum_goes_to_cash_when_everything_fell():
    falling = pd.DataFrame(
        np.random.default_rng(1).normal(-0.01, 0.01, (300, 4)), columns=list("ABCD"), index=pd.date_range("2020", periods=300, tz="UTC")
    )
    decide = policy("momentum")
    assert decide.weights(falling).sum() == 0 and decide.invested_ == 0 and "all in cash" in decide.notes_[-1]
    assert decide.reasons_["A"] == "left out: it is not among the winners of the last year"


def test_few_symbols_mean_more_cash_not_an_error():
    decide = policy("balanced", "medium")
    w = decide.weights(RETURNS.iloc[-504:, :3])
    assert w.sum() <= 0.45 + 1e-9 and "3 symbols may be held, each up to 15%" in decide.notes_[0]


def test_a_symbol_without_forecast_is_named():
    decide = policy("balanced")
    decide.weights(RETURNS.iloc[-504:], forecast_of(0.01, 0.5).drop("KO"))
    assert decide.notes_[0] == "no forecast for KO: weighed without a view"


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (lambda f: f.droplevel(1), BadInput, "needs the index .symbol, horizon."),
        (lambda f: f.assign(confidence=1.2), BadInput, "confidence outside 0 to 1"),
        (lambda f: pd.concat([f, f.iloc[:1]]), BadInput, "AAPL twice"),
        (lambda f: f.rename(index={20: 5}), MissingData, "no horizon 20, only 5"),
    ],
)
def test_a_malformed_forecast_is_refused(spoil, error, message):
    with pytest.raises(error, match=message):
        policy("balanced").weights(RETURNS.iloc[-504:], spoil(forecast_of(0.01, 0.5)))


def test_a_history_does_not_see_the_future():
    part = PRICES.loc["2018":]
    cut = part.index[700]
    other = part.copy()
    other.loc[cut:] *= np.random.default_rng(5).uniform(0.8, 1.2, other.loc[cut:].shape)
    for name in ("conservative", "momentum", "mean reversion"):
        one, two = (policy_history(p, policy(name)) for p in (part, other))
        assert one.equity[one.equity.index < cut].equals(two.equity[two.equity.index < cut])
        assert one.weights[one.weights.index < cut].equals(two.weights[two.weights.index < cut])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0, 0.05))
def test_rebalancing_conserves_money(seed, size, rate):
    rng = np.random.default_rng(seed)
    prices, units, cash = rng.uniform(0.01, 1000, size), rng.uniform(0, 5, size) * (rng.random(size) < 0.7), rng.uniform(0, 1000)
    weights = rng.dirichlet(np.ones(size + 1))[:size]
    before = cash + units @ prices
    if before == 0:
        return
    new, left, cost, traded = rebalance(units, cash, weights, prices, rate)
    after = left + new @ prices
    assert after + cost * before == pytest.approx(before, rel=1e-12)
    assert new * prices / after == pytest.approx(weights, rel=1e-9, abs=1e-12) and left >= -1e-9 * before
    assert cost * before == pytest.approx(rate * np.abs(new - units) @ prices, rel=1e-9, abs=1e-12)
    assert traded * before == pytest.approx(np.abs(new - units) @ prices, rel=1e-9, abs=1e-12)
