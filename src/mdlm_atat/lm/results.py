"""What a language model gives back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from mdlm_atat.data.tokenizers import MASK_TEXT
from mdlm_atat.lm.given import Row
from mdlm_atat.samplers.seeds import mix_seed
from mdlm_atat.samplers.template import Gap
from mdlm_atat.scoring.statistics import interval_factor

BOLD, FAINT = "font-weight: bold", "opacity: 0.5"
HIGHLIGHT = "background: rgba(86, 180, 233, 0.35)"  # legible on light and dark pages
PICKING = -1  # where texts and blocks are numbered from 0


@dataclass(frozen=True)
class TextTrace:
    """How one text came about."""

    frames: Int[np.ndarray, "steps_and_start length"]
    """The canvas as given and after every step, masks in it."""
    fixed: Bool[np.ndarray, " length"]
    """Given from the start."""
    revealed_at_step: Int[np.ndarray, " length"]
    """Step (from 1) in which each token was last set; 0 where it was given."""
    confidence: Float[np.ndarray, " length"]
    """Probability that it had then; NaN where it was given."""
    entropy: Float[np.ndarray, " steps"]
    """Mean entropy of the distributions that each step's tokens were drawn from, nats; NaN where none was."""
    num_remasked: Int[np.ndarray, " length"]
    importance: Float[np.ndarray, " length"] | None
    """Importance in [0, 1] of every token of the finished text, where the model knows it."""
    nats: float
    """-log of the product of all probabilities that tokens were drawn with."""
    elapsed_s: float
    """Of the whole batch that it was made in."""

    def __repr__(self) -> str:
        return f"TextTrace({len(self.fixed)} tokens in {len(self.frames) - 1} steps, {self.nats:.2f} nats)"

    def to_json(self) -> dict[str, Any]:
        """The trace as lists and numbers for JSON; NaN becomes null."""
        return {
            "frames": self.frames.tolist(),
            "fixed": self.fixed.tolist(),
            "revealed_at_step": self.revealed_at_step.tolist(),
            "confidence": _finite(self.confidence),
            "entropy": _finite(self.entropy),
            "num_remasked": self.num_remasked.tolist(),
            "importance": None if self.importance is None else _finite(self.importance),
            "nats": self.nats,
            "elapsed_s": self.elapsed_s,
        }


@dataclass(frozen=True)
class Generated:
    """One generated text. `print` shows the text, a notebook shows what was given in bold."""

    text: str
    tokens: list[int]
    seed: int
    """Of this very text: `generate(prompt, seed=[text.seed], ...)` draws it again."""
    nfe: int
    """Network evaluations."""
    trace: TextTrace | None = field(default=None, compare=False)
    """How it came about, where that was asked for."""
    spans: tuple[tuple[int, int], ...] = ()
    """Where in `text` the model wrote, as (start, end) in characters: what follows the prompt, or each gap. All around
    it is what was given, letter for letter. Empty where `fill` was given a canvas of tokens."""
    row: Row | None = field(default=None, compare=False)
    """What was to be filled in; None where `fill` was given a canvas of tokens."""
    nats_drawn: float = field(default=math.nan, compare=False)
    """-log of the product of the probabilities with which its tokens were drawn, as they were drawn: by a sampler whose
    order depends on what is visible alone, -log of the probability that it writes this text."""

    @property
    def fillings(self) -> list[str]:
        """What the model wrote: the text at `spans`."""
        return [self.text[start:stop] for start, stop in self.spans]

    @property
    def given(self) -> list[str]:
        """What was given, around `fillings`: before the first, between two, and after the last."""
        edges = [0, *(edge for span in self.spans for edge in span), len(self.text)]
        return [self.text[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_short(self.text)}, {self._facts()})"

    def _facts(self) -> str:
        return f"{len(self.tokens)} tokens, {self.nfe} evaluations, seed {self.seed}"

    def _repr_html_(self) -> str:
        return _box(_marked(self.text, self.spans or ((0, len(self.text)),), given=BOLD), self._facts())


Lengths = tuple[int, ...]
"""Tokens of each gap."""


LengthPrior = Literal["text", "uniform"]
"""Of the lengths of gaps, before the given text is looked at: that each gap is one unit of text, as the training text
has them, or that all are as likely as each other."""


