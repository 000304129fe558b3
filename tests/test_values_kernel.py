"The fast kernel, its blocks and the pieces of a sweep, against a walk from bar to bar and against numbers worked out by hand."

import numpy as np
import pandas as pd
import pytest
from numba import njit

from trading.backtest.engine import FIGURES, backtest
from trading.backtest.fast_kernel import RULE, build_blocks, run_variations, sketch_worth
from trading.backtest.strategies import MaCross, TargetWeights
from trading.backtest.sweep import make_job
from trading.backtest.sweep_engines import key_figures, run_accounts, run_chunk, run_fast, run_vectorbt
from trading.backtest.sweep_jobs import Grid, make_chunks, make_grid
from trading.backtest.vectorbt_engine import Costs, EngineFills
from trading.core.bars import bars_from, bars_from_close
from trading.core.errors import BadInput
from trading.core.trial_store import sketch_values
from trading.risk.metrics import composite_score

N = len(FIGURES)


@njit(RULE)
def copy_row(tables, code, out):
    for t in range(out.size):
        out[t] = np.int8(tables[int(code[0]), t])


def walk(close, price, positions, span, costs, total, periods):
    "Trade one row of positions bar by bar, as the engine's rules tell it, and work every figure out from the whole path."
    fees, slippage, fixed, least, cash = costs
    start, units, values, bars, trades, traded, paid, exposed = cash, 0.0, [], [], [], 0.0, 0.0, 0.0
    entry = fee_in = 0.0
    for t in range(len(close)):
        want = positions[t - 1] if t else 0
        now = np.sign(units)
        if want != now and want != (positions[t - 2] if t > 1 else 0):  # an order that was refused is not sent again
            buying = want > 0 or (want == 0 and now < 0)
            at = price[t] * (1 + slippage if buying else 1 - slippage)
            if buying:
                free = (cash - fixed) / (1 + fees)
                size = -units if want == 0 and -units * at <= free else free / at
                fee = size * at * fees + fixed
                done = free > 0 and size >= least
            else:
                size = units + (max((cash + units * at * (1 - fees) - fixed) / (at * (1 + fees)), 0) if want < 0 else 0)
                fee = size * at * fees + fixed
                done = size > 0 and size >= least and size * at >= fee
            if done:
                closing = min(size, abs(units)) if now else 0.0
                if closing:
                    trades.append(now * closing * (at - entry) - fee_in - fee * closing / size)
                traded, paid, cash = traded + size * at, paid + fee, cash + (-size if buying else size) * at - fee
                units = units + size if buying else units - size
                units = 0.0 if abs(units) < 1e-9 else units
                if units and np.sign(units) != now:
                    entry, fee_in = at, fee * abs(units) / size
        value = cash + units * close[t]
        length = span[t + 1] - span[t]
        if value <= 0:
            values.append(0.0)
            bars.append(length)
            values += [0.0] * (len(close) - t - 1)
            bars += [0.0] * (len(close) - t - 1)
            break
        exposed += abs(units) * close[t] / value * length
        values.append(value)
        bars.append(length)
    path = np.r_[start, values]
    path = path[: path.argmin() + 1] if (path <= 0).any() else path
    r = np.diff(path) / path[:-1]
    mean, dev = r.sum() / total, np.sqrt(max(((r**2).sum() - total * (r.sum() / total) ** 2) / (total - 1), 0))
    fall = (1 - path / np.maximum.accumulate(path)).max()
    annual = (path[-1] / start) ** (periods / (total - 1)) - 1
    gains, losses = sum(p for p in trades if p > 0), -sum(p for p in trades if p <= 0)
    average = (np.dot(values, bars) + start * (total - span[-1])) / total
    root, down = np.sqrt(periods), np.sqrt((np.minimum(r, 0) ** 2).sum() / total)
    ratio = lambda a, b: a / b if b > 1e-14 else np.nan  # noqa: E731
    sharpe, calmar, factor = ratio(mean * root, dev), ratio(annual, fall), gains / losses if losses > 0 else np.nan
    return np.array([
        path[-1], path[-1] / start - 1, annual, dev * root, sharpe, ratio(mean * root, down), calmar, -fall, len(trades),
        sum(p > 0 for p in trades) / len(trades) if trades else np.nan, factor, traded / average / ((total - 1) / periods), exposed / total, paid,
        composite_score(sharpe, calmar, factor)])


