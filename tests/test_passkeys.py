"Passkeys: made and removed, alone and beside a password, and every way in which an answer can be wrong."

import copy
import os
import shutil
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from soft_passkey import Device, text
from starlette.testclient import TestClient
from waiting import wait_until

from trading.api.app import make_app
from trading.core.errors import BadInput, BadSettings, LockedOut, NotSignedIn, Refused, TradingError
from trading.security.audit_log import AuditLog
from trading.security.passkeys import site_of
from trading.security.sessions import Authenticator
from trading.security.user_store import MOST_PASSKEYS
from trading.services.workspace import Workspace

PASSWORD, ORIGIN = "correct horse battery", "https://carnet.example.org"
SITE, NOW = site_of(ORIGIN), datetime(2026, 11, 20, 9, tzinfo=UTC)


class House:
    "Users of a test, and a clock that goes on by itself."

    def __init__(self, folder, key=bytes(range(32))):
        self.log, self.at = AuditLog(folder / "audit.jsonl"), NOW
        self.users = Authenticator(folder / "users.sqlite", key, self.log.append)
        for name, role in (("ann", "admin"), ("bob", "trader"), ("vic", "viewer")):
            self.users.add_user(name, PASSWORD, role, ["main"])

    def now(self, seconds=1.0):
        self.at += timedelta(seconds=seconds)
        return self.at

    def give(self, name, device=None, label="a telephone"):
        device = device or Device()
        answer = device.make(self.users.ask_passkey(SITE, self.now(), name), ORIGIN)
        self.users.add_passkey(name, PASSWORD, label, answer, SITE, self.now())
        return device

    def asked(self):
        return self.users.ask_passkey(SITE, self.now())

    def enter(self, answer, name="", password="", site=SITE, origin=""):
        return self.users.sign_in_with_passkey(answer, site, self.now(), name, password, origin)


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.users.close()


def test_alone_with_a_recognised_owner_or_as_the_second_factor_of_a_password(house):
    device = house.give("ann")
    session = house.enter(device.sign(house.asked(), ORIGIN))
    assert (session.user, session.role, session.kind) == ("ann", "admin", "session") and house.users.session(session.token, house.now()).user == "ann"
    second = house.enter(device.sign(house.asked(), ORIGIN, verified=False), "ann", PASSWORD)
    assert second.user == "ann" and second.token != session.token
    with pytest.raises(NotSignedIn):
        house.enter(device.sign(house.asked(), ORIGIN, verified=False))  # touched, not recognised: not enough alone
    seen = [(e.action, e.detail.get("alone")) for e in house.log.entries() if e.action.startswith(("sign-in", "passkeys"))]
    assert seen == [("passkeys.add", None), ("sign-in", True), ("sign-in", False), ("sign-in.failed", None)]


def test_a_device_that_never_counts_is_good_and_one_that_counts_backwards_is_a_copy(house):
    still = house.give("ann", Device(counts=False))
    for _ in range(3):
        assert house.enter(still.sign(house.asked(), ORIGIN)).user == "ann"
    device = house.give("bob")
    for _ in range(3):
        assert house.enter(device.sign(house.asked(), ORIGIN)).user == "bob"
    for count in (3, 2, 0):
        with pytest.raises(NotSignedIn):
            house.enter(device.sign(house.asked(), ORIGIN, count=count))
    assert house.enter(device.sign(house.asked(), ORIGIN, count=40)).user == "bob"
    why = [e.detail["why"] for e in house.log.entries() if e.action == "sign-in.failed"]
    assert len(why) == 3 and all("count" in w for w in why), why


def wrong_answers(house, ann, bob, stranger):
    "Yield what is wrong, and an answer like that; each is good but for this."
    good = lambda **more: ann.sign(house.asked(), ORIGIN, **more)  # noqa: E731

    def changed(part, value):
        answer = good()
        answer["response"][part] = value
        return answer

    def as_(device, other):
        answer = device.sign(house.asked(), ORIGIN)
        answer["id"] = answer["rawId"] = text(other.id)
        return answer

    yield "another site", ann.sign(house.asked(), "https://carnet.example.org.evil.test")
    yield "the site without TLS", ann.sign(house.asked(), "http://carnet.example.org")
    yield "another port", ann.sign(house.asked(), ORIGIN + ":8443")
    yield "another RP ID", good(name="evil.test")
    yield "a page that makes one", good(kind="create")
    yield "nobody touched it", good(present=False)
    yield "a challenge of somebody else", ann.sign({"challenge": text(os.urandom(40)), "rpId": SITE.name}, ORIGIN)
    other = house.users.ask_passkey(SITE, house.now(), "ann")["challenge"]
    yield "a challenge for a new passkey", ann.sign({"challenge": other, "rpId": SITE.name}, ORIGIN)
    yield "no challenge", ann.sign({"challenge": "", "rpId": SITE.name}, ORIGIN)
    yield "a stranger's device", stranger.sign(house.asked(), ORIGIN)
    yield "a stranger's signature under her id", as_(stranger, ann)
    yield "bob's signature under her id", as_(bob, ann)
    yield "bob's user", changed("userHandle", text(bob.handle))
    yield "no signature", changed("signature", "")
    yield "nonsense for a signature", changed("signature", text(os.urandom(70)))
    yield "nonsense for data", changed("authenticatorData", text(os.urandom(40)))
    yield "cut data", changed("authenticatorData", text(b"short"))
    yield "no base64", changed("clientDataJSON", "§§§")
    yield "no JSON", changed("clientDataJSON", text(b"nonsense"))
    yield "a list", changed("clientDataJSON", text(b"[]"))
    yield "no id", good() | {"id": "", "rawId": ""}


