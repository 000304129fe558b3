"Real orders for perpetuals, by commands and stock ccxt against a served exchange: long and short, funding, liquidation, the brake, and bad days."

import json
import os
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from cheap_hashes import cheaply
from click.testing import CliRunner
from starlette.testclient import TestClient
from swaps import COINS, SYMBOLS, long_short_settings

from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.core.errors import BadInput
from trading.core.types import Action, CheckResult, Order, Plan
from trading.execution.approval import approve_plan, propose_plan
from trading.execution.emergency_stop import close_positions
from trading.execution.executor import OrderParameters, execute
from trading.execution.order_manager import OrderContext, RetryPolicy
from trading.execution.reconciliation import expected_holdings, open_from_venue, reconcile
from trading.security.audit_log import AuditLog
from trading.security.sessions import Authenticator
from trading.services.workspace import Workspace
from trading.testing.binance_server import SignatureCheck, served
from trading.testing.bybit_server import BybitAccount, BybitCounter, HeaderCheck, make_bybit_exchange
from trading.testing.futures_server import FuturesCounter, FuturesExchange, make_futures_exchange
from trading.venues.crypto.contract_venue import ContractVenue

pytestmark = pytest.mark.xdist_group("contracts")

KEYS = ("public-key", "private-secret-of-the-test")
DAY = 86_400_000
NOW = lambda: datetime.now(UTC)  # noqa: E731
MARKET = f"""source = ccxt
venue = VENUE
symbols = {", ".join(SYMBOLS)}
currency = USDT
start = START
calendar = 24/7
max_age_hours = 72
"""
LIVE = "address = URL\nreported = true\ntolerance = 0.0001\n"
SETTINGS = long_short_settings("swaps", MARKET, 2, "live", execution="settle_seconds = 0.05\n", live=LIVE)


@lru_cache
def rows_of(symbol: str) -> list[list]:
    "Days of a coin that end yesterday, as `klines` tells them."
    days = pd.date_range(end=pd.Timestamp(NOW()).normalize() - pd.Timedelta(days=1), periods=1300, tz="UTC")
    dice = np.random.default_rng(COINS.index(symbol[:3]))
    close = (100 * np.exp(np.cumsum(dice.normal(0.001, 0.02, len(days))))).round(2)
    begin = np.r_[close[0], close[:-1]]
    frame = np.c_[begin, np.maximum(begin, close) * 1.002, np.minimum(begin, close) * 0.998, close, np.full(len(days), 1e6)].round(2)
    at = [int(t.timestamp() * 1000) for t in days]
    return [[t, *map(str, r), t + DAY - 1, "0", 0, "0", "0", "0"] for t, r in zip(at, frame, strict=True)]


def bars(symbol, interval, start, limit):
    return [r for r in rows_of(symbol) if r[0] >= start][:limit] if interval == "1d" else []


class Place:
    "The exchange, its address, what was asked of it, and what goes wrong."

    def __init__(self, venue: str, prices: dict[str, D], **more):
        self.venue, self.asked, self.fault = venue, [], lambda method, path: ""
        fault = lambda method, path: self.fault(method, path)  # noqa: E731
        if venue == "binance":
            self.desk, self.order, self.mode, self.cross = FuturesExchange(prices, **more), "order", "symbolConfig", "several coins"
            self.app = make_futures_exchange(FuturesCounter(self.desk, bars), SignatureCheck(*KEYS), fault, self.asked)
        else:
            self.desk, self.order, self.mode, self.cross = BybitAccount(prices, **more), "order/create", "account/info", "over all positions"
            self.app = make_bybit_exchange(BybitCounter(self.desk, bars), HeaderCheck(*KEYS), fault, self.asked)

    def sent(self) -> int:
        return self.asked.count(("POST", self.order))

    def margin(self) -> D:
        "What the positions bind; at Bybit with the fee that closing them costs where their margin is gone."
        if self.venue == "bybit":
            return sum(map(self.desk.bound, self.desk.prices), D(0))
        return sum((abs(n) * self.desk.prices[s] / self.desk.levers[s] for s, n in self.desk.units.items()), D(0))


@pytest.fixture(params=["binance", "bybit"])
def venue_name(request):
    return request.param


