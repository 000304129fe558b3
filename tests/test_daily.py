"The daily run as a user starts it: two different days, again, interrupted, as a dry run, and given bad input."

import html
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from loopback import KEYS, make_bars, market, write_settings
from typed import CARNET
from typed import carnet_alone as carnet
from waiting import wait_until

from trading.core.pages import spaced
from trading.core.prefork import FIXED
from trading.pipeline.launch import own_server
from trading.pipeline.run_record import STAGES, Run, list_runs
from trading.services.launching import runs_ready

pytestmark = pytest.mark.xdist_group("daily")  # one worker: the runs share a server and a folder
AHEAD = b"trading.core.ahead"  # what a process that will be a kernel has in its command


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "A Prefect server on loopback, for those who name it; the other runs of this file do without one, as a user's do."
    folder = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("PREFECT_HOME", str(folder)), ("PREFECT_SERVER_ANALYTICS_ENABLED", "false"), ("DO_NOT_TRACK", "1")):
            patch.setenv(name, value)
        with own_server(folder / "server.log") as url:
            del os.environ["PREFECT_API_URL"]  # it is named where it is meant
            yield url


def ask(server: str, what: str, body: dict) -> list:
    "Return what a Prefect server answers."
    asked = urllib.request.Request(f"{server}/{what}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(asked, timeout=60))


def watched_run(folder: Path, day: str) -> list[list[str]]:
    "Carry out a run where no service keeps anything ready; return what its kernel is, as seen before the run had a folder and after its trade."
    alone = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")} | FIXED | {"XDG_RUNTIME_DIR": str(folder)}
    with (folder / "out.txt").open("wb") as out:
        process = subprocess.Popen([*CARNET, "run", "--as-of", day], cwd=folder, env=alone, stdout=out, stderr=out)
        run, seen = Run(folder / "reports" / f"{day}_sample_1"), []
        file = run.folder / "run.json"
        for traded in (False, True):
            wait_until(lambda traded=traded: not traded or (file.exists() and run.record.stages[-1].status in ("running", "done")))
            found = wait_until(lambda: kernels_of(process.pid) or process.poll() is not None)
            seen.append([*next(iter(found.items())), (run.folder / "run.json").exists()] if isinstance(found, dict) else [])
        assert process.wait(550) == 0, (folder / "out.txt").read_text()
    return seen


def kernels_of(pid: int) -> dict[int, list[str]]:
    "Return the kernels that a process has started, or will have: number → words of the command."
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if int((place / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid and (words := (place / "cmdline").read_bytes().split(b"\0")):
                found |= {int(place.name): [w.decode() for w in words if w]} if AHEAD in b" ".join(words) or b"ipykernel_launcher" in words else {}
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    "A folder with nothing in it but two runs of consecutive days."
    folder = tmp_path_factory.mktemp("home")
    carnet(folder, "run", "--as-of", "2020-03-12")
    (folder / "kernels.json").write_text(json.dumps(watched_run(folder, "2020-03-13")))
    return folder


@pytest.fixture(scope="module")
def runs(home) -> tuple[Run, Run]:
    return Run(home / "reports" / "2020-03-12_sample_1"), Run(home / "reports" / "2020-03-13_sample_1")


def test_every_stage_of_both_days_is_done_and_leaves_its_notebook(runs):
    for run in runs:
        assert run.record.status == "done"
        assert sorted(p.stem for p in (run.folder / "notebooks").glob("*.ipynb")) == sorted(STAGES)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each kernel is started when it is needed")
def test_the_kernel_of_a_command_imports_before_the_command_has_opened_its_run(home):
    first, later = json.loads((home / "kernels.json").read_text())
    assert AHEAD.decode() in " ".join(first[1]) and not first[2], "it was begun before there was a run"
    assert later[:2] == first[:2] and later[2], "and is the one that works for it"
    assert not Path(f"/proc/{first[0]}").exists(), "it has ended with the command"


def test_a_command_that_is_refused_leaves_no_kernel_that_waits(tmp_path):
    said = carnet(tmp_path, "run", "--profile", "nowhere", code=1, XDG_RUNTIME_DIR=str(tmp_path))
    assert "nowhere" in said and "Traceback" not in said
    at = {os.path.realpath(p) for p in Path("/proc").glob("[0-9]*/cwd") if os.access(p, os.R_OK)}
    assert str(tmp_path.resolve()) not in at


def test_the_report_is_one_small_file_without_code_or_requests(runs):
    page = (runs[0].folder / "index.html").read_text()
    assert len(page) < 2_000_000 and "Sample data, not today" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page and "<script" not in page


def test_nothing_later_than_the_day_was_known(runs):
    for run, day in zip(runs, ("2020-03-12", "2020-03-13"), strict=True):
        assert str(run.read("quality")["last"].max().date()) == day
        assert run.read("backtest").index[-1] <= run.record.as_of


def test_the_second_day_starts_with_what_the_first_one_left(runs):
    first, second = runs
    left, found = first.read("closing"), second.read("account")
    assert found["cash"] == left["cash"] and found["positions"] == left["positions"] and left["positions"]
    equity = second.read("equity")["equity"]
    assert len(equity) >= 3 and equity.iloc[0] == 100_000


def test_money_is_conserved_between_before_and_after(runs):
    for run in runs:
        before, after, orders = run.read("holdings_before"), run.read("holdings_after"), run.read("orders")
        bought = orders.loc[orders["side"] == "buy", "value"].sum() - orders.loc[orders["side"] == "sell", "value"].sum()
        assert after.loc["cash", "value"] == pytest.approx(before.loc["cash", "value"] - bought - orders["fee"].sum(), abs=1e-6)


def test_weights_keep_the_limits_that_the_settings_name(runs):
    for run in runs:
        target, limits = run.read("weights")["target"], run.record.settings["limits"]
        assert target.max() <= limits["max_weight"] and target.sum() <= 1 and (target >= 0).all()


def test_every_forecast_has_a_decision_in_artefact_and_ledger_and_only_what_passed_may_pull(home, runs):
    from trading.accounting.ledger import Ledger

    for run in runs:
        made, forecast = run.read("decisions"), run.read("forecast")
        assert [(d["symbol"], d["horizon"]) for d in made["decisions"]] == [(s, str(h)) for s, h in forecast.index]
        kept = Ledger(home / "data" / "ledger.sqlite", readonly=True).events(kind="decision")
        assert [e.data for e in kept if e.data["run"] == run.record.id] == [{"run": run.record.id} | d for d in made["decisions"]]
        acted = [d for d in made["decisions"] if d["side"] != "hold"]
        assert len(run.read("views")) == len(acted) and all(d["confidence"] >= 0.5 and d["reward_to_risk"] >= 1 for d in acted)
        share = {h: s["share"] * json.loads(made["learnt"])["weights"]["model"] for h, s in made["skills"].items()}
        assert all(0 <= d["size"] <= share[d["horizon"]] + 1e-12 for d in made["decisions"]), "nothing counts beyond its evidence"
        assert acted and run.read("allocation")["moved_by_forecasts"] > 0.001, "over twenty days the record of the model supports a little"
        assert spaced(run.read("allocation")["forecast_effect"]) in (run.folder / "index.html").read_text().replace("&#x27;", "'")
        notes, page = run.read("allocation")["notes"], html.unescape((run.folder / "index.html").read_text())
        assert made["words"][0] in notes[0] and all(spaced(words) in page for words in made["words"]), "what was held back is said"
        assert not any("of each 1 % that was forecast" in note for note in notes), "the action list has one line about the forecasts"
        assert all(d["reasons"] and d["inputs"] and 0 <= d["max_drawdown"] < 1 for d in made["decisions"])


def test_the_second_day_learns_from_what_came_due_and_says_so(home, runs):
    from trading.forecast.feedback import FeedbackLoop
    from trading.forecast.outcomes import ENSEMBLE

    loop = FeedbackLoop(ENSEMBLE, path=home / "data" / "feedback" / "sample.jsonl")
    first, second = (run.read("decisions") for run in runs)
    assert first["cycle"] == 0 and "No forecast has come due yet" in first["feedback_words"][0]
    assert second["cycle"] == 1 and loop.cycles[0].at == runs[1].record.as_of and loop.states[1].to_json() == second["learnt"]
    due = loop.cycles[0].outcomes  # one day ahead, all symbols
    assert {o.decision.split()[0][:10] for o in due} == {"2020-03-12"} and len(due) == 20
    assert "Trust began at 33\u00a0% each" in (runs[1].folder / "index.html").read_text()


@pytest.mark.parametrize("forked", [False, True])
def test_a_run_made_again_is_equal_to_the_last_bit_also_in_processes_that_are_forked_from_a_ready_parent(home, tmp_path, forked):
    if not forked:
        said = carnet(home, "reproduce", "2020-03-13_sample_1", CARNET_PREFORK="off")
    elif sys.platform != "linux":
        pytest.skip("only Linux forks what has imported libraries")
    else:
        with runs_ready(tmp_path) as place:
            wait_until(Path(place).exists, 300)
            said = carnet(home, "reproduce", "2020-03-13_sample_1", CARNET_PREFORK=place)
    assert "equal to the last bit" in said, said


def test_a_day_before_the_accounts_last_decision_is_a_dry_run_beside_it(home):
    ledger = home / "data" / "ledger.sqlite"
    before = ledger.read_bytes()
    said = carnet(home, "run", "--as-of", "2020-03-09")
    assert re.search(r"^ +report +done +[\d.]+ s$", said, re.MULTILINE), said  # each stage on a line that ends, in a pipe too
    run = Run(home / "reports" / "2020-03-09_sample_1")
    assert run.record.parameters["dry_run"] and "is not touched" in (run.folder / "index.html").read_text()
    assert ledger.read_bytes() == before


def test_a_failed_stage_keeps_its_notebook_and_the_run_goes_on_from_there_as_a_flow_run_where_a_server_is_named(home, server):
    (home / "holdings.csv").write_text("symbol,amount\ncash,20000\nKO,100\n")
    said = carnet(home, "run", "--as-of", "2020-03-10", "--portfolio", "holdings.csv", code=1, CARNET_FORECAST__WINDOW="120")
    assert "20_forecast: " in said and "carnet run --resume" in said and "Traceback" not in said, said
    run = max((Run(home / "reports" / r.id) for r in list_runs(home / "reports") if r.id.startswith("2020-03-10")), key=lambda r: r.folder)
    failed = next(s for s in run.record.stages if s.status == "failed")
    notebook = nbformat.read(run.folder / "notebooks" / f"{failed.name}.ipynb", 4)
    assert any(o.output_type == "error" for c in notebook.cells for o in c.get("outputs", []))
    assert run.record.stages[0].status == "done" and run.record.id in (home / "reports" / "index.html").read_text()
    kept = json.loads((run.folder / "run.json").read_text())
    kept["settings"]["forecast"]["window"] = 2520
    (run.folder / "run.json").write_text(json.dumps(kept))
    ingested = (run.folder / "notebooks" / "10_ingest.ipynb").stat().st_mtime_ns
    carnet(home, "run", "--resume", run.record.id, PREFECT_API_URL=server)
    assert run.record.status == "done" and (run.folder / "notebooks" / "10_ingest.ipynb").stat().st_mtime_ns == ingested
    (flow,) = ask(server, "flow_runs/filter", {"flow_runs": {"name": {"any_": [run.record.id]}}})
    tasks = {t["name"] for t in ask(server, "task_runs/filter", {"flow_runs": {"id": {"any_": [flow["id"]]}}})}
    assert flow["state_type"] == "COMPLETED" and tasks == set(STAGES)
    assert "KO" in run.read("holdings_before").index


def test_two_runs_at_once_are_one_run_and_a_sentence(tmp_path):
    from trading.core.files import lock_folder

    with lock_folder(tmp_path / "data"):
        assert "another run or command is at work" in carnet(tmp_path, "run", code=1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "--profile", "cripto"], "did you mean 'crypto'"),
        (["run", "--as-of", "1985-06-01"], "lies before the data"),
        (["run", "--as-of", "2999-01-01"], "lies in the future"),
        (["run", "--as-of", "soon"], "is not a date"),
        (["run", "--portfolio", "none.csv"], "cannot be read"),
        (["run", "--portfolio", "unknown.csv"], "'AAPLE' is unknown; did you mean AAPL"),
        (["run", "--portfolio", "text.csv"], "'many' is no number"),
        (["run", "--resume", "2031"], "the run '2031' is unknown"),
        (["open", "last"], "is unknown"),
    ],
)
def test_bad_input_is_one_sentence_and_an_exit_code(tmp_path, words, sentence):
    (tmp_path / "unknown.csv").write_text("symbol,amount\nAAPLE,1\n")
    (tmp_path / "text.csv").write_text("symbol,amount\nAAPL,many\n")
    said = carnet(tmp_path, *words, code=1)
    assert sentence in said and "Traceback" not in said and len(said.strip().splitlines()) == 1, said


