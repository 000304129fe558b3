"What learns from outcomes: feedback, the judge, drift, promotion; by simulation with planted changes and with pure noise."

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from trading.core.errors import Refused
from trading.forecast.drift import feature_drift, forecast_drift, psi, read_alerts, retraining_reasons
from trading.forecast.feedback import (
    Cycle,
    DecisionOutcome,
    FeedbackLoop,
    FeedbackState,
    apply_cycle,
    log_score,
    signal,
)
from trading.forecast.feedback_words import feedback_words
from trading.forecast.meta_labeling import Decision, DecisionThresholds, MetaModel
from trading.forecast.trust import FeedbackBounds

START = datetime(2024, 1, 1, tzinfo=UTC)


MEMBERS = ("model", "mean", "zero")
EVEN = FeedbackState(dict.fromkeys(MEMBERS, 1 / 3))


def outcome(name, scores, gain=0.01, taken=True, inside=True, day=0, **other):
    return DecisionOutcome(name, START + timedelta(days=day), taken, gain, inside, scores, **other)


def trust(skills, seed, symbols=20, common=0.3, r2=0.01, weekly=False):
    "Return the trust in a model day by day whose forecasts explain this share of the variance; skills: 1 true, 0 noise, -1 the wrong sign."
    rng, state, path, waiting = np.random.default_rng(seed), EVEN, [], []
    for day, skill in enumerate(skills):
        said, naive = r2**0.5 * rng.normal(size=symbols), 0.03 * rng.normal(size=symbols)
        came = skill * said + (1 - r2) ** 0.5 * (common**0.5 * rng.normal() + (1 - common) ** 0.5 * rng.normal(size=symbols))
        waiting += [outcome(f"{day} {i}", {m: log_score(float(c - g)) for m, g in zip(MEMBERS, (s, n, 0.0), strict=True)}, day=day)
                    for i, (s, n, c) in enumerate(zip(said, naive, came, strict=True))]
        if not weekly or day % 7 == 6:
            state, waiting = apply_cycle([state], Cycle(1, "learn", START, tuple(waiting))), []
        path.append(state.weights["model"])
    return np.array(path)


def test_a_model_with_r2_of_one_percent_earns_clear_trust_and_the_wrong_sign_loses_it():
    good, bad, none = ([trust([skill] * 700, seed)[-250:].mean() for seed in range(3)] for skill in (1, -1, 0))
    assert min(good) > 0.6 and max(bad) < 0.05 and max(none) < 0.45, (good, bad, none)


def test_daily_and_weekly_cycles_lead_to_the_same_trust():
    assert trust([1] * 70, 5)[-1] == pytest.approx(trust([1] * 70, 5, weekly=True)[-1], abs=1e-12)


def test_sixty_days_after_a_break_the_new_truth_is_trusted():
    paths = np.array([trust([1] * 300 + [-1] * 120 + [1] * 180, seed) for seed in range(4)])
    assert (paths[:, 360:420].mean(axis=1) < 0.1).all(), "the wrong sign has lost"
    assert np.median(paths[:, 480:600].mean(axis=1)) > 0.5, "and it comes back when it is right again"


def test_one_factor_behind_all_symbols_is_one_piece_of_evidence():
    "With a common factor nearly everything, twenty symbols move trust about as slowly as one."
    many = np.mean([np.abs(np.diff(trust([0] * 250, seed, common=0.98)[100:])).mean() for seed in range(3)])
    free = np.mean([np.abs(np.diff(trust([0] * 250, seed, common=0.0)[100:])).mean() for seed in range(3)])
    assert many < 3 * free


@pytest.mark.parametrize("streak", [1, 5, 20, 60])
def test_a_lucky_streak_moves_trust_within_its_bound(streak):
    bounds = FeedbackBounds()
    lucky = [outcome(f"{d} {i}", {"model": 0.0, "mean": -9.0, "zero": -9.0}, day=d) for d in range(streak) for i in range(20)]
    after = apply_cycle([EVEN], Cycle(1, "learn", START, tuple(lucky)))
    odds = np.exp(bounds.most * streak)
    assert 1 / 3 < after.weights["model"] <= min(odds / (odds + 2), 1 - min(bounds.shares) * 2 / 3) + 1e-9
    assert min(after.weights.values()) >= min(bounds.shares) / 3 - 1e-12


def test_big_wins_beyond_the_interval_are_wins_and_costs_do_not_turn_a_side():
    wins = tuple(outcome(str(i), {}, 0.3, inside=False, day=i) for i in range(20))
    wide = apply_cycle([EVEN], Cycle(1, "learn", START, wins), FeedbackBounds(halflife=1e9))
    assert wide.units["side"][1] == pytest.approx(20) and wide.units["inside"][1] == 0 and wide.units["gain"][1] == pytest.approx(6.0)
    assert signal(outcome("w", {}, 0.3, inside=False)) == "SUCCESS"
    rng = np.random.default_rng(0)
    moves = np.where(rng.random(400) < 0.55, 1, -1) * np.abs(rng.normal(0, 0.01, 400))
    small = tuple(outcome(str(i), {}, float(m - 0.003), day=i, cost=0.003, pattern="calm rising") for i, m in enumerate(moves))
    state = apply_cycle([EVEN], Cycle(1, "learn", START, small), FeedbackBounds(halflife=1e9))
    assert state.units["side"][1] / state.units["side"][0] == pytest.approx((moves > 0).mean())
    assert state.patterns["calm rising"] == pytest.approx((400, (moves > 0).sum()))


