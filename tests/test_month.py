"""Thirty days of an account with real orders, through its commands and on a clock of its own: everything that happens to an account happens once.

The exchange below knows nothing of Carnet: it has balances, fills orders, takes its fee in a third coin, and changes balances when coins
are split, renamed or delisted. At the end the books are its balances to the last unit, and lots and
unit value are those of two calculations that stand in this file.
"""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pandas as pd
import pytest

from trading.accounting.ledger import Ledger
from trading.accounting.performance import explain_change
from trading.core.errors import MissingData, UnknownOutcome, VenueUnreachable
from trading.core.instruments import Instrument
from trading.core.types import Event, Fill, Order, OrderState, Position, asset_of
from trading.execution.order_manager import OrderContext, RetryPolicy, record_fills, submit_order
from trading.services.commands import Actor, Context, perform
from trading.services.workspace import Workspace

D = Decimal
START = datetime(2024, 3, 1, tzinfo=UTC)
ACCOUNT = "live-sample"


class Exchange:
    "Spot trading with USDT; the fee of 0.1 % is taken in BNB while there is some."

    name = "exchange"

    def __init__(self):
        self.now, self.balance, self.trades, self.orders, self.away, self.lost = START, defaultdict(Decimal), [], {}, False, False
        self.prices, self.activity = {}, []

    def _here(self):
        if self.away:
            raise VenueUnreachable("exchange: no answer in time; try again later")

    def load_markets(self):
        return {s: Instrument(s, D("1e-8"), D("1e-8")) for s in self.prices}

    def fetch_balance(self):
        self._here()
        return {a: n for a, n in self.balance.items() if n}

    def fetch_tickers(self, symbols):
        return {s: self.prices[s] for s in symbols if s in self.prices}

    def fetch_open_orders(self):
        self._here()
        return []

    def fetch_my_trades(self, since=None):
        self._here()
        return [f for f in self.trades if since is None or f.timestamp >= since]

    def fetch_activity(self, since):
        return [e for e in self.activity if e.timestamp >= since]

    def fetch_order(self, client_order_id, symbol):
        self._here()
        if client_order_id not in self.orders:
            raise MissingData(f"exchange: no order {client_order_id}")
        return self.orders[client_order_id]

    def create_order(self, order: Order) -> OrderState:
        self._here()
        price, coin = self.prices[order.symbol], asset_of(order.symbol)
        sign = 1 if order.side == "buy" else -1
        worth = order.amount * price / 1000
        units = (worth / self.prices["BNB/USDT"]).quantize(D("1e-8"))
        fee_in = {"fee_currency": "BNB", "fee_amount": units} if self.balance["BNB"] >= units else {}
        worth = units * self.prices["BNB/USDT"] if fee_in else worth
        fill = Fill(str(1000 + len(self.trades)), order.client_order_id, order.symbol, order.side, order.amount, price, worth, self.now, **fee_in)
        self.balance[coin] += sign * order.amount
        self.balance["USDT"] -= sign * order.amount * price + (0 if fee_in else worth)
        if fee_in:
            self.balance["BNB"] -= units
        self.trades.append(fill)
        made = OrderState(f"x{fill.id}", order.client_order_id, order.symbol, order.side, order.amount, order.amount, "closed", price, worth)
        if order.client_order_id:
            self.orders[order.client_order_id] = made
        if self.lost:
            raise UnknownOutcome("exchange: sent, and no clear answer came")
        return made


class Month:
    "The account, its exchange, and what a person does."

    def __init__(self, home):
        self.exchange, self.place, self.flows, self.said = Exchange(), Workspace(home / "data", home / "reports", None), [], []
        (home / "data").mkdir()
        self.path = home / "data" / "ledger.sqlite"
        self.closes = {}

    def ledger(self) -> Ledger:
        return Ledger(self.path)

    def do(self, name, **asked):
        done = perform(name, asked, Context(self.place, Actor("ann"), clock=lambda: self.exchange.now), None)
        self.said.append((self.exchange.now, done.text))
        return done

    def book(self, kind, **data):
        return self.do("book-entry", kind=kind, mode="live", **data)

    def order(self, symbol, side, amount, crash=False):
        "Send an order the way that a plan does; a crash is a process that dies before it has written down what came of it."
        desk = OrderContext(self.exchange, self.ledger(), ACCOUNT, lambda: self.exchange.now, RetryPolicy(), lambda s: None)
        order = Order(f"c{len(self.exchange.trades):04}", symbol, side, D(amount))
        state = submit_order(desk, order, "plan", self.exchange.prices[symbol])
        if not crash:
            record_fills(desk, [state], "plan", self.exchange.now)

    def at(self, hours):
        self.exchange.now = self.midnight + timedelta(hours=hours, microseconds=1)

    def flow(self, worth):
        self.flows.append((self.exchange.now, Fraction(worth)))


