"""How often noise is promoted and how often an edge is: the size and the power of the promotion's criteria.

Size: six kinds of returns that nobody can foresee, searched with some two hundred and fifty variations, mirror images among them.
Power: markets in which the rule of 8 and 40 days earns a stated Sharpe ratio, searched at costs with families of 30, 150 and 300 variations, with
and without mirrors, and beside 20,000 dull trials.
`python bench/promotion.py size 200` and `python bench/promotion.py power 40` print one line of JSON per figure.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from trading.backtest.joint_test import cell_statistic
from trading.backtest.overfitting import ReturnRecord
from trading.backtest.promotion import walk_cells
from trading.backtest.strategy_promotion import Candidate, Thresholds, joint_figures
from trading.backtest.trial_register import TrialRegister
from trading.core.datasets import sample_bars
from trading.core.drawdown import value_drawdown
from trading.core.trial_store import Cells, sketch_returns

WINDOWS = sorted({2, 3, 5, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 75, 90, 120, 150, 180, 200, 250})
WARM, COST = 260, 0.0005
T = Thresholds()  # as they come


def garch(rng, n):
    "GJR-GARCH with leverage and fat tails, mean zero."
    h, out, z = 1e-4, np.empty(n), rng.standard_t(6, n) * np.sqrt(4 / 6)
    for i in range(n):
        e = np.sqrt(h) * z[i]
        out[i] = e
        h = 2e-6 + (0.03 + 0.1 * (e < 0)) * e * e + 0.9 * h
    return out


def bounce(rng, n):
    "A random walk seen through a bid-ask spread: negative autocorrelation that costs would eat."
    return np.diff(np.concatenate([[0], np.cumsum(rng.normal(0, 0.01, n)) + rng.choice([-1, 1], n) * 0.001]))


def regimes(rng, n):
    "Volatility that changes from regime to regime, mean zero."
    s, i = np.empty(n), 0
    while i < n:
        length = rng.geometric(1 / 250)
        s[i : i + length] = rng.choice([0.006, 0.012, 0.03])
        i += length
    return rng.normal(0, 1, n) * s


def flipped(rng, n, real=[]):  # noqa: B006  read once
    "Blocks of real returns whose signs were drawn."
    if not real:
        real.append(np.log(sample_bars("stocks")["close"]).diff().iloc[1:].fillna(0).to_numpy())
    parts, r = [], real[0]
    while sum(map(len, parts)) < n:
        i, j = rng.integers(len(r) - 60), rng.integers(r.shape[1])
        parts.append(r[i : i + 60, j])
    return np.abs(np.concatenate(parts)[:n]) * rng.choice([-1, 1], n)


def hourly(rng, n):
    "Hours of a coin: tails of 2.6 degrees of freedom, clusters and jumps."
    v = np.exp(pd.Series(rng.normal(0, 0.25, n)).ewm(span=48).mean().to_numpy() * 5)
    return np.clip(rng.standard_t(2.6, n) * 0.004 * v + (rng.random(n) < 0.0005) * rng.normal(0, 0.06, n), -0.5, 0.5)


def planted(rng, n, sharpe, deviation=0.011):
    "A market whose drift follows the rule of 8 and 40 days, so that this rule earns the Sharpe ratio before costs."
    z = rng.standard_t(6, n) * np.sqrt(4 / 6) * np.exp(pd.Series(rng.normal(0, 0.25, n)).ewm(span=40).mean().to_numpy() * 3)
    z *= deviation / z.std()
    drift, price, r, held = sharpe * deviation / np.sqrt(252), np.ones(n + 1), np.zeros(n), 0
    for t in range(n):
        r[t] = np.expm1(z[t] - z.var() / 2) + held * drift
        price[t + 1] = price[t] * (1 + r[t])
        if t >= 40:
            held = 1 if price[t - 6 : t + 2].mean() > price[t - 38 : t + 2].mean() else -1
    return np.log1p(r)


def rules(log_returns) -> dict:
    "Positions of some 250 variations: averages, momentum, reversal, bands."
    lp = np.cumsum(log_returns)
    p, held = np.exp(lp), {}
    total = np.concatenate([[0.0], np.cumsum(p)])
    mean = {w: np.concatenate([np.full(w - 1, np.nan), (total[w:] - total[:-w]) / w]) for w in WINDOWS}
    for f in (8, 2, 3, 5, 10, 12, 15, 20, 25, 30, 40, 50):
        held |= {("ma", f, s): np.sign(mean[f] - mean[s]) for s in WINDOWS if f < s and s >= 8}
    for w in (1, 2, 3, 5, 8, 10, 15, 20, 40, 60, 90, 120, 180, 250):
        m = np.concatenate([np.full(w, np.nan), lp[w:] - lp[:-w]])
        held |= {("mom", w, 0): np.sign(m), ("up", w, 0): (m > 0) * 1.0}
    for w in (5, 10, 20, 40, 60, 120):
        rolled = pd.Series(lp).rolling(w)
        z = ((lp - rolled.mean()) / rolled.std()).to_numpy()
        for k in (0.5, 1, 1.5, 2):
            held |= {("out", w, k): np.where(z > k, 1, np.where(z < -k, -1, 0)), ("low", w, k): (z < -k) * 1.0, ("high", w, k): (z > k) * 1.0}
    return held


def family(log_returns, count: int, mirrors: bool, hours: bool = False, cost: float = COST) -> pd.DataFrame:
    "Returns of so many variations, the planted one first; half of them mirror images where that is asked."
    held = rules(log_returns)
    keys = list(held)
    others = keys[:]
    others.remove(("ma", 8, 40))
    np.random.default_rng(5).shuffle(others)
    chosen = [("ma", 8, 40), *map(tuple, others)][: count // 2 if mirrors else count]
    h = np.nan_to_num(np.stack([held[(k[0], int(k[1]), float(k[2]) if "." in str(k[2]) else int(float(k[2])))] for k in chosen], axis=1))
    h = np.hstack([h, -h]) if mirrors else h
    r = np.zeros_like(h)
    r[1:] = h[:-1] * np.expm1(log_returns)[1:, None] - cost * np.abs(np.diff(h, axis=0, prepend=0))[:-1]
    r = r[WARM:]
    index = pd.date_range("2001-01-01", periods=len(r), freq="h" if hours else "B", tz="UTC")
    return pd.DataFrame(r, index)


def ask(returns: pd.DataFrame, register: TrialRegister) -> dict[str, bool | float]:
    "Ask for the best of a family, as `promote` does once it has the returns."
    cells = Cells.of(returns.index)
    sketches = sketch_returns(returns, cells)[0]
    best = int(np.argmax([cell_statistic(s) for s in sketches]))
    own = returns.iloc[:, best]
    starts = pd.to_datetime((cells.first + np.arange(cells.count)) << cells.exponent, unit="s", utc=True)
    shown = pd.DataFrame(sketches.T * (0.01 / 127), starts)
    figures = joint_figures(Candidate("best", {}, f"bars {id(returns)}", own, shown), register, ReturnRecord.of(own))
    walked = walk_cells(sketches, starts)
    fall = -value_drawdown((1 + own).cumprod(), 1.0).min()
    found = {"joint": figures["reality_check"] <= T.reality_check, "walked": walked.mean() > 0, "drawdown": fall <= T.max_drawdown}
    return found | {"promoted": all(found.values()), "deflated": figures["deflated_sharpe"] >= 0.95, "p": figures["reality_check"]}


def say(figure: str, rows: list[dict]) -> None:
    table = pd.DataFrame(rows).astype(float).mean()
    print(json.dumps({"figure": figure, "value": round(float(table["promoted"]), 4), "unit": f"of {len(rows)} searches promoted",
                      "parts": {k: round(float(v), 3) for k, v in table.items()}}), flush=True)


def size(searches: int) -> None:
    "Print how often the best of a family is promoted though nothing can be foreseen."
    kinds = {"GARCH with leverage": garch, "bid-ask bounce": bounce, "volatility regimes": regimes, "sign-flipped real blocks": flipped,
             "hours of a coin": hourly}
    with tempfile.TemporaryDirectory() as folder:
        register = TrialRegister(Path(folder) / "trials.sqlite")
        for name, make in kinds.items():
            n = 8760 if make is hourly else 2520
            rows = [ask(family(make(np.random.default_rng([s, 11]), n + WARM), 250, s % 2 == 1, make is hourly), register) for s in range(searches)]
            say(f"size, {name}, 10 years or 8,760 hours", rows)
        rows = []
        for s in range(searches):
            rng = np.random.default_rng([s, 12])
            common = garch(rng, 2520 + WARM)
            panel = [0.7 * common + 0.7 * garch(rng, 2520 + WARM) for _ in range(4)]
            rows.append(ask(pd.concat([family(r, 60, s % 2 == 1) for r in panel], axis=1, keys=range(4)), register))
        say("size, correlated panel of four", rows)


def power(searches: int) -> None:
    "Print how often the best of a family is promoted when one rule has an edge."
    with tempfile.TemporaryDirectory() as folder:
        register = TrialRegister(Path(folder) / "trials.sqlite")
        for years, sharpe in ((20, 1.0), (10, 1.5), (5, 2.0)):
            for count in (30, 150, 300):
                for mirrors in (False, True):
                    markets = [planted(np.random.default_rng([7, int(sharpe * 10), years, s]), 252 * years + WARM, sharpe) for s in range(searches)]
                    made = [family(r, count, mirrors) for r in markets]
                    rows = [ask(r, register) for r in made]
                    say(f"power, Sharpe {sharpe} over {years} years, {count} variations{' with mirrors' if mirrors else ''}", rows)
                    if count == 150:
                        rng = np.random.default_rng(1)
                        extra = [pd.concat([r, pd.DataFrame(dull(r, rng), r.index)], axis=1, ignore_index=True) for r in made[: searches // 2]]
                        again = [ask(r, register) for r in extra]
                        without = np.mean([r["promoted"] for r in rows[: searches // 2]])
                        say(f"   the same beside 20,000 dull trials (without them {without:.2f})", again)
                        assert all(b["p"] >= a["p"] - 0.005 for a, b in zip(rows, again, strict=False)), "a dull trial lowered the bar"


def dull(returns: pd.DataFrame, rng, count: int = 20_000) -> np.ndarray:
    "Trials that trade now and then, for a day, at costs."
    out = np.zeros((len(returns), count), np.float32)
    market = returns.iloc[:, 0].to_numpy()
    for k in range(count):
        at = rng.integers(0, len(market), 12)
        out[at, k] = market[at] * rng.choice([-1, 1], 12) - 2 * COST
    return out


if __name__ == "__main__":
    {"size": size, "power": power}[sys.argv[1] if len(sys.argv) > 1 else "size"](int(sys.argv[2]) if len(sys.argv) > 2 else 200)
