"Run folders when the disk is full, the power fails, or somebody looks in between."

import errno
import os
from datetime import UTC, datetime

import pandas as pd
import pytest

from trading.core.errors import BadInput
from trading.core.files import write_atomic
from trading.pipeline.run_record import Run, create_run

NOW = datetime(2022, 12, 28, tzinfo=UTC)


@pytest.fixture
def run(tmp_path) -> Run:
    made = create_run(tmp_path, "sample", NOW, "paper", "paper-sample", {}, "hash", NOW)
    made.write("risk", {"var": 0.01})
    return made


def test_a_full_disk_leaves_the_old_file_whole_and_is_named(run, monkeypatch):
    before = (run.folder / "run.json").read_bytes()

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadInput, match="No space left on device; free space"):
        run.write("risk", {"var": 0.02})
    monkeypatch.undo()
    assert (run.folder / "run.json").read_bytes() == before and run.read("risk") == {"var": 0.01}
    assert not list(run.folder.rglob(".*"))


def test_a_write_that_is_killed_between_file_and_name_leaves_the_old_one(run, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(run.folder / "run.json", b"half")
    monkeypatch.undo()
    assert run.record.id.startswith("2022-12-27_sample")


def test_an_artefact_of_another_kind_is_refused_when_it_is_written_and_when_it_is_read(run):
    good = pd.DataFrame({"target": [0.5], "reason": ["why"]}, index=pd.Index(["KO"], name="symbol"))
    run.write("weights", good)
    with pytest.raises(BadInput, match="'reason' is missing"):
        run.write("weights", good.drop(columns="reason"))
    pd.testing.assert_frame_equal(run.read("weights"), good)


def test_two_runs_made_in_the_same_moment_get_two_folders(tmp_path):
    names = {create_run(tmp_path, "sample", NOW, "paper", "a", {}, "h", NOW).record.id for _ in range(5)}
    assert len(names) == 5
