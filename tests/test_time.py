"""Time is time: years are elapsed, bars are held against their time frame, and every symbol has its own calendar."""

import numpy as np
import pandas as pd
import pytest

from trading.backtest.engine import FIGURES, backtest
from trading.backtest.strategies import MaCross
from trading.backtest.sweep import sweep
from trading.core.bars import bars_from_close, check_timeframe, with_timeframe
from trading.core.calendars import bars_a_year, calendar_bars_a_year, expected_bars, price_age, sessions
from trading.core.errors import BadInput
from trading.core.settings import load_settings
from trading.data.gaps import find_gaps
from trading.risk import metrics

DAY = pd.Timedelta(days=1)


def utc(text):
    return pd.Timestamp(text, tz="UTC")


def walk(index, seed=0, drift=0.0005):
    "Closes of two symbols on given times."
    steps = np.random.default_rng(seed).normal(drift, 0.01, (len(index), 2))
    return bars_from_close(pd.DataFrame(100 * np.exp(np.cumsum(steps, axis=0)), index, ["A", "B"]))


def every_day(start, end, *weekdays):
    days = pd.date_range(start, end, tz="UTC")
    return days[np.isin(days.day_of_week, weekdays)] if weekdays else days


IRREGULAR = {
    "gold with Sunday sessions and holidays": every_day("2006-03-20", "2016-12-30", 0, 1, 2, 3, 4, 6).delete(np.arange(50, 3040, 36)),
    "a coin with a hole of three years": every_day("2020-01-01", "2021-01-15").append(every_day("2023-07-13", "2024-06-30")),
    "three days": pd.date_range("2015-01-01", periods=600, freq="3D", tz="UTC"),
    "weeks": pd.date_range("2015-01-02", periods=300, freq="7D", tz="UTC"),
    "months": pd.date_range("2000-01-01", periods=120, freq="MS", tz="UTC"),
    "quarters": pd.date_range("2000-01-01", periods=60, freq="QS", tz="UTC"),
    "hours of a stock exchange": expected_bars("XNYS", "1h", utc("2021-01-04"), utc("2022-01-04")),
    "hours round the clock": pd.date_range("2021-01-01", periods=5000, freq="h", tz="UTC"),
    "random times": pd.DatetimeIndex(np.sort(np.random.default_rng(5).choice(pd.date_range("2018", periods=20000, freq="h", tz="UTC"), 900, False))),
}


@pytest.mark.parametrize("kind", IRREGULAR)
def test_annual_figures_follow_from_elapsed_days(kind):
    index = IRREGULAR[kind]
    bars = walk(index)[[("close", "A")]]
    tested = backtest(bars, signals=pd.Series(1, index), fees=0.0)
    days = (index[-1] - index[0]) / DAY
    count, grown = (len(index) - 1) / (days / 365.25), tested.equity.iloc[-1] / 10_000
    assert tested.periods == pytest.approx(count, rel=1e-12) and tested.stats["periods"] == tested.periods
    assert tested.stats["annual_return"] == pytest.approx(grown ** (365.25 / days) - 1, rel=1e-9)
    assert tested.stats["volatility"] == pytest.approx(tested.returns.std() * count**0.5, rel=1e-9)
    assert tested.stats["sharpe"] == pytest.approx(tested.returns.mean() / tested.returns.std() * count**0.5, rel=1e-9)
    assert tested.stats["calmar"] == pytest.approx(tested.stats["annual_return"] / -tested.stats["max_drawdown"], rel=1e-9)


def test_gold_counts_305_days_a_year_and_a_hole_is_waited_for():
    assert bars_a_year(IRREGULAR["gold with Sunday sessions and holidays"]) == pytest.approx(305, abs=1)
    hole = IRREGULAR["a coin with a hole of three years"]
    assert (1 + metrics.annual_return(pd.Series(np.r_[0.0, np.full(len(hole) - 1, 2 ** (1 / (len(hole) - 1)) - 1)], hole))) == pytest.approx(
        2 ** (365.25 / (len(hole) / (len(hole) - 1) * 1642)), rel=1e-6)
    assert bars_a_year(IRREGULAR["three days"]) == pytest.approx(121.75) and bars_a_year(IRREGULAR["quarters"]) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("kind", ["gold with Sunday sessions and holidays", "a coin with a hole of three years", "three days"])
def test_the_sweeps_kernel_annualises_as_the_backtest_does(kind):
    bars = walk(IRREGULAR[kind])[[("close", "A")]]
    row = sweep(bars, MaCross(), {"fast": [5], "slow": [20]}, FIGURES, register=False).iloc[0]
    alone = backtest(bars, MaCross(5, 20)).stats
    for name in ("annual_return", "volatility", "sharpe", "calmar", "turnover"):
        assert row[name] == pytest.approx(alone[name], rel=1e-9), name


def test_a_calendar_says_how_many_bars_a_year_has():
    assert [round(calendar_bars_a_year(c, t), 1) for c, t in (("24/7", "1d"), ("24/7", "1h"), ("24/7", "5m"), ("24/5", "1d"), ("24/7", "3d"))] == [
        365.2, 8766.0, 105192.0, 260.9, 121.8]
    assert calendar_bars_a_year("XNYS", "1d") == pytest.approx(251.6, abs=0.5)  # 2,516 sessions from 2010 to 2019
    assert bars_a_year(pd.date_range("2024-01-01", periods=48, freq="h", tz="UTC"), "1h", "24/7") == 8766  # two days do not show a weekend


@pytest.mark.parametrize("claim, real", [
    ("1d", "MS"), ("1h", "5min"), ("1d", "1h"), ("5m", "1h"), ("1m", "5min"), ("1h", "1D"), ("1d", "7D"), ("1w", "1D"),
                                         ("4h", "1h"), ("30m", "15min")])
