"""JSON: .jsonl, a row a line, and .json, an array of rows (streamed) or one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from mdlm_atat.data.files import as_file, decoded, read_errors, read_lines
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.records import text_of
from mdlm_atat.errors import UserError


def read_jsonl(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield a document for each line that is not empty; lines end at "\\n" alone."""
    for number, line in enumerate(read_lines(path, reading.encoding, translate=False), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            text = text_of(_row(line, where), reading, where, left_out)
            if text is not None:
                yield [text]


def _row(line: str, where: str) -> Any:
    try:
        return json.loads(line, parse_float=Decimal)  # 0.50 stays 0.50 in a template
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}; expected one JSON object a line") from error


def read_json(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield a document for each element of an array, or for each object of a file that holds one or several."""
    import ijson

    data = as_file(chunk.encode() for chunk in decoded(path, reading.encoding, translate=False))
    with read_errors(path):
        start = data.peek(1)[:1]
        while start.isspace():
            data.read(1)
            start = data.peek(1)[:1]
        if not start:
            return
        try:
            rows = ijson.items(data, "item") if start == b"[" else ijson.items(data, "", multiple_values=True)
            for number, row in enumerate(rows, start=1):
                text = text_of(row, reading, f"{path}, row {number}", left_out)
                if text is not None:
                    yield [text]
        except ijson.JSONError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} is not JSON: {reason}; lines of JSON go into a .jsonl file") from error
