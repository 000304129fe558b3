"The two notebooks of the week, executed as the flow does, on a small folder of runs that was made for them."

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from trading.backtest.trial_register import TrialRegister
from trading.core.resources import share_path
from trading.core.settings import load_settings
from trading.forecast.feedback import FeedbackLoop
from trading.forecast.forecaster import HorizonForecaster
from trading.forecast.meta_labeling import Decision
from trading.forecast.model_promotion import count_trials, current_estimator, current_model_version, past_trials, promotions
from trading.forecast.outcomes import ENSEMBLE
from trading.pipeline.factory import bars_of
from trading.pipeline.launch import load_flow, open_run
from trading.pipeline.named_model import rival_models
from trading.pipeline.notebook_runner import Kernel
from trading.pipeline.run_record import Run

pytestmark = pytest.mark.xdist_group("weekly")  # one worker: the tests share what was executed once
SYMBOLS, DAYS = ("AAPL", "KO", "WMT", "XOM"), 50


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "Runs of fifty consecutive days with forecasts and weights, and a store that all of them cite."
    from trading.data.delta_store import BarStore
    from trading.data.ingest import SampleSource, ingest

    folder = tmp_path_factory.mktemp("weekly")
    settings = load_settings("sample", {"run.reports": str(folder / "reports"), "run.data": str(folder / "data"), "forecast.window": "1000",
                                        "forecast.horizons": "1, 5", "market.symbols": ", ".join(SYMBOLS), "market.start": "2015-01-02"})
    store, until = BarStore(folder / "data" / "bars"), datetime(2019, 6, 13, tzinfo=UTC)
    version = ingest(SampleSource("stocks", until), store, SYMBOLS, "1d", datetime(2015, 1, 2, tzinfo=UTC), until).version
    bars = store.read(SYMBOLS, "1d", version=version)
    said = HorizonForecaster(horizons=(1, 5)).fit(bars.iloc[: -DAYS - 5]).predict_panel(bars)
    first = open_run(settings, datetime(2019, 6, 17, tzinfo=UTC), "2019-06-12").record
    for number, day in enumerate(bars.index[-DAYS:]):
        at = (day + pd.Timedelta(days=1)).to_pydatetime()
        name = f"{day.date()}_sample_1"
        (folder / "reports" / name).mkdir(exist_ok=True)
        run = Run(folder / "reports" / name)
        run.save(replace(first, id=name, as_of=at, created=at, data_version=version, stages=tuple(replace(s, status="done") for s in first.stages)))
        run.write("forecast", said.xs(day, level="timestamp"))
        target = pd.DataFrame({"target": [0.5, 0.0, 0.0, 0.5], "reason": "made for a test"}, index=pd.Index(SYMBOLS, name="symbol"))
        if number == DAYS - 1:
            run.write("equity", pd.DataFrame({"equity": [100.0, 77.0]}, index=bars.index[-2:].rename("timestamp")))
        if number % 2:
            run.write("weights", target)
        if number % 5 == 4:  # every fifth day its decisions were written down: one to sell, the others held back
            sides = {("KO", 1): "sell"}
            made = [Decision(s, str(h), day.to_pydatetime(), sides.get((s, h), "hold"), 0.8, -0.01 if s == "KO" else 0.01, 2.5, 0.03, 0.0,
                             ("made for a test",), {}) for s, h in said.xs(day, level="timestamp").index]
            run.write("decisions", {"decisions": [json.loads(d.to_json()) for d in made]})
    return folder


@pytest.fixture(scope="module")
def week(home):
    "What both notebooks leave behind, executed one after the other in one kernel."
    folder = home / "reports" / "weekly" / "one"
    folder.mkdir(parents=True)
    parameters = {"reports": str(home / "reports"), "folder": str(folder), "profile": "sample"}
    second = parameters | {"folder": str(folder / "again"), "trials": 4}
    with Kernel(folder / "kernel.log", imports=("pandas",)) as kernel:
        kernel.execute(share_path("runs", "60_train.ipynb"), folder / "60_train.ipynb", parameters | {"trials": 4})
        kernel.execute(share_path("runs", "70_review.ipynb"), folder / "70_review.ipynb", parameters)
        kernel.execute(share_path("runs", "70_review.ipynb"), folder / "again.ipynb", parameters | {"folder": str(folder / "again")})
        kernel.execute(share_path("runs", "60_train.ipynb"), folder / "train_again.ipynb", second)
    return folder