def test_many_outcomes_of_eleven_days_are_eleven_dates_and_the_sentence_says_so():
    many = tuple(outcome(f"{d} {i}", {}, 0.01 if i % 2 else -0.01, day=d, forecast=0.02) for d in range(11) for i in range(32))
    state = apply_cycle([EVEN], Cycle(1, "learn", START, many), FeedbackBounds(halflife=1e9))
    assert state.units["side"][0] == pytest.approx(11)
    said = feedback_words(state)[0]
    assert "Over 11 independent dates" in said and "the side was right, before costs, in 50.0 %" in said
    assert "of each 1 % that was forecast 0.00 % came" in said


def test_a_year_later_half_is_forgotten():
    bounds = FeedbackBounds(halflife=100.0)
    state = apply_cycle([EVEN], Cycle(1, "learn", START, (outcome("a", {}), outcome("b", {}, day=100))), bounds)
    assert state.units["side"][0] == pytest.approx(1.5)


def test_a_crash_between_cycles_loses_nothing_and_a_half_written_line_is_refused(tmp_path):
    path = tmp_path / "cycles.jsonl"
    loop = FeedbackLoop(["a", "b"], path=path)
    for i in range(5):
        loop.learn([outcome(str(i), {"a": -0.2, "b": -0.7})], START + timedelta(days=i))
    assert FeedbackLoop(["a", "b"], path=path).learnt == loop.learnt
    assert FeedbackLoop(["a", "b"], path=path).new([outcome("3", {}), outcome("9", {})])[0].decision == "9"
    altered = [json.loads(line) for line in path.read_text().splitlines()]
    altered[2]["outcomes"][0]["scores"]["a"] = -0.9
    path.write_text("\n".join(json.dumps(line) for line in altered) + "\n")
    with pytest.raises(Refused, match="cycle 3 breaks its seal"):
        FeedbackLoop(["a", "b"], path=path)


def test_other_bounds_cannot_silently_continue_an_old_file(tmp_path):
    FeedbackLoop(["a", "b"], path=tmp_path / "c").learn([outcome("1", {"a": -0.2, "b": -0.7})], START)
    with pytest.raises(Refused, match="written with other models or bounds"):
        FeedbackLoop(["a", "b"], FeedbackBounds(shares=(0.01,)), path=tmp_path / "c")


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


def test_a_run_says_when_feedback_knows_less_than_an_earlier_run_did(tmp_path):
    from trading.pipeline.forecast_review import lost_cycles
    from trading.pipeline.run_record import create_run

    def day(number, cycle):
        at = datetime(2024, 1, number, tzinfo=UTC)
        run = create_run(tmp_path, "sample", at, "paper", "paper-sample", {}, "", at, 7, {})
        keys = pd.MultiIndex.from_tuples([("X", 1)], names=["symbol", "horizon"])
        run.write("forecast", pd.DataFrame(0.0, keys, ["expected", "std", "lower", "upper", "naive", "confidence"]))
        run.write("decisions", {"cycle": cycle, "decisions": []})
        return run

    assert lost_cycles(day(2, 5), 5) == ""
    later = day(3, 6)
    assert lost_cycles(later, 5) == "" and lost_cycles(later, 6) == ""
    said = lost_cycles(later, 2)
    assert "2 cycles" in said and "knew 5" in said and "feedback/sample.jsonl" in said


def test_a_run_says_when_the_book_of_promotions_has_lost_what_the_last_training_left_in_force(tmp_path):
    from trading.core.settings import load_settings
    from trading.forecast.model_promotion import Promotion
    from trading.pipeline.forecast_review import lost_promotion
    from trading.pipeline.run_record import create_run

    at = datetime(2024, 1, 9, tzinfo=UTC)
    settings = load_settings("sample", {"run.data": str(tmp_path / "data"), "run.reports": str(tmp_path)}, environ={})
    run, week = create_run(tmp_path, "sample", at, "paper", "paper-sample", {}, "", at, 7, {}), tmp_path / "weekly" / "2024-01-07_0600_sample"
    assert lost_promotion(run, settings) == "", "nothing was ever trained"
    week.mkdir(parents=True)
    (week / "train.json").write_text(json.dumps({"at": datetime(2024, 1, 7, tzinfo=UTC).isoformat(), "in_force": "forecast-one"}))
    book = tmp_path / "data" / "models" / "sample" / "forecast.promotions.jsonl"
    assert "left forecast-one in force, and models/sample/forecast.promotions.jsonl does not know it" in lost_promotion(run, settings)
    book.parent.mkdir(parents=True)
    kept = [Promotion("forecast", v, at, True, (), 1) for v in ("forecast-one", "forecast-two")]  # a person may have gone on since
    book.write_text("".join(p.to_json() + "\n" for p in kept))
    assert lost_promotion(run, settings) == ""
    book.write_text(kept[1].to_json() + "\n")
    assert "does not know it" in lost_promotion(run, settings)
