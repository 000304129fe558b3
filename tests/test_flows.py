"The flows as users of Prefect know them: our names, logs, artifacts, a form, one run for each flow run, one at a time."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trading.core.settings import load_settings
from trading.services.flow_runs import SCHEDULED, deployments_text

pytestmark = pytest.mark.xdist_group("flows")  # one worker: what they share is made once

ROOT = Path(__file__).parent.parent
SCRIPT = """
import json, sys
import atexit
from contextlib import ExitStack, nullcontext
from pathlib import Path
from trading.pipeline.launch import load_flow, own_server, prepare_prefect
prepare_prefect(Path("data"), level="CRITICAL", kept="INFO")
kept_open = ExitStack()
kept_open.enter_context(own_server(Path("server.log")))
atexit.register(kept_open.close)
import nbformat, httpx, os
from datetime import UTC, datetime
from decimal import Decimal
import threading
from trading.core.errors import StageFailed
from trading.core.files import folder_at_work, lock_folder
from trading.core.types import Action, Plan
flows, tried = load_flow("daily"), []

def stage(run, name, kernel):
    "What a stage leaves behind, without its work; the first time, the third one fails."
    if next(s for s in run.record.stages if s.name == name).status == "done":
        return 0.0
    tried.append([run.record.id, name])
    folder = run.folder / "notebooks"
    folder.mkdir(exist_ok=True)
    out = nbformat.v4.new_output("stream", text=f"words of {name}")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[out])]), folder / f"{name}.ipynb")
    if name == "30_allocate" and len(tried) == 3:
        run.mark(name, "failed", 0.1, "no room")
        raise StageFailed("30_allocate: no room")
    if name == "40_trade":
        buy = Action("KO", "buy", Decimal(3), Decimal(60), "below its target")
        run.write("plan", Plan("paper", datetime(2022, 12, 28, tzinfo=UTC), "USD", Decimal(1000), Decimal(500), (buy,)))
    if name == "50_report":
        run.write("summary", {"sentences": ["The account is worth 1,000 USD."], "attention": [["act", "look"]]})
        (run.folder / "index.html").write_text("report")
    run.mark(name, "done", 0.1)
    return 0.1

class Kernel(nullcontext):
    def __init__(self, log):
        super().__init__(self)
    def set_environment(self, **more):
        pass

flows.run_stage, flows.Kernel = stage, Kernel
asked, holds, wanted = [], threading.Event(), threading.Event()

def other_job():
    "Be at work on the folder until somebody else wants it."
    with lock_folder(Path("data")):
        holds.set()
        wanted.wait()

def quiet(name):
    "The file of flows, without the process that tells people."
    module = load_flow(name)
    module.carnet = lambda *words, **more: asked.append(words) or " ".join(words[:2])
    if name == "watch":
        module.folder_at_work = lambda data: folder_at_work(data) and (wanted.set() or True)
    return module

flows.load_flow = quiet
first = flows.daily_scheduled.with_options(retries=1)("sample", as_of="2022-12-27")
threading.Thread(target=other_job).start()
holds.wait()
second = flows.daily_scheduled("sample", as_of="2022-12-27")
wrong = flows.daily_scheduled(resume=first, as_of="2022-12-27", return_state=True)
same = flows.daily_scheduled("sample", resume=first)  # a deployment fills its profile in
os.environ["CARNET_RUN__DATA"] = "elsewhere"
wanted.clear(), holds.clear()
threading.Thread(target=other_job).start()  # on the folder that the run began in
holds.wait()
late = flows.daily_scheduled(resume=first)
del os.environ["CARNET_RUN__DATA"]
ask = lambda what, **body: httpx.post(os.environ["PREFECT_API_URL"] + "/" + what, json=body, timeout=60).json()
runs = [(r["name"], r["state_name"], r["run_count"]) for r in ask("flow_runs/filter", sort="START_TIME_ASC")]
for _ in range(60):
    logs = [line["message"] for line in ask("logs/filter", limit=200)]
    if any("words of 50_report" in line for line in logs):
        break
    import time; time.sleep(0.25)
print(json.dumps({"first": first, "second": second, "same": same, "wrong": str(wrong.result(raise_on_failure=False)),
                  "late": late, "tried": tried, "asked": asked,
                  "runs": runs, "logs": logs, "artifacts": [(a["key"], a["type"], a["data"]) for a in ask("artifacts/filter")]}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("flows")
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("CARNET_", "PREFECT_"))} | {"PREFECT_HOME": str(folder / "prefect")}
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, capture_output=True, text=True, timeout=400, env=plain)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"folder": str(folder)}


def test_a_retry_goes_on_with_the_run_that_the_flow_run_had_opened(told):
    assert told["first"] == "2022-12-27_sample_1" and told["second"] == "2022-12-27_sample_2", "a new flow run is a new run"
    mine = [name for run, name in told["tried"] if run == told["first"]]
    assert mine == ["10_ingest", "20_forecast", "30_allocate", "30_allocate", "40_trade", "50_report"], "what was done is not done again"
    assert sorted(p.name for p in (Path(told["folder"]) / "reports").glob("2022*")) == [told["first"], told["second"]]


def test_people_are_told_how_a_run_went_and_that_a_job_never_came_to_one(told):
    runs = [words[1] for words in told["asked"] if words[0] == "after"]
    assert runs == [told["first"], told["first"], told["second"], told["first"], told["first"]]
    jobs = [(words[1], "leave profile, as_of and mode empty" in words[3]) for words in told["asked"] if words[0] == "after-job"]
    assert jobs == [("daily", True)]
    assert sum(words[:2] == ["report", "--due"] for words in told["asked"]) == len(runs), "editions that are over are made after each run"


def test_resume_goes_on_and_takes_no_other_word(told):
    assert told["same"] == told["first"] and "leave profile, as_of and mode empty" in told["wrong"]


def test_a_job_that_comes_while_another_is_at_work_on_the_folder_waits_for_it(told):
    waited = sum("another job is at work on data; this one waits" in line for line in told["logs"])
    assert waited == 2 and told["second"] and told["late"] == told["first"], "a new run; one that goes on, whatever folder the settings name today"


def test_flow_runs_have_the_names_of_our_runs(told):
    named = [name for name, state, _ in told["runs"] if state == "Completed"]
    assert named.count(told["first"]) == 6 and named.count(told["second"]) == 2, told["runs"]  # the scheduled flow and the daily one in it
    assert max(count for name, _, count in told["runs"] if name == told["first"]) == 2, "the same flow run, tried twice"


def test_the_words_of_the_stages_are_in_the_logs(told):
    assert {f"words of {name}" for name in ("10_ingest", "30_allocate", "50_report")} <= set(told["logs"])
    assert any("no room" in line for line in told["logs"]) and any("40_trade of 2022-12-27_sample_1: done in" in line for line in told["logs"])


def test_the_plan_is_a_table_and_the_day_a_note_with_links(told):
    tables = [json.loads(data) if isinstance(data, str) else data for key, kind, data in told["artifacts"] if key == "plan-sample"]
    assert tables[0] == [{"side": "buy", "symbol": "KO", "amount": "3", "price": "60", "value, USD": "180.00", "why": "below its target"}]
    notes = [data for key, _, data in told["artifacts"] if key == "day-sample"]
    assert "The account is worth 1,000 USD" in notes[0] and "**act** look" in notes[0] and "40_trade.ipynb" in notes[0] and "index.html" in notes[0]
    assert any(key == "report-sample" for key, _, _ in told["artifacts"])


def test_the_form_asks_for_profile_day_mode_portfolio_and_resume():
    code = ("import json; from prefect.utilities.callables import parameter_schema; from trading.pipeline.launch import load_flow; "
            "s = parameter_schema(load_flow('daily').daily_scheduled).properties; "
            "print(json.dumps({k: v.get('description', '') for k, v in s.items()}))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    form = json.loads(done.stdout.splitlines()[-1])
    assert list(form) == ["profile", "as_of", "mode", "portfolio", "resume"] and all(form.values()), form


def test_the_file_of_deployments_is_made_from_the_settings():
    file = "deploy/prefect/prefect.yaml"
    assert (ROOT / file).read_text(encoding="utf-8") == deployments_text(load_settings(environ={}, file=ROOT / "settings.ini"), file=file), \
        f"write it again: carnet schedule --write {file}"
    told = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["deployments"]
    assert [d["name"] for d in told] == list(SCHEDULED) and all(d["concurrency_limit"]["collision_strategy"] == "ENQUEUE" for d in told)


def test_schedule_writes_the_file_and_serves_several_profiles(tmp_path):
    from click.testing import CliRunner

    from trading.cli.main import main

    with CliRunner().isolated_filesystem(tmp_path):
        done = CliRunner().invoke(main, ["schedule", "--write", "mine.yaml", "--profile", "sample-coins"])
        assert done.exit_code == 0, done.output
        assert yaml.safe_load(Path("mine.yaml").read_text())["deployments"][0]["parameters"] == {"profile": "sample-coins"}
        two = CliRunner().invoke(main, ["schedule", "--write", "mine.yaml", "--profile", "sample", "--profile", "crypto"])
        assert two.exit_code == 2 and "one profile" in two.output
        wrong = CliRunner().invoke(main, ["schedule", "--profile", "cripto"])
        assert wrong.exit_code == 1 and wrong.output.count("did you mean 'crypto'") == 1


def test_a_worker_of_a_pool_is_refused_in_a_sentence_and_never_becomes_the_schedule_itself(tmp_path, monkeypatch):
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from click.testing import CliRunner

    from trading.cli.main import main

    with CliRunner().isolated_filesystem(tmp_path):
        beside = ((["--write", "mine.yaml"], "--write"), (["--profile", "a", "--ui"], "--profile and --ui"), (["--portfolio", "a"], "--portfolio"))
        for words, says in (([""], "names no pool"), ([" "], "names no pool"), *((["x", *words], f"leave {says} out") for words, says in beside)):
            done = CliRunner().invoke(main, ["schedule", "--pool", *words])
            assert done.exit_code == 2 and says in " ".join(done.output.split()) and not Path("mine.yaml").exists(), (words, done.output)
        for address in ("http://[::1/api", "nonsense", "http://127.0.0.1:x/api"):
            monkeypatch.setenv("PREFECT_API_URL", address)
            done = CliRunner().invoke(main, ["schedule", "--pool", "x"])
            assert done.exit_code == 1 and "PREFECT_API_URL is no address of a server" in done.output, (address, done.output)

    class Closed(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_response(401)
            self.end_headers()

        do_POST = do_GET  # noqa: N815
        log_message = lambda self, *_: None  # noqa: E731

    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("CARNET_", "PREFECT_"))}
        plain |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{server.server_port}/api"}
        done = subprocess.run([sys.executable, "-m", "trading", "schedule", "--pool", "x"], cwd=tmp_path, env=plain, capture_output=True, text=True)
        server.shutdown()
    assert done.returncode == 1 and "lets nobody in who does not sign in (401)" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_flows_that_are_loaded_again_change_prefect_only_once():
    import logging

    from prefect._internal import observers

    from trading.pipeline.launch import load_flow

    changed = lambda: (observers.FlowRunCancellingObserver._handle_polling_task_done, list(logging.getLogger("prefect.flow_runs").filters))  # noqa: E731
    load_flow("watch")
    before = changed()
    load_flow("watch")
    load_flow("daily")
    assert changed() == before
