"Each rule of the cleaner, of the gaps and of the anomalies at its threshold: the last bar that is left alone and the first that is not."

import numpy as np
import pandas as pd
import pytest

from trading.core.bars import bars_from
from trading.core.errors import BadInput
from trading.data.anomalies import find_anomalies
from trading.data.clean import CleaningRules, clean_bars, clean_frame
from trading.data.gaps import find_gaps, quality

FIRST = pd.Timestamp("2024-01-01", tz="UTC")  # a Monday
NOTHING = CleaningRules(ticks=0, wicks=0)


def frame(rows, first=FIRST, freq="D", **fields):
    return pd.DataFrame(fields, pd.date_range(first, periods=rows, freq=freq), dtype=float)


def flat(rows=60, **change):
    "Make bars that stand still at 100 with wicks of 0.1 %; a change is field=(row, value)."
    out = frame(rows, open=100, high=100 * np.exp(0.001), low=100 * np.exp(-0.001), close=100, volume=5)
    for field, (row, value) in change.items():
        out.loc[out.index[row], field] = value
    return out


def found(bars, rules=None):
    _, repairs = clean_frame(bars, "A", rules)
    return [(bars.index.get_loc(r.timestamp), r.field, r.rule) for r in repairs.itertuples()]


@pytest.mark.parametrize("field, value, bad", [
    ("close", 0.0, ["close"]), ("open", -1.0, ["open"]), ("low", 0.0, ["low"]), ("close", 99.95, []), ("volume", 0.0, []),
    ("volume", -0.1, ["volume"]),
    ("volume", np.inf, ["volume"]), ("high", np.inf, ["high"]), ("low", -np.inf, ["low"]), ("high", 100.0, []), ("low", 100.0, []),
    ("high", 100 * (1 - 5e-10), []), ("high", 100 * (1 - 2e-9), ["high"]), ("low", 100 * (1 + 5e-10), []), ("low", 100 * (1 + 2e-9), ["low"]),
    ("high", 99.5, ["high", "low"]), ("low", 100.5, ["high", "low"]), ("close", np.nan, []), ("close", 100.2, ["high"]), ("open", 99.8, ["low"]),
    ("open", 100.2, ["high"]), ("close", 99.8, ["low"])])
def test_values_that_no_market_can_have_produced(field, value, bad):
    bars = flat(**{field: (30, value)})
    assert found(bars, NOTHING) == [(30, f, "impossible") for f in bad]
    assert found(bars, CleaningRules(impossible=False, ticks=0, wicks=0)) == []


def test_a_bad_close_does_not_condemn_the_high_and_the_low():
    bars = flat(close=(30, np.inf))
    assert found(bars, NOTHING) == [(30, "close", "impossible")]
    close_only = bars[["close", "volume"]]
    assert found(close_only, NOTHING) == [(30, "close", "impossible")] and found(bars[["open", "low", "close"]].assign(low=101.0),
        NOTHING)[0] == (0, "low", "impossible")


def prices(logs):
    return pd.DataFrame({"close": 100 * np.exp(logs)}, pd.date_range(FIRST, periods=len(logs)))


def zigzag(step, spike, rows=81, at=41, back=None):
    "Move up and down by a step each bar, but for one bar that leaves by `spike` and returns by `back`."
    logs = step * (np.arange(rows) % 2)
    logs[at] = logs[at - 1] + spike
    if back is not None:
        logs[at + 1:] += logs[at] - back - logs[at + 1]
    return prices(logs)


@pytest.mark.parametrize("bars, rules, hit", [
    (zigzag(0.01, 0.1201), {}, True), (zigzag(0.01, 0.1199), {}, False), (zigzag(0.01, -0.1301, at=42), {}, True),
    (zigzag(0.01, 0.0601), {"ticks": 6.0}, True),
    (zigzag(0.01, 0.0599), {"ticks": 6.0}, False), (zigzag(0.01, 0.5), {"ticks": 0.0}, False),
    (zigzag(0.0001, 0.0051), {}, True), (zigzag(0.0001, 0.0049), {}, False), (zigzag(0.0001, 0.0049), {"floor": 0.004}, True),
    (zigzag(0.01, 0.3, back=0.3), {}, True), (zigzag(0.01, 0.3, back=0.225), {}, True), (zigzag(0.01, 0.3, back=0.22), {}, False),
    (zigzag(0.01, 0.3, back=0.4), {}, True), (zigzag(0.01, 0.3, back=0.41), {}, False), (zigzag(0.01, 0.3, back=-0.3), {}, False),
    (zigzag(0.01, 0.5, rows=8, at=4), {}, True), (zigzag(0.01, 0.5, rows=7, at=3), {}, False), (zigzag(0.01, 0.5, rows=9, at=1), {}, True),
    (zigzag(0.01, 0.5, rows=81, at=79), {}, True)],
    ids=str)
