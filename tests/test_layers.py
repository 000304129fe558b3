"The arrows of the design: which folder may import which, also inside functions; one number, one notebook; no name in two modules."

import ast
import json
import re
import runpy
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOMAIN = {"core", "venues", "data", "features", "forecast", "risk", "backtest", "portfolio", "accounting", "execution", "security", "ops"}
ADAPTER = {"core", "report", "services"}  # terminal, API and page: nothing below the services
ALLOWED = {  # folder → what it may import besides itself; `core` is open to all
    "core": set(),
    **dict.fromkeys(("venues", "data", "features", "risk", "report", "security"), {"core"}),
    "forecast": {"core", "features"},
    "backtest": {"core", "features", "risk"},
    "portfolio": {"core", "risk"},
    "accounting": {"core"},
    "execution": {"core", "risk", "accounting"},
    "ops": {"core", "security"},
    "pipeline": DOMAIN,
    "services": DOMAIN | {"pipeline"},
    "api": ADAPTER,
    "dashboard": ADAPTER,
    "cli": ADAPTER,
    "testing": DOMAIN | {"pipeline", "services", "report"},
}


def module_name(path: Path) -> str:
    "Return a module's name below `trading`, for example 'risk.metrics'."
    return ".".join(path.relative_to(ROOT / "trading").with_suffix("").parts)


def modules() -> dict[str, Path]:
    "Return every module of the package that stands in a folder."
    found = {module_name(p): p for p in sorted((ROOT / "trading").rglob("*.py")) if p.name not in ("__init__.py", "_modidx.py")}
    return {name: path for name, path in found.items() if "." in name}


def imported(path: Path, known: set[str]) -> set[str]:
    "Return the modules of the package that a module imports, at its top and inside its functions."
    package = path.relative_to(ROOT / "trading").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if not node.level and (node.module or "").split(".")[0] != "trading":
                continue
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += (node.module or "").split(".")[0 if node.level else 1:]
            name = ".".join(b for b in base if b)
            found |= {name} if name in known else {f"{name}.{a.name}".strip(".") for a in node.names} & known
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("trading.") for a in node.names if a.name.startswith("trading.")} & known
    return found


def test_every_import_follows_an_arrow_of_the_design():
    known = modules()
    wrong = [f"{name} imports {other}" for name, path in known.items() for other in sorted(imported(path, set(known)))
             if (mine := name.split(".")[0]) != (theirs := other.split(".")[0]) and theirs not in ALLOWED[mine]]
    later = re.compile(r"(api\.command_routes|dashboard\.actions|cli\.(trade|feedback)) imports (?!api|dashboard|cli)")  # until they perform commands
    wrong = [w for w in wrong if not later.match(w)]
    assert not wrong, "\n".join(wrong)


def test_modules_import_from_modules_and_not_from_the_lists_of_their_packages():
    known, wrong = modules(), []
    for name, path in known.items():
        package = path.relative_to(ROOT / "trading").parts[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "trading"):
                base = list(package[: len(package) - node.level + 1]) if node.level else []
                base += (node.module or "").split(".")[0 if node.level else 1:]
                inside = ".".join(b for b in base if b)
                wrong += [f"{name} imports {a.name} from {inside or 'trading'}" for a in node.names
                          if inside not in known and f"{inside}.{a.name}".strip(".") not in known]
    assert not wrong, "\n".join(wrong)


def notebooks() -> dict[str, Path]:
    "Return the notebooks that export a module, by the module's name."
    paths = [p for p in sorted((ROOT / "nbs").glob("[0-9][0-9]_*/**/*.ipynb")) if "default_exp" in p.read_text(encoding="utf-8")]
    return {re.search(r"default_exp (\S+?)[\\\"]", p.read_text(encoding="utf-8"))[1]: p for p in paths}


def test_one_number_one_notebook_and_each_imports_only_lower_numbers():
    books, known = notebooks(), modules()
    numbers = defaultdict(list)
    for path in books.values():
        numbers[(path.parent, path.name.split("_")[0])].append(path.name)
    assert not [names for names in numbers.values() if len(names) > 1]
    later = [f"{name} imports {other}, which comes later" for name, path in known.items() for other in sorted(imported(path, set(known)))
             if books[other].parent == books[name].parent and books[other].name >= books[name].name]
    assert not later, "\n".join(later)


