"""How fast allocation is beside the libraries it is held against: `python bench/allocate.py`, one JSON line per figure."""

import contextlib
import io
import json
import statistics
import time
import warnings

import numpy as np
import pandas as pd

from trading.core.datasets import sample_bars
from trading.portfolio.constraints import resolve_limits
from trading.portfolio.hierarchical import HierarchicalRiskParity
from trading.portfolio.mean_risk import MeanRisk, RiskParity
from trading.portfolio.policies import policy
from trading.portfolio.rolling import policy_history, rolling_weights
from trading.portfolio.solvers import solve_quadratic

warnings.simplefilter("ignore")
WINDOW, EVERY, CAP, SOLVES = 252, 21, 0.15, 240


def report(figure: str, value: float, unit: str, rival: str, rival_value: float, **more) -> None:
    "Print one figure as a JSON line; the ratio says how many times the rival's number is ours."
    line = {"figure": figure, "value": round(value, 6), "unit": unit, "rival": rival, "rival_value": round(rival_value, 6)}
    print(json.dumps(line | {"ratio": round(rival_value / value, 1)} | more), flush=True)


def seconds(work, repeat: int = 3) -> tuple[float, object]:
    "Return the median time of some runs and the last answer."
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        answer = work()
        times.append(time.perf_counter() - start)
    return statistics.median(times), answer


def riskfolio_solve(returns: pd.DataFrame, risk: str) -> np.ndarray:
    "Use riskfolio the way its tutorial does."
    import riskfolio

    portfolio = riskfolio.Portfolio(returns=returns)
    portfolio.assets_stats(method_mu="hist", method_cov="hist")
    portfolio.upperlng = CAP
    portfolio.ainequality, portfolio.binequality = np.eye(returns.shape[1]), np.full((returns.shape[1], 1), CAP)
    with contextlib.redirect_stdout(io.StringIO()):
        return portfolio.optimization(model="Classic", rm=risk, obj="MinRisk", hist=True)["weights"].to_numpy()


def risk_of(weights: np.ndarray, values: np.ndarray, risk: str) -> float:
    "Return the objective that is minimised."
    if risk == "MV":
        return float(weights @ np.cov(values.T) @ weights)
    losses, tail = np.sort(-values @ weights)[::-1], 0.05 * len(values)
    whole = int(tail)
    return float((losses[:whole].sum() + (tail - whole) * losses[whole]) / tail)


def rolling(returns: pd.DataFrame, risk: str) -> None:
    "240 monthly optimisations of 20 assets, against riskfolio and skfolio."
    from skfolio import RiskMeasure
    from skfolio.model_selection import WalkForward, cross_val_predict
    from skfolio.optimization import MeanRisk as Skfolio

    last = returns.iloc[-(WINDOW + EVERY * (SOLVES - 1)) :]
    ours = MeanRisk(risk=risk, bounds=(0, CAP), covariance="sample", solver="direct")
    mine, weights = seconds(lambda: rolling_weights(last, ours, WINDOW, EVERY))
    ends = [WINDOW + EVERY * i for i in range(0, SOLVES, 12)]
    each, theirs = [], []
    for end in ends:  # every twelfth month is enough to know the mean
        start = time.perf_counter()
        theirs.append(riskfolio_solve(last.iloc[end - WINDOW : end], risk))
        each.append(time.perf_counter() - start)
    rival = statistics.median(each) * SOLVES
    apart = max(float(np.abs(weights.iloc[12 * i].to_numpy() - w).max()) for i, w in enumerate(theirs))
    parts = [last.iloc[e - WINDOW : e].to_numpy() for e in ends]
    mines = [weights.iloc[12 * i].to_numpy() for i in range(len(parts))]
    gap = max(abs(risk_of(a, p, risk) - risk_of(b, p, risk)) for a, b, p in zip(mines, theirs, parts, strict=True))
    report(f"rolling {risk}, {SOLVES} fits, 20 assets", mine, "s", "riskfolio, naive", rival, weights_apart=apart, objective_apart=gap)
    short = last.iloc[: WINDOW + EVERY * 24]
    model = Skfolio(risk_measure=RiskMeasure.VARIANCE if risk == "MV" else RiskMeasure.CVAR, max_weights=CAP)
    walk = WalkForward(train_size=WINDOW, test_size=EVERY)
    skfolio, _ = seconds(lambda: cross_val_predict(model, short, cv=walk, n_jobs=1), 1)
    report(f"rolling {risk}, {SOLVES} fits, 20 assets", mine, "s", "skfolio WalkForward", skfolio / 24 * SOLVES)


