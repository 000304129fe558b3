"The whole way from bars to decisions, with the future changed in many ways: nothing of the past may move."

import numpy as np
import pandas as pd
import pytest
from sklearn.tree import DecisionTreeRegressor

from trading.backtest.leak_detector import find_leaks
from trading.core.bars import bars_from_close
from trading.core.datasets import sample_bars
from trading.forecast.forecaster import COLUMNS, HorizonForecaster, default_estimator
from trading.forecast.neural import lagged_returns
from trading.forecast.outcomes import market_patterns
from trading.forecast.panel import bar_volatility, default_features
from trading.forecast.sentiment import SentimentFeatures
from trading.forecast.stacking import PurgedStack
from trading.forecast.targets import forward_returns

START = 620  # bars that the model learns from, in every version of the future


@pytest.fixture(scope="module")
def bars():
    return sample_bars("stocks").iloc[-800:, :3]


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    "Give columns one level of plain names."
    return frame.set_axis([" ".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in frame.columns], axis=1)


def features(bars: pd.DataFrame) -> pd.DataFrame:
    "Everything a model may look at."
    close = bars["close"]
    numbers = {"calm rising": 0.0, "calm falling": 1.0, "volatile rising": 2.0, "volatile falling": 3.0}
    words = market_patterns(close).reindex(close.index).map(numbers)
    usual = flat(bar_volatility(close).add_prefix("usual "))
    return pd.concat([flat(default_features(close)), flat(lagged_returns(bars, 5)), usual, words.rename("market")], axis=1).astype(float)


def forecasts(bars: pd.DataFrame, estimator=None, horizons=(1, 5)) -> pd.DataFrame:
    "Fit on the first bars, then forecast from every later one, with intervals that learn from their misses."
    columns = [f"{c} {s} {h}" for c in COLUMNS for s in bars["close"] for h in horizons]
    if len(bars) < START:  # too short to have been fitted: nothing is said
        return pd.DataFrame(np.nan, bars.index, columns)
    model = HorizonForecaster(estimator, horizons=horizons, adaptive=0.02).fit(bars.iloc[:START])
    said = model.predict_panel(bars).unstack(["symbol", "horizon"])
    return flat(said).reindex(bars.index)[columns]


@pytest.mark.filterwarnings("ignore")
def test_no_feature_knows_the_future(bars):
    with np.errstate(all="ignore"):
        report = find_leaks(features, bars)
    assert not report.leaks, str(report)  # what it cannot tell (a fit, a table that is given) is no leak


@pytest.mark.filterwarnings("ignore")
def test_the_calendar_of_a_symbol_is_learnt_from_its_bars_so_far():
    days = pd.date_range("2021-01-01", periods=160, tz="UTC")
    walk = pd.DataFrame(100 * np.exp(np.random.default_rng(3).normal(0, 0.01, (160, 3)).cumsum(axis=0)), days, ["BTC", "EUR", "KO"])
    weekday = days.day_of_week
    whole, walk["EUR"], walk["KO"] = walk.copy(), walk["EUR"].where(weekday != 5), walk["KO"].where(weekday < 5)

    def plain(bars: pd.DataFrame) -> pd.DataFrame:
        return flat(default_features(bars["close"], (1, 5, 20)))

    with np.errstate(all="ignore"):
        report = find_leaks(plain, bars_from_close(walk))
    assert not report.leaks, str(report)
    for symbols in (["BTC", "EUR", "KO"], ["EUR", "KO"], ["KO"]):
        close = walk[symbols].dropna(how="all")
        weekends = pd.concat([close.loc[: days[119]], whole.loc[days[120] :, symbols]])  # everything trades at weekends from then on
        for make in (plain, lambda bars: flat(lagged_returns(bars, 3)), lambda bars: bar_volatility(bars["close"])):
            one, other = (make(bars_from_close(c)).loc[: days[119]] for c in (close, weekends))
            pd.testing.assert_frame_equal(one, other, check_freq=False)
            assert one.notna().sum().min() > 50, "a share is counted on its weekdays, and soon"


@pytest.mark.filterwarnings("ignore")
def test_no_forecast_after_the_fit_knows_the_future(bars):
    with np.errstate(all="ignore"):
        report = find_leaks(forecasts, bars)
    assert not report.leaks, str(report)  # what it cannot tell (a fit, a table that is given) is no leak


@pytest.mark.filterwarnings("ignore")
def test_no_forecast_of_a_stack_knows_the_future(bars):
    members = [("line", default_estimator()), ("tree", DecisionTreeRegressor(max_depth=3, min_samples_leaf=50, random_state=0))]
    with np.errstate(all="ignore"):
        report = find_leaks(lambda b: forecasts(b, PurgedStack(members, n_splits=3), (5,)), bars.iloc[:, :2])
    assert not report.leaks, str(report)  # what it cannot tell (a fit, a table that is given) is no leak


@pytest.mark.filterwarnings("ignore")
def test_no_feature_made_with_a_dated_score_knows_the_future(bars):
    days = pd.date_range(bars.index[0], bars.index[-1], tz="UTC")
    scores = pd.Series(np.random.default_rng(2).uniform(0, 100, len(days)), days + pd.Timedelta("1D"))
    with np.errstate(all="ignore"):
        report = find_leaks(lambda b: flat(SentimentFeatures(scores).transform(b)), bars)
    assert not report.leaks, str(report)  # what it cannot tell (a fit, a table that is given) is no leak


@pytest.mark.filterwarnings("ignore")
def test_a_target_among_the_features_would_be_found(bars):
    def sinner(b: pd.DataFrame) -> pd.DataFrame:
        return features(b).join(flat(forward_returns(b["close"], [5]).add_prefix("target ", axis=1)))

    with np.errstate(all="ignore"):
        report = find_leaks(sinner, bars)
    assert not report.clean and all("target" in name for leak in report.leaks for name in leak.outputs)
