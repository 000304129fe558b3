"The shape of bars and what an ingest asks for: each rule with the input that passes and the one that does not, each number a literal."

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from trading.core import bars as b
from trading.core.errors import BadInput, MissingData, VenueError, VenueUnreachable
from trading.data.delta_store import BarStore
from trading.data.ingest import OVERLAP, IngestReport, SampleSource, _spans, ingest, unknown_symbol

DAY = pd.date_range("2024-01-01", periods=120, tz="UTC")
STEP = pd.Timedelta(days=1)


def closes(values, **more):
    return b.bars_from_close(pd.DataFrame({"A": values, **more}, DAY[: len(values)], dtype=float))


def test_frames_become_bars_in_the_order_of_fields_and_symbols():
    one = pd.DataFrame({"close": [2.0, 1.0], "open": [4.0, 3.0], "extra": [0, 0]}, DAY[[1, 0]])
    bars = b.bars_from({"B": one, "A": pd.DataFrame({"volume": [5.0], "close": [7.0]}, DAY[[2]])})
    assert list(bars.columns) == [("open", "B"), ("close", "B"), ("close", "A"), ("volume", "A")] and bars.columns.names == ["field", "symbol"]
    assert bars["close"]["B"].tolist()[:2] == [1.0, 2.0] and bars.index.name == "timestamp" and bars.index.equals(DAY[:3].rename("timestamp"))
    assert b.symbols_of(bars) == ["B", "A"] and b.FIELDS == ("open", "high", "low", "close", "volume")
    assert b.PRICES == ("open", "high", "low", "close")
    with pytest.raises(BadInput, match="no symbols were given"):
        b.bars_from({})
    only = closes([1, 2], C=[3, 4])
    assert list(only.columns) == [("close", "A"), ("close", "C")] and only.columns.names == ["field", "symbol"] and only.index.name == "timestamp"


@pytest.mark.parametrize("index, says", [
    (pd.RangeIndex(3), "x: the index is RangeIndex, not times"), (DAY[:3].tz_localize(None), "x: the times have no zone"),
    (DAY[:3].tz_convert("Europe/Berlin"), "x: the times are in Europe/Berlin; convert"),
    (pd.DatetimeIndex(["2024-01-01", None, "2024-01-02"], tz="UTC"), "a time is missing at row 1"),
    (DAY[[0, 1, 1]], "x: the time 2024-01-02 00:00:00.00:00 occurs twice"), (DAY[[0, 2, 1]], "x: the time 2024-01-02 .* stands after 2024-01-03")])
def test_an_index_that_is_no_row_of_moments_is_refused(index, says):
    for fine in (DAY[:3], DAY[:3].tz_convert(UTC), DAY[:0]):
        b.check_index(pd.Series(0, fine))
    with pytest.raises(BadInput, match=says):
        b.check_index(pd.Series(0, index), "x")


def test_bars_are_checked_by_field_symbol_and_price():
    good = b.bars_from({s: pd.DataFrame({"open": 1.0, "close": 2.0, "volume": 0.0}, DAY[:3]) for s in "AB"})
    assert b.check_bars(good) is good and b.check_bars(good, ["open", "close"], 3, False) is good

    def spoiled(field, value):
        bars = good.copy()
        bars.iloc[1, bars.columns.get_loc((field, "B"))] = value
        return bars

    hole = spoiled("close", np.nan)
    assert b.check_bars(hole) is hole and b.check_bars(spoiled("volume", -1.0)) is not None
    assert b.check_bars(spoiled("volume", np.nan), allow_missing=False) is not None
    for bad, how, says in (
        (good["close"], {}, "two column levels"), (good.iloc[:0], {}, "the bars are empty"), (good, {"min_bars": 4}, "at least 4 are needed"),
        (good, {"need": ["high"]}, "the field 'high' is missing for A, B"),
        (good.drop(columns=("open", "B")), {"need": ["open"]}, "'open' is missing for B"),
        (good[[("close", "A"), ("close", "A")]], {}, "the column .*close.* occurs twice"),
        (spoiled("close", 0.0), {}, "B: close is 0.0 at 2024-01-02.*above zero"),
        (spoiled("open", -1.0), {}, "B: open is -1.0"), (spoiled("close", np.inf), {}, "B: close is inf .*finite"),
        (hole, {"allow_missing": False}, "B: close is nan .*missing"),
        (good.tz_localize(None), {}, "no zone"),
    ):
        with pytest.raises(BadInput, match=says):
            b.check_bars(bad, **how)
    many = b.bars_from_close(pd.DataFrame({f"S{k}": [1.0] for k in range(7)}, DAY[:1]))
    with pytest.raises(BadInput, match="missing for S0, S1, S2, S3, S4 and 2 more"):
        b.check_bars(many, ["open"])
    with pytest.raises(BadInput, match="missing for S0, S1, S2, S3, S4;"):
        b.check_bars(many.iloc[:, :5], ["open"])
    first = closes([1, 0, 2, 0], C=[1, 2, -3, -4])
    with pytest.raises(BadInput, match="A: close is 0.0 at 2024-01-02"):
        b.check_bars(first)


