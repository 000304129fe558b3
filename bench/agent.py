"Hold an agent that learnt by trying against holding, doing nothing and the supervised model, on years it has not seen. One JSON line per figure."

import json
import tempfile
import time
from pathlib import Path

GENERATIONS, SEEDS, OUT = 200, (1, 2, 3), 2000  # of practice for each agent; agents; bars kept from all of them


def say(figure: str, value: float, unit: str, rival: str = "", rival_value: float | None = None) -> None:
    "Print one figure, beside a rival where there is one."
    ratio = None if not rival_value else round(value / rival_value, 3)
    line = {"figure": figure, "value": round(float(value), 4), "unit": unit, "rival": rival, "rival_value": rival_value, "ratio": ratio}
    print(json.dumps(line), flush=True)


def main() -> None:
    "Practise on 1990 to 2014, judge on 2015 to 2022, with fees and slippage."
    from trading.core.bars import bars_from_close
    from trading.core.datasets import sample_bars
    from trading.forecast.forecaster import HorizonForecaster
    from trading.forecast.panel import bar_volatility, default_features
    from trading.forecast.rl_env import BatchedWorlds, EnvironmentRules, evaluate_policy
    from trading.forecast.rl_training import train_agent

    close = sample_bars("stocks")["close"]
    usual = bar_volatility(close)
    features, relative_volatility = default_features(close), (usual / usual.rolling(500, min_periods=250).median()).fillna(1.0)
    old, new = (lambda frame: frame.iloc[:-OUT]), (lambda frame: frame.iloc[-OUT:])
    rules = EnvironmentRules()
    supervised = HorizonForecaster(horizons=(20,)).fit(bars_from_close(old(close)))
    model = supervised.models_[20].estimator
    assert supervised.features_ == tuple(features.columns.unique(0).sort_values())
    policies = {"supervised": lambda seen: (model.predict(seen[:, :-1]) > 0).astype(float)}
    for seed in SEEDS:
        worlds = BatchedWorlds(old(close), old(features), old(relative_volatility), 256, rules, seed)
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            agent = policies[f"agent {seed}"] = train_agent(worlds, Path(folder), GENERATIONS, seed=seed)
        say(f"agent: steps of practice, seed {seed}", agent.generations * worlds.worlds * rules.length / (time.perf_counter() - begun), "steps/s")
    table = evaluate_policy(policies, new(close), new(features), new(relative_volatility), rules, 1000, seed=7)
    hold = table.loc["hold"].round(4)
    for policy, row in table.drop("hold").iterrows():
        say(f"agent: growth of {policy} in a year, years not seen", row["growth"], "log", "hold", float(hold["growth"]))
        say(f"agent: spread of {policy} over episodes, years not seen", row["spread"], "log", "hold", float(hold["spread"]))


if __name__ == "__main__":
    main()