def test_every_module_is_exported_from_a_notebook_and_small_enough_to_read():
    books = notebooks()
    for name, module in modules().items():
        text = module.read_text()
        assert name in books and "AUTOGENERATED" in text, name
        assert len(text.splitlines()) <= 400, f"{name} has {len(text.splitlines())} lines: is there a seam to split it at?"


def test_no_folder_holds_more_than_an_eighth_of_the_lines():
    lines = defaultdict(int)
    for name, module in modules().items():
        lines[name.split(".")[0]] += len(module.read_text().splitlines())
    largest = max(lines, key=lines.get)
    assert lines[largest] <= sum(lines.values()) / 8, f"{largest}: {lines[largest]} of {sum(lines.values())} lines"


def test_a_public_name_stands_in_one_module_only():
    where = defaultdict(set)
    for name, module in modules().items():
        for node in ast.parse(module.read_text()).body:
            named = [node.name] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else [
                t.id for t in (node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else [])
                if isinstance(t, ast.Name)]
            for each in named:
                if not each.startswith("_"):
                    where[each].add(name)
    assert not {each: sorted(names) for each, names in where.items() if len(names) > 1}


def test_every_name_that_is_imported_exists_also_inside_functions():
    import importlib

    missing, looked = [], 0
    for path in sorted([*(ROOT / "trading").rglob("*.py"), *(ROOT / "prefect").glob("*.py")]):
        package = ["trading", *path.relative_to(ROOT / "trading").parts[:-1]] if (ROOT / "trading") in path.parents else []
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or path.name == "_modidx.py":
                continue
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]) if node.level else node.module or ""
            if base.split(".")[0] != "trading":
                continue
            module = importlib.import_module(base)
            for alias in node.names:
                looked += 1
                if not hasattr(module, alias.name):
                    try:
                        importlib.import_module(f"{base}.{alias.name}")
                    except ImportError:
                        missing.append(f"{path.relative_to(ROOT)}:{node.lineno}: {base} has no {alias.name}")
    assert looked > 1000 and not missing, "\n".join(missing)


def test_only_one_module_knows_vectorbt():
    knows = [name for name, path in modules().items() if re.search(r"^\s*(import|from) vectorbt\b", path.read_text(), re.MULTILINE)]
    assert knows == ["backtest.vectorbt_engine"]


def test_nothing_shadows_the_installed_prefect():
    assert not (ROOT / "prefect" / "__init__.py").exists()


@pytest.mark.parametrize("flow", sorted(p.name for p in (ROOT / "prefect").glob("*.py")))
def test_flows_hold_no_domain_logic(flow):
    more = {"sweep.py": {"backtest"}}  # a sweep has no run notebook: the Dask task runner is given the function itself
    found = {n.module.split(".")[1] for n in ast.walk(ast.parse((ROOT / "prefect" / flow).read_text()))
             if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("trading.")}
    assert found <= {"core", "pipeline", "services"} | more.get(flow, set())


def test_notebooks_show_no_path_of_any_machine():
    for notebook in (ROOT / "nbs").rglob("*.ipynb"):
        outputs = json.dumps([c.get("outputs") for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"]])
        assert not re.search(r"[\"' (](/home/|/root/|/tmp/|/Users/|/work/|C:\\\\)", outputs), notebook


def test_links_between_notebooks_and_pages_lead_somewhere():
    broken = []
    for page in [*(ROOT / "nbs").rglob("*.ipynb"), *ROOT.glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        base = ROOT if page.name == "index.ipynb" else page.parent  # the front page becomes README.md
        if page.suffix == ".ipynb":
            text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if not link.startswith(("http", "#", "mailto")) and not (base / link.split("#")[0]).exists():
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken, "\n".join(broken)


def test_the_front_page_is_what_the_notebook_says():
    made = runpy.run_path(str(ROOT / "scripts" / "readme.py"))["make_readme"]()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == made


def test_the_command_is_there_at_once():
    heavy = {"numpy", "pandas", "prefect", "pydantic", "rich", "sklearn", "vectorbt", "riskfolio", "matplotlib"}
    told = subprocess.run([sys.executable, "-c", f"import sys, trading, trading.cli.main; print(sorted({heavy} & set(sys.modules)))"],
                          capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
