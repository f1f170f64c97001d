"""CurriculumMasking: the tokens of the stage's own importance are masked first, and so trained on most."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mdlm_atat.core.curriculum import Number
from mdlm_atat.core.schedules import Schedule
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking, mean_over_scored

EDGE = 0.1
"""Importance over which membership of a stage's range falls from 1 to 0 outside it."""


class CurriculumMasking(ExponentMasking):
    """mask_rate_i(t) = mask_rate(t) ** w_i, log w_i = (mean membership - membership_i) / temperature.

    Membership is 1 for an importance inside the stage's range and falls to 0 over EDGE outside. ATAT's
    first description counts in-range tokens twice in the loss, which makes the best denoiser wrong (docs/method.md);
    here they are masked more often instead, and the weights stay those of a bound. The stage's temperature multiplies
    this one.
    """

    needs_importance = True
    needs_stage = True

    def __init__(self, schedule: Schedule, temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}, expected above 0")
        self.schedule, self.temperature = schedule, temperature

    def log_exponent(
        self,
        clean: Clean,
    ) -> Float[Tensor, "batch length"]:
        assert clean.importance is not None
        assert clean.stage is not None
        inside = membership(clean.importance.double(), clean.stage.importance_range)
        return (mean_over_scored(inside, clean.scored) - inside) / (self.temperature * clean.stage.temperature)


def membership(importance: Float[Tensor, "*shape"], importance_range: tuple[Number, Number]) -> Float[Tensor, "*shape"]:
    """1 inside [low, high], falling linearly to 0 over EDGE on either side."""
    low, high = importance_range
    outside = torch.maximum(low - importance, importance - high).clamp_min(0.0)
    return (1 - outside / EDGE).clamp_min(0.0)
