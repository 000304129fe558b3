"How large a position is: fraction, volatility, Kelly and risk per trade against sums in literals, in a backtest, a sweep and the settings."

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import backtest
from trading.backtest.strategies import Strategy
from trading.backtest.sweep import sweep
from trading.core.errors import BadInput, BadSettings
from trading.core.settings import load_settings
from trading.pipeline.named_sleeves import size_rule, sleeve_sizes
from trading.pipeline.position_protection import within_risk
from trading.risk.sizing import SizeRule

NIL = {"fees": 0.0, "register": False}


def closes(*prices: float, **more: list) -> pd.DataFrame:
    "Bars that have closes only."
    table = {"A": list(prices)} | more
    return pd.concat({"close": pd.DataFrame(table, pd.date_range("2024-01-01", periods=len(prices), freq="D", tz="UTC"), dtype=float)}, axis=1)


def say(bars: pd.DataFrame, **wanted: list) -> pd.DataFrame:
    "Positions by symbol."
    return pd.DataFrame(wanted, bars.index)


class Given(Strategy):
    "Long in the bars whose number is not a multiple of three."

    def __init__(self, every: int = 3):
        self.every = every

    def signals(self, bars):
        return pd.DataFrame({"A": (np.arange(len(bars)) % self.every != 0).astype(int)}, bars.index)


@pytest.mark.parametrize("side", (1, -1))
def test_a_fixed_fraction_is_of_the_account_at_the_entry_long_and_short(side):
    bars = closes(100, 100, 110, 110, 50, 50)
    run = backtest(bars, signals=say(bars, A=[side, side, 0, side, side, 0]), size=0.1, cash=10_000, **NIL)
    assert list(run.units["A"][:3]) == [0, side * 10, side * 10]  # 1,000 at 100
    second = (10_000 + side * 100) * 0.1 / 50  # 10 units earned 10 each, or lost it; at 50 a tenth of that
    assert run.units["A"].iloc[4] == pytest.approx(side * second)


@pytest.mark.parametrize("side", (1, -1))
def test_one_per_cent_at_risk_with_a_stop_at_half_a_per_cent_is_twice_the_account_and_loses_one_per_cent(side):
    bars = closes(100, 100, 100, 99.5 if side > 0 else 100.5, 100, 100)
    run = backtest(bars, signals=say(bars, A=[side] * 6), risk=0.01, stop_loss=0.005, leverage=2, cash=10_000, **NIL)
    assert run.units["A"].iloc[1] == pytest.approx(side * 200) and run.trades["pnl"].iloc[0] == pytest.approx(-100)
    plain = backtest(bars, signals=say(bars, A=[side] * 6), risk=0.01, stop_loss=0.005, cash=10_000, **NIL)
    assert abs(plain.units["A"].iloc[1]) == pytest.approx(100), "an account without margin has room for half of it"
    assert any("room" in n for n in plain.notes), "and says so"


def test_a_quarter_of_kelly_follows_the_trades_that_are_closed_by_then():
    # +10 %, -5 %, +10 %: mean 0.05 and variance 0.0075, so a twentieth of Kelly's 6.667 is a third
    # after two trades mean 0.025 and variance 0.01125: a ninth
    prices = [100, 100, 110, 100, 95, 100, 110, 100, 100, 100]
    bars = closes(*prices)
    wanted = say(bars, A=[1, 0, 1, 0, 1, 0, 1, 1, 0, 0])  # filled at the next close
    run = backtest(bars, signals=wanted, kelly=0.05, kelly_trades=2, cash=9_000, **NIL)
    assert run.trades["entry_price"].tolist() == [100, 100] and list(run.units["A"][:5]) == [0] * 5, "two trades are known before anything is bought"
    assert run.units["A"].iloc[5] == pytest.approx(9_000 / 9 / 100) and run.trades["pnl"].iloc[0] == pytest.approx(100)
    assert run.units["A"].iloc[7] == pytest.approx(9_100 / 3 / 100)
    capped = backtest(bars, signals=wanted, kelly=0.05, kelly_trades=2, size_cap=0.05, cash=9_000, **NIL)
    assert capped.units["A"].iloc[5] == pytest.approx(4.5)


def test_what_loses_on_average_or_cannot_be_known_is_not_bought():
    falling = closes(*(100 * 0.99 ** np.arange(24)))
    wanted = say(falling, A=[1, 1, 0] * 8)
    assert (backtest(falling, signals=wanted, kelly=0.5, kelly_trades=3, **NIL).units["A"] == 0).all(), "a negative Kelly"
    flat = closes(*[100.0] * 30)
    assert (backtest(flat, signals=say(flat, A=[1] * 30), volatility=0.1, volatility_window=5, **NIL).units["A"] == 0).all(), "no volatility"
    rising = closes(*(100 + np.arange(30) % 4))
    early = backtest(rising, signals=say(rising, A=[1] * 30), volatility=0.1, volatility_window=40, **NIL)
    assert (early.units["A"] == 0).all() and early.notes, "no window yet, and it is said"


def test_the_future_changes_no_size_and_symbols_share_what_is_known():
    chance = np.random.default_rng(3)
    a, b = (100 * np.exp(np.cumsum(chance.normal(0.002, 0.01, 200))) for _ in range(2))
    bars = closes(*a, B=list(b))
    wanted = pd.DataFrame({"A": (np.arange(200) % 5 < 3).astype(int), "B": (np.arange(200) % 7 < 4).astype(int)}, bars.index)
    for rule in ({"kelly": 0.2, "kelly_trades": 10}, {"volatility": 0.1}):
        whole = backtest(bars, signals=wanted, **rule, **NIL)
        assert (whole.units != 0).any().all()
        other = bars.copy()
        other.iloc[150:] *= 3
        pd.testing.assert_frame_equal(backtest(other, signals=wanted, **rule, **NIL).units.iloc[:150], whole.units.iloc[:150])