def test_a_close_that_leaves_and_returns_by_twelve_times_the_usual_is_a_bad_tick(bars, rules, hit):
    rules, at = CleaningRules(**rules), {81: 41, 8: 4, 7: 3, 9: 1}[len(bars)]
    at = int(np.argmax(np.abs(np.log(bars["close"].to_numpy() / 100)))) if hit else at
    assert found(bars, rules) == ([(at, "close", "tick")] if hit else [])


def test_a_neighbourhood_with_one_large_move_in_five_allows_larger_spikes():
    steps = np.where(np.arange(81) % 5 == 0, 0.03, 0.001 * (-1.0) ** np.arange(81))
    steps[41:43] = 0  # the usual moves are 0.001, the ninth decile is 0.03, and a third of that times twelve is 0.12
    for spike, hit in ((0.125, True), (0.115, False)):
        logs = np.cumsum(steps)
        logs[41] += spike
        assert found(prices(logs)) == ([(41, "close", "tick")] if hit else [])


def test_a_window_of_five_looks_at_five_bars_on_either_side_only():
    logs = 0.01 * (np.arange(81) % 2)
    logs[:30] *= 20  # wild long ago, calm for the last eleven bars
    logs[41] += 0.14
    assert found(prices(logs), CleaningRules(window=5)) == [(41, "close", "tick")]
    assert found(prices(logs), CleaningRules(window=20)) == []
    for bad in ({"window": 4}, {"ticks": -0.1}, {"wicks": -0.1}):
        with pytest.raises(BadInput, match="window must be at least 5, ticks and wicks at least 0"):
            CleaningRules(**bad)


@pytest.mark.parametrize("field, neighbour, confirmed", [
    ("close", (31, "open", 140), True), ("close", (31, "open", 115), False), ("close", None, False), ("open", (29, "close", 140), True),
    ("open", None, False)])
def test_a_tick_that_its_neighbour_confirms_is_left_alone(field, neighbour, confirmed):
    bars = zigzag(0.001, 0.001, rows=61, at=41)
    bars = pd.DataFrame({"open": bars["close"].shift(1).bfill(), "close": bars["close"]})
    bars.loc[bars.index[30], field] = 140
    if neighbour:
        bars.loc[bars.index[neighbour[0]], neighbour[1]] = neighbour[2]
    hits = found(bars)
    assert ((30, field, "tick") in hits) != confirmed
    assert not (confirmed and hits)


@pytest.mark.parametrize("field, out, rules, hit", [
    ("high", 0.041, {}, True), ("high", 0.039, {}, False), ("low", 0.041, {}, True), ("low", 0.039, {}, False),
    ("high", 0.079, {"wicks": 80.0}, False),
    ("high", 0.081, {"wicks": 80.0}, True), ("high", 0.5, {"wicks": 0.0}, False), ("low", 0.021, {"wicks": 20.0}, True),
    ("low", 0.019, {"wicks": 10.0}, False)])
def test_a_wick_of_forty_times_the_usual_is_cut(field, out, rules, hit):
    bars = flat(**{field: (30, 100 * np.exp(out if field == "high" else -out))})
    assert found(bars, CleaningRules(**rules)) == ([(30, field, "wick")] if hit else [])


@pytest.mark.parametrize("usual, often, out, hit", [
    (0.0, 0.0, 0.021, True), (0.0, 0.0, 0.019, False), (0.001, 0.015, 0.125, True), (0.001, 0.015, 0.115, False), (0.1, 0.1, 0.91, True),
    (0.1, 0.1, 0.89, False),
    (0.12, 0.12, 0.95, False), (0.115, 0.115, 0.95, True)])
def test_wicks_are_measured_against_the_median_and_the_ninth_decile_of_their_neighbourhood(usual, often, out, hit):
    size = np.where(np.arange(60) % 5 == 0, often, usual)
    size[30] = out
    for field, sign in (("high", 1), ("low", -1)):
        bars = frame(60, open=100, close=100).assign(**{field: 100 * np.exp(sign * size)})
        assert found(bars) == ([(30, field, "wick")] if hit else [])


