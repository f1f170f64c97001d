"""The formulas by which ATAT was first described (docs/method.md, section 9), kept for ablation. None gives a bound."""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mdlm_atat.core.schedules import Schedule
from mdlm_atat.core.strategies.by_importance import Direction
from mdlm_atat.core.strategies.by_position import place_behind_prompt
from mdlm_atat.core.strategies.rates import Clean, MaskingRates, mean_over_scored

WATER_FILLING_STEPS = 40  # halvings of the level: exact to float32


class LiteralMasking:
    """p_i = mask_rate(t) L softmax(± importance / temperature + position_bias)_i, filled up to at most 1.

    The source masks with gamma_t * softmax(...), about one token a sequence; multiplied by L and water-filled, the
    expected number masked is mask_rate(t) L at every t. balanced mixes inverse and proportional by 1 - t and t, and a
    token's rate need not rise with t then. Which tokens are masked depends on what they are, and the usual weights
    (weight(t); times the stage's weight_in_range for `literal_curriculum`) do not make a bound of it: a fair coin
    whose sides are masked at t and t^3 reads 0.319 nats so, below its entropy of 0.693.
    """

    is_bound = False
    reads_content = True

    def __init__(
        self,
        schedule: Schedule,
        kind: Literal["literal_importance", "literal_curriculum"],
        direction: Direction,
        temperature: float = 1.0,
        *,
        position_bias: Float[Tensor, " length"] | None = None,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}, expected above 0")
        self.schedule, self.kind, self.temperature = schedule, kind, temperature
        self.direction: Direction = direction
        self.position_bias = position_bias
        self.needs_stage = kind == "literal_curriculum"
        self.needs_importance = self.needs_stage or direction != "time_only"

    def __call__(
        self,
        t: Float[Tensor, " batch"],
        clean: Clean,
    ) -> MaskingRates:
        scored, stage = clean.scored, clean.stage
        importance = (
            torch.zeros_like(scored, dtype=t.dtype) if clean.importance is None else clean.importance.to(t.dtype)
        )
        rate = self.schedule.mask_rate(t)[:, None]  # (B, 1)
        score = importance / (self.temperature * (1.0 if stage is None else stage.temperature))
        bias = torch.zeros_like(score)
        if self.position_bias is not None:
            self.position_bias = self.position_bias.to(score)  # moved once, not every step
            bias = bias + self.position_bias[place_behind_prompt(scored).clamp_min(0)]
        match self.direction:
            case "proportional":
                share = _softmax(score + bias, scored)
            case "inverse":
                share = _softmax(bias - score, scored)
            case "balanced":
                share = (1 - rate) * _softmax(bias - score, scored) + rate * _softmax(score + bias, scored)
            case "time_only":
                share = _softmax(bias.expand_as(score), scored)
            case _:
                assert_never(self.direction)
        mask_rate = water_fill(share, rate * scored.sum(1, keepdim=True), scored)
        speed = torch.ones_like(mask_rate)
        if self.kind == "literal_curriculum":
            assert stage is not None
            low, high = stage.importance_range
            inside = (importance >= low) & (importance <= high)
            speed = 1 + inside.to(t.dtype) * (stage.weight_in_range - 1)
            # a mean of 1 keeps the loss in nats per token
            speed = speed / mean_over_scored(speed, scored)
        return MaskingRates(mask_rate, speed, speed * self.schedule.weight(t)[:, None])


def water_fill(
    share: Float[Tensor, "batch length"], total: Float[Tensor, "batch 1"], scored: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """Probabilities min(1, level * share) that sum to `total` in every row: what does not fit goes to the others.

    The level is found by halving its logarithm; a row whose total is all its tokens is all ones.
    """
    share = torch.where(scored, share.clamp_min(1e-30), 0.0)
    count = scored.sum(1, keepdim=True)
    low = torch.full_like(total, -80.0)
    high = torch.full_like(total, 80.0)
    for _ in range(WATER_FILLING_STEPS):
        middle = (low + high) / 2
        too_little = (middle.exp() * share).clamp_max(1.0).sum(1, keepdim=True) < total
        low, high = torch.where(too_little, middle, low), torch.where(too_little, high, middle)
    filled = (((low + high) / 2).exp() * share).clamp_max(1.0)
    return torch.where((total >= count) & scored, 1.0, filled).to(share.dtype)


def _softmax(score: Tensor, scored: Tensor) -> Tensor:
    return score.masked_fill(~scored, -torch.inf).softmax(1)
