"The same orders, fees and prices through other people's backtesters give the same account."

import warnings

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import backtest
from trading.backtest.strategies import Donchian, MaCross
from trading.core.datasets import sample_bars

FEES = 0.001


@pytest.fixture(scope="module")
def nasdaq():
    return sample_bars("indices").loc["2003":"2010", (slice(None), ["NASDAQ"])]


@pytest.mark.parametrize("strategy", [MaCross(20, 50), MaCross(5, 40, short=True), Donchian(20, 10, short=True)], ids=str)
def test_backtesting_py_reaches_the_same_equity_when_it_sizes_its_own_orders(nasdaq, strategy):
    "It buys with everything, fee included, at the next open, and turns by closing first; only fractions of 1e-8 units are rounded."
    from backtesting import Strategy
    from backtesting.lib import FractionalBacktest

    wanted = strategy.signals(nasdaq)["NASDAQ"].to_numpy()

    class Follow(Strategy):
        def init(self):
            self.now = 0

        def next(self):
            new = wanted[len(self.data) - 1]
            if new != self.now:
                if self.now:
                    self.position.close()
                if new:
                    self.buy() if new > 0 else self.sell()
                self.now = new

    frame = nasdaq.xs("NASDAQ", axis=1, level=1).rename(columns=str.capitalize).tz_localize(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = FractionalBacktest(frame, Follow, cash=10_000, commission=FEES, trade_on_close=False).run()._equity_curve["Equity"]
    ours = backtest(nasdaq, strategy, fees=FEES)
    assert len(ours.orders) > 20
    assert np.allclose(theirs.to_numpy(), ours.equity.to_numpy(), rtol=1e-6)


def bt_equity(close, algos, fees):
    "Run a stack of algos in bt with fractions of units and a proportional commission."
    import bt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        test = bt.Backtest(bt.Strategy("s", algos), close.tz_localize(None), initial_capital=10_000, integer_positions=False,
                           commissions=lambda q, p: abs(q) * p * fees, progress_bar=False)
        bt.run(test)
    return test.strategy.values.iloc[1:].to_numpy()  # bt puts a day before the first


def test_bt_reaches_the_same_equity_with_the_same_orders_and_fees():
    import bt

    bars = sample_bars("stocks").loc["2015":"2019", (slice(None), ["AAPL", "XOM", "PFE", "WMT", "JPM"])]
    months = bars.index[np.flatnonzero(np.diff(bars.index.month))]
    rows = pd.DataFrame(np.random.default_rng(4).dirichlet(np.ones(6), len(months))[:, :5], months, bars["close"].columns)
    ours = backtest(bars, weights=rows, fees=FEES)
    by_day = dict(iter(ours.orders.groupby(ours.orders["timestamp"].dt.tz_localize(None))))

    class SameOrders(bt.Algo):
        def __call__(self, target):
            for order in by_day.get(target.now, pd.DataFrame()).itertuples():
                target.transact(order.amount if order.side == "buy" else -order.amount, child=order.symbol)
            return True

    assert len(ours.orders) > 200
    assert np.allclose(bt_equity(bars["close"], [SameOrders()], FEES), ours.equity, rtol=1e-6)


def test_bt_reaches_the_same_equity_without_fees_when_it_sizes_its_own_orders():
    "With fees bt buys a little less of everything, and we sell first and give the last buy what is left; without, both agree."
    import bt

    bars = sample_bars("stocks").loc["2015":"2017", (slice(None), ["AAPL", "XOM", "PFE"])]
    months = bars.index[np.flatnonzero(np.diff(bars.index.month))]
    rows = pd.DataFrame(np.random.default_rng(4).dirichlet(np.ones(4), len(months))[:, :3], months, bars["close"].columns)
    filled = bars.index[bars.index.get_indexer(months) + 1].tz_localize(None)
    algos = [bt.algos.RunOnDate(*filled), bt.algos.WeighTarget(rows.set_axis(filled)), bt.algos.Rebalance()]
    assert np.allclose(bt_equity(bars["close"], algos, 0.0), backtest(bars, weights=rows, fees=0).equity, rtol=1e-6)
