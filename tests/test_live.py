"Real orders, as the daily run sends them: through stock ccxt to a served exchange, after a person's yes, and never twice."

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import loopback
import pytest
from loopback import KEYS, HereKernel, make_bars, market, write_settings

from trading.core.errors import BadInput, Refused, StageFailed
from trading.core.settings import load_settings
from trading.core.types import Event, Order, Plan
from trading.execution.approval import cancel_plan, plan_life, review_plan
from trading.execution.reconciliation import expected_holdings
from trading.execution.safe_mode import safe_mode
from trading.ops.notifications import recent
from trading.pipeline.account import kill_switch, open_account_ledger
from trading.pipeline.launch import open_run, settings_of
from trading.pipeline.notebook_runner import run_stage
from trading.pipeline.plan_approval import approve_run
from trading.pipeline.run_compare import compare_numbers, open_reproduction
from trading.pipeline.run_record import STAGES, Run
from trading.services.account_control import reconcile_account, watch_accounts
from trading.services.alerting import open_outbox
from trading.services.commands import Actor, Context, perform
from trading.services.workspace import workspace_of
from trading.venues.crypto.venue import CcxtVenue

pytestmark = pytest.mark.xdist_group("live")
NOW = lambda: datetime.now(UTC)  # noqa: E731
KERNEL = HereKernel()


@pytest.fixture(scope="module")
def bars():
    return make_bars()


@pytest.fixture(scope="module")
def decided(bars, tmp_path_factory):
    "A folder with a live run that has done everything but trade."
    home = tmp_path_factory.mktemp("decided")
    with pytest.MonkeyPatch.context() as patch, market(bars) as place:
        patch.chdir(home)
        patch.delenv("CARNET_RUN__DATA", raising=False)
        for name, value in {**KEYS, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}.items():
            patch.setenv(name, value)
        write_settings(home, place.url, bars)
        run = open_run(load_settings(), NOW())
        for stage in STAGES[:3]:
            run_stage(run, stage, KERNEL)
    return home


@pytest.fixture
def place(bars):
    with market(bars) as made:
        yield made


@pytest.fixture
def run(decided, place, tmp_path, monkeypatch) -> Run:
    "The same run in a folder and at an exchange of its own."
    return at(decided, tmp_path, monkeypatch, live={"address": place.url})


def at(decided, home, monkeypatch, **settings) -> Run:
    "Copy a run and change what it has pinned."
    shutil.copytree(decided, home, dirs_exist_ok=True)
    monkeypatch.chdir(home)
    monkeypatch.delenv("CARNET_RUN__DATA", raising=False)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    (folder,) = (home / "reports").glob("*/run.json")
    made = Run(folder.parent)
    for section, values in settings.items():
        settle(made, section, **values)
    return made


def settle(run: Run, section: str, **values) -> None:
    "Change settings that a run has pinned."
    given = run.record.settings
    run.pin(settings=given | {section: given[section] | values})


def trade(run: Run) -> str:
    "Execute the stage that trades; return what it has come to."
    run_stage(run, "40_trade", KERNEL)
    return next(s.status for s in run.record.stages if s.name == "40_trade")


def asked(run: Run) -> Plan:
    "Bring a run to the point where it waits, and return its plan."
    assert trade(run) == "waiting"
    return run.read("plan", Plan)


def ask(run, command, who, **values):
    "Perform a command on the folders of a run; `run_` is the run that the command is about."
    values |= {"run": values.pop("run_")} if "run_" in values else {}
    settings = settings_of(run)
    file = Path("settings.ini")
    file.write_text(re.sub(r"(?m)^address = .*$", f"address = {settings.live.address}", file.read_text()))  # this test's own exchange
    return perform(command, values, Context(workspace_of(settings, file), Actor(who), clock=NOW), None)


def sent(place) -> int:
    return place.requests.count(("POST", "order"))


def ledger_of(run: Run):
    return open_account_ledger(settings_of(run))


