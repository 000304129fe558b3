"Pipelines that look ahead, ten kinds, and pipelines that do not, for the leak detector's examination."

from functools import partial

import numpy as np
import pandas as pd
from scipy.signal import filtfilt, savgol_filter
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, RobustScaler, StandardScaler

from trading.backtest.strategies import BollingerBreakout, CrossSectionalMomentum, Donchian, MaCross, RsiReversion
from trading.core.bars import symbols_of
from trading.core.synthetic import scenario
from trading.features.technical import atr, bollinger, ema, log_returns, macd, make_features, realized_vol, rsi, to_timeframe

BARS = scenario("regime_switch", symbols=3, bars=420, seed=21)
HOURS = scenario("range", symbols=2, bars=480, seed=22, timeframe="1h")


def close(b):
    return b["close"]


def ret(b):
    return np.log(b["close"]).diff()


def one(b):
    return b["close"].iloc[:, 0]


def lags(b, n=4):
    r = ret(b).iloc[:, 0]
    return pd.concat([r.shift(i) for i in range(n)], axis=1).fillna(0.0).to_numpy()


def joined(table, b, how="ffill"):
    return table.reindex(b.index, method=how)


class Fitted(BaseEstimator):
    "A model of the next return from the last ones, or of nothing but a scale."

    def __init__(self, model=None):
        self.model = model

    def fit(self, b):
        self.model_ = (LinearRegression() if self.model is None else self.model).fit(lags(b)[:-1], ret(b).iloc[1:, 0])
        return self

    def predict(self, b):
        return self.model_.predict(lags(b))


class Scaled(BaseEstimator):
    "A scaler of closes."

    def __init__(self, scaler=None):
        self.scaler = scaler

    def fit(self, b):
        self.scaler_ = (StandardScaler() if self.scaler is None else self.scaler).fit(b["close"].to_numpy())
        return self

    def transform(self, b):
        return self.scaler_.transform(b["close"].to_numpy())


class Remembers:
    "Counts and keeps what it has seen."

    def __init__(self, leak):
        self.leak, self.calls, self.kept = leak, 0, None

    def __call__(self, b):
        self.calls += 1
        if self.kept is None:
            self.kept = b["close"].mean() if self.leak else b["close"].iloc[0]
        return b["close"] / self.kept


def _kmeans(b):
    return KMeans(3, n_init=1, random_state=0).fit_predict(np.nan_to_num(ret(b).to_numpy()))


def _winners(b):
    return close(b)[(close(b).iloc[-1] / close(b).iloc[0]).nlargest(2).index].pct_change().mean(axis=1)


def _asof(direction, b):
    week = one(b).resample("7D").mean().rename("mean").reset_index()
    left = pd.DataFrame({"timestamp": b.index})
    return pd.merge_asof(left, week, on="timestamp", direction=direction)["mean"].set_axis(b.index)


def _daily_join(b):
    days = one(b).resample("D").last()
    return pd.Series(days.reindex(b.index.normalize()).to_numpy(), b.index)


TOMORROW = {n: {"x": np.log(s["close"]).diff().shift(-1)} for n, s in {"d": BARS, "h": HOURS}.items()}
NOISED = TOMORROW["d"]["x"] + np.random.default_rng(0).normal(0, 0.008, TOMORROW["d"]["x"].shape)