def test_every_wrong_answer_is_refused_with_one_sentence_and_its_reason_is_recorded(house):
    ann, bob, stranger = house.give("ann"), house.give("bob"), Device()
    stranger.handle = ann.handle
    told, seen = set(), 0
    for what, answer in wrong_answers(house, ann, bob, stranger):
        house.now(3600)  # so that no pause of an earlier try hides what is looked at here
        fresh = copy.deepcopy(answer)
        if "challenge" not in what and what not in ("no base64", "no JSON", "a list"):
            house.at -= timedelta(seconds=3600)
        with pytest.raises(NotSignedIn) as refused:
            house.enter(fresh)
        told.add(str(refused.value))
        seen += 1
        house.now(3600)
    assert seen == 21 and len(told) == 1, told
    failed = [e for e in house.log.entries() if e.action == "sign-in.failed"]
    assert len(failed) == 21 and all(e.detail["why"] for e in failed)
    assert house.enter(ann.sign(house.asked(), ORIGIN)).user == "ann", "the good one still opens"


def test_an_answer_opens_once_and_not_after_three_minutes(house):
    device = house.give("ann", Device(counts=False))
    answer = device.sign(house.asked(), ORIGIN)
    assert house.enter(answer).user == "ann"
    with pytest.raises(NotSignedIn):
        house.enter(answer)
    late = device.sign(house.asked(), ORIGIN)
    house.now(200)
    with pytest.raises(NotSignedIn):
        house.enter(late)
    early = device.sign(house.users.ask_passkey(SITE, house.at + timedelta(hours=1)), ORIGIN)
    with pytest.raises(NotSignedIn):
        house.enter(early)


def test_the_second_factor_must_be_ones_own_and_the_password_right(house):
    ann, bob = house.give("ann"), house.give("bob")
    for device, name, password in ((bob, "ann", PASSWORD), (ann, "ann", "wrong wrong wrong"), (ann, "nobody", PASSWORD), (ann, "bob", PASSWORD)):
        house.now(3600)
        with pytest.raises(NotSignedIn):
            house.enter(device.sign(house.asked(), ORIGIN), name, password)
    house.now(3600)
    assert house.enter(ann.sign(house.asked(), ORIGIN), " ANN ", PASSWORD).user == "ann"


def test_who_is_blocked_or_has_lost_the_passkey_stays_out(house):
    device = house.give("bob")
    house.users.lock("bob")
    with pytest.raises(NotSignedIn):
        house.enter(device.sign(house.asked(), ORIGIN))
    house.users.unlock("bob")
    session = house.enter(device.sign(house.asked(), ORIGIN))
    name = house.users.passkeys("bob")[0]["id"]
    with pytest.raises(TradingError, match="there is no passkey"):
        house.users.remove_passkey(name, "ann")
    assert house.users.remove_passkey(name, "bob", house.now()) == "bob" and house.users.passkeys("bob") == []
    for call in (lambda: house.enter(device.sign(house.asked(), ORIGIN)), lambda: house.users.session(session.token, house.now())):
        with pytest.raises(NotSignedIn):
            call()


def test_guessing_is_slowed_down_and_locks_out_nobody_else(house):
    ann, stranger = house.give("ann"), Device()
    refused = []
    for _ in range(8):
        with pytest.raises(NotSignedIn) as one:  # to be told to wait is one of them
            house.enter(stranger.sign(house.asked(), ORIGIN), "ann", "wrong wrong wrong", origin="203.0.113.9")
        refused.append(one.type)
    assert refused[:5] == [NotSignedIn] * 5 and LockedOut in refused[5:]
    assert house.enter(ann.sign(house.asked(), ORIGIN), origin="198.51.100.7").user == "ann", "alone it needs no password"


