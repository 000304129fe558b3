"Figures against self-deception, held to published examples, to scipy and to enumeration by hand; the register and the grid to literals."

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from trading.backtest.cross_validation import combinatorial_paths, monte_carlo, walk_forward
from trading.backtest.overfitting import (
    ReturnRecord,
    deflated_sharpe,
    expected_best_sharpe,
    independent_trials,
    minimum_track_record,
    pbo,
    probabilistic_sharpe,
    reality_check,
)
from trading.backtest.trial_register import TrialRegister, variation_text
from trading.core.bars import bars_from_close, fingerprint
from trading.core.errors import BadInput


def days(values, first="2024-01-01"):
    index = pd.date_range(first, periods=len(values), tz="UTC")
    return pd.DataFrame(values, index) if np.ndim(values) > 1 else pd.Series(values, index)


# ---- one Sharpe ratio


def test_a_record_measures_what_scipy_measures():
    r = days(np.random.default_rng(0).gamma(2, 0.01, 50) - 0.015)
    record = ReturnRecord.of(r)
    assert (record.sharpe, record.bars) == (pytest.approx(r.mean() / r.std()), 50)
    assert (record.skew, record.kurtosis) == pytest.approx((stats.skew(r), stats.kurtosis(r, fisher=False)))
    assert ReturnRecord(0.1, 20) == ReturnRecord(0.1, 20, 0.0, 3.0)
    assert record.spread == pytest.approx(math.sqrt(1 - record.skew * record.sharpe + (record.kurtosis - 1) / 4 * record.sharpe**2))
    for bad, says in ((days([0.01] * 10), "never move"), (days([0.01] * 9), "too few to judge; at least 10"),
                      (days([0.01] * 9 + [np.nan]), "2024-01-10.* is nan")):
        with pytest.raises(BadInput, match=says):
            ReturnRecord.of(bad)
    assert ReturnRecord.of(days([0.01] * 9 + [0.02])).bars == 10
    assert independent_trials(days(np.full((10, 2), 0.01))) == 1.0
    assert ReturnRecord(1.0, 20, 1.5, 1.0).spread == pytest.approx(1e-6)  # no square root of a number below zero


def test_the_published_example_of_bailey_and_lopez_de_prado():
    "The Deflated Sharpe Ratio (2014), p. 9: ratio 2.5 a year, 1250 days of 250 a year, skew -3, kurtosis 10, 100 trials, variance 1/2 a year."
    best = ReturnRecord(2.5 / math.sqrt(250), 1250, -3.0, 10.0)
    assert expected_best_sharpe(100, 0.5 / 250) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe(best, 100, 0.5 / 250) == pytest.approx(0.9004, abs=5e-5)
    assert deflated_sharpe(best, 46, 0.5 / 250) == pytest.approx(0.9505, abs=5e-5)
    assert probabilistic_sharpe(best) > 0.999 and deflated_sharpe(best, 1, 0.5) == probabilistic_sharpe(best, 0.0)


def test_the_published_table_of_minimum_track_records():
    "The Sharpe Ratio Efficient Frontier (2012), exhibit 5 for daily returns: a yearly ratio of 2 needs 2.73 years of 250 days against 1 at 95 %."
    normal = ReturnRecord(2 / math.sqrt(250), 500)
    assert minimum_track_record(normal, 1 / math.sqrt(250)) / 250 == pytest.approx(2.73, abs=0.01)
    assert minimum_track_record(normal, 0.0) / 250 == pytest.approx(0.69, abs=0.01)
    enough = math.ceil(minimum_track_record(normal, 0.0, 0.99))
    assert probabilistic_sharpe(ReturnRecord(normal.sharpe, enough)) >= 0.99 > probabilistic_sharpe(ReturnRecord(normal.sharpe, enough - 1))
    assert minimum_track_record(normal, normal.sharpe) == math.inf == minimum_track_record(normal, 1.0)
    assert minimum_track_record(normal) == minimum_track_record(normal, 0.0, 0.95) and probabilistic_sharpe(normal) == probabilistic_sharpe(normal,
        0.0)


def test_the_best_of_many_worthless_trials_is_what_drawing_them_gives():
    rng = np.random.default_rng(1)
    for trials in (30, 100):
        drawn = rng.normal(0, 0.2, (10_000, trials)).max(axis=1).mean()
        assert expected_best_sharpe(trials, 0.04) == pytest.approx(drawn, rel=0.025)
    assert expected_best_sharpe(1, 0.04) == 0.0 == expected_best_sharpe(20, 0.0) and expected_best_sharpe(1.01, 0.04) == 0.0
    for trials, variance in ((0.99, 0.1), (5, -0.1), (5, np.nan)):
        with pytest.raises(BadInput, match="at least one trial and a variance of zero or more"):
            expected_best_sharpe(trials, variance)


