"A hundred worlds of each kind, decided every week: what `tests/test_forecast_worlds.py` shows on a few."

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from forecast_worlds import live


def test_planted_skill_earns_in_four_of_five_worlds():
    lived = [live(seed, 1) for seed in range(100)]
    print(f"earned in {sum(w.gain > 0 for w in lived)} of 100 worlds, {np.mean([w.gain for w in lived]):.2%} a year")
    assert sum(w.gain > 0 for w in lived) >= 80 and sum(w.share > 0 for w in lived) >= 80


def test_noise_costs_next_to_nothing():
    lived = [live(seed, 0) for seed in range(100)]
    extra = np.mean([w.extra for w in lived]) / np.mean([w.turnover for w in lived])
    print(f"turnover {extra:+.2%}, costs {np.mean([w.costs for w in lived]):.4%} a year, gain {np.mean([w.gain for w in lived]):+.3%} a year")
    assert extra <= 0.02 and np.mean([w.costs for w in lived]) <= 0.001
