"Risk figures whose every digit was worked out by hand, by quadrature or by another library; each refusal with its neighbour that passes."

import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from trading.core.errors import BadInput, MissingData
from trading.risk import metrics as m

FOUR = pd.Series([0.1, -0.1, 0.2, -0.1], pd.date_range("2024-01-30", periods=4, tz="UTC"))  # mean 0.025, sample deviation 0.15


def test_the_figures_of_four_returns():
    assert m.total_return(FOUR) == pytest.approx(0.0692)
    assert m.annual_return(FOUR, 8) == pytest.approx(1.0692**2 - 1) and m.annual_return(FOUR, 4) == pytest.approx(0.0692)
    assert m.volatility(FOUR, 4) == pytest.approx(0.3)
    assert m.sharpe(FOUR, 4) == pytest.approx(1 / 3) and m.sortino(FOUR, 4) == pytest.approx(math.sqrt(0.5)) and m.omega(FOUR,
        4) == pytest.approx(1.5)
    free = 1.005**4 - 1  # half a per cent a period
    assert m.sharpe(FOUR, 4, free) == pytest.approx(0.04 / 0.15)
    assert m.sortino(FOUR, 4, free) == pytest.approx(0.04 / math.sqrt(2 * 0.105**2 / 4))
    assert m.omega(FOUR, 4, free) == pytest.approx((0.095 + 0.195) / 0.21)
    assert m.drawdown(FOUR).tolist() == pytest.approx([0, -0.1, 0, -0.1]) and m.max_drawdown(FOUR) == pytest.approx(-0.1)
    assert m.drawdown(FOUR).index.equals(FOUR.index) and m.calmar(FOUR, 4) == pytest.approx(0.692)
    assert m.drawdown(pd.Series([-0.1, 0.1])).tolist() == pytest.approx([-0.1, -0.01])  # the start is a best value too
    assert m.drawdown(np.array([0.5, -0.5])).tolist() == pytest.approx([0.0, -0.5])


def test_the_yearly_rate_of_one_period():
    assert m.per_period(0.21, 2) == pytest.approx(0.1) and m.per_period(-0.19, 2) == pytest.approx(-0.1) and m.per_period(0.05,
        1) == pytest.approx(0.05)
    for rate, periods in ((0.1, 0), (0.1, -1), (-1.0, 12), (-2.0, 12), (np.nan, 12)):
        with pytest.raises(BadInput, match="above -1 and the periods above zero"):
            m.per_period(rate, periods)


@pytest.mark.parametrize("figure", [m.sharpe, m.sortino, m.omega, m.calmar])
def test_a_ratio_without_a_denominator_is_not_a_number(figure):
    assert math.isnan(figure(pd.Series([0.01, 0.01, 0.01]), 252))


def test_returns_are_checked_at_the_edge():
    assert m.check_return_series([-1.0, 0.5]).tolist() == [-1.0, 0.5]
    assert m.check_return_series([0.1, 0.2], 2).tolist() == [0.1, 0.2]
    for bad, says in (([0.1, -1.0001], "returns: -1.0001 at 1: "), ([np.nan, 0.1, np.nan], "returns: nan at 0: "),
                      ([[0.1, 0.2], [0.1, 0.2]], "2 columns")):
        with pytest.raises(BadInput, match=says):
            m.check_return_series(bad)
    with pytest.raises(BadInput, match="own: inf at 2024-01-31"):
        m.check_return_series(pd.Series([0.1, np.inf], FOUR.index[:2]), what="own")
    with pytest.raises(BadInput, match="2 given and at least 3 needed"):
        m.check_return_series([0.1, 0.2], 3)
    assert m.total_return(FOUR[:1]) == pytest.approx(0.1)
    for figure in (m.volatility, m.sharpe, m.sortino, m.omega):
        figure(FOUR[:2], 252)
        with pytest.raises(BadInput, match="1 given and at least 2"):
            figure(FOUR[:1], 252)


