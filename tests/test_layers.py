"The arrows of the design: which folder may import which."

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALLOWED = {"core": set()}


def folders_imported(module: Path) -> set[str]:
    "Return the folders of `trading` that a module names in its imports."
    own = module.relative_to(ROOT / "trading").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = list(own[: len(own) - node.level + 1]) if node.level else []
            path = base + (node.module or "").split(".")
            path = path[1:] if not node.level and path[0] == "trading" else path if node.level else []
            found |= set(path[:1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("trading.")}
    return found - {"", own[0] if own else ""}


def test_every_import_follows_an_arrow_of_the_design():
    for module in (ROOT / "trading").rglob("*.py"):
        parts = module.relative_to(ROOT / "trading").parts
        if len(parts) > 1:
            assert folders_imported(module) <= ALLOWED[parts[0]], module