def test_how_many_trials_correlated_ones_are_worth():
    rng = np.random.default_rng(2)
    base, other = rng.normal(size=2000), rng.normal(size=(2000, 4))
    for rho, most in ((0.0, 4.1), (0.5, 2.6), (1.0, 1.1)):
        r = pd.DataFrame(math.sqrt(rho) * base[:, None] + math.sqrt(1 - rho) * other)
        mean = (np.corrcoef(r.T.to_numpy()).sum() - 4) / 12
        found = independent_trials(r.set_axis(pd.date_range("2015-01-01", periods=2000, tz="UTC")))
        assert found == pytest.approx(max(mean, 0) + (1 - max(mean, 0)) * 4) and found < most
    flat = days(np.zeros((20, 3)))
    assert independent_trials(flat) == 1.0 and independent_trials(flat.assign(a=other[:20, 0])) == 1.0
    assert independent_trials(flat.assign(a=other[:20, 0], b=-other[:20, 0])) == 2.0  # opposites are no less than apart


# ---- many of them


def by_hand(r, blocks):
    "Enumerate the splits as the paper tells it, one by one."
    size, logits, own, other = len(r) // blocks, [], [], []
    parts = np.split(r[len(r) - size * blocks:], blocks)
    for chosen in itertools.combinations(range(blocks), blocks // 2):
        ratio = [np.concatenate([parts[i] for i in range(blocks) if (i in chosen) == side]) for side in (True, False)]
        train, test = (x.mean(axis=0) / x.std(axis=0) for x in ratio)
        best = train.argmax()
        omega = stats.rankdata(test)[best] / (r.shape[1] + 1)
        logits.append(math.log(omega / (1 - omega)))
        own.append(train[best])
        other.append(test[best])
    return np.array(logits), np.array(own), np.array(other)


@pytest.mark.parametrize("blocks, bars, variations", [(2, 11, 3), (4, 30, 5), (6, 40, 4)])
def test_the_probability_of_overfitting_is_that_of_the_paper_told_split_by_split(blocks, bars, variations):
    r = np.random.default_rng(bars).normal(0.002, 0.02, (bars, variations))
    logits, own, other = by_hand(r, blocks)
    found = pbo(days(r), blocks)
    assert found.logits == pytest.approx(logits, abs=1e-6) and found.probability == (logits <= 1e-9).mean() and found.loss == (other < 0).mean()
    assert found.chosen == pytest.approx([own.mean(), other.mean()], abs=1e-6)
    for bad in (1, 3, 0, bars):
        with pytest.raises(BadInput, match="even in number and hold at least 2 bars each"):
            pbo(days(r), bad)
    with pytest.raises(BadInput, match="one variation cannot be ranked"):
        pbo(days(r[:, :1]), blocks)


def test_overfitting_at_its_extremes():
    rng = np.random.default_rng(3)
    good = days(np.c_[rng.normal(0.05, 0.01, 64), rng.normal(0, 0.01, (64, 3))])
    assert pbo(good, 8).probability == 0.0 and pbo(good, 8).loss == 0.0 and len(pbo(good, 8).logits) == 70 and len(pbo(good).logits) == 12_870
    flat = pbo(days(np.zeros((16, 3))), 4)
    assert flat.probability == 1.0 and flat.logits == pytest.approx(np.zeros(6)) and flat.loss == 0.0  # ties stand in the middle
    assert pbo(days(rng.normal(0, 1, (8, 2)).repeat(2, axis=0)[:16]), 8).logits.shape == (70,)


def test_the_reality_check_of_one_good_and_many_worthless_variations():
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 0.01, (250, 5))
    luck, skill = days(noise - noise.mean(axis=0)), days(np.c_[noise, rng.normal(0.004, 0.01, 250)])
    assert reality_check(luck, draws=200) > 0.5 and reality_check(skill, draws=200) < 0.02
    assert reality_check(skill, 0.004, draws=200) > 0.1 and reality_check(skill, skill[5],
        draws=200) > 0.3  # against what is as good there is nothing left
    assert reality_check(days(np.zeros((50, 2)))) == 1.0 and reality_check(luck, draws=100) == reality_check(luck, draws=100, seed=0)
    from arch.bootstrap import SPA

    for kind in ("lower", "consistent", "upper"):
        theirs = SPA(np.zeros(250), -skill.to_numpy(), block_size=7, reps=150, seed=5)
        theirs.compute()
        assert reality_check(skill, draws=150, block=7, seed=5, kind=kind) == pytest.approx(theirs.pvalues[kind])
    defaults = SPA(np.zeros(250), -skill.to_numpy(), block_size=15, reps=1000, seed=0)
    defaults.compute()
    assert reality_check(skill) == pytest.approx(defaults.pvalues["consistent"])
    for bad, says in (({"kind": "White"}, "'White' is unknown"), ({"benchmark": days([0.0] * 249)}, "the benchmark has no return at 2024-09-06")):
        with pytest.raises(BadInput, match=says):
            reality_check(skill, **bad)