def equal_books(run: Run, place) -> bool:
    return expected_holdings(ledger_of(run).book("live-loop")) == place.venue.fetch_balance()


def test_a_run_waits_for_a_person_trades_after_the_yes_and_is_made_again(run, place):
    plan = asked(run)
    run_stage(run, "50_report", KERNEL)
    page = (run.folder / "index.html").read_text()
    assert run.record.status == "waiting" and f"carnet approve {run.record.id}" in page and sent(place) == 0
    assert {a.side for a in plan.actions} == {"buy", "sell"} and place.venue.fetch_my_trades(None) == []
    assert trade(run) == "waiting" and sent(place) == 0  # nobody has said yes: asking again sends nothing
    assert approve_run(run.folder, "Ada", NOW()) == plan
    place.requests.clear()
    assert trade(run) == "done" and run.record.stages[-1].status == "pending"
    first = place.requests.index(("POST", "order"))
    assert {"openOrders", "myTrades", "account"} <= {p for _, p in place.requests[:first]}  # reconciled before anything was sent
    orders, trades = run.read("orders"), place.venue.fetch_my_trades(None)
    assert set(orders["status"]) == {"filled"} and len(trades) == len(plan.actions) == sent(place) == len({t.client_order_id for t in trades})
    assert equal_books(run, place) and reconcile_account(settings_of(run), "live", NOW()).ok
    life = plan_life(ledger_of(run), "live-loop", plan.hash)
    assert life["state"].tolist() == ["draft", "reviewed", "approved", "active", "executed"] and life["who"].tolist()[2] == "Ada"
    run_stage(run, "50_report", KERNEL)
    assert run.record.status == "done" and "carnet approve" not in (run.folder / "index.html").read_text()
    with pytest.raises(Refused, match="was executed already"):
        approve_run(run.folder, "Bob", NOW())
    again = open_reproduction(run, run.folder.parent, NOW())
    for stage in STAGES:
        run_stage(again, stage, KERNEL)
    assert compare_numbers(run, again) == [] and again.read("plan", Plan) == plan and sent(place) == len(plan.actions)
    assert all(value not in path.read_text(errors="ignore") for path in run.folder.rglob("*") if path.is_file() for value in KEYS.values())


class Died(BaseException):
    "Stands for a pulled plug."


@pytest.mark.parametrize("at", [1, 2])
def test_a_crash_between_two_orders_is_resumed_and_nothing_is_sent_twice(run, place, monkeypatch, at):
    plan = asked(run)
    approve_run(run.folder, "Ada", NOW())
    real, count = CcxtVenue.create_order, []

    def dies(self, order):
        state = real(self, order)
        count.append(order)
        if len(count) == at:
            raise Died
        return state

    monkeypatch.setattr(CcxtVenue, "create_order", dies)
    with pytest.raises(Died):
        trade(run)
    assert run.record.status == "failed" and len(place.venue.fetch_my_trades(None)) == at
    monkeypatch.setattr(CcxtVenue, "create_order", real)
    settle(run, "trade", plan_hours=24)
    assert trade(run) == "done"
    trades = place.venue.fetch_my_trades(None)
    assert len(trades) == len({t.client_order_id for t in trades}) == len(plan.actions) and equal_books(run, place)


def test_lost_answers_are_asked_for_and_no_order_is_doubled(run, place):
    plan = asked(run)
    approve_run(run.folder, "Ada", NOW())
    place.fault = lambda method, path: "lost" if (method, path) == ("POST", "order") and sent(place) < 3 else None
    assert trade(run) == "done"
    assert len(place.venue.fetch_my_trades(None)) == len(plan.actions) == sent(place) and equal_books(run, place)


