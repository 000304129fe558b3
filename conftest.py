"""Notebooks are tests: pytest collects every notebook of nbs/ as one item and executes it in process.

A cell marked `#| export` is not executed; its names are taken from the exported module instead. So the story of the notebook tests the
very code that is installed, its branches are counted, and an export that was forgotten fails.
"""

import ast
import contextlib
import decimal
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
os.environ["CARNET_RUN__DATA"] = tempfile.mkdtemp(prefix="carnet-tests-")  # tests leave nothing in the working folder
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
NOT_STORIES = {"runs"}  # parameterised notebooks: tests/test_daily.py executes the whole chain


def pytest_configure(config) -> None:
    "Keep one parent of kernels ready for the workers of a whole suite, as a service does; what a single test needs is started as ever."
    if not getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        return
    from trading.services.launching import runs_ready

    home = tempfile.mkdtemp(prefix="carnet-ready-")  # apart from what a service of this user keeps
    os.environ["XDG_RUNTIME_DIR"] = home
    ready = runs_ready(Path(home))
    ready.__enter__()
    config.add_cleanup(lambda: (ready.__exit__(None, None, None), shutil.rmtree(home, ignore_errors=True)))


def pytest_xdist_auto_num_workers() -> int:
    "Start one worker more than there are cores: many tests wait for a server, a browser or a process."
    return (os.cpu_count() or 1) + 1


def pytest_collect_file(file_path: Path, parent):
    if file_path.suffix == ".ipynb" and not {".ipynb_checkpoints", *NOT_STORIES} & set(file_path.relative_to(ROOT).parts):
        return NotebookFile.from_parent(parent, path=file_path)
    return None


class NotebookFile(pytest.File):
    def collect(self):
        yield NotebookItem.from_parent(self, name=self.path.stem)


class CellFailed(Exception):
    "A cell of a notebook raised."


class NotebookItem(pytest.Item):
    def runtest(self):
        from execnb.shell import CaptureShell

        from trading.core.redaction import KNOWN

        told = list(KNOWN._secrets)  # a password of another test must not mask the words of this story
        KNOWN.forget()
        decimal.setcontext(decimal.DefaultContext.copy())  # whatever the notebook before has left
        cells = json.loads(self.path.read_text(encoding="utf-8"))["cells"]
        begun, environment, main = time.perf_counter(), dict(os.environ), sys.modules["__main__"]
        with contextlib.chdir(self.path.parent):
            shell = CaptureShell(self.path)
            module = None
            try:
                for number, cell in enumerate(cells):
                    if cell["cell_type"] == "code":
                        module = self._run(shell, number, "".join(cell["source"]), module)
            finally:
                _tidy(shell, environment)
                KNOWN.forget()
                KNOWN.add(*told)
                sys.modules["__main__"] = main  # the shell puts its own there, which no child process can be started from
        self.user_properties.append(("notebook", (self.path.relative_to(ROOT).as_posix(), time.perf_counter() - begun)))

    def _run(self, shell, number: int, source: str, module):
        "Execute one cell, or take its names from the exported module."
        if found := re.search(r"^#\|\s*default_exp\s+(\S+)", source, re.MULTILINE):
            return importlib.import_module(f"trading.{found[1]}")
        if re.search(r"^#\|\s*eval:\s*false", source, re.MULTILINE):
            return module
        if re.search(r"^#\|\s*exporti?\s*$", source, re.MULTILINE):
            shell.user_ns.update({name: getattr(module, name) for name in _names(source) if hasattr(module, name)})
            return module
        shell.run(source)
        if shell.exc:
            raise CellFailed(f"{self.path.name}, cell {number}:\n{source}\n\n{type(shell.exc).__name__}: {shell.exc}") from shell.exc
        return module

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, CellFailed):
            import traceback

            return f"{excinfo.value}\n" + "".join(traceback.format_exception(excinfo.value.__cause__)[-3:])
        return super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, 0, self.path.relative_to(ROOT).as_posix()


def _names(source: str) -> set[str]:
    "Return the names that a cell binds at its top level."
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(a.asname or a.name).split(".")[0] for a in node.names}
        else:
            found |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return found


def _tidy(shell, environment: dict[str, str]) -> None:
    "Leave nothing behind for the next notebook in this process."
    shell.user_ns.clear()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    os.environ.clear()
    os.environ.update(environment)


def pytest_terminal_summary(terminalreporter):
    "Say how long each notebook took, the slowest first."
    timed = {}
    for report in terminalreporter.stats.get("passed", []):
        timed.update(value for name, value in getattr(report, "user_properties", []) if name == "notebook")
    if timed:
        terminalreporter.section("seconds per notebook")
        for name, seconds in sorted(timed.items(), key=lambda x: -x[1]):
            terminalreporter.write_line(f"{seconds:7.1f}  {name}")
