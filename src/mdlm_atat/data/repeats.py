"""Which documents of the validation text are in the training text too: they make a model look better than it is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mdlm_atat.data.pieces import Piece

MOST_HASHES = 1 << 19
"""Of each split, 64 bits a document, about 50 MB; of more documents, those with small hashes stand for all."""


class Repeated(NamedTuple):
    """Documents of the validation text whose text is in the training text, white space at both ends aside."""

    documents: int
    of: int
    """All documents of the validation text."""
    is_exact: bool
    """Whether every document was compared; else it is an estimate from a sample of them."""


class Repeats:
    """Compares the documents of train and valid as they go by, in bounded memory and in any order."""

    def __init__(self, most_hashes: int = MOST_HASHES) -> None:
        self._most = most_hashes
        self._below, self._sampled_every = 1 << 64, 1
        self._train: set[int] = set()
        self._valid: Counter[int] = Counter()
        self._num_valid = 0
        self._open: dict[str, hashlib.blake2b] = {}

    def watch(self, stream: Iterable[tuple[str, Piece]]) -> Iterator[tuple[str, Piece]]:
        """Pass on the pieces of the splits, having looked at them."""
        for name, piece in stream:
            self._add(name, piece)
            yield name, piece

    def found(self) -> Repeated:
        """Return how many documents of valid are in train; call it when all have gone by."""
        both = sum(number for document, number in self._valid.items() if document in self._train)
        return Repeated(
            min(both * self._sampled_every, self._num_valid), self._num_valid, is_exact=self._sampled_every == 1
        )

    def _add(self, name: str, piece: Piece) -> None:
        text = piece.text if name in self._open else piece.text.lstrip()
        digest = self._open.setdefault(name, hashlib.blake2b(digest_size=8))
        digest.update((text.rstrip() if piece.ends_document else text).encode())
        if not piece.ends_document:
            return
        document = int.from_bytes(self._open.pop(name).digest(), "little")
        self._num_valid += name == "valid"
        if document >= self._below:
            return
        if name == "valid":
            self._valid[document] += 1
        else:
            self._train.add(document)
        while max(len(self._train), len(self._valid)) > self._most:
            self._below, self._sampled_every = self._below // 2, self._sampled_every * 2
            self._train = {each for each in self._train if each < self._below}
            self._valid = Counter({each: n for each, n in self._valid.items() if each < self._below})
