"The joint test against arch, a slow loop and hand calculations: block lengths, variances, p-values, steps, and the null of many trials."

import numpy as np
import pandas as pd
import pytest

from trading.backtest.joint_test import block_length, bootstrap_counts, cell_statistic, dependence, family_highest, joint_test
from trading.backtest.trial_register import bare_worth, expected_highest, independent_worth


def autoregressive(phi: float, n: int = 1500, seed: int = 0) -> np.ndarray:
    shocks, x = np.random.default_rng(seed).normal(size=n), np.zeros(n)
    for t in range(1, n):
        x[t] = phi * x[t - 1] + shocks[t]
    return x


@pytest.mark.parametrize("phi", [-0.4, 0.0, 0.3, 0.7])
def test_block_length_and_dependence_are_those_of_arch_and_of_theory(phi):
    from arch.bootstrap import optimal_block_length

    x = autoregressive(phi)
    theirs = max(float(optimal_block_length(x)["stationary"].iloc[0]), 1.0)
    assert block_length(x) == pytest.approx(theirs, rel=0.2)
    assert dependence(x) == pytest.approx(max((1 + phi) / (1 - phi), 1.0), rel=0.1)


def test_what_never_moves_or_is_short_has_blocks_of_one():
    assert block_length(np.zeros(100)) == block_length(np.arange(19.0)) == dependence(np.zeros(100)) == 1.0
    alone = joint_test(np.zeros((50, 3)), draws=10)
    assert alone.p == 1.0 and np.isnan(alone.statistics).all() and len(alone.winners) == 0 and alone.winners.dtype == int


def test_blocks_have_the_length_asked_for_and_every_moment_is_drawn_as_often():
    counts = bootstrap_counts(400, 500, 8.0, seed=1)
    assert counts.sum(axis=1).tolist() == [400.0] * 500 and counts.mean(axis=0) == pytest.approx(np.ones(400), abs=0.25)
    together = np.mean([np.corrcoef(c, np.roll(c, 1))[0, 1] for c in counts])
    assert together == pytest.approx(1 - 1 / 8, abs=0.03), "a moment brings the next one in seven of eight cases"
    plain = bootstrap_counts(400, 500, 1.0, seed=1)
    assert abs(np.mean([np.corrcoef(c, np.roll(c, 1))[0, 1] for c in plain])) < 0.02


def test_p_values_and_statistics_are_those_of_arch_for_each_centre():
    from arch.bootstrap import SPA

    rng = np.random.default_rng(4)
    r = rng.normal(0, 0.01, (600, 12))
    r += np.r_[0.0009, -0.003, np.zeros(10)] - r.mean(axis=0)
    theirs = SPA(np.zeros(600), -r, block_size=5, reps=3000, seed=1)
    theirs.compute()
    p = [joint_test(r, draws=3000, block=5.0, kind=k).p for k in ("lower", "consistent", "upper")]
    assert p == pytest.approx([theirs.pvalues[k] for k in ("lower", "consistent", "upper")], abs=0.02) and p == sorted(p) and p[0] > 0.03
    q, n, x = 1 / 5, 600, r[:, 0] - r[:, 0].mean()
    cov = [x[i:] @ x[: n - i] / n for i in range(n)]
    kernel = [(n - i) / n * (1 - q) ** i + i / n * (1 - q) ** (n - i) for i in range(n)]
    variance = cov[0] + 2 * sum(k * c for k, c in zip(kernel[1:], cov[1:], strict=True))
    assert joint_test(r, draws=10, block=5.0).statistics[0] == pytest.approx(r[:, 0].mean() / np.sqrt(variance / n), rel=5e-3)


def test_the_steps_find_those_with_an_edge_best_first_and_nothing_in_losers():
    rng = np.random.default_rng(5)
    edge = np.r_[0.002, 0, 0.004, np.zeros(17)]
    found = joint_test(rng.normal(0, 0.01, (900, 20)) + edge, draws=500)
    assert found.winners.tolist() == [2, 0] and found.p < 0.01
    worse = joint_test(rng.normal(-0.002, 0.01, (900, 20)), draws=500)
    assert worse.p == 1.0 and len(worse.winners) == 0
    frame = pd.DataFrame({"a": rng.normal(0.002, 0.01, 900)}, pd.date_range("2020-01-01", periods=900, tz="UTC"))
    assert joint_test(frame, frame["a"], draws=50).p == 1.0, "nothing beats itself"


def test_a_step_is_needed_for_the_one_that_the_best_had_hidden():
    rng = np.random.default_rng(8)
    common = rng.normal(0, 0.01, 2000)
    r = np.column_stack([common + 0.002, *(0.2 * common + rng.normal(0, 0.01, 2000) for _ in range(30))])
    r[:, 1] += 0.0011
    first_only = joint_test(r, draws=800)
    assert first_only.winners[0] == 0 and set(first_only.winners) >= {0, 1}


def test_the_best_of_independent_trials_stands_as_high_as_the_best_of_normal_numbers():
    flat = np.random.default_rng(77).choice([-1.0, 1.0], (40, 256)).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    assert family_highest(flat, 4000).mean() == pytest.approx(expected_highest(40), abs=0.12)
    assert family_highest(np.empty((0, 256), np.float32), 4000, bare=40.0).mean() == pytest.approx(expected_highest(40), abs=0.08)
    one = np.random.default_rng(1).normal(size=(1, 256)).astype(np.float32)
    one -= one.mean()
    many = np.repeat(one, 500, axis=0)
    assert family_highest(many, 2000).mean() == pytest.approx(family_highest(one, 2000).mean(), abs=1e-6), "copies are no further trials"
    blocks = np.repeat(np.random.default_rng(2).normal(size=(1, 32)), 8, axis=1).astype(np.float32)
    blocks -= blocks.mean()
    assert family_highest(blocks, 3000, 16.0).std() > 1.8 * family_highest(blocks / np.tile([1, -1], 128), 3000, 16.0).std(), (
        "signs go together in blocks"
    )
    bad = -np.abs(one)
    assert np.isneginf(family_highest(bad, 10)).all(), "those that clearly lose are given no benefit of the doubt"
    assert cell_statistic(np.array([3.0, 4.0])) == pytest.approx(7 / 5) and cell_statistic(np.zeros(5)) == 0.0


def test_worth_of_trials_known_only_by_their_ratios():
    spread = np.array([-0.02, 0.0, 0.02])  # variance 0.0004; over 1000 bars 0.4 of what independent ones have
    assert bare_worth(spread, 1000) == pytest.approx((1 - 0.4) + 0.4 * 3)
    assert bare_worth(np.append(spread, [np.nan, np.nan]), 1000) == pytest.approx((1 - 0.4) + 0.4 * 3 + 2)
    assert bare_worth(np.array([0.1]), 1000) == 1.0 and bare_worth(spread * 10, 1000) == pytest.approx(3.0)
    assert independent_worth(expected_highest(25), 400) == pytest.approx(25, rel=1e-3)
    assert independent_worth(-1.0, 400) == 1.0 and independent_worth(9.0, 400) == 400.0 and independent_worth(0.5, 0) == 0.0
