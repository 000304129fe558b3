"The example report in the repository: it opens without a network, is as the code writes it, and tells nothing about the machine that made it."

import re
from pathlib import Path

from trading.pipeline.run_record import list_runs
from trading.report.daily_report import build_report
from trading.testing.example_report import example_data

ROOT = Path(__file__).parents[1]
FILE = ROOT / "reports" / "example" / "index.html"


def outline(text: str) -> tuple[list[str], list[str]]:
    "Return the sections of a report and their headings."
    return re.findall(r'<section id="?([^" >]+)', text), re.findall(r"<h2[^>]*>(.*?)</h2>", text)


def test_the_example_has_the_sections_that_the_code_writes():
    kept, made = FILE.read_text(encoding="utf-8"), build_report(example_data())
    assert outline(kept) == outline(made) and len(outline(kept)[0]) >= 10, "make it again with 'make readme'"


def test_the_example_needs_no_network_and_names_no_place_of_a_machine():
    text = FILE.read_text(encoding="utf-8")
    assert len(text.encode()) < 400_000
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//(?!www\.w3\.org)""", text)
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", text)


def test_the_front_page_leads_to_it():
    for page in (ROOT / "README.md", ROOT / "reports" / "README.md"):
        places = [page.parent / p for p in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")) if "example" in p]
        assert places and all(p.exists() for p in places)


def test_it_is_not_taken_for_a_run():
    assert "example" not in [r.id for r in list_runs(ROOT / "reports")]
