"""MDLM's own masking: every token at the same rate."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mdlm_atat.core.schedules import Schedule
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking


class UniformMasking(ExponentMasking):
    """mask_rate_i = mask_rate(t): PPL-S is PPL-U."""

    reads_content = False

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def log_exponent(
        self,
        clean: Clean,
    ) -> Float[Tensor, "batch length"]:
        return torch.zeros_like(clean.scored, dtype=torch.float64)
