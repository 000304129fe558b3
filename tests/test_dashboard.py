"The live page in a real browser: sign in with a code, run, watch, read the report, stop and allow trading; on the desk and on the phone."

import re
import threading
import time
from datetime import UTC, datetime

import pytest
from test_report import CHROMIUM, CONTRAST, FLAGS, LETTERS

pytest.importorskip("panel", reason="panel is missing: pip install 'carnet[serve]'")
pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine: install Debian's package 'chromium' to see the page in a browser"),
]
PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A place with one real run of a small market, and settings of its own."
    from trading.app.specimen import SMALL, specimen

    home = tmp_path_factory.mktemp("desk")
    specimen(home, ("2022-12-16",))
    lines: dict[str, list[str]] = {}
    for name, value in SMALL.items():
        section, key = name.split(".")
        lines.setdefault(section, []).append(f"{key} = {value}")
    (home / "settings.ini").write_text("\n".join("\n".join([f"[{s}]", *found]) for s, found in lines.items()))
    return home


@pytest.fixture(scope="module")
def served(home):
    "The service in this process, with three people; returns its address and how their codes are made."
    import pyotp
    import uvicorn

    from trading.app.views import Place
    from trading.app.web import make_app
    from trading.ops.audit import AuditLog
    from trading.ops.auth import Users

    audit = AuditLog(home / "data" / "audit.jsonl")
    users = Users(home / "data" / "users.sqlite", bytes(32), record=audit.append)
    codes = {}
    for role in ("viewer", "trader", "admin"):
        users.add_user(role, PASSWORD, role, ("main",))
        codes[role] = pyotp.parse_uri(users.enrol_totp(role))
    app = make_app(Place(home / "data", home / "reports", home / "settings.ini"), users, audit)
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


@pytest.fixture(scope="module")
def people(browser, served):
    "Browsers of people who have signed in; each signs in once, as a code works once."
    url, codes, _ = served
    known = {}

    def person(role: str):
        if role not in known:
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            context.set_default_timeout(60_000)
            page = context.new_page()
            page.goto(f"{url}/")
            assert page.url.endswith("/signin")
            page.fill("[name=name]", role)
            page.fill("[name=password]", PASSWORD)
            page.fill("[name=code]", codes[role].at(datetime.now(UTC)))
            page.click("button:has-text('Sign in')")
            page.wait_for_selector("#carnet[data-live=yes]")
            page.close()
            known[role] = context.storage_state()
            context.close()
        return known[role]

    return person


@pytest.fixture
def look(browser, people, served):
    "Open a page as somebody; whatever it asks for and says is kept, and nothing may come from outside."
    opened = []

    def show(role: str, width: int = 1280, scheme: str = "light", at: str = "today"):
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, storage_state=people(role))
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.asked, page.said = [], []
        page.on("request", lambda r: page.asked.append(r.url))
        page.on("console", lambda m: page.said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: page.said.append(str(e)))
        page.goto(f"{served[0]}/?at={at}")
        page.wait_for_selector("#carnet[data-live=yes]")
        opened.append((context, page))
        return page

    yield show
    for context, page in opened:
        outside = [u for u in page.asked if not u.startswith((served[0], "blob:", "data:", "about:"))]
        assert outside == [] and page.said == []
        context.close()


