"Perpetuals and futures in the shape of Binance, through stock ccxt: read, priced, traded on paper; a client of spot sends no order for them."

import itertools
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING
from decimal import Decimal as D
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from swaps import COINS, SYMBOLS, long_short_settings

from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.core.bars import bars_from
from trading.core.errors import BadInput, Refused
from trading.core.instruments import Instrument
from trading.core.margin import MarginTerms
from trading.core.settings import load_settings
from trading.core.types import Order, Plan
from trading.data.delta_store import BarStore
from trading.data.funding_store import read_funding, store_funding
from trading.pipeline.factory import market_source
from trading.pipeline.funding import ingest_funding
from trading.pipeline.instruments import InstrumentHistory
from trading.pipeline.venue_factory import connect
from trading.testing.binance_server import served
from trading.venues.crypto.venue import CcxtVenue
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.margin_exchange import MarginVenue
from trading.venues.paper.matching import BarFeed

pytestmark = pytest.mark.xdist_group("contracts")

DAYS = pd.date_range("2020-06-01", "2024-03-10", tz="UTC")
MARKET = f"""source = ccxt
venue = binance
symbols = {", ".join(SYMBOLS)}
currency = USDT
start = 2020-06-01
calendar = 24/7
"""
SETTINGS = long_short_settings("swaps", MARKET, 2, margin="funding = 0.0002\n", horizons="1, 5", live="address = URL\n")


@lru_cache
def rows_of(coin, spread=0.0):
    dice = np.random.default_rng(COINS.index(coin))
    close = 100 * np.exp(np.cumsum(dice.normal(0.001, 0.02, len(DAYS)))) * (1 + spread)
    begin = np.r_[close[0], close[:-1]]
    return np.c_[begin, np.maximum(begin, close) * 1.002, np.minimum(begin, close) * 0.998, close, np.full(len(DAYS), 1e6)].round(2)


TOLD = ("AAA", "BBB")  # of whose funding the venue tells the past
REFUSED: set[str] = set()  # of whom it tells an error instead


@lru_cache
def paid_by(coin):
    "Payments every eight hours, each with a rate of its own."
    at, dice = pd.date_range("2024-01-01", "2024-03-10", freq="8h", tz="UTC"), np.random.default_rng(7 + COINS.index(coin))
    return {t: D(str(r)) for t, r in zip(at, dice.normal(0.0002, 0.0005, len(at)).round(6), strict=True)}


def contract(coin, name="", kind="PERPETUAL", ends=4_133_404_800_000):
    step = {"minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"}
    filters = [
        {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "100000", "tickSize": "0.01"},
        {"filterType": "LOT_SIZE", **step},
        {"filterType": "MARKET_LOT_SIZE", **step, "maxQty": "120"},
        {"filterType": "MIN_NOTIONAL", "notional": "5"},
    ]
    return {
        "symbol": f"{coin}USDT{name}",
        "pair": f"{coin}USDT",
        "contractType": kind,
        "deliveryDate": ends,
        "onboardDate": 1_569_398_400_000,
        "status": "TRADING",
        "baseAsset": coin,
        "quoteAsset": "USDT",
        "marginAsset": "USDT",
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "filters": filters,
    }


def spot(coin):
    step = {"minQty": "0.0001", "maxQty": "500", "stepSize": "0.0001"}
    return {
        "symbol": f"{coin}USDT",
        "status": "TRADING",
        "baseAsset": coin,
        "quoteAsset": "USDT",
        "isSpotTradingAllowed": True,
        "permissions": ["SPOT"],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "100000", "tickSize": "0.01"},
            {"filterType": "LOT_SIZE", **step},
            {"filterType": "NOTIONAL", "minNotional": "5"},
        ],
    }