def test_a_new_passkey_needs_the_password_again_the_own_challenge_and_a_name(house):
    device = Device()
    asked = lambda name="ann": house.users.ask_passkey(SITE, house.now(), name)  # noqa: E731

    def add(answer, name="ann", password=PASSWORD, label="x"):
        return house.users.add_passkey(name, password, label, answer, SITE, house.now())

    for answer, more in ((device.make(asked(), ORIGIN), {"password": "wrong wrong wrong"}), (device.make(asked("bob"), ORIGIN), {}),
                         (device.make(asked(), "https://evil.test"), {}), (device.make(asked(), ORIGIN, name="evil.test"), {}),
                         (device.make(asked(), ORIGIN), {"label": ""}), (device.make(asked(), ORIGIN), {"label": "x" * 81}),
                         (device.make(asked() | {"challenge": house.asked()["challenge"]}, ORIGIN), {}), ({"response": {}}, {}), ({}, {})):
        with pytest.raises(BadInput):
            add(answer, **more)
    assert house.users.passkeys() == []
    answer = device.make(asked(), ORIGIN)
    assert add(answer, label="the ring")["label"] == "the ring"
    with pytest.raises(BadInput, match="used already"):
        add(answer)
    with pytest.raises(BadInput, match="known already"):
        add(device.make(asked(), ORIGIN))
    with pytest.raises(BadInput, match="known already"):
        add(device.make(asked("bob"), ORIGIN), "bob")
    assert asked()["excludeCredentials"][0]["id"] == text(device.id) and asked("bob")["excludeCredentials"] == []
    assert house.users.user("ann").passkeys == 1 and house.users.user("bob").passkeys == 0
    for _ in range(MOST_PASSKEYS - 1):
        house.give("ann")
    with pytest.raises(Refused, match="remove one first"):
        house.give("ann")


def test_the_file_holds_no_key_in_the_clear_and_another_vault_opens_nothing(house, tmp_path):
    device = house.give("ann")
    numbers = device.key.public_key().public_numbers()
    data = b"".join(f.read_bytes() for f in tmp_path.glob("users.sqlite*"))
    assert numbers.x.to_bytes(32, "big") not in data and numbers.x.to_bytes(32, "big").hex().encode() not in data
    other = Authenticator(tmp_path / "users.sqlite", bytes(32))
    with pytest.raises(TradingError, match="the vault that holds their key is not the one"):
        other.sign_in_with_passkey(device.sign(other.ask_passkey(SITE, house.now()), ORIGIN), SITE, house.now())
    other.close()


@pytest.mark.parametrize("origin", ["carnet.example.org", "http://carnet.example.org", "https://carnet.example.org/x", "https://10.0.0.1", "https://[::1]",
                                    "https://a:b@carnet.example.org", "ftp://carnet.example.org", "https://"])
def test_nonsense_for_an_address_is_named(origin):
    with pytest.raises(BadSettings, match="service.origin"):
        site_of(origin)


# over HTTP -----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path):
    house = House(tmp_path)
    (tmp_path / "data").mkdir()
    app = make_app(Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini"), house.users, house.log, dashboard=False, rate=1e6,
                   origin=ORIGIN, clock=lambda: house.at)
    yield house, lambda: TestClient(app, base_url=ORIGIN, follow_redirects=False)
    house.users.close()


def browser(client, answer, **named):
    "Sign in, and carry the number of forms from then on."
    told = client.post("/api/v1/session", json=named | {"passkey": answer})
    if told.status_code == 200:
        client.headers["X-CSRF-Token"] = told.json()["csrf"]
    return told


def act(client, method, path, body=None):
    return client.request(method, "/api/v1" + path, json=body, headers={"Idempotency-Key": uuid.uuid4().hex})


def test_made_used_listed_and_removed_over_http(web):
    house, new = web
    client = new()
    told = client.post("/api/v1/session", json={"name": "vic", "password": PASSWORD})
    client.headers["X-CSRF-Token"] = told.json()["csrf"]
    device = Device()
    answer = device.make(client.get("/api/v1/passkeys/new").json(), ORIGIN)
    made = act(client, "POST", "/passkeys", {"password": PASSWORD, "label": "the ring", "passkey": answer})
    assert made.status_code == 201 and made.json()["label"] == "the ring" and "credential" not in made.json()
    other = new()
    assert browser(other, device.sign(other.get("/api/v1/session/passkey").json(), ORIGIN)).json()["user"] == "vic"
    assert [p["label"] for p in other.get("/api/v1/passkeys").json()["items"]] == ["the ring"] and other.get("/passkeys").status_code == 200
    assert new().get("/passkeys").status_code == 303 and new().get("/api/v1/passkeys").status_code == 401
    ann = new()
    assert browser(ann, house.give("ann").sign(ann.get("/api/v1/session/passkey").json(), ORIGIN)).status_code == 200
    hers = next(p["id"] for p in ann.get("/api/v1/passkeys").json()["items"] if p["user"] == "ann")
    assert act(other, "DELETE", f"/passkeys/{hers}").status_code == 404, "another one's"
    forged = new()
    forged.cookies = ann.cookies
    assert act(forged, "DELETE", f"/passkeys/{hers}").status_code == 403, "a form from elsewhere has no number"
    assert act(ann, "DELETE", f"/passkeys/{made.json()['id']}").status_code == 200, "an admin removes anybody's"
    house.now()
    assert other.get("/api/v1/session").status_code == 401
    assert browser(new(), device.sign(new().get("/api/v1/session/passkey").json(), ORIGIN)).status_code == 401


