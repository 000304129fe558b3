"The front door: what `import trading` offers, what it costs, and what help() tells about it."

import ast
import doctest
import functools
import importlib
import inspect
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import trading

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "trading").rglob("__init__.py"))
EXPORT = runpy.run_path(str(ROOT / "scripts" / "export.py"))


def modules() -> list[str]:
    "Return the full names of the exported modules."
    return sorted(".".join(p.relative_to(ROOT).with_suffix("").parts) for p in (ROOT / "trading").rglob("*.py") if not p.name.startswith("_"))


def run(*arguments: str) -> str:
    "Return what a Python of its own prints."
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def test_nothing_heavy_is_imported_before_something_is_used():
    heavy = {"numpy", "pandas", "prefect", "pydantic", "rich", "sklearn", "vectorbt", "riskfolio", "matplotlib", "click", "ccxt", "numba"}
    assert run("-c", f"import sys, trading; dir(trading); print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_every_folder_can_be_imported_without_anything_heavy():
    heavy = {"numpy", "pandas", "prefect", "pydantic", "sklearn", "vectorbt"}
    assert run("-c", f"import sys, {', '.join(PACKAGES)}; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_the_front_offers_what_a_newcomer_needs():
    wanted = {
        "load_settings", "sample_bars", "ingest", "make_features", "HorizonForecaster", "backtest", "sweep", "walk_forward", "deflated_sharpe",
        "find_leaks", "MeanRisk", "RiskParity", "policy", "policy_history", "make_plan", "check_plan", "Ledger", "PaperVenue", "CcxtVenue",
        "read_bars_file", "sharpe", "max_drawdown", "run_daily",
    }
    assert wanted <= set(trading.__all__) and 25 <= len(trading.__all__) <= 42
    assert set(trading.__all__) | {"risk", "backtest", "core"} <= set(dir(trading))
    assert all(callable(getattr(trading, name)) for name in trading.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_listed_name_is_there_and_the_stub_lists_the_same(package):
    module = importlib.import_module(package)
    assert module.__doc__ and module.__all__ and set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    told = {a.asname for n in stub.body if isinstance(n, ast.ImportFrom) and n.module for a in n.names}
    assert told == set(module.__all__)


def test_a_name_of_a_folder_is_a_module_when_there_is_one_whatever_was_imported_before():
    lines = "import trading\n{}\nfrom trading.data import ingest\nprint(type(ingest).__name__, type(trading.ingest).__name__)"
    for before in ("", "import trading.data.ingest", "trading.ingest", "trading.data.ingest", "from trading.data.ingest import ingest"):
        assert run("-c", lines.format(before)) == "module function", before


def test_the_folder_backtest_can_be_called_like_its_function():
    from trading import backtest
    from trading.backtest.engine import backtest as function

    bars = trading.sample_bars("stocks").iloc[-60:]
    weights = bars["close"] * 0 + 1 / 20
    assert backtest(bars, weights=weights).equity.equals(function(bars, weights=weights).equity)
    assert inspect.signature(backtest) == inspect.signature(function)


def test_the_version_is_that_of_the_distribution():
    written = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert trading.__version__ == written and "__version__ =" not in Path(trading.__file__).read_text(encoding="utf-8")


def test_the_package_can_be_run_and_carries_its_types():
    assert run("-m", "trading", "--version") == f"carnet, {trading.__version__}".replace(",", "")
    assert (ROOT / "trading" / "py.typed").exists()


def test_exporting_again_changes_no_docstring():
    texts = {name: (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8") for name in modules()}
    models = EXPORT["pydantic_models"]([ast.parse(t) for t in texts.values()])
    assert not [name for name, text in texts.items() if EXPORT["with_sections"](text, models) != text]


def test_help_shows_each_parameter_with_its_comment():
    said = inspect.getdoc(trading.backtest.engine.backtest)
    assert said.startswith("Trade signals, target weights or an event-driven strategy through the past, on the next bar, with all costs.\n\n"
                           "Parameters\n----------\nbars :")
    assert "fees : float, default 0.001\n    fraction of the traded value, 0.001 is ten basis points\n" in said
    assert said.split("\n\nExamples\n")[0].endswith("Returns\n-------\nBacktest")


def test_a_docstring_gets_what_the_comments_say_and_nothing_else():
    text = r"""
class Book:
    "A book."

    def __init__(self, path: str, pages: int = 10):  # of A4
        pass

    def read(
        self,
        line: float | None = None,  # say "when", or \ # so
        *others: int,  # more
    ):  # text
        "Read it."
        yield 1

def shut(book) -> None:  # the one to shut
    "Shut it."

@main.command()
def quiet(
    name: str,  # unseen
):
    "Be quiet."
"""
    made = EXPORT["with_sections"](text, set())
    assert made.count("\n") == text.count("\n") and EXPORT["with_sections"](made, set()) == made
    assert all(line in made.splitlines() or '"' in line for line in text.splitlines())
    docs = {n.name: ast.get_docstring(n) for n in ast.walk(ast.parse(made)) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    assert docs == {
        "Book": "A book.\n\nParameters\n----------\npath : str\npages : int, default 10\n    of A4",
        "__init__": None,
        "read": "Read it.\n\nParameters\n----------\nline : float | None, default None\n    say \"when\", or \\ # so\n*others : int\n    more"
                "\n\nYields\n------\ntext",
        "shut": "Shut it.\n\nParameters\n----------\nbook\n    the one to shut",
        "quiet": "Be quiet.",
    }


def functions(module) -> list[tuple[str, object]]:
    "Return the public functions and methods that a module defines, but for those that something was made of."
    found = [(n, o) for n, o in vars(module).items() if getattr(o, "__module__", "") == module.__name__ and not n.startswith("_")]
    found += [(f"{n}.{m}", f) for n, o in found if inspect.isclass(o) for m, f in vars(o).items() if not m.startswith("_")]
    return [(n, f) for n, f in found if inspect.isfunction(f) and not isinstance(f, functools.partial)]


def test_every_public_function_with_comments_beside_its_parameters_tells_them():
    from fastcore.docments import docments  # reads the source by itself: an independent witness

    looked, silent = 0, []
    for name in modules():
        for label, function in functions(importlib.import_module(name)):
            if getattr(function, "__wrapped__", None) or not function.__doc__:
                continue
            for parameter, text in docments(function).items():
                if text and parameter not in ("return", "self") and "noqa" not in text:
                    looked += 1
                    if " ".join(text.split()) not in " ".join(inspect.getdoc(function).split()):
                        silent.append(f"{name}.{label}: {parameter}: {text}")
    assert looked > 1500 and not silent, "\n".join(silent)


def test_what_is_made_into_a_help_text_or_a_schema_keeps_its_docstring():
    from trading.cli.main import main
    from trading.core.settings import Settings

    assert "Parameters" not in (Settings.__doc__ or "") and not [n for n in main.list_commands() if "---" in (main.get_command(None, n).help or "")]


def test_the_daily_run_can_be_done_from_python(tmp_path):
    from trading.testing.sample_runs import SMALL

    places = {"run.data": tmp_path / "data", "run.reports": tmp_path / "reports"}
    done = trading.run_daily(trading.load_settings(overrides=SMALL | places, environ={}), "2022-12-16")
    assert done.record.status == "done" and (done.folder / "index.html").exists()
    assert [r.id for r in trading.list_runs(tmp_path / "reports")] == [done.record.id]
    before = {s.name: s.seconds for s in done.record.stages}
    again = trading.run_daily(run=done)
    assert again.record.id == done.record.id and {s.name: s.seconds for s in again.record.stages} == before, "what is done is left alone"


def fences(path: Path) -> list[tuple[str, str]]:
    "Return the fenced blocks of a page or of the texts of a notebook: language and content."
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "nbs" / "guides").glob("*.ipynb")), *sorted((ROOT / "nbs" / "research").glob("*.ipynb"))]
PYTHON = [(path, block) for path in PAGES for language, block in fences(path) if language == "python"]


@pytest.mark.parametrize("path, block", PYTHON, ids=[f"{path.stem}-{n}" for n, (path, _) in enumerate(PYTHON)])
def test_every_block_of_python_on_a_page_runs_in_an_empty_folder(path, block, tmp_path):
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    if path.name == "README.md":
        assert f"> `{done.stdout.strip()}`" in path.read_text(encoding="utf-8"), "the page shows what is printed"


def test_a_block_without_a_language_is_for_the_shell():
    shell = re.compile(r"^(make|pip|py|cd|mkdir|carnet|git|docker|export|\.venv\\Scripts\\carnet) ?", re.MULTILINE)
    plain = [(path, block) for path in PAGES for language, block in fences(path) if language == ""]
    assert PYTHON and plain and not [block for path, block in plain if not shell.match(block)]


def test_contributing_names_modules_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\[`((?:api|report|backtest|venues|core|pipeline)/[\w/]+)`\]", text))
    assert len(named) >= 8 and not [name for name in named if not (ROOT / "trading" / f"{name}.py").exists()]


EXAMPLES = [name for name in modules() if ">>> " in (ROOT / f"{name.replace('.', '/')}.py").read_text("utf-8")]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_of_a_docstring_is_executed(name):
    tests = [t for t in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)) if t.examples]
    assert tests, f"{name} shows an example that no docstring of it holds"
    for test in tests:
        said = []
        assert not doctest.DocTestRunner(verbose=False).run(test, out=said.append).failed, "".join(said)


def test_the_front_door_has_examples():
    assert sum(">>> " in (getattr(trading, name).__doc__ or "") for name in trading.__all__) >= 10
