"Optimisers' common frame, policies and their history: fallbacks, exposure, reasons and costs, each number worked out by hand."

import numpy as np
import pandas as pd
import pytest

from trading.core.bars import bars_from_close
from trading.core.calendars import bars_a_year
from trading.core.errors import BadInput, MissingData
from trading.portfolio.base import EqualWeight, InverseVolatility, Optimizer, first_solution, inverse_volatility, make_problem, risk_shares
from trading.portfolio.constraints import resolve_limits
from trading.portfolio.estimators import covariance
from trading.portfolio.mean_risk import MeanRisk
from trading.portfolio.policies import (
    AVERSION,
    REGIMES,
    RISK_LEVELS,
    Policy,
    RiskLevel,
    anchor_weights,
    eligible_symbols,
    exposure,
    past_drawdown,
    policy,
    read_views,
    why_held,
    why_left_out,
)
from trading.portfolio.rolling import policy_history, rebalance, rolling_weights
from trading.portfolio.solvers import SolverError

DAY = pd.date_range("2020-01-01", periods=400, tz="UTC")
RETURNS = pd.DataFrame(np.random.default_rng(0).normal(0.0005, [0.01, 0.02, 0.015], (400, 3)), DAY, list("abc"))


# ---- the common frame


def test_a_problem_is_aligned_with_its_returns():
    limits, cov = resolve_limits("abc"), RETURNS.cov()
    made = make_problem(RETURNS, pd.Series({"c": 3.0, "a": 1.0, "b": 2.0}), pd.Series({"b": 0.5, "z": 0.5}), limits, cov)
    assert made.expected.tolist() == [1, 2, 3] and made.current.tolist() == [0, 0.5, 0] and list(made.current.index) == list("abc")
    plain = make_problem(RETURNS, None, None, limits, cov)
    assert plain.expected.equals(RETURNS.mean()) and plain.current is None
    for expected, current, says in (({"a": 1, "b": 1}, None, "c: no expected return"), ({"a": 1, "b": np.nan, "c": 1}, None, "b: no expected"),
                                    ({"a": 1, "b": np.inf, "c": 1}, None, "b: no expected"),
                                    (None, {"a": -0.1}, "a: the current weight is -0.1; only long")):
        with pytest.raises(BadInput, match=says):
            make_problem(RETURNS, expected, current, limits, cov)


def test_the_chain_of_fallbacks_remembers_every_failure():
    def fail():
        raise SolverError("too steep")

    good, odd = ("good", lambda: [0.5, 0.5]), ("odd", lambda: [np.nan, 1.0])
    assert first_solution([good, ("bad", fail)])[1] == "" and first_solution([good])[0].tolist() == [0.5, 0.5]
    assert first_solution([("bad", fail), odd, good])[1] == "bad failed (too steep); odd failed (its weights are not finite); used good"
    with pytest.raises(SolverError, match=r"bad failed \(too steep\); odd failed"):
        first_solution([("bad", fail), odd])
    with pytest.raises(ZeroDivisionError):
        first_solution([("broken", lambda: 1 / 0), good])


def test_the_two_simple_rules_and_the_shares_of_risk():
    cov = np.diag([0.04, 0.01])
    assert inverse_volatility(cov).tolist() == pytest.approx([1 / 3, 2 / 3]) and inverse_volatility(cov, 0.6).tolist() == pytest.approx([0.2, 0.4])
    shares = risk_shares(pd.Series([0.5, 0.5], list("ab")), pd.DataFrame([[0.09, 0.01], [0.01, 0.04]], list("ab"), list("ab")))
    assert shares.tolist() == pytest.approx([2 / 3, 1 / 3]) and risk_shares(pd.Series([0.0, 0.0]), pd.DataFrame(cov)).tolist() == [0, 0]
    equal = EqualWeight(budget=0.6).fit(RETURNS)
    assert equal.weights_.tolist() == pytest.approx([0.2] * 3) and (equal.fallback_, equal.moved_) == ("", 0.0) and equal.weights_.name == "weight"
    inverse = InverseVolatility(covariance="sample", budget=0.9).fit(RETURNS).weights_
    assert inverse.to_numpy() == pytest.approx((0.9 / RETURNS.std() / (1 / RETURNS.std()).sum()).to_numpy(), abs=1e-9)
    capped = EqualWeight(bounds={"a": (0, 0.2), "b": (0, 1), "c": (0, 1)}).fit(RETURNS)
    assert capped.weights_.tolist() == pytest.approx([0.2, 0.4, 0.4]) and capped.moved_ == pytest.approx(2 * (1 / 3 - 0.2))
    assert capped.predict(RETURNS[["c", "a", "b"]]).iloc[7] == pytest.approx(RETURNS.iloc[7] @ [0.2, 0.4, 0.4])
    assert capped.risk_contributions_.sum() == pytest.approx(1)


