"Secrets planted at any depth of ten thousand log records, in any dress, and texts that have to stay as they are."

import base64
import io
import json
import logging
import random
import string
from functools import cache
from urllib.parse import quote, quote_plus

import pytest

from trading.core.redaction import KNOWN, MASK, KnownSecrets, redact, redact_notebook, redact_text, secret_forms
from trading.core.resources import share_path
from trading.core.settings import load_settings, profiles_in
from trading.security import log_redaction as logs

LETTERS = string.ascii_letters + string.digits
NAMES = (
    "apiKey",
    "api_key",
    "API-KEY",
    "X-MBX-APIKEY",
    "secret",
    "apiSecret",
    "password",
    "db_password",
    "passphrase",
    "access_token",
    "refreshToken",
    "Authorization",
    "Set-Cookie",
    "cookie",
    "signature",
    "csrf_token",
    "totp",
    "private_key",
    "client_secret",
    "KRAKEN_SECRET",
    "session_id",
)


def marker(dice: random.Random) -> str:
    "Return a secret that can be found again in whatever comes out."
    return "".join(dice.choice(LETTERS) for _ in range(dice.randint(20, 44)))


def dressed(dice: random.Random, secret: str) -> str | bytes:
    "Return a text that holds a secret nobody has registered, in a dress that gives it away."
    b64 = base64.b64encode(f"ann:{secret}".encode()).decode()
    return dice.choice(
        (
            lambda: f"https://ann:{secret}@venue.test/x",
            lambda: f"GET https://v.test/order?symbol=BTC&timestamp=1&signature={secret}",
            lambda: f"Authorization: Bearer {secret}",
            lambda: f"authorization: Basic {b64}",
            lambda: f"Cookie: a=1; session={secret}; b=2",
            lambda: f"X-MBX-APIKEY: {secret}",
            lambda: json.dumps({"deep": [{"apiKey": secret}], "n": 1}),
            lambda: f"login(user='x', password='{secret}', n=1)",
            lambda: f"otpauth://totp/Carnet:ann?secret={secret}&issuer=Carnet",
            lambda: f"Key: {secret}, Sign: {secret}",
            lambda: f"-----BEGIN EC PRIVATE KEY-----\n{secret}\n{secret}\n-----END EC PRIVATE KEY-----",
            lambda: f"-----BEGIN PRIVATE KEY-----\n{secret}",
            lambda: f"redirect=https%3A%2F%2Fv.test%3Ftoken%3D{secret}",
            lambda: f"--password={secret} --verbose",
            lambda: f"KRAKEN_SECRET={secret}".encode(),
            lambda: f'{{\\"apiKey\\": \\"{secret}\\"}}',
            lambda: f"api_key=\x1b[33m'{secret}'\x1b[39m",
            lambda: f"the key carnet_{secret} was refused",
        )
    )()


def in_forms(dice: random.Random, secret: str) -> str | bytes:
    "Return a text that holds a registered secret in one of its forms."
    before, after = (
        "".join(dice.choice(LETTERS) for _ in range(dice.randint(0, 5))),
        "".join(dice.choice(LETTERS) for _ in range(dice.randint(0, 5))),
    )
    raw = f"{before}{secret}{after}".encode()
    return dice.choice(
        (
            lambda: f"sent {secret} along",
            lambda: quote(secret, safe="") + "&x=1",
            lambda: quote_plus(secret),
            lambda: raw,
            lambda: base64.b64encode(raw).decode(),
            lambda: base64.urlsafe_b64encode(raw).decode(),
            lambda: quote(base64.b64encode(raw), safe=""),
            lambda: json.dumps({"note": secret}),
            lambda: repr({"note": secret}),
            lambda: secret.encode().hex(),
            lambda: secret.encode().hex().upper(),
        )
    )()


def buried(dice: random.Random, value, depth: int):
    "Bury a value under layers of containers with ordinary things beside it."
    for _ in range(depth):
        value = dice.choice(
            (
                lambda v: {"symbol": "BTC/USDT", "inner": v},
                lambda v: [1, v, None],
                lambda v: (v, 64250.1),
                lambda v: {"orders": [{"note": v}]},
                lambda v: {dice.choice(("a", "b")): v, "price": 2},
            )
        )(value)
    return value