# ---- walking forward


def test_walking_forward_sees_the_past_only_and_covers_what_follows():
    bars, seen = days(np.arange(20.0)).to_frame("x"), []

    def choose(part):
        seen.append((part["x"].iloc[0], part["x"].iloc[-1], len(part)))
        return part["x"].iloc[-1]

    def trade(choice, part):
        return part["x"] / 100 + choice / 1000

    walk = walk_forward(bars, choose, trade, train=6, test=4, purge=2)
    assert seen == [(0, 5, 6), (4, 9, 6), (8, 13, 6)] and walk.choices["choice"].tolist() == [5, 9, 13]
    assert walk.choices[["train_start", "train_end", "test_start", "test_end"]].iloc[0].tolist() == [bars.index[k] for k in (0, 5, 8, 11)]
    assert walk.returns.index.equals(bars.index[8:20])
    assert walk.returns.iloc[0] == pytest.approx(0.085) and walk.returns.iloc[-1] == pytest.approx(0.203)
    piece = np.array([8, 9, 10, 11]) / 100 + 0.005
    assert walk.choices["test_sharpe"][0] == pytest.approx(piece.mean() / piece.std())
    known = np.arange(6) / 100 + 0.005
    assert walk.choices["train_sharpe"][0] == pytest.approx(known.mean() / known.std())
    assert walk.decay == pytest.approx(walk.choices["test_sharpe"].mean() / walk.choices["train_sharpe"].mean())
    seen.clear()
    walk_forward(bars, choose, trade, train=6, test=5, expanding=True)
    assert seen == [(0, 5, 6), (0, 10, 11), (0, 15, 16)]
    assert walk_forward(bars, choose, lambda c, part: part["x"] * 0, 6, 4).choices[["train_sharpe", "test_sharpe"]].eq(0).all(axis=None)
    assert math.isnan(walk_forward(bars, choose, lambda c, part: part["x"] * 0, 6, 4).decay)
    short = walk_forward(bars, choose, lambda c, part: trade(c, part).iloc[6:], 6, 4)
    assert math.isnan(short.choices["train_sharpe"][0]) and not math.isnan(short.choices["train_sharpe"][1])


@pytest.mark.parametrize("train, test, purge, fits", [(16, 4, 0, True), (17, 4, 0, False), (14, 4, 2, True), (14, 4, 3, False), (0, 4, 0, False),
                                                      (4, 0, 0, False), (4, 4, -1, False)])
def test_windows_must_fit(train, test, purge, fits):
    bars = days(np.arange(20.0)).to_frame("x")
    if fits:
        assert len(walk_forward(bars, len, lambda c, part: part["x"], train, test, purge).choices) == 1
    else:
        with pytest.raises(BadInput, match="do not fit into 20 bars"):
            walk_forward(bars, len, lambda c, part: part["x"], train, test, purge)
    with pytest.raises(BadInput, match="trade gave no return for 2024-01-20"):
        walk_forward(bars, len, lambda c, part: part["x"].iloc[:-1], 16, 4)


