"The forecaster against independent references and against what it must refuse."

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from trading.core.bars import bars_from_close
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput, MissingData
from trading.forecast.conformal import conformal_bounds
from trading.forecast.forecaster import HorizonForecaster, accuracy, hold_out
from trading.forecast.targets import PurgedKFold, forward_returns


@pytest.fixture(scope="module")
def stocks():
    return sample_bars("stocks")


@pytest.fixture(scope="module")
def short(stocks):
    return bars_from_close(stocks["close"][["AAPL", "XOM", "KO", "WMT"]].iloc[-1600:])


def random_market(lean, seed, days=1600, symbols=8):
    "Make closes; `lean` is how much of each return's spread follows the mean of the five before."
    rng = np.random.default_rng(seed)
    r = rng.normal(size=(days, symbols))
    for t in range(5, days):
        r[t] = lean * r[t - 5 : t].sum(axis=0) / 5**0.5 + (1 - lean**2) ** 0.5 * r[t]
    index = pd.date_range("2014-01-01", periods=days, tz="UTC", name="timestamp")
    return bars_from_close(pd.DataFrame(100 * np.exp(0.01 * np.cumsum(r, axis=0)), index=index, columns=[f"S{i}" for i in range(symbols)]))


def test_importing_the_models_does_not_import_scikit_learn():
    code = "import sys, trading.forecast.model_registry; print([m for m in ('sklearn', 'scipy', 'skops') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_signal_of_one_per_cent_of_the_variance_is_found(seed):
    table = accuracy(hold_out(HorizonForecaster(horizons=(1,)), random_market(0.12, seed), n_splits=4))
    assert table.loc[1, "beats_naive"] and table.loc[1, "hit_rate"] > 0.51


def test_pure_noise_is_discovered_no_more_often_than_chance_allows():
    markets = [random_market(0.0, 100 + seed, days=900, symbols=4) for seed in range(20)]
    found = [accuracy(hold_out(HorizonForecaster(horizons=(1,)), market, n_splits=2))["beats_naive"].any() for market in markets]
    assert sum(found) <= 3  # binomial(20, 0.05) exceeds 3 with p = 0.016


def test_intervals_cover_within_two_points_on_real_stocks_for_each_horizon(stocks):
    table = accuracy(hold_out(HorizonForecaster(horizons=(1, 5, 20)), stocks, n_splits=5))
    assert ((table["coverage_90"] - 0.9).abs() <= 0.02).all(), table["coverage_90"].to_dict()


def test_two_fits_agree_to_the_last_bit(short):
    first, second = (HorizonForecaster(horizons=(1, 5)).fit(short).predict(short) for _ in range(2))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_the_future_cannot_change_a_forecast(short):
    cut = short.iloc[:-30]
    model = HorizonForecaster(horizons=(1, 5)).fit(cut)
    then = model.predict(cut)
    later = model.predict_panel(short).xs(cut.index[-1], level="timestamp")
    pd.testing.assert_frame_equal(pd.DataFrame(later), pd.DataFrame(then), check_exact=True)


def test_calibration_never_shares_an_answer_with_training(short):
    for m in HorizonForecaster(horizons=(1, 5, 20)).fit(short).models_.values():
        assert m.trained_until < m.calibrated_from


def test_conformal_bounds_agree_with_mapie():
    mapie = pytest.importorskip("mapie.regression", reason="mapie is a test extra")
    from mapie.conformity_scores import AbsoluteConformityScore
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(1300, 3))
    y = x @ [1, 2, 3] + rng.gamma(1.5, size=1300)
    fitted = LinearRegression().fit(x[:400], y[:400])
    theirs = mapie.SplitConformalRegressor(fitted, confidence_level=0.9, conformity_score=AbsoluteConformityScore(sym=False), prefit=True)
    theirs.conformalize(x[400:799], y[400:799])
    points, intervals = theirs.predict_interval(x[800:])
    low, high = conformal_bounds(y[400:799] - fitted.predict(x[400:799]))
    np.testing.assert_allclose(intervals[:, 0, 0], points + low, atol=1e-9)
    np.testing.assert_allclose(intervals[:, 1, 0], points + high, atol=1e-9)


