"""Rows token by token, for what shows them so: given text as it was given, the rest as it reads after other text."""

from __future__ import annotations

from collections.abc import Sequence

from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.lm.given import Row, anchor_of, texts_after


class TokenTexts:
    """The text of a token at a place of a row. The texts of given tokens make up the given text letter for letter; what
    the tokenizer has no token for stands with the token after it."""

    def __init__(self, tokenizer: Tokenizer, row: Row | None = None) -> None:
        """`row`: what was given; None: nobody knows more than the tokens."""
        self._tokenizer, self._anchor = tokenizer, anchor_of(tokenizer)
        self._alone: dict[int, str] = {}
        self._given: dict[int, str] = {}
        self._before: dict[int, str] = {}  # given text without a token of its own, with the token after it
        self._behind: dict[int, str] = {}  # the same at the end, with the last token
        self._without_space = set[int]() if row is None else row.places_without_space(tokenizer)
        if row is None:
            return
        start = 0
        for index, text in enumerate(row.around):
            stop = row.gaps[index].start if index < len(row.gaps) else len(row.tokens)
            tokens = row.tokens[start:stop]
            if tokens:
                self._given |= enumerate(aligned(text, [self._after(token) for token in tokens]), start=start)
            elif text and stop < len(row.tokens):
                self._before[stop] = text
            elif text:
                self._behind[stop - 1] = text
            if index < len(row.gaps):
                start = row.gaps[index].stop

    def __call__(self, place: int, token: int) -> str:
        """The text of a token, the mask's too."""
        text = self._given.get(place)
        if text is None:
            text = self._tokenizer.decode([token]) if place == 0 else self._after(token)
            text = text.removeprefix(" ") if place in self._without_space else text
        return self._before.get(place, "") + text + self._behind.get(place, "")

    def _after(self, token: int) -> str:
        """A token's text behind another one's."""
        if token not in self._alone:
            self._alone[token] = texts_after(self._tokenizer, self._anchor, [[token]])[0]
        return self._alone[token]


def aligned(text: str, pieces: Sequence[str]) -> list[str]:
    """The text cut into as many parts as there are pieces, each with what its piece looks like, up to case: exactly the
    pieces where they make the text up. What looks like none of them goes with the next that is found, or the last."""
    if "".join(pieces) == text:
        return list(pieces)
    parts, end, lower = [], 0, text.lower() if len(text.lower()) == len(text) else text
    for piece in pieces:
        core = piece.strip().lower()
        found = lower.find(core, end, end + len(core) + 16) if core else -1
        stop = found + len(core) if found >= 0 else end
        parts.append(text[end:stop])
        end = stop
    parts[-1] += text[end:]
    return parts
