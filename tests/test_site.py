"What the site says of commands, settings and errors, and where its links lead; `make docs` itself follows every link of the finished pages."

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site():
    made = runpy.run_path(str(ROOT / "scripts" / "docs.py"))
    made["SOURCE"].mkdir(parents=True)
    yield made
    shutil.rmtree(made["WORK"])


def test_every_command_and_every_error_is_told(site):
    from trading.cli.main import COMMANDS
    from trading.core import errors

    told = site["commands"]()
    assert all(f"## carnet {name}\n" in told for name in COMMANDS if name != "after") and "### carnet orders cancel" in told
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


def test_directives_are_hidden_and_a_module_has_its_reference(site):
    site["write_notebook"](ROOT / "nbs" / "06_backtest" / "11_tear_sheet.ipynb")
    cells = json.loads((site["SOURCE"] / "06_backtest" / "11_tear_sheet.ipynb").read_text())["cells"]
    text = "\n".join(c["source"] for c in cells)
    assert "#|" not in text and "[reference](../reference/backtest.tear_sheet.md)" in text and "_modules/trading/backtest/tear_sheet.html" in text