@pytest.mark.parametrize("text, length", [("1m", "1min"), ("15m", "15min"), ("4h", "4h"), ("1d", "1D"), ("2w", "14D"), ("10d", "10D")])
def test_time_frames(text, length):
    assert b.bar_length(text) == pd.Timedelta(length)
    for bad in ("", "d", "0d", "-1d", "1x", "1.5h", "1M", "h1"):
        with pytest.raises(BadInput, match="the time frame .* is unknown"):
            b.bar_length(bad)


def test_a_bar_is_known_from_the_moment_of_its_close():
    bars = closes([1, 2, 3])
    for moment, count in (("2024-01-01 23:59:59", 0), ("2024-01-02", 1), ("2024-01-03 12:00", 2), ("2024-01-04", 3)):
        assert len(b.closed_by(bars, pd.Timestamp(moment, tz="UTC"))) == count
    assert len(b.closed_by(bars, datetime(2024, 1, 1, 12, tzinfo=UTC), "12h")) == 1
    assert len(b.closed_by(bars, pd.Timestamp("2024-01-07", tz="UTC"), "1w")) == 0


@pytest.mark.parametrize("text, moment", [
    ("2022-12-27", datetime(2022, 12, 28, tzinfo=UTC)), ("2022-12-27T06:00Z", datetime(2022, 12, 27, 6, tzinfo=UTC)),
    ("2022-12-27T06:00", datetime(2022, 12, 27, 6, tzinfo=UTC)),
    ("2022-12-27T06:00+02:00", datetime(2022, 12, 27, 4, tzinfo=UTC)), (" 2022-12-27 ", datetime(2022, 12, 28, tzinfo=UTC)),
    ("2022-12-27 00:00", datetime(2022, 12, 27, tzinfo=UTC))])
def test_a_bare_date_means_after_its_close(text, moment):
    assert b.parse_as_of(text) == moment and b.parse_as_of(text).tzinfo is UTC
    for bad in ("yesterday-ish", "2022-13-01", "NaT", "", "03/04/2022", "24.12.2022", "20221227"):
        with pytest.raises(BadInput, match="is not a date; write it like 2022-12-27"):
            b.parse_as_of(bad)


def test_a_fingerprint_names_values_times_and_columns():
    bars = closes([1, 2, 3])
    names = {b.fingerprint(x) for x in (bars, closes([1, 2, 4]), bars.iloc[:2], bars.set_axis(DAY[1:4]), bars.rename(columns={"A": "B"}, level=1))}
    assert len(names) == 5 and b.fingerprint(bars) == b.fingerprint(bars.copy()) and all(len(n) == 16 and int(n, 16) >= 0 for n in names)


def test_last_prices_are_known_and_not_too_old():
    bars = closes([1, 2, 3, 4], C=[5, 6, np.nan, np.nan])
    assert b.last_prices(bars).to_dict() == {"A": 4, "C": 6} and b.last_prices(bars).name == "price" and b.last_prices(bars, 2 * STEP)["C"] == 6
    with pytest.raises(MissingData, match="C: the last close is of 2024-01-02.*more than 1 days"):
        b.last_prices(bars, STEP)
    with pytest.raises(MissingData, match="no close for C; ingest it"):
        b.last_prices(bars.assign().mask(bars == 5).mask(bars == 6))


# ---- what an ingest asks for


HAVE = DAY[:100]


@pytest.mark.parametrize("since, asked, spans", [
    (DAY[10], {}, [(60, None)]), (None, {"since": ""}, [(60, None)]), (None, {}, [(None, 40), (60, None)]), (DAY[0], {}, [(60, None)]),
    (DAY[0] - 5 * STEP, {}, [(-5, 40), (60, None)]), (DAY[0] - 5 * STEP, {"since": "2023-12-27T00:00:00+00:00"}, [(60, None)]),
    (DAY[0] - 5 * STEP, {"since": "2023-12-01T00:00:00+00:00"}, [(60, None)]),
    (DAY[0] - 5 * STEP, {"since": "2023-12-28T00:00:00+00:00"}, [(-5, 40), (60, None)]),
    (DAY[0] - 5 * STEP, {"since": ""}, [(60, None)])])
