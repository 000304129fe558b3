"""Who may come in, for how long, and what ends it: each rule on both sides, and after each change the question is asked again.

Codes are held against the test vectors of RFC 6238, hashes against literals of other tools.
"""

import json
from datetime import UTC, datetime, timedelta, timezone

import pyotp
import pytest
from cheap_hashes import cheaply

from trading.core.errors import BadInput, Forbidden, LockedOut, MissingData, NotSignedIn, Refused
from trading.security import credentials, vault
from trading.security.audit_log import AuditError, AuditLog, check_log, read_anchor, read_line, write_anchor, write_line
from trading.security.credentials import check_password, code_step, csrf_of, new_token, new_totp, password_fits, token_hash, totp_uri
from trading.security.sessions import Authenticator, Session, check_csrf, portfolio_folder, require
from trading.security.user_store import TotpCipher, User, UsersError, UserStore, check_name, check_role, failed_logins
from trading.security.vault import (
    Vault,
    VaultError,
    key_text,
    new_key,
    open_vault,
    read_key,
    resolve_secret,
    seal,
    unseal,
    vault_key,
    vault_path,
)

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
PASSWORD = "correct horse battery staple"
OTHER = "seven purple llamas humming"
KEY = b"k" * 32
COST = {"time": 1, "memory": 64, "lanes": 1}


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch):
    with cheaply(monkeypatch):
        yield


@pytest.fixture
def log():
    return []


@pytest.fixture
def users(tmp_path, log):
    made = Authenticator(tmp_path / "users.sqlite", KEY, lambda *entry: log.append(entry))
    for name, role in (("vera", "viewer"), ("tom", "trader"), ("ada", "admin")):
        made.add_user(name, PASSWORD, role, [name, "shared"], NOW)
    made.codes = {n: pyotp.parse_uri(made.enrol_totp(n, NOW)) for n in ("tom", "ada")}
    log.clear()
    yield made
    made.close()


def enter(users, name="tom", at=NOW, password=PASSWORD, code=None, origin=""):
    return users.sign_in(name, password, users.codes[name].at(at) if code is None and name in users.codes else code or "", at, origin)


# passwords, codes, tokens


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("xkqvbwzjrmhf", ""), ("xkqvbwzjrmh", "the password has 11 characters; choose between 12 and 256"),
        ("xkqvbwzj" * 32, ""), ("xkqvbwzj" * 32 + "x", "the password has 257 characters"),
        ("xkqvbwxkqvbw", "in a few guesses"), ("xkqvbxxkqvbx", "among the first"),  # six characters twice; and five different ones
        ("dragonxkqvbwzj", ""), ("dragonxkqvbwz", "among the first"),  # eight characters beside a common word, and seven
        ("DRAGONxkqvbwz", "among the first"), ("robertaxkqvbwzj", ""), ("robertaxkqvbwz", "among the first"),  # her own name
        ("qwertyuiopasxm", "among the first"), ("lkjhgfdsapoiuy", "among the first"), ("correct horse battery staple", ""),
    ],
)  # fmt: skip
def test_passwords_that_anybody_would_try(password, words):
    if not words:
        assert check_password(password, "roberta") is None
        return
    with pytest.raises(BadInput, match=words):
        check_password(password, "roberta")


def test_a_pattern_of_keys_is_more_than_half_of_the_steps():
    # in groups of four: abcdefgh has 5 that follow the alphabet; of 10 groups in 13 characters that is half, of 9 in 12 it is more
    with pytest.raises(BadInput, match="in a few guesses"):  # by what follows the alphabet in it, which the first rule lets pass
        check_password("abcdefghqmxvz", "x")
    with pytest.raises(BadInput, match="a pattern of keys"):
        check_password("abcdefghqmxv", "x")
    check_password("correct horse battery", "")  # an empty name takes nothing away


RFC = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # of RFC 6238, appendix B: "12345678901234567890"


@pytest.mark.parametrize(
    ("second", "code"), [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (2000000000, "279037")]
)
def test_codes_are_those_of_the_standard(second, code):
    at = datetime.fromtimestamp(second, UTC)
    assert code_step(RFC, code, at) == second // 30 and code_step(RFC, f"{code[:3]} {code[3:]}", at) == second // 30
    assert code_step(RFC, f"{code[:3]}-{code[3:]}\n", at) == second // 30
    for wrong in (code[:5], code + "0", "", "abcdef", code[:5] + str((int(code[5]) + 1) % 10), "²" + code[1:]):
        assert code_step(RFC, wrong, at) is None