def test_every_path_is_made_of_what_was_best_elsewhere():
    rng = np.random.default_rng(6)
    r = rng.normal(0, 0.01, (40, 3))
    paths = combinatorial_paths(days(r), folds=4, test_folds=2)
    assert paths.shape == (40, 3) and paths.columns.name == "path" and not paths.isna().any(axis=None)
    want = {f: set() for f in range(4)}  # fold → what the winners of the splits that test it earned there
    for tested in itertools.combinations(range(4), 2):
        rest = np.concatenate([r[10 * f : 10 * f + 10] for f in range(4) if f not in tested])
        best = (rest.mean(axis=0) / rest.std(axis=0)).argmax()
        for f in tested:
            want[f].add(tuple(r[10 * f : 10 * f + 10, best]))
    for f in range(4):
        assert {tuple(paths.iloc[10 * f : 10 * f + 10, p]) for p in range(3)} == want[f]
    assert combinatorial_paths(days(np.zeros((40, 2)))).shape == (40, 9)  # ten folds, two of them tested: nine paths
    for how, fits in (({"folds": 4, "test_folds": 3}, True), ({"folds": 4, "test_folds": 4}, False), ({"folds": 4, "test_folds": 1}, False),
                      ({"folds": 4, "test_folds": 2}, True),
                      ({"folds": 4, "purge": 8}, True), ({"folds": 4, "purge": 9}, False), ({"folds": 4, "purge": 4, "embargo": 4}, True),
                      ({"folds": 4, "purge": 4, "embargo": 5}, False)):
        if fits:
            combinatorial_paths(days(r), **how)
        else:
            with pytest.raises(BadInput, match="do not fit into 40 bars; take fewer folds"):
                combinatorial_paths(days(r), **how)


def test_a_purge_keeps_the_neighbours_of_a_test_out_of_the_choice():
    r = np.zeros((40, 2)) + np.array([0.001, -0.001])[np.arange(40) % 2][:, None]
    r[:, 0] += 0.0001
    r[20:22, 1] += 0.01  # the second variation shines in the two bars after the second fold only
    plain, purged, embargoed = (combinatorial_paths(days(r), folds=4, test_folds=2, **how) for how in ({}, {"purge": 2}, {"embargo": 2}))
    first = [table.iloc[:10].eq(r[:10, 1], axis=0).all().sum() for table in (plain, purged, embargoed)]
    # two of the three splits that test the first fold learn from these bars; one of the two tests the second fold too, and loses them
    assert first == [2, 1, 1]


def test_other_histories_of_the_same_trades():
    r = np.array([0.1, -0.2, 0.3, -0.05])
    found = monte_carlo(r, draws=3, block=2, seed=9)
    starts = np.random.default_rng(9).integers(4, size=(3, 2))
    for k in range(3):
        value = np.cumprod([1.0] + [1 + r[(s + j) % 4] for s in starts[k] for j in range(2)])
        assert found.growth[k] == pytest.approx(value[-1]) and found.drawdown[k] == pytest.approx((value / np.maximum.accumulate(value) - 1).min())
    assert monte_carlo([0.1, 0.1], draws=5).growth == pytest.approx([1.21] * 5) and monte_carlo([0.1,
        0.1]).ruin == 0.0 and len(monte_carlo(r).growth) == 1000
    assert monte_carlo([-0.5, -0.5], draws=5, ruin=0.25).ruin == 0.0 and monte_carlo([-0.5, -0.5], draws=5, ruin=0.26).ruin == 1.0
    assert monte_carlo([-0.3, -0.3], draws=5).ruin == 1.0 and monte_carlo([-0.29, -0.29], draws=5).ruin == 0.0 and monte_carlo([-0.3, -0.3],
        5).drawdown == pytest.approx([-0.51] * 5)
    table = monte_carlo(np.array([0.0, 1.0]), draws=4000, seed=1).summary()
    assert table["growth"].tolist() == [1.0, 2.0, 4.0] and list(table.index) == [0.05, 0.5, 0.95] and table["drawdown"].tolist() == [0, 0, 0]
    odd = monte_carlo(np.array([0.0, 1.0, 0.0]), draws=50, block=2)
    assert set(odd.growth) <= {1.0, 2.0, 4.0} and np.array_equal(monte_carlo(r).growth, monte_carlo(r, 1000, 1, 0.5, 0).growth)
    for bad, how in (([0.1], {}), ([0.1, np.nan], {}), ([0.1, -1.0], {}), ([0.1, 0.1], {"block": 0}), ([0.1, 0.1], {"draws": 0})):
        with pytest.raises(BadInput):
            monte_carlo(bad, **how)
    monte_carlo([0.1, -0.999], draws=1)


# ---- the register


BARS = bars_from_close(pd.DataFrame({"A": range(1, 11), "B": range(2, 12)}, pd.date_range("2024-01-01", periods=10, tz="UTC"), dtype=float))


@pytest.mark.parametrize("params, text", [
    ({"b": 1, "a": 2.0}, '{"a":2,"b":1}'), ({"a": 2.5}, '{"a":2.5}'), ({"a": np.int64(3), "b": np.float64(4.0)}, '{"a":3,"b":4}'),
    ({"a": np.array([1.0, 2.5])}, '{"a":[1,2.5]}'),
    ({"a": (1, range(2))}, '{"a":[1,[0,1]]}'), ({"a": {"y": 1, "x": None}}, '{"a":{"x":null,"y":1}}'), ({"a": True, "b": "x"}, '{"a":true,"b":"x"}'),
    ({1: pd.Timestamp("2024-01-01")}, '{"1":"2024-01-01 00:00:00"}')])
