"""Make the site in _docs/ with Sphinx, from the outputs that the notebooks keep: guides, research, gallery, the house, and a reference of functions,
commands, settings and errors. Every link inside it is followed; nothing is asked of another host."""

import ast
import base64
import functools
import gc
import html
import importlib
import json
import multiprocessing
import os
import pickle
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT, WORK = ROOT / "_docs", Path(tempfile.mkdtemp(prefix="carnet-docs-"))
SOURCE = WORK / "source"
NBS, PAGES = ROOT / "nbs", ROOT / "docs" / "site"
SKIP = {"runs", ".ipynb_checkpoints"}
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
DEFINES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
SOURCES: dict[str, str] = {}  # where the notebook shows the source of 'module.function'
LARGEST = 40e6  # bytes of the whole site
CONF = {
    "project": "Carnet",
    "copyright": "2026, the Carnet authors",
    "extensions": ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "numpydoc"],
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "myst_enable_extensions": ["colon_fence"],
    "myst_heading_anchors": 3,
    "exclude_patterns": ["_extra"],
    "nitpicky": False,
    "suppress_warnings": ["mystnb.unknown_mime_type", "myst.header", "autodoc", "docutils", "ref", "toc", "misc.highlighting_failure"],
    "numpydoc_show_class_members": False,
    "autodoc_typehints": "none",
    "autodoc_member_order": "bysource",
    "add_module_names": False,
    "python_use_unqualified_type_names": True,
    "html_theme": "pydata_sphinx_theme",
    "html_title": "Carnet",
    "html_extra_path": ["_extra"],
    "html_show_sourcelink": False,
    "html_copy_source": False,
    "html_use_index": False,  # the search finds every name, the reference lists every module
    "html_domain_indices": False,
    "html_static_path": ["_static"],
    "html_css_files": ["carnet.css"],
    "html_js_files": [],
    "html_theme_options": {
        "navigation_with_keys": False,
        "collapse_navigation": True,
        "navigation_depth": 2,
        "show_nav_level": 1,
        "header_links_before_dropdown": 6,
        "show_prev_next": False,
        "footer_start": ["copyright"],
        "footer_end": [],
        "secondary_sidebar_items": ["page-toc"],
        "article_footer_items": [],
    },
    "html_sidebars": {"**": []},
}
STYLE = """
.bd-main .bd-content .bd-article-container { max-width: 54rem }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
.gallery a { display: block; border: 1px solid var(--pst-color-border); border-radius: .4rem; padding: .6rem; text-decoration: none }
.gallery img { width: 100%; height: 9rem; object-fit: contain; background: #fff }
.output.text_html, .output_area { overflow-x: auto }
table { display: block; overflow-x: auto }
td:nth-child(3):last-child { min-width: 11rem }
.bd-article h1 { overflow-wrap: anywhere }
@media (max-width: 600px) { .bd-article h1 { font-size: 1.8rem } .bd-article h2 { font-size: 1.4rem } .bd-article h3 { font-size: 1.15rem } }
"""


def titles(path: Path) -> tuple[str, str]:
    "Return the title of a notebook and the sentence below it."
    lines = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]).splitlines()
    return lines[0].lstrip("# "), next((line.lstrip("> ") for line in lines if line.startswith(">")), "")


def module_of(cells: list[dict]) -> str:
    "Return the module that a notebook defines, such as 'backtest.engine'."
    return next((found[1] for c in cells if (found := re.search(r"^#\|\s*default_exp\s+(\S+)", "".join(c["source"]), re.MULTILINE))), "")


