"""Solvers against every point of a grid: what they find is allowed, and no allowed point of the grid and no small exchange is better.

`CARNET_TEST_SEED` draws other problems (fixed by default, fresh every night). Each kind of limit must have been decisive often enough.
"""

import os
from itertools import product

import numpy as np
import pytest

from trading.core.errors import BadInput
from trading.portfolio.constraints import Limits, check_feasible, clean_weights, resolve_limits
from trading.portfolio.solvers import (
    LINEAR,
    SolverError,
    _solve_whole,
    nearest_allowed,
    solve_cvar,
    solve_linear,
    solve_quadratic,
    solve_risk_parity,
    solve_sharpe,
    solve_with_costs,
)

SEED = int(os.environ.get("CARNET_TEST_SEED", 0))
GRID = np.array([(a, b, 50 - a - b) for a in range(51) for b in range(51 - a)]) / 50
PAIRS = [step * (np.eye(3)[i] - np.eye(3)[j]) for i, j in product(range(3), repeat=2) if i != j for step in (1e-4, 1e-3, 1e-2)]
GROUPS = {"a": "g", "b": "g", "c": "h"}


def draw(rng, days=40):
    "Draw returns, a linear gain and limits of which some will be decisive."
    values = rng.standard_normal((days, 3)) * rng.uniform(0.005, 0.03, 3) + rng.standard_normal((days, 1)) * 0.01 + rng.normal(0, 0.002, 3)
    budget = rng.choice([1.0, 0.8, 0.5])
    low, high = budget * rng.choice([0, 0.1, 0.2], 3), budget * rng.choice([1, 0.5, 0.45], 3)
    bounds = {s: (float(a), float(b)) for s, a, b in zip("abc", low, high, strict=True)}
    caps = {"g": tuple(budget * np.array([(0, 1), (0, 0.55), (0, 0.6), (0.75, 1), (0.8, 1), (0.64, 0.68)][rng.integers(6)]))}
    return values, rng.normal(0, 0.001, 3), resolve_limits("abc", bounds, GROUPS, caps if rng.random() < 0.9 else None, budget)


def allowed(points, limits, current=None, most=np.inf, slack=1e-12):
    "Say of each point whether it keeps the limits; written anew, without the module's own check."
    fine = (points >= limits.low - slack).all(axis=1) & (points <= limits.high + slack).all(axis=1)
    if limits.groups:
        inside = points[:, :2].sum(axis=1)
        fine &= (inside >= limits.group_low[0] - slack) & (inside <= limits.group_high[0] + slack)
    return fine if current is None else fine & (np.abs(points - current).sum(axis=1) <= most + slack)


def tight(w, limits, current=None, most=np.inf):
    "Name the limits that the weights touch."
    held = w[:2].sum()
    return {
        "low": bool(((w < limits.low + 1e-6) & (limits.low > 0)).any()), "high": bool((w > limits.high - 1e-6).any()),
        "group low": bool(limits.groups and limits.group_low[0] > 0 and held < limits.group_low[0] + 1e-6),
        "group high": bool(limits.groups and limits.group_high[0] < limits.budget and held > limits.group_high[0] - 1e-6),
        "turnover": current is not None and most < 9 and np.abs(w - current).sum() > most - 1e-6, "budget": limits.budget < 1,
    }


def decisive(seen, kinds=("low", "high", "group low", "group high", "budget")):
    "Insist that each kind of limit was touched by twenty answers at least."
    assert min(seen[k] for k in kinds) >= 20, seen