def test_a_variation_is_written_in_one_way(params, text):
    assert variation_text(params) == text


def test_what_is_recorded_is_counted_once_and_its_ratio_is_per_bar(tmp_path):
    register = TrialRegister(tmp_path / "new" / "trials.sqlite")
    register.record("ma", {"fast": 5}, BARS, {"sharpe": 2.0, "x": 1}, periods=4)
    register.record("ma", {"fast": 5.0}, BARS, {"sharpe": 3.0}, periods=4)  # the same variation with another result: the rule was edited
    register.record("ma", {"fast": 5.0}, BARS, {"sharpe": 3.0}, periods=4)  # the same trial, tried again
    register.record("ma", {"fast": 6}, BARS, {"sharpe": 1.0}, periods=1)
    register.record("rsi", {"n": 1}, BARS, {"profit": 1.0})
    register.record("rsi", {"n": 2}, BARS, {"sharpe": float("nan")}, periods=1)
    assert register.count(BARS) == 5 and register.count(BARS, "ma") == 3 and register.count(BARS, "rsi") == 2 and register.count(BARS, "x") == 0
    table = register.trials(BARS, "ma")
    assert dict(zip(table["params"], table["sharpe"], strict=True)) == {'{"fast":5}': 1.5, '{"fast":6}': 1.0}
    assert set(register.trials(BARS)["strategy"]) == {"ma", "rsi"} and register.count(fingerprint(BARS)) == 5
    for strategy, metrics, periods, says in (("", {}, None, "needs the name"), ("ma", {"sharpe": 1}, None, "say with periods="),
                                             ("ma", {"sharpe": 1}, 0, "say with periods=")):
        with pytest.raises(BadInput, match=says):
            register.record(strategy, {"a": 1}, BARS, metrics, periods)
    assert TrialRegister(tmp_path / "new" / "trials.sqlite").count(BARS) == 5


def test_trials_on_data_that_overlaps_count_and_on_other_data_do_not(tmp_path):
    register = TrialRegister(tmp_path / "trials.sqlite")
    later, other, apart = BARS.iloc[8:], BARS[[("close", "B")]], BARS.set_axis(BARS.index + pd.Timedelta(days=10))
    for k, (data, sharpe) in enumerate(((BARS, 1.0), (later, 2.0), (other, 3.0), (apart, 4.0))):
        register.record("ma", {"k": k}, data, {"sharpe": sharpe}, 1)
        register.record("ma", {"k": "same"}, data, {"sharpe": sharpe}, 1)
    assert [register.count(d, related=False) for d in (BARS, later, other, apart)] == [2, 2, 2, 2]
    assert register.count(BARS) == 4 and register.count(apart) == 2 and register.count(fingerprint(BARS)) == 4
    assert register.count(BARS[[("close", "A")]]) == 3
    same = register.trials(BARS).set_index("params")["sharpe"]
    assert same['{"k":"same"}'] == 3.0 and len(same) == 4  # the last of the three
    register.record("ma", {"k": 9}, "named", {"sharpe": 1.0}, 1)
    assert register.count("named") == 1 and register.count("unknown") == 0 and register.trials("unknown").empty


def test_a_whole_search_is_written_row_by_row(tmp_path):
    register = TrialRegister(tmp_path / "trials.sqlite")
    index = pd.MultiIndex.from_tuples([(5, 20.0, "A"), (5, 30.5, "B"), (6, 20.0, "C")], names=["slow", "fast", "symbol"])
    register.record_many("ma", pd.DataFrame({"sharpe": [2.0, np.inf, -4.0], "trades": [1, 2, 3]}, index), BARS, periods=4)
    table = register.trials(BARS).set_index("params")["sharpe"]
    assert table['{"fast":20,"slow":5,"symbol":"A"}'] == 1.0 and table['{"fast":20,"slow":6,"symbol":"C"}'] == -2.0 and len(table) == 3
    assert math.isnan(table['{"fast":30.5,"slow":5,"symbol":"B"}'])
    register.record("ma", {"fast": 20, "symbol": "A", "slow": 5}, BARS, {"sharpe": 1.0}, 1)  # the same as the first one
    assert register.count(BARS) == 3
