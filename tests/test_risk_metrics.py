"Risk figures against libraries that do not know our code, and on inputs that nobody drew by hand."

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.core.errors import BadInput
from trading.risk.metrics import (
    alpha_beta,
    annual_return,
    bootstrap_interval,
    calmar,
    cvar,
    drawdown,
    drawdowns,
    max_drawdown,
    monthly_returns,
    omega,
    per_period,
    risk_contributions,
    sharpe,
    simulate_returns,
    sortino,
    total_return,
    value_at_risk,
    volatility,
)

SERIES = st.lists(st.floats(-0.4, 0.6, allow_nan=False), min_size=8, max_size=60).map(
    lambda values: pd.Series(values, index=pd.date_range("2021-01-27", periods=len(values), tz="UTC"))
)


@pytest.mark.parametrize("periods", [252, 365])
@pytest.mark.parametrize("seed", range(5))
def test_every_figure_agrees_with_empyrical(periods, seed):
    empyrical = pytest.importorskip("empyrical", reason="empyrical-reloaded comes with the extra 'dev'")
    rng = np.random.default_rng(seed)
    index = pd.date_range("2019-03-05", periods=700, freq="D", tz="UTC")
    returns = pd.Series(rng.standard_t(4, 700) * 0.02 + 0.0003 * seed, index)
    other = pd.Series(0.5 * returns + rng.normal(0, 0.01, 700), index)
    free = per_period(0.03, periods)
    pairs = [
        (total_return(returns), empyrical.cum_returns_final(returns)),
        (annual_return(returns, periods), empyrical.annual_return(returns, annualization=periods)),
        (volatility(returns, periods), empyrical.annual_volatility(returns, annualization=periods)),
        (sharpe(returns, periods, 0.03), empyrical.sharpe_ratio(returns, risk_free=free, annualization=periods)),
        (sortino(returns, periods, 0.03), empyrical.sortino_ratio(returns, required_return=free, annualization=periods)),
        (omega(returns, periods, 0.03), empyrical.omega_ratio(returns, required_return=0.03, annualization=periods)),
        (calmar(returns, periods), empyrical.calmar_ratio(returns, annualization=periods)),
        (max_drawdown(returns), empyrical.max_drawdown(returns)),
        (value_at_risk(returns, 0.95), -empyrical.value_at_risk(returns, 0.05)),
        (value_at_risk(returns, 0.99), -empyrical.value_at_risk(returns, 0.01)),
        (alpha_beta(returns, other, periods, 0.03)[0], empyrical.alpha(returns, other, risk_free=free, annualization=periods)),
        (alpha_beta(returns, other, periods, 0.03)[1], empyrical.beta(returns, other, risk_free=free)),
        *((monthly_returns(returns).loc[k[0], k[1]], v) for k, v in empyrical.aggregate_returns(returns, "monthly").items()),
    ]
    ours, theirs = np.array(pairs).T
    assert np.abs(ours - theirs).max() < 1e-9


@pytest.mark.parametrize("level", [0.95, 0.99])
@pytest.mark.parametrize("size", [40, 500, 701])
def test_the_shortfall_is_that_of_rockafellar_and_uryasev_as_riskfolio_computes_it(level, size):
    import riskfolio.src.RiskFunctions as reference

    returns = pd.Series(np.random.default_rng(size).standard_t(3, size) / 100)
    assert cvar(returns, level) == pytest.approx(reference.CVaR_Hist(returns.to_numpy(), alpha=1 - level), abs=1e-9)


def test_the_simulated_quantiles_are_those_of_the_fitted_students_t():
    from scipy import stats

    returns = pd.Series(np.random.default_rng(2).standard_t(5, 4000) / 100)
    excess = stats.kurtosis(returns)
    freedom = 4 + 6 / excess
    exact = returns.mean() + returns.std() * stats.t(freedom).ppf(0.01) * np.sqrt((freedom - 2) / freedom)
    assert value_at_risk(returns, 0.99, "monte-carlo") == pytest.approx(-exact, rel=0.02)
    ten = simulate_returns(returns, horizon=10)
    assert ten.std() == pytest.approx(returns.std() * np.sqrt(10), rel=0.03)
    assert (simulate_returns(returns, seed=7) == simulate_returns(returns, seed=7)).all()


@given(SERIES)
@settings(max_examples=60, deadline=None)
def test_what_must_hold_for_any_returns(returns):
    under = drawdown(returns)
    assert (under <= 0).all() and (under > -1).all()
    for level in (0.9, 0.95, 0.99):
        assert cvar(returns, level) >= value_at_risk(returns, level) - 1e-12
    assert value_at_risk(returns, 0.99) >= value_at_risk(returns, 0.95)
    table = drawdowns(returns, most=100)
    assert table["depth"].min() == pytest.approx(max_drawdown(returns)) if len(table) else max_drawdown(returns) == 0
    assert (table["trough"] >= table["peak"]).all()
    months = monthly_returns(returns)
    assert np.prod(1 + months["year"]) - 1 == pytest.approx(total_return(returns), abs=1e-9)


def test_a_benchmark_changes_no_other_figure():
    rng = np.random.default_rng(0)
    returns = pd.Series(rng.normal(0, 0.01, 300), pd.date_range("2020-01-01", periods=300, tz="UTC"))
    before = [sharpe(returns, 252), max_drawdown(returns), value_at_risk(returns)]
    alpha_beta(returns, returns * 2, 252)
    assert [sharpe(returns, 252), max_drawdown(returns), value_at_risk(returns)] == before


def test_contributions_add_up_even_for_short_positions():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.normal(0, 0.02, (200, 4)), columns=list("abcd"))
    weights = pd.Series([0.7, -0.2, 0.5, 0.0], index=list("abcd"))
    split = risk_contributions(weights, frame.cov())
    assert split["contribution"].sum() == pytest.approx((frame @ weights).std(), abs=1e-12)
    assert split.loc["d", "contribution"] == 0


def test_an_interval_holds_the_figure_and_repeats_itself():
    returns = pd.Series(np.random.default_rng(5).normal(0.001, 0.01, 750))
    low, high = bootstrap_interval(max_drawdown, returns, draws=200)
    assert low < high <= 0
    assert bootstrap_interval(max_drawdown, returns, draws=200) == (low, high)


@pytest.mark.parametrize("bad", [[], [0.1, np.nan, 0.2, 0.1], [0.1, -1.2, 0.3, 0.1], [np.inf, 0.1, 0.1, 0.1]])
@pytest.mark.parametrize("figure", [total_return, max_drawdown, value_at_risk, cvar, lambda r: sharpe(r, 252)])
def test_what_cannot_be_a_return_is_refused(figure, bad):
    with pytest.raises(BadInput, match="returns: "):
        figure(pd.Series(bad, dtype=float))
