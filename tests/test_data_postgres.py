"""A real PostgreSQL on loopback answers like Delta."""

import os
import shutil
import subprocess
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from trading.core.datasets import sample_bars
from trading.core.errors import BadInput, MissingData
from trading.data.delta_store import BarStore
from trading.data.postgres_store import PostgresStore

pytestmark = pytest.mark.xdist_group("data-postgres")  # one worker: what they share is made once

STOCKS = sample_bars("stocks")["2019":]
PARTS = (STOCKS[:"2020"], STOCKS["2022":], STOCKS["2021":"2021"], STOCKS["2022-06":] * 1.01, STOCKS["2022-06":] * 1.01)


def programs() -> Path | None:
    found = [Path(p).parent for p in [shutil.which("initdb")] if p] + sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((p for p in found if (p / "initdb").exists() and (p / "postgres").exists()), None)


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("adbc_driver_postgresql", reason="needs adbc-driver-postgresql")
    here = programs()
    if here is None:
        pytest.skip("needs PostgreSQL's programs, for example Debian's package postgresql")
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.name == "posix" and os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path must be short
    if who:
        shutil.chown(folder, "postgres", "postgres")
    options = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **who}
    subprocess.run([here / "initdb", "-D", folder / "data", "-U", "carnet", "-A", "trust", "-E", "UTF8", "--no-sync"], **options)
    settings = f"-c listen_addresses='' -k {folder} -c fsync=off"  # no port: a socket in a folder of its own
    subprocess.run([here / "pg_ctl", "-D", folder / "data", "-w", "-o", settings, "-l", folder / "log", "start"], **options)
    yield f"postgresql://carnet@/postgres?host={folder}"
    subprocess.run([here / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"], **options)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def both(server, tmp_path, request):
    return BarStore(tmp_path / "bars"), PostgresStore(server, schema=f"t{abs(hash(request.node.name)) % 10**12}")


def test_the_same_writes_give_the_same_names_frames_and_past(both):
    delta, postgres = both
    names = [tuple(store.upsert(part, "1d", "sample") for store in both) for part in PARTS]
    assert all(a == b for a, b in names) and len({a for a, _ in names}) == 4
    columns = ["version", "source", "timeframe", "added", "changed", "rows"]
    pd.testing.assert_frame_equal(delta.versions()[columns], postgres.versions()[columns], check_dtype=False)
    for question in ({}, {"symbols": ["MSFT", "AAPL"]}, {"start": "2021-03-01", "end": "2022-07-01"}, {"fields": ["close"]},
                     *({"version": v} for v, _ in names)):
        one, other = delta.read(**question), postgres.read(**question)
        pd.testing.assert_frame_equal(one, other)
        assert one.to_numpy().tobytes() == other.to_numpy().tobytes()


def test_both_refuse_alike(both):
    for store in both:
        assert store.version == "" and store.upsert(STOCKS.tail(3), "1d", "sample") == store.version
        store.upsert(STOCKS.tail(2), "1d", "other")
        for question, kind, words in (({"symbols": ["MOON"]}, MissingData, "MOON"), ({"symbols": ["AAPL"]}, BadInput, "other, sample; say which"),
                                      ({"version": "x"}, MissingData, "no version 'x'"), ({"symbols": []}, BadInput, "no symbols"),
                                      ({"as_of": datetime(2001, 1, 1, tzinfo=UTC)}, MissingData, "held nothing"),
                                      ({"timeframe": "9"}, BadInput, "unknown")):
            with pytest.raises(kind, match=words):
                store.read(**question)


def test_two_writers_at_once_lose_and_double_nothing(both):
    _, postgres = both
    postgres.versions()
    parts = [STOCKS.iloc[n::4] for n in range(4)]
    writers = [threading.Thread(target=postgres.upsert, args=(part, "1d", "sample")) for part in parts for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(postgres.versions()) == 4 and postgres.version == both[0].upsert(STOCKS, "1d", "sample")
    pd.testing.assert_frame_equal(postgres.read(), both[0].read())


def test_a_failed_write_leaves_nothing(both, monkeypatch):
    _, postgres = both
    before = postgres.upsert(STOCKS.head(50), "1d", "sample")
    monkeypatch.setattr("trading.data.postgres_store.content_name", lambda sums: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        postgres.upsert(STOCKS.head(60) * 2, "1d", "sample")
    monkeypatch.undo()
    assert postgres.version == before == both[0].upsert(STOCKS.head(50), "1d", "sample")
    pd.testing.assert_frame_equal(postgres.read(), both[0].read())


def test_without_timescaledb_the_table_is_a_plain_one_and_says_so(both):
    _, postgres = both
    postgres.upsert(STOCKS.head(5), "1d", "sample")
    assert postgres.layout == "a plain table: the extension timescaledb is not installed in this database"


@pytest.mark.parametrize(("body", "words"), [("SELECT 1", "a hypertable of timescaledb, one piece a year"),
                                             ("SELECT 1 / 0", "timescaledb refused (")])
def test_with_timescaledb_it_is_asked_for_a_hypertable_and_may_refuse(server, tmp_path, monkeypatch, body, words):
    """The extension is not packaged for this system: a function with its name and arguments stands in for it."""
    from adbc_driver_postgresql import dbapi

    schema = f"h{len(body)}"
    with dbapi.connect(server) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE FUNCTION create_hypertable(relation regclass, time_column_name name, chunk_time_interval interval, "
                       f"if_not_exists boolean, migrate_data boolean) RETURNS integer LANGUAGE sql AS '{body}'")
        connection.commit()
    monkeypatch.setattr("trading.data.postgres_store._has_timescale", lambda cursor: True)
    store = PostgresStore(server, schema=schema)
    version = store.upsert(STOCKS.head(5), "1d", "sample")
    assert words in store.layout and version == BarStore(tmp_path / "same").upsert(STOCKS.head(5), "1d", "sample")
    pd.testing.assert_frame_equal(store.read(), BarStore(tmp_path / "same").read())
