"Feedback never loses more than its stated bound, also across breaks; what it counts, refuses and writes down is held by hand."

from datetime import UTC, datetime, timedelta
from math import exp, log

import numpy as np
import pytest

from trading.core.errors import BadInput, TradingError
from trading.forecast.feedback import (
    Cycle,
    DecisionOutcome,
    FeedbackLoop,
    FeedbackState,
    add_units,
    apply_cycle,
    count_patterns,
    date_evidence,
    signal,
    unit_interval,
)
from trading.forecast.trust import FeedbackBounds, move_weights, regret_bound

START, MEMBERS = datetime(2024, 1, 1, tzinfo=UTC), ("model", "mean", "zero")


def outcome(name, day=0, gain=0.01, taken=True, inside=True, scores=None, **other):
    return DecisionOutcome(str(name), START + timedelta(days=day), taken, gain, inside, scores or dict.fromkeys(MEMBERS, 0.0), **other)


@pytest.mark.parametrize("world", ["one is best", "the best changes twice", "noise", "a streak, then the opposite", "each day another"])
def test_what_is_lost_for_not_knowing_the_best_stays_below_the_bound(world):
    days, switches = 400, {"the best changes twice": 2, "a streak, then the opposite": 1}.get(world, 0)
    for seed in range(4):
        rng, states = np.random.default_rng([seed, len(world)]), [FeedbackState(dict.fromkeys(MEMBERS, 1 / 3))]
        for day in range(days):
            best = {
                "one is best": 0,
                "the best changes twice": (0, 2, 1)[day * 3 // days],
                "noise": None,
                "a streak, then the opposite": int(day > 60),
                "each day another": day % 3,
            }[world]
            nats = dict(zip(MEMBERS, 0.3 * rng.normal(size=3) + (0.4 * (np.arange(3) == best) if best is not None else 0), strict=True))
            states.append(apply_cycle(states, Cycle(day + 1, "learn", START, (outcome(day, day, scores=nats),))))
        edges = {0: [0, days], 1: [0, 61, days], 2: [0, -(-days // 3), -(-2 * days // 3), days]}[switches]
        totals = [dict.fromkeys((*MEMBERS, "mixture"), 0.0), *(s.scores for s in states[1:])]
        oracle = sum(max(totals[b][m] - totals[a][m] for m in MEMBERS) for a, b in zip(edges[:-1], edges[1:], strict=True))
        lost = oracle - states[-1].scores["mixture"]
        assert lost <= regret_bound(days, 3, switches) + 1e-9, (world, seed, lost)
        assert lost > 0 or world != "one is best"
    assert regret_bound(400, 3, 1) == pytest.approx(2 * log(3) + log(250) + 398 * log(250 / 249) + log(4) + 399 * log(500 / 499))


def test_trust_is_multiplied_by_the_evidence_and_the_absent_keep_theirs():
    moved = move_weights({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.0, "b": log(2)}, days=1)
    share = 1 / 250
    assert moved == pytest.approx(
        {"a": (1 - share) * 0.8 * 0.5 / 1.1 + share / 3, "b": (1 - share) * 0.8 * 0.6 / 1.1 + share / 3, "c": (1 - share) * 0.2 + share / 3}
    )
    month = move_weights({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.0}, days=30)
    assert month["b"] == pytest.approx((1 - (249 / 250) ** 30) / 2) and sum(month.values()) == pytest.approx(1)


def test_evidence_moves_the_odds_by_itself_whatever_share_is_believed_in():
    "The trust that is told is one Bayesian mixture: odds of two members change by the difference of their nats, and by what is dealt out."
    state = FeedbackState(dict.fromkeys(MEMBERS, 1 / 3))
    for day in range(40):
        nats = {"model": 0.3 * (-1) ** day, "mean": 0.1, "zero": 0.0}
        before, bare = state, FeedbackBounds(shares=(1e-12, 1e-11), doubt=1e-12)
        state = apply_cycle([before], Cycle(day + 1, "learn", START, (outcome(day, day, scores=nats),)), bare)
        odds = lambda s: s.weights["model"] / s.weights["zero"]  # noqa: E731
        assert odds(state) == pytest.approx(odds(before) * exp(nats["model"]), rel=1e-6)
    assert sum(state.weights.values()) == pytest.approx(1) and sum(belief for belief, *_ in state.paces) == pytest.approx(1)


def test_evidence_of_a_date_is_that_of_its_independent_outcomes_and_is_bounded():
    pair = [outcome(i, scores={"model": 0.2, "mean": 0.0, "zero": 0.1}) for i in range(4)]
    nats, spread = date_evidence(pair, MEMBERS, (0.0, 0.0))
    assert nats == pytest.approx({"model": 0.1, "mean": -0.1, "zero": 0.0}), "before independence was seen, four outcomes of a date are one"
    assert spread == pytest.approx((1, 4)), "all four said the same: an effect of four, the most there is"
    _, seen = date_evidence([outcome(i, scores={"model": s, "mean": -s, "zero": 0.0}) for i, s in enumerate((1, -1, 1, -1))], MEMBERS, (0.0, 0.0))
    assert seen == (1, 0.0)
    wild = date_evidence([outcome(1, scores={"model": 90.0, "mean": -90.0, "zero": 0.0})], MEMBERS, (0.0, 0.0))[0]
    assert max(wild.values()) - min(wild.values()) == pytest.approx(1.0)
    assert date_evidence([outcome(1, scores={"model": 1.0})], MEMBERS, (3.0, 4.0)) == ({}, (3.0, 4.0)), (
        "an outcome that not all had forecast says nothing"
    )


@pytest.mark.parametrize(
    "gain, taken, inside, word",
    [
        (0.1, True, False, "SUCCESS"),
        (0.1, False, True, "OPTIMIZATION"),
        (-0.1, False, True, "SUCCESS"),
        (-0.1, True, True, "FAILURE"),
        (-0.1, True, False, "ADAPTATION"),
        (0.0, False, False, "SUCCESS"),
        (0.0, True, True, "FAILURE"),
    ],
)
def test_one_word_for_each_outcome(gain, taken, inside, word):
    assert signal(outcome(1, gain=gain, taken=taken, inside=inside)) == word


def test_units_and_patterns_count_dates():
    day = [
        outcome(1, gain=0.01, cost=0.003, forecast=0.02, weight=0.5, pattern="calm rising"),
        outcome(2, gain=-0.001, cost=0.003, forecast=0.01, weight=0.5, inside=False, pattern="calm rising"),
        outcome(3, gain=-0.02, taken=False, pattern="volatile"),
    ]
    units = add_units({}, day)
    assert units["side"] == pytest.approx((2 / 3, 2 / 3 * 0.5, 2 / 3 * 0.25)), "right in two of the three, the third weighs as much as both"
    assert units["inside"] == pytest.approx((2 / 3, 0.5, 0.375)) and units["gain"] == pytest.approx((0.5, 0.5 * 0.0045, 0.5 * 0.0045**2))
    assert units["size"] == pytest.approx((0.5, 0.5 * 0.013 + 0.5 * 0.002, 0.015))
    assert add_units(units, day, keep=0.5)["inside"][0] == pytest.approx(1.0)
    assert count_patterns({"calm rising": (4.0, 2.0)}, day, 0.5) == pytest.approx({"calm rising": (3.0, 2.0), "volatile": (1.0, 0.0)})
    assert unit_interval((9.9, 5.0, 5.0)) is None and unit_interval((100.0, 60.0, 60.0)) == pytest.approx(
        (0.6, 0.6 - 1.96 * 0.24**0.5 / 10, 0.6 + 1.96 * 0.24**0.5 / 10)
    )


def test_days_are_counted_from_the_newest_outcome_of_a_date_and_never_backwards():
    state = apply_cycle([FeedbackState(dict.fromkeys(MEMBERS, 1 / 3))], Cycle(1, "learn", START, (outcome(1, 5.0), outcome(2, 5.25))))
    assert state.last == START + timedelta(days=5.25)
    older = apply_cycle([state], Cycle(2, "learn", START, (outcome(3, 2.0),)))
    assert older.last == state.last and older.units["inside"][0] == pytest.approx(2.0), (
        "what comes late is not forgotten more, and moves no clock back"
    )


@pytest.mark.parametrize(
    "bad", [{"shares": (0.1, 0.0)}, {"shares": (1.0,)}, {"shares": ()}, {"doubt": 1.0}, {"most": 0.0}, {"prior": 0.0}, {"halflife": 0.0}]
)
def test_bounds_that_contradict_themselves_are_refused(bad):
    with pytest.raises(BadInput, match="contradict"):
        FeedbackBounds(**bad)


def test_what_cannot_be_learnt_from_is_refused_and_a_hand_is_written_down(tmp_path):
    for names in ((), ("model", "model")):
        with pytest.raises(BadInput, match="name each once"):
            FeedbackLoop(names)
    loop = FeedbackLoop(MEMBERS, path=tmp_path / "f.jsonl")
    loop.learn([outcome("a", scores={"model": 1.0, "mean": 0.0, "zero": 0.0})], START)
    before = loop.learnt
    for given, word in (
        ([outcome("a")], "before"),
        ([outcome("b"), outcome("b")], "before"),
        ([outcome("c", scores={"other": 0.0})], "compete"),
        ([], "none"),
    ):
        with pytest.raises(BadInput, match=word):
            loop.learn(given, START)
    loop.roll_back(0, START + timedelta(days=1), "it was a mistake")
    assert loop.cycles[-1].note == "it was a mistake" and loop.learnt.weights["model"] == pytest.approx(1 / 3)
    assert loop.before(START) == (1, before) and loop.before(START - timedelta(days=1)) == (0, loop.states[0])
    assert loop.before(START + timedelta(days=2)) == (2, loop.learnt)
    again = FeedbackLoop(MEMBERS, path=tmp_path / "f.jsonl")
    assert again.learnt == loop.learnt and again.cycles == loop.cycles
    equal = log((exp(2 / 3) + 2 * exp(-1 / 3)) / 3)
    assert before.scores["mixture"] == pytest.approx(0.0) and before.scores["model"] == pytest.approx(2 / 3 - equal)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'{"number": 1}\n'])
def test_a_file_that_cannot_be_read_is_named_with_the_way_back(content, tmp_path):
    (tmp_path / "f.jsonl").write_bytes(content)
    with pytest.raises(TradingError, match=r"f\.jsonl.*carnet restore"):
        FeedbackLoop(MEMBERS, path=tmp_path / "f.jsonl")
