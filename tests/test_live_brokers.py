"Real orders through Alpaca's own client and through the bridge to MetaTrader 5, as the daily run sends them, on a good and on a bad day."

import json
import shutil
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pandas as pd
import pytest
from loopback import SETTINGS, SYMBOLS, HereKernel, make_bars

from trading.core.bars import FIELDS
from trading.core.errors import MissingData, StageFailed
from trading.core.instruments import Instrument
from trading.core.settings import load_settings
from trading.core.types import Order, Plan
from trading.execution.reconciliation import expected_holdings
from trading.pipeline.account import open_account_ledger
from trading.pipeline.launch import open_run, settings_of
from trading.pipeline.notebook_runner import run_stage
from trading.pipeline.plan_approval import approve_run
from trading.pipeline.run_record import STAGES, Run
from trading.services.account_control import reconcile_account
from trading.services.commands import Actor, Context, perform
from trading.services.workspace import workspace_of
from trading.testing.binance_server import served
from trading.venues.mt5.bridge import make_bridge
from trading.venues.mt5.simulated_broker import Contract
from trading.venues.mt5.simulated_terminal import SimulatedTerminal
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import QuoteFeed

pytestmark = pytest.mark.xdist_group("live")
NOW = lambda: datetime.now(UTC)  # noqa: E731
KERNEL, ACCOUNT, LOGIN = HereKernel(), "live-loop", 5_000_001
ALPACA_KEYS = {"ALPACA_API_KEY": "public-key", "ALPACA_SECRET": "private-secret-of-the-test"}
MT5_KEYS = {"MT5_BRIDGE_KEY": "key-of-the-bridge-in-the-test"}
SHARES, PAIRS = ("AAA", "BBB", "CCC", "DDD"), ("EUR/USD", "GBP/USD", "AUD/USD", "NZD/USD")


def named(names: tuple[str, ...], scale: float = 1.0) -> pd.DataFrame:
    "Make the quiet market of the tests with other names, and prices of another size."
    bars = make_bars(900).rename(columns=dict(zip(SYMBOLS, names, strict=True)), level=1)
    return bars if scale == 1 else pd.concat([(bars[list(FIELDS[:4])] * scale).round(5), bars[["volume"]]], axis=1)


class Faulty:
    "Passes requests on, and does to each what the fault says: 'lost' is carried out and not answered, 'refused' is neither."

    def __init__(self, app):
        self.app, self.requests, self.fault = app, [], lambda method, path: None

    def sent(self, path: str) -> int:
        return self.requests.count(("POST", path))

    async def __call__(self, scope, receive, send):
        method, path = scope["method"], scope["path"].rpartition("/")[2]
        self.requests.append((method, path))
        fault, told = self.fault(method, path), []

        async def keep(message):
            told.append(message)

        if fault != "refused":
            await self.app(scope, receive, keep if fault else send)
        if fault:
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/html")]})
            await send({"type": "http.response.body", "body": b"<html>busy</html>"})