@cache
def traces(secret: str, packed: bool) -> list[str]:
    "Return what must not be found: the middle of the secret, and of its forms when it may be packed."
    middle = [secret[len(secret) // 3 : 2 * len(secret) // 3 + 1].lower()]
    return middle + ([f[4:-4].lower() for f in secret_forms(secret) if len(f) > 16] if packed else [])


def test_none_of_ten_thousand_records_leaks():
    dice, out = random.Random(7), io.StringIO()
    logger = logging.getLogger("carnet.test.leaks")
    logger.propagate, logger.handlers = False, [handler := logging.StreamHandler(out)]
    handler.setFormatter(logging.Formatter("%(message)s %(extra)s"))
    handler.addFilter(logs.SecretFilter())
    known = [marker(dice) + dice.choice(("", "/+&= é", "\"'<")) for _ in range(8)]
    was = list(KNOWN._secrets)
    KNOWN.add(*known)
    try:
        for number in range(10_000):
            secret, way = marker(dice), dice.randrange(3)
            if way == 0:
                value = buried(
                    dice, {dice.choice(NAMES): dice.choice((secret, [secret], {"value": secret}, secret.encode()))}, dice.randint(0, 8)
                )
            elif way == 1:
                value = buried(dice, dressed(dice, secret), dice.randint(0, 8))
            else:
                value = buried(dice, in_forms(dice, secret := dice.choice(known)), dice.randint(0, 8))
            out.seek(0), out.truncate()
            place, none = dice.randrange(5), {"extra": ""}
            if place == 0:
                logger.warning("answer %s", value, extra=none)
            elif place == 1:
                logger.warning("answer", extra={"extra": value})
            elif place == 2:
                logger.warning(value, extra=none)
            elif place == 3:
                try:
                    raise ValueError("refused", value)
                except ValueError:
                    logger.exception("it failed", extra=none)
            else:
                out.write(json.dumps(redact({"event": "x", "value": value}), default=str))
            said = out.getvalue().lower()
            left = [t for t in traces(secret, way == 2) if t in said]
            assert not left, (number, left, said[:500])
    finally:
        KNOWN.forget()
        KNOWN.add(*was)


def test_what_a_trader_reads_stays_as_it_is():
    dice = random.Random(11)
    digest = lambda n: "".join(dice.choice("0123456789abcdef") for _ in range(n))  # noqa: E731
    for _ in range(500):
        plain = {
            "symbol": dice.choice(("BTC/USDT", "AAPL", "EURUSD", "PEPE/USD")),
            "side": dice.choice(("buy", "sell")),
            "price": dice.uniform(0, 1e5),
            "amount": str(dice.random()),
            "client_order_id": f"c{digest(24)}",
            "id": digest(32),
            "hash": digest(64),
            "settings_hash": digest(16),
            "key": f"fill|mine|{digest(8)}",
            "sign": -1,
            "note": dice.choice(
                (
                    f"order {digest(8)}-{digest(4)}-4{digest(3)}-a{digest(3)}-{digest(12)} filled at {dice.uniform(1, 9):.2f}",
                    "sector Basic Materials; bearer bonds; token economy; key rate 4.5 %",
                    f"data version {digest(64)}, commit {digest(40)}",
                    "https://api.venue.test/api/v3/klines?symbol=BTCUSDT&interval=1d&limit=500&startTime=1669593600000",
                    "the session closed at 16:00; seed 7; signed by two people",
                    "max_tokens: 5 of 10",
                    "plan abc approved; see carnet runs",
                )
            ),
            "seed": 7,
            "session": "regular",
            "rows": [[1.5, 2], ["2022-12-28", "ok"]],
            "flag": True,
            "none": None,
            "token_price": 1.2,
        }
        assert redact(plain) == plain and redact_text(json.dumps(plain)) == json.dumps(plain)
        assert type(redact(plain)["price"]) is float


@pytest.mark.parametrize("profile", profiles_in(share_path("settings.ini")))
def test_no_setting_bears_the_name_of_a_secret(profile):
    "Run records are redacted: a setting that looked like a secret would not come back from them."
    values = load_settings(profile, environ={}).model_dump(mode="json")
    assert redact(values) == values


def test_a_run_record_keeps_no_secret(tmp_path):
    from datetime import UTC, datetime

    from trading.pipeline.run_record import create_run

    now = datetime(2026, 11, 20, tzinfo=UTC)
    run = create_run(
        tmp_path,
        "sample",
        now,
        "paper",
        "paper-sample",
        {"run": {}},
        "abc",
        now,
        parameters={"api_key": "q1w2e3r4t5z6", "portfolio": "AAPL,3"},
    )
    run.mark("10_ingest", "failed", 1.0, "GET https://v.test/?signature=q1w2e3r4t5z6 failed")
    kept = (run.folder / "run.json").read_text()
    assert "q1w2e3r4t5z6" not in kept and "signature=***" in kept and run.record.parameters == {"api_key": MASK, "portfolio": "AAPL,3"}


def test_a_secret_that_runs_over_two_messages_is_not_in_the_kept_notebook():
    cells = [
        {
            "cell_type": "code",
            "source": "x",
            "metadata": {},
            "outputs": [{"output_type": "stream", "name": "stdout", "text": ["pass", "word=q1w2", "e3r4\n"]}],
        }
    ]
    assert "q1w2" not in json.dumps(redact_notebook({"cells": cells, "metadata": {}}))


def test_a_registered_secret_of_any_letters_is_found_in_every_form():
    dice = random.Random(3)
    for _ in range(300):
        secret = "".join(chr(dice.choice((dice.randrange(33, 127), dice.randrange(0xC0, 0x17F)))) for _ in range(dice.randint(12, 40)))
        known = KnownSecrets()
        known.add(secret)
        text = in_forms(dice, secret)
        said = known.mask(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
        assert MASK in said, (secret, text)
