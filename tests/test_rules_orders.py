"""Orders, approvals, reconciliation and limits while trading: each rule on both sides, with a venue whose every answer the test decides.

Clocks move between any two calls here: whatever has to be found again is found although time has passed.
"""

from datetime import timedelta
from decimal import Decimal as D

import pytest
from stub_venue import NOON, StubClock, StubVenue

from trading.accounting.account_book import fill_event
from trading.accounting.ledger import Ledger
from trading.core.errors import BadInput, MissingData, Refused, UnknownOutcome, VenueError, VenueUnreachable
from trading.core.instruments import Instrument
from trading.core.margin import MarginTerms
from trading.core.types import Action, CheckResult, Event, Fill, Order, OrderState, Plan, Position, Violation
from trading.execution.approval import approve_plan, cancel_plan, plan_history, plan_life, plan_status, propose_plan, read_plan, review_plan
from trading.execution.executor import (
    Execution,
    OrderParameters,
    OrderResult,
    affordable,
    execute,
    execution_of,
    parts,
    refusal_reasons,
    volume_part,
)
from trading.execution.limit_monitor import check_order_limits, watch_limits
from trading.execution.order_manager import (
    OrderContext,
    RetryPolicy,
    ask_until_settled,
    attempts,
    order_from,
    own_ids,
    query_order,
    query_venue,
    record_fills,
    submit_order,
    unresolved,
)
from trading.execution.reconciliation import (
    Difference,
    Reconciliation,
    compare_balances,
    compare_orders,
    compare_sums,
    expected_holdings,
    foreign_holdings,
    open_from_venue,
    reconcile,
    record_foreign_holdings,
    resolve_open_orders,
)
from trading.execution.safe_mode import SafeModeVenue, leave_safe_mode, safe_mode
from trading.risk.kill_switch import KillSwitch
from trading.risk.limits import RiskLimits

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
LOST, DOWN = UnknownOutcome("no answer"), VenueUnreachable("down")
PATIENCE = RetryPolicy(reads=3, pause=0.5, settle=3.0, poll=1.0, sends=3)
ORDER = Order("c1", "A", "buy", D(10))


@pytest.fixture
def clock():
    return StubClock()


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path / "ledger.db")
    made.open_account("x", "USD", D(1000), NOON - HOUR)
    yield made
    made.close()


@pytest.fixture
def venue(clock):
    return StubVenue(clock, {"A": 10, "B": 20}, {"USD": 1000})


@pytest.fixture
def desk(venue, ledger, clock):
    return OrderContext(venue, ledger, "x", clock, PATIENCE, clock.sleep)


def kinds(ledger):
    return [e.kind for e in ledger.events("x") if e.kind not in ("opened", "deposit", "holding")]


# questions and orders


@pytest.mark.parametrize(("faults", "slept"), [([], []), ([DOWN], [0.5]), ([LOST, DOWN], [0.5, 1.0])])
def test_a_harmless_question_is_asked_again_after_growing_pauses(desk, venue, clock, faults, slept):
    venue.faults["fetch_balance"] = list(faults)
    assert query_venue(desk, venue.fetch_balance) == {"USD": D(1000)} and clock.slept == slept


def test_a_question_ends_with_the_last_attempt_and_other_errors_at_once(desk, venue, clock):
    venue.faults["fetch_balance"] = [DOWN, DOWN, DOWN, None]
    with pytest.raises(VenueUnreachable):
        query_venue(desk, venue.fetch_balance)
    assert venue.calls == ["fetch_balance"] * 3 and clock.slept == [0.5, 1.0]
    venue.faults["fetch_balance"] = [VenueError("no")]
    with pytest.raises(VenueError, match="no"):
        query_venue(desk, venue.fetch_balance)
    assert len(venue.calls) == 4


def test_an_order_is_written_down_before_it_is_sent_and_sent_once(desk, venue, ledger, clock):
    state = submit_order(desk, ORDER, "plan", D("9.5"))
    assert (state.status, state.filled, state.average) == ("closed", D(10), D(10))
    intent = ledger.find("intent", "x", "c1")
    assert intent.timestamp == NOON and intent.data == {
        "client_order_id": "c1", "symbol": "A", "side": "buy", "amount": "10", "type": "market", "price": None, "stop_price": None,
        "time_in_force": "GTC", "plan": "plan", "plan_price": "9.5", "venue": "stub"}  # fmt: skip
    clock.time += HOUR
    assert submit_order(desk, ORDER.but(amount=D(99)), "plan") == state and len(venue.seen) == 1  # found again, as it was meant then
    record_fills(desk, [state], "plan", NOON)
    clock.time += 100 * HOUR
    venue.orders.clear()
    assert submit_order(desk, ORDER).filled == 10 and len(venue.seen) == 1  # from the ledger, although the venue has forgotten it
    assert kinds(ledger) == ["intent", "placed", "fill", "ended"] and order_from(intent.data) == ORDER
    stop = Order("c2", "A", "sell", D(1), "stop_limit", D(9), D("9.5"), "GTC")
    submit_order(desk, stop)
    assert order_from(ledger.find("intent", "x", "c2").data) == stop and ledger.find("intent", "x", "c2").data["plan_price"] is None


def test_an_order_whose_answer_is_lost_is_looked_up_and_not_sent_again(desk, venue, ledger, clock):
    venue.faults["create_order"] = [LOST]
    assert submit_order(desk, ORDER).filled == 10 and len(venue.seen) == 1 and clock.slept == [] and attempts(desk, "c1") == 1


def test_an_order_that_never_arrived_is_certain_only_after_a_while(desk, venue, ledger, clock):
    venue.faults["create_order"], venue.arrives = [LOST], False
    assert submit_order(desk, ORDER) is None and clock.slept == [1.0, 1.0, 1.0]
    assert ledger.last("absent", "x").data == {"client_order_id": "c1", "attempt": 0, "reason": "never arrived: no answer"}
    assert unresolved(desk) == []
    clock.time += HOUR
    assert submit_order(desk, ORDER).filled == 10 and clock.slept == [1.0] * 6  # waited again before it was sent again
    assert kinds(ledger) == ["intent", "absent", "resent", "placed"] and ledger.last("resent", "x").data == {"client_order_id": "c1", "attempt": 1}
    assert attempts(desk, "c1") == 2 and [e.data["client_order_id"] for e in unresolved(desk)] == ["c1"]


def test_an_order_may_be_absent_twice(desk, venue, ledger):
    venue.faults["create_order"], venue.arrives = [LOST, LOST], False
    assert submit_order(desk, ORDER) is None and submit_order(desk, ORDER) is None and unresolved(desk) == []
    assert [(e.kind, e.data["attempt"]) for e in ledger.events("x", ["absent", "resent"])] == [("absent", 0), ("resent", 1), ("absent", 1)]


