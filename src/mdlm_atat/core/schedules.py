"""Noise schedules: the probability that a token is masked at time t, and the weight of the bound.

Every schedule runs from mask_rate(0) = 0 to mask_rate(1) = 1 exactly, so the bound has neither a reconstruction
term at t = 0 nor a prior term at t = 1 (which would be infinite if a token could stay visible at t = 1). The
geometric family, whose sigma starts above zero, is therefore rescaled onto [0, 1]; the rescaling cancels in weight(t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from mdlm_atat.errors import UserError

NUM_PARTS = 10_000  # of [0, 1], over which a schedule of somebody else's is tried


@runtime_checkable  # for the shape and type checks of the tests
class Schedule(Protocol):
    """What the objective and the samplers ask of a noise schedule; any object with these two methods will do."""

    def mask_rate(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Probability that a token is masked at time t in [0, 1]; rises from 0 to 1."""
        ...

    def weight(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """mask_rate'(t) / mask_rate(t) for t in (0, 1], in closed form: the ratio of two float32 is NaN near t = 0."""
        ...


@dataclass(frozen=True)
class Linear:
    """mask_rate = t. The papers call it log-linear, after sigma = -log(1 - t) (arXiv 2406.07524)."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return t

    def weight(self, t: Tensor) -> Tensor:
        return 1 / t


@dataclass(frozen=True)
class Cosine:
    """mask_rate = 1 - cos²(θ) / cos²(θ0), θ = π/2 (t + s) / (1 + s), θ0 = θ(0) (Nichol & Dhariwal, arXiv
    2102.09672, eq. 17), without their clip at 0.999: a token that stays visible at t = 1 makes the bound infinite."""

    offset: float = 0.008

    def _rise(self, t: Tensor) -> Tensor:
        """cos²(θ0) - cos²(θ) = sin(θ - θ0) sin(θ + θ0): no cancellation near t = 0, where θ - θ0 is taken from t
        itself, since θ in float64 is θ0 for all t below 1e-18."""
        slope = math.pi / 2 / (1 + self.offset)
        return torch.sin(slope * t) * torch.sin(slope * (t + 2 * self.offset))

    def mask_rate(self, t: Tensor) -> Tensor:
        return self._rise(t) / math.cos(math.pi / 2 / (1 + self.offset) * self.offset) ** 2

    def weight(self, t: Tensor) -> Tensor:
        slope = math.pi / 2 / (1 + self.offset)
        # sin(2θ), from the end: at t = 1 it is 0, and not what rounding makes of sin(π)
        return slope * torch.sin(2 * slope * (1 - t)) / self._rise(t)


@dataclass(frozen=True)
class Geometric:
    """1 - mask_rate ∝ exp(-sigma), sigma = sigma_min^(1-t) sigma_max^t, rescaled to 0 at t = 0 and 1 at t = 1
    (arXiv 2310.16834)."""

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def _excess(self, t: Tensor) -> Tensor:
        """sigma(t) - sigma(0), without cancellation near t = 0."""
        return self.sigma_min * torch.expm1(t * math.log(self.sigma_max / self.sigma_min))

    def mask_rate(self, t: Tensor) -> Tensor:
        return torch.expm1(-self._excess(t)) / math.expm1(self.sigma_min - self.sigma_max)

    def weight(self, t: Tensor) -> Tensor:
        log_ratio = math.log(self.sigma_max / self.sigma_min)
        excess = self._excess(t)
        return (excess + self.sigma_min) * log_ratio / torch.expm1(excess)


@dataclass(frozen=True)
class Polynomial:
    """mask_rate = t^exponent (MD4, arXiv 2406.04329, table 1)."""

    exponent: float = 2.0

    def mask_rate(self, t: Tensor) -> Tensor:
        return t**self.exponent

    def weight(self, t: Tensor) -> Tensor:
        return self.exponent / t


def reveal_probability(schedule: Schedule, t: float, s: float) -> float:
    """Probability that a token masked at time t is visible at the earlier time s: 1 - mask_rate(s) / mask_rate(t).

    The ancestral sampler's step (Sahoo et al. 2024, eq. 7) and the weight of the T-step bound; computed in float64. 1
    where the mask rate at t is below the smallest number there is: nothing is masked then.
    """
    rate_s, rate_t = schedule.mask_rate(torch.tensor([s, t], dtype=torch.float64)).tolist()
    return 1 - rate_s / rate_t if rate_t > 0 else 1.0


def check_schedule(name: str, schedule: object) -> None:
    """Raise UserError for what is no noise schedule, of a plugin: under another one than its two methods say, training
    would aim at something else than the bound without a word."""
    if not isinstance(schedule, Schedule):
        raise UserError(f"{name} is no noise schedule: it has not both mask_rate(t) and weight(t)")
    u = torch.linspace(0, 1, NUM_PARTS + 1, dtype=torch.float64)
    t = u**4 / (u**4 + (1 - u) ** 4)  # close to each other at the ends, where a mask rate may be steep
    rate = schedule.mask_rate(t)
    first, last = rate[[0, -1]].tolist()
    if not (abs(first) < 1e-6 and abs(last - 1) < 1e-6 and (rate.diff() >= -1e-9).all()):
        raise UserError(
            f"the noise schedule {name}: mask_rate is {first:.4g} at t = 0 and {last:.4g} at 1; it has to rise from 0 "
            "to 1, and nowhere to fall"
        )
    middle = (t[1:] + t[:-1]) / 2
    total = (schedule.weight(middle) * schedule.mask_rate(middle) * t.diff()).sum().item()
    if not abs(total - 1) < 0.01:
        raise UserError(
            f"the noise schedule {name}: weight(t) * mask_rate(t) is {total:.4g} in the mean over t; it is 1 where "
            "weight is mask_rate'(t) / mask_rate(t)"
        )