def test_only_what_is_missing_is_asked_for_with_forty_bars_of_overlap(since, asked, spans):
    assert OVERLAP == 40
    at = lambda k: None if k is None else DAY[0] + k * STEP  # noqa: E731
    assert _spans(HAVE, [], since, asked, STEP) == [(at(a), at(z)) for a, z in spans]


def test_holes_are_asked_for_once_and_near_ones_together():
    at = lambda k: DAY[0] + k * STEP  # noqa: E731
    far = pd.date_range("2024-01-01", periods=400, tz="UTC")
    holes = [(at(100), at(101), 2), (at(143), at(143), 1), (at(300), at(300), 1)]
    asked = {"since": ""}
    assert _spans(far, holes, None, asked, STEP) == [(at(60), at(184)), (at(260), at(341)), (at(360), None)]
    seen = {**asked, "holes": [f"{at(100).isoformat()}/{at(101).isoformat()}"]}
    assert _spans(far, holes, None, seen, STEP) == [(at(103), at(184)), (at(260), at(341)), (at(360), None)]
    apart = [(at(100), at(101), 2), (at(183), at(183), 1)]
    assert _spans(far, apart, None, asked, STEP) == [(at(60), at(142)), (at(143), at(224)), (at(360), None)]
    touching = [(at(100), at(101), 2), (at(182), at(182), 1)]
    assert _spans(far, touching, None, asked, STEP)[0] == (at(60), at(223))
    assert _spans(far[:0], [], at(5), {}, STEP) == [(at(5), None)] and _spans(far[:0], [], None, {}, STEP) == [(None, None)]
    assert _spans(far[:3], [], at(0), {}, STEP) == [(at(0), None)] and _spans(far[:3], [], at(-1), {}, STEP) == [(at(-1), at(3)), (at(0), None)]
    assert _spans(far, [(at(20), at(20), 1)], at(-5), {}, STEP) == [(at(-5), at(61)), (at(360), None)]  # the hole lies within what is asked anyway


class Source:
    "A venue of daily closes that writes down what it was asked."

    name = "hand"

    def __init__(self, **columns):
        self.frames, self.asked, self.broken = columns, [], {}

    def fetch_ohlcv(self, symbol, timeframe, since, until):
        self.asked.append((symbol, since, until))
        if symbol in self.broken:
            raise self.broken[symbol]
        frame = self.frames[symbol]
        return frame[(frame.index >= since) if since else slice(None)].loc[lambda f: f.index < until]


def series(values, first=0):
    return pd.DataFrame({"close": np.asarray(values, float)}, DAY[first : first + len(values)])


def test_an_ingest_of_two_symbols_reports_what_it_did(tmp_path):
    store, source = BarStore(tmp_path / "bars"), Source(A=series(np.r_[np.linspace(10, 11, 50), -1.0, np.linspace(11, 12, 9)]), B=series([5.0] * 30))
    source.broken["C"] = VenueError("C is not traded here")
    calls, until = [], datetime(2024, 2, 29, 12, tzinfo=UTC)  # the bar of 29 February has not closed
    report = ingest(source, store, ["A", "B", "A", "C"], since=datetime(2024, 1, 1, tzinfo=UTC), until=until, progress=lambda *x: calls.append(x))
    assert isinstance(report, IngestReport) and (report.source, report.timeframe, report.until) == ("hand", "1d", until)
    assert report.version == store.version
    assert [(s.symbol, s.fetched, s.problem) for s in report.symbols] == [("A", 59, ""), ("B", 30, ""), ("C", 0, "C is not traded here")]
    assert report.rows == 88
    assert (report.symbols[0].first, report.symbols[0].last) == (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 28, tzinfo=UTC))
    assert report.symbols[2].first is None
    assert [(r.symbol, r.timestamp, r.field, r.old, r.new, r.rule) for r in report.repairs] == [("A", datetime(2024, 2, 20, tzinfo=UTC), "close",
        -1.0, None, "impossible")]
    assert [(g.symbol, g.start, g.end, g.bars) for g in report.gaps] == [("A", *[datetime(2024, 2, 20, tzinfo=UTC)] * 2, 1)]
    assert calls == [("A", 1, 3), ("B", 2, 3), ("C", 3, 3)] and report.problems == {"C": "C is not traded here"}
    assert report.frame().loc["A", "fetched"] == 59 and list(report.frame().columns) == ["fetched", "first", "last", "problem"]
    assert source.asked[:2] == [("A", datetime(2024, 1, 1, tzinfo=UTC), until), ("B", datetime(2024, 1, 1, tzinfo=UTC), until)]


