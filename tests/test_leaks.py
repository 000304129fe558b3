"The leak detector's examination: planted leaks of more than ten kinds found, honest pipelines left alone."

import pickle

import numpy as np
import pandas as pd
import pytest
from leak_corpus import BARS, CLEAN, HOURS, LEAKS, Fitted, _daily_join, close

from trading.backtest.leak_detector import find_leaks

WORDS = {
    "shift": ("shift",), "centred window": ("centred",),
    "global scale": ("whole sample",), "back-fill": ("back-fill",), "future-stamped join": ("join", "week", "centred"),
    "resample labels left": ("before it has ended",), "fitted on everything": ("fitted", "whole sample"),
    "target among the features": ("shift", "target", "forward", "fitted"),
    "chosen by the outcome": ("chosen", "whole sample"), "smoothed both ways": ("both directions", "centred"), "length": ("how many bars",),
}


def quiet(pipeline, bars):
    with np.errstate(all="ignore"):
        return find_leaks(pipeline, bars)


@pytest.mark.filterwarnings("ignore")
def test_planted_leaks_are_found_and_mostly_by_their_name():
    assert sum(map(len, LEAKS.values())) >= 60 and len(LEAKS) >= 10
    missed, named, total = [], 0, 0
    for kind, pipelines in LEAKS.items():
        for i, pipeline in enumerate(pipelines):
            report = quiet(pipeline, BARS)
            total += 1
            if report.clean:
                missed.append(f"{kind} {i}")
            named += any(word in leak.cause for leak in report.leaks for word in WORDS[kind])
    print(f"found {total - len(missed)} of {total}, cause named for {named}; missed: {missed}")
    assert len(missed) <= 0.05 * total and named >= 0.75 * total


@pytest.mark.filterwarnings("ignore")
def test_honest_pipelines_are_not_accused():
    assert len(CLEAN) >= 60
    accused = {}
    for i, pipeline in enumerate(CLEAN):
        report = quiet(pipeline, BARS)
        if report.answer != "clean":
            accused[i] = (report.answer, str(report))
    print(f"accused {len(accused)} of {len(CLEAN)}: {accused}")
    assert not [a for a in accused.values() if a[0] == "leak"] and len(accused) <= 3, "those that hold a table of their own cannot be told"


def test_a_daily_close_joined_to_hours_is_named():
    report = quiet(_daily_join, HOURS)
    assert not report.clean and "day is used before it has ended" in report.leaks[0].cause


def test_the_reach_of_a_shift_is_counted_in_bars():
    for n in (1, 4, 12):
        leak = quiet(lambda b, n=n: close(b).shift(-n), BARS).leaks[0]
        assert leak.ahead == n and "shift" in leak.cause


def test_only_the_guilty_output_is_named():
    report = quiet(lambda b: {"good": close(b)["SIM1"], "bad": close(b)["SIM1"].shift(-1)}, BARS)
    assert [(leak.outputs, leak.ahead) for leak in report.leaks] == [(("bad output",), 1)]
    both = quiet(lambda b: {"worse": close(b)["SIM2"].shift(-3), "bad": close(b)["SIM1"].shift(-1)}, BARS)
    assert {(leak.outputs, leak.ahead) for leak in both.leaks} == {(("bad output",), 1), (("worse output",), 3)}


def test_a_pickled_model_is_judged_like_the_model(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Fitted().fit(BARS)))
    assert not quiet(path, BARS).clean and not quiet(path.read_bytes(), BARS).clean


def test_the_common_dice_are_left_as_they_were():
    np.random.seed(5)
    expected = np.random.rand(3)
    np.random.seed(5)
    quiet(lambda b: close(b) + np.random.rand(), BARS)
    assert np.allclose(np.random.rand(3), expected)


def test_a_pipeline_that_cannot_bear_holes_is_still_examined_and_says_so():
    def strict(b):
        if b["close"].isna().any(axis=None):
            raise ValueError("no holes please")
        return b["close"].rolling(5).mean()

    report = quiet(strict, BARS)
    assert report.clean and any("no holes please" in note for note in report.notes)


def test_a_table_from_outside_is_listed_when_it_was_not_passed():
    table = pd.Series(np.random.default_rng(0).normal(size=len(BARS)), BARS.index)
    report = quiet(lambda b: table.reindex(b.index), BARS)
    assert report.answer == "cannot tell" and "holds 420 numbers" in str(report) and any("pass the table" in note for note in report.notes)