def test_the_body_of_a_bar_reaches_from_the_lower_to_the_higher_of_open_and_close():
    bars = frame(60, open=100, close=110, high=110 * np.exp(0.001), low=100 * np.exp(-0.001))
    assert found(bars) == []
    bars.loc[bars.index[30], "high"] = 110 * np.exp(0.041)
    bars.loc[bars.index[31], "low"] = 100 * np.exp(-0.041)
    assert found(bars) == [(30, "high", "wick"), (31, "low", "wick")] == found(bars.rename(columns={"open": "close", "close": "open"})[["open",
        "high", "low", "close"]])
    assert found(bars[["high", "low"]]) == []  # without a body there is no wick


# ---- rows and the table of repairs


def two(**more):
    return bars_from({"A": frame(3, open=[1, 2, 3], close=[1, 2, 3], **more), "B": frame(3, open=[4, 5, 6], close=[4, np.nan, 6])})


def test_of_two_rows_with_one_time_the_later_stays_and_what_differed_is_listed():
    bars = two()
    other = bars.iloc[[1]].copy()
    other.loc[:, ("close", "A")], other.loc[:, ("close", "B")] = 9.0, 8.0
    cleaned, repairs = clean_bars(pd.concat([other, bars.iloc[[2, 0, 1]]]).tz_convert("Asia/Tokyo"), rules=NOTHING)
    assert cleaned.equals(bars) and str(cleaned.index.tz) == "UTC" and cleaned.index.name == "timestamp"
    assert [tuple(r) for r in repairs.drop(columns="timestamp").itertuples(index=False)] == [
        ("A", "close", 9.0, 2.0, "duplicate"), ("B", "close", 8.0, pytest.approx(np.nan, nan_ok=True), "duplicate")]
    assert set(repairs["timestamp"]) == {bars.index[1]} and repairs["timestamp"].dt.unit == "us"
    same, listed = clean_bars(pd.concat([bars, bars.iloc[[1]]]), rules=NOTHING)
    assert same.equals(bars) and listed[["symbol", "field", "rule"]].to_numpy().tolist() == [["A", "row", "duplicate"]] and listed[["old",
        "new"]].isna().all(axis=None)
    kept, listed = clean_bars(pd.concat([bars, bars.iloc[[1]]]), rules=CleaningRules(duplicates=False, ticks=0, wicks=0))
    assert len(kept) == 4 and listed.empty


def test_bars_without_dirt_come_back_as_they_are_with_an_empty_table():
    bars = two()
    for rules in (None, NOTHING):
        cleaned, repairs = clean_bars(bars, rules=rules)
        assert cleaned is bars and list(repairs.columns) == ["timestamp", "symbol", "field", "old", "new", "rule"] and repairs.empty
    one = flat(30)
    cleaned, repairs = clean_frame(one.assign(extra=1.0), "A")
    assert cleaned.equals(one) and list(repairs.columns) == ["timestamp", "symbol", "field", "old", "new", "rule"]
    assert clean_bars(bars.iloc[:0])[0].empty
    odd = bars.rename(columns={"open": "bid", "close": "ask"}, level=0)
    assert clean_bars(odd)[0] is odd


def test_repairs_of_several_symbols_are_sorted_and_keep_the_value_that_was():
    bars = bars_from({"B": flat(30, close=(20, -1.0), volume=(5, -2.0)), "A": flat(30, close=(20, 0.0), open=(20, -3.0))})
    cleaned, repairs = clean_bars(bars)
    day = bars.index
    assert [tuple(r) for r in repairs.drop(columns="new").itertuples(index=False)] == [
        (day[5], "B", "volume", -2.0, "impossible"), (day[20], "A", "close", 0.0, "impossible"), (day[20], "A", "open", -3.0, "impossible"),
        (day[20], "B", "close", -1.0, "impossible")]
    assert repairs["new"].isna().all() and cleaned.isna().sum().sum() == 4 and cleaned.columns.equals(bars.columns)
    assert np.isnan(cleaned.loc[day[20], ("open", "A")]) and bars.loc[day[20], ("open", "A")] == -3.0  # what was given is not changed


