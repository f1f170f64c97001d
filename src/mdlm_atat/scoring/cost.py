"""What a text costs a model, in every unit that a bound is reported in. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mdlm_atat.formats import with_error

if TYPE_CHECKING:
    from mdlm_atat.data.tokens import TokenDataset

NATS = "nelbo_nats_per_token"  # in JSON, of every bound, and of the causal model's exact value


@dataclass(frozen=True)
class TextCounts:
    """How much text a data set is, in every unit a bound is reported in. 0 where that is not known."""

    num_tokens: int = 0
    num_words: int = 0
    num_characters: int = 0
    num_bytes: int = 0

    @classmethod
    def of(cls, data: TokenDataset) -> TextCounts:
        """The counts of the split of a prepared data set."""
        split = data.manifest.splits[data.split]
        return cls(split.tokens, split.words, split.characters, split.bytes)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a text costs a model, in nats per token and, by exact counts of the text, in every other unit.

    A unit of which the text's count is not known is NaN.
    """

    nats_per_token: float
    standard_error: float = math.nan
    """In nats per token, between draws of this text: it says nothing of other texts or seeds of training."""
    counts: TextCounts = field(default=TextCounts(), repr=False)

    @property
    def perplexity_per_token(self) -> float:
        return _exp(self.nats_per_token)

    @property
    def perplexity_per_token_standard_error(self) -> float:
        """By the delta method: perplexity times the error in nats."""
        return self.perplexity_per_token * self.standard_error

    @property
    def perplexity_per_word(self) -> float:
        return _exp(self._per(self.nats_per_token, self.counts.num_words))

    @property
    def nats_per_character(self) -> float:
        return self._per(self.nats_per_token, self.counts.num_characters)

    @property
    def bits_per_character(self) -> float:
        return self.nats_per_character / math.log(2)

    @property
    def bits_per_character_standard_error(self) -> float:
        return self._per(self.standard_error, self.counts.num_characters) / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        return self._per(self.nats_per_token, self.counts.num_bytes) / math.log(2)

    def shown(self) -> str:
        """`1.7231 ± 0.0043`, in nats per token, as in every table."""
        return with_error(self.nats_per_token, self.standard_error, decimals=4)

    def shown_bits(self) -> str:
        """The same in bits per character."""
        return with_error(self.bits_per_character, self.bits_per_character_standard_error, decimals=4)

    def _per(self, nats_per_token: float, count: int) -> float:
        return nats_per_token * self.counts.num_tokens / count if count and self.counts.num_tokens else math.nan

    def in_units(self) -> dict[str, float]:
        """The estimate in every other unit, by name."""
        names = ("perplexity_per_token", "perplexity_per_word", "nats_per_character", "bits_per_character")
        return {name: getattr(self, name) for name in (*names, "bits_per_byte")}


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0)) if not math.isnan(x) else math.nan  # an untrained model's overflows a float


@dataclass(frozen=True, kw_only=True)
class ScheduleBound(Cost):
    """The bound under the method's own masking schedule (PPL-S); the uniform schedule's own is PPL-U."""

    strategy: str
    """The masking strategy."""
    rate_nats_per_token: float = math.nan
    """The part of it that predicting the rates costs: which token is revealed when."""


@dataclass(frozen=True, kw_only=True)
class StepBound(Cost):
    """The bound of ancestral sampling in so many steps of equal time; it falls to PPL-U as they grow."""

    num_steps: int
    schedule: str = ""
    """The noise schedule, on which it depends."""


def unigram_json(unigram: Cost) -> dict[str, float]:
    """The floor to beat as run.json and an evaluation hold it."""
    names = ("nats_per_token", "standard_error", "nats_per_character", "bits_per_character")
    return {name: getattr(unigram, name) for name in names}


def bound_json(cost: Cost) -> dict[str, float]:
    """A bound in short."""
    perplexity = cost.perplexity_per_token
    return {NATS: cost.nats_per_token, "standard_error": cost.standard_error, "perplexity_per_token": perplexity}


def schedule_json(bound: ScheduleBound) -> dict[str, Any]:
    """PPL-S in every unit."""
    rate = {"rate_nats_per_token": bound.rate_nats_per_token}
    return {"strategy": bound.strategy, **bound_json(bound), **rate, **bound.in_units()}


def step_json(bound: StepBound) -> dict[str, Any]:
    """A T-step bound."""
    of = {"num_steps": bound.num_steps, "schedule": bound.schedule}
    return {**of, **bound_json(bound), "bits_per_character": bound.bits_per_character}