def test_a_plan_that_is_too_old_is_neither_approved_nor_traded(run, place):
    plan = asked(run)
    late = plan.as_of + timedelta(hours=24, minutes=1)
    with pytest.raises(Refused, match="too old by 0:01:00"):
        approve_run(run.folder, "Ada", late)
    approve_run(run.folder, "Ada", NOW())
    settle(run, "trade", plan_hours=1e-6)  # approved in time, and then nobody came
    with pytest.raises(StageFailed, match="too old: make a new one"):
        trade(run)
    assert sent(place) == 0


def test_an_altered_plan_is_neither_approved_nor_traded(run, place):
    plan = asked(run)
    file = run.folder / "artefacts" / "plan.json"
    text = file.read_text()
    file.write_text(text.replace('"amount": "', '"amount": "1', 1))
    with pytest.raises(BadInput, match="was altered after it was written"):
        approve_run(run.folder, "Ada", NOW())
    with pytest.raises(StageFailed, match="was altered after it was written"):
        trade(run)
    forged = plan.but(actions=tuple(a.but(amount=a.amount * 2) for a in plan.actions))
    run.write("plan", forged)  # and its checksum with it
    with pytest.raises(Refused, match="never proposed the plan"):
        approve_run(run.folder, "Ada", NOW())
    assert sent(place) == 0


def test_a_plan_is_amended_approved_anew_and_only_what_it_says_then_is_sent(run, place):
    plan = asked(run)
    say = lambda command, who, **values: ask(run, command, who, **{"go_on": False, "plan": run.read("plan", Plan).hash} | values, run_=run.record.id)  # noqa: E731
    first, second = plan.actions[0], plan.actions[1]
    half = f"{second.amount / 2:.3f}"
    settle(run, "live", four_eyes=False, ask_above=str(plan.equity * 2))  # a rule that would approve any plan
    review_plan(ledger_of(run), "live-loop", plan.hash, "Ada", NOW())
    done = say("amend-plan", "Bob", plan=plan.hash, strike=[first.symbol], change={second.symbol: half}, reason="the news")
    amended = run.read("plan", Plan)
    assert done["plan"] == amended.hash != plan.hash and "awaits approval" in done.text and len(amended.actions) == len(plan.actions) - 1
    with pytest.raises(Refused, match="is not the one that was shown"):
        say("approve-plan", "Ada", plan=plan.hash)
    assert trade(run) == "waiting" and sent(place) == 0, "a rule does not approve what a person changed"
    assert run.read("plan", Plan) == amended and plan_life(ledger_of(run), "live-loop", amended.hash)["who"].tolist() == ["Bob"]
    with pytest.raises(Refused, match="the checks refuse what it would be"):
        say("amend-plan", "Bob", change={second.symbol: f"{second.amount * 50:f}"}, reason="more")
    say("approve-plan", "Ada")
    assert trade(run) == "done" and sent(place) == len(amended.actions)
    done = {t.symbol: t.amount for t in place.venue.fetch_my_trades(None)}
    assert done == {a.symbol: a.amount for a in amended.actions} and first.symbol not in done and done[second.symbol] == Decimal(half)
    with pytest.raises(Refused, match="is executed; only a plan that awaits approval"):
        say("amend-plan", "Bob", strike=[second.symbol], reason="too late")


def test_another_account_is_refused_whether_by_plan_or_by_key(run, place):
    plan = asked(run)
    run.write("plan", plan.but(account="live-other"))
    with pytest.raises(Refused, match="is for the account live-other, and the run belongs to live-loop"):
        approve_run(run.folder, "Ada", NOW())
    run.write("plan", plan)
    approve_run(run.folder, "Ada", NOW())
    place.uid = 2  # the keys of somebody else
    with pytest.raises(StageFailed, match="the keys open the account binance 2 and the books of live-loop are of binance 1"):
        trade(run)
    assert sent(place) == 0


def test_without_a_key_one_sentence_names_it(run, place, monkeypatch):
    monkeypatch.delenv("BINANCE_SECRET")
    with pytest.raises(StageFailed, match="orders at binance need a key; set the variable BINANCE_SECRET, or run with --mode paper"):
        trade(run)
    assert sent(place) == 0


