"""Optimisers against other people's, under random limits, and with every kind of bad input."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.core.datasets import sample_bars
from trading.core.errors import BadInput
from trading.portfolio.constraints import resolve_limits
from trading.portfolio.estimators import covariance
from trading.portfolio.mean_risk import EqualWeight, HierarchicalRiskParity, InverseVolatility, MeanRisk, RiskParity
from trading.portfolio.solvers import nearest_allowed, solve_cvar, solve_quadratic, solve_risk_parity, solve_sharpe

RETURNS = sample_bars("stocks")["close"].pct_change().iloc[1:]
YEARS = RETURNS.loc["2020-12-29":]
OIL = {s: "Oil" if s in ("CVX", "XOM", "RRC") else "Other" for s in RETURNS}
EVERY = [EqualWeight(), InverseVolatility(), HierarchicalRiskParity(), RiskParity(), RiskParity(solver="direct")]
EVERY += [MeanRisk(), MeanRisk(solver="riskfolio"), MeanRisk(risk="CVaR"), MeanRisk(risk="CVaR", solver="riskfolio"), RiskParity(solver="riskfolio")]


@pytest.mark.parametrize("risk, measure", [("MV", "VARIANCE"), ("CVaR", "CVAR"), ("CDaR", "CDAR"), ("MAD", "MEAN_ABSOLUTE_DEVIATION")])
def test_the_least_risk_is_not_above_what_skfolio_finds(risk, measure):
    from skfolio import RiskMeasure
    from skfolio.optimization import MeanRisk as Skfolio

    ours = MeanRisk(risk=risk, bounds=(0, 0.2), covariance="sample").fit(YEARS)
    theirs = Skfolio(risk_measure=RiskMeasure[measure], max_weights=0.2).fit(YEARS)
    assert ours.fallback_ == ""
    one, other = (getattr(_portfolio(w), measure.lower()) for w in (ours.weights_.to_numpy(), theirs.weights_))
    assert abs(one - other) <= 2e-5 * abs(other) + 1e-9


def _portfolio(weights):
    from skfolio import Portfolio

    return Portfolio(YEARS, weights, compounded=False)


def test_the_best_ratio_agrees_with_skfolio():
    from skfolio import RiskMeasure
    from skfolio.optimization import MeanRisk as Skfolio
    from skfolio.optimization import ObjectiveFunction

    ours = MeanRisk(objective="Sharpe", bounds=(0, 0.2), covariance="sample").fit(YEARS)
    theirs = Skfolio(objective_function=ObjectiveFunction.MAXIMIZE_RATIO, risk_measure=RiskMeasure.VARIANCE, max_weights=0.2).fit(YEARS)
    assert np.abs(ours.weights_.to_numpy() - theirs.weights_).max() < 1e-3
    assert _portfolio(ours.weights_.to_numpy()).sharpe_ratio >= _portfolio(theirs.weights_).sharpe_ratio - 1e-6


def test_risk_parity_agrees_with_skfolio():
    from skfolio.optimization import RiskBudgeting

    theirs = RiskBudgeting().fit(YEARS).weights_
    ours = RiskParity(covariance="sample", solver="direct").fit(YEARS).weights_
    assert np.abs(ours.to_numpy() - theirs).max() < 1e-4


def test_riskfolio_called_naively_agrees_on_several_windows():
    import riskfolio

    for end in (1500, 4000, 7000):
        part = RETURNS.iloc[end - 252 : end]
        portfolio = riskfolio.Portfolio(returns=part)
        portfolio.assets_stats(method_mu="hist", method_cov="hist")
        portfolio.ainequality, portfolio.binequality = np.eye(20), np.full((20, 1), 0.15)
        for risk in ("MV", "CVaR"):
            theirs = portfolio.optimization(model="Classic", rm=risk, obj="MinRisk", hist=True)["weights"].to_numpy()
            ours = MeanRisk(risk=risk, bounds=(0, 0.15), covariance="sample", solver="direct").fit(part).weights_.to_numpy()
            assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("optimizer", EVERY, ids=lambda o: f"{type(o).__name__}-{getattr(o, 'risk', '')}-{getattr(o, 'solver', '')}")
def test_every_optimiser_keeps_limits_on_assets_groups_and_the_budget(optimizer):
    bound = {"bounds": (0.01, 0.12), "groups": OIL, "group_bounds": {"Oil": (0.05, 0.10)}, "budget": 0.9}
    fitted = type(optimizer)(**(optimizer.get_params() | bound)).fit(YEARS)
    w = fitted.weights_
    assert 0.9 - 1e-8 <= w.sum() <= 0.9 + 1e-12 and w.between(0.01 - 1e-9, 0.12 + 1e-12).all()
    assert 0.05 - 1e-8 <= w[["CVX", "XOM", "RRC"]].sum() <= 0.10 + 1e-9 and fitted.fallback_ == ""
    assert abs(fitted.risk_contributions_.sum() - 1) < 1e-9 and list(w.index) == list(YEARS.columns)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(0.15, 1.0), st.floats(0.3, 1.0))
def test_direct_solutions_are_inside_the_limits_and_no_allowed_neighbour_is_better(seed, size, cap, budget):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((60, size)) * rng.uniform(0.005, 0.04, size) + rng.standard_normal((60, 1)) * 0.01
    if cap * size < budget:
        with pytest.raises(BadInput, match="below the"):
            resolve_limits(map(str, range(size)), (0, cap), budget=budget)
        return
    limits = resolve_limits(map(str, range(size)), (0, cap), budget=budget)
    cov, mean = np.cov(values.T), values.mean(axis=0)
    def tail(w):
        return np.sort(-values @ w)[::-1][:3].mean()
    cases = [(solve_quadratic(cov, np.zeros(size), limits), lambda w: w @ cov @ w), (solve_cvar(values, np.zeros(size), limits), tail)]
    cases.append((solve_quadratic(4 * cov, mean, limits), lambda w: 2 * w @ cov @ w - w @ mean))
    for w, cost in cases:
        assert limits.allow(w, 1e-8)
        for _ in range(20):
            other = nearest_allowed(w + rng.normal(0, 0.05, size), limits)
            assert cost(w) <= cost(other) + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 15))
def test_risk_parity_gives_each_the_share_that_was_asked(seed, size):
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((size, size + 2)) * rng.uniform(0.1, 5, (size, 1))
    cov, shares = factors @ factors.T + 0.01 * np.eye(size), rng.dirichlet(np.full(size, 3.0)) * 0.9 + 0.1 / size
    w = solve_risk_parity(cov, shares)
    assert w.min() > 0 and np.allclose(w * (cov @ w) / (w @ cov @ w), shares, atol=1e-9)


def test_the_sharpe_ratio_is_found_when_most_assets_lose():
    excess = np.full(20, -0.001)
    excess[7] = 0.0005
    w = solve_sharpe(covariance(YEARS).to_numpy(), excess, resolve_limits(YEARS.columns))
    assert w @ excess > 0 and w[7] > 0.5


def test_the_same_weights_to_the_last_bit_in_another_process():
    code = """
