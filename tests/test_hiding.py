"Ways to hide trials: whatever the search was called, split into, mixed with or moved to, the verdict about its best trial stays."

from itertools import product

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import backtest
from trading.backtest.overfitting import ReturnRecord
from trading.backtest.strategies import MaCross
from trading.backtest.strategy_promotion import Candidate, joint_figures
from trading.backtest.sweep import sweep
from trading.backtest.trial_register import TrialRegister

pytestmark = pytest.mark.xdist_group("hiding")  # one worker: what they share is made once

GRID = {"fast": [2, 3, 5, 8, 12, 20], "slow": [10, 15, 25, 40, 60, 90], "short": [True]}
ASKED = {"progress": False, "fees": 0.0, "fill": "close"}


def noise(seed: int) -> pd.DataFrame:
    close = pd.Series(100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, 1000))), pd.date_range("2015-01-01", periods=1000, tz="UTC"))
    return pd.concat({("close", "X"): close}, axis=1)


def judged(register: TrialRegister, bars: pd.DataFrame, returns: pd.Series, searched=None) -> dict:
    return joint_figures(Candidate("best", {}, bars, returns, searched), register, ReturnRecord.of(returns), 500)


def honest(register: TrialRegister, bars: pd.DataFrame) -> None:
    sweep(bars, MaCross, GRID, register=register, **ASKED)


@pytest.fixture(scope="module")
def lucky(tmp_path_factory):
    "The best of thirty-three on noise that would pass alone and does not among all."
    folder = tmp_path_factory.mktemp("lucky")
    for seed in range(200):
        bars = noise(seed)
        table = sweep(bars, MaCross, GRID, ["sharpe"], register=False, **ASKED)["sharpe"]
        fast, slow, *_ = table.idxmax()
        if table.max() < 1.1:
            continue
        returns = backtest(bars, MaCross(fast, slow, True), fees=0.0, fill="close", register=False).returns
        alone, every = TrialRegister(folder / f"a{seed}"), TrialRegister(folder / f"e{seed}")
        honest(every, bars)
        p = judged(every, bars, returns)["reality_check"]
        if judged(alone, bars, returns)["reality_check"] <= 0.03 and 0.08 <= p <= 0.6:
            return bars, returns, p, (int(fast), int(slow))
    raise AssertionError("no lucky noise among 200 markets")


def edited(register, bars, returns):
    for fast, slow in product(GRID["fast"], GRID["slow"]):
        if fast < slow:
            space = {}
            body = f"np.sign(c.rolling({fast}).mean() - c.rolling({slow}).mean()).fillna(0).astype(int)"
            exec(f"import numpy as np\ndef rule(bars, n=1):\n    c = bars['close']\n    return {body}", space)
            sweep(bars, space["rule"], {"n": [1]}, register=register, **ASKED)


def by_hand(register, bars, returns):
    for fast, slow in product(GRID["fast"], GRID["slow"]):
        if fast < slow:
            backtest(bars, MaCross(fast, slow, True), fees=0.0, fill="close", register=register)


def renamed(register, bars, returns):
    honest(register, bars.set_axis(pd.MultiIndex.from_tuples([("close", "ANOTHER")]), axis=1))


def scaled(register, bars, returns):
    honest(register, (bars * 137).set_axis(pd.MultiIndex.from_tuples([("close", "Y")]), axis=1))


def shifted(register, bars, returns):
    honest(register, bars.set_axis(bars.index + pd.Timedelta(days=1)))


def long_ago(register, bars, returns):
    moved = bars.set_axis(bars.index - pd.Timedelta(days=30 * 365))
    honest(register, moved.set_axis(pd.MultiIndex.from_tuples([("close", "OLD")]), axis=1))


def inverse(register, bars, returns):
    honest(register, (1 / bars).set_axis(pd.MultiIndex.from_tuples([("close", "THE/OTHER")]), axis=1))


def nearly_the_same_prices(register, bars, returns):
    shaken = bars * (1 + np.random.default_rng(0).normal(0, 1e-5, bars.shape))
    honest(register, shaken.set_axis(pd.MultiIndex.from_tuples([("close", "ANOTHER")]), axis=1))


def in_pieces(register, bars, returns):
    for lo in range(0, 1000, 200):
        honest(register, bars.iloc[lo : lo + 200])


def a_day_less(register, bars, returns):
    honest(register, bars.iloc[:-1])


def half_shown(register, bars, returns):
    honest(register, bars)
    return pd.DataFrame({"best": returns, "near": returns * 0.9})


