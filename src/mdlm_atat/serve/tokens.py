"""Texts cut into their tokens, for what shows them one by one, and no character of them cut in two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import groupby

from mdlm_atat.data.tokenizers import END_OF_TEXT, ByteTokenizer, HFTokenizer, Tokenizer, characters_of_bytes
from mdlm_atat.lm.given import Row, anchor_of, texts_after
from mdlm_atat.lm.log_probs import TokenLogProb
from mdlm_atat.lm.token_texts import TokenTexts, aligned

NO_CHARACTER = "\ufffd"
"""How bytes that are no character of UTF-8 read."""
LEAST = -9999.0
"""Stands for the logarithm of 0, which JSON has no number for, in OpenAI's answers too."""
BYTE = re.compile("<0x[0-9A-F]{2}>")


class TokenNames:
    """What tokens are called in lists of log probabilities, as OpenAI's API calls them: their text, and one that holds
    a part of a character `bytes:` and its bytes, those that are no ASCII as \\xE4."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self._texts = tokenizer, TokenTexts(tokenizer)

    def __call__(self, place: int, token: int, text: str | None = None, *, without_space: bool = False) -> str:
        """The name of a token at a place. `text`: what it adds to the text there, if it stands there; with
        `without_space`, the space that it begins with is not its own."""
        if token == self.tokenizer.eos_id:
            inner = self.tokenizer.inner if isinstance(self.tokenizer, HFTokenizer) else None
            return (inner and inner.id_to_token(token)) or END_OF_TEXT
        alone = self._texts(place, token)
        if NO_CHARACTER in alone and (part := part_of_character(self.tokenizer, token)) is not None:
            return "bytes:" + "".join(chr(byte) if byte < 128 else f"\\x{byte:02X}" for byte in part)
        return text or (alone.removeprefix(" ") if without_space else alone)

    def likeliest(self, place: int, name: str, found: TokenLogProb, *, without_space: bool = False) -> dict[str, float]:
        """Log probabilities of the likeliest tokens at a place, by name, and that of the token that stands there, which
        is called `name`. Of tokens with one name the likeliest is meant."""
        named: dict[str, float] = {}
        for token, log_prob in (*found.likeliest, (found.token, found.log_prob)):
            own = name if token == found.token else self(place, token, without_space=without_space)
            named.setdefault(own, max(log_prob, LEAST))
        return named | {name: max(found.log_prob, LEAST)}


def part_of_character(tokenizer: Tokenizer, token: int) -> bytes | None:
    """The bytes of a token that is no text by itself; None for one that is, and where the tokenizer does not tell."""
    found = None
    if isinstance(tokenizer, ByteTokenizer) and token < 256:
        found = bytes([token])
    elif is_byte(tokenizer, token):
        found = bytes.fromhex(tokenizer.inner.id_to_token(token)[3:5])  # type: ignore[attr-defined]
    elif isinstance(tokenizer, HFTokenizer) and type(tokenizer.inner.decoder).__name__ == "ByteLevel":
        byte_of = bytes_of_characters()
        written = tokenizer.inner.id_to_token(token) or ""
        found = bytes(byte_of[character] for character in written) if set(written) <= byte_of.keys() else None
    try:
        return None if found is None or found.decode() else found
    except UnicodeDecodeError:
        return found


@cache
def bytes_of_characters() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(characters_of_bytes())}


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
