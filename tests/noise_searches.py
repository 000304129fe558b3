"Searches over made-up prices, with and without an edge, taken to the door of production."

from itertools import product

import numpy as np
import pandas as pd

from trading.backtest.strategy_promotion import Candidate, PromotionDecision, Thresholds, check_candidate
from trading.backtest.trial_register import TrialRegister

PAIRS = [(f, s) for f, s in product((2, 3, 5, 8, 12), (10, 15, 25, 40, 60, 90)) if f < s]
WARM_UP, YEAR = 90, 250


def prices(seed: int, edge: float, bars: int) -> pd.Series:
    "A random walk with fat tails and clusters whose drift keeps its sign for fifty bars; `edge` is the drift in daily deviations."
    rng = np.random.default_rng(seed)
    variance = np.exp(0.5 * pd.Series(rng.normal(0, 0.3, bars)).ewm(span=20).mean().to_numpy() * 4)
    shocks = rng.standard_t(5, bars) * np.sqrt(3 / 5) * variance
    drift = np.repeat(rng.choice([-1.0, 1.0], bars // 50 + 1), 50)[:bars] * edge
    return pd.Series(100 * np.exp(0.01 * np.cumsum(shocks + drift)), pd.date_range("2015-01-01", periods=bars, freq="B", tz="UTC"))


def searched(close: pd.Series) -> pd.DataFrame:
    "Returns per bar of every pair of averages, long or short from the next bar on."
    x = close.to_numpy()
    total = np.concatenate([[0.0], np.cumsum(x)])
    means = {n: np.concatenate([np.full(n - 1, np.nan), (total[n:] - total[:-n]) / n]) for n in {w for p in PAIRS for w in p}}
    step = np.concatenate([[0.0], x[1:] / x[:-1] - 1])
    held = np.sign(np.stack([means[f] - means[s] for f, s in PAIRS], axis=1))
    returns = np.nan_to_num(np.roll(held, 1, axis=0)) * step[:, None]
    return pd.DataFrame(returns[WARM_UP:], index=close.index[WARM_UP:], columns=pd.MultiIndex.from_tuples(PAIRS, names=["fast", "slow"]))


def walked(returns: pd.DataFrame) -> pd.Series:
    "Each year the pair that was best in the two years before."
    r = returns.to_numpy()
    parts = []
    for i in range(2 * YEAR, len(r), YEAR):
        before = r[i - 2 * YEAR:i]
        parts.append(returns.iloc[i:i + YEAR, int((before.mean(axis=0) / before.std(axis=0)).argmax())])
    return pd.concat(parts)


def knock(seed: int, edge: float, register: TrialRegister, bars: int = 1600) -> PromotionDecision:
    "Search one made-up price and ask to be promoted."
    close = prices(seed, edge, bars)
    returns = searched(close)
    ratios = (returns.mean() / returns.std()).rename("sharpe")
    made = pd.concat({("close", f"PRICE{seed}"): close}, axis=1)
    register.record_many("averages", ratios.to_frame(), made, periods=1, returns=returns)
    best = ratios.idxmax()
    candidate = Candidate("averages", dict(zip(("fast", "slow"), best, strict=True)), made, returns[best], returns, walked(returns))
    return check_candidate(candidate, Thresholds(), register)
