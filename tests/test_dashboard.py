"The live page in a real browser: sign in with a code, run, approve, read orders and report, stop and resume trading; on the desk and on the phone."

import gc
import json
import os
import re
import sys
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from barriers import barriers
from loopback import KEYS, SETTINGS, SYMBOLS, HereKernel, make_bars, market
from test_report import CHROMIUM, CONTRAST, FLAGS, LETTERS
from waiting import wait_until

pytest.importorskip("panel", reason="panel is missing: pip install 'carnet[serve]'")
pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine: install Debian's package 'chromium' to see the page in a browser"),
]
PASSWORD = "correct horse battery"
LIVE = ("desk", "phone", "pad")  # profiles with real orders, each with an exchange of its own


def settings_text(addresses: dict[str, str], bars) -> str:
    "Write settings with a small sample market, and the live profiles."
    from trading.testing.sample_runs import SMALL

    lines: dict[str, list[str]] = {}
    for name, value in SMALL.items():
        section, key = name.split(".")
        lines.setdefault(section, []).append(f"{key} = {value}")
    text = "\n".join("\n".join([f"[{s}]", *found]) for s, found in lines.items())
    start = (bars.index[0] - timedelta(days=1)).date()
    for profile, address in addresses.items():
        live = SETTINGS.format(symbols=", ".join(SYMBOLS), address=address, start=start).replace("[loop:", f"[{profile}:")
        text += live.replace("[run]\nprofile = loop\n", f"[{profile}:run]\n")
    return text + "\n[strict:limits]\nmax_orders = 3\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A place with a real run of a small market, live runs that await approval, and the exchanges of the live profiles."
    from trading.core.settings import load_settings
    from trading.pipeline.launch import open_run
    from trading.pipeline.notebook_runner import run_in_process, run_stage
    from trading.pipeline.run_record import STAGES
    from trading.testing.sample_runs import make_sample_runs

    home, bars = tmp_path_factory.mktemp("desk"), make_bars()
    make_sample_runs(home, ("2022-12-27",))
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, value in {**KEYS, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}.items():
            patch.setenv(name, value)
        home_of = {profile: stack.enter_context(market(bars)) for profile in LIVE}
        (home / "settings.ini").write_text(settings_text({p: m.url for p, m in home_of.items()}, bars))
        places = {"run.data": home / "data", "run.reports": home / "reports"}
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CARNET")}
        for profile in LIVE[1:]:
            waiting = open_run(load_settings(profile, places, home / "settings.ini", environ), datetime.now(UTC))
            for stage in STAGES[:-1]:
                run_stage(waiting, stage, HereKernel())
            assert waiting.record.status == "waiting"
        for day in ("2022-12-23", "2022-12-27"):  # two runs whose plans the limits refuse
            run_in_process(open_run(load_settings("strict", places, home / "settings.ini", environ), datetime.now(UTC), day))
        yield home, home_of


@pytest.fixture(scope="module")
def served(home):
    "The service in this process, with four people; returns its address, how their codes are made, and the audit log."
    import pyotp
    import uvicorn

    from trading.api.app import make_app
    from trading.security.audit_log import AuditLog
    from trading.security.sessions import Authenticator
    from trading.services.workspace import Workspace

    home, _ = home
    audit = AuditLog(home / "data" / "audit.jsonl")
    users = Authenticator(home / "data" / "users.sqlite", bytes(32), record=audit.append)
    codes = {}
    for name, role in {"viewer": "viewer", "trader": "trader", "admin": "admin", "ada": "trader"}.items():
        users.add_user(name, PASSWORD, role, ("main",))
        codes[name] = pyotp.parse_uri(users.enrol_totp(name))
    app = make_app(Workspace(home / "data", home / "reports", home / "settings.ini"), users, audit)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the service did not start"
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", codes, audit
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'carnet[dev]'")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def sign_in(page, url: str, name: str, codes: dict) -> None:
    "Sign in as a person does: name, password, and the code of the authenticator."
    page.goto(f"{url}/")
    assert page.url.endswith("/signin")
    page.fill("[name=name]", name)
    page.fill("[name=password]", PASSWORD)
    page.fill("[name=code]", codes[name].at(datetime.now(UTC)))
    page.click("button:has-text('Sign in')")
    page.wait_for_selector("#carnet[data-live=yes]")


@pytest.fixture(scope="module")
def people(browser, served):
    "Browsers of people who have signed in; each signs in once, as a code works once."
    url, codes, _ = served
    known = {}

    def person(name: str):
        if name not in known:
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            context.set_default_timeout(60_000)
            sign_in(page := context.new_page(), url, name, codes)
            page.close()
            known[name] = context.storage_state()
            context.close()
        return known[name]

    return person


def watched(page):
    "Keep whatever a page asks for and says."
    page.asked, page.said = [], []
    page.on("request", lambda r: page.asked.append(r.url))
    page.on("console", lambda m: page.said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: page.said.append(str(e)))
    return page


def nothing_outside(page, url: str) -> None:
    "Nothing came from another host, and the browser had nothing to complain about."
    assert [u for u in page.asked if not u.startswith((url, "blob:", "data:", "about:"))] == [] and page.said == []


@pytest.fixture
def look(browser, people, served):
    "Open a page as somebody."
    opened = []

    def show(name: str, width: int = 1280, scheme: str = "light", at: str = "today", **more):
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, storage_state=people(name), **more)
        context.set_default_timeout(60_000)
        page = watched(context.new_page())
        page.goto(f"{served[0]}/?at={at}")
        page.wait_for_selector("#carnet[data-live=yes]")
        opened.append((context, page))
        return page

    yield show
    for context, page in opened:
        nothing_outside(page, served[0])
        context.close()


WATCH = """() => { const look = () => { for (const e of document.querySelectorAll('#s-run .steps li.is-running b')) window.ran.add(e.innerText) };
    window.ran = new Set(); look(); new MutationObserver(look).observe(document.querySelector('#parts'), { childList: true, subtree: true }) }"""