def examine(solve, objective, count=120, costs=False, begin=0):
    "Solve so many drawn problems; count how often each kind of limit was decisive."
    rng, seen, solved = np.random.default_rng([SEED, begin]), {}, 0
    while solved < count:
        values, linear, limits = draw(rng)
        current, most = None, np.inf
        if costs:
            current, most = rng.dirichlet(np.ones(3)) * limits.budget, rng.choice([0.1, 0.3, 9.0])
        points = GRID * limits.budget
        points = points[allowed(points, limits, current, most)]
        if not len(points):
            continue
        w = solve(values, linear, limits, current, most)
        if w is None:
            continue
        assert w.sum() == pytest.approx(limits.budget, abs=1e-7) and allowed(w[None], limits, current, most, 1e-6)[0]
        near = w + np.array(PAIRS)
        others = np.vstack([points, near[allowed(near, limits, current, most)]])
        assert objective(values, linear, w[None], current)[0] <= objective(values, linear, others, current).min() + 1e-8
        for name, is_tight in tight(w, limits, current, most).items():
            seen[name] = seen.get(name, 0) + is_tight
        solved += 1
    return seen


def test_the_quadratic_program_and_every_kind_of_limit():
    def objective(values, linear, w, _):
        return ((w @ np.cov(values.T)) * w).sum(axis=1) / 2 - w @ linear

    decisive(examine(lambda values, linear, limits, *_: solve_quadratic(np.cov(values.T), linear, limits), objective))


def test_the_quadratic_program_with_costs_and_turnover():
    def objective(values, linear, w, current):
        return ((w @ np.cov(values.T)) * w).sum(axis=1) / 2 - w @ linear + 0.0002 * np.abs(w - current).sum(axis=1)

    def solve(values, linear, limits, current, most):
        return solve_with_costs(np.cov(values.T), linear, limits, current, 0.0002, most)

    decisive(examine(solve, objective, 160, costs=True), ("low", "high", "group low", "group high", "budget", "turnover"))


def test_what_nobody_limits_is_not_limited():
    cov, limits = np.diag([1.0, 2.0, 3.0]), resolve_limits("abc")
    free = solve_with_costs(cov, np.zeros(3), limits, np.array([0.0, 0.0, 1.0]))
    assert free == pytest.approx(np.array([6, 3, 2]) / 11, abs=1e-8) and solve_quadratic(cov, np.zeros(3), limits) == pytest.approx(free, abs=1e-8)


def tail(loss, level):
    "Mean of the worst share of each column, the last one counted by its part."
    count = level * len(loss)
    worst = -np.sort(-loss, axis=0)
    part = np.clip(count - np.arange(len(loss)), 0, 1)
    return part @ worst / count


def test_the_least_cvar():
    seen = {}
    for level, hint in ((0.05, None), (0.1, np.array([1.0, 0.0, 0.0])), (0.12, None)):
        more = examine(lambda values, linear, limits, *_, q=level, h=hint: solve_cvar(values, linear, limits, q, h),
                       lambda values, linear, w, _, q=level: tail(-values @ w.T, q) - w @ linear, 60, begin=int(100 * level))
        seen = {k: seen.get(k, 0) + n for k, n in more.items()}
    decisive(seen)
    values, linear, limits = draw(np.random.default_rng(1))
    assert solve_cvar(values, linear, limits) == pytest.approx(solve_cvar(values, linear, limits, 0.05))


def drawdown(values, w):
    path = np.vstack([np.zeros(len(w)), np.cumsum(values @ w.T, axis=0)])
    return (np.maximum.accumulate(path, axis=0) - path)[1:]


MEASURES = {
    "CVaR": lambda v, w: tail(-v @ w.T, 0.07), "WR": lambda v, w: (-v @ w.T).max(axis=0), "FLPM": lambda v, w: np.maximum(-v @ w.T, 0).mean(axis=0),
    "MAD": lambda v, w: np.abs(v @ w.T - (v @ w.T).mean(axis=0)).mean(axis=0), "MDD": lambda v, w: drawdown(v, w).max(axis=0),
    "ADD": lambda v, w: drawdown(v, w).mean(axis=0), "CDaR": lambda v, w: tail(drawdown(v, w), 0.07),
}


