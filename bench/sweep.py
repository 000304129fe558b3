"""Ten thousand moving-average pairs on twenty years of daily bars, against vectorbt and backtesting.py; and the memory of large sweeps.

Every rival runs in the same minutes on the same machine; what a rival cannot do in that time is measured on a sample, and its rate counts.
Memory is that of a process of its own, at its highest, libraries included.
"""

import gc
import json
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
import pandas as pd
from backtesting import Strategy
from backtesting.lib import crossover
from backtesting.test import SMA

COSTS = {"fees": 0.001, "slippage": 0.0005}
PAIRS = {"fast": list(range(2, 102)), "slow": list(range(102, 202))}  # every fast one shorter than every slow one: 10,000


def market() -> pd.DataFrame:
    from trading.core.datasets import sample_bars

    return sample_bars("indices").loc[:, (slice(None), ["S&P 500"])]


def say(figure: str, value: float, unit: str, rival: str = "", rival_value: float | None = None, ratio: float | None = None) -> None:
    value, rival_value, ratio = (None if x is None else round(float(x), 3) for x in (value, rival_value, ratio))
    print(json.dumps({"figure": figure, "value": value, "unit": unit, "rival": rival, "rival_value": rival_value, "ratio": ratio}), flush=True)


def timed(function, times: int = 1) -> tuple[float, object]:
    "Return the shortest of some runs, in seconds, and the last result."
    best, result = np.inf, None
    for _ in range(times):
        began = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - began)
    return best, result


def with_vectorbt(bars: pd.DataFrame, pairs: list[tuple[int, int]]) -> np.ndarray:
    "Return, Sharpe ratio and drawdown of each pair as its documentation does it: means, signals, from_signals; chunks of 500."
    import vectorbt as vbt

    close, open_ = bars["close"]["S&P 500"], bars["open"]["S&P 500"]
    means = {w: close.rolling(w).mean().to_numpy() for w in {w for pair in pairs for w in pair}}
    parts = []
    for lo in range(0, len(pairs), 500):
        some = pairs[lo : lo + 500]
        above = pd.DataFrame(np.column_stack([means[f] > means[s] for f, s in some]), close.index).shift(1, fill_value=False)
        run = vbt.Portfolio.from_signals(close, above, ~above, price=open_, freq="1D", init_cash=10_000, **COSTS)
        parts.append(np.column_stack([run.total_return(), run.sharpe_ratio(year_freq="252 days"), run.max_drawdown()]))
        del run
        gc.collect()
    return np.concatenate(parts)


class Cross(Strategy):
    "The example of backtesting.py's own documentation; its worker processes must be able to import it."

    fast, slow = 10, 20

    def init(self):
        self.quick, self.calm = self.I(SMA, self.data.Close, self.fast), self.I(SMA, self.data.Close, self.slow)

    def next(self):
        if crossover(self.quick, self.calm):
            self.buy()
        elif crossover(self.calm, self.quick):
            self.position.close()