def dull(register, bars, returns):
    honest(register, bars)
    few = pd.DataFrame({"sharpe": np.random.default_rng(1).normal(0, 1e-4, 20_000)}, index=pd.RangeIndex(20_000, name="i"))
    register.record_many("dull", few, bars, periods=1)


def idle(register, bars, returns):
    honest(register, bars)
    still = np.zeros((len(bars), 300))
    still[np.random.default_rng(2).integers(0, len(bars), 300), np.arange(300)] = 1e-6
    ratios = pd.DataFrame({"sharpe": 0.0}, index=pd.RangeIndex(300, name="i"))
    register.record_many("idle", ratios, bars, periods=1, returns=pd.DataFrame(still, bars.index))


def hours(register, bars, returns):
    honest(register, bars)
    index = pd.date_range(bars.index[0], periods=len(bars), freq="h")
    honest(register, noise(999).set_axis(index))


def mirrored(register, bars, returns):
    honest(register, bars)
    ratios = pd.DataFrame({"sharpe": [0.0]}, index=pd.RangeIndex(1, name="i"))
    register.record_many("mirror", ratios, bars, periods=1, returns=-returns.to_frame())


def leveraged(register, bars, returns):
    honest(register, bars)
    ratios = pd.DataFrame({"sharpe": 0.0}, index=pd.RangeIndex(50, name="i"))
    register.record_many("levered", ratios, bars, periods=1, returns=pd.DataFrame({k: returns * (k + 1) / 10 for k in range(50)}))


WAYS = [edited, by_hand, renamed, scaled, shifted, long_ago, inverse, nearly_the_same_prices, in_pieces, a_day_less,
        half_shown, dull, idle, hours, mirrored, leveraged]


@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.__name__)
def test_no_way_of_hiding_changes_the_verdict(way, lucky, tmp_path):
    bars, returns, p, _ = lucky
    register = TrialRegister(tmp_path / "trials.sqlite")
    shown = way(register, bars, returns)
    figures = judged(register, bars, returns, shown)
    assert figures["reality_check"] > 0.03 and figures["reality_check"] >= 0.75 * p, (figures, p)
    assert figures["on_record"] >= 20


def test_stops_are_trials_and_a_trial_that_is_not_counted_says_so(tmp_path):
    bars, register = noise(3), TrialRegister(tmp_path / "trials.sqlite")
    for stop in np.arange(0.005, 0.05, 0.0025):
        sweep(bars, MaCross, {"fast": [5], "slow": [20]}, stop_loss=float(stop), register=register, **ASKED)
    assert register.count(bars) >= 12
    run = backtest(bars, MaCross(5, 20), register=False)
    assert not run.counted and run.stats["trial"] == "not counted" and backtest(bars, MaCross(5, 20), register=register).stats["trial"] == "counted"
    assert sweep(bars, MaCross, {"fast": [5], "slow": [20]}, register=False, **ASKED).attrs["trials"] == "not counted"


def test_a_million_trials_are_worth_something_in_little_time_and_memory(tmp_path):
    from trading.core.trial_store import Cells, TrialStore

    bars, store = noise(4), TrialStore(tmp_path / "trials.sqlite")
    cells = Cells.of(bars.index)
    few = np.random.default_rng(0).integers(-127, 128, (20, cells.count), dtype=np.int8)
    for k in range(4):
        keys = np.arange(5000, dtype=np.uint64) + np.uint64(k * 5000)
        store.add("x", bars, keys, {"grid": {"a": []}, "valid": None}, None, np.repeat(few, 250, axis=0), cells)
    register = TrialRegister(store.path)
    assert 8 < register.worth(bars) <= 21 and register.count(bars) == 20


def test_an_edge_passes_with_and_without_mirrors_and_noise_does_not(tmp_path):
    promoted = {}
    for edge in (0.0, 0.0012):
        for mirror in (False, True):
            passed = 0
            for seed in range(12):
                rng = np.random.default_rng([seed, 5])
                r = pd.DataFrame(rng.normal(0, 0.01, (1500, 60)), pd.date_range("2015-01-01", periods=1500, tz="UTC"))
                r[0] += edge
                r = pd.concat([r, -r], axis=1, ignore_index=True) if mirror else r
                best = r[(r.mean() / r.std()).idxmax()]
                passed += judged(TrialRegister(tmp_path / "t.sqlite"), f"{edge} {mirror} {seed}", best, r)["reality_check"] <= 0.03
            promoted[edge, mirror] = passed
    assert promoted[0.0, False] <= 2 and promoted[0.0, True] <= 2 and promoted[0.0012, False] >= 8 and promoted[0.0012, True] >= 8, promoted
