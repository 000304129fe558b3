"The glossary explains what report and page show."

import html
import json
import re
from pathlib import Path

from trading.report.daily_report import build_report
from trading.report.performance_sections import COMPARED_METRICS
from trading.testing.example_report import example_data

GLOSSARY = Path(__file__).parent.parent / "nbs" / "guides" / "70_glossary.ipynb"
PLAIN = set(re.findall(r"\w+", """
    account after allowed and apr aug bars before changes curve dec duration feb fee first forecasts group happened holdings jan jul jun
    last level loss mar may meaning measure measures missing month nov now oct of order orders period price profile reason risk run
    sep share since stages status symbol the total traded trades trading units usd used value what why year"""))  # everyday words


def terms() -> list[tuple[str, ...]]:
    "Return the rows of the glossary."
    text = "".join("".join(c["source"]) + "\n" for c in json.loads(GLOSSARY.read_text(encoding="utf-8"))["cells"])
    return [tuple(p.strip() for p in re.split(r"(?<!\\)\|", line)[1:-1]) for line in text.splitlines() if line.startswith("| **")]


def names() -> list[str]:
    "Return every name that the glossary explains, in small letters; a row may explain several."
    return [name.strip().lower() for row in terms() for name in row[0].strip("*").split(",")]


def test_each_row_has_a_meaning_a_source_and_a_place_and_stands_once():
    assert len(terms()) > 60 and all(len(row) == 4 and all(row) for row in terms())
    assert len(set(names())) == len(names())


def test_each_heading_and_table_head_of_the_report_is_explained():
    page = re.sub(r"</?dfn[^>]*>", "", html.unescape(build_report(example_data()))).replace("\u00a0", " ")
    pattern = r"<h[23][^>]*>([^<]+)</h[23]>|<th role=\"columnheader\"[^>]*>([^<]+)</th>|<dt>([^<]+)</dt>"
    shown = set(re.findall(pattern, page.split('id="provenance"')[0]))
    labels = {label.lower() for found in shown for label in found if label}
    known = [re.compile(rf"\b{re.escape(name.split('(')[0].strip())}") for name in names()]
    missing = sorted(label for label in labels if not set(re.findall(r"[a-z]+", label)) <= PLAIN and not any(k.search(label) for k in known))
    assert len(labels) > 40 and not missing, missing


def test_each_risk_measure_is_explained():
    labels = [label.split(",")[0].lower() for label, _, _ in COMPARED_METRICS.values()]
    assert [label for label in labels if label not in names()] == []


def test_the_pages_explain_their_terms_in_the_words_of_the_glossary():
    told = json.loads((GLOSSARY.parent.parent.parent / "share" / "terms.json").read_text(encoding="utf-8"))
    rows = {name.split("(")[0].strip(): row[1].replace("\\|", "|") for row in terms() for name in row[0].strip("*").lower().split(",")}
    assert rows == told, "run scripts/export.py"
    assert 'data-tip="Largest drawdown of the period"' in build_report(example_data())
