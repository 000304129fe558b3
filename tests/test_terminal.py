"What the terminal prints: whole ids, plain lines in a pipe, JSON of every query, one answer to a typo, the report in the browser."

import json
from contextlib import nullcontext
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from trading.cli.main import main
from trading.cli.rows import print_rows

QUERIES = ("alerts list", "alerts preview", "audit show", "book list", "compare", "doctor", "feedback status", "holdings list", "portfolios list",
           "runs", "secrets list", "settings", "strategies list", "users keys", "users list", "users sessions", "venues")
ID = "2022-12-27_a-profile-with-a-long-name_1234"


def carnet(*words: str, code: int = 0):
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == code, done.output
    return done.output


def find(words: str) -> click.Command:
    found = main
    for word in words.split():
        found = found.get_command(click.Context(found), word)
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_has_json(query):
    assert "--json" in [name for p in find(query).params for name in p.opts]


@pytest.mark.parametrize("query", ["settings", "runs", "portfolios list", "venues", "holdings list"])
def test_json_is_data_and_nothing_else(place, query):
    assert isinstance(json.loads(carnet(*query.split(), "--json")), list)


def test_settings_in_a_pipe_are_whole_lines_with_the_same_facts_as_json(place):
    rows = json.loads(carnet("settings", "--json"))
    lines = carnet("settings").splitlines()
    assert len(lines) == len(rows) + 2, "a heading, one line for each, the profiles"
    assert all(line.startswith(row["setting"]) and row["meaning"] in line for line, row in zip(lines[1:-1], rows, strict=True))
    assert "\x1b" not in "".join(lines) and "…" not in "".join(line.split("  ")[0] for line in lines)


