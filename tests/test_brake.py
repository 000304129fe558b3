"One act stops every account of every portfolio and venue, whatever else is broken; after it no new order leaves."

import json
import os
import threading
from datetime import UTC, datetime
from decimal import Decimal as D
from pathlib import Path

import pytest
from click.testing import CliRunner

from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.core.errors import TradingError
from trading.core.instruments import Instrument
from trading.core.settings import load_settings
from trading.core.types import ZERO, Action, CheckResult, Plan
from trading.execution.approval import approve_plan
from trading.execution.executor import OrderParameters, execute
from trading.execution.order_manager import RetryPolicy
from trading.execution.safe_mode import HaltingVenue
from trading.pipeline.account import kill_switch, with_circuit_breaker
from trading.risk.kill_switch import KillSwitch
from trading.risk.stop_flag import stop_flags
from trading.security.audit_log import AuditLog
from trading.services.commands import Actor, Context, audit_record, perform
from trading.services.portfolios import add_portfolio
from trading.services.stops import engaged_switches
from trading.services.workspace import Workspace
from trading.venues.paper.costs import TradingCosts
from trading.venues.paper.exchange import PaperVenue
from trading.venues.paper.matching import QuoteFeed

NOON, MANY = datetime(2024, 1, 2, 12, tzinfo=UTC), 200
SYMBOLS = [f"C{n}/USD" for n in range(MANY)]
MARKETS = {s: Instrument(s, D("0.01"), D("0.01")) for s in SYMBOLS}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "Flags that cannot lie in the data folder lie in a folder of the test."
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


class Counting:
    "A venue that counts what arrives, and does something when an order does."

    name = "counting"

    def __init__(self, at: int = 0, then=lambda: None):
        self.venue = PaperVenue(QuoteFeed(lambda s, t: D(10)), lambda: NOON, MARKETS, TradingCosts(ZERO, ZERO, ZERO), {"USD": D(100_000)}, "USD")
        self.at, self.then, self.arrived = at, then, []

    def __getattr__(self, name):
        return getattr(self.venue, name)

    def create_order(self, order):
        self.arrived.append(order)
        if len(self.arrived) == self.at:
            self.then()
        return self.venue.create_order(order)


def place_of(tmp_path: Path) -> Workspace:
    place = Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini")
    place.data.mkdir()
    return place


def trade(place: Workspace, venue, account: str = "paper-sample", **more):
    "Execute two hundred orders as a run does: the switch is asked before each, and the innermost layer looks last."
    ledger, switch = Ledger(place.ledger), KillSwitch(place.data / f"kill-{account}.jsonl")
    if account not in ledger.accounts():
        ledger.open_account(account, "USD", D(100_000), NOON)
    plan = Plan(account, NOON, "USD", D(100_000), D(100_000), tuple(Action(s, "buy", D(1), D(10), "test") for s in SYMBOLS))
    approve_plan(ledger, plan, "Ada", NOON)
    done = execute(plan, CheckResult(plan.hash, (), ("a rule",)), HaltingVenue(venue, switch.reason), ledger, NOON, OrderParameters(ZERO),
                   patience=RetryPolicy(settle=0, poll=0), sleep=lambda s: None, last_look=switch.reason, **more)
    ledger.close()
    return done


def stop(place: Workspace, record=None, **asked):
    return perform("stop-trading", {"reason": "the venue reports nonsense"} | asked, Context(place, Actor("ann", "trader", ("main",), "api")), record)


