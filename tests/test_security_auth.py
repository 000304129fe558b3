"Guessers, replayed codes, stolen cookies and keys, roles, the vault, and what the messages say."

import errno
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyotp
import pytest
from cheap_hashes import cheaply

from trading.core.errors import BadInput, Forbidden, LockedOut, NotSignedIn, Refused, TradingError
from trading.security import credentials as proofs
from trading.security import sessions as auth
from trading.security import vault as vaults
from trading.security.audit_log import AuditError
from trading.security.context import open_security
from trading.security.sessions import Authenticator, Session, check_csrf, portfolio_folder, require
from trading.security.vault import Vault, VaultError, key_text, new_key

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)
PASSWORD = "correct horse battery staple"
KEY = b"k" * 32


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch):
    with cheaply(monkeypatch):
        yield


@pytest.fixture
def people(tmp_path):
    users = Authenticator(tmp_path / "users.sqlite", KEY)
    totp = {}
    for name, role in (("vera", "viewer"), ("tom", "trader"), ("ada", "admin")):
        users.add_user(name, PASSWORD, role, [name, "shared"], NOW)
        totp[name] = pyotp.parse_uri(users.enrol_totp(name, NOW))
    yield users, totp
    users.close()


def test_a_guesser_gets_few_tries_and_the_owner_keeps_working(people):
    users, totp = people
    working = users.sign_in("tom", PASSWORD, totp["tom"].at(NOW), NOW)
    checked = locked = 0
    for second in range(2_000):
        try:
            users.sign_in("tom", f"guess {second}", "123456", NOW + timedelta(seconds=second))
        except LockedOut:
            locked += 1
        except NotSignedIn:
            checked += 1
    assert checked < 20 and locked > 1_900
    assert users.session(working.token, NOW + timedelta(minutes=20)).user == "tom"
    users.unlock("tom")
    later = NOW + timedelta(seconds=2_000)
    assert users.sign_in("tom", PASSWORD, totp["tom"].at(later), later).user == "tom"


def test_one_origin_cannot_try_many_names(people):
    users, _ = people
    checked = 0
    for n in range(300):
        try:
            users.sign_in(f"name{n}", "guess", "", NOW, origin="203.0.113.9")
        except LockedOut:
            continue
        except NotSignedIn:
            checked += 1
    assert checked <= 21


