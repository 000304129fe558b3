"""Mutation testing: change one small thing in a module, run the tests that reach it, and list the changes that no test notices.

    python scripts/mutants.py execution.pre_trade accounting.ledger --n 60 --seed 7     # or whole folders: execution accounting
    python scripts/mutants.py execution.pre_trade --again                               # only what survived the last time

Works on a copy of the tree. Third-party packages are imported once; each mutant is tried in a fork that imports our own code afresh. A first run
notes which test reaches which line. What survived is kept in bench/mutants/MODULE.txt. A mutant that makes the tests hang counts as killed.
"""

import argparse
import ast
import contextlib
import difflib
import importlib
import inspect
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["accounting", "execution", "risk", "portfolio", "backtest", "data", "security", "services"]
COMPARE = {"Lt": "<= >", "LtE": "< >=", "Gt": ">= <", "GtE": "> <=", "Eq": "!=", "NotEq": "=="}
COMPARE |= {"Is": "is_not", "IsNot": "is", "In": "not_in", "NotIn": "in"}
OPERATOR = {"Add": "-", "Sub": "+", "Mult": "/", "Div": "*", "FloorDiv": "/", "Mod": "*", "Pow": "*", "BitAnd": "|", "BitOr": "&"}
NAMES = [("min", "max"), ("any", "all"), ("ROUND_FLOOR", "ROUND_CEILING"), ("ROUND_DOWN", "ROUND_UP"), ("ROUND_HALF_EVEN", "ROUND_DOWN")]
NAMES = dict(NAMES) | {b: a for a, b in NAMES}
NUMBER = re.compile(r"-?\d+\.?\d*(e-?\d+)?", re.IGNORECASE)
SLOW_FILES = ["test_dashboard", "test_daily", "test_weekly", "test_wheel", "test_deploy", "test_web_attacks", "test_forecast_deep", "test_cycle"]


def changes(node: ast.AST) -> list[tuple[str, str]]:  # kind and new text
    "Return what a node may be replaced by."
    text, out = ast.unparse, []
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            out = [("comparison", f"({text(left)} {new.replace('_', ' ')} {text(right)})") for new in COMPARE[type(op).__name__].split()]
        case ast.BoolOp(op=op, values=values):
            word, other = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
            out = [("and or", "(" + f" {other} ".join(f"({text(v)})" for v in values) + ")")]
            out += [("operand", "(" + f" {word} ".join(f"({text(v)})" for v in values if v is not x) + ")") for x in values]
        case ast.BinOp(left=left, op=op, right=right) if type(op).__name__ in OPERATOR:
            out = [("arithmetic", f"(({text(left)}) {OPERATOR[type(op).__name__]} ({text(right)}))"), ("operand", f"({text(left)})")]
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            out = [("sign", f"({text(operand)})")]
        case ast.Constant(value=bool() as value):
            out = [("constant", str(not value))]
        case ast.Constant(value=int() | float() as value):
            out = [("constant", "1" if value == 0 else repr(value + 1)), ("constant", repr(value * 2) if value else "-1")]
        case ast.Constant(value=str() as value) if NUMBER.fullmatch(value):
            out = [("constant", repr(str(float(value) * 2 or 1)))]
        case ast.Name(id=name) if name in NAMES:
            out = [("name", NAMES[name])]
        case ast.IfExp(test=test, body=body, orelse=other):
            out = [("branch", f"({text(other)} if {text(test)} else {text(body)})")]
        case ast.Call(func=ast.Name(id="abs"), args=[only]):
            out = [("argument", f"({text(only)})")]
        case ast.Call(func=func, args=args, keywords=keywords) if not any(isinstance(a, ast.Starred) for a in args):
            called, given = text(func), [text(a) for a in args]
            named = [f"{k.arg}={text(k.value)}" if k.arg else f"**{text(k.value)}" for k in keywords]
            out = [("argument", f"{called}({', '.join(given + [m for m in named if m is not name])})") for name in named]
            out += [("argument", f"{called}({', '.join([given[1], given[0], *given[2:], *named])})")] if len(given) > 1 else []
            out += [("argument", f"{called}({', '.join(given[:-1] + named)})")] if len(given) > 1 else []
        case ast.AugAssign(target=target, op=op, value=value) if type(op).__name__ in OPERATOR:
            out = [("arithmetic", f"{text(target)} {OPERATOR[type(op).__name__]}= {text(value)}"), ("dropped", "pass")]
        case ast.Return(value=value) if value is not None and text(value) != "None":
            out = [("returned", "return None"), ("dropped", "pass")]
        case ast.Expr(value=value) if not isinstance(value, ast.Constant):
            out = [("dropped", "pass")]
        case ast.Raise() | ast.Continue() | ast.Break() | ast.Delete() | ast.Return() | ast.Assign(targets=[ast.Subscript() | ast.Attribute()]):
            out = [("dropped", "pass")]
    return out