def exchange():
    "The exchange: spot at /api, contracts in USDT at /fapi, and what was asked of it."
    app, asked = FastAPI(), []
    income = [
        {"symbol": f"{c}USDT", "incomeType": "FUNDING_FEE", "income": amount, "asset": "USDT", "info": "", "time": 1_709_251_200_000, "tranId": n}
        for n, (c, amount) in enumerate((("AAA", "-0.375"), ("BBB", "0.12")), 1)
    ]

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def answer(path: str, request: Request):
        asked.append((request.method, path))
        q, futures = dict(request.query_params), path.startswith("fapi")
        coin = q.get("symbol", "")[:3]
        if path.endswith("exchangeInfo"):
            found = (
                [contract(c) for c in COINS] + [contract("AAA", "_240329", "CURRENT_QUARTER", 1_711_699_200_000)]
                if futures
                else [spot(c) for c in COINS]
            )
            return {"timezone": "UTC", "serverTime": 0, "rateLimits": [], "symbols": found}
        if path.endswith("klines"):
            at, made = [int(t.timestamp() * 1000) for t in DAYS], rows_of(coin, 0.001 if futures else 0.0)
            found = [
                [t, *map(str, r), t + 86_399_999, "0", 0, "0", "0", "0"] for t, r in zip(at, made, strict=True) if t >= int(q.get("startTime", 0))
            ]
            return found[: int(q.get("limit", 500))]
        if "ticker" in path:
            return [
                {
                    "symbol": f"{c}USDT",
                    "lastPrice": str(rows_of(c, 0.001 if futures else 0.0)[-1][3]),
                    **({} if futures else {"bidQty": "1"}),
                    "closeTime": 1_710_028_800_000,
                }
                for c in COINS
            ]
        if path.endswith("fundingRate") and coin in REFUSED:
            return JSONResponse({"code": -1121, "msg": "Invalid symbol."}, 400)
        if path.endswith("fundingRate"):
            told = paid_by(coin) if coin in TOLD else {}
            rows = [{"symbol": f"{coin}USDT", "fundingTime": int(t.timestamp() * 1000) + 3, "fundingRate": str(r)} for t, r in told.items()]
            return [r for r in rows if r["fundingTime"] >= int(q["startTime"])][: int(q["limit"])]
        if path.endswith("income"):
            return [r for r in income if r["symbol"] == q.get("symbol")]
        if path.endswith(("ping", "time")):
            return {"serverTime": int(datetime.now(UTC).timestamp() * 1000)}
        return [] if path.startswith("sapi") else {}

    return app, asked


@pytest.fixture(scope="module")
def place():
    app, asked = exchange()
    with served(app) as url:
        yield url, asked


def test_contracts_are_read_beside_spot_with_their_terms(place):
    url, asked = place
    venue = CcxtVenue("binance", base_url=url, symbols=["AAA/USDT", *SYMBOLS])
    markets = venue.load_markets()
    assert set(markets) == {f"{c}/USDT" for c in COINS} | {*SYMBOLS, "AAA/USDT:USDT-240329"}
    swap, quarter = markets["AAA/USDT:USDT"], markets["AAA/USDT:USDT-240329"]
    assert (swap.kind, swap.settle, swap.amount_step, swap.min_cost, swap.max_market_amount) == ("perpetual", "USDT", D("0.001"), 5, 120)
    assert swap.delisted is None and swap.contract_size == 1 and swap.currency == "USDT" and markets["AAA/USDT"].kind == "spot"
    assert (quarter.kind, str(quarter.delisted)) == ("future", "2024-03-29")
    both = venue.fetch_tickers(["AAA/USDT", "AAA/USDT:USDT"])  # one question to each address
    assert both["AAA/USDT:USDT"] == D(str(rows_of("AAA", 0.001)[-1][3])) > both["AAA/USDT"]
    assert float(venue.fetch_ohlcv("BBB/USDT:USDT", "1d", DAYS[-3].to_pydatetime())["close"].iloc[-1]) == rows_of("BBB", 0.001)[-1][3]


@pytest.mark.parametrize(("counted", "units"), [("units", 1e6), ("contracts", 1e4), ("", None)])
def test_the_volume_of_a_contract_is_in_units_or_absent(place, counted, units):
    venue = CcxtVenue("binance", base_url=place[0], symbols=SYMBOLS)
    venue.load_markets()
    venue._ccxt.markets["BBB/USDT:USDT"]["contractSize"], venue.profile = 0.01, venue.profile.but(candle_volume=counted)
    found = venue.fetch_ohlcv("BBB/USDT:USDT", "1d", DAYS[-3].to_pydatetime())["volume"]
    assert found.isna().all() if units is None else set(found) == {units}
    assert set(venue.fetch_ohlcv("AAA/USDT:USDT", "1d", DAYS[-3].to_pydatetime())["volume"]) == {1e6}


