"""Protection at the fakes of the exchanges, as a live account uses it: placed after the fill, grown with it, ended with it, and healed after a kill.

Each fake has stops as its venue has them: at Binance, Kraken, BingX and Bybit among the orders, at OKX, KuCoin, Gate and Bitget apart, where one that
fires becomes another order. STOP_KILLS is the number of kills at each venue; `make soak` takes twenty.
"""

import os
import random
import signal
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path

import pytest
from test_crash import fast_folder  # noqa: F401
from test_venue_contract import OURS, connect

from trading.accounting.ledger import Ledger
from trading.core.errors import MissingData, UnknownOutcome
from trading.core.instruments import Instrument
from trading.core.types import Order
from trading.execution.order_manager import OrderContext, RetryPolicy, ask_until_settled, record_fills, submit_order, unresolved
from trading.execution.protection import end_protections, keep_rules, protect_position, protections, release_orders, watch_protections
from trading.risk.exit_rules import ExitRules
from trading.testing.fake_exchange import FakeExchange
from trading.testing.venue_fakes import FAKES, serve_fake
from trading.venues.crypto.venue import CcxtVenue

STOPPING = sorted(set(FAKES) - {"coinbase", "binanceus"})  # Coinbase takes stops with a limit only, Binance.US is Binance
APART = {"okx", "kucoin", "gate", "bitget"}
KILLS = int(os.environ.get("STOP_KILLS", "1"))
BTC = "BTC/USDT"
STOP = Order(OURS, BTC, "sell", D("0.5"), "stop", stop_price=D(45000))


def now() -> datetime:
    return datetime.now(UTC)


def stops_of(exchange: FakeExchange) -> list[tuple]:
    "Return the stops that stand at a fake: side, units, trigger."
    return [(o["side"], o["amount"], o["stop"]) for o in (*exchange.orders, *exchange.plans) if o["status"] == "open" and o["stop"] is not None]


@pytest.fixture(params=STOPPING)
def name(request):
    return request.param


@pytest.fixture
def exchange():
    return FakeExchange()


@pytest.fixture
def url(name, exchange):
    with serve_fake(name, exchange) as address:
        yield address


def made(name, url) -> CcxtVenue:
    "Return a client that can do what a live one can."
    venue = connect(CcxtVenue, name, url)
    venue.load_markets = lambda: {BTC: Instrument(BTC, D("0.00000001"), D("0.01"))}
    return venue


def again(name, url, order=STOP, number="") -> CcxtVenue:
    "Return a client after a restart, which has been told what the ledger knows."
    venue = made(name, url)
    venue.learn_orders([(order.client_order_id, "", number, now().timestamp() - 1, order)])
    return venue


def test_a_stop_rests_is_listed_and_is_found_after_a_restart(name, url, exchange):
    placed = made(name, url).create_order(STOP)
    assert placed.status == "open" and stops_of(exchange) == [("sell", D("0.5"), D(45000))] and not exchange.trades
    for number in ("", placed.id):
        venue = again(name, url, number=number)
        state = venue.fetch_order(OURS, BTC)
        assert (state.status, state.filled, state.client_order_id, state.amount, state.side) == ("open", 0, OURS, D("0.5"), "sell")
        listed = venue.fetch_open_orders()
        assert [(o.client_order_id, o.amount, o.filled) for o in listed] == [(OURS, D("0.5"), 0)], "the brake finds it, to cancel it"
    assert venue.fetch_order_trades(OURS, BTC) == []


def test_a_stop_that_fires_tells_its_trade_under_our_id(name, url, exchange):
    venue = made(name, url)
    placed = venue.create_order(STOP)
    exchange.move("44900")
    for client in (venue, again(name, url, number=placed.id)):
        state = client.fetch_order(OURS, BTC)
        assert (state.status, state.filled, state.average, state.client_order_id) == ("closed", D("0.5"), D(44900), OURS)
        assert sum(f.amount for f in client.fetch_order_trades(OURS, BTC)) == D("0.5")
        assert {f.price for f in client.fetch_order_trades(OURS, BTC)} == {D(44900)} and client.fetch_open_orders() == []
    assert exchange.balances["BTC"] == D("9.5")


