"""How long each screen of the page takes with 500 runs, in headless Chromium on a phone's width: cold, in a server that has answered nothing yet,
and warm; and how long the report of a run takes to make when its account has ten years of daily marks. Lines of JSON."""

import json
import os
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from dashboard import FLAGS, serve

RUNS, WARM, MARKS = 500, 5, 2520
SHOWN = "() => document.querySelector('#main section[id]') && !document.querySelector('#main [aria-busy=true]')"


def many_runs(home: Path, runs: int = RUNS) -> None:
    "Copy the newest run until there are enough, each on a day of its own before it."
    newest = max((home / "reports").glob("*/run.json")).parent
    record = json.loads((newest / "run.json").read_text(encoding="utf-8"))
    day = datetime.fromisoformat(record["as_of"])
    for n in range(1, runs):
        when = day - timedelta(days=n)
        name = f"{when - timedelta(days=1):%Y-%m-%d}_sample_9"
        shutil.copytree(newest, home / "reports" / name, copy_function=os.link)
        (home / "reports" / name / "run.json").unlink()
        created = datetime.fromisoformat(record["created"]) - timedelta(hours=n)
        changed = record | {"id": name, "as_of": when.isoformat(), "created": created.isoformat()}
        (home / "reports" / name / "run.json").write_text(json.dumps(changed), encoding="utf-8")


def look(home: Path, at: str, chromium: str) -> tuple[float, list[float]]:
    "Open one screen in a server that has answered nothing, then leave it and come back; return the first wait and the others, in seconds."
    from playwright.sync_api import sync_playwright

    import trading.dashboard.app  # noqa: F401  the program is loaded, as in a service

    server, url = serve(home)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        begun = time.perf_counter()
        page.goto(f"{url}/?at={at}", wait_until="commit")
        page.wait_for_function(SHOWN)
        first, rest = time.perf_counter() - begun, []
        page.wait_for_selector("#carnet[data-live=yes]")

        def go(where: str) -> float:
            begun = time.perf_counter()
            page.click(f"#screens a[href='?at={where}']")
            page.wait_for_selector(f"#screens a[href='?at={where}'][aria-current=page]", state="attached")
            page.wait_for_function(SHOWN)
            return time.perf_counter() - begun

        other = "books" if at != "books" else "orders"
        for _ in range(1 + WARM):
            go(other)
            rest.append(go(at))
        browser.close()
    server.should_exit = True
    return first, rest[1:]


def screens(home: Path, chromium: str) -> list[tuple]:
    "Measure every screen, each in a process that has loaded the program and answered nothing."
    from multiprocessing import get_context

    from trading.dashboard.layout import SCREENS

    found = {}
    for at in SCREENS:
        with get_context("spawn").Pool(1) as pool:
            found[at] = pool.apply(look, (home, at, chromium))
    cold, warm = max(found, key=lambda s: found[s][0]), max(found, key=lambda s: median(found[s][1]))
    for at, (first, rest) in found.items():
        print(at, round(first, 3), round(median(rest), 3), file=sys.stderr)
    return [
        (f"page: the slowest of {len(found)} screens with {RUNS} runs, cold server ({cold})", found[cold][0], 1.0),
        (f"page: the slowest of {len(found)} screens with {RUNS} runs, warm ({warm})", median(found[warm][1]), 0.3),
    ]


def report(home: Path) -> tuple:
    "Measure the report of a run whose account was opened ten years before it and marked on every day since."
    from decimal import Decimal

    from trading.accounting.ledger import Ledger
    from trading.core.settings import load_settings
    from trading.core.types import Event
    from trading.pipeline.launch import open_run
    from trading.pipeline.notebook_runner import run_in_process
    from trading.pipeline.run_record import STAGES
    from trading.testing.sample_runs import SMALL

    settings = load_settings(overrides=SMALL | {"run.data": home / "data", "run.reports": home / "reports"}, environ={})
    account, ledger = "paper-sample", Ledger(home / "data" / "ledger.sqlite")
    first = datetime(2022, 12, 27, tzinfo=UTC) - timedelta(days=MARKS)
    ledger.open_account(account, "USD", Decimal(100_000), first)
    sums = dict.fromkeys(("realised", "unrealised", "fees"), "0") | {"paid_in": "100000", "prices": {}}
    worth = [str(100_000 + 7 * (k % 700) + 900 * (k % 11)) for k in range(MARKS - 1)]
    ledger.append([Event("equity", account, first + timedelta(days=k), sums | {"equity": w, "cash": w}) for k, w in enumerate(worth) if k])
    run = run_in_process(open_run(settings, datetime.now(UTC), "2022-12-27"), STAGES[:-1])
    begun = time.perf_counter()
    run_in_process(run, STAGES[-1:])
    took = time.perf_counter() - begun
    print(f"{len(run.read('equity')):,} marks, {(run.folder / 'index.html').stat().st_size / 1e6:.2f} MB", file=sys.stderr)
    return "report of a run with ten years of daily marks", took, 3.0


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("no chromium on this machine: install Debian's package 'chromium'")

    home = Path(tempfile.mkdtemp(prefix="carnet-screens-"))
    home.joinpath("data").mkdir()
    made = report(home)
    many_runs(home)
    for figure, value, ceiling in [*screens(home, chromium), made]:
        print(json.dumps({"figure": figure, "value": round(value, 3), "unit": "s", "rival": "asked for at most", "rival_value": ceiling,
                          "ratio": round(value / ceiling, 2)}))


if __name__ == "__main__":
    main()
