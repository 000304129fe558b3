"A settings file that cannot be read changes nothing: the last good one stays in force, and page, API, terminal and alert say which line is wrong."

import os
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from trading.api.app import make_app
from trading.cli.main import main
from trading.core.errors import BadSettings, Busy, TradingError
from trading.dashboard.components import Viewer
from trading.dashboard.layout import render_page
from trading.security.audit_log import AuditLog
from trading.security.sessions import Authenticator
from trading.services.commands import Actor, Context, perform
from trading.services.portfolios import add_portfolio
from trading.services.workspace import Workspace, current_settings, settings_in_force
from trading.testing.sample_runs import make_sample_runs

pytestmark = pytest.mark.xdist_group("last-good-settings")  # one worker: what they share is made once

GOOD = "[limits]\nmax_weight = 0.123\n\n[crypto:limits]\nmax_weight = 0.3\n"
BROKEN = {  # what somebody saves, and what of the sentence names the place
    "value": ("[limits]\nmax_weight = banana\n", "line 2"), "no section": ("max_weight = 1\n", "line: 1"), "half": ("[limits\n", "'[limits"),
    "section": ("[limit]\nmax_weight = 0.1\n", "[limit]"), "name": ("[limits]\nmax_wait = 0.1\n", "max_wait"),
    "range": ("[limits]\nmax_weight = 7\n", "line 2"), "twice": ("[limits]\nmax_weight = 0.1\nmax_weight = 0.2\n", "3"),
    "bytes": (b"[limits]\n# caf\xe9\nmax_weight = 0.1\n", "line 2"), "profile": (GOOD + "[crypto:limits]\nmax_weight = 9\n", "crypto:limits"),
    "other profile": ("[limits]\nmax_weight = 0.1\n[mine:limits]\nmax_weight = -3\n", "line 4"), "conflict": ("<<<<<<< HEAD\n[limits]\n", "line: 1"),
    "a blank in a profile": ("[crypto :limits]\nmax_weight = 0.05\n", "[crypto :limits] names no profile"),
    "two profiles": ("[a:crypto:limits]\nmax_weight = 0.05\n", "[a:crypto:limits] names no profile"),
    "no profile": ("[:limits]\nmax_weight = 0.05\n", "[:limits] names no profile"),
    "behind a section": ("[limits] max_weight = 0.05\n", "line 1: 'max_weight = 0.05' stands behind [limits]"),
    "old ends of lines": (b"[limits]\rmax_weight = 7\r", "line 2"), "for all sections": ("[DEFAULT]\nmax_weight = 0.05\n", "[DEFAULT]"),
}


def save(file: Path, text: str | bytes) -> None:
    before = file.stat().st_mtime_ns if file.exists() else 0
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(file, ns=(before + 10**9, before + 10**9))  # saved a second later


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    made = tmp_path_factory.mktemp("settings")
    make_sample_runs(made, days=("2022-12-27",))
    return made


@pytest.fixture
def place(home):
    found = Workspace(home / "data", home / "reports", home / "settings.ini")
    save(found.settings, GOOD)
    assert current_settings(found).limits.max_weight == 0.123
    return found


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_changes_nothing_and_its_line_is_named(name, place):
    text, where = BROKEN[name]
    save(place.settings, text)
    assert current_settings(place).limits.max_weight == 0.123 and current_settings(place, "crypto").limits.max_weight == 0.3
    problem = settings_in_force(place)[1]
    assert "settings.ini" in problem and where in problem
    kept = place.data / "ops" / "settings-last-good.ini"
    assert kept.read_text() == GOOD and kept.stat().st_mode & 0o077 == 0
    save(place.settings, "[limits]\nmax_weight = 0.2\n")
    assert current_settings(place).limits.max_weight == 0.2 and settings_in_force(place) == (place.settings, "")


def test_an_unknown_profile_stays_the_askers_mistake(place):
    with pytest.raises(BadSettings, match="cripto"):
        current_settings(place, "cripto")


def test_a_first_file_that_is_broken_is_said(tmp_path):
    place = Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini")
    save(place.settings, "[limits\n")
    with pytest.raises(BadSettings):
        current_settings(place)


def test_the_running_service_never_answers_422_for_it_and_says_it_everywhere(place, monkeypatch):
    users = Authenticator(place.data.parent / f"{uuid.uuid4().hex}.sqlite")
    users.add_user("ann", "correct horse battery", "admin", ["main"])
    users.enrol_totp("ann")
    key = users.make_key("ann", "x", role="admin")
    app = make_app(place, users, AuditLog(place.data.parent / "audit.jsonl"), dashboard=False, rate=1e6)
    save(place.settings, "[limits]\nmax_weight = banana\n")
    with TestClient(app) as client:
        ask = lambda path, method="GET", **more: client.request(method, "/api/v1" + path, headers={  # noqa: E731
            "X-API-Key": key, "Idempotency-Key": uuid.uuid4().hex}, **more)
        for path in ("/portfolio", "/portfolio/holdings", "/monitoring/thresholds", "/system/status", "/risk/metrics", "/settings",
                     "/system/summary"):
            assert ask(path).status_code == 200, ask(path).text
        told = ask("/settings").json()
        value = next(i["value"] for i in told["items"] if (i["section"], i["name"]) == ("limits", "max_weight"))
        assert value == 0.123 and "line 2" in told["problem"]
        assert ask("/system/stop-trading", "POST", json={"reason": "a test"}).json()["engaged"]
    page = render_page(place, Viewer("ann", "admin"), "today")
    assert "last good settings" in page and "line 2" in page and "Stop trading" in page
    mended = perform("replace-settings", {"text": GOOD}, Context(place, Actor("ann", "admin", ("main",), "page")), None)
    assert mended.complete and settings_in_force(place)[1] == "", "and it is put right from the page"


