"""counts.npy: how often each token occurs in a training text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int

from mdlm_atat.atomic import written_aside

FILE_NAME = "counts.npy"


def write_counts(folder: Path, counts: Int[np.ndarray, " vocabulary"]) -> None:
    """Write the counts into a folder, atomically."""
    with written_aside(folder / FILE_NAME) as aside, aside.open("wb") as stream:
        np.save(stream, counts, allow_pickle=False)
