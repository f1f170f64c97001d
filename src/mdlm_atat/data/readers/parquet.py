"""Parquet: a row a document, of columns that hold strings in any of Arrow's types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

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
        missing = next((column for column in found if column not in names), None)
        number = 0
        columns = None if missing else sorted(found)
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            try:
                rows = batch.to_pylist()
            except (ValueError, OverflowError) as error:  # strings that are not UTF-8, times beyond all
                raise UserError(f"{path} is damaged, or not UTF-8, after row {number}: {error}") from error
            for row in rows:
                text = text_of(row, reading, f"{path}, row {number}", left_out)
                if text is not None:
                    yield [text]
                number += 1
