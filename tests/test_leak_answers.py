"Three answers: kinds of leak that one factor for all prices hides, and what no experiment can see."

import subprocess
import time
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trading.backtest.leak_detector import find_leaks
from trading.core.synthetic import scenario

FULL = scenario("regime_switch", symbols=2, bars=420, seed=31)
HOLED = FULL.drop(FULL.index[[150, 151, 152, 240, 241, 300, 301, 302, 303, 360]])
SEEN: dict = {}
FILE = None


def one(b, field="close"):
    return b[field].iloc[:, 0].astype(float)


def body(b):
    return (one(b) / one(b, "open")).shift(-1)


def span(b):
    return (one(b, "high") / one(b, "low")).shift(-1)


def close_place(b):
    return ((one(b) - one(b, "low")) / (one(b, "high") - one(b, "low"))).shift(-1)


def wick(b):
    return (one(b, "high") / one(b)).shift(-2)


def best_columns(b):
    r = b["close"].pct_change()
    return r[[r.iloc[-60:].sum().idxmax()]]


def coming_gap(b):
    length = pd.Series(b.index[1:] - b.index[:-1], b.index[:-1]).reindex(b.index)
    return (length > pd.Timedelta(days=3)).astype(int) + one(b) * 0


def bars_left(b):
    return pd.Series(np.arange(len(b))[::-1] < 30, b.index).astype(int)


def only_in_storms(b):
    r = one(b).pct_change()
    storm = r.rolling(10).std() > r.rolling(10).std().expanding().quantile(0.97)
    return r.where(~storm, r.shift(-1))


def only_after_crashes(b):
    r = one(b).pct_change()
    return r.where(r > r.expanding(50).quantile(0.02), r.shift(-1))


def centred_volume(b):
    return one(b, "volume").rolling(5, center=True).mean()


LEAKS = [body, span, close_place, wick, best_columns, coming_gap, bars_left, only_in_storms, only_after_crashes, centred_volume]


def lookalikes() -> dict:
    return {
        "body": lambda b: one(b) / one(b, "open"), "span": lambda b: (one(b, "high") / one(b, "low")).shift(1),
        "place": lambda b: (one(b) - one(b, "low")) / (one(b, "high") - one(b, "low")),
        "past gap": lambda b: b.index.to_series().diff().dt.days.fillna(0),
        "storm": lambda b: (one(b).pct_change().rolling(10).std() > one(b).pct_change().rolling(250, 50).std()).astype(int),
        "weekday": lambda b: pd.Series(b.index.day_of_week, b.index) + 0 * one(b), "first symbol": lambda b: b["close"].pct_change().iloc[:, [0]],
        "volume": lambda b: one(b, "volume").rolling(5).mean(), "window": partial(lambda b, n: one(b).rolling(n).mean(), n=12),
        "expanding": lambda b: (one(b) - one(b).expanding().mean()) / one(b).expanding().std(),
        "names": lambda b: {"a": one(b).diff(), "b": one(b).diff(5)}, "level of itself": lambda b: (one(b) > one(b).shift(20)).astype(int),
    }


def in_closure():
    tomorrow = FULL["close"].pct_change().shift(-1).iloc[:, 0]
    return lambda b: tomorrow.reindex(b.index).fillna(0.0)


TABLE = {str(t)[:10]: float(v) for t, v in FULL["close"].iloc[:, 0].items()}


def in_global(b):
    return pd.Series([TABLE.get(str(t)[:10], 0.0) for t in b.index], b.index)


def asks_the_clock(b):
    return one(b) * (1 if datetime.now(UTC).year > 2000 else 2)


def seconds(b):
    return one(b) * (time.time() > 0)


def remembers(b):
    key = str(b.index[0])
    if key not in SEEN:
        SEEN[key] = one(b).mean()
    return one(b) / SEEN[key]


@lru_cache
def quantile(first):
    return 1.0


def uses_a_cache(b):
    return one(b) * quantile(str(b.index[0]))


def crash_date(b):
    return (b.index < pd.Timestamp(DAY, tz="UTC")).astype(int) + 0 * one(b)


DAY = str(FULL.index[200].date())


