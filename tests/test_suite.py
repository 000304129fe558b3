"What a newcomer may expect of the suite itself: nothing depends on the speed of the machine, or on files that lie elsewhere."

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLOCKS = {"perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time", "process_time_ns", "timeit.timeit", "timeit.repeat"}
WAITING = {"tests/waiting.py", "tests/soak/test_store_s3.py"}  # bounds of waiting, so that a mistake comes to an end


def sources():
    "Yield a name and the code of every test and of every story, without what is exported."
    for path in sorted((ROOT / "tests").rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        cells = ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        code = "\n".join(c for c in cells if not re.search(r"^#\|\s*(exporti?|default_exp)\b", c, re.MULTILINE))
        yield path.relative_to(ROOT).as_posix(), re.sub(r"^[%!].*$", "", code, flags=re.MULTILINE)


def durations_asserted(code: str) -> list[str]:
    "Return the assertions that look at a clock of the machine, directly or by a name that was computed from one."
    tree = ast.parse(code)
    reads_clock = lambda node: any(  # noqa: E731
        isinstance(n, ast.Call) and {ast.unparse(n.func), ast.unparse(n.func).rpartition(".")[2]} & CLOCKS for n in ast.walk(node))
    timed: set[str] = set()
    while True:  # a name computed from a timed name is timed
        found = {
            name.id
            for node in ast.walk(tree) if isinstance(node, ast.Assign)
            if reads_clock(node.value) or any(isinstance(n, ast.Name) and n.id in timed for n in ast.walk(node.value))
            for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)
        }
        if found <= timed:
            break
        timed |= found
    compared = [node for a in ast.walk(tree) if isinstance(a, ast.Assert) for node in ast.walk(a.test) if isinstance(node, ast.Compare)]
    ordered = [c for c in compared if any(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in c.ops)]
    return [ast.unparse(c) for c in ordered if reads_clock(c) or any(isinstance(n, ast.Name) and n.id in timed for n in ast.walk(c))]


def test_the_finder_finds_what_it_should():
    assert durations_asserted("import time\nt = time.perf_counter()\ntook = time.perf_counter() - t\nassert took < 1 and True") == ["took < 1"]
    assert durations_asserted("assert time.monotonic() - begun < 5") == ["time.monotonic() - begun < 5"]
    assert durations_asserted("each = perf_counter() / 9\nspeed = 1 / each\nassert speed > 5") == ["speed > 5"]
    assert durations_asserted("took = perf_counter()\nprint(took)\nassert len(found) < 5") == []


def test_nothing_asserts_how_long_something_takes():
    found = {name: asserted for name, code in sources() if name not in WAITING and (asserted := durations_asserted(code))}
    assert found == {}, "machines differ: count calls, use trading.testing.virtual_clock, or measure it in bench/"


def test_nothing_reads_files_outside_of_the_repository():
    outside = re.compile(r"parents\[2\] / [\"']shared|\.\./shared|/work/|/home/\w+/")
    found = {name for name, code in sources() if outside.search(code) and name not in ("tests/test_suite.py", "tests/test_layers.py")}
    assert found == set()


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("test_*.py")), ids=lambda p: p.stem)
def test_every_skip_says_why(path):
    for call in (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)):
        name = ast.unparse(call.func)
        if name.endswith(("mark.skipif", "importorskip")):
            assert any(k.arg == "reason" for k in call.keywords), f"{path.name}, line {call.lineno}: {ast.unparse(call)}"
        if name in ("pytest.skip", "pytest.mark.skip"):
            assert call.args or call.keywords, f"{path.name}, line {call.lineno}"


def test_uv_is_told_what_pip_is_told(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from install import pip_settings, uv_command

    listing = "\n".join((
        "global.index-url='https://one.example/simple'", "global.extra-index-url='https://two.example/simple file:///three'",
        "global.cert='/etc/roots.pem'", "install.find-links='/wheels'", ":env:.index-url='https://mine.example/simple'"))
    options, environment = uv_command(pip_settings(listing))
    pairs = list(zip(options[::2], options[1::2], strict=True))
    assert pairs == [("--default-index", "https://mine.example/simple"), ("--index", "https://two.example/simple"), ("--index", "file:///three"),
                     ("--find-links", "/wheels"), ("--index-strategy", "unsafe-best-match")]
    assert environment["SSL_CERT_FILE"] == "/etc/roots.pem" and uv_command(pip_settings(""))[0] == []
    assert uv_command(pip_settings("global.no-index='true'"))[0] == ["--no-index"]


def test_where_uv_fails_pip_installs(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import install

    asked = []

    def run(command, **more):
        asked.append(command)
        return subprocess.CompletedProcess(command, 2 if "--python" in command else 0, "", "")

    monkeypatch.setattr(install.shutil, "which", lambda name: str(tmp_path))
    monkeypatch.setattr(install.subprocess, "run", run)
    assert install.main(["-r", "x.txt"]) == 0
    assert [c[0] for c in asked] == [sys.executable, str(tmp_path), sys.executable] and asked[-1][-2:] == ["-r", "x.txt"]


def test_cleaning_changes_no_notebook():
    pytest.importorskip("nbdev", reason="nbdev comes with the extra 'dev'")
    from fastcore.nbio import nb2str
    from nbdev.clean import clean_nb

    changed = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        notebook = json.loads(text)
        clean_nb(notebook, allowed_cell_metadata_keys=["tags"])
        if nb2str(notebook).rstrip("\n") != text.rstrip("\n"):
            changed.append(path.relative_to(ROOT).as_posix())
    assert changed == [], "run scripts/export.py, which cleans them, and so does pre-commit"