def test_an_order_is_known_from_open_orders_or_from_its_trades(desk, venue, ledger, clock):
    venue.share = D("0.4")
    submit_order(desk, ORDER)
    hidden = venue.orders.pop("c1")
    venue.trade("c9", "A", "buy", 5, 99)  # of another order
    state = query_order(desk, "c1", "A", NOON)
    assert (state.status, state.filled, state.average, state.fee, state.reason) == ("canceled", D(4), D(10), D(0), "known from its trades")
    venue.trade("c1", "A", "buy", 6, 15, "0.5")
    venue.trades.append(venue.trades[-1])  # listed twice
    state = query_order(desk, "c1", "A", NOON)
    assert (state.status, state.filled, state.average, state.fee, state.amount, state.side) == ("closed", D(10), D(13), D("0.5"), D(10), "buy")
    assert query_order(desk, "c7", "A", NOON) is None
    assert query_order(desk, "c1", "A", NOON + HOUR) is None  # trades before it was sent are not its trades
    venue.orders["other"] = hidden
    assert query_order(desk, "c1", "A", NOON) == hidden


@pytest.mark.parametrize(("appears", "found"), [(0, True), (3, True), (4, False)])
def test_how_long_an_order_is_waited_for(desk, venue, clock, appears, found):
    known = OrderState("n", "c1", "A", "buy", D(10), D(0), "open")

    def sleep(seconds):
        clock.sleep(seconds)
        if len(clock.slept) == appears:
            venue.orders["c1"] = known

    if not appears:
        venue.orders["c1"] = known
    desk = OrderContext(venue, desk.ledger, "x", clock, PATIENCE, sleep)
    assert ask_until_settled(desk, ORDER, NOON) == (known if found else None) and len(clock.slept) == min(appears, 3)


def test_trades_that_come_late_are_waited_for_and_each_is_written_once(desk, venue, ledger, clock):
    state = submit_order(desk, ORDER)
    (fill,) = venue.trades
    venue.trades.clear()

    def sleep(seconds):
        clock.sleep(seconds)
        venue.trades[:] = [fill, fill] if len(clock.slept) == 2 else []

    late = OrderContext(venue, ledger, "x", clock, PATIENCE, sleep)
    assert record_fills(late, [state], "plan", NOON) == [fill] and clock.slept == [1.0, 1.0]
    assert [e.data["plan"] for e in ledger.events("x", ["fill", "ended"])] == ["plan", "plan"] and len(ledger.fills("x")) == 1
    assert record_fills(desk, [state], "plan", NOON) == [fill] and kinds(ledger) == ["intent", "placed", "fill", "ended"]
    assert len(ledger.fills("x")) == 1 and ledger.book("x").cash == 900


def test_trades_that_do_not_add_up_are_an_unknown_outcome(desk, venue, ledger, clock):
    state = submit_order(desk, ORDER)
    venue.trades[0] = venue.trades[0].but(amount=D(9))
    with pytest.raises(UnknownOutcome, match="stub: the trades of c1 do not add up to what was filled"):
        record_fills(desk, [state], "plan", NOON)
    assert clock.slept == [1.0] * 3 and kinds(ledger) == ["intent", "placed"]
    opened = state.but(status="open")
    assert [f.amount for f in record_fills(desk, [opened], "plan", NOON)] == [D(9)]
    assert kinds(ledger) == ["intent", "placed", "fill"]  # it may still trade


def test_trades_that_carry_the_venues_own_number(desk, venue, ledger, clock):
    state = submit_order(desk, ORDER)
    venue.trades[0] = venue.trades[0].but(client_order_id="n1", timestamp=NOON - 60 * SECOND)  # clocks differ by up to a minute
    assert [f.client_order_id for f in record_fills(desk, [state], "plan", NOON)] == ["c1"]
    assert [f.client_order_id for f in own_ids(venue.trades, {"n2": "c2"})] == ["n1"]
    venue.calls.clear()
    rejected = OrderState("", "c3", "A", "buy", D(1), D(0), "rejected")
    assert record_fills(desk, [rejected], "plan", NOON) == [] and venue.calls == []  # nothing was filled: nothing is asked
    assert ledger.find("ended", "x", "c3").data["plan"] == "plan"


# approval


PLAN = Plan("x", NOON, "USD", D(1000), D(1000), (Action("A", "buy", D(10), D(10), "new"),))
OTHER = PLAN.but(as_of=NOON + SECOND)


def brought(ledger, state):
    "Bring a plan as far as a state."
    steps = {"proposed": lambda: propose_plan(ledger, PLAN, NOON), "reviewed": lambda: review_plan(ledger, "x", PLAN.hash, "Ada", NOON, "fine"),
             "approved": lambda: approve_plan(ledger, PLAN, "Bob", NOON)}  # fmt: skip
    order = ["proposed", "reviewed", "approved"]
    far = {"unknown": 0, "proposed": 1, "canceled": 1, "reviewed": 2}.get(state, 3)
    for step in order[:far]:
        steps[step]()
    for kind in {"started": ["started"], "executed": ["started", "executed"], "canceled": ["canceled"]}.get(state, []):
        ledger.append(Event(kind, "x", NOON, {"plan": PLAN.hash}))
    assert plan_status(ledger, "x", PLAN.hash) == state


@pytest.mark.parametrize(
    ("state", "review", "approve", "cancel"),
    [
        ("unknown", "there is no plan", "approved", "there is no plan"),
        ("proposed", "reviewed", "approved", "canceled"),
        ("reviewed", "reviewed", "approved", "canceled"),
        ("approved", "is approved; only a draft can be reviewed", "approved", "canceled"),
        ("started", "is active; only a draft can be reviewed", "started", "canceled"),
        ("executed", "is executed; only a draft", "was executed already; make a new plan", "was executed already; make a plan that trades it back"),
        ("canceled", "is cancelled; only a draft", "was cancelled; make a new plan", "canceled"),
    ],
)
def test_every_step_from_every_state(ledger, state, review, approve, cancel):
    def act(name, own):
        if name == "review":
            review_plan(own, "x", PLAN.hash, "Eve", NOON + HOUR)
        elif name == "approve":
            approve_plan(own, PLAN, "Eve", NOON + HOUR)
        else:
            cancel_plan(own, "x", PLAN.hash, "Eve", "no", NOON + HOUR)

    for name, outcome in (("review", review), ("approve", approve), ("cancel", cancel)):
        own = Ledger(ledger.path.with_name(f"{name}.db"))
        own.open_account("x", "USD", D(1000), NOON)
        brought(own, state)
        before = len(own.events("x"))
        if " " in outcome:
            with pytest.raises((Refused, BadInput), match=outcome):
                act(name, own)
            assert plan_status(own, "x", PLAN.hash) == state and len(own.events("x")) == before
        else:
            act(name, own)
            assert plan_status(own, "x", PLAN.hash) == outcome
            again = len(own.events("x"))
            act(name, own)
            assert len(own.events("x")) == again and (again > before) == (state != outcome)
        own.close()


def test_two_persons_are_needed_where_the_settings_ask_for_them(ledger):
    with pytest.raises(Refused, match="was not reviewed by anybody but Ada; another person must review it first"):
        approve_plan(ledger, PLAN, "Ada", NOON, four_eyes=True)
    review_plan(ledger, "x", PLAN.hash, "Ada", NOON)
    with pytest.raises(Refused, match="was not reviewed by anybody but Ada"):
        approve_plan(ledger, PLAN, "Ada", NOON, four_eyes=True)
    approve_plan(ledger, PLAN, "Bob", NOON + HOUR, four_eyes=True)
    approve_plan(ledger, PLAN, "Ada", NOON + HOUR, four_eyes=True)  # it is approved already: nothing changes
    assert ledger.find("approved", "x", PLAN.hash).data == {"plan": PLAN.hash, "who": "Bob"} and len(ledger.events("x", "reviewed")) == 1
    approve_plan(ledger, OTHER, "Ada", NOON)  # without it one person does both, and both are written down
    assert ledger.find("reviewed", "x", OTHER.hash).data == {"plan": OTHER.hash, "who": "Ada", "remark": ""}