def test_a_symbol_that_lacks_whole_bars_is_judged_on_those_that_it_has():
    sparse = zigzag(0.01, 0.5, rows=41, at=21)
    sparse.index = pd.date_range(FIRST, periods=41, freq="2D")  # every other day of B
    bars = bars_from({"A": sparse, "B": zigzag(0.01, 0.01, rows=81)})
    _, repairs = clean_bars(bars)
    assert repairs[["symbol", "field", "rule"]].to_numpy().tolist() == [["A", "close", "tick"]] and repairs["timestamp"][0] == sparse.index[21]
    alone, listed = clean_frame(sparse, "A")
    assert listed["timestamp"].tolist() == [sparse.index[21]] and alone["close"].isna().sum() == 1
    holes = sparse.reindex(pd.date_range(FIRST, periods=81))
    assert clean_frame(holes, "A")[1]["timestamp"].tolist() == [sparse.index[21]]


@pytest.mark.parametrize("bad, says", [
    (flat(3), "two column levels"), (two().tz_localize(None), "the times have no zone"), (two().reset_index(drop=True), "the times have no zone"),
    (two().set_axis(pd.DatetimeIndex(["2024-01-01", None, "2024-01-02"], tz="UTC")), "a time is missing at row 1")])
def test_rows_that_cannot_be_sorted_are_refused(bad, says):
    with pytest.raises(BadInput, match=says):
        clean_bars(bad)
    with pytest.raises(BadInput, match="the time frame 'x' is unknown"):
        clean_bars(two(), "x")


# ---- gaps and quality


def days(*dates, symbol="A", freq="D", first="2024-01-01", last="2024-03-31", keep=None):
    "Make closes on every date of a span but for some."
    index = pd.date_range(first, last, freq=freq, tz="UTC").difference(pd.DatetimeIndex(list(dates), tz="UTC") if dates else [])
    return pd.DataFrame({"close": 1.0}, index if keep is None else index[keep(index)])


def weekdays(i):
    return i.day_of_week < 5


def gaps(frames, timeframe="1d", calendar="auto"):
    table = find_gaps(bars_from(frames), timeframe, calendar)
    assert list(table.columns) == ["symbol", "start", "end", "bars"] and table["start"].dt.unit == "us"
    return [(r.symbol, f"{r.start:%m-%d %H}", f"{r.end:%m-%d %H}", r.bars) for r in table.itertuples()]


def test_a_market_that_never_closes_lacks_every_missing_day():
    coin = days("2024-01-05", "2024-01-06", "2024-01-08", "2024-02-14")
    expected = [("A", "01-05 00", "01-06 00", 2), ("A", "01-08 00", "01-08 00", 1), ("A", "02-14 00", "02-14 00", 1)]
    assert gaps({"A": coin}) == gaps({"A": coin}, calendar="24/7") == expected
    assert gaps({"A": days()}) == [] and gaps({"A": days(), "B": days(first="2024-02-01",
        last="2024-02-20")}) == []  # before the first bar nothing lacks
    share = days(keep=weekdays)
    assert gaps({"A": share}, calendar="24/7")[:2] == [("A", "01-06 00", "01-07 00", 2), ("A", "01-13 00", "01-14 00", 2)]
    with pytest.raises(BadInput, match="calendar 'XNYZ'"):
        find_gaps(bars_from({"A": coin}), calendar="XNYZ")


def test_a_few_weekend_bars_do_not_make_a_market_that_never_closes():
    saturdays = days(keep=lambda i: weekdays(i) | (i.day_of_week == 5))  # one bar in six lies on a weekend, more than a seventh
    assert len(gaps({"A": saturdays})) == 12  # every Sunday
    for saturday, closes in ((10, True), (11, False)):  # beside 65 weekdays: 10 of 75 are less than a seventh, 11 of 76 more
        some = days(keep=lambda i, n=saturday: weekdays(i) | ((i.day_of_week == 5) & (np.cumsum(i.day_of_week == 5) <= n)))
        assert (gaps({"A": some}) == []) == closes