class Alpaca:
    "The part of Alpaca's REST that the venue uses, before a paper exchange."

    def __init__(self, bars: pd.DataFrame):
        self.bars = bars
        self.prices = {s: Decimal(repr(round(float(bars["close"][s].iloc[-1]), 2))) for s in SHARES}
        markets = {s: Instrument(s, Decimal("0.000000001"), Decimal("0.01"), min_cost=Decimal(1)) for s in SHARES}
        self.venue = PaperVenue(QuoteFeed(lambda s, t: self.prices.get(s)), NOW, markets, TradingCosts(Decimal(0), Decimal(1), Decimal(1)),
                                {"USD": Decimal(20_000), "AAA": Decimal(600)}, "USD")

    def trades(self) -> list:
        return self.venue.fetch_my_trades(None)

    def balance(self) -> dict:
        return self.venue.fetch_balance()

    def told(self, client_order_id: str = "", number: int = 0) -> dict:
        "Describe an order as Alpaca does."
        order, placed = self.venue.sent(client_order_id, number)
        s = self.venue.fetch_order(order.client_order_id, order.symbol)
        status = {"closed": "filled", "open": "partially_filled" if s.filled else "new"}.get(s.status, s.status)
        moment = placed.isoformat()
        return {"id": self.number(s.id), "client_order_id": s.client_order_id, "created_at": moment, "updated_at": moment, "submitted_at": moment,
                "symbol": s.symbol, "qty": f"{s.amount:f}", "filled_qty": f"{s.filled:f}", "filled_avg_price": s.average and f"{s.average:f}",
                "order_class": "", "type": order.type, "side": s.side, "time_in_force": "day", "status": status, "extended_hours": False}

    @staticmethod
    def number(own_id: str) -> str:
        return str(uuid.UUID(int=int(own_id.rpartition("-")[2].lstrip("t"))))

    def new_order(self, asked: dict) -> tuple[int, dict]:
        try:
            self.venue.sent(asked["client_order_id"])
            return 422, {"code": 40010001, "message": "client_order_id must be unique"}
        except MissingData:
            pass
        price = Decimal(str(asked["limit_price"])) if "limit_price" in asked else None
        amount = Decimal(str(asked["qty"]))
        state = self.venue.create_order(Order(asked["client_order_id"], asked["symbol"], asked["side"], amount, asked["type"], price))
        if state.status == "rejected":
            return 403, {"code": 40310000, "message": "insufficient buying power"}
        return 200, self.told(state.client_order_id)

    def one(self, find) -> tuple[int, dict]:
        try:
            return 200, find()
        except MissingData:
            return 404, {"code": 40410000, "message": "order not found"}

    def fills(self, asked: dict) -> list:
        rows = [f for f in self.trades() if "after" not in asked or f.timestamp > datetime.fromisoformat(asked["after"])]
        ids = [self.number(f.id) for f in rows]
        first = ids.index(asked["page_token"]) + 1 if "page_token" in asked else 0
        orders = {f.client_order_id: self.number(self.venue.fetch_order(f.client_order_id, f.symbol).id) for f in rows}
        told = [{"id": i, "activity_type": "FILL", "order_id": orders[f.client_order_id], "symbol": f.symbol, "side": f.side, "qty": f"{f.amount:f}",
                 "price": f"{f.price:f}", "transaction_time": f.timestamp.isoformat()} for i, f in zip(ids, rows, strict=True)]
        return told[first:first + int(asked["page_size"])]

    def candles(self, asked: dict) -> dict:
        found = {}
        for s in asked["symbols"].split(","):
            frame = self.bars.xs(s, axis=1, level=1)
            frame = frame.set_axis(frame.index.tz_localize(None).tz_localize("America/New_York").tz_convert("UTC"))  # midnight in New York
            frame = frame[(frame.index >= pd.Timestamp(asked["start"])) & (frame.index <= pd.Timestamp(asked["end"]))]
            rows = zip(frame.index, frame.to_dict("records"), strict=True)
            found[s] = [{"t": t.isoformat(), "n": 9, "vw": r["close"], **{f[0]: r[f] for f in FIELDS}} for t, r in rows]
        return {"bars": found, "next_page_token": None}

    def answer(self, method: str, path: str, asked: dict) -> tuple[int, object]:
        "Answer one question."
        asset = {"class": "us_equity", "exchange": "NYSE", "status": "active", "marginable": True, "shortable": True, "easy_to_borrow": True}
        match method, path.split("/"):
            case "GET", ["stocks", "bars"]:
                return 200, self.candles(asked)
            case "GET", ["stocks", "trades", "latest"]:
                return 200, {"trades": {s: {"t": NOW().isoformat(), "p": float(self.prices[s]), "s": 1} for s in asked["symbols"].split(",")}}
            case "GET", ["account"]:
                return 200, {"id": str(uuid.UUID(int=1)), "account_number": "PA1", "status": "ACTIVE", "cash": f"{self.balance()['USD']:f}"}
            case "GET", ["positions"]:
                rest = {"asset_id": str(uuid.UUID(int=2)), "exchange": "NYSE", "asset_class": "us_equity", "side": "long"}
                rest |= {"avg_entry_price": "1", "cost_basis": "1"}
                return 200, [{"symbol": s, "qty": f"{n:f}", **rest} for s, n in self.balance().items() if s != "USD"]
            case "GET", ["assets"]:
                return 200, [{"id": str(uuid.UUID(int=3)), "symbol": s, "tradable": True, "fractionable": s != "BBB", **asset} for s in SHARES]
            case "GET", ["account", "activities", "FILL"]:
                return 200, self.fills(asked)
            case "POST", ["orders"]:
                return self.new_order(asked)
            case "GET", ["orders"]:
                return 200, [self.told(s.client_order_id) for s in self.venue.fetch_open_orders()]
            case "GET", ["orders:by_client_order_id"]:
                return self.one(lambda: self.told(asked["client_order_id"]))
            case "GET", ["orders", number]:
                return self.one(lambda: self.told(number=uuid.UUID(number).int))
            case "DELETE", ["orders", number]:
                order, _ = self.venue.sent("", uuid.UUID(number).int)
                self.venue.cancel_order(order.client_order_id, order.symbol)
                return 204, None
        return 404, {"code": 40410000, "message": "endpoint not found."}

    def application(self):
        "Return the web application."
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse, Response

        app = FastAPI(openapi_url=None)

        @app.api_route("/v2/{path:path}", methods=["GET", "POST", "DELETE"])
        async def answer(path: str, request: Request) -> Response:
            if (request.headers.get("APCA-API-KEY-ID"), request.headers.get("APCA-API-SECRET-KEY")) != tuple(ALPACA_KEYS.values()):
                return JSONResponse({"message": "forbidden."}, 403)
            asked = dict(request.query_params) or json.loads(await request.body() or b"{}")
            status, told = self.answer(request.method, path, asked)
            return JSONResponse(told, status) if told is not None else Response(status_code=status)

        return app


