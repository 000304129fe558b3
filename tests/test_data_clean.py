"""Planted dirt in real bars: found, and nothing else touched."""

import numpy as np
import pandas as pd
import pytest

from trading.core.datasets import sample_bars
from trading.data.anomalies import find_anomalies
from trading.data.clean import clean_bars
from trading.data.gaps import find_gaps

PLANTS = ("close ten times too low", "close ten times too high", "open a hundred times too high", "zero", "negative", "infinite",
          "high below low", "low above close", "high far out", "low far out", "negative volume")


def plant(kind: str, bar: dict[str, float]) -> tuple[str, float]:
    "Return the field to change and its dirty value."
    return {
        "close ten times too low": ("close", bar["close"] / 10), "close ten times too high": ("close", bar["close"] * 10),
        "open a hundred times too high": ("open", bar["open"] * 100), "zero": ("close", 0.0), "negative": ("low", -bar["low"]),
        "infinite": ("high", np.inf), "high below low": ("high", bar["low"] * 0.97), "low above close": ("low", bar["high"] * 1.03),
        "high far out": ("high", bar["high"] * 3), "low far out": ("low", bar["low"] / 3), "negative volume": ("volume", -1.0 - bar["volume"]),
    }[kind]


@pytest.mark.parametrize("market", ["indices", "etfs", "coins", "coins_1h", "forex", "forex_1h"])
def test_planted_dirt_is_found_and_good_bars_are_left_alone(market):
    original, _ = clean_bars(sample_bars(market))  # real data has real dirt; what is counted below is only what we plant
    random = np.random.default_rng(7)
    changes, planted = [], {}
    for symbol in original.columns.unique(1)[:12]:
        own = original.xs(symbol, axis=1, level=1).dropna()
        spots = random.choice(np.arange(30, len(own) - 30), size=max(11, len(own) // 400), replace=False)
        for number, spot in enumerate(spots):
            time = own.index[spot]
            field, value = plant(PLANTS[number % len(PLANTS)], own.iloc[spot].to_dict())
            changes.append((original.index.get_loc(time), original.columns.get_loc((field, symbol)), value))
            planted[time, symbol] = PLANTS[number % len(PLANTS)]
    values = original.to_numpy(copy=True)
    for row, column, value in changes:
        values[row, column] = value
    dirty = pd.DataFrame(values, index=original.index, columns=original.columns)
    cleaned, repairs = clean_bars(dirty)
    touched = set(zip(repairs["timestamp"], repairs["symbol"], strict=True))
    missed = [f"{planted[p]} at {p}" for p in planted if p not in touched]
    bars = int(original["close"].notna().sum().sum())
    assert len(missed) <= 0.01 * len(planted), missed
    assert len(touched - set(planted)) <= 0.001 * bars
    kept = cleaned.notna() & original.notna()
    assert np.array_equal(cleaned.to_numpy()[kept], original.to_numpy()[kept])  # nothing was replaced by an invention


def test_rows_doubled_shuffled_and_in_local_time_come_back_as_they_were():
    original = sample_bars("indices")["2008":"2012"]
    random = np.random.default_rng(3)
    rows = np.r_[np.arange(len(original)), random.choice(len(original), 50, replace=False)]
    dirty = original.iloc[random.permutation(rows)].tz_convert("America/New_York")  # two changes of the clock a year
    cleaned, repairs = clean_bars(dirty)
    assert cleaned.index.equals(original.index) and np.array_equal(cleaned.to_numpy(), original.to_numpy())
    assert len(repairs) == 50 and set(repairs["rule"]) == {"duplicate"}


def test_of_two_different_rows_the_later_one_wins_and_the_loser_is_written_down():
    original = sample_bars("indices").loc["2012"]
    wrong = original.iloc[[5]] + 1.0
    cleaned, repairs = clean_bars(pd.concat([original.iloc[:5], wrong, original.iloc[5:]]))
    assert np.array_equal(cleaned.to_numpy(), original.to_numpy())
    row = repairs[(repairs["field"] == "close") & (repairs["symbol"] == "S&P 500")].iloc[0]
    assert row["old"] == wrong.iloc[0]["close"]["S&P 500"] and row["new"] == original.iloc[5]["close"]["S&P 500"]


def test_holes_of_a_coin_and_of_a_share_are_found_to_the_bar():
    random = np.random.default_rng(11)
    shares = sample_bars("stocks")["2005":"2015"]
    planted = {}
    for symbol in ("AAPL", "KO", "XOM"):
        spot = int(random.integers(100, len(shares) - 100))
        planted[symbol] = shares.index[spot:spot + 4]
        shares.loc[planted[symbol], ("close", symbol)] = np.nan
    found = find_gaps(shares)
    assert {(g.symbol, g.start, g.end, g.bars) for g in found.itertuples()} == {(s, t[0], t[-1], 4) for s, t in planted.items()}


def test_splits_and_standstills_are_reported_not_changed():
    bars = sample_bars("indices")["2010":"2017"][[("close", "S&P 500"), ("close", "NASDAQ")]].copy()
    for number, (factor, name) in enumerate(((2, "2:1"), (3, "3:1"), (10, "10:1"))):
        split = bars.copy()
        split.iloc[400 + 100 * number:, 0] /= factor
        suspects = find_anomalies(split)
        hit = suspects[(suspects["rule"] == "split") & (suspects["timestamp"] == split.index[400 + 100 * number])]
        assert len(hit) == 1 and name in hit["reason"].iloc[0]
        cleaned, repairs = clean_bars(split)
        assert repairs.empty and cleaned.equals(split)