LEAKS = {
    "shift": [
        lambda b: close(b).shift(-1), lambda b: close(b).pct_change().shift(-3), lambda b: (close(b).shift(-1) > close(b)).astype(int),
        lambda b: b["high"].shift(-2) / close(b), lambda b: np.roll(close(b).to_numpy(), -1, axis=0), lambda b: np.gradient(one(b).to_numpy()),
        lambda b: {"entry": close(b).diff().shift(-1) > 0, "exit": close(b).diff() < 0},
    ],
    "centred window": [
        lambda b: close(b).rolling(5, center=True).mean(), lambda b: close(b).rolling(21, center=True, min_periods=1).std(),
        lambda b: pd.Series(np.convolve(one(b), np.ones(7) / 7, "same"), b.index), lambda b: close(b).rolling(10).mean().shift(-5),
        lambda b: close(b) == close(b).rolling(11, center=True).max(), lambda b: close(b)[::-1].rolling(5).mean()[::-1],
        lambda b: rsi(close(b)) - rsi(close(b)).rolling(9, center=True).median(),
    ],
    "global scale": [
        lambda b: (close(b) - close(b).mean()) / close(b).std(), lambda b: (close(b) - close(b).min()) / (close(b).max() - close(b).min()),
        lambda b: rankdata(one(b)) / len(b), lambda b: ret(b).clip(ret(b).quantile(0.01), ret(b).quantile(0.99), axis=1),
        lambda b: pd.qcut(one(b).rank(method="first"), 5, labels=False), lambda b: b["volume"] / b["volume"].max(),
        lambda b: StandardScaler().fit_transform(ret(b).fillna(0)), lambda b: close(b).rank(pct=True), lambda b: one(b) > one(b).median(),
    ],
    "back-fill": [
        lambda b: close(b).bfill(), lambda b: close(b).interpolate(), lambda b: ret(b).bfill().rolling(5).mean(),
        lambda b: close(b).ffill().bfill(limit=2),
        lambda b: close(b).fillna(close(b).shift(-1)), lambda b: close(b).interpolate(method="time").pct_change(),
        lambda b: b.bfill()["volume"].rolling(3).sum(),
    ],
    "future-stamped join": [
        lambda b: joined(TOMORROW["d"]["x"], b, None), lambda b: joined(NOISED, b, None).iloc[:, 0], partial(_asof, "forward"),
        partial(_asof, "nearest"),
        partial(_asof, "backward"), lambda b: ret(b).join(TOMORROW["d"]["x"].add_suffix("_extra")),
        lambda b: pd.Series(np.sign(TOMORROW["d"]["x"].iloc[:, 0]).reindex(b.index).to_numpy() + np.arange(len(b)) % 2 * 0.1, b.index),
    ],
    "resample labels left": [
        lambda b: joined(close(b).resample("W-SUN", label="left").last(), b), lambda b: joined(close(b).resample("MS").mean(), b),
        lambda b: joined(b["high"].resample("7D").max(), b), lambda b: joined(to_timeframe(b, "1w")["close"], b),
        lambda b: close(b).groupby(pd.Grouper(freq="MS")).transform("last"), lambda b: joined(rsi(to_timeframe(b, "1w")["close"], 3), b),
        lambda b: b["volume"] / b["volume"].groupby(b.index.tz_localize(None).to_period("W")).transform("sum"),
    ],
    "fitted on everything": [
        lambda b: LinearRegression().fit(lags(b)[:-1], ret(b).iloc[1:, 0]).predict(lags(b)),
        lambda b: PCA(2, svd_solver="full").fit_transform(ret(b).fillna(0)),
        _kmeans, lambda b: one(b) - np.polyval(np.polyfit(np.arange(len(b)), one(b), 1), np.arange(len(b))),
        Fitted(), Fitted(Ridge()), Scaled(), Scaled(MinMaxScaler()), Scaled(RobustScaler()), Fitted().fit(BARS), Scaled().fit(BARS),
        lambda b: QuantileTransformer(n_quantiles=50, random_state=0).fit_transform(close(b)), Remembers(True),
    ],
    "target among the features": [
        lambda b: pd.concat([ret(b), ret(b).shift(-5).rolling(5).sum().add_suffix("_y")], axis=1), lambda b: close(b).shift(-10) / close(b) - 1,
        lambda b: np.sign(ret(b).shift(-1)).fillna(0), lambda b: make_features(b).assign(label=ret(b).iloc[:, 0].shift(-1)),
        lambda b: cross_val_predict(Ridge(), lags(b), ret(b).iloc[:, 0].shift(-1).fillna(0), cv=KFold(5, shuffle=True, random_state=0)),
        lambda b: close(b)[::-1].rolling(20).max()[::-1] / close(b),
    ],
    "chosen by the outcome": [
        _winners, lambda b: close(b)[[close(b).iloc[-1].idxmax()]].rename(columns=lambda _: "best").pct_change(),
        lambda b: max((close(b).rolling(n).mean() for n in (5, 20, 60)), key=lambda m: float((ret(b).shift(-1) * np.sign(close(b) - m)).sum().sum())),
        lambda b: one(b).rolling(5 + int(ret(b).iloc[:, 0].std() * 1e4) % 30).mean(), lambda b: ret(b)[ret(b).std().nsmallest(1).index].to_numpy(),
        lambda b: close(b) / close(b).loc[one(b).idxmax()],
    ],
    "smoothed both ways": [
        lambda b: filtfilt([0.2], [1, -0.8], one(b)), lambda b: savgol_filter(one(b), 21, 3),
        lambda b: np.fft.irfft(np.fft.rfft(one(b)) * (np.arange(len(b) // 2 + 1) < 20), len(b)), lambda b: close(b)[::-1].ewm(span=20).mean()[::-1],
        lambda b: pd.Series(np.convolve(one(b), np.hanning(31) / np.hanning(31).sum(), "same"), b.index),
        lambda b: one(b) - filtfilt([0.1], [1, -0.9], one(b)),
    ],
    "length": [
        lambda b: close(b).rolling(len(b) // 10).mean(), lambda b: np.linspace(0, 1, len(b)), lambda b: np.arange(len(b))[::-1].astype(float),
    ],
}


def expanding_fit(b, step=60):
    "Refit every sixty bars on all that is known, predict what follows."
    x, y, out = lags(b), ret(b).iloc[:, 0].to_numpy(), np.full(len(b), np.nan)
    for i in range(step, len(b), step):
        out[i:i + step] = LinearRegression().fit(x[1:i - 1], y[2:i]).predict(x[i:i + step])
    return pd.Series(out, b.index)


def one_by_one(b, n=20):
    "A state that moves bar by bar."
    out, level = [], None
    for v in one(b).ffill():
        level = v if level is None else level + (v - level) / n
        out.append(level)
    return np.array(out)


def kalman(b):
    "A local level filter, forward only."
    out, level, p = [], np.nan, 1.0
    for v in one(b):
        level = v if np.isnan(level) else level
        p += 0.01
        k = p / (p + 1)
        level, p = (level + k * (v - level), (1 - k) * p) if not np.isnan(v) else (level, p)
        out.append(level)
    return pd.Series(out, b.index)


EARLIER = scenario("regime_switch", symbols=3, bars=420, seed=33, start="2017-01-02")
SENTIMENT = pd.DataFrame({"mood": np.random.default_rng(4).normal(size=420).cumsum()}, index=BARS.index)

CLEAN = [
    close, ret, lambda b: close(b).rolling(20).mean(), lambda b: close(b).ewm(span=20).mean(), lambda b: close(b).expanding().max(),
    lambda b: close(b).shift(1),
    lambda b: close(b).ffill(), lambda b: close(b).rolling(60).rank(),
    lambda b: (close(b) - close(b).expanding().mean()) / close(b).expanding().std(),
    lambda b: close(b).rolling(20).mean().dropna(), lambda b: close(b).to_numpy()[30:], lambda b: close(b).iloc[:-1],
    lambda b: close(b) > close(b).shift(5),
    lambda b: rsi(close(b)), lambda b: macd(close(b)), lambda b: bollinger(close(b)), lambda b: ema(close(b), 50), lambda b: realized_vol(close(b)),
    lambda b: atr(b["high"], b["low"], close(b)), lambda b: log_returns(close(b), 10), make_features, lambda b: make_features(b, ("1d",)),
    MaCross(5, 20), Donchian(20, 10), BollingerBreakout(20), RsiReversion(14), CrossSectionalMomentum(60),
    expanding_fit, partial(expanding_fit, step=35), one_by_one, kalman,
    Fitted().fit(EARLIER), Scaled().fit(EARLIER), Scaled(MinMaxScaler()).fit(EARLIER),
    Fitted(RandomForestRegressor(10, random_state=0)).fit(EARLIER), Remembers(False),
    lambda b: ret(b) + np.random.default_rng().normal(0, 1e-3, ret(b).shape), lambda b: ret(b) + np.random.normal(0, 1e-3, ret(b).shape),
    lambda b: ret(b) * np.random.default_rng(1).normal(1, 0.1, ret(b).shape), lambda b: np.random.default_rng().normal(size=len(b)),
    lambda b: np.where(np.random.rand(len(b)) < 0.1, np.nan, one(b)), lambda b: np.random.permutation(3)[0] + ret(b),
    lambda b: joined(SENTIMENT["mood"], b), lambda b: ret(b).assign(mood=SENTIMENT["mood"].shift(1).reindex(b.index)),
    lambda b: pd.Series(b.index.day_of_week, b.index).astype(float), lambda b: pd.Series(np.sin(2 * np.pi * b.index.day_of_year / 365.25), b.index),
    lambda b: pd.Series(np.arange(len(b)), b.index), lambda b: close(b).groupby(b.index.tz_localize(None).to_period("M")).cummax(),
    lambda b: joined(to_timeframe(b, "1w")["close"].shift(1), b), lambda b: joined(close(b).resample("MS").mean().shift(1), b),
    lambda b: b["volume"] / b["volume"].rolling(30).mean(), lambda b: close(b).rank(axis=1), lambda b: ret(b).rolling(60).corr(ret(b).iloc[:, 0]),
    lambda b: ret(b).rolling(60).std() * np.sqrt(252), lambda b: close(b).stack(), lambda b: close(b).rolling("30D").mean(),
    lambda b: np.sign(close(b).diff(20)).replace(0, np.nan).ffill().fillna(0),
    lambda b: pd.cut(one(b).pct_change(), [-9, -0.01, 0.01, 9], labels=["down", "flat", "up"]),
    lambda b: {"entry": close(b) > close(b).rolling(50).max().shift(1), "exit": close(b) < close(b).rolling(20).min().shift(1)},
    lambda b: (close(b) > close(b).rolling(20).mean(), close(b) < close(b).rolling(20).mean()),
    lambda b: pd.get_dummies(np.sign(one(b).diff()).astype(str)),
    lambda b: close(b).fillna(close(b).rolling(5, min_periods=1).mean().shift(1)), lambda b: close(b).iloc[::-1].iloc[::-1].cumsum(),
    lambda b: np.column_stack([np.convolve(one(b), np.ones(7) / 7)[: len(b)], one(b)]),
    lambda b: b["high"].rolling(10).max() - b["low"].rolling(10).min(),
    lambda b: pd.DataFrame({s: close(b)[s].ewm(halflife=9).std() for s in symbols_of(b)}),
]
