"Hold what is claimed of learning against worlds in which the truth is known, and time it; counts are in the names. One JSON line per figure."

import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
WORLDS, SEEDS = 20, 20  # of the hundred that `make soak` lives through; of each record of feedback
MEMBERS = ("model", "mean", "zero")


def say(figure: str, value: float, unit: str, asked: float | None = None) -> None:
    "Print one figure, beside what is asked of it."
    rival = {"rival": "" if asked is None else "asked for", "rival_value": asked}
    print(json.dumps({"figure": figure, "value": float(f"{value:.4g}"), "unit": unit} | rival), flush=True)


def worlds() -> None:
    "Two years of a policy on twenty assets, with forecasts of an R² of 1 % and with noise that claims as much."
    from forecast_worlds import live

    true, noise = ([live(seed, skill) for seed in range(WORLDS)] for skill in (1, 0))
    say(f"R² of 1 %, 20 assets: worlds of {WORLDS} in which forecasts earn after costs", np.mean([w.gain > 0 for w in true]), "share", 0.8)
    say(f"R² of 1 %: worlds of {WORLDS} in which forecasts change trades within two years", np.mean([w.share > 0 for w in true]), "share", 0.8)
    say("R² of 1 %: gain by forecasts, after costs", np.mean([w.gain for w in true]), "log return a year")
    turnover = np.mean([w.turnover for w in noise])
    say(f"noise, {WORLDS} worlds: turnover that it adds", np.mean([w.extra for w in noise]) / turnover, "share of turnover", 0.02)
    say(f"noise, {WORLDS} worlds: costs that it adds", np.mean([w.costs for w in noise]), "a year", 0.001)


def trust() -> None:
    "Ten years of trust among three forecasters, and the days until it has left one that was best and is no more."
    from trading.forecast.feedback import Cycle, DecisionOutcome, FeedbackState, apply_cycle
    from trading.forecast.trust import regret_bound

    start = datetime(2010, 1, 1, tzinfo=UTC)

    def lived(seed: int, days: int, best, edge: float) -> list:
        rng, states = np.random.default_rng(seed), [FeedbackState(dict.fromkeys(MEMBERS, 1 / 3))]
        for day in range(days):
            nats = dict(zip(MEMBERS, 0.3 * rng.normal(size=3) + edge * (np.arange(3) == best(day)), strict=True))
            one = DecisionOutcome(str(day), start + timedelta(days=day), True, 0.01, True, nats)
            states.append(apply_cycle(states, Cycle(day + 1, "learn", start, (one,))))
        return states

    lost = []
    for seed in range(3):
        states = lived(seed, 2520, lambda day: 0, 0.05)
        totals = states[-1].scores
        lost.append(max(totals[m] for m in MEMBERS) - totals["mixture"])
    most = round(regret_bound(2520, 3, 0), 2)
    say("trust, ten years of a member better by 0.05 nats a day: lost for not knowing it, worst of 3", max(lost), "nats", most)
    say("trust, ten years: that of the better member at the end", states[-1].weights["model"], "of 1")
    for edge in (0.1, 0.4):
        waits = []
        for seed in range(SEEDS):
            after = [s.weights["zero"] for s in lived(seed, 400, lambda day: 0 if day < 200 else 2, edge)[201:]]
            waits.append(next((k + 1 for k, w in enumerate(after) if w > 0.5), len(after)))
        name = f"trust, a break after 200 days, edge of {edge} nats a day, {SEEDS} records: days until the new best leads"
        say(f"{name}, median", np.median(waits), "days", 60)
        say(f"{name}, slowest", max(waits), "days")


def speed() -> None:
    "The weekly search, the practice of an agent, and the regimes of thirty years."
    from trading.core.datasets import sample_bars
    from trading.core.settings import load_settings
    from trading.features.regime import RegimeDetector
    from trading.forecast.forecaster import default_estimator
    from trading.forecast.panel import bar_volatility, default_features
    from trading.forecast.rl_env import BatchedWorlds, EnvironmentRules
    from trading.forecast.rl_training import train_agent
    from trading.forecast.targets import PurgedKFold
    from trading.forecast.tune import fold_scores, learning_rows, tune
    from trading.pipeline.named_model import rival_models

    bars = sample_bars("stocks")
    close = bars["close"]
    usual = bar_volatility(close)
    loud = (usual / usual.rolling(500, min_periods=250).median()).fillna(1.0)
    world = BatchedWorlds(close, default_features(close), loud, 256, EnvironmentRules(length=100), 1)
    generations = -(-150_000 // (256 * 100))
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train_agent(world, Path(folder), generations, seed=1)
    say(f"agent: {generations * 25_600:,} steps of practice", time.perf_counter() - begun, "s", 180)
    thirty = bars.iloc[-7560:]
    RegimeDetector().fit(thirty.iloc[-300:])  # libraries are loaded
    begun = time.process_time()
    RegimeDetector(history=len(thirty)).fit(thirty).predict_proba(thirty)
    say(f"regimes: fit and filter of {len(thirty):,} days", time.process_time() - begun, "s of processor time", 1.5)
    ridge = default_estimator()
    alpha = next(n for n in ridge.get_params() if n.endswith("alpha"))
    bars = bars.iloc[-load_settings("sample", environ={}).forecast.window :]  # twice what a week's search may see
    begun = time.perf_counter()
    done = tune(bars, 5, {alpha: (0.1, 1000.0, "log")}, ridge, n_trials=40, n_splits=5, register=False)
    took = time.perf_counter() - begun
    say(f"weekly search: {len(done.trials)} trials × 5 folds × {close.shape[1]} symbols, {len(bars):,} days, ridge", took, "s", 300)
    rows, answers, moments, steps = learning_rows(bars, 5)
    for name, estimator in rival_models(load_settings("sample", environ={})).items():
        begun = time.perf_counter()
        list(fold_scores(estimator, rows, answers, moments, PurgedKFold(5, steps)))
        took += (each := time.perf_counter() - begun)
        say(f"weekly search: {name} besides, 5 folds × {close.shape[1]} symbols, {len(bars):,} days", each, "s")
    say("weekly search: ridge and all that is installed", took, "s", 300)


if __name__ == "__main__":
    for part in (speed, trust, worlds):
        part()