def price_of(symbol: str, n: int) -> Decimal:
    "Prices of day n: a walk that anybody can repeat."
    base = {"AAA/USDT": 400, "BBB/USDT": 20, "CCC/USDT": 7, "NNN/USDT": 20, "BNB/USDT": 300, "EUR/USDT": 1}[symbol]
    moved = D(base) * (1 + D((n * 37 + len(symbol) * 11 + base) % 23 - 11) / 200)
    return (moved / 4 if symbol == "AAA/USDT" and n >= 12 else moved).quantize(D("0.0001"))


@pytest.fixture
def month(tmp_path, monkeypatch):
    made = Month(tmp_path)
    monkeypatch.setattr("trading.services.account_control.open_venue", lambda *a, **k: (made.exchange, made.exchange.now))
    monkeypatch.setattr("trading.services.book_control.open_venue", lambda *a, **k: (made.exchange, made.exchange.now))
    return made


def happenings(m: Month, n: int) -> None:
    "What happens on day n."
    x = m.exchange
    if n == 2:
        x.balance["USDT"] += 5000
        m.flow(5000)
        assert "deposit" in m.do("explain-differences", accept="all", mode="live").text
    if n == 3:
        m.order("AAA/USDT", "buy", "10")
        m.order("BBB/USDT", "buy", "200")
    if n == 4:  # the answer is lost: asked for, not sent again
        x.lost = True
        m.order("CCC/USDT", "buy", "300")
        x.lost = False
    if n == 5:  # the exchange itself reports this one
        x.balance["USDT"] -= 1500
        x.activity.append(Event("withdrawal", "", x.now, {"currency": "USDT", "amount": "1500", "id": "w1"}))
        m.flow(-1500)
        assert m.do("explain-differences", accept=[1], mode="live").details["proposals"][0]["certain"]
    if n == 6:
        x.balance["EUR"] += 1000
        m.flow(1000 * Fraction(x.prices["EUR/USDT"]))
        m.book("deposit", amount="1000", currency="EUR", rate=str(x.prices["EUR/USDT"]))
    if n == 7:
        m.order("AAA/USDT", "sell", "4", crash=True)  # killed; the next comparison fetches the trade
    if n == 8:
        x.balance["USDT"] += D("12.50")
        m.book("dividend", symbol="AAA/USDT", amount="12.50")
        x.balance["BBB"] += 3
        m.book("reward", symbol="BBB/USDT", amount="3", price=str(x.prices["BBB/USDT"]))
    if n == 9:
        x.away = True
        with pytest.raises(VenueUnreachable):
            m.order("BBB/USDT", "buy", "10")
        assert m.exchange.trades[-1].symbol != "BBB/USDT"
        x.away = False
    if n == 12:
        x.balance["AAA"] *= 4
        assert "a split 4:1" in m.do("explain-differences", accept="all", mode="live").text
    if n == 13:  # by hand, at the exchange's own page
        x.create_order(Order("by hand", "AAA/USDT", "buy", D(2)))
        assert "made by hand" in m.do("explain-differences", accept="all", mode="live").text
    if n == 15:
        x.balance["NNN"] = x.balance.pop("BBB")
        assert "a new name" in m.do("explain-differences", accept="all", mode="live").text
    if n == 17:
        m.do("stop-trading", reason="the prices look odd", accounts=[ACCOUNT])
        assert "kill" in str(sorted(m.place.data.glob("kill-*")))
    if n == 18:
        m.do("resume-trading", reason="they were right", accounts=[ACCOUNT])
        m.order("NNN/USDT", "sell", "50")
    if n == 20:  # a held coin is delisted; half of its last price is paid
        price = (x.prices["CCC/USDT"] / 2).quantize(D("0.01"))
        x.balance["USDT"] += x.balance.pop("CCC") * price
        m.book("delisting", symbol="CCC/USDT", price=str(price))
    if n == 22:
        x.balance["EUR"] -= 400
        m.flow(-400 * Fraction(x.prices["EUR/USDT"]))
        m.book("withdrawal", amount="400", currency="EUR", rate=str(x.prices["EUR/USDT"]))
    if n == 24:
        m.order("AAA/USDT", "sell", "17", crash=True)
    if n == 26:  # a deposit of day 10 turns up that nobody had booked, and one is booked twice and taken back
        typed = m.book("deposit", amount="77", note="typed twice")
        m.do("undo-entry", seq=typed["seq"], reason="typed twice", mode="live")
    if n == 28:
        m.order("NNN/USDT", "buy", "33")


