"""What requests are answered with, and how a text of the model becomes that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.lm.log_probs import TokenLogProb
from mdlm_atat.lm.results import Frame, Generated, Infilled
from mdlm_atat.serve.tokens import LEAST, CutTexts, TokenNames, cut_to

if TYPE_CHECKING:
    from mdlm_atat.lm.given import Row


@dataclass(frozen=True)
class Token:
    """A token of a text."""

    text: str
    """What it adds to the text: nothing for the first tokens of a character of several."""
    confidence: float | None
    """Probability that it had when it was drawn; null where it was given."""
    step: int | None
    """The step in which it was drawn, from 1; null where it was given."""
    importance: float | None
    """From 0 to 1, where it was asked for and the model knows it."""
    logprob: float | None = None
    """Where `logprobs` was asked for: log p of it after all before it, left to right, nats."""
    top_logprobs: dict[str, float] | None = None
    """The same of as many of the likeliest tokens at its place as were asked for, and of itself."""


@dataclass(frozen=True)
class ShownToken:
    """A token of a text on its way."""

    text: str
    """What it adds to the text: U+2591 where it is hidden, nothing where its character is not whole yet."""
    state: str
    """hidden, new (revealed since the last frame) or final."""
    confidence: float | None
    """Probability that it had when it was drawn; null while it is hidden."""
    importance: float | None
    """From 0 to 1, where it was asked for and the model knows it."""


@dataclass(frozen=True)
class Piece:
    """What was given, or what a gap holds. The texts of its tokens make up its text."""

    text: str
    given: bool
    gap: int | None
    """The number of the gap, from 0; null where it was given."""
    tokens: tuple[Token, ...]
    """Of what was given: there only where importance was asked for."""


@dataclass(frozen=True)
class ShownPiece:
    """What was given, or what a gap holds so far."""

    text: str
    given: bool
    gap: int | None
    """The number of the gap, from 0; null where it was given."""
    tokens: tuple[ShownToken, ...]
    """Empty for what was given."""


@dataclass(frozen=True)
class Result:
    """One text."""

    text: str
    pieces: tuple[Piece, ...]
    """Their texts make up the text."""
    fillings: tuple[str, ...]
    """What each gap holds."""
    lengths: tuple[int, ...]
    """Tokens of each gap."""
    nats: float | None
    """-log p, left to right, of all from the first gap on, by which alternatives are ranked; null for a model that
    fills masks only."""
    settled: bool | None
    """Whether the lengths of the gaps are sure; null where there was no choice."""
    seed: str
    """Of this very text, in decimal: `lm.infill(text, seed=[int(seed)])`. It has more digits than a float."""
    nfe: int
    """Network evaluations."""


@dataclass(frozen=True)
class Repeat:
    """What repeats a request where the model is."""

    command: str | None
    """A command line for a POSIX shell; null where it cannot say all that was asked for."""
    python: str
    """A Python program. Both print the texts."""


@dataclass(frozen=True)
class Texts:
    """Texts that were made."""

    id: str
    seed: int
    results: tuple[Result, ...]
    """The likeliest first, where the model can tell."""
    watched: int | None
    """The number, from 0, of the result that was streamed; null where it is none of them."""
    repeat: Repeat
    elapsed_s: float
    """Seconds that the model was busy with it, and with others in the same batch."""
    warnings: tuple[str, ...]
    """Of characters that the model reads as something else, for example."""


@dataclass(frozen=True)
class ShownFrame:
    """A text on its way."""

    step: int
    pieces: tuple[ShownPiece, ...]


@dataclass(frozen=True)
class Scored:
    """What a text costs."""

    nats: float
    standard_error: float | None
    num_tokens: int
    nats_per_token: float
    is_exact: bool
    """Whether the nats are exact; else they are an estimate of an upper bound."""
    likelihood: str


@dataclass(frozen=True)
class Scores:
    """What the texts cost, in their order."""

    scores: tuple[Scored, ...]


@dataclass(frozen=True)
class Label:
    """The label of a text, or of a pair of texts."""

    label: str | None
    """The likeliest label; null for a classifier that predicts a number."""
    probabilities: dict[str, float]
    """Of each label; empty for a number."""
    score: float | None
    """The number; null for labels."""
    is_cut: bool
    """Whether the text was longer than what the model reads, and lost its end."""


@dataclass(frozen=True)
class Labels:
    """The labels of the texts, in their order."""

    labels: tuple[str, ...]
    """All that the classifier knows."""
    results: tuple[Label, ...]


@dataclass(frozen=True)
class Made:
    """A text of the model with what its tokens are shown by."""

    text: Generated
    last: Frame
    """How it was when it was done."""


@dataclass(frozen=True)
class Part:
    """What was given, or a gap, of a row."""

    given: str
    gap: int | None
    """The number of the gap; None: it was given."""
    places: range
    """Of its tokens."""


def parts_of(row: Row) -> list[Part]:
    """What was given, and the gaps, in turn; nothing for an empty text between two gaps."""
    parts, start = [], 0
    for number, given in enumerate(row.around):
        gap = row.gaps[number] if number < len(row.gaps) else slice(len(row.tokens), len(row.tokens))
        if given:
            parts.append(Part(given, None, range(start, gap.start)))
        if number < len(row.gaps):
            parts.append(Part("", number, range(gap.start, gap.stop)))
        start = gap.stop
    return parts


class Shown:
    """Texts of one row, and frames of it, as they are answered."""

    def __init__(self, tokenizer: Tokenizer, row: Row) -> None:
        self._parts, self._texts, self._mask_id = parts_of(row), CutTexts(tokenizer, row), tokenizer.mask_id
        self._names, self._without_space = TokenNames(tokenizer), row.places_without_space(tokenizer)

    def frame(self, frame: Frame, seen: int, num_kept: int | None = None) -> ShownFrame:
        """A frame; tokens revealed after step `seen`, that of the frame before, are new. `num_kept`: so many characters
        of what the first gap holds are kept; None: all."""
        texts = self._texts(frame.tokens, is_whole=self._mask_id not in frame.tokens)
        pieces = []
        for part in self._parts:
            if part.gap is None:
                pieces.append(ShownPiece(part.given, True, None, ()))
                continue
            tokens = []
            for place in places_in(part, frame):
                step = frame.revealed_at_step[place]
                state = "hidden" if step == 0 else "new" if step > seen else "final"
                confidence = None if step == 0 else finite(frame.confidence[place])
                tokens.append(ShownToken(texts[place], state, confidence, importance_at(frame, place)))
            if part.gap == 0 and num_kept is not None:
                kept = kept_parts([token.text for token in tokens], num_kept)
                tokens = [replace(token, text=own) for token, own in zip(tokens, kept, strict=False)]
            pieces.append(ShownPiece("".join(token.text for token in tokens), False, part.gap, tuple(tokens)))
        return ShownFrame(frame.step, tuple(pieces))

    def result(self, made: Made, text: str, log_probs: Sequence[TokenLogProb] | None = None) -> Result:
        """A text. `text`: what of it is kept, which may end early. `log_probs`: of all its tokens."""
        whole, frame = made.text, made.last
        texts = self._texts(frame.tokens, is_whole=True)
        pieces: list[Piece] = []
        end = 0
        for part in self._parts:
            stop = end + len(part.given) if part.gap is None else whole.spans[part.gap][1]
            kept = text[end:stop]
            places = places_in(part, frame) if part.gap is not None or frame.importance is not None else []
            cut = kept_parts(cut_to(whole.text[end:stop], [texts[place] for place in places]), len(kept))
            tokens = [
                Token(
                    own,
                    None if part.gap is None else finite(frame.confidence[place]),
                    None if part.gap is None else frame.revealed_at_step[place],
                    importance_at(frame, place),
                )
                for place, own in zip(places, cut, strict=False)
            ]
            if log_probs is not None:
                found = (log_probs[place] for place in places)
                tokens = [self._with(*each) for each in zip(tokens, found, places, strict=False)]
            pieces.append(Piece(kept, part.gap is None, part.gap, tuple(tokens)))
            end = stop
        infilled = whole if isinstance(whole, Infilled) else None
        costs = None if infilled is None else infilled.length_costs
        return Result(
            text,
            tuple(pieces),
            tuple(piece.text for piece in pieces if not piece.given),
            tuple(len(piece.tokens) for piece in pieces if not piece.given),
            None if infilled is None else infilled.nats_left_to_right,
            None if costs is None else costs.is_settled,
            str(whole.seed),
            whole.nfe,
        )

    def _with(self, token: Token, found: TokenLogProb, place: int) -> Token:
        no_space = place in self._without_space
        name = self._names(place, found.token, token.text, without_space=no_space)
        top = self._names.likeliest(place, name, found, without_space=no_space) if found.likeliest else None
        return replace(token, logprob=max(found.log_prob, LEAST), top_logprobs=top)


def places_in(part: Part, frame: Frame) -> list[int]:
    """The places of a part up to where the text has ended."""
    return [place for place in part.places if place < len(frame.tokens)]


def kept_parts(parts: Sequence[str], length: int) -> list[str]:
    """The first parts, cut so that together they have `length` characters. Empty ones at the end stay."""
    kept: list[str] = []
    for part in parts:
        if length <= 0 and part:
            break
        kept.append(part[:length])
        length -= len(part)
    return kept


def importance_at(frame: Frame, place: int) -> float | None:
    return None if frame.importance is None else finite(frame.importance[place])


def finite(value: float) -> float | None:
    """A number as JSON has it: six digits, and null for what is none."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
