"The documentation of the service is true: every address, every role, every answer; and what is asked twice is done once."

import json
import os
import uuid
from collections import Counter

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from waiting import wait_until
from web_server import documented, serve

from trading.ops.telemetry import METRICS

pytestmark = pytest.mark.xdist_group("web")  # one worker: the tests share runs that are made once
ROLES = ("viewer", "trader", "admin")
LIVE = "/api/v1/stream"  # never ends; has a test of its own


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("web")) as running:
        yield running


def operations(server) -> list[tuple[str, str, dict]]:
    return [(method.upper(), path, said) for path, methods in documented(server)["paths"].items() for method, said in methods.items()]


def body_of(said: dict, text: dict) -> dict | None:
    "Return a body that the documentation gives as an example."
    if "requestBody" not in said:
        return None
    schema = text["components"]["schemas"][said["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]]
    return {k: v["examples"][0] for k, v in schema["properties"].items() if k in schema.get("required", []) or k in ("changes",)}


def address(path: str, said: dict) -> str:
    "Fill an address with the examples of the documentation."
    for part in said.get("parameters", ()):
        if part["in"] == "path":
            path = path.replace("{" + part["name"] + "}", part["schema"]["examples"][0] if "examples" in part["schema"] else part["examples"][0])
    needed = [p for p in said.get("parameters", ()) if p["in"] == "query" and p["required"]]
    return path + ("?symbol=KO" if needed else "")


def test_every_route_lets_in_who_has_the_role_and_nobody_else(server):
    text, wrong, seen = documented(server), [], 0
    with httpx.Client(base_url=server.url, timeout=120) as client:
        for method, path, said in operations(server):
            if path == LIVE or said["x-role"] == "anyone":
                continue
            least = ROLES.index(said["x-role"])
            for rank, role in enumerate((None, *ROLES)):
                if rank - 1 >= least and path in ("/api/v1/system/health", "/api/v1/system/security-score", "/api/v1/system/performance-test"):
                    continue  # slow, and asked elsewhere
                headers = {"X-API-Key": server.keys[role]} if role else {}
                headers["Idempotency-Key"] = uuid.uuid4().hex
                found = client.request(method, address(path, said), json=body_of(said, text), headers=headers).status_code
                seen += 1
                allowed = rank - 1 >= least
                if (found in (401, 403)) == allowed or (rank == 0 and found not in (401, 303)) or str(found) not in (*said["responses"], "303"):
                    wrong.append((method, path, role, found))
    assert not wrong and seen > 200


def test_another_ones_portfolio_is_closed_to_everybody(server):
    for method, path, said in operations(server):
        if any(p["name"] == "portfolio" for p in said.get("parameters", ())) and method == "GET" and path != LIVE:
            joint = "&" if "?" in address(path, said) else "?"
            found = server.client("admin").get(address(path, said).removeprefix("/api/v1") + joint + "portfolio=family")
            assert found.status_code == 403 and "no portfolio 'family'" in found.json()["detail"], path


schema = schemathesis.pytest.from_fixture("description")


@pytest.fixture(scope="module")
def description(server):
    text = documented(server)
    slow = ("/api/v1/system/health", "/api/v1/system/security-score", "/api/v1/system/performance-test", LIVE)
    text["paths"] = {p: m for p, m in text["paths"].items() if p not in slow}
    found = schemathesis.openapi.from_dict(text)
    found.config.update(base_url=server.url)
    return found


SEEN: Counter = Counter()  # by route: requests that were made up for it


@schema.parametrize()
@settings(max_examples=int(os.environ.get("CARNET_EXAMPLES", "1")), deadline=None, suppress_health_check=list(HealthCheck), database=None,
          derandomize=True)
def test_no_answer_is_a_crash_or_undocumented(case, server):
    SEEN[case.operation.label] += 1
    if "CARNET_LONG" not in os.environ and SEEN[case.operation.label] > 3 and SEEN[case.operation.label] % 8:
        return  # a long body has a hundred edges: here every eighth of them, all in the soak
    headers = {"X-API-Key": server.keys["admin"]}
    if case.method != "GET":
        headers["Idempotency-Key"] = uuid.uuid4().hex
    checks = [schemathesis.checks.not_a_server_error, schemathesis.checks.CHECKS.get_one("status_code_conformance"),
              schemathesis.checks.CHECKS.get_one("content_type_conformance"), schemathesis.checks.CHECKS.get_one("response_schema_conformance")]
    answer = case.call(headers=headers, timeout=120)
    case.validate_response(answer, checks=checks)


def test_a_key_gives_the_same_answer_and_the_act_happens_once(server):
    with server.client() as client:
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        text = {"text": f"once {uuid.uuid4().hex}"}
        answers = [client.post("/portfolio/notes", json=text, headers=headers) for _ in range(5)]
        assert {a.status_code for a in answers} == {201} and len({a.content for a in answers}) == 1
        notes = [e for e in client.get("/portfolio/events", params={"size": 500}).json()["items"] if e.get("who")]
        assert sum(e["kind"] == "note" for e in notes) >= 1
        assert client.post("/portfolio/notes", json={"text": "other"}, headers=headers).status_code == 422
        jobs = [client.post("/runs", json={}, headers={"Idempotency-Key": "the same run"}).status_code for _ in range(1)]
        assert jobs == [422]  # a key has no spaces
        key = {"Idempotency-Key": uuid.uuid4().hex}
        first, second = client.post("/runs", json={}, headers=key), client.post("/runs", json={}, headers=key)
        assert first.status_code == second.status_code == 202 and first.json()["id"] == second.json()["id"]
        wait_until(lambda: client.get(f"/jobs/{first.json()['id']}").json()["status"] != "running", every=0.1)
        assert client.get(f"/jobs/{first.json()['id']}").json()["status"] == "done"


def test_a_note_drops_no_answer_that_does_not_tell_of_notes(server):
    with server.client("trader") as client:
        addresses = ("/settings", "/runs", "/portfolio/holdings", "/risk/metrics", "/predictions", "/strategies/compare")

        def missed() -> int:
            assert all(client.get(address).status_code == 200 for address in addresses)
            return client.get("/system/cache-stats").json()["misses"]

        missed()
        told, before = client.get("/portfolio/events").json()["total"], missed()
        sent = client.post("/portfolio/notes", json={"text": "nothing of it is in these"}, headers={"Idempotency-Key": uuid.uuid4().hex})
        assert sent.status_code == 201 and missed() == before
        events = client.get("/portfolio/events").json()
        assert events["items"][0]["kind"] == "note" and events["total"] == told + 1, "the list of events tells it at once"


def test_an_answer_that_is_there_already_is_not_sent_again_and_a_long_one_is_compressed(server):
    with server.client() as client:
        client.headers["Accept-Encoding"] = "identity"
        first, again = (client.get("/portfolio/holdings") for _ in range(2))  # made, and kept
        tag = first.headers["etag"]
        assert again.headers["etag"] == tag and again.content == first.content and "content-encoding" not in again.headers
        same = client.get("/portfolio/holdings", headers={"If-None-Match": f'"other", {tag}'})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        small = client.get("/portfolio/holdings", headers={"Accept-Encoding": "gzip"})
        assert small.headers["content-encoding"] == "gzip" and small.content == first.content
        assert int(small.headers["content-length"]) < len(first.content)
        money = {"kind": "deposit", "amount": "1"}
        assert client.post("/commands/book-entry", json=money, headers={"Idempotency-Key": uuid.uuid4().hex}).status_code == 200
        newer = client.get("/portfolio/holdings", headers={"If-None-Match": tag})
        assert newer.status_code == 200 and newer.headers["etag"] != tag and newer.json() != first.json()


def test_settings_of_one_profile_leave_the_others_alone(server):
    def found(profile: str | None = None) -> dict:
        items = client.get("/settings", params={"profile": profile} if profile else {}).json()["items"]
        return next(i for i in items if (i["section"], i["name"]) == ("limits", "max_group_weight"))

    def put(changes: dict, profile: str | None = None) -> httpx.Response:
        return client.put("/settings", json={"changes": changes} | ({"profile": profile} if profile else {}),
                          headers={"Idempotency-Key": uuid.uuid4().hex})

    with server.client("admin") as client:
        before, others = found()["value"], found("forex")["value"]
        done = put({"limits.max_group_weight": "0.37"}, "crypto")
        assert done.status_code == 200 and {c["profile"] for c in done.json()["changes"]} == {"crypto"}, done.text
        assert found("crypto")["value"] == 0.37 and found("crypto")["from"].startswith("settings.ini, line")
        assert (found()["value"], found("forex")["value"]) == (before, others)
        text = (server.home / "settings.ini").read_text()
        for changes, profile in (({"limits.max_group_weight": "0.2"}, "cryptoo"), ({"limits.max_group_weight": "7"}, "crypto"),
                                 ({"limits.max_weight": "0.1", "limits.no_such": "1"}, "crypto")):
            refused = put(changes, profile)
            assert refused.status_code == 422 and (server.home / "settings.ini").read_text() == text, refused.text
        back = put({"limits.max_group_weight": None}, "crypto")
        assert back.status_code == 200 and found("crypto")["value"] != 0.37
        last = {"seq": 0}
        while page := client.get("/audit", params={"after": last["seq"], "limit": 1000}).json()["items"]:
            last = page[-1]
        assert last["action"] == "settings changed" and last["detail"]["profile"] == "crypto"


def test_pages_of_a_list_neither_overlap_nor_leave_out(server):
    with server.client("viewer") as client:
        whole = client.get("/portfolio/fills", params={"size": 500}).json()
        parts = [client.get("/portfolio/fills", params={"size": 3, "page": n}).json() for n in range(1, whole["total"] // 3 + 3)]
    assert [i for p in parts for i in p["items"]] == whole["items"] and parts[-1]["items"] == [] and parts[0]["pages"] == -(-whole["total"] // 3)


def test_a_browser_that_was_away_hears_what_it_missed(server):
    def events(last: str | None, count: int) -> list[dict]:
        headers = {"X-API-Key": server.keys["viewer"]} | ({"Last-Event-ID": last} if last else {})
        found, event = [], {}
        with httpx.stream("GET", server.url + LIVE, headers=headers, timeout=120) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name in ("id", "event", "data"):
                    event[name] = value
                elif not line and "data" in event:
                    if event["event"] == "ledger":
                        found.append(event)
                    event = {}
                if len(found) == count:
                    break
        return found

    with server.client() as client:
        seqs = []
        for n in range(3):
            seqs.append(client.post("/portfolio/notes", json={"text": f"n{n}"}, headers={"Idempotency-Key": uuid.uuid4().hex}).json()["seq"])
    heard = events(f"{seqs[0] - 1}.0", 3)
    assert [json.loads(e["data"])["seq"] for e in heard] == seqs
    again = events(heard[1]["id"], 1)
    assert json.loads(again[0]["data"])["seq"] == seqs[2]


ABSENT = {  # documented numbers that nobody can know after two runs on the sample market
    "carnet_health_score": "nobody has examined the machine",
    "carnet_check_status": "nobody has examined the machine, and every part could be read",
    "carnet_backup_timestamp_seconds": "no backup was made",
    "carnet_backup_size_bytes": "no backup was made",
    "carnet_alerts_total": "no alert was raised",
    "carnet_alerts_dead": "no alert was raised, and no run has ended that could have raised one",
    **{name: "the sample market has no venue" for name in METRICS if name.startswith("carnet_venue_")},
}

SOMETIMES = {"carnet_health_score", "carnet_check_status", "carnet_alerts_dead"}  # there when another test was first


def test_every_documented_measure_is_told_or_its_absence_has_a_reason(server):
    from prometheus_client.parser import text_string_to_metric_families

    asked = {"Authorization": f"Bearer {server.keys['viewer']}"}
    with server.client() as client, httpx.stream("GET", server.url + LIVE, headers=asked, timeout=120) as live:
        lines = live.iter_lines()  # kept: with it the connection would go
        next(lines)
        assert client.post("/runs", json={}, headers={"Idempotency-Key": uuid.uuid4().hex}).status_code == 202
        measure = lambda: httpx.get(server.url + "/metrics", headers=asked, timeout=120)  # noqa: E731
        wait_until(lambda: "carnet_listeners 0" not in measure().text)  # a stream begins to listen a moment after its first line
        found = measure()
    told = {s.name: s for f in text_string_to_metric_families(found.text) for s in f.samples}
    there = {name for name in METRICS if name in told or f"{name}_count" in told}
    missing = set(METRICS) - there
    unexplained, wrong = missing - set(ABSENT), set(ABSENT) - missing - SOMETIMES
    assert found.status_code == 200 and not unexplained and not wrong, (unexplained, wrong)
    assert told["carnet_listeners"].value >= 1 and sum(s.value for f in text_string_to_metric_families(found.text)
                                                       for s in f.samples if s.name == "carnet_jobs") >= 1


def test_the_first_scrape_after_a_stop_tells_it_and_the_first_after_its_end_does_not(server):
    from datetime import UTC, datetime

    from prometheus_client.parser import text_string_to_metric_families
    from typed import carnet_alone

    from trading.risk.stop_flag import raise_stop

    def stopped() -> dict[str, float]:
        text = httpx.get(server.url + "/metrics", headers={"X-API-Key": server.keys["viewer"]}, timeout=120).text
        found = [s for f in text_string_to_metric_families(text) for s in f.samples if s.name == "carnet_trading_stopped"]
        return {f"{s.labels['portfolio']}/{s.labels['account']}": s.value for s in found}

    def resume() -> httpx.Response:
        with server.client() as client:
            names = [name.partition("/")[2] for name in accounts if name.startswith("main/")]
            return client.post("/commands/resume-trading", json={"reason": "seen", "accounts": names}, headers={"Idempotency-Key": uuid.uuid4().hex})

    accounts = set(stopped())
    if any(stopped().values()):  # another test has asked for it, were it by a generated request
        resume()
    assert accounts and not any(stopped().values())
    for _ in range(10):  # no answer of before is kept: neither of the stop nor of its end
        flag = raise_stop(server.home / "data", "ann", "a look", datetime.now(UTC))[0]
        assert set(stopped().values()) == {1.0}
        (server.home / "data" / f"stop-{flag.id}.json").unlink()
        assert set(stopped().values()) == {0.0}
    assert "Trading is stopped for all" in carnet_alone(server.home, "kill", "by the command")
    assert set(stopped()) == accounts and set(stopped().values()) == {1.0}
    with server.client() as client:
        wait_until(lambda: "by the command" in client.get("/portfolio").json()["kill_switch"])
        told = client.get("/portfolios").json()["items"]
        assert told and all("by the command" in "; ".join(p["stopped"]) for p in told)
    ended = resume()
    assert ended.status_code == 200 and not any(stopped().values()), ended.text
