"""An ingest that is killed at any moment: the store opens, nothing is lost or doubled, and the next ingest completes it."""

import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from trading.core.bars import fingerprint
from trading.core.sample import sample_bars
from trading.core.types import BadInput, MissingData, VenueError, VenueUnreachable
from trading.data.ingest import IngestReport, SampleSource, ingest
from trading.data.store import BarStore

SINCE = datetime(2018, 1, 1, tzinfo=UTC)

WORKER = """
import sys, time
from datetime import datetime, UTC
import pandas as pd
from trading.data.ingest import ingest
from trading.data.store import BarStore

closes = pd.read_parquet(sys.argv[2])

class Source:
    name = "sample-stocks"
    def fetch_ohlcv(self, symbol, timeframe, since, until):
        time.sleep(0.003)
        frame = closes[[symbol]].rename(columns={symbol: "close"})
        frame = frame[frame.index + pd.Timedelta(days=1) <= until]
        return frame[frame.index >= since] if since else frame

store = BarStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for day in pd.date_range("2022-01-03", "2022-12-31", freq="9D", tz="UTC"):
    ingest(Source(), store, list(closes)[:6], since=datetime(2018, 1, 1, tzinfo=UTC), until=day.to_pydatetime(), commit_every=0.005)
print("done", flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_points_it_loses_and_doubles_nothing(tmp_path, seed):
    source = SampleSource("stocks")
    symbols = source.symbols()[:6]
    sample_bars("stocks")["close"].to_parquet(tmp_path / "closes.parquet")
    (tmp_path / "worker.py").write_text(WORKER)
    reference = ingest(source, BarStore(tmp_path / "reference"), symbols, since=SINCE)
    chance, path = random.Random(seed), tmp_path / "bars"
    kills = 0
    for _ in range(3):
        worker = subprocess.Popen([sys.executable, str(tmp_path / "worker.py"), str(path), str(tmp_path / "closes.parquet")],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                  env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
        assert worker.stdout.readline() == "ready\n"
        worker.stdin.write("\n")
        worker.stdin.flush()
        time.sleep(chance.uniform(0.02, 1.5))
        kills += worker.poll() is None
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdin.close()
        worker.stdout.close()
        store = BarStore(path)
        if store.version:
            rows = store.query("select symbol, timestamp, count(*) as n from bars group by symbol, timestamp")
            assert (rows["n"] == 1).all()
            bars = store.read()
            expected = sample_bars("stocks")["close"].reindex(bars.index)[bars["close"].columns]
            there = bars["close"].notna()
            assert (bars["close"][there].fillna(0) == expected[there].fillna(0)).all(axis=None)
    assert kills > 0
    assert ingest(source, BarStore(path), symbols, since=SINCE).version == reference.version
    assert fingerprint(BarStore(path).read()) == fingerprint(BarStore(tmp_path / "reference").read())


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
