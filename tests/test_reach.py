"""What no command, route, page, flow, run notebook, guide or front-door name reaches is not finished: a graph of definitions finds it.

The walk begins at what people and schedules start. A definition that is reached reaches what it names: in its body, its decorators, its
defaults, also inside functions. A module that is reached reaches what its own statements name, and what a decorator of it registers.
"""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLAIN = {"staticmethod", "classmethod", "property", "cached_property", "lru_cache", "cache", "contextmanager", "asynccontextmanager", "dataclass",
         "abstractmethod", "traced", "total_ordering", "runtime_checkable", "njit"}  # other decorators register what they decorate
WAITS = {  # public definitions that nothing reaches yet, by the issue that will wire them; the list shrinks to nothing
    18: {  # research to orders: optimisers, strategies, features and sizes by name
        "backtest.strategies": "BollingerBreakout",
        "execution.plan": "PlanOutcome apply_plan",
        "features.technical": "atr bollinger ema log_returns macd realized_vol",
    },
    19: {  # research truth
        "backtest.cross_validation": "combinatorial_paths",
    },
    20: {  # learning: models, labels, drift and agents by name
        "forecast.drift": "mmd psi",
        "forecast.estimators": "baseline_forecast",
        "forecast.labels": "Barriers scaled_returns triple_barrier",
        "forecast.targets": "WalkForward uniqueness",
    },
    22: {  # what a person sees: the lab's plots, the report as a tear sheet, a plan as CSV
        "backtest.sweep_plots": "neighbourhood plot_heatmap plot_surface",
        "execution.portfolio_csv": "plan_csv plan_plot plan_totals",
        "features.taxonomy": "classify",
        "forecast.explain": "beeswarm explain_past importance swarm_heights",
        "portfolio.frontier": "efficient_frontier plot_contributions plot_frontier",
        "risk.attribution": "factor_attribution",
        "risk.dependence": "independent_bets liquidity principal_components tail_table",
    },
}


class Module:
    "The top-level definitions of a module and the names that each of them uses."

    def __init__(self, name: str, tree: ast.Module, known: set[str]):
        self.name, self.known = name, known
        self.definitions: dict[str, ast.AST] = {}
        self.statements: list[ast.AST] = []
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.definitions[node.name] = node
                if {decorator(d) for d in node.decorator_list} - PLAIN:
                    self.statements.append(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and (names := assigned(node)) and names != ["__all__"]:
                self.definitions |= dict.fromkeys(names, node)
            elif not (isinstance(node, ast.Assign) and assigned(node) == ["__all__"]):
                self.statements.append(node)
        self.scope = self.imports(tree.body)

    def imports(self, nodes: Iterable[ast.AST]) -> dict[str, set[tuple[str, str]]]:
        "Return what imports bind: local name → (module, name), with an empty name for a module itself."
        found = defaultdict(set)
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "trading"):
                package = self.name.split(".")[: -node.level] if node.level else []
                base = ".".join([*package, *(node.module or "").split(".")]).removeprefix("trading").strip(".")
                for alias in node.names:
                    inside = f"{base}.{alias.name}".strip(".")
                    found[alias.asname or alias.name].add((inside, "") if inside in self.known else (base, alias.name))
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.startswith("trading.") and alias.asname:
                        found[alias.asname].add((alias.name.removeprefix("trading."), ""))
        return found

    def uses(self, node: ast.AST) -> set[tuple[str, str]]:
        "Return the definitions that a piece of code names: (module, name)."
        scope = self.scope | self.imports(ast.walk(node))
        found = set()
        for n in ast.walk(node):
            if isinstance(n, ast.Name):
                found |= scope.get(n.id, {(self.name, n.id)} if n.id in self.definitions else set())
            elif isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name):
                found |= {(module, n.attr) for module, name in scope.get(n.value.id, set()) if name == ""}
            elif isinstance(n, ast.Constant) and isinstance(n.value, str) and "trading." in n.value:  # a script in a text, an entry point
                found |= {(m, a) for m, a in re.findall(r"from trading\.([\w.]+) import (\w+)", n.value)}
                found |= {(m, a) for m, a in re.findall(r"\btrading\.([\w.]+):(\w+)", n.value)}
                found |= {(n.value.removeprefix("trading."), "")} if n.value.removeprefix("trading.") in self.known else set()
        return found


def decorator(node: ast.expr) -> str:
    "Return the last word of a decorator."
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else "?"


def assigned(node: ast.Assign | ast.AnnAssign) -> list[str]:
    "Return the names that an assignment binds."
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]


@cache
def package() -> dict[str, Module]:
    "Return the modules of the package by their name below `trading`."
    found = [p for p in (ROOT / "trading").rglob("*.py") if not p.name.startswith("_")]
    paths = {".".join(p.relative_to(ROOT / "trading").with_suffix("").parts): p for p in found}
    return {name: Module(name, ast.parse(path.read_text(encoding="utf-8")), set(paths)) for name, path in paths.items()}


