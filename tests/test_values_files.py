"A golden file for every way to write bars that is read, with each number a literal; and each ambiguous one refused with its sentence."

import gzip
import zipfile
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from trading.core.errors import BadInput, MissingData
from trading.data.delta_store import BarStore
from trading.data.import_files import import_file
from trading.data.price_files import read_bars_file

OHLCV = ["open", "high", "low", "close", "volume"]
ROWS = [[1.5, 2.5, 1.25, 2.0, 100.0], [2.0, 3.0, 1.75, 2.25, 200.0], [2.25, 2.5, 2.0, 2.5, 300.0]]
DAYS = ["2024-01-02", "2024-01-03", "2024-01-04"]  # two of the first twelve days, so day and month can be confused
T = [1704153600, 1704240000, 1704326400]  # the same days in seconds since 1970


def read(path, text, symbol="A", name="x.csv", **how):
    (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_bars_file(path / name, symbol, **how)


def lines(first, template, sep="\n"):
    "Write the three bars with a template; t is the day, s the seconds, o … v the numbers."
    rows = [template.format(d=d, s=s, o=r[0], h=r[1], l=r[2], c=r[3], v=r[4]) for d, s, r in zip(DAYS, T, ROWS, strict=True)]
    return sep.join([*([first] if first else []), *rows]) + sep


def comma(text):
    return text.replace(".", ",")


PLAIN = "{d},{o},{h},{l},{c},{v}"
HEAD = "date,open,high,low,close,volume"
GOLDEN = {
    "generic": lines(HEAD, PLAIN), "semicolons": lines(HEAD.replace(",", ";"), PLAIN.replace(",", ";")),
    "tabs": lines(HEAD.replace(",", "\t"), PLAIN.replace(",", "\t")),
    "decimal commas": comma(lines(HEAD.replace(",", ";"), PLAIN.replace(",", ";"))),
    "quoted": lines('"date","open","high","low","close","volume"', '"{d}","{o}","{h}","{l}","{c}","{v}"'),
    "capital letters and blanks": lines("Date, Open, High, Low, Close, Volume", "{d}, {o}, {h}, {l}, {c}, {v}"),
    "angle brackets": lines("<DATE>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOLUME>", PLAIN), "windows line ends": lines(HEAD, PLAIN, "\r\n"),
    "blank lines at the end": lines(HEAD, PLAIN) + "\n \n", "other names": lines("Timestamp,O,Max,Min,Last,Vol", PLAIN),
    "columns in another order": lines("close,volume,time,low,high,open,extra", "{c},{v},{d},{l},{h},{o},9"),
    "binance, 12 columns": lines("", "{s}000,{o},{h},{l},{c},{v},9,9,9,9,9,0"),
    "binance in microseconds": lines("", "{s}000000,{o},{h},{l},{c},{v},9,9,9,9,9,0"),
    "binance with a header": lines("open_time,open,high,low,close,volume,close_time,quote_volume,count,a,b,ignore",
                                   "{s}000,{o},{h},{l},{c},{v},9,9,9,9,9,0"),
    "binance with a header in another order": lines("open_time,close_time,quote_volume,volume,close,high,low,open", "{s}000,9,9,{v},{c},{h},{l},{o}"),
    "no header, and times written out": lines("", "{d},{o},{h},{l},{c},{v},9"),
    "no header, and a name at the end": lines("", "{s}000,{o},{h},{l},{c},{v},9,9,9,9,9,ABCUSDT"),
    "kraken, 7 columns": lines("", "{s},{o},{h},{l},{c},{v},9"), "kraken with vwap": lines("", "{s},{o},{h},{l},{c},9,{v},9"),
    "mt5": lines("<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>",
                 "{d}\t00:00:00\t{o}\t{h}\t{l}\t{c}\t{v}\t0\t7").replace("2024-01-0", "2024.01.0"),
    "mt5 daily": lines("<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>",
                       "{d}\t{o}\t{h}\t{l}\t{c}\t{v}\t0\t7").replace("2024-01-0", "2024.01.0"),
    "yahoo": lines("Date,Open,High,Low,Close,Adj Close,Volume", "{d},{o},{h},{l},{c},1,{v}"),
    "yahoo's price column beside an adjusted one": lines("Date,Open,High,Low,Close,Adj Close,Volume", "{d},{o},{h},{l},{c},,{v}"),
    "seconds": lines("unix,open,high,low,close,volume", "{s},{o},{h},{l},{c},{v}"),
    "seconds with a fraction": lines("unix,open,high,low,close,volume", "{s}.0,{o},{h},{l},{c},{v}"),
    "nanoseconds": lines("unix,open,high,low,close,volume", "{s}000000000,{o},{h},{l},{c},{v}"),
    "ISO in UTC": lines(HEAD, "{d}T00:00:00Z,{o},{h},{l},{c},{v}"), "ISO with milliseconds": lines(HEAD, "{d}T00:00:00.000Z,{o},{h},{l},{c},{v}"),
    "ISO with an offset": lines(HEAD, "{d}T03:00:00+03:00,{o},{h},{l},{c},{v}"),
    "ISO with a negative offset": lines(HEAD, "{d}T00:00:00-00:00,{o},{h},{l},{c},{v}"),
    "newest first": "\n".join([HEAD, *lines("", PLAIN).splitlines()[::-1]]) + "\n",
    "a row doubled": lines(HEAD, PLAIN) + lines("", PLAIN).splitlines()[1] + "\n",
    "UTF-8 with a mark": b"\xef\xbb\xbf" + lines(HEAD, PLAIN).encode(), "UTF-16": lines(HEAD, PLAIN).encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + lines(HEAD, PLAIN).encode("utf-16-be"), "gzip": gzip.compress(lines(HEAD, PLAIN).encode()),
    "no end of line at the end": lines(HEAD, PLAIN).rstrip("\n"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_file_of_each_kind_gives_the_same_three_bars(tmp_path, name):
    bars = read(tmp_path, GOLDEN[name])
    assert [(f, s) for f, s in bars.columns] == [(f, "A") for f in OHLCV] and bars.to_numpy().tolist() == ROWS
    assert [str(t) for t in bars.index] == [f"{d} 00:00:00+00:00" for d in DAYS] and bars.index.unit == "us" and bars.index.name == "timestamp"


def test_a_zip_of_one_file_is_opened_and_of_two_is_refused(tmp_path):
    for count in (1, 2):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for n in range(count):
                archive.writestr(f"{n}.csv", lines(HEAD, PLAIN))
        if count == 1:
            assert read_bars_file(tmp_path / "x.zip", "A").to_numpy().tolist() == ROWS
    with pytest.raises(BadInput, match=r"x.zip holds 2 files; unpack it"):
        read_bars_file(tmp_path / "x.zip", "A")


# how times are written, zone, order of the date, the first and the last time in UTC
TIMES = [
    (["13/01/2024", "01/02/2024"], None, "", "2024-01-13 00:00", "2024-02-01 00:00"),
    (["01/13/2024", "02/01/2024"], None, "", "2024-01-13 00:00", "2024-02-01 00:00"),
    (["01/02/2024", "03/02/2024"], None, "dmy", "2024-02-01 00:00", "2024-02-03 00:00"),
    (["01/02/2024", "03/02/2024"], None, "mdy", "2024-01-02 00:00", "2024-03-02 00:00"),
    (["12.01.2024", "13.01.2024"], None, "", "2024-01-12 00:00", "2024-01-13 00:00"),
    (["12-01-2024", "12-13-2024"], None, "", "2024-12-01 00:00", "2024-12-13 00:00"),
    (["13/01/2024", "01/02/2024"], None, "mdy", "2024-01-13 00:00", "2024-02-01 00:00"),  # what the file proves goes before what was said
    (["2024.01.02 22:00", "2024.01.03 23:30"], "UTC", "", "2024-01-02 22:00", "2024-01-03 23:30"),
    (["2024.01.02 22:00", "2024.01.03 23:30"], "Europe/Helsinki", "", "2024-01-02 20:00", "2024-01-03 21:30"),
    (["2024.07.02 22:00", "2024.07.03 23:30"], "Europe/Helsinki", "", "2024-07-02 19:00", "2024-07-03 20:30"),
    (["2024.01.02 22:00", "2024.07.03 23:30"], "America/New_York+7", "", "2024-01-02 20:00", "2024-07-03 20:30"),
    (["2024.01.02 22:00", "2024.07.03 23:30"], "UTC+2.5", "", "2024-01-02 19:30", "2024-07-03 21:00"),
    (["2024-01-02", "2024-07-03"], None, "", "2024-01-02 00:00", "2024-07-03 00:00"),
    (["2024-01-02", "2024-07-03"], "Europe/Helsinki", "", "2024-01-02 00:00", "2024-07-03 00:00"),
    (["2024-10-27 01:30", "2024-10-27 03:30"], "Europe/Berlin", "", "2024-10-26 23:30", "2024-10-27 02:30"),
    (["2024-10-27 01:30", "2024-10-27 02:30"], "Europe/Berlin", "", "2024-10-26 23:30", "2024-10-27 01:30"),  # of the doubled hour the second
    (["2024-10-27 02:30", "2024-10-27 02:30"], "Europe/Berlin", "", "2024-10-27 00:30", "2024-10-27 01:30"),  # twice: the first and the second
    (["2024-01-02T22:00:00Z", "2024-01-03T22:00:00Z"],
     "Europe/Helsinki", "", "2024-01-03 00:00", "2024-01-04 00:00"),  # daily bars that open at midnight of Helsinki
    (["2024-01-02 22:00:00-0500", "2024-01-03 22:00:00-0500"], None, "", "2024-01-03 03:00", "2024-01-04 03:00"),
    (["2024-01-02T22:00:00.123456Z", "2024-01-03T22:00:00.5Z"], None, "", "2024-01-02 22:00:00.123456", "2024-01-03 22:00:00.500000"),
    (["2 Jan 2024", "13 Jan 2024"], None, "", "2024-01-02 00:00", "2024-01-13 00:00"),
]


@pytest.mark.parametrize("written, zone, dates, first, last", TIMES,
                         ids=[f"{t[0][0]} {t[1] or ''} {t[2]}" for t in TIMES])
def test_each_way_to_write_a_time_is_read_as_the_same_moment(tmp_path, written, zone, dates, first, last):
    bars = read(tmp_path, "".join(["time;close\n", *(f"{t};{n + 1}\n" for n, t in enumerate(written))]), zone=zone, dates=dates)
    assert [str(t)[:-6] for t in bars.index] == [f"{t}:00"[:19] if "." not in t else t for t in (first, last)]
    assert bars["close"]["A"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("number, moment", [
    ("86400", "1970-01-02 00:00"), ("4102444800", "2100-01-01 00:00"), ("4102444800000", "2100-01-01 00:00"),
    ("4102444800000000", "2100-01-01 00:00"),
    ("4102444800000000000", "2100-01-01 00:00"), ("1704153600.25", "2024-01-02 00:00:00.250000"), ("100000000000", "1973-03-03 09:46:40"),
    ("100000000000000", "1973-03-03 09:46:40"), ("100000000000000000", "1973-03-03 09:46:40")])
def test_a_number_is_read_in_the_unit_that_its_size_tells(tmp_path, number, moment):
    bars = read(tmp_path, f"time,close\n{number},1\n")
    assert bars.index[0] == pd.Timestamp(moment, tz="UTC")


@pytest.mark.parametrize("number", ["86399", "0", "-86400", "4102444801", "4102444801000", "4102444801000000"])
def test_a_number_before_1970_or_after_2100_is_no_time(tmp_path, number):
    with pytest.raises(BadInput, match="x.csv: line [23]"):
        read(tmp_path, f"time,close\n1704153600,1\n{number},1\n")


NUMBERS = [  # texts of the closes, what is read
    (["1.5", "2"], [1.5, 2.0]), (["1,5", "2"], [1.5, 2.0]), (["1.234,5", "2.000.000,25"], [1234.5, 2000000.25]),
    (["1e3", "-2.5E-1"], [1000.0, -0.25]),
    (["1.5", "null"], [1.5, None]), (["NaN", "1.5"], [None, 1.5]), (["1.5", "n/a"], [1.5, None]), (["-", "1.5"], [None, 1.5]),
    (["1,5", "."], [1.5, None]),
    ([" 1.5 ", "None"], [1.5, None]), (["na", "3"], [None, 3.0]), (["0,25", "12,5"], [0.25, 12.5]), (["1.234,5", "17"], [1234.5, 17.0]),
]


@pytest.mark.parametrize("texts, values", NUMBERS, ids=[" ".join(t) for t, _ in NUMBERS])
def test_each_way_to_write_a_number_is_read_as_the_same_value(tmp_path, texts, values):
    bars = read(tmp_path, f"time;close;open\n2024-01-02;{texts[0]};1\n2024-01-03;{texts[1]};1\n")
    assert [None if np.isnan(v) else v for v in bars["close"]["A"]] == values


REFUSED = {  # what the file holds, and the sentence
    "day or month": (lines(HEAD, PLAIN).replace("2024-01-0", "01/02/202"),
                     r"x.csv: line 2: '01/02/2022' may begin with the day or the month" ),
    "the twelfth": ("time,close\n12/12/2024,1\n11/12/2024,2\n", "may begin with the day or the month"),
    "no zone": ("time,close\n2024-01-02 10:00,1\n", "line 2: the times have no zone; give --zone with the clock of the file, for example UTC"),
    "two ways to write a time": ("time,close\n2024-01-02,1\n2024-01-03 00:00,2\n2024-01-04,2\n",
                                 "line 3: the time '2024-01-03 00:00' is written in another way than '2024-01-02'"),
    "no time": ("time,close\n2024-01-02,1\n2024-13-45,2\n", "line 3: '2024-13-45' is no time"),
    "two decimal signs": ("time;close\n2024-01-02;1.5\n2024-01-03;2,5\n",
                          "x.csv: '2,5' has a decimal comma and '1.5' a decimal point; write all numbers alike"),
    "thousands or decimals": ("time;close\n2024-01-02;12.345\n2024-01-03;98.765\n",
                              "x.csv: '12.345' may be 12345 or 12.345, and no other number of the file shows which; "
                              "give --decimal '.' for 12.345, or --decimal ',' for 12345"),
    "thousands in pairs": ("time;close\n2024-01-02;1,2,34\n2024-01-03;2.5\n", "line 2: close is '1,2,34', which is no number with a decimal point"),
    "no number": ("time,close\n2024-01-02,1\n2024-01-03,abc\n", "line 3: close is 'abc', which is no number"),
    "infinite": ("time,close\n2024-01-02,1\n2024-01-03,inf\n", "line 3: close is 'inf', which is no number"),
    "no number in the first line of a file without a header": ("1704153600,1,2,0.5,x,9,9\n1704240000,1,2,0.5,1,9,9\n", "line 1: close is 'x'"),
    "two closes": ("time,close,last\n2024-01-02,1,2\n", "two columns may be the close: close and last; remove one"),
    "two symbols": ("time,close,symbol,ticker\n2024-01-02,1,A,B\n", "two columns may be the symbol"),
    "no time column": ("when,close\n2024-01-02,1\n", "no column is recognised as time among when, close; name it with --columns"),
    "no close column": ("time,open\n2024-01-02,1\n", "no column is recognised as close among time, open; name it with --columns"),
    "four columns without a header": ("1704153600,1,2,0.5\n", "the file has 4 columns and no header; name them with --columns"),
    "prices in no known order": ("1704153600,1,2,3,2.5,9\n", "has no header, and its prices fit no known order; name the columns with --columns"),
    "nine columns without a header": ("1704153600,1,2,0.5,1,9,9,9,9\n", "the file has 9 columns and no header"),
    "one column": ("time\n2024-01-02\n", "the first line has one field only: 'time'"),
    "a header only": (HEAD + "\n", "x.csv has a header and no rows; fetch it again"),
    "too many fields": (lines(HEAD, PLAIN).replace("\n2024-01-03", "\n9,2024-01-03"),
                        "line 3 has 7 fields, the first line has 6; is it two files in one?"),
    "too few fields in the middle": ("time,close,open\n2024-01-02,1\n2024-01-03,1,2\n",
                                     "line 2 has 2 fields, the first line has 3; is it two files in one?"),
    "too many fields at the end": ("time,close\n2024-01-02,1\n2024-01-03,1,2\n",
                                   "line 3 has 3 fields, the first line has 2; is it two files in one?"),
    "cut off": ("time,close,open\n2024-01-02,1,2\n2024-01-03,1", "line 3, the last, is cut off after '2024-01-03,1'; fetch the file again"),
    "cut off before the last field": ("time,close,open\n2024-01-02,1,2\n2024-01-03,1,", "line 3, the last, is cut off after"),
    "two bars at one time": ("time,close\n2024-01-02,1\n2024-01-02,2\n", "A has two different bars at 2024-01-02 00:00:00"),
    "empty": ("", r"x.csv is empty \(0 bytes\)"), "blank": ("  \n", r"x.csv is empty \(3 bytes\)"),
    "zero bytes": ("time,close\n2024-01-02,1\n\x00\x00\x00\n", "holds zero bytes from byte 24 on"),
    "another alphabet": (b"time,close\n2024-01-02,\x81\n", r"no text in UTF-8, UTF-16 or Windows-1252 \(byte 22\)"),
    "half a gzip": (gzip.compress(lines(HEAD, PLAIN).encode())[:-12], "cannot be unpacked"), "half a zip": (b"PK\x03\x04abc", "cannot be unpacked"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_torn_mixed_or_ambiguous_is_refused_with_its_sentence(tmp_path, name):
    text, says = REFUSED[name]
    with pytest.raises(BadInput, match=says):
        read(tmp_path, text)


def test_a_zone_is_asked_for_times_of_the_day_and_must_exist(tmp_path):
    for zone in ("Mars/Olympus", "UTC+x", "+2"):
        with pytest.raises(BadInput, match="the zone .* is unknown; write it like 'Europe/Helsinki' or 'America/New_York.7'"):
            read(tmp_path, "time,close\n2024-01-02 10:00,1\n", zone=zone)


def test_missing_files_and_folders_are_named(tmp_path):
    (tmp_path / "dir.csv").mkdir()
    for name in ("none.csv", "dir.csv", "none.parquet", "none.pq"):
        with pytest.raises(MissingData, match=f"there is no file {name}; check the path"):
            read_bars_file(tmp_path / name, "A")
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1torn")
    for name, says in (("empty.parquet", "0 bytes"), ("torn.parquet", "no readable Parquet file")):
        with pytest.raises(BadInput, match=says):
            read_bars_file(tmp_path / name, "A")


def test_symbols_in_the_file_and_symbols_asked_for(tmp_path):
    text = "time,ticker,close\n2024-01-02,A,1\n2024-01-02, B ,2\n2024-01-03,A,3\n"
    bars = read(tmp_path, text, "")
    assert list(bars.columns) == [("close", "A"), ("close", "B")] and bars["close"]["A"].tolist() == [1, 3] and np.isnan(bars["close"]["B"].iloc[1])
    assert read(tmp_path, text, "B").equals(bars)
    assert read(tmp_path, 'time,name,close\n2024-01-02,"A, Inc.",1\n', "")["close"]["A, Inc."].tolist() == [1.0]
    with pytest.raises(BadInput, match="x.csv has bars of A, B and none of C; leave symbol out to read all"):
        read(tmp_path, text, "C")
    with pytest.raises(BadInput, match="does not say whose bars it has; give symbol, for example --symbol BTC/USDT"):
        read(tmp_path, lines(HEAD, PLAIN), "")


def test_rows_without_any_price_are_no_bars(tmp_path):
    bars = read(tmp_path, "time,close,open\n2024-01-02,1,2\n2024-01-03,,\n2024-01-04,3,\n2024-01-05,5,6\n")
    assert [str(t)[:10] for t in bars.index] == ["2024-01-02", "2024-01-04", "2024-01-05"] and bars["close"]["A"].tolist() == [1, 3, 5]


def test_adjusted_prices_of_yahoo_are_scaled_and_the_volume_is_not(tmp_path):
    text = lines("Date,Open,High,Low,Close,Adj Close,Volume", "{d},{o},{h},{l},{c},1,{v}")
    bars = read(tmp_path, text, adjusted=True)
    assert bars.iloc[0].tolist() == [0.75, 1.25, 0.625, 1.0, 100.0] and bars.iloc[1].tolist() == pytest.approx([2 / 2.25, 3 / 2.25, 1.75 / 2.25,
        1.0, 200.0])
    with pytest.raises(BadInput, match="x.csv has no column 'Adj Close'; leave adjusted out"):
        read(tmp_path, lines(HEAD, PLAIN), adjusted=True)


@pytest.mark.parametrize("form", ["index in UTC", "index in Helsinki", "column without a zone", "text", "seconds"])
def test_parquet_with_each_kind_of_time(tmp_path, form):
    frame = pd.DataFrame(ROWS, columns=["Open", "High", "Low", "Close", "Volume"])
    days = pd.to_datetime(DAYS)
    index = {"index in UTC": days.tz_localize("UTC"), "index in Helsinki": (days + pd.Timedelta("2h")).tz_localize("Europe/Helsinki")}
    column = {"column without a zone": days, "text": DAYS, "seconds": T}
    frame = frame.set_axis(index[form]) if form in index else frame.assign(Time=column[form])
    frame.to_parquet(tmp_path / "x.parquet")
    bars = read_bars_file(tmp_path / "x.parquet", "A")
    assert bars.to_numpy().tolist() == ROWS and [str(t) for t in bars.index] == [f"{d} 00:00:00+00:00" for d in DAYS]
    if form == "column without a zone":
        assert str(read_bars_file(tmp_path / "x.parquet", "A", zone="Europe/Helsinki").index[0]) == "2024-01-02 00:00:00+00:00"


def test_a_row_of_a_parquet_file_is_counted_from_one(tmp_path):
    pd.DataFrame({"time": ["2024-01-02", "2024-01-99"], "close": [1.0, 2.0]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(BadInput, match="x.parquet: line 2: '2024-01-99' is no time"):
        read_bars_file(tmp_path / "x.parquet", "A")


# ---- into the store


def test_what_was_imported_is_what_the_report_tells(tmp_path):
    text = "time,open,high,low,close,volume\n" + "".join(
        f"2024-01-{d:02d},10,11,9,{close},5\n" for d, close in ((1, "10"), (2, "-4"), (3, "10.5"), (6, "10.25"), (7, "")))
    (tmp_path / "x.csv").write_text(text)
    store = BarStore(tmp_path / "bars")
    report = import_file(tmp_path / "x.csv", store, "A", now=datetime(2024, 1, 7, tzinfo=UTC))
    assert (report.source, report.timeframe, report.rows, report.until) == ("file", "1d", 4, datetime(2024, 1, 7, tzinfo=UTC))
    assert report.version == store.version
    done = report.symbols[0]
    assert (done.symbol, done.fetched, done.problem) == ("A", 4, "")
    assert (done.first, done.last) == (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 6, tzinfo=UTC))
    repair = report.repairs[0]
    assert (len(report.repairs), repair.timestamp, repair.symbol, repair.field, repair.old, repair.new, repair.rule) == (
        1, datetime(2024, 1, 2, tzinfo=UTC), "A", "close", -4.0, None, "impossible")
    assert [(g.start.day, g.end.day, g.bars) for g in report.gaps] == [(2, 2, 1), (4, 5, 2)]
    stored = store.read(timeframe="1d", source="file")
    assert stored["close"]["A"].dropna().tolist() == [10.0, 10.5, 10.25] and stored["open"]["A"].tolist() == [10.0] * 4
    again = import_file(tmp_path / "x.csv", store, "A", now=datetime(2024, 1, 7, tzinfo=UTC))
    assert (again.rows, again.version) == (0, report.version)  # nothing new, nothing written


def test_holes_are_reported_with_their_ends(tmp_path):
    days = [d for d in pd.date_range("2024-01-01", "2024-01-31") if d.day not in (10, 11, 20)]
    (tmp_path / "x.csv").write_text("time,close\n" + "".join(f"{d:%Y-%m-%d},{d.day}\n" for d in days))
    report = import_file(tmp_path / "x.csv", BarStore(tmp_path / "bars"), "A", source="mine")
    assert [(g.symbol, g.start, g.end, g.bars) for g in report.gaps] == [
        ("A", datetime(2024, 1, 10, tzinfo=UTC), datetime(2024, 1, 11, tzinfo=UTC), 2),
        ("A", datetime(2024, 1, 20, tzinfo=UTC), datetime(2024, 1, 20, tzinfo=UTC), 1)]
    assert (report.source, report.rows, report.repairs) == ("mine", 28, ())


@pytest.mark.parametrize("step, timeframe, fits", [
    ("1D", "1d", True), ("4D", "1d", True), ("5D", "1d", False), ("1h", "1h", True),
    ("59min", "1h", False),
    ("4h", "1h", True), ("5h", "1h", False), ("7D", "1w", True), ("1D", "1w", False), ("1D", "1h", False), ("1min", "1d", False)])
def test_bars_must_lie_as_far_apart_as_their_time_frame_says(tmp_path, step, timeframe, fits):
    times = pd.date_range("2024-01-01", periods=3, freq=step)
    (tmp_path / "x.csv").write_text("time,close\n" + "".join(f"{t:%Y-%m-%dT%H:%M:%SZ},1\n" for t in times))
    store = BarStore(tmp_path / "bars")
    if fits:
        assert import_file(tmp_path / "x.csv", store, "A", timeframe).rows == 3
    else:
        with pytest.raises(BadInput, match="does not fit .*; say the right --timeframe"):
            import_file(tmp_path / "x.csv", store, "A", timeframe)


def test_a_bar_counts_from_the_moment_when_it_has_closed(tmp_path):
    (tmp_path / "x.csv").write_text("time,close\n2024-01-01,1\n")
    with pytest.raises(BadInput, match="no bar had closed by 2024-01-01 23:59 UTC"):
        import_file(tmp_path / "x.csv", BarStore(tmp_path / "bars"), "A", now=datetime(2024, 1, 1, 23, 59, tzinfo=UTC))
    assert import_file(tmp_path / "x.csv", BarStore(tmp_path / "bars"), "A", now=datetime(2024, 1, 2, tzinfo=UTC)).rows == 1
