"What the site says of commands, settings and errors, and where its links lead; `make docs` itself follows every link of the finished pages."

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site():
    made = runpy.run_path(str(ROOT / "scripts" / "docs.py"))
    made["SOURCE"].mkdir(parents=True)
    yield made
    shutil.rmtree(made["WORK"])


def test_every_command_and_every_error_is_told(site):
    from trading.cli.main import COMMANDS, main
    from trading.core import errors

    told = site["commands"]()
    assert all(f"## carnet {name}\n" in told for name in COMMANDS if not main.get_command(None, name).hidden) and "### carnet orders cancel" in told
    kinds = [n for n in errors.__all__ if isinstance(getattr(errors, n), type)]
    assert re.findall(r"(?m)^## (\w+)$", site["errors"]()) == kinds


def test_every_setting_is_told_and_the_schema_knows_it(site):
    from trading.core.settings_model import Settings

    told = site["settings"]()
    schema = json.loads((site["SOURCE"] / "_extra" / "settings.schema.json").read_text())
    assert set(schema["properties"]) == set(Settings.model_fields)
    for section, field in Settings.model_fields.items():
        assert f"## \\[{section}\\]" in told
        for name in getattr(field.annotation, "model_fields", {}):
            assert f"| `{name}` |" in told, f"{section}.{name}"


def test_links_lead_to_pages_and_what_is_no_page_is_plain_words(site):
    guide, front = ROOT / "nbs" / "guides" / "20_own_strategy.ipynb", ROOT / "nbs" / "index.ipynb"
    assert site["linked"]("[x](../00_core/21_extensions.ipynb#a)", guide) == "[x](../00_core/21_extensions.ipynb#a)"
    assert site["linked"]("[x](../../prefect/daily.py) [y](https://a.b)", guide) == "x [y](https://a.b)"
    assert (
        site["linked"]("[x](nbs/guides/20_own_strategy.ipynb) [`y`](nbs/00_core) ![z](docs/report.png)", front)
        == "[x](guides/20_own_strategy.ipynb) [`y`](00_core/index.md) ![z](_static/report.png)"
    )


def test_the_pages_of_the_site_link_to_notebooks_that_exist():
    for page in (ROOT / "docs" / "site").glob("*.md"):
        for link in re.findall(r"\]\(([\w/]+\.ipynb)\)", page.read_text(encoding="utf-8")):
            assert (ROOT / "nbs" / link.replace("carnet.ipynb", "index.ipynb")).exists(), f"{page.name}: {link}"


def test_a_star_and_a_last_underscore_in_a_docstring_are_no_markup(site):
    lines = ["Return `weights_` and weights_ after *args.", "    **options : Any", "weights_ : pd.Series"]
    site["escaped"](None, "function", "f", None, None, lines)
    assert lines == ["Return `weights_` and weights\\_ after \\*args.", "    **options : Any", "weights_ : pd.Series"]


def test_a_link_that_leads_nowhere_is_found(site, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text('<h1 id="top">x</h1><a class="b" href="../a.html#one">a</a><a href="https://b.c">b</a>')
    page = '<p id="one"></p><a href="sub/">s</a><a href="sub/index.html?x=1#top">s</a><a href="mailto:a@b.c">m</a><pre>href="not/a/link.html"</pre>'
    (tmp_path / "a.html").write_text(page)
    assert site["broken_links"](tmp_path) == []
    bad = ['<a href="gone.html">', '<a\nhref="#two">', "<img alt='' src='no.png'>", '<a href="sub/index.html#one">']
    (tmp_path / "a.html").write_text(page + "".join(bad))
    assert site["broken_links"](tmp_path) == ["a.html: #two", "a.html: gone.html", "a.html: no.png", "a.html: sub/index.html#one"]


def test_a_small_site_hides_directives_and_links_notebook_reference_and_source(site):
    path = ROOT / "nbs" / "07_portfolio" / "20_base.ipynb"
    site["write_notebook"](path)
    assert site["write_module"](path) == "portfolio.base" and site["write_module"](ROOT / "nbs" / "guides" / "10_first_hour.ipynb") == ""
    (site["SOURCE"] / "_static").mkdir(exist_ok=True)
    (site["SOURCE"] / "_static" / "carnet.css").write_text(site["STYLE"])
    (site["SOURCE"] / "index.md").write_text("# Small\n\n" + site["toctree"](["07_portfolio/20_base", "reference/portfolio.base"]))
    made = site["build"]()
    alone = {p.relative_to(made).as_posix(): p.read_bytes() for p in made.rglob("*") if p.is_file()}
    shutil.rmtree(made)
    made = site["build"](2)
    together = {p.relative_to(made).as_posix(): p.read_bytes() for p in made.rglob("*") if p.is_file()}
    assert together.keys() == alone.keys() and [name for name in alone if alone[name] != together[name]] == [], "processes side by side make the same"
    book, reference = (made / name for name in ("07_portfolio/20_base.html", "reference/portfolio.base.html"))
    told = reference.read_text()
    assert "default_exp" not in book.read_text() and "../reference/portfolio.base.html" in book.read_text()
    assert 'id="trading.portfolio.base.make_problem"' in told and "time × symbol, simple returns per period" in told and "weights_" in told
    assert 'href="../07_portfolio/20_base.html#src-make_problem"' in told and 'id="src-make_problem"' in book.read_text()
    assert site["broken_links"](made) == []
    found = look_up(made, "problem")
    assert "reference/portfolio.base.html" in found and "07_portfolio/20_base.html" in found, "a name of a function, and a word of a notebook"
    assert look_up(made, "unconstrained") == [] != look_up(made, "turnover")


def look_up(made: Path, word: str) -> list[str]:
    "Search the site in a browser; return the pages that it finds."
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: install Debian's package 'chromium' to search the site")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--no-first-run"])
        page = browser.new_page()
        page.goto(f"{(made / 'search.html').as_uri()}?q={word}")
        page.wait_for_function("() => document.querySelector('#search-results h2')?.textContent.match(/Search Results|Results/)")
        page.wait_for_function("() => !document.querySelector('#search-progress')?.textContent.match(/Searching|Preparing/)")
        found = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.getAttribute('href').replace(/[?#].*/, ''))")
        browser.close()
    return found


def test_a_page_that_cannot_be_read_ends_the_build_with_its_error(site, tmp_path, monkeypatch):
    book = site["SOURCE"] / "bad.ipynb"
    book.write_text("{")
    try:
        with pytest.raises(RuntimeError, match="bad: .*JSON"):
            site["build"](2)
    finally:
        book.unlink()


def test_the_commands_of_the_terminal_have_one_page_and_no_empty_one(site):
    assert site["offered"]("cli.orders") == [] and "make_problem" in site["offered"]("portfolio.base")
    assert "Usage: carnet orders cancel" in site["commands"]()