def kernel(close, price, positions, span, costs, total, periods):
    out = np.empty((len(positions), N))
    tables = np.ascontiguousarray(positions, dtype=float)
    which = np.arange(len(positions))
    run_variations(copy_row, tables, which[:, None].astype(float), which[::-1].copy(), np.asarray(close, float), np.array([price] * 3, float),
                   np.asarray(span, float), np.array([*costs, -1e18, 0, 1, 0], float), total, float(periods), out,
                   np.empty(0, np.int64), np.empty((len(out), 0)), np.empty((0, 0), np.int8))
    return out


def test_the_kernel_is_the_walk_from_bar_to_bar():
    kinds = {"turns": 0, "shorts": 0, "holes": 0, "ruined": 0, "refused": 0, "long stretches": 0}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(20, 150))
        close = 100 * np.exp(np.cumsum(rng.normal(0, rng.choice([0.01, 0.2]), n)))
        price = close * np.exp(rng.normal(0, 0.01, n))
        span = np.r_[0, np.cumsum(rng.choice([1, 1, 1, 3], n))].astype(float)
        total = int(span[-1]) + int(rng.integers(0, 9))
        rows = np.repeat(rng.choice([-1, 0, 1], (6, n // 10 + 1)), 10, axis=1)[:, :n]
        rows[0], rows[1] = np.abs(rows[0]), 1
        costs = (rng.choice([0, 0.002]), rng.choice([0, 0.003]), rng.choice([0, 2.0]), rng.choice([0, 60.0]), 10_000.0)
        found = kernel(close, price, rows, span, costs, total, 252)
        for row, figures in zip(rows, found, strict=True):
            expected = walk(close, price, row, span, costs, total, 252)
            np.testing.assert_allclose(figures, expected, rtol=1e-7, atol=1e-7, err_msg=f"seed {seed}")
            kinds["turns"] += bool((np.diff(row) == -2).any())
            kinds["shorts"] += bool((row < 0).any())
            kinds["ruined"] += expected[0] == 0
            kinds["refused"] += costs[3] > 0
            kinds["long stretches"] += n > 64 and bool((row[:-1] > 0).all())
        kinds["holes"] += total > n
    assert min(kinds[k] for k in ("turns", "shorts", "holes", "ruined", "refused", "long stretches")) >= 5, kinds


def test_blocks_hold_what_their_closes_hold():
    rng = np.random.default_rng(1)
    close, span = 50 + rng.normal(0, 3, 70), np.r_[0, np.cumsum(rng.integers(1, 4, 70))].astype(float)
    blocks, starts = build_blocks(close, span)
    assert starts.tolist() == [0, 70, 105, 122, 130, 134, 136, 137] and blocks.shape == (137, 7)
    for level, size in enumerate((1, 2, 4, 8, 16, 32, 64)):
        for k in range(70 // size):
            part = slice(size * k, size * (k + 1))
            c, before = close[part], close[max(size * k - 1, 0) : size * (k + 1) - 1] if k else np.r_[close[0], close[: size - 1]]
            r = c / before - 1
            fall = (1 - c / np.maximum.accumulate(c)).max()
            expected = [c.max(), c.min(), fall, r.sum(), (r**2).sum(), (np.minimum(r, 0) ** 2).sum(), (c * np.diff(span)[part]).sum()]
            assert blocks[starts[level] + k] == pytest.approx(expected), (size, k)
    assert build_blocks(close[:1], span[:2])[0].shape == (1, 7)


def test_sketches_of_the_kernel_are_those_of_the_register():
    rng = np.random.default_rng(3)
    worth = np.exp(np.cumsum(rng.normal(0, 0.01, (300, 131)), axis=1)) * 1e4
    worth[3], worth[4, 50:], worth[5], worth[6, :50], worth[7] = 1e4, 0, 0, 1e4, 1e4 * (1 + 1e-15)
    np.testing.assert_array_equal(sketch_worth(worth, 1e4), sketch_values(worth, 1e4))


def test_the_kernel_sketches_what_it_would_have_told_and_that_is_the_account_at_the_marks():
    "Marks at every bar, a few, none before the first, many in one stretch; shorts and ruins; sketches that are part of a wider table."
    ruined = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(9, 400))
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01 if seed % 3 else 0.15, n)))
        rows = np.repeat(rng.choice([-1, 0, 1], (30, n)), rng.integers(1, 40), axis=1)[:, :n].astype(float)
        rows[0], rows[1] = 0, 1
        costs = np.array([0.001, 0.0005, 1.0, 0.0, 10_000.0, -1e18, 0, 1, 0])
        for marks in (np.arange(n), np.arange(-1, n, 7), np.sort(rng.integers(-1, n, 200)), np.array([n - 1]), np.array([-1, -1, 0])):
            given = (copy_row, rows, np.arange(30.0)[:, None], rng.permutation(30), close, np.array([close] * 3), np.arange(n + 1.0), costs, n, 252.0)
            told, paths, table = np.empty((30, N)), np.full((30, len(marks)), np.nan), np.full((30, len(marks) + 9), 99, np.int8)
            again, sketches = np.empty((30, N)), table[:, 5:-4]
            run_variations(*given, told, marks, paths, np.empty((0, 0), np.int8))
            run_variations(*given, again, marks, np.empty((0, len(marks))), sketches)
            np.testing.assert_array_equal(again, told)
            np.testing.assert_array_equal(sketches, sketch_values(paths, 10_000.0))
            assert (table[:, :5] == 99).all() and (table[:, -4:] == 99).all()
            for row, path in zip(rows, paths, strict=True):
                np.testing.assert_allclose(path, slow_path(close, row, costs, marks), rtol=1e-9, atol=1e-9)
            ruined += int((paths[:, -1] == 0).sum())
    assert ruined > 20


