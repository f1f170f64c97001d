"""HTML: the visible text of a page, a line for each block, by Python's own parser."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from mdlm_atat.data.encodings import FEWEST_BYTES, marked_encoding, meant_by
from mdlm_atat.data.files import decoded, held, is_utf8_file
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.unpack import first_bytes
from mdlm_atat.errors import UserError

HIDDEN = frozenset(
    "script style template noscript title iframe audio video canvas datalist annotation".split()  # noqa: SIM905
)
BLOCKS = frozenset(
    "address article aside blockquote body br caption center dd details dialog dir div dl dt fieldset figcaption "  # noqa: SIM905
    "figure footer form h1 h2 h3 h4 h5 h6 header hr html legend li main menu nav ol optgroup option p pre search "
    "section select summary table tbody textarea tfoot thead tr ul".split()
)
ROW_GROUPS = frozenset(("thead", "tbody", "tfoot"))
"""No cell reaches out of them."""
PREFORMATTED = frozenset(("pre", "textarea", "listing", "xmp"))
MOST_COLUMNS = 64
"""Of a table whose cells may span several: beyond them a span is one, or a page of few letters would make many tabs."""
MOST_ROWS = 65534
"""That a cell may span; rowspan=0 is all that are left of its group."""
LONGEST_PAGE = 1 << 25
"""Characters: where all of them are attributes of a tag, the parser takes 25 times as much memory."""
_SPACE = re.compile(r"[ \t\n\r\f]+")
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.ASCII)
_WIDE = ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))
_UNKNOWN_SECTION = re.compile(r"<!\[(?!(?:CDATA|temp|ignore|include|rcdata|if|else|endif)\b)", re.IGNORECASE)


def read_html(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield the visible text of a page as one document. The page itself may say its encoding."""
    encoding = reading.encoding or declared_encoding(first_bytes(path, 1024))
    if encoding != reading.encoding and is_utf8_file(path, least=FEWEST_BYTES):  # many pages declare another
        encoding = None
    yield [visible_text(held(path, decoded(path, encoding, left_out), LONGEST_PAGE))]


def declared_encoding(data: bytes) -> str | None:
    """Return the encoding that the first bytes of a page declare; None where they do not, or where it is no other than
    UTF-8. ISO 8859-1 is read as cp1252, as browsers do."""
    if not marked_encoding(data) and (wide := next((name for start, name in _WIDE if data.startswith(start)), None)):
        return wide
    found = _DECLARED.search(data)
    if marked_encoding(data) or not found:
        return None
    name = meant_by(found[1].decode("ascii").lower())
    try:
        Reading(encoding=name)
    except UserError:
        return None
    return None if name.startswith("utf") else name  # what was read as ASCII so far is not UTF-16


def visible_text(page: str) -> str:
    """Return what a reader of a page sees: blocks on lines of their own, runs of white space as one space, cells of a
    table with tabs between them, one a column; no scripts, styles, comments or titles."""
    parser = _Visible()
    whole, end, rest = page.rpartition(">")
    rest = rest.partition("<!--")[0].replace("<", "&lt;")  # no tag ends here; the parser looks for its end at every <
    parser.feed(_UNKNOWN_SECTION.sub("&lt;![", whole + end) + rest)
    parser.close()
    return parser.text()


@dataclass
class _Table:
    """Where the page is in a table."""

    column: int = 0
    """The next one of the row."""
    cell_at: int = 0
    """Where this line's last cell begins, if there is one."""
    covered: set[int] = field(default_factory=set)
    """Columns of the row into which cells of rows above reach."""
    below: dict[int, int] = field(default_factory=dict)
    """Into how many more rows they do."""
    is_in_cell: bool = False
    """Whether a table that begins here lies in this one. Else it ends this one, which was not closed."""


