"""Make a site of the notebooks in _docs/: one page each, an index, no request to any other host."""

import shutil
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

ROOT = Path(__file__).parent.parent
OUT = ROOT / "_docs"
STYLE = ("body{font:16px/1.5 system-ui;max-width:42rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
         "a{color:#1f6fb2}h2{text-transform:capitalize}")
SKIP = {"runs", ".ipynb_checkpoints"}


def title_of(notebook) -> tuple[str, str]:
    "Return the title of a notebook and the sentence below it."
    lines = notebook.cells[0].source.splitlines()
    return lines[0].lstrip("# "), next((line.lstrip("> ") for line in lines if line.startswith(">")), "")


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="", embed_images=True,
                            exclude_input_prompt=True, exclude_output_prompt=True)
    lines, folder = [], None
    for path in sorted((ROOT / "nbs").rglob("*.ipynb"), key=lambda p: (p.parent.name not in ("nbs", "guides"), p.parent.name == "guides", p)):
        if SKIP & set(path.parts):
            continue
        notebook = nbformat.read(path, 4)
        page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title_of(notebook)[0]}})
        place = OUT / path.relative_to(ROOT / "nbs").with_suffix(".html")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(page, encoding="utf-8")
        if path.parent.name != folder:
            folder = path.parent.name
            lines.append(f"<h2>{'Carnet' if folder == 'nbs' else folder.partition('_')[2] or folder}</h2>")
        title, sentence = title_of(notebook)
        lines.append(f'<p><a href="{place.relative_to(OUT).as_posix()}">{title}</a><br>{sentence}</p>')
    head = ('<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Carnet</title>'
            f"<style>{STYLE}</style>")
    (OUT / "index.html").write_text(f"{head}<h1>Carnet, notebook by notebook</h1>{''.join(lines)}", encoding="utf-8")
    print(f"{len(lines)} entries: {(OUT / 'index.html').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