def test_training_counts_every_trial_and_says_what_was_promoted_or_why_not(home, week):
    result, models = json.loads((week / "train.json").read_text()), home / "data" / "models" / "sample"
    others = len(rival_models(load_settings("sample")))
    assert result["trials"] == 4 + others and count_trials(models, "forecast") == 7 + others, "four of ridge, and one of each model that is installed"
    assert {"forest", "histogram"} < {t["params"]["estimator"] for t in past_trials(models, "forecast")}
    newest = Run(max((home / "reports").glob("2019-*_sample_1")))
    older, register = bars_of(newest).iloc[-1000:-500], TrialRegister(home / "data" / "trials.sqlite")
    assert register.count(older, "forecast") == 7 + others, "and all of them in the common register, each once"
    book = promotions(models)[:2]
    assert len(book) == 2 and book[0].passed, "the default settings face the gate first"
    assert book[0].version != result["version"] == book[1].version and book[1].before == book[0].version
    assert all(p.passed != bool(p.reasons) for p in book), "who is turned away hears why"
    assert result["in_force"] == next((p.version for p in reversed(book) if p.passed), "")
    assert result["promoted"] == book[1].passed and result["in_force"] == current_model_version(models)
    assert (result["version"] in result["words"]) and ("not promoted" in result["words"]) == (not result["promoted"])


def test_a_search_remembers_and_a_second_look_at_the_same_moment_may_spend_less(home, week):
    first, second = (json.loads((p / "train.json").read_text()) for p in (week, week / "again"))
    tried = past_trials(home / "data" / "models" / "sample", "forecast")
    others = len(rival_models(load_settings("sample")))
    assert second["trials"] == 4 + others + 3, "one of four settings was the best before and is no new trial, nor are the other models"
    assert sorted(t["looks"] for t in tried) == [1] * 6 + [2] * (1 + others)
    assert 0 < second["asked"] < first["asked"] == pytest.approx(0.0125), "the first look has a quarter of a year's doubt"


def test_a_decision_of_the_past_does_not_know_the_promotion(home, week):
    models, result = home / "data" / "models" / "sample", json.loads((week / "train.json").read_text())
    newest = datetime.fromisoformat(result["at"])
    assert current_model_version(models, before=newest) == "" and current_estimator(models, before=newest) is None
    assert current_model_version(models, before=newest + pd.Timedelta(days=1)) == result["in_force"]


def test_every_promise_matures_once_and_counts_what_a_hand_counts(home, week):
    result = json.loads((week / "review.json").read_text())
    one, five = result["counts"]["1"], result["counts"]["5"]
    assert one["forecasts"] == five["forecasts"] == DAYS * len(SYMBOLS)
    assert one["matured"] == (DAYS - 1) * len(SYMBOLS) and five["matured"] == (DAYS - 5) * len(SYMBOLS)
    runs = sorted((home / "reports").glob("2019-*_sample_1"))
    run, after = Run(runs[3]), Run(runs[4])
    close = bars_of(after)["close"]
    row = run.read("forecast").loc[("KO", 1)]
    came = float(close["KO"].iloc[-1] / close["KO"].iloc[-2] - 1)
    outcome = next(o for c in FeedbackLoop(ENSEMBLE, path=home / "data" / "feedback" / "sample.jsonl").cycles for o in c.outcomes
                   if o.decision.startswith(run.record.id[:10]) and o.decision.endswith("KO 1"))
    assert outcome.inside == (row["lower"] <= np.log1p(came) <= row["upper"]) and not outcome.taken


def test_horizons_are_judged_only_with_enough_moments(week):
    result = json.loads((week / "review.json").read_text())
    assert set(result["accuracy"]) == {"1"}, "45 matured days cannot judge five bars ahead, of which 60 are needed"
    assert result["accuracy"]["1"]["n"] == (DAYS - 1) * len(SYMBOLS)