@pytest.mark.parametrize("width", ["30", "60", "200"])
def test_ids_are_never_cut_in_a_window(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", width)
    print_rows(("run", "status", "what"), [(ID, "done", "[bold]not markup[/] " * 9)], window=True)
    assert ID in capsys.readouterr().out


def test_rows_of_a_pipe_are_lines_whatever_their_length(capsys):
    print_rows(("run", "what"), [(ID, "x" * 500), ("short", "y")])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", ID, "short"]


@pytest.mark.parametrize("words", [("settings", "--profile"), ("run", "--profile"), ("holdings", "list", "--profile"), ("book", "list", "--profile")])
def test_a_mistyped_profile_is_answered_once_with_the_nearest_name(place, words):
    said = carnet(*words, "cripto", code=1)
    assert said.strip() == "Error: the profile 'cripto' is unknown; did you mean 'crypto'?"
    assert "known are" in carnet(*words, "zzzzzz", code=1), "where no name is near, all are told"


def test_run_opens_the_report_when_it_is_made_also_when_the_plan_waits(place, monkeypatch):
    page, opened = place / "index.html", []
    page.write_text("report")
    job = SimpleNamespace(folder=place, record=SimpleNamespace(id="r"))
    monkeypatch.setattr("trading.services.launching.begin_run", lambda *words: job)
    monkeypatch.setattr("trading.services.security_admin.know_secrets", lambda data: "")
    monkeypatch.setattr("trading.cli.run.record_here", lambda *words: None)
    monkeypatch.setattr("trading.core.files.lock_folder", lambda data: nullcontext())
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    monkeypatch.setattr("trading.cli.run.run_stages", lambda job, settings: None)
    carnet("run")
    assert opened == [], "only when it is asked for"
    carnet("run", "--open")
    monkeypatch.setattr("trading.cli.run.run_stages", lambda job, settings: click.get_current_context().exit(4))
    carnet("run", "--open", code=4)
    assert opened == [page.as_uri()] * 2
    page.unlink()
    carnet("run", "--open", code=4)
    assert len(opened) == 2, "no report, nothing to open"


def test_a_torn_record_of_a_run_is_named_and_no_other_run_takes_its_place(place):
    from datetime import UTC, datetime

    from trading.pipeline.run_record import create_run

    for day in (27, 28):
        moment = datetime(2022, 12, day, tzinfo=UTC)
        create_run(place / "reports", "sample", moment, "paper", "paper-sample", {}, "", moment)
    first, last = sorted((place / "reports").glob("*/run.json"))
    last.write_bytes(last.read_bytes()[:300])
    damaged = f"the record of the run {last.parent.name} is damaged"
    said = carnet("runs")
    assert first.parent.name in said and damaged in said
    for words in (("open", "--print"), ("run", "--resume", "last"), ("open", last.parent.name, "--print")):
        said = carnet(*words, code=1)
        assert damaged in said and "from a backup" in said and "Traceback" not in said, said
    first.write_bytes(b"{")
    said = carnet("runs", code=1)
    assert "no runs yet" not in said and said.count("is damaged") == 2


def test_a_run_whose_process_was_killed_is_not_running(place, monkeypatch):
    import os
    from datetime import UTC, datetime

    from trading.core.files import lock_folder
    from trading.core.settings import load_settings
    from trading.pipeline.run_record import create_run
    from trading.services.query_cache import MEMORY

    moment = datetime(2022, 12, 27, tzinfo=UTC)
    run = create_run(place / "reports", "sample", moment, "paper", "paper-sample", {}, "", moment)
    run.mark("20_forecast", "running")
    monkeypatch.setenv("CARNET_RUN__DATA", "data")

    def line(one=run):
        MEMORY.forget()  # each command is a process of its own
        return next(text for text in carnet("runs").splitlines() if text.startswith(one.record.id))

    with lock_folder(place / "data"):
        run.mark("20_forecast", "running")
        assert " running " in line()
    said = line()  # the lock of the dead is free
    assert "failed in 20_forecast" in said and f"carnet run --resume {run.record.id}" in said and "running" not in said
    with lock_folder(place / "data"):  # whoever works there now is another
        os.utime(place / "data" / "run.pid", ns=(later := (run.folder / "run.json").stat().st_mtime_ns + 1, later))
        assert line() == said
    given = load_settings(overrides={"run.data": place / "elsewhere"}).model_dump(mode="json")
    elsewhere = create_run(place / "reports", "sample", moment, "paper", "paper-sample", given, "", moment)
    with lock_folder(place / "elsewhere"):  # a run that was given a folder of its own is at work there, and goes on there or not at all
        elsewhere.mark("20_forecast", "running")
        assert " running " in line(elsewhere)
        assert "at work on" in carnet("run", "--resume", elsewhere.record.id, code=1)
    assert "failed in 20_forecast" in line(elsewhere)


def test_a_folder_that_is_gone_is_a_sentence_and_a_closed_pipe_is_no_error(tmp_path):
    import os
    import subprocess
    import sys
    from pathlib import Path

    words = "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); from trading.cli.main import main; main(['kill', 'x'])"
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    gone = subprocess.run([sys.executable, "-c", words], cwd=tmp_path, env=environ | {"CARNET_RUN__DATA": "data"}, capture_output=True, text=True)
    assert gone.returncode == 1 and gone.stderr.startswith("Error: the folder you work in is gone") and "Traceback" not in gone.stderr
    read, write = os.pipe()
    os.close(read)  # as head does when it has enough
    code = "from trading.cli.main import main; main(['settings'], prog_name='carnet')"
    with os.fdopen(write, "w") as closed:
        piped = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert "Error" not in piped.stderr and not (tmp_path / "carnet.log").exists(), piped.stderr


def test_the_shell_completes_commands(monkeypatch):
    from click.shell_completion import ShellComplete

    found = ShellComplete(main, {}, "carnet", "_CARNET_COMPLETE").get_completions([], "strat")
    assert [c.value for c in found] == ["strategies"]
    assert "--profile" in [c.value for c in ShellComplete(main, {}, "carnet", "_CARNET_COMPLETE").get_completions(["run"], "--prof")]


def test_a_file_with_functions_only_is_asked_which(place):
    (place / "mine.py").write_text("def a(bars, n=5): return bars\n\n\ndef b(bars, n=5): return bars\n")
    said = carnet("strategies", "promote", "mine.py", "--grid", "n=1,2", code=1)
    assert "may be the strategy: a, b; name one, for example mine.py:a" in said
    (place / "mine.py").write_text("N = 1\n")
    assert "mine.py has no strategy: write a class" in carnet("strategies", "promote", "mine.py", "--grid", "n=1,2", code=1)
