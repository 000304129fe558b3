"How fast the probability of backtest overfitting is, and how many real edges the promotion keeps."

import json
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from trading.backtest.overfitting import pbo
from trading.backtest.trial_register import TrialRegister

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


def by_definition(returns: np.ndarray, blocks: int, splits: int) -> float:
    "Return seconds per split when the definition is taken word by word."
    parts = np.array_split(returns, blocks)
    began = time.process_time()
    for half in list(combinations(range(blocks), blocks // 2))[:splits]:
        one = np.concatenate([parts[i] for i in half])
        two = np.concatenate([parts[i] for i in range(blocks) if i not in half])
        best = (one.mean(axis=0) / one.std(axis=0)).argmax()
        pd.Series(two.mean(axis=0) / two.std(axis=0)).rank()[best]
    return (time.process_time() - began) / splits


def power(searches: int = 10) -> None:
    "Print how many planted edges come through the door, by their strength."
    from noise_searches import knock

    with tempfile.TemporaryDirectory() as folder:
        register = TrialRegister(Path(folder) / "trials.sqlite")
        for edge in (0.1, 0.15, 0.2, 0.3):
            kept = sum(knock(int(edge * 1e5) + seed, edge, register).promoted for seed in range(searches))
            print(json.dumps({"figure": f"promoted of {searches} searches with a drift of {edge} daily deviations", "value": kept, "unit": "searches",
                              "rival": "all", "rival_value": searches, "ratio": kept / searches}))


def main() -> None:
    index = pd.date_range("2000-01-03", periods=1250, freq="B", tz="UTC")
    returns = pd.DataFrame(np.random.default_rng(0).normal(0, 0.01, (1250, 700)), index=index)
    pbo(returns.iloc[:, :5])
    walls, works = [], []
    for _ in range(5):
        wall, work = time.perf_counter(), time.process_time()
        pbo(returns)
        walls.append(time.perf_counter() - wall)
        works.append(time.process_time() - work)
    naive = by_definition(returns.to_numpy(), 16, 40) * 12870
    for name, times in {"wall time": walls, "processor time": works}.items():
        value = float(np.median(times))
        print(json.dumps({"figure": f"pbo, 16 blocks, 700 strategies, {name}", "value": round(value, 3), "unit": "s",
                          "rival": "as defined, from 40 splits", "rival_value": round(naive, 1), "ratio": round(naive / value, 1)}))
    power()


if __name__ == "__main__":
    main()