def test_a_person_starts_the_run_watches_it_reads_the_report_and_stops_trading(look, served, home):
    page = look("trader")
    assert page.locator("#s-run .steps li.done").count() == 5 and "2022-12-16" in page.inner_text("#s-run")
    page.fill("#start-as_of", "2022-12-27")
    page.click("button:has-text('Start the daily run')")
    page.wait_for_selector("#said :text('The daily run is starting')")
    page.wait_for_selector("#s-run :text('2022-12-27')", timeout=120_000)
    seen = set()
    for _ in range(1800):  # the page changes by itself; it is never loaded again
        seen |= set(page.locator("#s-run .steps li.running b").all_inner_texts())
        if page.locator("#s-run .steps li.done").count() == 5 or page.locator("#s-run .steps li.failed").count():
            break
        page.wait_for_timeout(100)
    assert page.locator("#s-run .steps li.done").count() == 5, page.inner_text("#s-run")
    assert len(seen) >= 2 and len([u for u in page.asked if "/?at=" in u]) == 1
    page.wait_for_selector("#s-story :text('The account is worth')")

    page.click("nav a:has-text('Orders')")
    page.wait_for_selector("#s-plan :text('State: executed')")
    assert page.locator("#s-orders tbody tr").count() >= 1 and "filled" in page.inner_text("#s-orders")
    assert page.evaluate("document.activeElement.id") == "main"  # whoever cannot see the screen is told that it changed

    page.click("nav a:has-text('Runs')")
    page.click("#s-list a:has-text('2022-12-27')")
    report = page.frame_locator("#s-report iframe")
    report.locator("h1").wait_for()
    assert "27" in report.locator("h1").inner_text() and report.locator("section").count() >= 8

    page.click("header button:has-text('Stop trading')")
    page.fill("#ask-reason", "the venue reports nonsense")
    page.keyboard.press("Enter")
    page.wait_for_selector("#banner :text('the venue reports nonsense')")
    assert "the venue reports nonsense" in (home / "data" / "kill-paper-sample.jsonl").read_text()
    page.click("#banner button:has-text('Allow trading again')")
    page.click("#ask-yes")  # without a reason nothing happens
    assert page.locator("#ask").is_visible()
    page.fill("#ask-reason", "the venue was repaired")
    page.click("#ask-yes")
    page.wait_for_selector("header button:has-text('Stop trading')")
    page.wait_for_selector("#banner .stop", state="detached")
    done = [e.action for e in served[2].entries() if e.who == "trader" and e.action.startswith("dashboard")]
    assert done == ["dashboard start", "dashboard kill", "dashboard reset"] and served[2].verify() == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_every_screen_fits_can_be_read_and_has_its_landmarks(look, width, scheme):
    from trading.app.dashboard import SCREENS

    page = look("admin", width, scheme)
    for at in SCREENS:
        if width < 760:
            page.click("#menu")
            assert page.get_attribute("#menu", "aria-expanded") == "true"
        page.click(f"#screens a[href='?at={at}']")
        page.wait_for_selector(f"#screens a[href='?at={at}'][aria-current=page]", state="attached")
        page.wait_for_selector(".reading", state="detached")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == width, at
        assert page.evaluate(LETTERS) == [], at
        texts = page.evaluate(CONTRAST)
        assert [t for t in texts if t["ratio"] < 4.5] == [], at
        assert [t for t in texts if t["size"] < 12] == [], at
        assert page.locator("h1").count() == 1 and page.locator("main section h2").count() == page.locator("main section").count() >= 1, at
        unnamed = "els => els.filter(e => e.checkVisibility() && !(e.innerText || e.getAttribute('aria-label') || e.labels?.length)).length"
        assert page.eval_on_selector_all("button, input:not([type=hidden]), select, textarea", unnamed) == 0, at


def test_a_viewer_sees_and_cannot_act_even_by_hand(look, home):
    page = look("viewer")
    assert page.locator("#s-run .steps li").count() == 5
    assert page.locator("#main button, #main form, header button.danger").count() == 0
    page.evaluate("""() => { const b = document.createElement('button'); b.dataset.act = 'kill'; b.dataset.values = '{"reason": "mischief"}';
                     document.querySelector('#main').append(b); b.click() }""")
    page.wait_for_selector("#said .bad:has-text('viewer')")
    assert "mischief" not in "".join(p.read_text() for p in (home / "data").glob("kill-*.jsonl"))


def test_settings_are_taken_whole_or_not_at_all(look, home):
    page, before = look("admin", at="settings"), (home / "settings.ini").read_text()
    page.fill("#settings-text", before + "\n[limits]\nmax_wait = 0.2\n")
    page.click("button:has-text('Check and save')")
    page.wait_for_selector("#said .bad:has-text('max_wait')")
    assert (home / "settings.ini").read_text() == before
    page.fill("#settings-text", before + "\n[limits]\nmax_weight = 0.19\n")
    page.click("button:has-text('Check and save')")
    page.wait_for_selector("#said :text('saved whole')")
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
    from trading.core.share import share_path

    for name in ("dashboard.html", "dashboard.page.html", "dashboard.css", "dashboard.js"):
        assert not re.search(r"(https?:)?//[a-z]", share_path("templates", name).read_text(encoding="utf-8")), name
