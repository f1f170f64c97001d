"""Tables: .csv and .tsv, a row a document. Cells are text as it stands there: NA, null and 007 are what they are."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mdlm_atat.data.files import HELD_BYTES, decoded
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.records import Cells, columns_of, named
from mdlm_atat.data.unpack import ending_of
from mdlm_atat.errors import UserError
from mdlm_atat.formats import counted

DELIMITERS = ",;\t|"
"""What may be told to separate cells; anything else is given."""
FREE_QUOTES = "tables in which quotes are text and enclose no cell"
SEPARATOR_LINES = "lines that say what separates cells (sep=)"
FEWEST_ROWS = 8
"""Of a table of commas: in fewer, lines that quotes enclose may have as many by chance."""
SAMPLED_ROWS = 200
MOST_CELLS = 1 << 22
"""Of a row, each of which the csv module holds as a string; so many delimiters in quotes count, too."""
LONG_CELL = 3
"""Lines of a row that by chance may each have as many tabs as a row."""
LONGEST_LINE = HELD_BYTES // 4
"""Characters of a line or a cell, of which the csv module holds each in 4 bytes."""
_ESCAPED = re.compile(r"\\([\\\"])")
_SEPARATOR_LINE = re.compile(r"sep=(.)[\r\n]+", re.IGNORECASE)
"""By which a table tells Excel what separates its cells."""
_EMPTY_LINES, _LINE_END = re.compile(r"[\r\n]+"), re.compile(r"\r\n?|\n")


class Form(NamedTuple):
    """How the cells of a table are told apart."""

    delimiter: str
    is_quoted: bool
    """Whether quotes enclose cells, in which delimiters and line ends are text. Tables of tabs often have none."""
    is_escaped: bool = False
    """Whether a quote in such a cell is written \\" and a backslash \\\\, as Spark and MySQL do, not \"\"."""


