"Flattening twice, interrupted in every way, at venues that die: nothing is ever sold twice, and what could not be done is said."

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path

import pytest

from trading.accounting.ledger import Ledger
from trading.core.errors import MissingData, VenueUnreachable
from trading.core.instruments import Instrument
from trading.core.types import ZERO, Event, Fill, Order, OrderState, Position
from trading.execution.emergency_stop import cancel_orders, close_positions
from trading.execution.order_manager import OrderContext, RetryPolicy, record_fills, submit_order
from trading.services import account_control
from trading.services.commands import Actor, Context, perform
from trading.services.workspace import Workspace

NOON, PAIR, FAST = datetime(2024, 1, 2, 12, tzinfo=UTC), "EUR/USD", RetryPolicy(settle=2, poll=1)


class Margin:
    "A venue where an account may go short, as on margin; it knows every order by our id, and its next order can be disturbed."

    name = "margin"

    def __init__(self, units: int = 1000):
        self.units, self.orders, self.filled, self.open, self.next, self.away = D(units), {}, {}, set(), "", False

    def _asked(self):
        if self.away:
            raise VenueUnreachable("margin does not answer")

    def fetch_open_orders(self):
        self._asked()
        return [self._state(self.orders[name]) for name in sorted(self.open)]

    def load_markets(self):
        self._asked()
        return {PAIR: Instrument(PAIR, D(1), D("0.0001"))}

    def _state(self, order):
        done = self.filled[order.client_order_id]
        status = "open" if order.client_order_id in self.open else "closed" if done == order.amount else "canceled"
        name, average = order.client_order_id, D(1) if done else None
        return OrderState("n" + name, name, order.symbol, order.side, order.amount, done, status, average)

    def create_order(self, order):
        self._asked()
        how, self.next = self.next, ""
        if how == "interrupted before":
            raise KeyboardInterrupt
        assert order.client_order_id not in self.orders, "an order was sent twice under one id"
        share = {"half and rests": D(400), "half and ends": D(400)}.get(how, order.amount)
        self.orders[order.client_order_id], self.filled[order.client_order_id] = order, share
        if how == "half and rests":
            self.open.add(order.client_order_id)
        self.units += share if order.side == "buy" else -share
        if how == "interrupted after":
            raise KeyboardInterrupt
        if how == "lost answer":
            raise VenueUnreachable("the answer was lost")
        return self._state(order)

    def cancel_order(self, name, symbol):
        self._asked()
        self.open.discard(name)
        return self._state(self.orders[name])

    def fetch_order(self, name, symbol):
        self._asked()
        if name not in self.orders:
            raise MissingData("unknown")
        return self._state(self.orders[name])

    def fetch_my_trades(self, since):
        self._asked()
        return [Fill("t" + n, n, o.symbol, o.side, self.filled[n], D(1), ZERO, NOON) for n, o in self.orders.items() if self.filled[n]]


def account(path: Path, units: int = 1000) -> Ledger:
    "Open the books of an account that holds as much as the venue."
    ledger = Ledger(path)
    ledger.open_account("mine", "USD", D(10000), NOON, [Position(PAIR, D(units), D(1))])
    return ledger


def flatten(venue, ledger, second: int = 0, sleep=lambda seconds: None):
    "Cancel and close, as a stop does it, some seconds after noon."
    desk = OrderContext(venue, ledger, "mine", lambda: NOON + timedelta(seconds=second), FAST, sleep)
    try:
        cancel_orders(desk)
        return close_positions(desk)
    except KeyboardInterrupt:
        return None


@pytest.mark.parametrize("units", [1000, -1000])
@pytest.mark.parametrize("how", ["", "interrupted before", "interrupted after", "lost answer", "half and rests", "half and ends"])
def test_a_position_is_closed_once_however_the_first_call_ended(how, units, tmp_path):
    venue, ledger = Margin(units), account(tmp_path / "l.db", units)
    venue.next = how
    for second in range(4):
        flatten(venue, ledger, second)
        assert abs(venue.units) <= abs(units) and venue.units * units >= 0, "never past zero"
    assert venue.units == 0 and ledger.positions("mine") == {}
    sent = sum(venue.filled.values())
    assert sent == abs(units) and len(venue.orders) == (2 if how.startswith("half") else 1)


def test_the_same_position_bought_again_is_closed_again(tmp_path):
    venue, ledger = Margin(), account(tmp_path / "l.db")
    for day in range(3):
        assert flatten(venue, ledger, 100 * day).closed and venue.units == 0
        desk = OrderContext(venue, ledger, "mine", lambda: NOON, FAST, lambda seconds: None)
        record_fills(desk, [submit_order(desk, Order(f"again{day}", PAIR, "buy", D(1000)))], "", NOON)
    assert venue.units == 1000 and len(venue.orders) == 6


def test_an_order_of_a_run_that_was_carried_out_and_not_booked_is_not_sold_beside(tmp_path):
    venue, ledger = Margin(), account(tmp_path / "l.db")
    venue.next = "interrupted after"
    with pytest.raises(KeyboardInterrupt):
        submit_order(OrderContext(venue, ledger, "mine", lambda: NOON, FAST), Order("of-a-run", PAIR, "sell", D(1000)), "a plan")
    found = flatten(venue, ledger, 5)
    assert venue.units == 0 and ledger.positions("mine") == {} and not found.problems and list(venue.orders) == ["of-a-run"]


