"""Log probabilities of tokens, in the form that OpenAI's completions have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mdlm_atat.lm.given import Row
from mdlm_atat.lm.log_probs import TokenLogProb
from mdlm_atat.serve.answers import Made
from mdlm_atat.serve.tokens import LEAST, CutTexts, TokenNames, cut_to


@dataclass(frozen=True)
class LogProbs:
    """Log probabilities of the tokens of a choice, in four lists of one length."""

    tokens: tuple[str, ...]
    """The text of each. One that holds a part of a character is `bytes:` and its bytes, such as \\xE4."""
    token_logprobs: tuple[float | None, ...]
    """The log probability of each, nats; null where it was given and nothing reads it from left to right."""
    top_logprobs: tuple[dict[str, float], ...] | None
    """Of each place, so many of the likeliest tokens as were asked for, and the token that stands there; null where 0
    were."""
    text_offset: tuple[int, ...]
    """Where in the choice's text each token begins, in characters; that of a part of a character is where the character
    begins."""


def log_probs_of(
    names: TokenNames, made: Made, kept: int | None, found: Sequence[TokenLogProb] | None, *, echo: bool
) -> LogProbs:
    """The tokens of a completion; with `echo` those of its prompt before them.

    `kept`: so many characters of the completion are kept, because a string of `stop` follows; None: all. `found`: what
    the model found of each token of the text, left to right; None: the tokens were drawn in another way, and have the
    probability that they were drawn with.
    """
    row, tokenizer = made.text.row, names.tokenizer
    assert row is not None
    tokens, gap, prompt = made.last.tokens, row.gaps[0], row.around[0]
    stop = min(gap.stop, len(tokens))
    filling = made.text.fillings[0]
    texts = cut_to(filling, CutTexts(tokenizer, row)(tokens, is_whole=True)[gap.start : stop])
    first, offset = gap.start, 0
    if echo:
        alone = Row(tokens[: gap.start], [slice(0, gap.start)], ["", ""])
        before = cut_to(prompt, CutTexts(tokenizer, alone)(alone.tokens, is_whole=True))
        first, offset = 0, 0 if before else len(prompt)  # a space alone may have no token
        texts = before + texts
    without_space = row.places_without_space(tokenizer)
    shown: list[str] = []
    own: list[float | None] = []
    top: list[dict[str, float]] = []
    offsets: list[int] = []
    end = math.inf if kept is None else kept + (len(prompt) if echo else 0)
    for place, text in enumerate(texts, start=first):
        if offset >= end:
            break
        no_space = place in without_space
        shown.append(names(place, tokens[place], text, without_space=no_space))
        offsets.append(offset)
        offset += len(text)
        if found is None:
            own.append(drawn(made.last.confidence[place]))
            continue
        own.append(max(found[place].log_prob, LEAST))
        if found[place].likeliest:
            top.append(names.likeliest(place, shown[-1], found[place], without_space=no_space))
    return LogProbs(tuple(shown), tuple(own), tuple(top) or None, tuple(offsets))


def drawn(probability: float) -> float | None:
    """The logarithm of a probability that a token was drawn with; None for one that was given."""
    if math.isnan(probability):
        return None
    return math.log(probability) if probability > 0 else LEAST