@pytest.fixture
def place(venue_name):
    made = Place(venue_name, {f"{c}USDT": D(rows_of(f"{c}USDT")[-1][4]) for c in COINS})
    with served(made.app) as made.url:
        yield made


def carnet(*words):
    "The command in this process, which holds one ledger open after the other, as a service does."
    return CliRunner().invoke(main, list(words))


@pytest.fixture
def service(tmp_path, monkeypatch):
    "The API over the same folder, in this process."
    from trading.api.app import make_app

    with cheaply(monkeypatch):
        users = Authenticator(tmp_path / "users.sqlite")
        users.add_user("ada", "correct horse battery", "trader", ["main"])
        users.enrol_totp("ada")
        users.add_user("vera", "correct horse battery", "viewer", ["main"])
        users.add_user("fay", "correct horse battery", "viewer", ["family"])
    heads = {n: {"X-API-Key": users.make_key(n, "test", role="trader" if n == "ada" else "viewer")} for n in ("ada", "vera", "fay")} | {"nobody": {}}

    def client():
        folder = Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini")
        return TestClient(make_app(folder, users, AuditLog(tmp_path / "audit.jsonl"), dashboard=False))

    def look(path):
        with client() as asked:
            return {name: asked.get(f"/api/v1{path}", headers=head) for name, head in heads.items()}

    def act(command, **asked):
        with client() as page:
            answer = page.post(f"/api/v1/commands/{command}", json=asked, headers=heads["ada"] | {"Idempotency-Key": uuid.uuid4().hex})
            assert answer.is_success and answer.json()["complete"], answer.text
            return answer.json()["text"]

    return SimpleNamespace(act=act, look=look)


