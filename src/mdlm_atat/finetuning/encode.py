"""Encode the texts of a task with a model's own tokenizer: join pairs, cut long texts, and count what was changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from mdlm_atat.data.tokenizers import CharTokenizer, Tokenizer, other_case
from mdlm_atat.errors import UserError

SEPARATING_TEXTS = ("\n", "|", ".")
LENGTH_MULTIPLE = 8


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids of texts or pairs."""

    ids: list[NDArray[np.int64]]
    is_cut: list[bool]
    """Of each text, or pair, whether it was too long and lost its end."""
    num_tokens: int
    """Tokens before any was cut."""
    num_replaced: int = 0
    """Characters that the tokenizer does not have, which were written in the other case, as a space, or left out."""
    num_characters: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_cut(self) -> int:
        return sum(self.is_cut)

    def at(self, rows: Sequence[int]) -> EncodedTexts:
        """Some of the texts; what is counted stays that of all."""
        chosen = [self.ids[row] for row in rows], [self.is_cut[row] for row in rows]
        return EncodedTexts(*chosen, self.num_tokens, self.num_replaced, self.num_characters)

    def by_length(self) -> list[int]:
        """Indices of the texts, the shortest first."""
        return sorted(range(len(self.ids)), key=lambda index: len(self.ids[index]))

    def batch(
        self, indices: Sequence[int], max_length: int
    ) -> tuple[Int[Tensor, "batch length"], Int[Tensor, " batch"]]:
        """Returns (ids, lengths) of some texts, padded to the longest of them, rounded up so that few shapes occur."""
        chosen = [self.ids[index] for index in indices]
        lengths = torch.tensor([len(ids) for ids in chosen])
        longest = -(-int(lengths.max()) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        padded = torch.zeros(len(chosen), min(longest, max_length), dtype=torch.int64)
        for row, ids in enumerate(chosen):
            padded[row, : len(ids)] = torch.from_numpy(ids)
        return padded, lengths


@dataclass(frozen=True)
class Separator:
    """The tokens between the two texts of a pair."""

    ids: tuple[int, ...]
    name: str


def choose_separator(tokenizer: Tokenizer, counts: NDArray[np.int64] | None) -> Separator:
    """The separator for pairs: the end-of-document token if the model was trained on any, else an encoded line end, or
    another mark. `counts`: of each token in the training text; None: not known. Raises UserError where the tokenizer
    has none of these."""
    eos = tokenizer.eos_id
    if eos is not None and (counts is None or counts[eos] > 0):
        return Separator((eos,), "end of document")
    for text in SEPARATING_TEXTS:
        try:
            ids = tokenizer.encode(text)
        except UserError:  # a char tokenizer without it
            continue
        if ids:
            return Separator(tuple(ids), repr(text))
    if eos is not None:
        return Separator((eos,), "end of document")
    raise UserError(
        "the model's tokenizer has no token to put between two texts: it has no end of document, and encodes none of "
        f"{', '.join(map(repr, SEPARATING_TEXTS))}"
    )


def encode_texts(
    texts: Sequence[tuple[str, ...]],
    tokenizer: Tokenizer,
    separator: Separator,
    max_length: int,
    *,
    place: Callable[[int], str] | None = None,
) -> EncodedTexts:
    """Encode texts, each a tuple of one, and pairs as first + separator + second. A text longer than max_length is cut
    at its end, a pair at the end of the longer text.

    A text without a token, and a pair of which either has none, raises UserError, in which text i is called `place(i)`;
    without `place` it becomes no tokens.
    """
    if not texts:
        return EncodedTexts([], [], 0)
    columns: list[list[str]] = [list(column) for column in zip(*texts, strict=True)]
    num_replaced = 0
    if isinstance(tokenizer, CharTokenizer):
        for column in columns:
            fitted = [fit_alphabet(text, tokenizer.alphabet) for text in column]
            column[:] = [text for text, _ in fitted]
            num_replaced += sum(number for _, number in fitted)
    encoded = [tokenizer.encode_batch(column) for column in columns]
    rows: list[NDArray[np.int64]] = []
    is_cut: list[bool] = []
    num_tokens = 0
    for number, parts in enumerate(zip(*encoded, strict=True)):
        if not all(len(part) for part in parts):
            if place is not None:
                raise UserError(f"{place(number)}: the text has no token in the model's vocabulary; remove the line")
            rows.append(np.empty(0, np.int64))
            is_cut.append(False)
            continue
        room = max_length - (len(parts) - 1) * len(separator.ids)
        kept = cut_longest([len(part) for part in parts], room)
        is_cut.append(kept != [len(part) for part in parts])
        num_tokens += sum(map(len, parts))
        row = [part[:keep].astype(np.int64) for part, keep in zip(parts, kept, strict=True)]
        if len(row) == 2:
            row.insert(1, np.array(separator.ids, np.int64))
        rows.append(np.concatenate(row))
    return EncodedTexts(rows, is_cut, num_tokens, num_replaced, sum(len(text) for column in columns for text in column))


def cut_longest(lengths: list[int], room: int) -> list[int]:
    """How many tokens of each text to keep so that all fit into `room`: a token at a time is cut off the longest, among
    equals off the last. Raises UserError where not even a token of each fits."""
    if room < len(lengths):
        raise UserError(
            f"`max_length=` leaves room for {max(0, room)} tokens of {len(lengths)} texts; take a larger one"
        )
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    first, second = lengths
    if first + second <= room:
        return lengths
    half, rest = divmod(room, 2)
    if first <= half:
        return [first, room - first]
    if second <= half:
        return [room - second, second]
    return [half + rest, half]


def fit_alphabet(text: str, alphabet: str) -> tuple[str, int]:
    """Write a text in the characters of an alphabet: others are written in the other case, else as a space, else left
    out. Returns the text and how many characters were others."""
    wrong = set(text) - set(alphabet)
    if not wrong:
        return text, 0
    instead = {ord(character): other_case(character, alphabet) for character in wrong}
    return text.translate(instead), sum(character in wrong for character in text)
