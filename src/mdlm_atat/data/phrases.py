"""How long phrases are, in tokens: counted in a sample of the training text, and kept with a model to choose the
lengths of gaps by.

A text is cut into words, phrases and sentences by runs of separators: white space (1), punctuation within a sentence
with the white space after it (2), the end of a sentence or a line (3). A stretch of tokens has a kind at its left end,
that of the run which ends there, and one at its right end, that of the run which begins there; 0: no separator, so
that it begins or ends within a word. A stretch is *one unit* if no run inside it is as strong as the stronger of its
two ends, and none is punctuation; between two ends within words, if it is of one word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, Integer

from mdlm_atat.atomic import write_json
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.small_files import read_object, taken_apart

PHRASES_FILE = "phrases.json"
LONGEST = 64
"""Tokens of the longest stretches that are counted; longer ones are as likely one unit as these."""
SAMPLED_TOKENS = 1 << 17
NUM_STRETCHES = 32
"""Of the training text, evenly spread, that are the sample."""
LONGEST_RUN = 256
WORD, PHRASE, SENTENCE = 1, 2, 3
NUM_KINDS = 4
_SEPARATORS = re.compile(
    r"""(?P<sentence>\s*[\r\n]\s*|[.!?…]+["'”’»)\]]*(?:\s+|\Z)|[。！？]+\s*)"""
    r"""|(?P<phrase>[,;:]+(?:\s+|\Z)|\s*[—–]+\s*|[、，；：]+\s*)"""
    r"""|(?P<word>\s+)"""
)
_KINDS = {"sentence": SENTENCE, "phrase": PHRASE, "word": WORD}


@dataclass(frozen=True)
class Phrases:
    """Of stretches of 1, 2, ... tokens in a text, by the kinds of their ends (left, right): how many there are, and how
    many of them are one unit."""

    num_tokens: int
    """Of the sample."""
    stretches: Int[np.ndarray, "lengths left right"]
    units: Int[np.ndarray, "lengths left right"]

    def nats(self, ends: tuple[int, int], length: int) -> float:
        """-log of the share of the text's stretches with `length` tokens and ends of these kinds, left and right, that
        are one unit: (units + 1) / (stretches + 2), so that it is known where there are few."""
        place = min(length, len(self.units)) - 1, *ends
        return -math.log((self.units[place] + 1) / (self.stretches[place] + 2))

    def write(self, folder: Path) -> None:
        """Write phrases.json into a folder."""
        counts = {"stretches": self.stretches.tolist(), "units": self.units.tolist()}
        write_json(folder / PHRASES_FILE, {"num_tokens": self.num_tokens, **counts})


def read_phrases(folder: Path) -> Phrases | None:
    """Read the counts in a folder; None where there are none. Raises UserError for a file that is damaged."""
    file = folder / PHRASES_FILE
    if not file.exists():
        return None
    with taken_apart(file, remedy="restore it from a copy, or delete it"):
        stored = read_object(file, remedy="restore it from a copy, or delete it")
        stretches, units = (np.array(stored[name], dtype=np.int64) for name in ("stretches", "units"))
        if stretches.ndim != 3 or stretches.shape[1:] != (NUM_KINDS, NUM_KINDS) or stretches.shape != units.shape:
            raise ValueError(f"counts of shape {stretches.shape}")
        if not len(units) or units.min() < 0 or (units > stretches).any():
            raise ValueError("counts that cannot be")
        return Phrases(int(stored["num_tokens"]), stretches, units)


def count_phrases(tokens: Integer[np.ndarray, " tokens"], tokenizer: Tokenizer) -> Phrases:
    """Count the stretches of a sample of the tokens of a text: SAMPLED_TOKENS of them, or all."""
    parts = list(_sampled(tokens))
    texts = _texts_of(sorted({int(each) for part in parts for each in np.unique(part)}), tokenizer)
    stretches = np.zeros((LONGEST, NUM_KINDS, NUM_KINDS), np.int64)
    units = np.zeros_like(stretches)
    for part in parts:
        _count([texts[token] for token in part.tolist()], stretches, units)
    return Phrases(sum(map(len, parts)), stretches, units)


def kind_at_end(text: str) -> int:
    """The kind of a gap's left end, behind this text; where there is none a sentence begins."""
    text = text[-LONGEST_RUN:]
    runs = list(_runs(text))
    return SENTENCE if not text else runs[-1][2] if runs and runs[-1][1] == len(text) else 0


def kind_at_start(text: str) -> int:
    """The kind of a gap's right end, before this text."""
    first = next(_runs(text), None)
    return SENTENCE if not text else first[2] if first and first[0] == 0 else 0


def _runs(text: str) -> Iterator[tuple[int, int, int]]:
    """Where each run of separators starts and ends, and its kind."""
    for run in _SEPARATORS.finditer(text):
        yield run.start(), run.end(), _KINDS[run.lastgroup or "word"]


def _sampled(tokens: Integer[np.ndarray, " tokens"]) -> Iterator[Integer[np.ndarray, " some"]]:
    if len(tokens) <= SAMPLED_TOKENS:
        yield np.asarray(tokens)
        return
    size = SAMPLED_TOKENS // NUM_STRETCHES
    for start in np.linspace(0, len(tokens) - size, NUM_STRETCHES).astype(int):
        yield np.asarray(tokens[start : start + size])


def _texts_of(ids: Sequence[int], tokenizer: Tokenizer) -> dict[int, str]:
    """How each token reads after another one, in which a tokenizer's own space before the first word is no part."""
    alone = {token: tokenizer.decode([token]) for token in ids}
    anchor = next((token for token in ids if alone[token].strip().isalnum()), None)
    if anchor is not None:
        start = alone[anchor]
        behind = {token: tokenizer.decode([anchor, token]) for token in ids}
        alone |= {token: text[len(start) :] for token, text in behind.items() if text.startswith(start)}
    if tokenizer.eos_id is not None:
        alone[tokenizer.eos_id] = "\n\n"
    return alone


def _count(texts: Sequence[str], stretches: Int[np.ndarray, "n l r"], units: Int[np.ndarray, "n l r"]) -> None:
    """Add the stretches of these tokens to the counts."""
    text = "".join(texts)
    places = np.concatenate([[0], np.cumsum([len(each) for each in texts])])  # between tokens, in characters
    left, right = np.zeros((2, len(text) + 1), np.int64)  # kinds of an end at each place
    num_begun, num_ended = np.zeros((2, NUM_KINDS, len(text) + 1), np.int64)  # runs at least as strong, so far
    for start, end, kind in _runs(text):
        left[start + 1 : end + 1] = kind
        right[start:end] = kind
        if text[start] == " ":  # a space that begins a token is given before the gap
            left[start] = max(left[start], WORD)
        if text[end - 1] == " ":
            right[end] = max(right[end], WORD)
        num_begun[1 : kind + 1, start + 1] += 1
        num_ended[1 : kind + 1, end] += 1
    num_begun, num_ended = num_begun.cumsum(1), num_ended.cumsum(1)  # starts < place; ends <= place
    left, right = left[places], right[places]
    num_begun, num_ended = num_begun[:, places], num_ended[:, places]
    for length in range(1, min(LONGEST, len(texts)) + 1):
        first, last = left[:-length], right[length:]
        unit = np.where((first == 0) & (last == 0), WORD, np.maximum(np.maximum(first, last), PHRASE))
        at = np.arange(len(first))
        is_unit = num_ended[unit, at + length] <= num_begun[unit, at]  # no run lies inside
        ends = first * NUM_KINDS + last
        for counts, counted in ((stretches, ends), (units, ends[is_unit])):
            counts[length - 1] += np.bincount(counted, minlength=NUM_KINDS**2).reshape(NUM_KINDS, NUM_KINDS)
