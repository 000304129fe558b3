"""Make a site of the notebooks in _docs/: one page each, a front page that lists them, no request to any other host."""

import html
import os
import re
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUT = ROOT / "_docs"
STYLE = ("body{font:16px/1.5 system-ui;max-width:42rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
         "a{color:#1f6fb2}h2{text-transform:capitalize}@media(prefers-color-scheme:dark){a{color:#7ab8e8}}")
SKIP = {"runs", ".ipynb_checkpoints"}
LINK = re.compile(r"(\]\((?!\w+:)[^)#\s]+)\.ipynb")  # a link to another notebook becomes one to its page


def place_of(path: Path) -> Path:
    "Return where the page of a notebook lies below the site; the front page's own place is taken by the list."
    inside = path.relative_to(ROOT / ("docs" if path.suffix == ".md" else "nbs")).with_suffix(".html")
    return Path("carnet.html") if inside == Path("index.html") else inside


def make_page(path: Path) -> tuple[str, str]:
    "Write the page of one notebook; return its title and the sentence below it."
    import nbformat

    text = path.read_text(encoding="utf-8")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]) if path.suffix == ".md" else nbformat.reads(LINK.sub(r"\1.html", text), 4)
    lines = notebook.cells[0].source.splitlines()
    title, sentence = lines[0].lstrip("# "), next((line.lstrip("> ") for line in lines if line.startswith(">")), "")
    page, _ = _exporter().from_notebook_node(notebook, resources={"metadata": {"name": title, "path": str(path.parent)}})
    place = OUT / place_of(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(page, encoding="utf-8")
    return title, sentence


def _exporter():
    "Return the exporter of this process; making one takes longer than a page."
    from nbconvert import HTMLExporter
    from nbconvert.exporters.templateexporter import TemplateExporter
    from nbconvert.filters.highlight import Highlight2HTML
    from nbconvert.filters.widgetsdatatypefilter import WidgetsDataTypeFilter

    class Page(HTMLExporter):
        "nbconvert's pages without its last step: to parse the whole page again for three attributes takes longer than to make it."

        def from_notebook_node(self, nb, resources=None, **more):
            resources = self._init_resources(resources)
            self.register_filter("highlight_code", Highlight2HTML(pygments_lexer="ipython3", parent=self))
            self.register_filter("filter_data_type", WidgetsDataTypeFilter(notebook_metadata=nb.metadata, parent=self, resources=resources))
            page, resources = TemplateExporter.from_notebook_node(self, nb, resources, **more)
            page = re.sub(r"<img (?![^>]*alt=)", '<img alt="a figure; the text above says what it shows" ', page)
            return re.sub(r'<div class="(jp-Cell-inputWrapper|[^"]*jp-OutputArea-output[^"]*)"', r'<div tabindex="0" class="\1"', page), resources

    if not hasattr(_exporter, "made"):
        _exporter.made = Page(mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="", embed_images=True,
                              exclude_input_prompt=True, exclude_output_prompt=True)
    return _exporter.made


def main() -> None:
    begun = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    paths = [p for p in sorted((ROOT / "nbs").rglob("*.ipynb"), key=lambda p: (p.parent.name not in ("nbs", "guides"), p.parent.name == "guides", p))
             if not SKIP & set(p.parts)] + sorted((ROOT / "docs").rglob("*.md"))
    lines, folder = [], None
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for path, (title, sentence) in zip(paths, pool.map(make_page, paths, chunksize=4), strict=True):
            if path.parent.name != folder:
                folder = path.parent.name
                lines.append(f"<h2>{'Carnet' if folder == 'nbs' else folder.partition('_')[2] or folder}</h2>")
            lines.append(f'<p><a href="{place_of(path).as_posix()}">{html.escape(title)}</a><br>{html.escape(sentence)}</p>')
    head = ('<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Carnet</title>'
            f"<style>{STYLE}</style>")
    (OUT / "index.html").write_text(f"{head}<h1>Carnet, notebook by notebook</h1>{''.join(lines)}", encoding="utf-8")
    print(f"{len(paths)} pages in {time.monotonic() - begun:.0f} s: {(OUT / 'index.html').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
