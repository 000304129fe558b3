"Stress and attribution worked out by hand: each scenario rule and each effect with its value, not only its sum."

import numpy as np
import pandas as pd
import pytest

from trading.core.bars import bars_from_close
from trading.core.errors import BadInput, MissingData
from trading.risk.attribution import attribute, factor_attribution
from trading.risk.stress import SCENARIOS, Scenario, shock_of, stress

CRASH = Scenario("crash", "2024-03-08", "2024-03-15", {"BTC": -0.4, "EUR/USD": -0.1, "Memecoins": -0.8})


def closes(first="2024-03-01", last="2024-03-20", **columns):
    days = pd.date_range(first, last, tz="UTC")
    return bars_from_close(pd.DataFrame({s.replace("_", "/"): v for s, v in columns.items()}, index=days, dtype=float))


def test_a_replay_goes_from_the_last_close_before_to_the_close_of_the_last_day():
    price = [50] * 6 + [100, np.nan] + [90, 60, 80, 75, 70, 65, 70, np.nan, 500, 500, 500, 500]  # 7 March is the last close before, 15 a holiday
    row = stress({"A": 0.5, "B": -0.25}, closes(A=price, B=[10] * 8 + [12] * 12), scenarios=[CRASH]).loc["crash"]
    assert row["loss"] == pytest.approx(0.5 * 0.3 + 0.25 * 0.2) and row["worst"] == "A"
    assert (row["replayed"], row["shocked"], row["unknown"], row["unknown_symbols"]) == (0.75, 0, 0, "")
    # wealth: 1, then 1 + 0.5 * (-0.1, -0.4, -0.2, …) - 0.25 * 0.2; the deepest is 1 - 0.75 below the start
    assert row["deepest"] == pytest.approx(0.25)
    assert stress({"A": 1.0, "Z": 0.0}, closes(A=price), scenarios=[CRASH]).loc["crash", "deepest"] == pytest.approx(0.4)


@pytest.mark.parametrize("first, last, replayed", [
    ("2024-03-08", "2024-03-15", True), ("2024-03-02", "2024-03-15", True), ("2024-03-09", "2024-03-15", False),
    ("2024-03-01", "2024-03-08", True), ("2024-03-01", "2024-03-07", False)],
    ids=["starts on the day", "a week", "starts too late", "a week before the end", "eight days before"])
def test_prices_must_reach_from_the_start_to_within_a_week_of_the_end(first, last, replayed):
    scenario = Scenario("crash", "2024-03-08", "2024-03-15", {"*": -0.4}) if last > "2024-03-08" else Scenario("crash", "2024-03-04", "2024-03-15",
        {"*": -0.4})
    row = stress({"A": 1.0}, closes(first, last, A=range(100, 100 + len(pd.date_range(first, last)))), scenarios=[scenario]).iloc[0]
    assert (row["replayed"], row["shocked"]) == ((1.0, 0.0) if replayed else (0.0, 1.0))
    assert (row["loss"] == pytest.approx(0.4)) != replayed


def test_a_price_of_a_week_before_the_start_no_longer_counts():
    for gap, known in ((6, True), (7, False)):
        price = [100.0] * (8 - gap) + [np.nan] * gap + [50.0] * 12
        row = stress({"A": 1.0}, closes(A=price), scenarios=[CRASH]).iloc[0]
        assert (row["unknown"] == 0.0, row["unknown_symbols"] == "") == (known, known)
        assert row["loss"] == pytest.approx(0.5) if known else np.isnan(row["loss"]) and np.isnan(row["deepest"]) and row["worst"] == ""


@pytest.mark.parametrize("symbol, group, shock", [("BTC", "", -0.4), ("BTC/USDT", "Memecoins", -0.4), ("EURUSD", "", -0.1), ("EUR/USD", "", -0.1),
                                                  ("DOGE/USDT", "Memecoins", -0.8), ("DOGE/USDT", "", None), ("GBPUSD", "", None)])
def test_the_table_is_read_from_the_most_exact_name_to_the_least(symbol, group, shock):
    assert shock_of(CRASH, symbol, group) == shock
    anything = Scenario("x", shocks={**CRASH.shocks, "*": -0.05})
    assert shock_of(anything, symbol, group) == (-0.05 if shock is None else shock)


