"Correlation, common causes and liquidity on cases with a known answer."

import numpy as np
import pandas as pd
import pytest

from trading.core.errors import BadInput, MissingData
from trading.risk.dependence import correlation_matrix, independent_bets, liquidity, principal_components, tail_table


def test_missing_returns_leave_out_only_their_own_pairs():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(0, 0.01, (200, 3)), columns=list("abc"))
    frame.loc[:150, "c"] = np.nan
    matrix = correlation_matrix(frame)
    assert matrix.loc["a", "b"] == pytest.approx(np.corrcoef(frame["a"], frame["b"])[0, 1], abs=1e-12)
    assert matrix.loc["a", "c"] == pytest.approx(np.corrcoef(frame.loc[151:, "a"], frame.loc[151:, "c"])[0, 1], abs=1e-12)
    assert correlation_matrix(frame, fewest=60)["c"].isna().all()


def test_one_cause_is_one_bet_and_independent_assets_are_many():
    rng = np.random.default_rng(1)
    cause = rng.normal(0, 0.01, 5000)
    together = pd.DataFrame({n: cause * (n + 1) for n in range(6)})
    apart = pd.DataFrame(rng.normal(0, 0.01, (5000, 6)))
    assert independent_bets(principal_components(together)[0]) == pytest.approx(1, abs=1e-6)
    assert independent_bets(principal_components(apart)[0]) == pytest.approx(6, abs=0.01)


def test_more_assets_than_returns_is_no_error():
    shares, loadings = principal_components(pd.DataFrame(np.random.default_rng(2).normal(0, 0.01, (10, 25))))
    assert len(shares) == 10 and loadings.shape == (25, 10) and shares.sum() == pytest.approx(1)


def test_what_cannot_be_meant_is_refused():
    frame = pd.DataFrame(np.ones((40, 2)) * 0.01, columns=["a", "a"])
    with pytest.raises(BadInput, match="a occurs twice"):
        correlation_matrix(frame)
    with pytest.raises(MissingData, match="volume of a is not known"):
        liquidity({"a": 1.0}, {"a": float("nan")})
    with pytest.raises(BadInput, match="participation"):
        liquidity({"a": 1.0}, {"a": 5.0}, participation=10)


def test_the_tail_table_has_a_row_for_each_method():
    table = tail_table(pd.Series(np.random.default_rng(3).normal(0, 0.01, 500)), (0.95,))
    assert list(table.index) == ["historical", "parametric", "cornish-fisher", "monte-carlo"]
    assert (table["CVaR 95%"] > table["VaR 95%"]).all()
