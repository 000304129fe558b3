"Each command through terminal, API and page: the same ledger, the same audit line, the same roles, the same answer."

import contextlib
import getpass
import json
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from starlette.testclient import TestClient
from waiting import wait_until

from trading.accounting.ledger import Ledger
from trading.api.command_routes import Service, command_routes
from trading.api.errors import add_error_handlers
from trading.api.idempotency import IdempotencyStore
from trading.api.middleware import AuthMiddleware
from trading.cli.main import main
from trading.core.cards import spaced
from trading.core.errors import Forbidden, TradingError
from trading.core.types import Event
from trading.dashboard.actions import act
from trading.dashboard.components import Viewer
from trading.dashboard.screens_system import learning_screen
from trading.forecast.model_promotion import Promotion
from trading.security.audit_log import AuditLog
from trading.security.sessions import Authenticator
from trading.services.commands import Actor, Context, authorise, load_commands, perform
from trading.services.jobs import jobs, log_tail
from trading.services.portfolios import add_portfolio
from trading.services.stops import engaged_switches
from trading.services.workspace import Workspace
from trading.testing.sample_runs import make_sample_runs

pytestmark = pytest.mark.xdist_group("doors")
RUN = "2022-12-27_sample_1"
PASSWORD = "correct horse battery"
PAUSE = ("python", "-c", "import time; time.sleep(30)")
# command → what is asked; a command without a row fails the suite, and so does a row without a command
ASKED = {
    "stop-trading": {"reason": "the venue reports nonsense"},
    "resume-trading": {"reason": "found: a test", "accounts": ["paper-sample"]},
    "reconcile": {},
    "book-entry": {"kind": "deposit", "amount": "100"},
    "undo-entry": {"seq": 2, "reason": "typed twice"},
    "explain-differences": {},
    "review-plan": {"run": RUN},
    "amend-plan": {"run": RUN, "strike": ["KO"], "change": {"PEP": "3"}, "reason": "earnings are due"},
    "approve-plan": {"run": RUN},
    "reject-plan": {"run": RUN, "reason": "earnings are due"},
    "validate-plan": {"run": RUN},
    "change-settings": {"changes": {"limits.max_weight": "0.2"}},
    "replace-settings": {"text": "[limits]\nmax_weight = 0.25\n"},
    "set-group": {"coin": "XRP", "group": "Memecoins"},
    "drop-group": {"coin": "BTC"},
    "set-alias": {"name": "XXBT", "coin": "BTC"},
    "drop-alias": {"name": "ZZZ"},
    "write-note": {"text": "bought by hand"},
    "freeze-feedback": {"reason": "earnings week"},
    "thaw-feedback": {"reason": "over"},
    "roll-back-feedback": {"reason": "as it was", "to": 0},
    "roll-back-model": {"reason": "it was better"},
    "promote-model": {"version": "forecast-one", "reason": "it was better"},
    "acknowledge-alert": {"rule": "drawdown"},
    "promote-strategy": {"strategy": "MaCross", "grid": {"fast": [5, 10], "slow": [50]}, "symbols": ["AAPL"], "start": "2020-01-01"},
    "retire-strategy": {"strategy": "MaCross", "reason": "the trend ended"},
    "retry-alerts": {},
    "add-portfolio": {"name": "family", "profile": "crypto"},
    "unlock-mt5": {"code": "123456"},
    "cancel-order": {"order": "ffffffff"},
    "replace-order": {"order": "ffffffff", "price": "1"},
    "protect-position": {"symbol": "KO", "stop": "1.00", "take_profit": "1000"},
    "end-protection": {"symbol": "KO"},
    "watch-orders": {},
    "size-position": {"symbol": "KO", "equity": "10000", "risk": "1%", "price": "60", "stop": "57"},
}
# started as a process, or of this process alone: tested in the notebooks of run_control and system_control and in the browser
ELSEWHERE = {"start-run", "resume-run", "cancel-job", "invalidate-cache", "reset-system", "update-market", "scan-market", "replay", "start-loop",
             "start-training", "research-auto", "backtest", "train-agent"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("doors")
    make_sample_runs(home, days=("2022-12-27",))
    return home


def fresh(made: Path, home: Path) -> Workspace:
    "Copy the folders, with a settings file of a person."
    copytree(made, home, dirs_exist_ok=True)
    (home / "settings.ini").write_text("[limits]\nmax_weight = 0.3\n", encoding="utf-8")
    models, early = home / "data" / "models" / "sample", datetime(2022, 1, 3, tzinfo=UTC)
    for version in ("forecast-one", "forecast-two"):
        (models / version).mkdir(parents=True)
        (models / version / "model.json").write_text(json.dumps({"version": version}))
    attempts = [Promotion("forecast", "forecast-one", early, True, (), 1), Promotion("forecast", "forecast-two", early, True, (), 2, "forecast-one")]
    (models / "forecast.promotions.jsonl").write_text("".join(a.to_json() + "\n" for a in attempts))
    return Workspace(home / "data", home / "reports", home / "settings.ini")


def through_terminal(place: Workspace, name: str, asked: dict, role: str) -> tuple[bool, str]:
    "Give the command in the terminal; the owner of the files has every role."
    written = {k: json.dumps(v) if isinstance(v, (dict, list)) or str(v).startswith("[") else v for k, v in asked.items()}
    words = [f"{k}={v}" for k, v in written.items()]
    env = {k: None for k in os.environ if k.startswith("CARNET_")} | {"CARNET_RUN__DATA": str(place.data), "CARNET_RUN__REPORTS": str(place.reports)}
    with contextlib.chdir(place.data.parent):
        result = CliRunner(env=env).invoke(main, ["do", name, *words, "--by", "ann"])
    return result.exit_code == 0, result.output.strip()


def through_api(place: Workspace, name: str, asked: dict, role: str, portfolio: str = "main", log: str = "audit.jsonl") -> tuple[bool, str]:
    "Send the request to the service."
    users = Authenticator(place.data.parent / f"users-{role}.sqlite")
    if not users.users():
        users.add_user("ann", "correct horse battery", role, [portfolio])
        users.enrol_totp("ann") if role != "viewer" else None
    answers = IdempotencyStore(place.data.parent / "answers.sqlite")
    service = Service(place, users, AuditLog(place.data / "ops" / log), answers, command=PAUSE)
    app = FastAPI()
    app.router.routes.extend(command_routes(service))
    add_error_handlers(app)
    service.gate = AuthMiddleware(app, users)
    answer = TestClient(service.gate).post(f"/api/v1/commands/{name}", json=asked, params={"portfolio": portfolio}, headers={
        "X-API-Key": users.make_key("ann", "test", role=role), "Idempotency-Key": uuid.uuid4().hex})
    service.answers.close()
    told = answer.json()
    return answer.is_success and told["complete"], told.get("text") or told.get("detail")


def through_page(place: Workspace, name: str, asked: dict, role: str) -> tuple[bool, str]:
    "Press the button of the page."
    try:
        return True, act(place, Viewer("ann", role), name, asked, datetime.now(UTC), AuditLog(place.data / "ops" / "audit.jsonl").append)
    except TradingError as error:
        return False, str(error)


DOORS = {"terminal": through_terminal, "api": through_api, "page": through_page}


def left(place: Workspace, before: int) -> dict:
    "Return what a command leaves behind: ledger events, audit line, settings, taxonomy, kill switches."
    ledger = Ledger(place.ledger)
    events = [(e.kind, e.account, {k: v for k, v in e.data.items() if k not in ("text",)}) for e in ledger.events()][before:]
    lines = [(e.who, e.action, e.detail) for e in AuditLog(place.data / "ops" / "audit.jsonl").entries()]
    ledger.close()
    strip = lambda text: text.split(" (")[0]  # noqa: E731  the time of a note
    feedback = place.data / "feedback" / "sample.jsonl"
    models = [json.loads(line) for line in (place.data / "models" / "sample" / "forecast.promotions.jsonl").read_text().splitlines()]
    return {
        "events": events, "audit": [line for line in lines if line[1] != "audit.sealed"], "settings": (place.settings).read_text(encoding="utf-8"),
        "former": len(list(place.settings.parent.glob(".settings.ini.former/*.ini"))),
        "taxonomy": json.loads((place.data / "taxonomy.json").read_text()) if (place.data / "taxonomy.json").exists() else None,
        "models": [(m["version"], m["at"], m["before"], [strip(r) for r in m["reasons"]]) for m in models],
        "switches": sorted(f.name for f in place.data.glob("kill-*.jsonl")), "stops": len(list(place.data.glob("stop-*.json"))),
        "portfolios": sorted(str(f.relative_to(place.data)) for f in (place.data / "portfolios").rglob("*")),
        "feedback": [strip(json.loads(line)["note"]) for line in feedback.read_text().splitlines()] if feedback.exists() else [],
    }


def test_every_command_has_a_row():
    known = {name for name, c in load_commands().items() if set(c.doors) >= {"terminal", "api", "page"}}
    single = {name for name, c in load_commands().items() if set(c.doors) < {"terminal", "api", "page"}}
    needs_vault = {"lock-user", "unlock-user", "set-role", "set-portfolios", "revoke-key", "end-session", "back-up", "remove-secret", "rotate-vault",
                   "remove-passkey"}
    assert set(ASKED) <= known and known - set(ASKED) - ELSEWHERE - needs_vault == set(), sorted(known - set(ASKED) - ELSEWHERE - needs_vault)
    assert all(load_commands()[name].reason or name in ELSEWHERE for name in single), "what is not offered everywhere says why"


@pytest.mark.parametrize("name", sorted(ASKED))
def test_three_doors_one_deed(name, made, tmp_path):
    answers, states = {}, {}
    for door, through in DOORS.items():
        place = fresh(made, tmp_path / door)
        ledger = Ledger(place.ledger)
        before = ledger.events()[-1:] and len(ledger.events())
        ledger.close()
        answers[door] = through(place, name, ASKED[name], "admin")
        states[door] = left(place, before)
    # ... refused things say so in the terminal with "Error: " in front, which is the terminal's way
    plain = {door: (ok, spaced(text.removeprefix("Error: ").split("\nError: ")[0].strip())) for door, (ok, text) in answers.items()}
    assert plain["terminal"] == plain["api"] == plain["page"], plain
    assert states["terminal"] == states["api"] == states["page"]
    if load_commands()[name].records != "itself":
        wanted, lines = load_commands()[name].audit, [line[1] for line in states["api"]["audit"]]
        assert lines[:1] == [wanted] and lines[1:] in ([], [f"{wanted}: failed"]) and not (plain["api"][0] and lines[1:])


def test_models_of_two_portfolios_with_the_same_names_are_apart_at_every_door(made, tmp_path):
    place = fresh(made, tmp_path)
    family = add_portfolio(place, "family", "sample")
    copytree(place.data / "models", family.data / "models")
    books = {n: p.data / "models" / "sample" / "forecast.promotions.jsonl" for n, p in (("main", place), ("family", family))}
    env = {k: None for k in os.environ if k.startswith("CARNET_")} | {"CARNET_RUN__DATA": str(place.data), "CARNET_RUN__REPORTS": str(place.reports)}

    def type_(*words: str, code: int = 0) -> str:
        with contextlib.chdir(tmp_path):
            done = CliRunner(env=env).invoke(main, list(words))
        assert done.exit_code == code, done.output
        return done.output

    asked, steps, of_main, of_family = {"reason": "it drifts"}, [], Viewer("ann", "trader"), Viewer("ann", "trader", portfolios=("family",))
    for portfolio, deed in (
        ("family", lambda: type_("roll-back-model", "forecast-one", "it drifts", "--portfolio", "family", "--by", "ann")),
        ("main", lambda: type_("roll-back-model", "settings", "it drifts", "--by", "ann")),
        ("family", lambda: through_api(place, "roll-back-model", asked, "trader", "family", "api.jsonl")),  # the terminal has sealed the other log
        ("main", lambda: through_api(place, "roll-back-model", asked, "admin", "main", "api.jsonl")),
        ("family", lambda: act(family, of_family, "roll-back-model", {"version": "settings"} | asked, datetime.now(UTC))),
    ):
        other = books["main" if portfolio == "family" else "family"]
        before = other.read_bytes()
        done = deed()
        assert done and (isinstance(done, str) or done[0]) and other.read_bytes() == before, done
        steps.append((portfolio, json.loads(type_("ask", "/models", "--portfolio", portfolio))["in_force"]))
    assert steps == [("family", "forecast-one"), ("main", ""), ("family", "forecast-two"), ("main", "forecast-two"), ("family", "")], steps
    shown = ["".join(section.html() for section in learning_screen(p, who)) for p, who in ((place, of_main), (family, of_family))]
    assert "In force for the next run: forecast-two." in shown[0] and "the model of the settings, ridge." in shown[1]

    type_("do", "start-training", "--portfolio", "family", "--by", "ann")
    wait_until(lambda: [j for j in jobs(family)["items"] if j["status"] == "failed"])
    (job,) = jobs(family)["items"]
    assert "no run of profile 'sample' has forecast anything yet" in "".join(log_tail(family, job["id"])), "not the run of 'main', which has forecast"
    assert jobs(place)["total"] == 0


ESCAPE = "paid \x1b[2Jall is well"  # clears a terminal and writes something else
WRONG = (  # command, what is asked, a word of the sentence
    ("book-entry", {"kind": "deposit", "amount": "1,000"}, "amount is '1,000', which is no number"),
    ("book-entry", {"kind": "Deposit", "amount": "5"}, "choose 'deposit'"),
    ("book-entry", {"kind": "deposit", "amount": "5", "note": ESCAPE}, "U+001B"),
    ("book-entry", {"kind": "deposit", "amount": "NaN"}, "which is no number"),
    ("write-note", {"text": "   "}, "text is missing"),
    ("write-note", {"text": ESCAPE}, "U+001B"),
    ("write-note", {"text": "bought \u202e001"}, "U+202E"),
    ("write-note", {"text": "x" * 501}, "at most 500"),
    ("freeze-feedback", {"reason": "\x9b2J"}, "U+009B"),
    ("roll-back-feedback", {"reason": "x", "to": "-1"}, "greater than or equal to 0"),
    ("reject-plan", {"run": RUN, "reason": ESCAPE}, "U+001B"),
    ("amend-plan", {"run": "../x", "strike": ["KO"], "reason": "x"}, "run is not right"),
    ("roll-back-model", {"reason": ESCAPE}, "U+001B"),
    ("undo-entry", {"seq": "0", "reason": "x"}, "seq is 0"),
    ("undo-entry", {"seq": "2", "reason": ESCAPE}, "U+001B"),
    ("resume-trading", {"reason": "  ", "accounts": ["paper-sample"]}, "reason is missing"),
    ("resume-trading", {"reason": "x", "accounts": ["paper-sample"], "nope": "1"}, "'nope' is nothing that it takes"),
    ("stop-trading", {"reason": "x", "accounts": ["paper-sampel"]}, "did you mean 'paper-sample'"),
    ("change-settings", {"changes": {"run.profile": "cypto"}}, "did you mean 'crypto'"),
    ("set-group", {"coin": "XRP", "group": "Meme\u2066coins"}, "U+2066"),
    ("set-group", {"coin": "X RP", "group": "Memecoins"}, "coin is not right: 'X RP' is not written as it is meant; write one such as DOGE"),
    ("replay", {"start": "2022-03-01", "end": "2022-02-01"}, "the request is not right: it would end on 2022-02-01, before it begins on 2022-03-01"),
)


def test_what_is_wrong_is_said_in_the_same_sentence_at_every_door_and_leaves_nothing(made, tmp_path):
    place = fresh(made, tmp_path)
    ledger = Ledger(place.ledger)
    before = len(ledger.events())
    ledger.close()
    untouched = left(place, before)
    for name, asked, word in WRONG:
        told = {door: through(place, name, asked, "admin") for door, through in DOORS.items()}
        plain = {door: (ok, spaced(text.removeprefix("Error: ").split("\nError: ")[0].strip())) for door, (ok, text) in told.items()}
        assert plain["terminal"] == plain["api"] == plain["page"] and word in plain["api"][1] and not plain["api"][0], (name, asked, plain)
    assert {k: v for k, v in left(place, before).items() if k != "audit"} == {k: v for k, v in untouched.items() if k != "audit"}


def test_a_body_that_is_a_list_is_told_in_words(made, tmp_path):
    place = fresh(made, tmp_path)
    ok, words = through_api(place, "resume-trading", ["x"], "trader")  # type: ignore[arg-type]
    assert not ok and words == "resume-trading: the request is \"['x']\"; write the names of its fields with their values, such as \"reason\": …"


def test_a_reason_may_have_the_line_ends_of_windows(made, tmp_path):
    for door, through in DOORS.items():
        place = fresh(made, tmp_path / door)
        assert through(place, "write-note", {"text": "bought\r\nby hand"}, "trader")[0], door
        ledger = Ledger(place.ledger)
        assert ledger.events(kind="note")[-1].data["text"] == "bought\nby hand", door
        ledger.close()


def test_a_stop_is_refused_for_no_field_and_sells_only_what_was_asked_for_plainly(made, tmp_path):
    place = fresh(made, tmp_path)
    ledger = Ledger(place.ledger)
    held, rows = ledger.positions("paper-sample"), len(ledger.events())
    assert held, "there is something to sell"
    one = {"accounts": "paper-sample"}
    given = ({"accounts": None}, {"accounts": ""}, {"accounts": "All"}, {"accounts": ["all"]}, one, {"close": None}, {"why": "x"}, {"close": "no"})
    for asked in given:
        ok, words = through_api(place, "stop-trading", asked, "trader")
        assert ok and words.startswith("Trading is stopped for " + ("paper-sample" if asked == one else "all")), (asked, words)
    none, typo, unclear = "accounts names none", "what 'acounts' was to say is not known", "close is 'maybe', which"
    for asked, why in (({"accounts": []}, none), ({"accounts": ""}, none), ({"acounts": ["paper-sample"]}, typo), ({"close": "maybe"}, unclear)):
        for door, through in DOORS.items() if asked == {"accounts": []} else [("api", through_api)]:
            ok, words = through(place, "stop-trading", {"reason": "x", "close": True} | asked, "trader")
            assert not ok and "Trading is stopped for all" in words and f"Nothing was closed: {why}" in spaced(words), (door, asked, words)
            assert "paper-sample" in engaged_switches(place) and "live-crypto" in engaged_switches(place)
    for n, asked in enumerate(({"paper-sample": True}, [5], True, [["paper-sample"]], ["paper-sample\u200e"])):  # names no account plainly
        other = fresh(made, tmp_path / str(n))
        ok, words = through_api(other, "stop-trading", {"accounts": asked, "close": True}, "trader")
        assert not ok and "Trading is stopped for all" in words and "Nothing was closed: accounts is" in words, (asked, words)
        assert "paper-sample" in engaged_switches(other) and "live-crypto" in engaged_switches(other)
    beside = {"accounts": ["paper-sample"], "dry_run": True}, {"accounts": "all", "symbols": ["KO"]}, {"accounts": ["all", "paper-sample"]}
    for asked in (*beside, {"accounts": ["paper-sample"], "portfolio": "family"}):  # each was to narrow it
        ok, words = through_api(place, "stop-trading", {"close": True} | asked, "trader")
        far = "paper-sample" if asked == beside[0] else "all"
        assert not ok and f"Trading is stopped for {far}" in words and "Nothing was closed: " in words, (asked, words)
    ok, words = through_api(place, "stop-trading", {"accounts": "Paper-Sample;PAPER-CRYPTO"}, "trader")
    assert ok and words.startswith("Trading is stopped for paper-sample and paper-crypto."), words
    assert ledger.positions("paper-sample") == held and not [e for e in ledger.events()[rows:] if e.kind in ("intent", "fill")]
    assert through_api(place, "stop-trading", {"accounts": "paper-sample", "close": "yes"}, "trader")[0] and not ledger.positions("paper-sample")
    ledger.close()


def test_a_stop_that_names_no_account_stops_them_all_and_resuming_says_what_was_not_stopped(made, tmp_path):
    for door, through in DOORS.items():
        place = fresh(made, tmp_path / door)
        ok, words = through(place, "stop-trading", {"reason": "x", "accounts": []}, "trader")
        assert ok and "live-crypto" in engaged_switches(place) and "Trading is stopped for all" in words, (door, words)
        told = [through(place, "resume-trading", {"reason": "found", "accounts": ["paper-sample"]}, "trader") for _ in range(2)]
        assert told == [(True, "paper-sample: trading is allowed again"), (True, "paper-sample: trading was not stopped, and is allowed")]


@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_smaller_role_is_refused_at_every_door_and_leaves_nothing(name, made, tmp_path):
    wanted = load_commands()[name]
    smaller = {"admin": "trader", "trader": "viewer"}[wanted.role]
    place = fresh(made, tmp_path)
    ledger = Ledger(place.ledger)
    before = len(ledger.events())
    ledger.close()
    untouched = left(place, before)
    for through in (through_api, through_page):
        ok, words = through(place, name, ASKED[name], smaller)
        assert not ok and wanted.role in words and smaller in words
    assert left(place, before) == untouched


def test_somebody_without_a_portfolio_is_refused_at_every_door(made, tmp_path):
    place = fresh(made, tmp_path)
    for via in ("api", "page"):
        for wanted in load_commands().values():
            with pytest.raises(Forbidden):
                authorise(wanted, Actor("eve", "admin", (), via))
    with pytest.raises(Forbidden, match="eve has no portfolio"):
        perform("stop-trading", {"reason": "x"}, Context(place, Actor("eve", "trader", (), "page")), None)


def test_resuming_ends_safe_mode_at_every_venue_of_the_account(made, tmp_path):
    from trading.execution.safe_mode import safe_mode

    place, now = fresh(made, tmp_path), datetime.now(UTC)
    ledger = Ledger(place.ledger)
    accounts = ("live-crypto", "live-crypto@binance", "live-crypto@okx")
    for account in accounts:
        from decimal import Decimal

        if account != accounts[-1]:  # a venue where nothing was opened, and errors came first
            ledger.open_account(account, "USD", Decimal(100), now)
        ledger.append(Event("safe_mode", account, now, {"on": True, "who": "the guard", "why": "3 errors in a row"}))
    ledger.close()
    done = perform("resume-trading", {"reason": "maintenance over", "accounts": ["live-crypto"]}, Context(place, Actor("Ada")), None)
    again = Ledger(place.ledger)
    assert "live-crypto@binance" in done.text and not any(safe_mode(again, a) for a in accounts)
    again.close()


def test_optimise_gives_the_weights_that_the_run_holds(made, tmp_path):
    from trading.services.queries_analytics import optimise
    from trading.services.queries_runs import artefact, newest_run

    place = fresh(made, tmp_path)
    place.settings.unlink()
    held = artefact(place, newest_run(place, None, "weights", dry_runs=True), "weights")["target"]
    asked = {item["symbol"]: item["weight"] for item in optimise(place)["items"]}
    assert asked == pytest.approx(held.to_dict(), abs=1e-12)
    for policy in ("conservative", "balanced", "aggressive", "tactical", "momentum"):
        assert optimise(place, policy=policy)["policy"] == policy


def test_the_terminal_records_a_run_like_the_service(made, tmp_path):
    for door in ("terminal", "api"):
        place = fresh(made, tmp_path / door)
        if door == "terminal":
            env = {k: None for k in os.environ if k.startswith("CARNET_")}
            env |= {"CARNET_RUN__DATA": str(place.data), "CARNET_RUN__REPORTS": str(place.reports)}
            with contextlib.chdir(place.data.parent):
                result = CliRunner(env=env).invoke(main, ["run", "--resume", RUN])
            assert result.exit_code == 0 and "nothing is left to do" in result.output
            who = getpass.getuser()
        else:
            assert through_api(place, "resume-run", {"run": RUN}, "trader")[0]
            who = "ann"
        lines = [(e.who, e.action, e.detail) for e in AuditLog(place.data / "ops" / "audit.jsonl").entries()]
        assert lines == [(who, "run resumed", {"run": RUN, "portfolio": "main"})], door


def test_the_audit_log_has_each_setting_before_and_after_however_it_was_changed(made, tmp_path):
    found, whole = [], {"text": "[limits]\nmax_weight = 0.2\n"}
    for through in DOORS.values():  # the profile of runs that name none belongs to no profile
        place = fresh(made, tmp_path / through.__name__)
        ok, words = through(place, "change-settings", {"changes": {"run.profile": "crypto"}}, "admin")
        assert ok and words == "The settings are saved; the next run uses them.\nrun.profile: sample → crypto"
        (line,) = AuditLog(place.data / "ops" / "audit.jsonl").entries()[-1].detail["settings"]
        assert line == {"setting": "run.profile", "profile": None, "old": "sample", "new": "crypto"}
    for name, asked in (("change-settings", {"changes": {"limits.max_weight": "0.2"}}), ("replace-settings", whole)):
        place = fresh(made, tmp_path / name)
        assert through_api(place, name, asked, "admin")[0]
        detail = AuditLog(place.data / "ops" / "audit.jsonl").entries()[-1].detail
        found.append(detail["settings"])
        assert "text" not in detail and len(list(place.settings.parent.glob(".settings.ini.former/*.ini"))) == 1
    assert found[0] == found[1] and [(c["setting"], c["old"], c["new"]) for c in found[0]] == [("limits.max_weight", 0.3, 0.2)]


def test_one_setting_is_changed_and_no_other_however_the_file_is_indented(made, tmp_path):
    from trading.services.workspace import current_settings

    limits = "[limits]\n  max_weight = 0.3\n  # agreed in May\n  max_drawdown = 0.05\n  max_daily_loss = 0.01\n"
    whole = "  [limits]\n    max_weight = 0.3\n    max_drawdown = 0.05\n    max_daily_loss = 0.01\n  [run]\n  profile = crypto\n"
    for (door, through), text in zip(DOORS.items(), (whole, limits, whole.replace("\n", "\r\n")), strict=True):
        place = fresh(made, tmp_path / door)
        place.settings.write_bytes(text.encode())
        for changes in ({"limits.max_weight": "0.1"}, {"limits.min_cash": "0.07"}):
            ok, words = through(place, "change-settings", {"changes": changes}, "admin")
            told = [e for e in AuditLog(place.data / "ops" / "audit.jsonl").entries() if e.action == "settings changed"][-1].detail["settings"]
            assert ok and [line["setting"] for line in told] == list(changes), (door, words)
        found, kept = current_settings(place), place.settings.read_text()
        assert (found.limits.max_weight, found.limits.max_drawdown, found.limits.max_daily_loss, found.limits.min_cash) == (0.1, 0.05, 0.01, 0.07)
        assert "profile = crypto" in kept or (text == limits and "# agreed in May" in kept)
    place = fresh(made, tmp_path / "apart")
    place.settings.write_text("[limits]\nmax_weight = 0.3\n[market]\nsymbols = AAPL,\n\n  KO\n  # and more\n  PEP\n")
    assert through_api(place, "change-settings", {"changes": {"market.symbols": "GE"}}, "admin")[0]
    assert current_settings(place).market.symbols == ("GE",) and "# and more" in place.settings.read_text()


def test_a_file_that_begins_with_a_byte_order_mark_is_audited_as_it_counts(made, tmp_path):
    from trading.services.workspace import current_settings

    place = fresh(made, tmp_path)
    assert through_api(place, "replace-settings", {"text": "\ufeff[run]\nprofile = crypto\n"}, "admin")[0]
    told = AuditLog(place.data / "ops" / "audit.jsonl").entries()[-1].detail["settings"]
    assert current_settings(place).run.profile == "crypto"
    assert told[0] == {"setting": "run.profile", "profile": None, "old": "sample", "new": "crypto"}


def test_what_is_not_valid_is_neither_recorded_nor_written(made, tmp_path):
    place = fresh(made, tmp_path)
    for text in ("[crypto:limits]\nmax_weight = 7\n", "[forex:market]\nsymbols =\ntimeframe = 7 weeks\n", "what?"):
        ok, words = through_page(place, "replace-settings", {"text": text}, "admin")
        assert not ok and "nothing was changed" in words
    assert not AuditLog(place.data / "ops" / "audit.jsonl").entries() and place.settings.read_text() == "[limits]\nmax_weight = 0.3\n"


def test_the_group_of_a_coin_has_one_answer(made, tmp_path):
    from trading.pipeline.factory import groups_of
    from trading.services.queries_portfolio import section_of
    from trading.services.queries_system import taxonomy
    from trading.services.workspace import current_settings

    place = fresh(made, tmp_path)
    for group, section in (("Memecoins", "memecoins"), (None, "long-term crypto")):
        perform("set-group" if group else "drop-group", {"coin": "XRP"} | ({"group": group} if group else {}), Context(place, Actor("ann")), None)
        settings = current_settings(place, "crypto")
        shown = next(i["group"] for i in taxonomy(place, "crypto")["items"] if i["symbol"] == "XRP/USD")
        assert shown == groups_of(settings)["XRP/USD"] and section_of(settings, "XRP/USD") == section and (shown == group) == bool(group)
    assert not hasattr(settings, "group_of")


def test_the_brake_engages_when_settings_ledger_and_audit_log_are_broken(made, tmp_path):
    place = fresh(made, tmp_path)
    place.settings.write_text("[limits]\nmax_weight = very much\n")
    for file in place.data.glob("ledger.sqlite*"):
        file.unlink()
    place.ledger.write_bytes(b"no database, but as long as the head of one" * 50)

    def full(*line):
        raise OSError(28, "No space left on device")

    done = perform("stop-trading", {"reason": "all is broken"}, Context(place, Actor("ann", "trader", ("main",), "api")), full)
    assert not done.complete and "the ledger cannot be read" in done.text
    assert {"paper-sample", "live-sample", "live-crypto"} <= {f.stem.removeprefix("kill-") for f in place.data.glob("kill-*.jsonl")}
    lines: list = []
    with pytest.raises(TradingError):
        perform("drop-group", {"coin": "BTC"}, Context(place, Actor("bob")), lambda *line: lines.append(line))
    told = [("ann", "trading stopped"), ("bob", "group dropped"), ("bob", "group dropped: failed")]
    assert [line[:2] for line in lines] == told, "the stop's line comes with the next one"
    assert not list((place.data / "ops").glob("audit-waiting-*"))


def carnet(place: Workspace, *words: str, typed: str = "", **more: str):
    "Run a command of the terminal in the folder of a workspace."
    env = {k: None for k in os.environ if k.startswith("CARNET_")} | {"CARNET_RUN__DATA": str(place.data), "CARNET_RUN__REPORTS": str(place.reports)}
    with contextlib.chdir(place.data.parent):
        return CliRunner(env=env | more).invoke(main, list(words), input=typed)


IN_THE_TERMINAL = (  # what is typed, and what the audit log has of it
    (("users", "add", "vera", "--role", "viewer"), PASSWORD + "\n", "users.add"), (("users", "role", "vera", "trader"), "", "users.role"),
    (("users", "totp", "vera"), "", "users.totp"), (("users", "password", "vera"), "another horse battery\n", "users.password"),
    (("users", "portfolios", "vera", "main", "family"), "", "users.portfolios"), (("users", "key", "vera", "--label", "x"), "", "keys.add"),
    (("users", "lock", "vera"), "", "users.lock"), (("users", "unlock", "vera"), "", "users.unlock"),
    (("secrets", "set", "KRAKEN_KEY"), "NhqPtmdSJYdKjVHjA7PZ\n", "secrets.set"), (("secrets", "remove", "KRAKEN_KEY"), "", "secrets.remove"),
    (("secrets", "rotate"), "five words of my own\n", "secrets.rotate"),
)


def test_every_deed_of_the_terminal_is_performed_and_recorded_once(made, tmp_path, monkeypatch):
    from trading.security import vault
    from trading.services import commands

    monkeypatch.setitem(vault._COST, "memory", 64)
    monkeypatch.setitem(vault._COST, "time", 1)
    place, performed, real = fresh(made, tmp_path), [], commands.perform
    monkeypatch.setattr(commands, "perform", lambda name, *rest: performed.append(name) or real(name, *rest))
    for words, typed, action in IN_THE_TERMINAL:
        done = carnet(place, *words, typed=typed, CARNET_VAULT_KEY="four words of mine")
        assert done.exit_code == 0, (words, done.output)
        from trading.security.context import open_security

        key = "five words of my own" if "rotate" in words else "four words of mine"
        log = open_security(place.data, {"CARNET_VAULT_KEY": key}, ring=False).audit
        lines = [e for e in log.entries() if e.action not in ("audit.sealed",)]
        assert lines[-1].action == action and len(lines) == len(performed), (words, [e.action for e in lines])
        assert typed.strip() == "" or typed.strip() not in log.path.read_text()
    assert len(performed) == len(IN_THE_TERMINAL)


def test_data_backups_and_alerts_of_the_terminal_are_performed_and_recorded(made, tmp_path):
    place, bars = fresh(made, tmp_path), "timestamp,open,high,low,close,volume\n2024-01-02,1,2,1,2,10\n2024-01-03,2,3,2,3,10\n"
    (tmp_path / "bars.csv").write_text(bars)
    more = {"CARNET_BACKUP_PASSPHRASE": "four words of mine"}
    asked = ((("ingest",), "data.update"), (("import", "bars.csv", "--symbol", "KO2"), "data.import"), (("alerts", "retry"), "alert.retry"),
             (("alerts", "acknowledge", "drawdown", "--who", "ann"), "alert acknowledged"),
             (("backup", "--to", str(tmp_path / "kept")), "backup.make"))
    for words, _ in asked:
        done = carnet(place, *words, **more)
        assert done.exit_code == 0, (words, done.output)
    (kept,) = (tmp_path / "kept").glob("*.carnet-backup")
    assert carnet(place, "restore", str(kept), str(tmp_path / "back"), **more).exit_code == 0
    lines = [(e.action, e.detail["portfolio"]) for e in AuditLog(place.data / "ops" / "audit.jsonl").entries()]
    assert lines == [(action, "main") for _, action in asked]
    with pytest.raises(Forbidden, match="on the machine itself"):
        perform("back-up", {"to": "/tmp/x"}, Context(place, Actor("eve", "admin", ("main",), "api")), None)


def test_a_request_that_comes_again_after_a_crash_has_its_effect_once(made, tmp_path):
    place = fresh(made, tmp_path)
    asked = {"write-note": {"text": "bought by hand"}, "freeze-feedback": {"reason": "earnings week"},
             "roll-back-feedback": {"reason": "as it was", "to": 0}}
    for name, values in asked.items():
        context = lambda key: Context(place, Actor("ann"), key=key)  # noqa: E731
        first, again = perform(name, values, context("k1"), None), perform(name, values, context("k1"), None)
        assert first == again, name
        other = perform(name, values, context("k2"), None)
        assert other.details != first.details, "another key is another request"
    ledger = Ledger(place.ledger)
    notes = [e for e in ledger.events() if e.kind == "note"]
    ledger.close()
    assert len(notes) == 2
