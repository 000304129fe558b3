"A trading loop that the schedule keeps: started, left alone while it lives, started again when it died, and never against a person."

import json
import logging
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from waiting import wait_until

from trading.cli.main import main
from trading.core.errors import MissingData
from trading.core.settings import load_settings
from trading.pipeline import trade_loop
from trading.pipeline.launch import load_flow
from trading.pipeline.trade_loop import loop_file
from trading.risk.kill_switch import KillSwitch
from trading.services.jobs import cancel_job, jobs
from trading.services.loop_control import keep_loop
from trading.services.workspace import Workspace

STAND_IN = """
import json, os, sys, time
from datetime import UTC, datetime
from pathlib import Path
file = Path(os.environ["CARNET_RUN__DATA"]) / "ops" / "loop-crypto.json"
file.parent.mkdir(parents=True, exist_ok=True)
file.with_suffix(".new").write_text(json.dumps({"profile": "crypto", "pid": os.getpid(), "started": datetime.now(UTC).isoformat(), "ended": None}))
file.with_suffix(".new").replace(file)
time.sleep(300)
"""  # lives as a loop does, and trades nothing
PROGRAM = (sys.executable, "-c", STAND_IN)


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


def told(place) -> dict:
    file = loop_file(place.data, "crypto")
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
