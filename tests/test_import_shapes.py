"Files as programs write them, through 'carnet import' as a user calls it: read right, asked about, and then usable by a run."

# ruff: noqa: E501  golden files, one line each

import gzip
import io
import zipfile

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.cli.main import main
from trading.core.errors import BadInput, TradingError
from trading.core.numbers import decide_sign, number_evidence, read_numbers
from trading.data.delta_store import BarStore
from trading.data.price_files import read_bars_file, read_price_file

DAYS = pd.date_range("2024-01-08", periods=5, freq="D")  # Monday to Friday
ROWS = [(1501.5, 1512.25, 1499.25, 1510.75, 12345), (1510.75, 1522.5, 1509.25, 1520.5, 98765), (1520.5, 1530.0, 1515.25, 1525.25, 45678),
        (1525.25, 1528.5, 1518.75, 1519.0, 23456), (1519.0, 1535.5, 1517.25, 1533.75, 34567)]


def us(x):
    return f"{x:,.2f}"


def german(x):
    return us(x).translate(str.maketrans(",.", ".,"))


def french(x):
    return us(x).translate(str.maketrans(",.", "\u202f,"))


def unix(day, hour=0):
    return int(day.timestamp()) + 3600 * hour


def lines(head, row, days=DAYS):
    return "\n".join([*([head] if head else []), *(row(d, *r) for d, r in zip(days, ROWS, strict=True))]) + "\n"


