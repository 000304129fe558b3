"What a program reads: every query with --json prints one JSON value and nothing else, in a new folder, in one with a run, and when it is refused."

import json
import os
import subprocess

import click
import pytest
from click.testing import CliRunner
from typed import CARNET

from trading.api.response_cache import to_json
from trading.cli.main import main
from trading.pipeline.run_record import list_runs
from trading.services.questions import READS, find_question, question_words
from trading.services.workspace import workspace_of
from trading.testing.sample_runs import make_sample_runs

pytestmark = pytest.mark.xdist_group("questions")  # the modules of the commands are loaded once

GIVEN = {"compare": "last last", "size": "KO --fraction 0.1", "strategies show": "x", "verify-backup": "nothing.bin",
         "optimise": "--prices none.csv", "ask": "runs"}
ACTS = ("scan", "reconcile")  # both fetch


def _queries(group=main, words=()):
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        if isinstance(found, click.Group):
            yield from _queries(found, (*words, name))
        elif "--json" in [o for p in found.params for o in p.opts]:
            yield " ".join((*words, name))


def _ask(words: str, **more) -> tuple[int, object]:
    "Ask with --json; what is printed is one JSON value, and a refusal in the form of the API."
    done = CliRunner(env=more).invoke(main, [*words.split(), "--json"])
    try:
        answer = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{words}: {word} is no JSON"))
    except ValueError as error:
        pytest.fail(f"{words}: {error}: {done.stdout[:300]!r} {done.stderr[-300:]!r}")
    if done.exit_code not in (0, 4) and words.split()[0] != "doctor":
        assert set(answer) == {"title", "status", "detail"} and answer["status"] in (404, 409, 422, 502, 503), (words, answer)
        assert " ".join(answer["detail"].split()[:4]) in " ".join(done.stderr.replace("\u00a0", " ").split()), (words, done.stderr)
    return done.exit_code, answer


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_sample_runs(tmp_path_factory.mktemp("answers"))


def test_the_commands_that_ask_all_have_it():
    asking = ("alive", "ask", "audit show", "audit verify", "compare", "do", "feedback replay", "review", "secrets scan", "strategies show",
              "validate", "verify-backup")
    assert {*asking, *ACTS} <= set(_queries())


def test_in_a_new_folder_every_query_prints_one_value(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for query in _queries():
        if query not in ACTS:
            _ask(f"{query} {GIVEN.get(query, '')}")
    assert _ask("runs") == (0, []) and _ask("runs --no-such-option")[1]["detail"].startswith("No such option")
    code, refused = _ask("settings --profile cripto")
    assert code == 1 and refused == {"title": "Not understood", "status": 422, "detail": "the profile 'cripto' is unknown; did you mean 'crypto'?"}


def test_in_a_folder_with_runs_every_query_prints_one_value(home, monkeypatch):
    monkeypatch.setenv("CARNET_RUN__DATA", str(home.run.data.resolve()))
    monkeypatch.setenv("CARNET_RUN__REPORTS", str(home.run.reports.resolve()))
    monkeypatch.chdir(home.run.data.parent)
    for query in _queries():
        if query not in (*ACTS, "doctor"):
            _ask(f"{query} {GIVEN.get(query, '')}")


def test_a_question_has_the_same_answer_in_the_terminal_and_in_the_api(home, monkeypatch):
    place = workspace_of(home)
    monkeypatch.setenv("CARNET_RUN__DATA", str(home.run.data.resolve()))
    monkeypatch.setenv("CARNET_RUN__REPORTS", str(home.run.reports.resolve()))
    monkeypatch.chdir(home.run.data.parent)
    newest = list_runs(place.reports)[0].id
    every = (("/portfolio/holdings", ""), ("/runs", "size=1"), (f"/runs/{newest}", ""), ("/taxonomy", "symbols=KO,JNJ"), ("/system/status", ""))
    for address, words in every:
        read, named = find_question(address)
        asked = dict(w.split("=") for w in words.split())
        if "size" in asked:
            asked["size"] = int(asked["size"])
        if "symbols" in asked:
            asked["symbols"] = tuple(asked["symbols"].split(","))
        assert _ask(f"ask {address} {words}") == (0, json.loads(to_json(read.view(place, **named, **asked)))), address
    listed = _ask("ask")[1]
    assert [(q["address"], q["takes"].split()) for q in listed] == [(r.path, list(question_words(r))) for reads in READS.values() for r in reads]


def test_a_deed_that_was_done_in_part_is_one_value_too(monkeypatch):
    from types import SimpleNamespace

    half = SimpleNamespace(details={"done": ["a"]}, text="a is done, b is not", complete=False)
    monkeypatch.setattr("trading.services.commands.perform", lambda *words: half)
    done = CliRunner().invoke(main, ["do", "reconcile", "--json"])
    assert done.exit_code == 1 and json.loads(done.stdout) == {"done": ["a"], "text": half.text, "complete": False}


def test_a_pipe_that_knows_no_typographic_signs_gets_sentence_and_data(tmp_path):
    plain = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")} | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    (tmp_path / "settings.ini").write_text("[groups]\nDrinks \u2212 soft = KO\n", encoding="utf-8")
    said = subprocess.run([*CARNET, "settings"], cwd=tmp_path, capture_output=True, env=plain, timeout=120)
    assert said.returncode == 0 and b"run.profile" in said.stdout and b"..." in said.stdout, said.stderr[-500:]
    told = subprocess.run([*CARNET, "settings", "--json"], cwd=tmp_path, capture_output=True, env=plain, timeout=120, check=True)
    rows = json.loads(told.stdout.decode("ascii"))
    assert any("\u2026" in row["meaning"] or "\u2026" in row["value"] for row in rows), "JSON keeps every sign"
