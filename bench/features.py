"Features of 100 symbols × 5,000 bars against TA-Lib column by column."

import json
import time

import numpy as np
import pandas as pd
import talib

from trading.core.bars import bars_from
from trading.features.technical import atr, bollinger, ema, macd, realized_vol, rsi

SYMBOLS, BARS = 100, 5000


def market() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    index = pd.date_range("2005-01-03", periods=BARS, freq="B", tz="UTC")
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (SYMBOLS, BARS)), axis=1))
    return bars_from({
        f"S{i:03}": pd.DataFrame({"open": x, "high": x * 1.01, "low": x * 0.99, "close": x, "volume": rng.lognormal(10, 1, BARS)}, index=index)
        for i, x in enumerate(close)
    })


def ours(close, high, low) -> list:
    return [rsi(close), macd(close), ema(close), bollinger(close), atr(high, low, close), realized_vol(close)]


def theirs(close, high, low) -> list:
    "TA-Lib column by column, gathered in arrays; the columns lie ready as contiguous arrays."
    n = range(len(close))
    root = np.sqrt(20 / 19)
    return [
        np.column_stack([talib.RSI(close[i], 14) for i in n]),
        np.column_stack([np.column_stack(talib.MACD(close[i])) for i in n]),
        np.column_stack([talib.EMA(close[i], 20) for i in n]),
        np.column_stack([np.column_stack(talib.BBANDS(close[i], 20)) for i in n]),
        np.column_stack([talib.ATR(high[i], low[i], close[i], 14) for i in n]),
        np.column_stack([talib.STDDEV(np.diff(np.log(close[i])), 20) * root for i in n]),
    ]


def usual(close, high, low) -> list:
    "The same as most people write it: a frame from TA-Lib, column by column."
    return [
        pd.DataFrame({s: talib.RSI(close[s], 14) for s in close}),
        pd.concat({s: pd.concat(talib.MACD(close[s]), axis=1) for s in close}, axis=1),
        pd.DataFrame({s: talib.EMA(close[s], 20) for s in close}),
        pd.concat({s: pd.concat(talib.BBANDS(close[s], 20), axis=1) for s in close}, axis=1),
        pd.DataFrame({s: talib.ATR(high[s], low[s], close[s], 14) for s in close}),
        pd.DataFrame({s: talib.STDDEV(np.log(close[s]).diff(), 20) for s in close}),
    ]


def median_times(functions: dict, rounds: int = 15) -> dict[str, float]:
    "Time several functions in turn, so that a slow minute of the machine meets all of them; processor time, all run on one thread."
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.process_time()
            function()
            times[name].append(time.process_time() - began)
    return {name: float(np.median(t)) for name, t in times.items()}


def say(figure: str, value: float, unit: str, rival: str, rival_value: float) -> None:
    print(json.dumps({"figure": figure, "value": round(value, 12), "unit": unit, "rival": rival, "rival_value": round(rival_value, 12),
                      "ratio": round(rival_value / value, 3) if value else None}))


def main() -> None:
    bars = market()
    frames = [bars[f] for f in ("close", "high", "low")]
    arrays = [np.ascontiguousarray(f.to_numpy().T) for f in frames]
    mine, reference = ours(*frames), theirs(*arrays)
    worst = 0.0
    for got, want in zip(mine, reference, strict=True):
        got = got.to_numpy()
        if got.shape[1] == 3 * SYMBOLS:  # ours: line, symbol; theirs: symbol, line
            got = got.reshape(BARS, 3, SYMBOLS).transpose(0, 2, 1).reshape(BARS, -1)
        got = got[len(got) - len(want):]
        assert (np.isnan(got) == np.isnan(want)).all()
        worst = max(worst, np.nanmax(np.abs(got - want) / np.maximum(np.abs(want), 1)))
    assert worst < 1e-9
    times = median_times({"ours": lambda: ours(*frames), "arrays": lambda: theirs(*arrays), "usual": lambda: usual(*frames)}, rounds=9)
    say("six indicators, 100 symbols x 5,000 bars", times["ours"], "s", "TA-Lib column by column on ready arrays", times["arrays"])
    say("six indicators, 100 symbols x 5,000 bars", times["ours"], "s", "TA-Lib column by column on frames", times["usual"])
    say("largest relative difference to TA-Lib", worst, "", "limit", 1e-9)


if __name__ == "__main__":
    main()