def test_shares_are_held_against_one_another():
    holiday = "2024-01-17"
    frames = {s: days(holiday, keep=weekdays) for s in "ABC"}
    assert gaps(frames) == []
    frames["B"] = days(holiday, "2024-02-07", "2024-02-08", "2024-02-12", keep=weekdays)
    assert gaps(frames) == [("B", "02-07 00", "02-08 00", 2), ("B", "02-12 00", "02-12 00", 1)]
    frames["C"] = days(holiday, "2024-02-07", keep=weekdays)  # now one of two peers has a bar then, which is half of them
    assert gaps(frames) == [("B", "02-07 00", "02-08 00", 2), ("B", "02-12 00", "02-12 00", 1), ("C", "02-07 00", "02-07 00", 1)]
    frames["D"] = days(holiday, "2024-02-07", keep=weekdays)  # one of three is not
    assert ("B", "02-08 00", "02-08 00", 1) in gaps(frames) and not any("02-07" in g[1] for g in gaps(frames))
    short = {"A": days(keep=weekdays), "B": days("2024-01-10", keep=weekdays), "C": days(first="2024-02-01", keep=weekdays)}
    assert gaps(short) == []  # on 10 January a single peer was alive, which proves nothing
    none = {**{s: days(keep=weekdays) for s in "AB"}, "C": days("2024-01-10", keep=weekdays), "D": days(keep=weekdays) * np.nan}
    assert gaps(none) == [("C", "01-10 00", "01-10 00", 1)]


def test_one_share_alone_is_held_against_its_own_habit():
    assert gaps({"A": days("2024-01-17", keep=weekdays)}) == []  # a single day: a holiday
    assert gaps({"A": days("2024-01-17", "2024-01-18", keep=weekdays)}) == [("A", "01-17 00", "01-18 00", 2)]
    hours = days(freq="h", keep=lambda i: weekdays(i) & (i.hour >= 14) & (i.hour < 21))
    assert gaps({"A": hours}, "1h") == []
    some = hours.drop(pd.to_datetime(["2024-01-17 15:00", "2024-01-17 16:00"], utc=True))
    assert gaps({"A": some}, "1h") == [("A", "01-17 15", "01-17 16", 2)]
    assert gaps({"A": hours[hours.index.normalize() != "2024-01-17"]}, "1h") == []
    coin = days("2024-01-17", "2024-01-25", "2024-01-26")
    assert gaps({"A": coin}, calendar="observed") == [("A", "01-25 00", "01-26 00", 2)]


def test_weekly_and_four_hour_bars():
    weekly = days(freq="W-MON").drop(pd.Timestamp("2024-02-05", tz="UTC"))
    assert gaps({"A": weekly}, "1w") == [("A", "02-05 00", "02-05 00", 1)]
    four = days(freq="4h", last="2024-01-20").drop(pd.to_datetime(["2024-01-06 04:00", "2024-01-06 08:00"], utc=True))
    assert gaps({"A": four}, "4h") == [("A", "01-06 04", "01-06 08", 2)]