SHAPES = {  # name of the file → (text, more options); every one holds the same five bars
    "BTCUSDT-1d-2024-01.csv": lines("", lambda d, o, h, lo, c, v: f"{unix(d)}000,{o},{h},{lo},{c},{v},{unix(d) + 86399}999,1,1,1,1,0"),
    "BTCUSDT-1d-2025-01.csv": lines("", lambda d, o, h, lo, c, v: f"{unix(d)}000000,{o},{h},{lo},{c},{v},{unix(d) + 86399}999999,1,1,1,1,0"),
    "ETHUSDT-1d-2024-01.csv": lines("open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore",
                                    lambda d, o, h, lo, c, v: f"{unix(d)}000,{o},{h},{lo},{c},{v},{unix(d) + 86399}999,1,1,1,1,0"),
    "XBTUSD_1440.csv": lines("", lambda d, o, h, lo, c, v: f"{unix(d)},{o},{h},{lo},{c},{v},77"),
    "Coinbase_BTCUSD_d.csv": "https://www.CryptoDataDownload.com\n" + lines("unix,date,symbol,open,high,low,close,Volume BTC,Volume USD",
                             lambda d, o, h, lo, c, v: f"{unix(d)},{d:%Y-%m-%d} 00:00:00,BTC/USD,{o},{h},{lo},{c},{v},{v * c}"),
    "coinbase-BTC-USD.csv": lines("time,low,high,open,close,volume", lambda d, o, h, lo, c, v: f"{unix(d)},{lo},{h},{o},{c},{v}"),
    "coinbase-bare.csv": lines("", lambda d, o, h, lo, c, v: f"{unix(d)},{lo},{h},{o},{c},{v}"),
    "Bitstamp_BTCUSD_d.csv": "https://www.CryptoDataDownload.com\n" + lines("unix,date,symbol,open,high,low,close,Volume USD,Volume BTC",
                             lambda d, o, h, lo, c, v: f"{unix(d)},{d:%Y-%m-%d},BTC/USD,{o},{h},{lo},{c},{v * 9},{v}"),
    "NASDAQ_AAPL, 1D.csv": lines("time,open,high,low,close,Volume", lambda d, o, h, lo, c, v: f"{unix(d)},{o},{h},{lo},{c},{v}"),
    "NYSE_IBM, 1D_ab1.csv": lines("time,open,high,low,close,Volume,RSI", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d}T09:30:00-05:00,{o},{h},{lo},{c},{v},55.5"),
    "AAPL, unix open.csv": lines("time,open,high,low,close,volume", lambda d, o, h, lo, c, v: f"{unix(d, 14) + 1800},{o},{h},{lo},{c},{v}"),
    "EURUSD1440.csv": lines("", lambda d, o, h, lo, c, v: f"{d:%Y.%m.%d},00:00,{o},{h},{lo},{c},{v}"),
    "EURUSD_Daily_202401080000_202401120000.csv": lines("<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>",
                                                       lambda d, o, h, lo, c, v: f"{d:%Y.%m.%d}\t{o}\t{h}\t{lo}\t{c}\t{v}\t0\t7"),
    "ES 03-24.Last.txt": lines("", lambda d, o, h, lo, c, v: f"{d:%Y%m%d};{o};{h};{lo};{c};{v}"),
    "yahoo-old.csv": lines("Date,Open,High,Low,Close,Adj Close,Volume", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o},{h},{lo},{c},{c},{v}"),
    "yfinance-new.csv": "Price,Adj Close,Close,High,Low,Open,Volume\nTicker,A,A,A,A,A,A\nDate,,,,,,\n"
                        + lines("", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{c},{c},{h},{lo},{o},{v}"),
    "yfinance-zone.csv": lines("Date,Open,High,Low,Close,Volume,Dividends,Stock Splits", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d} 00:00:00-05:00,{o},{h},{lo},{c},{v},0.0,0.0"),
    "aapl_us_d.csv": lines("Date,Open,High,Low,Close,Volume", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o},{h},{lo},{c},{v}"),
    "stooq-bulk.txt": lines("<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
                            lambda d, o, h, lo, c, v: f"A,D,{d:%Y%m%d},000000,{o},{h},{lo},{c},{v},0"),
    "nasdaq.csv": lines("Date,Close/Last,Volume,Open,High,Low", lambda d, o, h, lo, c, v: f"{d:%m/%d/%Y},${c},{v},${o},${h},${lo}", DAYS + pd.Timedelta("7D")),
    "investing-us.csv": lines('"Date","Price","Open","High","Low","Vol.","Change %"',
                              lambda d, o, h, lo, c, v: f'"{d:%m/%d/%Y}","{us(c)}","{us(o)}","{us(h)}","{us(lo)}","{v / 1000:.3f}K","-0.45%"', DAYS + pd.Timedelta("7D")),
    "investing-de.csv": lines('"Datum","Zuletzt","Eröffn.","Hoch","Tief","Vol.","+/- %"',
                              lambda d, o, h, lo, c, v: f'"{d:%d.%m.%Y}","{german(c)}","{german(o)}","{german(h)}","{german(lo)}","{v / 1000:.3f}K","-0,45%"'.replace(
                                  f"{v / 1000:.3f}K", f"{v / 1000:.3f}K".replace(".", ",")), DAYS + pd.Timedelta("7D")),
    "daily_IBM.csv": lines("timestamp,open,high,low,close,volume", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o:.4f},{h:.4f},{lo:.4f},{c:.4f},{v}"),
    "alpha-crypto.csv": lines("timestamp,1a. open (USD),2a. high (USD),3a. low (USD),4a. close (USD),5. volume", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o},{h},{lo},{c},{v}"),
    "excel-serial.csv": lines("Date;Open;High;Low;Close;Volume", lambda d, o, h, lo, c, v: f"{unix(d) // 86400 + 25569};{german(o)};{german(h)};{german(lo)};{german(c)};{v}"),
    "german.csv": lines("Datum;Eröffnung;Hoch;Tief;Schluss;Volumen",
                        lambda d, o, h, lo, c, v: f"{d:%d.%m.%Y};{german(o)};{german(h)};{german(lo)};{german(c)};{v:,}".replace(f"{v:,}", f"{v:,}".replace(",", ".")),
                        DAYS + pd.Timedelta("7D")),
    "french.csv": lines("Date;Ouverture;Plus haut;Plus bas;Dernier;Volume",
                        lambda d, o, h, lo, c, v: f"{d.day:02d}/{d.month:02d}/{d.year};{french(o)};{french(h)};{french(lo)};{french(c)};" + f"{v:,}".replace(",", "\u00a0"),
                        DAYS + pd.Timedelta("7D")),
    "us.csv": lines("Date,Open,High,Low,Close,Volume", lambda d, o, h, lo, c, v: f'"{d:%b %d, %Y}","{us(o)}","{us(h)}","{us(lo)}","{us(c)}","{v:,}"'),
    "swiss.csv": lines("Datum;Open;High;Low;Close;Volume", lambda d, o, h, lo, c, v: ";".join([f"{d:%d.%m.%y}", *(us(x).replace(",", "'") for x in (o, h, lo, c)), f"{v:,}".replace(",", "\u2019")]),
                       DAYS + pd.Timedelta("7D")),
    "dukascopy.csv": lines("Gmt time,Open,High,Low,Close,Volume", lambda d, o, h, lo, c, v: f"{d:%d.%m.%Y} 00:00:00.000,{o},{h},{lo},{c},{v}", DAYS + pd.Timedelta("7D")),
    "evening.csv": lines("time,open,high,low,close,volume", lambda d, o, h, lo, c, v: f"{d - pd.Timedelta('2h'):%Y-%m-%dT%H:%M:%SZ},{o},{h},{lo},{c},{v}"),
}


@pytest.mark.parametrize(("name", "packed"), [(name, packed) for n, name in enumerate(SHAPES) for packed in ["", (".gz", ".zip")[n % 2]]])
def test_a_golden_file_of_each_program_gives_the_same_five_bars(tmp_path, name, packed):
    raw, path = SHAPES[name].encode(), tmp_path / (name + packed)
    if packed == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, raw)
    else:
        path.write_bytes(gzip.compress(raw) if packed else raw)
    read = read_price_file(path, "" if _told(name) else "A", dates="dmy" if name == "swiss.csv" else "")
    bars = read.bars
    assert read.timeframe == "1d" and [f for f, _ in bars.columns] == ["open", "high", "low", "close", "volume"]
    assert [list(r) for r in bars.to_numpy()] == [list(map(float, r)) for r in ROWS], "\n".join(read.notes)
    later = pd.Timedelta("7D") if str(bars.index[0])[:10] == "2024-01-15" else pd.Timedelta(0)
    assert list(bars.index.tz_localize(None)) == list(DAYS + later)