def test_an_account_close_to_its_limit_is_warned(week):
    result = json.loads((week / "review.json").read_text())
    assert 0.05 < result["drawdown_risk"] < 1, "23 % below the best, with a limit of 25 %"
    assert any(a["kind"] == "risk" and a["subject"] == "drawdown" for a in result["alerts"])


def test_feedback_learns_once_within_its_bounds(home, week):
    result, again = (json.loads((p / "review.json").read_text()) for p in (week, week / "again"))
    assert result["cycle"] == 1 and result["fresh"] == (2 * DAYS - 6) * len(SYMBOLS)
    assert again["cycle"] == 1 and again["fresh"] == 0 and again["weights"] == result["weights"]
    loop = FeedbackLoop(ENSEMBLE, path=home / "data" / "feedback" / "sample.jsonl")
    assert loop.learnt.weights == result["weights"] and abs(sum(result["weights"].values()) - 1) < 1e-9
    taken = [o for c in loop.cycles for o in c.outcomes if o.taken]
    assert {o.decision.split()[1] for o in taken} == {"AAPL", "XOM", "KO"} and sum(result["signals"].values()) == result["fresh"]


def test_a_decision_that_was_written_down_counts_instead_of_what_was_held(home, week):
    result = json.loads((week / "review.json").read_text())
    assert result["decided"] == DAYS // 5 * len(SYMBOLS) * 2
    loop = FeedbackLoop(ENSEMBLE, path=home / "data" / "feedback" / "sample.jsonl")
    runs = sorted((home / "reports").glob("2019-*_sample_1"))
    days = [Run(run).record.id[:10] for i, run in enumerate(runs) if i % 5 == 4]
    of_those = [o for c in loop.cycles for o in c.outcomes if o.decision[:10] in days]
    assert of_those and {tuple(o.decision.split()[1:]) for o in of_those if o.taken} == {("KO", "1")}
    close = bars_of(Run(runs[-1]))["close"]["KO"]
    sold = next(o for o in of_those if o.taken)
    came = np.log(close.shift(-1) / close)[pd.Timestamp(sold.decision.split()[0])]
    cost = 2 * np.log1p(0.001 + 5 / 1e4)
    assert sold.gain == pytest.approx(-came - cost), "sold: what fell is won"


def test_a_forecast_that_was_altered_is_left_out_and_named(home, week):
    victim = sorted((home / "reports").glob("2019-*_sample_1"))[10] / "artefacts" / "forecast.parquet"
    whole, folder = victim.read_bytes(), week / "altered"
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with Kernel(week / "kernel.log", imports=("pandas",)) as kernel:
            kernel.execute(share_path("runs", "70_review.ipynb"), folder / "70_review.ipynb",
                           {"reports": str(home / "reports"), "folder": str(folder), "profile": "sample"})
    finally:
        victim.write_bytes(whole)
    result = json.loads((folder / "review.json").read_text())
    assert len(result["problems"]) == 1 and "was altered" in result["problems"][0] and result["counts"]["1"]["forecasts"] == (DAYS - 1) * len(SYMBOLS)


def test_without_a_run_both_notebooks_of_the_flow_say_what_to_do(tmp_path, monkeypatch):
    from papermill.exceptions import PapermillExecutionError

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    with Kernel(tmp_path / "kernel.log", imports=()) as kernel:
        for name in load_flow("weekly").NOTEBOOKS:
            with pytest.raises(PapermillExecutionError, match="carry out a daily run first"):
                kernel.execute(share_path("runs", f"{name}.ipynb"), tmp_path / f"{name}.ipynb", {"reports": str(tmp_path), "folder": str(tmp_path)})


def test_what_one_market_promoted_decides_nothing_in_another(home, week):
    from trading.core.settings import load_settings
    from trading.pipeline.factory import models_of

    result = json.loads((week / "train.json").read_text())
    told = {"run.data": str(home / "data")}
    here, there = (models_of(load_settings(profile, overrides=told, environ={})) for profile in ("sample", "crypto"))
    assert result["in_force"] and current_model_version(here) == result["in_force"]
    assert current_model_version(there) == "" and current_estimator(there) is None and count_trials(there, "forecast") == 0
