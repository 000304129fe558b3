"""What may not be traded is refused with its reason: nothing is sent, and nothing is lost."""

import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from trading.accounting.event_table import LedgerError
from trading.accounting.ledger import Ledger
from trading.core.errors import BadInput, Busy, Refused
from trading.core.instruments import Instrument
from trading.core.types import Action, CheckResult, Plan
from trading.execution.approval import approve_plan, cancel_plan
from trading.execution.executor import OrderParameters, execute
from trading.execution.reconciliation import expected_holdings, reconcile
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import QuoteFeed

NOON, D = datetime(2024, 1, 2, 12, tzinfo=UTC), Decimal
PRICES = {"BTC/USDT": D(60000), "ETH/USDT": D(3000), "SOL/USDT": D(100)}
MARKETS = {s: Instrument(s, D("0.0001"), D("0.01"), min_cost=D(5)) for s in ("BTC/USDT", "ETH/USDT")}
PLAN = Plan("mine", NOON, "USDT", D(10000), D(10000), (
    Action("BTC/USDT", "buy", D("0.05"), PRICES["BTC/USDT"], "below its target"),
    Action("ETH/USDT", "buy", D("0.5"), PRICES["ETH/USDT"], "below its target")))
STYLE = OrderParameters(D("0.001"))


class Watched(PaperVenue):
    "A paper exchange that remembers which orders reached it."

    def create_order(self, order):
        self.arrived.append(order.client_order_id)
        return super().create_order(order)


@pytest.fixture
def venue():
    made = Watched(QuoteFeed(lambda s, t: PRICES.get(s)), lambda: made.at, MARKETS, TradingCosts(D("0.001"), D(0), D(0)), {"USDT": D(10000)}, "USDT")
    made.arrived, made.at = [], NOON
    yield made
    made.close()


@pytest.fixture
def path(tmp_path):
    "A ledger with an open account and an approved plan."
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.open_account("mine", "USDT", D(10000), NOON)
    ledger.open_account("yours", "USDT", D(10000), NOON)
    approve_plan(ledger, PLAN, "Ada", NOON)
    ledger.close()
    return tmp_path / "ledger.db"


def verdict(plan):
    return CheckResult(plan.hash, (), ("max_turnover",))


def trade(plan, venue, ledger, checked=None, **more):
    return execute(plan, checked or verdict(plan), venue, ledger, more.pop("now", NOON), STYLE, sleep=lambda s: None, **more)


def assert_untouched(venue, ledger, events):
    assert venue.arrived == [] and venue.fetch_balance() == {"USDT": D(10000)}
    assert [e.kind for e in ledger.events()] == events and ledger.verify() == len(events)


BEFORE = ["opened", "deposit", "opened", "deposit", "proposed", "reviewed", "approved"]


def test_a_plan_altered_by_one_byte_is_another_plan_or_no_plan_at_all(venue, path):
    ledger, text, tried = Ledger(path), PLAN.to_json(), 0
    for place, letter in enumerate(text):
        for other in ("9", "x", " ") if letter not in "9x " else ("7",):
            try:
                altered = Plan.from_json(text[:place] + other + text[place + 1 :])
            except BadInput:
                continue
            if altered == PLAN:  # a blank between two signs says nothing
                continue
            tried += 1
            assert altered.hash != PLAN.hash, (place, other)
            if tried % 20 == 0:
                with pytest.raises(Refused, match="the check was made for plan|not approved|is not in"):
                    trade(altered, venue, ledger, verdict(PLAN))
    assert tried > 150
    assert_untouched(venue, ledger, BEFORE)


@pytest.mark.parametrize(("plan", "more", "words"), [
    (PLAN, {"now": NOON + timedelta(hours=1, minutes=1), "max_age": timedelta(hours=1)}, "0:01:00 too old"),
    (PLAN, {"now": NOON - timedelta(seconds=1)}, "which is later than now"),
    (PLAN, {"account": "yours"}, "the plan is for the account mine and the venue belongs to yours"),
    (PLAN.but(account="nobody"), {}, "the account nobody is not in ledger.db"),
    (PLAN.but(account="yours"), {}, "the plan is not approved"),
    (PLAN.but(notes=("another",)), {}, "the plan is not approved"),
    (PLAN, {"checked": CheckResult(PLAN.hash)}, "no rule was checked"),
    (PLAN, {"stop": lambda: "stopped by Ada: strange prices"}, "stopped by Ada"),
])
def test_a_plan_that_may_not_be_traded_is_refused_with_the_reason(venue, path, plan, more, words):
    ledger = Ledger(path)
    with pytest.raises(Refused, match=words):
        trade(plan, venue, ledger, **more)
    assert_untouched(venue, ledger, BEFORE)


def test_a_plan_is_fresh_until_its_last_minute(venue, path):
    venue.at = NOON + timedelta(hours=1)
    done = trade(PLAN, venue, Ledger(path), now=venue.at, max_age=timedelta(hours=1))
    assert not done.failed and len(venue.arrived) == 2


def test_a_plan_is_executed_once(venue, path):
    ledger = Ledger(path)
    trade(PLAN, venue, ledger)
    sent, events = list(venue.arrived), len(ledger.events())
    for again in (ledger, Ledger(path)):
        with pytest.raises(Refused, match="the plan was executed already"):
            trade(PLAN, venue, again)
    assert venue.arrived == sent and len(ledger.events()) == events and expected_holdings(ledger.book("mine")) == venue.fetch_balance()


def test_a_plan_that_was_withdrawn_is_not_executed(venue, path):
    ledger = Ledger(path)
    cancel_plan(ledger, "mine", PLAN.hash, "Ada", "strange prices", NOON)
    with pytest.raises(Refused, match="the plan was cancelled"):
        trade(PLAN, venue, ledger)
    assert venue.arrived == []