def follow(page, until: str, seconds: float = 300) -> set[str]:
    "Watch the stages, which change by themselves, until something is there; return the names of those that were seen running."
    page.evaluate(WATCH)
    page.wait_for_selector(f"{until}, #s-run .error", timeout=seconds * 1000)
    assert page.locator(until).count(), page.inner_text("#s-run")
    return set(page.evaluate("[...window.ran]"))



def test_the_console_asks_our_own_api_with_the_rights_of_whoever_is_signed_in(look, browser, people, served):
    with browser.new_context(viewport={"width": 390, "height": 844}, storage_state=people("viewer")) as context:
        page = watched(context.new_page())
        page.goto(f"{served[0]}/?at=today")
        page.wait_for_selector("#carnet[data-live=yes]")
        page.goto(served[0] + page.get_attribute("a:has-text('API console')", "href"))
        page.wait_for_selector("body[data-ready]")
        every = page.locator("#route option").all_inner_texts()
        assert "GET /api/v1/risk/metrics" in every and not [r for r in every if "security-score" in r or "approve" in r], "only what a viewer may ask"
        page.fill("#find", "one symbol bars")
        page.keyboard.press("Enter")  # to the routes
        page.keyboard.press("Tab")  # to the first field
        assert page.locator("#about").inner_text().startswith("The bars of one symbol.")
        page.fill("#fields [name=symbol]", "<img src=x onerror=alert(1)>")
        page.keyboard.press("Enter")
        page.wait_for_selector("#asked:has-text(': 422')")
        assert page.locator("#answer img").count() == 0, "an answer is text"
        page.said = [line for line in page.said if "422" not in line]
        page.fill("#find", "risk metrics")
        page.click("#send")
        page.wait_for_selector("#asked:has-text(': 200')")
        assert '"limits"' in page.inner_text("#answer") and page.evaluate("document.documentElement.scrollWidth") == 390 and barriers(page) == []
        nothing_outside(page, served[0])
    with browser.new_context(storage_state=people("trader")) as context:
        page = watched(context.new_page())
        page.goto(f"{served[0]}/console")
        page.wait_for_selector("body[data-ready]")
        page.fill("#find", "POST notes")
        page.fill("#fields [name=body]", '{"text": "from the console"}')
        page.click("#send")
        assert page.inner_text("#asked") == "", "what acts needs a yes"
        page.check("#fields [name=acts]")
        page.click("#send")
        page.wait_for_selector("#asked:has-text('POST /api/v1/portfolio/notes: 2')")
        nothing_outside(page, served[0])
    entries = [e for e in served[2].entries() if e.who == "trader"]
    assert any("note" in e.action for e in entries)


def test_the_console_keeps_a_stop_when_the_service_refuses_and_takes_it_away_only_when_told(browser):
    from trading.core.resources import share_path

    told = {"status": 200, "body": '{"items": [{"name": "main", "stopped": ["a test"]}]}'}
    asked = []

    def answer(route):
        address = route.request.url
        if address.endswith("/console"):
            route.fulfill(content_type="text/html", body=share_path("templates", "console.html").read_text(encoding="utf-8"))
        elif address.endswith("/portfolios"):
            asked.append(address)
            route.fulfill(content_type="application/json", **told)
        else:
            route.fulfill(content_type="application/json", body='{"paths": {}, "role": "viewer"}')

    with browser.new_context() as context:
        page = context.new_page()
        page.route("**/*", answer)
        page.goto("http://console.test/console")
        page.wait_for_selector("#stopped:has-text('a test')")
        for status in (401, 429, 500, 503):
            told.update(status=status, body='{"title": "refused"}')
            before = len(asked)
            while len(asked) < before + 3:  # the third is asked when the second was read
                page.wait_for_timeout(50)
            assert page.is_visible("#stopped"), status
        told.update(status=200, body='{"items": [{"name": "main", "stopped": []}]}')
        page.wait_for_selector("#stopped", state="hidden")


def test_a_page_that_is_closed_holds_its_session_no_longer(look):
    from bokeh.server.session import ServerSession

    def held():
        return [o for o in gc.get_objects() if isinstance(o, ServerSession) and o.connection_count]

    before = {o.id for o in held()}
    page = look("viewer", at="books")
    page.wait_for_selector("#carnet[data-live=yes]")
    (mine,) = [o for o in held() if o.id not in before]
    page.close()
    wait_until(lambda: mine.connection_count == 0)


FINISHED = "#s-run .steps:not(:has(li:not(.is-done)))"


def trade_again(page) -> None:
    "Resume trading if another test has stopped this account, and load the page anew."
    page.wait_for_selector("header button:has-text('Stop trading')")
    if page.locator("#banner button:has-text('Resume trading')").count():
        page.click("#banner button:has-text('Resume trading')")
        page.fill("#ask-reason", "it was another test")
        page.click("#ask-yes")
        page.wait_for_selector("#banner button:has-text('Resume trading')", state="detached")
        page.reload()
        page.wait_for_selector("#carnet[data-live=yes]")


def sent(place) -> int:
    return place.requests.count(("POST", "order"))