class _Visible(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._done: list[str] = []
        self._line: list[str] = []
        self._hidden: list[str] = []
        self._num_preformatted = 0
        self._needs_space = False
        self._table = _Table()
        self._around: list[tuple[_Table, int]] = []  # those in whose cells it lies; how many lines there were before it

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":
            self._hidden.clear()  # a title that was never closed hides no page
        if tag in HIDDEN:
            self._hidden.append(tag)
        elif tag in BLOCKS:
            self._break()
            if self._hidden:  # whose end tags may be missing
                pass
            elif tag == "table":
                self._begin_table()
            elif tag == "tr":
                self._begin_row()
            elif tag in ROW_GROUPS:
                self._begin_group()
            elif tag == "caption":
                self._table.is_in_cell = True
        elif tag in ("td", "th") and not self._hidden:
            self._begin_cell(dict(attrs))
        self._num_preformatted += tag in PREFORMATTED

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        elif tag in BLOCKS and tag != "br":
            self._break()
            if self._hidden:
                pass
            elif tag == "table":
                self._end_table()
            elif tag in ROW_GROUPS:
                self._begin_group()
            elif tag in ("tr", "caption"):
                self._table.is_in_cell = False
        elif tag in ("td", "th") and not self._hidden:
            self._table.is_in_cell = False
        self._num_preformatted -= tag in PREFORMATTED and self._num_preformatted > 0

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._num_preformatted:
            self._space()
            *lines, last = data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            for line in lines:
                self._line.append(line)
                self._done.append("".join(self._line))
                self._line = []
            self._line += [last] if last else []
            return
        words = _SPACE.split(data)
        if not words[0] and len(words) > 1:
            self._needs_space = True
        text = " ".join(word for word in words if word)
        if text:
            self._space()
            self._line.append(text)
            self._needs_space = not words[-1]

    def _begin_table(self) -> None:
        if self._table.is_in_cell:
            self._around.append((self._table, len(self._done)))
        self._table = _Table()

    def _end_table(self) -> None:
        if not self._around:
            self._table = _Table()
            return
        self._table, num_lines = self._around.pop()
        if len(self._done) > num_lines:
            self._table.cell_at = self._table.column

    def _begin_group(self) -> None:
        self._table.below.clear()
        self._table.is_in_cell = False

    def _begin_row(self) -> None:
        table = self._table
        table.column = table.cell_at = 0
        table.covered = set(table.below)
        table.below = {column: rows - 1 for column, rows in table.below.items() if rows > 1}
        table.is_in_cell = False

    def _begin_cell(self, attributes: Mapping[str, str | None]) -> None:
        """Put as many tabs before the cell as columns lie between it and the last one."""
        table = self._table
        while table.column in table.covered:
            table.column += 1
        if num_tabs := max(table.column - table.cell_at, bool(self._line)):
            self._line.append("\t" * num_tabs)
            self._needs_space = False
        table.cell_at, table.is_in_cell = table.column, True
        num_columns, num_rows = _span(attributes.get("colspan"), 1), _span(attributes.get("rowspan"), MOST_ROWS)
        end = max(table.column + 1, min(table.column + num_columns, MOST_COLUMNS))
        if num_rows > 1:
            table.below |= dict.fromkeys(range(table.column, min(end, MOST_COLUMNS)), num_rows - 1)
        table.column = end

    def text(self) -> str:
        self._break()
        return "\n".join(self._done).strip("\n")

    def _space(self) -> None:
        """The white space before what comes now, if it is not at the start of a line or a cell."""
        if self._needs_space and self._line and not self._line[-1].endswith("\t"):
            self._line.append(" ")
        self._needs_space = False

    def _break(self) -> None:
        if not self._hidden and self._line:
            if line := "".join(self._line).rstrip("\t"):
                self._done.append(line)
            self._line = []
            self._table.cell_at = self._table.column
        self._needs_space = False


def _span(value: str | None, of_zero: int) -> int:
    """How many columns or rows a cell takes: for 0 `of_zero`, and 1 where that is not said, or is no number of them."""
    return (int(value) or of_zero) if value is not None and value.isdecimal() and len(value) < 6 else 1