def test_names_are_needed_and_plans_belong_to_an_account(ledger):
    propose_plan(ledger, PLAN, NOON)
    with pytest.raises(BadInput, match="a review needs a name"):
        review_plan(ledger, "x", PLAN.hash, "  ", NOON)
    with pytest.raises(BadInput, match="an approval needs a name"):
        approve_plan(ledger, PLAN, " ", NOON)
    with pytest.raises(BadInput, match="the account 'y' is not in ledger.db; open it"):
        propose_plan(ledger, PLAN.but(account="y"), NOON)
    assert propose_plan(ledger, PLAN, NOON + HOUR) == PLAN.hash and len(ledger.events("x", "proposed")) == 1
    assert read_plan(ledger, "x", PLAN.hash) == PLAN
    with pytest.raises(BadInput, match="there is no plan .* in the account x that awaits anybody: one without orders"):
        read_plan(ledger, "x", OTHER.hash)
    ledger.append(Event("proposed", "x", NOON, {"plan": OTHER.hash, "text": PLAN.to_json()}))
    with pytest.raises(BadInput, match="was altered in the ledger; run verify"):
        read_plan(ledger, "x", OTHER.hash)


def test_the_life_of_a_plan_is_told_in_order(ledger):
    propose_plan(ledger, PLAN, NOON)
    review_plan(ledger, "x", PLAN.hash, "Ada", NOON + HOUR, "fine")
    approve_plan(ledger, PLAN, "Bob", NOON + 2 * HOUR)
    cancel_plan(ledger, "x", PLAN.hash, "Eve", "too late", NOON + 3 * HOUR)
    propose_plan(ledger, OTHER, NOON + 4 * HOUR)
    assert plan_life(ledger, "x", PLAN.hash).values.tolist() == [
        ["draft", NOON, "the run", ""], ["reviewed", NOON + HOUR, "Ada", "fine"], ["approved", NOON + 2 * HOUR, "Bob", ""],
        ["cancelled", NOON + 3 * HOUR, "Eve", "too late"]]  # fmt: skip
    assert plan_life(ledger, "x", "none").empty
    history = plan_history(ledger, "x")
    assert list(history.index) == [PLAN.hash, OTHER.hash]
    first, second = history.loc[PLAN.hash], history.loc[OTHER.hash]
    assert first[["proposed", "reviewed", "approved", "canceled"]].tolist() == [NOON + n * HOUR for n in range(4)]
    assert first[["reviewed_by", "approved_by", "canceled_by", "why"]].tolist() == ["Ada", "Bob", "Eve", "too late"]
    assert second["proposed"] == NOON + 4 * HOUR and second[["reviewed", "approved", "canceled", "why"]].isna().all()


# refusals before anything is sent


def passed(plan=PLAN):
    return CheckResult(plan.hash, (), ("cash",))


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("events", "more", "expected"),
    [
        ([], {}, []),
        ([], {"now": NOON + DAY}, []),
        ([], {"now": NOON + DAY + SECOND}, ["the plan is of 2024-05-03 12:00 and 0:00:01 too old: make a new one"]),
        ([], {"now": NOON - SECOND}, ["the plan is of 2024-05-03 12:00, which is later than now (2024-05-03 11:59): check the clock"]),
        ([], {"verdict": CheckResult(PLAN.hash, (Violation("cash", "no cash"), Violation("short", "too short")))}, ["no cash", "too short"]),
        ([], {"verdict": CheckResult(PLAN.hash)}, ["no rule was checked"]),
        ([], {"verdict": passed(OTHER)}, [f"the check was made for plan {OTHER.hash[:12]} and this is {PLAN.hash[:12]}: check it again"]),
        ([], {"account": "x"}, []),
        ([], {"account": "y"}, ["the plan is for the account x and the venue belongs to y"]),
        (["started"], {}, []),
        (["executed"], {}, ["the plan was executed already"]),
        (["canceled"], {}, ["the plan was cancelled"]),
        ([("safe_mode", {"on": True, "why": "three errors"})], {}, ["the account is in safe mode since 2024-05-03 12:00: three errors"]),
        ([("safe_mode", {"on": True, "why": "three errors"}), ("safe_mode", {"on": False, "why": "found"})], {}, []),
        ([("reconciled", {"ok": False})], {}, ["the books and the venue disagree since 2024-05-03 12:00: reconcile first"]),
        ([("reconciled", {"ok": False}), ("reconciled", {"ok": True})], {}, []),
    ],
)
def test_why_a_plan_may_not_be_executed(ledger, events, more, expected):
    approve_plan(ledger, PLAN, "Ada", NOON)
    for event in events:
        kind, data = event if isinstance(event, tuple) else (event, {"plan": PLAN.hash})
        ledger.append(Event(kind, "x", NOON, data))
    case = {"verdict": passed(), "now": NOON, "account": None} | more
    assert refusal_reasons(PLAN, case["verdict"], ledger, case["now"], DAY, case["account"]) == expected


def test_a_plan_nobody_approved_and_one_of_no_account(ledger):
    for step in (lambda: None, lambda: propose_plan(ledger, PLAN, NOON), lambda: review_plan(ledger, "x", PLAN.hash, "Ada", NOON)):
        step()
        assert refusal_reasons(PLAN, passed(), ledger, NOON, DAY) == ["the plan is not approved: approve it first"]
    lost = PLAN.but(account="y")
    assert refusal_reasons(lost, passed(lost), ledger, NOON, DAY) == ["the account y is not in ledger.db: open it with open_account"]


# executing


STYLE = OrderParameters(fee_rate=D(0), cushion=D(0))


def run(ledger, venue, clock, plan=PLAN, style=STYLE, approve=True, **more):
    if approve:
        approve_plan(ledger, plan, "Ada", clock())
    return execute(plan, passed(plan), venue, ledger, clock, style, patience=PATIENCE, sleep=clock.sleep, **more)