def slow_path(close, row, costs, marks):
    "Walk from bar to bar as `walk` does, filled at the closes and without margin: the worth at the marks."
    fees, slippage, fixed, _, cash = costs[:5]
    start, units, values, sent = cash, 0.0, [], 0
    for t in range(len(close)):
        want = row[t - 1] if t else 0
        if want != sent:
            if want > 0 >= units or (want == 0 and units < 0):
                at, free = close[t] * (1 + slippage), (cash - fixed) / (1 + fees)
                size = -units if want == 0 and -units * at <= free else free / at
                if free > 0:
                    cash, units = (cash - size * at - size * at * fees - fixed if want == 0 and size == -units else 0.0), units + size
            elif want < 0 <= units or (want == 0 and units > 0):
                at = close[t] * (1 - slippage)
                size = units + (max((cash + units * at * (1 - fees) - fixed) / (at * (1 + fees)), 0) if want < 0 else 0)
                fee = size * at * fees + fixed
                if size > 0 and size * at >= fee:
                    cash, units = cash + size * at - fee, units - size
            units = 0.0 if abs(units) < 1e-9 else units
        sent, value = want, cash + units * close[t]
        if value <= 0:
            values += [0.0] * (len(close) - t)
            break
        values.append(value)
    return np.r_[start, values][marks + 1]


