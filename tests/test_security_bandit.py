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
    ("B608", "backtest/strategy_promotion.py"): NAMES,
    ("B608", "core/trial_store.py"): "the columns are constants, the marks of the list are question marks; every value is a parameter",
    ("B108", "risk/stop_flag.py"): "one of several places for a flag, in a folder of our own with mode 700; a foreign one can only stop trading",
    ("B310", "services/launching.py"): "the address is that of the server that this process has started",
    ("B102", "core/prefork.py"): "what Python would have been started for by the same user, whose socket is asked for its owner",
    ("B102", "backtest/strategy_source.py"): "the owner's own file, named at the terminal or in the owner's settings",
    ("B608", "backtest/trial_register.py"): NAMES,
    ("B608", "data/stored_source.py"): "a sentence for people about files to import; no database is asked",
    ("B608", "data/postgres_store.py"): "the schema is checked to be a plain name, numbers are integers, every value is a parameter",
    ("B608", "security/sessions.py"): NAMES,
    ("B608", "ops/notifications.py"): NAMES,
    ("B608", "ops/data_checks.py"): "tables are named by the file itself, which is ours",
    ("B608", "security/user_store.py"): "the changed columns are constants of the class; every value is a parameter",
    ("B608", "accounting/event_table.py"): NAMES,
    ("B608", "accounting/ledger_postgres.py"): NAMES,
    ("B608", "venues/paper/database.py"): NAMES,
    ("B704", "dashboard/page_updates.py"): BUILT,
    ("B704", "dashboard/components.py"): BUILT,
    ("B608", "venues/access/monitor.py"): "the inner query is a constant; every value is a parameter",
    ("B704", "report/waterfall.py"): BUILT,
    ("B704", "core/pages.py"): BUILT,
    ("B704", "report/daily_report.py"): "our own style sheet",
    ("B704", "dashboard/screens_system.py"): BUILT,
    ("B604", "dashboard/app.py"): "`shell` is the name of a field of a page here, no shell is started",
    ("B102", "pipeline/notebook_runner.py"): "executes our own run notebooks, as the kernel would",
    ("B301", "backtest/leak_probes.py"): "a pickle that the caller made; the parameter says so",
    ("B301", "pipeline/decision_world.py"): "what a process that this one has started writes into their own pipe",
    ("B310", "pipeline/launch.py"): "an address on this machine that the line before has made",
}
LOWEST = "-ll"  # low: subprocess without a shell, dice of simulations, empty default of a key, which are what they should be


def test_every_finding_of_bandit_was_judged():
    pytest.importorskip("bandit", reason="bandit comes with the extra 'dev'")
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
    for folder in ("security", "ops", "accounting", "execution"):
        for module in (ROOT / "trading" / folder).rglob("*.py"):
            assert "import random" not in module.read_text(), module
