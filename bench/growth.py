"""What the bar store and a file of minutes cost as they grow: processor time, with the exponent of the whole in the number of commits."""

import json
import shutil
import tempfile
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd

from trading.data.delta_store import BarStore
from trading.data.price_files import read_price_file

FIELDS = ["open", "high", "low", "close", "volume"]
LIMIT = 1.15  # of the exponent: above it the whole grows faster than what is added


def block(symbols: int, first: str, bars: int, freq: str) -> pd.DataFrame:
    index = pd.date_range(first, periods=bars, freq=freq, tz="UTC", name="timestamp").as_unit("us")
    columns = pd.MultiIndex.from_product([FIELDS, [f"S{n:04d}" for n in range(symbols)]], names=["field", "symbol"])
    return pd.DataFrame(np.random.default_rng(0).normal(100, 1, (bars, len(columns))).round(4), index=index, columns=columns)


def show(figure: str, value: float, unit: str, rival: str = "", rival_value: float | None = None) -> None:
    ratio = None if not rival_value else round(rival_value / value, 2)
    print(json.dumps({"figure": figure, "value": round(value, 4), "unit": unit, "rival": rival,
                      "rival_value": None if rival_value is None else round(rival_value, 4), "ratio": ratio}), flush=True)


def spent(work) -> float:
    begun = process_time()
    work()
    return process_time() - begun


def commits(folder: Path) -> float:
    "A bar of 20 symbols at a time, a thousand times."
    store, bars = BarStore(folder / "bars"), block(20, "2024-01-01", 1010, "5min")
    costs = np.array([spent(lambda n=n: store.upsert(bars.iloc[[n]], "5m", "bench")) for n in range(1010)])[10:]
    for size in (100, 300, 1000):
        show(f"store: a commit of 20 symbols after {size}", float(np.median(costs[size - 100:size])), "s", "asked for", 0.04)
    show("store: of which the slowest, with files joined", float(costs[-100:].max()), "s")
    read = lambda: store.read(timeframe="5m", fields=["close"])  # noqa: E731
    many = min(spent(read) for _ in range(3))
    store.tidy()
    show("store: reading after 1,000 commits", many, "s", "the same, tidied", min(spent(read) for _ in range(3)))
    return float(np.log(costs.sum() / costs[:100].sum()) / np.log(10))


def days(folder: Path) -> None:
    "A day of 2,000 symbols, after 100 days and after 1,000."
    for past in (100, 1000):
        store = BarStore(folder / str(past))
        store.upsert(block(2000, "2000-01-01", past, "D"), "1d", "bench")
        new = [block(2000, f"2010-01-{n + 1:02d}", 1, "D") for n in range(20)]
        costs = [spent(lambda bars=bars, store=store: store.upsert(bars, "1d", "bench")) for bars in new]
        show(f"store: a day of 2,000 symbols after {past:,} days", float(np.median(costs)), "s", "asked for", 0.3)


def minutes(folder: Path) -> None:
    "A million bars of a minute as CSV."
    path, bars = folder / "BTCUSDT-1m.csv", block(1, "2021-01-01", 1_000_000, "min").droplevel("symbol", axis=1)
    bars.abs().assign(high=bars.max(axis=1), low=bars.min(axis=1)).rename_axis("time").to_csv(path, date_format="%Y-%m-%d %H:%M:%S+00:00")
    plain = spent(lambda: pd.read_csv(path, parse_dates=["time"]))
    show("files: a CSV of a million minutes", spent(lambda: read_price_file(path, "BTC/USDT", strict=False)), "s", "pandas.read_csv", plain)


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        exponent = commits(folder)
        show("store: exponent of the whole, 100 to 1,000 commits", exponent, "", "at most", LIMIT)
        days(folder)
        minutes(folder)
    finally:
        shutil.rmtree(folder)
    if exponent > LIMIT:
        raise SystemExit(f"the store grows with the power {exponent:.2f} of its commits; at most {LIMIT} is asked for")


if __name__ == "__main__":
    main()
