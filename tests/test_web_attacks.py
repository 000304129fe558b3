"What an enemy or an accident does to the service: guessing, stealing, forging, flooding, dawdling, and pulling the plug."

import concurrent.futures
import contextlib
import json
import socket
import sqlite3
import uuid
from datetime import UTC, datetime

import httpx
import pytest
from waiting import wait_until
from web_server import PASSWORD, raw, serve

pytestmark = pytest.mark.xdist_group("web")  # one worker: the tests share runs that are made once


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("attacked")) as running:
        yield running


def once() -> dict:
    return {"Idempotency-Key": uuid.uuid4().hex}


def test_a_cookie_needs_the_number_of_our_own_page_and_dies_with_signing_out(server):
    with contextlib.closing(server.sign_in("viewer")) as client:
        assert client.get("/portfolio").status_code == 200
        stolen = httpx.Client(base_url=client.base_url, cookies=dict(client.cookies))
        assert stolen.get("/session").status_code == 200  # whoever has the cookie may look until it ends
        assert stolen.delete("/session").status_code == 403  # but cannot act without the number
        forged = {"X-CSRF-Token": "0" * 32} | once()
        assert stolen.post("/portfolio/notes", json={"text": "x"}, headers=forged).status_code == 403
        elsewhere = {"Origin": "https://elsewhere.example", "X-CSRF-Token": client.headers["X-CSRF-Token"]} | once()
        assert stolen.post("/portfolio/notes", json={"text": "x"}, headers=elsewhere).status_code == 403
        assert client.delete("/session").status_code == 200
        assert stolen.get("/portfolio").status_code == 401
    assert httpx.get(server.url + "/api/v1/portfolio", cookies={"carnet_session": "guessed"}).status_code == 401


def test_a_code_lets_in_once_and_guessing_is_slowed_down(server):
    code = server.codes["trader"].at(datetime.now(UTC))
    asked = {"name": "trader", "password": PASSWORD, "code": code}
    url = server.url + "/api/v1/session"
    first = httpx.post(url, json=asked, timeout=60)
    assert first.status_code == 200 and httpx.post(url, json=asked, timeout=60).status_code == 401
    flags = first.headers["set-cookie"].lower()
    assert "httponly" in flags and "samesite=strict" in flags and PASSWORD not in first.text
    tries = [httpx.post(url, json={"name": "ghost", "password": f"wrong {n}", "code": "000000"}, timeout=60) for n in range(7)]
    assert {t.status_code for t in tries} == {401, 429} and tries[-1].status_code == 429 and int(tries[-1].headers["retry-after"]) >= 1
    said = {t.json()["detail"] for t in tries if t.status_code == 401}
    known = httpx.post(url, json={"name": "viewer", "password": "wrong", "code": ""}, timeout=60).json()["detail"]
    assert said == {known}  # nobody learns which names there are


def test_no_path_leads_out_of_the_folders(server):
    with server.client("admin") as client:
        run = client.get("/runs").json()["items"][0]["id"]
        for part in ("..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e", "....//", "x/../../settings.ini", "%00"):
            for path in (f"/runs/{part}", f"/runs/{part}/report", f"/runs/{run}/notebooks/{part}", f"/jobs/{part}/log"):
                answer = client.get(path)
                assert answer.status_code in (404, 422), (path, answer.status_code)
                assert "root:" not in answer.text and "forecast.window" not in answer.text
        assert client.get(f"/runs/{run}/report").headers["content-type"].startswith("text/html")
    head = raw(server, b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"root:" not in head and head.split(b" ", 2)[1] in (b"303", b"404", b"400")


def test_a_body_that_is_too_large_or_nonsense_is_refused(server):
    with server.client() as client:
        large = client.post("/portfolio/notes", content=b"x" * 1_500_000, headers=once())
        chunks = client.post("/portfolio/notes", content=(b"x" * 100_000 for _ in range(15)), headers=once())
        deep = client.post("/portfolio/notes", content=b"[" * 100_000, headers=once() | {"content-type": "application/json"})
        wrong = client.post("/portfolio/notes", json={"text": "x", "admin": True}, headers=once())
        assert (large.status_code, chunks.status_code, wrong.status_code) == (413, 413, 422) and deep.status_code in (400, 422)
        assert all(a.headers["content-type"] == "application/problem+json" for a in (large, chunks, deep, wrong))
        assert client.get("/portfolio").status_code == 200
    for line in (b"GET / HTTP/9.9\r\n\r\n", b"\x00\xff\xfe\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n"):
        assert b" 500 " not in raw(server, line, 3)


def test_every_answer_carries_what_protects_a_browser(server):
    for path in ("/healthz", "/signin", "/api/v1/portfolio", "/nothing"):
        found = httpx.get(server.url + path).headers
        assert found["x-content-type-options"] == "nosniff" and found["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in found["content-security-policy"]
        assert found["cache-control"] == "no-store" and found["referrer-policy"] == "no-referrer" and "server" not in found
        assert len(found["x-request-id"]) == 16 and "access-control-allow-origin" not in found


def test_who_asks_too_often_waits_and_nobody_else_does(tmp_path):
    with serve(tmp_path, rate=0.5) as narrow, narrow.client("viewer") as greedy, narrow.client("admin") as other:
        found = [greedy.get("/portfolio") for _ in range(40)]
        assert {a.status_code for a in found} == {200, 429} and int(found[-1].headers["retry-after"]) >= 1
        assert other.get("/portfolio").status_code == 200


def test_a_client_that_dawdles_holds_up_nobody(server):
    slow = (b"POST /api/v1/portfolio/notes HTTP/1.1\r\nHost: x\r\nX-API-Key: " + server.keys["trader"].encode() +
            b"\r\nIdempotency-Key: dawdler0\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(raw, server, slow, 120) for _ in range(20)]
        with server.client("viewer") as client:
            assert client.get("/portfolio").status_code == 200
        assert not all(w.done() for w in waiting), "the answer came only after everybody who dawdles had been sent away"
        assert {w.result().split(b" ", 2)[1] for w in waiting} == {b"408"}


def test_two_hundred_connections_that_never_finish_a_head_hold_up_nobody(server):
    port = int(server.url.rsplit(":", 1)[1])
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)) for _ in range(200)]
        with server.client("viewer") as client:
            for letter in b"GET /":
                for line in lines:
                    with contextlib.suppress(OSError):
                        line.sendall(bytes([letter]))
                assert client.get("/portfolio").status_code == 200
    assert httpx.get(server.url + "/healthz", timeout=30).status_code == 200


