"""What a masking strategy answers: how likely each token is masked at time t, and the weight of its loss there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.schedules import Schedule


@dataclass(frozen=True)
class MaskingRates:
    """The forward process of a batch at its times t, a number for every token.

    Where the strategy's `is_bound` holds, `weight` is the hazard A_i = mask_rate_i'(t) / mask_rate_i(t), in closed
    form, and the loss with these weights and its rate terms (`objective.rate_mismatch`) bounds -log p. Elsewhere it is
    whatever the strategy was published with, and nothing that is weighted by it may be called a perplexity.
    """

    mask_rate: Float[Tensor, "batch length"]
    speed: Float[Tensor, "batch length"]
    """weight over the noise schedule's own weight(t): 1 for a token that is revealed as fast as in MDLM."""
    weight: Float[Tensor, "batch length"]


@dataclass(frozen=True)
class Clean:
    """What a masking strategy may look at: the clean text of a batch, and what is known of it."""

    scored: Bool[Tensor, "batch length"]
    """Which positions hold text; the others are padding."""
    tokens: Int[Tensor, "batch length"] | None = None
    """Token ids. None only where a strategy that does not read content is asked about text that is not there yet."""
    importance: Float[Tensor, "batch length"] | None = None
    """Importance in [0, 1] of every token, for strategies with `needs_importance`."""
    stage: Stage | None = None
    """The curriculum's stage, if there is a curriculum."""

    def to(self, device: torch.device) -> Clean:
        """The same on another device."""
        return replace(
            self,
            scored=self.scored.to(device),
            tokens=None if self.tokens is None else self.tokens.to(device),
            importance=None if self.importance is None else self.importance.to(device),
        )


@runtime_checkable
class MaskingScheduler(Protocol):
    """A masking strategy: which tokens are masked early, and which late. Its attributes are its traits: all that the
    rest of the package knows of it."""

    is_bound: bool
    """Whether its loss, with the rate terms, bounds the likelihood: then PPL-S may be reported."""
    reads_content: bool
    """Whether its rates depend on the clean tokens: then the model has to predict them too."""
    needs_importance: bool
    """Whether it reads `Clean.importance`, which a run has where `importance.mode` is not none."""
    needs_stage: bool
    """Whether it reads `Clean.stage`, which a run has where `curriculum.kind` is not none."""

    def __call__(
        self,
        t: Float[Tensor, " batch"],
        clean: Clean,
    ) -> MaskingRates:
        """Rates of every token at times t in (0, 1] (float64), a time for each row."""
        ...


class ExponentMasking(ABC):
    """mask_rate_i(t) = mask_rate(t) ** w_i: all masked at t = 1, none at 0, once masked always masked, a bound.

    A strategy of this family is its log w_i. The reveal orders are those of drawing without replacement in proportion
    to w (Plackett-Luce): a high w_i is masked late and revealed early. weight_i(t) = w_i weight(t).
    """

    is_bound = True
    reads_content = True
    needs_importance = False
    needs_stage = False
    is_plackett_luce = True
    """Whether w does not change with t."""
    schedule: Schedule

    @abstractmethod
    def log_exponent(
        self,
        clean: Clean,
    ) -> Float[Tensor, "batch length"]:
        """log w, float64."""

    def __call__(
        self,
        t: Float[Tensor, " batch"],
        clean: Clean,
    ) -> MaskingRates:
        speed = self.log_exponent(clean).exp()
        mask_rate = self.schedule.mask_rate(t)[:, None] ** speed
        return MaskingRates(mask_rate, speed, speed * self.schedule.weight(t)[:, None])

    def log_reveal_rate(
        self,
        uniform: Float[Tensor, "batch length"],
        clean: Clean,
    ) -> Float[Tensor, "batch length"]:
        """When each token turns visible in the reverse process, as the logarithm of the noise schedule's mask rate
        there: log r with mask_rate_i(r) = uniform, so log(uniform) / w_i. Sorted, it is the reveal order. `uniform` is
        above 0.

        A logarithm, since r itself is below the smallest float64 for w_i of 1/100 and less, which importance has at
        temperatures of 0.1: those tokens would all be revealed at 0, together."""
        return uniform.double().log() * (-self.log_exponent(clean)).exp()

    def token_correction(
        self,
        log_rate: Float[Tensor, " batch"],  # noqa: ARG002
        stage: Stage | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "batch vocab"] | None:
        """log (speed * mask rate) by token identity where the noise schedule's mask rate is exp(log_rate), to be added
        to the logits of a denoiser that models the uniform schedule; None where the rates depend on more than the token
        itself, or on nothing hidden."""
        return None


def mean_over_scored(
    values: Float[Tensor, "batch length"], scored: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch 1"]:
    """Each row's mean over its tokens, padding left out."""
    return torch.where(scored, values, 0.0).sum(1, keepdim=True) / scored.sum(1, keepdim=True).clamp_min(1)
