"""Answers in a text: the stretches that readers mark, and the rows that are made of them.

A row is one answer, with everything before it in the document as its prompt: prompt, answer, eos. Of a conversation of
several turns every turn of the assistant is a row of its own, since a network that fills masks would otherwise read in
the later turns what it is to answer in the earlier ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mdlm_atat.data.tokenizers import Tokenizer

Spans = tuple[tuple[int, int], ...]
"""Where each answer of a text begins and ends, in characters, in order."""
LONGEST_MARKED = 1 << 20
"""Characters of the longest document whose answers are known; a longer one is read in pieces, as text."""
WITHOUT, NO_ROOM, CUT = "documents without an answer", "answers whose prompt fills the row", "answers cut"
NO_TOKENS = "answers without tokens"


class Marked(str):
    """A text whose answers are known."""

    answers: Spans

    def __new__(cls, text: str, answers: Spans) -> Marked:
        marked = super().__new__(cls, text)
        marked.answers = answers
        return marked


class AnswerRows(NamedTuple):
    """The rows of some documents."""

    ids: list[np.ndarray]
    """Prompt, answer and eos of each, cut at the length of a row."""
    prompts: list[int]
    """Tokens of each that are prompt: fewer than the row has."""
    answers: list[str]
    """The text of each answer, as far as it is in the row."""
    ends_document: list[bool]
    whole: list[tuple[str, np.ndarray]]
    """The longest text of each document that was encoded, and its ids, uncut and without eos."""
    left_out: Counter[str]
    """How many answers were cut and dropped, and how many documents have none, by these words."""


def answer_rows(documents: Sequence[tuple[str, Spans]], tokenizer: Tokenizer, length: int) -> AnswerRows:
    """Return a row of at most `length` tokens for each answer of some documents, each a text with its answers.

    The prompt is encoded alone, as `generate` encodes it, and the answer as it goes on from there. An answer that does
    not fit is cut, and has no eos then; one whose prompt leaves no room for a single token of it is left out, as is one
    that has no token.
    """
    rows = AnswerRows([], [], [], [], [], Counter())
    parts = [text[:place] for text, answers in documents for span in answers for place in span]
    encoded = iter(tokenizer.encode_batch(parts)) if parts else iter(())
    for text, answers in documents:
        num_before, ids = len(rows.ids), np.zeros(0, np.int64)
        for start, stop in answers:
            prompt, ids = next(encoded), next(encoded)
            answer = ids[len(prompt) :]
            if not np.array_equal(ids[: len(prompt)], prompt):  # a token reaches from the prompt into the answer
                (answer,) = tokenizer.encode_batch([text[start:stop]])
            _add(rows, prompt, answer, text[start:stop], tokenizer, length)
        if answers:
            rows.whole.append((text[: answers[-1][1]], ids))
        else:
            rows.left_out[WITHOUT] += 1
        rows.ends_document.extend([False] * (len(rows.ids) - num_before))
        if len(rows.ids) > num_before:
            rows.ends_document[-1] = True
    return rows


def _add(
    rows: AnswerRows, prompt: np.ndarray, answer: np.ndarray, text: str, tokenizer: Tokenizer, length: int
) -> None:
    if len(prompt) >= length:
        rows.left_out[NO_ROOM] += 1
        return
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    ids = np.concatenate([np.asarray(part, np.int64) for part in (prompt, answer, end)])
    if len(ids) == len(prompt):  # the tokenizer drops all of its characters, and has no eos
        rows.left_out[NO_TOKENS] += 1
        return
    if len(ids) > length:
        rows.left_out[CUT] += 1
        text = tokenizer.decode(ids[len(prompt) : length])
    rows.ids.append(ids[:length])
    rows.prompts.append(len(prompt))
    rows.answers.append(text)
