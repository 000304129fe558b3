"A bar store that was torn, of which two processes write and a third reads a pinned version, and that grows by a bar at a time."

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from typed import carnet

from trading.core.bars import bars_from
from trading.core.errors import DamagedStore, MissingData
from trading.data.delta_store import BarStore
from trading.data.ingest import AskedInVain

pytestmark = pytest.mark.xdist_group("store-damage")  # one worker: what they share is made once

DAYS = pd.date_range("2024-01-01", periods=60, tz="UTC", unit="us")


def week(number, symbols=("A", "B"), plus=0.0):
    days = DAYS[7 * number : 7 * number + 7]
    return bars_from({s: pd.DataFrame({"close": [float(n + 1 + number) + plus for n in range(len(days))]}, index=days) for s in symbols})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "Four imported weeks, of which the second was corrected, and a fifth to import: as a user makes them."
    home = tmp_path_factory.mktemp("made")
    here = Path.cwd()
    os.chdir(home)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CARNET_RUN__DATA", str(home / "data"))
            for number in range(5):
                close = week(number)["close"]
                close.assign(date=close.index.strftime("%Y-%m-%d")).set_index("date").to_csv(home / f"week{number}.csv")
                if number < 4:
                    assert carnet("import", f"week{number}.csv")[0] == 0
            BarStore(home / "data" / "bars").upsert(week(1, plus=0.5), "1d", "file")
    finally:
        os.chdir(here)
    return home


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "home")  # times of the files stay
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("CARNET_RUN__DATA", str(tmp_path / "home" / "data"))
    return tmp_path / "home"


def log(bars, number):
    return bars / "_delta_log" / f"{number:020d}.json"


def cut(path, size=60):
    path.write_bytes(path.read_bytes()[:size])


def between_lines(path):
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"add"' not in line))


def checkpointed(bars):
    from deltalake import DeltaTable

    DeltaTable(bars).create_checkpoint()
    return next((bars / "_delta_log").glob("*.checkpoint.parquet"))


def with_torn_checkpoint(bars):
    cut(checkpointed(bars))


def with_pointer_to_nothing(bars):
    checkpointed(bars).unlink()


def with_old_entry_torn(bars):
    checkpointed(bars)
    log(bars, 1).write_bytes(b"")


DAMAGE = {  # what happens to the folder → what is said
    "nothing": (lambda bars: None, ""),
    "the newest entry is cut": (lambda bars: cut(log(bars, 4)), "of its log was torn"),
    "the newest entry is empty": (lambda bars: log(bars, 4).write_bytes(b""), "of its log was torn"),
    "the newest entry is zeros": (lambda bars: log(bars, 4).write_bytes(bytes(300)), "of its log was torn"),
    "the newest entry is cut between two lines": (lambda bars: between_lines(log(bars, 3)), "of its log was torn"),
    "an entry in the middle is cut": (lambda bars: cut(log(bars, 2)), "3 entries set aside"),
    "an entry in the middle is gone": (lambda bars: log(bars, 2).unlink(), "2 entries set aside"),
    "the first entry is cut": (lambda bars: cut(log(bars, 0)), "5 entries set aside"),
    "the first entry is gone": (lambda bars: log(bars, 0).unlink(), "4 entries set aside"),
    "the log is gone": (lambda bars: shutil.rmtree(bars / "_delta_log"), "its log is gone"),
    "the log is empty": (lambda bars: [p.unlink() for p in (bars / "_delta_log").iterdir()], "its log is gone"),
    "the checkpoint is cut": (with_torn_checkpoint, "checkpoint.parquet of its log was torn"),
    "the checkpoint is gone, its pointer is there": (with_pointer_to_nothing, None),
    "an entry before the checkpoint is empty": (with_old_entry_torn, f"{1:020d}.json of its log was torn"),
    "the note of what was asked is a list": (lambda bars: bars.with_name("bars.asked.json").write_text("[1]"), ""),
    "strange files lie beside": (lambda bars: [p.write_bytes(b"{") for p in (bars / "Thumbs.db", bars / "_delta_log" / "0 (copy).json")], ""),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_the_log_lost_is_named_and_comes_back_with_the_next_import(home, kind):
    bars = home / "data" / "bars"
    (harm, says), content = DAMAGE[kind], BarStore(bars).version
    harm(bars)
    code, said = carnet("import", "week4.csv")
    assert code == 0, said
    if says is not None:
        assert says in said if says else "torn" not in said and "gone" not in said, said
    store = BarStore(bars)
    expected = BarStore(home / "expected")
    for number in range(5):
        expected.upsert(week(number), "1d", "file")
    expected.upsert(week(1, plus=0.5), "1d", "file")
    assert store.version == expected.version and store.read().equals(expected.read()), said
    code, again = carnet("import", "week4.csv")
    assert code == 0 and "torn" not in again and "0 bars" in again, again
    assert content in set(store.versions()["version"]) or says


def change_a_price(path):
    import pyarrow.parquet as pq

    close = next(c for c in pq.ParquetFile(path).metadata.row_group(0).to_dict()["columns"] if c["path_in_schema"] == "close")
    raw, at = path.read_bytes(), close["data_page_offset"] + close["total_compressed_size"] - 9
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])