def test_the_terminal_names_the_line_and_the_watch_goes_on(place, monkeypatch):
    monkeypatch.chdir(place.data.parent)
    for name in [k for k in os.environ if k.startswith("CARNET_")]:
        monkeypatch.delenv(name)
    run = CliRunner()
    assert run.invoke(main, ["settings"]).exit_code == 0
    current_settings(Workspace(Path("data"), Path("reports"), Path("settings.ini")))
    save(place.settings, "[limits]\nmax_weight = banana\n")
    shown = run.invoke(main, ["settings"])
    assert shown.exit_code == 1 and "line 2" in shown.output
    watched = run.invoke(main, ["watch"])
    assert watched.exit_code == 0 and "line 2" in watched.output and "last good settings" in watched.output
    listed = run.invoke(main, ["kill", "--reset", "--who", "ann", "--account", "paper-sample", "over"])
    assert listed.exit_code == 0, listed.output


def test_eight_people_change_settings_at_once_and_each_is_done_or_told_to_try_again(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from trading.core.settings_edit import check_text

    file, names = tmp_path / "settings.ini", ("max_weight", "min_cash", "max_turnover", "max_drawdown")
    file.write_text("[limits]\nmax_weight = 0.5\n")
    place = Workspace(tmp_path / "data", tmp_path / "reports", file)

    def change(n: int) -> str:
        try:
            return perform("change-settings", {"changes": {f"limits.{names[n % 4]}": f"0.{n + 11}"}}, Context(place, Actor("ann")), None).text
        except TradingError as error:
            assert isinstance(error, Busy), error  # somebody else was faster, and nothing else can be wrong
            return ""

    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(change, range(16)))
        texts = ["[limits]\nmax_weight = 0.4\n", "[limits]\nmax_weight = banana\n"] * 8  # each judged by itself
        judged = list(threads.map(lambda text: _judged(check_text, text, file, BadSettings), texts))
    assert any(told) and judged == [True, False] * 8
    assert {f.name for f in tmp_path.iterdir() if f.name.startswith(".settings.ini.")} <= {".settings.ini.lock", ".settings.ini.former"}


def _judged(check, text, file, wrong) -> bool:
    try:
        check(text, file)
    except wrong as error:
        assert "banana" in str(error)
        return False
    return True


def test_a_settings_file_keeps_its_rights_and_a_link_to_one_stays_a_link(tmp_path):
    real, file = tmp_path / "versioned.ini", tmp_path / "settings.ini"
    real.write_text("[limits]\nmax_weight = 0.5\n")
    real.chmod(0o640)
    file.symlink_to(real)
    place = Workspace(tmp_path / "data", tmp_path / "reports", file)
    perform("change-settings", {"changes": {"limits.max_weight": "0.4"}}, Context(place, Actor("ann")), None)
    assert file.is_symlink() and "0.4" in real.read_text() and real.stat().st_mode & 0o777 == 0o640


def test_the_folders_of_a_portfolio_are_no_setting(tmp_path):
    place = Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini")
    place.data.mkdir()
    family = add_portfolio(place, "family")
    before = family.settings.read_text()
    for name, where in (("run.data", "../../../elsewhere"), ("run.reports", str(place.reports))):
        with pytest.raises(TradingError, match=f"{name} of a portfolio is its own folder"):
            perform("change-settings", {"changes": {name: where}}, Context(family, Actor("fay"), "family"), None)
    assert family.settings.read_text() == before


def test_a_broken_settings_file_of_a_portfolio_that_names_its_own_folder_is_repaired_and_no_move_is_told(tmp_path):
    place = Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini")
    place.data.mkdir()
    family, log = add_portfolio(place, "family"), []
    ask = lambda name, asked: perform(name, asked, Context(family, Actor("fay"), "family"), lambda *line: log.append(line))  # noqa: E731
    whole = f"[run]\ndata = {family.data}\n[limits]\nmax_weight = 0.2\n"
    for broken in ("max_weight 0.2", "max_weight = banana"):
        family.settings.write_text(whole.replace("max_weight = 0.2", broken))
        assert "could not be read" in ask("replace-settings", {"text": whole}).text and family.settings.read_text().strip() == whole.strip()
    done = ask("change-settings", {"changes": {"run.data": None, "limits.max_weight": "0.3"}})
    assert "run.data" not in done.text and "'setting': 'run.data'" not in str(done.details) + str(log[-1])
    assert "limits.max_weight: 0.2 → 0.3" in done.text
