"""PositionAwareMaskingScheduler: where a token stands decides when it is masked, whatever it is."""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mdlm_atat.atat.curriculum import Stage
from mdlm_atat.atat.masking.rates import ExponentMasking
from mdlm_atat.schedules import Schedule

PositionShape = Literal["slope", "u_shape", "table"]


class PositionAwareMaskingScheduler(ExponentMasking):
    """mask_rate_i(t) = mask_rate(t) ** exp(bias_i), the bias a fixed function of the position or a learned table.

    It depends on nothing hidden, so the rate terms of the bound vanish and the rates need no predicting. The bias runs
    over the sequence's own length, from +strength / 2 to -strength / 2 (slope: a positive strength reveals the
    beginning first) or from +strength / 2 at both ends to -strength / 2 in the middle (u_shape). A table is a parameter
    of length L, learned through the bound only (RLOO): no other gradient of it is right.
    """

    reads_content = False
    needs_importance = False

    def __init__(
        self,
        schedule: Schedule,
        shape: PositionShape,
        strength: float = 1.0,
        *,
        table: nn.Parameter | None = None,
    ) -> None:
        if (shape == "table") != (table is not None):
            raise ValueError("a table goes with the shape table, and no other")
        self.schedule, self.strength, self.table = schedule, strength, table
        self.shape: PositionShape = shape

    def log_exponent(
        self,
        importance: Float[Tensor, "batch length"] | None,  # noqa: ARG002
        scored: Bool[Tensor, "batch length"],
        stage: Stage | None,  # noqa: ARG002
    ) -> Float[Tensor, "batch length"]:
        length = scored.shape[1]
        if self.shape == "table":
            assert self.table is not None
            return self.table[None, :length].double().expand(len(scored), -1)
        position = torch.arange(length, dtype=torch.float64, device=scored.device)
        last = (scored.sum(1, keepdim=True) - 1).clamp_min(1)
        return bias_at(position[None, :] / last, self.shape, self.strength)


def bias_at(
    share: Float[Tensor, "*shape"], shape: Literal["slope", "u_shape"], strength: float
) -> Float[Tensor, "*shape"]:
    """The bias at a share of the sequence: 0 at its first token, 1 at its last."""
    match shape:
        case "slope":
            return strength * (0.5 - share)
        case "u_shape":
            return strength * ((2 * share - 1).square() - 0.5)
        case _:
            assert_never(shape)


def position_bias(shape: Literal["slope", "u_shape"], strength: float, length: int) -> Float[Tensor, " length"]:
    """The bias of every position of a full sequence, to be added to another strategy's log-exponents. float64."""
    return bias_at(torch.linspace(0, 1, length, dtype=torch.float64), shape, strength)
