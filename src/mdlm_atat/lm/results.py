"""What a language model gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int


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

    def to_json(self) -> dict[str, Any]:
        """Numbers only, NaN as null."""
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
    """One generated text."""

    text: str
    tokens: list[int]
    seed: int
    """Of this very text: `generate(prompt, seed=[text.seed], ...)` draws it again."""
    nfe: int
    """Network evaluations."""
    trace: TextTrace | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Infilled(Generated):
    """One way to fill the gaps of a template."""

    gaps: list[str] = field(default_factory=list)
    """What was put into each gap."""
    lengths: tuple[int, ...] = ()
    """Tokens of each gap."""
    nats_by_lengths: dict[tuple[int, ...], float] | None = None
    """Where lengths were to be chosen: what the given text costs with gaps of these lengths (the least was chosen)."""


@dataclass(frozen=True)
class Frame:
    """A text on its way: what `stream` yields."""

    step: int
    """0: as given."""
    tokens: list[int]
    text: str
    """Masks show as the tokenizer shows them."""


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text. For masked diffusion in uniform order, `nats` estimates an upper bound on
    -log p(text); for the causal model, and for a sampler's own order, it is exact."""

    nats: float
    standard_error: float
    num_tokens: int
    num_draws: int

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.num_tokens


def _finite(values: Float[np.ndarray, " n"]) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]