def test_a_withdrawn_plan_and_one_that_needs_four_eyes(run, place):
    plan = asked(run)
    settle(run, "live", four_eyes=True)
    review_plan(ledger_of(run), "live-loop", plan.hash, "Ada", NOW())
    with pytest.raises(Refused, match="another person must review it first"):
        approve_run(run.folder, "Ada", NOW())
    approve_run(run.folder, "Bob", NOW())
    cancel_plan(ledger_of(run), "live-loop", plan.hash, "Ada", "the news", NOW())
    with pytest.raises(StageFailed, match="the plan was cancelled"):
        trade(run)
    with pytest.raises(Refused, match="was cancelled; make a new plan"):
        approve_run(run.folder, "Bob", NOW())
    assert sent(place) == 0


def test_what_changed_at_the_venue_since_the_plan_is_found(run, place):
    asked(run)
    approve_run(run.folder, "Ada", NOW())
    place.venue.create_order(Order("by-hand", "BBB/USDT", "buy", Decimal(5)))
    with pytest.raises(StageFailed, match="is not ours"):
        trade(run)
    told = watch_accounts(settings_of(run), NOW(), {})
    assert "3 differences" in told[0] and any("is not ours" in line for line in told)
    outbox = open_outbox(settings_of(run))
    assert "ledger and venue differ" in str(recent(outbox)) and "live-loop" in str(recent(outbox))
    outbox.close()
    assert sent(place) == 0 and not ledger_of(run).last("reconciled", "live-loop").data["ok"]


def test_a_newer_decision_and_a_book_that_moved_make_a_plan_void(run, place):
    plan = asked(run)
    approve_run(run.folder, "Ada", NOW())
    ledger_of(run).append(Event("deposit", "live-loop", NOW(), {"amount": "100", "currency": "USDT"}))
    place.venue._add("USDT", Decimal(100))
    with pytest.raises(StageFailed, match="has changed since the plan was made"):
        trade(run)
    newer = plan.but(as_of=plan.as_of + timedelta(seconds=1))
    ledger_of(run).append(Event("proposed", "live-loop", NOW(), {"plan": newer.hash, "text": newer.to_json()}))
    with pytest.raises(StageFailed, match="has already decided for"):
        trade(run)
    assert sent(place) == 0


def test_the_kill_switch_stops_the_stage_before_and_between_orders(run, place):
    plan = asked(run)
    approve_run(run.folder, "Ada", NOW())
    switch = kill_switch(settings_of(run), "live-loop")

    def thrown(method, path):
        if (method, path) == ("POST", "order"):
            switch.engage("Ada", "strange prices", NOW())

    place.fault = thrown
    assert trade(run) == "done" and sent(place) == 1
    orders = run.read("orders")
    assert (orders["status"] == "filled").sum() == 1 and orders["reason"].str.contains("stopped by Ada").sum() == len(plan.actions) - 1
    done = ask(run, "stop-trading", "Bob", reason="all of it", accounts=["live-loop"], close=True)
    book = ledger_of(run).book("live-loop")
    assert all("less than one lot" in words for words in done.details["unreached"].values()), done.text
    assert done.details["closed"] >= 1
    assert all(p.amount < Decimal("0.001") for p in book.positions.values()) and equal_books(run, place)


def test_an_engaged_kill_switch_fails_the_risk_checks(run, place):
    asked(run)
    approve_run(run.folder, "Ada", NOW())
    kill_switch(settings_of(run), "live-loop").engage("Ada", "strange prices", NOW())
    assert trade(run) == "done" and sent(place) == 0
    assert [v["rule"] for v in run.read("verdict")["violations"]] == ["kill_switch"]