def offered(module: str) -> list[str]:
    "List the documented functions and classes that a module defines for everybody; the commands of the terminal have a page of their own."
    if module.startswith("cli."):
        return []
    tree = ast.parse((ROOT / "trading" / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    listed = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"), [])
    return [n.name for n in tree.body if isinstance(n, DEFINES) and n.name in listed and ast.get_docstring(n)]


def defined(text: str) -> list[str]:
    "List the functions and classes that a cell exports."
    if not re.search(r"(?m)^#\|\s*export", text):
        return []
    return [n.name for n in ast.parse(text).body if isinstance(n, DEFINES)]


def linked(text: str, page: Path) -> str:
    "Let links to pages of the site stand, and make plain words of those to files that are none."

    def one(match: re.Match) -> str:
        words, target, rest = match.groups()
        there = (ROOT if page.name == "index.ipynb" else page.parent) / target
        if there.suffix == ".ipynb" and there.exists() and not SKIP & set(there.parts):
            place = there.resolve().relative_to(NBS)
        elif there.is_dir() and there.resolve().parent == NBS and there.name not in SKIP:
            place = Path(there.name) / "index.md"
        elif there.suffix == ".png" and there.exists():
            place = Path("_static") / there.name
        elif there.suffix == ".html" and there.exists():
            return f'<a href="{there.parent.name}/{there.name}">{words}</a>' if page.name == "index.ipynb" else words
        elif there == ROOT / "bench" / "RESULTS.md":
            place = Path("figures.md")
        else:
            return words
        here = Path("carnet.ipynb") if page.name == "index.ipynb" else page.relative_to(NBS)
        return f"[{words}]({os.path.relpath(place, here.parent)}{rest or ''})"

    return LINK.sub(one, text)


def write_notebook(path: Path) -> list[tuple[Path, bytes, str]]:
    "Write a notebook without directives and with links to its reference; return its first picture."
    book = json.loads(path.read_text(encoding="utf-8"))
    module, cells, pictures = module_of(book["cells"]), [], []
    place = Path("carnet.ipynb") if path.name == "index.ipynb" else path.relative_to(NBS)
    for n, cell in enumerate(book["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text = linked(text, path)
            if n == 0 and module:
                up = "../" * len(place.parent.parts)
                page = module if offered(module) else "commands" if module.startswith("cli.") else ""
                text += f"\n\nModule `trading.{module}`" + (f" · [reference]({up}reference/{page}.md)" if page else "")
        else:
            if names := defined(text):
                SOURCES.update({f"{module}.{name}": f"{place.with_suffix('.html').as_posix()}#src-{name}" for name in names})
                marks = "".join(f'<div id="src-{name}"></div>' for name in names)
                cells.append({"cell_type": "markdown", "id": f"src-{n}", "metadata": {}, "source": marks})
            text = re.sub(r"(?m)^#\|.*\n?", "", text).strip("\n")
            pictures += [(place, o["data"]) for o in cell.get("outputs", []) if {"image/png", "image/svg+xml"} & set(o.get("data", {}))]
            cell["outputs"] = [o for o in cell.get("outputs", []) if not (o.get("output_type") == "stream" and o.get("name") == "stderr")]
            for o in cell["outputs"]:
                o.get("data", {}).pop("application/vnd.plotly.v1+json", None)
                if page := o.get("data", {}).get("text/html"):  # what a page made in a notebook links to is not here
                    o["data"]["text/html"] = re.sub(r"""(?i)\shref=(?!["']?(?:#|https?:))("[^"]*"|'[^']*'|[^\s>]+)""", "", "".join(page))
        if text:
            cells.append({**cell, "source": text})
    (SOURCE / place).parent.mkdir(parents=True, exist_ok=True)
    (SOURCE / place).write_text(json.dumps(book | {"cells": cells}), encoding="utf-8")
    return pictures[:1]


def write_house() -> list[Path]:
    "Write all notebooks, a page for each folder, and the gallery of their pictures."
    only = {w for w in sys.argv[1:] if not w.startswith("-")}  # folders, to look at a part of the site; links to the rest are broken then
    paths = [p for p in sorted(NBS.rglob("*.ipynb")) if not SKIP & set(p.parts) and (not only or p.parent == NBS or only & set(p.parts))]
    shown = [(p, *picture) for p in paths for picture in write_notebook(p)]
    folders = sorted({p.relative_to(NBS).parts[0] for p in paths if p.parent != NBS})
    for folder in folders:
        inside = [p for p in paths if p.relative_to(NBS).parts[0] == folder]
        name = (folder.partition("_")[2] or folder).capitalize()
        lines = [
            f"# {name}",
            "",
            *(f"- [{t}]({p.relative_to(NBS / folder).as_posix()}): {s}" for p in inside for t, s in [titles(p)]),
            "",
            toctree([p.relative_to(NBS / folder).with_suffix("").as_posix() for p in inside], True),
        ]
        (SOURCE / folder / "index.md").write_text("\n".join(lines), encoding="utf-8")
    tiles, places = [], SOURCE / "_static" / "gallery"
    places.mkdir(parents=True, exist_ok=True)
    for n, (path, place, data) in enumerate(shown):
        kind = "png" if "image/png" in data else "svg"
        raw = "".join(data.get("image/png") or data["image/svg+xml"])
        (places / f"{n}.{kind}").write_bytes(base64.b64decode(raw) if kind == "png" else raw.encode())
        title = html.escape(titles(path)[0])
        tiles.append(
            f'<a href="{place.with_suffix(".html").as_posix()}">'
            f'<img loading="lazy" alt="a figure of: {title}" src="_static/gallery/{n}.{kind}">{title}</a>'
        )
    (SOURCE / "gallery.md").write_text(
        f'# Gallery\n\nThe first picture of each notebook that shows one.\n\n<div class="gallery">{"".join(tiles)}</div>\n', encoding="utf-8"
    )
    return paths


def toctree(names: list[str], hidden: bool = False) -> str:
    "Return a table of contents of pages."
    return "\n".join(["```{toctree}", *([":hidden:"] if hidden else []), ":maxdepth: 1", "", *names, "```", ""])


def about(folder: str) -> str:
    "Return the sentence of a folder of modules."
    return ast.get_docstring(ast.parse((ROOT / "trading" / folder / "__init__.py").read_text(encoding="utf-8"))) or ""


def write_module(path: Path) -> str:
    "Write the page of the functions and classes that a notebook defines; return the module, or nothing where there are none for everybody."
    module = module_of(json.loads(path.read_text(encoding="utf-8"))["cells"])
    if not module or not (names := offered(module)):
        return ""
    text = f"# {module}\n\nThe notebook [{titles(path)[0]}](../{path.relative_to(NBS).as_posix()}) defines, explains and tests it.\n\n"
    text += f"```{{eval-rst}}\n.. automodule:: trading.{module}\n   :members: {', '.join(names)}\n```\n"
    place = SOURCE / "reference" / f"{module}.md"
    place.parent.mkdir(exist_ok=True)
    place.write_text(text, encoding="utf-8")
    return module


def write_reference(paths: list[Path]) -> None:
    "Write a page for each module, for the commands, the settings with their JSON schema, and the errors."
    place = SOURCE / "reference"
    rows = [(module, titles(path)[1]) for path in paths if (module := write_module(path))]
    listed, folders = "", list(dict.fromkeys(m.split(".")[0] for m, _ in rows))
    for folder in folders:
        listed += f"\n\n### {folder}\n\n{about(folder)}\n\n"
        listed += "\n".join(f"- [`trading.{m}`]({m}.md): {s}" for m, s in rows if m.split(".")[0] == folder)
    (place / "index.md").write_text(
        "# Reference\n\n- [Commands](commands.md) of the terminal\n"
        f"- [Settings](settings.md), with a JSON schema\n- [Errors](errors.md)\n\n## Modules\n\n{listed}\n\n"
        + toctree(["commands", "settings", "errors", *sorted(m for m, _ in rows)], True),
        encoding="utf-8",
    )
    (place / "commands.md").write_text(commands(), encoding="utf-8")
    (place / "settings.md").write_text(settings(), encoding="utf-8")
    (place / "errors.md").write_text(errors(), encoding="utf-8")


def commands() -> str:
    "Return the help of every command."
    import click

    from trading.cli.main import main

    lines = [
        "# Commands",
        "",
        "What `carnet --help` and `carnet COMMAND --help` say. Exit codes: 0 done, 1 refused or failed with one sentence, "
        "2 the words are wrong, 3 an error of ours, 4 a plan waits, 130 interrupted.",
        "",
    ]

    def add(command: click.Command, names: str, parent: click.Context | None, depth: int) -> None:
        context = click.Context(command, info_name=names.rpartition(" ")[2], parent=parent or top, max_content_width=100, terminal_width=100)
        if not command.hidden:
            lines.extend([f"{'#' * depth} {names}", "", "```text", command.get_help(context), "```", ""])
        for name in command.list_commands(context) if isinstance(command, click.Group) else []:
            add(command.get_command(context, name), f"{names} {name}", context, min(depth + 1, 3))

    top = click.Context(main, info_name="carnet")
    for name in main.list_commands(top):
        add(main.get_command(top, name), f"carnet {name}", None, 2)
    return "\n".join(lines)


def settings() -> str:
    "Return every setting with default and meaning, and write the JSON schema."
    from trading.core.settings_model import Settings

    schema = Settings.model_json_schema()
    extra = SOURCE / "_extra"
    extra.mkdir(parents=True, exist_ok=True)
    (extra / "settings.schema.json").write_text(json.dumps(schema, indent=1), encoding="utf-8")
    lines = [
        "# Settings",
        "",
        "What `settings.ini` may say; `carnet settings` shows what is in force and where it came from. "
        "As a <a href='../settings.schema.json'>JSON schema</a> for editors and programs.",
        "",
    ]
    for section, asked in schema["properties"].items():
        ref = asked.get("$ref") or next((a["$ref"] for a in [*asked.get("allOf", []), *asked.get("anyOf", [])] if "$ref" in a), "")
        fields = schema["$defs"][ref.rpartition("/")[2]].get("properties", {}) if ref else {}
        lines += [f"## [{section}]".replace("[", "\\[").replace("]", "\\]"), "", asked.get("description", ""), ""]
        if fields:
            lines += ["| setting | default | meaning |", "|---|---|---|"]
            cell = lambda v: str(v).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")  # noqa: E731
            lines += [
                f"| `{name}` | {'`' + cell(f['default']) + '`' if f.get('default') not in (None, '') else ''} | {cell(f.get('description', ''))} |"
                for name, f in fields.items()
            ]
            lines.append("")
    return "\n".join(lines)


def errors() -> str:
    "Return every error with what it means and what it is a kind of."
    from trading.core import errors as found

    lines = [
        "# Errors",
        "",
        "The name of the class is the code: it stays, the sentence may change. Every message says what, where, and the next step. "
        "`except TradingError` catches all of them.",
        "",
    ]
    for name in found.__all__:
        if isinstance(kind := getattr(found, name), type):
            lines += [f"## {name}", "", kind.__doc__ or "", "", f"A kind of {' and '.join(f'`{b.__name__}`' for b in kind.__bases__)}.", ""]
    return "\n".join(lines)


def write_front(paths: list[Path]) -> None:
    "Write the front page and the pages that are no notebooks."
    static = SOURCE / "_static"
    static.mkdir(exist_ok=True)
    (static / "carnet.css").write_text(STYLE, encoding="utf-8")
    for picture in (ROOT / "docs").glob("*.png"):
        shutil.copy(picture, static)
    for page in PAGES.glob("*.md"):
        shutil.copy(page, SOURCE)
    shutil.copy(ROOT / "bench" / "RESULTS.md", SOURCE / "figures.md")
    shutil.copy(ROOT / "docs" / "security" / "asvs.md", SOURCE)
    shutil.copytree(ROOT / "reports" / "example", SOURCE / "_extra" / "example")
    (SOURCE / "changelog.md").write_text(LINK.sub(r"\1", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")), encoding="utf-8")
    folders = sorted({p.relative_to(NBS).parts[0] for p in paths if p.relative_to(NBS).parts[0][:2].isdigit()})
    listed = "\n".join(f"- [{n}](../{f}/index.md): {about(n)}" for f in folders for n in [f.partition("_")[2]])
    (SOURCE / "house").mkdir()
    (SOURCE / "house" / "index.md").write_text(
        f"# The house\n\nEvery module is a notebook; data flow down this list.\n\n{listed}\n\n" + toctree([f"../{f}/index" for f in folders], True),
        encoding="utf-8",
    )
    text = (PAGES / "index.md").read_text(encoding="utf-8")
    first = ["guides/index", "howto", "research/index", "gallery", "reference/index", "house/index"]  # these stand in the head of each page
    rest = ["What it is <carnet>", "comparison", "figures", "asvs", "changelog"]
    (SOURCE / "index.md").write_text(f"{text}\n{toctree([*first, *rest], True)}", encoding="utf-8")


def broken_links(site: Path = OUT) -> list[str]:
    "Follow every link and picture inside the site."
    ids, problems, links = {}, [], re.compile(r"""<[a-z]+\b[^<>]*?\s(?:href|src)=["']([^"'<>]+)["']""")
    pages = {p: p.read_text(encoding="utf-8") for p in site.rglob("*.html") if "_static" not in p.parts}
    for page, text in pages.items():
        ids[page] = set(re.findall(r"""\bid=["']([^"']+)["']""", text))
    for page, text in pages.items():
        body = re.sub(r"(?s)<script.*?</script>|<iframe.*?</iframe>", "", text)
        for link in set(links.findall(body)):
            link = html.unescape(link)
            if re.match(r"(?i)[a-z]+:|//", link) or link in ("#", ""):
                continue
            target, _, anchor = link.partition("#")
            there = (page.parent / target.partition("?")[0]).resolve() if target else page.resolve()
            there = there / "index.html" if there.is_dir() else there
            if not there.exists() or (anchor and there.suffix == ".html" and anchor not in ids.get(there, {anchor})):
                problems.append(f"{page.relative_to(site)}: {link}")
    return sorted(problems)


def source_of(domain: str, info: dict[str, str]) -> str | None:
    "Return the place in the notebook where a function of the reference is written."
    place = SOURCES.get(f"{info['module'].removeprefix('trading.')}.{info['fullname'].partition('.')[0]}")
    return f"../{place}" if place else None


def lighten() -> None:
    """Make pages smaller and the build shorter. Names, signs and blanks of code get no mark of their own, for they are most of a page and have the
    colour of text; words are stemmed once; numpydoc compiles its template once and not for each function."""
    import numpydoc.docscrape_sphinx as docscrape
    from pygments.formatters import HtmlFormatter
    from pygments.token import Name, Operator, Punctuation, Text
    from sphinx.highlighting import PygmentsBridge
    from sphinx.search.en import SearchEnglish

    class Light(HtmlFormatter):
        def _get_css_classes(self, ttype):
            plain = ttype in (Name, Operator, Punctuation) or ttype in Text
            return "" if plain else super()._get_css_classes(ttype)

    PygmentsBridge.html_formatter = Light
    SearchEnglish.stem = functools.cache(SearchEnglish.stem)
    environment, made = docscrape.SandboxedEnvironment, {}
    docscrape.SandboxedEnvironment = lambda loader: made.setdefault(type(loader), environment(loader=loader))


def bare(text: str) -> str:
    "Drop comments, and the blanks between lines, of a text in which they mean nothing."
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"(?s)<!--.*?-->", "", text))


def tidy(site: Path) -> None:
    "Drop the blanks of the theme around what is read, and files that only its authors need."
    for page in site.rglob("*.html"):
        head, begin, rest = page.read_text(encoding="utf-8").partition('<article class="bd-article"')
        article, end, foot = rest.rpartition("</article>")
        if end:
            page.write_text(bare(head) + begin + article + end + bare(foot), encoding="utf-8")
    for path in (site / "_static").rglob("*.map"):
        path.unlink()
    shutil.rmtree(site / "_sources", ignore_errors=True)
    (site / ".buildinfo").unlink(missing_ok=True)


def escaped(app, what, name, obj, options, lines: list[str]) -> None:
    "Let a star, a bar and a last underscore in a docstring be what they are, but for those of a parameter's name."
    sign = re.compile(r"`[^`]*`|(?<!\\)[*|]|(?<=\w)_(?!\w)")
    lines[:] = [
        line if re.match(r"\s*\*{0,2}\w+ : ", line) else sign.sub(lambda m: m[0] if m[0][0] == "`" else f"\\{m[0]}", line) for line in lines
    ]


SEARCHED = ("titles", "filenames", "mapping", "title_mapping", "all_titles", "index_entries")  # what a page adds to the search


def share() -> None:
    """Let processes read and write pages side by side. Sphinx hands every page that was read from process to process as a file, and resolves and
    indexes all of them in one; here a process keeps the pages that it read, is told what the others found, and writes its own, with their part of
    the search."""
    from sphinx.builders.html import StandaloneHTMLBuilder as Builder
    from sphinx.util.build_phase import BuildPhase

    def helper(builder, pipe, docnames: list[str]) -> None:
        "Read pages, tell what they define, take what all define, write the pages, tell what they add to the search."
        for other, _ in builder.helpers:  # so that one whose parent has died is told the end of it
            other.close()
        name = ""
        try:
            for name in docnames:
                builder.read_doc(name)
            pipe.send_bytes(pickle.dumps(builder.env, pickle.HIGHEST_PROTOCOL))
            env, read = pickle.loads(pipe.recv_bytes()), builder.env._write_doc_doctree_cache
            env.setup(builder._app)
            env._builder_cls = type(builder)
            env._write_doc_doctree_cache = read
            builder.env = builder._app.env = env
            gc.freeze()
            builder.phase = BuildPhase.RESOLVING
            builder.prepare_writing(env.found_docs)
            builder._write_serial(docnames)
            found = {name: getattr(builder.indexer, f"_{name}") for name in SEARCHED}
            pipe.send_bytes(pickle.dumps((found, builder.images), pickle.HIGHEST_PROTOCOL))
        except Exception as error:  # noqa: BLE001  whatever it was, the build ends with it
            pipe.send_bytes(pickle.dumps(RuntimeError(f"{builder.current_docname or name}: {type(error).__name__}: {error}")))

    def told(pipe):
        answer = pickle.loads(pipe.recv_bytes())
        if isinstance(answer, Exception):
            raise answer
        return answer

    def read(builder, docnames: list[str], nproc: int) -> None:
        context = multiprocessing.get_context("fork")
        for name in docnames:
            builder.env.clear_doc(name)
        heaviest = sorted(docnames, key=lambda name: -builder.env.doc2path(name).stat().st_size)
        builder.helpers = []
        for names in (heaviest[n::nproc] for n in range(nproc)):
            here, there = context.Pipe()
            builder.helpers.append((here, names))
            context.Process(target=helper, args=(builder, there, names), daemon=True).start()
            there.close()  # so that a process that dies is noticed
        for pipe, names in builder.helpers:
            builder.env.merge_info_from(names, told(pipe), builder._app)

    def write(builder, docnames: list[str], nproc: int) -> None:
        whole = pickle.dumps(builder.env, pickle.HIGHEST_PROTOCOL)
        for pipe, _ in builder.helpers:
            pipe.send_bytes(whole)
        for pipe, _ in builder.helpers:
            found, images = told(pipe)
            builder.images.update(images)
            for name, part in found.items():
                mine = getattr(builder.indexer, f"_{name}")
                for key, value in part.items():
                    mine[key] = mine[key] | value if isinstance(value, set) and key in mine else value
        for name in SEARCHED:  # in the order of the names, whoever was first
            mine = getattr(builder.indexer, f"_{name}")
            ordered = sorted(mine.items())
            mine.clear()
            mine.update(ordered)

    Builder._read_parallel, Builder._write_parallel = read, write


def build(processes: int = 1) -> Path:
    "Make pages of what was written; return their folder."
    from sphinx.application import Sphinx

    lighten()
    if processes > 1:
        share()
    for page in sorted((SOURCE / "reference").glob("*.*.md")):  # once here, and not in each process that reads
        importlib.import_module(f"trading.{page.stem}")
    made = Sphinx(
        SOURCE,
        None,
        WORK / "html",
        WORK / "doctrees",
        "html",
        confoverrides=CONF | {"linkcode_resolve": source_of},
        status=None,
        warning=sys.stderr if "-v" in sys.argv else None,
        parallel=processes,
        freshenv=True,
    )
    made.connect("autodoc-process-docstring", escaped, priority=100)
    gc.set_threshold(100_000, 10, 10)  # a page makes a hundred thousand nodes, and a collection walks all that stays: that is frozen
    for event in ("env-before-read-docs", "write-started"):
        made.connect(event, lambda *_: gc.freeze())
    made.build()
    tidy(WORK / "html")
    return WORK / "html"


def main() -> None:
    begun = time.monotonic()
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # the reference reads functions, it runs none
    SOURCE.mkdir(parents=True)
    paths = write_house()
    write_front(paths)
    write_reference(paths)
    made = build(os.cpu_count() or 1)
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.move(made, OUT)
    shutil.rmtree(WORK)
    size, pages = sum(p.stat().st_size for p in OUT.rglob("*") if p.is_file()), len(list(OUT.rglob("*.html")))
    print(f"{pages} pages, {size / 1e6:.0f} MB in {time.monotonic() - begun:.0f} s: _docs/index.html")
    problems = broken_links()
    if problems or size > LARGEST:
        sys.exit(
            "\n".join(
                [*problems[:40], f"{len(problems)} broken links"]
                if problems
                else [f"the site has {size / 1e6:.0f} MB, and {LARGEST / 1e6:.0f} are allowed"]
            )
        )


if __name__ == "__main__":
    main()