def test_over_http_bad_bodies_and_keys_of_programs_are_refused_and_nothing_names_who_exists(web):
    house, new = web
    client, device = new(), house.give("ann")
    answer = device.sign(client.get("/api/v1/session/passkey").json(), ORIGIN)
    for body in ({"passkey": {}}, {"passkey": "x"}, {"passkey": answer | {"type": "password"}}, {"passkey": answer, "name": "ann"},
                 {"passkey": answer, "password": "x"}, {}, {"code": "123456"}, {"passkey": answer | {"response": {}}},
                 {"passkey": answer | {"id": "x" * 3000}}):
        assert client.post("/api/v1/session", json=body).status_code == 422, body
    asked = client.get("/api/v1/session/passkey").json()
    assert asked["allowCredentials"] == [] and asked["rpId"] == SITE.name and "ann" not in str(asked)
    key = {"X-API-Key": house.users.make_key("vic", "a program")}
    assert client.get("/api/v1/passkeys/new", headers=key).status_code == 409 and client.get("/api/v1/passkeys", headers=key).status_code == 200
    assert browser(client, answer).status_code == 200 and browser(new(), answer).status_code == 401, "the good one was good, once"


def test_where_no_address_is_set_only_this_machine_has_passkeys(tmp_path):
    house = House(tmp_path)
    (tmp_path / "data").mkdir()
    app = make_app(Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini"), house.users, house.log, dashboard=False, rate=1e6)
    assert TestClient(app, base_url="http://localhost:8300").get("/api/v1/session/passkey").json()["rpId"] == "localhost"
    for host in ("http://127.0.0.1:8300", "https://evil.test", "http://localhost.evil.test"):
        told = TestClient(app, base_url=host).get("/api/v1/session/passkey")
        assert told.status_code == 409 and "set service.origin" in told.json()["detail"]
    house.users.close()


# in a browser --------------------------------------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine: install Debian's package 'chromium' to see the page in a browser")
def test_in_a_browser_a_passkey_is_made_signs_in_alone_and_beside_the_password_and_is_removed(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'carnet[dev]'")
    import uvicorn

    house = House(tmp_path)
    (tmp_path / "data").mkdir()
    place = Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini")
    server = uvicorn.Server(uvicorn.Config(make_app(place, house.users, house.log, dashboard=False), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    url = f"http://localhost:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        with playwright.sync_playwright() as p:
            chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
            context = chromium.new_context()
            context.set_default_timeout(60_000)
            page = context.new_page()
            line = context.new_cdp_session(page)
            line.send("WebAuthn.enable")
            device = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True, "isUserVerified": True}
            line.send("WebAuthn.addVirtualAuthenticator", {"options": device | {"automaticPresenceSimulation": True}})
            who = "async () => { const a = await fetch('/api/v1/session'); return a.ok ? (await a.json()).user : '' }"
            page.goto(url + "/signin")
            page.fill("[name=name]", "vic")
            page.fill("[name=password]", PASSWORD)
            page.click("button:has-text('Sign in')")
            page.wait_for_url(url + "/")
            page.goto(url + "/passkeys")
            page.fill("[name=label]", "this machine")
            page.fill("[name=password]", PASSWORD)
            page.click("button:has-text('Make a passkey')")
            page.wait_for_selector("li:has-text('this machine, vic')")
            for named in (False, True):
                context.clear_cookies()
                page.goto(url + "/signin")
                if named:
                    page.fill("[name=name]", "vic")
                    page.fill("[name=password]", PASSWORD)
                page.click("button:has-text('Use a passkey')")
                page.wait_for_url(url + "/")
                assert page.evaluate(who) == "vic"
            page.goto(url + "/passkeys")
            page.click("button:has-text('Remove')")
            page.wait_for_url(url + "/signin")  # with the passkey went the sessions
            assert house.users.passkeys() == []
            page.click("button:has-text('Use a passkey')")
            page.wait_for_selector("#said:has-text('is not accepted')")
            chromium.close()
    finally:
        server.should_exit = True
        thread.join(30)
        house.users.close()
    entered = [e.detail["alone"] for e in house.log.entries() if e.action == "sign-in" and "alone" in e.detail]
    assert entered == [True, False]
