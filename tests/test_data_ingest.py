"""An ingest that is killed at any moment: the store opens, nothing is lost or doubled, and the next ingest completes it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trading.core.bars import bars_from_close, fingerprint
from trading.core.datasets import sample_bars
from trading.core.errors import BadInput, MissingData, TradingError, VenueError, VenueUnreachable
from trading.data.delta_store import BarStore
from trading.data.ingest import IngestReport, SampleSource, ingest

SINCE = datetime(2018, 1, 1, tzinfo=UTC)

NURSERY = """
import os, sys, time
from datetime import datetime, UTC
import pandas as pd
from trading.data.ingest import ingest
from trading.data.delta_store import BarStore
import deltalake, pyarrow.dataset

closes = pd.read_parquet(sys.argv[1])

class Source:
    name = "sample-stocks"
    def fetch_ohlcv(self, symbol, timeframe, since, until):
        time.sleep(0.003)
        frame = closes[[symbol]].rename(columns={symbol: "close"})
        frame = frame[frame.index + pd.Timedelta(days=1) <= until]
        return frame[frame.index >= since] if since else frame

def work(path):
    store = BarStore(path)
    for day in pd.date_range("2022-01-03", "2022-12-31", freq="9D", tz="UTC"):
        ingest(Source(), store, list(closes)[:6], since=datetime(2018, 1, 1, tzinfo=UTC), until=day.to_pydatetime(), commit_every=0.005)

for line in sys.stdin:  # one child for each line: what takes a second to import is imported once
    if (child := os.fork()) == 0:
        work(line.strip())
        os._exit(0)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


@contextmanager
def nursery(tmp_path):
    """Start a process whose children ingest; yield what starts the next one."""
    sample_bars("stocks")["close"].to_parquet(tmp_path / "closes.parquet")
    (tmp_path / "nursery.py").write_text(NURSERY)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "nursery.py"), str(tmp_path / "closes.parquet")], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})

    def begin(path):
        parent.stdin.write(f"{path}\n")
        parent.stdin.flush()
        return int(parent.stdout.readline())

    try:
        yield begin, lambda: int(parent.stdout.readline())
    finally:
        parent.stdin.close()
        parent.wait()
        parent.stdout.close()


def kill_and_look(tmp_path, seed, rounds, longest):
    """Kill an ingest at random moments, look at the store each time, complete it at the end; return the number of kills."""
    source = SampleSource("stocks")
    symbols = source.symbols()[:6]
    reference = ingest(source, BarStore(tmp_path / "reference"), symbols, since=SINCE)
    chance, path = random.Random(seed), tmp_path / "bars"
    kills = rows_before = 0
    with nursery(tmp_path) as (begin, ended):
        for _ in range(rounds):
            worker = begin(path)
            time.sleep(chance.uniform(0.005, longest))
            os.kill(worker, signal.SIGKILL)  # nobody has waited for it yet: it is ours, alive or not
            status = ended()
            assert status in (0, signal.SIGKILL)
            kills += status == signal.SIGKILL
            store = BarStore(path)
            if store.version:
                rows = store.query("select symbol, timestamp, count(*) as n from bars group by symbol, timestamp")
                assert (rows["n"] == 1).all() and len(rows) >= rows_before  # nothing doubled, nothing lost
                rows_before = len(rows)
                bars = store.read()
                expected = sample_bars("stocks")["close"].reindex(bars.index)[bars["close"].columns]
                there = bars["close"].notna()
                assert (bars["close"][there].fillna(0) == expected[there].fillna(0)).all(axis=None)
            if len(store.versions()) > 60 or rows_before == reference.rows:  # begin anew, so that early moments are hit too
                assert ingest(source, store, symbols, since=SINCE).version == reference.version
                shutil.rmtree(path)
                rows_before = 0
    assert ingest(source, BarStore(path), symbols, since=SINCE).version == reference.version
    assert fingerprint(BarStore(path).read()) == fingerprint(BarStore(tmp_path / "reference").read())
    return kills


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_points_it_loses_and_doubles_nothing(tmp_path):
    assert kill_and_look(tmp_path, 0, 10, 0.5) >= 6