def table_rows(
    path: Path,
    reading: Reading,
    left_out: Counter[str] | None = None,
    *,
    form: Form | None = None,
    header: tuple[str, ...] | None = None,
) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the rows of a table by column, each with its file and first line. Empty lines are no rows.

    `form` None: told from the first lines, in which most columns, as many in every row, are the sign of the right one;
    all lines say whether quotes enclose cells, and `left_out` counts it where they do not.
    `header`: names of the columns of a file without a header line. Raises UserError for a row that has not as many
    cells as there are columns, and where quotes are not closed or enclose what are rows.
    """
    form = form or _form_of(path, reading, Counter() if left_out is None else left_out)
    rows = _Rows(path, reading, form.delimiter)
    repeated = set[str]()
    try:
        for cells in _reader(rows, form):
            first, num_lines, widths = rows.end_row()
            where = f"{path}, line {first}"
            if not cells:
                continue
            if header is None:
                header = tuple(cells)
                _check_header(header, columns_of(reading), where)
                repeated = {name for name in header if header.count(name) > 1}
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{where} has {counted(len(cells), 'cell')}, expected the {counted(len(header), 'column')} "
                    f"{named(header)}; they are "
                    f"taken to be separated by {form.delimiter!r}: if by something else, set `delimiter=`"
                    + (f"; quotes enclose line ends in it, to line {first + num_lines - 1}" if num_lines > 1 else "")
                )
            if form.delimiter == "\t" and num_lines > LONG_CELL and len(cells) > 1 and widths == {len(cells)}:
                raise UserError(
                    f"{where} opens a quote that encloses {num_lines} lines, each of which is a row: remove the quote, "
                    "or write the row as .jsonl"
                )
            yield Cells(dict(zip(header, cells, strict=True)), repeated), where
    except csv.Error as error:
        reason = str(error)
        if "limit" in reason or "unexpected end" in reason:
            reason = "a quote that opens a cell in this row is not closed, or the cell is longer than can be held"
        reason += "; a quote that is text is written twice, in a cell that is quoted"
        raise UserError(f"{path}, line {rows.first} cannot be read: {reason}") from error


def _reader(lines: Iterable[str], form: Form) -> Any:
    csv.field_size_limit(LONGEST_LINE)  # one number for the process: the default, 131,072, is short for a document
    quoting = csv.QUOTE_MINIMAL if form.is_quoted else csv.QUOTE_NONE
    if form.is_escaped:
        lines = (_ESCAPED.sub(lambda found: '""' if found[1] == '"' else found[1], line) for line in lines)
    return csv.reader(lines, delimiter=form.delimiter, quoting=quoting, strict=True)


def _check_header(header: tuple[str, ...], wanted: Collection[str], where: str) -> None:
    twice = next((name for name in wanted if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where} has {header.count(twice)} columns {twice!r}: give them names of their own")


class _Lines:
    """The lines of a table with their ends as they are, which inside of quotes are text. Where `is_between_rows` is
    set, empty lines are passed over, all at once."""

    def __init__(self, path: Path, chunks: Iterator[str]) -> None:
        self._path, self._chunks = path, chunks
        self.number, self.is_between_rows = 0, True

    def __iter__(self) -> Iterator[str]:
        waiting: list[str] = []
        num_characters = 0
        for chunk in _with_whole_ends(self._chunks):
            at = 0
            has_returns = "\r" in chunk
            while at < len(chunk):
                if self.is_between_rows and not waiting and (empty := _EMPTY_LINES.match(chunk, at)):
                    at = empty.end()
                    self.number += empty[0].count("\n") + empty[0].count("\r") - empty[0].count("\r\n")
                    continue
                if has_returns:
                    found = _LINE_END.search(chunk, at)
                    end = found.end() if found else 0
                else:
                    end = chunk.find("\n", at) + 1
                part = chunk[at:end] if end else chunk[at:]
                at += len(part)
                num_characters += len(part)
                if num_characters > LONGEST_LINE:
                    raise UserError(f"{self._path}, line {self.number + 1} is longer than {LONGEST_LINE:,} characters")
                waiting.append(part)
                if end:
                    line, waiting = "".join(waiting), []
                    num_characters = 0
                    self.number += 1
                    self.is_between_rows = False
                    yield line
        if waiting:
            self.number += 1
            yield "".join(waiting)


class _Rows:
    """The lines of a table; of those of a row, where they begin, how many there are, and how many cells each has where
    quotes are text."""

    def __init__(self, path: Path, reading: Reading, delimiter: str) -> None:
        self._lines = _Lines(path, decoded(path, reading.encoding, translate=False))
        self._next, self._delimiter = iter(self._lines), delimiter
        self.first, self._num_lines, self._widths = 1, 0, set[int]()
        self._path, self._num_cells = path, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._next)
        if self._lines.number == 1 and _SEPARATOR_LINE.fullmatch(line):
            line = next(self._next)
        if not self._num_lines:
            self.first = self._lines.number
        self._num_lines += 1
        if line.strip("\r\n"):
            num_cells = line.count(self._delimiter) + 1
            self._widths.add(num_cells)
            self._num_cells += num_cells
            if self._num_cells > MOST_CELLS:
                raise UserError(f"{self._path}, line {self.first} has more than {MOST_CELLS:,} cells")
        return line

    def end_row(self) -> tuple[int, int, set[int]]:
        """Return of the lines since the last row the first one's number, how many there are, and their cells."""
        row = self.first, self._num_lines, self._widths
        self._num_lines, self._widths, self._lines.is_between_rows = 0, set(), True
        self._num_cells = 0
        return row


def _with_whole_ends(chunks: Iterator[str]) -> Iterator[str]:
    """The text in chunks of which none ends between the two characters of a line end."""
    kept = ""
    for chunk in chunks:
        text = kept + chunk
        kept = "\r" if text.endswith("\r") else ""
        yield text.removesuffix(kept)
    yield kept


def _form_of(path: Path, reading: Reading, left_out: Counter[str]) -> Form:
    """The form in which the first lines have the columns that are wanted, then equally many cells in all rows, then
    most of them, then the delimiter that the file's ending says."""
    chunks = (chunk.lstrip("\r\n") for chunk in decoded(path, reading.encoding, translate=False))
    sample = next(filter(None, chunks), "")
    usual = "\t" if ending_of(path) == ".tsv" else ","
    delimiters = reading.delimiter or usual + DELIMITERS.replace(usual, "")
    if told := _SEPARATOR_LINE.match(sample):
        sample, delimiters = sample[told.end() :], reading.delimiter or told[1]
        left_out[SEPARATOR_LINES] += 1
    forms = [Form(delimiter, True) for delimiter in delimiters]
    if usual == "\t" or "\t" in sample.partition("\n")[0]:
        forms += [Form("\t", False)] if "\t" in delimiters else []
    form = max(forms, key=lambda form: _fit(sample, form, columns_of(reading)))  # the first of equals
    if form.is_quoted and '\\"' in sample and _has_escaped_quotes(path, reading, form.delimiter):
        return form._replace(is_escaped=True)
    if form.is_quoted and not _encloses_cells(path, reading, form.delimiter):
        form = Form(form.delimiter, False)
    if not form.is_quoted and _has_quoted_rows(path, reading, form.delimiter):
        form = Form(form.delimiter, True)
    if not form.is_quoted:
        left_out[FREE_QUOTES] += 1
    return form