def walk(node: ast.AST, stmt: ast.stmt | None = None, parent: ast.AST | None = None):
    "Yield (node, its statement, its role) for what may change: annotations, decorators, imports and texts stay."
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    stmt = node if isinstance(node, ast.stmt) else stmt
    yield node, stmt, isinstance(node, ast.expr) and (node is getattr(parent, "test", None) or node in getattr(parent, "ifs", ()))
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in ("annotation", "returns", "decorator_list", "exc"):
                yield from walk(child, stmt, node)


def mutants(source: str, n: int, seed: str) -> list[tuple[range, str, str]]:  # lines of the statement, changed source, diff
    "Draw n small changes of a module, each kind in its turn; 0: all of them."
    raw, lines, found = source.encode(), source.encode().splitlines(keepends=True), {}
    at = lambda line, column: sum(map(len, lines[: line - 1])) + column  # noqa: E731
    for node, stmt, condition in walk(ast.parse(source)):
        if stmt is None or not hasattr(node, "lineno") or "__all__" in lines[stmt.lineno - 1].decode():
            continue
        head = stmt.body[0].lineno - 1 if getattr(stmt, "body", None) else stmt.end_lineno
        edits = changes(node) + ([("condition", "False"), ("condition", "True")] if condition and not isinstance(node, ast.Constant) else [])
        for kind, new in edits:
            place = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
            found.setdefault(kind, {})[(*place, new)] = range(stmt.lineno, max(head, stmt.lineno) + 1)
    dice = random.Random(seed)
    piles = [dice.sample(sorted(found[kind].items()), len(found[kind])) for kind in sorted(found)]
    out, known = [], {ast.dump(ast.parse(source))}
    for (a, b, new), where in (row[k] for k in range(max(map(len, piles))) for row in piles if k < len(row)):
        with contextlib.suppress(SyntaxError):
            changed = (raw[:a] + new.encode() + raw[b:]).decode()
            compile(changed, "mutant", "exec")
            if (tree := ast.dump(ast.parse(changed))) not in known:
                known.add(tree)
                out.append((where, changed, "\n".join(list(difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0))[2:])))
        if n and len(out) == n:
            break
    return out


class Reach:
    "A pytest plugin that notes which test runs which lines of a file, and how long each takes."

    def __init__(self, file: Path):
        self.file, self.now, self.lines, self.seconds, self.failed = str(file), "", {}, Counter(), set()

    def trace(self, frame, event, arg):
        if frame.f_code.co_filename == self.file:
            body = not frame.f_code.co_flags & inspect.CO_OPTIMIZED  # of a module or a class: every test runs it
            self.lines.setdefault(frame.f_lineno, set()).add("" if body else self.now)
            return self.trace
        return None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.now = item.nodeid
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        before = self.now
        self.now = before if fixturedef.scope == "function" else before.split("::")[0]  # shared fixtures: every test of the file
        try:
            return (yield)
        finally:
            self.now = before

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration
        self.failed |= {report.nodeid} if report.failed else set()


def forked(job, seconds: float, log: Path):
    "Run a job in a fork of its own session; return its result, or None when it hung or died."
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        with contextlib.suppress(BaseException), os.fdopen(write, "wb") as pipe:
            pickle.dump(job(), pipe)
        os._exit(0)
    os.close(write)
    alarm = threading.Timer(seconds, lambda: os.killpg(pid, signal.SIGKILL))
    alarm.start()
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    alarm.cancel()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # and whatever the tests have left running
    os.waitpid(pid, 0)
    return pickle.loads(data) if data else None  # noqa: S301 - written by our own fork