def test_linear_programs_with_costs_and_turnover():
    assert set(MEASURES) == set(LINEAR)
    seen = {}
    for begin, risk in enumerate(LINEAR):
        more = examine(lambda values, linear, limits, current, most, r=risk: solve_linear(r, values, linear, limits, current, 0.0005, most, 0.07),
                       lambda values, linear, w, current, r=risk: MEASURES[r](values, w) - w @ linear + 0.0005 * np.abs(w - current).sum(axis=1),
                       30, costs=True, begin=begin)
        seen = {k: seen.get(k, 0) + n for k, n in more.items()}
    decisive(seen, ("low", "high", "group low", "group high", "budget", "turnover"))


def test_the_measures_above_are_what_a_hand_computes():
    v, w = np.array([[-0.01], [0.03], [-0.02], [-0.04], [0.05]]), np.ones((1, 1))  # summed: -1, 2, 0, -4, 1 %; below the best: 1, 0, 2, 6, 1 %
    got = {k: float(m(v, w)[0]) for k, m in MEASURES.items() if k not in ("CVaR", "CDaR")}
    assert got == pytest.approx({"WR": 0.04, "FLPM": 0.014, "MAD": 0.0304, "MDD": 0.06, "ADD": 0.02})
    assert tail(-v, 0.3)[0] == pytest.approx(0.05 / 1.5) and tail(drawdown(v, w), 0.3)[0] == pytest.approx(0.07 / 1.5)


def test_defaults_of_the_linear_programs_are_no_cost_and_no_cap():
    values, _, limits = draw(np.random.default_rng(5))
    free = solve_linear("CVaR", values, np.zeros(3), limits, limits.low)
    assert tail(-values @ free[:, None], 0.05)[0] == pytest.approx(tail(-values @ solve_cvar(values, np.zeros(3), limits)[:, None], 0.05)[0],
        abs=1e-9)


def test_the_best_ratio():
    def solve(values, linear, limits, *_):
        best = (GRID * limits.budget)[allowed(GRID * limits.budget, limits)] @ linear
        return solve_sharpe(np.cov(values.T), linear, limits) if best.max() > 1e-4 else None

    decisive(examine(solve, lambda values, linear, w, _: -(w @ linear) / np.sqrt(((w @ np.cov(values.T)) * w).sum(axis=1)) * 1e-3))


def test_what_has_no_answer_is_an_error_that_says_why():
    limits, cov = resolve_limits("abc"), np.eye(3) / 1e4
    torn = Limits(("a", "b", "c"), np.full(3, 0.5), np.ones(3), 1.0)  # at least 150 %
    cases = [
        (lambda: solve_sharpe(cov, np.full(3, -0.01), limits), "quadratic program|above the risk-free rate"),
        (lambda: solve_sharpe(cov, np.zeros(3), limits), "not solved|above"),
        (lambda: solve_quadratic(cov, np.zeros(3), torn), "of 3 unknowns was not solved: the limits leave no room"),
        (lambda: solve_with_costs(cov, np.zeros(3), limits, np.array([1.0, 1.0, 1.0]), 0, 0.5),
         "of 6 unknowns was not solved: the limits leave no room"),
        (lambda: solve_cvar(np.random.default_rng(0).normal(size=(40, 3)), np.zeros(3), torn), "linear program of the worst periods was not solved"),
        (lambda: solve_linear("MAD", np.random.default_rng(0).normal(size=(40, 3)), np.zeros(3), torn, np.zeros(3)),
         "linear program for MAD was not solved"),
        (lambda: solve_risk_parity(np.array([[1.0, -1.0], [-1.0, 1.0]])), "risk parity did not converge|[Ss]ingular"),
    ]
    for solve, says in cases:
        with pytest.raises(SolverError, match=says):
            solve()


