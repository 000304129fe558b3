"Every command of the terminal: its help, and once for real; a command without a row here fails."

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from typed import CARNET

from trading.cli.main import main

PASSWORD, SECRET = "correct horse battery staple", "NhqPtmdSJYdKjVHjA7PZ"
STORY = [  # words, exit code, what the output holds, what is typed; in this order, in one folder with two runs
    ("runs", 0, "carnet open", ""), ("runs --json", 0, '"status": "done"', ""), ("open --print", 0, "index.html", ""),
    ("report --print", 0, "index.html", ""), ("report --edition two-pages --print", 0, "two_pages.html", ""),
    ("report --edition month --print", 0, "_month_", ""),
    ("report last --edition week --on 2001-01-01", 1, "lies outside", ""),
    ("settings", 0, "limits.max_weight", ""), ("run --resume last", 0, "nothing is left to do", ""),
    ("compare FIRST last", 0, "as_of", ""), ("compare last last", 0, "the two runs are equal", ""),
    ("review last", 1, "above its target", ""), ("approve last", 1, "approves itself", ""), ("reject last why", 1, "executed", ""),
    ("amend last why --strike KO", 1, "approves itself", ""),
    ("amend last why --change KO", 1, "write the order and its units", ""),
    ("validate last", (0, 1), "", ""), ("note bought-by-hand", 0, "", ""), ("group DOGE Memecoins", 0, "Memecoins", ""),
    ("alias DOGGY DOGE", 0, "DOGE", ""), ("set limits.max_weight=0.2", 0, "", ""), ("roll-back-model 2020-01 why", 1, "never in force", ""),
    ("promote-model 2020-01 why", 1, "not in the registry", ""),
    ("do", 0, "approve-plan", ""),
    ("kill", 0, "trading is allowed", ""), ("kill --who ann strange-prices", 0, "Trading is stopped", ""),
    ("kill --reset --who ann maintenance", 0, "allowed again", ""), ("reconcile", 0, "compared with", ""),
    ("orders list", 0, "", ""), ("orders costs", 0, "against plan", ""), ("orders cancel ffffffff", 1, "there is no order", ""),
    ("orders replace ffffffff --price 1", 1, "there is no order", ""),
    ("orders protect NOTHELD --stop 1", 1, "holds no NOTHELD", ""), ("orders watch", 0, "", ""),
    ("feedback status", 0, "", ""), ("feedback freeze --who ann earnings", 0, "cycle 2", ""),
    ("feedback freeze --thaw --who ann over", 0, "cycle 3", ""),
    ("feedback rollback --who ann 0 again", 0, "cycle 4", ""), ("feedback replay", 0, "4 cycles", ""),
    ("margin", 1, "paid for in full", ""), ("performance --since 2022-12-16", 0, "total", ""),
    ("performance --json", 0, '"contribution"', ""),
    ("ingest", 0, "the store is now", ""), ("import gold.csv --symbol GOLD", 0, "2 bars added", ""),
    ("mt5-bridge --account 7 --zone Europe/Athens", 1, "MT5_BRIDGE_KEY", ""),
    ("secrets set KRAKEN_SECRET", 0, "is in the vault", SECRET), ("secrets list", 0, "KRAKEN_SECRET", ""),
    ("secrets scan", 0, "nothing secret", ""), ("secrets rotate", 0, "new key", "four words of mine"), ("secrets remove KRAKEN_SECRET", 0, "", ""),
    ("users add ann --role admin", 0, "otpauth://", PASSWORD), ("users add bob --role viewer", 0, "bob", PASSWORD),
    ("users role bob trader", 0, "", ""), ("users portfolios bob main savings", 0, "", ""), ("users list", 0, "savings", ""),
    ("users totp bob", 0, "otpauth://", ""), ("users password bob", 0, "", PASSWORD + " of mine"), ("users key bob --label sheet", 0, "carnet_", ""),
    ("users keys", 0, "sheet", ""), ("users lock bob", 0, "", ""), ("users unlock bob", 0, "", ""), ("users revoke KEY", 0, "", ""),
    ("ask", 0, "/risk/metrics", ""), ("audit show", 0, "keys.revoke", ""), ("audit verify", 0, "as it was written", ""),
    ("audit anchor", 0, "written to", ""), ("audit renew --why a-new-year", 0, "a new audit log begins", ""),
    ("alerts list", 0, "", ""), ("alerts preview last", 0, "channels", ""), ("alerts test", 0, "arrived", ""),
    ("alerts acknowledge drawdown --who ann", 0, "", ""), ("alerts retry", 0, "nothing was due", ""), ("after last --reports reports", 0, "", ""),
    ("after-job weekly --failed boom", 0, "the job", ""),
    ("doctor --json --fix", (0, 1), '"checks"', ""), ("watch", 0, "health", ""),
    ("backup", 0, "every checksum is right", ""), ("verify-backup BACKUP", 0, "every checksum is right", ""),
    ("restore BACKUP back", 0, "every checksum is right", ""),
    ("users sessions", 0, "", ""), ("users end-session 0123456789ab", 1, "no open session", ""),
    ("users passkeys", 0, "", ""), ("users remove-passkey 0123456789ab", 1, "no passkey", ""),
    ("portfolios add family --profile crypto", 0, "is made", ""), ("portfolios list", 0, "family", ""),
    ("settings --portfolio family", 0, "crypto", ""), ("alive", 1, "no sign of life", ""),
    ("book deposit 500 USD", 0, "500", ""), ("book withdraw 20 USD", 0, "20", ""), ("book transfer 10 USD --out", 0, "10", ""),
    ("book dividend KO 12.5", 0, "KO", ""), ("book interest 3", 0, "3", ""), ("book reward 1 ETH --price 60", 0, "ETH", ""),
    ("book funding 0.5", 0, "0.5", ""), ("book swap -- -0.5", 0, "0.5", ""), ("book fee 2", 0, "2", ""), ("book split ETH 2", 0, "ETH", ""),
    ("book rename ETH ETX", 0, "ETX", ""), ("book spin-off ETX NEW 0.5 --cost-share 0.1", 0, "NEW", ""), ("book merger NEW --cash 5", 0, "NEW", ""),
    ("book delist ETX 20", 0, "ETX", ""), ("book adopt 1", (1, 2), "", ""), ("book adjust 1 USD --note found", 0, "1", ""),
    ("book list", 0, "deposit", ""),
    ("book undo 99999 never", 1, "no entry", ""),
    ("strategies list", 0, "", ""), ("strategies show MaCross", 1, "MaCross", ""), ("strategies retire MaCross tired", 1, "not in production", ""),
    ("strategies compare", 0, "no strategy is in production", ""),
    ("strategies promote MaCross --grid fast=5,10 --grid slow=50", (0, 1), "reality check", ""),
    ("venues", 0, "kraken", ""), ("venues kraken", 0, "kraken", ""),
    ("mt5 unlock 123456", 1, "MetaTrader", ""),
]
LONG = {"serve": "below", "lab": "below", "schedule": "test_daily.py", "reproduce": "test_daily.py",  # processes of their own, or minutes
        **dict.fromkeys(("export", "holdings import", "holdings list", "holdings write"), "test_books_files.py"),
        "optimise": "test_optimise_files.py", "demo": "test_demo.py", "scan": "test_scan.py", "train": "test_training.py",
        "size": "test_position_size.py",
        "new strategy": "test_extensions.py", "replay": "test_replay.py", "research auto": "test_research_auto.py",
        "research agent": "test_agent_sleeve.py", "trade": "test_trade_loop.py"}


