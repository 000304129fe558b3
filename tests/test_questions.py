"Whoever only asks changes nothing: every question, typed in a new folder and in one that may only be read; and what acts say there."

import contextlib
import ctypes
import os
import re
import struct
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import click
import pytest
from typed import carnet_at as carnet

from trading.accounting.ledger import Ledger
from trading.cli.main import main
from trading.security.audit_log import write_anchor, write_line
from trading.security.context import open_security
from trading.security.vault import key_text, new_key

pytestmark = pytest.mark.xdist_group("questions")  # one worker: the modules of the commands are loaded once

NOW = datetime.now(UTC)
QUESTIONS = [
    "alerts list", "alerts preview", "alive", "ask", "audit show", "audit verify", "book list", "compare a b", "do", "doctor", "export trades",
    "export lots", "export open-lots", "export income", "export cointracking", "feedback status", "feedback replay", "holdings list", "margin",
    "open", "orders list", "orders costs", "performance", "portfolios list", "report", "review", "runs", "secrets list", "secrets scan", "settings",
    "size KO --fraction 0.1", "strategies compare", "strategies list", "strategies show x", "users list", "users keys", "users passkeys",
    "users sessions", "validate", "venues", "verify-backup nothing.bin --json",
]
ACTS = [
    "after", "after-job", "alerts.acknowledge", "alerts.retry", "alerts.test", "alias", "amend", "approve", "audit.anchor", "audit.renew",
    "backup", "book.adjust", "book.adopt", "book.delist", "book.deposit", "book.dividend", "book.fee", "book.funding", "book.interest",
    "book.merger", "book.rename", "book.reward", "book.spin-off", "book.split", "book.swap", "book.transfer", "book.undo", "book.withdraw", "demo",
    "feedback.freeze", "feedback.rollback", "group", "holdings.import", "holdings.write", "import", "ingest", "kill", "lab", "mt5.unlock",
    "mt5-bridge", "new.strategy", "note", "optimise", "orders.cancel", "orders.protect", "orders.replace", "orders.watch", "portfolios.add",
    "promote-model", "reconcile", "reject", "replay", "reproduce", "research.agent", "research.auto", "restore", "roll-back-model", "run", "scan",
    "schedule", "secrets.remove", "secrets.rotate", "secrets.set", "serve", "set", "strategies.promote", "strategies.retire", "trade", "train",
    "users.add", "users.end-session", "users.key", "users.lock", "users.password", "users.portfolios", "users.remove-passkey", "users.revoke",
    "users.role", "users.totp", "users.unlock", "watch",
]


def _leaves(group, words=()):
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        yield from _leaves(found, (*words, name)) if isinstance(found, click.Group) else [".".join((*words, name))]


def _files(home):
    return sorted(str(p.relative_to(home)) for p in home.rglob("*"))


@contextlib.contextmanager
def _as_owner_only():
    "Let the rights of folders count for root too: the two capabilities that pass over them are put down for this thread."
    if os.name != "posix" or os.geteuid():
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("root passes over the rights of folders here")
    libc, head, held = ctypes.CDLL(None), struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    assert not libc.capget(head, held)
    words = list(struct.unpack("6I", held.raw))
    words[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if libc.capset(head, struct.pack("6I", *words)):
        pytest.skip("this process may not put down what lets root write everywhere")
    try:
        yield
    finally:
        assert not libc.capset(head, held.raw)


def test_every_command_is_a_question_or_an_act():
    known, asked = set(_leaves(main)), {q.replace(" ", ".") for q in QUESTIONS}
    questions = {name for name in known if any(f"{q}.".startswith(f"{name}.") for q in asked)}
    assert set(ACTS) <= known and not set(ACTS) & questions
    assert not known - questions - set(ACTS), f"say in this file whether they change anything: {sorted(known - questions - set(ACTS))}"


@pytest.mark.parametrize("more", [{}, {"CARNET_VAULT_KEY": key_text(new_key())}], ids=["no vault", "a key for a vault"])
def test_a_question_makes_no_file(tmp_path, more):
    for question in QUESTIONS if not more else [q for q in QUESTIONS if q.split()[0] in ("audit", "users", "secrets", "settings", "runs", "doctor")]:
        _, said = carnet(tmp_path, *question.split(), **more)
        assert said.strip(), question
        assert not _files(tmp_path), f"{question}: {_files(tmp_path)}"


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    "A folder with a user, an audit log and a ledger, that may only be read."
    home = tmp_path_factory.mktemp("closed")
    guard = open_security(home / "data", {}, ring=False)
    guard.users.add_user("ann", "correct horse battery staple", "viewer", ["main"])
    guard.users.close()
    with closing(Ledger(home / "data" / "ledger.sqlite")) as ledger:
        ledger.open_account("paper-sample", "USD", Decimal(1000), NOW - timedelta(days=3))
    (home / "reports").mkdir()
    folders = [home, *(p for p in home.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield home
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="rights of folders as POSIX has them")
def test_a_folder_that_may_only_be_read_answers_questions_and_refuses_acts_in_a_sentence(closed, tmp_path):
    before = _files(closed)
    answers = {
        "audit show": "witness 1:", "audit verify": "as it was written", "users list": "ann", "book list": "a deposit of 1000 USD",
        "runs": "no runs yet", "settings": "run.profile", "secrets scan": "nothing secret", "orders list": "no order is open",
        "doctor": "health.jsonl cannot be written",
    }
    acts = [
        "note hello", "book deposit 100", "set limits.max_weight=0.3", "users lock ann", "portfolios add two", "ingest", "run", "watch",
        "audit anchor", "reconcile", "train", "kill smoke",
    ]
    with _as_owner_only():
        for question, answer in answers.items():
            code, said = carnet(closed, *question.split())
            assert answer in said and (code == 0 or question == "doctor"), f"{question}: {said}"
        for act in acts:
            code, said = carnet(closed, *act.split(), XDG_STATE_HOME=str(tmp_path))
            told = [line for line in said.splitlines() if "Permission denied" in line]
            assert code and told and re.search("rights|cannot be (written|locked)", said), f"{act}: {said}"
            assert len(told) == 1 or act.startswith("kill"), f"{act}: one sentence: {said}"
    assert "Trading is stopped for all" in said, "the brake is never refused"
    assert len(list(tmp_path.rglob("stop-*.json"))) == 1 and _files(closed) == before


def test_a_clock_that_was_set_back_is_said_in_one_sentence(tmp_path):
    log = tmp_path / "data" / "ops" / "audit.jsonl"
    log.parent.mkdir(parents=True)
    line, mark = write_line(1, NOW + timedelta(hours=5), "ann", "plan.approve", {}, "")
    log.write_bytes(line)
    log.with_suffix(".head").write_bytes(write_anchor(1, mark))
    code, said = carnet(tmp_path, "doctor")
    told = [line for line in said.splitlines() if "the clock was set back" in line]
    assert code and len(told) == 2 and "the audit log was last written to" in told[0], said  # as a check, and among what is missing
    assert "let the system set its clock before anything is traded" in told[0]
