"""Rows with all their columns, for whoever needs more of a file than its text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from mdlm_atat.data.files import count_mark
from mdlm_atat.data.readers.json_files import Number
from mdlm_atat.data.readers.kinds import ROWS, read_documents
from mdlm_atat.data.readers.parquet import rows_of_columns
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.unpack import ending_of
from mdlm_atat.errors import UserError

Row = Mapping[str, Any]


def read_rows(path: Path, reading: Reading, left_out: Counter[str] | None = None) -> Iterator[tuple[Row, str]]:
    """Yield the rows of a file by column, each with its place for messages.

    Values are what they are there (see `plain`), cells of tables text. Of a file without columns each document (of
    plain text, with `reading.documents` "line", each line that is not empty) is a row of one column, named
    `reading.column`, as is a string among rows of JSON. Raises UserError for what cannot be read, and for a row of JSON
    that is neither.
    """
    left_out = Counter() if left_out is None else left_out
    ending = ending_of(path)
    if ending not in ROWS:
        for number, chunks in enumerate(read_documents(path, reading, left_out), 1):
            yield {reading.column: "".join(chunks)}, f"{path}, text {number}"
        return
    count_mark(path, reading.encoding, left_out)
    for row, place in rows_of_columns(path) if ending == ".parquet" else ROWS[ending](path, reading, left_out):
        if not isinstance(row, (str, Mapping)):
            raise UserError(f"{place} is {row!r:.80}, expected an object with a column {reading.column!r}")
        yield {reading.column: row} if isinstance(row, str) else row, place


def plain(value: Any) -> Any:
    """A value of JSON with its numbers as Python's own, where they keep how they were written."""
    match value:
        case Number():
            return float(value)
        case Decimal():
            return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
        case Mapping():
            return {name: plain(part) for name, part in value.items()}
        case list():
            return [plain(part) for part in value]
        case _:
            return value
