"The fast engine against the slow one, on clusters, through interruptions."

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import FIGURES, backtest
from trading.backtest.strategies import BollingerBreakout, Donchian, FunctionStrategy, MaCross, RsiReversion, Strategy, TargetWeights
from trading.backtest.sweep import sweep
from trading.backtest.trial_register import TrialRegister
from trading.core.bars import bars_from
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput
from trading.pipeline.launch import own_server

ROOT = Path(__file__).parent.parent
COSTS = {"fees": 0.001, "slippage": 0.0005}


def market(seed, bars=700, symbols=2, volatility=0.02, holes=0.05):
    "Make wild prices with gaps, a late listing and an early end."
    rng, index = np.random.default_rng(seed), pd.date_range("2020-01-01", periods=bars, tz="UTC")
    frames = {}
    for k in range(symbols):
        close = 100 * np.exp(np.cumsum(rng.standard_t(3, bars) * volatility))
        open_ = np.r_[100, close[:-1]] * np.exp(rng.normal(0, volatility / 3, bars))
        spread = np.exp(np.abs(rng.normal(0, volatility, bars)))
        high, low = np.maximum(open_, close) * spread, np.minimum(open_, close) / spread
        frame = pd.DataFrame({"open": open_, "high": high, "low": low, "close": close}, index)
        frame.iloc[rng.random(bars) < holes] = np.nan
        frame.iloc[: 50 * k] = np.nan
        frame.iloc[bars - 30 * k :] = np.nan
        frames[f"S{k}"] = frame
    return bars_from(frames)


def same(fast, slow):
    "Say whether two tables agree within 1e-9, NaN where NaN."
    a, b = fast.to_numpy(), slow.reindex(fast.index).to_numpy()
    return (np.isnan(a) == np.isnan(b)).all() and np.nanmax(np.abs(a - b) / np.maximum(1, np.abs(b))) < 1e-9