def test_a_stop_whose_answer_was_lost_is_found_and_one_that_never_arrived_is_not(name, url, exchange):
    kind = "plan" if name in APART else "create"
    other = Order("0" * 24, BTC, "sell", D("0.5"), "stop", stop_price=D(44000))
    first = made(name, url)
    first.create_order(other)
    for fault, there in (("drop", False), ("lose", True)):
        exchange.faults[kind] = [fault]
        with pytest.raises(UnknownOutcome):
            first.create_order(STOP)
        venue = again(name, url)
        venue.numbers["0" * 24] = first.numbers["0" * 24]
        if there:
            assert venue.fetch_order(OURS, BTC).status == "open" == first.fetch_order(OURS, BTC).status
        else:
            with pytest.raises(MissingData):
                venue.fetch_order(OURS, BTC)
    assert len(stops_of(exchange)) == 2
    exchange.move("44900")
    assert (found := again(name, url, number=first.numbers[OURS])).fetch_order(OURS, BTC).filled == D("0.5")
    assert found.cancel_order(OURS, BTC).status == "closed", "a cancellation that comes too late tells the fill"


def test_a_stop_that_became_an_order_without_our_id_is_an_unknown_outcome(exchange):
    with serve_fake("kucoin", exchange) as url:
        venue = made("kucoin", url)
        placed = venue.create_order(STOP)
        exchange.plans[0]["inherits"] = False
        exchange.move("44900")
        for client in (venue, again("kucoin", url), again("kucoin", url, number=placed.id)):
            with pytest.raises(UnknownOutcome, match="has traded since"):
                client.fetch_order(OURS, BTC)


def test_a_stop_is_cancelled_once_and_again(name, url, exchange):
    venue = made(name, url)
    placed = venue.create_order(STOP)
    state = again(name, url, number=placed.id).cancel_order(OURS, BTC)
    assert (state.status, state.filled, state.client_order_id) == ("canceled", 0, OURS)
    assert stops_of(exchange) == [] and venue.fetch_open_orders() == []


def test_two_stops_that_are_the_same_are_not_guessed_apart(exchange):
    with serve_fake("gate", exchange) as url:
        venue = made("gate", url)
        for _ in range(2):
            exchange.faults["plan"] = ["lose"]
            with pytest.raises(UnknownOutcome):
                venue.create_order(STOP)
        with pytest.raises(UnknownOutcome, match="2 stops that are the same"):
            venue.fetch_order(OURS, BTC)


def test_gate_keeps_a_stop_for_a_month_and_one_that_has_expired_is_set_again(tmp_path, exchange):
    with serve_fake("gate", exchange) as url:
        desk = Desk(tmp_path, "gate", url, exchange)
        desk.buy("0.5")
        desk.keep()
        assert exchange.plans[0]["seconds"] == 30 * 86400, "ccxt alone would let it end after a day"
        exchange.plans[0]["status"] = "expired"
        assert stops_of(exchange) == []
        desk.look()
        assert stops_of(exchange) == [("sell", D("0.5"), D(45000))]


def test_okx_gets_cash_orders_and_an_account_that_takes_none_is_told(tmp_path, exchange, monkeypatch):
    with serve_fake("okx", exchange) as url:
        desk = Desk(tmp_path, "okx", url, exchange)
        desk.buy("0.5")
        monkeypatch.setitem(desk.venue.profile.stop_params, "tdMode", "cross")  # as ccxt would send it by itself
        told = desk.keep()
        assert stops_of(exchange) == [] and any("watched here, not at the venue" in t and "tdMode" in t for t in told), told
        exchange.move("44900")
        desk.look()
        assert exchange.balances["BTC"] == D(10) and "BTC/USDT" not in desk.ledger.positions("mine"), "it was watched here"


# ------------------------------------------------------------------------------------------------ an account


class Desk:
    "An account at a fake that buys and protects what it holds."

    def __init__(self, folder: Path, name: str, url: str, exchange: FakeExchange, fresh: bool = True):
        self.venue, self.exchange = made(name, url), exchange
        self.venue.fetch_tickers = lambda symbols: dict.fromkeys(symbols, exchange.price)
        self.ledger = Ledger(folder / "books.db")
        if fresh:
            self.ledger.open_account("mine", "USDT", D(1_000_000), now() - timedelta(minutes=1))
        self.context = OrderContext(self.venue, self.ledger, "mine", now, RetryPolicy(sends=20), lambda seconds: None)
        self.rules = ExitRules(stop_loss=D("0.1"))

    def trade(self, side: str, units: str, order: str, release: bool = True) -> None:
        "Trade at the market, as a plan does: what protects is taken off before."
        if release:
            release_orders(self.context, [BTC])
        sent = Order(order, BTC, side, D(units))
        if submit_order(self.context, sent, "plan") is not None:
            since = self.ledger.find("intent", "mine", order).timestamp
            record_fills(self.context, [ask_until_settled(self.context, sent, since)], "plan", since)

    def buy(self, units: str, order: str = "b" * 24) -> None:
        self.trade("buy", units, order)

    def look(self) -> list[str]:
        return watch_protections(self.context, self.venue.fetch_tickers([BTC]))

    def keep(self) -> list[str]:
        "What follows each step of a run."
        return self.look() + keep_rules(self.context, self.rules)

    @property
    def held(self) -> D:
        position = self.ledger.positions("mine").get(BTC)
        return position.amount if position else D(0)