def suite(tree: Path, tests: list[str], *plugins) -> int:
    "Run tests in the copied tree, file by file until one fails; called in a fork."
    os.chdir(tree)
    tempfile.tempdir, sys.path[:0] = None, [str(tree), str(tree / "tests")]
    os.environ |= {"PYTHONPATH": str(tree), "TMPDIR": str(tree.parent / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    options = ["-q", "-p", "no:cacheprovider", *(["-x"] if not plugins else [])]
    files = {t.split("::")[0]: [x for x in tests if x.split("::")[0] == t.split("::")[0]] for t in tests}
    return next((int(code) for chosen in files.values() if (code := pytest.main([*options, *chosen], plugins=list(plugins))) and not plugins), 0)


def candidates(tree: Path, module: str) -> list[str]:
    "Return the notebook of a module, and the tests that name it or a module of its folder that imports it."
    folder, name = module.split(".")
    notebook = re.search(r"File to edit: \.\./\.\./(\S+)\.", (tree / "trading" / folder / f"{name}.py").read_text())[1]
    near = {name} | {p.stem for p in (tree / "trading" / folder).glob("*.py") if f"from .{name} import" in p.read_text()}
    wanted = re.compile(rf"trading\.{folder}\.({'|'.join(near)})\b|from trading\.{folder} import|tests/mutants: {module}")
    files = [p for p in sorted((tree / "tests").rglob("test_*.py")) if p.stem not in SLOW_FILES and "soak" not in p.parts]
    return [notebook, *(str(p.relative_to(tree)) for p in files if wanted.search(p.read_text()))]


def judge(tree: Path, module: str, args) -> tuple[int, list[str], int]:  # tried, diffs of the survivors, hung
    "Try the mutants of one module."
    file, log = tree / "trading" / f"{module.replace('.', '/')}.py", tree.parent / "log"
    source, names, result = file.read_text(), candidates(tree, module) + args.tests, ROOT / "bench" / "mutants" / f"{module}.txt"

    def learn():
        reach = Reach(file)
        suite(tree, names, reach)
        foreign = [n for n, m in sys.modules.items() if "site-packages" in str(getattr(m, "__file__", "")) and not n.startswith("prefect")]
        return reach.lines, reach.seconds, foreign, reach.failed

    learnt = forked(learn, 1800, log)
    if not learnt or not learnt[1]:
        sys.exit(f"{module}: its tests do not run:\n{log.read_text()[-3000:]}")
    lines, seconds, foreign, failed = learnt
    print(f"{module}: left out, as they fail without any change: {' '.join(sorted(failed))}") if failed else None
    for name in foreign:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    quick = {t for t, took in seconds.items() if took <= args.slow and t not in failed}
    spent = lambda file: [took for t, took in seconds.items() if t.split("::")[0] == file and t in quick]  # noqa: E731
    files = {file: sum(spent(file)) / len(spent(file)) for file in {t.split("::")[0] for t in quick}}  # files of quick tests come first
    of = lambda names: {t for t in quick if t in names or t.split("::")[0] in names}  # noqa: E731
    drawn, survivors, hung = mutants(source, args.n, f"{args.seed} {module}"), [], 0
    if args.again:
        drawn = [m for m in drawn if m[2] in result.read_text()]
    for n, (where, changed, diff) in enumerate(drawn, 1):
        began, tests = time.monotonic(), of(set().union(*(lines.get(line, ()) for line in where)) - {""}) or quick
        tests = sorted(tests, key=lambda t: (".ipynb" in t, files[t.split("::")[0]], seconds[t]))
        tests = [t for k, t in enumerate(tests) if not k or sum(map(seconds.get, tests[: k + 1])) <= args.budget]
        file.write_text(changed)
        os.utime(file, (n, n))
        code = forked(lambda tests=tests: suite(tree, tests), 60 + 10 * sum(seconds[t] for t in tests), log)
        hung += code is None
        if args.verbose or code is None:
            print(f"{n:4} {'hung' if code is None else 'killed' if code else 'survived'} {time.monotonic() - began:5.1f} s", flush=True)
        if code == 0:
            survivors.append(diff)
            print(f"--- survived: trading/{module.replace('.', '/')}.py, {len(tests)} tests reach it\n{diff}", flush=True)
    file.write_text(source)
    tried = int(re.search(r"of (\d+)", result.read_text())[1]) if args.again else len(drawn)
    title = f"{module}: {tried - len(survivors)} of {tried} killed ({1 - len(survivors) / tried:.0%}), seed {args.seed}"
    result.parent.mkdir(exist_ok=True)
    result.write_text("\n\n".join([title, *survivors]) + "\n")
    print(f"{title}; {hung} hung", flush=True)
    return tried, survivors, hung


def main() -> None:
    "Copy the tree and try the modules asked for."
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("modules", nargs="*", default=FOLDERS, help="FOLDER or FOLDER.MODULE")
    ask.add_argument("--n", type=int, default=40, help="mutants of each module; 0: every one")
    ask.add_argument("--seed", type=int, default=7)
    ask.add_argument("--slow", type=float, default=5, help="leave out tests that take longer, in seconds")
    ask.add_argument("--budget", type=float, default=20, help="run the quickest tests that reach a change, together at most so many seconds")
    ask.add_argument("--verbose", action="store_true")
    ask.add_argument("--tests", nargs="*", default=[], help="further tests to run")
    ask.add_argument("--again", action="store_true", help="only the survivors of the last time")
    args, began = ask.parse_args(), time.monotonic()
    os.environ |= dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"], "1")
    with tempfile.TemporaryDirectory(prefix="mut-") as place:
        tree = Path(place) / "tree"
        (Path(place) / "tmp").mkdir()
        Path(place).chmod(0o755)  # a database server of the tests runs as another user
        for name in subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines():
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        subprocess.run([sys.executable, "-m", "compileall", "-q", tree / "trading"], check=True)
        wanted = [f"{m}.{p.stem}" for m in args.modules if "." not in m for p in sorted((tree / "trading" / m).glob("[!_]*.py"))]
        done = [judge(tree, module, args) for module in wanted + [m for m in args.modules if "." in m]]
    tried, left = sum(d[0] for d in done), sum(len(d[1]) for d in done)
    print(f"{tried - left} of {tried} killed ({1 - left / tried:.1%}) in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
