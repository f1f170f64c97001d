"""PositionAwareMaskingScheduler: where a token stands decides when it is masked, whatever it is."""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mdlm_atat.core.schedules import Schedule
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking, MaskingRates

PositionShape = Literal["slope", "u_shape", "table"]
NEWTON_STEPS = 12
"""To invert the expected share of masks: exact to float64 at every strength up to 20, the most that is allowed."""


class PositionAwareMaskingScheduler(ExponentMasking):
    """mask_rate_i(t) = r(t) ** w_i, log w_i a fixed function of the position or a learned table, and r(t) such that the
    expected share of masks is the noise schedule's: mean over i of r(t) ** w_i = mask_rate(t).

    It depends on nothing hidden, so the rate terms of the bound vanish and the rates need no predicting. The bias log w
    runs over what is scored (the sequence, or an answer behind its prompt), from +strength / 2 at the beginning, which
    is revealed first, to -strength / 2 at the end (slope), or from +strength / 2 at both ends to -strength / 2 in the
    middle (u_shape). Differentiating mean(r ** w_i) = mask_rate,

        speed_i(t) = w_i sum_j r ** w_j / sum_j w_j r ** w_j.

    A table is a parameter of length L, learned through the bound only (RLOO): no other gradient of it is right. It
    keeps r(t) = mask_rate(t), which needs no gradient of its own.
    """

    reads_content = False

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
        clean: Clean,
    ) -> Float[Tensor, "batch length"]:
        scored = clean.scored
        if self.table is not None:
            # the mean is taken out: a common factor of all w is a change of time and has no bearing on the bound
            centred = (self.table - self.table.mean()).to(scored.device)
            return centred[: scored.shape[1]].double().expand(scored.shape)
        bias = position_bias(self.shape, self.strength, place_behind_prompt(scored), scored.sum(1, keepdim=True))
        return torch.where(scored, bias, 0.0)  # beyond the text it would grow without end

    def __call__(
        self,
        t: Float[Tensor, " batch"],
        clean: Clean,
    ) -> MaskingRates:
        if self.table is not None:
            return super().__call__(t, clean)
        w, scored = self.log_exponent(clean).exp(), clean.scored
        log_share = self.schedule.mask_rate(t).double().log()[:, None]  # (B, 1)
        log_count = scored.sum(1, keepdim=True).double().log()
        # log mean r ** w is convex and rises with log r: Newton's steps from r = 1 fall monotonically to the root
        log_r = torch.zeros_like(log_share)
        for _ in range(NEWTON_STEPS):
            terms = (w * log_r).masked_fill(~scored, -torch.inf)
            slope = (terms.softmax(1) * w).sum(1, keepdim=True)
            log_r = log_r - (terms.logsumexp(1, keepdim=True) - log_count - log_share) / slope
        mask_rate = (w * log_r).exp()
        inside = torch.where(scored, mask_rate, 0.0)
        speed = w * inside.sum(1, keepdim=True) / (w * inside).sum(1, keepdim=True)
        return MaskingRates(mask_rate, speed, speed * self.schedule.weight(t)[:, None])

    def log_reveal_rate(
        self,
        uniform: Float[Tensor, "batch length"],
        clean: Clean,
    ) -> Float[Tensor, "batch length"]:
        if self.table is not None:
            return super().log_reveal_rate(uniform, clean)
        w, scored = self.log_exponent(clean).exp(), clean.scored
        log_r = uniform.double().log() / w  # (B, L): where each token's own mask rate is its number
        log_sum = torch.full_like(log_r, -torch.inf)
        for j in range(w.shape[1]):  # a column at a time: (B, L, L) would not fit
            log_rate = (w[:, j : j + 1] * log_r).masked_fill(~scored[:, j : j + 1], -torch.inf)
            log_sum = torch.logaddexp(log_sum, log_rate)
        return log_sum - scored.sum(1, keepdim=True).double().log()


def place_behind_prompt(scored: Bool[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """The number of each place in what is scored: 0 at the first token of a text, or of an answer behind its prompt,
    and less before it."""
    return torch.arange(scored.shape[1], device=scored.device) - scored.long().argmax(1, keepdim=True)


def position_bias(
    shape: PositionShape,
    strength: float,
    position: Tensor,
    length: Tensor | int,
) -> Float[Tensor, "batch length"]:
    """log w at positions (B or 1, L), from 0, of sequences of these lengths (B, 1). float64."""
    last = torch.as_tensor(length - 1).clamp_min(1)
    share = position.double() / last  # 0 at the first token, 1 at the last
    match shape:
        case "slope":
            return strength * (0.5 - share)
        case "u_shape":
            return strength * ((2 * share - 1).square() - 0.5)
        case "table":
            raise ValueError("a table's bias is the table")
        case _:
            assert_never(shape)