def test_a_long_and_a_short_by_hand():
    close = [100.0, 100, 110, 121, 121, 60.5]
    rows = [[1, 1, 1, 0, 0, 0], [0, 0, 0, -1, -1, -1], [0] * 6]
    out = kernel(close, close, rows, range(7), (0, 0, 0, 0, 1000), 6, 5)  # five bars a year, and one year from the first close to the last
    final, annual, fall, count, won, paid = (FIGURES.index(n) for n in ("final", "annual_return", "max_drawdown", "trades", "win_rate", "fees"))
    assert out[:, final].tolist() == pytest.approx([1210, 1500, 1000]) and out[:, annual].tolist() == pytest.approx([0.21, 0.5, 0])
    assert out[:, count].tolist() == [1, 0, 0] and out[0, won] == 1 and np.isnan(out[1, won]) and out[:, fall].tolist() == [0, 0, 0]
    assert out[:, paid].tolist() == [0] * 3
    exposure, turnover = FIGURES.index("exposure"), FIGURES.index("turnover")
    assert out[:, exposure].tolist() == pytest.approx([3 / 6, (1 + 500 / 1500) / 6, 0])
    assert out[0, turnover] == pytest.approx((1000 + 1210) / np.mean([1000, 1000, 1100, 1210, 1210, 1210]))
    dear = kernel(close, close, rows[:1], range(7), (0.01, 0.02, 5.0, 0, 1000), 6, 6)[0]
    units = 995 / 1.01 / 102
    assert dear[final] == pytest.approx(units * 121 * 0.98 * 0.99 - 5)
    assert dear[paid] == pytest.approx(1000 - units * 102 + units * 121 * 0.98 * 0.01 + 5)
    assert kernel(close, close, rows[:1], range(7), (0, 0, 0, 10.01, 1000), 6, 6)[0, final] == 1000  # ten units are too few
    assert kernel(close, close, rows[:1], range(7), (0, 0, 0, 10.0, 1000), 6, 6)[0, final] == pytest.approx(1210)
    assert kernel(close, close, rows[:1], range(7), (0, 0, 1000.0, 0, 1000), 6, 6)[0, final] == 1000  # the fee is all there is


# ---- the pieces of a sweep


BARS = bars_from_close(pd.DataFrame({"A": [10.0, 11, 12, 11, 10, 9, 10, 12], "B": np.linspace(5, 6, 8)},
                                    pd.date_range("2024-01-01", periods=8, tz="UTC")))


def test_the_grid_leaves_out_what_makes_no_sense():
    grid = make_grid(MaCross(), {"slow": [3, 5], "fast": [2, 3, 4]})
    assert isinstance(grid, Grid) and grid.skipped == 2 and grid.valid.tolist() == [0, 3, 4, 5]
    assert list(grid.each(0, 4)) == [{"slow": 3, "fast": 2}, {"slow": 5, "fast": 2}, {"slow": 5, "fast": 3}, {"slow": 5, "fast": 4}]
    assert list(grid.each(1, 2)) == [{"slow": 5, "fast": 2}]
    assert {k: v.tolist() for k, v in grid.arrays(1, 3).items()} == {"slow": [5, 5], "fast": [2, 3]}
    assert [c.tolist() for c in grid.codes(2)] == [[1, 1], [1, 2]]
    for bad, says in (({}, "no values for any parameter"), ({"fast": []}, "no values for 'fast'"), ({"colour": [1]}, "has no parameter 'colour'"),
                      ({"fast": [2, 2]}, "names a value of 'fast' twice"),
                      ({"fast": [5], "slow": [5, 4]}, "nothing in it that makes sense, beginning with .*'fast': 5")):
        with pytest.raises(BadInput, match=says):
            make_grid(MaCross(), bad)


def job(strategy=None, grid=None, engine="kernel", bars=BARS, metrics=FIGURES, rules=None, **costs):
    return make_job(bars, strategy or MaCross(), grid or {"fast": [1, 2], "slow": [3, 4]}, metrics, Costs(**{"fees": 0.001, **costs}), "auto",
                    {"shared": False, **(rules or {})}, 365, engine)


