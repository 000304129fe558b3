"""Store, cleaning and ingest: figures as JSON lines, each against a plain rival."""

import json
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from trading.core.bars import bars_from_close
from trading.data.arrow import to_arrow, to_rows
from trading.data.clean import CleaningRules, clean_bars, clean_frame
from trading.data.delta_store import BarStore
from trading.data.ingest import SampleSource, ingest

SYMBOLS, BARS = 1000, 5260  # 5.26 million rows


def market() -> pd.DataFrame:
    random = np.random.default_rng(0)
    times = pd.date_range("2004-01-01", periods=BARS, freq="D", tz="UTC", name="timestamp").as_unit("us")
    names = [f"S{n:04d}" for n in range(SYMBOLS)]
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.02, (SYMBOLS, BARS)), axis=1)).round(4)
    spread = np.abs(random.normal(0, 0.01, (SYMBOLS, BARS)))
    fields = {"open": close * (1 - spread / 3), "high": close * (1 + spread), "low": close * (1 - spread), "close": close,
              "volume": random.integers(1, 10**6, (SYMBOLS, BARS)).astype(float)}
    columns = pd.MultiIndex.from_product([list(fields), names], names=["field", "symbol"])
    return pd.DataFrame(np.concatenate(list(fields.values())).T, index=times, columns=columns)


def timed(call, times: int = 3) -> float:
    took = []
    for _ in range(times):
        begin = perf_counter()
        call()
        took.append(perf_counter() - begin)
    return median(took)


def show(figure: str, value: float, unit: str, rival: str = "", rival_value: float | None = None, higher: bool = False) -> None:
    ratio = None if not rival_value else round(value / rival_value if higher else rival_value / value, 2)
    print(json.dumps({"figure": figure, "value": round(value, 4), "unit": unit, "rival": rival,
                      "rival_value": None if rival_value is None else round(rival_value, 4), "ratio": ratio}), flush=True)


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        bars = market()
        store, file = BarStore(folder / "bars"), folder / "plain.parquet"
        plain = timed(lambda: pq.write_table(to_arrow(to_rows(bars), "1d", "bench"), file, compression="snappy", use_dictionary=["symbol"],
                                             row_group_size=131_072), 1)
        show("store: 5.26 million rows into an empty store", timed(lambda: store.upsert(bars, "1d", "bench"), 1), "s", "Parquet file", plain)
        day = bars.iloc[[-1]].set_axis(bars.index[[-1]] + pd.Timedelta(days=1))
        show("store: a new day of 1,000 symbols", timed(lambda: store.upsert(day, "1d", "bench"), 1), "s", "Parquet file, rewritten", plain)
        show("store: the same day again, no new version", timed(lambda: store.upsert(day, "1d", "bench")), "s")
        year = [("symbol", "==", "S0500"), ("timestamp", ">=", pd.Timestamp("2010-01-01", tz="UTC")),
                ("timestamp", "<=", pd.Timestamp("2010-12-31", tz="UTC"))]
        show("store: one symbol, one year", timed(lambda: store.read(["S0500"], "1d", "2010-01-01", "2010-12-31"), 5), "s",
             "Parquet file", timed(lambda: pq.read_table(file, filters=year).to_pandas(), 5))
        wide = lambda: pq.read_table(file, columns=["symbol", "timestamp", "close"]).to_pandas().pivot(  # noqa: E731
            index="timestamp", columns="symbol", values="close")
        show("store: closes of all symbols, wide", timed(lambda: store.read(fields=["close"]), 2), "s", "Parquet and pivot", timed(wide, 1))
        took = timed(lambda: clean_bars(bars), 2)
        show("cleaning: all rules", SYMBOLS * BARS / took / 1e6, "million bars/s")
        took = timed(lambda: clean_bars(bars, rules=CleaningRules(ticks=0, wicks=0)), 2)
        show("cleaning: rule checks of single bars", SYMBOLS * BARS / took / 1e6, "million bars/s")
        one = bars.xs("S0001", axis=1, level=1)
        show("cleaning: one symbol", len(one) / timed(lambda: clean_frame(one, "S0001"), 5) / 1e6, "million bars/s")
        large(store, bars)
        daily(folder)
    finally:
        shutil.rmtree(folder)


def large(store: BarStore, bars: pd.DataFrame) -> None:
    "Three times as many symbols more: 21 million rows."
    for letter in "ABC":
        other = bars.set_axis(bars.columns.set_levels(letter + bars.columns.levels[1].str[1:], level=1), axis=1)
        store.upsert(other, "1d", "bench")
    show("store: 21 million rows, one symbol, one year", timed(lambda: store.read(["A0500"], "1d", "2010-01-01", "2010-12-31"), 5), "s")
    day = bars.iloc[[-1]].set_axis(bars.index[[-1]] + pd.Timedelta(days=30))
    show("store: 21 million rows, a new day of 1,000 symbols", timed(lambda: store.upsert(day, "1d", "bench"), 1), "s", "asked for", 0.3)


def daily(folder: Path) -> None:
    source, store = SampleSource("stocks"), BarStore(folder / "sample")
    last, symbols = datetime(2022, 12, 20, tzinfo=UTC), source.symbols()
    show("ingest: sample market, first time", timed(lambda: ingest(source, store, symbols, until=last), 1), "s")
    days = iter(range(1, 9))
    show("ingest: sample market, next day", timed(lambda: ingest(source, store, symbols, until=last + timedelta(days=next(days))), 5), "s")
    whole = bars_from_close(store.read()["close"])
    show("ingest: sample market, nothing new", timed(lambda: store.upsert(whole, "1d", source.name), 3), "s")


if __name__ == "__main__":
    main()
