"""How fast 500 symbols are fetched, stored and ranked as `carnet scan` does it, beside one after the other.

`python bench/scout.py`, one JSON line per figure.
"""

import json
import statistics
import tempfile
import time

import numpy as np
import pandas as pd
import talib

from trading.data.delta_store import BarStore
from trading.data.ingest import ingest
from trading.features.screener import RULES, ScreenRule, screen
from trading.pipeline.market_scan import QUESTIONS_AT_ONCE

SYMBOLS, BARS, DELAY = 500, 400, 0.005  # a venue's answer takes five milliseconds
NOW = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(days=BARS)
MEASURED = (*RULES, ScreenRule("rsi_14"))


class Source:
    "A source on this machine that answers after a delay."

    name = "loopback"

    def __init__(self):
        rng = np.random.default_rng(11)
        index = pd.date_range("2024-01-01", periods=BARS, freq="D", tz="UTC", name="timestamp")
        close = {f"S{n:03}": 100 * np.exp(rng.normal(0, 0.02, BARS).cumsum()) for n in range(SYMBOLS)}
        self.frames = {s: pd.DataFrame({"open": c, "high": c, "low": c, "close": c, "volume": 1e3}, index=index) for s, c in close.items()}

    def fetch_ohlcv(self, symbol, timeframe, since, until):
        time.sleep(DELAY)
        return self.frames[symbol]


def one_by_one(source: Source) -> pd.Series:
    "Fetch and measure each symbol on its own, then rank: the usual loop."
    rows = {}
    for symbol in source.frames:
        close = source.fetch_ohlcv(symbol, "1d", None, None)["close"]
        rows[symbol] = {"momentum_60": close.iloc[-1] / close.iloc[-61] - 1, "trend_50": close.iloc[-1] / close.rolling(50).mean().iloc[-1] - 1,
                        "volatility_20": np.log(close).diff().rolling(20).std().iloc[-1], "rsi_14": talib.RSI(close.to_numpy(), 14)[-1],
                        "drawdown_250": close.iloc[-1] / close.rolling(250).max().iloc[-1] - 1}
    place = pd.DataFrame(rows).T.rank(pct=True)
    place["volatility_20"] = 1 - place["volatility_20"]
    weights = pd.Series({r.measure: abs(r.weight) for r in MEASURED})
    return (place[weights.index] * weights).sum(axis=1).sort_values(ascending=False)


def median(work, repeat: int = 3) -> float:
    "Return the median of some timings, seconds."
    spent = []
    for _ in range(repeat):
        begun = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent)


def line(figure: str, value: float, rival: str, rival_value: float) -> None:
    "Print one figure."
    print(json.dumps({"figure": figure, "value": round(value, 4), "unit": "s", "rival": rival, "rival_value": round(rival_value, 4),
                      "ratio": round(rival_value / value, 1)}), flush=True)


def as_scanned(source: Source) -> pd.DataFrame:
    "Fetch into an empty store as `carnet scan` does, and read what the ranking looks at."
    with tempfile.TemporaryDirectory() as folder:
        store = BarStore(folder)
        ingest(source, store, list(source.frames), "1d", NOW - pd.Timedelta(days=BARS), NOW, None, "24/7", at_once=QUESTIONS_AT_ONCE, again=False)
        return store.read(list(source.frames), "1d", source=source.name)


source = Source()
bars = as_scanned(source)
told = screen(bars, MEASURED)
assert len(told.table) == SYMBOLS and not told.left_out
loop = median(lambda: one_by_one(source))
line("500 symbols fetched, stored and ranked", median(lambda: screen(as_scanned(source), MEASURED)), "one by one, nothing stored", loop)
DELAY = 0.0
line("500 symbols ranked, bars at hand", median(lambda: screen(bars, MEASURED)), "one by one, no waiting", median(lambda: one_by_one(source)))