def test_a_person_starts_the_run_approves_its_plan_reads_orders_and_report_and_stops_trading(look, served, home):
    (folder, exchanges), before, page = home, len(served[2].entries()), look("trader")
    page.select_option("#profile", "desk")
    page.wait_for_selector("#s-run .missing")  # nothing has run here yet
    page.click("button:has-text('Start the daily run')")
    page.wait_for_selector("#notices :text('The daily run is starting')")
    seen = follow(page, "#s-run .request button")
    assert len(seen) >= 2 and len([u for u in page.asked if "/?at=" in u]) == 1  # the page was never loaded again
    assert "awaiting approval" in page.inner_text("#s-run") and "real money" in page.inner_text("#s-run") and sent(exchanges["desk"]) == 0
    page.click("#s-run a:has-text('Look at the orders')")
    page.wait_for_selector("#s-plan :text('Awaiting approval')")
    wanted = page.locator("#s-orders tbody tr").count()
    assert wanted >= 2 and "None of them has been sent" in page.inner_text("#s-orders")
    page.click("nav a:has-text('Today')")
    page.click("#s-run button:has-text('Approve the plan')")
    assert "They are sent at once" in page.inner_text("#ask") and sent(exchanges["desk"]) == 0
    page.click("#ask-yes")
    page.wait_for_selector("#notices :text('is approved by trader')")
    follow(page, FINISHED)
    page.wait_for_selector("#s-story :text('The account is worth')")
    assert sent(exchanges["desk"]) == len(exchanges["desk"].venue.fetch_my_trades(None)) == wanted

    page.click("nav a:has-text('Orders')")
    page.wait_for_selector("#s-plan :text('Status: executed')")
    assert page.locator("#s-orders tbody tr").count() == wanted == page.locator("#s-orders :text-is('filled')").count()
    assert "trader" in page.inner_text("#s-plan tr:has-text('Approved')") and page.locator("#s-trades tbody tr").count() == wanted
    assert page.evaluate("document.activeElement.id") == "main"  # whoever cannot see the screen is told that it changed
    page.click("nav a:has-text('Runs')")
    page.click("#s-list a:has-text('desk_1')")
    report = page.frame_locator("#s-report iframe")
    report.locator("h1").wait_for()
    assert report.locator("section").count() >= 8 and "real money" in report.locator("header").inner_text()

    page.click("header button:has-text('Stop trading')")
    page.fill("#ask-reason", "the venue reports nonsense")
    page.keyboard.press("Enter")
    page.wait_for_selector("#banner :text('the venue reports nonsense')")
    assert "the venue reports nonsense" in (folder / "data" / "kill-live-desk.jsonl").read_text()
    page.click("#banner button:has-text('Resume trading')")
    page.click("#ask-yes")  # without a reason nothing happens
    assert page.locator("#ask").is_visible()
    page.fill("#ask-reason", "the venue was repaired")
    page.click("#ask-yes")
    page.wait_for_selector("#banner button:has-text('Resume trading')", state="detached")
    page.click("header button:has-text('Stop trading')")
    page.click("#ask-yes")  # nothing keeps anybody from stopping, not even that there is no reason
    page.wait_for_selector("#banner :text('no reason was given')")
    page.click("#banner button:has-text('Resume trading')")
    page.fill("#ask-reason", "it was a test")
    page.click("#ask-yes")
    page.wait_for_selector("header button:has-text('Stop trading')")
    page.wait_for_selector("#banner button:has-text('Resume trading')", state="detached")
    done = [e.action for e in served[2].entries()[before:] if e.who == "trader" and not e.action.startswith("sign")]
    assert done == ["run started", "plan approved", *["trading stopped", "trading resumed"] * 2] and served[2].verify() == []


def test_a_stop_is_above_every_screen_whatever_the_screen_waits_for_and_so_is_one_by_command(look, home, monkeypatch):
    import subprocess
    from dataclasses import replace

    from typed import CARNET

    from trading.dashboard.components import PageSection
    from trading.dashboard.layout import SCREENS
    from trading.risk.stop_flag import raise_stop
    from trading.services.commands import Actor, Context, perform
    from trading.services.stops import engaged_switches
    from trading.services.workspace import Workspace

    (folder, _), held = home, threading.Event()

    def waits(place, who):
        "A slow screen that never comes until it is let go: what it shows meanwhile does not depend on how fast a machine is."
        held.wait(300)
        yield PageSection("late", "Late", [("missing", "here at last")])

    for at, screen in list(SCREENS.items()):
        if screen.slow:
            monkeypatch.setitem(SCREENS, at, replace(screen, write=waits))
    page = look("viewer")

    def go(at: str) -> None:
        held.clear()
        page.click(f"#screens a[href='?at={at}']")
        page.wait_for_selector(f"#carnet[data-at={at}]")

    def let_go(at: str) -> None:
        held.set()
        if SCREENS[at].slow:
            page.wait_for_selector("#s-late")

    for at in SCREENS:
        go(at)
        stop = raise_stop(folder / "data", "ann", f"seen on {at}", datetime.now(UTC))[0]
        page.wait_for_selector(f"#banner :text('seen on {at}')")
        assert not (SCREENS[at].slow and page.locator("#s-late").count()), "the stop did not wait for the screen"
        (folder / "data" / f"stop-{stop.id}.json").unlink()
        page.wait_for_selector(f"#banner :text('seen on {at}')", state="detached")
        let_go(at)
    go("health")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")}
    done = subprocess.run([*CARNET, "kill", "by the command"], cwd=folder, env=environ, capture_output=True, text=True)
    assert "Trading is stopped for all" in done.stdout, done.stdout + done.stderr
    page.wait_for_selector("#banner :text('by the command')")
    assert not page.locator("#s-late").count()
    place = Workspace(folder / "data", folder / "reports", folder / "settings.ini")
    again = {"reason": "seen on every screen", "accounts": list(engaged_switches(place))}
    perform("resume-trading", again, Context(place, Actor("ann")), None)
    page.wait_for_selector("#banner :text('by the command')", state="detached")
    let_go("health")