def test_a_sweep_sizes_as_the_backtest_does():
    bars = closes(*(100 * np.exp(np.cumsum(np.random.default_rng(8).normal(0.003, 0.01, 300)))))
    for rule in ({"kelly": 0.2, "kelly_trades": 10}, {"volatility": 0.1}, {"size": 0.3}, {"risk": 0.01, "stop_loss": 0.02}):
        swept = sweep(bars, Given, {"every": [3, 5]}, metrics=("final",), fees=0.001, slippage=0.0, register=False, **rule)
        once = [backtest(bars, Given(n), fees=0.001, register=False, **rule).stats["final"] for n in (3, 5)]
        assert swept["final"].tolist() == pytest.approx(once), rule


def test_sizes_that_contradict_one_another_are_refused_in_one_sentence():
    bars = closes(1, 2, 3, 2, 3)
    wanted = say(bars, A=[1, 1, 0, 1, 1])

    class Own:
        def on_bar(self, account):
            account.buy(size=0.5)

    for rule, what in (
        ({"kelly": 0.5, "size": 0.1}, "size, risk, volatility and kelly"), ({"kelly": -0.5}, "kelly is -0.5"), ({"size": 1.5}, "size is 1.5"),
        ({"kelly": 0.5, "kelly_trades": 1}, "at least 2 closed"), ({"risk": 0.01}, "risk needs a stop_loss"),
        ({"risk": 0.01, "stop_loss": 0.0}, "stop_loss is 0.0"), ({"volatility": 0.0}, "volatility is 0.0"),
        ({"volatility": 0.1, "size_cap": 0}, "size_cap is 0"),
    ):
        with pytest.raises(BadInput, match=what):
            backtest(bars, signals=wanted, **rule, **NIL)
    with pytest.raises(BadInput, match="says its sizes itself"):
        backtest(bars, Own(), kelly=0.5, **NIL)


def settings(**lines: str):
    return load_settings("sample", {k.replace("__", "."): v for k, v in lines.items()}, environ={})


def test_the_settings_name_one_rule_for_all_or_for_one_sleeve():
    assert size_rule(settings()) == SizeRule() and not size_rule(settings()).any
    assert size_rule(settings(sizing__volatility="0.1", sizing__window="60")) == SizeRule(volatility=0.1, window=60)
    risky = settings(protection__stop_loss="0.05", protection__risk_per_trade="0.01")
    assert size_rule(risky).options == {"risk": 0.01}
    own = size_rule(settings(sizing__kelly="0.25", sizing__cap="0.3"), {"share": 0.3, "fraction": 0.1})
    assert own.options == {"size": 0.1}, "its own line goes first"
    for lines in ({"sizing__fraction": "0.1", "sizing__kelly": "0.5"}, {"sizing__fraction": "0"}, {"sizing__kelly": "1.5"},
                  {"sizing__volatility": "-1"}, {"sizing__fractoin": "0.1"}):
        with pytest.raises(BadSettings):
            settings(**lines)


def test_a_sleeve_keeps_its_own_size_and_a_stop_is_needed_for_a_risk():
    here = settings(strategies__mine="0.3, volatility 0.1", sizing__fraction="0.2", strategies__other="0.3",
                    strategies__risky="0.1, risk_per_trade 0.01")
    plain = {"stops": {}, "sized": {}}
    assert sleeve_sizes(here, "mine", "strategy", plain)[0] == {"volatility": 0.1, "volatility_window": 20, "size_cap": 1.0}
    assert sleeve_sizes(here, "other", "strategy", plain) == ({"size": 0.2}, "20.0% of its capital in each position")
    assert sleeve_sizes(here, "other", "strategy", plain | {"sized": "itself"}) == ({}, "")
    assert sleeve_sizes(here, "other", "strategy", plain | {"sized": {"kelly": 0.5}}) == ({}, "")
    for evidence, what in ((plain | {"sized": "itself"}, "mine says its sizes itself; take volatility out"),
                           (plain | {"sized": {"size": 0.5}}, "mine was promoted with size 0.5")):
        with pytest.raises(BadInput, match=what):
            sleeve_sizes(here, "mine", "strategy", evidence)
    with pytest.raises(BadInput, match="has no stop: set protection.stop_loss"):
        sleeve_sizes(here, "risky", "strategy", plain)
    assert sleeve_sizes(here, "risky", "strategy", plain | {"stops": {"stop_loss": 0.04}})[0] == {"risk": 0.01}
    for kind, what in (("targets", "has targets"), ("policy", "is a policy"), ("optimizer", "is an optimiser")):
        with pytest.raises(BadInput, match=what):
            sleeve_sizes(here, "mine", kind, {})
    with pytest.raises(BadInput, match="strategies.both: fraction and kelly each say"):
        sleeve_sizes(settings(strategies__both="0.3, fraction 0.1, kelly 0.5"), "both", "strategy", plain)


def test_targets_shrink_as_the_account_falls_and_grow_back():
    here, wanted = settings(sizing__drawdown="0.2"), pd.Series({"A": 0.4, "B": -0.2})
    for worth, left in (([100, 120], 1), ([100, 120, 108], 0.5), ([120, 96], 0), ([120, 60], 0), ([120, 108, 121], 1)):
        assert within_risk(wanted, here, pd.Series(worth, dtype=float)).tolist() == pytest.approx([0.4 * left, -0.2 * left]), worth
