"Cycle scores: two versions that never meet, on drawn and on real histories."

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.core.datasets import sample_bars
from trading.core.errors import BadInput
from trading.features.cycle_score import HIGH_MEANS, CycleScore, check_same_cycle, cycle_inputs, cycle_score, cycle_targets, pin_cycle

DAY = date(2023, 6, 1)


@pytest.mark.parametrize(("value", "subscore"), [(0, 100), (25, 80), (50, 60), (60, 45), (70, 30), (80, 17.5), (90, 5), (100, 5)])
def test_fear_and_greed_follows_the_published_knots(value, subscore):
    assert cycle_score({"fear_greed": value}, "composite-v0", DAY, 0).value == pytest.approx(subscore)


@pytest.mark.parametrize(("value", "subscore"), [(0.4, 100), (0.75, 85), (1, 70), (1.25, 50), (2, 15), (3, 0)])
def test_the_mayer_multiple_follows_the_published_knots(value, subscore):
    assert cycle_score({"mayer": value}, "composite-v0", DAY, 0).value == pytest.approx(subscore)


INPUTS = st.dictionaries(st.sampled_from(["fear_greed", "funding", "volatility", "dominance"]), st.floats(0, 100), min_size=1)


@given(INPUTS, st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_scores_stay_in_range_and_survive_json(inputs, weight):
    for version in HIGH_MEANS:
        score = cycle_score(inputs, version, DAY, weight)
        assert 0 <= score.value <= 100 and CycleScore.from_json(score.to_json()) == score
        assert set(score.subscores) == set(inputs)


def test_more_fear_raises_one_score_and_lowers_the_other():
    calm, fear = ({v: cycle_score({"fear_greed": x}, v, DAY, 0).value for v in HIGH_MEANS} for x in (80, 10))
    assert fear["composite-v0"] > calm["composite-v0"] and fear["signals-v2"] < calm["signals-v2"]


def test_every_band_has_its_published_targets():
    base = {"BTC": 0.5, "ETH": 0.3, "Stablecoins": 0.2}
    score = cycle_score({"fear_greed": 50}, "signals-v2", DAY, 0)
    expected = {90: (0.10, 0.40), 72.5: (0.15, 0.38), 57.5: (0.20, 0.35), 42.5: (0.30, 0.30), 17.5: (0.45, 0.25), 100: (0.10, 0.40), 0: (0.45, 0.25)}
    for value, (stable, btc) in expected.items():
        found = cycle_targets(float(value), score.version, base)
        assert (found["Stablecoins"], found["BTC"], sum(found.values())) == pytest.approx((stable, btc, 1))
    tilt = cycle_score({"fear_greed": 50}, "composite-v0", DAY, 0)
    assert cycle_targets(20.0, "composite-v0", base)["Stablecoins"] == pytest.approx(0.2 * 1.24 / (0.8 + 0.2 * 1.24))
    assert cycle_targets(55.0, "composite-v0", base) == pytest.approx(base)
    with pytest.raises(BadInput, match="sum to at most 1"):
        cycle_targets(tilt.value, tilt.version, {"BTC": 1.4})


def test_inputs_know_nothing_of_the_future():
    btc = pd.Series(np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.03, 600))), pd.date_range("2020-01-01", periods=600, tz="UTC"))
    whole, early = cycle_inputs(btc, btc * 2), cycle_inputs(btc.iloc[:500], btc.iloc[:500] * 2)
    pd.testing.assert_frame_equal(whole.iloc[:500], early)


def test_on_real_history_the_bottoms_and_tops_are_seen():
    inputs = cycle_inputs(sample_bars("coins")["close"]["BTC/USDT"].dropna())
    names = ["mayer", "pi_cycle", "drawdown", "volatility"]

    def at(day: str, version: str, columns: list[str]) -> float:
        return cycle_score(inputs.loc[day, columns].to_dict(), version, date.fromisoformat(day), 0).value

    low = [at(day, "composite-v0", names) for day in ("2018-12-15", "2022-06-18")]
    high = [at(day, "composite-v0", names) for day in ("2021-02-21", "2021-04-13")]
    assert min(low) > 70 > 40 > max(high)
    assert at("2021-02-21", "signals-v2", ["trend", "volatility"]) > 70 > at("2018-12-15", "signals-v2", ["trend"])


def test_a_plan_keeps_the_version_of_its_score_and_versions_never_meet():
    from datetime import UTC, datetime
    from decimal import Decimal

    from trading.core.types import Plan

    scores = {v: cycle_score({"volatility": 0.5}, v, DAY) for v in HIGH_MEANS}
    noon = datetime(2023, 6, 1, 12, tzinfo=UTC)
    plans = {v: Plan("mine", noon, "USD", Decimal(9), Decimal(9), (), model_versions=pin_cycle(s)) for v, s in scores.items()}
    for version, plan in plans.items():
        assert Plan.from_json(plan.to_json()).model_versions["cycle_score"] == f"{version}, high = {HIGH_MEANS[version]}"
    assert len({plan.hash for plan in plans.values()}) == 2
    with pytest.raises(BadInput, match="their directions are opposite"):
        pin_cycle(*scores.values())
    with pytest.raises(BadInput, match="cannot be compared"):
        check_same_cycle(plan.model_versions for plan in plans.values())
    check_same_cycle([plans["composite-v0"].model_versions, {}])
