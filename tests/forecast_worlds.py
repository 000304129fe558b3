"Simulated worlds in which the truth about forecasts is known: a policy with and without them, costs paid, over two years."

from dataclasses import dataclass

import numpy as np
import pandas as pd

from trading.forecast.evidence import measure_skill, standing_forecasts
from trading.portfolio.policies import policy

BARS, SYMBOLS, COST, DRIFT = 20, 20, 0.0015, 0.05


@dataclass(frozen=True)
class Lived:
    "Two years of a policy with forecasts beside the same policy without them."

    gain: float  # log return a year beyond the policy without forecasts, both after costs
    turnover: float  # of the policy without forecasts, a year
    extra: float  # turnover a year that the forecasts added
    share: float  # mean share of a forecast that counted

    @property
    def costs(self) -> float:
        "What the forecasts cost a year."
        return self.extra * COST


def market(seed: int, skill: float, days: int, claimed: float = 0.01) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Return log returns by day and symbol, and forecasts over twenty bars that claim an R² of 1 %; skill: 1 true, 0 noise, -1 the wrong sign."
    rng, memory = np.random.default_rng(seed), 0.97
    x = rng.normal(size=(days, SYMBOLS))
    for t in range(1, days):
        x[t] = memory * x[t - 1] + (1 - memory**2) ** 0.5 * x[t]
    expected = claimed**0.5 * 0.015 * BARS**0.5 * x
    drift = skill * expected * (1 - memory) / (1 - memory**BARS)
    moves = np.vstack([np.zeros(SYMBOLS), drift[:-1]]) + rng.normal(0, 0.009, (days, 1)) + rng.normal(0, 0.012, x.shape)
    times, names = pd.date_range("2010-01-01", periods=days, freq="B", tz="UTC"), [f"S{i:02}" for i in range(SYMBOLS)]
    return pd.DataFrame(moves, times, names), pd.DataFrame(expected, times, names)


def record(moves: pd.DataFrame, expected: pd.DataFrame) -> pd.DataFrame:
    "Return forecasts and outcomes as `hold_out` does."
    came = moves.cumsum().shift(-BARS) - moves.cumsum()
    long = pd.DataFrame({"expected": expected.stack(), "realised": came.stack().reindex(expected.stack().index)})
    long = long.assign(std=0.015 * BARS**0.5, horizon=BARS).rename_axis(["timestamp", "symbol"])
    return long.set_index("horizon", append=True)


def live(seed: int, skill: float, past: int = 1260, days: int = 504, every: int = 5, trust: float = 1 / 3) -> Lived:
    "Live through two years: a record of so many bars, evidence measured each quarter, weights decided every so many bars."
    moves, expected = market(seed, skill, 504 + past + days + 1)
    held = record(moves, expected)
    standing = standing_forecasts(held)["expected"].unstack("symbol").to_numpy()
    chosen, simple = policy("balanced", "medium", horizon=BARS, periods=252), np.expm1(moves)
    weights, paid, growth, shares, share, start = [None, None], [0.0, 0.0], [0.0, 0.0], [], 0.0, 504 + past - 1
    for t in range(start, start + days):
        if (t - start) % 63 == 0:
            seen = held.loc[moves.index[t - past - BARS] : moves.index[t - BARS]]
            share = measure_skill(seen, COST)[str(BARS)].share
        if (t - start) % every == 0:
            index = pd.MultiIndex.from_product([moves.columns, [BARS]], names=["symbol", "horizon"])
            views = pd.DataFrame({"expected": standing[t], "confidence": trust * share}, index=index)
            known = simple.iloc[t - 503 : t + 1]
            targets = [chosen.weights(known).to_numpy()]
            targets.append(chosen.weights(known, forecast=views).to_numpy() if share else targets[0])
        shares.append(share)
        for i, target in enumerate(targets):
            old = weights[i] if weights[i] is not None else target
            new = np.where(np.abs(target - old) > DRIFT * np.maximum(target, 1e-9), target, old)
            traded, earned = np.abs(new - old).sum(), new @ simple.iloc[t + 1]
            paid[i] += traded
            growth[i] += np.log1p(earned - COST * traded)
            weights[i] = new * (1 + simple.iloc[t + 1].to_numpy()) / (1 + earned)
    year = days / 252
    return Lived((growth[1] - growth[0]) / year, paid[0] / year, (paid[1] - paid[0]) / year, float(np.mean(shares)))
