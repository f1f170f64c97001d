"""Jupyter notebooks: .ipynb, what was written into the cells, without their outputs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdlm_atat.data.files import LONGEST_FILE, decoded, held, whole_number
from mdlm_atat.data.readers.json_files import check_can_be_held
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.errors import UserError


def read_notebook(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield the cells of a notebook, text and code, as one document with empty lines between them."""
    text = held(path, decoded(path, reading.encoding), LONGEST_FILE)
    check_can_be_held(text, str(path))
    try:
        book = json.loads(text, parse_int=whole_number)
        sheets = [book] if "cells" in book else book["worksheets"]  # of formats 4 and 3
        cells = [cell for sheet in sheets for cell in sheet["cells"]]
        sources = ["".join(cell["source"] if "source" in cell else cell["input"]) for cell in cells]
        "".join(sources).encode()
        num_outputs = sum(len(cell.get("outputs", ())) for cell in cells)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a notebook that can be read: {type(error).__name__}, {error}") from error
    if num_outputs:
        left_out["outputs of notebooks"] += num_outputs
    yield ["\n\n".join(source for source in sources if source.strip())]
