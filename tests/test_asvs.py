"The table of ASVS is whole, and what it names exists: modules, settings, files and tests."

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from trading.core.settings_model import Settings

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "security" / "asvs.md"
ROW = re.compile(r"\| (\d+)\.(\d+)\.(\d+) \| ([12]) \| (met|partly|gap|does not apply) \| ([^|]{8,}) \| ([^|]*) \|")
COUNTS = {1: (8, 19), 2: (4, 7), 3: (8, 11), 4: (2, 8), 5: (4, 5), 6: (13, 22), 7: (6, 12), 8: (4, 3), 9: (4, 3), 10: (5, 24), 11: (3, 11),
          12: (3, 6), 13: (1, 12), 14: (2, 7), 15: (3, 10), 16: (0, 16), 17: (0, 7)}  # requirements of levels 1 and 2 in each chapter of ASVS 5.0.0


def rows() -> list[re.Match]:
    return [found for line in TABLE.read_text().splitlines() if (found := ROW.fullmatch(line))]


def test_every_requirement_of_both_levels_is_there_once_and_the_sums_at_the_top_are_right():
    found = rows()
    assert len(found) == len([line for line in TABLE.read_text().splitlines() if re.match(r"\| \d", line)]), "a line that cannot be read"
    assert len({m.groups()[:3] for m in found}) == len(found)
    by = Counter((int(m[1]), m[4]) for m in found)
    assert {chapter: (by[chapter, "1"], by[chapter, "2"]) for chapter in COUNTS} == COUNTS
    state = Counter(m[5] for m in found)
    assert (f"Of {len(found)} requirements {state['met']} are met, {state['partly']} partly, {state['gap']} are gaps, and "
            f"{state['does not apply']} do not apply.") in TABLE.read_text()
    assert all(m[7].strip() for m in found if m[5] != "does not apply"), "whoever answers says where"


@cache
def names_in(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def exists(name: str) -> bool:
    "Tell whether a module, a setting, a file or a test is there."
    file, _, test = name.partition("::")
    if test:
        return (ROOT / file).is_file() and test in names_in(ROOT / file)
    if name.startswith("trading."):
        return (ROOT / (name.replace(".", "/") + ".py")).is_file()
    section, _, key = name.partition(".")
    if section in Settings.model_fields:
        return key in Settings.model_fields[section].annotation.model_fields
    return (ROOT / name).is_file()


def test_what_the_table_names_exists():
    named = {name for m in rows() for name in re.findall(r"`([^`]+)`", m[7])}
    assert len(named) > 80 and {name for name in named if not exists(name)} == set()


@pytest.mark.parametrize("name", ["trading.security.no", "service.no", "tests/test_asvs.py::test_no", "tests/no.py::test_x", "no.md"])
def test_a_name_that_leads_nowhere_is_found(name):
    assert not exists(name) and exists("service.hosts") and exists("tests/test_asvs.py::test_what_the_table_names_exists")
