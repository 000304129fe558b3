"The door of production: noise stays out, an edge comes in, and the count of trials cannot be forgotten."

import numpy as np
import pandas as pd
from noise_searches import knock, prices, searched

from trading.backtest.strategy_promotion import Candidate, Thresholds, check_candidate
from trading.backtest.trial_register import TrialRegister


def test_of_120_searches_over_noise_at_most_one_in_twenty_is_promoted(tmp_path):
    register = TrialRegister(tmp_path / "trials.sqlite")
    promoted = sum(knock(seed, 0.0, register).promoted for seed in range(120))
    print(f"{promoted} of 120 promoted")
    assert promoted <= 6


def test_a_strong_edge_is_mostly_kept(tmp_path):
    register = TrialRegister(tmp_path / "trials.sqlite")
    kept = sum(knock(1000 + seed, 0.25, register).promoted for seed in range(12))
    print(f"{kept} of 12 kept")
    assert kept >= 9


def test_without_the_register_the_same_search_is_refused_in_words(tmp_path):
    close = prices(1, 0.25, 2200)
    returns = searched(close)
    best = (returns.mean() / returns.std()).idxmax()
    alone = Candidate("averages", {}, "unseen", returns[best])
    decision = check_candidate(alone, Thresholds(), TrialRegister(tmp_path / "t.sqlite"))
    assert not decision.promoted
    assert all(words in str(decision) for words in ("no trial is on record", "pass walked="))


def test_a_returns_series_that_never_moves_is_refused(tmp_path):
    index = pd.date_range("2020-01-01", periods=300, tz="UTC")
    flat = Candidate("flat", {"n": 1}, "data", pd.Series(0.0, index))
    assert "never move" in str(check_candidate(flat, Thresholds(), TrialRegister(tmp_path / "t.sqlite")))


def test_two_registers_on_one_file_count_together(tmp_path):
    index = pd.date_range("2020-01-01", periods=50, tz="UTC")
    bars = pd.concat({("close", "A"): pd.Series(np.arange(1.0, 51.0), index)}, axis=1)
    one, two = TrialRegister(tmp_path / "t.sqlite"), TrialRegister(tmp_path / "t.sqlite")
    one.record("x", {"n": 1}, bars, {"sharpe": 0.1}, periods=1)
    two.record("x", {"n": 2}, bars.iloc[:-1], {"sharpe": 0.2}, periods=1)
    two.record("x", {"n": 1.0}, bars, {"sharpe": 0.1}, periods=1)
    assert one.count(bars) == two.count(bars) == 2
