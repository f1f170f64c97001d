"""counts.npy: how often each token occurs in a training text."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mdlm_atat.atomic import written_aside
from mdlm_atat.errors import UserError
from mdlm_atat.small_files import read_small

FILE_NAME = "counts.npy"
MOST_BYTES = 1 << 27


def write_counts(folder: Path, counts: Int[np.ndarray, " vocabulary"]) -> None:
    """Write the counts into a folder, atomically."""
    with written_aside(folder / FILE_NAME) as aside, aside.open("wb") as stream:
        np.save(stream, counts, allow_pickle=False)


def read_counts(folder: Path, remedy: str) -> Int[np.ndarray, " vocabulary"]:
    """Read the counts in a folder. Raises UserError, which ends in `remedy`, where they are damaged, and
    FileNotFoundError where there are none."""
    file = folder / FILE_NAME
    content = read_small(file, most_bytes=MOST_BYTES)
    try:
        stream = io.BytesIO(content)
        major, _ = np.lib.format.read_magic(stream)
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[major]
        shape, _, dtype = read_header(stream)
        size = len(content) - stream.tell()
        # compared before the array is made: a header of 100 bytes can claim any size
        if len(shape) != 1 or dtype.kind not in "iu" or shape[0] * dtype.itemsize != size:
            raise ValueError(f"{dtype} of shape {shape} in {size:,} bytes")
        counts = np.frombuffer(content, dtype, offset=stream.tell()).astype(np.int64)
        if counts.min(initial=0) < 0:
            raise ValueError(f"a count of {counts.min()}")
    except (ValueError, KeyError, EOFError, SyntaxError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); {remedy}") from None
    return counts