@dataclass(frozen=True)
class LengthCosts:
    """What the given text costs with each choice of its gaps' lengths, whatever the gaps hold, and how likely the
    choice is beforehand; the one with the least sum is taken."""

    nats: dict[Lengths, float]
    """`left to right`: estimates of -log p(given text after the first gap | text before it, lengths), the sum over all
    fillings. `any order`: estimates of an upper bound on -log p(all of the given text | lengths)."""
    errors: dict[Lengths, float]
    """Standard errors of these, between draws."""
    prior_nats: dict[Lengths, float]
    """-log of the probability of each choice before the given text is looked at."""
    num_draws: dict[Lengths, int]
    """Draws that each comes from: what is clearly not the least gets no more."""
    margin_error: float
    """Standard error of the margin, between draws: smaller than those of both costs, where both have the same draws."""
    is_settled: bool
    """Whether every other choice costs more than the least by so many standard errors of the difference that, by
    Student's t, other draws choose another in one case of a hundred at most. Else the draws that are allowed ended
    before, and other draws (`length_seed`) may well choose another; so may they after a quick choice of fewer than 64,
    left to right, whose errors do not tell."""
    likelihood: str
    """Which one: left to right, in a network that has both modes, or any order."""
    prior: LengthPrior

    @property
    def chosen(self) -> Lengths:
        """The lengths with the least cost and prior together."""
        return min(self.nats, key=self.total)

    @property
    def second(self) -> Lengths:
        """The choice that has the least but one."""
        return min((lengths for lengths in self.nats if lengths != self.chosen), key=self.total)

    @property
    def margin(self) -> float:
        """How many nats more that has than the least: 0 where no filling that was drawn is possible with either."""
        least, more = self.total(self.chosen), self.total(self.second)
        return 0.0 if least == math.inf else more - least

    def total(self, lengths: Lengths) -> float:
        """What the given text costs with these lengths, and their prior, nats."""
        return self.nats[lengths] + self.prior_nats[lengths]


@dataclass(frozen=True)
class Layout:
    """A template with the lengths of its gaps decided."""

    row: Row
    lengths: Lengths
    costs: LengthCosts | None


Layouts = dict[tuple[str | Gap, ...], Layout]
"""Of the parts of templates."""


@dataclass(frozen=True, repr=False)
class Infilled(Generated):
    """One way to fill the gaps of a template. A notebook shows what was filled in highlighted."""

    lengths: Lengths = ()
    """Tokens of each gap."""
    length_costs: LengthCosts | None = None
    """Where lengths were to be chosen: by what, how surely, and whether it is settled."""
    nats_left_to_right: float | None = None
    """-log p(all from the first gap on | text before it), exact, of a network that has both modes: what alternatives
    are ranked by. Of a text that ended on the way (`stop_at_eos`) it is that of what there is, with its end-of-document
    token: such a text ends there, and the others go on to the end of the template. None for one that only fills masks,
    and for a text longer than the model."""

    @property
    def has_all_given(self) -> bool:
        """Whether all that was given is in it: a text that ended before (`stop_at_eos`) lacks what is behind."""
        return self.row is None or len(self.tokens) >= self.row.end_of_given

    @property
    def gaps(self) -> list[str]:
        """What was put into each gap."""
        return self.fillings

    @property
    def nats_by_lengths(self) -> dict[Lengths, float] | None:
        """Where lengths were to be chosen: what the given text costs with gaps of these lengths. `length_costs` has
        their standard errors, and the prior."""
        return None if self.length_costs is None else self.length_costs.nats

    def _facts(self) -> str:
        costs = self.length_costs
        unsettled = "" if costs is None or costs.is_settled else " (lengths not settled)"
        return f"gaps {self.gaps}{unsettled}, {super()._facts()}"

    def _repr_html_(self) -> str:
        return _box(_marked(self.text, self.spans, made=HIGHLIGHT), super()._facts())


Pick = Literal["likeliest", "fair"]
"""Which candidates are kept: those that are likeliest from left to right, or some that are drawn among all."""


def in_order(ways: Sequence[Infilled], pick: Pick = "likeliest") -> list[Infilled]:
    """Ways to fill one template in the order in which they are picked; those that occur twice follow the others, and
    those that ended before text that is given follow all that have it. In their own order where their probability p
    from left to right is not known.

    likeliest: by falling p. Of ways to go on after all that is given, some of which end, p is the probability of each
    outcome, and those of all add up to 1. But one that ends before given text did not pay for it: its p is another
    event's, and it is no way to fill the template.

    fair: drawn one after the other, without replacement, each with a weight of p / q, if q is the probability with
    which the sampler made it (sampling by importance resampling, Rubin 1988): the first of N is distributed as p given
    the text around the gaps, but for an error that goes to 0 as N grows. Each weight has a random number of the way's
    own seed.
    """
    keys = [_key(way, pick) for way in ways]
    known = [key for key in keys if key is not None]
    if len(known) < len(ways):
        return list(ways)
    seen: set[tuple[int, ...]] = set()
    first, again = list[Infilled](), list[Infilled]()
    for way, _ in sorted(zip(ways, known, strict=True), key=lambda each: each[1]):
        (again if tuple(way.tokens) in seen else first).append(way)
        seen.add(tuple(way.tokens))
    return sorted(first + again, key=lambda way: not way.has_all_given)