def broken(what: str, place: Workspace, monkeypatch) -> None:
    "Break one part of the installation."
    if what == "settings":
        place.settings.write_bytes(b"\xff\xfe[limits\nmax_weight = banana")
    if what == "audit log":
        (place.data / "ops").mkdir(exist_ok=True)
        (place.data / "ops" / "audit.jsonl").write_text("not an entry\n")
    if what == "ops is a file":
        (place.data / "ops").write_text("not a folder")
    if what == "disk":
        monkeypatch.setattr(os, "write", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        monkeypatch.setattr(os, "fsync", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    if what == "folder":
        real = os.open
        monkeypatch.setattr(os, "open", lambda path, *a, **k: (_ for _ in ()).throw(OSError(30, "Read-only file system"))
                            if str(path).startswith(str(place.data)) else real(path, *a, **k))
    if what == "network":
        place = "trading.pipeline.position_protection.connect"
        monkeypatch.setattr(place, lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no route to host")))
    if what == "portfolios":
        (place.data / "portfolios").write_text("not a folder")


@pytest.mark.parametrize("what", ["nothing", "settings", "audit log", "ops is a file", "disk", "folder", "network", "portfolios"])
def test_in_the_middle_of_two_hundred_orders_no_new_order_leaves(what, tmp_path, monkeypatch):
    place = place_of(tmp_path)

    def act():
        with monkeypatch.context() as patch:
            broken(what, place, patch)
            stop(place, audit_record(place))

    venue = Counting(12, act)
    done = trade(place, venue)
    assert len(venue.arrived) == 12, "the order on its way arrives, and none after it"
    assert sum(o.filled > 0 for o in done.orders) == 12 and all("stopped by" in o.reason for o in done.orders[12:])
    assert {"paper-sample", "live-sample", "live-crypto"} <= set(engaged_switches(place))


def test_a_damaged_ledger_stops_the_brake_least_of_all(tmp_path):
    place = place_of(tmp_path)
    place.ledger.write_bytes(b"no database, but as long as the head of one" * 50)
    done = stop(place)
    assert not done.complete and "the ledger cannot be read" in done.text and "live-crypto" in engaged_switches(place)


def test_an_order_that_waits_behind_a_probe_or_a_queue_does_not_leave(tmp_path):
    place = place_of(tmp_path)
    settings = load_settings("crypto", {"run.data": place.data, "run.reports": place.reports, "run.mode": "live"}, environ={})
    ledger, venue = Ledger(place.ledger), Counting()
    ledger.open_account("live-crypto", "USD", D(1000), NOON)
    layered = with_circuit_breaker(venue, settings, ledger, "live-crypto", lambda: NOON)
    desk_stop = iter(["", "stopped by ann"])  # the look before the layers sees nothing yet, the stop comes while they wait
    from trading.core.types import Order
    from trading.execution.order_manager import OrderContext, submit_order, unresolved

    desk = OrderContext(layered, ledger, "live-crypto", lambda: NOON, RetryPolicy(settle=0), stop=lambda: next(desk_stop))
    stop(place)
    assert submit_order(desk, Order("one", SYMBOLS[0], "buy", D(1))) is None and venue.arrived == []
    assert "not sent" in ledger.last("absent", "live-crypto").data["reason"] and unresolved(desk) == [], "certain: it never left"


def test_nine_venues_stop_together(tmp_path):
    place, venues, inside = place_of(tmp_path), [Counting() for _ in range(9)], threading.Barrier(10, timeout=60)

    def meet():
        inside.wait()  # all nine are in the middle of an order
        inside.wait()  # the stop is raised

    for venue in venues:
        venue.at, venue.then = 3, meet
    Ledger(place.ledger).close()
    threads = [threading.Thread(target=trade, args=(place, venue, f"live-crypto@v{n}")) for n, venue in enumerate(venues)]
    ledger = Ledger(place.ledger)
    for n in range(9):
        ledger.open_account(f"live-crypto@v{n}", "USD", D(100_000), NOON)
    ledger.close()
    for thread in threads:
        thread.start()
    inside.wait()
    from trading.risk.stop_flag import raise_stop

    raise_stop(place.data, "ann", "the venue reports nonsense", NOON)
    inside.wait()
    for thread in threads:
        thread.join(60)
    assert [len(v.arrived) for v in venues] == [3] * 9


def test_every_portfolio_is_stopped_and_each_account_is_resumed_by_itself(tmp_path):
    place = place_of(tmp_path)
    family, fund = add_portfolio(place, "family"), add_portfolio(place, "fund")
    lines: list = []
    eve = Context(family, Actor("eve", "trader", ("family",), "page"), "family")
    done = perform("stop-trading", {"reason": "x"}, eve, lambda *line: lines.append(line))
    assert all("live-crypto" in engaged_switches(p) for p in (place, family, fund)) and len(lines) == 1
    assert done["accounts"] and all(a.startswith("family/") for a in done["accounts"]) and "fund" not in done.text, "others are stopped, not named"
    perform("resume-trading", {"reason": "found", "accounts": ["live-crypto"]}, eve, None)
    assert "live-crypto" not in engaged_switches(family) and "live-sample" in engaged_switches(family)
    assert "live-crypto" in engaged_switches(fund) and "live-crypto" in engaged_switches(place), "and only there"
    later = add_portfolio(place, "later")
    assert "live-crypto" in engaged_switches(later), "a portfolio that is made afterwards is stopped too"


@pytest.mark.parametrize("what", ["a damaged ledger", "a switch that is a folder", "an account that is none"])
def test_resuming_that_fails_leaves_the_account_stopped(what, tmp_path):
    place = place_of(tmp_path)
    stop(place)
    asked = ["live-crypto"]
    if what == "a damaged ledger":
        place.ledger.write_bytes(b"no database, but as long as the head of one" * 50)
    elif what == "a switch that is a folder":
        (place.data / "kill-live-crypto.jsonl").unlink()
        (place.data / "kill-live-crypto.jsonl").mkdir()
    else:
        asked.append("live-nothing")
    with pytest.raises(TradingError, match="is damaged|trading stays stopped|there is no account 'live-nothing'"):
        perform("resume-trading", {"reason": "found", "accounts": asked}, Context(place, Actor("ann")), None)
    assert "live-crypto" in engaged_switches(place)


def test_a_stop_that_could_not_be_recorded_anywhere_goes_into_no_other_folders_log(tmp_path, monkeypatch):
    from trading.services import commands

    (tmp_path / "other").mkdir()
    place, other, lines = place_of(tmp_path), place_of(tmp_path / "other"), []
    keep = lambda *line: lines.append(line[:2])  # noqa: E731

    def full(*_):
        raise OSError(28, "no space left")

    with monkeypatch.context() as disk:
        disk.setattr(commands, "write_atomic", full)
        stop(place, full)
    assert commands.write_waiting(other, keep) == 0 and not lines
    assert commands.write_waiting(place, keep) == 1 and lines == [("ann", "trading stopped")]


def test_the_stop_is_recorded_as_soon_as_recording_works(tmp_path, monkeypatch):
    place = place_of(tmp_path)
    (place.data / "ops").mkdir()
    log = place.data / "ops" / "audit.jsonl"
    log.write_text("not an entry\n")
    stop(place, audit_record(place))
    log.unlink()
    perform("set-alias", {"name": "XXBT", "coin": "BTC"}, Context(place, Actor("bob")), audit_record(place))
    assert [(e.who, e.action) for e in AuditLog(log).entries()] == [("ann", "trading stopped"), ("bob", "alias set")]


def test_the_terminal_needs_no_settings_and_shows_the_stop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [k for k in os.environ if k.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    Path("settings.ini").write_text("[limits\nmax_weight = banana\n")
    run = CliRunner()
    said = run.invoke(main, ["kill", "strange prices", "--who", "Ada"])
    assert "Trading is stopped" in said.output and len(stop_flags("data")) == 1
    shown = run.invoke(main, ["kill"])
    assert shown.exit_code == 0 and "live-crypto: stopped by Ada" in shown.output and "strange prices" in shown.output
    again = run.invoke(main, ["kill", "--reset", "--who", "Ada", "--account", "live-crypto", "found it"])
    assert again.exit_code == 0, again.output
    assert "live-crypto" not in run.invoke(main, ["kill"]).output and "paper-sample" in run.invoke(main, ["kill"]).output


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is copied and has no disk left")
def test_a_disk_without_a_free_block_keeps_nobody_from_stopping(tmp_path):
    import resource
    import signal
    import tempfile

    place = place_of(tmp_path)
    if (child := os.fork()) == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            tempfile.tempdir = None  # as in a process that has just begun: which folder takes files is tried by writing one
            done = stop(place)
            os._exit(0 if "Trading is stopped for all" in done.text and not done.complete else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(stop_flags(place.data)) == 1 and KillSwitch(place.data / "kill-live-crypto.jsonl").engaged


WRONG = ["the settings are a folder", "the settings are a pipe", "there is no such portfolio", "the ledger's database is away",
         "the reason is too long", "there is no reason", "the reason is no text", "whoever stops has no name"]


@pytest.mark.parametrize("what", WRONG)
def test_the_brake_at_the_terminal_engages_whatever_is_wrong_and_says_what_it_could_not_reach(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in [k for k in os.environ if k.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    Path("data").mkdir()
    words, said = ["kill", "strange prices"], ""
    if what == "the settings are a folder":
        Path("settings.ini").mkdir()
        said = "settings.ini cannot be read: Is a directory"
    elif what == "the settings are a pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("Windows has no such files")
        os.mkfifo("settings.ini")
        said = "settings.ini cannot be read: it is no file"
    elif what == "there is no such portfolio":
        words += ["--portfolio", "nosuch"]
    elif what == "the reason is too long":
        words[1] = "x" * 600
    elif what == "there is no reason":
        words[1] = ""
    elif what == "the reason is no text":
        words[1] = "caf\udce9 \x1b[31m"
    elif what == "whoever stops has no name":
        monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("getpwuid(): uid not found: 54321")))
    else:
        monkeypatch.setenv("CARNET_LEDGER", "postgresql://nobody@127.0.0.1:1/none")
        said = "the ledger cannot be read: the ledger postgresql carnet cannot be opened"
    answer = CliRunner().invoke(main, words)
    assert "Trading is stopped for all" in answer.output and said in answer.output and len(stop_flags("data")) == 1, answer.output
    assert answer.exit_code == (1 if said else 0)
    if "portfolio" in what:  # which account of which portfolio cannot be guessed
        one = CliRunner().invoke(main, [*words, "--account", "paper-sample"])
        assert one.exit_code == 1 and "there is no portfolio 'nosuch'" in one.output


def test_a_run_asks_the_flag_of_the_whole_installation(tmp_path):
    place = place_of(tmp_path)
    family = add_portfolio(place, "family")
    stop(place)
    settings = load_settings("sample", {"run.data": family.data, "run.reports": family.reports}, environ={})
    assert "stopped by ann" in kill_switch(settings, "paper-sample").reason()
    flag = json.loads(next(place.data.glob("stop-*.json")).read_text())
    assert flag["who"] == "ann" and not list(family.data.glob("stop-*.json"))


def test_a_stop_over_http_waits_for_no_other_command_however_many_hang(tmp_path):
    import uuid

    from starlette.testclient import TestClient
    from waiting import wait_until

    from trading.api.app import make_app
    from trading.security.sessions import Authenticator

    place = Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini")
    place.data.mkdir()
    users = Authenticator(tmp_path / "users.sqlite")
    users.add_user("tom", "correct horse battery", "trader", ["main"])
    users.enrol_totp("tom")
    app, held, answers = make_app(place, users, AuditLog(tmp_path / "audit.jsonl"), dashboard=False), threading.Event(), []
    client, head = TestClient(app), {"X-API-Key": users.make_key("tom", "robot", role="trader"), "Idempotency-Key": uuid.uuid4().hex}
    service = app.state.service
    hanging = [service.threads.submit(held.wait, 300) for _ in range(service.scribe.most)]  # as commands that wait for a venue
    ask = lambda: answers.append(client.post("/api/v1/system/stop-trading", json={"reason": "all hangs"}, headers=head))  # noqa: E731
    (stop := threading.Thread(target=ask, daemon=True)).start()
    try:
        wait_until(lambda: engaged_switches(place))
        stop.join(120)
        assert [a.status_code for a in answers] == [200] and answers[0].json()["engaged"] and not any(h.done() for h in hanging)
    finally:
        held.set()