def test_the_falls_of_ten_days():
    day = pd.date_range("2024-01-01", periods=10, tz="UTC")
    returns = pd.Series([-0.1, 0.2, -0.1, -0.1, 0.1, 0.5, -0.05, 0.2, 0.0, -0.19], day)
    table = m.drawdowns(returns)
    assert table["depth"].tolist() == pytest.approx([-0.19, -0.19, -0.1, -0.05])
    assert table["peak"].tolist() == [day[1], day[8], day[0], day[5]] and table["trough"].tolist() == [day[3], day[9], day[0], day[6]]
    assert table["recovered"].tolist()[0] == day[5] and pd.isna(table["recovered"][1]) and table["recovered"].tolist()[2:] == [day[1], day[7]]
    assert table["days_down"].tolist() == [2, 1, 0, 1] and table["days_back"].tolist()[0] == 2 and table["days_back"].tolist()[2:] == [1, 1]
    assert np.isnan(table["days_back"][1]) and list(table.index) == [0, 1, 2, 3]
    assert m.drawdowns(returns, most=2).equals(table.head(2)) and m.drawdowns(returns[:2] + 0.3).empty
    many = pd.Series([0.1, -0.01] * 7, pd.date_range("2024-01-01", periods=14, tz="UTC"))
    assert len(m.drawdowns(many)) == 5 and len(m.drawdowns(many, most=7)) == 7
    for figure in (m.drawdowns, m.monthly_returns):
        with pytest.raises(BadInput, match="indexed by time"):
            figure(pd.Series([0.1, -0.1]))


def test_months_and_years_compound():
    table = m.monthly_returns(pd.concat([FOUR, pd.Series([0.5, -0.2], pd.to_datetime(["2025-01-01", "2025-12-31"], utc=True))]))
    assert list(table.columns) == [*range(1, 13), "year"] and list(table.index) == [2024, 2025]
    assert table.loc[2024, [1, 2, "year"]].tolist() == pytest.approx([-0.01, 0.08, 0.0692])
    assert table.loc[2025, [1, 12, "year"]].tolist() == pytest.approx([0.5, -0.2, 0.2]) and table.loc[2025, 2:11].isna().all()


def test_alpha_and_beta_of_a_line():
    other = pd.Series([0.02, -0.01, 0.03, 0.00, 0.9], pd.date_range("2024-01-29", periods=5, tz="UTC")).sort_index(ascending=False)
    own = (2 * other + 0.01).drop(other.index[other == 0.9])
    free = 1.005**4 - 1
    for rate, alpha in ((0.0, 1.01**4 - 1), (free, 1.015**4 - 1)):
        assert m.alpha_beta(own, other, 4, rate) == pytest.approx((alpha, 2.0))
    assert math.isnan(m.alpha_beta(FOUR, FOUR * 0, 4)[1])
    with pytest.raises(MissingData, match="no return at 2024-01-31.* and 2 other times"):
        m.alpha_beta(FOUR, FOUR[:1], 4)
    with pytest.raises(BadInput, match="benchmark: nan"):
        m.alpha_beta(FOUR, FOUR.where(FOUR > 0), 4)
    with pytest.raises(BadInput, match="returns: 1 given and at least 2"):
        m.alpha_beta(FOUR[:1], FOUR, 4)


# ---- value at risk


def test_historical_risk_counts_the_worst_periods_to_the_fraction():
    five = pd.Series([0.03, -0.05, 0.1, -0.1, -0.02])
    assert (m.value_at_risk(five, 0.5), m.cvar(five, 0.5)) == pytest.approx((0.02, 0.064))  # two and a half of five
    twenty = pd.Series(np.arange(-10, 10) / 100)
    assert m.value_at_risk(twenty) == pytest.approx(0.0905) and m.cvar(twenty) == pytest.approx(0.1)
    assert m.value_at_risk(twenty, 0.99) == pytest.approx(0.0981) and m.cvar(twenty, 0.9) == pytest.approx(0.095)
    assert m.value_at_risk(twenty + 0.2) == pytest.approx(-0.1095) and m.cvar(twenty + 0.2) == pytest.approx(-0.1)  # bad days that gain