def single(returns: pd.DataFrame) -> None:
    "One fit each of what has no closed form, 20 assets with caps, against riskfolio."
    import riskfolio

    last, size = returns.iloc[-504:], returns.shape[1]
    held = pd.Series(1 / size, returns.columns)
    caps = {"ainequality": np.eye(size), "binequality": np.full((size, 1), CAP)}

    def theirs(**more) -> riskfolio.Portfolio:
        made = riskfolio.Portfolio(returns=last)
        made.assets_stats(method_mu="hist", method_cov="hist")
        for name, value in (caps | more).items():
            setattr(made, name, value)
        return made

    def hierarchy() -> pd.DataFrame:
        tree = riskfolio.HCPortfolio(returns=last, w_max=pd.Series(CAP, returns.columns))
        return tree.optimization(model="HRP", codependence="pearson", rm="MV", linkage="ward", leaf_order=True)

    turnover = {"upperlng": CAP, "allowTO": True, "turnover": 0.05, "benchweights": held.to_frame()}
    pairs = {
        "risk parity with caps": (RiskParity(bounds=(0, CAP), covariance="sample"), lambda: theirs().rp_optimization(rm="MV", hist=True)),
        "hierarchical risk parity with caps": (HierarchicalRiskParity(bounds=(0, CAP)), hierarchy),
        "CVaR with turnover": (MeanRisk(risk="CVaR", bounds=(0, CAP), solver="direct", max_turnover=0.1),
                               lambda: theirs(**turnover).optimization(model="Classic", rm="CVaR", obj="MinRisk", hist=True)),
    }
    for name, (ours, rival) in pairs.items():
        with contextlib.redirect_stdout(io.StringIO()):
            ours.fit(last, current=held), rival()
            mine, _ = seconds(lambda ours=ours: ours.fit(last, current=held), 9)
            other, _ = seconds(rival)
        report(f"{name}, 20 assets, one fit", mine, "s", "riskfolio", other, asked_for=30)


def many_assets(size: int = 500) -> None:
    "One mean-variance solve of many assets, against PyPortfolioOpt where it is installed."
    rng = np.random.default_rng(1)
    values = rng.standard_normal((2 * size, size)) * 0.01 + rng.standard_normal((2 * size, 1)) * 0.01
    cov, mean = np.cov(values.T), values.mean(axis=0)
    limits = resolve_limits([str(i) for i in range(size)], (0, 0.05))
    mine, weights = seconds(lambda: solve_quadratic(cov, np.zeros(size), limits))
    try:
        from pypfopt import EfficientFrontier
    except ImportError:
        print(json.dumps({"figure": f"mean-variance, {size} assets", "skipped": "pip install pyportfolioopt"}))
        return
    rival, theirs = seconds(lambda: np.array(list(EfficientFrontier(mean, cov, weight_bounds=(0, 0.05)).min_volatility().values())))
    better = float(theirs @ cov @ theirs - weights @ cov @ weights)
    report(f"mean-variance, {size} assets", mine, "s", "PyPortfolioOpt", rival, their_variance_minus_ours=better)


def history(prices: pd.DataFrame) -> None:
    "The report's policy history: five years of 20 stocks."
    mine, _ = seconds(lambda: policy_history(prices, policy("balanced")))
    report("policy history, 5 years after 2 of warming, 20 stocks", mine, "s", "the report's budget", 3.0)


def importing() -> None:
    "What importing riskfolio costs, and our own modules."
    import subprocess
    import sys

    def clock(module: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, "-W", "ignore", "-c", f"import {module}"], check=True))[0]

    report("import trading.portfolio.rolling", clock("trading.portfolio.rolling"), "s", "import riskfolio", clock("riskfolio"))


if __name__ == "__main__":
    close = sample_bars("stocks")["close"]
    rolling(close.pct_change().iloc[1:], "MV")
    rolling(close.pct_change().iloc[1:], "CVaR")
    single(close.pct_change().iloc[1:])
    many_assets()
    history(close.iloc[-(504 + 1260) :])
    importing()