def test_a_plan_is_traded_sells_first_and_written_down(ledger, venue, clock):
    ledger.append(fill_event(Fill("t0", "c0", "B", "buy", D(5), D(20), D(0), NOON - HOUR), "x", "stub"))
    venue.balance |= {"USD": D(900), "B": D(5)}
    plan = PLAN.but(actions=(Action("A", "buy", D(10), D("9.5"), ""), Action("B", "sell", D(5), D(21), "")))
    venue.fee, told = D("0.01"), []
    done = run(ledger, venue, clock, plan, progress=told.append, prices_after={"A": D(12), "B": D(19)})
    sold, bought = done.orders
    assert (sold.symbol, sold.filled, sold.average, sold.fee, sold.slippage, sold.status) == ("B", D(5), D(20), D(1), D(5), "closed")  # 5 x (21 - 20)
    assert (bought.symbol, bought.filled, bought.average, bought.fee, bought.slippage) == ("A", D(10), D(10), D(1), D(5))  # 10 x (10 - 9.50)
    assert (done.fees, done.slippage, done.slippage_bp, done.implementation_shortfall, done.success_rate) == (D(2), D(10), D(500), D(12), D(1))
    assert done.failed == () and told == [sold, bought] and [f.amount for f in done.fills] == [D(5), D(10)] and done.venue == "stub"
    assert kinds(ledger)[-10:] == ["started", *["intent", "placed", "fill", "ended"] * 2, "executed"]
    assert execution_of(ledger, "x", plan.hash) == done
    assert (done.account, done.plan_hash, done.started, done.finished) == ("x", plan.hash, NOON, NOON)
    with pytest.raises(Refused, match="is not executed: the plan was executed already"):
        run(ledger, venue, clock, plan, approve=False)
    with pytest.raises(BadInput, match=f"plan {OTHER.hash[:12]} was not executed in the account x; it is unknown"):
        execution_of(ledger, "x", OTHER.hash)


def test_what_was_not_traded_is_counted_against_the_prices_after(ledger, venue, clock):
    venue.share = D("0.4")
    done = run(ledger, venue, clock, prices_after={"A": D(12)})
    (line,) = done.orders
    assert (line.planned, line.ordered, line.filled, line.status, line.reason, line.orders) == (D(10), D(10), D(4), "canceled", "asked for", 1)
    assert done.shortfall_unfilled == D(12) and done.success_rate == D("0.4") and done.failed == (line,)  # 6 x (12 - 10)
    assert done.implementation_shortfall == D(12) and ledger.book("x").cash == D(960)
    assert clock.slept == [1.0] * 300 and venue.calls.count("cancel_order") == 1  # five minutes, looked at every second