def _has_escaped_quotes(path: Path, reading: Reading, delimiter: str) -> bool:
    """Whether quotes in cells are written \\": so all rows have equally many cells, and not where they are doubled."""
    form = Form(delimiter, True)
    return not _is_even(path, reading, form) and _is_even(path, reading, form._replace(is_escaped=True))


def _is_even(path: Path, reading: Reading, form: Form) -> bool:
    """Whether a table can be read in a form, with equally many cells in every row."""
    lines = _Rows(path, reading, form.delimiter)
    widths = set[int]()
    try:
        for cells in _reader(lines, form):
            lines.end_row()
            widths |= {len(cells)} if cells else set()
            if len(widths) > 1:
                return False
    except csv.Error:
        return False
    return True


def _encloses_cells(path: Path, reading: Reading, delimiter: str) -> bool:
    """Whether the quotes of a table enclose cells. They do not where with quotes as text all lines have equally many
    cells, and otherwise lines become one row or cannot be read. Text has commas, and so have cells of several lines:
    of a table without tabs the rows that would be of several lines have to be few."""
    lines = _Rows(path, reading, delimiter)
    widths: set[int] = set()
    num_rows = num_merged = 0
    is_broken = False
    try:
        for _ in _reader(lines, Form(delimiter, True)):
            _, num_lines, found = lines.end_row()
            num_rows += 1
            num_merged += num_lines > 1
            widths |= found
            if len(widths) > 1 or widths == {1}:
                return True
    except csv.Error:
        is_broken = True
        for _ in lines:
            pass
    _, num_lines, found = lines.end_row()
    if len(widths | found) > 1 or not (num_merged or is_broken):
        return True
    return delimiter != "\t" and (num_rows + num_lines < FEWEST_ROWS or num_merged * 5 > num_rows)


def _has_quoted_rows(path: Path, reading: Reading, delimiter: str) -> bool:
    """Whether nearly every row has a cell that quotes enclose, as where a program has quoted all text: the few quotes
    that open a cell there and are not closed are mistakes, and do not make text of all the others. Quotes are text
    where a cell goes on behind the one that closes ("Great" film), or many are open."""
    lines = _Rows(path, reading, delimiter)
    num_rows = num_quoted = num_open = 0
    for cells in _reader(lines, Form(delimiter, False)):
        lines.end_row()
        ends = [cell[1:].replace('""', "").partition('"')[1:] for cell in cells if cell[:1] == '"']
        if any(behind for _, behind in ends):
            return False
        num_rows += bool(cells)
        num_quoted += any(quote for quote, _ in ends)
        num_open += any(not quote for quote, _ in ends)
    few = num_rows // 10
    return 0 < num_open <= few and num_rows - num_quoted <= 1 + num_open + few  # a header, and some without


def _fit(sample: str, form: Form, wanted: Collection[str]) -> tuple[bool, bool, bool, int]:
    rows: list[list[str]] = []
    is_whole = True
    try:
        for row in _reader(io.StringIO(sample, newline=""), form):
            if len(rows) > SAMPLED_ROWS:
                break
            rows += [row] if row else []
    except csv.Error as error:
        is_whole = "unexpected end of data" in str(error)  # the sample may end in a quoted cell
    else:
        rows = rows[:-1] if len(rows) > 2 else rows  # nor is the last row sure to be whole
    if not rows:
        return False, False, False, 0
    header, *others = rows
    is_even = all(len(row) == len(header) for row in others)
    return all(name in header for name in wanted), is_whole, is_even, len(header) if is_even else 0
