"Stress: replay where there are prices, a sourced table where there are none, and never a guess."

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trading.core.bars import bars_from_close
from trading.core.sample import sample_bars
from trading.risk.stress import SCENARIOS, Scenario, shock_of, stress

DATA = Path(__file__).parents[2] / "shared" / "data"


def test_prices_go_before_the_table_and_the_table_before_nothing():
    days = pd.date_range("2022-04-25", "2022-05-20", tz="UTC")
    close = pd.DataFrame({"BTC/USDT": np.linspace(100, 50, len(days))}, index=days)
    weights = {"BTC/USDT": 0.5, "ETH/USDT": 0.3, "WHO/USDT": 0.1}
    row = stress(weights, bars_from_close(close), {"ETH/USDT": "ETH"}, [SCENARIOS["luna-2022"]]).loc["luna-2022"]
    fall = close.loc["2022-05-12", "BTC/USDT"] / close.loc["2022-05-04", "BTC/USDT"] - 1
    assert row["loss"] == pytest.approx(-(0.5 * fall + 0.3 * -0.33))
    assert (row["replayed"], row["shocked"], row["unknown"]) == pytest.approx((0.5, 0.3, 0.1))
    assert row["unknown_symbols"] == "WHO/USDT" and row["worst"] == "ETH/USDT" and np.isnan(row["deepest"])


def test_prices_that_stop_in_the_middle_are_no_replay():
    days = pd.date_range("2020-02-01", "2020-02-25", tz="UTC")
    bars = bars_from_close(pd.DataFrame({"BTC/USDT": 1.0}, index=days))
    row = stress({"BTC/USDT": 1.0}, bars, scenarios=[SCENARIOS["covid-2020"]]).iloc[0]
    assert row["replayed"] == 0 and row["loss"] == pytest.approx(0.33)


def test_a_short_position_gains_when_its_asset_falls():
    rows = stress({"BTC": -0.5, "ETH": 0.5}, scenarios=[Scenario("x", shocks={"*": -0.2})])
    assert rows["loss"].iloc[0] == pytest.approx(0.0) and rows["shocked"].iloc[0] == pytest.approx(1.0)


def test_currency_pairs_are_found_in_both_spellings():
    assert shock_of(SCENARIOS["2008"], "EURUSD") == shock_of(SCENARIOS["2008"], "EUR/USD") == -0.13


def test_the_deepest_point_is_that_of_the_replayed_wealth():
    close = sample_bars("stocks")["close"].loc["2020-02-19":"2020-03-23", ["AAPL", "XOM"]]
    wealth = 0.4 + 0.6 * (close / close.iloc[0]).mean(axis=1)
    row = stress({"AAPL": 0.3, "XOM": 0.3}, sample_bars("stocks"), scenarios=[SCENARIOS["covid-2020"]]).iloc[0]
    assert row["deepest"] == pytest.approx(-(wealth / wealth.cummax() - 1).min())
    assert row["loss"] == pytest.approx(1 - wealth.iloc[-1])


@pytest.mark.skipif(not DATA.exists(), reason="the development data are not here")
@pytest.mark.parametrize("name", ["winter-2018", "covid-2020", "china-ban-2021", "luna-2022", "ftx-2022"])
def test_the_tables_say_what_the_prices_say(name):
    scenario, seen = SCENARIOS[name], 0
    for file in ("crypto_1d_binance.parquet", "crypto_1d.parquet"):
        close = pd.read_parquet(DATA / file).pivot(index="timestamp", columns="symbol", values="close")
        start, end = (pd.Timestamp(day, tz="UTC") for day in (scenario.start, scenario.end))
        if start not in close.index or end not in close.index:
            continue
        change = close.loc[end] / close.loc[start] - 1
        change.index = change.index.str.split("-").str[0]
        for coin in ("BTC", "ETH"):
            if coin in change and np.isfinite(change[coin]):
                assert change[coin] == pytest.approx(scenario.shocks[coin], abs=0.011), coin
                seen += 1
    assert seen