def test_a_solver_that_fails_leaves_the_next_rule():
    class Broken(Optimizer):
        def _attempts(self, problem):
            def fail():
                raise SolverError("no")

            yield "broken", fail

    fitted = Broken(budget=0.9).fit(RETURNS)
    assert fitted.fallback_ == "broken failed (no); used inverse volatility"
    assert fitted.weights_.to_numpy() == pytest.approx(inverse_volatility(covariance(RETURNS).to_numpy(), 0.9), abs=1e-9)
    with pytest.raises(NotImplementedError):
        Optimizer().fit(RETURNS)


def test_parameters_as_scikit_learn_asks_for_them():
    one = MeanRisk(budget=0.5)
    shared = {"bounds", "groups", "group_bounds", "budget", "covariance", "max_turnover"}
    assert one.get_params()["budget"] == 0.5 and set(EqualWeight().get_params()) == shared
    assert one.set_params(budget=0.7, risk="CVaR") is one and (one.budget, one.risk) == (0.7, "CVaR")
    with pytest.raises(BadInput, match="MeanRisk has no parameter 'colour'"):
        one.set_params(colour=1)


# ---- what a policy holds


def test_levels_of_risk_are_five_and_each_limit_has_its_range():
    table = {n: (v.max_weight, v.volatility, v.max_drawdown, v.min_cash, dict(v.group_limits)) for n, v in RISK_LEVELS.items()}
    assert table == {"very low": (0.10, 0.05, 0.08, 0.40, {"Memecoins": 0.0}), "low": (0.12, 0.08, 0.12, 0.25, {"Memecoins": 0.0}),
                     "medium": (0.15, 0.12, 0.20, 0.10, {"Memecoins": 0.05}), "high": (0.25, 0.18, 0.30, 0.05, {"Memecoins": 0.10}),
                     "very high": (0.40, 0.30, 0.50, 0.00, {"Memecoins": 0.20})}
    assert AVERSION == {"conservative": 10, "balanced": 6, "aggressive": 3, "momentum": 6, "mean reversion": 6}
    assert REGIMES == {"bull calm": "aggressive", "bull volatile": "balanced", "sideways": "balanced", "bear calm": "conservative",
                       "bear volatile": "conservative", "crash": "conservative"}
    good = {"name": "x", "max_weight": 1, "volatility": 1, "max_drawdown": 1, "min_cash": 0}
    RiskLevel(**good)
    RiskLevel(**{**good, "min_cash": 0.99, "max_weight": 0.001})
    for field, bad in [(f, v) for f in ("max_weight", "volatility", "max_drawdown") for v in (0, 1.01, -0.1)] + [("min_cash", 1),
        ("min_cash", -0.01)]:
        with pytest.raises(BadInput, match=f"risk level 'x': {field} is {bad}"):
            RiskLevel(**{**good, field: bad})