def _key(way: Infilled, pick: Pick) -> float | None:
    """What orders the ways, the least first. Of keys log(q / p) less a Gumbel number each, the least is a draw by
    weights p / q, the next a draw among the others, and so on."""
    if way.nats_left_to_right is None or pick == "likeliest":
        return way.nats_left_to_right
    gumbel = -math.log(np.random.default_rng(mix_seed(way.seed, PICKING)).standard_exponential())
    return way.nats_left_to_right - way.nats_drawn - gumbel


@dataclass(frozen=True)
class Frame:
    """A text on its way: what `stream` yields."""

    step: int
    """0: as given."""
    tokens: list[int]
    text: str
    """Masks show as the tokenizer shows them."""
    revealed_at_step: list[int] = field(default_factory=list, compare=False)
    """Step (from 1) in which each token was last set; 0 where it was given, or is hidden."""
    confidence: list[float] = field(default_factory=list, compare=False)
    """Probability that each token had when it was last set; NaN where it was given, or never set."""
    importance: list[float] | None = field(default=None, compare=False)
    """Importance in [0, 1] of every token, the hidden ones too, where that was asked for and the model knows it."""
    row: Row | None = field(default=None, compare=False)
    """What is being filled in."""

    @property
    def is_new(self) -> list[bool]:
        """Which tokens were revealed in this very step."""
        return [self.step > 0 and step == self.step for step in self.revealed_at_step]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Frame(step {self.step}, {_short(self.text)})"

    def _repr_html_(self) -> str:
        masks = [match.span() for match in re.finditer(f"{MASK_TEXT}+", self.text)]
        return _box(_marked(self.text, masks, made=FAINT), f"step {self.step}")


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text, by one of its likelihoods: `nats` is -log p(text) where `is_exact`, and an
    estimate of an upper bound on it otherwise."""

    nats: float
    standard_error: float
    """Between draws; 0 where it is exact."""
    num_tokens: int
    num_draws: int
    likelihood: str = field(default="any order", compare=False)
    """Which one: left to right, any order, or own order of a sampler."""
    is_exact: bool = False
    degrees: int = field(default=0, repr=False, compare=False)
    """Of freedom, of the standard error."""
    num_given: int | None = field(default=None, compare=False)
    """Tokens of the context that the model saw; None where no context was given."""
    num_cut: int = field(default=0, compare=False)
    """Tokens that the context lost at its beginning, because it was longer than the model."""

    @property
    def nats_per_token(self) -> float:
        """-log p(text) over its number of tokens."""
        return self.nats / self.num_tokens

    @property
    def interval95(self) -> tuple[float, float]:
        """The 95% interval of the nats by Student's t, which is wider than twice the error where draws are few."""
        known = self.is_exact or self.standard_error == 0  # as the bound is that all masks give
        half = 0.0 if known else interval_factor(self.degrees) * self.standard_error
        return self.nats - half, self.nats + half

    def __repr__(self) -> str:
        error = f" ± {self.standard_error:.2f}" if self.standard_error else ""
        draws = "" if self.is_exact else f", {self.num_draws} draws"
        at_most = "exactly" if self.is_exact else "at most"
        after = "" if self.num_given is None else f" after {self.num_given}"
        cut = f", {self.num_cut} before them cut off" if self.num_cut else ""
        return (
            f"Score({self.likelihood}: {at_most} {self.nats:.2f}{error} nats, {self.num_tokens} tokens{after}{draws}"
            f"{cut})"
        )


def _short(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[: length - 3] + "...")


def _marked(text: str, spans: Iterable[tuple[int, int]], *, made: str = "", given: str = "") -> str:
    """The text as HTML, its spans in the style `made` and what is around them in `given`."""
    parts, end = [], 0
    for start, stop in spans:
        parts += [(text[end:start], given), (text[start:stop], made)]
        end = stop
    parts.append((text[end:], given))
    styled = ((escape(part), style) for part, style in parts if part)
    return "".join(f'<span style="{style}">{part}</span>' if style else part for part, style in styled)


def _box(content: str, caption: str) -> str:
    """What a notebook shows: lines break where the text does, and where they are too long."""
    return (
        f'<div style="white-space: pre-wrap; font-family: monospace">{content}</div>'
        f'<div style="{FAINT}; font-size: smaller">{escape(caption)}</div>'
    )


def _finite(values: Float[np.ndarray, " n"]) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]