def test_three_orders_in_a_row_that_fail_are_safe_mode_and_open_the_circuit(run, place):
    plan = asked(run)
    approve_run(run.folder, "Ada", NOW())
    place.fault = lambda method, path: "refused" if (method, path) == ("POST", "order") else None
    assert trade(run) == "done"
    assert sent(place) == 3 and place.venue.fetch_my_trades(None) == [] and "3 errors in a row" in safe_mode(ledger_of(run), "live-loop")
    reasons = run.read("orders")["reason"]
    assert reasons.str.contains("safe mode").sum() == len(plan.actions) - 1 and equal_books(run, place)
    place.fault = lambda method, path: None
    assert "safe mode has ended" in ask(run, "resume-trading", "Ada", reason="maintenance", accounts=["live-loop"]).text
    assert safe_mode(ledger_of(run), "live-loop") == ""


def test_a_venue_that_is_away_opens_its_circuit_and_the_next_start_leaves_it_alone(run, place):
    asked(run)
    place.fault = lambda method, path: "refused" if path == "openOrders" else None
    with pytest.raises(StageFailed, match="left alone until"):
        trade(run)
    tried = place.requests.count(("GET", "openOrders"))
    place.fault = lambda method, path: None
    with pytest.raises(StageFailed, match="left alone until"):
        trade(run)  # a restart: the state is in the ledger
    assert place.requests.count(("GET", "openOrders")) == tried and ledger_of(run).last("circuit", "live-loop").data["venue"] == "binance"


def test_the_loss_of_the_day_stops_trading_and_survives_a_restart(run, place):
    asked(run)
    approve_run(run.folder, "Ada", NOW())
    book = ledger_of(run).book("live-loop")
    worth = float(book.equity({"AAA/USDT": place.prices["AAA/USDT"]}))
    data = {"equity": str(worth * 1.2), "cash": "0", "realised": "0", "unrealised": "0", "fees": "0", "paid_in": str(book.contributed)}
    ledger_of(run).append(Event("equity", "live-loop", NOW() - timedelta(days=1), data))
    assert trade(run) == "done" and sent(place) == 0
    broken = {v["rule"] for v in run.read("verdict")["violations"]}
    assert broken == {"max_daily_loss"}


def test_a_price_that_moves_between_two_orders_is_measured_by_the_equity_of_that_moment(run, place):
    plan = asked(run)
    approve_run(run.folder, "Ada", NOW())
    buys = [a.symbol for a in plan.actions if a.side == "buy"]

    def crash(method, path):
        if (method, path) == ("POST", "order") and sent(place) == 1:
            place.prices["AAA/USDT"] *= Decimal("0.5")  # after the first order everything held is worth half

    place.fault = crash
    assert trade(run) == "done"
    reasons = dict(zip(run.read("orders")["symbol"], run.read("orders")["reason"], strict=True))
    assert sent(place) == 1 and all("max_daily_loss" in reasons[s] for s in buys), reasons
    place.fault = lambda method, path: None
    history = ledger_of(run).equity_history("live-loop")["equity"]
    assert history.iloc[-1] < history.max()


def test_the_settings_of_a_run_reach_its_orders(run, place):
    asked(run)
    settle(run, "execution", type="limit", limit_bp="30", slices=2)
    approve_run(run.folder, "Ada", NOW())
    assert trade(run) == "done"
    rows = place.venue._db.execute("select type, count(*) n from orders group by type").fetchall()
    assert {r["type"] for r in rows} == {"limit"} and sum(r["n"] for r in rows) == 2 * len(run.read("plan", Plan).actions)
    assert set(json.loads(json.dumps(run.read("orders")["status"].tolist()))) == {"filled"} and equal_books(run, place)


