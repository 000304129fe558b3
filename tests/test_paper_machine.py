"Whatever is asked of the paper exchange, in whatever order: money and assets are conserved, and the ledger's books agree with it."

import os
import tempfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from trading.accounting.account_book import fill_event
from trading.accounting.ledger import Ledger
from trading.accounting.tax_lots import match_lots
from trading.core.decimals import EXACT
from trading.core.instruments import Instrument
from trading.core.types import Order, Position
from trading.execution.reconciliation import compare_balances, compare_sums
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import QuoteFeed

NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)
STEPS = {"BIG/USDT": Decimal("0.00000001"), "MEME/USDT": Decimal(1)}
MARKETS = {s: Instrument(s, step, Decimal("0.01") if s == "BIG/USDT" else Decimal("0.00000001")) for s, step in STEPS.items()}
PRICES = {  # up to a million, and down to 1e-8
    "BIG/USDT": st.integers(100, 10**8).map(lambda n: Decimal(n) / 100),
    "MEME/USDT": st.integers(1, 10**4).map(lambda n: Decimal(n).scaleb(-8)),
}
AMOUNTS = {"BIG/USDT": st.integers(1, 10**9).map(lambda n: Decimal(n).scaleb(-8)), "MEME/USDT": st.integers(1, 10**12).map(Decimal)}
OWN = {"OWN": Decimal(50)}
FUNDS = {"USDT": Decimal(100000), "BIG": Decimal(3), "MEME": Decimal(10**9)}


class PaperMachine(RuleBasedStateMachine):
    @initialize(wait=st.booleans(), fee=st.sampled_from(["0", "0.001", "0.0333"]), fee_in=st.sampled_from(["", "received", "BIG", "OWN"]))
    def start(self, wait, fee, fee_in):
        self.folder = tempfile.TemporaryDirectory()
        self.path, self.wait, self.fee, self.seconds = Path(self.folder.name) / "venue.db", wait, Decimal(fee), 0
        self.fee_in = fee_in  # the quote currency, what was bought, a coin in the books, or one that its owner keeps beside them
        self.prices = {"BIG/USDT": Decimal(50000), "MEME/USDT": Decimal("0.00001"), "OWN/USDT": Decimal(3)}
        self.sent, self.ended = {}, {}
        self.open_venue()
        self.ledger = Ledger(Path(self.folder.name) / "ledger.db")
        self.ledger.open_account("mine", "USDT", FUNDS["USDT"], NOON, [Position(f"{a}/USDT", FUNDS[a], Decimal(1)) for a in ("BIG", "MEME")])

    def open_venue(self):
        costs = TradingCosts(self.fee, Decimal(5), Decimal(5))
        tape, now = QuoteFeed(lambda s, t: self.prices[s]), lambda: NOON + timedelta(seconds=self.seconds)
        self.venue = PaperVenue(tape, now, MARKETS, costs, FUNDS | OWN, "USDT", self.path, wait=self.wait, fee_in=self.fee_in)

    @rule(data=st.data(), symbol=st.sampled_from(sorted(STEPS)), side=st.sampled_from(["buy", "sell"]))
    def order(self, data, symbol, side):
        kind = data.draw(st.sampled_from(["market", "limit", "stop", "stop_limit"]))
        force = data.draw(st.sampled_from(["GTC", "IOC", "FOK", "PO"]))
        price, stop, amount = data.draw(PRICES[symbol]), data.draw(PRICES[symbol]), data.draw(AMOUNTS[symbol])
        order = Order(f"c{len(self.sent)}", symbol, side, amount, kind, price if "limit" in kind else None, stop if "stop" in kind else None, force)
        self.sent[order.client_order_id] = order
        state = self.venue.create_order(order)
        assert state.status != "rejected" or (state.filled == 0 and state.reason)

    @rule(data=st.data())
    def send_again(self, data):
        if self.sent:
            order = self.sent[data.draw(st.sampled_from(sorted(self.sent)))]
            before = self.venue.fetch_order(order.client_order_id, order.symbol)
            assert self.venue.create_order(order) == before

    @rule(data=st.data())
    def cancel(self, data):
        if self.sent:
            order = self.sent[data.draw(st.sampled_from(sorted(self.sent)))]
            assert self.venue.cancel_order(order.client_order_id, order.symbol).status != "open"

    @rule(data=st.data(), symbol=st.sampled_from(sorted(STEPS)))
    def price_moves(self, data, symbol):
        self.seconds += 60
        self.prices[symbol] = data.draw(PRICES[symbol])

    @rule()
    def restart(self):
        before = self.venue.fetch_balance(), self.venue.fetch_my_trades(None)
        self.venue.close()
        self.open_venue()
        assert (self.venue.fetch_balance(), self.venue.fetch_my_trades(None)) == before

    @invariant()
    def money_and_assets_are_conserved(self):
        if not hasattr(self, "venue"):
            return
        trades, balance = self.venue.fetch_my_trades(None), self.venue.fetch_balance()
        assert all(n >= 0 for n in balance.values()), balance
        with localcontext(EXACT):
            cash = FUNDS["USDT"] + sum((f.cash for f in trades), Decimal(0))
            assert balance.get("USDT", Decimal(0)) == cash
            for asset, funds in (FUNDS | OWN).items():
                moved = sum((f.amount if f.side == "buy" else -f.amount for f in trades if f.symbol == f"{asset}/USDT"), Decimal(0))
                paid = sum((f.fee_amount for f in trades if f.fee_currency == asset), Decimal(0))
                assert asset == "USDT" or balance.get(asset, Decimal(0)) == funds + moved - paid
        assert len({f.id for f in trades}) == len(trades)

    @invariant()
    def fills_stay_within_their_orders(self):
        if not hasattr(self, "venue"):
            return
        for fill in self.venue.fetch_my_trades(None):
            order = self.sent[fill.client_order_id]
            assert fill.amount % STEPS[fill.symbol] == 0
            assert order.price is None or (fill.price <= order.price if order.side == "buy" else fill.price >= order.price)
        for id_, order in self.sent.items():
            state = self.venue.fetch_order(id_, order.symbol)
            filled = sum((f.amount for f in self.venue.fetch_my_trades(None) if f.client_order_id == id_), Decimal(0))
            assert state.filled == filled <= order.amount and (state.status != "closed" or filled == order.amount)
            assert id_ not in self.ended or state == self.ended[id_], "an order that has ended changed"
            if state.status != "open":
                self.ended[id_] = state

    @invariant()
    def the_books_agree(self):
        if not hasattr(self, "venue"):
            return
        self.ledger.append([fill_event(f, "mine", "paper") for f in self.venue.fetch_my_trades(None)])
        book = self.ledger.book("mine")
        assert compare_balances(book, {a: n for a, n in self.venue.fetch_balance().items() if a not in OWN}) == [] and compare_sums(book) == []
        for method in ("fifo", "lifo", "average"):
            _, lots = match_lots(self.ledger.fills("mine"), method, [Position(f"{a}/USDT", FUNDS[a], Decimal(1)) for a in ("BIG", "MEME")], NOON)
            for symbol in STEPS:
                held = book.positions[symbol].amount if symbol in book.positions else Decimal(0)
                assert sum((lot.amount for lot in lots if lot.symbol == symbol), Decimal(0)) == held

    def teardown(self):
        if hasattr(self, "venue"):
            self.venue.close(), self.ledger.close(), self.folder.cleanup()


PaperMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("MACHINE_EXAMPLES", "12")), stateful_step_count=20, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck), database=None)
TestPaperMachine = PaperMachine.TestCase