from trading.portfolio.mean_risk import HierarchicalRiskParity, MeanRisk, RiskParity
from trading.core.datasets import sample_bars
returns = sample_bars("stocks")["close"].pct_change().iloc[1:].loc["2020-12-29":]
each = (MeanRisk(bounds=(0, 0.2)), MeanRisk(risk="CVaR", objective="Sharpe"), RiskParity(), HierarchicalRiskParity())
told = [o.fit(returns).weights_.to_numpy().tobytes().hex() for o in each]
"""
    here = {}
    exec(code, here)  # noqa: S102  the lines above
    there = subprocess.run([sys.executable, "-W", "ignore", "-c", code + "print(*told)"], capture_output=True, text=True, check=True).stdout.split()
    assert here["told"] == there and len(there) == 4


def test_importing_the_allocation_imports_nothing_heavy():
    heavy = "{'riskfolio', 'cvxpy', 'sklearn', 'scipy', 'matplotlib', 'highspy', 'daqp', 'statsmodels'}"
    code = f"import sys, trading.portfolio.rolling; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_singular_covariance_still_gives_weights():
    twin = YEARS.assign(TWIN=YEARS["AAPL"])
    for optimizer in (MeanRisk(covariance="sample"), MeanRisk(covariance="sample", solver="direct"), HierarchicalRiskParity(covariance="sample")):
        fitted = optimizer.fit(twin)
        assert abs(fitted.weights_.sum() - 1) < 1e-8 and fitted.weights_.min() >= 0
    few = MeanRisk(covariance="ledoit_wolf", solver="direct").fit(RETURNS.iloc[-20:])
    assert abs(few.weights_.sum() - 1) < 1e-8


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda r: r.assign(KO=np.nan), "KO: the return is missing in every period"),
        (lambda r: r.assign(KO=0.0), "KO: the return never changes"),
        (lambda r: r.mask(np.arange(r.size).reshape(r.shape) == 45), "GE: the return is missing at 2020-12-31"),
        (lambda r: r.replace(r.iloc[3, 2], np.inf), "is infinite"),
        (lambda r: r.replace(r.iloc[3, 2], -1.5), "loses more than everything"),
        (lambda r: r.iloc[:15], "15 periods are too few"),
        (lambda r: r.iloc[:, [0, 1, 1]], "occurs twice"),
        (lambda r: r.tz_localize(None), "have no zone"),
        (lambda r: r.iloc[::-1], "sort the rows"),
    ],
)
def test_unusable_returns_are_refused_with_the_symbol_or_the_time(spoil, message):
    for optimizer in (MeanRisk(solver="direct"), EqualWeight()):
        with pytest.raises(BadInput, match=message):
            optimizer.fit(spoil(YEARS))


def test_too_few_observations_for_a_sample_covariance_name_the_way_out():
    with pytest.raises(BadInput, match="20 periods cannot tell the covariance of 20 assets by 'sample'.*use 'ledoit_wolf'"):
        MeanRisk(covariance="sample").fit(YEARS.iloc[:20])


def test_limits_in_conflict_are_named():
    with pytest.raises(BadInput, match="maximum weights of 20 symbols allow 80.0%, below the 100.0%"):
        MeanRisk(bounds=(0, 0.04)).fit(YEARS)
    with pytest.raises(BadInput, match="maximum weights in the group 'Oil' add up to 30.0%, below its minimum of 40.0%"):
        MeanRisk(bounds=(0, 0.1), groups=OIL, group_bounds={"Oil": (0.4, 0.5)}).fit(YEARS)
    with pytest.raises(BadInput, match="AAPL: the bounds 0 to 1.2 make no sense"):
        MeanRisk(bounds=dict.fromkeys(YEARS, (0, 1.2))).fit(YEARS)


def test_scikit_learn_can_search_over_an_optimiser():
    from sklearn.model_selection import ParameterGrid

    volatility = {}
    for params in ParameterGrid({"bounds": [(0, 0.06), (0, 0.2), (0, 1.0)]}):
        fitted = MeanRisk(solver="direct", covariance="sample").set_params(**params).fit(YEARS)
        volatility[params["bounds"][1]] = fitted.predict(YEARS).std()
    assert volatility[0.06] > volatility[0.2] > volatility[1.0]
    assert isinstance(fitted.predict(YEARS), pd.Series)


@pytest.mark.parametrize("seed", range(6))
def test_risk_parity_and_hierarchical_risk_parity_under_caps_agree_with_skfolio(seed):
    from skfolio.cluster import HierarchicalClustering, LinkageMethod
    from skfolio.optimization import HierarchicalRiskParity as TheirTree
    from skfolio.optimization import RiskBudgeting

    rng = np.random.default_rng(seed)
    size = int(rng.integers(4, 12))
    values = rng.standard_t(5, (300, size)) * rng.uniform(0.002, 0.04, size) + rng.standard_normal((300, 1)) * 0.005
    returns = pd.DataFrame(values, pd.date_range("2023-01-01", periods=300, tz="UTC"), [f"A{i}" for i in range(size)])
    cap, floor = rng.uniform(1.2, 2.5) / size, rng.uniform(0, 0.5) / size
    bound = {"bounds": (floor, cap), "covariance": "sample"}
    theirs = RiskBudgeting(min_weights=floor, max_weights=cap).fit(returns).weights_
    for solver in ("direct", "riskfolio"):
        ours = RiskParity(solver=solver, **bound).fit(returns)
        assert ours.fallback_ == "" and ours.moved_ < 1e-6 and np.abs(ours.weights_ - theirs).max() < 2e-4, solver
    tree = HierarchicalClustering(linkage_method=LinkageMethod.SINGLE)
    theirs = TheirTree(min_weights=floor, max_weights=cap, hierarchical_clustering_estimator=tree).fit(returns).weights_
    ours = HierarchicalRiskParity(neighbours=True, **bound).fit(returns)
    assert ours.moved_ < 1e-9 and np.abs(ours.weights_ - theirs).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_a_problem_is_solved_within_its_limits_or_refused(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 9))
    values = rng.standard_t(4, (int(rng.integers(20, 80)), size)) * rng.uniform(1e-4, 0.08, size)
    if size > 2 and rng.random() < 0.3:
        values[:, 1] = values[:, 0] * rng.choice([1.0, 2.0, -1.0])  # perfectly correlated
    names = [f"A{i}" for i in range(size)]
    returns = pd.DataFrame(np.clip(values, -0.9, 5), pd.date_range("2023-01-01", periods=len(values), tz="UTC"), names)
    groups = {n: "odd" if i % 2 else "even" for i, n in enumerate(names)}
    bound = {"bounds": (0.0, float(rng.choice([1.0, 0.5, 0.3]))), "budget": float(rng.uniform(0.3, 1.0))}
    bound["max_turnover"] = rng.choice([None, 0.2, 1.0])
    if size > 1 and rng.random() < 0.5:
        bound |= {"groups": groups, "group_bounds": {"odd": (0.0, float(rng.uniform(0, 0.6)))}}
    held = pd.Series(rng.dirichlet(np.ones(size)) * rng.uniform(0, 1), names)
    for kind in (EqualWeight, InverseVolatility, RiskParity, HierarchicalRiskParity, MeanRisk):
        try:
            w = kind(**bound).fit(returns, current=held).weights_
        except BadInput:
            continue
        limits = resolve_limits(names, bound["bounds"], bound.get("groups"), bound.get("group_bounds"), bound["budget"])
        assert limits.allow(w.to_numpy(), 1e-7), kind
        assert bound["max_turnover"] is None or (w - held).abs().sum() <= bound["max_turnover"] + 1e-6, kind


def test_a_wild_asset_under_a_cap_does_not_keep_half_of_the_risk():
    values = np.random.default_rng(3).standard_t(5, (300, 5)) * 0.01 + 0.0005
    returns = pd.DataFrame(values * [3, 1, 1, 1, 0.25], pd.date_range("2023-01-01", periods=300, tz="UTC"), list("ABCDE"))
    assert RiskParity(bounds=(0, 0.22), covariance="sample").fit(returns).risk_contributions_["A"] < 0.42  # projected: 0.51


@pytest.mark.parametrize("risk, objective", [("EVaR", "Sharpe"), ("EVaR", "MinRisk"), ("EDaR", "Sharpe")])
def test_what_the_precise_solver_gives_up_is_solved_at_the_usual_precision(risk, objective):
    import riskfolio

    etfs = sample_bars("etfs")["close"].pct_change().iloc[1:].loc["2012":"2015", ["SPY", "IWM", "EEM", "USO", "QQQ"]].dropna()
    ours = MeanRisk(risk=risk, objective=objective, bounds=(0, 0.4)).fit(etfs)
    plain = riskfolio.Portfolio(returns=etfs)
    plain.assets_stats(method_mu="hist", method_cov="hist")
    plain.ainequality, plain.binequality = np.eye(5), np.full((5, 1), 0.4)
    theirs = plain.optimization(model="Classic", rm=risk, obj=objective, rf=0, l=2, hist=True)["weights"]
    assert "inverse" not in ours.fallback_ and ours.moved_ < 1e-4 and np.abs(ours.weights_ - theirs).max() < 2e-3


def test_the_mean_absolute_deviation_has_its_textbook_scale():
    import cvxpy

    x = YEARS.to_numpy()
    w = cvxpy.Variable(20)
    goal = x.mean(axis=0) @ w - 2 * cvxpy.sum(cvxpy.abs((x - x.mean(axis=0)) @ w)) / len(x)
    cvxpy.Problem(cvxpy.Maximize(goal), [w >= 0, w <= 0.2, cvxpy.sum(w) == 1]).solve(solver="CLARABEL")
    ours = MeanRisk(risk="MAD", objective="Utility", bounds=(0, 0.2)).fit(YEARS).weights_
    paying = MeanRisk(risk="MAD", objective="Utility", bounds=(0, 0.2), cost_rate=1e-12, max_turnover=2)
    costs = paying.fit(YEARS, current=pd.Series(0.05, YEARS.columns))
    for v in (ours.to_numpy(), costs.weights_.to_numpy()):
        assert x.mean(axis=0) @ v - 2 * np.abs((x - x.mean(axis=0)) @ v).mean() == pytest.approx(goal.value, abs=1e-8)


@pytest.mark.parametrize("params, message", [
    ({"risk": "CVaR", "level": 0}, "share of worst periods"), ({"risk": "CVaR", "level": 0.95}, "give 0.05 for a confidence of 95 %"),
    ({"objective": "Utility", "risk_aversion": -1}, "risk aversion of -1"), ({"objective": "Utility", "risk_aversion": 0}, "risk aversion of 0"),
    ({"cost_rate": -0.1}, "a cost rate of -0.1"), ({"risk": "foo"}, "the risk 'foo' is unknown"),
])
def test_parameters_that_make_no_sense_are_refused(params, message):
    with pytest.raises(BadInput, match=message):
        MeanRisk(**params).fit(YEARS)


def test_one_asset_is_held_whole_by_every_optimiser():
    from trading.portfolio.mean_risk import HERC, BlackLitterman, NestedClusters

    for kind in (EqualWeight, RiskParity, HierarchicalRiskParity, HERC, NestedClusters, MeanRisk, BlackLitterman):
        fitted = kind(budget=0.8).fit(YEARS[["KO"]])
        assert fitted.weights_.to_dict() == pytest.approx({"KO": 0.8}) and fitted.fallback_ == "", kind
