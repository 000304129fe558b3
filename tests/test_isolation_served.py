"Two portfolios, both in use, served by one real service; everything it has is asked by members, by strangers and by nobody."

import json
import signal
import uuid
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree

import httpx
import pytest
from waiting import wait_until
from web_server import PASSWORD, documented, left, serve

from trading.accounting.ledger import Ledger
from trading.core.types import Event
from trading.services.portfolios import add_portfolio, every_workspace
from trading.services.workspace import Workspace

pytestmark = pytest.mark.xdist_group("web")  # the runs are made once
SLOW = ("/system/health", "/system/security-score", "/system/performance-test", "/system/benchmark", "/stream", "/session/passkey")  # or for anybody
MAIN = ("MARK-MAIN", "424242", "mainsecret", "sample_1", 'portfolio="main"', "mona", "11 7 * * 1-5")  # what belongs to 'main', its people too
FAMILY = ("MARK-FAMILY", "737373", "familysecret", "sample_7", 'portfolio="family"', "fred", "22 8 * * 1-5")
PROFILE = "\n[{name}secret:market]\nsource = sample\nvenue = stocks\nsymbols = KO, GE\ncurrency = USD\n\n[schedule]\ndaily = {cron}\n"
STOP = {"reason": "REASON-OF-A-DAY"}


def place_of(home: Path) -> Workspace:
    return Workspace(home / "data", home / "reports", home / "settings.ini")


def furnish(home: Path) -> dict[str, str]:
    "Give both portfolios runs, notes, money, settings and people of their own; return the keys."
    from trading.security.context import open_security

    place = place_of(home)
    family = add_portfolio(place, "family")
    for run in place.reports.glob("*_sample_1"):
        there = family.reports / run.name.replace("sample_1", "sample_7")
        copytree(run, there)
        for file in (f for f in there.rglob("*") if f.is_file()):
            data = file.read_bytes()
            if b"sample_1" in data:
                file.write_bytes(data.replace(b"sample_1", b"sample_7").replace(b"</body>", b"MARK-FAMILY</body>"))
    for where, mark, sum_, cron in ((place, "MAIN", "424242.5", "11 7 * * 1-5"), (family, "FAMILY", "737373.5", "22 8 * * 1-5")):
        with where.settings.open("a") as file:
            file.write(PROFILE.format(name=mark.lower(), cron=cron))
        ledger = Ledger(where.ledger)
        ledger.append(Event("note", "paper-sample", datetime(2024, 1, 1, tzinfo=UTC), {"who": "x", "text": "n", "mark": f"MARK-{mark}"}))
        ledger.append(Event("deposit", "paper-sample", datetime(2024, 1, 2, tzinfo=UTC), {"amount": sum_, "currency": "USD"}))
        ledger.close()
    guard = open_security(home / "data", environ={}, ring=False)
    keys = {}
    people = {"fred": ("trader", ["family"]), "fay": ("admin", ["family"]), "flo": ("viewer", ["family"]), "both": ("viewer", ["main", "family"]),
              "mona": ("viewer", ["main"]), "sam": ("viewer", [])}
    for name, (role, mine) in people.items():
        guard.users.add_user(name, PASSWORD, role, mine)
        if role != "viewer":
            guard.users.enrol_totp(name)
        keys[name] = guard.users.make_key(name, "tests", role=role)
    guard.users.close()
    return keys


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("two"), prepare=furnish, pages=True, seconds=600) as running:
        yield running


def ask(server, who, method, path, portfolio=None, key=None, **more) -> httpx.Response:
    shown = key or (server.keys[who] if who else None)
    headers = {"Idempotency-Key": uuid.uuid4().hex} | ({"X-API-Key": shown} if shown else {})
    return httpx.request(method, server.url + of(path, portfolio), headers=headers, timeout=120, **more)


def of(path: str, portfolio: str | None) -> str:
    "Return an address that asks for a portfolio."
    return path + (f"{'&' if '?' in path else '?'}portfolio={portfolio}" if portfolio else "")


def reads(server, run: str) -> list[str]:
    "Return the addresses of everything that can be read, filled with a run of one of the portfolios."
    found = [path.replace("{name}", run).replace("{stage}", "40_trade").replace("{coin}", "BTC") + ("?symbol=KO" if "history" in path else "")
             for path, methods in documented(server)["paths"].items() if "get" in methods and not path.endswith(SLOW)]
    assert len(found) > 45, "the whole table"
    return found


