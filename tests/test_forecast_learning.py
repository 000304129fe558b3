"What learns from outcomes: feedback, the judge, drift, promotion; by simulation with planted changes and with pure noise."

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from trading.core.errors import Refused
from trading.forecast.drift import feature_drift, forecast_drift, psi, read_alerts, retraining_reasons
from trading.forecast.feedback import DecisionOutcome, FeedbackBounds, FeedbackLoop, adaptation_score, move_weights
from trading.forecast.meta_labeling import Decision, DecisionThresholds, MetaModel

START = datetime(2024, 1, 1, tzinfo=UTC)


def outcome(name, losses, gain=0.01, taken=True, inside=True):
    return DecisionOutcome(name, START, taken, gain, inside, losses)


def play(means, cycles, seed, bounds=FeedbackBounds()):
    "Return the loss per cycle with feedback and with equal trust; the best model changes half-way."
    rng, weights, rows = np.random.default_rng(seed), dict.fromkeys("abc", 1 / 3), []
    for t in range(cycles):
        losses = np.clip(rng.normal(means[t >= cycles // 2], 0.2), 0, 1)
        rows.append((np.dot(list(weights.values()), losses), losses.mean()))
        weights = move_weights(weights, dict(zip("abc", losses, strict=True)), bounds)
    return np.array(rows)


def test_after_a_planted_change_feedback_recovers_and_no_feedback_does_not():
    runs = np.mean([play([(0.3, 0.5, 0.5), (0.5, 0.3, 0.5)], 400, seed) for seed in range(30)], axis=0)
    assert runs[250:, 0].mean() < runs[250:, 1].mean() - 0.05


def test_in_stationary_noise_feedback_harms_by_less_than_one_hundredth():
    runs = np.mean([play([(0.5, 0.5, 0.5)] * 2, 400, seed) for seed in range(30)], axis=0)
    assert runs[:, 0].mean() - runs[:, 1].mean() < 0.01


def test_weights_and_threshold_never_leave_their_bounds_whatever_comes():
    bounds, rng = FeedbackBounds(step=0.1), np.random.default_rng(1)
    loop = FeedbackLoop(["a", "b"], bounds)
    for i in range(200):
        worst = float(rng.random() < 0.9)
        loop.learn([outcome(str(i), {"a": worst, "b": 1 - worst}, gain=rng.choice([-0.1, 0.1]), inside=bool(rng.random() < 0.5))], START)
        assert min(loop.learnt.weights.values()) >= bounds.share / 2 - 1e-12 and abs(sum(loop.learnt.weights.values()) - 1) < 1e-9
        assert bounds.threshold[0] <= loop.learnt.threshold <= bounds.threshold[2]
    assert adaptation_score(loop) <= 1


def test_a_crash_between_cycles_loses_nothing_and_a_half_written_line_is_refused(tmp_path):
    path = tmp_path / "cycles.jsonl"
    loop = FeedbackLoop(["a", "b"], path=path)
    for i in range(5):
        loop.learn([outcome(str(i), {"a": 0.2, "b": 0.7})], START + timedelta(days=i))
    assert FeedbackLoop(["a", "b"], path=path).learnt == loop.learnt
    assert FeedbackLoop(["a", "b"], path=path).new([outcome("3", {}), outcome("9", {})])[0].decision == "9"
    altered = [json.loads(line) for line in path.read_text().splitlines()]
    altered[2]["outcomes"][0]["losses"]["a"] = 0.9
    path.write_text("\n".join(json.dumps(line) for line in altered) + "\n")
    with pytest.raises(Refused, match="cycle 3 breaks its seal"):
        FeedbackLoop(["a", "b"], path=path)


def test_other_bounds_cannot_silently_continue_an_old_file(tmp_path):
    FeedbackLoop(["a", "b"], path=tmp_path / "c").learn([outcome("1", {"a": 0.2, "b": 0.7})], START)
    with pytest.raises(Refused, match="written with other models or bounds"):
        FeedbackLoop(["a", "b"], FeedbackBounds(rate=0.9), path=tmp_path / "c")


def record(lesson, seed, days=500):
    rng = np.random.default_rng(seed)
    times = pd.date_range("2020-01-01", periods=days, tz="UTC")
    index = pd.MultiIndex.from_product([times, list("ABCD"), [1]], names=["timestamp", "symbol", "horizon"])
    bold = rng.random(len(index)) < 0.3
    side = rng.choice([-1, 1], len(index))
    right = rng.random(len(index)) < np.where(bold, lesson, 0.5)
    expected = side * np.where(bold, 0.02, 0.004)
    truth = side * np.where(right, 1, -1) * rng.gamma(2, 0.01, len(index))
    columns = {"expected": expected, "std": 0.03, "confidence": np.where(bold, 0.6, 0.52), "naive": 0.0, "realised": truth}
    return pd.DataFrame(columns | {"lower": expected - 0.05, "upper": expected + 0.05}, index=index)


def test_the_judge_is_calibrated_on_fresh_cases_and_acts_only_on_bold_ones():
    judge, fresh = MetaModel().fit(record(0.8, 1)), record(0.8, 2)
    p = judge.probability(fresh)
    right = np.sign(fresh["expected"]) == np.sign(fresh["realised"])
    for part in (p < 0.6, p > 0.7):
        assert abs(p[part].mean() - right[part].mean()) < 0.05
    today = fresh.xs(fresh.index[0][0], level="timestamp")
    for d in judge.decide(today, START, DecisionThresholds(0.7, 2)):
        assert (d.side != "hold") == (abs(d.expected_return) > 0.01) and Decision.from_json(d.to_json()) == d


def test_the_judge_finds_nothing_in_noise():
    today = record(0.5, 9).xs(pd.Timestamp("2020-01-01", tz="UTC"), level="timestamp")
    held = [d for seed in range(5) for d in MetaModel().fit(record(0.5, seed)).decide(today, START, DecisionThresholds(0.7, 2))]
    assert all(d.side == "hold" and d.size == 0 for d in held)


def test_psi_of_equal_samples_is_small_and_of_moved_ones_large():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5000))
    assert psi(a, b) < 0.02 < 0.25 < psi(a, b + 1)


def test_quiet_worlds_ring_rarely_and_changed_ones_always():
    def world(noise, seed):
        rng = np.random.default_rng(seed)
        times = pd.date_range("2024-01-01", periods=250, tz="UTC")
        index = pd.MultiIndex.from_product([times, list("AB"), [1]], names=["timestamp", "symbol", "horizon"])
        frame = pd.DataFrame({"expected": 0.0, "std": 0.01, "naive": 0.001, "lower": -0.01645, "upper": 0.01645}, index=index)
        return frame.assign(realised=rng.normal(0, noise, len(index)))

    alarms = lambda noise, seed: [a for a in read_alerts(forecasts=forecast_drift(world(noise, seed))) if a.level == "alarm"]  # noqa: E731
    assert sum(bool(alarms(0.01, seed)) for seed in range(40)) <= 3
    for seed in range(5):
        found = tuple(alarms(0.014, seed))
        assert retraining_reasons(found, pd.Timestamp(START), pd.Timestamp(START))


def test_a_stable_feature_is_ok_and_a_moved_one_is_not():
    rng = np.random.default_rng(0)
    times = pd.date_range("2020-01-01", periods=1500, tz="UTC")
    frame = pd.DataFrame(rng.normal(size=(1500, 4)), index=times, columns=pd.MultiIndex.from_product([["still", "moved"], ["A", "B"]]))
    frame.loc[times[-60:], "moved"] = (frame.loc[times[-60:], "moved"] + 1.0).to_numpy()
    assert feature_drift(frame)["level"].to_dict() == {"still": "ok", "moved": "alarm"}


def test_two_workers_find_what_one_process_finds_and_every_trial_is_in_the_register(tmp_path):
    distributed = pytest.importorskip("distributed", reason="Dask comes with the extra 'research'")
    pytest.importorskip("optuna", reason="Optuna comes with the extra 'research'")
    from trading.backtest.trial_register import TrialRegister
    from trading.core.datasets import sample_bars
    from trading.forecast.tune import tune

    bars, grid = sample_bars("stocks").iloc[-700:, :4], {"ridge__alpha": [1.0, 100.0, 1e4, 1e6]}
    register = TrialRegister(tmp_path / "trials.sqlite")
    alone = tune(bars, 5, grid, method="grid", n_trials=4)
    with (distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path)) as cluster,
          distributed.Client(cluster) as client):
        shared = tune(bars, 5, grid, method="grid", client=client, register=register)
        assert set(client.has_what()) and len(client.scheduler_info()["workers"]) == 2
    assert shared.params == alone.params and shared.score == pytest.approx(alone.score, abs=1e-12)
    assert register.count(bars, "forecast") == 4