def test_an_interrupted_plan_goes_on_and_sends_nothing_twice(ledger, venue, clock):
    plan = PLAN.but(actions=(*PLAN.actions, Action("B", "buy", D(5), D(20), "")))
    stopped = iter(["", "", "", "the switch"])
    first = run(ledger, venue, clock, plan, stop=lambda: next(stopped, "the switch"))
    assert [(o.symbol, o.filled, o.status, o.reason) for o in first.orders] == [("A", D(10), "closed", ""), ("B", D(0), "skipped", "the switch")]
    other = Ledger(ledger.path.with_name("crash.db"))
    other.open_account("x", "USD", D(1000), NOON - HOUR)
    fresh = StubVenue(clock, {"A": 10, "B": 20}, {"USD": 1000})
    approve_plan(other, plan, "Ada", clock())

    def dies(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(other, fresh, clock, plan, approve=False, progress=dies)
    clock.time += HOUR  # much later, in another process
    done = run(other, fresh, clock, plan, approve=False)
    assert [o.symbol for o in fresh.seen] == ["A", "B"] and [o.filled for o in done.orders] == [D(10), D(5)] and len(done.fills) == 2
    assert done.started == clock() - HOUR
    other.close()


def test_an_open_order_of_another_plan_comes_first(ledger, venue, clock, desk):
    venue.share = D(0)
    submit_order(desk, ORDER, "another")
    with pytest.raises(Refused, match="order c1 for A of 2024-05-03 12:00 has no known end: reconcile first"):
        run(ledger, venue, clock)
    with pytest.raises(Refused, match="is not executed: halted"):
        run(ledger, venue, clock, stop=lambda: "halted")
    assert len(venue.seen) == 1 and ledger.find("started", "x", PLAN.hash) is None


@pytest.mark.parametrize(
    ("cash", "market", "expected", "reason"),
    [
        (100, Instrument("A", D(1), D(1)), 10, ""), (99, Instrument("A", D(1), D(1)), 9, "cut from 10 to 9: 99.00 of cash"),
        (9, Instrument("A", D(1), D(1)), 0, "cut from 10 to 0: 9.00 of cash, which is below the venue's smallest order"),
        (100, Instrument("A", D(3), D(1)), 9, "rounded down from 10 to 9"), (100, Instrument("A", D(1), D(1), min_amount=D(10)), 10, ""),
        (99, Instrument("A", D(1), D(1), min_amount=D(10)), 0, "cut from 10 to 9: 99.00 of cash, which is below the venue's smallest order"),
        (100, Instrument("A", D(1), D(1), min_cost=D(100)), 10, ""),
        (100, Instrument("A", D(1), D(1), min_cost=D("100.01")), 0, "10 at 10, which is below the venue's smallest order"),
    ],
)  # fmt: skip
def test_a_purchase_is_cut_to_the_cash_and_the_lot(cash, market, expected, reason):
    assert affordable(D(10), D(10), D(cash), market, STYLE) == (D(expected), reason)


def test_fees_and_a_cushion_are_kept_back():
    style = OrderParameters(fee_rate=D("0.1"), cushion=D("0.1"))  # 10 units at 10 need 100 x 1.1 x 1.1
    assert affordable(D(10), D(10), D(121), Instrument("A", D(1), D(1)), style)[0] == 10
    assert affordable(D(10), D(10), D("120.99"), Instrument("A", D(1), D(1)), style)[0] == 9
    assert OrderParameters(fee_rate=D(0)).cushion == D("0.002")


@pytest.mark.parametrize(
    ("amount", "slices", "market", "expected"),
    [(10, 1, {}, [10]), (10, 2, {}, [5, 5]), (10, 3, {}, [3, 3, 4]), (10, 3, {"min_amount": D(3)}, [3, 3, 4]), (10, 3, {"min_amount": D(4)}, [10]),
     (2, 3, {}, [2]), (3, 3, {}, [1, 1, 1]), (10, 3, {"min_cost": D(30)}, [3, 3, 4]), (10, 3, {"min_cost": D(31)}, [10]),
     (10, 1, {"max_amount": D(4)}, [4, 3, 3]), (10, 2, {"max_market_amount": D(3)}, [3, 2, 3, 2]), (10, 1, {"max_cost": D(50)}, [5, 5])],
)  # fmt: skip
def test_an_amount_is_cut_into_lots(amount, slices, market, expected):
    assert parts(D(amount), slices, Instrument("A", D(1), D(1), **market), "market", D(10)) == expected


@pytest.mark.parametrize(
    ("left", "traded", "least", "expected"), [(10, 100, 0, 10), (10, 59, 0, 5), (10, None, 0, 0), (10, 60, 6, 6), (10, 59, 6, 0), (3, 100, 0, 3)]
)
def test_a_part_is_a_share_of_what_the_market_traded(left, traded, least, expected):
    found = volume_part(D(left), None if traded is None else D(traded), D("0.1"),
                       Instrument("A", D(1), D(1), min_amount=D(least)), "market", D(1))
    assert found == expected


def test_slices_are_sent_one_after_the_other(ledger, venue, clock):
    done = run(ledger, venue, clock, style=STYLE.but(slices=3, every=timedelta(seconds=40)))
    assert [o.amount for o in venue.seen] == [3, 3, 4] and clock.slept == [40.0, 40.0] and done.orders[0].orders == 3
    assert len({o.client_order_id for o in venue.seen}) == 3 and done.orders[0].average == 10 and ledger.book("x").positions["A"].amount == 10


def test_parts_follow_the_volume(ledger, venue, clock):
    style = STYLE.but(slices=3, every=timedelta(seconds=40), volume_share=D("0.1"))
    volumes = iter([D(40), None, D(50)])
    done = run(ledger, venue, clock, style=style, volume=lambda symbol: next(volumes))
    assert [o.amount for o in venue.seen] == [4, 5] and clock.slept == [40.0, 40.0]
    assert done.orders[0].reason == "0.1 of the market's volume was not enough for 10 in 3 parts" and done.orders[0].filled == 9
    with pytest.raises(BadInput, match="a share of the volume is asked for and nobody tells the volume"):
        run(ledger, venue, clock, OTHER, style)


@pytest.mark.parametrize(("side", "last", "bp", "limit_bp", "expected"), [
    ("buy", "10", 0, 0, "10"), ("buy", "10", 0, 100, "10.10"), ("sell", "10", 0, 100, "9.90"), ("buy", "10.004", 0, 0, "10.00"),
    ("sell", "10.004", 0, 0, "10.01"), ("buy", "10.1", 100, 0, "10.1"), ("buy", "10.11", 100, 0, None), ("sell", "9.9", 100, 0, "9.9"),
    ("sell", "9.89", 100, 0, None), ("buy", "10.05", 100, 200, "10.10"), ("sell", "9.95", 100, 200, "9.90"),
])  # fmt: skip
def test_the_price_of_a_limit_order(ledger, venue, clock, side, last, bp, limit_bp, expected):
    ledger.append(fill_event(Fill("t0", "c0", "A", "buy", D(10), D(10), D(0), NOON - HOUR), "x", "stub"))
    venue.balance |= {"A": D(10)}
    venue.prices["A"] = D(last)
    plan = PLAN.but(actions=(Action("A", side, D(10), D(10), ""),))
    done = run(ledger, venue, clock, plan, STYLE.but(type="limit", limit_bp=D(limit_bp), max_slippage_bp=D(bp) if bp else None, reprices=0))
    assert [o.price for o in venue.seen] == ([D(expected)] if expected else [])
    if not expected:
        assert done.orders[0].reason == f"the price of {last} is more than 100 bp worse than the plan's 10"
        assert (done.orders[0].status, done.orders[0].orders, done.orders[0].ordered) == ("skipped", 0, 0)


def test_a_limit_order_gets_new_prices_and_then_ends(ledger, venue, clock):
    venue.share = D("0.5")
    done = run(ledger, venue, clock, style=STYLE.but(type="limit", reprices=2, timeout=timedelta(seconds=2)))
    assert [o.amount for o in venue.seen] == [10, 5, 2] and clock.slept == [1.0] * 6  # halves, in whole units; two seconds each
    assert done.orders[0].filled == D("8.5") and done.orders[0].orders == 3 and done.orders[0].status == "canceled"
    assert "rounded down from 2.5 to 2" in done.orders[0].reason


def test_what_a_venue_does_not_trade_or_quote_is_skipped(ledger, venue, clock):
    plan = PLAN.but(actions=(Action("Z", "buy", D(1), D(1), ""), *PLAN.actions))
    del venue.prices["A"]
    done = run(ledger, venue, clock, plan, STYLE.but(max_slippage_bp=D(1)))
    assert [(o.status, o.reason) for o in done.orders] == [("skipped", "stub does not trade Z"), ("skipped", "stub has no price of A")]
    assert venue.seen == [] and done.success_rate == 0 and done.slippage_bp == 0


def test_an_order_that_a_limit_forbids_is_left_out(ledger, venue, clock):
    asked = []
    done = run(ledger, venue, clock, allow=lambda order: asked.append(order) or "max_weight")
    assert [(o.symbol, o.amount, o.type, o.price) for o in asked] == [("A", D(10), "market", None)] and venue.seen == []
    assert done.orders[0].reason == "max_weight" and ledger.find("intent", "x", asked[0].client_order_id) is None


def test_an_order_is_sent_so_often_when_it_certainly_never_arrived(ledger, venue, clock):
    venue.faults["create_order"], venue.arrives = [DOWN, DOWN, DOWN, None], False
    done = run(ledger, venue, clock)
    assert len(venue.seen) == 3 and done.orders[0].reason == "never arrived: down; nothing was traded" and done.orders[0].status == "skipped"


def test_styles_that_cannot_be_meant():
    for bad, words in (({"slices": 0}, "0 slices"), ({"reprices": -1}, "-1 new prices"), ({"reprices": 99}, "99 new prices"),
                       ({"volume_share": D(0), "every": HOUR}, "a volume share of 0"), ({"volume_share": D("1.01"), "every": HOUR}, "share of 1.01"),
                       ({"volume_share": D("0.1")}, "a volume share of 0.1 every 0:00:00")):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            OrderParameters(fee_rate=D(0), **bad)
    kept = OrderParameters(fee_rate=D(0), slices=1, reprices=98, volume_share=D(1), every=SECOND)
    assert (kept.timeout, kept.type, kept.limit_bp, OrderParameters(fee_rate=D(0)).reprices) == (timedelta(minutes=5), "market", D(0), 3)


def test_the_figures_of_an_execution():
    def line(**more):
        return OrderResult(**{"symbol": "A", "side": "buy", "client_order_id": "c", "planned": D(10), "ordered": D(10), "filled": D(10),
                              "price": D(10), "average": D(11), "fee": D(1), "slippage": D(10), "status": "closed"} | more)  # fmt: skip

    half = line(filled=D(5), slippage=D(-5), fee=D("0.5"), status="canceled", reason="why")
    done = Execution("x", "h", "v", NOON, NOON, 0.1, (line(), half), (), D(7))
    assert (done.fees, done.slippage, done.slippage_bp, done.implementation_shortfall) == (D("1.5"), D(5), D("333.33"), D("13.5"))  # 5 of 150
    assert done.success_rate == D("0.7500") and done.failed == (half,)
    frame = done.frame()
    assert frame.to_dict("records")[1] == {"symbol": "A", "side": "buy", "planned": 10.0, "filled": 5.0, "price": 10.0, "average": 11.0, "fee": 0.5,
                                           "slippage": -5.0, "status": "canceled", "reason": "why"}  # fmt: skip
    empty = Execution("x", "h", "v", NOON, NOON, 0.1, (), ())
    assert (empty.success_rate, empty.slippage_bp, empty.shortfall_unfilled) == (D(1), D(0), D(0))


# reconciliation


def held(ledger, **units):
    for n, (symbol, amount) in enumerate(units.items()):
        ledger.append(fill_event(Fill(f"h{n}", f"k{n}", symbol, "buy", D(amount), D(10), D(0), NOON - HOUR), "x", "stub"))
    return ledger.book("x")


@pytest.mark.parametrize(
    ("balance", "more", "expected"),
    [
        ({"USD": 900, "A": 10}, {}, []),
        ({"USD": 900, "A": 11}, {}, ["A: the books say 10 and the venue 11, 1 more"]),
        ({"USD": 899, "A": 10}, {}, ["USD: the books say 900 and the venue 899, 1 less"]),
        ({"USD": 900}, {}, ["A: the books say 10 and the venue 0, 10 less"]),
        ({"USD": 900, "A": 10, "C": 3}, {}, ["C: the books say 0 and the venue 3, 3 more"]),
        ({"USD": 900, "A": 10, "C": 3}, {"own": {"USD", "A"}}, []),
        ({"USD": 900, "A": 10, "C": 3}, {"beside": {"C": D(3)}}, []),
        ({"USD": 900, "A": 12}, {"beside": {"A": D(2)}}, []),
        ({"USD": 900, "A": 10}, {"beside": {"A": D(2)}}, ["A: the books say 12 and the venue 10, 2 less"]),
        ({"USD": 900, "A": "10.5"}, {"tolerance": D("0.5")}, []),
        ({"USD": 900, "A": "10.51"}, {"tolerance": D("0.5")}, ["A: the books say 10 and the venue 10.51, 0.51 more"]),
        ({"USD": 900, "A": "9.5"}, {"tolerance": D("0.5")}, []),
        ({"USD": 900, "A": "9.49"}, {"tolerance": D("0.5")}, ["A: the books say 10 and the venue 9.49, 0.51 less"]),
    ],
)
def test_balances_are_compared_to_the_unit(ledger, balance, more, expected):
    found = compare_balances(held(ledger, A=10), {a: D(n) for a, n in balance.items()}, **more)
    assert [d.words for d in found] == expected and all(d == Difference("balance", d.words.split(":")[0], d.words) for d in found)


def test_what_should_lie_at_the_venue(ledger):
    ledger.append(fill_event(Fill("t", "c", "BTC/USD", "buy", D(2), D(100), D(0), NOON), "x", "stub"))
    ledger.append(fill_event(Fill("u", "c", "BTC/USD:USD", "buy", D(1), D(100), D(0), NOON), "x", "stub"))
    assert expected_holdings(ledger.book("x")) == {"USD": D(700), "BTC": D(2), "BTC/USD:USD": D(1)}, "a contract delivers no coin"
    ledger.append(Event("withdrawal", "x", NOON, {"amount": "700"}))
    assert expected_holdings(ledger.book("x")) == {"BTC": D(2), "BTC/USD:USD": D(1)}


def test_sums_that_do_not_balance(ledger):
    book = held(ledger, A=10)
    assert compare_sums(book) == []
    words = "x: paid in, profit, income and fees give 1000, cash and costs 1000.01"
    assert compare_sums(book.but(cash=D("900.01"))) == [Difference("profit", "USD", words)]
    assert compare_sums(book.but(fees=D(1)))[0].words.endswith("give 999, cash and costs 1000")
    assert compare_sums(book.but(realised=D(1)))[0].words.endswith("give 1001, cash and costs 1000")


def test_orders_and_trades_of_others_are_named(desk, venue, ledger):
    venue.share = D("0.5")
    submit_order(desk, ORDER)
    venue.orders["strange"] = OrderState("n9", "", "B", "sell", D(3), D(0), "open")
    ours, theirs = venue.trades[0], venue.trade("c8", "B", "sell", 2, 21)
    found = compare_orders(desk, venue.fetch_open_orders(), venue.trades)
    assert found == [Difference("foreign order", "B", "an order to sell 3 B (id n9) is not ours"),
                     Difference("foreign trade", "B", "a trade of 2024-05-03 12:00, sell 2 B at 21 (id t2), is not ours")]  # fmt: skip
    ledger.append([fill_event(ours, "x", "stub"), fill_event(theirs, "x", "stub")])
    assert [d.kind for d in compare_orders(desk, [], venue.trades)] == []
    for field, value in (("price", D(11)), ("amount", D(6))):
        (wrong,) = compare_orders(desk, [], [ours.but(**{field: value})])
        assert wrong.kind == "average price" and wrong.words.endswith("stands in the books as 5.0 at 10")


def test_a_reconciliation_demands_agreement():
    Reconciliation("x", "stub", NOON).require()
    with pytest.raises(Refused, match="x at stub: one; two"):
        Reconciliation("x", "stub", NOON, (Difference("balance", "A", "one"), Difference("balance", "B", "two"))).require()


def settle(ledger, venue, clock, **more):
    return reconcile(ledger, venue, "x", clock, patience=PATIENCE, sleep=clock.sleep, **more)


def test_orders_without_a_known_end_are_found_out(desk, venue, ledger, clock):
    submit_order(desk, ORDER)  # filled, and never written down
    venue.share = D("0.5")
    submit_order(desk, ORDER.but(client_order_id="c2", symbol="B"))  # half filled and open
    venue.arrives, venue.faults["create_order"] = False, [LOST]
    ledger.append(Event("intent", "x", NOON, ledger.find("intent", "x", "c1").data | {"client_order_id": "c3"}))  # never arrived
    clock.time += HOUR
    mended, waiting = resolve_open_orders(desk)
    assert mended == ["buy 10 A is closed, 10 filled", "buy 10 B is open, 5.0 filled", "buy 10 A never arrived at stub"]
    assert waiting == ["buy 10 B is open, 5.0 filled"]
    absent = ledger.last("absent", "x")
    assert absent.data == {"client_order_id": "c3", "attempt": 0, "reason": "unknown to the venue when reconciled"}
    assert {s: p.amount for s, p in ledger.positions("x").items()} == {"A": D(10), "B": D(5)}
    assert resolve_open_orders(desk) == ([], ["buy 10 B is open, 5.0 filled"])  # nothing new: nothing mended


def test_books_and_venue_are_compared_and_the_result_is_written_down(ledger, venue, clock):
    done = settle(ledger, venue, clock)
    assert done.ok and done == Reconciliation("x", "stub", NOON, compared=1)
    venue.balance["USD"] = D(999)
    clock.time += HOUR
    done = settle(ledger, venue, clock)
    assert [d.words for d in done.differences] == ["USD: the books say 1000 and the venue 999, 1 less"] and not done.ok
    assert ledger.last("reconciled", "x").data == {"ok": False, "differences": [done.differences[0].words], "mended": [], "waiting": []}
    assert settle(ledger, venue, clock, tolerance=D(1)).ok


def test_a_trade_that_was_missed_is_fetched_also_by_the_venues_number(desk, venue, ledger, clock):
    state = submit_order(desk, ORDER)
    record_fills(desk, [state], "", NOON)
    clock.time += HOUR
    venue.trade("n1", "A", "buy", 1, 12)  # a trade of the same order that turned up after its end, under the venue's number
    venue.orders.clear()
    done = settle(ledger, venue, clock)
    assert done.mended == ("a trade of 1 A at 12 was missing",) and done.ok and ledger.positions("x")["A"].amount == 11
    assert done.compared == 2 + 2 and settle(ledger, venue, clock).mended == ()


def test_trades_from_before_the_account_are_nobodys_business(ledger, venue, clock):
    old = Fill("old", "z", "A", "buy", D(1), D(10), D(0), NOON - HOUR - SECOND)
    venue.trades.append(old)
    assert settle(ledger, venue, clock).ok
    venue.trades[:] = [old.but(timestamp=NOON - HOUR)]
    assert [d.kind for d in settle(ledger, venue, clock).differences] == ["foreign trade"]


def test_after_a_good_comparison_only_the_last_day_is_asked_for_again(ledger, venue, clock):
    asked = []
    fetch = venue.fetch_my_trades
    venue.fetch_my_trades = lambda since=None: asked.append(since) or fetch(since)
    settle(ledger, venue, clock)
    clock.time += 72 * HOUR
    settle(ledger, venue, clock)
    venue.balance["USD"] = D(1)
    clock.time += 72 * HOUR
    settle(ledger, venue, clock)  # differs: does not count
    settle(ledger, venue, clock)
    opened, good = NOON - HOUR, NOON + 72 * HOUR
    assert asked == [opened - 60 * SECOND, opened - 60 * SECOND, good - 24 * HOUR - 60 * SECOND, good - 24 * HOUR - 60 * SECOND]


def test_what_lies_beside_the_account_is_watched_and_left_alone(ledger, venue, clock):
    held(ledger, A=10)
    venue.balance |= {"USD": D(900), "A": D(10), "C": D(5), "D": D(1)}
    first = settle(ledger, venue, clock, symbols=["A"])
    assert first.ok and first.foreign == ("C: 5 lies beside the account and is left alone", "D: 1 lies beside the account and is left alone")
    assert settle(ledger, venue, clock, symbols=["A"]).foreign == ()
    venue.balance["C"] = D("5.5")
    del venue.balance["D"]
    changed = ("C: 5.5 lies beside the account, it was 5", "D: 0 lies beside the account, it was 1")
    assert settle(ledger, venue, clock, symbols=["A"]).foreign == changed
    assert foreign_holdings(ledger, "x", ledger.book("x")) == {"C": D("5.5")}
    venue.trade("z", "C", "buy", 1, 1, moves=False)
    venue.orders["s"] = OrderState("n9", "s", "C", "buy", D(3), D(0), "open")
    strange = settle(ledger, venue, clock, symbols=["A"])
    assert strange.ok
    assert strange.foreign == ("an order to buy 3 C (id s) is not ours", "a trade of 2024-05-03 12:00, buy 1 C at 1 (id t1), is not ours")
    venue.orders["s"] = OrderState("n9", "s", "A", "buy", D(3), D(0), "open")
    assert [d.words for d in settle(ledger, venue, clock, symbols=["B"]).differences] == ["an order to buy 3 A (id s) is not ours"]  # A is held


def test_a_coin_that_pays_fees_from_beside_the_account(ledger, venue):
    book = ledger.book("x")

    def look(**balance):
        there = {a: D(n) for a, n in balance.items()}
        return record_foreign_holdings(ledger, "x", NOON, ledger.book("x"), there, {"USD", "A"})

    assert look(USD=1000, BNB=2) == ["BNB: 2 lies beside the account and is left alone"]
    ledger.append(fill_event(Fill("t", "c", "A/USD", "buy", D(1), D(100), D(30), NOON, "BNB", D("0.1")), "x", "stub"))
    assert foreign_holdings(ledger, "x", ledger.book("x")) == {"BNB": D("1.9")}
    assert look(BNB="1.9") == [] and look(BNB="2.9") == ["BNB: 2.9 lies beside the account, it was 1.9"]
    assert ledger.last("foreign", "x").data["paid"] == {"BNB": "0.1"} and foreign_holdings(ledger, "x", ledger.book("x")) == {"BNB": D("2.9")}
    assert foreign_holdings(ledger, "y", book) == {}


def test_an_account_is_opened_with_what_lies_at_the_venue(ledger, venue):
    venue.balance |= {"A": D(10), "C": D(5)}
    with pytest.raises(BadInput, match="y: no price for C, which lies at stub; give one"):
        open_from_venue(ledger, venue, "y", "USD", {"A": D(10)}, NOON)
    assert open_from_venue(ledger, venue, "y", "USD", {"A": D(11)}, NOON, ["A"]) is True
    book = ledger.book("y")
    assert (book.cash, book.positions, book.paid_in) == (D(1000), {"A": Position("A", D(10), D(11))}, D(1110))
    assert foreign_holdings(ledger, "y", book) == {"C": D(5)} and open_from_venue(ledger, venue, "y", "USD", {"A": D(11)}, NOON, ["A"]) is False
    assert open_from_venue(ledger, venue, "z", "EUR", {"USD/EUR": D(1), "A/EUR": D(2), "C/EUR": D(3)}, NOON) is True
    assert ledger.book("z").cash == 0 and ledger.book("z").paid_in == 1000 + 20 + 15 and foreign_holdings(ledger, "z", ledger.book("z")) == {}


# limits while trading


@pytest.fixture
def marked(ledger):
    "1,250 at best, 1,100 when the day began, and 1,000 in cash now."
    ledger.open_account("y", "USD", D(1000), NOON - 72 * HOUR)
    for when, equity in ((NOON - 48 * HOUR, "1250"), (NOON - 13 * HOUR, "1100")):
        ledger.append(Event("equity", "y", when, dict.fromkeys(("equity", "cash", "realised", "unrealised", "fees"), equity) | {"paid_in": "1000"}))
    return ledger


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, ""), ({"max_drawdown": 0.2}, ""), ({"max_drawdown": 0.199}, "max_drawdown: 20.00% is above the limit of 19.90%, equity 1,000.00"),
        ({"max_daily_loss": 0.091}, ""), ({"max_daily_loss": 0.0909}, "max_daily_loss: 9.09% is above the limit of 9.09%, equity 1,000.00"),
        ({"max_drawdown": 0.3, "max_daily_loss": 0.01}, "max_daily_loss: 9.09% is above the limit of 1.00%, equity 1,000.00"),
    ],
)  # fmt: skip
def test_losses_are_measured_before_each_order(marked, clock, limits, expected):
    assert watch_limits(marked, "y", RiskLimits(**limits), dict, clock)() == expected