@pytest.mark.parametrize("costs", [COSTS, {"fees": 0.0}, {"fees": 0.01, "fixed_fees": 5.0}, {"fees": 0.002, "min_size": 70.0}], ids=str)
@pytest.mark.parametrize("strategy, grid", [
    (MaCross(), {"fast": [2, 7, 30], "slow": [5, 40, 90]}),
    (MaCross(short=True), {"fast": [2, 7, 30], "slow": [5, 40, 90]}),
    (Donchian(short=True), {"entry": [3, 20], "leave": [2, 10]}),
    (BollingerBreakout(short=True), {"window": [5, 20], "deviations": [1.0, 2.0]}),
    (RsiReversion(short=True), {"window": [3, 14], "low": [20, 35], "leave": [50, 60]}),
], ids=lambda x: str(x)[:24])
def test_the_kernel_gives_every_figure_of_the_slow_paths_within_1e_9(strategy, grid, costs):
    wild, calm = market(seed=len(str(costs))), market(seed=len(str(costs)), volatility=0.008, symbols=1)  # vectorbt knows no margin and no delisting
    for bars, other in ((wild, "account"), (calm, "vectorbt")):
        fast, slow = (sweep(bars, strategy, grid, FIGURES, engine=e, register=False, **costs) for e in ("kernel", other))
        assert fast.attrs["engine"] == "kernel" and slow.attrs["engine"] == other
        assert same(fast, slow), other


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fill", ["open", "close"])
def test_ruined_and_liquidated_shorts_agree_too(seed, fill):
    bars = market(seed + 5, bars=300, volatility=0.5)
    grid = {"fast": [2, 5], "slow": [20, 60, 100]}
    more = {"fill": fill, "delisting": 0.4, "register": False, **COSTS}
    fast, slow = (sweep(bars, MaCross(short=True), grid, FIGURES, engine=e, **more) for e in ("kernel", "account"))
    assert (fast["total_return"] < -0.99).any(), "the market is wild enough to ruin somebody"
    assert same(fast, slow)
    ruined, more = fast.index[fast["total_return"] < -0.99][0], {k: v for k, v in more.items() if k != "register"}
    alone = backtest(bars.loc[:, (slice(None), [ruined[2]])], MaCross(ruined[0], ruined[1], short=True), **more).stats
    assert np.allclose(fast.loc[ruined].to_numpy(), alone[list(FIGURES)].to_numpy(float), rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize("more", [{}, {"delisting": 0.0}, {"maintenance": 0.5}, {"fill": "close", "delisting": 0.4}], ids=str)
def test_four_parameters_on_three_symbols_and_what_the_register_gets_of_each(more, tmp_path):
    "The kernel sketches by itself; of the account the register sketches what it was worth. Shorts are ruined, symbols come late and end early."
    bars = market(len(str(more)), bars=400, symbols=3, volatility=0.1)
    grid = {"window": [3, 7], "low": [20.0, 35.0], "leave": [45.0, 60.0], "short": [False, True]}
    found = {}
    for engine in ("kernel", "account"):
        register = TrialRegister(tmp_path / f"{engine}.sqlite")
        table = sweep(bars, RsiReversion, grid, FIGURES, engine=engine, register=register, progress=False, **COSTS, **more)
        (kept,) = register.store.searches([name for name, _ in register.store.related(bars)])
        assert table.index.names == [*grid, "symbol"] and len(table) == kept["count"] == 16 * 3 and table.attrs["trials"] == "counted"
        found[engine] = table, kept, np.vstack(list(register.store.pieces(kept)))
    (fast, said, sketches), (slow, told, reference) = found["kernel"], found["account"]
    assert same(fast, slow) and (fast["total_return"] < -0.9).any() and (said["keys"], said["params"]) == (told["keys"], told["params"])
    np.testing.assert_array_equal(sketches, reference)
    np.testing.assert_allclose(np.frombuffer(said["sharpe"]), np.frombuffer(told["sharpe"]), rtol=1e-9, equal_nan=True)
    assert sketches.any(axis=1).sum() > 40 and len(np.unique(sketches, axis=0)) > 30
    window, low, leave, short, symbol = where = fast["sharpe"].idxmax()
    alone = backtest(bars.loc[:, (slice(None), [symbol])], RsiReversion(window, low, leave, short), register=False, **COSTS, **more).stats
    assert np.allclose(fast.loc[where].to_numpy(), alone[list(FIGURES)].to_numpy(float), rtol=1e-9, equal_nan=True)


def test_four_parameters_of_which_two_are_rules_of_the_account_on_three_symbols(tmp_path):
    bars, grid = market(3, symbols=3), {"fast": [2, 7], "slow": [20, 40], "stop_loss": [0.03, 0.08], "take_profit": [0.05, None]}
    register = TrialRegister(tmp_path / "trials.sqlite")
    table = sweep(bars, MaCross, grid, FIGURES, register=register, progress=False, **COSTS)
    assert len(table) == 48 and table.attrs["engine"] == "account" and len(register.trials(bars)) == 48
    for k in (5, 22, 47):
        fast, slow, stop, target, symbol = table.index[k]
        rules = {"stop_loss": stop, "take_profit": None if pd.isna(target) else target}
        alone = backtest(bars.loc[:, (slice(None), [symbol])], MaCross(fast, slow), register=False, **rules, **COSTS).stats
        assert np.allclose(table.iloc[k].to_numpy(), alone[list(FIGURES)].to_numpy(float), rtol=1e-9, equal_nan=True), table.index[k]


def test_moving_averages_agree_with_vectorbt_alone():
    "None of our code on the other side: pandas means, vectorbt's portfolio and its own ratios."
    import vectorbt as vbt

    bars = sample_bars("indices").loc["2009":"2014", (slice(None), ["S&P 500"])]
    close, open_ = bars["close"], bars["open"]
    results = sweep(bars, MaCross, {"fast": [3, 10, 25], "slow": [30, 77, 150]}, periods=252, **COSTS)
    means = {w: close["S&P 500"].rolling(w).mean() for w in (3, 10, 25, 30, 77, 150)}
    above = pd.concat({(f, s): means[f] > means[s] for f in (3, 10, 25) for s in (30, 77, 150)}, axis=1).shift(1, fill_value=False)
    price, value = (pd.concat(dict.fromkeys(above, one["S&P 500"]), axis=1) for one in (open_, close))
    reference = vbt.Portfolio.from_signals(value, above, ~above, price=price, init_cash=10_000, freq="1D", **COSTS)
    theirs = np.column_stack([reference.total_return(), reference.sharpe_ratio(year_freq="252 days"), reference.max_drawdown()])
    assert np.abs(results.to_numpy() - theirs).max() < 1e-9


def test_two_workers_of_a_cluster_give_the_same_table_and_the_same_best_rows(tmp_path):
    from dask.distributed import Client, LocalCluster

    bars, grid = sample_bars("indices").loc["2012":"2014"], {"fast": range(2, 40), "slow": range(10, 60)}
    here = sweep(bars, MaCross, grid, workers=1)
    many, sent = {"fast": range(2, 62), "slow": range(62, 262)}, []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster, Client(cluster) as client:
        there = sweep(bars, MaCross, grid, client=client)
        slow = sweep(bars, above_mean, {"window": [5, 10, 20]}, client=client)
        submit = client.submit
        client.submit = lambda function, *args, **more: sent.append(function.__name__) or submit(function, *args, **more)
        best, named = ([sweep(bars, strategy, g, ["sharpe"], client=client, top=7, register=False, folder=tmp_path, workers=1)
                        for strategy, g in ((MaCross, many), (above_mean, {"window": range(5, 45)}))], set(sent))
        assert named == {"run_part"} and len(sent) <= 2 * 32, "a worker sends the best of its part, and no more tasks than are needed to end together"
        sent.clear()
        alone = sweep(sample_bars("stocks").iloc[-300:], MaCross, many, ["sharpe"], client=client, register=False)
        assert len(alone) == 20 * 12_000 and set(sent) == {"run_group"} and 20 <= len(sent) <= 32, "chunks go in groups"
        counted = sweep(bars, MaCross, many, ["sharpe"], client=client, top=7, register=TrialRegister(tmp_path / "trials.sqlite"))
    assert there.equals(here) and slow.equals(sweep(bars, above_mean, {"window": [5, 10, 20]}))
    for found, strategy, g in zip(best, (MaCross, above_mean), (many, {"window": range(5, 45)}), strict=True):
        assert found.equals(sweep(bars, strategy, g, ["sharpe"], top=7, register=False)) and found.attrs["resumed"] == 0
    assert counted.equals(best[0]) and counted.attrs["trials"] == "counted" and not list(tmp_path.glob("*/*.npy"))


def above_mean(bars, window=5):
    return (bars["close"] > bars["close"].rolling(window).mean()).astype(int)


def test_threads_give_the_same_table_as_one():
    bars, grid = sample_bars("indices").loc["2012":"2013"], {"fast": range(2, 60), "slow": range(10, 90)}
    assert sweep(bars, MaCross, grid, workers=3).equals(sweep(bars, MaCross, grid, workers=1))


def test_weights_of_a_purse_stand_under_all():
    bars = sample_bars("stocks").loc["2015":"2016", (slice(None), ["AAPL", "XOM", "PFE"])]
    table = sweep(bars, TargetWeights, {"every": ["week", "month"]}, ["total_return", "turnover"], fees=0.002)
    assert table.index.tolist() == [("week", "all"), ("month", "all")]
    alone = backtest(bars, TargetWeights(every="week"), fees=0.002).stats
    assert np.allclose(table.loc[("week", "all")], alone[["total_return", "turnover"]].to_numpy(float))


def test_stops_in_a_sweep_are_those_of_a_backtest():
    bars = market(5, symbols=1)
    table = sweep(bars, MaCross, {"fast": [3, 10], "slow": [30]}, ["total_return", "trades"], stop_loss=0.03, take_profit=0.06, **COSTS)
    alone = backtest(bars, MaCross(3, 30), stop_loss=0.03, take_profit=0.06, **COSTS).stats
    assert np.allclose(table.loc[(3, 30, "S0")], alone[["total_return", "trades"]].to_numpy(float), rtol=1e-9)


SCRIPT = """
import os, signal, sys
from pathlib import Path
from trading.core.datasets import sample_bars
from trading.backtest.sweep import sweep

signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may have left Ctrl-C ignored

def patient(bars, window=5):
    with open(sys.argv[1] + "/calls", "a") as f:
        f.write(f"{window}\\n")
    if window == 230 and not os.path.exists(sys.argv[1] + "/interrupted"):
        open(sys.argv[1] + "/interrupted", "w").close()
        os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does, at a moment that no machine can miss
    return (bars["close"] > bars["close"].shift(window)).astype(int)

bars = sample_bars("indices").loc["1999":"2018"]
table = sweep(bars, patient, {"window": list(range(1, 301))}, ["sharpe"], folder=sys.argv[1] + "/kept", progress=False)
print(table.attrs["resumed"], len(table))
"""


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent as a POSIX signal")
def test_ctrl_c_keeps_what_is_finished_and_the_next_call_goes_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command, calls = [sys.executable, str(script), str(tmp_path)], tmp_path / "calls"
    run = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=500)
    assert run.returncode != 0 and b"KeyboardInterrupt" in run.stderr
    kept = list((tmp_path / "kept").rglob("*.npy"))
    assert kept
    first = calls.read_text().count("\n")
    again = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=500)
    resumed, total = map(int, again.stdout.split())
    assert resumed > 0 and total == 600 and calls.read_text().count("\n") - first == 300 - resumed // 2
    assert not list((tmp_path / "kept").rglob("*.npy"))