@pytest.mark.parametrize(("fee_in", "funds"), [("received", {}), ("OWN", {"OWN": "50", "GIFT": "3"})])
def test_fees_taken_in_coins_and_a_persons_other_coins_leave_the_books_exact(decided, bars, tmp_path, monkeypatch, fee_in, funds):
    with market(bars, funds, fee_in=fee_in, others={"OWN/USDT": "7.5", "GIFT/USDT": "2"}) as place:
        run = at(decided, tmp_path, monkeypatch, live={"address": place.url})
        plan, ledger = asked(run), ledger_of(run)
        beside = ledger.last("foreign", "live-loop")
        assert (beside.data["holdings"] if beside else {}) == funds
        assert plan.equity == plan.cash + 600 * place.prices["AAA/USDT"]  # nothing that lies beside is counted
        approve_run(run.folder, "Ada", NOW())
        assert trade(run) == "done"
        trades, book = place.venue.fetch_my_trades(None), ledger.book("live-loop")
        assert {f.fee_currency for f in trades} == ({"OWN"} if funds else {"", *(f.symbol[:3] for f in trades if f.side == "buy")})
        after = reconcile_account(settings_of(run), "live", NOW())
        assert after.ok and after.foreign == () and set(run.read("orders")["status"]) == {"filled"}
        assert abs(run.read("orders")["fee"].sum() - float(book.fees)) < 1e-6 and book.fees == sum(f.fee for f in trades)
        assert expected_holdings(book) == {a: n for a, n in place.venue.fetch_balance().items() if a not in funds}
        if funds:
            assert place.venue.fetch_balance()["OWN"] == 50 - book.outside["OWN"]
            place.venue._add("GIFT", Decimal(-1))
            place.venue.create_order(Order("by-hand", "OWN/USDT", "sell", Decimal(1), "limit", price=Decimal(9)))
            later = reconcile_account(settings_of(run), "live", NOW())
            assert later.ok and "GIFT: 2 lies beside the account, it was 3" in later.foreign and any("is not ours" in w for w in later.foreign)
            assert "OWN/USDT is none of the account's business" in ask(run, "stop-trading", "Ada", reason="a test", accounts=["live-loop"]).text
            assert len(place.venue.fetch_open_orders()) == 1


@pytest.fixture
def two(decided, bars, tmp_path, monkeypatch):
    "The same run with accounts at two exchanges, of which the second has wider spreads and smaller fees."
    for name, value in KEYS.items():
        monkeypatch.setenv(name.replace("BINANCE", "BINANCEUS"), value)
    with market(bars) as one, market(bars, {"USDT": "9000", "AAA": "900"}, fee_rate=Decimal("0.0002"), half_spread_bp=Decimal(3)) as other:
        other.uid = 2
        run = at(decided, tmp_path, monkeypatch, live={"address": f"binance={one.url} binanceus={other.url}"},
                 execution={"venues": ["binance", "binanceus"], "venue_fees": {"binanceus": 0.0002}})
        yield run, one, other


OTHER = "live-loop@binanceus"


def both_agree(run, one, other) -> bool:
    books = ledger_of(run)
    return all(expected_holdings(books.book(a)) == place.venue.fetch_balance() for a, place in (("live-loop", one), (OTHER, other)))