def test_risk_parity_by_hand_and_by_its_definition():
    assert solve_risk_parity(np.diag([0.01, 0.04])) == pytest.approx([2 / 3, 1 / 3], abs=1e-12)  # two uncorrelated assets: one over volatility
    assert solve_risk_parity(np.diag([0.01, 0.04]), np.array([0.8, 0.2])) == pytest.approx([0.8, 0.2], abs=1e-12)  # shares: w² σ² as 4 to 1
    for seed in range(40):
        rng = np.random.default_rng([SEED, seed])
        loads = rng.normal(size=(4, 4)) * rng.uniform(0.001, 1, 4)[:, None]
        cov, shares = loads @ loads.T + np.diag(np.diag(loads @ loads.T)) * 0.02, rng.dirichlet(np.full(4, 0.5)).clip(0.005)
        shares /= shares.sum()
        w = solve_risk_parity(cov, shares)
        assert w.sum() == pytest.approx(1) and (w > 0).all() and w * (cov @ w) / (w @ cov @ w) == pytest.approx(shares, abs=1e-7)


def test_the_nearest_allowed_weights():
    limits = resolve_limits("abc", (0, 0.5), GROUPS, {"g": (0, 0.6)})
    inside = np.array([0.3, 0.2, 0.5])
    assert nearest_allowed(inside, limits) is inside and nearest_allowed([0.3, 0.2, 0.5], limits).tolist() == [0.3, 0.2, 0.5]
    assert nearest_allowed([0.6, 0.2, 0.2], limits) == pytest.approx([0.5, 0.1, 0.4])
    assert nearest_allowed([0.4, 0.4, 0.2], limits) == pytest.approx([0.3, 0.3, 0.4])  # the group moves to 60 %
    assert nearest_allowed([0.0, 0.0, 1.0], limits) == pytest.approx([0.25, 0.25, 0.5])


# ---- limits


LIMITS = resolve_limits("abc", {"a": (0.1, 0.5), "b": (0.0, 0.4), "c": (0.2, 0.6)}, GROUPS, {"g": (0.45, 0.7)}, 0.9)


def test_limits_are_written_down_in_the_order_of_the_symbols():
    assert LIMITS.low.tolist() == [0.1, 0.0, 0.2] and LIMITS.high.tolist() == [0.5, 0.4, 0.6] and LIMITS.budget == 0.9
    assert LIMITS.groups == ("g",) and LIMITS.membership.tolist() == [[1, 1, 0]] and (LIMITS.group_low[0], LIMITS.group_high[0]) == (0.45, 0.7)
    plain = resolve_limits("ab")
    assert plain.low.tolist() == [0, 0] and plain.high.tolist() == [1, 1] and plain.budget == 1 and plain.groups == () and plain.membership is None


@pytest.mark.parametrize("weights, fine", [
    ([0.3, 0.2, 0.4], True), ([0.1, 0.4, 0.4], True), ([0.5, 0.1, 0.3], True), ([0.09, 0.41, 0.4], False), ([0.51, 0.0, 0.39], False),
    ([0.3, 0.41, 0.19], False),
    ([0.3, 0.2, 0.41], False), ([0.3, 0.2, 0.39], False), ([0.3, 0.14, 0.46], False), ([0.3, 0.15, 0.45], True), ([0.4, 0.3, 0.2], True),
    ([0.4, 0.301, 0.199], False),
    ([0.35, 0.36, 0.19], False), ([0.1 - 5e-7, 0.4, 0.4 + 5e-7], True), ([0.1 - 2e-6, 0.4, 0.4 + 2e-6], False)])
def test_weights_are_allowed_exactly_inside_every_limit(weights, fine):
    assert LIMITS.allow(np.array(weights)) is fine
    assert allowed(np.array([weights]), LIMITS, slack=1e-6)[0] == fine or abs(sum(weights) - 0.9) > 1e-6