def with_backtesting_py(bars: pd.DataFrame, fast: list[int], slow: list[int]) -> float:
    "Backtests per second of backtesting.py's `optimize`, with its own SMA example."
    from backtesting import Backtest

    frame = bars.xs("S&P 500", axis=1, level=1).rename(columns=str.capitalize).tz_localize(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        test = Backtest(frame, Cross, cash=10_000_000, commission=0.001)
        test.run()
        seconds, _ = timed(lambda: test.optimize(fast=fast, slow=slow, maximize="Return [%]"))
    return len(fast) * len(slow) / seconds


def speed() -> None:
    from trading.backtest.strategies import MaCross
    from trading.backtest.sweep import sweep
    from trading.backtest.trial_register import TrialRegister

    bars = market()
    sweep(bars, MaCross, {"fast": [5], "slow": [50]}, workers=1, register=False)  # load what was compiled before
    ours = {n: [] for n in (1, 2)}
    for _ in range(7):  # in turn, so that a slow second of the machine meets both
        for n in ours:
            seconds, table = timed(lambda n=n: sweep(bars, MaCross, PAIRS, workers=n, progress=False, register=False, **COSTS))
            ours[n].append(len(table) / seconds)
    one, two = max(ours[1]), max(ours[2])
    with tempfile.TemporaryDirectory() as folder:
        counted = []
        for k in range(5):
            register = TrialRegister(f"{folder}/{k}.sqlite")
            counted.append(timed(lambda r=register: sweep(bars, MaCross, PAIRS, progress=False, register=r, **COSTS))[0])
    say("moving-average sweep, every variation counted in the trial register", len(table) / min(counted), "backtests/s")
    sample = list(table.index.droplevel("symbol")[::7][:1000])
    with_vectorbt(bars, sample[:2])
    seconds, theirs = timed(lambda: with_vectorbt(bars, sample))
    rate = len(sample) / seconds
    best = max(one, two)
    say("moving-average sweep, 5,031 bars", best, "backtests/s", "vectorbt, same sweep", rate, best / rate)
    say("moving-average sweep, one thread", one, "backtests/s", "vectorbt, same sweep", rate, one / rate)
    apart = np.abs(table.to_numpy()[::7][:1000] - theirs).max()
    say("largest difference from vectorbt's figures", apart * 1e9, "1e-9")
    slow = with_backtesting_py(bars, [5, 10, 20, 30], [60, 100, 150, 200])
    say("moving-average sweep against optimize", best, "backtests/s", "backtesting.py optimize", slow, best / slow)
    plain(bars)


def plain(bars: pd.DataFrame) -> None:
    "A user's own rule: the signals alone, our sweep of it, and vectorbt called directly with all columns at once and three figures."
    import vectorbt as vbt

    from trading.backtest.sweep import sweep

    grid = {"window": list(range(5, 105)), "depth": [0.02, 0.05]}
    combos = [(w, d) for w in grid["window"] for d in grid["depth"]]
    close, open_ = bars["close"]["S&P 500"], bars["open"]["S&P 500"]

    def directly(signals: list[pd.DataFrame]) -> None:
        long = pd.DataFrame(np.column_stack([s.to_numpy().ravel() for s in signals]) > 0, close.index).shift(1, fill_value=False)
        run = vbt.Portfolio.from_signals(close, long, ~long, price=open_, freq="1D", init_cash=10_000, **COSTS)
        run.total_return(), run.sharpe_ratio(), run.max_drawdown()

    how = {"progress": False, "register": False, "workers": 1, **COSTS}
    sweep(bars, dips, {"window": [5], "depth": [0.02]}, stop_loss=0.05, **how)
    sweep(bars, dips, {"window": [5], "depth": [0.02]}, **how)
    alone, signals = timed(lambda: [dips(bars, w, d) for w, d in combos], 3)
    ours, _ = timed(lambda: sweep(bars, dips, grid, **how), 3)
    stops, _ = timed(lambda: sweep(bars, dips, grid, stop_loss=0.05, take_profit=0.1, **how), 3)
    directly(signals[:2])
    theirs, _ = timed(lambda: directly(signals), 3)
    count, size = len(combos), len(combos) * len(close) / 1e6
    say("a plain function, 200 variations", count / ours, "backtests/s", "vectorbt directly", count / (alone + theirs), (alone + theirs) / ours)
    say("the same beyond the function itself", size / (ours - alone), "million bars/s", "vectorbt directly", size / theirs, theirs / (ours - alone))
    say("a plain function with stop and target", count / stops, "backtests/s")
    account()


def account() -> None:
    "The compiled account alone: one symbol with stops and a decision on every tenth bar, and a decision on every bar."
    from trading.backtest.account import AccountRules, TradeRules, entry_ways, make_market, run_book
    from trading.backtest.costs import Costs

    market_, trade = make_market(market()), TradeRules(stop_loss=0.02, take_profit=0.04)
    for what, share in (("a decision on every tenth bar", 0.1), ("a decision on every bar", 1.0)):
        act = np.random.default_rng(0).choice([1, 2], (len(market_.index), 1)).astype(np.int8)
        act[np.random.default_rng(1).random(act.shape) >= share] = 0
        ways = entry_ways(market_, trade)
        seconds, _ = timed(lambda act=act, ways=ways: run_book(market_, Costs(0.001), trade, AccountRules(), act, ways), 50)
        say(f"account with stops and fees, {what}", len(act) / seconds / 1e6, "million bars/s")


def threads() -> None:
    "A search over a market: there the reading and checking of the bars, which one thread does, is a small part."
    from trading.backtest.strategies import MaCross
    from trading.backtest.sweep import sweep
    from trading.core.datasets import sample_bars

    bars = sample_bars("stocks").loc["2002-12":]
    sweep(bars, MaCross, {"fast": [5], "slow": [50]}, workers=1, register=False)
    ours = {n: [] for n in (1, 2)}
    for _ in range(5):
        for n in ours:
            ours[n].append(timed(lambda n=n: sweep(bars, MaCross, PAIRS, workers=n, progress=False, register=False, **COSTS))[0])
    one, two = (len(PAIRS["fast"]) * len(PAIRS["slow"]) * bars["close"].shape[1] / min(ours[n]) for n in (1, 2))
    say(f"moving-average sweep, {bars['close'].shape[1]} stocks x {len(bars):,} bars, two threads", two, "backtests/s", "one thread", one, two / one)


def dips(bars, window=20, depth=0.05):
    close = bars["close"]
    return (close < close.rolling(window).mean() * (1 - depth)).astype(int)


def million() -> None:
    from trading.backtest.strategies import MaCross
    from trading.backtest.sweep import sweep

    table = sweep(market(), MaCross, {"fast": range(2, 1002), "slow": range(1002, 2002)}, progress=False, register=False, **COSTS)
    assert len(table) == 1_000_000
    say("1,000,000 combinations", len(table) / table.attrs["seconds"], "backtests/s")


def large() -> None:
    "Enough columns at once to need 20 GB if they were not cut into chunks."
    from trading.backtest.sweep import sweep
    from trading.core.datasets import sample_bars

    bars = sample_bars("stocks").loc["2012":]
    table = sweep(bars, dips, {"window": list(range(5, 155)), "depth": [0.02, 0.05]}, engine="vectorbt", progress=False, register=False)
    say("6,000 columns through the vectorbt engine", len(table) / table.attrs["seconds"], "backtests/s")


def say_memory(part: str, limit: float) -> None:
    "Report the highest resident memory of this process."
    import resource

    unit = 1024.0**3 if sys.platform == "darwin" else 1024.0**2
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    say(f"highest memory, {part}", used, "GB", "limit", limit, used / limit)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        for part in ("million", "large", "speed", "threads"):  # each in a process of its own
            subprocess.run([sys.executable, __file__, part], check=True)
    elif sys.argv[1] == "speed":
        speed()
    elif sys.argv[1] == "threads":
        threads()
    elif sys.argv[1] == "million":
        million()
        say_memory("1,000,000 combinations", 1.0)
    else:
        large()
        say_memory("6,000 columns through the vectorbt engine", 2.0)