def test_the_web_server_bounds_connections_idle_time_and_stopping():
    from trading.api.server import LIMITS

    assert LIMITS["limit_concurrency"] <= 2_000 and 0 < LIMITS["timeout_keep_alive"] <= 60 and 0 < LIMITS["timeout_graceful_shutdown"] <= 10


def test_what_was_acknowledged_is_there_after_the_plug_was_pulled(tmp_path):
    acknowledged, keys, unknown = [], {}, {}
    money = {"url": "/commands/book-entry", "json": {"kind": "deposit", "amount": "125"}, "headers": {"Idempotency-Key": uuid.uuid4().hex}}
    with serve(tmp_path) as server:
        with server.client() as client:
            booked = client.post(**money)

        def write(worker: int) -> None:
            with server.client() as client:
                for n in range(1000):
                    text, key = f"note {worker}-{n}", uuid.uuid4().hex
                    try:
                        answer = client.post("/portfolio/notes", json={"text": text}, headers={"Idempotency-Key": key})
                    except httpx.HTTPError:
                        unknown[text] = key  # perhaps it was written, perhaps not
                        return
                    if answer.status_code == 201:
                        keys[text] = (key, answer.json())
                        acknowledged.append(text)

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            done = [pool.submit(write, w) for w in range(16)]
            wait_until(lambda: len(acknowledged) >= 30)
            server.process.kill()
            [d.result() for d in done]
    assert len(acknowledged) >= 30
    with contextlib.closing(sqlite3.connect(server.home / "data" / "answers.sqlite")) as db, db:  # pulled between the deed and its answer
        db.execute("update answers set status = null, body = null where at = (select min(at) from answers)")
    with serve(tmp_path, again=server) as risen, risen.client() as client:
        for text in acknowledged[-3:]:
            key, said = keys[text]
            again = client.post("/portfolio/notes", json={"text": text}, headers={"Idempotency-Key": key})
            assert again.json() == said and again.headers["idempotent-replay"] == "true"
        for text, key in unknown.items():  # asked again with the same key: written once, whether the first time or now
            answers = [client.post("/portfolio/notes", json={"text": text}, headers={"Idempotency-Key": key}) for _ in range(2)]
            assert [a.status_code for a in answers] == [201, 201] and answers[0].json() == answers[1].json()
            acknowledged.append(text)
        again = client.post(**money)
        assert (booked.status_code, again.status_code) == (200, 200) and "idempotent-replay" not in again.headers
        assert again.json() == booked.json()
        with risen.client("admin") as admin:
            assert admin.get("/audit/verify").json()["findings"] == []
    db = sqlite3.connect(risen.home / "data" / "ledger.sqlite")
    kept = [json.loads(d)["text"] for (d,) in db.execute("select data from events where kind = 'note' order by seq")]
    assert set(acknowledged) <= set(kept) and len(kept) == len(set(kept))
    paid = [json.loads(d)["amount"] for (d,) in db.execute("select data from events where kind = 'deposit'")]
    assert paid.count("125") == 1, paid