def test_a_tolerance_is_what_was_asked_for():
    over = np.array([0.3, 0.2, 0.401])
    assert LIMITS.allow(over, 0.01) and not LIMITS.allow(over, 0.0001)
    pair = resolve_limits("abc", groups=GROUPS, group_bounds={"g": (0.3, 0.6), "h": (0.2, 0.7)})
    assert pair.allow(np.array([0.3, 0.2, 0.5])) and not pair.allow(np.array([0.1, 0.1, 0.8])) and not pair.allow(np.array([0.5, 0.3, 0.2]))
    alone = resolve_limits("ab", (0.2, 0.8))
    assert alone.allow(np.array([0.2, 0.8])) and not alone.allow(np.array([0.1, 0.9])) and not alone.allow(np.array([0.4, 0.4]))


BAD = [  # the question, what is said, and a neighbour of the question that is answered
    ({"budget": 0.0}, "the budget is 0.0", {"budget": 0.01}), ({"budget": 1.01}, "the budget is 1.01", {"budget": 1.0}),
    ({"bounds": (-0.1, 1)}, "a: the bounds -0.1 to 1 make no sense", {"bounds": (0, 1)}),
    ({"bounds": (0, 1.1)}, "a: the bounds 0 to 1.1", {"bounds": (0, 1)}),
    ({"bounds": (0.3, 0.2)}, "the bounds 0.3 to 0.2", {"bounds": (0.3, 0.4)}), ({"bounds": {"a": (0, 1), "b": (0, 1)}}, "bounds: c is missing", {}),
    ({"bounds": dict.fromkeys("abcd", (0, 1))}, "bounds: d is not among the returns", {"bounds": dict.fromkeys("abc", (0, 1))}),
    ({"group_bounds": {"g": (0, 0.5)}, "groups": {"a": "g", "b": "g"}}, "c has no group", {"group_bounds": {"g": (0, 0.5)}}),
    ({"group_bounds": {"g": (0, 0.5)}, "groups": None}, "a has no group", {}),
    ({"group_bounds": {"x": (0, 1)}}, "the group 'x' has bounds but no symbol; groups are g, h", {}),
    ({"group_bounds": {"g": (0.5, 0.4)}}, "the group 'g' must hold at least 50.0% and at most 40.0%; swap", {"group_bounds": {"g": (0.4, 0.4)}}),
    ({"group_bounds": {"g": (0, 0.3)}, "bounds": (0.2, 1)}, "minimum weights in the group 'g' add up to 40.0%, above its maximum of 30.0%",
     {"group_bounds": {"g": (0, 0.4)}, "bounds": (0.2, 1)}),
    ({"group_bounds": {"g": (0.9, 1)}, "bounds": (0, 0.4)}, "maximum weights in the group 'g' add up to 80.0%, below its minimum of 90.0%",
     {"group_bounds": {"g": (0.8, 1)}, "bounds": (0, 0.4)}),
    ({"bounds": (0, 0.3)}, "the maximum weights of 3 symbols allow 90.0%, below the 100.0% to invest", {"bounds": (0, 1 / 3)}),
    ({"bounds": (0.4, 1)}, "the minimum weights of 3 symbols add up to 120.0%, above the 100.0%", {"bounds": (1 / 3, 1)}),
    ({"bounds": (0, 0.5), "group_bounds": {"g": (0, 0.4)}}, "of 3 symbols and the groups g allow 90.0%, below the 100.0%",
     {"bounds": (0, 0.6), "group_bounds": {"g": (0, 0.4)}}),
    ({"bounds": (0.3, 1), "group_bounds": {"g": (0.8, 1)}}, "and the groups g add up to 110.0%, above the 100.0%",
     {"bounds": (0.2, 1), "group_bounds": {"g": (0.8, 1)}}),
    ({"group_bounds": {"g": (0.6, 1), "h": (0.5, 1)}}, "and the groups g, h add up to 110.0%", {"group_bounds": {"g": (0.5, 1), "h": (0.5, 1)}}),
    ({"group_bounds": {"g": (0, 0.4), "h": (0, 0.5)}}, "and the groups g, h allow 90.0%", {"group_bounds": {"g": (0, 0.5), "h": (0, 0.5)}}),
]