def test_the_normal_risk_is_that_of_the_tables_of_the_normal():
    for level, z, beyond in ((0.95, 1.6448536270, 2.0627128075), (0.99, 2.3263478740, 2.6652142203)):
        assert m.value_at_risk(FOUR, level, "parametric") == pytest.approx(z * 0.15 - 0.025, abs=1e-9)
        assert m.cvar(FOUR, level, "parametric") == pytest.approx(beyond * 0.15 - 0.025, abs=1e-9)


def test_cornish_fisher_is_the_quantile_function_and_its_integral():
    returns = pd.Series(stats.gamma(30).ppf(np.linspace(0.002, 0.998, 400)) / 100 * -1 + 0.3)  # skewed to the left, a little fat
    s, k = stats.skew(returns), stats.kurtosis(returns)
    assert s < -0.2 and k > 0.0

    def unit(u):
        z = stats.norm.ppf(u)
        return z + (z**2 - 1) * s / 6 + (z**3 - 3 * z) * k / 24 - (2 * z**3 - 5 * z) * s**2 / 36

    for level in (0.95, 0.99):
        tail = 1 - level
        beyond = integrate.quad(unit, 0, tail)[0] / tail
        assert m.value_at_risk(returns, level, "cornish-fisher") == pytest.approx(-(returns.mean() + unit(tail) * returns.std()), abs=1e-12)
        assert m.cvar(returns, level, "cornish-fisher") == pytest.approx(-(returns.mean() + beyond * returns.std()), abs=1e-6)
    assert m.value_at_risk(pd.Series([0.01] * 5), method="cornish-fisher") == m.cvar(pd.Series([0.01] * 5), method="cornish-fisher") == -0.01


def test_cornish_fisher_is_refused_exactly_where_the_quantiles_turn_back():
    def turns(values, level):
        s, k = stats.skew(values), stats.kurtosis(values)
        z = np.linspace(-8, stats.norm.ppf(1 - level), 3000)
        return (np.diff(z + (z**2 - 1) * s / 6 + (z**3 - 3 * z) * k / 24 - (2 * z**3 - 5 * z) * s**2 / 36) <= 0).any()

    decided = {True: 0, False: 0}
    for seed in range(120):
        rng = np.random.default_rng(seed)
        values = pd.Series(rng.gamma(rng.uniform(0.4, 40), 1, 60) * rng.choice([-1, 1])).pipe(lambda v: (v - v.mean()) / v.std() / 50)
        if turns(values, 0.95):
            decided[True] += 1
            with pytest.raises(BadInput, match="Cornish-Fisher does not hold"):
                m.value_at_risk(values, 0.95, "cornish-fisher")
        else:
            decided[False] += 1
            m.value_at_risk(values, 0.95, "cornish-fisher")
    assert min(decided.values()) >= 20, decided


def test_simulated_returns_are_normal_without_fat_tails_and_students_with_them():
    even = pd.Series([0.1, -0.1, 0.2, -0.2])
    drawn = np.random.default_rng(3).standard_normal((50, 2)) * even.std() + even.mean()
    assert m.simulate_returns(even, 2, 50, seed=3) == pytest.approx(np.prod(1 + np.maximum(drawn, -1), axis=1) - 1)
    fat = pd.Series([0.01, -0.01] * 20 + [0.1, -0.1])
    freedom = 4 + 6 / stats.kurtosis(fat)
    unit = np.random.default_rng(0).standard_t(freedom, (50, 1)) * np.sqrt((freedom - 2) / freedom)
    assert m.simulate_returns(fat, draws=50) == pytest.approx((fat.mean() + fat.std() * unit)[:, 0])
    assert m.simulate_returns(fat).shape == (100_000,) and m.simulate_returns(pd.Series([1.0, -0.9] * 5), 1, 500).min() == -1.0
    assert m.simulate_returns(pd.Series([0.01] * 4), draws=3).tolist() == pytest.approx([0.01] * 3)
    assert m.value_at_risk(fat, 0.99, "monte-carlo") > m.value_at_risk(fat, 0.95, "monte-carlo") != m.value_at_risk(fat, 0.95, "monte-carlo", 1)
    assert m.value_at_risk(fat, 0.9, "monte-carlo", 4) == pytest.approx(-np.quantile(m.simulate_returns(fat, seed=4), 0.1))
    with pytest.raises(BadInput, match="3 given and at least 4"):
        m.simulate_returns(fat[:3])


