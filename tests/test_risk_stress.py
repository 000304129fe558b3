"Stress: replay where there are prices, a sourced table where there are none, and never a guess."

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trading.core.bars import bars_from_close
from trading.core.datasets import sample_bars
from trading.risk.stress import SCENARIOS, Scenario, shock_of, stress

COINBASE = Path(__file__).with_name("coinbase_closes.csv")  # closes against USD on the first and last day of each scenario, where there was one


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


NOT_FROM_CLOSES = {"Stocks": "published index", "Stablecoins": "assumption", "LUNA": "press", "FTT": "press"}


@pytest.mark.parametrize("name", ["winter-2018", "covid-2020", "china-ban-2021", "luna-2022", "ftx-2022"])
def test_every_cell_of_the_tables_is_the_median_of_closes(name):
    scenario, change = SCENARIOS[name], {}
    start, end = (pd.Timestamp(day, tz="UTC") for day in (scenario.start, scenario.end))
    coinbase = pd.read_csv(COINBASE, index_col="symbol").T
    coinbase.index = pd.to_datetime(coinbase.index, utc=True)
    for close in (sample_bars("coins")["close"], coinbase):  # the first one goes before the second
        if start in close.index and end in close.index:
            change = {k.split("/")[0]: v for k, v in (close.loc[end] / close.loc[start] - 1).dropna().items()} | change
    change = pd.Series(change)
    groups = change.groupby(load_groups(change.index)).median()
    told = {k: v for k, v in scenario.shocks.items() if k not in NOT_FROM_CLOSES}
    assert told == {k: pytest.approx(change.get(k, groups.get(k)), abs=0.00501) for k in told}
    covered = set(told) | {""} | ({"L1/L0 majors"} if name == "winter-2018" else set())  # two coins are named for themselves there
    assert set(groups.index) <= covered, "no group that was measured is left out"


def load_groups(coins):
    from trading.features.taxonomy import classify

    return classify(list(coins))["group"].to_numpy()


def test_the_funds_and_currencies_of_2008_are_closes_too():
    for market, names in (("etfs", ["SPY", "IWM", "EEM", "USO"]), ("forex", ["EUR/USD", "GBP/USD", "NZD/USD", "XAU/USD"])):
        close = sample_bars(market)["close"]
        on = lambda day, close=close: close[close.index.normalize() <= pd.Timestamp(day, tz="UTC")].iloc[-1]  # noqa: E731
        change = on("2008-11-20") / on("2008-09-12") - 1
        assert {n: SCENARIOS["2008"].shocks[n] for n in names} == {n: pytest.approx(change[n], abs=0.00501) for n in names}


def test_every_source_of_a_table_is_named():
    assert all(s.source for s in SCENARIOS.values()) and "memory" not in " ".join(s.source for s in SCENARIOS.values())
    assert shock_of(SCENARIOS["ftx-2022"], "SOL/USD", "SOL") is None, "no closes of SOL were at hand, so its fall is not known"


def test_a_stablecoin_that_lost_its_peg_is_unknown_and_not_calm():
    groups = {"UST/USD": "Stablecoins", "BTC/USD": "BTC"}
    row = stress({"UST/USD": 0.2, "BTC/USD": 0.5}, groups=groups, scenarios=[SCENARIOS["luna-2022"]]).loc["luna-2022"]
    assert row["unknown"] == pytest.approx(0.2) and row["unknown_symbols"] == "UST/USD" and row["loss"] == pytest.approx(0.5 * 0.27)