def test_winners_of_the_last_year_and_losers_of_the_last_week():
    n = 300
    r = pd.DataFrame(0.0, pd.date_range("2020-01-01", periods=n, tz="UTC"), list("abcd"))
    r.iloc[n - 252, :] = [0.10, 0.05, -0.02, 0.01]  # the first bar of the year counts
    r.iloc[n - 253, 3] = 5.0  # the one before does not
    r.iloc[n - 22, 1], r.iloc[n - 21, 0] = 0.01, -0.9  # the last month does not count, its eve does
    assert eligible_symbols("momentum", r).tolist() == [True, True, False, False]
    week = r * 0 + np.array([0.001, -0.001])[np.arange(n) % 2][:, None]
    week.iloc[n - 5] += [-0.10, -0.05, 0.02, -0.01]
    week.iloc[n - 6] += [0, 0, 0, -0.5]  # six days ago is too long ago
    assert eligible_symbols("mean reversion", week).tolist() == [True, True, False, False] and eligible_symbols("balanced", week).all()
    week.iloc[: n - 6, 0] *= 500  # what swings more has to fall more
    assert eligible_symbols("mean reversion", week).tolist() == [False, True, False, True]


def test_what_each_policy_holds_without_a_view():
    cov = np.diag([0.04, 0.01, 0.0025])
    limits = resolve_limits("abc", {"a": (0, 1), "b": (0, 1), "c": (0, 0)}, budget=0.9)  # c may not be held
    assert anchor_weights("aggressive", cov, limits).tolist() == pytest.approx([0.45, 0.45, 0])
    assert anchor_weights("balanced", cov, limits).tolist() == pytest.approx([0.3, 0.6, 0])
    assert anchor_weights("momentum", cov, limits).tolist() == pytest.approx([0.3, 0.6, 0])
    assert anchor_weights("conservative", cov, limits).tolist() == pytest.approx([0.18, 0.72, 0])
    tied = np.array([[0.04, 0.018, 0], [0.018, 0.01, 0], [0, 0, 1]])
    assert anchor_weights("mean reversion", tied, limits).tolist() == pytest.approx([0.3, 0.6, 0])


def frame(rows):
    return pd.DataFrame(rows, columns=["symbol", "horizon", "expected", "confidence"]).set_index(["symbol", "horizon"])


def test_views_of_one_horizon_are_taken_and_bad_ones_refused():
    views = read_views(frame([("a", 5, 0.1, 0.5), ("a", 20, 0.2, 0.0), ("z", 20, 0.3, 1.0)]), ["b", "a"], 20)
    assert np.isnan(views.loc["b"]).all() and views.loc["a"].tolist() == [0.2, 0.0] and list(views.index) == ["b", "a"]
    assert read_views(None, ["a"], 20).isna().all(axis=None)
    for table, says in (
        (frame([("a", 5, 0.1, 0.5)]), "no horizon 20, only 5"), (frame([("a", 20, 0.1, 0.5), ("a", 20, 0.2, 0.5)]), "has a twice for the horizon 20"),
        (frame([("a", 20, 0.1, 1.01)]), "confidence outside 0 to 1"), (frame([("a", 20, 0.1, -0.01)]), "confidence outside"),
        (frame([("a", 20, 0.1, 1)]).droplevel(1), "needs the index"),
        (frame([("a", 20, 0.1, 1)]).drop(columns="confidence"), "needs the index"),
    ):
        with pytest.raises((BadInput, MissingData), match=says):
            read_views(table, ["a"], 20)


def test_how_much_is_invested():
    level = RiskLevel("x", 1.0, 0.2, 0.25, 0.0)
    calm = pd.DataFrame({"a": [0.01, -0.01] * 5})
    cov = np.array([[0.01]])
    assert exposure(np.array([1.0]), calm, cov, level, 16) == (pytest.approx(0.5),
        "fully invested its volatility would be 40%, above the target of 20%")
    assert exposure(np.array([0.5]), calm, cov, level, 16) == (1.0, "") and exposure(np.array([0.0]), calm, cov, level, 16) == (1.0, "")
    fall = pd.DataFrame({"a": [0.1, -0.5, 0.2]})
    factor, why = exposure(np.array([1.0]), fall, cov, level, 1)
    assert factor == pytest.approx(0.5, abs=1e-9) and why == "over the past window it would have lost 50%, above the limit of 25%"
    both, why = exposure(np.array([1.0]), fall, cov, level, 64)
    assert both == pytest.approx(0.25) and "volatility would be 80%" in why
    assert past_drawdown(np.array([-0.1, 0.5, -0.2, 0.1])) == pytest.approx(0.2) and past_drawdown(np.array([-0.3, 0.5])) == pytest.approx(0.3)
    assert past_drawdown(np.array([0.1])) == 0