def test_a_plan_is_traded_at_two_exchanges_at_once_each_order_where_it_costs_least(two):
    run, one, other = two
    plan = asked(run)
    assert plan.cash == 29_000 and sent(one) == sent(other) == 0 and {a.venue for a in plan.actions} == {"binance and binanceus"}
    approve_run(run.folder, "Ada", NOW())
    one.requests.clear(), other.requests.clear()
    assert trade(run) == "done"
    for place in (one, other):  # each account is reconciled before anything is sent anywhere
        assert {"openOrders", "myTrades", "account", "depth"} <= {p for _, p in place.requests[: place.requests.index(("POST", "order"))]}
    mine, theirs = one.venue.fetch_my_trades(None), other.venue.fetch_my_trades(None)
    assert mine and theirs and both_agree(run, one, other)
    sold = {a.symbol: a.amount for a in plan.actions if a.side == "sell"}
    assert sum(f.amount for f in theirs if f.symbol == "AAA/USDT") == min(sold["AAA/USDT"], 900)  # 6 basis points there, 12 here
    for a in plan.actions:
        assert sum(f.amount for f in mine + theirs if (f.symbol, f.side) == (a.symbol, a.side)) <= a.amount
    orders, ledger = run.read("orders"), ledger_of(run)
    assert orders["reason"].str.contains("binanceus filled").any() and abs(orders["fee"].sum() - float(sum(f.fee for f in mine + theirs))) < 1e-6
    life = plan_life(ledger, OTHER, next(e.data["plan"] for e in ledger.events(OTHER, "approved")))
    assert life["who"].tolist()[:3][-1] == "Ada" and "a part of plan" in " ".join(map(str, life["why"]))
    assert abs(run.read("closing")["equity"] and Decimal(run.read("closing")["cash"]) - sum(ledger.cash(a) for a in ("live-loop", OTHER))) == 0
    before = sent(one), sent(other)
    assert trade(run) == "done" and (sent(one), sent(other)) == before and reconcile_account(settings_of(run), "live", NOW()).ok
    run_stage(run, "50_report", KERNEL)
    assert run.record.status == "done" and "binanceus" in (run.folder / "index.html").read_text()


def test_an_exchange_that_fails_holds_up_nobody_and_is_named(two):
    run, one, other = two
    plan = asked(run)
    approve_run(run.folder, "Ada", NOW())
    one.fault = lambda method, path: "refused" if (method, path) == ("POST", "order") else None
    assert trade(run) == "done" and one.venue.fetch_my_trades(None) == [] and other.venue.fetch_my_trades(None)
    orders = run.read("orders").set_index("symbol")
    assert both_agree(run, one, other) and (orders["status"] != "filled").any() and orders["reason"].str.contains("never arrived|safe mode|503").any()
    one.fault = lambda method, path: None
    assert reconcile_account(settings_of(run), "live", NOW()).ok and len(other.venue.fetch_my_trades(None)) <= len(plan.actions)


def test_nothing_is_sent_anywhere_while_one_exchange_cannot_be_compared(two):
    run, one, other = two
    asked(run)
    approve_run(run.folder, "Ada", NOW())
    other.fault = lambda method, path: "refused" if path == "openOrders" else None
    with pytest.raises(StageFailed, match="binanceus: .*left alone until"):
        trade(run)
    assert sent(one) == sent(other) == 0


def test_a_crash_at_two_exchanges_is_resumed_and_nothing_is_sent_twice(two, monkeypatch):
    run, one, other = two
    asked(run)
    approve_run(run.folder, "Ada", NOW())
    real = CcxtVenue.create_order

    def dies(self, order):
        real(self, order)
        raise Died

    monkeypatch.setattr(CcxtVenue, "create_order", dies)
    with pytest.raises(Died):
        trade(run)
    count = len(one.venue.fetch_my_trades(None)) + len(other.venue.fetch_my_trades(None))
    assert 1 <= count <= 2
    monkeypatch.setattr(CcxtVenue, "create_order", real)
    settle(run, "trade", plan_hours=24)
    assert trade(run) == "done" and both_agree(run, one, other)
    every = [f.client_order_id for place in (one, other) for f in place.venue.fetch_my_trades(None)]
    assert len(every) == len(set(every)) > count


def test_a_share_of_the_volume_cuts_what_is_sent_at_once(run, place):
    asked(run)
    settle(run, "execution", volume_share="0.5", every_seconds=0.01, slices=3)
    approve_run(run.folder, "Ada", NOW())
    assert trade(run) == "done"  # every minute saw 50 units, so no order is above 25 and there are at most three of them
    amounts = [f.amount for f in place.venue.fetch_my_trades(None)]
    assert max(amounts) == 25 and equal_books(run, place) and run.read("orders")["reason"].str.contains("volume was not enough").any()


def test_the_market_of_the_tests_is_quiet_enough_to_trade(bars):
    assert bars["close"].pct_change().abs().max().max() < 0.06 and len(loopback.SYMBOLS) == 4