def test_nothing_is_sold_beside_an_order_that_cannot_be_cancelled(tmp_path):
    venue, ledger = Margin(), account(tmp_path / "l.db")
    venue.next = "half and rests"
    submit_order(OrderContext(venue, ledger, "mine", lambda: NOON, FAST), Order("rests", PAIR, "sell", D(1000)), "a plan")
    venue.cancel_order = lambda name, symbol: (_ for _ in ()).throw(ValueError("a client's bug"))
    desk = OrderContext(venue, ledger, "mine", lambda: NOON, FAST, lambda seconds: None)
    assert "could NOT cancel sell 600 EUR/USD: a client's bug" in cancel_orders(desk).problems
    assert "is still open" in close_positions(desk).problems[0] and venue.units == 600 and list(venue.orders) == ["rests"]


def test_a_venue_that_is_away_is_named_and_nothing_is_lost(tmp_path):
    venue, ledger = Margin(), account(tmp_path / "l.db")
    venue.next = "lost answer"
    flatten(venue, ledger)
    venue.away = True
    found = close_positions(OrderContext(venue, ledger, "mine", lambda: NOON, FAST, lambda seconds: None))
    assert "margin does not answer" in found.problems[0] and not found.closed
    venue.away = False
    flatten(venue, ledger, 60)
    assert venue.units == 0 and len(venue.orders) == 1


def test_a_run_that_trades_the_account_is_waited_for(tmp_path):
    venue, ledger, waited = Margin(), account(tmp_path / "l.db"), []
    held = ledger.lease("mine")
    held.__enter__()

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            held.__exit__(None, None, None)

    assert flatten(venue, Ledger(tmp_path / "l.db"), sleep=sleep).closed and len(waited) == 3 and venue.units == 0


@pytest.fixture
def two(tmp_path, monkeypatch):
    "A profile with two exchanges, each with an account that holds something and has an order that rests."
    (tmp_path / "settings.ini").write_text("[crypto:execution]\nvenues = kraken, binance\nsettle_seconds = 0\n")
    place = Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini")
    place.data.mkdir()
    ledger, venues = Ledger(place.ledger), {"": Margin(), "@binance": Margin()}
    for at, venue in venues.items():
        ledger.open_account(f"live-crypto{at}", "USD", D(10000), NOON, [Position(PAIR, D(1000), D(1))])
        venue.name = at or "kraken"
        venue.next = "half and rests"
        submit_order(OrderContext(venue, ledger, f"live-crypto{at}", lambda: NOON, FAST), Order(f"rests{at}", PAIR, "sell", D(1000)), "a plan")
    ledger.close()
    monkeypatch.setattr(account_control, "open_venue", lambda settings, mode, ledger, now, at="": (venues[at], now))
    return place, venues


@pytest.mark.parametrize("dead", ["", "@binance"])
def test_one_venue_that_is_dead_does_not_keep_the_other_from_being_stopped(two, dead):
    place, venues = two
    other = "@binance" if dead == "" else ""
    venues[dead].fetch_open_orders = lambda: (_ for _ in ()).throw(KeyError("what a client raises when its answer is nonsense"))
    done = perform("stop-trading", {"reason": "strange prices", "close": True}, Context(place, Actor("ann"), clock=lambda: NOON), None)
    assert not done.complete and f"live-crypto{dead}" in done["unreached"] and f"live-crypto{other}" not in done["unreached"]
    assert venues[other].units == 0 and not venues[other].open
    ledger = Ledger(place.ledger)
    assert {e.account for e in ledger.events(kind="stopped")} == {"live-crypto", "live-crypto@binance"}
    ledger.close()
    del venues[dead].fetch_open_orders
    again = perform("stop-trading", {"reason": "again", "close": True}, Context(place, Actor("ann"), clock=lambda: NOON + timedelta(seconds=1)), None)
    assert again.complete and all(v.units == 0 and not v.open for v in venues.values())


def test_every_order_is_cancelled_before_the_first_position_is_closed(two):
    place, venues = two
    told = []
    for at, venue in venues.items():
        for name in ("cancel_order", "create_order"):
            real = getattr(venue, name)
            setattr(venue, name, lambda *args, real=real, name=name, at=at: told.append((name, at)) or real(*args))
    perform("stop-trading", {"reason": "strange prices", "close": True}, Context(place, Actor("ann"), clock=lambda: NOON), None)
    assert [name for name, _ in told] == ["cancel_order"] * 2 + ["create_order"] * 2


def test_without_close_nothing_is_sold(two):
    place, venues = two
    done = perform("stop-trading", {"reason": "strange prices"}, Context(place, Actor("ann"), clock=lambda: NOON), None)
    assert done.complete and done["cancelled"] == 2 and done["closed"] == 0 and {v.units for v in venues.values()} == {D(600)}
    assert isinstance(Ledger(place.ledger).last("stopped", "live-crypto"), Event)