def lots(units: D) -> D:
    "What of a holding can be sold: a fee in coins leaves a part of a lot."
    return units.quantize(D("0.00000001"), rounding="ROUND_DOWN")


def test_a_stop_is_placed_after_the_fill_grows_with_it_and_ends_with_it(name, url, exchange, tmp_path):
    desk = Desk(tmp_path, name, url, exchange)
    desk.buy("0.5", "b" * 24)
    desk.keep()
    wanted = desk.ledger.positions("mine")[BTC].average * D("0.9")
    assert stops_of(exchange) == [("sell", lots(desk.held), wanted.quantize(D("0.01"), rounding="ROUND_DOWN"))]
    assert desk.keep() == [] and len(stops_of(exchange)) == 1, "nothing has changed, nothing is sent"
    exchange.move("50500")
    desk.buy("0.25", "c" * 24)  # the position grows
    assert stops_of(exchange) == [], "what protects stands in nobody's way"
    desk.keep()
    (side, units, trigger), = stops_of(exchange)
    assert (side, units) == ("sell", lots(desk.held)) and D("0.747") < units <= D("0.75") and D(45000) < trigger < D(45200)
    desk.trade("sell", str(units), "d" * 24)
    desk.keep()
    assert stops_of(exchange) == [] and not protections(desk.ledger, "mine"), "the position is closed, and with it what protected it"
    assert unresolved(desk.context) == []
    desk.ledger.verify()


def test_what_was_bought_elsewhere_in_between_is_protected_at_the_next_look(name, url, exchange, tmp_path):
    desk = Desk(tmp_path, name, url, exchange)
    desk.buy("0.5")
    desk.keep()
    desk.trade("buy", "0.25", "e" * 24, release=False)  # a fill that came later, without anybody taking the stop off
    desk.look()
    assert [(s[0], s[1]) for s in stops_of(exchange)] == [("sell", lots(desk.held))] and desk.held > D("0.7")


def test_a_stop_that_fires_is_booked_and_nothing_is_left(name, url, exchange, tmp_path):
    desk = Desk(tmp_path, name, url, exchange)
    desk.buy("0.5")
    desk.keep()
    units = lots(desk.held)
    exchange.move("44000")
    told = desk.look()
    assert any("the position was closed" in t for t in told) or desk.held < D("0.00000001"), told
    sold = [f for f in desk.ledger.fills("mine") if f.side == "sell"]
    assert sum(f.amount for f in sold) == units and {f.price for f in sold} == {D(44000)}
    assert desk.keep() is not None and stops_of(exchange) == [] and exchange.balances["BTC"] == D("10.5") - units and unresolved(desk.context) == []


def test_a_trailing_stop_follows_there_and_a_target_is_watched_beside_it(name, url, exchange, tmp_path):
    desk = Desk(tmp_path, name, url, exchange)
    desk.buy("0.5")
    protect_position(desk.context, BTC, "ann", ExitRules(stop_loss=D("0.1"), trailing=True), None, D(70000), None)
    (_, _, before), = stops_of(exchange)
    assert D(45000) <= before < D(45100), "a fee in coins makes the unit a little dearer"
    exchange.move("60000")
    told = desk.look()
    assert any("moved" in t for t in told) and [s[2] for s in stops_of(exchange)] == [D(54000)], "one stop, further up"
    exchange.move("58000")
    assert desk.look() == [] and [s[2] for s in stops_of(exchange)] == [D(54000)], "it never goes back"
    exchange.move("70000")
    told = desk.look()  # the target is reached: the stop is taken off, and the units are sold at the market
    assert any("target 70000" in t for t in told) and stops_of(exchange) == [] and desk.held < D("0.00000001")
    assert {f.price for f in desk.ledger.fills("mine") if f.side == "sell"} == {D(70000)}