def good_years(b):
    return pd.Series(np.isin(b.index.strftime("%Y-%m-%d"), [DAY]), b.index).astype(int) + 0 * one(b)


def level(b):
    return (one(b) > LEVEL).astype(int)


LEVEL = float(FULL["close"].iloc[:, 0].median())


def writes_global(b):
    global FILE
    FILE = one(b).iloc[-1]
    return one(b).pct_change()


class Holds:
    def __init__(self):
        self.table = FULL["close"].iloc[:, 0].shift(-1)

    def signals(self, b):
        return (self.table.reindex(b.index) > one(b)).astype(int)


class Counts:
    def __init__(self):
        self.n = 0.0

    def signals(self, b):
        self.n += 1
        return one(b).pct_change() + self.n


def from_file(path):
    FULL["close"].iloc[:, 0].shift(-1).to_frame("x").to_csv(path)
    return lambda b: pd.read_csv(path, index_col=0, parse_dates=True)["x"].reindex(b.index)


@pytest.mark.parametrize("pipeline", LEAKS, ids=lambda p: p.__name__)
def test_a_leak_is_a_leak(pipeline):
    report = find_leaks(pipeline, HOLED)
    assert report.answer == "leak", str(report)
    assert report.leaks[0].first in HOLED.index and report.leaks[0].cause and report.leaks[0].outputs


@pytest.mark.parametrize("name", lookalikes())
def test_what_looks_like_one_is_clean(name):
    report = find_leaks(lookalikes()[name], HOLED)
    assert report.answer == "clean", str(report)


@pytest.mark.parametrize("pipeline, word", [
    (in_closure(), "closure"), (in_global, "TABLE"), (asks_the_clock, "clock"), (seconds, "clock"), (remembers, "SEEN"), (uses_a_cache, "lru_cache"),
    (crash_date, "date"), (good_years, "date"), (level, "level"), (writes_global, "global"), (Holds(), "table"), (Counts(), "earlier run")],
    ids=lambda p: getattr(p, "__name__", type(p).__name__) if not isinstance(p, str) else p)
def test_what_cannot_be_seen_is_said(pipeline, word):
    SEEN.clear()
    report = find_leaks(pipeline, FULL)
    assert report.answer in ("cannot tell", "leak") and any(word in u for u in report.unseen), str(report)


def test_a_file_is_named(tmp_path):
    report = find_leaks(from_file(tmp_path / "x.csv"), FULL)
    assert report.answer != "clean" and any("reads a file" in u for u in report.unseen)


MOMENT = FULL.index[200]
WRITTEN = {
    "seconds since 1970": f"b.index.as_unit('s').asi8 > {int(MOMENT.timestamp())}",
    "milliseconds": f"b.index.as_unit('ms').asi8 > {int(MOMENT.timestamp()) * 1000}",
    "a date as a number": f"b.index.strftime('%Y%m%d').astype(int) > {MOMENT:%Y%m%d}",
    "an American date": f"b.index > pd.Timestamp('{MOMENT:%m/%d/%Y}', tz='UTC')",
    "a date in words": f"b.index > pd.Timestamp('{MOMENT.day} {MOMENT:%B %Y}', tz='UTC')",
    "years": f"b.index.year.isin([{MOMENT.year}, 2050])",
    "days in a dict": f"[{{'{MOMENT.date()}': 1}}.get(str(t.date()), 0) for t in b.index]",
    "eval": "one(b) * eval('1')",
    "import by name": "one(b) * int(__import__('math').pi)",
    "another program": "one(b) * len(subprocess.run(['true'], capture_output=True).stdout)",
    "a file's existence": "one(b) * (1 if Path('/nowhere').exists() else 2)",
}


@pytest.mark.parametrize("how", WRITTEN)
def test_hindsight_and_the_outside_are_seen_however_they_are_written(how):
    space = {"pd": pd, "one": one, "subprocess": subprocess, "Path": Path, "__name__": "user_file"}
    exec(f"def pipeline(b):\n    return pd.Series({WRITTEN[how]}, b.index).astype(float)", space)
    report = find_leaks(space["pipeline"], FULL)
    assert report.answer == "cannot tell" and report.unseen, str(report)
