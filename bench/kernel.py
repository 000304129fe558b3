"What a backtest costs by itself, in processor time of one thread: `python bench/kernel.py`, one JSON line per figure, in half a minute."

import json
import tempfile
import time
import warnings

import numpy as np
import pandas as pd

from trading.backtest.engine import backtest
from trading.backtest.strategies import MaCross
from trading.backtest.sweep import sweep
from trading.backtest.trial_register import TrialRegister
from trading.core.bars import bars_from, bars_from_close
from trading.core.datasets import sample_bars
from trading.portfolio.hierarchical import HierarchicalRiskParity
from trading.portfolio.mean_risk import MeanRisk
from trading.risk.stress import stress

warnings.simplefilter("ignore")
HOW = {"progress": False, "workers": 1, "fees": 0.001, "slippage": 0.0005}


def least(work, times: int = 4) -> float:
    "Return the least processor time of some runs, after one that loads what was compiled."
    work()
    found = []
    for _ in range(times):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def say(figure: str, value: float, unit: str, rival: str = "", rival_value: float | None = None, ratio: float | None = None) -> None:
    value, rival_value, ratio = (None if x is None else round(float(x), 5) for x in (value, rival_value, ratio))
    print(json.dumps({"figure": figure, "value": value, "unit": unit, "rival": rival, "rival_value": rival_value, "ratio": ratio}), flush=True)


def crossings(bars: pd.DataFrame) -> None:
    "The crossing kernel, with the trial register and without."
    pairs = {"fast": range(2, 102), "slow": range(102, 202)}
    bare = least(lambda: sweep(bars, MaCross, pairs, register=False, **HOW))
    with tempfile.TemporaryDirectory() as folder:
        register = TrialRegister(f"{folder}/trials.sqlite")
        counted = least(lambda: sweep(bars, MaCross, pairs, register=register, **HOW))
    say("moving-average sweep of 10,000", 1e4 / bare, "backtests/s")
    say("the same, counted", 1e4 / counted, "backtests/s", "not counted", 1e4 / bare, bare / counted)


def ready(bars: pd.DataFrame) -> None:
    "Positions that lie ready, 200 of them, with what the account knows; vectorbt has them as one frame."
    import vectorbt as vbt

    close, open_ = bars["close"].iloc[:, 0], bars["open"].iloc[:, 0]
    means = [close.rolling(w).mean() * (1 - d) for w in range(5, 105) for d in (0.02, 0.05)]
    table = np.column_stack([(close < m).to_numpy() for m in means]).astype(np.int8)
    columns, million = bars["close"].columns, table.size / 1e6

    def rule(bars, k=0):
        return pd.DataFrame(table[:, k : k + 1], bars.index, columns)

    def directly():
        long = pd.DataFrame(table > 0, close.index).shift(1, fill_value=False)
        run = vbt.Portfolio.from_signals(close, long, ~long, price=open_, freq="1D", init_cash=10_000, fees=0.001, slippage=0.0005)
        return run.total_return(), run.sharpe_ratio(), run.max_drawdown()

    theirs = least(directly)
    for what, rules in (("", {}), (" with stop and target", {"stop_loss": 0.05, "take_profit": 0.1}), (" in shared cash", {"shared": True})):
        ours = least(lambda rules=rules: sweep(bars, rule, {"k": range(200)}, register=False, **HOW, **rules))
        say(f"200 ready signals{what}", million / ours, "million bars/s", "vectorbt directly, no stops", million / theirs, theirs / ours)


def weights() -> None:
    "Daily rebalancing of 20 symbols."
    import vectorbt as vbt

    rng = np.random.default_rng(0)
    days = pd.DatetimeIndex(pd.date_range("2000-01-03", periods=5000, freq="B", tz="UTC"), freq=None, name="timestamp")
    paths = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (20, 5000)), axis=1))
    shape = {"open": 1, "high": 1.01, "low": 0.99, "close": 1.001}
    bars = bars_from({f"S{i:02}": pd.DataFrame({f: x * k for f, k in shape.items()}, index=days) for i, x in enumerate(paths)})
    rows = pd.DataFrame(rng.dirichlet(np.ones(20), 5000), days, bars["close"].columns)
    close, open_, wanted = (pd.DataFrame(x.to_numpy(), days, list(rows)) for x in (bars["close"], bars["open"], rows.shift(1)))
    ours = least(lambda: backtest(bars, weights=rows, register=False))

    def directly():
        how = {"size_type": "targetpercent", "group_by": True, "cash_sharing": True, "call_seq": "auto", "freq": "1D"}
        run = vbt.Portfolio.from_orders(close, wanted, price=open_, fees=0.001, **how)
        return run.total_return(), run.sharpe_ratio(), run.max_drawdown()

    theirs = least(directly)
    say("backtest of weights, 20 x 5,000 daily", ours, "s", "vectorbt from_orders, three figures", theirs, theirs / ours)


def portfolios() -> None:
    "A stress test and two large optimisations."
    rng = np.random.default_rng(0)
    days = pd.DatetimeIndex(pd.date_range("2007-01-01", periods=4500, freq="B", tz="UTC"), freq=None, name="timestamp")

    def returns(assets: int, length: int) -> pd.DataFrame:
        values = rng.standard_normal((length, assets)) * 0.01 + rng.standard_normal((length, 1)) * 0.01
        return pd.DataFrame(values, days[-length:], [f"A{i:04}" for i in range(assets)])

    few, many = returns(100, 750), returns(1000, 1500)
    bars = bars_from_close(100 * (1 + returns(100, 4500)).cumprod())
    say("stress of 100 symbols, all scenarios", least(lambda: stress(pd.Series(0.01, list(few)), bars)), "s")
    say("hierarchical risk parity with caps, 100 assets", least(lambda: HierarchicalRiskParity(bounds=(0, 0.05)).fit(few)), "s")
    groups = {s: f"g{i % 10}" for i, s in enumerate(many)}
    caps = {f"g{k}": (0.05, 0.15) for k in range(10)}
    model = MeanRisk(risk="MV", bounds=(0, 0.02), groups=groups, group_bounds=caps, covariance="sample", solver="direct")
    say("mean-variance of 1,000 assets with group limits", least(lambda: model.fit(many), 2), "s", "asked for", 0.5)


if __name__ == "__main__":
    market = sample_bars("indices").loc[:, (slice(None), ["S&P 500"])]
    crossings(market)
    ready(market)
    weights()
    portfolios()
