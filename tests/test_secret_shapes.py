"Secrets without a name beside them are masked in every way they travel, and ordinary lines stay as they are."

import contextlib
import io
import json
import logging
import random
import string
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from trading.core.redaction import KnownSecrets, redact, redact_notebook, redact_text
from trading.core.secret_shapes import mask_shapes

ROOT = Path(__file__).parent.parent
ALNUM, HEX = string.ascii_letters + string.digits, "0123456789abcdef"


def shapes(seed: int) -> dict[str, tuple[str, str]]:
    "Make one secret of each form: the text it stands in, and the part that must not be seen."
    rng = random.Random(seed)
    r = lambda n, letters=ALNUM: "".join(rng.choice(letters) for _ in range(n - 3)) + "aB1"  # noqa: E731  never all digits or all small
    h = lambda n: "".join(rng.choice(HEX) for _ in range(n))  # noqa: E731
    bot = f"{rng.randint(10**9, 10**10)}:AA{r(33)}"
    words = rng.sample(
        [
            "abandon",
            "ability",
            "absent",
            "absorb",
            "abstract",
            "absurd",
            "abuse",
            "access",
            "accident",
            "account",
            "accuse",
            "achieve",
            "acid",
            "acoustic",
            "acquire",
            "across",
        ],
        12,
    )
    plain = {
        "telegram": bot,
        "github": "ghp_" + r(36),
        "github fine": "github_pat_" + r(60),
        "github app": "ghs_" + r(36),
        "gitlab": "glpat-" + r(20),
        "npm": "npm_" + r(36),
        "pypi": "pypi-AgEIcHlwaS5vcmc" + r(60),
        "hugging face": "hf_" + r(34),
        "stripe": "sk_live_" + r(24),
        "stripe test": "rk_test_" + r(24),
        "stripe hook": "whsec_" + r(32),
        "openai": "sk-proj-" + r(48),
        "anthropic": "sk-ant-api03-" + r(80),
        "sendgrid": f"SG.{r(22)}.{r(43)}",
        "google": "AIza" + r(35),
        "google token": "ya29." + r(60),
        "aws": "AKIA" + "".join(rng.choice(string.ascii_uppercase + string.digits) for _ in range(16)),
        "aws session": "ASIA" + "".join(rng.choice(string.ascii_uppercase + string.digits) for _ in range(16)),
        "twilio": "SK" + h(32),
        "mailgun": "key-" + h(32),
        "digital ocean": "dop_v1_" + h(64),
        "slack bot": f"xoxb-{r(12)}-{r(24)}",
        "slack app": "xapp-1-" + r(40),
        "shopify": "shpat_" + h(32),
        "wallet": "0x" + h(64),
        "extended key": "xprv9" + r(106),
        "wallet import": "5K" + r(49),
        "seed phrase": " ".join(words),
        "age": "AGE-SECRET-KEY-1" + r(58).upper(),
        "exchange 64": r(64),
        "exchange base64": r(86) + "==",
        "vault": "hvs." + r(24),
        "docker": "dckr_pat_" + r(27),
        "grafana": f"glsa_{r(32)}_{h(8)}",
        "heroku": f"HRKU-{uuid.UUID(int=rng.getrandbits(128))}",
        "twitch": "oauth:" + r(30).lower(),
        "discord bot": f"MTA{r(21)}.{r(6)}.{r(38)}",
        "mailchimp": h(32) + "-us12",
        "asana": f"2/{rng.randint(10**15, 10**16)}/{rng.randint(10**15, 10**16)}:{h(32)}",
        "azure": f"AccountKey={r(60)}==",
        "jwt": f"eyJ{r(20)}.eyJ{r(40)}.{r(43)}",
        "carnet": f"carnet_{h(8)}_{r(32)}",
    }
    addresses = {
        "telegram call": (f"https://api.telegram.org/bot{bot}/sendMessage", bot),
        "apprise telegram": (f"tgram://{bot}/12345", bot),
        "slack hook": (f"https://hooks.slack.com/services/T{h(8).upper()}/B{h(8).upper()}/{(s := r(24))}", s),
        "slack path": (f"Retrying: /services/T{h(8).upper()}/B{h(8).upper()}/{(s2 := r(24))}", s2),
        "discord hook": (f"https://discord.com/api/webhooks/{rng.randint(10**17, 10**18)}/{(d := r(68))}", d),
        "teams hook": (
            f"https://x.webhook.office.com/webhookb2/{uuid.UUID(int=rng.getrandbits(128))}@{h(8)}/IncomingWebhook/{(t := h(32))}/{h(36)}",
            t,
        ),
        "apprise pushover": (f"pover://{(p := r(30))}@{r(30)}", p),
        "database": (f"postgresql://carnet:{(w := r(16))}@db/x", w),
        "sentry": (f"https://{(e := h(32))}@o1.ingest.test/1", e),
    }
    return {name: (text, text) for name, text in plain.items()} | addresses


