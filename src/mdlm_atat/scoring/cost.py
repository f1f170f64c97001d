"""What a text costs a model, in every unit that a bound is reported in. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mdlm_atat.formats import percent, with_error

if TYPE_CHECKING:
    from mdlm_atat.data.tokens import TokenDataset

Column = tuple[float, ...]
LEFT_TO_RIGHT = "left_to_right"
"""The order of the causal mode."""
LEFT_TO_RIGHT_UNMASKED = "left_to_right in the masked mode"
"""The own order of the sampler left_to_right in a network that fills masks only: another number of another joint
distribution, which is never compared with the causal mode's."""
MOST_GROUPS = 1024  # of sequences, between which an exact value's error is taken
LONGEST_WORD = 20  # characters in the mean, with the space after it; above, they are no words
LARGEST_NATS = 700.0  # whose exponential a float holds: a model that diverged has more
MOST_NATS = 690.0  # of a word, whose perplexity can still be written as a number
MOST_SHOWN_NATS = 9.0
"""Of a word: above, its perplexity (8,103) is not shown. English words drawn by their frequency alone cost 8.2 nats
each (11.82 bits; Shannon 1951), so such a model has learned letters and tokens, not words."""
LOSSY = " (lossy)"
"""After a number per character, byte or word of a tokenizer that does not give back the whole text."""
DIGITS = 8  # of a stored sum: enough for a paired difference, and the file stays one that a person can read
NATS = "nelbo_nats_per_token"  # in JSON, of every bound, and of the causal model's exact value


@dataclass(frozen=True)
class TextCounts:
    """How much text a data set is, in every unit a bound is reported in. 0 where that is not known."""

    num_tokens: int = 0
    num_words: int = 0
    num_characters: int = 0
    num_bytes: int = 0
    num_unspaced: int = 0
    """Characters of scripts that put no spaces between words."""
    num_changed: int = 0
    """Characters that the tokenizer does not give back."""

    @classmethod
    def of(cls, data: TokenDataset) -> TextCounts:
        """The counts of the split of a prepared data set; where its answers alone are scored, of these."""
        split = data.manifest.splits[data.split]
        if split.answers is not None:
            sizes = [split.answers[name] for name in ("tokens", "words", "characters", "bytes", "unspaced")]
            return cls(*sizes, num_changed=split.changes.total)
        sizes = split.tokens, split.words, split.characters, split.bytes
        return cls(*sizes, split.unspaced, split.changes.total)

    @property
    def no_words(self) -> str:
        """Why what white space separates in this text are no words; nothing where they are."""
        if self.num_characters > LONGEST_WORD * self.num_words > 0:
            mean = self.num_characters / self.num_words
            return f"what white space separates has {mean:,.0f} characters in the mean"
        if self.num_unspaced > 0.1 * self.num_characters:
            return "the script has no spaces between words"
        return ""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a text costs a model, in nats per token and, by exact counts of the text, in every other unit.

    A unit of which the text's count is not known is NaN. Where the tokenizer does not give back the whole text
    (`is_lossy`), numbers per character, byte and word are those of another, shorter text: they compare models with the
    same tokenizer only.
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
    def is_lossy(self) -> bool:
        """Whether the tokenizer does not give back the whole text; not known of texts prepared before 0.2."""
        return self.counts.num_changed > 0

    @property
    def loss_in_words(self) -> str:
        """What to know of the numbers per character, byte and word; nothing where the tokenizer gives back the text."""
        if not self.is_lossy:
            return ""
        share = percent(self.counts.num_changed / max(1, self.counts.num_characters))
        return (
            f"the tokenizer does not give back {share} of the characters, so that numbers per character, byte and word "
            "are of another text and compare with no other tokenizer's"
        )

    @property
    def perplexity_per_word(self) -> float:
        """NaN where there are no words: see `no_words`."""
        return math.nan if self.no_words else _exp(self._per(self.nats_per_token, self.counts.num_words))

    @property
    def no_words(self) -> str:
        """Why there is no perplexity per word; nothing where there is one or the words were not counted."""
        nats = self._per(self.nats_per_token, self.counts.num_words)
        return self.counts.no_words or ("it would be above 1e300" if nats > MOST_NATS else "")

    @property
    def why_not_per_word(self) -> str:
        """Why the perplexity per word is not shown to people; nothing where it is. The number itself may be there all
        the same: see MOST_SHOWN_NATS."""
        nats = self._per(self.nats_per_token, self.counts.num_words)
        if self.no_words or not nats > MOST_SHOWN_NATS:
            return self.no_words
        return f"at {nats:.1f} nats a word, more than words drawn by their frequency cost, it says nothing"

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
        """The same in bits per character, marked where the tokenizer is lossy."""
        shown = with_error(self.bits_per_character, self.bits_per_character_standard_error, decimals=4)
        return shown + LOSSY * self.is_lossy

    def _per(self, nats_per_token: float, count: int) -> float:
        return nats_per_token * self.counts.num_tokens / count if count and self.counts.num_tokens else math.nan

    def in_units(self) -> dict[str, float]:
        """The estimate in every other unit, by name."""
        names = ("perplexity_per_token", "perplexity_per_word", "nats_per_character", "bits_per_character")
        return {name: getattr(self, name) for name in (*names, "bits_per_byte")}