@pytest.mark.parametrize(("seconds", "fits"), [(-31, False), (-30, True), (-1, True), (0, True), (29, True), (30, True), (59, True), (60, False)])
def test_a_code_is_taken_half_a_minute_early_or_late(seconds, fits):
    middle = 1111111110  # a half minute begins here
    assert (code_step(RFC, "050471", datetime.fromtimestamp(middle + seconds, UTC)) == middle // 30) == fits
    step = middle // 30
    now = datetime.fromtimestamp(middle, UTC)
    assert [code_step(RFC, "050471", now, last) for last in (step - 1, step, step + 1)] == [step, None, None]


def test_tokens_and_hashes():
    assert token_hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # sha256sum
    assert csrf_of("token") == "9732e6b919dbeb846fd1494653ad64b7a86d8d3e7b22b4c6166d6eba45e7efb0"  # openssl dgst -sha256 -hmac
    first, second = new_token("carnet_"), new_token("carnet_")
    assert first != second and first.startswith("carnet_") and len(first) == 7 + 43 and len(new_token()) == 43
    assert len(new_totp()) == 32 and new_totp() != new_totp()
    assert totp_uri(RFC, "tom") == f"otpauth://totp/Carnet:tom?secret={RFC}&issuer=Carnet"


def test_a_password_fits_its_own_hash_only():
    kept = credentials.hash_password(PASSWORD)
    assert password_fits(kept, PASSWORD) is True and password_fits(kept, PASSWORD + "x") is False and password_fits(None, PASSWORD) is False
    assert password_fits("nonsense", PASSWORD) is False and kept != credentials.hash_password(PASSWORD) and not credentials.is_dated(kept)
    long = "p" * 257
    assert password_fits(credentials.hash_password(long), long + "more") is True  # what is longer than any password is not looked at


# signing in


def test_signing_in_gives_a_session_and_is_recorded(users, log):
    session = enter(users, origin="1.2.3.4")
    assert (session.user, session.role, session.portfolios, session.kind) == ("tom", "trader", ("tom", "shared"), "session")
    assert session.expires == NOW + 12 * HOUR and len(session.token) == 43 and session.csrf == csrf_of(session.token)
    assert log == [("tom", "sign-in", {"role": "trader", "origin": "1.2.3.4"}, NOW)]
    again = users.session(session.token, NOW + MINUTE)
    assert (again.user, again.role, again.portfolios, again.expires, again.csrf, again.token) == (
        "tom", "trader", ("tom", "shared"), NOW + 12 * HOUR, session.csrf, "")  # fmt: skip
    assert enter(users, "vera", code="").role == "viewer" and users.sign_in("  VERA ", PASSWORD, "", NOW).user == "vera"


@pytest.mark.parametrize(
    ("name", "password", "code", "why"),
    [("tom", OTHER, None, "password"), ("tom", PASSWORD, "000000", "code"), ("tom", PASSWORD, "", "code"), ("nobody", PASSWORD, "", "no such user"),
     ("new", PASSWORD, "123456", "no code enrolled"), ("locked", PASSWORD, "", "blocked"), ("vera", OTHER, "", "password")],
)  # fmt: skip
def test_every_failure_is_one_sentence_outside_and_has_its_reason_inside(users, log, name, password, code, why):
    users.add_user("new", PASSWORD, "trader", [], NOW)
    users.add_user("locked", PASSWORD, "viewer", [], NOW)
    users.lock("locked", NOW)
    log.clear()
    with pytest.raises(NotSignedIn, match="name, password or code is wrong, or the code was used already"):
        enter(users, name, password=password, code=code, origin="here")
    assert log == [(name, "sign-in.failed", {"why": why, "origin": "here"}, NOW)]
    with pytest.raises(NotSignedIn):
        users.sign_in(" " * 3, PASSWORD, "", NOW)
    assert log[-1][0] == "?"


def test_a_code_opens_one_session_and_a_failed_try_uses_none_up(users):
    code = users.codes["tom"].at(NOW)
    with pytest.raises(NotSignedIn):
        users.sign_in("tom", OTHER, code, NOW)
    users.sign_in("tom", PASSWORD, code, NOW)
    with pytest.raises(NotSignedIn):
        users.sign_in("tom", PASSWORD, code, NOW + SECOND)
    users.sign_in("tom", PASSWORD, users.codes["tom"].at(NOW + 30 * SECOND), NOW + 30 * SECOND)
    with pytest.raises(NotSignedIn):  # an older one than the last is not taken either
        users.sign_in("tom", PASSWORD, code, NOW + 31 * SECOND)


def auth_hash(text):
    from trading.security.credentials import token_hash

    return token_hash(text)


def wrong(users, at, origin="", name="tom"):
    with pytest.raises(NotSignedIn) as told:
        users.sign_in(name, OTHER, "", at, origin)
    assert type(told.value) is NotSignedIn, "the try was refused unseen"


def test_wrong_tries_cost_more_and_more_time(users):
    at = NOW
    for _ in range(4):  # four are free
        wrong(users, at)
    wrong(users, at)
    for delay in (2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900):  # then the pause doubles, up to a quarter of an hour
        with pytest.raises(LockedOut):
            users.sign_in("tom", PASSWORD, "", at + timedelta(seconds=delay - 0.001))
        at += timedelta(seconds=delay)
        wrong(users, at)
    session = enter(users, at=at + timedelta(seconds=900))
    assert session.user == "tom"
    for _ in range(5):  # the count begins anew: the first pause is the short one again
        wrong(users, at + timedelta(seconds=901))
    with pytest.raises(LockedOut, match="wait 2 seconds"):
        users.sign_in("tom", PASSWORD, "", at + timedelta(seconds=901))
    with pytest.raises(LockedOut, match="wait 1 seconds"):
        users.sign_in("tom", PASSWORD, "", at + timedelta(seconds=902.9))


def test_an_address_has_five_times_as_many_free_tries_and_locks_out_nobody_else(users):
    for n in range(21):
        wrong(users, NOW, "shop", f"guess{n}")
    for name in ("guess99", "guess3"):  # known to nobody, or wrong from here before: not looked at any more
        with pytest.raises(LockedOut):
            users.sign_in(name, OTHER, "", NOW + SECOND, "shop")
    assert enter(users, "vera", NOW + SECOND, origin="shop").user == "vera", "the right password of somebody else at the address, as behind a proxy"
    with pytest.raises(LockedOut):  # a wrong one is answered like that of a name that does not exist
        users.sign_in("tom", OTHER, "", NOW + SECOND, "shop")
    with pytest.raises(LockedOut):  # and from there not looked at again until the pause is over
        users.sign_in("tom", PASSWORD, users.codes["tom"].at(NOW), NOW + SECOND, "shop")
    assert enter(users, "tom", NOW + SECOND, origin="elsewhere").user == "tom"


def test_wrong_tries_of_an_address_fade_and_those_of_whoever_came_in_are_forgotten(users):
    for n in range(21):
        wrong(users, NOW, "shop", f"guess{n}")
    later = NOW + timedelta(seconds=901)
    wrong(users, later, "shop", "guess99")  # one was forgiven, so this is the 21st again and was looked at
    for _ in range(3):
        wrong(users, later, "home", "vera")
    enter(users, "vera", later, origin="home")
    counts = dict(users._read("select who, wrong from tries where wrong > 0"))
    assert not [who for who in counts if who.endswith(auth_hash("home"))], "nothing is left of her own typing errors"


def test_the_operator_lets_a_name_and_an_address_in_again(users):
    for n in range(21):
        wrong(users, NOW, "shop", "tom" if n < 5 else f"guess{n}")
        if n == 4:
            users.unlock("tom", NOW)
    users.unlock("tom", NOW)
    assert enter(users, "tom", NOW, origin="shop").user == "tom" and not users._read("select 1 from tries where who like 'from %'")


def test_wrong_tries_are_forgotten_after_a_day(users):
    for _ in range(5):
        wrong(users, NOW)
    wrong(users, NOW + DAY + SECOND)
    wrong(users, NOW + DAY + SECOND)  # would have to wait if the five still counted
    with users._write() as db:
        assert [w for (w,) in db.execute("select wrong from tries")] == [2]


def test_a_password_with_a_dated_hash_gets_a_new_one(users, monkeypatch):
    from argon2 import PasswordHasher

    before = users._read("select password from users where name = 'vera'")
    stronger = PasswordHasher(time_cost=2, memory_cost=64, parallelism=1)
    enter(users, "vera")
    assert users._read("select password from users where name = 'vera'") == before
    monkeypatch.setattr(credentials, "_hasher", lambda: stronger)
    enter(users, "vera")
    after = users._read("select password from users where name = 'vera'")[0][0]
    assert "t=2" in after and enter(users, "vera").user == "vera"


# sessions


@pytest.mark.parametrize(
    ("looks", "alive"),
    [([30 * MINUTE], True), ([30 * MINUTE + SECOND], False), ([20 * MINUTE, 50 * MINUTE], True), ([20 * MINUTE, 50 * MINUTE + SECOND], False),
     ([n * 29 * MINUTE for n in range(1, 25)] + [12 * HOUR], True), ([n * 29 * MINUTE for n in range(1, 25)] + [12 * HOUR + SECOND], False)],
)  # fmt: skip
def test_how_long_a_session_lives(users, looks, alive):
    token = enter(users).token
    for moment in looks[:-1]:
        users.session(token, NOW + moment)
    if alive:
        assert users.session(token, NOW + looks[-1]).expires == NOW + 12 * HOUR
        return
    for _ in range(2):  # and it does not come back
        with pytest.raises(NotSignedIn, match="the session is over or was never opened; sign in again"):
            users.session(token, NOW + looks[-1])
    with pytest.raises(NotSignedIn):
        users.session(token, NOW + looks[-1] - MINUTE)


def test_a_look_is_written_down_once_a_minute(users):
    token = enter(users).token
    seen = lambda: users._read("select seen from sessions")[0][0] - NOW.timestamp()  # noqa: E731
    for after, noted in ((60, 0), (61, 61), (121, 61), (122, 122)):
        users.session(token, NOW + timedelta(seconds=after))
        assert seen() == noted


def test_old_sessions_are_swept_away_at_the_next_sign_in(users):
    enter(users)
    enter(users, "vera", NOW + 12 * HOUR)
    assert len(users._read("select * from sessions")) == 2
    enter(users, "vera", NOW + 12 * HOUR + SECOND)
    assert [u for (u,) in users._read("select user from sessions order by began")] == ["vera", "vera"]


def test_signing_out_ends_one_session(users, log):
    one, two = enter(users, "vera"), enter(users, "vera")
    log.clear()
    users.sign_out(one.token, NOW + HOUR)
    assert log == [("vera", "sign-out", {}, NOW + HOUR)] and users.session(two.token, NOW).user == "vera"
    with pytest.raises(NotSignedIn):
        users.session(one.token, NOW)
    users.sign_out(one.token, NOW)
    users.sign_out("never", NOW)
    assert len(log) == 1


CHANGES = {
    "locked": lambda u: u.lock("tom", NOW), "role up": lambda u: u.set_role("tom", "admin", NOW),
    "role down": lambda u: u.set_role("tom", "viewer", NOW),
    "portfolios": lambda u: u.set_portfolios("tom", ["tom"], NOW), "password": lambda u: u.set_password("tom", OTHER, NOW),
    "new code": lambda u: u.enrol_totp("tom", NOW), "unlocked": lambda u: u.unlock("tom", NOW),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_after_every_change_of_a_user_the_open_session_is_over_and_those_of_others_go_on(users, change):
    session, others = enter(users), enter(users, "ada")
    CHANGES[change](users)
    with pytest.raises(NotSignedIn):
        users.session(session.token, NOW + SECOND)
    assert users.session(others.token, NOW + SECOND).user == "ada"


def test_a_change_that_another_process_makes_ends_the_session_too(users, tmp_path):
    session = enter(users)
    with users._write() as db:  # as if the sessions had been put back from a backup: the user is asked again each time
        db.execute("update users set blocked = 1 where name = 'tom'")
    with pytest.raises(NotSignedIn):
        users.session(session.token, NOW)
    session = enter(users, "ada")
    with users._write() as db:
        db.execute("update users set role = 'viewer' where name = 'ada'")
    with pytest.raises(NotSignedIn):
        users.session(session.token, NOW)
    session = enter(users, "vera")
    with users._write() as db:
        db.execute("update users set portfolios = 'vera' where name = 'vera'")
    assert users.session(session.token, NOW).portfolios == ("vera",)


# keys of programs


def test_a_key_opens_what_its_owner_may_and_no_more(users, log):
    secret = users.make_key("tom", "nightly", NOW, "trader", 90, "ada")
    (kept,) = users.keys()
    assert log == [("ada", "keys.add", {"user": "tom", "id": kept["id"], "role": "trader", "label": "nightly", "days": 90}, NOW)]
    assert kept == {"id": kept["id"], "user": "tom", "role": "trader", "label": "nightly", "created": NOW, "expires": NOW + 90 * DAY, "used": None}
    assert secret.startswith(f"carnet_{kept['id']}_") and len(kept["id"]) == 8
    session = users.key_session(secret, NOW + HOUR)
    assert (session.user, session.role, session.portfolios, session.expires, session.kind, session.csrf) == (
        "tom", "trader", ("tom", "shared"), NOW + 90 * DAY, "key", "")  # fmt: skip
    assert users.keys("tom")[0]["used"] == NOW + HOUR and users.keys("vera") == []
    assert users.key_session(secret, NOW + 90 * DAY).user == "tom"
    with pytest.raises(NotSignedIn, match="the key is unknown, ended or taken back"):
        users.key_session(secret, NOW + 90 * DAY + SECOND)


def test_the_use_of_a_key_is_written_down_once_a_minute(users):
    secret = users.make_key("vera", "x", NOW)
    for after, noted in ((0, 0), (60, 0), (61, 61)):
        users.key_session(secret, NOW + timedelta(seconds=after))
        assert users.keys()[0]["used"] == NOW + timedelta(seconds=noted)


@pytest.mark.parametrize(
    ("user", "role", "days", "label", "words"),
    [("vera", "viewer", 1, "x", ""), ("vera", "viewer", 3650, "x" * 100, ""), ("tom", "trader", 90, "x", ""), ("ada", "trader", 90, "x", ""),
     ("vera", "trader", 90, "x", "a key of vera cannot have the role trader: the user is viewer without codes"),
     ("tom", "admin", 90, "x", "a key of tom cannot have the role admin: the user is trader$"), ("tom", "owner", 90, "x", "there is no role 'owner'"),
     ("new", "trader", 90, "x", "the user is trader without codes"), ("new", "viewer", 90, "x", ""), ("none", "viewer", 90, "x", "no user 'none'"),
     ("vera", "viewer", 0, "x", "ends after 1 to 3650 days"), ("vera", "viewer", 3651, "x", "ends after 1 to 3650"),
     ("vera", "viewer", 1, "", "a label of at most 100"), ("vera", "viewer", 1, "x" * 101, "a label of at most 100")],
)  # fmt: skip
def test_which_keys_can_be_made(users, user, role, days, label, words):
    users.add_user("new", PASSWORD, "trader", [], NOW)
    if not words:
        made = users.key_session(users.make_key(user, label, NOW, role, days), NOW)
        assert (made.role, made.expires) == (role, NOW + days * DAY)
        return
    with pytest.raises((BadInput, Refused, MissingData), match=words):
        users.make_key(user, label, NOW, role, days)
    assert users.keys() == []


def test_after_every_change_a_key_is_asked_again(users, log):
    secret, spare = users.make_key("tom", "x", NOW, "trader"), users.make_key("tom", "y", NOW + SECOND)
    users.set_role("tom", "viewer", NOW)
    assert users.key_session(secret, NOW).role == "viewer"
    users.set_role("tom", "admin", NOW)
    assert users.key_session(secret, NOW).role == "trader"  # never more than it was made for
    users.set_portfolios("tom", ["one"], NOW)
    assert users.key_session(secret, NOW).portfolios == ("one",)
    users.lock("tom", NOW)
    with pytest.raises(NotSignedIn):
        users.key_session(secret, NOW)
    users.unlock("tom", NOW)
    assert users.key_session(secret, NOW).user == "tom"
    first = users.keys()[0]["id"]
    log.clear()
    users.revoke_key(first, NOW, "ada")
    assert log == [("ada", "keys.revoke", {"id": first}, NOW)] and users.key_session(spare, NOW).user == "tom"
    for bad in (secret, spare[:-1], spare.replace(spare[7:15], first), spare[:16] + secret[16:], "", "carnet_"):
        with pytest.raises(NotSignedIn):
            users.key_session(bad, NOW)
    with pytest.raises(MissingData, match=f"there is no key '{first}'"):
        users.revoke_key(first, NOW)


@pytest.mark.parametrize(("have", "need", "allowed"), [
    ("viewer", "viewer", True), ("viewer", "trader", False), ("viewer", "admin", False), ("trader", "viewer", True), ("trader", "trader", True),
    ("trader", "admin", False), ("admin", "viewer", True), ("admin", "trader", True), ("admin", "admin", True)])  # fmt: skip
def test_roles(have, need, allowed):
    session = Session("tom", have, ("one",), NOW)
    if allowed:
        assert require(session, need) is session and require(session, need, "one") is session
        with pytest.raises(Forbidden, match="tom has no portfolio 'two'"):
            require(session, need, "two")
    else:
        with pytest.raises(Forbidden, match=f"this needs the role {need}; tom is {have}: ask an admin"):
            require(session, need, "one")


def test_forms_and_folders(tmp_path):
    session = Session("tom", "trader", (), NOW, csrf="abc")
    assert check_csrf(session, "abc") is None and check_csrf(Session("tom", "trader", (), NOW, "key"), "") is None
    for given, whose in (("abd", session), ("", session), ("", Session("tom", "trader", (), NOW)), ("ä", session)):
        with pytest.raises(Forbidden, match="the form does not belong to this session"):
            check_csrf(whose, given)
    assert portfolio_folder(tmp_path, "main") == tmp_path and portfolio_folder(tmp_path, "own") == tmp_path / "portfolios" / "own"
    for bad in ("..", "a/b", "", "Main", "a..b"):
        with pytest.raises(BadInput, match="cannot be the name of a portfolio"):
            portfolio_folder(tmp_path, bad)


# the file of users


def test_names_and_roles():
    for good in ("a", "0", "a-b_c.d", "a" * 40):
        assert check_name(good, "user") == good
    for bad in ("", "a" * 41, "A", ".a", "-a", "a b", "a/b", "a..b", "é", "a\n"):
        with pytest.raises(BadInput, match="cannot be the name of a user"):
            check_name(bad, "user")
    assert [check_role(r) for r in ("viewer", "trader", "admin")] == ["viewer", "trader", "admin"]
    with pytest.raises(BadInput, match="there is no role 'Admin'; roles are viewer, trader, admin"):
        check_role("Admin")
    assert failed_logins("abc") == "user ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_users_are_kept_and_every_change_is_recorded_before_it_is_made(tmp_path, log):
    store = UserStore(tmp_path / "deep" / "users.sqlite", KEY, lambda *entry: log.append((*entry, [u.name for u in store.users()])))
    made = store.add_user("tom", PASSWORD, "viewer", ["one", "two"], NOW, "ada")
    assert made == User("tom", "viewer", ("one", "two"), False, False, NOW) == store.user("tom") and store.users() == [made]
    store.add_user("amy", PASSWORD, "admin", [], NOW)
    assert [u.name for u in store.users()] == ["amy", "tom"] and store.user("amy").portfolios == ()
    assert log == [("ada", "users.add", {"user": "tom", "role": "viewer", "portfolios": ["one", "two"]}, NOW, []),
                   ("terminal", "users.add", {"user": "amy", "role": "admin", "portfolios": []}, NOW, ["tom"])]  # fmt: skip
    log.clear()
    store.set_role("tom", "trader", NOW, "ada")
    store.set_portfolios("tom", ["three"], NOW, "ada")
    store.set_password("tom", OTHER, NOW, "ada")
    store.enrol_totp("tom", NOW, "ada")
    store.lock("tom", NOW, "ada")
    assert store.user("tom") == User("tom", "trader", ("three",), True, True, NOW)
    store.unlock("tom", NOW, "ada")
    assert store.user("tom") == User("tom", "trader", ("three",), True, False, NOW)
    changes = {"role": {"role": "trader"}, "portfolios": {"portfolios": ["three"]}, "password": {}, "totp": {}, "lock": {}, "unlock": {}}
    assert [entry[:4] for entry in log] == [("ada", f"users.{what}", {"user": "tom"} | more, NOW) for what, more in changes.items()]
    assert (tmp_path / "deep" / "users.sqlite").stat().st_mode & 0o077 == 0
    store.close()


def test_changes_that_are_refused_change_and_record_nothing(users, log):
    for deed, words in (
        (lambda: users.add_user("tom", PASSWORD, "viewer", [], NOW), "there is a user 'tom' already"),
        (lambda: users.add_user("new", "short", "viewer", [], NOW), "the password has 5 characters"),
        (lambda: users.add_user("new", PASSWORD, "boss", [], NOW), "there is no role"),
        (lambda: users.add_user("new", PASSWORD, "viewer", ["A B"], NOW), "cannot be the name of a portfolio"),
        (lambda: users.set_password("tom", "short", NOW), "the password has 5"), (lambda: users.set_role("tom", "boss", NOW), "no role"),
        (lambda: users.set_portfolios("tom", ["/"], NOW), "name of a portfolio"), (lambda: users.lock("none", NOW), "there is no user 'none'"),
        (lambda: users.enrol_totp("none", NOW), "there is no user"), (lambda: users.unlock("none", NOW), "there is no user"),
        (lambda: users.set_role("ada", "trader", NOW), "ada is the last admin"), (lambda: users.lock("ada", NOW), "ada is the last admin"),
    ):  # fmt: skip
        before = users.users()
        with pytest.raises((BadInput, MissingData, Refused), match=words):
            deed()
        assert users.users() == before and log == []
    users.set_role("ada", "admin", NOW)  # stays one: not refused
    users.add_user("eve", PASSWORD, "admin", [], NOW)
    users.lock("ada", NOW)
    with pytest.raises(Refused, match="eve is the last admin"):  # one who is blocked does not count
        users.lock("eve", NOW)
    users.unlock("ada", NOW)
    users.lock("eve", NOW)


def test_unlocking_forgets_the_wrong_tries_and_a_new_code_the_old_one(users):
    for _ in range(5):
        wrong(users, NOW)
    with pytest.raises(LockedOut):
        enter(users)
    users.unlock("tom", NOW)
    session = enter(users)
    old = users.codes["tom"]
    users.codes["tom"] = pyotp.parse_uri(users.enrol_totp("tom", NOW))
    with pytest.raises(NotSignedIn):
        users.sign_in("tom", PASSWORD, old.at(NOW + 30 * SECOND), NOW + 30 * SECOND)
    at = NOW + 30 * SECOND
    assert enter(users, at=at).user == "tom" and session.user == "tom"
    users.codes["tom"] = pyotp.parse_uri(users.enrol_totp("tom", at))
    assert enter(users, at=at).user == "tom"  # the code of a new secret is unused, also in the same half minute
    users.set_password("tom", OTHER, NOW)
    assert enter(users, at=NOW + MINUTE, password=OTHER).user == "tom"


def test_secrets_of_telephones_are_kept_encrypted(users, tmp_path):
    kept = [t for (t,) in users._read("select totp from users where totp is not null")]
    assert len(kept) == 2 and all(t.startswith("aes:") for t in kept)
    cipher = TotpCipher(KEY)
    assert cipher.open(cipher.close("abc")) == "abc" and cipher.close("abc") != cipher.close("abc")
    assert TotpCipher(None).close("abc") == "plain:abc" and cipher.open("plain:abc") == "abc"
    for whose, text in ((TotpCipher(b"x" * 32), cipher.close("abc")), (TotpCipher(None), cipher.close("abc")), (cipher, "aes:zz")):
        with pytest.raises(UsersError, match="the vault that holds their key is not the one they were made with"):
            whose.open(text)
    (tmp_path / "broken.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(UsersError, match="the file of users broken.sqlite cannot be opened"):
        UserStore(tmp_path / "broken.sqlite")


# the audit log


def lines(count, key=None):
    out, before = [], ""
    for n in range(1, count + 1):
        line, before = write_line(n, NOW, "ada", "act", {"n": n}, before, key)
        out.append(line)
    return out, before


def whats(data, anchor, *rest):
    return [(f.line, f.what.split(":")[0]) for f in check_log(b"".join(data), anchor, *rest)]


@pytest.mark.parametrize("key", [None, KEY])
def test_what_is_found_in_a_log_that_was_altered(key):
    good, last = lines(4, key)
    anchor = write_anchor(4, last, key)
    assert whats(good, anchor, key) == []
    changed = [good[0], good[1].replace(b'"n":2', b'"n":7'), *good[2:]]
    assert whats(changed, anchor, key)[0] == (2, "the entry was changed after it was written")
    assert (3, "entry 4 does not follow the one before") in whats([*good[:2], good[3]], anchor, key)
    assert (0, "the end is missing") in whats(good[:3], anchor, key)
    assert whats([*good, b"{"], anchor, key)[0] == (5, "the last line has no end")
    assert whats([good[0], b"{}\n", *good[2:]], anchor, key)[0] == (2, "the line is not written as Carnet writes it")
    assert whats([good[0], b"nothing\n", *good[2:]], anchor, key)[0] == (2, "the line is no entry")
    assert whats([good[0], b"[1]\n", *good[2:]], anchor, key)[0][0] == 2
    spaced = json.dumps(json.loads(good[1])).encode() + b"\n"
    assert whats([good[0], spaced, *good[2:]], anchor, key)[0] == (2, "the line is not written as Carnet writes it")
    assert whats(good, None, key) == [(0, "the anchor is missing")] and whats([], None, key) == []
    assert whats(good, b"torn", key) == [(0, "the anchor was changed")]
    assert whats(good, write_anchor(4, "0" * 64, key), key) == [(0, "entry 4 is not the one that was anchored")]
    assert whats(good, write_anchor(3, read_line(good[2]).hash, key), key) == []  # a crash between entry and anchor
    assert whats(good, write_anchor(2, read_line(good[1]).hash, key), key) == [(0, "the anchor has seen only 2 of 4 entries")]
    assert whats([], write_anchor(0, "", key), key) == []
    assert whats([], write_anchor(0, "x", key), key) == [(0, "entry 0 is not the one that was anchored")]


def test_seals_of_a_log():
    plain, last_plain = lines(3)
    sealed, last = lines(3, KEY)
    anchor = write_anchor(3, last, KEY)
    other, _ = lines(3, b"o" * 32)
    assert whats(other, anchor, KEY)[0] == (1, "the seal of the entry is not made with this key")
    assert whats(plain, write_anchor(3, last_plain), KEY) == [(0, "the log is not sealed, though there is a key")]
    assert whats(sealed, write_anchor(3, last, b"o" * 32), KEY) == [(0, "the anchor is not sealed with this key")]
    assert whats(sealed, anchor, None) == []
    assert whats(plain, write_anchor(3, last_plain), None, "", 4) == [(0, "the log has 3 entries and had at least 4")]
    assert whats(plain, write_anchor(3, last_plain), None, "", 3) == []
    mixed = [plain[0], plain[1], sealed[2]]
    assert whats(mixed, anchor, KEY) == []  # sealed from the third on
    assert whats(mixed, anchor, KEY, "", 3) == []
    assert whats(mixed, anchor, KEY, "", 2) == [(2, "the entry carries no seal, and must have one")]
    assert (2, "the entry carries no seal, and must have one") in whats([sealed[0], plain[1], sealed[2]], anchor, KEY)
    cut = sealed[1].replace(read_line(sealed[1]).seal.encode(), b"ab")
    assert whats([sealed[0], cut, sealed[2]], anchor, KEY)[0] == (2, "the seal of the entry was changed")


def test_a_witness_from_outside():
    good, last = lines(3)
    anchor, second = write_anchor(3, last), read_line(good[1]).hash
    assert whats(good, anchor, None, f"2:{second}") == [] and whats(good, anchor, None, f"2:{second[:16]}") == []
    for wrong_one in (f"1:{second}", f"4:{second}", f"0:{second}", "2:" + "0" * 16):
        assert whats(good, anchor, None, wrong_one)[0][1] == "the entry is not the one the witness has seen"
    for bad in ("x:" + second, f"2:{second[:15]}", second, f"-1:{second}"):
        with pytest.raises(BadInput, match="is not 'number:hash' with at least 16 digits"):
            whats(good, anchor, None, bad)


def test_lines_and_anchors_are_read_back():
    line, digest = write_line(7, NOW, "ada", "act", {"password": "hunter2hunter2", "n": 1}, "before", KEY)
    entry = read_line(line)
    assert (entry.seq, entry.time, entry.who, entry.action, entry.before, entry.hash) == (7, NOW, "ada", "act", "before", digest)
    assert entry.detail["n"] == 1 and "hunter2" not in line.decode() and line.endswith(b"\n") and len(entry.seal) == 64
    assert read_line(write_line(1, NOW, "w" * 300, "a" * 300, {}, "")[0]).who == "w" * 200
    assert read_line(write_line(1, NOW, "w", "a" * 300, {}, "")[0]).action == "a" * 200
    short, long = "y z " * 3_996, "y z " * 4_010
    assert read_line(write_line(1, NOW, "w", "a", {"t": short}, "")[0]).detail == {"t": short}
    cut = read_line(write_line(1, NOW, "w", "a", {"t": long}, "")[0]).detail
    assert set(cut) == {"cut", "characters"} and len(cut["cut"]) == 16_000 and cut["characters"] == 16_040 + 8
    for bad in (NOW.replace(tzinfo=None), NOW.astimezone(timezone(HOUR))):
        with pytest.raises(BadInput, match="of an audit entry is not UTC"):
            write_line(1, bad, "w", "a", {}, "")
    assert read_anchor(write_anchor(3, "abc", KEY)) == (3, "abc") and read_anchor(write_anchor(0, "")) == (0, "")
    odd = (b'{"seq":1}', b'{"seq":true,"hash":"x","seal":""}', b'{"seq":1,"hash":2,"seal":""}')
    for bad in (b"", b"[]", *odd, write_anchor(-1, "x"), write_anchor(1, "x") + b" "):
        assert read_anchor(bad) == (-1, "")


def test_a_log_goes_on_and_refuses_what_was_altered(tmp_path):
    path = tmp_path / "deep" / "audit.jsonl"
    log = AuditLog(path, KEY)
    assert log.head() == "" and log.entries() == [] and log.verify() == []
    assert [log.append("ada", f"plan.{n}", {"n": n}, NOW) for n in range(3)] == [1, 2, 3]
    again = AuditLog(path, KEY)
    assert again.append("tom", "sign-in", None, NOW) == 4 and log.append("ada", "plan.4", now=NOW) == 5 and again.verify() == []
    assert [e.seq for e in log.entries()] == [1, 2, 3, 4, 5] and [e.seq for e in log.entries(2)] == [3, 4, 5]
    assert [e.seq for e in log.entries(1, 2)] == [2, 3]
    assert [e.seq for e in log.entries(who="tom")] == [4] and [e.seq for e in log.entries(action="plan")] == [1, 2, 3, 5]
    assert [e.seq for e in log.entries(who="ada", action="plan.1")] == [2] and log.entries(5) == []
    entry = log.entries(4)[0]
    assert log.head() == f"5:{entry.hash[:32]}" and log.verify(log.head()) == [] and (entry.who, entry.detail) == ("ada", {})
    for file in (path, log.anchor, tmp_path / "deep" / "audit.lock"):
        assert file.stat().st_mode & 0o077 == 0
    whole, anchor = path.read_bytes(), log.anchor.read_bytes()
    path.write_bytes(whole + b'{"seq":6,"ti')  # a crash in the middle of an entry
    assert AuditLog(path, KEY).append("ada", "next", now=NOW) == 6 and AuditLog(path, KEY).verify() == []
    path.write_bytes(whole + write_line(6, NOW, "ada", "next", {}, entry.hash, KEY)[0])  # a crash between entry and anchor
    log.anchor.write_bytes(anchor)
    assert AuditLog(path, KEY).append("ada", "next", now=NOW) == 7 and AuditLog(path, KEY).verify() == []
    first = whole.split(b"\n", 1)[0] + b"\n"
    for data, head in ((first, anchor), (b"", anchor), (whole, write_anchor(9, "x", KEY)), (whole.replace(b"plan.4", b"plan.5"), anchor),
                       (b"nothing\n", anchor), (whole, b"torn")):  # fmt: skip
        path.write_bytes(data)
        log.anchor.write_bytes(head)
        with pytest.raises(AuditError, match="the audit log audit.jsonl was altered; nothing is added to it"):
            AuditLog(path, KEY).append("ada", "never", now=NOW)
        assert path.read_bytes() == data
    path.write_bytes(whole)
    log.anchor.write_bytes(anchor)
    with pytest.raises(AuditError, match="is sealed and no key was given: open the vault"):
        AuditLog(path).append("ada", "never", now=NOW)
    with pytest.raises(AuditError, match="was altered"):
        AuditLog(path, KEY, sealed_from=6).append("ada", "never", now=NOW)
    assert AuditLog(path, KEY, sealed_from=5).append("ada", "good", now=NOW) == 6
    for length in (15, 16):
        if length < 16:
            with pytest.raises(BadInput, match="the key of an audit log has 15 bytes; give at least 16"):
                AuditLog(path, b"k" * length)
        else:
            assert AuditLog(path, b"k" * length).path == path
    assert AuditLog(path, anchor=tmp_path / "other").anchor == tmp_path / "other"


def test_a_log_without_seals_is_sealed_from_a_number_on(tmp_path):
    path = tmp_path / "audit.jsonl"
    AuditLog(path).append("ada", "one", now=NOW)
    assert AuditLog(path, KEY).append("ada", "two", now=NOW) == 2
    assert AuditLog(path, KEY, sealed_from=2).verify() == [] and AuditLog(path, KEY, sealed_from=2).append("ada", "three", now=NOW) == 3
    assert [bool(e.seal) for e in AuditLog(path).entries()] == [False, True, True]


# the vault


def test_keys_of_a_vault():
    key = bytes(range(224, 256))
    text = "4OHi4-Tl5ufo6err7O3u7_Dx8vP09fb3-Pn6-_z9_v8="  # base64, with - and _
    assert key_text(key) == text
    assert all(read_key(t) == key for t in (text, f" {text}\n", text.replace("-", "+").replace("_", "/")))
    assert read_key("twelve chars") == "twelve chars" and len(new_key()) == 32 and new_key() != new_key()
    with pytest.raises(BadInput, match="the passphrase of a vault has 11 characters; choose at least 12"):
        read_key("eleven char")
    assert read_key(text[:-1]) == text[:-1]  # no padding: a passphrase


@pytest.mark.parametrize("key", [KEY, "a long passphrase"])
def test_a_sealed_file_opens_with_its_key_only(key):
    data = seal(b"content", key, COST)
    assert unseal(data, key) == b"content" and data != seal(b"content", key, COST) and b"content" not in data
    wrong_key = b"o" * 32 if isinstance(key, bytes) else "another passphrase"
    for bad in (data[:-1] + bytes([data[-1] ^ 1]), data + b"x"):
        with pytest.raises(VaultError, match="the key or passphrase is wrong, or the file was altered"):
            unseal(bad, key)
    with pytest.raises(VaultError, match="the key or passphrase is wrong"):
        unseal(data, wrong_key)
    kind = "by a passphrase; give that" if isinstance(key, str) else "by a key of 32 bytes in base64, not by a passphrase"
    with pytest.raises(VaultError, match=f"the vault is opened {kind}"):
        unseal(data, "a passphrase..." if isinstance(key, bytes) else KEY)
    with pytest.raises(VaultError, match="the file is no vault of Carnet"):
        unseal(b"X" + data[1:], key)
    head = data.index(b"\n", 20) + 1
    with pytest.raises(VaultError, match="altered or cut off"):
        unseal(data[: head + 27], key)
    assert unseal(seal(b"", key, COST), key) == b""  # 12 + 16 bytes behind the header are the least


@pytest.mark.parametrize(
    ("change", "sane"),
    [({}, True), ({"time": 64}, True), ({"time": 65}, False), ({"memory": 2**20 + 1}, False), ({"lanes": 17}, False), ({"time": 0}, False),
     ({"time": "1"}, False),
     ({"time": True}, False), ({"more": 1}, False), ({"kdf": "other"}, False), ({"salt": None}, True), ({"lanes": None}, False)],
)  # fmt: skip
def test_a_header_that_asks_for_too_much_is_refused_before_it_is_tried(change, sane):
    data = seal(b"content", "a long passphrase", COST)
    magic, header, body = data.split(b"\n", 2)
    made = {k: v for k, v in (json.loads(header) | change).items() if v is not None or k == "salt"}
    altered = b"\n".join([magic, json.dumps(made).encode(), body])
    if not change:
        assert unseal(altered, "a long passphrase") == b"content"
        return
    with pytest.raises(VaultError, match="key or passphrase is wrong|asks for something impossible" if sane else "its header cannot be read"):
        unseal(altered, "a long passphrase")


def test_a_vault_keeps_changes_and_rotates(tmp_path):
    path = vault_path(tmp_path)
    assert path == tmp_path / "ops" / "vault.bin"
    held = Vault(path, KEY)
    assert held.names() == [] and repr(held) == "Vault('vault.bin')"
    with pytest.raises(MissingData, match="there is no vault yet"):
        held.rotate(new_key())
    held.set("b", "two secrets")
    held.set("a", "one secret")
    held.set("b", "other value")
    assert held.names() == ["a", "b"] and held.get("b") == "other value" and Vault(path, KEY).get("a") == "one secret"
    assert path.stat().st_mode & 0o077 == 0 and not [p for p in path.parent.iterdir() if p.name.startswith(".")]
    for name in ("", ".a", "a b", "a" * 65, "ä"):
        with pytest.raises(BadInput, match="cannot be the name of a secret"):
            held.set(name, "value")
    held.set("A" + "z_.-9" * 12 + "abc", "x")  # 64
    for value, words in (("", "has 0 characters"), ("x" * 100_001, "has 100,001 characters; it must have between 1 and 100,000")):
        with pytest.raises(BadInput, match=words):
            held.set("c", value)
    held.set("c", "x" * 100_000)
    held.remove("c")
    for missing in (held.remove, held.get):
        with pytest.raises(MissingData, match="the vault holds no 'c'"):
            missing("c")
    own = held.own_key("carnet.x")
    assert len(own) == 32 and held.own_key("carnet.x") == own and held.own_key("carnet.y") != own
    fresh = new_key()
    held.rotate(fresh)
    assert held.get("a") == "one secret" and Vault(path, fresh).own_key("carnet.x") == own
    with pytest.raises(VaultError, match="cannot be opened"):
        Vault(path, KEY).names()
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    with pytest.raises(VaultError):
        held.rotate(KEY)
    path.write_bytes(before)
    assert held.get("a") == "one secret"  # the rotation failed: the key is still the one that fits
    for length in (31, 33):
        with pytest.raises(BadInput, match=f"the key of a vault has {length} bytes; it must have 32"):
            Vault(path, b"k" * length)


def test_where_the_key_of_a_vault_comes_from(tmp_path, monkeypatch):
    monkeypatch.setattr(vault, "read_ring", lambda entry="vault": "from the key ring")
    named = {"CARNET_VAULT_KEY": "from the variable"}

    def person():
        return "from a person"

    assert vault_key(named, True, person) == "from the variable" and vault_key({}, True, person) == "from the key ring"
    assert vault_key({}, False, person) == vault_key({"CARNET_VAULT_KEY": ""}, False, person) == "from a person" and vault_key({}, False) is None
    monkeypatch.setenv("CARNET_VAULT_KEY", "from the process")
    assert vault_key(None, False) == "from the process"
    asked = []
    assert open_vault(tmp_path, {}, False, lambda: asked.append(1) or "from a person") is None and asked == []  # there is no vault: nobody is asked
    open_vault(tmp_path, named, False).set("a", "secret value")
    vault_path(tmp_path).write_bytes(seal(b'{"a": "secret value"}', "from a person", COST))
    assert open_vault(tmp_path, {}, False, lambda: asked.append(1) or "from a person").get("a") == "secret value" and asked == [1]


def test_a_setting_may_stand_for_a_secret(tmp_path):
    held = Vault(tmp_path / "v", KEY)
    held.set("a", "secret value")
    opened = []
    assert resolve_secret("plain", lambda: opened.append(1)) == "plain" and opened == []
    assert resolve_secret("vault:a", held) == resolve_secret("vault:a", lambda: held) == "secret value"
    for nothing in (None, lambda: None):
        with pytest.raises(VaultError, match="vault:a is in the vault, and there is no key to it"):
            resolve_secret("vault:a", nothing)
