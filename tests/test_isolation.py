"Every route, stream, metric and file, asked as nobody, as a stranger, as a member of another portfolio, as a member: nothing shows up elsewhere."

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from starlette.testclient import TestClient

from trading.accounting.ledger import Ledger
from trading.api.app import make_app
from trading.core.types import Event
from trading.security.audit_log import AuditLog
from trading.security.sessions import Authenticator
from trading.services.access import workspace_for
from trading.services.commands import load_commands
from trading.services.metrics import open_metrics
from trading.services.portfolios import add_portfolio
from trading.services.workspace import Workspace
from trading.testing.sample_runs import make_sample_runs

pytestmark = pytest.mark.xdist_group("doors")
RUN, NOW = "2022-12-27_sample_1", datetime(2024, 1, 1, tzinfo=UTC)
SLOW = ("/system/health", "/system/security-score", "/system/performance-test", "/system/benchmark")
PEOPLE = {"anna": ("viewer", ["main"]), "axel": ("admin", ["main"]), "eve": ("viewer", ["family"]), "emil": ("admin", ["family"]),
          "sam": ("viewer", [])}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    "A service with the portfolio 'main', which has runs and a note, and the portfolio 'family', which has a note; and a key for each person."
    home = tmp_path_factory.mktemp("isolation")
    make_sample_runs(home, days=("2022-12-27",))
    (home / "settings.ini").write_text("[limits]\nmax_weight = 0.123\n")
    place = Workspace(home / "data", home / "reports", home / "settings.ini")
    family = add_portfolio(place, "family")
    _same_accounts_of_other_runs(place, family)
    for where, text in ((place, "MARK-MAIN"), (family, "MARK-FAMILY")):
        ledger = Ledger(where.ledger)
        ledger.append(Event("note", "paper-sample", NOW, {"who": "x", "text": "n", "mark": text}))
        if where is place:
            ledger.append(Event("deposit", "paper-sample", NOW, {"amount": "4242424.5", "currency": "USD"}))
        ledger.close()
    audit, users = AuditLog(home / "audit.jsonl"), Authenticator(home / "users.sqlite")
    keys = {}
    for name, (role, portfolios) in PEOPLE.items():
        users.add_user(name, "correct horse battery", role, portfolios)
        if role != "viewer":
            users.enrol_totp(name)
        keys[name] = users.make_key(name, "LABEL-OF-" + name, role=role)
    audit.append("axel", "SECRET-DEED", {"portfolio": "main"})
    app = make_app(place, users, audit, dashboard=False, metrics=open_metrics(place), rate=1e6)
    with TestClient(app, follow_redirects=False) as client:
        yield place, app, client, keys


def _same_accounts_of_other_runs(place, family) -> None:
    "Give the family the accounts of main, so that only the portfolio tells them apart; what names a run names one of its own."
    old, new = Ledger(place.ledger, readonly=True), Ledger(family.ledger)
    for event in old.events():
        data = json.loads(json.dumps(event.data, default=str).replace(RUN, "2022-12-27_sample_7"))
        new.append(replace(event, data=data))
    old.close(), new.close()


def routes(app) -> list[tuple[str, str]]:
    "Return method and address of every route that the service has, filled with what exists in 'main'."
    fill = {"name": RUN, "stage": "40_trade", "client_order_id": "abc", "coin": "BTC"}
    found = []
    for route in app.router.routes:
        path = route.path
        for name, value in fill.items():
            path = path.replace("{" + name + "}", value)
        found += [(method, path) for method in sorted(getattr(route, "methods", None) or ("GET",)) if method != "HEAD"]
    assert len(found) > 90, "the whole table"
    return found


def ask(client, key, method, path, portfolio=None, body=None):
    query = ({"portfolio": portfolio} if portfolio else {}) | ({"symbol": "KO"} if "history" in path else {})
    headers = {"Idempotency-Key": uuid.uuid4().hex} | ({"X-API-Key": key} if key else {})
    return client.request(method, path, params=query, headers=headers, json=body)


def test_nobody_gets_anything_but_the_door(house):
    place, app, client, keys = house
    for method, path in routes(app):
        if path in ("/signin", "/signout", "/healthz", "/api/v1/session", "/api/v1/session/passkey", "/api/v1/openapi.json"):
            continue
        for key in (None, "carnet_00000000_nonsense"):
            assert ask(client, key, method, path).status_code in (401, 303), (method, path, key)