RUNS = {"main": "2022-12-27_sample_1", "family": "2022-12-27_sample_7"}


@pytest.mark.parametrize("who,other", [("flo", "main"), ("fay", "main"), ("mona", "family"), ("sam", "main"), (None, "main")])
def test_whoever_does_not_belong_reads_nothing_from_any_route_or_file(server, who, other):
    with httpx.Client(base_url=server.url, headers={"X-API-Key": server.keys[who]} if who else {}, timeout=120) as client:
        for path in reads(server, RUNS[other]):
            for portfolio in (other, None, "nowhere", f"../{other}"):
                answer = client.get(of(path, portfolio))
                assert answer.status_code in ((401,) if who is None else (200, 403, 404, 409, 422)), (path, portfolio, answer.status_code)
                for mark in MAIN if other == "main" else FAMILY:
                    echoed = mark in path and answer.status_code != 200  # what was asked for, said again in a refusal
                    assert echoed or mark not in answer.text, (path, portfolio, mark, answer.text[:300])


def test_each_member_reads_their_own_and_a_member_of_both_reads_each_apart(server):
    for who, portfolio in (("mona", "main"), ("flo", "family"), ("both", "main"), ("both", "family")):
        mine, others = (MAIN, FAMILY) if portfolio == "main" else (FAMILY, MAIN)
        events = ask(server, who, "GET", "/api/v1/portfolio/events?size=200", portfolio).text
        assert mine[0] in events and mine[1] in events and others[0] not in events and others[1] not in events
        runs = [r["id"] for r in ask(server, who, "GET", "/api/v1/runs", portfolio).json()["items"]]
        assert RUNS[portfolio] in runs and not any(others[3] in r for r in runs)
        assert ask(server, who, "GET", f"/api/v1/runs/{RUNS[portfolio]}/report", portfolio).status_code == 200
        assert ask(server, who, "GET", f"/api/v1/runs/{RUNS['family' if portfolio == 'main' else 'main']}/report", portfolio).status_code == 404
        acts = "trader" if portfolio == "main" else "fred"
        settings = ask(server, acts, "GET", "/api/v1/settings", portfolio).text
        assert mine[6] in settings and others[6] not in settings
    names = {w: sorted(p["name"] for p in ask(server, w, "GET", "/api/v1/portfolios").json()["items"]) for w in ("mona", "flo", "both", "sam")}
    assert names == {"mona": ["main"], "flo": ["family"], "both": ["family", "main"], "sam": []}


def test_measures_are_those_of_ones_own_portfolios(server):
    told = {who: ask(server, who, "GET", "/metrics").text for who in ("mona", "flo", "both", "sam")}
    has = {who: (MAIN[4] in text, FAMILY[4] in text) for who, text in told.items()}
    assert has == {"mona": (True, False), "flo": (False, True), "both": (True, True), "sam": (False, False)}
    assert ask(server, None, "GET", "/metrics").status_code == 401


def test_a_stream_tells_what_happens_in_its_own_portfolio_and_nothing_else(server):
    for who, portfolio in (("fred", "main"), ("sam", "family"), ("sam", "main")):
        assert ask(server, who, "GET", "/api/v1/stream", portfolio).status_code == 403
    with httpx.stream("GET", server.url + of("/api/v1/stream?after=0", "family"), headers={"X-API-Key": server.keys["flo"]}, timeout=120) as stream:
        lines = stream.iter_lines()
        heard = [next(lines) for _ in range(2)]
        assert ask(server, "trader", "POST", "/api/v1/portfolio/notes", "main", json={"text": "NOTE-OF-MAIN"}).status_code == 201
        assert ask(server, "fred", "POST", "/api/v1/portfolio/notes", "family", json={"text": "NOTE-OF-FAMILY"}).status_code == 201
        while '"who":"fred"' not in heard[-1]:
            heard.append(next(lines))
            assert heard.count(": still here") < 8, heard
    assert not any('"who":"trader"' in line or any(mark in line for mark in MAIN) for line in heard)


