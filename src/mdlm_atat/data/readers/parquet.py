"""Parquet: a row a document, of a column that holds strings in any of Arrow's types, or what Arrow casts to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mdlm_atat.data.files import PACKED, READ_BYTES, held_bytes, read_errors
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.records import columns_of, text_of
from mdlm_atat.errors import UserError

BATCH_ROWS = 64


def read_parquet(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield a document for each row whose text is not null."""
    import pyarrow as arrow
    from pyarrow import parquet

    packed = path.suffix.lower() in PACKED
    try:
        file = parquet.ParquetFile(arrow.py_buffer(held_bytes(path)) if packed else path, buffer_size=READ_BYTES)
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a Parquet file that can be read: {error}") from error
    with read_errors(path), file:
        names = file.schema_arrow.names
        found = {column if column in names else column.partition(".")[0] for column in columns_of(reading)}
        twice = next((column for column in sorted(found) if names.count(column) > 1), None)
        if twice is not None:
            raise UserError(f"{path} has {names.count(twice)} columns {twice!r}: give them names of their own")
        missing = next((column for column in found if column not in names), None)
        number = 0
        columns = None if missing else sorted(found)
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            try:
                rows = (_with_text(batch, reading.column) if reading.template is None else batch).to_pylist()
            except (ValueError, OverflowError) as error:  # strings that are not UTF-8, times beyond all
                raise UserError(f"{path} is damaged, or not UTF-8, after row {number}: {error}") from error
            for row in rows:
                text = text_of(row, reading, f"{path}, row {number}", left_out)
                if text is not None:
                    yield [text]
                number += 1


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