def test_a_stop_of_the_page_waits_for_nothing_that_pages_are_at(look, home, served, people, monkeypatch):
    from dataclasses import replace

    import httpx

    import trading.dashboard.charts
    from trading.dashboard.components import PageSection
    from trading.dashboard.layout import SCREENS
    from trading.services.stops import engaged_switches
    from trading.services.workspace import Workspace

    (folder, _), held, hangs, chart = home, threading.Event(), threading.Event(), threading.Event()
    place = Workspace(folder / "data", folder / "reports", folder / "settings.ini")
    entered = threading.Semaphore(0)

    def waits(place, who):
        "A screen that hangs from some moment on, until it is let go."
        if hangs.is_set():
            entered.release()
            held.wait(300)
        yield PageSection("one", "One", [("missing", "here")])

    def no_chart(*asked):
        chart.set()
        held.wait(300)
        raise ValueError("let go")

    monkeypatch.setitem(SCREENS, "books", replace(SCREENS["books"], write=waits))
    page = look("trader", at="books")
    trade_again(page)
    page.wait_for_selector("#carnet[data-live=yes] #s-one")
    other = look("trader", at="markets")
    monkeypatch.setattr(trading.dashboard.charts, "draw_chart", no_chart)
    other.reload()
    wait_until(lambda: other.wait_for_timeout(50) or chart.is_set())
    cookies = {c["name"]: c["value"] for c in people("trader")["cookies"]}
    ask = lambda: httpx.get(f"{served[0]}/?at=books", cookies=cookies, headers={"accept": "text/html"}, timeout=300, trust_env=False)  # noqa: E731
    asking = [threading.Thread(target=ask, daemon=True) for _ in range(2 * (os.cpu_count() or 1) + 8)]
    told = folder / "data" / "told.json"

    def stop(one) -> None:
        "Stop trading and allow it again, while everything hangs."
        one.click("header button:has-text('Stop trading')")
        one.fill("#ask-reason", "nothing answers")
        one.click("#ask-yes")
        wait_until(lambda: one.wait_for_timeout(50) or engaged_switches(place))
        one.wait_for_selector("#notices :text('Trading is stopped for all')")
        one.wait_for_selector("#banner :text('nothing answers')")
        assert not held.is_set()
        one.click("#banner button:has-text('Resume trading')")
        one.fill("#ask-reason", "it was a test")
        one.click("#ask-yes")
        one.wait_for_selector("#banner button:has-text('Resume trading')", state="detached")

    try:
        hangs.set()
        told.write_text("{}")  # something has changed: the open page is drawn anew, and hangs in that
        assert entered.acquire(timeout=120)
        stop(page)
        stop(other)  # it hangs in a chart
        for thread in asking:  # whoever else looks at the screen waits for it
            thread.start()
        for _ in asking:
            assert entered.acquire(timeout=120)
        stop(page)
    finally:
        held.set()
        told.unlink(missing_ok=True)
    for thread in asking:
        thread.join(300)
    page.wait_for_selector("#s-one")


def test_a_screen_with_an_error_of_the_program_says_so_and_the_log_says_which(look, monkeypatch, caplog):
    from dataclasses import replace

    from trading.dashboard.components import PageSection
    from trading.dashboard.layout import SCREENS

    def wrong(place, who):
        yield PageSection("first", "First", [("missing", "this much")])
        raise ZeroDivisionError("of the screen")

    monkeypatch.setattr("trading.dashboard.layout._LOGGED", {})  # of the same screen it is logged once a minute
    for at in ("books", "performance"):  # one that is drawn at once, and one that is slow
        monkeypatch.setitem(SCREENS, at, replace(SCREENS[at], write=wrong))
    page = look("viewer", at="books")
    page.wait_for_selector("#s-failed :text('An error of the program')")
    page.click("#screens a[href='?at=performance']")
    page.wait_for_selector("#carnet[data-at=performance] #s-failed :text('An error of the program')")
    assert "this much" in page.inner_text("#s-first")
    page.click("#screens a[href='?at=alerts']")
    page.wait_for_selector("#carnet[data-at=alerts] #s-rules")
    logged = [r for r in caplog.records if r.levelname == "ERROR" and r.exc_info and "of the screen" in str(r.exc_info[1])]
    assert {r.getMessage() for r in logged} == {f"the screen {at!r} ended with an error of the program" for at in ("books", "performance")}


def test_what_is_pressed_is_of_the_profile_that_is_shown_whatever_profile_is_on_its_way(look, monkeypatch):
    from dataclasses import replace

    import trading.dashboard.app
    from trading.dashboard.actions import request_of
    from trading.dashboard.components import PageSection, button
    from trading.dashboard.layout import SCREENS

    held, asked = threading.Event(), []

    def one_button(place, who):
        "A screen with a button, which another profile waits for."
        if who.profile == "strict":
            held.wait(300)
        yield PageSection("one", "One", [("actions", [button("Start it", "start")])])

    def kept(place, who, name, values, now, record=None):
        asked.append(request_of(place, who, name, values))
        return "it was kept"

    monkeypatch.setitem(SCREENS, "runs", replace(SCREENS["runs"], write=one_button))
    monkeypatch.setattr(trading.dashboard.app, "act", kept)
    page = look("trader", at="runs")
    first = page.get_attribute("#carnet", "data-profile")
    assert first and first != "strict"
    try:
        page.select_option("#profile", "strict")
        page.click("#s-one button:has-text('Start it')")
        wait_until(lambda: page.wait_for_timeout(50) or asked)
        assert asked == [("start-run", {"profile": first})] and not held.is_set()
    finally:
        held.set()
    page.wait_for_selector("#carnet[data-profile=strict]")
    page.click("#s-one button:has-text('Start it')")
    wait_until(lambda: page.wait_for_timeout(50) or len(asked) > 1)
    assert asked[1] == ("start-run", {"profile": "strict"})


