"""A tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


class Letters:
    """The letters a to z, whatever their case, and a space for every other character."""

    name = "letters"
    alphabet = " abcdefghijklmnopqrstuvwxyz"
    vocab_size = mask_id = len(alphabet)  # the mask comes right after the ids of text
    bos_id = eos_id = pad_id = None

    @classmethod
    def load(cls, folder: Path) -> Letters:
        return cls()

    def save(self, folder: Path) -> None:
        """There is nothing to write: all of it is in the code."""

    def fingerprint(self) -> str:
        return f"{self.name}-1"  # another one where the same text would get other ids

    def encode(self, text: str) -> list[int]:
        return [max(0, self.alphabet.find(character)) for character in text.lower()]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(self.encode(text), np.uint8) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray, mask_text: str = "[MASK]", eos_text: str = "") -> str:
        table = [*self.alphabet, mask_text]
        return "".join(table[token] for token in ids)