def test_features_of_the_features_stage_can_be_passed_in(short):
    from trading.features import technical

    source = lambda bars: technical.make_features(bars)  # noqa: E731
    model = HorizonForecaster(horizons=(1, 5)).fit(short, source)
    forecast = model.predict(short, source)
    assert len(model.features_) > 5 and len(forecast) == 8 and not forecast.isna().any(axis=None)
    with pytest.raises(MissingData, match="missing among the features"):
        model.predict(short)


def test_any_regressor_of_scikit_learn_can_stand_in(short):
    from sklearn.ensemble import HistGradientBoostingRegressor

    forecast = HorizonForecaster(HistGradientBoostingRegressor(max_iter=20, random_state=0), horizons=(5,)).fit(short).predict(short)
    assert forecast["expected"].nunique() == 4


def test_a_price_run_of_nan_is_left_out_and_never_filled(short):
    holed = short.copy()
    holed.iloc[-200:-150, 0] = np.nan
    model = HorizonForecaster(horizons=(1,)).fit(holed)
    assert model.models_[1].rows + len(model.models_[1].errors) < HorizonForecaster(horizons=(1,)).fit(short).models_[1].rows + 4 * 400
    cells = model.predict_panel(holed).index
    assert cells.get_level_values("timestamp").min() >= holed.index[-1]
    answers = forward_returns(holed["close"], (1,))
    assert answers[1].iloc[-201:-150, 0].isna().all()


def test_a_price_that_never_moves_is_refused_by_name(short):
    frozen = short.copy()
    frozen[("close", "KO")] = 60.0
    with pytest.raises(MissingData, match="KO: none of 1,600 bars has complete features; .* a price that moves"):
        HorizonForecaster(horizons=(1,)).fit(frozen)


def test_a_constant_feature_is_refused_by_name(short):
    from trading.forecast.panel import default_features

    def with_flat(bars):
        features = default_features(bars["close"])
        for symbol in bars["close"]:
            features[("flat", symbol)] = 1.0
        return features

    with pytest.raises(BadInput, match="the feature flat never changes"):
        HorizonForecaster(horizons=(1,)).fit(short, with_flat)


def test_too_little_history_says_how_much_is_needed(short):
    with pytest.raises(BadInput, match="at least 180 are needed"):
        HorizonForecaster(horizons=(20,)).fit(short.iloc[-400:])


def test_purged_folds_fit_into_a_search_of_scikit_learn():
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([pd.date_range("2020-01-01", periods=300, tz="UTC"), list("AB")], names=["timestamp", "symbol"])
    x = pd.DataFrame(rng.normal(size=(600, 3)), index=index)
    y = x[0] + rng.normal(size=600)
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1e5]}, cv=PurgedKFold(4, horizon=5)).fit(x, y)
    assert search.best_params_ == {"alpha": 0.1}


def _coins() -> pd.DataFrame:
    return sample_bars("coins")["close"].loc["2017-12-14":, ["BTC/USDT", "ETH/USDT", "LTC/USDT", "BNB/USDT"]]


def _rates() -> pd.DataFrame:
    "Rates against the dollar, out of the ECB's against the euro."
    euro = sample_bars("fx")["close"].loc["1999-01-05":"2019"]
    return pd.DataFrame({"EUR/USD": euro["EUR/USD"]} | {f"USD/{c}": euro[f"EUR/{c}"] / euro["EUR/USD"] for c in ("JPY", "GBP", "CHF")})


@pytest.mark.parametrize("market", [_coins, _rates])
def test_intervals_cover_within_two_points_on_other_markets_for_each_horizon(market):
    close = market().ffill(limit=3).dropna()
    table = accuracy(hold_out(HorizonForecaster(adaptive=0.01), bars_from_close(close.rename_axis("timestamp")), n_splits=5))
    assert ((table["coverage_90"] - 0.9).abs() <= 0.02).all(), table["coverage_90"].to_dict()