def test_a_click_on_another_screen_does_not_wait_for_the_one_that_is_still_being_made(look, monkeypatch):
    from dataclasses import replace

    from trading.dashboard.components import PageSection
    from trading.dashboard.layout import SCREENS

    held = threading.Event()

    def waits(place, who):
        "A screen that never comes until it is let go."
        held.wait(300)
        yield PageSection("late", "Late", [("missing", "here at last")])

    for at in ("risk", "runs"):
        monkeypatch.setitem(SCREENS, at, replace(SCREENS[at], write=waits))
    page = look("viewer")
    for at in ("risk", "runs"):  # one that says that it is loading, and one that does not
        page.click(f"#screens a[href='?at={at}']")
        page.click("#screens a[href='?at=books']")
        page.wait_for_selector("#carnet[data-at=books] #s-entries, #carnet[data-at=books] #s-book")
    held.set()
    page.click("#screens a[href='?at=alerts']")
    page.wait_for_selector("#carnet[data-at=alerts] #s-rules")
    assert page.locator("#s-late").count() == 0


STARTED = """
import json, sys
from pathlib import Path
from trading.dashboard.ahead import READ, start_steps, warm_up
from trading.dashboard.components import Viewer
from trading.dashboard.layout import render_page, sections_of, viewer_from_request
from trading.services.query_cache import MEMORY
from trading.services.workspace import Workspace
place = Workspace(Path("data"), Path("reports"), Path("settings.ini"))
warm_up(start_steps(place)).join(300)
loaded, made = set(sys.modules), MEMORY.misses
who = viewer_from_request(place, Viewer("ann", "trader"), {})
render_page(place, who, "today")
for at in READ:
    list(sections_of(place, who, at))
print(json.dumps([sorted(set(sys.modules) - loaded), MEMORY.misses - made]))
"""


def test_a_service_that_has_answered_nothing_has_loaded_and_read_what_its_first_screens_need(home, tmp_path):
    import subprocess

    names = [str(home[0] / name) for name in ("data", "reports", "settings.ini")]
    copy = ["cp", "-r", *names, str(tmp_path)]  # by another process: whoever closes a database file gives up the locks that SQLite holds for this one
    wait_until(lambda: subprocess.run(copy, capture_output=True).returncode == 0)  # an open page may open and close a database meanwhile
    environ = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")}
    done = subprocess.run([sys.executable, "-c", STARTED], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [[], 0], "nothing is loaded, and nothing is computed, while somebody waits"


@pytest.mark.skipif("CARNET_LONG" not in os.environ, reason="a minute: 'make soak' does it; every screen at 390 pixels is looked at below")
def test_the_same_on_a_phone_with_a_finger(browser, served, home):
    (folder, exchanges), (url, codes, audit) = home, served
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, device_scale_factor=2)
    context.set_default_timeout(60_000)
    page = watched(context.new_page())
    sign_in(page, url, "ada", codes)

    def visit(name: str) -> None:
        page.tap("#menu")
        page.tap(f"#screens a:has-text('{name}')")
        page.wait_for_selector(f"h1:has-text('{name}')")
        assert page.locator("#screens").is_hidden() and page.evaluate("document.documentElement.scrollWidth") == 390

    page.select_option("#profile", "phone")
    if page.locator("#banner button:has-text('Resume trading')").count():  # whoever pressed the button at the desk has stopped this account too
        page.tap("#banner button:has-text('Resume trading')")
        page.fill("#ask-reason", "it was the other one")
        page.tap("#ask-yes")
        page.wait_for_selector("#banner button:has-text('Resume trading')", state="detached")
    page.tap("#s-run a:has-text('Look at the orders')")
    page.wait_for_selector("#s-orders tbody tr")
    wanted = page.locator("#s-orders tbody tr").count()
    small = "els => els.filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 43).map(e => e.innerText)"
    assert page.eval_on_selector_all("main button, header button, header select", small) == []  # as large as a finger
    visit("Today")
    page.tap("#s-run button:has-text('Approve the plan')")
    page.tap("#ask-yes")
    follow(page, FINISHED)
    assert sent(exchanges["phone"]) == wanted == len(exchanges["phone"].venue.fetch_my_trades(None))
    visit("Orders")
    page.wait_for_selector("#s-plan :text('Status: executed')")
    assert page.locator("#s-orders :text-is('filled')").count() == wanted
    visit("Runs")
    page.tap("#s-list a:has-text('phone_1')")
    page.frame_locator("#s-report iframe").locator("h1").wait_for()
    page.tap("header button:has-text('Stop trading')")
    page.fill("#ask-reason", "I am on a train")
    page.tap("#ask-yes")
    page.wait_for_selector("#banner :text('I am on a train')")
    page.tap("#banner button:has-text('Resume trading')")
    page.fill("#ask-reason", "I have arrived")
    page.tap("#ask-yes")
    page.wait_for_selector("#banner button:has-text('Resume trading')", state="detached")
    done = [e.action for e in audit.entries() if e.who == "ada" and not e.action.startswith("sign")]
    assert done == ["plan approved", "trading stopped", "trading resumed"]
    assert "I am on a train" in (folder / "data" / "kill-live-phone.jsonl").read_text()
    page.tap("#menu")
    page.tap("button:has-text('Sign out')")
    page.wait_for_url("**/signin*")
    nothing_outside(page, url)
    context.close()


UNNAMED = "els => els.filter(e => e.checkVisibility() && !(e.innerText || e.getAttribute('aria-label') || e.labels?.length)).length"


