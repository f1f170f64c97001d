"""Which t training draws, and how it weights the loss there.

The conditional distributions that masked training teaches are the same for every density and every weight, so
training may choose both freely; evaluation may not. The effective emphasis is density(t) * weighting(t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, assert_never, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.core.schedules import Schedule

WeightingKind = Literal["elbo", "flat", "clipped"]
NUM_KNOTS = 4097  # of the tabulated inverse distribution function: its error in t is below 1e-6 for Beta(20, 20)


@runtime_checkable
class TimeDensity(Protocol):
    """A density of t on [0, 1], given by its inverse distribution function."""

    def quantile(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The t below which a share u of all draws falls."""
        ...


@dataclass(frozen=True)
class UniformTime:
    """t uniform on [low, high]: the bound's own density for (0, 1), a mask-rate window otherwise."""

    low: float = 0.0
    high: float = 1.0

    def quantile(self, u: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * u


class BetaTime:
    """t from Beta(a, b), mixed with a share of uniform draws so that generation's first and last steps are
    trained too."""

    def __init__(self, a: float, b: float, uniform_share: float = 0.05) -> None:
        # smoothstep spacing puts knots where a distribution function can be steep or flat: at both ends
        x = torch.linspace(0, 1, NUM_KNOTS, dtype=torch.float64)
        self._knots = x * x * (3 - 2 * x)
        middle = (self._knots[1:] + self._knots[:-1]) / 2
        log_density = (a - 1) * middle.log() + (b - 1) * (1 - middle).log()
        mass = torch.exp(log_density - log_density.max()) * self._knots.diff()
        beta_cdf = torch.cat([torch.zeros(1, dtype=torch.float64), mass.cumsum(0) / mass.sum()])
        self._cdf = (1 - uniform_share) * beta_cdf + uniform_share * self._knots

    def quantile(self, u: Tensor) -> Tensor:
        self._cdf, self._knots = self._cdf.to(u.device), self._knots.to(u.device)  # moved once, not every step
        cdf, knots = self._cdf, self._knots
        position = u.to(torch.float64).contiguous()
        right = torch.searchsorted(cdf, position).clamp(1, NUM_KNOTS - 1)
        share = (position - cdf[right - 1]) / (cdf[right] - cdf[right - 1]).clamp_min(1e-300)
        t = knots[right - 1] + share.clamp(0, 1) * (knots[right] - knots[right - 1])
        return t.to(u.dtype)


def low_discrepancy_times(density: TimeDensity, batch_size: int, generator: torch.Generator) -> Float[Tensor, " batch"]:
    """One t per row, t_i = quantile(1 - (u + s_i) / B) with a single uniform u, every stratum s in 0 .. B - 1 taken by
    one row: evenly spread, each t marginally ~ density.

    s_i = (rank(i) + k) mod B, with ranks by van der Corput's sequence and a single uniform k, so that the rows of any
    one process or micro-batch are spread evenly too.

    Never 0, where weights are infinite. float64, because (u + s) / B rounds to 1 in float32. Kingma et al.
    2021 (arXiv 2107.00630, I.1).
    """
    device = generator.device
    u = torch.rand(1, generator=generator, dtype=torch.float64, device=device)
    k = torch.randint(batch_size, (1,), generator=generator, device=device)
    stratum = (van_der_corput_ranks(batch_size, device) + k) % batch_size  # (B,)
    return density.quantile(1 - (u + stratum) / batch_size)  # (B,)


@lru_cache(maxsize=4)  # on the device already: a copy to it in every step would wait for it
def van_der_corput_ranks(number: int, device: torch.device) -> Int[Tensor, " number"]:
    """The permutation of 0 .. number - 1 that sorts rows as their van der Corput numbers (the row's index with its
    binary digits mirrored at the point): any consecutive rows have ranks from all parts of the range, and of 2^j rows
    from a multiple of 2^j on, one has a rank in each of 2^j equal parts of it where `number` is a power of two."""
    num_digits = max(1, (number - 1).bit_length())
    rows = torch.arange(number, device=device)
    digits = [(rows >> place & 1) << (num_digits - 1 - place) for place in range(num_digits)]
    return torch.stack(digits).sum(0).argsort().argsort()


def highest_mean_of_share(rate: Float[Tensor, " batch"], num_rows: int) -> float:
    """The most that the mean of `rate` can be over one of the equal shares of a batch, `num_rows` rows each, rate_s
    being that of the row in stratum s: whatever k was drawn."""
    batch_size = len(rate)
    if batch_size % num_rows:
        raise ValueError(f"{batch_size} rows are no whole number of shares of {num_rows}")
    if batch_size == num_rows:
        return rate.mean().item()
    ranks = van_der_corput_ranks(batch_size, rate.device)
    highest = [
        rate[(ranks + k[:, None]) % batch_size].view(-1, num_rows).mean(1).max()  # of some k: all at once are B x B
        for k in torch.arange(batch_size, device=rate.device).split(64)
    ]
    return torch.stack(highest).max().item()


class Weighting:
    """Weight of the masked tokens' loss at time t, scaled so that every token is expected to be scored exactly once.

    elbo: schedule.weight(t), the bound's own (1/t for linear); flat: 1; clipped: min(schedule.weight(t), 1/clip).
    The scale is 1 / E[mask_rate(t) * weight(t)] under the training density, so the training loss is always in nats per
    token. With uniform t and elbo the scale is 1 and the loss is an unbiased estimate of the bound; with
    anything else it is not.
    """

    def __init__(self, kind: WeightingKind, schedule: Schedule, density: TimeDensity, clip: float = 0.1) -> None:
        self.kind: WeightingKind = kind
        self.schedule, self.clip = schedule, clip
        u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
        t = density.quantile(u)
        self.scale = 1 / (schedule.mask_rate(t) * self._unscaled(t)).mean().item()
        if not math.isfinite(self.scale):
            raise ValueError(f"weighting {kind} has no finite mean under this density")

    def _unscaled(self, t: Tensor) -> Tensor:
        match self.kind:
            case "elbo":
                return self.schedule.weight(t)
            case "flat":
                return torch.ones_like(t)
            case "clipped":
                return self.schedule.weight(t).clamp_max(1 / self.clip)
            case _:
                assert_never(self.kind)

    def __call__(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.scale * self._unscaled(t)