def relative_perplexity(nats: float) -> float:
    """exp(nats) - 1: what so many nats more a token add to a perplexity, as a share of it."""
    return math.expm1(min(nats, LARGEST_NATS))


def _exp(x: float) -> float:
    return math.exp(min(x, LARGEST_NATS)) if x < math.inf else x


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


@dataclass(frozen=True, kw_only=True)
class SequenceSums:
    """Sums over groups of sequences, each sequence once, in the order in which a seed takes them: what the difference
    of two models' values of the same sequences needs."""

    num_sequences: int
    size: int = 1
    """Sequences of a group, a power of two; the last group may have fewer."""
    score: Column = field(repr=False)
    """Nats."""
    length: Column = field(repr=False)
    """Tokens."""

    @classmethod
    def of(cls, nats: Sequence[float], lengths: Sequence[float], most: int = MOST_GROUPS) -> SequenceSums:
        """The sums of so many sequences in at most `most` groups, a power of two, in DIGITS digits."""
        size = 1
        while size * most < len(nats):
            size *= 2
        starts = range(0, len(nats), size)
        return cls(
            num_sequences=len(nats),
            size=size,
            score=rounded([math.fsum(nats[start : start + size]) for start in starts]),
            length=rounded([math.fsum(lengths[start : start + size]) for start in starts]),
        )


@dataclass(frozen=True, kw_only=True)
class OrderCost(Cost):
    """What the text costs in one order of its tokens: left to right, or as a sampler reveals them. Its error is that
    between sequences."""

    order: str
    """left_to_right, which is the causal mode's, or the sampler as it was asked for."""
    is_exact: bool = True
    """Else an upper bound: the order is random, and was drawn once for each sequence."""
    num_steps: int | None = None
    """Most network evaluations of a sequence, where so many were asked for."""
    evaluations: float = math.nan
    """Network evaluations that a sequence took, in the mean."""
    sequences: SequenceSums | None = field(default=None, repr=False)
    """None in files of earlier versions."""

    @property
    def name(self) -> str:
        """`left to right`, or `own order of spread, 16 evaluations`."""
        if self.order == LEFT_TO_RIGHT:
            return "left to right"
        return f"own order of {self.order}, {round(self.evaluations, 1):g} evaluations"

    @property
    def asked(self) -> tuple[str, int | None]:
        """What was asked for: orders of two models compare where it is the same."""
        return self.order, self.num_steps


def sums_json(sums: SequenceSums) -> dict[str, Any]:
    """The sums with a line of text for each column."""
    return {**vars(sums), "score": as_line(sums.score), "length": as_line(sums.length)}


def rounded(values: Sequence[float]) -> Column:
    """The values as a file holds them."""
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)


def as_line(values: Column) -> str:
    """Many numbers as a line of text, so that a person can scroll past them."""
    return " ".join(f"{value:.{DIGITS}g}" for value in values)


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


def order_json(cost: OrderCost) -> dict[str, Any]:
    """The cost in one order, in every unit."""
    sums = cost.sequences
    return {
        "order": cost.order,
        "is_exact": cost.is_exact,
        **bound_json(cost),
        **cost.in_units(),
        "num_steps": cost.num_steps,
        "evaluations": cost.evaluations,
        "sequences": None if sums is None else sums_json(sums),
    }
