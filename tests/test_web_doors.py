"The doors of the service behind a proxy: which names, whose word, which cookies, which keys, which sessions."

import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from trading.api.app import make_app
from trading.core.errors import BadInput, BadSettings, Forbidden, MissingData, Refused
from trading.security.audit_log import AuditLog
from trading.security.sessions import Authenticator
from trading.security.user_store import UsersError
from trading.services.commands import Actor, Context, perform
from trading.services.portfolios import add_portfolio
from trading.services.workspace import Workspace

PASSWORD, NOW = "correct horse battery", datetime(2026, 11, 20, 9, tzinfo=UTC)


def door(home: Path, **more):
    "Return users, audit log and a function that makes a client of the service."
    place = Workspace(home / "data", home / "reports", home / "settings.ini")
    place.data.mkdir(exist_ok=True)
    users, audit = Authenticator(home / "users.sqlite"), AuditLog(home / "audit.jsonl")
    for name in ("vic", "val"):
        users.add_user(name, PASSWORD, "viewer", ["main"])
    app = make_app(place, users, audit, dashboard=False, rate=1e6, **more)
    return users, lambda host="127.0.0.1", base="http://carnet.test": TestClient(app, base_url=base, client=(host, 1), follow_redirects=False)


def sign_in(client, name="vic", password=PASSWORD, **headers):
    return client.post("/api/v1/session", json={"name": name, "password": password}, headers=headers)


def test_cookies_are_secure_and_browsers_stay_with_https_when_the_settings_say_so(tmp_path):
    users, client = door(tmp_path, https=True)
    answer = sign_in(client())
    assert answer.headers["set-cookie"].startswith("__Host-carnet_session=") and "domain" not in answer.headers["set-cookie"].lower()
    assert "secure" in answer.headers["set-cookie"].lower() and answer.headers["strict-transport-security"].startswith("max-age=31536000")


def test_the_scheme_of_a_trusted_proxy_makes_the_cookie_secure_and_nobody_elses_does(tmp_path):
    users, client = door(tmp_path, proxies=("10.0.0.0/8",))
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    assert "secure" in sign_in(client("10.1.2.3"), **told).headers["set-cookie"].lower()
    assert "secure" not in sign_in(client("203.0.113.7"), **told).headers["set-cookie"].lower()
    seen = [e.detail["origin"] for e in AuditLog(tmp_path / "audit.jsonl").entries()]
    assert seen == [] or seen == ["203.0.113.9", "203.0.113.7"]


def test_a_name_that_is_not_ours_is_refused_but_for_the_sign_of_life(tmp_path):
    users, client = door(tmp_path, hosts=("carnet.test",))
    assert client().get("/api/v1/openapi.json").status_code == 200
    evil = client(base="http://evil.test")
    assert evil.get("/api/v1/openapi.json").status_code == 421 and "service.hosts" in evil.get("/signin").json()["detail"]
    assert sign_in(evil).status_code == 421 and evil.get("/healthz").status_code == 200
    assert client(base="http://carnet.test:8443").get("/signin").status_code == 200, "the port does not matter"


def test_wrong_tries_behind_a_proxy_lock_out_nobody_else(tmp_path):
    users, client = door(tmp_path)
    shared = client("10.0.0.1")
    answers = [sign_in(shared, f"nobody{n}", "wrong wrong wrong").status_code for n in range(30)]
    assert answers[:20] == [401] * 20 and answers[-1] == 429
    assert sign_in(shared).status_code == 200, "the right password of somebody else, from the same address"
    for _ in range(6):
        sign_in(client("10.0.0.2"), "val", "wrong wrong wrong")
    assert sign_in(client("10.0.0.2"), "val").status_code == 429 and sign_in(client("10.0.0.2"), "vic").status_code == 200


def test_a_proxy_that_is_believed_gives_each_client_an_address_of_its_own(tmp_path):
    users, client = door(tmp_path, proxies=("10.0.0.1",))
    for n in range(25):
        sign_in(client("10.0.0.1"), f"nobody{n}", "wrong", **{"X-Forwarded-For": "203.0.113.1"})
    other = sign_in(client("10.0.0.1"), "nobody99", "wrong", **{"X-Forwarded-For": "198.51.100.7"})
    assert other.status_code == 401, "looked at: this address has not failed yet"


def test_nonsense_in_the_settings_of_the_proxies_is_named(tmp_path):
    users, client = door(tmp_path, proxies=("proxy",))
    with pytest.raises(BadSettings, match="neither an address nor a network"):
        client().get("/healthz")