def test_the_whole_life_of_a_long_and_short_account_in_one_process(place, tmp_path, monkeypatch, service):
    for name in [n for n in os.environ if n.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    keys = dict(zip((f"{place.venue.upper()}_API_KEY", f"{place.venue.upper()}_SECRET"), KEYS, strict=True))
    for name, value in {**keys, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    start = datetime.fromtimestamp(rows_of("AAAUSDT")[0][0] / 1000, UTC).date() - timedelta(days=1)
    (tmp_path / "settings.ini").write_text(SETTINGS.replace("VENUE", place.venue).replace("URL", place.url).replace("START", str(start)))
    if place.venue == "binance":  # a run of its own; the other venue's refusal is asked for order by order
        place.desk.hedged = True
        refused = carnet("run")
        assert refused.exit_code != 0 and "is in hedge mode" in refused.output and place.sent() == 0, refused.output
        place.desk.hedged = False
    first = carnet("run")
    assert "carnet approve" in first.output and place.sent() == 0, first.output
    done = carnet("approve", "last", "--by", "Ada")
    assert done.exit_code == 0, done.output
    desk, held = place.desk, {f"{s[:3]}/USDT:USDT": n for s, n in place.desk.units.items() if n}
    assert len(held) > 1 and min(held.values()) < 0 < max(held.values()) and place.sent() == len(held)
    assert {desk.modes[f"{s[:3]}USDT"] for s in held} == {"ISOLATED"} and {desk.levers[f"{s[:3]}USDT"] for s in held} == {2}

    def told(ask):
        "Read the books beside the commands of this process and the notebooks of others."
        with closing(Ledger(tmp_path / "data" / "ledger.sqlite", readonly=True)) as ledger:
            return ask(ledger)

    book = lambda: told(lambda ledger: ledger.book("live-swaps"))  # noqa: E731
    assert {s: p.amount for s, p in book().positions.items()} == held
    shown = json.loads(carnet("margin", "--json").output)
    edges = {s: (n, round(desk.liquidation(f"{s[:3]}USDT"), 8)) for s, n in held.items()}
    assert {i["symbol"]: (D(i["units"]), D(i["liquidation"] or 0)) for i in shown["items"]} == edges and not shown["words"]
    assert abs(D(shown["margin"]) - place.margin()) < D("1e-6")
    assert D(shown["equity"]) == desk.wallet
    seen = service.look("/portfolio/margin")
    assert {n: a.status_code for n, a in seen.items()} == {"ada": 200, "vera": 200, "fay": 403, "nobody": 401}
    assert {k: v for k, v in seen["vera"].json().items() if k in shown} == shown and all(s not in seen["fay"].text for s in held)
    desk.fund(D("0.0003"))
    assert "funding" in service.act("reconcile")
    paid = told(lambda ledger: list(ledger.events("live-swaps", "funding")))
    by_venue = {f"{r['symbol'][:3]}/USDT:USDT": D(r["income"]) for r in desk.income if r["incomeType"] == "FUNDING_FEE"}
    assert {e.data["symbol"]: D(e.data["amount"]) for e in paid} == by_venue
    prices = {f"{s[:3]}/USDT:USDT": p for s, p in desk.prices.items()}
    assert book().equity(prices) == desk.wallet + sum((n * desk.prices[s] - desk.cost[s] for s, n in desk.units.items()), D(0))
    for symbol, units in list(desk.units.items()):  # what a person trades beside the books is seen
        if units:
            desk._fill(desk._order(symbol, "BUY", "MARKET", D(1), D(0), "by-hand", False, "GTC"), desk.prices[symbol])
            break
    differs = carnet("reconcile")
    assert differs.exit_code != 0 and "is not ours" in differs.output, differs.output
    desk._fill(desk._order(symbol, "SELL", "MARKET", D(1), D(0), "by-hand-2", False, "GTC"), desk.prices[symbol])
    before = place.sent()
    stopped = carnet("kill", "enough", "--who", "Ada", "--flatten")
    assert stopped.exit_code == 0, stopped.output
    assert not any(desk.units.values()) and place.sent() == before + len(held), stopped.output
    assert all(o["reduceOnly"] for o in desk.orders[-len(held):]) and not book().positions
    assert "is stopped for all" in service.act("stop-trading", reason="enough", close=True) and place.sent() == before + len(held)
    with closing(Ledger(tmp_path / "data" / "ledger.sqlite")) as ledger:
        assert ledger.verify() and ledger.last("ended", "live-swaps")


# what a leveraged account must survive, order by order

A, B = SYMBOLS[:2]
QUICK = RetryPolicy(reads=2, pause=0.01, settle=0.05, poll=0.01)


def books(venue, place):
    "An account opened with what lies at the venue."
    ledger = Ledger(place.folder / "ledger.sqlite")
    open_from_venue(ledger, venue, "live-x", "USDT", venue.fetch_tickers([A, B]), NOW() - timedelta(minutes=1), [A, B])
    return ledger


def trade(ledger, venue, *actions, plan=None, **more):
    "Execute a plan of (symbol, side, units, price); return what it came to, and the plan."
    if plan is None:
        cash = ledger.book("live-x").cash
        plan = Plan("live-x", NOW(), "USDT", D(10_000), cash, tuple(Action(s, side, D(n), D(p), "a test") for s, side, n, p in actions), {})
        propose_plan(ledger, plan, NOW())
        approve_plan(ledger, plan, "Ada", NOW())
    verdict = CheckResult(plan.hash, (), ("all",))
    return execute(plan, verdict, venue, ledger, NOW, OrderParameters(D(0)), account="live-x", patience=QUICK, **more), plan


def same(ledger, venue):
    return reconcile(ledger, venue, "live-x", NOW, patience=QUICK, symbols=[A, B], reported=True)


@pytest.fixture
def small(tmp_path, venue_name):
    "An exchange with two coins at round prices."
    made = Place(venue_name, {"AAAUSDT": D(100), "BBBUSDT": D(50)}, wallet=D(1_000))
    made.folder = tmp_path
    with served(made.app) as made.url:
        yield made


def client(place, **more):
    return ContractVenue(place.venue, *KEYS, **{"leverage": 2, "base_url": place.url, "symbols": [A, B], "timeout": 5} | more)


def test_a_position_that_turns_is_closed_first_and_opened_in_a_second_order(small):
    venue = client(small)
    ledger = books(venue, small)
    trade(ledger, venue, (A, "buy", 3, 100))
    done, _ = trade(ledger, venue, (A, "sell", 5, 100))
    (line,) = done.orders
    assert (line.orders, line.filled) == (2, 5) and "the position turns: 3 close it, and 2 open the other side" in line.reason
    assert [(o["side"], D(o["origQty"]), o["reduceOnly"]) for o in small.desk.orders] == [("BUY", 3, False), ("SELL", 3, True), ("SELL", 2, False)]
    assert ledger.positions("live-x")[A].amount == -2 == small.desk.units["AAAUSDT"] and same(ledger, venue).ok


class Died(BaseException):
    "Stands for a pulled plug."


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("answered", [True, False])
def test_a_kill_between_the_orders_of_a_turn_loses_and_doubles_nothing(small, at, answered):
    venue = client(small)
    ledger = books(venue, small)
    trade(ledger, venue, (A, "buy", 3, 100))
    real, count = venue.create_order, []

    def dies(order):
        count.append(order)
        if len(count) == at and not answered:
            raise Died
        state = real(order)
        if len(count) == at:
            raise Died
        return state

    venue.create_order = dies
    with pytest.raises(Died):
        trade(ledger, venue, (A, "sell", 5, 100))
    last = ledger.last("proposed", "live-x")
    plan = Plan.from_json(last.data["text"])
    venue = client(small)
    trade(ledger, venue, plan=plan)
    assert small.desk.units["AAAUSDT"] == -2 and same(ledger, venue).ok
    assert [(o["side"], D(o["origQty"])) for o in small.desk.orders[1:]] == [("SELL", 3), ("SELL", 2)]


def test_a_position_that_was_not_closed_is_not_opened_on_the_other_side(small):
    venue = client(small)
    ledger = books(venue, small)
    trade(ledger, venue, (A, "buy", 3, 100))
    small.fault = lambda method, path: "refused" if (method, path) == ("POST", small.order) else ""
    done, _ = trade(ledger, venue, (A, "sell", 5, 100))
    assert done.orders[0].filled == 0 and "was not closed, so nothing is opened" in done.orders[0].reason and small.desk.units["AAAUSDT"] == 3


def test_a_lost_answer_is_asked_for_and_never_sent_again(small):
    venue = client(small)
    ledger = books(venue, small)
    small.fault = lambda method, path: "lost" if (method, path) == ("POST", small.order) else ""
    done, _ = trade(ledger, venue, (A, "sell", 3, 100), (B, "buy", 4, 50))
    assert small.sent() == 2 and {o.filled for o in done.orders} == {3, 4} and same(ledger, venue).ok
    assert small.desk.units == {"AAAUSDT": -3, "BBBUSDT": 4}


def test_modes_that_cannot_be_asked_for_send_nothing(small):
    venue = client(small)
    ledger = books(venue, small)
    small.fault = lambda method, path: "refused" if path == small.mode else ""
    done, _ = trade(ledger, venue, (A, "sell", 3, 100))
    assert small.sent() == 0 and "cannot be asked" in done.orders[0].reason and not ledger.positions("live-x")


def test_more_than_the_wallet_carries_is_cut_and_what_the_venue_refuses_is_told(small):
    venue = client(small)
    ledger = books(venue, small)
    done, _ = trade(ledger, venue, (A, "buy", 30, 100))
    assert D(19) < done.orders[0].filled < D(20) and same(ledger, venue).ok  # 1,000 carry 2,000 less fees
    assert any(word in venue.create_order(Order("m1", B, "buy", D(10))).reason for word in ("Margin is insufficient", "ab not enough for new order"))


def test_a_liquidation_comes_into_the_books_by_its_name(small):
    venue = client(small)
    ledger = books(venue, small)
    trade(ledger, venue, (A, "buy", 10, 100))
    edge = small.desk.liquidation("AAAUSDT")
    (position,) = venue.fetch_positions()
    # half of the price is margin, and half a per cent is kept: of the value then, or of the value when it was opened
    published = {"binance": D(50) / (1 - D("0.005")), "bybit": D("50.5")}
    assert abs(position.liquidation - edge) < D("1e-7") and abs(edge - published[small.venue]) < D("1e-7")
    small.desk.quote("AAAUSDT", D(40))
    found = same(ledger, client(small))
    assert found.ok, found.differences
    assert any("liquidated" in m for m in found.mended) and not ledger.positions("live-x") and ledger.book("live-x").cash == small.desk.wallet


def test_the_brake_closes_long_and_short_once_and_also_in_a_mode_that_opens_nothing(small):
    venue = client(small)
    ledger = books(venue, small)
    trade(ledger, venue, (A, "sell", 3, 100), (B, "buy", 4, 50))
    before = small.sent()
    for mode, words in (("hedged", "hedge mode"), ("several", small.cross)):
        setattr(small.desk, mode, True)
        with pytest.raises(BadInput, match=words):
            venue.create_order(Order("n1", A, "sell", D(1)))
        small.desk.hedged = False
    desk = OrderContext(venue, ledger, "live-x", NOW, QUICK, lambda seconds: None)
    assert len(close_positions(desk).closed) == 2 and small.desk.units == {"AAAUSDT": 0, "BBBUSDT": 0}
    assert close_positions(desk).closed == () and small.sent() == before + 2 and all(o["reduceOnly"] for o in small.desk.orders[-2:])
    assert same(ledger, venue).ok


def test_funding_and_transfers_are_booked_once_and_give_the_wallet(small):
    venue = client(small)
    ledger = books(venue, small)
    trade(ledger, venue, (A, "sell", 3, 100))
    for _ in range(3):
        small.desk.fund(D("0.0001"))
    small.desk.pay("TRANSFER", D(250))
    small.desk.pay("TRANSFER", D(-40))
    for _ in range(2):
        assert same(ledger, venue).ok
    assert len(list(ledger.events("live-x", "funding"))) == 3 and len(list(ledger.events("live-x", "transfer"))) == 2
    assert venue.fetch_balance() == expected_holdings(ledger.book("live-x"))
    small.desk.wallet -= 1  # something that nobody tells
    assert [d.kind for d in same(ledger, venue).differences] == ["balance"]


CASES = [("binance", {}), ("binance", {"AAAUSDT": D("0.01"), "BBBUSDT": D(10)}), ("bybit", {})]  # Bybit counts in coins


@pytest.mark.parametrize(("venue_name", "sizes"), CASES)
def test_many_random_orders_leave_books_and_exchange_equal(small, sizes):
    small.desk.sizes |= sizes
    dice, venue = np.random.default_rng(7), client(small, leverage=4)
    each = {A: small.desk.sizes["AAAUSDT"], B: small.desk.sizes["BBBUSDT"]}
    assert {s: (i.contract_size, i.amount_step) for s, i in venue.load_markets().items()} == {s: (n, n / 1000) for s, n in each.items()}
    small.desk.wallet = D(100_000)
    ledger = books(venue, small)
    for _ in range(60):
        symbol = (A, B)[dice.integers(2)]
        name = f"{symbol[:3]}USDT"
        small.desk.quote(name, D(str(round(float(small.desk.prices[name]) * (1 + dice.normal(0, 0.01)), 2))))
        if dice.integers(5) == 0:
            small.desk.fund(D(int(dice.integers(-5, 6))) / 10_000)
        step = each[symbol] / 1000
        units = D(int(dice.integers(1, 9_000))) / 1000 // step * step
        trade(ledger, venue, (symbol, ("buy", "sell")[dice.integers(2)], units, small.desk.prices[name]))
    found = same(ledger, venue)
    assert [d.words for d in found.differences if d.symbol != "USDT"] == []
    left = expected_holdings(ledger.book("live-x"))["USDT"] - venue.fetch_balance()["USDT"]
    assert abs(left) <= D("1e-6")  # the venue rounds each result to eight places
    book = ledger.book("live-x")
    assert {s: p.amount for s, p in book.positions.items()} == {s: n * each[s] for s, n in zip((A, B), small.desk.units.values(), strict=True) if n}
    assert {p.symbol: p.units for p in venue.fetch_positions()} == {s: p.amount for s, p in book.positions.items()}
    gain = sum((n * small.desk.sizes[s] * small.desk.prices[s] - small.desk.cost[s] for s, n in small.desk.units.items()), D(0))
    assert abs(book.equity({A: small.desk.prices["AAAUSDT"], B: small.desk.prices["BBBUSDT"]}) - small.desk.wallet - gain) <= D("1e-6")
    for p in venue.fetch_positions():
        assert p.liquidation is None or abs(p.liquidation - small.desk.liquidation(f"{p.symbol[:3]}USDT")) < D("1e-7")
