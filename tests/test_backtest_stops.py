"Stops work from the first bar: against hand calculations, a slow loop, and backtesting.py on hundreds of random strategies."

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import backtest
from trading.backtest.strategies import MaCross
from trading.backtest.sweep import sweep
from trading.core.bars import bars_from
from trading.core.datasets import sample_bars

DAYS = pd.date_range("2021-01-04", periods=6, tz="UTC")


def flat_market(**changed) -> pd.DataFrame:
    "Six bars around 100; a field given replaces the usual one."
    usual = {"open": [100.0] * 6, "high": [101.0] * 6, "low": [99.0] * 6, "close": [100.0] * 6, "volume": [1.0] * 6}
    return bars_from({"X": pd.DataFrame(usual | changed, index=DAYS)})


HOLD = pd.Series([0, 1, 1, 1, 1, 1], DAYS)  # decided at the close of the second bar, bought at the open of the third
SHORT = -HOLD
# what happens in the bar of the entry → money left of 10,000, without costs
FIRST_BAR = {
    "the low hits the stop": (HOLD, {"low": [99.0, 99, 80, 99, 99, 99]}, {"stop_loss": 0.05}, 9_500),
    "the low misses the stop by a cent": (HOLD, {"low": [99.0, 99, 95.01, 99, 99, 99]}, {"stop_loss": 0.05}, 10_000),
    "the low touches the stop exactly": (HOLD, {"low": [99.0, 99, 95, 99, 99, 99]}, {"stop_loss": 0.05}, 9_500),
    "the high hits the target": (HOLD, {"high": [101.0, 101, 120, 101, 101, 101]}, {"take_profit": 0.1}, 11_000),
    "both are touched: the loss counts": (
        HOLD, {"high": [101.0, 101, 120, 101, 101, 101], "low": [99.0, 99, 80, 99, 99, 99]}, {"stop_loss": 0.05, "take_profit": 0.1}, 9_500),
    "a short is stopped by the high": (SHORT, {"high": [101.0, 101, 120, 101, 101, 101]}, {"stop_loss": 0.05}, 9_500),
    "a short reaches its target at the low": (SHORT, {"low": [99.0, 99, 80, 99, 99, 99]}, {"take_profit": 0.1}, 11_000),
    "the low came before an order at the close": (HOLD, {"low": [99.0, 99, 80, 99, 99, 99]}, {"stop_loss": 0.05, "fill": "close"}, 10_000),
    "an order at the close is stopped by the next low": (HOLD, {"low": [99.0, 99, 99, 80, 99, 99]}, {"stop_loss": 0.05, "fill": "close"}, 9_500),
    "a gap through the stop is paid in full": (
        HOLD, {"open": [100.0, 100, 100, 90, 100, 100], "low": [99.0, 99, 99, 89, 99, 99]}, {"stop_loss": 0.05}, 9_000),
}


@pytest.mark.parametrize("case", FIRST_BAR)
def test_the_bar_of_the_entry_counts(case):
    signals, changed, given, left = FIRST_BAR[case]
    result = backtest(flat_market(**changed), signals=signals, fees=0.0, **given)
    assert result.equity.iloc[-1] == pytest.approx(left, rel=1e-12)


def test_the_high_of_the_entry_bar_lifts_a_trailing_stop():
    bars = flat_market(open=[100.0, 100, 100, 118, 106, 106], high=[101.0, 101, 120, 118, 107, 107], low=[99.0, 99, 99, 105, 105, 105],
                       close=[100.0, 100, 118, 106, 106, 106])
    result = backtest(bars, signals=HOLD, stop_loss=0.1, trailing=True, fees=0.0)
    assert result.equity.iloc[-1] == pytest.approx(10_800, rel=1e-12), "10 % below 120"
    assert result.trades[["entry", "exit", "exit_price", "bars", "open"]].values.tolist() == [[DAYS[2], DAYS[3], 108.0, 1, False]]


def test_both_orders_of_a_bar_are_in_the_records_and_cost_their_fees():
    result = backtest(flat_market(low=[99.0, 99, 80, 99, 99, 99]), signals=HOLD, stop_loss=0.05, fees=0.01, cash=10_100.0)
    assert result.orders[["timestamp", "side", "price"]].values.tolist() == [[DAYS[2], "buy", 100.0], [DAYS[2], "sell", 95.0]]
    assert result.orders["fee"].tolist() == pytest.approx([100.0, 95.0]), "100 units: 1 % of 10,000 and of 9,500"
    assert result.equity.tolist() == pytest.approx([10_100, 10_100] + [9_405] * 4) and result.trades["bars"].tolist() == [0]


def one_symbol(rng: np.random.Generator) -> pd.DataFrame:
    "Cut a piece out of the S&P 500's history and make it as wild as a coin's."
    spx = sample_bars("indices").xs("S&P 500", axis=1, level=1)
    start = int(rng.integers(0, len(spx) - 320))
    part = spx.iloc[start : start + 300][["open", "high", "low", "close"]]
    wild = np.exp(np.log(part / part["close"].iloc[0]) * 3) * 100
    return wild.assign(volume=1.0).assign(high=wild.max(axis=1), low=wild.min(axis=1))