def test_a_stream_ends_with_whoever_hears_it(server):
    from trading.security.context import open_security

    guard = open_security(server.home / "data", environ={}, ring=False)
    for name in ("lea", "leo", "lia", "lou"):
        guard.users.add_user(name, PASSWORD, "viewer", ["family"])
    keys = {name: guard.users.make_key(name, "tests", role="viewer") for name in ("leo", "lia", "lou")}
    signed = httpx.Client(base_url=server.url, timeout=120)
    assert signed.post("/api/v1/session", json={"name": "lea", "password": PASSWORD}).status_code == 200
    ends = {"lea": lambda: signed.delete("/api/v1/session", headers={"X-CSRF-Token": signed.get("/api/v1/session").json()["csrf"]}),
            "leo": lambda: guard.users.lock("leo"), "lia": lambda: guard.users.set_portfolios("lia", ["main"]),
            "lou": lambda: guard.users.revoke_key(keys["lou"].split("_")[1])}
    for name, end in ends.items():
        client = signed if name == "lea" else httpx.Client(base_url=server.url, headers={"X-API-Key": keys[name]}, timeout=120)
        with client.stream("GET", of("/api/v1/stream", "family")) as stream:
            lines = stream.iter_lines()
            assert stream.status_code == 200 and next(lines) == "retry: 1000"
            end()
            wait_until(lambda: ask(server, None, "GET", "/api/v1/runs", "family", **(  # noqa: B023
                {"cookies": dict(signed.cookies)} if name == "lea" else {}), key=keys.get(name)).status_code in (401, 403))  # noqa: B023
            assert ask(server, "fred", "POST", "/api/v1/portfolio/notes", "family", json={"text": f"AFTER-{name}"}).status_code == 201
            heard = list(lines)  # it ends
        assert not any('"who":"fred"' in line for line in heard), (name, heard)
    guard.users.close()


def page(server, client, at: str, portfolio: str) -> httpx.Response:
    return client.get("/", params={"at": at, "portfolio": portfolio})


def test_every_screen_of_another_portfolio_is_refused_before_anything_is_drawn(server):
    from trading.dashboard.layout import SCREENS

    people = {}
    for name in ("flo", "mona", "both"):
        people[name] = httpx.Client(base_url=server.url, timeout=120)
        assert people[name].post("/api/v1/session", json={"name": name, "password": PASSWORD}).status_code == 200
    for at in SCREENS:
        assert page(server, people["flo"], at, "main").status_code == 403 and page(server, people["mona"], at, "family").status_code == 403
    for name, portfolio, other in (("flo", "family", MAIN), ("mona", "main", FAMILY), ("both", "family", MAIN)):
        shown = page(server, people[name], "today", portfolio)
        assert shown.status_code == 200 and "Carnet" in shown.text and not any(mark in shown.text for mark in other)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    refused = people["flo"].get("/ws", params={"portfolio": "main"}, headers=upgrade | {"Origin": server.url})
    assert refused.status_code == 403
    for client in people.values():
        client.close()


def test_long_work_belongs_to_its_portfolio(server):
    begun = ask(server, "fred", "POST", "/api/v1/runs", "family", json={})
    assert begun.status_code == 202, begun.text
    name = begun.json()["id"]
    listed = {p: [j["id"] for j in ask(server, "both", "GET", "/api/v1/jobs", p).json()["items"]] for p in ("main", "family")}
    assert listed["family"] == [name] and name not in listed["main"]
    for path in (f"/api/v1/jobs/{name}", f"/api/v1/jobs/{name}/log"):
        assert ask(server, "mona", "GET", path, "main").status_code == 404 and ask(server, "mona", "GET", path, "family").status_code == 403
    assert ask(server, "trader", "POST", f"/api/v1/jobs/{name}/cancel", "main").status_code == 404
    assert ask(server, "trader", "POST", f"/api/v1/jobs/{name}/cancel", "family").status_code == 403
    assert ask(server, "flo", "GET", f"/api/v1/jobs/{name}", "family").json()["status"] == "running"
    mine = ask(server, "trader", "POST", "/api/v1/runs", "main", json={})
    assert mine.status_code == 202, "a run of one portfolio does not keep the other one waiting"
    for who, portfolio, job in (("fred", "family", name), ("trader", "main", mine.json()["id"])):
        assert ask(server, who, "POST", f"/api/v1/jobs/{job}/cancel", portfolio).json()["status"] == "cancelled"
    assert not left(server.home)