NAMES = sorted(shapes(0))


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_without_a_name_beside_it_is_masked_in_every_way_it_travels(name):
    for seed in range(5):
        text, secret = shapes(seed)[name]
        core = secret[-20:] if " " not in secret else " ".join(secret.split()[3:6])
        stream = io.StringIO()
        logger = logging.Logger("venue")
        logger.addHandler(handler := logging.StreamHandler(stream))
        handler.addFilter(lambda record: (setattr(record, "msg", redact_text(record.getMessage())), setattr(record, "args", ())) and True)
        logger.warning("the venue answered %s", text)
        cell = {
            "cell_type": "code",
            "source": f"said = '{text}'",
            "metadata": {},
            "outputs": [
                {"output_type": "stream", "text": [f"before {text} after\n"]},
                {"output_type": "error", "ename": "E", "evalue": f"no answer: {text}", "traceback": [f"E: {text!r}"]},
            ],
        }
        ways = {
            "log": stream.getvalue(),
            "traceback": redact_text(f"ConnectionError: cannot reach {text!r}"),
            "JSON": redact_text(json.dumps({"address": text, "n": 1})),
            "value": str(redact({"address": [text, {"inner": text}]})),
            "notebook": json.dumps(redact_notebook({"cells": [cell], "metadata": {}})["cells"][0]["outputs"]),
            "exception": str(redact({"error": ValueError(f"bad answer {text}")})),
        }
        assert not [way for way, shown in ways.items() if core in shown], f"{name} of seed {seed}"


def ordinary_lines() -> list[str]:
    "Ten thousand lines of logs, reports, notebooks and code, none of which holds a secret."
    rng = random.Random(3)
    h = lambda n: "".join(rng.choice(HEX) for _ in range(n))  # noqa: E731
    lines = []
    for _ in range(1500):
        lines += [
            f"2024-01-02T12:00:{rng.randint(10, 59)}.123456+00:00 INFO order {h(24)} BTC/USDT filled at {rng.random() * 60000:.2f}",
            f"data version {h(64)}, settings {h(64)}, plan {h(12)} approved by Ada; run 2022-12-27_sample_{rng.randint(1, 99)}",
            f"GET https://api.venue.test/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=500 200 in {rng.randint(1, 900)} ms",
            f"job {uuid.UUID(int=rng.getrandbits(128))} ended with exit code 0; log in data/jobs/{h(12)}.log; commit {h(40)}",
        ]
    skip = {"redaction", "secret_shapes", "log_redaction", "credentials"}
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if not skip & {path.stem.split("_", 1)[-1]}:
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
                lines += "".join(cell["source"]).splitlines() if cell["cell_type"] == "markdown" else []
    return lines


def test_ordinary_lines_stay_as_they_are():
    lines = ordinary_lines()
    changed = [(line, shown) for line in lines if (shown := mask_shapes(line)) != line]
    assert len(lines) > 10_000 and not changed, changed[:5]


def test_parts_of_a_known_secret_are_masked():
    known = KnownSecrets()
    known.add("q1w2e3r4t5y6u7i8o9p0a1s2d3f4g5h6", "tgram://7123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1/99887766")
    assert "q1w2e3r4t5y6u7i8" not in known.mask("key q1w2e3r4t5y6u7i8… was refused") and "d3f4g5h6" not in known.mask(
        "key …o9p0a1s2d3f4g5h6 was refused"
    )
    assert "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1" not in known.mask("token AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1 of the bot")


@pytest.mark.parametrize(
    "name",
    [
        "SMTP_PASS",
        "DB_PASS",
        "GH_PAT",
        "WALLET_SEED",
        "KRAKEN_PRIVATE",
        "BRIDGE_AUTH",
        "JWT_SIGNING",
        "PIN",
        "ENCRYPTION_SALT",
        "SENTRY_DSN",
        "SLACK_WEBHOOK",
        "MT5_LOGIN",
        "APCA_API_KEY_ID",
        "CARNET_ALERT_PHONE",
        "CARNET_VAULT_KEY",
        "CARNET_RUN__STORE",
        "PGPASSWORD",
        "MNEMONIC",
    ],
)
def test_a_variable_of_a_secret_name_is_remembered(name):
    known = KnownSecrets()
    known.add_environment(
        {name: "vmPUZE6mv9SD5VNH", "HOME": "/home/ada", "LANG": "en_GB.UTF-8", "PWD": "/srv/carnet", "EDITOR": "vim-enhanced"}
    )
    assert (
        known.mask("x vmPUZE6mv9SD5VNH y") == "x *** y"
        and known.mask("/home/ada /srv/carnet en_GB.UTF-8 vim-enhanced") == "/home/ada /srv/carnet en_GB.UTF-8 vim-enhanced"
    )