def test_known_replayed_and_unknown_parts_stand_beside_one_another():
    table = stress(pd.Series({"A": 0.2, "BTC/USDT": -0.3, "DOGE/USDT": 0.1, "WHO": 0.05, "WHAT": -0.15, "NONE": 0.0}),
                   closes(A=[100.0] * 8 + [80.0] * 12), {"DOGE/USDT": "Memecoins"}, [CRASH, Scenario("mild", shocks={"*": -0.1})])
    row = table.loc["crash"]
    assert row["loss"] == pytest.approx(0.2 * 0.2 - 0.3 * 0.4 + 0.1 * 0.8) and row["worst"] == "DOGE/USDT"
    assert (row["replayed"], row["shocked"], row["unknown"]) == pytest.approx((0.2, 0.4, 0.2)) and row["unknown_symbols"] == "WHO, WHAT"
    assert np.isnan(row["deepest"])  # only when everything was replayed
    assert table.loc["mild", "loss"] == pytest.approx(-0.01) and table.loc["mild", "shocked"] == pytest.approx(0.8)
    assert list(stress({"BTC": 1.0}).index) == list(SCENARIOS) and stress({"BTC": 1.0}).loc["2008", "unknown"] == 1.0
    with pytest.raises(BadInput, match="the weight of B is not finite"):
        stress({"A": 1.0, "B": np.inf})


@pytest.mark.parametrize("bad", [{"start": "2020-01-01"}, {"end": "2020-01-01"}, {"start": "2020-01-01", "end": "2020-01-01"},
                                 {"start": "2020-01-02", "end": "2020-01-01"}, {"shocks": {"A": True}}, {"shocks": {"A": "-0.3"}},
                                 {"shocks": {"A": np.nan}}, {"shocks": {"A": -1.01}}, {"shocks": {"A": -40}}], ids=str)
def test_a_scenario_that_cannot_be_meant_is_refused(bad):
    Scenario("x", "2020-01-01", "2020-01-02", {"A": -1, "B": 3.5, "C": -1.0})
    with pytest.raises(BadInput, match="scenario 'x'"):
        Scenario("x", **bad)


def test_the_tables_hold_as_many_losses_of_as_much_as_their_sources():
    sums = {"2008": (9, -2.82), "winter-2018": (5, -2.87), "covid-2020": (10, -3.81), "china-ban-2021": (11, -4.78), "luna-2022": (11, -5.15),
            "ftx-2022": (8, -2.88)}
    assert {name: (len(s.shocks), round(sum(s.shocks.values()), 2)) for name, s in SCENARIOS.items()} == sums
    assert all(-1 <= shock <= 0 for s in SCENARIOS.values() for shock in s.shocks.values())


# ---- attribution

GROUPS = {"a": "g", "b": "g", "c": "h", "d": "h"}


def one_period(weights, benchmark, returns, groups, cash_return=0.0):
    "The attribution of a single period."
    frames = (pd.DataFrame([one.to_numpy(dtype=float)], columns=one.index) for one in (weights, benchmark, returns))
    return attribute(*frames, groups, pd.Series([cash_return]))


def test_brinson_of_four_assets_and_cash():
    own, theirs = pd.Series({"a": 0.3, "b": 0.2, "c": 0.3}), pd.Series({"a": 0.1, "b": 0.3, "c": 0.2, "d": 0.3})
    table = one_period(own, theirs, pd.Series({"a": 0.1, "b": -0.05, "c": 0.2, "d": 0.0, "other": np.nan}), GROUPS, cash_return=0.01)
    # group g: own 0.5 earning 0.02 (4 %), theirs 0.4 losing 0.005 (-1.25 %); h: 0.3 at 20 %, 0.5 at 8 %; cash 0.2 and 0.1 at 1 %; benchmark 3.6 %
    expected = pd.DataFrame({
        "weight": [0.2, 0.5, 0.3], "benchmark": [0.1, 0.4, 0.5],
        "allocation": [0.1 * (0.01 - 0.036), 0.1 * (-0.0125 - 0.036), -0.2 * (0.08 - 0.036)], "selection": [0, 0.4 * 0.0525, 0.5 * 0.12],
        "interaction": [0, 0.1 * 0.0525, -0.2 * 0.12]}, ["cash", "g", "h"])
    expected["total"] = expected["allocation"] + expected["selection"] + expected["interaction"]
    pd.testing.assert_frame_equal(table, expected, check_names=False)
    assert table["total"].sum() == pytest.approx(0.02 + 0.06 + 0.002 - 0.036)


def test_a_group_held_by_one_side_and_a_group_held_by_none():
    table = one_period(pd.Series({"a": 1.0, "x": 0.0}), pd.Series({"c": 1.0, "d": 0.0}), pd.Series({"a": 0.1, "c": 0.04}), GROUPS)
    assert list(table.index) == ["g", "h"]  # no cash, nothing of x and d
    assert table["allocation"].tolist() == pytest.approx([0.06, 0.0]) and table[["selection", "interaction"]].abs().max(axis=None) < 1e-15
    cash = one_period(pd.Series({"a": 1.0}), pd.Series({"a": 0.5}), pd.Series({"a": 0.1}), GROUPS)
    assert cash.loc["cash", ["weight", "benchmark"]].tolist() == [0, 0.5] and cash.loc["cash", "allocation"] == pytest.approx(-0.5 * (0.0 - 0.05))