def test_schedules_are_each_portfolios_own(server):
    from trading.core.settings import load_settings
    from trading.services.flow_runs import cron_lines, deployments_text

    changed = ask(server, "fay", "PUT", "/api/v1/settings", "family", json={"changes": {"schedule.weekly": "33 9 * * 6"}})
    assert changed.status_code == 200, changed.text
    assert ask(server, "fay", "PUT", "/api/v1/settings", "main", json={"changes": {"schedule.weekly": "33 9 * * 6"}}).status_code == 403
    found = {name: load_settings(overrides={"run.data": place.data, "run.reports": place.reports}, file=place.settings, environ={})
             for name, place in every_workspace(place_of(server.home)).items()}
    lines = {name: cron_lines(one) for name, one in found.items()}
    assert (lines["main"]["daily"], lines["family"]["daily"]) == ("11 7 * * 1-5", "22 8 * * 1-5")
    assert lines["family"]["weekly"] == "33 9 * * 6" != lines["main"]["weekly"]
    text = deployments_text(found["main"], others=[("family", found["family"])])
    assert "name: daily-family" in text and text.count("22 8 * * 1-5") == 1 and text.count("11 7 * * 1-5") == 1


def stopped(server) -> dict[str, list[str]]:
    return {p["name"]: p["stopped"] for p in ask(server, "both", "GET", "/api/v1/portfolios").json()["items"]}


def test_the_brake_of_some_accounts_stays_in_its_portfolio_and_the_red_one_stops_all_and_shows_nobody_elses_names(server):
    assert stopped(server) == {"main": [], "family": []}
    assert ask(server, "fred", "POST", "/api/v1/system/stop-trading", "main", json=STOP).status_code == 403
    assert ask(server, "sam", "POST", "/api/v1/system/stop-trading", "family", json=STOP).status_code == 403
    assert stopped(server) == {"main": [], "family": []}
    one = ask(server, "fred", "POST", "/api/v1/system/stop-trading", "family", json=STOP | {"accounts": ["paper-sample"]})
    assert one.status_code == 200 and stopped(server)["main"] == [] and stopped(server)["family"]
    assert ask(server, "trader", "POST", "/api/v1/system/resume-trading", "main", json=STOP | {"accounts": ["paper-sample"]}).status_code == 200
    assert stopped(server)["family"], "an account of the same name elsewhere is another account"
    every = ask(server, "fred", "POST", "/api/v1/system/stop-trading", "family", json=STOP)
    assert every.status_code == 200 and all(stopped(server).values()), "whoever pulls the brake stops everything"
    assert not any(mark in every.text for mark in MAIN), every.text
    known = every.json()["accounts"]
    assert known and not any("mainsecret" in a for a in known)
    names = {a.rpartition("/")[2] for a in known}
    released = ask(server, "fred", "POST", "/api/v1/system/resume-trading", "family", json=STOP | {"accounts": sorted(names)})
    assert released.status_code == 200, released.text
    assert stopped(server)["main"] and not stopped(server)["family"], "each portfolio is let go by its own people"


def test_what_a_service_started_ends_with_it_and_a_trading_loop_is_found_by_the_next(tmp_path):
    with serve(tmp_path, prepare=furnish, seconds=600) as server:
        run = ask(server, "fred", "POST", "/api/v1/runs", "family", json={}).json()["id"]
        loop = ask(server, "trader", "POST", "/api/v1/commands/start-loop", "main", json={}).json()["id"]
        assert len(left(server.home)) == 2
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0 or server.process.returncode == -signal.SIGTERM
        assert [p.pid for p in left(server.home)] == [json.loads((server.home / "data" / "jobs" / f"{loop}.json").read_bytes())["pid"]]
        with serve(tmp_path, again=server) as second:
            ended = ask(second, "flo", "GET", f"/api/v1/jobs/{run}", "family").json()
            assert ended["status"] == "cancelled" and ended["cancel_asked"]["who"] == "carnet" and "service" in ended["cancel_asked"]["why"]
            going = ask(second, "mona", "GET", f"/api/v1/jobs/{loop}", "main").json()
            assert going["status"] == "running" and "goes on" in going["left_running"]["why"]
            assert ask(second, "trader", "POST", "/api/v1/commands/start-loop", "main", json={}).status_code == 409, "there is one already"
            assert ask(second, "trader", "POST", f"/api/v1/jobs/{loop}/cancel", "main").json()["status"] == "cancelled"
    wait_until(lambda: not left(tmp_path / "place"))