def slow_loop(one: pd.DataFrame, entry, leave, stop, target, trailing, fees) -> float:
    "Do what the documentation says, bar by bar, in the plainest way: money left of one."
    cash, units, paid, best = 1.0, 0.0, 0.0, 0.0
    o, h, low, c = (one[f].to_numpy() for f in ("open", "high", "low", "close"))
    for t in range(1, len(c)):
        if units and leave[t - 1]:
            cash, units = units * o[t] * (1 - fees), 0.0
        elif not units and entry[t - 1]:
            units, paid, best, cash = cash / (o[t] * (1 + fees)), o[t], o[t], 0.0
        if units:
            level = (best if trailing else paid) * (1 - stop) if stop else -np.inf
            if low[t] <= level:
                cash, units = units * min(o[t], level) * (1 - fees), 0.0
            elif target and h[t] >= paid * (1 + target):
                cash, units = units * max(o[t], paid * (1 + target)) * (1 - fees), 0.0
            best = max(best, h[t])
    return cash + units * c[-1]


def test_five_hundred_random_strategies_agree_with_a_slow_loop():
    rng, stopped = np.random.default_rng(20), 0
    for _ in range(100):
        names = list("ABCDE")
        many = {s: one_symbol(rng).set_axis(sample_bars("indices").index[:300]) for s in names}
        leave = {s: rng.random(300) < 0.05 for s in names}
        entry = {s: (rng.random(300) < 0.1) & ~leave[s] for s in names}
        stop, target, trailing = rng.uniform(0.005, 0.08), (rng.uniform(0.01, 0.1) if rng.random() < 0.5 else None), bool(rng.random() < 0.4)
        bars = bars_from(many)
        events = pd.DataFrame({("entry", s): entry[s] for s in names} | {("exit", s): leave[s] for s in names}, index=bars.index)
        result = backtest(bars, signals=events, stop_loss=stop, take_profit=target, trailing=trailing, fees=0.001, shared=False)
        slow = [2_000 * slow_loop(many[s], entry[s], leave[s], stop, target, trailing, 0.001) for s in names]
        assert result.accounts.iloc[-1][names].tolist() == pytest.approx(slow, rel=1e-9)
        stopped += int((result.trades["bars"] == 0).sum())
    assert stopped > 500, "stops within the bar of the entry were among them"


def test_backtesting_py_stops_at_the_same_prices():
    import warnings

    from backtesting import Backtest as Theirs
    from backtesting import Strategy

    rng, compared = np.random.default_rng(7), 0
    for _ in range(60):
        one = one_symbol(rng)
        entry, leave = rng.random(300) < 0.1, rng.random(300) < 0.05
        entry &= ~leave
        stop, target = rng.uniform(0.01, 0.08), rng.uniform(0.02, 0.1)
        filled, now = one["open"].shift(-1).fillna(one["close"]).to_numpy(), one["close"].to_numpy()
        entry[[0, -2, -1]] = False  # theirs acts from the second bar on, and sells at the last
        entry &= (filled * (1 - stop) < now) & (now < filled * (1 + target))  # theirs refuses a stop on the wrong side of the last close

        class Same(Strategy):
            def init(self):
                pass

            def next(self, entry=entry, leave=leave, paid=filled / 1e6, stop=stop, target=target):
                t = len(self.data) - 1
                if self.position and leave[t]:
                    self.position.close()
                elif not self.position and entry[t]:
                    self.buy(size=0.9999999, sl=paid[t] * (1 - stop), tp=paid[t] * (1 + target))

        frame = one.rename(columns=str.capitalize).tz_localize(None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = Theirs(frame / 1e6, Same, cash=1e6, commission=0.0, finalize_trades=True).run()["_trades"]
        events = pd.concat({("entry", "X"): pd.Series(entry, one.index), ("exit", "X"): pd.Series(leave, one.index)}, axis=1)
        ours = backtest(bars_from({"X": one}), signals=events, stop_loss=stop, take_profit=target, fees=0.0).trades
        ours = ours[~ours["open"]]
        theirs = theirs.sort_values(["EntryBar", "ExitBar"]).iloc[: len(ours)]
        assert (theirs["EntryPrice"] * 1e6).tolist() == pytest.approx(ours["entry_price"].tolist(), rel=1e-6)
        assert (theirs["ExitPrice"] * 1e6).tolist() == pytest.approx(ours["exit_price"].tolist(), rel=1e-6)
        compared += len(ours)
    assert compared > 500


def test_a_sweep_stops_as_a_backtest_does():
    bars = bars_from({"X": one_symbol(np.random.default_rng(1))})
    table = sweep(bars, MaCross, {"fast": [2, 5], "slow": [10, 20]}, ["total_return", "trades", "fees"], stop_loss=0.01, fees=0.001, register=False)
    for (fast, slow), row in table.groupby(level=["fast", "slow"]).first().iterrows():
        alone = backtest(bars, MaCross(fast, slow), stop_loss=0.01, fees=0.001).stats
        assert row.tolist() == pytest.approx(alone[list(row.index)].astype(float).tolist(), rel=1e-9)


@pytest.mark.parametrize("engine", ["kernel", "vectorbt"])
def test_the_reversion_strategy_does_not_buy_a_halt(engine):
    from trading.backtest.strategies import RsiReversion

    times = pd.date_range("2020-01-01", periods=700, tz="UTC")
    close = pd.Series(np.r_[100 + np.sin(np.arange(40)) * 3, np.full(660, 104.0)], times)  # rises into the halt, and stands still for years
    bars = bars_from({"X": pd.DataFrame(dict.fromkeys(("open", "high", "low", "close"), close)).assign(volume=0.0)})
    result = backtest(bars, RsiReversion(14, 30, 55), fees=0.0)
    assert not (result.orders["timestamp"] > times[60]).any()
    table = sweep(bars, RsiReversion, {"window": [7, 14], "low": [30]}, ["trades", "exposure"], engine=engine, fees=0.0, register=False)
    assert (table["exposure"] < 0.1).all()
