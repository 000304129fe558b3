"""Regimes are found where they were put, and nothing that comes later changes what was said."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.core.bars import bars_from_close
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput
from trading.features.regime import STATES, RegimeDetector, TwoStates, filter_states, learn_states


def made_bars(seed=0, days=3000, calm=0.006, storm=0.03, stay=0.99):
    "Bars whose states are known."
    rng = np.random.default_rng(seed)
    state = np.zeros(days, dtype=int)
    for t in range(1, days):
        state[t] = state[t - 1] if rng.random() < stay else 1 - state[t - 1]
    returns = rng.normal(0.0003, np.where(state, storm, calm))
    index = pd.date_range("2010", periods=days, tz="UTC")
    return bars_from_close(pd.DataFrame({"A": 100 * np.exp(np.cumsum(returns))}, index=index)), pd.Series(state, index=index)


def test_storms_are_found_where_they_were_put():
    bars, state = made_bars()
    detector = RegimeDetector("A").fit(bars.iloc[:2000])
    found = detector.predict_proba(bars)["high volatility"].iloc[2000:] > 0.5
    assert (found == state.loc[found.index].astype(bool)).mean() > 0.93
    assert np.sqrt(detector.states_.variance) == pytest.approx([0.006, 0.03], rel=0.1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.6, 0.995), st.floats(0.6, 0.995))
def test_the_filter_is_the_one_of_statsmodels(seed, calm_stays, storm_stays):
    from statsmodels.tsa.regime_switching.markov_regression import MarkovRegression

    returns = np.random.default_rng(seed).standard_t(3, 150)
    states = TwoStates((0.05, -0.1), (0.6, 4.0), (calm_stays, storm_stays))
    params = [calm_stays, 1 - storm_stays, 0.05, -0.1, 0.6, 4.0]
    reference = MarkovRegression(returns, k_regimes=2, switching_variance=True).filter(params)
    assert np.allclose(reference.filtered_marginal_probabilities[:, 1], filter_states(returns, states), atol=1e-9)


def test_later_prices_change_nothing_that_was_said():
    bars, _ = made_bars(3)
    detector = RegimeDetector("A").fit(bars.iloc[:1500])
    whole, early = detector.predict_proba(bars), detector.predict_proba(bars.iloc[:2200])
    assert whole.loc[early.index].equals(early) and detector.predict_trend(bars).loc[early.index].equals(detector.predict_trend(bars.iloc[:2200]))


def test_names_stay_through_refits():
    bars, state = made_bars(5)
    for start in (0, 700, 1400):
        said = RegimeDetector("A").fit(bars.iloc[start : start + 1500]).predict_proba(bars)
        assert list(said.columns) == list(STATES)
        assert said["high volatility"].corr(state.loc[said.index]) > 0.8


def test_rows_add_up_and_feed_the_tactical_policy():
    from trading.portfolio.policies import policy

    bars = sample_bars("stocks").loc["2018":]
    said = RegimeDetector().fit(bars).predict_proba(bars)
    assert np.allclose(said.sum(axis=1), 1) and not said.isna().any(axis=None)
    decide = policy("tactical", solver="direct")
    assert 0 < decide.weights(bars.iloc[-504:], regime=said.iloc[-1]).sum() <= 0.9


def test_a_single_state_or_a_gap_is_refused():
    bars, _ = made_bars()
    with pytest.raises(BadInput, match="no return at 2010-01-05"):
        RegimeDetector("A").fit(bars.mask((bars.index == bars.index[4])[:, None]))
    with pytest.raises(BadInput, match="never change"):
        learn_states(np.zeros(300))
    with pytest.raises(BadInput, match="fewer than the 126"):
        RegimeDetector("A").fit(bars).predict_proba(bars.iloc[:50])