def test_of_a_store_only_what_opens_it_is_secret():
    known = KnownSecrets()
    known.add_environment({"CARNET_RUN__STORE": "postgresql://carnet:pa55wordofours@db.example/bars"})
    assert "pa55wordofours" not in known.mask("login with pa55wordofours failed") and known.mask("db.example/bars") == "db.example/bars"


def test_two_hundred_secrets_six_ways_and_none_comes_through():
    "In a log line, a traceback, a report, the output of a notebook, an answer of the API and an alert."
    import traceback
    from datetime import UTC, datetime

    from trading.api.errors import problem
    from trading.ops.alert_rules import Alert
    from trading.ops.notifications import notify
    from trading.ops.telemetry import json_logs
    from trading.report.daily_report import ReportData, build_report

    class Channel:
        name, level, address, seconds = "kept", "info", "", 5.0

    now, planted, stream = datetime(2024, 1, 2, tzinfo=UTC), [], io.StringIO()
    for seed in range(100, 106):
        planted += [(name, text, secret) for name, (text, secret) in shapes(seed).items()]
    assert len(planted) >= 200 and len(NAMES) >= 40
    handler, through = json_logs(stream), []
    logger = logging.getLogger("planted")
    logger.propagate = True
    try:
        for name, text, secret in planted:
            core = secret[-20:] if " " not in secret else " ".join(secret.split()[3:6])
            stream.seek(0)
            stream.truncate()
            logger.warning("the venue answered %s", text)
            try:
                raise ValueError(f"no answer: {text}")
            except ValueError:
                logger.exception("failed")
                trace = redact_text(traceback.format_exc())
            cell = {"cell_type": "code", "source": "", "metadata": {}, "outputs": [{"output_type": "stream", "text": [f"got {text}\n"]}]}
            ways = {"log": stream.getvalue(), "traceback": trace, "notebook": json.dumps(redact_notebook({"cells": [cell], "metadata": {}})),
                    "api": problem(502, "A venue failed", f"the venue said {text}", errors=[{"msg": text}]).decode()}
            through += [(name, way) for way, told in ways.items() if core in told]
        for name, text, secret in planted[:: len(NAMES) // 8]:  # a page takes longer than a line
            core = secret[-20:] if " " not in secret else " ".join(secret.split()[3:6])
            page = build_report(ReportData(title="T", run_id="r", profile="sample", as_of=now, mode="paper", currency="USD",
                                           attention=[("act", f"the order is rejected: {text}")], sentences=(f"It said {text}.",)))
            through += [(name, "report")] if core in page else []
        sent: list = []
        import trading.ops.notifications as told

        start, told._start = told._start, lambda title, body, level, channel: (sent.append(f"{title} {body}"), (None, None))[1]
        try:
            for name, text, secret in planted:
                sent.clear()
                with contextlib.suppress(Exception):
                    notify(Alert("a", "rule", "critical", "new", f"title {text}", f"body {text}", now, now), [Channel()])
                core = secret[-20:] if " " not in secret else " ".join(secret.split()[3:6])
                assert sent, "the alert was on its way"
                through += [(name, "alert")] if core in sent[0] else []
        finally:
            told._start = start
    finally:
        logging.getLogger().removeHandler(handler)
    assert not through, through[:10]


REPEATED = """
from trading.core.redaction import redact
from trading.core.secret_shapes import SHAPES

spelled = ["HRKU-", "dp.pt.", "dp.st.", "sntrys_", "ATATT3", "sk_live_", "AIza", "AKIA", "SK", "glpat-", "12.", "machine "]
marks = dict.fromkeys([*(hint for hints, *_ in SHAPES for hint in hints), *spelled])
print(sum(bool(redact(mark * (200_000 // len(mark)))) for mark in marks) == len(marks))
"""


def test_a_word_that_repeats_a_mark_is_read_once_as_strangers_may_send_it():
    # Where the work grows with the square of the length, this takes an hour; as it is, a few seconds.
    assert subprocess.run([sys.executable, "-c", REPEATED], cwd=ROOT, capture_output=True, text=True, timeout=300).stdout == "True\n"