def test_guesses_at_the_same_instant_are_counted_one_by_one(people):
    users, _ = people
    seen = []

    def guess():
        with pytest.raises(NotSignedIn) as caught:
            users.sign_in("tom", "guess", "123456", NOW)
        seen.append(type(caught.value))

    threads = [threading.Thread(target=guess) for _ in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(seen) == 20 and seen.count(LockedOut) == 20 - auth.FREE_ATTEMPTS - 1


def test_a_code_opens_once_even_for_two_at_the_same_instant(tmp_path, people):
    users, totp = people
    other = Authenticator(users.path, KEY)  # another process on the same file
    came_in = []

    def enter(door):
        try:
            came_in.append(door.sign_in("tom", PASSWORD, totp["tom"].at(NOW), NOW))
        except NotSignedIn:
            pass

    threads = [threading.Thread(target=enter, args=(d,)) for d in (users, other, users, other)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(came_in) == 1
    for late in (0, 20, 29):  # the same code within its own minute
        with pytest.raises(NotSignedIn):
            other.sign_in("tom", PASSWORD, totp["tom"].at(NOW), NOW + timedelta(seconds=late))
    other.close()


def test_every_way_to_fail_gives_the_same_answer(people):
    users, totp = people
    users.lock("tom")
    users.add_user("newt", PASSWORD, "trader", [], NOW)
    said = set()
    for name, password, code in (
        ("eve", PASSWORD, "1"),
        ("ada", "wrong", totp["ada"].at(NOW)),
        ("ada", PASSWORD, "000000"),
        ("vera", PASSWORD, ""),
        ("tom", PASSWORD, totp["tom"].at(NOW)),
        ("newt", PASSWORD, ""),
        ("", "", ""),
        ("' or 1=1 --", "x", "y" * 10**6),
    ):
        with pytest.raises(NotSignedIn) as caught:
            users.sign_in(name, password, code, NOW)
        said.add(str(caught.value))
    assert len(said) == 1 and PASSWORD not in said.pop()


def test_a_stolen_cookie_is_worth_nothing_after_sign_out_lock_or_a_new_role(people):
    users, totp = people
    at = NOW
    for end in (
        lambda s: users.sign_out(s.token),
        lambda s: users.set_role("tom", "viewer"),
        lambda s: users.set_role("tom", "trader"),
        lambda s: users.set_password("tom", PASSWORD),
        lambda s: users.enrol_totp("tom"),
        lambda s: users.lock("tom"),
    ):
        at += timedelta(minutes=2)
        session = users.sign_in("tom", PASSWORD, totp["tom"].at(at), at)
        assert users.session(session.token, at)
        uri = end(session)
        totp["tom"] = pyotp.parse_uri(uri) if isinstance(uri, str) else totp["tom"]
        with pytest.raises(NotSignedIn):
            users.session(session.token, at)


def test_sessions_end_when_idle_and_at_the_latest_after_half_a_day(people):
    users, totp = people
    session = users.sign_in("tom", PASSWORD, totp["tom"].at(NOW), NOW)
    at = NOW
    while at + timedelta(minutes=25) < NOW + auth.SESSION_LIFETIME:
        at += timedelta(minutes=25)
        assert users.session(session.token, at)
    with pytest.raises(NotSignedIn):
        users.session(session.token, NOW + auth.SESSION_LIFETIME + timedelta(seconds=1))
    at = NOW + timedelta(days=1)
    idle = users.sign_in("tom", PASSWORD, totp["tom"].at(at), at)
    with pytest.raises(NotSignedIn):
        users.session(idle.token, at + auth.IDLE_LIMIT + timedelta(seconds=1))


def test_the_file_opens_nothing_for_whoever_steals_it(people):
    users, totp = people
    session = users.sign_in("tom", PASSWORD, totp["tom"].at(NOW), NOW)
    key = users.make_key("tom", "robot", NOW, role="trader")
    kept = b"".join(p.read_bytes() for p in users.path.parent.glob("users.sqlite*"))
    for secret in (PASSWORD, session.token, session.csrf, key, key[-43:], totp["tom"].secret):
        assert secret.encode() not in kept
    assert all(p.stat().st_mode & 0o077 == 0 for p in users.path.parent.glob("users.sqlite*"))


@pytest.mark.parametrize(("needed", "allowed"), [("viewer", "vta"), ("trader", "ta"), ("admin", "a")])
def test_each_role_may_what_it_may_and_no_more(people, needed, allowed):
    users, totp = people
    for name in ("vera", "tom", "ada"):
        session = users.sign_in(name, PASSWORD, totp[name].at(NOW), NOW)
        key = users.key_session(users.make_key(name, "x", NOW), NOW)
        if name[0] in allowed:
            assert require(session, needed) is session
        else:
            with pytest.raises(Forbidden):
                require(session, needed)
        assert key.role == "viewer"
        with pytest.raises(Refused):
            users.make_key("vera", "x", NOW, role=needed if needed != "viewer" else "admin")


def test_portfolios_of_others_cannot_be_reached(people):
    users, totp = people
    session = users.sign_in("tom", PASSWORD, totp["tom"].at(NOW), NOW)
    assert require(session, "trader", "shared") and portfolio_folder(Path("d"), "tom") == Path("d/portfolios/tom")
    for other in ("ada", "main", "", "../ada", "tom/../ada"):
        with pytest.raises(Forbidden):
            require(session, "viewer", other)
    for path in ("../x", "/etc", "a/b", "..", ".", "a\0b", "A", "x" * 41, "a..b", "con\n"):
        with pytest.raises(BadInput):
            portfolio_folder(Path("d"), path)


def test_a_form_needs_the_token_of_its_own_session(people):
    users, totp = people
    one = users.sign_in("tom", PASSWORD, totp["tom"].at(NOW), NOW)
    two = users.sign_in("ada", PASSWORD, totp["ada"].at(NOW), NOW)
    check_csrf(users.session(one.token, NOW), one.csrf)
    for given in ("", two.csrf, one.token, one.csrf[:-1], "é"):
        with pytest.raises(Forbidden):
            check_csrf(users.session(one.token, NOW), given)
    with pytest.raises(Forbidden):
        check_csrf(Session("x", "admin", (), NOW), "")
    check_csrf(users.key_session(users.make_key("tom", "x", NOW), NOW), "")


@pytest.mark.parametrize("secret", ["", "carnet_", "carnet_00000000_" + "a" * 43, "x" * 10_000, "' or 1=1", "carnet_é"])
def test_an_unknown_key_is_refused(people, secret):
    with pytest.raises(NotSignedIn, match="unknown, ended or taken back"):
        people[0].key_session(secret, NOW)


def test_nothing_is_done_that_cannot_be_recorded(tmp_path, monkeypatch):
    guard = open_security(tmp_path, {"CARNET_VAULT_KEY": key_text(new_key())}, ring=False)
    guard.users.add_user("ada", PASSWORD, "viewer", [], NOW)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trading.security.audit_log._add", full)
    for act in (
        lambda: guard.users.sign_in("ada", PASSWORD, "", NOW),
        lambda: guard.users.set_role("ada", "admin"),
        lambda: guard.users.make_key("ada", "x", NOW),
    ):
        with pytest.raises(AuditError, match="No space left"):
            act()
    assert guard.users.user("ada").role == "viewer" and guard.users.keys() == [] and guard.users._read("select * from sessions") == []
    guard.users.close()


def test_a_vault_that_was_altered_or_is_opened_wrongly_says_one_sentence_without_secrets(tmp_path):
    key = new_key()
    vault = Vault(tmp_path / "vault.bin", key)
    vault.set("KRAKEN_SECRET", "q1w2e3r4t5z6u7")
    whole = vault.path.read_bytes()
    for place in range(len(whole)):
        vault.path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        with pytest.raises(VaultError) as caught:
            vault.get("KRAKEN_SECRET")
        assert "q1w2" not in str(caught.value) and key_text(key) not in str(caught.value) and "\n" not in str(caught.value)
    for cut in (0, 1, 20, len(whole) - 1):
        vault.path.write_bytes(whole[:cut])
        with pytest.raises(VaultError):
            vault.names()
        with pytest.raises(VaultError):
            vault.set("other", "value")  # a damaged vault is not overwritten
        assert vault.path.read_bytes() == whole[:cut]


def test_a_full_disk_leaves_the_old_vault(tmp_path, monkeypatch):
    vault = Vault(tmp_path / "vault.bin", key := new_key())
    vault.set("a", "first value")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(vaults.os, "fsync", full)
    for act in (lambda: vault.set("a", "second value"), lambda: vault.rotate(new_key())):
        with pytest.raises(VaultError, match="No space left on device; nothing was changed") as caught:
            act()
        assert "second value" not in str(caught.value)
    monkeypatch.undo()
    assert vault.get("a") == Vault(vault.path, key).get("a") == "first value"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vault.bin", "vault.bin.lock"]


def test_two_who_write_to_the_vault_lose_nothing(tmp_path):
    key = new_key()
    threads = [
        threading.Thread(target=lambda n=n: [Vault(tmp_path / "v", key).set(f"s{n}.{k}", "value") for k in range(10)]) for n in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(Vault(tmp_path / "v", key).names()) == 40


def test_no_message_of_any_error_shows_a_secret(people, tmp_path):
    users, totp = people
    secret = "q1w2e3r4t5z6u7i8"
    for act in (
        lambda: users.add_user("bob", "password1234", "viewer", []),
        lambda: users.sign_in("ada", secret, secret, NOW),
        lambda: users.session(secret, NOW),
        lambda: users.key_session("carnet_" + secret, NOW),
        lambda: Vault(tmp_path / "v", secret[:5] + "é" * 9).get("x"),
        lambda: vaults.read_key("q1w2"),
        lambda: Vault(tmp_path / "v", b"q1w2"),
        lambda: Vault(tmp_path / "v", new_key()).set("name", ""),
    ):
        with pytest.raises(TradingError) as caught:
            act()
        assert "q1w2" not in str(caught.value) and "password1234" not in str(caught.value)


def test_real_hashes_cost_memory_and_time(monkeypatch):
    monkeypatch.undo()
    assert proofs.hash_password(PASSWORD).startswith("$argon2id$v=19$m=65536,t=3,p=4$")
