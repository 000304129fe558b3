"Attribution: the parts are the whole, whatever the portfolio."

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.core.errors import BadInput, MissingData
from trading.risk.attribution import attribute, factor_attribution


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_linked_effects_add_up_to_the_compounded_difference(seed, assets, periods):
    rng = np.random.default_rng(seed)
    index, names = pd.date_range("2020-01-31", periods=periods, freq="D", tz="UTC"), [f"s{n}" for n in range(assets)]
    own = pd.DataFrame(rng.dirichlet(np.ones(assets + 1), periods)[:, :-1], index, names)
    theirs = pd.DataFrame(rng.dirichlet(np.ones(assets + 1), periods)[:, :-1], index, names)
    returns = pd.DataFrame(rng.uniform(-0.3, 0.4, (periods, assets)), index, names)
    cash = pd.Series(rng.uniform(0, 0.01, periods), index)
    table = attribute(own, theirs, returns, {n: f"g{int(n[1:]) % 3}" for n in names}, cash)
    growth = [np.prod(1 + (w * returns).sum(axis=1) + (1 - w.sum(axis=1)) * cash) for w in (own, theirs)]
    assert table["total"].sum() == pytest.approx(growth[0] - growth[1], abs=1e-12)
    assert np.allclose(table["total"], table["allocation"] + table["selection"] + table["interaction"])


def test_the_benchmark_itself_has_no_effects():
    weights = pd.DataFrame([[0.5, 0.4]] * 3, pd.date_range("2020", periods=3, tz="UTC"), ["a", "b"])
    returns = pd.DataFrame([[0.1, 0.0], [-0.2, 0.1], [0.3, -0.3]], weights.index, weights.columns)
    table = attribute(weights, weights.iloc[0], returns, {"a": "x", "b": "y"})
    assert np.allclose(table[["allocation", "selection", "interaction", "total"]], 0)


def test_a_group_that_only_one_side_holds_is_allocation():
    row = attribute(pd.DataFrame([{"a": 1.0}]), pd.Series({"b": 1.0}), pd.DataFrame([{"a": 0.1, "b": 0.04}]), {"a": "x", "b": "y"})
    assert row["selection"].abs().max() == 0 and row["total"].sum() == pytest.approx(0.06)


def test_known_betas_are_found():
    rng = np.random.default_rng(0)
    factors = pd.DataFrame(rng.normal(0, 0.01, (2000, 2)), columns=["market", "size"])
    returns = 0.0002 + 1.2 * factors["market"] - 0.4 * factors["size"] + rng.normal(0, 1e-6, 2000)
    table = factor_attribution(returns, factors, 252)
    assert table["beta"].dropna().tolist() == pytest.approx([1.2, -0.4], abs=1e-4)
    assert table.loc["alpha", "contribution"] == pytest.approx(0.0504, abs=1e-4)
    assert table.attrs["r2"] > 0.999


def test_what_is_refused():
    factors = pd.DataFrame({"market": [0.01, np.nan] * 20})
    with pytest.raises(BadInput, match="the factor market has missing returns"):
        factor_attribution(pd.Series([0.01, 0.02] * 20), factors, 252)
    with pytest.raises(MissingData, match="do not cover"):
        factor_attribution(pd.Series([0.01, 0.02] * 20), factors.iloc[:5], 252)
    with pytest.raises(BadInput, match="give each symbol once"):
        attribute(pd.DataFrame([[0.5, 0.5]], columns=["a", "a"]), pd.Series({"a": 1.0}), pd.DataFrame([{"a": 0.1}]), {"a": "x"})
