"""The site: the pages of docs/ and a reference from docstrings. `make docs` builds it; a warning is an error."""

import contextlib
import importlib.metadata
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from sphinx.application import Sphinx

from mdlm_atat.cli.main import COMMANDS
from mdlm_atat.cli.main import main as atat

ROOT = Path(__file__).parents[1]
PAGES = {"changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
"""Pages that stand in the repository's root."""

project = "mdlm-atat"
release = importlib.metadata.version("mdlm-atat")
extensions = ["sphinx.ext.autodoc", "myst_parser"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
html_theme = "furo"
html_title = "mdlm-atat"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["print.css"]
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "member-order": "bysource", "special-members": "__call__"}
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

MARKUP = re.compile(r"`([^`]*)`|[*|\\]|(?<=\w)_(?!\w)")


def with_page_of_root(_app: Sphinx, docname: str, source: list[str]) -> None:
    """A page of the root, with links that lead from docs/, before what docs/ has for it."""
    if docname in PAGES:
        text = (ROOT / PAGES[docname]).read_text(encoding="utf-8")
        source[0] = re.sub(r"(?<=\]\()(?!http|#)[^)]+", _from_docs, text) + "\n" + source[0]


def _from_docs(found: re.Match[str]) -> str:
    names = {file: f"{docname}.md" for docname, file in PAGES.items()}
    inside = found[0].removeprefix("docs/")
    return inside if inside != found[0] else names.get(found[0], f"../{found[0]}")


def with_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """A notebook as Markdown: its text, its code, and what the code gave when it was last run."""
    if app.env.doc2path(docname).suffix == ".ipynb":
        cells = json.loads(source[0])["cells"]
        source[0] = "\n\n".join(part for cell in cells for part in _parts_of_cell(cell))


def _parts_of_cell(cell: dict[str, Any]) -> Iterator[str]:
    text = "".join(cell["source"])
    yield text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
    for output in cell.get("outputs", []):
        shown = output.get("data", {"text/plain": output.get("text")})
        is_html = "text/html" in shown
        given = "".join(shown["text/html" if is_html else "text/plain"]).rstrip()
        yield f"```{{raw}} html\n{given}\n```" if is_html else f"```text\n{given}\n```"


def with_commands(_app: Sphinx, docname: str, source: list[str]) -> None:
    """The page on commands, followed by what each prints for `--help`."""
    if docname == "reference/commands":
        source[0] += "".join(f"\n## {name}\n\n```text\n{text}```\n" for name, text in helps().items())


def helps() -> dict[str, str]:
    """The help of every command and of the commands below it, by name, 100 columns wide."""
    found = {}
    for command in COMMANDS:
        found[f"atat {command}"] = page = _printed([command, "--help"])
        for word in dict.fromkeys(re.findall(rf"^(?:usage:)? +atat {command} ([a-z-]+)\b", page, re.MULTILINE)):
            text = _printed([command, word, "--help"])
            if text.startswith(f"usage: atat {command} {word} "):
                found[f"atat {command} {word}"] = text
    return found


def _printed(words: list[str]) -> str:
    out = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="100", NO_COLOR="1"), contextlib.redirect_stdout(out):
        try:
            atat(words)
        except SystemExit as end:
            if end.code:
                raise
    return out.getvalue()


def as_restructured_text(_app, _what, _name, _object, _options, lines: list[str]) -> None:
    """Docstrings are plain prose with `code` in single backticks and formulas indented by four. Sphinx reads
    reStructuredText, in which `code` takes two backticks, an indented block is announced by `::`, and `*`, `|` and `_`
    may mean something."""
    blocks = re.split(r"((?:^ {4,}\S.*\n(?:\s*\n(?= {4,}\S))?)+)", "\n".join([*lines, ""]), flags=re.MULTILINE)
    text = "".join(f"\n::\n\n{block}\n" if block.startswith("    ") else MARKUP.sub(_marked, block) for block in blocks)
    lines[:] = text.split("\n")


def _marked(found: re.Match[str]) -> str:
    # "\ " ends the literal also where a letter follows: `Stage`s
    return f"``{found[1]}``\\ " if found[1] else f"\\{found[0]}"


def without_repetition(_app, what, name, thing, _options, _signature, _returns) -> tuple[str, str] | None:
    """No signature where it only repeats the fields below it (settings) or says nothing (a protocol's)."""
    is_settings = name.startswith("mdlm_atat.config.")
    return ("", "") if what == "class" and (is_settings or getattr(thing, "_is_protocol", False)) else None


def setup(app: Sphinx) -> None:
    app.connect("source-read", with_page_of_root)
    app.connect("source-read", with_notebook)
    app.connect("source-read", with_commands)
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("autodoc-process-signature", without_repetition)