@pytest.mark.parametrize("given, text", [
    (("momentum", False, "", False), "left out: it is not among the winners of the last year"),
    (("mean reversion", False, "x", True), "left out: it did not fall last week"),
    (("balanced", False, "", False), "left out: its group is at its maximum of 0%"),
    (("balanced", True, "forecast -1%", True), "left out: forecast -1%"),
    (("balanced", True, "", False), "left out: the others do the same for less risk"),
    (("balanced", True, "forecast +1%", False), "left out: the others do the same for less risk; forecast +1%")])
def test_why_nothing_is_held(given, text):
    assert why_left_out(*given) == text


@pytest.mark.parametrize("given, text", [
    ((0.22, 0.2, "", "", 1.0), "above its neutral 20.0%; adds its share of risk"),
    ((0.18, 0.2, "", "", 0.79), "below its neutral 20.0%; adds little risk"),
    ((0.209, 0.2, "", "told", 1.26), "at its neutral 20.0%; told; adds much risk"),
    ((0.191, 0.2, "", "", 0.8), "at its neutral 20.0%; adds its share of risk"),
    ((0.3, 0.2, "at its maximum of 30%", "", 1.25), "at its maximum of 30%; adds its share of risk"),
    ((0.211, 0.2, "", "", 1), "above its neutral 20.0%; adds its share of risk"),
    ((0.189, 0.2, "", "", 1), "below its neutral 20.0%; adds its share of risk")])
def test_why_something_is_held(given, text):
    assert why_held(*given) == text


WIDE = {"max_weight": 1.0, "volatility": 1.0, "max_drawdown": 1.0, "min_cash": 0.0}


def test_policies_are_chosen_by_name_and_level():
    made = policy("Mean_Reversion", "very-high".replace("-", "_"), {"min_cash": 0.3}, horizon=5)
    assert (made.name, made.level.name, made.level.min_cash, made.level.max_weight, made.horizon, made.periods, made.solver) == (
        "mean reversion", "very high", 0.3, 0.4, 5, None, "direct")
    own = RiskLevel("own", 0.5, 0.5, 0.5, 0.5)
    assert policy(risk_level=own).level == own and policy().name == "balanced" and policy().level is not None and policy().level.name == "medium"
    assert policy().horizon == 20
    for how, says in (({"name": "wild"}, "the policy 'wild' is unknown"), ({"risk_level": "wild"}, "the risk level 'wild' is unknown"),
                      ({"limits": {"x": 1}}, "no limit 'x'")):
        with pytest.raises(BadInput, match=says):
            policy(**how)


def test_cash_weights_and_group_limits_bind():
    made = policy("aggressive", "medium", {**WIDE, "min_cash": 0.1})
    assert made.weights(RETURNS).tolist() == pytest.approx([0.3] * 3) and made.invested_ == pytest.approx(0.9) and made.notes_ == ()
    assert made.anchor_.tolist() == pytest.approx([0.3] * 3)
    tight = policy("aggressive", "medium", {**WIDE, "max_weight": 0.2})
    assert tight.weights(RETURNS).tolist() == pytest.approx([0.2] * 3)
    assert tight.notes_ == ("60% invested at most: 3 symbols may be held, each up to 20%",)
    groups = {"a": "g", "b": "g", "c": "h"}
    capped = policy("aggressive", "medium", {**WIDE, "group_limits": {"g": 0.4, "none": 0.0}}, groups=groups)
    w = capped.weights(RETURNS)
    assert w["a"] + w["b"] == pytest.approx(0.4) and w["c"] == pytest.approx(0.6) and "its group g is at its maximum" in capped.reasons_["a"]
    closed = policy("aggressive", "medium", {**WIDE, "group_limits": {"g": 0.0}, "max_weight": 0.5}, groups=groups)
    assert closed.weights(RETURNS).to_dict() == pytest.approx({"a": 0, "b": 0, "c": 0.5})
    assert closed.reasons_["a"] == "left out: its group is at its maximum of 0%"
    assert closed.reasons_["c"].startswith("at its maximum of 50%")
    none = policy("aggressive", "medium", {**WIDE, "group_limits": {"g": 0.0, "h": 0.0}}, groups=groups)
    assert none.weights(RETURNS).tolist() == [0, 0, 0] and none.notes_[-1] == "nothing may be held now: all in cash" and none.invested_ == 0.0


