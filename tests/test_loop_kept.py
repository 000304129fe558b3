"A trading loop that the schedule keeps: started, left alone while it lives, started again when it died, and never against a person."

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from typed import CARNET
from waiting import wait_until

from trading.cli.main import main
from trading.core.errors import MissingData
from trading.core.settings import load_settings
from trading.pipeline import trade_loop
from trading.pipeline.launch import load_flow
from trading.pipeline.loop_state import alone_with, loop_file
from trading.risk.kill_switch import KillSwitch
from trading.services.alerting import dispatch_alerts, list_alerts
from trading.services.jobs import cancel_job, jobs
from trading.services.loop_control import keep_loop, trading_loops
from trading.services.workspace import Workspace

STAND_IN = """
import json, os, sys, time
from datetime import UTC, datetime
from pathlib import Path
profile = sys.argv[1] if len(sys.argv) > 1 else "crypto"
file = Path(os.environ["CARNET_RUN__DATA"]) / "ops" / f"loop-{profile}.json"
file.parent.mkdir(parents=True, exist_ok=True)
file.with_suffix(".new").write_text(json.dumps({"profile": profile, "pid": os.getpid(), "started": datetime.now(UTC).isoformat(), "ended": None}))
file.with_suffix(".new").replace(file)
time.sleep(300)
"""  # lives as a loop does, and trades nothing
PROGRAM = (sys.executable, "-c", STAND_IN)
TWO = """source = sample
venue = coins_1h
timeframe = 1h
symbols = BTC/USDT, ETH/USDT, SOL/USDT
start = 2021-10-01
currency = USDT
calendar = 24/7
max_age_hours = 3
"""
FEW = "".join(f"[{k}]\n{lines}\n" for k, lines in {"forecast": "window = 900\nrefit = weekly\nhorizons = 1", "allocate": "window = 300",
                                                 "limits": "max_turnover = 3", "trade": "drift = 0.01"}.items())


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARNET_RUN__DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CARNET_RUN__REPORTS", str(tmp_path / "reports"))
    place = Workspace(tmp_path / "data", tmp_path / "reports")
    yield place
    for job in jobs(place)["items"]:
        if job["status"] == "running":
            cancel_job(place, job["id"])


def told(place, profile="crypto") -> dict:
    file = loop_file(place.data, profile)
    return json.loads(file.read_bytes()) if file.exists() else {}


def kept(**more):
    return load_settings("crypto", {"loop.keep": "yes"} | more)


def test_it_is_started_left_alone_and_started_again_when_its_process_was_killed(home):
    assert "has not run yet; it is started as the job" in keep_loop(home, kept(), PROGRAM)
    wait_until(lambda: told(home))
    first = told(home)["pid"]
    assert keep_loop(home, kept(), PROGRAM) == "the trading loop of crypto lives" and len(jobs(home)["items"]) == 1
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not any(j["status"] == "running" for j in jobs(home)["items"]) and not psutil.pid_exists(first))
    assert "has died; it is started as the job" in keep_loop(home, kept(), PROGRAM)
    wait_until(lambda: told(home)["pid"] != first)
    assert keep_loop(home, kept(), PROGRAM) == "the trading loop of crypto lives"


def test_two_profiles_are_kept_side_by_side_and_each_is_stopped_by_itself(home):
    settings = {name: kept() if name == "crypto" else load_settings("forex", {"loop.keep": "yes"}) for name in ("crypto", "forex")}
    keep = lambda name: keep_loop(home, settings[name], (*PROGRAM, name))  # noqa: E731
    for name in settings:
        assert "has not run yet; it is started as the job" in keep(name)
        assert "is still running" in keep(name) or told(home, name), "it is starting, and is not started again"
    wait_until(lambda: all(told(home, name) for name in settings))
    assert [keep(name) for name in settings] == ["the trading loop of crypto lives", "the trading loop of forex lives"]
    assert {i["profile"] for i in trading_loops(home)["items"]} == {*settings} and len(jobs(home)["items"]) == 2
    os.kill(told(home)["pid"], signal.SIGKILL)
    wait_until(lambda: sum(j["status"] == "running" for j in jobs(home)["items"]) == 1 and not psutil.pid_exists(told(home)["pid"]))
    engaged = trade_loop.kill_switch(settings["crypto"], "paper-crypto")
    engaged.engage("a test", "prices look wrong", datetime.now(UTC))
    assert "its loop is not started" in keep("crypto") and keep("forex") == "the trading loop of forex lives"


