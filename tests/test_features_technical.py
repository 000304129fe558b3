"Features never see the future and agree with TA-Lib."

import numpy as np
import pandas as pd
import pytest
import talib

from trading.core.bars import bars_from
from trading.core.datasets import sample_bars
from trading.features.technical import atr, bollinger, ema, macd, make_features, realized_vol, rsi


def market(symbols: int, bars: int, seed: int, freq: str = "D", holes: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    index = pd.date_range("2022-01-05", periods=bars, freq=freq, tz="UTC")
    frames = {}
    for i in range(symbols):
        close = 10 ** (2 - i) * np.exp(np.cumsum(rng.standard_t(4, bars) * 0.01))
        open_ = close * np.exp(rng.normal(0, 0.003, bars))
        frame = pd.DataFrame({
            "open": open_, "high": np.maximum(open_, close) * np.exp(rng.exponential(0.004, bars)),
            "low": np.minimum(open_, close) * np.exp(-rng.exponential(0.004, bars)), "close": close, "volume": rng.lognormal(10, 1, bars),
        }, index=index)
        frames[f"S{i}"] = frame.where(np.repeat(rng.random((bars, 1)) >= holes, 5, axis=1))
    return bars_from(frames)


@pytest.mark.parametrize("freq, timeframes", [("D", ("1d", "1w")), ("h", ("1h", "4h", "1d")), ("5min", ("5m", "1h"))])
def test_cutting_or_changing_the_future_changes_no_feature(freq, timeframes):
    bars = market(3, 400, seed=1, freq=freq, holes=0.03)
    whole = make_features(bars, timeframes)
    for cut in (120, 203, 311, 377, 399):
        assert whole.iloc[:cut].equals(make_features(bars.iloc[:cut], timeframes))
        changed = bars.copy()
        changed.iloc[cut:] *= 3.0
        assert whole.iloc[:cut].equals(make_features(changed, timeframes).iloc[:cut])


def test_every_symbol_equals_talib_alone():
    bars = market(5, 1000, seed=4)
    c, h, low = bars["close"], bars["high"], bars["low"]
    bands, lines = bollinger(c), macd(c)
    for s in c:
        x = c[s].to_numpy()
        pairs = [(ema(c)[s], talib.EMA(x, 20)), (rsi(c)[s], talib.RSI(x, 14)), (lines["histogram"][s], talib.MACD(x)[2]),
                 (bands["upper"][s], talib.BBANDS(x, 20)[0]), (bands["lower"][s], talib.BBANDS(x, 20)[2]),
                 (atr(h, low, c)[s], talib.ATR(h[s].to_numpy(), low[s].to_numpy(), x, 14)),
                 (realized_vol(c)[s].iloc[1:], talib.STDDEV(np.diff(np.log(x)), 20) * np.sqrt(20 / 19))]
        for ours, theirs in pairs:
            assert np.allclose(ours, theirs, rtol=1e-9, atol=0, equal_nan=True)


def test_a_series_gives_the_same_as_its_column():
    close = sample_bars("indices")["close"].tail(300)
    one = close["NASDAQ"]
    assert rsi(one).equals(rsi(close)["NASDAQ"]) and macd(one)["signal"].equals(macd(close)["signal"]["NASDAQ"].rename("signal"))


def test_a_symbol_without_any_price_stays_missing_and_harms_no_other():
    bars = market(2, 200, seed=5)
    alone = make_features(bars.drop(columns="S1", level=1))
    bars.loc[:, (slice(None), "S1")] = np.nan
    both = make_features(bars)
    pd.testing.assert_frame_equal(both.xs("S0", axis=1, level=1), alone.xs("S0", axis=1, level=1), rtol=0, atol=1e-14)  # sums along another layout
    assert both["rsi_14"]["S1"].isna().all()


def test_a_handful_of_bars_gives_missing_features_and_no_error():
    bars = market(2, 3, seed=6)
    features = make_features(bars)
    assert len(features) == 3 and features["rsi_14"].isna().all(axis=None) and features["return_1"].notna().iloc[1:].all(axis=None)
    assert make_features(bars.iloc[:1])["range_1"].notna().all(axis=None)