@pytest.mark.parametrize("bad, says, good", BAD, ids=[b[1][:40] for b in BAD])
def test_limits_that_contradict_one_another_are_refused_and_their_neighbours_answered(bad, says, good):
    with pytest.raises(BadInput, match=says):
        resolve_limits("abc", **{"groups": GROUPS, **bad})
    limits = resolve_limits("abc", **{"groups": GROUPS, **good})
    assert check_feasible(limits) is limits and limits.allow(solve_quadratic(np.eye(3), np.zeros(3), limits))


def test_what_a_solver_leaves_is_cleaned():
    limits = resolve_limits("abc", (0, 0.6))
    assert clean_weights(np.array([5e-7, 0.4, 0.6]), limits).tolist() == [0.0, 0.4, 0.6]
    assert clean_weights(np.array([2e-6, 0.4, 0.6]), limits)[0] > 1e-6
    assert clean_weights(np.array([-5e-7, 0.4, 0.6000004]), limits).tolist() == [0.0, 0.4, 0.6]
    assert clean_weights(np.array([0.2, 0.3, 0.4995]), limits) == pytest.approx([0.2002, 0.3003, 0.5], abs=1e-3)
    fixed = clean_weights(np.array([0.2, 0.3, 0.4995]), limits)
    assert fixed.sum() == pytest.approx(1, abs=1e-9) and fixed / np.array([0.2, 0.3, 0.4995]) == pytest.approx(np.full(3, 1 / 0.9995), abs=1e-9)
    assert clean_weights(np.array([0.2, 0.2, 0.2]), limits).tolist() == [0.2, 0.2, 0.2]  # too far off to be a rounding
    assert clean_weights(np.array([0.1, 0.2985, 0.7]), limits).tolist() == [0.1, 0.2985, 0.6]
    third = clean_weights(np.full(3, 1 / 3), limits)
    assert third.tolist() == [0.3333333333] * 3 and third.sum() <= 1


@pytest.mark.parametrize("seed", range(4))
def test_a_large_program_solved_for_the_assets_that_matter_is_the_one_solved_whole(seed):
    rng, size = np.random.default_rng(seed), 200
    values = rng.standard_normal((400, size)) * 0.01 * rng.uniform(0.5, 2, size) + rng.standard_normal((400, 1)) * 0.01 * rng.uniform(0.3, 1.7, size)
    cov, linear = np.cov(values.T), values.mean(axis=0) * (0.0, 0.1, 0.5, 2.0)[seed]
    names = [f"A{k}" for k in range(size)]
    bounds = {s: (0.002 if k % 7 == 0 and seed else 0.0, 0.03 if k % 5 else 0.004) for k, s in enumerate(names)}
    groups = {s: f"g{k % 8}" for k, s in enumerate(names)}
    limits = resolve_limits(names, bounds, groups, {"g0": (0.25, 0.4), "g1": (0.0, 0.0 if seed == 0 else 0.1), "g5": (0.05, 0.06)}, 0.9)
    whole, some = _solve_whole(cov, linear, limits)[0], solve_quadratic(cov, linear, limits)
    assert limits.allow(some, 1e-9)
    np.testing.assert_allclose(some, whole, atol=1e-8)
    assert 0.5 * some @ cov @ some - linear @ some <= 0.5 * whole @ cov @ whole - linear @ whole + 1e-14


def test_a_large_program_without_an_answer_says_so():
    names = [f"A{k}" for k in range(160)]
    limits = Limits(tuple(names), np.zeros(160), np.full(160, 0.005), 1.0)
    with pytest.raises(SolverError, match="no room"):
        solve_quadratic(np.eye(160), np.zeros(160), limits)
