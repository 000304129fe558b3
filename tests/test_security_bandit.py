"What bandit finds in the package, each with the reason why it is there; anything new has to be judged before it is added here."

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = "names of tables and columns are constants or checked; every value is a parameter"
BUILT = "the text comes from templates that escape what they are given"
JUDGED = {  # test of bandit, module → why it may stand
    ("B608", "backtest/trials.py"): NAMES,
    ("B608", "data/postgres.py"): "the schema is checked to be a plain name, numbers are integers, every value is a parameter",
    ("B608", "ops/auth.py"): NAMES,
    ("B608", "ops/outbox.py"): NAMES,
    ("B608", "ops/places.py"): "tables are named by the file itself, which is ours",
    ("B608", "ops/roster.py"): "the changed columns are constants of the class; every value is a parameter",
    ("B608", "trade/ledger.py"): NAMES,
    ("B608", "trade/shared.py"): NAMES,
    ("B704", "app/dashboard.py"): BUILT,
    ("B704", "app/pieces.py"): BUILT,
    ("B608", "venue/monitor.py"): "the inner query is a constant; every value is a parameter",
    ("B704", "app/reasons.py"): BUILT,
    ("B704", "app/report.py"): "our own style sheet",
    ("B704", "app/workshop.py"): BUILT,
    ("B604", "app/dashboard.py"): "`shell` is the name of a field of a page here, no shell is started",
    ("B102", "app/specimen.py"): "executes our own run notebooks, as the kernel would",
    ("B301", "backtest/probe.py"): "a pickle that the caller made; the parameter says so",
    ("B310", "core/jobs.py"): "an address on this machine that the line before has made",
}
LOWEST = "-ll"  # low: subprocess without a shell, dice of simulations, empty default of a key, which are what they should be


def test_every_finding_of_bandit_was_judged():
    pytest.importorskip("bandit")
    command = [sys.executable, "-m", "bandit", "-q", "-r", "trading", LOWEST, "-f", "json", "-x", "trading/_modidx.py"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    results = json.loads(told.stdout)
    assert not results["errors"]
    found = {}
    for r in results["results"]:
        place = Path(r["filename"]).as_posix().removeprefix("trading/")
        found.setdefault((r["test_id"], place), f"{place}:{r['line_number']} {r['issue_text']}")
    new = [said for key, said in found.items() if key not in JUDGED]
    assert not new, "judge these, then correct them or give the reason in JUDGED:\n" + "\n".join(new)


def test_nothing_in_the_package_builds_a_key_from_ordinary_dice():
    for folder in ("ops", "trade"):
        for module in (ROOT / "trading" / folder).glob("*.py"):
            assert "import random" not in module.read_text(), module
