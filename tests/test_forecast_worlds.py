"Forecasts change trades when they deserve it: planted skill of R² 1 % earns after costs; noise and wrong signs trade next to nothing."

import numpy as np
import pytest
from forecast_worlds import BARS, COST, live, market, record

from trading.forecast.evidence import measure_skill

WORLDS, EVERY = 5, 21  # the soak test has a hundred of each, decided every week


@pytest.fixture(scope="module")
def planted():
    return [live(seed, 1, every=EVERY) for seed in range(WORLDS)]


def test_a_planted_r2_of_one_percent_changes_trades_within_two_years_and_earns_after_costs(planted):
    assert sum(w.share > 0 for w in planted) >= 0.8 * WORLDS
    assert sum(w.gain > 0 for w in planted) >= 0.8 * WORLDS, [w.gain for w in planted]
    assert np.mean([w.extra for w in planted]) > 0.5, "they do change what is traded"


def test_noise_that_claims_as_much_adds_next_to_no_turnover_and_no_costs():
    lived = [live(seed, 0, every=2 * EVERY) for seed in range(2 * WORLDS)]
    assert np.mean([w.extra for w in lived]) <= 0.02 * np.mean([w.turnover for w in lived])
    assert max(np.mean([w.costs for w in lived]), 0) <= 0.001


def test_the_wrong_sign_changes_nothing():
    assert all(measure_skill(record(*market(seed, -1, 1300)), COST)[str(BARS)].share == 0 for seed in range(WORLDS))


def test_copies_of_one_symbol_are_no_further_evidence():
    "Twenty columns that say and do the same are one: the error must not shrink with their number."
    moves, expected = market(3, 1, 1300)
    alone = record(moves.iloc[:, :1], expected.iloc[:, :1])
    names = [f"C{i}" for i in range(20)]
    copies = record(*(frame.iloc[:, [0] * 20].set_axis(names, axis=1) for frame in (moves, expected)))
    one, many = (measure_skill(held, COST)[str(BARS)] for held in (alone, copies))
    assert many.error == pytest.approx(one.error, rel=1e-6) and many.gain == pytest.approx(one.gain, rel=1e-6)


def test_the_error_is_that_of_independent_worlds():
    "The stated standard error of the gain holds against the spread of gains over worlds."
    found = [measure_skill(record(*market(seed, 1, 1300)), 0.0)[str(BARS)] for seed in range(40)]
    spread = np.std([s.gain for s in found], ddof=1)
    assert 0.75 < np.mean([s.error for s in found]) / spread < 1.35
    assert abs(np.mean([s.gain for s in found]) - 1) < 3 * spread / 40**0.5


def test_dearer_trading_lets_less_of_a_forecast_count():
    held = record(*market(0, 1, 1300))
    shares = [measure_skill(held, cost)[str(BARS)].share for cost in (0.0, 0.0015, 0.01)]
    assert shares[0] > shares[1] > shares[2] == 0