NO_VOLUME = ("nasdaq-na.csv", "inv-es.csv", "inv-it.csv", "inv-pt.csv")
LATER = DAYS + pd.Timedelta("7D")
MORE = {  # exchanges, brokers, programs and data services beyond those above: what each gives is the same five bars, as far as it has the fields
    "coinbase-advanced.csv": lines("start,low,high,open,close,volume", lambda d, o, h, lo, c, v: f"{unix(d)},{lo},{h},{o},{c},{v}"),
    "kraken-api.csv": lines("time,open,high,low,close,vwap,volume,count", lambda d, o, h, lo, c, v: f"{unix(d)},{o},{h},{lo},{c},{c},{v},7"),
    "kraken-bare8.csv": lines("", lambda d, o, h, lo, c, v: f"{unix(d)},{o},{h},{lo},{c},{c},{v},7"),
    "Binance_BTCUSDT_d.csv": "https://www.CryptoDataDownload.com\n" + lines("Unix,Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USDT,tradecount", lambda d, o, h, lo, c, v: f"{unix(d)}000,{d:%Y-%m-%d},BTC/USDT,{o},{h},{lo},{c},{v},{v * c},77"),
    "bitstamp-api.csv": lines("timestamp,open,high,low,close,volume", lambda d, o, h, lo, c, v: f"{unix(d)},{o},{h},{lo},{c},{v}"),
    "bitfinex.csv": lines("", lambda d, o, h, lo, c, v: f"{unix(d)}000,{o},{c},{h},{lo},{v}"),
    "bitfinex-head.csv": lines("MTS,OPEN,CLOSE,HIGH,LOW,VOLUME", lambda d, o, h, lo, c, v: f"{unix(d)}000,{o},{c},{h},{lo},{v}"),
    "ccxt.csv": lines("", lambda d, o, h, lo, c, v: f"{unix(d)}000,{o},{h},{lo},{c},{v}"),
    "okx.csv": lines("ts,o,h,l,c,vol,volCcy,volCcyQuote,confirm", lambda d, o, h, lo, c, v: f"{unix(d)}000,{o},{h},{lo},{c},{v},{v},{v * c},1"),
    "bybit.csv": lines("startTime,openPrice,highPrice,lowPrice,closePrice,volume,turnover", lambda d, o, h, lo, c, v: f"{unix(d)}000,{o},{h},{lo},{c},{v},{v * c}"),
    "gate.csv": lines("timestamp,volume,close,high,low,open", lambda d, o, h, lo, c, v: f"{unix(d)},{v},{c},{h},{lo},{o}"),
    "BITSTAMP_BTCUSD, 1D.csv": lines("time,open,high,low,close", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d}T00:00:00Z,{o},{h},{lo},{c}"),
    "OANDA_EURUSD, 1D.csv": lines("time,open,high,low,close,Volume,MA,MA,Plot", lambda d, o, h, lo, c, v: f"{d - pd.Timedelta('2h'):%Y-%m-%dT%H:%M:%SZ},{o},{h},{lo},{c},{v},1,1,NaN"),
    "mt4-head.csv": lines("<TICKER>,<DTYYYYMMDD>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>", lambda d, o, h, lo, c, v: f"EURUSD,{d:%Y%m%d},000000,{o},{h},{lo},{c},{v}"),
    "USDJPY_D1.csv": lines("<DATE>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>", lambda d, o, h, lo, c, v: f"{d:%Y.%m.%d}\t{o}\t{h}\t{lo}\t{c}\t{v}\t{v}\t7"),
    "yf-multi-price-first.csv": "Price,Close,Close,Open,Open,Volume,Volume\nTicker,A,B,A,B,A,B\nDate,,,,,,\n" + lines("", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{c},{c * 2},{o},{o * 2},{v},{v * 2}"),
    "yf-multi-ticker-first.csv": "Ticker,A,A,A,A,A,B,B,B,B,B\nPrice,Open,High,Low,Close,Volume,Open,High,Low,Close,Volume\nDate,,,,,,,,,,\n" + lines("", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o},{h},{lo},{c},{v},{o * 2},{h * 2},{lo * 2},{c * 2},{v * 2}"),
    "yf-old-multi.csv": ",Close,Close,Open,Open\n,A,B,A,B\nDate,,,,\n" + lines("", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{c},{c * 2},{o},{o * 2}"),
    "yf-nasrow.csv": lines("Date,Open,High,Low,Close,Adj Close,Volume", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o:.6f},{h:.6f},{lo:.6f},{c:.6f},{c * 0.9:.6f},{v}") + "2024-01-13,null,null,null,null,null,null\n",
    "yahoo-web.csv": lines("Date,Open,High,Low,Close ,Adj Close ,Volume", lambda d, o, h, lo, c, v: f'"{d:%b} {d.day}, {d.year}","{us(o)}","{us(h)}","{us(lo)}","{us(c)}","{us(c)}","{v:,}"'),
    "stooq-pl.csv": lines("Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o},{h},{lo},{c},{v}"),
    "nasdaq-commas.csv": lines("Date,Close/Last,Volume,Open,High,Low", lambda d, o, h, lo, c, v: f'{d:%m/%d/%Y},"${us(c)}","{v:,}","${us(o)}","${us(h)}","${us(lo)}"', LATER),
    "nasdaq-na.csv": lines("Date,Close/Last,Volume,Open,High,Low", lambda d, o, h, lo, c, v: f"{d:%m/%d/%Y},{c},--,{o},{h},{lo}", LATER),
    "inv-fr.csv": lines('"Date","Dernier","Ouv."," Plus Haut","Plus Bas","Vol.","Variation %"', lambda d, o, h, lo, c, v: f'"{d:%d/%m/%Y}","{german(c)}","{german(o)}","{german(h)}","{german(lo)}","{v / 1000:.2f}K","-0,45%"'.replace(f"{v / 1000:.2f}K", f"{v / 1000:.3f}K".replace(".", ",")), LATER),
    "inv-es.csv": lines('"Fecha","Último","Apertura","Máximo","Mínimo","Vol.","% var."', lambda d, o, h, lo, c, v: f'"{d:%d.%m.%Y}","{german(c)}","{german(o)}","{german(h)}","{german(lo)}","","-0,45%"', LATER),
    "inv-it.csv": lines('"Data","Ultimo","Apertura","Massimo","Minimo","Vol.","Var. %"', lambda d, o, h, lo, c, v: f'"{d:%d.%m.%Y}","{german(c)}","{german(o)}","{german(h)}","{german(lo)}","","-0,45%"', LATER),
    "inv-pt.csv": lines('"Data","Último","Abertura","Máxima","Mínima","Vol.","Var%"', lambda d, o, h, lo, c, v: f'"{d:%d.%m.%Y}","{german(c)}","{german(o)}","{german(h)}","{german(lo)}","","-0,45%"', LATER),
    "inv-M.csv": lines('"Date","Price","Open","High","Low","Vol.","Change %"', lambda d, o, h, lo, c, v: f'"{d:%m/%d/%Y}","{us(c)}","{us(o)}","{us(h)}","{us(lo)}","{v / 1e6:.6f}M","-0.45%"', LATER),
    "av-adj.csv": lines("timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o:.4f},{h:.4f},{lo:.4f},{c:.4f},{c * 0.9:.4f},{v},0.0,1.0"),
    "polygon.csv": lines("ticker,volume,open,close,high,low,window_start,transactions", lambda d, o, h, lo, c, v: f"A,{v},{o},{c},{h},{lo},{unix(d)}000000000,5"),
    "alpaca.csv": lines("timestamp,open,high,low,close,volume,trade_count,vwap", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d} 05:00:00+00:00,{o},{h},{lo},{c},{v},7,{c}"),
    "alpaca2.csv": lines("symbol,timestamp,open,high,low,close,volume,trade_count,vwap", lambda d, o, h, lo, c, v: f"A,{d:%Y-%m-%d} 05:00:00+00:00,{o},{h},{lo},{c},{v},7,{c}"),
    "tiingo.csv": lines("date,close,high,low,open,volume,adjClose,adjHigh,adjLow,adjOpen,adjVolume,divCash,splitFactor", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{c},{h},{lo},{o},{v},{c * 0.9},{h * 0.9},{lo * 0.9},{o * 0.9},{v},0,1"),
    "eod.csv": lines("Date,Open,High,Low,Close,Adjusted_close,Volume", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o},{h},{lo},{c},{c * 0.9},{v}"),
    "robinhood.csv": lines("begins_at,open_price,close_price,high_price,low_price,volume,session", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d}T00:00:00Z,{o},{c},{h},{lo},{v},reg"),
    "sierra.csv": lines("Date, Time, Open, High, Low, Last, Volume, NumberOfTrades, BidVolume, AskVolume", lambda d, o, h, lo, c, v: f"{d.year}/{d.month}/{d.day}, 00:00:00, {o}, {h}, {lo}, {c}, {v}, 5, 1, 2"),
    "ib.csv": lines("date,open,high,low,close,volume,average,barCount", lambda d, o, h, lo, c, v: f"{d:%Y%m%d},{o},{h},{lo},{c},{v},{c},7"),
    "histdata.csv": lines("", lambda d, o, h, lo, c, v: f"{d:%Y%m%d} 000000;{o};{h};{lo};{c};{v}"),
    "firstrate.txt": lines("", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o},{h},{lo},{c},{v}"),
    "multicharts.txt": lines('"Date","Time","Open","High","Low","Close","TotalVolume"', lambda d, o, h, lo, c, v: f"{d:%m/%d/%Y},00:00:00,{o},{h},{lo},{c},{v}", LATER),
    "onvista.csv": lines("Datum;Eröffnung;Tagestief;Tageshoch;Schluss;Volumen", lambda d, o, h, lo, c, v: f"{d:%d.%m.%Y};{german(o)};{german(lo)};{german(h)};{german(c)};{v}", LATER),
    "comdirect.csv": '"Kursdaten A"\n\n' + lines('"Datum";"Eröffnung";"Hoch";"Tief";"Schluss";"Volumen"', lambda d, o, h, lo, c, v: f'"{d:%d.%m.%Y}";"{german(o)}";"{german(h)}";"{german(lo)}";"{german(c)}";"{v}"', LATER),
    "ariva.csv": lines("Datum;Erster;Hoch;Tief;Schlusskurs;Stuecke;Volumen", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d};{german(o)};{german(h)};{german(lo)};{german(c)};{v};{v * 7}"),
    "boursorama.txt": lines("date\touv\thaut\tbas\tclot\tvol\tdevise\t", lambda d, o, h, lo, c, v: f"{d:%d/%m/%Y} 00:00\t{o}\t{h}\t{lo}\t{c}\t{v}\tEUR\t", LATER),
    "ecb.csv": lines("Date,USD,JPY,", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{c / 1000:.4f},{c / 10:.2f},"),
    "fred.csv": lines("observation_date,SP500", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{c}"),
    "fred-dot.csv": lines("DATE,SP500", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{c if d.day != 10 else '.'}"),
    "bloomberg.csv": lines("Date,PX_OPEN,PX_HIGH,PX_LOW,PX_LAST,VOLUME", lambda d, o, h, lo, c, v: f"{d:%m/%d/%Y},{o},{h},{lo},{c},{v}", LATER),
    "marketwatch.csv": lines("Date,Open,High,Low,Close,Volume", lambda d, o, h, lo, c, v: f'{d:%m/%d/%Y},"${us(o)}","${us(h)}","${us(lo)}","${us(c)}","{v:,}"', LATER),
    "wsj.csv": lines("Date, Open, High, Low, Close, Volume", lambda d, o, h, lo, c, v: f"{d:%m/%d/%y}, {o}, {h}, {lo}, {c}, {v}", LATER),
    "pandas-index.csv": lines(",open,high,low,close,volume", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o},{h},{lo},{c},{v}"),
    "pandas-rownumber.csv": lines(",date,open,high,low,close,volume", lambda d, o, h, lo, c, v: f"{d.day - 8},{d:%Y-%m-%d},{o},{h},{lo},{c},{v}"),
    "quandl.csv": lines("Date,Open,High,Low,Last,Change,Settle,Volume,Previous Day Open Interest", lambda d, o, h, lo, c, v: f"{d:%Y-%m-%d},{o},{h},{lo},{c},,{c},{v},5"),
    "sep.csv": "sep=;\n" + lines("Datum;Open;High;Low;Close;Volume", lambda d, o, h, lo, c, v: f"{d:%d.%m.%Y};{german(o)};{german(h)};{german(lo)};{german(c)};{v}", LATER),
}
ASKED = {  # what the file leaves open → what is asked
    "tradestation.txt": (lines('"Date","Time","Open","High","Low","Close","Up","Down"', lambda d, o, h, lo, c, v: f"{d:%m/%d/%Y},1700,{o},{h},{lo},{c},{v},0", LATER), "give --zone"),
    "amibroker.txt": (lines("", lambda d, o, h, lo, c, v: f"A,{d:%Y%m%d},{o},{h},{lo},{c},{v}"), "the file has 7 columns and no header; name them with --columns"),
    "google.csv": (lines("Date,Open,High,Low,Close,Volume", lambda d, o, h, lo, c, v: f"{d.month}/{d.day}/{d.year} 16:00:00,{o},{h},{lo},{c},{v}", LATER), "give --zone"),
    "google-close.csv": (lines("Date,Close", lambda d, o, h, lo, c, v: f"{d.month}/{d.day}/{d.year} 16:00:00,{c}", LATER), "give --zone"),
    "excel-serial-time.csv": (lines("Date;Open;High;Low;Close;Volume", lambda d, o, h, lo, c, v: f"{unix(d) // 86400 + 25569},25;{german(o)};{german(h)};{german(lo)};{german(c)};{v}"), "give --zone"),
}


@pytest.mark.parametrize("name", MORE)
def test_files_of_more_exchanges_brokers_and_services_are_read_right(tmp_path, name):
    (tmp_path / name).write_text(MORE[name], encoding="utf-8")
    try:
        read = read_price_file(tmp_path / name, "A")
    except BadInput as error:  # the file says whose bars it has
        assert "none of A" in str(error), error
        read = read_price_file(tmp_path / name)
    who = read.bars.columns.get_level_values(1)[0]
    bars = read.bars.xs(who, axis=1, level=1)
    expected = pd.DataFrame(ROWS, columns=["open", "high", "low", "close", "volume"], dtype=float)[list(bars.columns)]
    if name == "ecb.csv":  # closes of two pairs, in another size
        expected = pd.DataFrame({"close": [r[3] for r in ROWS]}) / {"USD": 1000, "JPY": 10}[who]
    if name in NO_VOLUME:
        assert bars["volume"].isna().all()
        expected["volume"] = np.nan
    if name == "fred-dot.csv":  # a day without a price
        expected = expected.drop(2)
    assert read.timeframe == "1d" and np.allclose(bars, expected, equal_nan=True, rtol=1e-4 if name == "ecb.csv" else 1e-6), "\n".join(read.notes)
    days = DAYS.delete(2) if name == "fred-dot.csv" else DAYS
    assert bars.index.tz_localize(None).tolist() in ([*days], [*LATER])


@pytest.mark.parametrize("name", ASKED)
def test_files_that_leave_something_open_are_asked_about(tmp_path, name):
    text, asks = ASKED[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=asks):
        read_price_file(tmp_path / name, "A")


def _told(name):
    from trading.data.file_names import told_by_name

    return told_by_name(name)[0] or name in ("stooq-bulk.txt", "yfinance-new.csv")


def test_hours_and_minutes_of_terminals(tmp_path):
    cases = {
        "GBPJPY60.csv": ("2024.01.08,{h:02d}:00,147.123,147.456,146.987,147.234,1234", "UTC", "1h"),
        "GBPJPY_H1_202401080000_202401080500.csv": ("2024.01.08\t{h:02d}:00:00\t147.123\t147.456\t146.987\t147.234\t1234\t0\t9", "America/New_York+7", "1h"),
        "ES 03-24.Last.txt": ("20240108 {h:02d}0000;147.123;147.456;146.987;147.234;1234", "America/Chicago", "1h"),
        "BINANCE_BTCUSDT, 60.csv": ("2024-01-08T{h:02d}:00:00Z,147.123,147.456,146.987,147.234,1234.5", None, "1h"),
    }
    heads = {"GBPJPY_H1": "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n", "BINANCE_B": "time,open,high,low,close,Volume\n"}
    first = {"UTC": 3, "America/New_York+7": 1, "America/Chicago": 9, None: 3}
    for name, (row, zone, timeframe) in cases.items():
        (tmp_path / name).write_text(heads.get(name[:9], "") + "".join(row.format(h=h) + "\n" for h in range(3, 8)))
        read = read_price_file(tmp_path / name, zone=zone)
        assert read.timeframe == timeframe and read.bars["close"].iloc[:, 0].tolist() == [147.234] * 5, name
        assert read.bars.index[0].hour == first[zone], name


def test_wide_tables_of_closes_from_text_spreadsheet_parquet_and_feather(tmp_path):
    close = pd.DataFrame({"AAPL": [185.5, 186.25, 184.0], "BRK.B": [360.0, 361.5, 359.25], "V": [260.0, np.nan, 262.5]}, index=pd.DatetimeIndex(DAYS[:3], name="Date"))
    close.to_csv(tmp_path / "x.csv")
    close.to_csv(tmp_path / "de.csv", sep=";", decimal=",", date_format="%d.%m.%y")
    close.to_parquet(tmp_path / "x.parquet")
    close.reset_index().to_feather(tmp_path / "x.feather")
    _workbook(tmp_path / "x.xlsx", close.reset_index())
    for name in ("x.csv", "de.csv", "x.parquet", "x.feather", "x.xlsx"):
        bars = read_bars_file(tmp_path / name, dates="dmy" if name == "de.csv" else "")
        assert bars["close"].astype(float).round(6).equals(close.set_axis(bars.index).rename_axis(columns="symbol")), name


def _workbook(path, frame):
    "Write a small .xlsx by hand: the format's own two sheets of XML."
    days = (frame.iloc[:, 0] - pd.Timestamp("1899-12-30")).dt.days
    cell = lambda v: f'<c t="inlineStr"><is><t>{v}</t></is></c>' if isinstance(v, str) else "<c/>" if pd.isna(v) else f"<c><v>{v}</v></c>"  # noqa: E731
    rows = ["".join(map(cell, frame.columns))] + [f'<c s="1"><v>{d}</v></c>' + "".join(map(cell, r[1:])) for d, r in zip(days, frame.itertuples(index=False), strict=True)]
    ns, rel = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"', "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
                               '<Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" Type="{rel}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook {ns} xmlns:r="{rel}"><sheets><sheet name="Prices" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" Type="{rel}/worksheet" Target="worksheets/sheet1.xml"/>'
                                      f'<Relationship Id="r2" Type="{rel}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet {ns}><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>',
        "xl/worksheets/sheet1.xml": f'<worksheet {ns}><sheetData>{"".join(f"<row>{r}</row>" for r in rows)}</sheetData></worksheet>',
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)


def test_parquet_as_polars_writes_it(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"date": pa.array(DAYS.to_numpy(), pa.timestamp("ms")), "symbol": pa.array(["A"] * 5, pa.large_string()), "close": pa.array([r[3] for r in ROWS], pa.float32())})
    pq.write_table(table, tmp_path / "x.parquet")  # no pandas metadata, large strings, single precision
    bars = read_bars_file(tmp_path / "x.parquet")
    assert bars["close"]["A"].tolist() == [r[3] for r in ROWS] and str(bars.index[0]) == "2024-01-08 00:00:00+00:00"


# ---- numbers: read right, or asked about


LOCALES = {"us": (".", ","), "de": (",", "."), "fr": (",", "\u202f"), "ch": (".", "'"), "plain": (".", ""), "plain comma": (",", "")}


@st.composite
def written_columns(draw):
    "Make columns of one file in one way of writing: any size, decimals, sign and grouping."
    decimal, group = LOCALES[draw(st.sampled_from(list(LOCALES)))]
    columns = []
    for _ in range(draw(st.integers(1, 3))):
        places = draw(st.integers(0, 4))
        values = draw(st.lists(st.integers(-(10**draw(st.integers(1, 9))), 10**draw(st.integers(1, 9))), min_size=1, max_size=6))
        numbers = [v / 10**places for v in values]
        minus = draw(st.sampled_from(["-", "\u2212", "()", "end"]))
        columns.append((numbers, [_write(v, places, decimal, group, minus) for v in numbers]))
    return columns


def _write(value, places, decimal, group, minus):
    text = f"{abs(value):,.{places}f}".translate({ord(","): group, ord("."): decimal})
    return text if value >= 0 else f"({text})" if minus == "()" else f"{text}-" if minus == "end" else minus + text


@settings(max_examples=200, deadline=None, derandomize=True)
@given(written_columns())
def test_no_number_of_any_locale_is_wrong_in_silence(columns):
    _right_or_asked(columns)


def test_five_thousand_columns_are_right_or_asked_about():
    rng, count, asked = np.random.default_rng(17), 0, 0
    while count < 5000:
        decimal, group = LOCALES[str(rng.choice(list(LOCALES)))]
        columns = []
        for _ in range(rng.integers(1, 4)):
            places, size = int(rng.integers(0, 5)), 10 ** int(rng.integers(1, 10))
            values = rng.integers(-size, size, rng.integers(1, 7)).tolist()
            columns.append(([v / 10**places for v in values], [_write(v, places, decimal, group, str(rng.choice(["-", "()", "end"]))) for v in (v / 10**places for v in values)]))
        asked += len(columns) * _right_or_asked(columns)
        count += len(columns)
    assert asked < 0.1 * count  # most files show how they are written


def _right_or_asked(columns) -> bool:  # whether it was asked
    "Read the columns of a file and hold them against what was written."
    try:
        sign, _ = decide_sign([number_evidence([t for _, texts in columns for t in texts])])
    except BadInput as asked:
        assert "no other number of the file shows which" in str(asked)
        return True
    for numbers, texts in columns:
        values, bad = read_numbers(texts, sign)
        assert bad < 0 and values.tolist() == pytest.approx(numbers, rel=1e-12, abs=1e-12), (texts, sign)
    return False


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.dates(pd.Timestamp("1975-01-01").date(), pd.Timestamp("2023-12-31").date()), min_size=1, max_size=6, unique=True),
       st.sampled_from(["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y-%m-%d", "%d-%m-%y", "%m/%d/%y", "%y/%m/%d", "%Y%m%d", "%d %b %Y", "%b %d, %Y"]))
def test_no_date_of_any_order_is_wrong_in_silence(days, style):
    import pyarrow as pa

    from trading.core.written_times import read_times

    try:
        read = read_times(pa.array([d.strftime(style) for d in days]))
    except BadInput as asked:
        assert "may begin with the day or the month" in str(asked) or "%y" in style
        return
    assert read.wall.astype("datetime64[D]").tolist() == days


# ---- through the command


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CARNET_RUN__REPORTS", str(tmp_path / "reports"))
    return tmp_path


def carnet(*words):
    done = CliRunner().invoke(main, list(map(str, words)))
    if isinstance(done.exception, TradingError):
        return 1, str(done.exception), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output, done.output


def test_what_a_file_leaves_open_is_asked_and_the_option_answers_it(home):
    (home / "n.csv").write_text('Date,Open,High,Low,Close\n2024-01-02,"38,100","38,200","38,000","38,150"\n2024-01-03,"38,150","38,300","38,100","38,250"\n')
    (home / "h.csv").write_text("time,open,high,low,close,volume\n2024-01-02 10:00:00,1,2,0.5,1.5,10\n2024-01-02 11:00:00,1.5,2,1,1.6,11\n")
    (home / "d.csv").write_text("Date;Open;High;Low;Close\n02.01.2024;1,5;1,6;1,4;1,5\n03.01.2024;1,5;1,6;1,4;1,5\n")
    for name, more, asks, answer in (("n.csv", ["--symbol", "N225"], "give --decimal ',' for 38.100, or --decimal '.' for 38100", ["--thousands", ","]),
                                     ("h.csv", ["--symbol", "H"], "give --zone", ["--zone", "Europe/Berlin"]), ("d.csv", ["--symbol", "D"], "give --dates dmy for 2024-01-02", ["--dates", "dmy"])):
        code, said, _ = carnet("import", name, *more)
        assert code and asks in said, said
        assert not (home / "data" / "bars").exists() or name != "n.csv"
        code, said, _ = carnet("import", name, *more, *answer)
        assert code == 0 and "2 bars added or corrected, 0 values repaired" in said, said
    store = BarStore(home / "data" / "bars")
    assert store.read(["N225"], "1d")["close"]["N225"].tolist() == [38150, 38250]
    assert str(store.read(["H"], "1h").index[0]) == "2024-01-02 09:00:00+00:00" and str(store.read(["D"], "1d").index[0]) == "2024-01-02 00:00:00+00:00"


def test_a_preview_shows_what_was_decided_and_stores_nothing(home):
    (home / "german.csv").write_text(SHAPES["german.csv"], encoding="utf-8")
    code, said, _ = carnet("import", "german.csv", "--symbol", "DAX", "--preview")
    assert code == 0 and not (home / "data" / "bars").exists()
    for words in ("decimal comma; the decimal comma is shown by", "day/month/year", "symbols: DAX", "5 times, bars of 1d, 2024-01-15 00:00 to 2024-01-19", "12345", "fields divided by semicolons"):
        assert words in said, said
    (home / "n.csv").write_text('Date,Close\n2024-01-02,"38,150"\n')
    code, said, shown = carnet("import", "n.csv", "--symbol", "N", "--preview")
    assert code and "--decimal" in said and "layout: columns by name" in shown


def test_many_files_take_symbol_and_time_frame_from_their_names(home):
    for name in ("BTCUSDT-1d-2024-01.csv", "XBTUSD_1440.csv", "EURUSD1440.csv"):
        (home / name).write_text(SHAPES[name])
    code, said, _ = carnet("import", "*.csv")
    assert code == 0 and "15 bars added" in said, said
    assert sorted(BarStore(home / "data" / "bars").read(timeframe="1d")["close"].columns) == ["BTC/USD", "BTC/USDT", "EURUSD"]
    (home / "bad.csv").write_text("Date,Close\n2024-01-02,x\n")
    code, said, _ = carnet("import", "EURUSD1440.csv", "bad.csv")
    assert code and "1 of 2 files stored (EURUSD1440.csv); not stored: bad.csv" in said
    assert "no file fits *.xml" in carnet("import", "*.xml")[1]


def test_what_looks_wrong_and_may_be_true_is_told_and_stored_as_it_is(home):
    days = pd.date_range("2024-01-01", periods=60)
    walk = np.random.default_rng(3).normal(100, 1, 60).round(2).tolist()
    close = walk[:30] + [round(c / 2, 2) for c in walk[30:45]] + [51.0] * 15  # a split of 2:1, then a feed that stands still
    (home / "split.csv").write_text("date,close\n" + "".join(f"{d:%Y-%m-%d},{c}\n" for d, c in zip(days, close, strict=True)))
    code, said, _ = carnet("import", "split.csv", "--symbol", "A")
    assert code == 0 and "split.csv: look at A 2024-01-31 00:00: moved by" in said and "the size of a 2:1 split" in said, said
    assert "the same close 15 times, until 2024-02-29" in said and "60 bars added or corrected, 0 values repaired" in said
    assert BarStore(home / "data" / "bars").read(["A"])["close"]["A"].tolist() == close


def test_imported_bars_stand_where_the_venue_has_none(tmp_path):
    store = BarStore(tmp_path / "bars")
    frame = lambda first, values: pd.concat({("close", "A"): pd.Series(values, pd.date_range(first, periods=len(values), tz="UTC", unit="us"))}, axis=1)  # noqa: E731
    for source, first, values in (("file", "2024-01-01", [1.0, 2, 3, 4]), ("venue", "2024-01-03", [30.0, 40, 50])):
        bars = frame(first, values)
        bars.columns.names, bars.index.name = ["field", "symbol"], "timestamp"
        store.upsert(bars, "1d", source)
    assert store.read(["A"], source=("venue", "file"))["close"]["A"].tolist() == [1, 2, 30, 40, 50]
    assert store.read(["A"], source=("file", "venue"))["close"]["A"].tolist() == [1, 2, 3, 4, 50]
    with pytest.raises(BadInput, match="has bars from file, venue; say which with source="):
        store.read(["A"])


def test_memory_and_time_of_many_minutes(tmp_path):
    n = 60_000
    times = pd.date_range("2021-01-01", periods=n, freq="min")
    out = io.StringIO()
    pd.DataFrame({"time": times.strftime("%Y-%m-%d %H:%M:%S+00:00"), "close": np.arange(n) + 0.25}).to_csv(out, index=False)
    (tmp_path / "x.csv").write_text(out.getvalue() + "2021-02-11 16:00:00+00:00,1,9\n")
    with pytest.raises(BadInput, match=f"line {n + 2} has 3 fields"):
        read_bars_file(tmp_path / "x.csv", "A")
    (tmp_path / "x.csv").write_text(out.getvalue())
    bars = read_bars_file(tmp_path / "x.csv", "A")
    assert len(bars) == n and bars["close"]["A"].iloc[-1] == n - 0.75


def test_a_profile_runs_on_imported_bars(home, monkeypatch):
    from datetime import UTC, datetime

    from trading.core.datasets import sample_bars
    from trading.core.settings import load_settings
    from trading.pipeline.factory import bars_of
    from trading.pipeline.launch import open_run
    from trading.testing.sample_runs import SMALL, run_in_process

    overrides = SMALL | {"market.source": "file", "market.venue": "files", "forecast.horizons": "5"}
    for key, value in overrides.items():
        monkeypatch.setenv(f"CARNET_{key.replace('.', '__').upper()}", value)
    symbols = SMALL["market.symbols"].split(", ")
    close = sample_bars("stocks")["close"][symbols]["2014":]
    close.to_csv(home / "closes.csv", date_format="%d.%m.%Y", sep=";", decimal=",")
    code, said, _ = carnet("import", "closes.csv")
    assert code == 0 and f"{close.notna().sum().sum()} bars added" in said, said
    settings = load_settings()
    run = run_in_process(open_run(settings, datetime.now(UTC), "2022-12-16"), ("10_ingest", "20_forecast"))
    assert run.has("forecast") and bars_of(run)["close"].dropna().iloc[-1].to_dict() == pytest.approx(close[:"2022-12-16"].iloc[-1].to_dict())


def test_a_torn_store_is_named_and_mended_by_the_commands(home):
    days = pd.date_range("2024-01-01", periods=20)
    for name, part in (("one.csv", days[:10]), ("two.csv", days[10:])):
        (home / name).write_text("date,close\n" + "".join(f"{d:%Y-%m-%d},{10 + d.day / 4}\n" for d in part))
        assert carnet("import", name, "--symbol", "A")[0] == 0
    store = BarStore(home / "data" / "bars")
    torn = max((home / "data" / "bars").rglob("*.parquet"), key=lambda p: p.stat().st_mtime)
    torn.write_bytes(torn.read_bytes()[:300])
    with pytest.raises(TradingError, match="is torn .*; 'carnet ingest' sets it aside and brings its bars back"):
        store.read(["A"])
    code, said, _ = carnet("import", "two.csv", "--symbol", "A")
    assert code == 0 and "was torn and is set aside in bars.quarantine" in said and "10 bars are fetched or imported again" in said
    assert len(store.read(["A"])) == 20 and len(list((home / "data" / "bars.quarantine").iterdir())) == 1
    newest = max((home / "data" / "bars" / "_delta_log").glob("*.json"))
    newest.write_bytes(newest.read_bytes()[:40])
    assert "of its log was torn" in carnet("import", "two.csv", "--symbol", "A")[1] and len(store.read(["A"])) == 20


@pytest.mark.parametrize("shares", ["AAPL,MSFT,LOW,KO", "BAS,SAP,ALV,SIE,BMW", "OPEN,AAPL,LOW,MSFT,KO,PEP,GE,XOM"])
def test_a_share_that_is_called_like_a_field_is_a_share_among_many(tmp_path, shares):
    names = shares.split(",")
    rows = [f"2024-01-{day:02d},{','.join(f'{100 + day + n}.5' for n in range(len(names)))}" for day in (8, 9, 10, 11)]
    (tmp_path / "wide.csv").write_text("\n".join([f"Date,{shares}", *rows]) + "\n")
    assert list(read_price_file(tmp_path / "wide.csv").bars["close"]) == names
    (tmp_path / "few.csv").write_text("DATE,OPEN,HIGH,LOW,LTP\n2024-01-08,1.5,2.5,1.1,2.1\n2024-01-09,1.5,2.5,1.1,2.1\n")
    with pytest.raises(TradingError, match="no column is recognised as close"):
        read_price_file(tmp_path / "few.csv", "KO")