def test_the_switch_and_safe_mode_come_first(marked, clock, tmp_path):
    switch = KillSwitch(tmp_path / "kill")
    stop = watch_limits(marked, "y", RiskLimits(max_drawdown=0.1), dict, clock, switch)
    assert stop().startswith("max_drawdown")
    marked.append(Event("safe_mode", "y", NOON, {"on": True, "why": "errors"}))
    assert stop() == "safe mode since 2024-05-03 12:00: errors"
    switch.engage("Ada", "drill", NOON)
    assert stop().startswith("stopped by Ada")


PRICES = {"A": D(10), "B": D(20), "C": D(5)}


@pytest.mark.parametrize(
    ("order", "limits", "expected"),  # 10 A are held at 10 and 900 in cash: 1,000. A purchase of 10 B at 20 is 200
    [
        (("B", "buy", 10), {}, ""), (("Z", "buy", 1), {}, "there is no price of Z now, so its limits cannot be measured"),
        (("B", "buy", 10), {"max_order_value": D(200)}, ""),
        (("B", "buy", 10), {"max_order_value": D("199.99")}, "max_order_value: 200.00 USD is above the limit of 199.99"),
        (("A", "sell", 10), {"max_order_value": D("99.99")}, "max_order_value: 100.00 USD is above the limit of 99.99"),
        (("B", "buy", 10), {"max_daily_value": D(300)}, ""),
        (("B", "buy", 10), {"max_daily_value": D("299.99")}, "max_daily_value: 300.00 USD traded today are above the limit of 299.99"),
        (("B", "buy", 10), {"max_weight": 0.2}, ""),
        (("B", "buy", 10), {"max_weight": 0.199}, "max_weight: 20.00% would be above the limit of 19.90%, equity 1,000.00"),
        (("A", "buy", 10), {"max_weight": 0.199}, "max_weight: 20.00% would be above the limit of 19.90%, equity 1,000.00"),
        (("A", "sell", 1), {"max_weight": 0.01}, ""),  # a sale is never held back by a weight
        (("B", "buy", 10), {"max_leverage": 0.3}, ""),
        (("B", "buy", 10), {"max_leverage": 0.299}, "max_leverage: 30.00% would be above the limit of 29.90%, equity 1,000.00"),
        (("B", "buy", 10), {"max_group_weight": 0.3}, ""),
        (("B", "buy", 10), {"max_group_weight": 0.299}, "max_group_weight: 30.00% would be above the limit of 29.90%, equity 1,000.00"),
        (("B", "buy", 10), {"group_weights": {"G": 0.299}}, "group_weights[G]: 30.00% would be above the limit of 29.90%, equity 1,000.00"),
        (("B", "buy", 10), {"group_weights": {"G": 0.3, "H": 0}}, ""),
        (("B", "buy", 10), {"min_cash": 0.7}, ""),
        (("B", "buy", 10), {"min_cash": 0.701}, "min_cash: 70.00% would be below the limit of 70.10%, equity 1,000.00"),
        # C stands in a group that counts as cash
        (("C", "buy", 40), {"cash_groups": ("H",), "max_weight": 0.1, "max_group_weight": 0.1, "min_cash": 0.99}, ""),
        (("C", "buy", 40), {"cash_groups": ("H",), "max_leverage": 0.299},
         "max_leverage: 30.00% would be above the limit of 29.90%, equity 1,000.00"),
        (("B", "buy", 10), {"cash_groups": ("H",), "min_cash": 0.7}, ""),
    ],
)  # fmt: skip
def test_an_order_alone_must_keep_the_limits(ledger, clock, order, limits, expected):
    ledger.append(fill_event(Fill("t", "c", "A", "buy", D(10), D(10), D(0), NOON - 12 * HOUR), "x", "stub"))  # at midnight: today
    ledger.append(fill_event(Fill("u", "c", "B", "buy", D(1), D(20), D(0), NOON - 13 * HOUR), "x", "stub"))
    ledger.append(fill_event(Fill("v", "c", "B", "sell", D(1), D(20), D(0), NOON - 13 * HOUR), "x", "stub"))
    allow = check_order_limits(ledger, "x", RiskLimits(**limits), lambda: PRICES, clock, {"A": "G", "B": "G", "C": "H"})
    symbol, side, amount = order
    assert allow(Order("c", symbol, side, D(amount))) == expected


