"What a backtest refuses, what it does with holes, and that it never looks ahead."

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import backtest, volatility_size
from trading.backtest.strategies import BollingerBreakout, CrossSectionalMomentum, Donchian, MaCross, Pairs, RsiReversion, TargetWeights
from trading.backtest.sweep import sweep
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput

SPX = sample_bars("indices").loc["2007":"2010", (slice(None), ["S&P 500"])]
SIGNALS = MaCross(10, 30).signals(SPX)


def spoiled(field, row, value):
    bars = SPX.copy()
    bars.iloc[row, bars.columns.get_loc((field, "S&P 500"))] = value
    return bars


@pytest.mark.parametrize("bars, says", [
    (SPX.iloc[:0], "the bars are empty"),
    (SPX.iloc[:1], "1 bar from 2007-01-03"),
    (SPX.iloc[[0, 2, 1]], "the time 2007-01-04.* stands after 2007-01-05"),
    (SPX.iloc[[0, 1, 1, 2]], "the time 2007-01-04.* occurs twice"),
    (spoiled("close", 7, 0.0), "S&P 500: close is 0.0 at 2007-01-12"),
    (spoiled("open", 9, -3.0), "S&P 500: open is -3.0 at 2007-01-17"),
    (spoiled("open", 9, np.nan), "S&P 500: only one of open and close is there at 2007-01-17"),
], ids=["empty", "one bar", "unsorted", "duplicated", "zero", "negative", "half missing"])
@pytest.mark.parametrize("run", [
    lambda bars: backtest(bars, signals=SIGNALS.reindex(bars.index[~bars.index.duplicated()], fill_value=0), fees=0.001),
    lambda bars: backtest(bars, weights=TargetWeights().weights(SPX), fees=0.001),
    lambda bars: sweep(bars, MaCross, {"fast": [5], "slow": [20]}),
], ids=["signals", "weights", "sweep"])
def test_broken_bars_are_named_by_column_symbol_and_time(bars, says, run):
    with pytest.raises(BadInput, match=says):
        run(bars)


@pytest.mark.parametrize("asked, says", [
    ({"signals": SIGNALS.rename(columns={"S&P 500": "DAX"})}, "the signals name 'DAX', which the bars lack"),
    ({"weights": pd.DataFrame({"DAX": [1.0]}, index=SPX.index[:1])}, "the weights name 'DAX', which the bars lack"),
    ({"signals": SIGNALS.iloc[5:]}, "the signals lack the time 2007-01-03"),
    ({"signals": SIGNALS, "fees": -0.001}, "fees is -0.001"),
    ({"signals": SIGNALS, "fees": float("nan")}, "fees is nan"),
    ({"signals": SIGNALS, "slippage": -1e-9}, "slippage is -1e-09"),
    ({"signals": SIGNALS, "cash": 0}, "cash is 0"),
    ({"signals": SIGNALS, "stop_loss": 2}, "stop_loss is 2"),
    ({"weights": pd.DataFrame({"S&P 500": [0.5]}, index=SPX.index[:1]), "stop_loss": 0.1}, "stops and size belong to signals"),
])
def test_broken_questions_are_named(asked, says):
    with pytest.raises(BadInput, match=says):
        backtest(SPX, **{"fees": 0.001, **asked})


@pytest.mark.parametrize("grid, says", [({}, "no values"), ({"fast": [], "slow": [20]}, "no values for 'fast'"),
                                        ({"fast": [30, 20], "slow": [20]}, "fast window 30 is not shorter than the slow window 20")])
def test_a_grid_with_nothing_in_it_is_refused(grid, says):
    with pytest.raises(BadInput, match=says):
        sweep(SPX, MaCross, grid)


def test_a_missing_price_is_waited_for_and_never_taken_for_zero():
    bars = SPX.copy()
    enter = int(np.flatnonzero(SIGNALS["S&P 500"].diff() == 1)[0])
    bars.iloc[enter + 1 : enter + 4] = np.nan
    run = backtest(bars, signals=SIGNALS, fees=0.0)
    assert run.orders["timestamp"].iloc[0] == bars.index[enter + 4]
    assert run.orders["price"].iloc[0] == bars["open"].iloc[enter + 4, 0]
    assert run.equity.min() > 1000 and not run.equity.isna().any()


def test_an_order_is_never_filled_on_the_bar_that_decided_it():
    run = backtest(SPX, signals=SIGNALS, fees=0.001)
    before = SPX.index[SPX.index.get_indexer(run.orders["timestamp"]) - 1]
    changed = SIGNALS["S&P 500"].diff().ne(0)
    assert changed[before].all() and len(before) > 10
    assert np.allclose(run.orders["price"], SPX["open"]["S&P 500"].loc[run.orders["timestamp"]])


@pytest.mark.parametrize("strategy", [MaCross(5, 20), RsiReversion(5), BollingerBreakout(), Donchian(), TargetWeights(every="week"),
                                      CrossSectionalMomentum(60, 5, every="week"), Pairs(window=60)], ids=str)
def test_what_happens_later_changes_nothing_before(strategy):
    bars = sample_bars("indices").loc["2008":"2009"].astype(float)
    cut = 300
    later = bars.copy()
    later.iloc[cut:] = later.iloc[cut:] * np.random.default_rng(0).uniform(0.5, 2, (len(bars) - cut, 1))
    one, other, short = (backtest(b, strategy, fees=0.001).equity for b in (bars, later, bars.iloc[:cut]))
    assert one.iloc[:cut].equals(other.iloc[:cut]) and np.allclose(short, one.iloc[:cut], rtol=1e-14)


def test_a_smaller_bet_has_the_volatility_that_was_asked_for():
    bars = sample_bars("indices").loc[:, (slice(None), ["NASDAQ"])]
    always = pd.DataFrame(1, bars.index, ["NASDAQ"])
    always.iloc[::20] = 0
    run = backtest(bars, signals=always, fees=0, size=volatility_size(bars, 0.1, window=20))
    assert 0.07 < run.stats["volatility"] < 0.13


def test_a_hundred_times_the_money_is_a_hundred_times_the_account():
    one, hundred = (backtest(SPX, signals=SIGNALS, fees=0.001, cash=cash) for cash in (1e4, 1e6))
    assert np.allclose(hundred.equity, one.equity * 100, rtol=1e-12)


@pytest.mark.parametrize("word", ["kind", "function", "strategy", "name", "params", "returns", "fee_rate", "seed"])
def test_a_function_may_call_its_parameter_anything(word):
    "Words that the house uses itself are a function's own, when it has a parameter of that name."
    from trading.backtest.engine import backtest
    from trading.backtest.strategies import FunctionStrategy
    from trading.core.datasets import sample_bars

    place: dict = {}
    exec(f"def rule(bars, {word}=2):\n    return (bars['close'] > bars['close'].rolling({word} * 10).mean()).astype(float)", place)
    bars = sample_bars("stocks").loc["2021":, (slice(None), ["AAPL"])]
    by_hand = (bars["close"] > bars["close"].rolling(40).mean()).astype(float)
    strategy = FunctionStrategy(place["rule"], **{word: 4})
    assert strategy.kind == "signals" and strategy.get_params() == {word: 4} and strategy.signals(bars).equals(by_hand)
    assert len(backtest(bars, strategy).equity) == len(bars)


def test_what_a_function_returns_may_still_be_said_by_name():
    from trading.backtest.strategies import FunctionStrategy

    assert FunctionStrategy(lambda bars, n=3: bars["close"], kind="weights", n=4).kind == "weights"