@pytest.mark.parametrize("change, kind, says", [
    ({"weights": pd.Series([0.5, 0.5], ["a", "a"])}, BadInput, "a is a column of the portfolio twice; give each symbol once"),
    ({"weights": pd.Series({"a": -np.inf})}, BadInput, "the portfolio's weights"),
    ({"benchmark": pd.Series({"a": np.inf})}, BadInput, "the benchmark's weights"),
    ({"groups": {}}, MissingData, "a has no group"), ({"returns": pd.Series({"b": 0.1})}, MissingData, "a has no return in the period"),
    ({"returns": pd.Series({"a": np.nan, "b": 0.1})}, MissingData, "a has no return in the period"),
])
def test_brinson_refuses_what_it_cannot_split(change, kind, says):
    good = {"weights": pd.Series({"a": 0.5}), "benchmark": pd.Series({"b": 0.5}), "returns": pd.Series({"a": 0.1, "b": 0.1}), "groups": GROUPS}
    one_period(**good)
    with pytest.raises(kind, match=says):
        one_period(**{**good, **change})


def test_two_periods_are_linked_by_carinos_factors():
    days = pd.date_range("2024-01-01", periods=2, tz="UTC")
    own, returns = pd.DataFrame([[1.0, 0.0], [0.5, 0.5]], days, ["a", "c"]), pd.DataFrame([[0.1, 0.0], [0.2, -0.1]], days, ["a", "c"])
    theirs = pd.Series({"a": 0.5, "c": 0.5})
    table = attribute(own, theirs, returns, GROUPS)
    # own 10 % and 5 %, theirs 5 % and 5 %: only the first period differs, and linked its 5 points grow to 1.155 - 1.1025 = 5.25
    k1, k = (np.log(1.1) - np.log(1.05)) / 0.05, (np.log(1.155) - np.log(1.1025)) / 0.0525
    assert table["allocation"].tolist() == pytest.approx([0.5 * 0.05 * k1 / k, 0.5 * 0.05 * k1 / k])
    assert table[["selection", "interaction"]].abs().max(axis=None) < 1e-15 and table["total"].sum() == pytest.approx(0.0525)
    assert table["weight"].tolist() == [0.75, 0.25] and table["benchmark"].tolist() == [0.5, 0.5]
    with pytest.raises(BadInput, match="lost everything"):
        attribute(own, theirs, returns.replace(0.1, -1.0), GROUPS)
    with pytest.raises(BadInput, match="lost everything"):
        attribute(own, pd.Series({"a": 1.0, "c": 0.0}), returns.replace(0.2, -1.0), GROUPS)
    attribute(own, theirs, returns.replace(0.1, -0.99), GROUPS)


def test_equal_growth_by_different_ways_is_linked_at_the_growth_itself():
    days = pd.date_range("2024-01-01", periods=2, tz="UTC")
    returns = pd.DataFrame([[0.1, 0.0], [0.1, 0.0]], days, ["a", "c"])
    own, theirs = pd.DataFrame([[1.0, 0.0], [0.0, 1.0]], days, ["a", "c"]), pd.DataFrame([[0.0, 1.0], [1.0, 0.0]], days, ["a", "c"])
    table = attribute(own, theirs, returns, GROUPS)  # both grew by 10 %, so each effect of a tenth counts ln(1.1) / 0.1 · 1.1
    assert table["total"].to_dict() == pytest.approx({"g": 1.1 * np.log(1.1), "h": -1.1 * np.log(1.1)})


def test_missing_weights_are_none_and_cash_earns_its_own_return():
    days = pd.date_range("2024-01-01", periods=2, tz="UTC")
    own, returns = pd.DataFrame([[0.5, np.nan], [0.5, np.nan]], days, ["a", "c"]), pd.DataFrame([[0.1, 0.3], [0.0, 0.3]], days, ["a", "c"])
    table = attribute(own, own, returns, GROUPS, pd.Series([0.02, 0.04], days))
    assert table["weight"].to_dict() == {"cash": 0.5, "g": 0.5} and table["total"].abs().max() == 0
    most = attribute(own, own * 0, returns, GROUPS, pd.Series([0.02, 0.04], days))
    assert most["total"].sum() == pytest.approx(1.06 * 1.02 - 1.02 * 1.04)
    for change, kind, says in (
        ({"returns": returns[1:]}, MissingData, "the returns do not cover 2024-01-01"),
        ({"benchmark": own[:1]}, MissingData, "the benchmark do not cover 2024-01-02"),
        ({"weights": own[:0]}, BadInput, "no period was given"),
    ):
        with pytest.raises(kind, match=says):
            attribute(**{"weights": own, "benchmark": own, "returns": returns, "groups": GROUPS, **change})