@pytest.mark.parametrize(("amount", "expected"), [(9, ""), (10, ""), (25, "max_weight: 30.00% would be above the limit of 20.00%, equity 1,000.00")])
def test_an_order_that_turns_a_position_opens_another_and_keeps_the_limits(ledger, clock, amount, expected):
    ledger.append(fill_event(Fill("s", "c", "B", "sell", D(10), D(20), D(0), NOON), "x", "stub"))  # 10 A, 10 B short, 1,100 in cash
    allow = check_order_limits(ledger, "x", RiskLimits(max_weight=0.2, margin=MarginTerms(leverage=D(2))), lambda: PRICES, clock)
    assert allow(Order("c", "B", "buy", D(amount))) == expected


def test_a_limit_price_counts_and_an_account_without_worth_buys_nothing(ledger, clock):
    allow = check_order_limits(ledger, "x", RiskLimits(max_weight=0.2), lambda: PRICES, clock)
    assert allow(Order("c", "B", "buy", D(10), "limit", D(20))) == ""
    assert allow(Order("c", "B", "buy", D(10), "limit", D(21))).startswith("max_weight: 21.00%")
    ledger.append(Event("withdrawal", "x", NOON, {"amount": "1000"}))
    assert allow(Order("c", "B", "buy", D(10))) == "the account is worth 0.00 USD: nothing is bought"
    assert allow(Order("c", "B", "sell", D(10))) == ""