def test_another_question_does_not_take_the_chunks_of_this_one(tmp_path):
    from trading.backtest import sweep as module

    bars = sample_bars("indices").loc["2012":"2013"]

    def folder(bars=bars, strategy=MaCross, grid=None, fees=0.001):
        grid = grid or {"fast": [5], "slow": [20]}
        job = module.make_job(bars, strategy, grid, ["sharpe"], module.Costs(fees), "auto", {"shared": False}, None, "auto")
        return module._sweep_name(job)

    names = {folder(), folder(bars.iloc[1:]), folder(strategy=MaCross(short=True)), folder(grid={"fast": [6], "slow": [20]}), folder(fees=0.002)}
    assert len(names) == 5 and folder() in names


def test_a_damaged_chunk_is_run_again(tmp_path):
    from trading.backtest import sweep as module

    bars, grid = sample_bars("indices").loc["2012":"2013"], {"fast": range(2, 30), "slow": range(10, 60)}
    job = module.make_job(bars, MaCross, grid, ["sharpe"], module.Costs(0.001), "auto", {"shared": False}, None, "auto")
    kept = module._Kept(job, tmp_path / "kept", ["S&P 500", "NASDAQ"])
    chunk = module.make_chunks(job)[0]
    kept.add(chunk, np.zeros((3, 1, 1)))
    kept.write()
    assert sweep(bars, MaCross, grid, ["sharpe"], folder=tmp_path / "kept").equals(sweep(bars, MaCross, grid, ["sharpe"]))
    kept.add(chunk, np.zeros((chunk[2] - chunk[1], 1, 1)))
    kept.write()
    kept.file(chunk).write_bytes(kept.file(chunk).read_bytes()[:100])
    assert sweep(bars, MaCross, grid, ["sharpe"], folder=tmp_path / "kept").attrs["resumed"] == 0


