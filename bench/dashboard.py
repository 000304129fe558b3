"How soon the live page shows something, can be used, and shows what has changed: a service on loopback, headless Chromium, a real run to show."

import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
VIEWS = 7  # of which the first is cold
CHANGES = 100  # of a price, until the browser has drawn it


def serve(home: Path):
    "Serve the page in a thread; return the server and its address."
    import uvicorn
    from fastapi import FastAPI

    from trading.dashboard.app import CONTENT_POLICY, mount
    from trading.services.workspace import Workspace

    app = FastAPI()

    @app.middleware("http")
    async def policy(request, call_next):
        answer = await call_next(request)
        answer.headers["Content-Security-Policy"] = CONTENT_POLICY
        return answer

    ann = SimpleNamespace(user="ann", role="trader", portfolios=("main",))
    mount(app, Workspace(home / "data", home / "reports", home / "settings.ini"), lambda request: ann)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    app.state.warm_up()  # as `carnet serve` does
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    return server, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


def measure(url: str, path: str) -> dict:
    "Open the page again and again, each time in a browser without a past."
    from playwright.sync_api import sync_playwright

    shown, live, asked = [], [], []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=FLAGS)
        for _ in range(VIEWS):
            context = browser.new_context(viewport={"width": 390, "height": 844})
            page = context.new_page()
            page.on("request", lambda r: asked.append(r.url))
            begun = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.wait_for_selector("#s-worth .figures, #s-worth .missing")
            shown.append(time.perf_counter() - begun)
            page.wait_for_selector("#carnet[data-live=yes]")
            live.append(time.perf_counter() - begun)
            context.close()
        browser.close()
    outside = [u for u in asked if not u.startswith((url, "blob:", "data:"))]
    return {"first": shown[0], "shown": median(shown[1:]), "live": median(live[1:]), "outside": len(outside)}


def follow(url: str, path: str, data: Path) -> list[float]:
    "Change a price again and again; return how long each change took to be drawn, in milliseconds."
    from datetime import UTC, datetime
    from decimal import Decimal

    from playwright.sync_api import sync_playwright

    from trading.data.quotes import Quote, QuoteBoard, quote_board_file

    board, took = QuoteBoard(quote_board_file(data, "sample"), pause=0), []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(f"{url}/?at=holdings")
        page.wait_for_selector("#carnet[data-live=yes]")
        symbol = page.locator("#s-of-stocks tbody th").first.inner_text()
        page.evaluate("""() => { window.drawn = {}; new MutationObserver(() => { for (const e of document.querySelectorAll('#parts .live'))
            window.drawn[e.firstChild.textContent] ??= performance.timeOrigin + performance.now() }).observe(document.querySelector('#parts'),
            { childList: true, subtree: true, characterData: true }) }""")
        for n in range(CHANGES + 1):
            time.sleep(0.3 + 0.25 * (n * 0.618 % 1))  # at every phase of the page's own look
            begun = time.time()
            board.post({symbol: Quote(Decimal(1000 + n), datetime.now(UTC))})
            shown = f"{1000 + n:,}.00"
            page.wait_for_function("text => window.drawn[text]", arg=shown)
            took.append(page.evaluate("text => window.drawn[text]", shown) - begun * 1000)
        browser.close()
    return sorted(took[1:])  # the first brings the column


def stops(url: str, path: str, data: Path) -> dict[str, float]:
    "Raise a stop on each screen; return how long it took until the banner was drawn, in milliseconds."
    from datetime import UTC, datetime

    from playwright.sync_api import sync_playwright

    from trading.dashboard.layout import SCREENS
    from trading.risk.stop_flag import raise_stop

    took = {}
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.wait_for_selector("#carnet[data-live=yes]")
        page.evaluate("""() => { window.told = {}; const box = document.querySelector('#banner'); new MutationObserver(() => {
            window.told[(box.textContent.match(/bench-\\w+/) ?? ['none'])[0]] ??= performance.timeOrigin + performance.now() }).observe(box,
            { childList: true, subtree: true, characterData: true }) }""")
        for at in SCREENS:
            page.click(f"#screens a[href='?at={at}']")
            page.wait_for_selector(f"#carnet[data-at={at}]")  # a slow screen is still being computed
            begun = time.time()
            flag = raise_stop(data, "ann", f"bench-{at}", datetime.now(UTC))[0]
            page.wait_for_function("key => window.told[key]", arg=f"bench-{at}")
            took[at] = page.evaluate("key => window.told[key]", f"bench-{at}") - begun * 1000
            (data / f"stop-{flag.id}.json").unlink()
            page.wait_for_function("() => !document.querySelector('#banner').textContent.includes('bench-')")
        browser.close()
    return took


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("no chromium on this machine: install Debian's package 'chromium'")
    from trading.testing.sample_runs import make_sample_runs

    home = Path(tempfile.mkdtemp())
    make_sample_runs(home, ("2022-12-27",))
    server, url = serve(home)
    found = measure(url, chromium)
    changes = follow(url, chromium, home / "data")
    told = stops(url, chromium, home / "data")
    server.should_exit = True
    for figure, value, unit, rival, ceiling in (
        ("dashboard: first view, cold server", found["first"], "s", "the aim", 1.5),
        ("dashboard: first view, a browser without a past", found["shown"], "s", "the aim", 1.5),
        ("dashboard: live, a browser without a past", found["live"], "s", "Panel's own first plot, measured before", 1.1),
        ("dashboard: a change of price until it is drawn, median", median(changes), "ms", "the aim at p99", 200),
        ("dashboard: a change of price until it is drawn, p99", changes[int(len(changes) * 0.99) - 1], "ms", "the aim", 200),
        ("dashboard: a stop until its banner is drawn, the slowest of all screens", max(told.values()), "ms", "asked for", 1000),
        ("dashboard: requests to other hosts", found["outside"], "", "the aim", 0),
    ):
        ratio = round(value / ceiling, 2) if ceiling else None
        print(json.dumps({"figure": figure, "value": round(value, 3), "unit": unit, "rival": rival, "rival_value": ceiling, "ratio": ratio}))


if __name__ == "__main__":
    main()