def test_contracts_of_kucoin_are_told_in_contracts_and_two_hundred_bars_at_a_time():
    days, app = pd.date_range("2023-01-01", periods=450, tz="UTC"), FastAPI()
    told = [[int(t.timestamp() * 1000), 100.0, 101.0, 99.0, 100.5, 40_000 + n, 0.0] for n, t in enumerate(days)]

    @app.get("/api/v1/kline/query")
    def bars(request: Request):
        q = {k: int(v) for k, v in request.query_params.items() if k != "symbol"}
        assert q["granularity"] == 1440
        return {"code": "200000", "data": [r for r in told if q["from"] <= r[0] <= q["to"]][-200:]}  # of a longer window the rest is not told

    with served(app) as url:
        venue = CcxtVenue("kucoin", base_url=url, symbols=["BTC/USDT:USDT"])
        contract = {"id": "XBTUSDTM", "symbol": "BTC/USDT:USDT", "base": "BTC", "quote": "USDT", "settle": "USDT", "baseId": "XBT", "quoteId": "USDT"}
        kind = {"type": "swap", "spot": False, "contract": True, "swap": True, "linear": True, "active": True, "contractSize": 0.001}
        venue._ccxt.set_markets([contract | kind | {"limits": {}, "precision": {"amount": 1, "price": 0.1}, "info": {}}])
        found = venue.fetch_ohlcv("BTC/USDT:USDT", "1d", days[0].to_pydatetime())
    assert list(found.index) == list(days) and found["volume"].tolist() == pytest.approx([r[5] * 0.001 for r in told])


def test_a_profile_of_spot_asks_nothing_about_contracts(place):
    url, asked = place
    before = len(asked)
    assert set(CcxtVenue("binance", base_url=url, symbols=["AAA/USDT"]).load_markets()) == {f"{c}/USDT" for c in COINS}
    assert not [p for _, p in asked[before:] if p.startswith(("fapi", "dapi"))]


def test_funding_is_told_symbol_by_symbol_for_the_books(place):
    url, _ = place
    venue = CcxtVenue("binance", "key", "secret", base_url=url, symbols=SYMBOLS)
    found = [e for e in venue.fetch_activity(datetime(2024, 3, 1, tzinfo=UTC)) if e.kind == "funding"]
    assert [(e.data["symbol"], e.data["amount"], e.data["currency"]) for e in found] == [
        ("AAA/USDT:USDT", "-0.375", "USDT"),
        ("BBB/USDT:USDT", "0.12", "USDT"),
    ]