def test_every_variation_reaches_the_trial_register(tmp_path):
    from trading.backtest.trial_register import TrialRegister

    bars, register = sample_bars("indices").loc["2012":"2014"], TrialRegister(tmp_path / "trials.db")
    for _ in range(2):
        sweep(bars, MaCross, {"fast": [5, 10, 20], "slow": [15, 50]}, register=register)
    assert register.count(bars) == 10, "five pairs make sense, on two symbols, counted once"


def test_a_symbol_without_any_price_is_named():
    bars = market(1)
    bars.loc[:, (slice(None), "S1")] = np.nan
    with pytest.raises(BadInput, match="S1 has no price at all"):
        sweep(bars, MaCross, {"fast": [5], "slow": [20]})


def test_importing_the_sweep_loads_neither_numba_nor_vectorbt():
    heavy = ("numba", "vectorbt", "matplotlib", "sklearn", "statsmodels", "dask")
    code = f"import sys, json, trading.backtest.sweep, trading.backtest.sweep_plots; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert json.loads(said.stdout) == []


def test_the_flow_sweeps_on_a_dask_cluster(tmp_path):
    env = os.environ | {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PYTHONPATH": str(ROOT),
                        "PREFECT_LOGGING_LEVEL": "ERROR", "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300"}
    script = tmp_path / "run.py"
    script.write_text(f"""
import importlib.util, sys
sys.modules["rfc3987_syntax"] = None  # here and in each worker: a grammar that takes seconds to build
if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("sweep_flow", {str(ROOT / "prefect" / "sweep.py")!r})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.sweep_flow(grid={{"fast": [5, 10], "slow": [20, 50]}}, results={str(tmp_path / "table.parquet")!r})
""")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_HOME", "PREFECT_SERVER_ANALYTICS_ENABLED", "DO_NOT_TRACK"):
            patch.setenv(name, env[name])
        with own_server(tmp_path / "server.log") as url:  # one for the flow and for the workers of the cluster
            env["PREFECT_API_URL"] = url
            done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    table = pd.read_parquet(tmp_path / "table.parquet").set_index(["fast", "slow", "symbol"])
    here = sweep(sample_bars("indices"), MaCross, {"fast": [5, 10], "slow": [20, 50]})
    assert np.allclose(table.loc[here.index].to_numpy(), here.to_numpy(), rtol=1e-12) and importlib.util.find_spec("prefect") is not None


