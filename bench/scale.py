"""How time and memory grow with symbols, bars, variations, days, lines and holdings: each point in a process of its own, at 1×, 10× and 100×.

`bench/growth.py` does the same for store, execution and ledger, `bench/universe.py` for the daily run and its report.
Processor time; memory is what a step adds to its process at most.
The exponent is that of the last decade; above 1.15, or where a step says less, it fails. `python bench/scale.py sweep` measures one group.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["CARNET_RUN__DATA"] = tempfile.mkdtemp(prefix="carnet-scale-")

LIMIT = 1.15
SQUARE = 2.15  # what is a table of all pairs cannot grow with less than the square
Steps = Iterator[tuple[str, Callable]]  # name and work; the first one of a process also carries what is compiled on the way, so each group warms up


def market(symbols: int, bars: int, freq: str = "B"):
    "Make bars of symbols that move together."
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    index = pd.date_range(end="2022-12-28", periods=bars, freq=freq, tz="UTC", name="timestamp").as_unit("us")
    close = (100 * np.exp(np.cumsum(rng.normal(0, 0.008, (bars, 1)) + rng.normal(0.0002, 0.012, (bars, symbols)), axis=0))).round(4) + 0.01
    spread = np.abs(rng.normal(0, 0.006, close.shape))
    fields = {"open": close * (1 - spread / 3), "high": close * (1 + spread), "low": close * (1 - spread), "close": close,
              "volume": rng.integers(10_000, 1_000_000, close.shape).astype(float)}
    columns = pd.MultiIndex.from_product([list(fields), [f"S{n:04d}" for n in range(symbols)]], names=["field", "symbol"])
    return pd.DataFrame(np.concatenate(list(fields.values()), axis=1), index=index, columns=columns)


def dips(bars, window=20, depth=0.05):
    close = bars["close"]
    return (close < close.rolling(window).mean() * (1 - depth)).astype(int)


def sweeps(bars, variations: int) -> Steps:
    from trading.backtest.strategies import MaCross
    from trading.backtest.sweep import sweep
    from trading.backtest.trial_register import TrialRegister

    few = bars.iloc[:400]
    folder = Path(tempfile.mkdtemp())
    side = math.isqrt(variations)
    pairs, how = {"fast": range(2, 2 + side), "slow": range(2 + side, 2 + 2 * side)}, {"workers": 1, "progress": False}
    sweep(few, MaCross, {"fast": [5], "slow": [50]}, register=False, **how)
    yield "sweep", lambda: sweep(bars, MaCross, pairs, register=False, **how)
    register = TrialRegister(folder / "trials.sqlite")
    yield "sweep, counted", lambda: sweep(bars, MaCross, pairs, register=register, folder=folder, **how)
    yield "trials counted", lambda: register.count(bars)


def functions(bars) -> Steps:
    from trading.backtest.sweep import sweep

    sweep(bars.iloc[:400], dips, {"window": [5]}, register=False, progress=False)
    grid = {"window": range(5, 15), "depth": [0.02, 0.05]}
    yield "a plain function, 20 variations", lambda: sweep(bars, dips, grid, register=False, progress=False)


def backtests(bars) -> Steps:
    import pandas as pd

    from trading import backtest

    few, close = bars.iloc[:300], bars["close"]
    stops = {"stop_loss": 0.05, "take_profit": 0.1}
    for more in ({"weights": few["close"] * 0 + 1 / len(close.columns)}, {"signals": dips(few)}, {"signals": dips(few), **stops}):
        backtest(few, **more)
    signals = dips(bars)
    weights = pd.DataFrame(1 / len(close.columns), close.index, close.columns)
    yield "weights, every bar", lambda: backtest(bars, weights=weights).stats
    yield "signals", lambda: backtest(bars, signals=signals).stats
    yield "signals with stops", lambda: backtest(bars, signals=signals, **stops).stats


def returns(assets: int, days: int = 504):
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(1)
    values = rng.standard_normal((days, 5)) * 0.006 @ rng.standard_normal((5, assets)) + rng.standard_normal((days, assets)) * 0.012 + 0.0003
    return pd.DataFrame(values, pd.bdate_range("2018-01-01", periods=days, tz="UTC"), [f"S{n:04d}" for n in range(assets)])


def optimisers(assets: int) -> Steps:
    from trading.portfolio.estimators import covariance
    from trading.portfolio.hierarchical import HierarchicalRiskParity
    from trading.portfolio.mean_risk import MeanRisk, RiskParity
    from trading.risk.stress import stress

    given, small, most = returns(assets), returns(5), max(0.15, 3 / assets)
    tried = {"mean-variance": MeanRisk(bounds=(0, most)), "risk parity": RiskParity(),
             "hierarchical risk parity with caps": HierarchicalRiskParity(bounds=(0, most))}
    covariance(small)
    for one in (MeanRisk(), RiskParity(), HierarchicalRiskParity()):
        one.fit(small)
    yield "covariance", lambda: covariance(given)
    for name, one in tried.items():
        yield name, lambda one=one: one.fit(given)
    bars = market(assets, 1500)
    weights = bars["close"].iloc[-1] * 0 + 1 / assets
    stress(bars["close"].iloc[-1, :1] * 0 + 0.5, bars.loc[:, (slice(None), "S0000")])
    yield "stress, all scenarios", lambda: stress(weights, bars)


def forecasts(symbols: int, years: int) -> Steps:
    from trading.core.bars import bars_from_close
    from trading.features.regime import RegimeDetector
    from trading.features.technical import make_features
    from trading.forecast.estimators import make_estimator
    from trading.forecast.explain import explain
    from trading.forecast.forecaster import HorizonForecaster, accuracy, hold_out
    from trading.forecast.significance import reliability

    whole = market(symbols, 252 * years)
    bars = bars_from_close(whole["close"])
    few = bars_from_close(market(3, 600)["close"])
    warm = HorizonForecaster(make_estimator("ridge", 7)).fit(few)
    warm.predict(few), explain(warm, few), make_features(whole.iloc[:300]), RegimeDetector().fit(market(3, 600))
    model = HorizonForecaster(make_estimator("ridge", 7))
    yield "fit ridge", lambda: model.fit(bars)
    yield "predict a day", lambda: model.predict(bars)
    yield "explain a day", lambda: explain(model, bars)
    held = []
    yield "hold out", lambda: held.append(hold_out(model, bars))
    yield "accuracy and reliability", lambda: (accuracy(held[0]), reliability(held[0]))
    yield "features", lambda: make_features(whole)


def plans(holdings: int) -> Steps:
    from plan import inputs

    from trading.execution.plan import make_plan

    given = inputs(holdings)
    made = []
    yield "plan", lambda: made.append(make_plan(*given))
    yield "plan written, read and named", lambda: type(made[0]).from_json(made[0].to_json()).hash


def audits(lines: int) -> Steps:
    from trading.security.audit_log import AuditLog, write_anchor, write_line

    path, key, now, before = Path(tempfile.mkdtemp()) / "audit.jsonl", b"k" * 32, datetime(2024, 1, 2, tzinfo=UTC), ""
    with path.open("wb") as file:
        for n in range(1, lines + 1):
            line, before = write_line(n, now + timedelta(seconds=n), "ann", "plan.approve", {"plan": f"{n:032x}"}, before, key)
            file.write(line)
    path.with_suffix(".head").write_bytes(write_anchor(lines, before, key))
    log, later = AuditLog(path, key), now + timedelta(days=900)
    log.append("ann", "x", {}, later)
    yield "fifty lines more", lambda: [log.append("ann", "x", {}, later) for _ in range(50)]
    yield "the newest fifty", lambda: [log.entries(after=lines, limit=50) for _ in range(10)]
    yield "verified", lambda: log.verify()


def leaks(bars) -> Steps:
    from trading.backtest.leak_detector import find_leaks
    from trading.backtest.strategies import MaCross

    find_leaks(dips, bars.iloc[:300]), find_leaks(MaCross(), bars.iloc[:300])
    yield "leaks of a function", lambda: find_leaks(dips, bars)
    yield "leaks of a strategy", lambda: find_leaks(MaCross(), bars)


def validations(variations: int, days: int) -> Steps:
    import numpy as np
    import pandas as pd

    from trading.backtest.cross_validation import combinatorial_paths, monte_carlo, walk_forward
    from trading.backtest.overfitting import independent_trials, pbo, reality_check

    index = pd.date_range("1960-01-04", periods=days, freq="B", tz="UTC")
    tried = pd.DataFrame(np.random.default_rng(0).normal(0, 0.01, (days, variations)), index)
    small = tried.iloc[:400, :5]
    pbo(small), independent_trials(small), reality_check(small, draws=20), combinatorial_paths(small)
    yield "pbo", lambda: pbo(tried)
    yield "independent trials", lambda: independent_trials(tried)
    yield "reality check, 500 draws", lambda: reality_check(tried, draws=500)
    yield "combinatorial paths", lambda: combinatorial_paths(tried)
    yield "Monte Carlo of 1,000 futures", lambda: monte_carlo(tried.iloc[:, 0])
    one = tried.iloc[:, :1]
    yield "walk forward, every 20 days", lambda: walk_forward(one, lambda seen: 0, lambda column, seen: seen.iloc[:, column], 250, 20, register=False)


def reports(days: int) -> Steps:
    from dataclasses import replace

    import numpy as np
    import pandas as pd

    from trading.report.daily_report import build_report
    from trading.testing.example_report import example_data

    data = example_data()
    index = pd.bdate_range(end=data.equity.index[-1], periods=days, tz="UTC", name="timestamp").as_unit("us")
    equity = pd.Series(1e5 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, days))), index, name="equity")
    build_report(replace(data, equity=equity.iloc[-60:]))
    yield "report", lambda: build_report(replace(data, equity=equity))


def replays(days: int) -> Steps:
    from trading.cli.main import main

    home, first = Path(tempfile.mkdtemp()), datetime(2022, 12, 27, tzinfo=UTC)
    small = "[market]\nsymbols = AAPL, KO, XOM, JNJ, PG\nstart = 2012-01-03\n[forecast]\nhorizons = 1, 5\n[allocate]\nwindow = 252\n"
    (home / "settings.ini").write_text(small)
    os.chdir(home)
    os.environ["CARNET_RUN__DATA"] = str(home / "data")
    main(["ingest"], standalone_mode=False)
    begun = first - timedelta(days=round(days * 365 / 252))
    yield "replay", lambda: main(["replay", "--from", f"{begun:%Y-%m-%d}", "--to", f"{first:%Y-%m-%d}"], standalone_mode=False)


def answers(runs: int) -> Steps:
    from contextlib import suppress

    from screens import many_runs

    from trading.core.errors import TradingError
    from trading.core.settings import load_settings
    from trading.pipeline.launch import open_run
    from trading.pipeline.notebook_runner import run_in_process
    from trading.pipeline.run_record import STAGES
    from trading.services.commands import terminal_workspace
    from trading.services.questions import READS, answer_question, question_words
    from trading.testing.sample_runs import SMALL

    home = Path(tempfile.mkdtemp())
    os.chdir(home)
    os.environ |= {"CARNET_RUN__DATA": str(home / "data"), "CARNET_RUN__REPORTS": str(home / "reports")}
    settings = load_settings(overrides=SMALL | {"run.data": home / "data", "run.reports": home / "reports"}, environ={})
    run_in_process(open_run(settings, datetime.now(UTC), "2022-12-27"), STAGES)
    asked = [read.path for reads in READS.values() for read in reads
             if "{" not in read.path and all(word.default is not word.empty for word in question_words(read).values())]

    def ask() -> None:
        place = terminal_workspace()
        for path in asked:
            with suppress(TradingError):
                answer_question(place, path, [])

    ask()
    many_runs(home, runs)
    yield f"{len(asked)} questions asked", ask


GROUPS: dict[str, tuple[str, Callable[[int], Steps], tuple[int, ...]]] = {  # what grows, how a point is made, its sizes
    "sweep by variations": ("variations", lambda n: sweeps(market(1, 2500), n), (1_000, 10_000, 100_000)),
    "sweep by symbols": ("symbols", lambda n: sweeps(market(n, 2500), 400), (1, 10, 100)),
    "sweep by bars": ("bars", lambda n: sweeps(market(1, n, "min"), 400), (2_500, 25_000, 250_000)),
    "function by symbols": ("symbols", lambda n: functions(market(n, 2500)), (1, 10, 100)),
    "function by bars": ("bars", lambda n: functions(market(1, n, "min")), (2_500, 25_000, 250_000)),
    "backtest by symbols": ("symbols", lambda n: backtests(market(n, 2500)), (5, 50, 500)),
    "backtest by bars": ("bars", lambda n: backtests(market(5, n, "h")), (1_000, 10_000, 100_000)),
    "optimisers by assets": ("assets", optimisers, (10, 100, 1_000)),
    "forecast by symbols": ("symbols", lambda n: forecasts(n, 10), (3, 30, 300)),
    "forecast by years": ("years", lambda n: forecasts(20, n), (6, 30)),
    "plan by holdings": ("holdings", plans, (100, 1_000, 10_000)),
    "audit by lines": ("lines", audits, (1_000, 10_000, 100_000)),
    "leaks by bars": ("bars", lambda n: leaks(market(1, n)), (500, 5_000, 50_000)),
    "leaks by symbols": ("symbols", lambda n: leaks(market(n, 1000)), (1, 10, 100)),
    "validation by variations": ("variations", lambda n: validations(n, 1250), (10, 100, 1_000)),
    "validation by days": ("days", lambda n: validations(20, n), (1_000, 10_000)),
    "report by days": ("days", reports, (252, 2_520, 12_600)),
    "answers by runs": ("runs", answers, (5, 50, 500)),
    "replay by days": ("days", replays, (10, 100)),
}
ALLOWED = {  # what may grow faster, and why
    "optimisers by assets, covariance": SQUARE,  # a table of all pairs
    "optimisers by assets, mean-variance": SQUARE,
    "optimisers by assets, risk parity": 3.0,  # each step of Newton's method solves a linear system
    "optimisers by assets, hierarchical risk parity with caps": SQUARE,
    "validation by variations, independent trials": SQUARE,  # correlations of all pairs
    "validation by days, walk forward, every 20 days": 1.5,  # each test hands the rule all bars before it
    "sweep by bars, sweep": 1.45,  # an indicator of 250,000 bars, 2 MB, no longer fits into the cache of a core
    "sweep by bars, sweep, counted": 1.45,
    "backtest by symbols, weights, every bar": 1.3,  # a table of 500 symbols, 10 MB, no longer fits either
    "forecast by symbols, features": 1.45,  # 240 MB that are touched for the first time: the system makes each page
}
NOISE = 0.02  # seconds: an exponent between two times that are this short says nothing


def point(group: str, size: int) -> None:
    "Measure the steps of one point in this process, a line of JSON each."
    import resource

    def used() -> float:
        own, done = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return own.ru_utime + own.ru_stime + done.ru_utime + done.ru_stime

    def memory(what: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

    for name, work in GROUPS[group][1](size):
        Path("/proc/self/clear_refs").write_text("5")
        held, begun = memory("VmRSS"), used()
        work()
        print("\n" + json.dumps({"step": name, "seconds": used() - begun, "grew": max(0.0, memory("VmHWM") - held)}), flush=True)


def say(figure: str, value: float, unit: str, most: float | None = None) -> None:
    print(json.dumps({"figure": figure, "value": round(value, 4), "unit": unit, "rival": "at most" if most else "", "rival_value": most,
                      "ratio": round(most / value, 2) if most and value > 0 else None}), flush=True)


def main(wanted: list[str]) -> int:
    fast = []
    for group, (what, _, sizes) in GROUPS.items():
        if wanted and not any(word in group for word in wanted):
            continue
        found: dict[str, list[tuple[int, float, float]]] = {}
        for size in sizes:
            done = subprocess.run([sys.executable, __file__, "--point", group, str(size)], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{group}, {size}: {done.stderr[-1500:]}")
            for line in done.stdout.splitlines():
                if line.startswith('{"step"'):
                    row = json.loads(line)
                    found.setdefault(row["step"], []).append((size, row["seconds"], row["grew"]))
        for step, points in found.items():
            name = f"{group}, {step}"
            for size, seconds, grew in points:
                say(f"{name}: {size:,} {what}", seconds, f"s, {grew:,.0f} MB")
            (few, before, _), (many, after, _) = points[-2:]
            if before < NOISE:
                continue
            exponent, most = math.log(after / before) / math.log(many / few), ALLOWED.get(name, LIMIT)
            say(f"{name}: exponent", exponent, "", most)
            fast += [f"{name}: {exponent:.2f}, at most {most}"] if exponent > most else []
    if fast:
        print("grows faster than it may: " + "; ".join(fast), file=sys.stderr)
    return bool(fast)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--point"]:
        point(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main(sys.argv[1:]))