def test_two_processes_do_not_trade_one_account(venue, path):
    ledger, other = Ledger(path), Ledger(path)
    with other.lease("mine"), pytest.raises(Busy, match="mine is being traded by another process"):
        trade(PLAN, venue, ledger)
    assert_untouched(venue, ledger, BEFORE)


def test_a_symbol_that_the_venue_does_not_trade_is_left_out_and_the_rest_is_traded(venue, path):
    ledger = Ledger(path)
    plan = PLAN.but(actions=(*PLAN.actions, Action("SOL/USDT", "buy", D(1), PRICES["SOL/USDT"], "new")))
    approve_plan(ledger, plan, "Ada", NOON)
    done = trade(plan, venue, ledger)
    assert [(o.symbol, o.status) for o in done.orders] == [("BTC/USDT", "closed"), ("ETH/USDT", "closed"), ("SOL/USDT", "skipped")]
    assert done.orders[2].reason == "paper does not trade SOL/USDT" and len(venue.arrived) == 2


def test_a_purchase_beyond_the_balance_is_cut_or_left_out(venue, path):
    ledger = Ledger(path)
    plan = PLAN.but(actions=(PLAN.actions[0].but(amount=D(1)), PLAN.actions[1]))
    approve_plan(ledger, plan, "Ada", NOON)
    done = trade(plan, venue, ledger)
    assert done.orders[0].reason.startswith("cut from 1 to 0.166") and 0 < done.orders[0].filled < D("0.167")
    assert all("of cash" in o.reason for o in done.failed) and expected_holdings(ledger.book("mine")) == venue.fetch_balance()
    assert venue.fetch_balance()["USDT"] >= 0


def test_a_ledger_that_is_cut_off_anywhere_is_refused_and_the_copy_is_whole(venue, path, tmp_path):
    whole = path.read_bytes()
    for size in [1, 15, 16, 99, 100, 4095, 4096, *range(5000, len(whole), 4099), len(whole) - 1]:
        cut = tmp_path / f"cut{size}.db"
        cut.write_bytes(whole[:size])
        with pytest.raises(LedgerError, match="is damaged.*restore it from a backup"):
            Ledger(cut)
        assert cut.read_bytes() == whole[:size]
    cut.write_bytes(whole)
    assert_untouched(venue, Ledger(cut), BEFORE)


def test_an_emptied_ledger_is_never_taken_for_a_new_one(venue, path):
    path.write_bytes(b"")
    with pytest.raises(LedgerError, match="the ledger ledger.db is empty, and 7 events were written to it"):
        Ledger(path)
    with pytest.raises(Refused, match="the account mine is not in another.db"):
        trade(PLAN, venue, Ledger(path.with_name("another.db")))
    assert venue.arrived == []


def test_a_ledger_that_may_not_be_written_is_refused(venue, path):
    path.chmod(0o444)
    with pytest.raises(LedgerError, match="is read-only; allow writing or choose another file"):
        Ledger(path)
    with pytest.raises(LedgerError, match="cannot be written"):
        trade(PLAN, venue, Ledger(path, readonly=True))
    path.chmod(0o644)
    assert_untouched(venue, Ledger(path), BEFORE)


def test_a_ledger_from_a_newer_version_is_refused_and_not_touched(path):
    db = sqlite3.connect(path)
    db.execute("pragma user_version = 9")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="is of version 9 and this carnet knows 3; update carnet"):
        Ledger(path)
    assert path.read_bytes() == before


def test_something_else_than_a_ledger_is_refused(tmp_path):
    for name, content in {"text.db": b"a,b,c\n1,2,3\n" * 400, "zeros.db": bytes(8192), "picture.db": b"\x89PNG\r\n\x1a\n" + bytes(5000)}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LedgerError, match="is damaged|cannot be opened"):
            Ledger(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("room", range(12))
def test_a_full_disk_stops_trading_and_the_next_start_goes_on(venue, path, tmp_path, room):
    ledger = Ledger(path)
    pages = ledger._db.execute("pragma page_count").fetchone()[0]
    ledger._db.execute(f"pragma max_page_count = {pages + room}")
    try:
        trade(PLAN, venue, ledger)
    except LedgerError as error:
        assert "full; nothing was recorded, free the disk" in str(error)
    sent = [e.data["client_order_id"] for e in ledger.events("mine", "intent")]
    assert set(venue.arrived) <= set(sent), "an order left before its intent was written down"
    ledger.close()
    freed = Ledger(path)
    assert reconcile(freed, venue, "mine", NOON, sleep=lambda s: None).ok
    if not freed.find("executed", "mine", PLAN.hash):
        trade(PLAN, venue, freed)
    assert len(venue.fetch_my_trades(None)) == len(set(venue.arrived)) == 2
    assert expected_holdings(freed.book("mine")) == venue.fetch_balance() and freed.verify() == len(freed.events())


def test_books_that_disagree_with_the_venue_stop_trading(venue, path):
    ledger = Ledger(path)
    venue._add("USDT", D(1))
    assert not reconcile(ledger, venue, "mine", NOON, sleep=lambda s: None).ok
    with pytest.raises(Refused, match="the books and the venue disagree"):
        trade(PLAN, venue, ledger)
    assert venue.arrived == []


def test_a_copy_of_the_ledger_answers_as_the_ledger(venue, path, tmp_path):
    trade(PLAN, venue, ledger := Ledger(path))
    book = ledger.book("mine")
    ledger.close()
    shutil.copy(path, tmp_path / "copy.db")
    assert Ledger(tmp_path / "copy.db", readonly=True).book("mine") == book