BARS_DAMAGE = {
    "cut": lambda path: cut(path, 300),
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a changed byte": lambda path: change_a_price(path),
    "another file": lambda path: path.write_bytes(b"PAR1" + bytes(path.stat().st_size - 8) + b"PAR1"),
}


@pytest.mark.parametrize("kind", BARS_DAMAGE)
def test_a_torn_file_is_set_aside_and_its_weeks_are_imported_again(home, kind):
    bars = home / "data" / "bars"
    content = BarStore(bars).version
    line = next(json.loads(x)["add"] for x in log(bars, 2).read_text().splitlines() if '"add"' in x)
    BARS_DAMAGE[kind](bars / line["path"])
    with pytest.raises(DamagedStore, match="'carnet ingest' (sets it aside and brings its bars|to bring them) back"):
        BarStore(bars).read()
    code, said = carnet("import", "week2.csv")
    assert code == 0 and "a file with bars of file, 1d, was torn and is set aside" in said, said
    assert BarStore(bars).version == content


def test_two_writers_and_a_reader_of_pinned_versions(tmp_path):
    pins, folder = [], tmp_path / "bars"

    def write(source):
        store = BarStore(folder)
        for n in range(20):
            day = bars_from({source + s: pd.DataFrame({"close": [1.0 + n]}, index=DAYS[n : n + 1]) for s in "xy"})
            pins.append((store.upsert(day, "1d", source), source, n + 1))

    def look():
        store, wrong = BarStore(folder), []
        while len(pins) < 40:
            for version, source, count in pins[-3:]:
                if (got := len(store.read(source=source, version=version))) != count:
                    wrong.append((source, count, got))
        return wrong

    with ThreadPoolExecutor(3) as pool:
        watched = pool.submit(look)
        for job in [pool.submit(write, "a"), pool.submit(write, "b")]:
            job.result()
        assert watched.result() == []
    assert all(len(BarStore(folder).read(source=source, version=version)) == count for version, source, count in pins)


def test_two_processes_that_remember_what_was_asked_keep_each_others_symbols(tmp_path):
    store = BarStore(tmp_path / "bars")
    one, two = AskedInVain(store, "x", "1d"), AskedInVain(store, "x", "1d")
    one.of("A")["since"], two.of("B")["since"] = "", "2024-01-01"
    one.save()
    two.save()
    assert AskedInVain(store, "x", "1d").mine == {"A": {"since": ""}, "B": {"since": "2024-01-01"}}


def test_a_bar_at_a_time_leaves_few_files_and_every_version_readable(tmp_path):
    store, names = BarStore(tmp_path / "bars"), []
    for n in range(60):
        names.append(store.upsert(bars_from({s: pd.DataFrame({"close": [1.0 + n]}, index=DAYS[n : n + 1]) for s in "AB"}), "1d", "x"))
    assert len(set(names)) == 60 and len(store._table().file_uris()) <= 18
    assert len(list(tmp_path.rglob("*.checkpoint.parquet"))) >= 2
    for n in (0, 15, 16, 17, 18, 40, 59):
        assert len(store.read(version=names[n])) == n + 1
    assert store.versions()["added"].sum() == 120 and store.versions(last=1)["version"].tolist() == [store.version]
    with pytest.raises(MissingData, match="has no version 'none'; the newest is " + names[-1]):
        store.read(version="none")


@pytest.mark.parametrize("source", ["my file", "é", "a=b", "100%", "x/y", "q'uote"])
def test_a_source_of_any_name_is_not_taken_for_torn(tmp_path, source):
    from trading.data.store_repair import repair_store

    store = BarStore(tmp_path / "bars")
    store.upsert(week(0), "1d", source)
    store.upsert(week(0, plus=1), "1d", source)  # a correction is written to a folder that has the name of the source
    assert repair_store(store) == [] and len(store.read(source=source)) == 7
