"""Texts as rows for scoring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Pieces:
    """Texts as rows for scoring: of each, pieces of at most `length` tokens."""

    def __init__(self, texts: Sequence[Sequence[int]], length: int) -> None:
        self.width = min(length, max(map(len, texts)))
        self.num_texts = len(texts)
        self._pieces: list[Sequence[int]] = []
        self.of_text: list[tuple[int, int]] = []
        """Of each row: the number of its text, and of the piece within that."""
        for number, tokens in enumerate(texts):
            pieces = [tokens[start : start + length] for start in range(0, len(tokens), length)]
            self.of_text += [(number, piece) for piece in range(len(pieces))]
            self._pieces += pieces
        self.num_evaluation_rows = len(self._pieces)

    def evaluation_rows(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pieces with these numbers: (ids (n, L), padded with 0, and lengths (n,))."""
        ids = np.zeros((len(indices), self.width), dtype=np.int64)
        lengths = np.zeros(len(indices), dtype=np.int64)
        for row, index in enumerate(indices):
            piece = self._pieces[index]
            ids[row, : len(piece)], lengths[row] = piece, len(piece)
        return ids, lengths