def test_a_view_moves_the_weights_as_the_first_order_condition_tells():
    views = frame([("a", 20, 0.02, 0.5), ("b", 20, 0.0, 1.0), ("c", 20, -0.01, 0.0)])
    made = policy("balanced", "medium", WIDE)
    w, cov = made.weights(RETURNS, views, current={"a": 0.1}).to_numpy(), covariance(RETURNS).to_numpy()
    expected = 12 * cov @ made.anchor_.to_numpy() + np.array([np.expm1(0.01) / 20, 0, 0])
    gradient = expected - 12 * cov @ w  # equal for all that is held, when no limit binds
    assert np.ptp(gradient[w > 1e-6]) < 1e-7 and (gradient[w <= 1e-6] <= gradient[w > 1e-6].max() + 1e-9).all() and w[0] > made.anchor_["a"]
    assert "forecast +2.0% over 20 days, of which 50% counts" in made.reasons_["a"] and made.reasons_["a"].endswith("; from 10.0%")
    assert "from" not in made.reasons_["b"]
    partial = policy("balanced", "medium", WIDE)
    partial.weights(RETURNS, frame([("a", 20, 0.02, 0.5)]))
    assert partial.notes_ == ("no forecast for b, c: weighed without a view",)
    assert policy("balanced", "medium", WIDE).weights(RETURNS).to_numpy() != pytest.approx(w)


def test_shrinking_is_noted_and_keeps_the_target():
    made = policy("aggressive", "medium", {**WIDE, "volatility": 0.05})
    w = made.weights(RETURNS)
    year = bars_a_year(RETURNS.index)
    assert np.sqrt(w @ covariance(RETURNS) @ w * year) == pytest.approx(0.05)
    assert made.notes_[0].startswith(f"{w.sum():.0%} invested: fully invested its volatility would be")
    yearly = policy("aggressive", "medium", {**WIDE, "volatility": 0.05}, periods=2 * year).weights(RETURNS)
    assert w.sum() / yearly.sum() == pytest.approx(2**0.5)


def test_the_tactical_policy_mixes_anchors_and_fears():
    regime = {"bull calm": 0.5, "sideways": 0.1, "bear volatile": 0.3, "crash": 0.1}
    made = policy("tactical", "medium", WIDE)
    w = made.weights(RETURNS, regime=regime)
    cov, limits = covariance(RETURNS).to_numpy(), resolve_limits("abc", budget=0.8)  # a fear of 40 % keeps a fifth back
    mixed = 0.5 * anchor_weights("aggressive", cov, limits) + 0.1 * anchor_weights("balanced", cov, limits) + 0.4 * anchor_weights("conservative",
        cov, limits)
    assert w.to_numpy() == pytest.approx(mixed, abs=1e-9)
    for bad, kind, says in ((None, MissingData, "needs the probabilities"), ({"boom": 1.0}, BadInput, "'boom' is unknown"),
                            ({"bull calm": 0.9}, BadInput, "add up to 0.9"),
                            ({"bull calm": 1.1, "bear calm": -0.1}, BadInput, "zero or more")):
        with pytest.raises(kind, match=says):
            made.weights(RETURNS, regime=bad)
    assert made.weights(RETURNS, regime={"bull calm": 1.0}).to_numpy() == pytest.approx(np.full(3, 1 / 3), abs=1e-9)