def test_a_misspelt_setting_is_named_with_its_line_and_the_nearest_name(tmp_path):
    (tmp_path / "settings.ini").write_text("[limits]\nmax_wieght = 0.2\n")
    said = carnet(tmp_path, "run", code=1)
    assert "settings.ini, line 2" in said and "did you mean 'max_weight'" in said


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").exists(), reason="needs a folder that cannot be written")
def test_a_prefect_server_that_does_not_answer_is_named(tmp_path):
    said = carnet(tmp_path, "run", code=1, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "http://127.0.0.1:9/api" in said and "unset PREFECT_API_URL" in said and "Traceback" not in said, said
    assert not list((tmp_path / "reports").glob("*/notebooks/*.ipynb"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "reports").write_text("a file where a folder belongs")
    said = carnet(tmp_path, "run", code=1)
    assert "cannot be written" in said and "Traceback" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks what has imported libraries")
def test_a_typed_run_is_forked_by_a_service_that_keeps_a_process_ready_and_is_a_flow_run_of_the_server_it_names(home, server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # apart from what a service of this user keeps
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # which the parent reads when it imports Prefect, and no run shall use
    alone = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")} | {"PREFECT_API_URL": server}
    with runs_ready(tmp_path) as place, (tmp_path / "out.txt").open("wb") as out:
        wait_until(Path(place).exists, 300)
        process = subprocess.Popen([*CARNET, "run", "--as-of", "2020-03-16"], cwd=home, env=alone, stdout=out, stderr=out)
        wait_until(lambda: b"relay" in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0") or process.poll() is not None)
        assert process.wait(550) == 0, (tmp_path / "out.txt").read_text()
        other = alone | {"LC_ALL": "C"}
        refused = subprocess.run([*CARNET, "run", "--profile", "nowhere"], cwd=tmp_path, env=other, capture_output=True, text=True, timeout=300)
    assert "report: " in (tmp_path / "out.txt").read_text() and list((home / "reports").glob("2020-03-16_sample_*/index.html"))
    (flow,) = ask(server, "flow_runs/filter", {"flow_runs": {"name": {"any_": ["2020-03-16_sample_1"]}}})
    tasks = {t["name"]: t["state_type"] for t in ask(server, "task_runs/filter", {"flow_runs": {"id": {"any_": [flow["id"]]}}})}
    assert flow["state_type"] == "COMPLETED" and tasks == dict.fromkeys(STAGES, "COMPLETED")
    assert refused.returncode == 1 and "nowhere" in refused.stderr, "a parent with other variables does not fork it, and it does its work itself"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks what has imported libraries")
def test_a_typed_run_beside_a_service_is_the_command_that_was_typed_and_ctrl_c_ends_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    command, alone = [Path(sys.executable).with_name("carnet"), "run"], {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")}
    (tmp_path / "click.py").write_text("raise SystemExit('a file of the folder that one stands in')")  # a command never imports from there
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell script starts a service in the background
    try:
        with runs_ready(tmp_path) as place:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            wait_until(Path(place).exists, 300)
            for environ in (alone, alone | {"LC_ALL": "C"}):  # forked; and refused, so that the process does its work itself
                refused = subprocess.run([*command, "--profile", "nowhere"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
                assert refused.returncode == 1 and "nowhere" in refused.stderr and "stands in" not in refused.stderr, refused.stderr
            process = subprocess.Popen(command, cwd=tmp_path, env=alone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            wait_until(lambda: process.poll() is not None or list(tmp_path.glob("reports/*/run.json")))
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=300)[0]
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.returncode == 130 and "interrupted; what was finished is kept" in said, said


@pytest.mark.parametrize("profile", ["crypto", "forex", "etf"])
def test_a_market_without_network_or_keys_fails_with_a_sentence(home, tmp_path, profile):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    said = carnet(tmp_path, "run", "--profile", profile, code=1, no_proxy="127.0.0.1", NO_PROXY="127.0.0.1", **nowhere)
    assert "10_ingest" in said and "Traceback" not in said, said


def test_the_schedule_is_registered_with_the_cron_lines_of_the_settings(home, server):
    said = carnet(home, "schedule", "--once", CARNET_SCHEDULE__DAILY="15 21 * * 1-5", PREFECT_API_URL=server)
    assert "daily: 15 21 * * 1-5 (UTC), profile sample" in said, said
    found = {d["name"]: d["schedules"][0]["schedule"]["cron"] for d in ask(server, "deployments/filter", {})}
    assert found["daily-sample"] == "15 21 * * 1-5" and "maintenance-sample" in found


def test_real_orders_wait_for_a_yes_on_the_command_line_and_are_sent_once(tmp_path):
    bars = make_bars()
    with market(bars) as place:
        write_settings(tmp_path, place.url, bars)
        said = carnet(tmp_path, "run", code=4, **KEYS)
        (run,) = (Run(tmp_path / "reports" / r.id) for r in list_runs(tmp_path / "reports"))
        assert f"carnet approve {run.record.id}" in said and run.record.status == "waiting" and place.requests.count(("POST", "order")) == 0
        assert f"carnet approve {run.record.id}" in carnet(tmp_path, "runs", **KEYS) + (tmp_path / "reports" / "index.html").read_text()
        said = carnet(tmp_path, "approve", run.record.id, "--by", "Ada", **KEYS)
        assert "is approved by Ada" in said and run.record.status == "done"
        assert place.requests.count(("POST", "order")) == len(place.venue.fetch_my_trades(None)) == len(run.read("orders")) > 2
        assert "was executed already" in carnet(tmp_path, "approve", run.record.id, "--by", "Bob", code=1, **KEYS)
        assert "all equal" in carnet(tmp_path, "reconcile", **KEYS)
        kept = "".join(p.read_text(errors="ignore") for p in tmp_path.rglob("*") if p.is_file() and "prefect" not in p.parts)
        assert not any(key in said + kept for key in KEYS.values())