class Terminal:
    "A simulated MetaTrader terminal behind the real bridge, with some euros bought before."

    def __init__(self, bars: pd.DataFrame):
        contracts = [Contract(s.replace("/", "") + ".m", *s.split("/"), commission=3.5) for s in PAIRS]
        fine = {c.name: bars.xs(s, axis=1, level=1) for c, s in zip(contracts, PAIRS, strict=True)}
        self.terminal = SimulatedTerminal(contracts, fine, "UTC", cash=100_000.0)
        self.terminal.initialize()
        for c, s in zip(contracts, PAIRS, strict=True):
            price = float(bars["close"][s].iloc[-1])
            self.terminal.symbol_select(c.name)
            self.terminal.quote(c.name, round(price - 0.0001, 5), round(price + 0.0001, 5))
        self.buy("EURUSD.m", 0.6)

    def buy(self, name: str, lots: float) -> None:
        request = {"action": 1, "symbol": name, "volume": lots, "type": 0, "type_filling": 0, "comment": "by hand"}
        assert self.terminal.order_send(request).retcode == 10009

    def trades(self) -> list:
        return [d for d in self.terminal.desk.deals if d.comment != "by hand"]

    def application(self):
        return make_bridge(self.terminal, {"tests": next(iter(MT5_KEYS.values()))}, LOGIN, "UTC", ".m")


@contextmanager
def at_alpaca(bars: pd.DataFrame):
    place = Alpaca(bars)
    place.door = Faulty(place.application())
    with served(place.door) as place.url:
        yield place
    place.venue.close()


@contextmanager
def at_metatrader(bars: pd.DataFrame):
    place = Terminal(bars)
    place.door = Faulty(place.application())
    with served(place.door) as place.url:
        yield place


