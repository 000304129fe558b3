"The daily report in a real browser: phone and desktop, light and dark, and on paper."

import json
import re
import shutil
from dataclasses import fields, replace

import pandas as pd
import pytest
from barriers import barriers

from trading.report.daily_report import REPORT_SECTIONS, ReportData, build_report
from trading.report.run_index import build_index
from trading.testing.example_report import example_data

pytestmark = pytest.mark.xdist_group("report")  # one worker: what they share is made once

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
SCREENS = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]

# Contrast as WCAG 2.2 defines it, of every piece of text against what is painted behind it.
CONTRAST = r"""() => {
  const parse = c => {
    const m = c.match(/[\d.]+/g).map(Number), scale = c.startsWith('color(') ? 255 : 1;
    return [m[0] * scale, m[1] * scale, m[2] * scale, m[3] ?? 1];
  };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = c => {
    const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.data.trim() || element.closest('title') || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    let paper = [0, 0, 0, 0], chain = [];
    for (let e = element; e; e = e.parentElement) chain.push(parse(getComputedStyle(e).backgroundColor));
    paper = chain.reverse().reduce((below, c) => over(c, below), [255, 255, 255, 1]);
    const ink = over(parse(element.closest('svg') ? style.fill : style.color), paper);
    const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
    found.push({text: node.data.trim().slice(0, 40), ratio: (a + .05) / (b + .05), size: parseFloat(style.fontSize)});
  }
  return found;
}"""

# Letters of a chart that leave the page or lie on top of one another.
LETTERS = r"""() => {
  const bad = [];
  for (const svg of document.querySelectorAll('svg.chart')) {
    if (!svg.checkVisibility()) continue;
    const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    for (const [text, box] of boxes)
      if (box.left < 0 || box.right > document.documentElement.clientWidth + 1) bad.push(`${text} leaves the page`);
    boxes.forEach(([text, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4) bad.push(`${text} on ${other}`); }));
  }
  return bad;
}"""


@pytest.fixture(scope="module")
def data():
    return example_data()


@pytest.fixture(scope="module")
def file(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(build_report(data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no chromium on this machine: install Debian's package 'chromium' to see the report in a browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install 'carnet[dev]'")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=SCREENS, ids=lambda s: f"{s[0]}-{s[1]}")
def page(request, browser, file):
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.asked, page.said = [], []
    page.on("request", lambda r: page.asked.append(r.url))
    page.on("console", lambda m: page.said.append(m.text))
    page.on("pageerror", lambda e: page.said.append(str(e)))
    page.goto(file.as_uri())
    yield page
    page.close()


def test_the_page_asks_for_nothing_and_runs_nothing(page, file):
    page.wait_for_load_state("networkidle")
    assert page.asked == [file.as_uri()]
    assert page.said == []
    assert page.locator("script, iframe, img, object, link[rel=stylesheet]").count() == 0


def test_a_stop_stands_above_the_oldest_report_too_when_its_file_is_opened_and_the_file_is_as_it_was_made(data, browser, tmp_path):
    from trading.services.stops import STOP_SHEET, account_switch, mark_reports
    from trading.services.workspace import Workspace

    place = Workspace(tmp_path / "data", tmp_path / "reports", tmp_path / "settings.ini")
    place.data.mkdir()
    files = []
    for name, account in (("2022-12-20_sample_1", "paper-sample"), ("2022-12-27_sample_1", "paper-sample"), ("2022-12-27_other_1", "paper-other")):
        (folder := place.reports / name).mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"account": account}))
        files.append(folder / "index.html")
        files[-1].write_text(build_report(replace(data, account=account, run_id=name), stop_sheet=STOP_SHEET), encoding="utf-8")
    made = [f.read_bytes() for f in files]
    page = browser.new_page()
    above = lambda file: page.goto(file.as_uri()) and page.evaluate("getComputedStyle(document.body, '::before').content")  # noqa: E731
    mark_reports(place)
    assert [above(f) for f in files] == ["none"] * 3
    account_switch(place, "paper-sample").engage("ann", 'prices "} body { display: none } <b>', data.as_of)
    mark_reports(place)
    assert all('stopped by ann' in above(f) and 'display: none } <b>' in above(f) for f in files[:2]) and above(files[2]) == "none"
    assert page.evaluate("getComputedStyle(document.body).display") != "none"
    account_switch(place, "paper-sample").reset("ann", "found", data.as_of)
    mark_reports(place)
    assert [above(f) for f in files] == ["none"] * 3 and [f.read_bytes() for f in files] == made
    page.close()