def test_a_key_does_what_it_is_for_and_nothing_else(tmp_path):
    users, client = door(tmp_path)
    users.add_user("tom", PASSWORD, "trader", ["main", "family"])
    users.enrol_totp("tom")
    ask = lambda key, method, path, **more: client().request(method, "/api/v1" + path if path != "/metrics" else path, headers={  # noqa: E731
        "X-API-Key": key, "Idempotency-Key": uuid.uuid4().hex}, **more).status_code
    for scope, good, bad in (("read", ("GET", "/jobs"), ("POST", "/portfolio/notes")), ("stop", ("POST", "/commands/stop-trading"), ("GET", "/jobs")),
                             ("metrics", ("GET", "/metrics"), ("GET", "/jobs"))):
        key = users.make_key("tom", scope, role="trader", scope=(scope,))
        body = {"reason": "test"} if good[0] == "POST" else None
        assert ask(key, *good, json=body) in (200, 404) and ask(key, *bad, json={"text": "x"}) == 403, scope
    only = users.make_key("tom", "one", role="trader", portfolios=("family",))
    assert ask(only, "GET", "/jobs") == 403 and ask(only, "GET", "/jobs", params={"portfolio": "family"}) == 200
    users.set_portfolios("tom", ["main"])
    assert users.key_session(only).portfolios == (), "what the user lost, the key has lost"
    with pytest.raises(BadInput, match="cannot be for 'everything'"):
        users.make_key("tom", "x", scope=("everything",))
    with pytest.raises(Refused, match="for main only"):
        users.make_key("tom", "x", portfolios=("family",))


def test_open_sessions_are_listed_and_ended_by_their_own_or_by_an_admin(tmp_path):
    users, client = door(tmp_path)
    first, second = client(), client()
    csrf = sign_in(first).json()["csrf"]
    sign_in(second, "val")
    (own,) = first.get("/api/v1/sessions").json()["items"]
    assert own["user"] == "vic" and own["id"] not in users.path.read_text("latin-1")[:0] + own["user"]
    theirs = next(s["id"] for s in users.sessions() if s["user"] == "val")
    end = lambda one: first.post("/api/v1/commands/end-session", json={"session": one}, headers={  # noqa: E731
        "X-CSRF-Token": csrf, "Idempotency-Key": uuid.uuid4().hex})
    assert end(theirs).status_code == 404 and second.get("/api/v1/session").status_code == 200, "not one's own"
    assert end(own["id"]).status_code == 200 and first.get("/api/v1/session").status_code == 401, "at once"
    place = Workspace(tmp_path / "data", tmp_path / "reports")
    admin = Context(place, Actor("ada"), security=lambda: type("S", (), {"users": users, "vault": None})())
    assert perform("end-session", {"session": theirs}, admin, None).text == "The session of val is over."
    with pytest.raises(MissingData, match="no open session"):
        perform("end-session", {"session": theirs}, admin, None)
    with pytest.raises(Forbidden):
        perform("end-session", {"session": theirs}, Context(place, Actor("sam", "viewer", (), "api")), None)


def test_a_page_that_asks_by_itself_keeps_nobody_signed_in_and_a_person_does(tmp_path):
    now = [NOW]
    users, client = door(tmp_path, clock=lambda: now[0])
    polling, touched = client(), client()
    for one in (polling, touched):
        assert sign_in(one).status_code == 200

    def later(one, minutes: int, path: str = "/api/v1/portfolios", **headers) -> int:
        now[0] += timedelta(minutes=minutes)
        one.app.state.service.gate.forget()  # it believes for a quarter of a real second
        return one.get(path, headers=headers).status_code

    for _ in range(2):  # the console and the page look for stops all the time, and somebody touches one of them
        assert later(polling, 14, **{"x-by-itself": "1"}) == 200 and later(touched, 0, "/api/v1/session") == 200
    assert later(polling, 14, **{"x-by-itself": "1"}) == 401 and later(touched, 0, "/api/v1/session") == 200
    assert later(touched, 25, "/console", accept="text/html") == 200 and later(touched, 25, "/console", accept="text/html") == 200
    reload = {"accept": "text/html", "sec-fetch-mode": "navigate"}  # nobody has gone there
    safari = {"user-agent": "Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15", **reload}
    for _ in range(2):  # it never says 'sec-fetch-user': an address that somebody typed is somebody
        assert later(touched, 25, "/console", **{"sec-fetch-site": "none"}, **safari) == 200
    assert later(touched, 25, "/console", **reload) == 200 and later(touched, 25, "/console", **reload) == 303
    assert sign_in(again := client()).status_code == 200
    for more in ({"sec-fetch-site": "same-origin"} | safari, {"sec-fetch-site": "none"} | reload):  # the page itself; another browser
        assert later(again, 14, "/console", **more) == 200
    assert later(again, 14, "/console", **reload) == 303


