"""One text as rows for scoring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Pieces:
    """One text as rows for scoring: pieces of at most `length` tokens."""

    def __init__(self, tokens: Sequence[int], length: int) -> None:
        self.width = min(length, len(tokens))
        self._tokens = np.asarray(tokens, dtype=np.int64)
        self.num_evaluation_rows = -(-len(tokens) // self.width)

    def evaluation_rows(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pieces with these numbers: (ids (n, L), padded with 0, and lengths (n,))."""
        ids = np.zeros((len(indices), self.width), dtype=np.int64)
        lengths = np.zeros(len(indices), dtype=np.int64)
        for row, index in enumerate(indices):
            piece = self._tokens[index * self.width : (index + 1) * self.width]
            ids[row, : len(piece)], lengths[row] = piece, len(piece)
        return ids, lengths