def fifo(trades: list[Fill]) -> dict[str, Fraction]:
    "Realised gains by first in, first out, in fractions; independent of the house."
    lots, gains = {"BNB/USDT": [[Fraction(5), Fraction(300)]]}, defaultdict(Fraction)

    def take(symbol, units, price):
        while units:
            lot = lots[symbol][0]
            part = min(lot[0], units)
            gains[symbol] += part * (price - lot[1])
            lot[0], units = lot[0] - part, units - part
            if not lot[0]:
                lots[symbol].pop(0)

    happened = [(f.timestamp, "trade", f) for f in trades]
    happened += [(START + timedelta(days=d, hours=6), what, None) for d, what in ((8, "reward"), (12, "split"), (15, "rename"), (20, "delisting"))]
    for _, what, f in sorted(happened, key=lambda h: h[0]):
        if what == "reward":
            lots["BBB/USDT"].append([Fraction(3), Fraction(price_of("BBB/USDT", 8))])
        elif what == "split":
            lots["AAA/USDT"] = [[n * 4, c / 4] for n, c in lots["AAA/USDT"]]
        elif what == "rename":
            lots["NNN/USDT"], gains["NNN/USDT"] = lots.pop("BBB/USDT"), gains.pop("BBB/USDT", Fraction(0))
        elif what == "delisting":
            take("CCC/USDT", Fraction(300), Fraction((price_of("CCC/USDT", 20) / 2).quantize(D("0.01"))))
        else:
            if f.side == "buy":
                lots.setdefault(f.symbol, []).append([Fraction(f.amount), Fraction(f.price)])
            else:
                take(f.symbol, Fraction(f.amount), Fraction(f.price))
            if f.fee_currency:
                take("BNB/USDT", Fraction(f.fee_amount), Fraction(f.fee) / Fraction(f.fee_amount))
    return {
        "open": {s: sum(n for n, _ in each) for s, each in lots.items() if each},
        "gains": gains,
        "cost": {s: sum(n * c for n, c in e) for s, e in lots.items() if e},
    }


def test_thirty_days(month):
    x, held = month.exchange, [Position("BNB/USDT", D(5), D(300))]
    x.balance |= {"USDT": D(20_000), "BNB": D(5)}
    month.ledger().open_account(ACCOUNT, "USDT", D(20_000), START, held)
    symbols = ["AAA/USDT", "BBB/USDT", "CCC/USDT", "NNN/USDT", "BNB/USDT", "EUR/USDT"]
    worth = []  # by day: value by the exchange's own balances before the day's flows, and at its end
    for n in range(30):
        month.midnight = START + timedelta(days=n)
        x.prices = {s: price_of(s, n) for s in symbols}
        value = lambda: sum((Fraction(u) * (1 if a == "USDT" else Fraction(x.prices[f"{a}/USDT"])) for a, u in x.balance.items()), Fraction(0))  # noqa: E731
        if n == 12:
            x.prices["AAA/USDT"] *= 4  # the split is at six
        month.at(-0.0)
        ledger = month.ledger()
        ledger.mark_closes(ACCOUNT, pd.DataFrame({s: [float(p)] for s, p in x.prices.items()}, [month.midnight]), month.midnight)
        ledger.close()
        before = value()
        if n in (2, 5, 6, 22):  # flows come at the beginning of their day
            happenings(month, n)
        base = before + sum((f for when, f in month.flows if when == x.now), Fraction(0))
        worth.append((before, base))
        if n == 12:
            x.prices["AAA/USDT"] = price_of("AAA/USDT", 12)
        month.at(6)
        if n not in (2, 5, 6, 22):
            happenings(month, n)
        month.at(23)
        compared = month.do("reconcile", mode="live")
        assert compared.complete, (n, compared.text)
        if n in (7, 24):
            assert "filled" in compared.text  # what the killed process had sent is in the books now
    book, ledger = month.ledger().book(ACCOUNT), month.ledger()
    assert {asset_of(s): p.amount for s, p in book.positions.items()} | {"USDT": book.cash} == {a: n for a, n in x.balance.items() if n}
    assert book.paid_in + book.realised + book.income - book.fees == book.cash + sum(book.costs.values()) and ledger.verify() == len(ledger.events())
    own = fifo(x.trades)
    assert {s: Fraction(p.amount) for s, p in book.positions.items() if s != "EUR/USDT"} == own["open"]
    total = sum(own["gains"].values()) - sum(own["cost"].values())  # the split into realised and not differs by method, the sum does not
    assert abs(
        Fraction(sum(book.realised_by.values(), D(0)) - book.realised_by.get("EUR/USDT", D(0)))
        - sum((Fraction(c) for s, c in book.costs.items() if s != "EUR/USDT"))
        - total
    ) < Fraction(1, 10**9)
    history = ledger.equity_history(ACCOUNT)
    unit = [Fraction(1)]
    for (_, base), (now, _) in pairwise(worth):
        unit.append(unit[-1] * now / base)
    assert history["unit"].tolist() == pytest.approx([float(u / unit[1]) for u in unit[1:]], rel=1e-6)  # marks begin a day after the opening
    marks = history.index.to_pydatetime()
    change = explain_change(ledger, [ACCOUNT], marks[0], marks[-1])
    assert change.total == sum(change.assets.values()) + sum(change.currencies.values()) + sum(change.lines.values())
    assert (
        change.lines["dividend"] == D("12.50")
        and change.lines["fees"] < 0
        and change.currencies.keys() == {"EUR/USDT"}
        and "CCC/USDT" in change.assets
    )
    fills = ledger.fills(ACCOUNT)
    assert len(fills) == len(x.trades) == len({f.id for f in fills})  # nothing lost, nothing doubled