FULL = """
import json, os, resource, signal, sys
from datetime import UTC, datetime
from trading.core.errors import TradingError
from trading.data.ingest import SampleSource, ingest
from trading.data.delta_store import BarStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for path, size, since in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            ingest(SampleSource("stocks"), BarStore(path), ["AAPL", "KO", "XOM"], since=datetime(since, 1, 1, tzinfo=UTC))
        except TradingError as error:
            print(error, flush=True)
            os._exit(7)
        except BaseException as error:
            print(type(error), error, flush=True)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def short_of_room(*rounds):
    """Ingest in processes that may write so many bytes into one file and no more; return exit code and words of each."""
    asked = json.dumps([[str(p), size, since] for p, size, since in rounds])
    done = subprocess.run([sys.executable, "-c", FULL, asked], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    assert "Traceback" not in done.stderr and len(lines := done.stdout.splitlines()) == 2 * len(rounds), done.stdout + done.stderr
    return [(int(code), words) for words, code in zip(lines[::2], lines[1::2], strict=True)]


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_is_one_sentence_and_nothing_is_half_stored(tmp_path):
    store, source = BarStore(tmp_path / "old"), SampleSource("stocks")
    before = ingest(source, store, ["AAPL", "KO", "XOM"], since=datetime(2020, 1, 1, tzinfo=UTC))
    content = fingerprint(store.read())
    first, *others = short_of_room((tmp_path / "new", 3000, 2018), (tmp_path / "old", 200, 2010), (tmp_path / "old", 3000, 2010))
    assert first[0] == 7 and ("bars could not be written" in first[1] or "disk did not take" in first[1]), first  # the first file does not fit
    assert BarStore(tmp_path / "new").version == "" and not list((tmp_path / "new").glob("*.parquet"))
    for code, words in others:  # not even the log; and the log, but not the file
        assert code == 7 and "nothing was stored" in words, words
    assert store.version == before.version and fingerprint(store.read()) == content
    after = ingest(source, store, ["AAPL", "KO", "XOM"], since=datetime(2010, 1, 1, tzinfo=UTC))
    assert after.version == ingest(source, BarStore(tmp_path / "whole"), ["AAPL", "KO", "XOM"], since=datetime(2010, 1, 1, tzinfo=UTC)).version


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to mount a small file system")
def test_a_file_system_that_is_really_full(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        store, source = BarStore(small / "bars"), SampleSource("stocks")
        first = ingest(source, store, ["AAPL", "KO"], since=datetime(2021, 1, 1, tzinfo=UTC))
        content = fingerprint(store.read())
        days, names = pd.date_range("1990-01-01", periods=9000, tz="UTC", name="timestamp"), [f"S{n}" for n in range(30)]
        big = bars_from_close(pd.DataFrame(np.random.default_rng(0).random((9000, 30)) + 1, days, names))
        with pytest.raises(TradingError, match=r"\(.*\); nothing was stored, make room and try again"):
            store.upsert(big, "1d", "noise")
        assert store.version == first.version and fingerprint(store.read()) == content
        assert ingest(source, store, ["AAPL", "KO", "XOM"], since=datetime(2021, 1, 1, tzinfo=UTC)).rows > 400  # there is room for little
    finally:
        subprocess.run(["umount", str(small)], check=True)


class Flaky(SampleSource):
    """Fails in a chosen way for one symbol."""

    def __init__(self, error):
        super().__init__("stocks")
        self.error, self.asked = error, []

    def fetch_ohlcv(self, symbol, timeframe="1d", since=None, until=None):
        self.asked.append(symbol)
        if symbol == "KO" and self.error:
            raise self.error
        return super().fetch_ohlcv(symbol, timeframe, since, until)


def test_a_problem_with_one_symbol_is_reported_and_the_others_go_on(tmp_path):
    report = ingest(Flaky(VenueError("KO: damaged")), BarStore(tmp_path / "bars"), ["AAPL", "KO", "XOM"], since=SINCE)
    assert report.problems == {"KO": "KO: damaged"} and report.frame().loc[["AAPL", "XOM"], "last"].notna().all()


def test_an_unreachable_source_ends_it_and_keeps_what_was_fetched(tmp_path):
    source, store = Flaky(VenueUnreachable("nobody answers; check the network")), BarStore(tmp_path / "bars")
    with pytest.raises(VenueUnreachable, match="nobody answers"):
        ingest(source, store, ["AAPL", "KO", "XOM"], since=SINCE)
    assert source.asked == ["AAPL", "KO"] and list(store.read()["close"]) == ["AAPL"]
    source.error = None
    assert not ingest(source, store, ["AAPL", "KO", "XOM"], since=SINCE).problems


def test_a_source_that_delivers_an_unfinished_bar_is_cut(tmp_path):
    class Eager(SampleSource):
        def fetch_ohlcv(self, symbol, timeframe="1d", since=None, until=None):
            return super().fetch_ohlcv(symbol, timeframe, since, None)

    store = BarStore(tmp_path / "bars")
    ingest(Eager("stocks"), store, ["AAPL"], since=SINCE, until=datetime(2020, 3, 16, 23, 59, tzinfo=UTC))
    assert store.read().index[-1] == pd.Timestamp("2020-03-13", tz="UTC")


def test_a_corrected_price_is_taken_over_and_the_old_version_stays_readable(tmp_path):
    store, source = BarStore(tmp_path / "bars"), SampleSource("stocks")
    first = ingest(source, store, ["AAPL"], since=SINCE)
    source._frames["AAPL"] = source._frames["AAPL"].copy()
    source._frames["AAPL"].iloc[-3, 0] *= 1.001
    second = ingest(source, store, ["AAPL"], since=SINCE)
    assert second.rows == 1 and second.version != first.version
    old, new = store.read(version=first.version)["close"]["AAPL"], store.read()["close"]["AAPL"]
    assert (old != new).sum() == 1 and abs(new.iloc[-3] / old.iloc[-3] - 1.001) < 1e-12


def test_a_hole_the_source_cannot_fill_is_asked_for_once(tmp_path):
    lost = pd.date_range("2021-05-03", "2021-05-07", tz="UTC")

    class Poor(Flaky):
        def fetch_ohlcv(self, symbol, timeframe="1d", since=None, until=None):
            frame = super().fetch_ohlcv(symbol, timeframe, since, until)
            return frame.drop(lost, errors="ignore") if symbol == "KO" else frame

    source, store = Poor(None), BarStore(tmp_path / "bars")
    calls = []
    for refill in (False, False, False, True):
        source.asked.clear()
        ingest(source, store, source.symbols(), since=SINCE, refill=refill)
        calls.append(source.asked.count("KO"))
    assert calls[:3] == [1, 2, 1] and calls[3] > 1


def test_the_report_survives_json(tmp_path):
    report = ingest(SampleSource("stocks"), BarStore(tmp_path / "bars"), ["RRC", "KO"])
    assert report.repairs and IngestReport.from_json(report.to_json()) == report


def test_an_empty_store_says_what_to_do(tmp_path):
    store = BarStore(tmp_path / "nothing")
    assert store.version == "" and store.versions().empty
    with pytest.raises(MissingData, match="is empty; run 'carnet ingest' first"):
        store.read()
    with pytest.raises(BadInput, match="time frame '1y' is unknown"):
        store.read(timeframe="1y")


def test_two_writers_at_once_lose_nothing(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    bars = sample_bars("stocks")["2018":]
    parts = [bars.iloc[n::8] for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda part: BarStore(tmp_path / "many").upsert(part, "1d", "x"), parts))
    assert BarStore(tmp_path / "many").version == BarStore(tmp_path / "one").upsert(bars, "1d", "x")


def test_versions_that_runs_refer_to_survive_tidying(tmp_path):
    store, bars = BarStore(tmp_path / "bars"), sample_bars("stocks")["2021":]
    names = [store.upsert(bars.iloc[n * 50:n * 50 + 60], "1d", "x") for n in range(9)]
    kept = fingerprint(store.read(version=names[3]))
    done = store.tidy(keep=[names[3]], files=2)
    assert done["removed"] > 0 and fingerprint(store.read(version=names[3])) == kept and store.version == names[-1]
    with pytest.raises(MissingData):
        store.read(version=names[5])