# safe mode


def test_errors_in_a_row_stop_orders_until_a_person_allows_them(ledger, venue, clock):
    safe = SafeModeVenue(venue, ledger, "x", clock, most=3)
    venue.faults["fetch_balance"] = [DOWN, DOWN, None, DOWN, DOWN]
    for works in (False, False, True, False, False):  # two in a row, twice: never three
        if works:
            safe.fetch_balance()
        else:
            with pytest.raises(VenueUnreachable):
                safe.fetch_balance()
    assert safe_mode(ledger, "x") == "" and safe.create_order(ORDER).filled == 10
    venue.faults["fetch_balance"] = [DOWN]
    clock.time += HOUR
    with pytest.raises(VenueUnreachable):
        safe.fetch_balance()
    assert safe_mode(ledger, "x") == "safe mode since 2024-05-03 13:00: 3 errors in a row, the last: down"
    with pytest.raises(Refused, match="A: nothing was sent, safe mode since 2024-05-03 13:00: .*; find out why, then leave_safe_mode"):
        safe.create_order(ORDER)
    assert len(venue.seen) == 1 and safe.fetch_balance()["USD"] == 900  # questions go on
    with pytest.raises(Refused):
        SafeModeVenue(venue, ledger, "x", clock).create_order(ORDER)  # in a new process too
    assert len(ledger.events("x", "safe_mode")) == 1
    for who, found in ((" ", "found"), ("Ada", " ")):
        with pytest.raises(BadInput, match="leaving safe mode needs the name of a person and what was found"):
            leave_safe_mode(ledger, "x", who, found, NOON)
    leave_safe_mode(ledger, "x", "Ada", "the line was down", clock())
    leave_safe_mode(ledger, "x", "Ada", "the line was down", clock())
    assert [e.data for e in ledger.events("x", "safe_mode")][1:] == [{"on": False, "who": "Ada", "why": "the line was down"}]
    assert safe_mode(ledger, "x") == "" and safe.create_order(ORDER.but(client_order_id="c2")).filled == 10


def test_orders_are_counted_apart_from_questions(ledger, venue, clock):
    safe = SafeModeVenue(venue, ledger, "x", clock, most=2)
    venue.faults |= {"create_order": [LOST, LOST], "fetch_balance": [DOWN]}
    venue.arrives = False
    for deed in (lambda: safe.create_order(ORDER), safe.fetch_balance):
        with pytest.raises(VenueError):
            deed()
    assert safe_mode(ledger, "x") == ""  # one of each
    safe.fetch_balance()  # a question that works does not excuse the orders
    with pytest.raises(UnknownOutcome):
        safe.create_order(ORDER)
    assert "2 errors in a row, the last: no answer" in safe_mode(ledger, "x")
    with pytest.raises(MissingData):
        venue.fetch_order("none", "A")