def test_the_next_ingest_asks_for_the_overlap_and_for_a_hole_only_once(tmp_path):
    values = np.linspace(10, 11, 100)
    store, source = BarStore(tmp_path / "bars"), Source(A=series(values).drop(DAY[[30, 31]]))
    first = datetime(2024, 1, 1, tzinfo=UTC)
    ingest(source, store, ["A"], since=first, until=DAY[80].to_pydatetime())
    source.asked.clear()
    report = ingest(source, store, ["A"], since=first, until=DAY[90].to_pydatetime())
    assert [(a - first).days for _, a, _ in source.asked] == [-10, 40] and [(z - first).days for *_, z in source.asked] == [72, 90]
    assert report.rows == 10 and [(g.start, g.bars) for g in report.gaps] == [(DAY[30].to_pydatetime(), 2)]
    source.asked.clear()
    ingest(source, store, ["A"], since=first, until=DAY[95].to_pydatetime())
    assert [(a - first).days for _, a, _ in source.asked] == [50]  # the hole was asked for in vain
    told = json.loads((tmp_path / "bars.asked.json").read_text())
    assert told == {"hand 1d": {"A": {"since": first.isoformat(), "holes": [f"{DAY[30].isoformat()}/{DAY[31].isoformat()}"]}}}
    source.asked.clear()
    source.frames["A"] = series(values)
    filled = ingest(source, store, ["A"], since=first, until=DAY[95].to_pydatetime(), refill=True)
    assert filled.rows == 2 and not filled.gaps and len(source.asked) == 2
    (tmp_path / "bars.asked.json").write_text("{torn")
    source.asked.clear()
    assert ingest(source, store, ["A"], since=first, until=DAY[95].to_pydatetime()).rows == 0 and len(source.asked) == 1


def test_a_venue_that_is_gone_ends_the_ingest_and_keeps_what_was_fetched(tmp_path):
    store, source = BarStore(tmp_path / "bars"), Source(A=series([1.0] * 20), B=series([2.0] * 20))
    source.broken["B"] = VenueUnreachable("away")
    with pytest.raises(VenueUnreachable):
        ingest(source, store, ["A", "B"], until=DAY[20].to_pydatetime(), commit_every=1e9)
    assert len(store.read(timeframe="1d", source="hand")) == 20
    with pytest.raises(BadInput, match="no symbols were given to ingest"):
        ingest(source, store, [])
    later = datetime.now(UTC) + timedelta(days=400)
    source.broken.clear()
    assert ingest(source, store, ["B"], until=later).until <= datetime.now(UTC)  # never beyond now


def test_the_sample_market_answers_like_a_venue():
    source = SampleSource("stocks", datetime(2020, 1, 3, tzinfo=UTC))
    frame = source.fetch_ohlcv("AAPL", since=datetime(2019, 12, 30, tzinfo=UTC))
    assert [f"{t:%m-%d}" for t in frame.index] == ["12-30", "12-31", "01-02"] and source.name == "sample-stocks" and "AAPL" in source.symbols()
    assert [f"{t:%m-%d}" for t in source.fetch_ohlcv("AAPL", since=datetime(2019, 12, 30, tzinfo=UTC),
                                                     until=datetime(2020, 1, 1, tzinfo=UTC)).index] == ["12-30", "12-31"]
    assert source.fetch_tickers(["AAPL"]) == {"AAPL": Decimal(str(frame["close"].iloc[-1]))}
    for ask, says in ((("AAPL", "1h"), "daily bars only, not '1h'"), (("AAPLE", "1d"), "does not know 'AAPLE'; did you mean AAPL")):
        with pytest.raises(BadInput, match=says):
            source.fetch_ohlcv(*ask)
    assert unknown_symbol("v", "zzz", ["BTC/USDT"]) == "v does not know 'zzz'; see load_markets() for what it knows"
    assert unknown_symbol("v", "btc", ["BTC/USDT", "ETH/USDT"]) == "v does not know 'btc'; did you mean BTC/USDT?"
