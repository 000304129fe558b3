"""Make the pictures of the front page in docs/: the lab, the page and the report, as Chromium shows them; names of some may be given."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shutil import which

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs"
PASSWORD = "correct horse battery"
NOTEBOOK = "research/30_trend_on_coins.ipynb"  # what it shows is made for the picture
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--no-first-run"]


def report(browser) -> None:
    "The example report, on a desk."
    page = browser.new_page(viewport={"width": 1100, "height": 760})
    page.goto((ROOT / "reports" / "example" / "index.html").as_uri())
    keep(page, "report_desk")


@contextmanager
def demo():
    "Serve a week of the sample of funds; yield the address and how the codes of its user are made."
    import pyotp
    import uvicorn

    from trading.api.app import make_app
    from trading.security.audit_log import AuditLog
    from trading.security.sessions import Authenticator
    from trading.services.workspace import Workspace

    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "trading", "demo", "here", "--days", "4", "--profile", "sample-etfs", "--no-serve"]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CARNET_")} | {"PYTHONPATH": str(ROOT)}
        subprocess.run(words, cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL)
        home = Path(folder) / "here"
        audit = AuditLog(home / "data" / "audit.jsonl")
        users = Authenticator(home / "data" / "users.sqlite", bytes(32), record=audit.append)
        users.add_user("ada", PASSWORD, "trader", ("main",))
        codes = pyotp.parse_uri(users.enrol_totp("ada"))
        app = make_app(Workspace(home / "data", home / "reports", home / "settings.ini"), users, audit)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", codes
        server.should_exit = True
        thread.join(10)


def page(browser) -> None:
    "Candles of a holding with its trades on the page, signed in."
    with demo() as (url, codes):
        seen = browser.new_page(viewport={"width": 1200, "height": 800})
        seen.goto(f"{url}/")
        for field, value in {"name": "ada", "password": PASSWORD, "code": codes.at(datetime.now(UTC))}.items():
            seen.fill(f"[name={field}]", value)
        seen.keyboard.press("Enter")
        seen.wait_for_selector("text=Sign out")
        seen.goto(f"{url}/?at=markets&profile=sample-etfs")
        seen.wait_for_selector("main div.chart canvas, main section svg")
        seen.wait_for_timeout(6000)
        keep(seen, "page")


def lab(browser) -> None:
    "A research notebook with its kept outputs, in JupyterLab."
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", folder, str(ROOT / "nbs" / NOTEBOOK)]
        subprocess.run(words, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
        ours = os.environ | {"JUPYTER_CONFIG_DIR": f"{folder}/.jupyter", "HOME": folder, "PYTHONPATH": str(ROOT)}
        trust = "from nbformat.sign import TrustNotebookApp; TrustNotebookApp.launch_instance()"  # what is not trusted is shown without pictures
        subprocess.run([sys.executable, "-c", trust, str(Path(folder) / Path(NOTEBOOK).name)], check=True, env=ours, capture_output=True)
        quiet = Path(folder) / ".jupyter" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        quiet.parent.mkdir(parents=True)
        quiet.write_text('{"fetchNews": "false"}')
        words = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--ServerApp.token=carnet", f"--ServerApp.root_dir={folder}",
                 "--allow-root"]
        started = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ours)
        try:
            port = next(found[1] for line in started.stderr if (found := re.search(r"127\.0\.0\.1:(\d+)/lab", line)))
            threading.Thread(target=started.stderr.read, daemon=True).start()
            seen = browser.new_page(viewport={"width": 1200, "height": 800})
            seen.goto(f"http://127.0.0.1:{port}/lab/tree/{Path(NOTEBOOK).name}?token=carnet")
            seen.wait_for_selector(".jp-OutputArea-output", timeout=120_000)
            seen.wait_for_timeout(3000)
            seen.locator(".jp-OutputArea-output").first.scroll_into_view_if_needed()
            seen.mouse.move(700, 500)
            seen.mouse.wheel(0, 160)
            seen.wait_for_timeout(3000)
            keep(seen, "lab")
        finally:
            started.terminate()
            started.wait()


def keep(page, name: str) -> None:
    "Write a picture in few colours, which is a fifth of its size."
    from PIL import Image

    path = PICTURES / f"{name}.png"
    page.screenshot(path=str(path))
    with Image.open(path) as shown:
        shown.convert("RGB").quantize(64).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    from playwright.sync_api import sync_playwright

    wanted = sys.argv[1:] or ["lab", "page", "report"]
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=which("chromium"), args=FLAGS)
        for name in wanted:
            {"lab": lab, "page": page, "report": report}[name](browser)
        browser.close()


if __name__ == "__main__":
    main()