def test_both_engines_and_the_single_backtest_give_the_same_figures():
    for costs in ({}, {"fees": 0.01, "slippage": 0.02, "fixed_fees": 3.0, "cash": 500.0}):
        one = job(**costs)
        slow = run_vectorbt(one, 0, 4)[0]
        np.testing.assert_allclose(run_accounts(one, 0, 4)[0], slow, rtol=1e-9, atol=1e-9)
        assert slow.shape == (4, 2, N)
        for s, symbol in enumerate("AB"):
            np.testing.assert_allclose(run_fast(one, symbol, 0, 4)[0], slow[:, s], rtol=1e-9, atol=1e-9)
            for k, params in enumerate(one.grid.each(0, 4)):
                alone = backtest(BARS[[("close", symbol)]], MaCross(**params), periods=365, **{"fees": 0.001, **costs}).stats
                np.testing.assert_allclose(slow[k, s], alone[list(FIGURES)].to_numpy(float), rtol=1e-9, atol=1e-9)
    part = run_chunk(job(metrics=["fees", "final"]), "A", 1, 3)
    whole = run_accounts(job(), 1, 3)[0][:, 0]
    assert part.shape == (2, 1, 2) and part[:, 0] == pytest.approx(whole[:, [FIGURES.index("fees"), FIGURES.index("final")]])
    assert run_chunk(job(engine="vectorbt", metrics=["final"]), None, 0, 2)[:, 1, 0] == pytest.approx(run_accounts(job(), 0, 2)[0][:, 1, 0])


def test_stops_and_weights_go_through_the_account():
    stopped = run_accounts(job(engine="auto", grid={"fast": [1], "slow": [2]}, rules={"stop_loss": 0.05}), 0, 1)[0][0, 0]
    alone = backtest(BARS[[("close", "A")]], MaCross(1, 2), periods=365, stop_loss=0.05).stats
    np.testing.assert_allclose(stopped, alone[list(FIGURES)].to_numpy(float), rtol=1e-9)
    found = run_accounts(job(TargetWeights(), {"every": ["week", "bar"]}, "auto"), 0, 2)[0]
    assert found.shape == (2, 1, N)
    np.testing.assert_allclose(found[1, 0], backtest(BARS, TargetWeights(every="bar"), periods=365).stats[list(FIGURES)].to_numpy(float))


def test_the_figures_of_two_purses_by_hand():
    index = pd.date_range("2024-01-01", periods=4, tz="UTC")
    value = pd.DataFrame({0: [100.0, 120, 90, 99], 1: [100.0, 50, -10, 30]}, index)
    orders = pd.DataFrame({"timestamp": [index[1], index[3], index[0], index[3]], "symbol": [0, 0, 1, 1], "cost": [100.0, 99, 100, 70],
                           "fee": [1.0, 2, 3, 4]})
    trades = pd.DataFrame({"symbol": [0, 0, 1, 1, 1], "pnl": [30.0, -10, -5, 99, 7], "exit": [index[3]] * 2 + [index[2], index[3], index[2]],
                           "open": [False, False, False, False, True]})
    units = pd.DataFrame({0: [0.0, 2, 2, 0], 1: [-1.0, -1, -1, -1]}, index)
    close = pd.DataFrame({0: [10.0, np.nan, 30, 30], 1: [50.0, 50, 50, 50]}, index)
    out = dict(zip(FIGURES, key_figures(EngineFills(orders, trades, value, units, value), close, 100.0, 3).T, strict=True))
    r = np.array([[0, 0.2, -0.25, 0.1], [0, -0.5, -1, 0]])
    assert out["final"].tolist() == [99, 0] and out["total_return"].tolist() == pytest.approx([-0.01, -1])
    assert out["annual_return"].tolist() == pytest.approx([-0.01, -1])
    assert out["volatility"] == pytest.approx(r.std(axis=1, ddof=1) * 3**0.5)
    assert out["sharpe"] == pytest.approx(r.mean(axis=1) * 3**0.5 / r.std(axis=1, ddof=1))
    assert out["sortino"] == pytest.approx(r.mean(axis=1) * 3**0.5 / np.sqrt((np.minimum(r, 0) ** 2).mean(axis=1)))
    assert out["max_drawdown"].tolist() == pytest.approx([-0.25, -1]) and out["calmar"].tolist() == pytest.approx([-0.04, -1])
    assert out["trades"].tolist() == [2, 1] and out["win_rate"].tolist() == [0.5, 0] and out["profit_factor"].tolist() == pytest.approx([3, 0])
    assert out["fees"].tolist() == [3, 3] and out["turnover"].tolist() == pytest.approx([199 / 102.25, 100 / 37.5])
    assert out["exposure"].tolist() == pytest.approx([(20 / 120 + 60 / 90) / 4, (0.5 + 1) / 4])
    assert out["score"].tolist() == pytest.approx([30 + 20 * out["sharpe"][0], 0])