def test_loops_of_two_profiles_trade_in_one_folder_at_once_and_one_account_has_one_loop(home):
    alerts = "[alert_rules]\nalways = drawdown above -1 warning\n"
    Path("settings.ini").write_text("".join(f"[{name}:market]\n{TWO}" for name in ("north", "south")) + FEW + alerts)
    words = lambda name: (*CARNET, "trade", "--profile", name, "--from", "2021-12-20", "--until", "2021-12-20T02:00Z")  # noqa: E731
    north, south = (subprocess.Popen(words(name), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for name in ("north", "south"))
    try:
        said = [p.communicate(timeout=300)[0] for p in (north, south)]
    finally:
        for p in (north, south):
            p.kill()
    assert (north.returncode, south.returncode) == (0, 0), said
    states = {i["profile"]: i for i in trading_loops(home)["items"]}
    assert {n: (s["decisions"], s["problems"]) for n, s in states.items()} == {"north": (3, []), "south": (3, [])}, said
    told_of = [a for a in list_alerts(load_settings("north")) if a["rule"] == "always"]  # in three decisions each is told once, and names its account
    assert sorted((a["status"], a["keys"]) for a in told_of) == [("new", ["paper-north"]), ("new", ["paper-south"])]
    assert all([(c["channel"], c["status"], c["attempts"]) for c in a["channels"]] == [("console", "sent", 1)] for a in told_of), told_of
    assert all(f"always ({account})" in "".join(said) for account in ("paper-north", "paper-south")), said
    alone = Workspace(home.data.parent / "alone" / "data", home.reports)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARNET_RUN__DATA", str(alone.data))
        done = CliRunner().invoke(main, words("south")[len(CARNET):])
    assert done.exit_code == 0, done.output
    assert trading_loops(alone)["items"][0]["last"]["plan"] == states["south"]["last"]["plan"], "it decided what it decides without a neighbour"
    with alone_with(home.data, "paper-north"):
        again = CliRunner().invoke(main, words("north")[len(CARNET):])
        assert again.exit_code == 1
        assert f"another trading loop is at work on the account paper-north (process {os.getpid()})" in str(again.exception) + again.output
    assert told(home, "north") == states["north"], "who is refused writes nothing into the file of the other"


def test_many_loops_that_tell_at_once_lose_no_alert_and_tell_none_twice_and_a_portfolio_is_named(home, monkeypatch):
    monkeypatch.delenv("CARNET_RUN__DATA")
    monkeypatch.delenv("CARNET_RUN__REPORTS")
    settings, now = load_settings("crypto"), datetime(2024, 1, 2, 12, tzinfo=UTC)
    wait, names = threading.Barrier(8), [f"paper-{n}" for n in range(8)]

    def tell(name: str) -> None:
        for n in range(4):  # still broken: not told again within its twelve hours
            wait.wait()
            dispatch_alerts(settings, {"drawdown": {name: 0.15}}, now + timedelta(minutes=n))

    with ThreadPoolExecutor(8) as hands:
        list(hands.map(tell, names))
    told_of = list_alerts(settings, 100)
    assert sorted(a["keys"][0] for a in told_of) == names and {(a["status"], a["rule"]) for a in told_of} == {("new", "drawdown")}
    assert CliRunner().invoke(main, ["portfolios", "add", "family"]).exit_code == 0
    each = [CliRunner().invoke(main, ["after-job", "weekly", "--failed", "no disk", *more]).output for more in ((), ("--portfolio", "family"))]
    assert "[error] run failed (weekly). " in each[0] and "[error] family: run failed (weekly). " in each[1], each


def test_a_number_of_a_process_that_began_later_is_not_taken_for_the_loop(home):
    file = loop_file(home.data, "crypto")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"profile": "crypto", "pid": os.getpid(), "started": "2020-01-01T00:00:00+00:00", "ended": None}))
    assert "has died" in keep_loop(home, kept(), PROGRAM), "this process has the number, and began years later"


@pytest.mark.parametrize(("ended", "says"), [("interrupted", "has ended: interrupted; 'carnet trade --profile crypto' starts it again"),
                                             ("the time 2026-01-01 00:00 has come", "has ended: the time"),
                                             ("an error: the bars are gone", "has ended with an error: the bars are gone; it is started as the job")])
def test_what_a_person_ended_stays_ended_and_an_error_does_not_end_it(home, ended, says):
    file = loop_file(home.data, "crypto")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"profile": "crypto", "pid": 1, "started": "2020-01-01T00:00:00+00:00", "ended": ended}))
    assert says in keep_loop(home, kept(), PROGRAM)
    assert len(jobs(home)["items"]) == ("is started" in says)


def test_nothing_is_started_where_it_was_not_asked_for_or_trading_is_stopped(home):
    assert "is not kept; loop.keep = yes does it" in keep_loop(home, load_settings("crypto"), PROGRAM)
    assert "no loop is kept on it" in keep_loop(home, load_settings("sample", {"loop.keep": "yes"}), PROGRAM)
    switch = trade_loop.kill_switch(kept(), "paper-crypto")
    assert isinstance(switch, KillSwitch)
    switch.engage("a test", "prices look wrong", datetime.now(UTC))
    assert "its loop is not started" in keep_loop(home, kept(), PROGRAM) and not jobs(home)["items"]


def test_the_command_and_the_flow_say_what_they_found(home, monkeypatch):
    assert "is not kept" in CliRunner().invoke(main, ["trade", "--keep", "--profile", "crypto"]).output
    assert "leave the other options out" in CliRunner().invoke(main, ["trade", "--keep", "--once"]).output
    asked = []
    flows = load_flow("watch")
    monkeypatch.setattr(flows, "carnet", lambda *words, **_: asked.append(words) or "the trading loop of crypto lives")
    monkeypatch.setattr(flows, "get_run_logger", lambda: logging.getLogger("flow"))
    assert flows.loop.fn("crypto") == "the trading loop of crypto lives" and asked == [("trade", "--keep", "--profile", "crypto")]


def test_an_error_that_ends_a_loop_stands_in_its_file(home, monkeypatch):
    def no_close(*_):
        raise MissingData("the bars are gone")

    monkeypatch.setattr(trade_loop, "newest_close", no_close)
    said = CliRunner().invoke(main, ["trade", "--profile", "sample-forex", "--from", "2016-12-20", "--until", "2016-12-22"])
    assert said.exit_code == 1 and json.loads(Path("data/ops/loop-sample-forex.json").read_text())["ended"] == "an error: the bars are gone"
