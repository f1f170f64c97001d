"""Texts cut into their tokens, for what shows them one by one, and no character of them cut in two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from mdlm_atat.data.tokenizers import HFTokenizer, Tokenizer
from mdlm_atat.lm.given import Row, anchor_of, texts_after
from mdlm_atat.lm.token_texts import TokenTexts, aligned

NO_CHARACTER = "\ufffd"
"""How bytes that are no character of UTF-8 read."""
BYTE = re.compile("<0x[0-9A-F]{2}>")


def is_byte(tokenizer: Tokenizer, token: int) -> bool:
    """Whether a token is a single byte of a vocabulary of characters and words, as <0x7C> is in SentencePiece's."""
    text = tokenizer.inner.id_to_token(token) if isinstance(tokenizer, HFTokenizer) else None
    return text is not None and BYTE.fullmatch(text) is not None


class CutTexts:
    """The texts of the tokens of a row. A character of several tokens stands whole with the last of them, and the
    others have an empty text."""

    def __init__(self, tokenizer: Tokenizer, row: Row) -> None:
        self._tokenizer, self._row = tokenizer, row
        self._alone = TokenTexts(tokenizer, row)
        self._anchor = anchor_of(tokenizer)
        self._runs: dict[tuple[int, ...], list[str]] = {}

    def __call__(self, tokens: Sequence[int], *, is_whole: bool) -> list[str]:
        """The text of each token; that of [MASK] is the tokenizer's sign for it. `is_whole`: nothing is to come any
        more; else bytes that are no character yet have an empty text."""
        texts = [self._alone(place, token) for place, token in enumerate(tokens)]
        gaps = [place for gap in self._row.gaps for place in range(gap.start, min(gap.stop, len(tokens)))]

        def is_in_parts(place: int) -> bool:
            # neighbouring bytes, <0x7C> among them, are all read as wrong where one of them is
            return NO_CHARACTER in texts[place] or (is_whole and is_byte(self._tokenizer, tokens[place]))

        for in_parts, group in groupby(gaps, key=is_in_parts):
            if in_parts:
                self._join(list(group), tokens, texts, is_whole=is_whole)
        return texts

    def _join(self, places: list[int], tokens: Sequence[int], texts: list[str], *, is_whole: bool) -> None:
        for run in runs_of(places):
            ids = tuple(tokens[place] for place in run)
            if ids not in self._runs:
                self._runs[ids] = texts_after(self._tokenizer, self._anchor, [[token] for token in ids])
            for place, text in zip(run, self._runs[ids], strict=True):
                texts[place] = text if is_whole else text.replace(NO_CHARACTER, "")


def runs_of(places: Sequence[int]) -> list[list[int]]:
    """Rising numbers as runs of such that follow each other."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def cut_to(text: str, parts: Sequence[str]) -> list[str]:
    """The text in as many parts as there are, as like them as it can be; together they are the text."""
    return aligned(text, parts) if parts else []