def test_factors_agree_with_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(1)
    days = pd.date_range("2020-01-01", periods=400, tz="UTC")
    x = pd.DataFrame(rng.normal(0.0005, 0.01, (410, 2)), pd.date_range("2019-12-25", periods=410, tz="UTC"), ["market", "size"])
    y = 0.001 + x.loc[days, "market"] * 0.8 - x.loc[days, "size"] * 0.3 + pd.Series(rng.standard_t(4, 400) * 0.01, days).rolling(3, 1).mean()
    theirs = sm.OLS(y, sm.add_constant(x.loc[days])).fit(cov_type="HAC", cov_kwds={"maxlags": 5, "use_correction": True})
    table = factor_attribution(y, x, 252)
    assert table["beta"].tolist()[:2] == pytest.approx(theirs.params[1:].tolist()) and np.isnan(table.loc["alpha", "beta"])
    assert table.loc[["alpha", "market", "size"], "t"].tolist() == pytest.approx(theirs.tvalues.tolist()) and np.isnan(table.loc["residual", "t"])
    assert table.loc[["market", "size"], "contribution"].tolist() == pytest.approx((theirs.params[1:] * x.loc[days].mean() * 252).tolist())
    assert table.loc["alpha", "contribution"] == pytest.approx(theirs.params["const"] * 252) and abs(table.loc["residual", "contribution"]) < 1e-12
    assert table.attrs["r2"] == pytest.approx(theirs.rsquared) and table["contribution"].sum() == pytest.approx(y.mean() * 252)


def test_factors_that_cannot_be_told_apart_or_are_not_there_are_refused():
    days = pd.date_range("2020-01-01", periods=12, tz="UTC")
    x = pd.DataFrame({"m": np.linspace(-0.1, 0.1, 12), "s": np.linspace(-0.1, 0.1, 12) ** 2}, days)
    y = pd.Series(np.cos(np.arange(12)) / 10, days)
    factor_attribution(y, x, 252)
    for returns, factors, kind, says in (
        (y[:11], x, BadInput, "11 given and at least 12"), (y, x[1:], MissingData, "do not cover 2020-01-01"),
        (y, x.assign(s=np.nan), BadInput, "the factor s has missing returns"), (y, x.assign(s=x["m"] * 2), BadInput, "m, s say the same thing twice"),
        (y, x.assign(s=0.01), BadInput, "one never moves"),
    ):
        with pytest.raises(kind, match=says):
            factor_attribution(returns, factors, 252)


def test_many_symbols_with_holes_are_replayed_as_one_by_one_in_pandas():
    rng = np.random.default_rng(3)
    days = pd.date_range("2024-02-25", "2024-03-20", freq="12h", tz="UTC")  # two bars a day
    close = pd.DataFrame(100 * np.exp(np.cumsum(rng.normal(0, 0.05, (len(days), 12)), axis=0)), days, [f"S{k}" for k in range(12)])
    close = close.mask(rng.random(close.shape) < 0.3)
    close.loc["2024-03-10":, "S3"], close.loc[:"2024-03-09", "S4"] = 1.0, np.nan
    weights = pd.Series(rng.normal(0, 0.1, 12), list(close))
    start, end, week = pd.Timestamp("2024-03-08", tz="UTC"), pd.Timestamp("2024-03-15", tz="UTC"), pd.Timedelta(days=7)
    paths = {}
    for symbol in close:
        known = close[symbol].dropna()
        day = known.index.normalize()
        before, within = known[(day > start - week) & (day <= start)], known[(day > start) & (day <= end)]
        if len(before) and len(within) and within.index[-1].normalize() >= end - week:
            paths[symbol] = pd.concat([before.iloc[[-1]], within]) / before.iloc[-1]
    assert 8 < len(paths) < 12
    for held in (weights, weights[list(paths)]):
        row = stress(held, bars_from_close(close), scenarios=[Scenario("x", "2024-03-08", "2024-03-15")]).loc["x"]
        assert row["loss"] == pytest.approx(-sum(held[s] * (path.iloc[-1] - 1) for s, path in paths.items()), rel=1e-12)
        assert row["unknown_symbols"] == ", ".join(s for s in held.index if s not in paths)
    together = pd.DataFrame(paths).sort_index().ffill().bfill()
    wealth = 1 + (together - 1) @ weights[list(paths)]
    assert row["deepest"] == pytest.approx((1 - wealth / wealth.cummax()).max(), rel=1e-12)
