"""How texts are made: the keywords that generate, infill, fill and stream have in common, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from mdlm_atat.checks import check_keywords, whole
from mdlm_atat.errors import UserError
from mdlm_atat.lm.results import Layouts, LengthPrior, Pick
from mdlm_atat.progress import OnProgress
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import OnStep, StepRule
from mdlm_atat.samplers.seeds import SeedRule


@dataclass(frozen=True)
class Guide:
    """Words that are wanted (positive weight) or not (negative), each a single token with or without a space before.

    The logit of a word's token rises by `logits` times the word's weight: with `logits` = 1, a weight of 2 makes a word
    e^2 times as likely relative to all others. In samplers that look at the network's output before they choose a
    position (see samplers.guidance), a position comes earlier by `order` times the weight that is expected there.
    """

    words: dict[str, float]
    logits: float = 1.0
    order: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (*self.words.items(), ("logits", self.logits), ("order", self.order)):
            if not math.isfinite(value):
                raise UserError(f"guide: {name} is {value}, expected a finite number")


class HowOptions(TypedDict, total=False):
    """The keywords of generate, infill, fill and stream that say how to sample: the fields of How, each optional."""

    sampler: str | StepRule | type[StepRule] | None
    steps: int | None
    temperature: float
    top_k: int
    top_p: float
    block_size: int | None
    guide: Guide | None


class TextOptions(HowOptions, total=False):
    """All keywords that generate, infill and fill have in common."""

    seed: int | Sequence[int]
    seed_rule: SeedRule
    return_trace: bool
    on_step: OnStep | None
    on_progress: OnProgress | None


class InfillOptions(TextOptions, total=False):
    """All keywords of infill but `alternatives`, which decides what it returns."""

    candidates: int | None
    pick: Pick
    length_draws: int
    length_seed: int
    length_prior: LengthPrior | None
    layouts: Layouts | None
    escape: bool


@dataclass(frozen=True, kw_only=True)
class How:
    """How to sample. Raises UserError for a value outside its range."""

    sampler: str | StepRule | type[StepRule] | None = None
    """A name with options, `package.module:Class` with options (see samplers.named), a class or a rule of your own, or
    None: the model's default."""
    steps: int | None = None
    """Steps (of each block, where there are several), for samplers that have them; None: the sampler's default."""
    temperature: float = 1.0
    """Logits are divided by this; 0 always takes the most likely token."""
    top_k: int = 0
    """Draw among the k most likely tokens; 0: all."""
    top_p: float = 1.0
    """Draw among the fewest most likely tokens whose probabilities sum to at least p; 1: all."""
    block_size: int | None = None
    """Fill so many tokens at a time, left to right; None: all at once, if the text is no longer than the model."""
    guide: Guide | None = None
    """Words to have more or less of."""

    def __post_init__(self) -> None:
        whole("steps", self.steps, 1)
        whole("block_size", self.block_size, 1)
        _ = self.draw  # which checks its own

    @property
    def draw(self) -> TokenDraw:
        """How a token is drawn from its logits."""
        return TokenDraw(self.temperature, self.top_k, self.top_p)

    def with_default(self, sampler: str) -> How:
        """The same with a sampler where none is named."""
        return replace(self, sampler=sampler) if self.sampler is None else self

    @classmethod
    def of(cls, options: Mapping[str, Any], method: Callable[..., Any]) -> How:
        """The settings that were given to `method` as keywords. Raises TypeError, with the likeliest name, for a
        keyword that neither it nor How knows."""
        check_keywords(options, method, [field.name for field in fields(cls)])
        return cls(**options)


def one_or_many(given: object, name: str) -> tuple[list[str], bool]:
    """Return the texts as a list, and whether a single one was given: a str is one text, an iterable of str is several.
    Raises TypeError for anything else, bytes included; `name` is the argument's in the message."""
    if isinstance(given, str):
        return [given], True
    if isinstance(given, (set, frozenset)):
        raise TypeError(f"{name}: a {type(given).__name__} has no order, by which to tell what is whose: give a list")
    wrong = given
    if isinstance(given, Iterable) and not isinstance(given, (bytes, bytearray, Mapping)):
        items = list(given)
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) == len(items):
            return texts, False
        wrong = next(item for item in items if not isinstance(item, str))
    hint = "; decode it first" if isinstance(wrong, (bytes, bytearray)) else ""
    raise TypeError(f"{name}: expected a str or a sequence of str, got {type(wrong).__name__}{hint}")