def test_a_class_that_does_not_tell_its_parameters_is_one_sentence():
    class Foreign:
        def signals(self, bars):
            return bars["close"] > 0

    with pytest.raises(BadInput, match="Foreign does not tell its parameters; derive it from Strategy"):
        sweep(sample_bars("stocks").iloc[:100], Foreign, {"fast": [1, 2]}, register=False)


class TwoOfSix(Strategy):
    "Trades the last symbols of six only."

    def __init__(self, n=5, k=2):
        self.n, self.k = n, k

    def universe(self, bars):
        return ["QQQ", "SPY", "USO"][: self.k]

    def signals(self, bars):
        close = bars["close"]
        return (close > close.rolling(self.n).mean()).astype(int)


def test_symbols_outside_the_universe_of_a_variation_have_no_figures_and_the_others_their_own(tmp_path):
    bars, register = sample_bars("etfs").iloc[-260:], TrialRegister(tmp_path / "trials.sqlite")
    found = sweep(bars, TwoOfSix, {"n": [5, 8], "k": [1, 3]}, progress=False, register=register, workers=1, metrics=["total_return"])["total_return"]
    for n in (5, 8):
        for k in (1, 3):
            part, own = found.loc[n, k], backtest(bars, TwoOfSix(n, k), register=False, shared=False).accounts
            assert list(part.dropna().index) == list(own), "the others are not traded, and nothing is made up for them"
            assert np.allclose(part.dropna(), own.iloc[-1] / (10_000 / own.shape[1]) - 1, rtol=0, atol=1e-12)


class Smoothing(Strategy):
    "Writes smoothed closes over the bars that it is given."

    def __init__(self, n=5):
        self.n = n

    def signals(self, bars):
        smooth = bars["close"].rolling(self.n, min_periods=1).mean()
        for symbol in smooth:
            bars[("close", symbol)] = smooth[symbol]
        return (bars["close"] > bars["close"].shift(1)).astype(int)


@pytest.mark.parametrize("rules", [{}, {"stop_loss": 0.05}, {"engine": "vectorbt"}], ids=str)
def test_what_a_strategy_writes_into_its_bars_changes_no_price_and_no_other_variation(rules):
    bars, how = sample_bars("etfs").iloc[-260:].copy(), {"progress": False, "register": False, "workers": 1, "metrics": ["total_return"]}
    before, found = bars.copy(), {}
    for grid in ([8], [5, 8], [8, 5]):
        found[str(grid)] = sweep(bars, Smoothing, {"n": grid}, **how, **rules)["total_return"].loc[8]
    assert all(np.array_equal(one, found["[8]"]) for one in found.values()) and bars.equals(before)
    close = bars["close"].rolling(8, min_periods=1).mean()
    ready = (close > close.shift(1)).astype(int)
    own = backtest(bars, signals=ready, register=False, shared=False, **({} if "engine" in rules else rules)).accounts
    assert np.allclose(found["[8]"], own.iloc[-1] / (10_000 / own.shape[1]) - 1, rtol=0, atol=1e-12)


def test_a_backtest_fills_at_the_prices_it_was_given_whatever_the_strategy_writes():
    bars = sample_bars("etfs").iloc[-60:].copy()
    before = bars.copy()

    def weights(given):
        given.iloc[30, given.columns.get_loc(("close", "SPY"))] = -5.0
        return pd.DataFrame(1 / 6, given.index, sorted(set(given.columns.get_level_values(1))))

    told = backtest(bars, FunctionStrategy(weights, "weights"), register=False)
    assert bars.equals(before) and told.equity.equals(backtest(bars, weights=weights(bars.copy()), register=False).equity)