def code_of(path: Path) -> ast.Module:
    "Return the code of a notebook or a file; magics of a notebook are left out."
    if path.suffix == ".py":
        return ast.parse(path.read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    return ast.parse("\n".join(line for c in cells for line in c.splitlines() if not line.startswith(("%", "!"))))


def front() -> dict[str, tuple[str, str]]:
    "Return the names that `import trading` offers, and where they are defined."
    import trading

    owners = {name: module for module, m in package().items() for name in m.definitions}
    return {name: (owners[name], name) for name in trading.__all__}


def roots() -> set[tuple[str, str]]:
    "Return what is started from outside: the terminal, the page, flows, run notebooks, guides, research notebooks, and the front door."
    from trading.services.commands import COMMAND_MODULES

    modules = package()
    found = {(f"services.{name}", "") for name in COMMAND_MODULES}  # imported by name; `carnet do`, the API and the page perform what they register
    found |= {("cli.main", "main"), ("dashboard.app", "mount"), ("core.lazy", "lazy_names"), ("core.lazy", "make_callable")} | set(front().values())
    starts = [*(ROOT / "prefect").glob("*.py"), *(ROOT / "scripts").glob("*.py"), ROOT / "nbs" / "index.ipynb",
              *(p for folder in ("runs", "guides", "research") for p in sorted((ROOT / "nbs" / folder).glob("*.ipynb")))]
    for path in starts:
        tree = code_of(path)
        outside = Module("", tree, set(modules))
        outside.scope |= {name: {front()[name]} for name, where in outside.scope.items() if ("", name) in where and name in front()}
        found |= outside.uses(tree)
        for node in ast.walk(tree):  # trading.sharpe, trading.risk.metrics.sharpe
            if isinstance(node, ast.Attribute) and (text := ast.unparse(node)).startswith("trading."):
                module, _, name = text.removeprefix("trading.").rpartition(".")
                found |= {(module, name)} if module in modules else {front()[name]} if not module and name in front() else set()
    return found | {(name, n) for name, m in modules.items() if name.startswith("testing.") for n in m.definitions}  # offered to tests


@cache
def reached() -> frozenset[tuple[str, str]]:
    "Walk from the roots."
    modules, seen, todo = package(), set(), list(roots())
    while todo:
        module, name = todo.pop()
        if (module, name) in seen or module not in modules:
            continue
        seen.add((module, name))
        here = modules[module]
        if (module, "") not in seen:
            todo.append((module, ""))
        if name == "":
            todo += [use for statement in here.statements for use in here.uses(statement)]
            todo += [(module, s.name) for s in here.statements if isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
        elif name in here.definitions:
            todo += here.uses(here.definitions[name])
        elif name in here.scope:
            todo += here.scope[name]
    return frozenset(seen)


def unreached() -> set[str]:
    "Return the public functions and classes that nothing reaches."
    made = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {f"{module}.{name}" for module, m in package().items() for name, node in m.definitions.items()
            if isinstance(node, made) and not name.startswith("_") and (module, name) not in reached()}


def waiting() -> dict[str, int]:
    "Return what waits, by its full name."
    return {f"{module}.{name}": issue for issue, modules in WAITS.items() for module, names in modules.items() for name in names.split()}


def test_every_public_definition_is_reached_or_waits_for_a_named_issue():
    left = sorted(unreached() - waiting().keys())
    assert not left, "wire, delete, or name the issue that will wire:\n" + "\n".join(left)


def test_nothing_waits_that_is_reached_or_gone():
    stale = sorted(waiting().keys() - unreached())
    assert not stale, "take out of the list:\n" + "\n".join(stale)


def test_the_walk_sees_what_it_should_and_no_more(tmp_path):
    assert {("risk.metrics", "sharpe"), ("backtest.engine", "backtest"), ("api.app", "make_app"), ("dashboard.app", "mount")} <= reached()
    assert len(reached()) > 1500
    text = """
from trading.risk import metrics
from trading.risk.metrics import sharpe as ratio
from ..core.bars import check_bars

def used():
    if metrics:
        from trading.risk.stress import stress as look
    else:
        from trading.risk.limits import check_limits as look
    return look(ratio(), metrics.max_drawdown)

@command("stop")
def stop():
    return check_bars()
"""
    module = Module("risk.made_up", ast.parse(text), {"risk.metrics", "risk.stress", "risk.limits", "core.bars"})
    metrics = {("risk.metrics", name) for name in ("", "sharpe", "max_drawdown")}
    assert module.uses(module.definitions["used"]) == metrics | {("risk.stress", "stress"), ("risk.limits", "check_limits")}
    assert [s.name for s in module.statements if isinstance(s, ast.FunctionDef)] == ["stop"], "what a decorator registers is started by it"
    assert ("core.bars", "check_bars") in module.uses(module.definitions["stop"])