def test_every_screen_fits_can_be_read_and_has_its_landmarks_on_phone_and_desk_light_and_dark(look):
    from trading.dashboard.app import SCREENS

    page = look("admin", 390)
    for at in SCREENS:
        page.click("#menu")
        assert page.get_attribute("#menu", "aria-expanded") == "true"
        page.click(f"#screens a[href='?at={at}']")
        page.wait_for_selector(f"#screens a[href='?at={at}'][aria-current=page]", state="attached")
        page.wait_for_selector(".reading", state="detached")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        for width in (390, 768, 1280):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") == width, (at, width)
            assert page.evaluate(LETTERS) == [], (at, width)
            cut = "els => els.filter(e => getComputedStyle(e).overflow !== 'visible' || getComputedStyle(e).clipPath !== 'none').length"
            assert page.eval_on_selector_all("svg[role=img]", cut) == 0, (at, width, "the letters beside a picture are cut off")
            for scheme in ("dark", "light"):
                page.emulate_media(color_scheme=scheme)
                texts = page.evaluate(CONTRAST)
                assert [t for t in texts if t["ratio"] < 4.5] == [], (at, width, scheme)
                assert [t for t in texts if t["size"] < 12] == [], (at, width, scheme)
            assert page.eval_on_selector_all("button, input:not([type=hidden]), select, textarea", UNNAMED) == 0, at
            assert barriers(page) == [], (at, width)
        assert page.locator("h1").count() == 1 and page.locator("main section h2").count() == page.locator("main section").count() >= 1, at
        page.set_viewport_size({"width": 390, "height": 844})


def test_the_keyboard_alone_is_enough_and_what_moves_can_be_stilled(look):
    page = look("trader", reduced_motion="reduce")
    trade_again(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("""() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
            return [e.innerText || e.id, s.outlineStyle !== 'none' || s.boxShadow !== 'none', r.top < innerHeight && r.bottom > 0] }"""))
        if "Start" in seen[-1][0]:
            break
    names = [name for name, _, _ in seen]
    assert names.index("Stop trading") < names.index("Holdings") < names.index("Settings") < len(names) - 1 and "Start" in names[-1]
    assert [s for s in seen if not s[1] or not s[2]] == []  # what has the focus is seen
    page.focus("header button:has-text('Stop trading')")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "ask-reason"
    for _ in range(6):  # a dialog keeps the focus
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('#ask').contains(document.activeElement) || document.activeElement === document.body")
    page.keyboard.press("Escape")
    assert page.locator("#ask").is_hidden() and page.evaluate("document.activeElement.innerText") == "Stop trading"
    assert page.evaluate("getComputedStyle(document.querySelector('#s-run .steps li'), '::before').animationName") == "none"


def test_whoever_touches_the_page_stays_signed_in(look):
    page = look("viewer")
    with page.expect_request("**/api/v1/session"):
        page.evaluate("() => { window.was = Date.now; Date.now = () => was() + 61000 }")  # a minute later
        page.keyboard.press("Shift")
        page.evaluate("() => { Date.now = was }")


def test_whoever_reads_a_report_stays_signed_in_and_a_page_that_changes_by_itself_keeps_nobody(look):
    page, told = look("viewer", at="runs"), []
    page.click("#s-list tbody a >> nth=0")
    page.frame_locator("#s-report iframe").locator("h1").wait_for()
    page.on("request", lambda r: told.append(r.url) if r.url.endswith("/api/v1/session") else None)
    page.evaluate("() => { window.was = Date.now; window.ahead = 0; Date.now = () => was() + ahead }")
    later = lambda: page.evaluate("() => { ahead += 61000 }")  # noqa: E731  a minute later
    page.evaluate("() => addEventListener('pointermove', e => { window.at = { bubbles: true, screenX: e.screenX, screenY: e.screenY } })")
    page.mouse.move(400, 300)
    later()
    told.clear()
    page.evaluate("() => { for (const name of ['main', 'menu']) document.getElementById(name).focus() }")  # the page itself
    page.evaluate("() => document.body.dispatchEvent(new PointerEvent('pointerover', at))")  # under a pointer that rests
    page.evaluate("() => fetch('/api/v1/portfolios')")
    assert told == []
    page.bring_to_front()
    page.locator("#s-report iframe").scroll_into_view_if_needed()
    page.mouse.click(400, 300)  # the window has the focus, whatever other windows there are
    page.wait_for_function("document.hasFocus()")
    later()
    box = page.locator("#s-report iframe").bounding_box()
    page.mouse.move(box["x"] + 9, max(box["y"], 0) + 9)
    with page.expect_request("**/api/v1/session"):  # the pointer moves into the report
        page.mouse.move(box["x"] - 5, max(box["y"], 0) + 9)
        page.mouse.move(box["x"] + 9, max(box["y"], 0) + 9)
    later()
    with page.expect_request("**/api/v1/session"):  # a click inside it: the window loses the focus to the frame
        page.mouse.click(box["x"] + 30, max(box["y"], 0) + 30)


def test_the_first_touch_of_a_page_is_told_however_young_it_is(look):
    page = look("viewer")
    with page.expect_request("**/api/v1/session"):
        page.keyboard.press("Shift")


def test_last_prices_come_by_themselves_and_only_when_there_are_any(look, home):
    from decimal import Decimal

    from trading.data.quotes import Quote, QuoteBoard, quote_board_file

    page, board = look("viewer", at="holdings"), quote_board_file(home[0] / "data", "sample")
    assert page.locator("#s-now").count() == 0 and "Latest price" not in page.inner_text("#s-of-stocks")
    symbol = page.locator("#s-of-stocks tbody th").first.inner_text()
    try:
        QuoteBoard(board).post({symbol: Quote(Decimal("4321.5"), datetime.now(UTC))})
        page.wait_for_selector(f"#s-of-stocks tr:has-text('{symbol}') .live:has-text('4,321.50')")
        page.wait_for_selector("#s-now :text('The account is worth')")
    finally:
        board.unlink(missing_ok=True)