@pytest.mark.parametrize("figure", [m.value_at_risk, m.cvar])
def test_levels_methods_and_lengths_that_are_refused(figure):
    figure(FOUR, 0.5)
    figure(FOUR, 0.999)
    for level in (0.499, 1.0, 95, 0.05):
        with pytest.raises(BadInput, match="write it between 0.5 and 1"):
            figure(FOUR, level)
    with pytest.raises(BadInput, match="'normal' is unknown"):
        figure(FOUR, 0.95, "normal")
    with pytest.raises(BadInput, match="3 given and at least 4"):
        figure(FOUR[:3])


def test_who_carries_the_risk_of_two_assets():
    cov = pd.DataFrame([[0.09, 0.01, 0.5], [0.01, 0.04, 0.5], [0.5, 0.5, 1]], list("bac"), list("bac"))
    table = m.risk_contributions(pd.Series({"a": 0.5, "b": 0.5}), cov)
    vol = math.sqrt(0.0375)
    assert table["marginal"].tolist() == pytest.approx([0.025 / vol, 0.05 / vol])
    assert table["contribution"].tolist() == pytest.approx([0.0125 / vol, 0.025 / vol]) and table["share"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert table["weight"].tolist() == [0.5, 0.5] and list(table.index) == ["a", "b"]
    nothing = m.risk_contributions(pd.Series({"a": 0.0, "b": 0.0}), cov)
    assert nothing[["marginal", "contribution", "share"]].isna().all(axis=None)
    with pytest.raises(MissingData, match="does not know d"):
        m.risk_contributions(pd.Series({"a": 0.5, "d": 0.5}), cov)
    for w, c in (({"a": np.nan, "b": 0.5}, cov), ({"a": 0.5, "b": 0.5}, cov.replace(0.04, np.nan))):
        with pytest.raises(BadInput, match="not finite"):
            m.risk_contributions(pd.Series(w), c)


def test_the_interval_is_the_percentile_interval_of_arch():
    from arch.bootstrap import StationaryBootstrap, optimal_block_length

    values = np.random.default_rng(5).normal(0.001, 0.01, 60)
    values[1:] += 0.6 * values[:-1]
    block = float(optimal_block_length(values)["stationary"].iloc[0])
    assert 1 < block < 30
    theirs = StationaryBootstrap(block, values, seed=2).conf_int(np.mean, reps=80, method="percentile", size=0.9)[:, 0]
    assert m.bootstrap_interval(lambda r: float(r.mean()), pd.Series(values), 0.9, 80, 2) == pytest.approx(tuple(theirs))
    assert m.bootstrap_interval(lambda r: float(r.mean()), pd.Series([0.01] * 20), draws=5) == pytest.approx((0.01, 0.01))
    assert m.bootstrap_interval(m.max_drawdown, pd.Series(values), draws=20) == m.bootstrap_interval(m.max_drawdown, pd.Series(values), 0.95, 20, 0)
    for level in (0.0, 1.0, 95):
        with pytest.raises(BadInput, match="write it between 0 and 1"):
            m.bootstrap_interval(m.max_drawdown, pd.Series(values), level)
    with pytest.raises(BadInput, match="19 given and at least 20"):
        m.bootstrap_interval(m.max_drawdown, pd.Series(values[:19]))