def test_a_time_frame_that_the_bars_contradict_is_refused(claim, real):
    frame = walk(pd.date_range("2020-01-01", periods=60, freq=real, tz="UTC"))
    with pytest.raises(BadInput, match=f"called {claim}, but they stand .* apart"):
        check_timeframe(frame, claim)
    frame.attrs["timeframe"] = claim
    with pytest.raises(BadInput, match=f"called {claim}"):
        backtest(frame, signals=pd.DataFrame(1, frame.index, ["A", "B"]))


def test_absent_bars_and_changed_clocks_contradict_nothing():
    rng = np.random.default_rng(1)
    five = pd.date_range("2020-01-01", periods=20_000, freq="5min", tz="UTC")
    check_timeframe(walk(five[np.sort(rng.choice(20_000, 2400, False))]), "5m")  # one bar in eight
    new_york = pd.date_range("2024-01-01 17:00", periods=300, freq="D", tz="America/New_York").tz_convert("UTC")
    check_timeframe(walk(new_york), "1d")
    check_timeframe(walk(expected_bars("XNYS", "1h", utc("2024-01-01"), utc("2024-02-01"))), "1h")
    check_timeframe(walk(pd.date_range("2020-01-01", periods=50, freq="D", tz="UTC")[::2]), "2d")
    apart = pd.concat([walk(five[:600:12])[[("close", "A")]], walk(five[6:600:12])[[("close", "B")]]], axis=1).sort_index()
    with_timeframe(apart, "1h")  # two symbols whose hours begin at other minutes


def test_gaps_of_named_calendars():
    days = expected_bars("XNYS", "1d", utc("2023-11-01"), utc("2024-01-31"))
    assert find_gaps(walk(days), calendar="XNYS").empty  # Thanksgiving, Christmas, New Year and Martin Luther King's day are no gaps
    holed = walk(days).drop(days[[10, 11]])
    assert find_gaps(holed, calendar="NYSE")[["symbol", "bars"]].values.tolist() == [["A", 2], ["B", 2]]
    hours = expected_bars("XNYS", "1h", utc("2023-11-20"), utc("2023-12-01"))
    assert len(hours) == 7 * 7 + 4 + 7 - 7 and find_gaps(walk(hours), "1h", "XNYS").empty  # the day after Thanksgiving ends at 13:00
    sundays = expected_bars("forex", "1d", utc("2024-01-01"), utc("2024-03-31"), pd.DatetimeIndex([utc("2023-12-31 22:00")]))
    assert find_gaps(walk(sundays), calendar="forex").empty and sundays.hour.unique().tolist() == [22, 21]  # New York's clock
    mixed = bars_from_close(pd.DataFrame({"BTC": 1.0, "EUR": 1.0}, every_day("2024-01-01", "2024-01-31")).where(
        lambda f: f.notna()).assign(EUR=lambda f: f["EUR"].where(f.index.day_of_week < 5)))
    assert find_gaps(mixed, calendar={"BTC": "24/7", "EUR": "24/5"}).empty
    assert find_gaps(mixed, calendar="24/7")["symbol"].unique().tolist() == ["EUR"]
    with pytest.raises(BadInput, match="calendar 'XNYC' is unknown; did you mean 'XNYS'"):
        find_gaps(mixed, calendar="XNYC")


def test_sessions_close_early_and_follow_the_clocks():
    table = sessions("XNYS", utc("2024-07-01"), utc("2024-07-08"))
    assert [f"{c:%d %H:%M}" for c in table["close"]] == ["01 20:00", "02 20:00", "03 17:00", "05 20:00"]
    weekly = sessions("forex", utc("2024-03-01"), utc("2024-04-01"))["open"]
    assert set(weekly[weekly.dt.day_of_week == 6].dt.hour) == {22, 21}
    assert price_age("forex", "1h", utc("2024-01-05 21:00"), utc("2024-01-07 22:30")) == pd.Timedelta(hours=1)
    assert price_age("24/7", "1h", utc("2024-01-05 21:00"), utc("2024-01-07 22:30")) == pd.Timedelta(hours=48.5)


def test_the_setting_is_a_calendar_and_no_longer_a_number():
    with pytest.raises(BadInput, match="periods_per_year"):
        load_settings(None, {"market.periods_per_year": "252"}, environ={})
    with pytest.raises(BadInput, match="XNYC.*did you mean 'XNYS'"):
        load_settings(None, {"market.calendar": "XNYC"}, environ={})
    assert load_settings(None, {"market.calendar": "nyse"}, environ={}).market.calendar == "XNYS"


@pytest.mark.parametrize("name, line, says", [
    ("daily", "61 25 * * *", "the minute '61' is not possible"), ("daily", "30 22 * * 8", "the day of the week '8' is not possible"),
    ("weekly", "a b c d e", "the minute 'a' is not possible"), ("watch", "*/0 * * * *", "not possible"), ("daily", "0 5", "has 2 fields"),
    ("daily", "0 5 31-1 * *", "day of the month '31-1'"), ("timezone", "Europe/Berln", "did you mean 'Europe/Berlin'")])
def test_an_impossible_schedule_is_refused(name, line, says):
    with pytest.raises(BadInput, match=says.replace("*", r"\*")):
        load_settings(None, {f"schedule.{name}": line}, environ={})


def test_a_possible_schedule_is_kept():
    for line in ("0,30 8-18/2 1 jan,JUL mon-fri", "*/15 * * * *", "30 2 * * 7", "59 23 31 12 sun"):
        assert load_settings(None, {"schedule.daily": line}, environ={}).schedule.daily == line