def test_the_chart_of_a_holding_is_drawn_with_its_trades_and_the_list_leads_to_the_next(look):
    page = look("trader", at="markets")
    page.wait_for_selector("#s-symbol .chart canvas >> nth=0")
    assert "of the account" in page.get_attribute("#s-symbol .chart", "aria-label") and page.locator("#s-protect form").count() == 1
    page.click("#s-watch a:text-is('KO')")
    page.wait_for_selector("#s-symbol h2:text-is('KO')")
    page.wait_for_selector("#s-symbol .chart canvas >> nth=0")
    page.click("#s-symbol a:text-is('60 bars')")
    page.wait_for_selector("#s-symbol .chart[aria-label^='KO: 60 bars'] canvas >> nth=0")
    page.emulate_media(color_scheme="dark")  # drawn again, in the colours of the night
    page.wait_for_selector("#s-symbol .chart[data-drawn] canvas >> nth=0")
    page.click("nav a:has-text('Holdings')")
    page.click("#parts tbody a:text-is('WMT')")
    page.wait_for_selector("#s-symbol h2:text-is('WMT')")


def test_the_trading_loop_is_pushed_to_whoever_looks_and_a_job_shows_its_log(look, home):
    import json
    import sys

    from trading.core.files import write_atomic
    from trading.services.jobs import start
    from trading.services.workspace import Workspace

    folder, _ = home
    page, file = look("viewer", at="activity"), folder / "data" / "ops" / "loop-sample.json"
    page.wait_for_selector("#s-loop .missing")
    last = {"as_of": "2024-02-29T00:00:00+00:00", "plan": "ab", "equity": "101000.5", "actions": 2, "filled": 2, "refused": [],
            "waits": False, "seconds": 1}
    told = {"profile": "sample", "account": "paper-sample", "timeframe": "1d", "started": "2024-03-01T10:00:00+00:00", "last": last,
            "ended": None, "beat": datetime.now(UTC).isoformat(), "next": "2024-03-02T00:00:05+00:00", "decisions": 3,
            "missed": 0, "problems": []}
    try:
        file.parent.mkdir(exist_ok=True)
        write_atomic(file, json.dumps(told).encode())
        page.wait_for_selector("#s-loop :text('2 of 2 orders filled')")
        problems = [["2024-03-01T00:00:00+00:00", "no bars: the venue is away"]]
        write_atomic(file, json.dumps(told | {"decisions": 4, "missed": 1, "problems": problems}).encode())  # as a loop does: never half of it
        page.wait_for_selector("#s-loop td:has-text('the venue is away')")
        place = Workspace(folder / "data", folder / "reports", folder / "settings.ini")
        start(place, "test", [sys.executable, "-c", "print('one line of a job')"])
        page.wait_for_selector("#s-log .log:has-text('one line of a job')")
        assert page.locator("#main button, #main form").count() == 0
    finally:
        file.unlink(missing_ok=True)


def test_a_setting_is_changed_in_its_form_and_only_what_was_changed_is_sent(look, home):
    page, before = look("admin", at="settings"), (home[0] / "settings.ini").read_text()
    try:
        page.click("#s-force summary:has-text('Limits')")
        assert "at most 1" in page.inner_text("#s-force details[open] .field:has([name='limits.max_weight'])").lower()
        page.fill("#s-force [name='limits.max_weight']", "1.5")
        page.click("#s-force details[open] button:has-text('Check and save')")
        page.wait_for_selector("#notices .bad:has-text('max_weight')")
        assert (home[0] / "settings.ini").read_text() == before
        page.fill("#s-force [name='limits.max_weight']", "0.18")
        page.click("#s-force details[open] button:has-text('Check and save')")
        page.wait_for_selector("#notices :text('The settings are saved')")
        after = (home[0] / "settings.ini").read_text()
        assert "max_weight = 0.18" in after and after.count("max_group_weight") == before.count("max_group_weight")
    finally:
        (home[0] / "settings.ini").write_text(before)


def test_a_search_is_started_from_the_page_and_its_best_variation_is_drawn(look):
    page = look("admin", at="research")
    page.select_option("[name=strategy]", "MaCross")
    page.fill("[name=grid]", "fast")
    page.click("button:has-text('Run it')")
    page.wait_for_selector("#notices .bad:has-text('no part of a grid')")
    page.fill("[name=grid]", "fast=5,10 slow=50,100")
    page.fill("[name=symbols]", "AAPL, KO")
    page.fill("[name=start]", "2019-01-02")
    page.click("button:has-text('Run it')")
    page.wait_for_selector("#s-result .chart canvas >> nth=0", timeout=240_000)
    assert "Best of 4 variations" in page.inner_text("#s-result") and page.locator("#s-tests tbody tr").count() == 1


def test_a_plan_is_amended_in_its_form_and_an_amount_that_cannot_be_says_why(look, home, monkeypatch):
    import trading.dashboard.page_updates
    from trading.dashboard.components import PageSection

    page = look("trader", at="orders")
    page.select_option("#profile", "pad")
    page.wait_for_selector("#s-plan :text('Awaiting approval')")
    if page.locator("#banner button:has-text('Resume trading')").count():  # whoever pressed the red button has stopped this account too
        page.click("#banner button:has-text('Resume trading')")
        page.fill("#ask-reason", "it was somebody else")
        page.click("#ask-yes")
        page.wait_for_selector("#banner button:has-text('Resume trading')", state="detached")
    units, before = "#s-orders .more-form [name^='units:'], #s-orders details [name^='units:']", sent(home[1]["pad"])
    page.click("#s-orders summary:has-text('Amend the plan')")
    first, was = page.locator(units).first, page.locator(units).first.input_value()
    first.fill("a lot")
    page.fill("#s-orders [name=reason]", "less of it")
    page.click("#s-orders button:has-text('Amend the plan')")
    page.wait_for_selector("#notices .bad:has-text('which is no number; write one such as 0.25')")
    assert page.locator("#notices .bad").last.inner_text().count(".") <= 2 and "Traceback" not in page.inner_text("#notices")
    first.fill(f"{float(was) / 2 + 0.00005:.5f}")
    page.click("#s-orders button:has-text('Amend the plan')")
    page.wait_for_selector("#notices .bad:has-text('no multiple of the step')")
    sections = trading.dashboard.page_updates.sections_of
    monkeypatch.setattr(trading.dashboard.page_updates, "sections_of", lambda *asked: iter([PageSection("new", "New", []), *sections(*asked)]))
    os.utime(home[0] / "settings.ini")
    page.wait_for_selector("#s-new")  # the whole screen was drawn again
    assert page.input_value("#s-orders [name=reason]") == "less of it", "what was refused stays as it was typed"
    assert first.input_value() == f"{float(was) / 2 + 0.00005:.5f}"
    first.fill(str(int(float(was) / 2)))
    page.click("#s-orders button:has-text('Amend the plan')")
    page.wait_for_selector("#notices p:not(.bad):has-text('takes the place of'), #notices .bad >> nth=2")
    assert page.locator("#notices p:not(.bad):has-text('takes the place of')").count(), page.inner_text("#notices")
    page.reload()
    page.wait_for_selector("#carnet[data-live=yes]")
    page.select_option("#profile", "pad")
    page.wait_for_selector("#s-plan :text('Awaiting approval')")
    assert float(page.locator(units).first.input_value()) < float(was) and sent(home[1]["pad"]) == before, "it awaits an approval of its own"