def test_a_sweep_is_cut_into_pieces_that_cover_it_once():
    def cut(count, engine="kernel", bars=BARS, **more):
        made = job(engine=engine, bars=bars, grid={"slow": list(range(3, 3 + count)), "fast": [1]}, **more)
        return make_chunks(made)

    assert cut(3) == [("A", 0, 3), ("B", 0, 3)] and cut(251) == [("A", 0, 250), ("A", 250, 251), ("B", 0, 250), ("B", 250, 251)]
    assert cut(2401)[:2] == [("A", 0, 301), ("A", 301, 602)] and cut(2401)[7] == ("A", 2107, 2401) and len(cut(2401)) == 16
    assert cut(3, "vectorbt") == [(None, 0, 3)] and cut(501, "vectorbt") == [(None, 0, 500), (None, 500, 501)]
    long = bars_from({"A": pd.DataFrame({"close": 1.0}, pd.date_range("2000-01-01", periods=20_000, freq="h", tz="UTC"))})
    assert cut(101, "vectorbt", long) == [(None, 0, 100), (None, 100, 101)]  # 2e8 / (100 · 20,000)
    assert len(cut(4000, bars=long)) == 16  # rows of 20,000 bars fill 50 MB at 312
    weights = job(TargetWeights(), {"targets": [{"A": k / 100} for k in range(26)]}, "auto")
    assert make_chunks(weights) == [(None, 0, 25), (None, 25, 26)]


def lasting(bars, window=3, way="positions"):
    "A plain function, as a user writes it: positions as integers, as floats, as truth, or events."
    below = bars["close"] < bars["close"].rolling(window).mean()
    if way == "events":
        return pd.concat({"entry": below, "exit": ~below}, axis=1)
    return {"positions": below.astype(int), "floats": below.astype(float) - (~below).astype(float), "truth": below}[way]


@pytest.mark.parametrize("shared", [False, True])
def test_variations_that_share_their_signals_or_their_stops_are_those_of_one_backtest_each(shared):
    rng = np.random.default_rng(5)
    index = pd.date_range("2024-01-01", periods=120, tz="UTC")
    walks = 50 * np.exp(np.cumsum(rng.normal(0, 0.03, (120, 3)), axis=0))
    ends = walks * np.exp(rng.normal(0, 0.01, (120, 3))).clip(0.985, 1.015)
    bars = bars_from({s: pd.DataFrame({"open": x, "high": x * 1.02, "low": x * 0.98, "close": y}, index=index)
                      for s, x, y in zip("ABC", walks.T, ends.T, strict=True)})
    bars.loc[index[40:43], (slice(None), "B")] = np.nan
    level = (bars["close"] * 0 + 0.04).fillna(0.04)
    grid = {"window": [2, 5], "stop_loss": [0.03, level], "way": ["positions", "floats", "truth", "events"], "size": [None, 0.3]}
    one = make_job(bars, lasting, grid, FIGURES, Costs(0.001, 0.0005, 0.1), "auto", {"shared": shared, "take_profit": 0.05}, 365, "auto")
    found, _ = run_accounts(one, 0, 32)
    for k, params in enumerate(one.grid.each(0, 32)):
        said = lasting(bars, params["window"], params["way"])
        rules = {"stop_loss": params["stop_loss"], "size": params["size"], "take_profit": 0.05, "fees": 0.001, "slippage": 0.0005, "fixed_fees": 0.1}
        for n, some in enumerate([list("ABC")] if shared else [["A"], ["B"], ["C"]]):
            mine = {name: rule[some] if isinstance(rule, pd.DataFrame) else rule for name, rule in rules.items()}
            part = said.loc[:, (slice(None), some)] if params["way"] == "events" else said[some]
            alone = backtest(bars.loc[:, (slice(None), some)], signals=part, periods=365, register=False, **mine).stats[list(FIGURES)]
            np.testing.assert_allclose(found[k, n], alone.to_numpy(float), rtol=1e-9, atol=1e-9)