def test_bars_are_as_good_as_returns_and_too_few_are_refused():
    bars = bars_from_close(100 * (1 + RETURNS).cumprod())
    assert policy("balanced", "medium", WIDE).weights(bars).to_numpy() == pytest.approx(policy("balanced", "medium",
        WIDE).weights(RETURNS.iloc[1:]).to_numpy())
    for name, least in (("balanced", 60), ("momentum", 252)):
        policy(name).weights(RETURNS.iloc[:least])
        with pytest.raises(BadInput):
            policy(name).weights(RETURNS.iloc[: least - 1])


# ---- history


def test_a_rebalance_pays_for_itself():
    # 100 in cash, half into A at 10 with one per cent: after = 100 - 0.01 · after / 2, so 99.50249 are left and 4.975124 units bought
    units, cash, cost, traded = rebalance(np.array([0.0]), 100.0, np.array([0.5]), np.array([10.0]), 0.01)
    assert units[0] == pytest.approx(4.97512438) and cash == pytest.approx(49.7512438) and cost == pytest.approx(0.00497512)
    assert traded == pytest.approx(0.497512438)
    # 5 A at 10 and 5 B at 10 become 0.2 and 0.8: 30 sold, about 30 bought
    units, cash, cost, traded = rebalance(np.array([5.0, 5.0]), 0.0, np.array([0.2, 0.8]), np.array([10.0, 10.0]), 0.0)
    assert units.tolist() == pytest.approx([2, 8]) and (cash, cost) == pytest.approx((0, 0)) and traded == pytest.approx(0.6)
    units, cash, _, traded = rebalance(np.array([0.0, 2.0]), 80.0, np.array([0.0, 0.0]), np.array([np.nan, 10.0]), 0.5)
    assert units.tolist() == [0, 0] and cash == pytest.approx(90) and traded == pytest.approx(0.2)
    assert rebalance(np.array([4.0]), 60.0, np.array([0.4]), np.array([10.0]), 0.1)[2:] == (0, 0)


def test_the_history_of_a_policy_by_hand():
    class Half(Policy):
        def weights(self, returns, forecast=None, regime=None, current=None):
            seen.append((returns.index[0], returns.index[-1], list(returns), None if regime is None else dict(regime), self.solver))
            return pd.Series(0.5, ["a"])

    seen = []
    price = 100 * np.ones(66)
    price[1::2] = 101.0  # moving, so that it counts as traded
    price[62:] = [100, 110, 120, 90]
    prices = pd.DataFrame({"a": price, "b": 5.0, "c": np.where(np.arange(66) == 30, np.nan, price)}, DAY[:66])
    regimes = pd.DataFrame({"bull calm": np.arange(66) / 100}, DAY[:66])
    past = policy_history(prices, Half("balanced", RISK_LEVELS["medium"], solver="riskfolio"), every=2, window=60, fee_rate=0.01, slippage=0.01,
                          regimes=regimes)
    assert [(s[0], s[1]) for s in seen] == [(DAY[1], DAY[60]), (DAY[3], DAY[62]), (DAY[5], DAY[64])] and {tuple(s[2]) for s in seen} == {("a",)}
    assert [s[3]["bull calm"] for s in seen] == pytest.approx([0.60, 0.62, 0.64]) and {s[4] for s in seen} == {"direct"}
    assert past.equity.index.equals(DAY[60:66]) and past.equity.iloc[0] == 1.0
    first = 1 / 1.01  # what is left after buying half of it with two per cent
    assert past.equity.tolist()[1:3] == pytest.approx([first, first * (0.5 + 0.5 * 100 / 101)])
    before = first * (0.5 + 0.5 * 110 / 101)
    held = first * 0.5 * 110 / 101
    after = (before - 0.02 * held) / (1 - 0.02 * 0.5)  # selling x: after = before - 0.02 (held - after / 2)
    assert past.equity.iloc[3] == pytest.approx(after) and past.equity.iloc[4] == pytest.approx(after * (0.5 + 0.5 * 120 / 110))
    assert past.costs.tolist()[:2] == pytest.approx([1 - first, 1 - after / before]) and past.turnover.tolist()[0] == pytest.approx(0.5 * first)
    assert past.costs.index.tolist() == [DAY[61], DAY[63], DAY[65]] and past.weights["a"].tolist() == [0.5] * 3
    assert past.weights[["b", "c"]].eq(0).all(axis=None)
    assert past.notes == ("b: left out of decisions until 2020-03-05, its window has missing or unchanging prices",
                          "c: left out of decisions until 2020-03-05, its window has missing or unchanging prices")
    assert policy_history(prices, Half("balanced", RISK_LEVELS["medium"], solver="riskfolio"), every=9, window=60, solver="").turnover.size == 1
    assert seen[-1][4] == "riskfolio"
    free = policy_history(prices, Half("balanced", RISK_LEVELS["medium"]), every=9, window=60)
    assert free.costs.iloc[0] == pytest.approx(1 - 1 / (1 + 0.0015 / 2))  # the rates that nobody named