@pytest.mark.parametrize("who", ["eve", "emil", "sam"])
def test_a_stranger_gets_nothing_of_main_from_any_route(house, who):
    place, app, client, keys = house
    seen = 0
    for method, path in routes(app):
        if method != "GET" or path.endswith(SLOW):
            continue
        for portfolio in (None, "main", "family", "nowhere"):
            if path.endswith("/stream") and portfolio == "family" and who != "sam":
                continue  # their own stream never ends
            answer = ask(client, keys[who], method, path, portfolio)
            text = answer.text
            for mark in ("MARK-MAIN", "4242424", RUN if answer.status_code == 200 else "MARK-MAIN", "SECRET-DEED", "LABEL-OF-a", "anna", "axel",
                         'portfolio="main"'):
                known = mark == RUN and path.endswith("openapi.json")  # an example of the documentation
                assert known or mark not in text, (path, portfolio, mark, text[:300])
            seen += 1
    assert seen > 150


@pytest.mark.parametrize("who", ["eve", "emil", "sam"])
def test_a_stranger_does_nothing_in_main(house, who):
    place, app, client, keys = house
    before = {f: f.stat().st_mtime_ns for f in place.data.parent.rglob("*") if f.is_file() and "users" not in f.name and "answers" not in f.name}
    for method, path in routes(app):
        if method != "GET" and "session" not in path and "sign" not in path:
            for portfolio in (None, "main", "nowhere"):
                assert ask(client, keys[who], method, path, portfolio, {}).status_code in (403, 422), (method, path, portfolio)
    for name, wanted in load_commands().items():
        if wanted.whole and "api" in wanted.doors:
            asked = {"name": "anna", "role": "admin", "portfolios": ["family"], "key": "00000000", "profile": None}
            body = {k: v for k, v in asked.items() if k in wanted.request.model_fields and v}
            own = ask(client, keys[who], "POST", f"/api/v1/commands/{name}", "family", body)
            assert own.status_code == 403, (name, own.text)
    after = {f: f.stat().st_mtime_ns for f in before if f.exists()}
    assert after == before


def test_members_get_their_own_and_the_numbers_are_apart(house):
    place, app, client, keys = house
    get = lambda who, path, portfolio=None: ask(client, keys[who], "GET", "/api/v1" + path, portfolio)  # noqa: E731
    assert "MARK-FAMILY" in get("eve", "/portfolio/events", "family").text and "MARK-MAIN" in get("anna", "/portfolio/events").text
    assert [p["name"] for p in get("eve", "/portfolios").json()["items"]] == ["family"]
    metrics = ask(client, keys["eve"], "GET", "/metrics").text
    assert 'carnet_trading_stopped{account="paper-sample",portfolio="family"} 0.0' in metrics and "carnet_requests_total{" not in metrics
    mine = ask(client, keys["anna"], "GET", "/metrics").text
    assert 'portfolio="main"' in mine and 'portfolio="family"' not in mine and "carnet_requests_total{" in mine
    assert "paper-sample" in get("emil", "/system/summary", "family").text and get("eve", "/system/summary").status_code == 403
    assert get("emil", "/audit").json()["items"] == []


def test_a_change_in_one_portfolio_changes_nothing_in_another(house):
    place, app, client, keys = house
    changed = ask(client, keys["emil"], "POST", "/api/v1/commands/change-settings", "family", {"changes": {"limits.max_weight": "0.05"}})
    assert changed.status_code == 200, changed.text
    assert place.settings.read_text() == "[limits]\nmax_weight = 0.123\n" and "0.05" in workspace_for(place, "family").settings.read_text()
    asked = lambda who, portfolio: ask(client, keys[who], "GET", "/api/v1/settings", portfolio).json()  # noqa: E731
    found = {who: next(i["value"] for i in asked(who, p)["items"] if (i["section"], i["name"]) == ("limits", "max_weight"))
             for who, p in (("axel", "main"), ("emil", "family"))}
    assert found == {"axel": 0.123, "emil": 0.05}
    lines = [e.detail.get("portfolio") for e in AuditLog(place.data.parent / "audit.jsonl").entries() if e.action == "settings changed"]
    assert lines == ["family"]


def test_the_page_of_another_portfolio_is_refused_before_anything_is_drawn(house):
    place, app, client, keys = house
    for who, portfolio, status in (("eve", "main", 403), ("sam", "family", 403), ("sam", "", 403)):
        assert ask(client, keys[who], "GET", "/", portfolio).status_code == status
    assert json.loads(ask(client, keys["eve"], "GET", "/", "main").text)["title"] == "Not allowed"