def test_quality_of_three_symbols_in_literals():
    a, b = days("2024-01-05", "2024-01-06", "2024-01-08", last="2024-01-20").assign(volume=1.0), days(first="2024-01-11", last="2024-01-20")
    bars = bars_from({"A": a, "B": b, "C": b * np.nan})
    table = quality(bars, pd.Timestamp("2024-01-22 12:00", tz="UTC"))
    assert table["bars"].to_dict() == {"A": 17, "B": 10, "C": 0} and table["missing"].to_dict() == {"A": 3, "B": 0, "C": 0}
    assert table["missing_share"].to_dict() == {"A": 0.15, "B": 0.0, "C": 0.0} and table["longest_gap"].to_dict() == {"A": 2, "B": 0, "C": 0}
    assert table.loc["A", ["first", "last"]].tolist() == [pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-01-20", tz="UTC")]
    assert table.loc["B", "first"] == pd.Timestamp("2024-01-11", tz="UTC") and table.loc["C", ["first", "last"]].isna().all()
    assert table["stale_days"].to_list()[:2] == [1.5, 1.5] and np.isnan(table.loc["C", "stale_days"])
    assert table["fields"].to_dict() == {"A": "close volume", "B": "close", "C": "close"} and table.index.name == "symbol"
    assert quality(bars, pd.Timestamp("2024-01-22", tz="UTC"), "1w").loc["A", "stale_days"] == -5.0


# ---- anomalies


def walk(jump=None, rows=60, at=30, still=0):
    logs = np.cumsum(np.resize([0.01, -0.006, 0.003, -0.012, 0.007, -0.002], rows))
    if jump is not None:
        logs[at:] += jump
    close = 100 * np.exp(logs)
    close[40:40 + still] = close[min(40, rows - 1)]
    return bars_from({"A": pd.DataFrame({"close": close}, pd.date_range(FIRST, periods=rows))})


@pytest.mark.parametrize("factor, text", [(1 / 2, "2:1 split"), (1 / 3, "3:1 split"), (2 / 3, "3:2 split"), (1 / 4, "4:1 split"),
                                          (1 / 20, "20:1 split"),
                                          (1 / 100, "100:1 split"), (2, "2:1 reverse split"), (10, "10:1 reverse split")])
def test_a_jump_of_the_size_of_a_split_is_called_one(factor, text):
    table = find_anomalies(walk(np.log(factor)))
    assert table[["symbol", "rule"]].to_numpy().tolist() == [["A", "split"]] and table["timestamp"][0] == FIRST + pd.Timedelta(days=30)
    assert table["reason"][0].endswith(f"the size of a {text}") and table["value"][0] == pytest.approx(walk(np.log(factor))["close"]["A"].iloc[30])


def test_other_jumps_are_outliers_from_fifteen_times_the_usual_on():
    moves = np.log(walk()["close"]["A"]).diff().dropna()
    scale = 1.4826 * (moves - moves.median()).abs().median()
    here = np.log(walk()["close"]["A"]).diff().iloc[30] - moves.median()
    for times, score, hit in ((15.2, 15.0, True), (14.8, 15.0, False), (10.2, 10.0, True), (9.8, 10.0, False)):
        table = find_anomalies(walk(times * scale - here), score)
        assert (table["rule"].tolist() == ["outlier"]) == hit and (not hit or f"{times:.0f} times the usual" in table["reason"][0])


@pytest.mark.parametrize("calm, size, rule", [
    (1, np.log(2) + 0.059, "split"), (1, np.log(2) + 0.061, "outlier"), (1, np.log(1.5) - 0.05, "split"), (1, np.log(1.5) - 0.058, "outlier"),
    (0.1, np.log(2) + 0.019, "split"), (0.1, np.log(2) + 0.021, "outlier"), (0.5, np.log(2) - 0.029, "split"), (0.5, np.log(2) - 0.0305, "outlier")])
def test_how_near_to_a_split_a_jump_must_be(calm, size, rule):
    "Within eight times the usual move (0.0074 times `calm`), at least 0.02 and at most 0.06, and by more than 0.35."
    logs = np.log(walk()["close"]["A"]) * calm
    logs.iloc[30:] += -size - logs.diff().iloc[30]
    assert find_anomalies(bars_from({"A": np.exp(logs).to_frame("close")}))["rule"].tolist() == [rule]


def test_the_same_close_ten_times_is_stale():
    for still, named in ((10, ["stale"]), (9, [])):
        table = find_anomalies(walk(still=still))
        assert table["rule"].tolist() == named
    assert table.empty and list(table.columns) == ["timestamp", "symbol", "value", "rule", "reason"]
    table = find_anomalies(walk(still=10), still=10)
    assert table["timestamp"][0] == FIRST + pd.Timedelta(days=40) and table["reason"][0] == "the same close 10 times, until 2024-02-19 00:00"
    assert len(find_anomalies(walk(still=4), still=4)) == 1 and find_anomalies(walk(still=10).iloc[:10], still=2).empty
    assert find_anomalies(walk(np.log(0.5), rows=11, at=5))["rule"].tolist() == ["split"] and find_anomalies(walk(np.log(0.5), rows=10, at=5)).empty


@pytest.mark.parametrize("bad", [{"score": 0}, {"still": 1}, {"forest": 0.5}, {"forest": -0.1}])
def test_questions_that_make_no_sense_are_refused(bad):
    find_anomalies(walk(), still=2, score=0.1)
    with pytest.raises(BadInput, match="score must be above 0, still at least 2"):
        find_anomalies(walk(), **bad)


def test_the_forest_names_its_share_of_the_bars_and_the_planted_one_among_them():
    rng = np.random.default_rng(0)
    close = 100 * np.exp(rng.normal(0, 0.01, 200).cumsum())
    full = pd.DataFrame({"close": close, "high": close * 1.01, "low": close * 0.99, "volume": rng.uniform(90, 110, 200)},
                        pd.date_range(FIRST, periods=200))
    full.iloc[120, 1] *= 1.3
    full.iloc[150, 3] *= 50
    table = find_anomalies(bars_from({"A": full}), forest=0.02)
    assert {full.index[120], full.index[150]} <= set(table["timestamp"]) and set(table["rule"]) == {"forest"} and 3 <= len(table) <= 5
    assert find_anomalies(bars_from({"A": full})).empty
    assert find_anomalies(bars_from({"A": full.iloc[:59]}), forest=0.02).empty  # 49 complete rows are too few