def test_the_stop_is_let_through_when_the_file_of_users_breaks_and_the_rate_is_used_up(tmp_path):
    users, client = door(tmp_path)
    users.add_user("tom", PASSWORD, "trader", ["main"])
    users.enrol_totp("tom")
    key, asked = users.make_key("tom", "robot", role="trader"), client()
    head = lambda: {"X-API-Key": key, "Idempotency-Key": uuid.uuid4().hex}  # noqa: E731
    assert asked.get("/api/v1/jobs", headers=head()).status_code == 200
    asked.get("/api/v1/session", headers=head())
    users._read = lambda *a: (_ for _ in ()).throw(UsersError("the disk is broken"))
    import time

    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass
    assert asked.get("/api/v1/jobs", headers=head()).status_code >= 400
    assert asked.post("/api/v1/system/stop-trading", json={"reason": "now"}, headers=head()).status_code == 200


def test_the_cookie_that_only_this_host_can_set_comes_before_one_of_a_neighbour_and_both_go_with_signing_out(tmp_path):
    users, client = door(tmp_path, https=True)
    val, vic = client(base="https://carnet.test"), client(base="https://carnet.test")
    assert sign_in(val, "val").status_code == 200 and sign_in(vic).status_code == 200
    both = {"Cookie": f"carnet_session={val.cookies['__Host-carnet_session']}; __Host-carnet_session={vic.cookies['__Host-carnet_session']}"}
    assert client().get("/api/v1/session", headers=both).json()["user"] == "vic"
    number = vic.get("/api/v1/session").json()["csrf"]
    left = vic.delete("/api/v1/session", headers={"X-CSRF-Token": number})
    assert left.headers["clear-site-data"] == '"cache"' and {c.partition("=")[0] for c in left.headers.get_list("set-cookie")} == {
        "carnet_session", "__Host-carnet_session"}
    assert not vic.cookies and vic.get("/api/v1/session").status_code == 401


def test_refusals_are_written_down_and_a_flood_of_them_is_not(tmp_path, caplog):
    users, client = door(tmp_path)
    vic = client()
    sign_in(vic)
    for method, path in (("GET", "/api/v1/users"), ("GET", "/api/v1/portfolio?portfolio=family"), ("POST", "/api/v1/system/stop-trading")):
        assert vic.request(method, path, json={}).status_code == 403
    client("203.0.113.9").get("/api/v1/portfolio%0A2026-01-01 all is well")
    said = [r.getMessage() for r in caplog.records if r.name == "carnet.web"]
    assert len(said) == 4 and all("vic asked" in line for line in said[:3]) and "203.0.113.9 asked" in said[3] and "\n" not in said[3]
    caplog.clear()
    for _ in range(200):
        client("203.0.113.10").get("/api/v1/portfolio")
    assert 60 <= sum(r.name == "carnet.web" for r in caplog.records) < 200


def test_no_address_answers_to_trace(tmp_path):
    users, client = door(tmp_path)
    vic = client()
    sign_in(vic)
    number = {"X-CSRF-Token": vic.get("/api/v1/session").json()["csrf"]}
    for path in ("/", "/signin", "/healthz", "/api/v1/session", "/api/v1/portfolio", "/api/v1/openapi.json"):
        answer = vic.request("TRACE", path, headers=number | {"X-Probe": "echo-of-a-header"})
        assert answer.status_code in (404, 405) and "echo-of-a-header" not in answer.text, path


def test_of_a_portfolio_that_is_named_twice_the_same_one_is_checked_and_shown(tmp_path):
    users, client = door(tmp_path)
    add_portfolio(Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini"), "family")
    vic = client()
    sign_in(vic)
    for path in ("/api/v1/portfolio/events", "/api/v1/settings", "/"):
        assert vic.get(f"{path}?portfolio=main&portfolio=family").status_code == 403, path
    assert vic.get("/api/v1/portfolio/events?portfolio=family&portfolio=main").status_code == 200, "the last one counts"


def test_a_page_opens_however_much_of_what_open_pages_ask_for_hangs(tmp_path):
    pytest.importorskip("panel", reason="panel is missing: pip install 'carnet[serve]'")
    from trading.dashboard.ahead import PAGE_THREADS

    place = Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini")
    place.data.mkdir()
    users, free = Authenticator(tmp_path / "users.sqlite"), threading.Event()
    users.add_user("vic", PASSWORD, "viewer", ["main"])
    app = make_app(place, users, AuditLog(tmp_path / "audit.jsonl"))
    token = users.sign_in("vic", PASSWORD, "", datetime.now(UTC), "here").token
    hanging = [PAGE_THREADS.submit(free.wait, 120) for _ in range(40)]  # updates, charts and reports that wait for a disk
    try:
        answer = TestClient(app, cookies={"carnet_session": token}).get("/")
        assert answer.status_code == 200 and 'id="screens"' in answer.text
        assert not any(work.done() for work in hanging), "the page has waited for none of them"
    finally:
        free.set()
