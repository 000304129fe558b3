"""Make README.md from nbs/index.ipynb, so that the ten lines on the front page are executed like everything else."""

import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent


def make_readme() -> str:
    "Return the text of README.md."
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", 4)
    notebook.cells = [c for c in notebook.cells if not c.source.startswith("assert")]
    notebook.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = re.sub(r"(?m)^    (.*)$", r"> `\1`", text)  # the printed line, as a quotation
    note = "<!-- made from nbs/index.ipynb by `make readme`; edit the notebook -->\n\n"
    return note + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(make_readme(), encoding="utf-8")