@pytest.mark.parametrize(
    ("symbol", "why"),
    [
        ("BTC/USD:BTC", "an inverse contract: it is priced in USD and pays in BTC"),
        ("ETH/USD:BTC", "a quanto contract"),
        ("AAA/USDT:USDT-240329-100-C", "is an option"),
        ("AAB/USDT:USDT", "did you mean AAA/USDT:USDT"),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(place, symbol, why):
    venue = CcxtVenue("binance", base_url=place[0], symbols=SYMBOLS)
    with pytest.raises(BadInput, match=why):
        venue.fetch_ohlcv(symbol, "1d")


def test_no_order_for_a_contract_leaves_this_machine(place):
    url, asked = place
    venue, before = CcxtVenue("binance", "key", "secret", base_url=url, symbols=SYMBOLS), len(asked)
    with pytest.raises(BadInput, match="is a contract on margin, and this client is of spot markets only; nothing was sent"):
        venue.create_order(Order("x1", "AAA/USDT:USDT", "buy", D(1)))
    assert not [m for m, _ in asked[before:] if m == "POST"]


@pytest.fixture
def home(tmp_path, monkeypatch, place):
    for name in [n for n in os.environ if n.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.ini").write_text(SETTINGS.replace("URL", place[0]))
    return tmp_path


def test_a_profile_of_perpetuals_trades_on_paper_with_margin_and_its_funding_is_in_the_books(home):
    for day in ("2024-03-01", "2024-03-05"):
        done = CliRunner().invoke(main, ["run", "--as-of", day])
        assert done.exit_code == 0, done.output
    ledger = Ledger(home / "data" / "ledger.sqlite", readonly=True)
    book = ledger.book("paper-swaps")
    assert {*book.positions} <= {*SYMBOLS} and len(book.positions) > 1
    paid = ledger.events("paper-swaps", "funding")
    assert paid and {e.data["symbol"] for e in paid} <= {*SYMBOLS}
    assert sum(D(e.data["amount"]) for e in paid) == sum(book.income_by["funding"].values()) != 0
    told = lambda coin, at: paid_by(coin)[at] if coin in TOLD else D("0.0002")  # noqa: E731
    assert funding_booked(ledger) == funding_by_hand(ledger, told), "each run fetched until its own close, and pays that of the close too"
    run = next(home.glob("reports/2024-03-05_swaps_1"))
    kinds = {i["symbol"]: i["kind"] for i in json.loads((run / "artefacts" / "instruments.json").read_text())["instruments"]}
    assert kinds == dict.fromkeys(SYMBOLS, "perpetual")
    told = json.loads((run / "artefacts" / "margin.json").read_text())
    shown = CliRunner().invoke(main, ["margin", "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    edges = {i["symbol"]: float(i["liquidation"]) for i in found["items"] if i["liquidation"]}
    assert edges == pytest.approx({s: float(p) for s, p in told["liquidation"].items()})
    assert float(found["equity"]) == pytest.approx(float(told["equity"])) and float(found["margin"]) == pytest.approx(float(told["initial"]))
    assert {i["symbol"]: i["side"] for i in found["items"]} == {s: "long" if p.amount > 0 else "short" for s, p in book.positions.items()}
    table = CliRunner().invoke(main, ["margin"]).output
    assert "at the prices of the newest decision" in table and table.count("  short  ") + table.count("  long ") == len(found["items"])


def funding_by_hand(ledger, rate):
    "What each payment in the books must be: units held until then, at the open of the bar, times what fell due since the bar before."
    fills, found = ledger.fills("paper-swaps"), {}
    for e in ledger.events("paper-swaps", "funding"):
        symbol, at = e.data["symbol"], pd.Timestamp(e.timestamp)
        units = sum((f.amount if f.side == "buy" else -f.amount for f in fills if f.symbol == symbol and f.timestamp < at), D(0))
        begin = D(str(rows_of(symbol[:3], 0.001)[DAYS.get_loc(at)][0]))
        due = sum((rate(symbol[:3], at - pd.Timedelta(hours=h)) for h in (0, 8, 16)), D(0))
        found[symbol, at] = -(units * begin * due).quantize(D("1e-8"), ROUND_CEILING)
    return found


def funding_booked(ledger):
    return {(e.data["symbol"], pd.Timestamp(e.timestamp)): D(e.data["amount"]) for e in ledger.events("paper-swaps", "funding")}


def test_a_replay_and_the_paper_account_pay_the_funding_that_is_stored(home):
    "Fetched by the command, imported from a file, and where neither told any the settings count and that is said; nothing of later counts."
    done = CliRunner().invoke(main, ["ingest"])
    assert done.exit_code == 0 and f"{2 * len(paid_by('AAA'))} payments of funding added or corrected" in done.output, done.output
    assert "payments of funding" not in CliRunner().invoke(main, ["ingest"]).output, "what is stored is not fetched again"
    own = {t: D("0.0007") if t.hour else D("-0.0001") for t in paid_by("AAA")}
    (home / "ccc.csv").write_text("timestamp,rate\n" + "".join(f"{t.isoformat()},{r}\n" for t, r in own.items()))
    assert CliRunner().invoke(main, ["import", "ccc.csv", "--funding"]).exit_code == 1, "it does not say whose rates these are"
    done = CliRunner().invoke(main, ["import", "ccc.csv", "--funding", "--symbol", "CCC/USDT:USDT"])
    assert done.exit_code == 0 and f"{len(own)} payments added or corrected" in done.output, done.output

    def rate(coin, at):
        return paid_by(coin)[at] if coin in TOLD else own[at] if coin == "CCC" else D("0.0002")

    span = ["replay", "--from", "2024-02-27", "--to", "2024-03-03"]
    done = CliRunner().invoke(main, span)
    assert done.exit_code == 0, done.output
    assert "AAA/USDT:USDT and 2 others: funding as binance and file told it, from 2024-01-01 00:00 to 2024-03-04 00:00" in done.output, done.output
    assert "DDD/USDT:USDT: no funding rates" in done.output and "margin.funding = 0.0002 every 8 hours is assumed" in done.output
    (folder,) = home.glob("reports/replays/*")
    ledger = Ledger(folder / "data" / "ledger.sqlite", readonly=True)
    assert funding_booked(ledger) == funding_by_hand(ledger, rate) and len({s for s, _ in funding_booked(ledger)}) == 4
    store = BarStore(home / "data" / "bars")
    later = {f"{c}/USDT:USDT": pd.Series({t: 0.09 for t in paid_by(c) if t > pd.Timestamp("2024-03-04", tz="UTC")}) for c in TOLD}
    assert store_funding(store, later, "binance")[1] == 2 * 18
    assert CliRunner().invoke(main, span).exit_code == 0
    again = max(home.glob("reports/replays/*"), key=lambda f: f.name)
    assert again != folder and (again / "days.jsonl").read_text() == (folder / "days.jsonl").read_text()
    for day in ("2024-02-28", "2024-03-02"):
        done = CliRunner().invoke(main, ["run", "--as-of", day])
        assert done.exit_code == 0, done.output
    ledger = Ledger(home / "data" / "ledger.sqlite", readonly=True)
    assert funding_booked(ledger) == funding_by_hand(ledger, rate) and funding_booked(ledger)
    notes = json.loads(next(home.glob("reports/2024-03-02_swaps_1/artefacts/plan.json")).read_text())["notes"]
    assert any("funding as binance and file told it" in n and "to 2024-03-03 00:00" in n for n in notes), notes


def test_the_replay_of_the_days_of_runs_decides_and_pays_the_funding_that_they_did(home):
    "Each run fetched until its own close; where the last of them cannot be replayed yet that is said."
    days = ("2024-02-28", "2024-02-29", "2024-03-01")
    for day in days:
        done = CliRunner().invoke(main, ["run", "--as-of", day])
        assert done.exit_code == 0, done.output
    whole, replayed = Ledger(home / "data" / "ledger.sqlite", readonly=True), []
    for fetched in (False, True):
        if fetched:
            done = CliRunner().invoke(main, ["ingest"])
            assert done.exit_code == 0, done.output
        done = CliRunner().invoke(main, ["replay", "--from", days[0], "--to", days[-1]])
        assert done.exit_code == 0, done.output
        folder = max(home.glob("reports/replays/*"), key=lambda f: f.name)
        replayed.append((done.output, [json.loads(line)["plan"] for line in (folder / "days.jsonl").read_text().splitlines()], folder))
    ran = [Plan.from_json(next(home.glob(f"reports/{day}_swaps_1/artefacts/plan.json")).read_text()).hash for day in days]
    short, full = replayed
    assert "The stored bars end at 2024-03-02 00:00 UTC, where orders find no price, so the last decision is that of 2024-03-01 00:00 UTC" in short[0]
    assert short[1] == ran[:-1] and "no price" not in full[0] and full[1] == ran
    ledger = Ledger(full[2] / "data" / "ledger.sqlite", readonly=True)
    kinds = ("funding", "fill", "interest", "swap")
    theirs, mine = ([(e.kind, e.timestamp, e.data) for kind in kinds for e in ledger.events("paper-swaps", kind)] for ledger in (whole, ledger))
    assert mine == theirs and len({d["symbol"] for kind, _, d in mine if kind == "funding"}) == 4, "to the cent, and to the last digit"


def test_what_lacks_of_the_funding_is_said_by_the_loop_and_by_who_follows_the_venue(home, monkeypatch):
    "One perpetual is refused by the venue: its name and why, and the others are stored all the same."
    monkeypatch.setitem(globals(), "REFUSED", {"CCC"})
    lacks, stored = "funding of CCC/USDT:USDT: binance", f"{2 * len(paid_by('AAA'))} payments of funding added or corrected"
    done = CliRunner().invoke(main, ["trade", "--once"])
    assert done.exit_code == 0 and "the loop has ended" in done.output, done.output
    assert done.output.count(lacks) == 1 == done.output.count(stored) and "Invalid symbol" in done.output
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(Path(__file__).parents[1]), "CARNET_RUN__DATA": str(home / "followed")}
    command = [sys.executable, "-c", "from trading.cli.main import main; main(prog_name='carnet')", "ingest", "--follow"]
    process = subprocess.Popen(command, cwd=home, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told = list(itertools.takewhile(lambda line: lacks not in line, process.stdout))  # ends with the process, should it never be told
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and out.startswith("stopped: asked "), (told, out, err)
    assert any(stored in line for line in told) and lacks not in out, told
    assert {s for s, paid in read_funding(BarStore(home / "followed" / "bars"), ("binance",), SYMBOLS).paid.items() if paid} == set(SYMBOLS[:2])


def test_an_account_that_fetches_and_looks_every_hour_pays_what_one_look_with_all_of_it_pays(place, tmp_path):
    symbol, begin = SYMBOLS[0], pd.Timestamp("2024-02-27", tz="UTC")
    market = {"market.source": "ccxt", "market.venue": "binance", "market.symbols": symbol, "market.currency": "USDT"}
    settings = load_settings(overrides={"run.data": tmp_path, **market}, environ={})
    terms = {symbol: Instrument(symbol, D("0.001"), D("0.01"), kind="perpetual")}
    InstrumentHistory(tmp_path, market_source(settings).name).keep(terms, begin.to_pydatetime())
    hours, price = pd.date_range(begin, periods=50, freq="h"), 99 + np.arange(51.0)
    columns = dict.fromkeys(("open", "high", "low", "close"), price)
    tape = BarFeed(bars_from({symbol: pd.DataFrame(columns, index=hours.insert(0, begin - pd.Timedelta("1h")))}), "1h")
    source = CcxtVenue("binance", base_url=place[0], symbols=[symbol])

    def walked(name, looks, store, late=timedelta(0)):
        now = [begin.to_pydatetime()]
        for n, at in enumerate(looks):
            now[0] = at.to_pydatetime()
            ingest_funding(settings, source, store, begin.to_pydatetime() - timedelta(hours=8), now[0] - late)
            account = MarginVenue(tape, lambda: now[0], terms, TradingCosts(D(0), D(0), D(0)), {"USDT": D(1000)}, "USDT", tmp_path / name,
                                  terms=MarginTerms(leverage=D(2), funding=D("0.01")), funding=read_funding(store, (source.name,), [symbol]))
            if not n:
                assert account.create_order(Order("one", symbol, "buy", D(1))).filled == 1
            paid = account.fetch_activity(begin.to_pydatetime())
        return [(e.timestamp, D(e.data["amount"])) for e in paid if e.kind == "funding"]

    due = [(t, D(100 + int((t - begin) / pd.Timedelta("1h"))) * r) for t, r in paid_by("AAA").items() if begin < t < hours[-1]]
    hourly = walked("hourly", hours, BarStore(tmp_path / "bars"))
    assert [(pd.Timestamp(t), -a) for t, a in hourly] == due and len(due) == 6
    assert walked("whole", hours[[0, -1]], BarStore(tmp_path / "bars")) == hourly
    slow = walked("slow", hours, BarStore(tmp_path / "later"), late=timedelta(minutes=90))  # told after the look is over
    assert [(t - pd.Timedelta("1h"), -a) for t, a in slow] == due[:5], "at the next look, of what was held and at the price of when it fell due"


def test_real_orders_for_contracts_are_refused_in_one_sentence_before_anything_is_asked(tmp_path):
    settings = load_settings("crypto", {"market.symbols": "BTC/USDT, BTC/USDT:USDT", "run.mode": "live", "run.data": str(tmp_path)}, environ={})
    only = "BTC/USDT:USDT is a contract on margin, and real orders for perpetuals are sent to binance and bybit only, not to kraken; run with"
    with pytest.raises(Refused, match=only):
        connect(settings, orders=True, environ={})