def decide(home, place, bars, source: str, symbols: tuple[str, ...], keys: dict, live: str = "") -> None:
    "Make a live run that has done everything but trade."
    text = SETTINGS.format(symbols=", ".join(symbols), address=place.url, start=(bars.index[0] - timedelta(days=1)).date())
    text = text.replace("source = ccxt\nvenue = binance", f"source = {source}\nvenue = {source}").replace("currency = USDT", "currency = USD")
    text = text.replace("horizons = 1, 5", "horizons = 1").replace("every = 60", "every = 300")
    (home / "settings.ini").write_text(text.replace("window = 1000", "window = 880") + live)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.delenv("CARNET_RUN__DATA", raising=False)
        for name, value in {**keys, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}.items():
            patch.setenv(name, value)
        run = open_run(load_settings(), NOW())
        for stage in STAGES[:3]:
            run_stage(run, stage, KERNEL)


def moved(decided, home, monkeypatch, place, keys: dict) -> Run:
    "Copy a run into a folder of its own, to a venue of its own."
    shutil.copytree(decided, home, dirs_exist_ok=True)
    monkeypatch.chdir(home)
    monkeypatch.delenv("CARNET_RUN__DATA", raising=False)
    for name, value in {**keys, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    (folder,) = (home / "reports").glob("*/run.json")
    run = Run(folder.parent)
    settle(run, "live", address=place.url)
    return run


def settle(run: Run, section: str, **values) -> None:
    given = run.record.settings
    run.pin(settings=given | {section: given[section] | values})


def trade(run: Run) -> str:
    run_stage(run, "40_trade", KERNEL)
    return next(s.status for s in run.record.stages if s.name == "40_trade")


@pytest.fixture(scope="module")
def shares():
    return named(SHARES)


@pytest.fixture(scope="module")
def decided_shares(shares, tmp_path_factory):
    home = tmp_path_factory.mktemp("shares")
    with at_alpaca(shares) as place:
        decide(home, place, shares, "alpaca", SHARES, ALPACA_KEYS)
    return home


@pytest.fixture
def alpaca(decided_shares, shares, tmp_path, monkeypatch):
    with at_alpaca(shares) as place:
        yield moved(decided_shares, tmp_path, monkeypatch, place, ALPACA_KEYS), place


@pytest.fixture(scope="module")
def pairs():
    return named(PAIRS, 0.1)


@pytest.fixture(scope="module")
def decided_pairs(pairs, tmp_path_factory):
    home = tmp_path_factory.mktemp("pairs")
    with at_metatrader(pairs) as place:
        decide(home, place, pairs, "mt5", PAIRS, MT5_KEYS, f"number = {LOGIN}\ntolerance = 0.02\n")
    return home


@pytest.fixture
def metatrader(decided_pairs, pairs, tmp_path, monkeypatch):
    with at_metatrader(pairs) as place:
        yield moved(decided_pairs, tmp_path, monkeypatch, place, MT5_KEYS), place


def book_of(run: Run):
    return open_account_ledger(settings_of(run)).book(ACCOUNT)


def wait_and_approve(run: Run, place, path: str) -> Plan:
    "Bring a run to where it awaits approval, and approve it."
    assert trade(run) == "waiting" and place.door.sent(path) == 0 and run.record.status == "waiting"
    plan = run.read("plan", Plan)
    assert {a.side for a in plan.actions} == {"buy", "sell"}
    assert trade(run) == "waiting" and place.door.sent(path) == 0
    approve_run(run.folder, "Ada", NOW())
    place.door.requests.clear()
    return plan


def test_a_plan_is_traded_at_alpaca_after_a_yes(alpaca):
    run, place = alpaca
    plan = wait_and_approve(run, place, "orders")
    assert trade(run) == "done"
    first = place.door.requests.index(("POST", "orders"))
    assert {"orders", "FILL", "account", "positions"} <= {p for m, p in place.door.requests[:first] if m == "GET"}
    orders = run.read("orders")
    assert set(orders["status"]) == {"filled"} and len(place.trades()) == len(plan.actions) == place.door.sent("orders")
    assert expected_holdings(book_of(run)) == place.balance() and reconcile_account(settings_of(run), "live", NOW()).ok
    assert trade(run) == "done" and place.door.sent("orders") == len(plan.actions)


def test_a_plan_is_traded_at_metatrader_after_a_yes(metatrader):
    run, place = metatrader
    plan = wait_and_approve(run, place, "order")
    assert trade(run) == "done"
    first = place.door.requests.index(("POST", "order"))
    assert {"orders", "trades", "account", "positions"} <= {p for m, p in place.door.requests[:first] if m == "GET"}
    orders = run.read("orders")
    assert set(orders["status"]) == {"filled"} and len(place.trades()) == len(plan.actions) == place.door.sent("order")
    after = reconcile_account(settings_of(run), "live", NOW())
    assert after.ok and after.foreign == () and book_of(run).fees > 0
    assert trade(run) == "done" and place.door.sent("order") == len(plan.actions)


def test_answers_that_alpaca_loses_are_asked_for_and_what_never_arrived_is_sent_again(alpaca):
    run, place = alpaca
    plan = wait_and_approve(run, place, "orders")
    accidents = {1: "refused", 2: "lost", 4: "lost"}
    place.door.fault = lambda method, path: accidents.get(place.door.sent("orders")) if (method, path) == ("POST", "orders") else None
    assert trade(run) == "done"
    trades = place.trades()
    assert len(trades) == len({f.client_order_id for f in trades}) == len(plan.actions) == place.door.sent("orders") - 1
    assert {(f.symbol, f.side): f.amount for f in trades} == {(a.symbol, a.side): a.amount for a in plan.actions}
    assert expected_holdings(book_of(run)) == place.balance() and reconcile_account(settings_of(run), "live", NOW()).ok


def test_a_terminal_that_dies_with_an_order_in_its_hands_and_one_that_loses_its_broker_double_nothing(metatrader, monkeypatch):
    run, place = metatrader
    plan, terminal = wait_and_approve(run, place, "order"), place.terminal
    settle(run, "execution", pause_seconds=0.1, settle_seconds=1.1)  # the bridge takes two equal requests of one second for a replay
    real = terminal.order_send

    def dies(request):
        "Carry the order out, and end."
        real(request)
        terminal.crash()
        terminal.starts = False
        return terminal._fail(-10005, "IPC timeout")

    monkeypatch.setattr(terminal, "order_send", dies)
    with pytest.raises(StageFailed, match="the terminal does not run and cannot be started"):
        trade(run)
    assert len(place.trades()) == place.door.sent("order") == 1 and not book_of(run).fees  # carried out, and the books do not know it yet
    monkeypatch.setattr(terminal, "order_send", real)
    terminal.starts = True
    with pytest.raises(StageFailed, match="safe mode since .*: 3 errors in a row"):
        trade(run)
    assert len(place.trades()) == 1 and book_of(run).fees  # the start asked what became of it
    ada = Context(workspace_of(settings_of(run)), Actor("Ada"), clock=NOW)
    assert "safe mode has ended" in perform("resume-trading", {"reason": "the terminal was closed", "accounts": [run.record.account]}, ada, None).text

    def offline(method, path):
        "Lose the broker before the next order, and find it again at the second question about it."
        if path == "order" and (gone or method == "POST"):
            gone.append(method)
            terminal.online = len(gone) > 2

    gone = []
    place.door.fault = offline
    assert trade(run) == "done" and place.door.sent("order") == len(plan.actions) + 1  # one came back unsent, and was sent again
    ids = [d.comment for d in place.trades()]
    assert len(ids) == len(set(ids)) == len(plan.actions)
    lots = {(d.symbol, "sell" if d.type else "buy"): Decimal(repr(d.volume)) * 100_000 for d in place.trades()}
    assert lots == {(a.symbol.replace("/", "") + ".m", a.side): a.amount for a in plan.actions}
    after = reconcile_account(settings_of(run), "live", NOW())
    assert after.ok and set(run.read("orders")["status"]) == {"filled"}
