"Measure the forecast stage: fitting, predicting, held-out accuracy. One JSON line per figure."

import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")


def median_time(work, times: int = 3) -> float:
    "Return the median seconds of some calls, after one that warms up."
    work()
    took = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def say(figure: str, value: float, unit: str, rival: str = "", rival_value: float | None = None) -> None:
    "Print one figure, beside a rival where there is one."
    ratio = None if not rival_value else round(value / rival_value, 3)
    line = {"figure": figure, "value": round(value, 4), "unit": unit, "rival": rival, "rival_value": rival_value, "ratio": ratio}
    print(json.dumps(line), flush=True)


def main() -> None:
    "Measure."
    from trading.core.datasets import sample_bars
    from trading.forecast.forecaster import HorizonForecaster, accuracy, hold_out

    code = "import time; t = time.perf_counter(); import trading.forecast.forecaster; print(time.perf_counter() - t)"
    bare = "import time; t = time.perf_counter(); import pandas; print(time.perf_counter() - t)"
    took = [statistics.median(float(subprocess.check_output([sys.executable, "-c", c])) for _ in range(3)) for c in (code, bare)]
    say("forecast: import models", took[0], "s", "import pandas alone", round(took[1], 4))
    bars = sample_bars("stocks")
    say("forecast: fit ridge, 20 stocks x 8313 days x 3 horizons", median_time(lambda: HorizonForecaster().fit(bars)), "s")
    model = HorizonForecaster().fit(bars)
    say("forecast: predict one day, 20 stocks x 3 horizons", median_time(lambda: model.predict(bars)), "s")
    held = hold_out(HorizonForecaster(), bars, n_splits=5)
    say("forecast: score 5 held-out stretches", median_time(lambda: accuracy(held), 1), "s")
    for horizon, row in accuracy(held).iterrows():
        say(f"forecast: coverage of the 90 % interval, {horizon} bars, held out", row["coverage_90"], "share", "nominal", 0.9)
        say(f"forecast: rmse, {horizon} bars, held out", row["rmse"], "log return", f"naive ({row['rival']})", round(row["rmse_naive"], 4))
    more(bars, model)
    hundred()


def hundred() -> None:
    "A hundred assets, ten years, three horizons: fits, a day's prediction, and what explains it."
    from scale import market

    from trading.forecast.estimators import make_estimator
    from trading.forecast.explain import explain
    from trading.forecast.forecaster import HorizonForecaster

    bars = market(100, 2520)[["close"]]
    for name, most in (("ridge", 30), ("boosting", 90)):
        made, start = HorizonForecaster(make_estimator(name, n_jobs=2)), time.perf_counter()
        made.fit(bars)
        say(f"forecast: fit {name}, 100 assets x 2,520 days x 3 horizons", time.perf_counter() - start, "s", "asked for", most)
        say(f"forecast: {name} predicts a day of 100 assets", median_time(lambda made=made: made.predict(bars.iloc[-600:])), "s", "asked for", 0.1)
        say(f"forecast: {name}'s day of 100 assets explained", median_time(lambda made=made: explain(made, bars.iloc[-600:])), "s", "asked for", 1)


def thirty_assets():
    "Make 30 assets of 3,250 days (250 to warm up): the twenty stocks of the sample, and ten made of their moves in another order."
    import numpy as np
    import pandas as pd

    from trading.core.bars import bars_from_close
    from trading.core.datasets import sample_bars

    close = sample_bars("stocks")["close"].iloc[-3250:]
    moves, rng = np.log(close).diff().fillna(0.0), np.random.default_rng(0)
    mixed = {f"MADE{i}": 100 * np.exp(moves.iloc[:, i].to_numpy()[rng.permutation(len(moves))].cumsum()) for i in range(10)}
    return bars_from_close(pd.concat([close, pd.DataFrame(mixed, index=close.index)], axis=1))


def more(bars, model) -> None:
    "Measure boosting, explanation and the agent's world."
    from trading.forecast.estimators import make_estimator
    from trading.forecast.explain import explain
    from trading.forecast.forecaster import HorizonForecaster
    from trading.forecast.panel import bar_volatility, default_features
    from trading.forecast.rl_env import BatchedWorlds, EnvironmentRules
    from trading.forecast.targets import PurgedKFold
    from trading.forecast.tune import fold_scores, learning_rows

    made = thirty_assets()
    start = time.perf_counter()
    panel = default_features(made["close"])
    trees = make_estimator("boosting", n_jobs=2).set_params(n_estimators=300)
    folds = 0
    for horizon in (1, 5, 20):
        rows, answers, moments, steps = learning_rows(made, horizon, features=panel)
        folds += len(list(fold_scores(trees, rows, answers, moments, PurgedKFold(5, steps))))
    grown = HorizonForecaster(trees).fit(made, panel)
    took = time.perf_counter() - start
    assert folds == 15 and made["close"].shape == (3250, 30)
    assert all(m.estimator.get_booster().num_boosted_rounds() == 300 for m in grown.models_.values())
    say("forecast: xgboost of 300 trees, 8 features + 5 purged folds + fit, 30 assets x 3000 days x 3 horizons, two threads", took, "s")
    say("forecast: rows learnt from in it, each horizon", len(rows), "rows")
    say("forecast: boosting predicts a day, 30 assets x 3 horizons", median_time(lambda: grown.predict(made.iloc[-600:])), "s")
    say("forecast: boosting's day explained, 30 assets x 3 horizons", median_time(lambda: explain(grown, made.iloc[-600:])), "s")
    running = HorizonForecaster(make_estimator("running")).fit(made.iloc[:-1], panel.iloc[:-1])
    refit = median_time(lambda: HorizonForecaster(make_estimator("running")).fit(made, panel))
    took = median_time(lambda: running.update(made, panel))
    say("forecast: one day more learnt, 30 assets x 3000 days x 3 horizons", took, "s", "fit again", round(refit, 4))
    say("forecast: explain a day's forecasts, 20 stocks x 3 horizons", median_time(lambda: explain(model, bars)), "s")
    close = bars["close"].iloc[-3000:]
    worlds = BatchedWorlds(close, default_features(close), bar_volatility(close) / 0.01, 1000, EnvironmentRules(), seed=1)
    action = worlds.rng.random(1000)
    took = median_time(lambda: [worlds.step(action) for _ in range(200)])
    say("forecast: agent's world, 1000 at once", 200_000 / took, "steps/s")


if __name__ == "__main__":
    main()