def every_command(group: click.Group = main, prefix: str = "") -> dict[str, click.Command]:
    "Return all commands by the words that call them; a group itself does nothing."
    found = {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        found |= every_command(command, f"{prefix}{name} ") if isinstance(command, click.Group) else {prefix + name: command}
    return found


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    "Return a folder with settings, two runs, and nothing of this machine's environment."
    from trading.testing.sample_runs import SMALL, make_sample_runs

    make_sample_runs(tmp_path)
    sections: dict[str, list[str]] = {"run": ["data = data", "reports = reports"], "alert_channels": ["console = info"]}
    for key, value in SMALL.items():
        section, name = key.split(".")
        sections.setdefault(section, []).append(f"{name} = {value}")
    (tmp_path / "settings.ini").write_text("\n".join(f"[{s}]\n" + "\n".join(dict.fromkeys(lines)) for s, lines in sections.items()))
    (tmp_path / "gold.csv").write_text("date,open,high,low,close,volume\n2024-01-02,10,11,9,10.5,100\n2024-01-03,10.5,12,10,11.5,90\n")
    for name in [n for n in os.environ if n.startswith(("CARNET_", "MT5_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CARNET_VAULT_KEY", "four words of mine")
    monkeypatch.setenv("CARNET_BACKUP_PASSPHRASE", PASSWORD)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_has_a_row_and_every_row_a_command():
    rows = {name for words, *_ in STORY for name in every_command() if (words + " ").startswith(name + " ")} | set(LONG)
    assert rows == set(every_command())
    here = Path(__file__).parent
    assert all(f'"{name}"' in (here / file).read_text() for name, file in LONG.items() if file != "below"), "the other test names the command"


@pytest.mark.parametrize("words", sorted(every_command()))
def test_every_command_explains_itself(words):
    shown = CliRunner().invoke(main, [*words.split(), "--help"])
    assert shown.exit_code == 0 and shown.output.startswith("Usage:")
    said = every_command()[words].help or ""
    assert len(said.split()) >= 3 and " ".join(said.split())[:20] in " ".join(shown.output.split())


def test_every_command_does_what_it_is_for(home):
    names = {"FIRST": sorted(p.name for p in (home / "reports").iterdir() if p.is_dir())[0]}
    wrong = []
    for words, code, text, typed in STORY:
        done = CliRunner().invoke(main, [names.get(w, w) for w in words.split()], input=typed + "\n" if typed else "")
        if done.exit_code not in (code if isinstance(code, tuple) else (code,)) or text not in done.output:
            wrong.append((words, done.exit_code, done.output))
        if found := re.search(r"carnet_([^_\s]+)_", done.output):
            names["KEY"] = found[1]
        if backups := sorted((home / "data" / "backups").glob("*Z.carnet-backup")):
            names["BACKUP"] = str(backups[-1])
        assert SECRET not in done.output and PASSWORD not in done.output, words
        if "--json" not in words and not words.startswith("settings"):
            assert not (odd := re.findall(r".{0,30}\d%.{0,10}", done.output)), f"{words}: percents are written '80 %', with a space: {odd}"
    assert not wrong, "\n\n".join(map(str, wrong))


def test_an_unknown_command_is_a_sentence():
    asked = CliRunner().invoke(main, ["walk"])
    assert asked.exit_code == 2 and "No such command" in asked.output and "Traceback" not in asked.output


def test_the_service_starts_says_where_it_listens_and_stops_in_order(home):
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    words = [*CARNET, "serve", "--port", "0", "--no-dashboard"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    try:
        line = process.stdout.readline()
        assert "Carnet listens on http://127.0.0.1:" in line, process.stderr.read() if process.poll() is not None else line
        process.send_signal(signal.SIGTERM)  # Ctrl-C is ignored by what a background process has started
        process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()


def test_the_notebooks_open_in_jupyterlab_which_gets_the_arguments(home):
    pytest.importorskip("jupyterlab", reason="jupyterlab comes with the extra 'lab'")
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([*CARNET, "lab", "--", "--version"], capture_output=True, text=True, env=environ, timeout=300)
    assert done.returncode == 0 and re.match(r"\d+\.\d+", done.stdout), done.stderr


def test_doctor_api_and_page_give_one_health(home, monkeypatch):
    from datetime import UTC, datetime

    from trading.api.system_routes import health_view
    from trading.core.settings import load_settings
    from trading.dashboard.components import Viewer
    from trading.dashboard.screens_system import health_screen
    from trading.services.queries_system import system_health
    from trading.services.workspace import workspace_of

    monkeypatch.setattr("psutil.cpu_percent", lambda interval: 7.0)  # three measurements, on a machine that may be busy
    with (home / "settings.ini").open("a") as file:
        file.write("\n[health]\nhosts = 127.0.0.1:9\n")  # nothing listens there: whoever leaves the settings out does not see it
    doctor = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).output)
    place, now = workspace_of(load_settings(), home / "settings.ini"), datetime.now(UTC)
    api = health_view(system_health(place, now))
    page = {part.key: part for part in health_screen(place, Viewer("ann", "viewer"))}
    kept = system_health(place, datetime.now(UTC), within=600)  # what the page was drawn from
    assert any("127.0.0.1:9" in c["name"] + c["detail"] and c["status"] != "ok" for c in doctor["checks"])
    steady = {c["name"]: c["status"] for c in doctor["checks"]}
    assert steady == {c["name"]: c["status"] for c in api["checks"]} == {c.name: c.status for c in kept.checks}
    assert doctor["score"] == api["score"] == kept.score and str(round(kept.score)) in str(page["score"].parts)