def test_who_ends_a_protection_has_no_order_left(name, url, exchange, tmp_path):
    desk = Desk(tmp_path, name, url, exchange)
    desk.buy("0.5")
    desk.keep()
    end_protections(desk.context, "the test", [BTC])
    exchange.move("40000")
    assert stops_of(exchange) == [] and exchange.balances["BTC"] == D("10.5") and unresolved(desk.context) == []


# ------------------------------------------------------------------------------------------------ kills


def day(folder: Path, name: str, url: str, exchange: FakeExchange, kill_at: int) -> int:
    "Start as a run does: protect what is there, buy twice, protect after each; return how many steps there were."
    desk, count = Desk(folder, name, url, exchange, fresh=False), [0]

    def step(*seen) -> None:
        count[0] += 1
        if count[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def fetch(*args, real=desk.venue._ccxt.fetch, **options):
        step()  # before it leaves
        answer = real(*args, **options)
        step()  # before it is read
        return answer

    desk.venue._ccxt.fetch = fetch
    desk.ledger._db.set_trace_callback(step)
    for intent in unresolved(desk.context):  # as reconciliation does before anything else
        if intent.data["plan"] == "plan":
            desk.trade("buy", intent.data["amount"], intent.data["client_order_id"])
    desk.keep()
    for units, order in (("0.2", "a" * 24), ("0.3", "b" * 24)):
        while not desk.ledger.find("ended", "mine", order):  # one that never arrived is sent again
            desk.buy(units, order)
            desk.keep()
    return count[0]


def in_child(folder: Path, name: str, url: str, exchange: FakeExchange, kill_at: int) -> int:
    "Live such a day in a forked process; return how it ended."
    pid = os.fork()
    if pid == 0:
        try:
            day(folder, name, url, exchange, kill_at)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a child must never return into the test
            (folder / "error.txt").write_text(repr(error))
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def protected_day(folder: Path, name: str, seed: int, steps: int) -> int:
    "Live one bad day and hold its end against what should be there; return the kills."
    dice, exchange, kills = random.Random(f"{name} {seed}"), FakeExchange(), 0
    exchange.faults = {k: list(dice.choice(([], [], ["lose"], ["drop"], ["429 0"]))) for k in ("create", "plan")}
    ledger = Ledger(folder / "books.db")
    ledger.open_account("mine", "USDT", D(1_000_000), now() - timedelta(minutes=1))
    ledger.close()
    with serve_fake(name, exchange) as url:
        for kill_at in [dice.randint(1, steps) for _ in range(dice.choice([1, 1, 2]))] + [0] * 6:
            ended = in_child(folder, name, url, exchange, kill_at)
            kills += ended == -9
            if ended == 0:
                break
        else:
            raise AssertionError(f"{name}, seed {seed}: {(folder / 'error.txt').read_text()}")
        bought = [o for o in exchange.orders if o["side"] == "buy"]
        assert sorted(o["amount"] for o in bought) == [D("0.2"), D("0.3")], f"{name}, seed {seed}: {bought}"
        desk = Desk(folder, name, url, exchange, fresh=False)
        there = [s[:2] for s in stops_of(exchange)]
        assert there == [("sell", lots(desk.held))], f"{name}, seed {seed}: {there}, held {desk.held}"
        assert D("0.499") < desk.held <= D("0.5") and len(unresolved(desk.context)) == 1
        exchange.move("40000")  # and it is the one that the books know
        desk.look()
        assert unresolved(desk.context) == [] and desk.held < D("0.00000001") and D(10) <= exchange.balances["BTC"] < D("10.001")
        desk.ledger.verify()
        desk.ledger.close()
    return kills


def kills_between(folder: Path, name: str, kills: int) -> None:
    "Live days at a venue until the process was killed so often."
    (calm := folder / "calm").mkdir()
    ledger = Ledger(calm / "books.db")
    ledger.open_account("mine", "USDT", D(1_000_000), now() - timedelta(minutes=1))
    ledger.close()
    with serve_fake(name, exchange := FakeExchange()) as url:
        steps = day(calm, name, url, exchange, 0)
    done = seed = 0
    while done < kills:
        (own := folder / str(seed)).mkdir()
        done, seed = done + protected_day(own, name, seed, steps), seed + 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_killed_between_fill_and_stop_the_position_is_protected_once(fast_folder, name):  # noqa: F811
    kills_between(fast_folder, name, KILLS)