def test_nothing_is_wider_than_the_screen_even_with_all_parts_open(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
    assert page.evaluate(LETTERS) == []


def test_every_text_can_be_read(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    texts = page.evaluate(CONTRAST)
    assert len(texts) > 400
    assert [t for t in texts if t["ratio"] < 4.5] == []
    assert [t for t in texts if t["size"] < 12] == []


def test_the_scheme_is_followed(page, request):
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(int(v) for v in re.findall(r"\d+", paper)[:3]) < 150
    assert dark == ("dark" in request.node.name)


def test_a_screenshot_shows_every_section(page, tmp_path):
    picture = tmp_path / "report.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 50_000
    heights = page.evaluate("[...document.querySelectorAll('section')].map(s => s.getBoundingClientRect().height)")
    assert len(heights) == len(REPORT_SECTIONS) and min(heights) > 60


def test_who_cannot_see_it_hears_it(page):
    every = "[...document.querySelectorAll('{}')].every({})"
    assert page.evaluate(every.format("svg[role=img]", "s => s.getAttribute('aria-label') && s.querySelector('title').textContent"))
    assert page.locator("svg[role=img]").count() >= 8
    assert page.locator("svg:not([role=img])").count() == page.locator("svg[role=img] svg").count()
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert page.evaluate(every.format("table", "t => t.querySelector('thead th[scope=col]') && t.querySelector('tbody th[scope=row]')"))
    assert page.locator("main").count() == page.locator("header").count() == page.locator("footer").count() == 1
    assert page.evaluate(every.format('a[href^="#"]', "a => document.querySelector(a.getAttribute('href'))"))
    assert barriers(page) == []


def test_it_prints_on_a_few_pages_with_everything_open(browser, file):
    page = browser.new_page()
    page.goto(file.as_uri())
    pdf = page.pdf(format="A4")
    page.close()
    assert pdf.startswith(b"%PDF") and 4 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf)) <= 25


def test_it_is_small_and_shows_no_code(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) < 2_000_000
    assert "http://" not in text and "https://" not in text and "jp-" not in text and "input_area" not in text and "<pre" not in text


OPTIONAL = [f.name for f in fields(ReportData) if f.default is None]


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_missing_part_is_said_and_never_stops_the_report(data, name):
    text = build_report(replace(data, **{name: None}))
    assert text.count("<section") == len(REPORT_SECTIONS)
    made_from_others = name in ("sentences", "gains", "costs", "spread_bp", "unit", "change")
    assert ('class="missing"' in text) != made_from_others


def test_empty_is_not_missing(data):
    none = {name: getattr(data, name).iloc[:0] for name in ("orders", "holdings_before", "holdings_after", "contributions", "gains")}
    text = build_report(replace(data, **none))
    assert "No orders were placed." in text and "only cash" in text and "Nothing is invested" in text


def test_text_from_data_is_never_markup(data):
    bad = "<script>alert(1)</script>"
    text = build_report(
        replace(data, note=bad, sentences=(bad,), attention=[("act", bad)], orders=data.orders.assign(reason=bad), benchmark_name=bad)
    )
    assert "<script" not in text and text.count("&lt;script&gt;") >= 5


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_list_of_runs_fits_the_screen(browser, tmp_path, width, scheme):
    done = {"profile": "sample", "mode": "paper", "status": "done", "currency": "USD", "orders": 3, "seconds": 14.2}
    names = {d: f"2022-12-{d}_sample_1" for d in range(10, 24)}
    runs = [
        done | {"id": name, "as_of": f"2022-12-{d + 1}T00:00Z", "equity": 1e5 + d * 900, "link": f"{name}/index.html"} for d, name in names.items()
    ]
    failed = {"status": "failed", "stage": "30_allocate", "error": "no close for AAPL", "link": "2022-12-27_sample_1/"}
    runs.append(done | failed | {"id": "2022-12-27_sample_1", "as_of": "2022-12-28T00:00Z"})
    path = tmp_path / "index.html"
    path.write_text(build_index(runs), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert [t for t in page.evaluate(CONTRAST) if t["ratio"] < 4.5] == [] and page.evaluate(LETTERS) == []
    assert page.locator("tbody a").first.get_attribute("href") == "2022-12-27_sample_1/"  # the newest
    page.close()


def test_the_same_data_make_the_same_page(data):
    assert build_report(data) == build_report(data)


def test_the_first_screen_is_the_sentence_the_curve_and_what_needs_a_decision(data):
    text = build_report(data)
    today, person = text.index('id="today"'), text.index('id="person"')
    assert today < text.index("Account against benchmark") < person < text.index('id="why"') < text.index('id="orders"')
    assert text.index("<svg") < text.index('id="orders"'), "pictures come before orders"


def test_twenty_orders_are_compact_and_their_reasons_unfold(data):
    lines = pd.concat([data.orders.iloc[:1]] * 20, ignore_index=True)
    lines = lines.assign(symbol=[f"S{i}" for i in range(20)], value=range(20), reason="because <b>")
    lines.loc[3, "status"] = "rejected"
    part = build_report(replace(data, orders=lines, attention=())).split('id="orders"')[1].split("</section>")[0]
    head, *folded = part.split("<details>")
    assert head.count('scope="row"') == 9 and ">S3<" in head and "because" not in head, "the eight largest and the one that failed"
    assert len(folded) == 2 and folded[0].count('scope="row"') == 20 and folded[1].count("because &lt;b&gt;") == 20


def test_the_record_is_told_by_period_rolling_and_with_its_tails(data):
    text = build_report(data)
    for word in ("Returns by period", "Rolling Sharpe ratio", "Rolling beta", "Deepest drawdowns", "Tail ratio"):
        assert word in text, word
    deepest = data.tables.drawdowns.iloc[0]
    assert f"{deepest['trough'].day}\u00a0{deepest['trough']:%b %Y}" in text
