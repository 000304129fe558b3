"""One scheduler for two profiles and two portfolios, as `carnet schedule` starts it; and what a cancellation leaves behind in the middle of a stage.

The daily run of one account is cancelled from outside in each stage, through Prefect as its page does, and resumed each time; the same run of another
portfolio is left alone. In the end both must have the same books. Minutes: a process of Prefect and a kernel
for each; the signal alone is sent in `tests/test_flow_cancel.py`. A stage is held where the test wants it by a hook of the kernel, not by a time.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from typed import CARNET, carnet_alone  # noqa: E402
from waiting import wait_until  # noqa: E402

from trading.accounting.ledger import Ledger  # noqa: E402
from trading.core.files import lock_folder  # noqa: E402
from trading.pipeline.run_record import STAGES, Run  # noqa: E402
from trading.services.queries_runs import records  # noqa: E402
from trading.services.workspace import Workspace  # noqa: E402

pytestmark = [pytest.mark.xdist_group("flow cancel"), pytest.mark.skipif(sys.platform == "win32", reason="Prefect ends a process by a signal")]

DAY = "2022-12-27"
MARKET = """[market]
symbols = {symbols}
start = 2014-01-02
[forecast]
window = 1200
[allocate]
window = 252
every = 63
"""
SETTINGS = MARKET.format(symbols="AAPL, GE, JNJ, KO") + """[run]
profile = sample
data = data
reports = reports
[other:market]
symbols = MSFT, PFE, WMT, XOM
[schedule]
daily = 0 3 29 2 *
weekly = 0 3 29 2 *
maintenance = 0 3 29 2 *
watch = 0 3 29 2 *
reconcile = 0 3 29 2 *
loop = 0 3 29 2 *
"""
HOOK = '''
"Hold a stage: the file 'hold' names it; the file 'held' says that it waits, and in which process. In the trade it waits when one order is through."
import builtins, os, pathlib, time
from IPython import get_ipython
_home, _print = pathlib.Path(os.environ["HELD_BY"]), builtins.print

def _wait(stage, folder):
    if (_home / "hold").exists() and (_home / "hold").read_text() == stage:
        (_home / "held.new").write_text(f"{os.getpid()} {folder}")
        (_home / "held.new").rename(_home / "held")
        while (_home / "hold").exists():
            time.sleep(0.05)

def _stage(folder):
    from trading.pipeline.run_record import Run
    return next((s.name for s in Run(folder).record.stages if s.status == "running"), "")

def _after(result):
    folder = get_ipython().user_ns.get("run_dir")
    if folder and (_home / "hold").exists() and (name := _stage(folder)) != "40_trade":
        _wait(name, folder)

def _said(*words, **more):
    _print(*words, **more)
    folder = get_ipython().user_ns.get("run_dir")
    if folder and words[:2] == ("closed", "buy"):
        _wait("40_trade", folder)

get_ipython().events.register("post_run_cell", _after)
builtins.print = _said
'''


class Scheduler:
    "A running `carnet schedule`, asked over its Prefect server as Prefect's page asks it."

    def __init__(self, home: Path, url: str):
        self.home, self.url = home, url
        wait_until(lambda: "watch-family-sample" in self.deployments(), 200, 1)  # the last one that is registered

    def deployments(self) -> dict[str, dict]:
        return {d["name"]: d for d in self.ask("deployments/filter", limit=100)}

    def ask(self, what: str, **body):
        "Post a question; a server that has no time now (503) has done nothing and is asked again."
        answer = wait_until(lambda: (a := httpx.post(f"{self.url}/{what}", json=body, timeout=60)).status_code != 503 and [a], 200, 0.3)[0]
        assert answer.status_code < 300, answer.text
        return answer.json()

    def start(self, job: str, **parameters) -> str:
        return self.ask(f"deployments/{self.deployments()[job]['id']}/create_flow_run", parameters=parameters)["id"]

    def state(self, flow_run: str) -> str:
        answer = wait_until(lambda: (a := httpx.get(f"{self.url}/flow_runs/{flow_run}", timeout=60)).status_code != 503 and [a], 200, 0.3)[0]
        return answer.json()["state"]["type"]

    def ended(self, flow_run: str) -> str:
        return wait_until(lambda: (s := self.state(flow_run)) in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") and s, 500, 1)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    home = tmp_path_factory.mktemp("scheduler")
    (home / "settings.ini").write_text(SETTINGS)
    carnet_alone(home, "portfolios", "add", "family", "--profile", "sample")
    own = home / "data" / "portfolios" / "family" / "settings.ini"
    own.write_text(own.read_text() + SETTINGS[: SETTINGS.index("[run]")] + SETTINGS[SETTINGS.index("[schedule]") :])
    startup = home / "ipython" / "profile_default" / "startup" / "hold.py"  # only imports: a notebook begins with no name, also of ours
    startup.parent.mkdir(parents=True)
    startup.write_text("import os, sys; sys.path.append(os.environ['HELD_BY']); import hold_a_stage")
    (home / "hold_a_stage.py").write_text(HOOK)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("CARNET_", "PREFECT_"))}
    environ |= {"PREFECT_HOME": str(home / "prefect"), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    environ |= {"IPYTHONDIR": str(home / "ipython"), "HELD_BY": str(home)}
    words, out = [*CARNET, "schedule", "--profile", "sample", "--profile", "other"], home / "schedule.log"
    with out.open("w") as log:
        process = subprocess.Popen(words, cwd=home, env=environ, stdout=log, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: "waiting" in out.read_text() or process.poll() is not None, 200)
        assert process.poll() is None, out.read_text()[-3000:]
        yield Scheduler(home, next(line.split("Prefect server: ")[1].strip() for line in out.read_text().splitlines() if "Prefect server: " in line))
    finally:
        (home / "hold").unlink(missing_ok=True)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        finally:
            process.kill()


def place(scheduler: Scheduler, portfolio: str = "main") -> Workspace:
    home = scheduler.home if portfolio == "main" else scheduler.home / "data" / "portfolios" / portfolio
    data = home / "data" if portfolio == "main" else home
    return Workspace(data, home / "reports", home / "settings.ini")


def bought(where: Workspace, account: str) -> list[tuple]:
    "What was traded, with its cost; and what is left of the cash."
    ledger = Ledger(where.ledger, readonly=True)
    ledger.verify()
    fills = sorted((f.symbol, f.side, f.amount, f.price, f.fee) for f in ledger.fills(account))
    return [*fills, ledger.book(account).cash]


def gone(pid: int) -> bool:
    "Tell whether a process has ended; one that nobody has waited for has ended, too."
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture(scope="module")
def walked(scheduler):
    "Cancel the run of main's sample in each stage and resume it; meanwhile the other profile and the other portfolio have their day."
    home, found = scheduler.home, {}
    flow_run, run = None, None
    for stage in STAGES:
        (home / "held").unlink(missing_ok=True)
        (home / "hold").write_text(stage)
        flow_run = scheduler.start("daily-sample", **({"resume": run} if run else {"as_of": DAY, "profile": "sample"}))
        wait_until(lambda f=flow_run: (home / "held").exists() or scheduler.state(f) in ("COMPLETED", "FAILED", "CRASHED"), 400, 1)
        assert (home / "held").exists(), (home / "schedule.log").read_text()[-3000:]
        pid, folder = (home / "held").read_text().split(" ", 1)
        run = Path(folder).name
        before = {s.name: s.status for s in Run(folder).record.stages}
        scheduler.ask(f"flow_runs/{flow_run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
        state = scheduler.ended(flow_run)
        wait_until(lambda p=int(pid): gone(p))
        with lock_folder(place(scheduler).data):  # nobody holds it
            pass
        told = records(place(scheduler))[0]
        after = next(s for s in told.stages if s.name == stage)
        found[stage] = {"run": run, "before": before[stage], "state": state, "status": told.status, "after": after.status, "said": after.error,
                        "bought": len(bought(place(scheduler), "paper-sample")) if stage >= "40" else 0}
        (home / "hold").unlink()
    last = {"main": scheduler.start("daily-sample", resume=run), "other": scheduler.start("daily-other", profile="other", as_of=DAY),
            "family": scheduler.start("daily-family-sample", profile="sample", portfolio="family", as_of=DAY)}
    return found | {"run": run, "states": {name: scheduler.ended(f) for name, f in last.items()}}


def test_a_cancelled_stage_leaves_no_kernel_and_no_lock_and_the_run_says_so(walked):
    for stage in STAGES:
        seen = walked[stage]
        assert seen["run"] == walked["run"] and seen["before"] == "running", seen
        assert (seen["state"], seen["status"], seen["after"]) == ("CANCELLED", "failed", "failed") and seen["said"], seen
    assert walked["40_trade"]["bought"] > 1, "it was cancelled when an order was through"


def test_what_was_cancelled_and_resumed_ends_with_the_books_of_a_day_that_was_left_alone(walked, scheduler):
    assert set(walked["states"].values()) == {"COMPLETED"}, walked["states"]
    assert [(r.id, r.status) for r in records(place(scheduler)) if r.profile == "sample"] == [(walked["run"], "done")]
    *fills, cash = bought(place(scheduler), "paper-sample")
    assert bought(place(scheduler, "family"), "paper-sample") == [*fills, cash]
    assert len({symbol for symbol, *_ in fills}) == len(fills) == 4, "no order was sent twice"


def test_two_profiles_and_two_portfolios_in_one_scheduler_have_books_of_their_own(walked, scheduler):
    served = scheduler.deployments()
    assert {"daily-sample", "daily-other", "daily-family-sample", "watch-sample", "watch-family-sample"} <= set(served), served.keys()
    assert served["daily-family-sample"]["parameters"] == {"portfolio": "family", "profile": "sample"}
    main, family = place(scheduler), place(scheduler, "family")
    assert sorted(r.profile for r in records(main)) == ["other", "sample"] and [r.profile for r in records(family)] == ["sample"]
    held = {where.ledger: {e.account for e in Ledger(where.ledger, readonly=True).events()} for where in (main, family)}
    assert [{a for a in found if a.startswith("paper-")} for found in held.values()] == [{"paper-sample", "paper-other"}, {"paper-sample"}]
    assert {f.symbol for f in Ledger(main.ledger, readonly=True).fills("paper-other")} == {"MSFT", "PFE", "WMT", "XOM"}