@pytest.mark.parametrize("how, says", [
    ({"window": 59}, "window 59"), ({"every": 0}, "every 0"), ({"fee_rate": 0.5}, "fee_rate 0.5"), ({"fee_rate": -0.1}, "fee_rate"),
    ({"slippage": 0.5}, "slippage 0.5"),
    ({"slippage": -0.1}, "slippage"), ({"window": 99}, "are too few for a window of 99")])
def test_histories_that_make_no_sense_are_refused(how, says):
    prices = (1 + RETURNS.iloc[:100]).cumprod()
    policy_history(prices, policy("aggressive"), window=60, every=30, fee_rate=0.499, slippage=0.0)
    policy_history(prices, policy("aggressive"), window=98, every=1)
    with pytest.raises(BadInput, match=says):
        policy_history(prices, policy("aggressive"), **{"window": 60, "every": 30, **how})


def test_prices_that_are_missing_while_held_are_an_error():
    prices = (1 + RETURNS.iloc[:100]).cumprod()
    prices.iloc[80, 1] = np.nan
    with pytest.raises(BadInput, match="b: held, but its price is missing at 2020-03-21"):
        policy_history(prices, policy("aggressive", "medium", WIDE), window=60, every=50)
    with pytest.raises(BadInput, match="a price is zero or below"):
        policy_history(prices.fillna(1).replace(prices.iloc[3, 0], 0.0), policy("aggressive"), window=60)


def test_rolling_fits_end_where_their_row_stands():
    table = rolling_weights(RETURNS.iloc[:100], MeanRisk(solver="direct", bounds=(0, 0.6)), window=40, every=30)
    assert table.index.tolist() == [DAY[39], DAY[69], DAY[99]] and list(table) == list("abc") and table.index.name == "timestamp"
    for end, row in zip((40, 70, 100), table.to_numpy(), strict=True):
        assert row == pytest.approx(MeanRisk(solver="direct", bounds=(0, 0.6)).fit(RETURNS.iloc[end - 40 : end]).weights_.to_numpy(), abs=1e-9)
    slow = rolling_weights(RETURNS.iloc[:100], MeanRisk(solver="direct", bounds=(0, 0.6)), window=40, every=30, quick=False)
    assert np.abs(slow - table).max(axis=None) < 1e-9 and len(rolling_weights(RETURNS.iloc[:41], EqualWeight(), window=40, every=1)) == 2
    assert rolling_weights(RETURNS, EqualWeight()).index.tolist() == [DAY[k] for k in range(251, 400, 21)]
    for window, every in ((19, 5), (40, 0)):
        with pytest.raises(BadInput, match="makes no sense; give at least 20 and 1"):
            rolling_weights(RETURNS, EqualWeight(), window, every)
    with pytest.raises(BadInput):
        rolling_weights(RETURNS.iloc[:39], EqualWeight(), 40)
    with pytest.raises(BadInput, match="unknown"):
        rolling_weights(RETURNS, MeanRisk(solver="direct", risk="wild"))
