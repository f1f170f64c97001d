"""Parquet: a row a document, of a column that holds strings in any of Arrow's types, or what Arrow casts to them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from mdlm_atat.data.files import HELD_BYTES, held_bytes
from mdlm_atat.data.readers.parquet_pages import Page, pages
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.records import columns_of
from mdlm_atat.data.unpack import PACKED, READ_BYTES, read_errors
from mdlm_atat.errors import UserError

BATCH_ROWS = 64
MOST_BYTES = 800 << 20
"""That Arrow and Python may take for the rows that are read at a time."""
OBJECT_BYTES = 80
"""Of a short string in a list of Python's."""


def parquet_rows(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the rows with the columns that `reading` names, numbers and times in its column as text."""
    del left_out
    as_text = reading.column if reading.template is None else None
    return rows_of_columns(path, columns_of(reading), as_text=as_text)


def rows_of_columns(
    path: Path, columns: Collection[str] | None = None, *, as_text: str | None = None
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield rows with these columns (None: all), each with its file and number. A column `as_text` is cast to strings
    where it holds numbers, times, true or false.

    Raises UserError where the file is damaged, and where it would take more than MOST_BYTES to read a row: Arrow
    unpacks pages of any size as a whole.
    """
    import pyarrow as arrow
    from pyarrow import parquet

    packed = held_bytes(path) if path.suffix.lower() in PACKED else None
    try:
        file = parquet.ParquetFile(path if packed is None else arrow.py_buffer(packed), buffer_size=READ_BYTES)
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a Parquet file that can be read: {error}") from error
    with read_errors(path), file, closing(path.open("rb") if packed is None else io.BytesIO(packed)) as raw:
        names = file.schema_arrow.names
        found = {column if column in names else column.partition(".")[0] for column in columns or names}
        twice = next((column for column in sorted(found) if names.count(column) > 1), None)
        if twice is not None:
            raise UserError(f"{path} has {names.count(twice)} columns {twice!r}: give them names of their own")
        wanted = [name for name in names if name in found] if found <= set(names) else names  # which tell what is wrong
        number = 0
        for group in range(file.num_row_groups):
            num_rows = _rows_at_a_time(path, file, raw, group, wanted)
            for batch in file.iter_batches(batch_size=num_rows, row_groups=[group], columns=wanted):
                try:
                    _check_can_be_held(batch, f"{path}, row {number + 1}")
                    rows = (batch if as_text is None else _with_text(batch, as_text)).to_pylist()
                except (ValueError, OverflowError) as error:  # strings that are not UTF-8, times beyond all
                    raise UserError(f"{path} is damaged, or not UTF-8, after {number} rows: {error}") from error
                for row in rows:
                    number += 1
                    yield row, f"{path}, row {number}"


def _rows_at_a_time(path: Path, file: Any, raw: io.BufferedIOBase, group: int, wanted: Collection[str]) -> int:
    """How many rows of a row group may be read together, so that what they and their pages take stays bounded. Raises
    UserError where one alone may take too much."""
    about = file.metadata.row_group(group)
    if about.num_rows == 0:
        return 1  # it has no pages
    of_pages = of_row = 0
    for number in range(about.num_columns):
        chunk = about.column(number)
        if not _is_of(chunk.path_in_schema, wanted):
            continue
        try:
            found = list(pages(raw, _start(chunk), chunk.total_compressed_size))
        except (ValueError, OSError) as error:
            raise UserError(f"{path} is damaged or cut short: {error}") from error
        of_dictionary = max((page.unpacked for page in found if page.is_dictionary), default=0)
        of_data = max((page.unpacked for page in found if not page.is_dictionary), default=0)
        of_pages += 2 * of_dictionary + of_data + max((page.packed for page in found), default=0)
        is_list = file.schema.column(number).max_repetition_level > 0
        of_row += _of_list(found, about.num_rows) if is_list else max(of_dictionary, of_data)
    if of_pages + of_row + min(4 * of_row, HELD_BYTES) > MOST_BYTES:
        raise UserError(
            f"{path}: row group {group} holds pages or lists of up to {of_row:,} bytes, which have to be unpacked as a "
            "whole: write it anew with fewer rows a page (in pyarrow: `write_batch_size=1`), or put long texts into "
            ".txt files"
        )
    return max(1, min(BATCH_ROWS, (MOST_BYTES - of_pages) // (5 * of_row + 1)))


def _is_of(leaf: str, wanted: Collection[str]) -> bool:
    return any(leaf == name or leaf.startswith(f"{name}.") for name in wanted)


def _start(chunk: Any) -> int:
    """Where the pages of a column begin in the file."""
    data, dictionary = chunk.data_page_offset, chunk.dictionary_page_offset
    return dictionary if dictionary is not None and 0 < dictionary < data else data


def _of_list(found: Sequence[Page], num_rows: int) -> int:
    """Bytes that the list of a row takes in the mean, as Python holds its values."""
    sizes = [page.unpacked / max(page.num_values, 1) for page in found]
    num_values = sum(page.num_values for page in found if not page.is_dictionary)
    return int(num_values * (OBJECT_BYTES + max(sizes, default=0)) / max(num_rows, 1))


def _check_can_be_held(batch: Any, where: str) -> None:
    """Raise UserError for a text that would take too much as a string of Python's."""
    if 4 * batch.nbytes <= HELD_BYTES:
        return
    for text in (text for column in batch.columns for text in _strings(column) if text.is_valid):
        data = np.frombuffer(text.as_buffer(), np.uint8)
        if 4 * len(data) <= HELD_BYTES:
            continue
        parts = [data[start : start + READ_BYTES] for start in range(0, len(data), READ_BYTES)]
        widest = max(part.max() for part in parts)
        width = 1 if widest < 0xC4 else 2 if widest < 0xF0 else 4  # bytes that Python holds each character in
        if width * sum(np.count_nonzero((part & 0xC0) != 0x80) for part in parts) > HELD_BYTES:
            raise UserError(f"{where}: a text is longer than can be held at once: put long texts into .txt files")


def _strings(column: Any) -> Iterator[Any]:
    """The strings of a column and of those inside it, not those of lists."""
    import pyarrow as arrow

    if arrow.types.is_struct(column.type):
        for inner in column.flatten():
            yield from _strings(inner)
    elif arrow.types.is_dictionary(column.type):
        yield from _strings(column.dictionary)
    elif hasattr(arrow.scalar(None, column.type), "as_buffer"):
        yield from column


def _with_text(batch: Any, column: str) -> Any:
    """The rows with the column, or the one inside another, as strings where it is numbers, times, true or false."""
    names = batch.schema.names
    name, *inside = [column] if column in names else column.split(".")
    if name not in names:
        return batch
    values = batch.column(name)
    kind = _type_as_text(values.type, inside)
    return batch if kind == values.type else batch.set_column(names.index(name), name, values.cast(kind))


def _type_as_text(kind: Any, inside: list[str]) -> Any:
    import pyarrow as arrow

    if arrow.types.is_struct(kind) and inside:
        name, *others = inside
        fields = [kind.field(number) for number in range(kind.num_fields)]
        return arrow.struct(
            [part.with_type(_type_as_text(part.type, others)) if part.name == name else part for part in fields]
        )
    value = kind.value_type if arrow.types.is_dictionary(kind) else kind
    is_value = arrow.types.is_primitive(value) or arrow.types.is_decimal(value)
    return arrow.string() if is_value and not inside else kind
