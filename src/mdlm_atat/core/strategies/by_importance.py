"""AdaptiveMaskingScheduler: importance decides when a token is masked and revealed."""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.schedules import Schedule
from mdlm_atat.core.strategies.by_position import place_behind_prompt
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking, MaskingRates, mean_over_scored

Direction = Literal["proportional", "inverse", "balanced", "time_only"]
BALANCED_LIMIT = 1.35
"""Largest |d_i| for which `balanced` masks ever more tokens as t grows: below e / 2."""
HALVINGS = 60  # of the range of its logarithm, to invert a mask rate to float64


class AdaptiveMaskingScheduler(ExponentMasking):
    """mask_rate_i(t) = mask_rate(t) ** w_i, log w_i = ± d_i + position_bias_i, d_i = (importance_i - center) / tau.

    inverse (+): important tokens are masked less and revealed early; proportional (-): masked more, revealed late;
    time_only: w_i = 1; balanced: from inverse at t = 0 to proportional at t = 1, log w_i = (1 - 2 r) d_i with r =
    mask_rate(t), whose speed has an extra term: d log(r ** w_i) / d log r = w_i (1 - 2 d_i r log r).

    `center` None: the mean over the sequence, so that the mean log-exponent is fixed. A constant (the corpus mean)
    makes w a function of the token alone where importance is one; then `token_importance` (V,) gives a correction of
    the logits (`token_correction`). `position_bias` counts from the start of the text, or of an answer behind its
    prompt. A curriculum's temperature multiplies this one. Source: the softmax over
    importance / tau + position_bias of ATAT's first description, made exact (docs/method.md).
    """

    def __init__(
        self,
        schedule: Schedule,
        direction: Direction,
        temperature: float = 1.0,
        *,
        center: float | None = None,
        position_bias: Float[Tensor, " length"] | None = None,
        token_importance: Float[Tensor, " vocab"] | None = None,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}, expected above 0")
        self.schedule, self.temperature, self.center = schedule, temperature, center
        self.direction: Direction = direction
        self.position_bias, self.token_importance = position_bias, token_importance
        self.reads_content = self.needs_importance = direction != "time_only"
        self.is_plackett_luce = direction != "balanced"

    def log_exponent(
        self,
        clean: Clean,
    ) -> Float[Tensor, "batch length"]:
        """log w; for `balanced` the d_i that it is made of."""
        if self.direction == "time_only":
            return self._biased(torch.zeros_like(clean.scored, dtype=torch.float64), clean.scored)
        assert clean.importance is not None
        center = mean_over_scored(clean.importance, clean.scored) if self.center is None else self.center
        softness = self.temperature * (1.0 if clean.stage is None else clean.stage.temperature)
        distance = (clean.importance.double() - center) / softness
        match self.direction:
            case "inverse":
                return self._biased(distance, clean.scored)
            case "proportional":
                return self._biased(-distance, clean.scored)
            case "balanced":
                return self._biased(distance, clean.scored).clamp(-BALANCED_LIMIT, BALANCED_LIMIT)
            case _:
                assert_never(self.direction)

    def __call__(
        self,
        t: Float[Tensor, " batch"],
        clean: Clean,
    ) -> MaskingRates:
        if self.direction != "balanced":
            return super().__call__(t, clean)
        distance = self.log_exponent(clean)
        rate = self.schedule.mask_rate(t)[:, None]  # (B, 1)
        speed = _balanced_speed(rate, distance)
        mask_rate = rate ** _balanced_exponent(rate, distance)
        return MaskingRates(mask_rate, speed, speed * self.schedule.weight(t)[:, None])

    def log_reveal_rate(
        self,
        uniform: Float[Tensor, "batch length"],
        clean: Clean,
    ) -> Float[Tensor, "batch length"]:
        if self.direction != "balanced":
            return super().log_reveal_rate(uniform, clean)
        distance, log_uniform = self.log_exponent(clean), uniform.double().log()
        low, high = log_uniform * distance.abs().exp(), torch.zeros_like(distance)  # exponents are at least exp(-|d|)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            too_low = middle * _balanced_exponent(middle.exp(), distance) < log_uniform
            low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
        return (low + high) / 2

    def token_correction(
        self, log_rate: Float[Tensor, " batch"], stage: Stage | None = None
    ) -> Float[Tensor, "batch vocab"] | None:
        """log w_v + w_v log r, r the noise schedule's mask rate: how much less likely the token revealed there is to be
        v than under uniform masking. Masked at r is evidence r ** w_v about it, and revealed just then, w_v.

        Added to exact conditionals of the uniform schedule it gives those of this one where hidden tokens are
        independent of each other. Where they are not, that the *others* are masked is evidence too, and no correction
        of one token's logits holds it: the bound stays one, and lies above the entropy. Of three tokens of three kinds
        with importances 0, 1/2 and 1, `inverse` at temperature 1/2, by 0.040 nats where their joint distribution is a
        random one, and by 0.158 where all three are always the same (tests/core/test_bound.py).
        """
        if self.token_importance is None:
            return None
        self.token_importance = self.token_importance.to(log_rate.device)  # moved once, not every step
        every_token = self.token_importance[None, :].expand(len(log_rate), -1)
        scored = torch.ones_like(every_token, dtype=torch.bool)
        log_w = self.log_exponent(Clean(scored, importance=every_token, stage=stage))
        log_r = log_rate[:, None]
        if self.direction != "balanced":
            return log_w + log_w.exp() * log_r
        rate = log_r.exp()
        exponent = _balanced_exponent(rate, log_w)
        return _balanced_speed(rate, log_w).log() + exponent * log_r

    def _biased(
        self, log_exponent: Float[Tensor, "batch length"], scored: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length"]:
        if self.position_bias is None:
            return log_exponent
        self.position_bias = self.position_bias.to(log_exponent)  # moved once, not every step
        return log_exponent + self.position_bias[place_behind_prompt(scored).clamp_min(0)]


def _balanced_exponent(rate: Tensor, distance: Tensor) -> Tensor:
    return ((1 - 2 * rate) * distance).exp()


def _balanced_speed(rate: Tensor, distance: Tensor) -> Tensor:
    return _balanced_exponent(rate, distance) * (1 - 2 * distance * torch.special.xlogy(rate, rate))
