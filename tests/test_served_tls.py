"The service with a certificate: who trusts it is answered, nobody else, and what is wrong with a certificate is one sentence."

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from trading.security.tls_certificate import own_certificate

pytestmark = pytest.mark.xdist_group("served_tls")
ROOT = Path(__file__).parent.parent
ENVIRON = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")} | {
    "PYTHONPATH": str(ROOT), "CARNET_SERVICE__HOSTS": "localhost, 127.0.0.1, api"}
CARNET = [sys.executable, "-c", "from trading.cli.main import main; main(prog_name='carnet')"]


def words(*more: str) -> list[str]:
    return ["serve", "--port", "0", "--no-dashboard", "--without-vault", *more]


@contextlib.contextmanager
def served(home: Path, *more: str):
    "Start the command and give its address and what it said before it listened."
    errors = (home / "errors").open("w+")
    process = subprocess.Popen([*CARNET, *words(*more)], stdout=subprocess.PIPE, stderr=errors, text=True, env=ENVIRON, cwd=home)
    try:
        line = process.stdout.readline()
        said = (home / "errors").read_text()
        assert (found := re.search(r"Carnet listens on (https?://127\.0\.0\.1:\d+)", line)), said
        yield found[1], said
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        assert "Traceback" not in (home / "errors").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(60)
        errors.close()


def trusting(file: Path) -> httpx.Client:
    "Return a client that trusts one authority and no other."
    return httpx.Client(verify=ssl.create_default_context(cafile=file), timeout=60, trust_env=False)


def test_a_service_keeps_a_certificate_that_the_proxy_trusts_and_answers_nobody_in_the_clear(tmp_path):
    folder, kept = tmp_path / "tls", {}
    for start in ("first", "second"):
        with served(tmp_path, "--tls-folder", "tls") as (url, said):
            assert url.startswith("https://") and ("clients trust tls/authority.pem" in said) == (start == "first"), said
            ours = folder / "authority.pem"
            for address, name in ((url, "127.0.0.1"), (url.replace("127.0.0.1", "localhost"), "localhost"), (url, "api"), (url, "evil.example")):
                with trusting(ours) as client:  # a connection of its own: the name is checked when it is made
                    ask = lambda: client.get(address + "/healthz", headers={"Host": name}, extensions={"sni_hostname": name})  # noqa: E731, B023
                    if name == "evil.example":
                        with pytest.raises(httpx.ConnectError, match="(?i)hostname mismatch"):
                            ask()
                    else:
                        assert ask().json() == {"status": "ok"}
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                httpx.get(url + "/healthz", timeout=60, trust_env=False)
            with pytest.raises(httpx.TransportError):
                httpx.get(url.replace("https:", "http:") + "/healthz", timeout=60, trust_env=False)
        found = {f.name: f.read_bytes() for f in folder.iterdir()}
        assert set(found) == {"authority.pem", "authority-key.pem", "service.pem"} and found == (kept or found), "the second start keeps them"
        kept = found
    assert {(folder / n).stat().st_mode & 0o777 for n in ("authority-key.pem", "service.pem")} == {0o600}
    assert b"PRIVATE" not in kept["authority.pem"] and b"PRIVATE" in kept["service.pem"]


def test_a_certificate_that_was_brought_along_is_shown_and_the_cookie_is_secure(tmp_path):
    from trading.security.context import open_security

    files = own_certificate(tmp_path / "made", ["127.0.0.1"])
    guard = open_security(tmp_path / "data", environ={}, ring=False)
    guard.users.add_user("ann", "correct horse battery", "viewer", ["main"])
    guard.users.close()
    with (served(tmp_path, "--tls-certificate", str(files.certificate), "--tls-key", str(files.key)) as (url, _),
          trusting(tmp_path / "made" / "authority.pem") as client):
        answer = client.post(url + "/api/v1/session", json={"name": "ann", "password": "correct horse battery", "code": ""})
        assert answer.status_code == 200 and answer.headers["set-cookie"].startswith("__Host-") and "Secure" in answer.headers["set-cookie"]


def test_a_certificate_that_cannot_be_used_is_one_sentence_and_nothing_listens(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from trading.cli.main import main

    monkeypatch.chdir(tmp_path)
    good, other = own_certificate(tmp_path / "a", ["localhost"]), own_certificate(tmp_path / "b", ["localhost"])
    old = own_certificate(tmp_path / "c", ["localhost"], datetime.now(UTC) - timedelta(days=400))
    (tmp_path / "noise").write_text("no certificate")
    pair = lambda certificate, key: ["--tls-certificate", str(certificate), "--tls-key", str(key)]  # noqa: E731
    both = pair(good.certificate, good.key)
    for given, sentence in ((pair("none.pem", good.key), "none.pem cannot be read: No such file"),
                            (pair("noise", good.key), "noise holds no certificate"), (pair(good.certificate, "noise"), "noise holds no private key"),
                            (pair(good.certificate, other.key), "does not belong to"), (pair(old.certificate, old.key), "ended on"),
                            (both[:2], "give --tls-certificate and --tls-key"), ([*both, "--tls-folder", "d"], "one way of the two"),
                            (["--tls-folder", "noise"], "cannot be used for the certificate")):
        done = CliRunner().invoke(main, words(*given))
        assert done.exit_code == 1 and sentence in done.output and "listens" not in done.output, (given, done.output)
        assert "Traceback" not in done.output and len(done.output.strip().splitlines()) == 1, done.output
    assert not (tmp_path / "d").exists()


def test_a_renewed_certificate_is_shown_without_a_restart_and_a_damaged_one_is_not(tmp_path, monkeypatch, capsys):
    import asyncio
    import socket

    import uvicorn

    from trading.api import server
    from trading.core.errors import BadInput

    made = [own_certificate(tmp_path / name, ["127.0.0.1"]) for name in ("a", "b")]
    given = iter([made[0], made[1], BadInput("the certificate is damaged")])

    def files():
        found = next(given)
        if isinstance(found, Exception):
            raise found
        return found

    looks = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: looks.append(self.config))
    with socket.socket() as taken:
        server.run_server(lambda *_: None, taken, files)
    config = looks[0]
    assert config.timeout_notify == server.RENEWED
    config.load()
    loaded = []
    monkeypatch.setattr(config, "ssl", type("Context", (), {"load_cert_chain": lambda self, *pair: loaded.append(pair)})())
    for _ in range(2):
        asyncio.run(config.callback_notify())
    assert loaded == [(made[1].certificate, made[1].key)] and "kept: the certificate is damaged" in capsys.readouterr().err
