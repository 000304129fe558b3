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

pytestmark = pytest.mark.xdist_group("regime")  # one worker: what history would have been told is worked out once


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
    found = detector.predict_volatility(bars).loc[bars.index[2000] :] > 0.5
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
        assert said[["bull volatile", "bear volatile", "crash"]].sum(axis=1).corr(state.loc[said.index]) > 0.5


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


def judged(name, symbol, begin):
    "What would have been said, by a detector refitted every year on what was known."
    bars = sample_bars(name)
    bars = bars.loc[:, (slice(None), [symbol])].dropna() if symbol else bars
    parts = []
    for k in range(bars.index.searchsorted(pd.Timestamp(begin, tz="UTC")), len(bars), 250):
        detector = (RegimeDetector(symbol) if symbol else RegimeDetector()).fit(bars.iloc[:k])
        parts.append(detector.predict_proba(bars.iloc[: k + 250]).iloc[-min(250, len(bars) - k) :])
    return pd.concat(parts)


FALLING = ["bear calm", "bear volatile", "crash"]


@pytest.fixture(scope="module")
def dated():
    return {"S&P 500": judged("indices", "S&P 500", "2000-07"), "stocks": judged("stocks", "", "2000"),
            "BTC/USDT": judged("coins", "BTC/USDT", "2018-06")}


@pytest.mark.parametrize("symbol, since, until, names, least", [
    ("S&P 500", "2008-09-15", "2008-12", FALLING, 0.7), ("S&P 500", "2008-10", "2008-11", ["crash", "bear volatile"], 0.7),
    ("S&P 500", "2008-01", "2009-03-09", FALLING, 0.6), ("S&P 500", "2011-08-08", "2011-10-10", FALLING, 0.55),
    ("S&P 500", "2013", "2013", ["bull calm"], 0.7), ("S&P 500", "2017", "2017", ["bull calm"], 0.7),
    ("S&P 500", "2000-10", "2002-10-09", FALLING, 0.5), ("S&P 500", "2002-06", "2002-10-09", FALLING, 0.7),
    ("S&P 500", "2001-09", "2001-10", FALLING, 0.55), ("stocks", "2002-06", "2002-10-09", FALLING, 0.65),
    ("stocks", "2008-09-15", "2008-12", FALLING, 0.7), ("stocks", "2011-08-08", "2011-10-10", FALLING, 0.5),
    ("stocks", "2020-02-24", "2020-04-15", FALLING, 0.65), ("stocks", "2020-03", "2020-03", ["crash"], 0.75),
    ("stocks", "2017", "2017", ["bull calm"], 0.65), ("stocks", "2022-05", "2022-07", FALLING, 0.4),
    ("BTC/USDT", "2018-11-20", "2018-12-16", FALLING, 0.7), ("BTC/USDT", "2019-04", "2019-07", ["bull calm", "bull volatile"], 0.7),
    ("BTC/USDT", "2020-03-12", "2020-03-31", FALLING, 0.6), ("BTC/USDT", "2020-11", "2021-04", ["bull calm", "bull volatile"], 0.8),
    ("BTC/USDT", "2021-05-19", "2021-06", FALLING, 0.4), ("BTC/USDT", "2022-06-13", "2022-07", FALLING, 0.75),
])
def test_what_history_is_called(dated, symbol, since, until, names, least):
    assert dated[symbol].loc[since:until, names].sum(axis=1).mean() > least


def alarms(falling, close):
    "Count stretches of five days and more, and the false ones: until three months later the price stood less than 10 % below its best of a year."
    false = []
    for _, days in falling[falling].groupby((falling != falling.shift()).cumsum()[falling]):
        if len(days) >= 5:
            begin, end = close.index.get_loc(days.index[0]), close.index.get_loc(days.index[-1]) + 60
            false.append(close.iloc[begin : end + 1].min() / close.iloc[max(begin - 250, 0) : begin + 1].max() > 0.90)
    return len(false), sum(false)


def test_false_alarms_are_fewer_than_those_of_a_200_day_rule(dated):
    close, said = sample_bars("indices")["close"]["S&P 500"].dropna(), dated["S&P 500"]
    decades = (said.index[-1] - said.index[0]).days / 3652.5
    ours, wrong = alarms(said[FALLING].sum(axis=1) > 0.5, close)
    usual, wrong_usual = alarms((close < close.rolling(200).mean()).loc[said.index[0] :], close)
    assert ours >= 20 and wrong / decades < 2 < 4 < wrong_usual / decades, (ours, wrong, usual, wrong_usual, decades)
    crashes, none = alarms(said["crash"] > 0.5, close)
    assert crashes >= 5 and none == 0, "what is called a crash was one"


def test_a_calm_decade_has_few_crashes(dated):
    calm = dated["S&P 500"].loc["2012":"2018"]
    assert (calm.idxmax(axis=1) == "crash").mean() < 0.02 and calm[FALLING].sum(axis=1).mean() < 0.25


def test_one_bad_day_begins_no_storm_and_a_name_stays():
    bars, _ = made_bars(7, storm=0.03)
    detector = RegimeDetector("A").fit(bars)
    names = detector.predict(bars)
    lengths = names.groupby((names != names.shift()).cumsum()).size()
    assert lengths.median() >= 5
    quiet = pd.Series(np.random.default_rng(1).normal(0, 0.006, 400))
    quiet.iloc[300] = -0.03
    spike = bars_from_close(pd.DataFrame({"A": 100 * np.exp(quiet.cumsum().to_numpy())}, index=bars.index[:400]))
    assert detector.predict_volatility(spike).iloc[301 - 126] < 0.5
