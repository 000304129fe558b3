"A hundred and fifty-five planted leaks of 37 kinds and a hundred clean look-alikes: how many are found, how many accused, how many left open."

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from leak_many import CLEAN, LEAKY, pipelines

from trading.backtest.leak_detector import find_leaks
from trading.core.synthetic import scenario

BARS = scenario("regime_switch", symbols=2, bars=420, seed=77)


def answers(of) -> tuple[Counter, list[str]]:
    found = {name: find_leaks(pipeline, BARS).answer for name, pipeline in pipelines(of)}
    return Counter(found.values()), [f"{name}: {answer}" for name, answer in found.items()]


def test_what_an_experiment_can_see_is_found():
    count, told = answers(LEAKY)
    missed = [t for t in told if not t.endswith(": leak")]
    print(f"{count['leak']} of {count.total()} leaks found; else: {missed}")
    assert count["leak"] >= 0.97 * count.total() and not count["clean"], missed


def test_what_looks_like_a_leak_is_not_accused():
    count, told = answers(CLEAN)
    print(f"{count['clean']} of {count.total()} clean ones called clean; {count['cannot tell']} left open")
    assert count["leak"] <= 0.01 * count.total(), [t for t in told if t.endswith(": leak")]
    assert count["clean"] >= 0.9 * count.total(), [t for t in told if not t.endswith(": clean")]