def test_a_replay_is_started_from_its_form_and_a_last_day_before_the_first_says_so(look):
    page = look("trader", at="activity")
    page.fill("#s-replays [name=start]", "2022-12-21")
    page.fill("#s-replays [name=end]", "2022-12-19")
    page.click("button:has-text('Replay the past')")
    page.wait_for_selector("#notices .bad:has-text('give the earlier day first')")
    page.fill("#s-replays [name=start]", "2022-12-19")
    page.fill("#s-replays [name=end]", "2022-12-21")
    page.click("button:has-text('Replay the past')")
    page.wait_for_selector("#s-replays tbody tr", timeout=240_000)
    assert "sample" in page.inner_text("#s-replays tbody tr")


def test_the_tasks_of_a_day_take_few_clicks_and_today_s_risk_two_swipes_of_a_phone(look):
    page, clicks = look("viewer"), []

    def click(where: str) -> None:
        clicks.append(where)
        page.click(where)

    page.select_option("#profile", "strict")
    clicks.append("the profile")
    click("nav a:has-text('Orders')")
    page.wait_for_selector("#s-plan :text('Rejected')")
    assert "orders are above the limit of 3" in page.inner_text("#s-plan") and len(clicks) <= 3

    clicks.clear()
    click("nav a:has-text('Runs')")
    click("#s-list a:has-text('2022-12-27_strict')")
    click("#s-one a:has-text('2022-12-23_strict')")
    page.wait_for_selector("#s-compare td")
    assert len(clicks) <= 3 and "2022-12-27_strict_1" in page.inner_text("#s-compare") and "2022-12-23_strict_1" in page.inner_text("#s-compare")

    page, swipes = look("viewer", 390, has_touch=True, is_mobile=True), 0
    page.tap("#menu")
    page.tap("#screens a:has-text('Risk')")
    page.wait_for_selector(".reading", state="detached")
    seen = "e => { const r = e.getBoundingClientRect(); return r.top >= 0 && r.bottom <= innerHeight }"
    for figure in ("Drawdown", "Daily loss", "Value at risk, 95", "Expected shortfall, 95", "Volatility"):
        row = page.locator(f"#main tr:has-text('{figure}')").first
        while not row.evaluate(seen):
            swipes += 1
            assert swipes <= 2, f"{figure} is {swipes} swipes away"
            page.evaluate("scrollBy(0, 0.8 * innerHeight)")


def test_a_viewer_sees_and_cannot_act_even_by_hand(look, home):
    page, (home, _) = look("viewer"), home
    assert page.locator("#s-run .steps li").count() == 5
    assert page.locator("#main button, #main form, header button.danger").count() == 0
    page.evaluate("""() => { const b = document.createElement('button'); b.dataset.act = 'kill'; b.dataset.values = '{"reason": "mischief"}';
                     document.querySelector('#main').append(b); b.click() }""")
    page.wait_for_selector("#notices .bad:has-text('viewer')")
    assert "mischief" not in "".join(p.read_text() for p in (home / "data").glob("kill-*.jsonl"))


def test_settings_are_taken_whole_or_not_at_all(look, home):
    home, _ = home
    page, before = look("admin", at="settings"), (home / "settings.ini").read_text()
    page.fill("#settings-text", before + "\n[limits]\nmax_wait = 0.2\n")
    page.click("#s-edit button:has-text('Check and save')")
    page.wait_for_selector("#notices .bad:has-text('max_wait')")
    assert (home / "settings.ini").read_text() == before
    page.fill("#settings-text", before + "\n[limits]\nmax_weight = 0.19\n")
    page.click("#s-edit button:has-text('Check and save')")
    page.wait_for_selector("#notices :text('The settings are saved')")
    page.wait_for_selector("#s-force summary:has-text('Limits'):has-text('one changed')")
    (home / "settings.ini").write_text(before)
    page.fill("#override-name", "TULIP")
    page.select_option("#override-group", "Memecoins")
    page.click("button:has-text('Set the group')")
    page.wait_for_selector("#s-groups :text('TULIP')")


def test_the_first_view_comes_before_any_script(look, served, browser, people):
    context = browser.new_context(storage_state=people("viewer"), java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{served[0]}/?at=holdings")
    assert page.locator("section table tbody tr").count() >= 1 and page.locator("h1").inner_text() == "Holdings"
    page.click("nav a:has-text('Orders')")  # links are links
    assert page.locator("h1").inner_text() == "Orders" and page.locator("#s-plan").count() == 1
    context.close()


def test_nothing_of_the_page_names_another_host():
    from trading.core.resources import share_path

    for name in ("dashboard.html", "dashboard.page.html", "dashboard.css", "dashboard.js"):
        assert not re.search(r"(https?:)?//[a-z]", share_path("templates", name).read_text(encoding="utf-8")), name
