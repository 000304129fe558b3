"""The bar store in an object store: moto's S3 on loopback (`uv tool install 'moto[server]'`; it is too large to be a dependency)."""

import re
import shutil
import subprocess
import time
import urllib.request
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from trading.core.bars import fingerprint
from trading.core.datasets import sample_bars
from trading.core.errors import MissingData, VenueUnreachable
from trading.data.delta_store import BarStore
from trading.data.ingest import SampleSource, ingest

STOCKS = sample_bars("stocks")["2021":]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    program = shutil.which("moto_server")
    if program is None:
        pytest.skip("needs moto's server: uv tool install 'moto[server]'")
    log, end = tmp_path_factory.mktemp("moto") / "log", time.monotonic() + 60  # a pipe that nobody reads would stop it
    with log.open("wb") as out:
        server = subprocess.Popen([program, "-H", "127.0.0.1", "-p", "0"], stdout=out, stderr=out)
    while (found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())) is None:
        assert time.monotonic() < end and server.poll() is None, log.read_text()
        time.sleep(0.1)
    url = found[1]
    urllib.request.urlopen(urllib.request.Request(f"{url}/bars", method="PUT")).close()  # noqa: S310  loopback
    yield {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    server.terminate()
    server.wait()


def test_it_answers_as_a_folder_does(options, tmp_path):
    far, here = BarStore("s3://bars/store", options), BarStore(tmp_path / "bars")
    assert far.version == "" and far.versions().empty
    with pytest.raises(MissingData, match="is empty"):
        far.read()
    parts = (STOCKS[:"2021"], STOCKS["2022":], STOCKS["2022":], STOCKS["2022-06":] * 1.01)
    names = [(far.upsert(part, "1d", "sample"), here.upsert(part, "1d", "sample")) for part in parts]
    assert all(a == b for a, b in names) and len({a for a, _ in names}) == 3  # the same rows again: no new version
    columns = ["version", "source", "timeframe", "added", "changed", "rows"]
    pd.testing.assert_frame_equal(far.versions()[columns], here.versions()[columns], check_dtype=False)
    for question in ({}, {"symbols": ["KO", "AAPL"], "start": "2021-03-01", "end": "2022-07-01"}, *({"version": v} for v, _ in names)):
        assert far.read(**question).to_numpy().tobytes() == here.read(**question).to_numpy().tobytes()
    moment = far.versions()["committed"].iloc[1].to_pydatetime()
    assert fingerprint(far.read(as_of=moment)) == fingerprint(here.read(version=names[1][0]))
    with pytest.raises(MissingData, match="held nothing at"):
        far.read(as_of=moment - timedelta(days=1))
    count = "select count(*) as n, count(distinct symbol) as s from bars"
    assert far.query(count).equals(here.query(count))


def test_tidying_keeps_what_runs_refer_to(options):
    store = BarStore("s3://bars/tidy", options)
    names = [store.upsert(STOCKS.iloc[n * 50:n * 50 + 60], "1d", "x") for n in range(6)]
    kept = fingerprint(store.read(version=names[3]))
    done = store.tidy(keep=[names[3]], files=2)
    assert done["removed"] > 0 and done["after"] < done["before"] and fingerprint(store.read(version=names[3])) == kept and store.version == names[-1]
    with pytest.raises(MissingData, match="was tidied away"):
        store.read(version=names[4])  # its own file was joined into another


def test_an_ingest_goes_into_it_and_goes_on(options, tmp_path):
    far, source, since = BarStore("s3://bars/ingest", options), SampleSource("stocks"), datetime(2021, 1, 1, tzinfo=UTC)
    ingest(source, far, ["AAPL", "KO"], since=since, until=datetime(2022, 6, 1, tzinfo=UTC))
    done = ingest(source, far, ["AAPL", "KO", "XOM"], since=since)
    here = ingest(source, BarStore(tmp_path / "bars"), ["AAPL", "KO", "XOM"], since=since)
    assert done.version == far.version == here.version and not done.problems


def test_a_store_that_is_away_is_one_sentence(options):
    away = BarStore("s3://bars/store", options | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "max_retries": "0", "retry_timeout": "1s"})
    for ask in (away.read, away.versions, lambda: away.version, lambda: away.upsert(STOCKS, "1d", "sample")):
        with pytest.raises(VenueUnreachable, match=r"BarStore\('s3://bars/store'\): it does not answer \(.*\); check the network") as refused:
            ask()
        assert "\n" not in str(refused.value) and "AWS" not in str(refused.value)
