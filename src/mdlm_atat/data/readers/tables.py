"""Tables: .csv and .tsv, a row a document. Cells are text as it stands there: NA, null and 007 are what they are."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mdlm_atat.data.files import HELD_BYTES, decoded, ending_of
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.records import columns_of, text_of
from mdlm_atat.errors import UserError

DELIMITERS = ",;\t|"
"""What may be told to separate cells; anything else is given."""
SAMPLED_ROWS = 200
LONGEST_LINE = HELD_BYTES // 4
"""Characters of a line or a cell, of which the csv module holds each in 4 bytes."""
_EMPTY_LINES, _LINE_END = re.compile(r"[\r\n]+"), re.compile(r"\r\n?|\n")


class Form(NamedTuple):
    """How the cells of a table are told apart."""

    delimiter: str
    is_quoted: bool
    """Whether quotes enclose cells, in which delimiters and line ends are text. Tables of tabs often have none."""


def read_table(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield a document for each row."""
    for row, where in table_rows(path, reading):
        text = text_of(row, reading, where, left_out)
        if text is not None:
            yield [text]


def table_rows(
    path: Path, reading: Reading, *, form: Form | None = None, header: tuple[str, ...] | None = None
) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the rows of a table by column, each with its file and line. Empty lines are no rows.

    `form` None: told from the first lines, in which most columns, as many in every row, are the sign of the right one.
    `header`: names of the columns of a file without a header line. Raises UserError for a row that has not as many
    cells as there are columns, and where quotes are not closed.
    """
    form = form or _form_of(path, reading)
    lines = _Lines(path, decoded(path, reading.encoding, translate=False))
    try:
        for cells in _reader(lines, form):
            where = f"{path}, line {lines.number}"
            lines.is_between_rows = True
            if not cells:
                continue
            if header is None:
                header = tuple(cells)
                _check_header(header, columns_of(reading), where)
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{where} has {len(cells)} cells, expected the {len(header)} columns {', '.join(header)}; they are "
                    f"taken to be separated by {form.delimiter!r}: if by something else, set `delimiter=`"
                )
            yield dict(zip(header, cells, strict=True)), where
    except csv.Error as error:
        reason = "a quoted cell is not closed, or longer than can be held" if "limit" in str(error) else str(error)
        raise UserError(f"{path}, line {lines.number} cannot be read: {reason}") from error


def _reader(lines: Iterable[str], form: Form) -> Any:
    csv.field_size_limit(LONGEST_LINE)  # one number for the process: the default, 131,072, is short for a document
    quoting = csv.QUOTE_MINIMAL if form.is_quoted else csv.QUOTE_NONE
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


def _with_whole_ends(chunks: Iterator[str]) -> Iterator[str]:
    """The text in chunks of which none ends between the two characters of a line end."""
    kept = ""
    for chunk in chunks:
        text = kept + chunk
        kept = "\r" if text.endswith("\r") else ""
        yield text.removesuffix(kept)
    yield kept


def _form_of(path: Path, reading: Reading) -> Form:
    """The form in which the first lines have the columns that are wanted, then equally many cells in all rows, then
    most of them, then the delimiter that the file's ending says."""
    chunks = (chunk.lstrip("\r\n") for chunk in decoded(path, reading.encoding, translate=False))
    sample = next(filter(None, chunks), "")
    usual = "\t" if ending_of(path) == ".tsv" else ","
    delimiters = reading.delimiter or usual + DELIMITERS.replace(usual, "")
    forms = [Form(delimiter, True) for delimiter in delimiters]
    if usual == "\t" or "\t" in sample.partition("\n")[0]:
        forms += [Form("\t", False)] if "\t" in delimiters else []
    return max(forms, key=lambda form: _fit(sample, form, columns_of(reading)))  # the first of equals


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
