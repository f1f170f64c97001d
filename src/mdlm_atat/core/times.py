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
from mdlm_atat.errors import UserError

WeightingKind = Literal["elbo", "flat", "clipped"]
NUM_KNOTS = 4097  # of the tabulated inverse distribution function: its error in t is below 1e-6 for Beta(20, 20)
NUM_PARTS = 10_000  # equally likely ones, over which the scale of a weight is summed
LEAST_TIME = 2.0**-60  # of a draw: weights, 1 / t, times speeds of up to exp(40) are finite in float32 there


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
    trained too.

    Where a < 1 the density of t is infinite at 0, and the table is of y with t = 1/2 (2 y)^(1/a) below the middle,
    whose density is not; where b < 1 likewise from above. For shapes of 1 and more y is t.
    """

    def __init__(self, a: float, b: float, uniform_share: float = 0.05) -> None:
        self.shape, self.uniform_share = (a, b), uniform_share
        self._powers = max(1.0, 1 / a), max(1.0, 1 / b)
        # smoothstep spacing puts knots where a distribution function can be steep or flat: at both ends
        x = torch.linspace(0, 1, NUM_KNOTS, dtype=torch.float64)
        self._knots = x * x * (3 - 2 * x)
        middle = (self._knots[1:] + self._knots[:-1]) / 2
        t = self._time(middle)
        below = _log_density_from_the_end(a, middle) + (b - 1) * (1 - t).log()
        above = _log_density_from_the_end(b, 1 - middle) + (a - 1) * t.log()
        log_density = torch.where(middle < 0.5, below, above)
        mass = torch.exp(log_density - log_density.max()) * self._knots.diff()
        beta_cdf = torch.cat([torch.zeros(1, dtype=torch.float64), mass.cumsum(0) / mass.sum()])
        self._cdf = (1 - uniform_share) * beta_cdf + uniform_share * self._time(self._knots)

    def quantile(self, u: Tensor) -> Tensor:
        self._cdf, self._knots = self._cdf.to(u.device), self._knots.to(u.device)  # moved once, not every step
        cdf, knots = self._cdf, self._knots
        position = u.to(torch.float64).contiguous()
        right = torch.searchsorted(cdf, position).clamp(1, NUM_KNOTS - 1)
        share = (position - cdf[right - 1]) / (cdf[right] - cdf[right - 1]).clamp_min(1e-300)
        y = knots[right - 1] + share.clamp(0, 1) * (knots[right] - knots[right - 1])
        return self._time(y).to(u.dtype)

    def without_uniform(self) -> BetaTime:
        """The Beta distribution alone."""
        return BetaTime(*self.shape, uniform_share=0.0)

    def _time(self, y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        low, high = self._powers
        below = y if low == 1 else (2 * y) ** low / 2
        above = y if high == 1 else 1 - (2 * (1 - y)) ** high / 2
        return torch.where(y < 0.5, below, above)


def _log_density_from_the_end(shape: float, y: Float[Tensor, " knots"]) -> Float[Tensor, " knots"]:
    """log of d^(shape - 1) times dd/dy, where d = 1/2 (2 y)^(1 / shape) is the distance from the end if shape < 1, and
    else y."""
    if shape < 1:
        return torch.full_like(y, (1 - shape) * math.log(2) - math.log(shape))
    return (shape - 1) * y.log()


def check_density(name: str, density: object) -> None:
    """Raise UserError for what is no density of times in [0, 1], of a plugin."""
    if not isinstance(density, TimeDensity):
        raise UserError(f"{name} is no density of training times: it has no quantile(u)")
    t = density.quantile(torch.linspace(0, 1, NUM_PARTS + 1, dtype=torch.float64))
    if not (((t >= 0) & (t <= 1)).all() and (t.diff() >= -1e-6).all()):
        raise UserError(
            f"the density of training times {name}: quantile(u) goes from {t[0].item():.4g} to {t[-1].item():.4g}; as "
            "u rises from 0 to 1, t has to rise too, or to stay, and to be in [0, 1]"
        )


def low_discrepancy_times(density: TimeDensity, batch_size: int, generator: torch.Generator) -> Float[Tensor, " batch"]:
    """One t per row, t_i = quantile(1 - (u + s_i) / B) with a single uniform u, every stratum s in 0 .. B - 1 taken by
    one row: evenly spread, each t marginally ~ density.

    s_i = (rank(i) + k) mod B, with ranks by van der Corput's sequence and a single uniform k, so that the rows of any
    one process or micro-batch are spread evenly too.

    Never below LEAST_TIME: no token is masked there, and weights are infinite at 0. float64, because (u + s) / B rounds
    to 1 in float32. Kingma et al. 2021 (arXiv 2107.00630, I.1).
    """
    device = generator.device
    u = torch.rand(1, generator=generator, dtype=torch.float64, device=device)
    k = torch.randint(batch_size, (1,), generator=generator, device=device)
    stratum = (van_der_corput_ranks(batch_size, device) + k) % batch_size  # (B,)
    return density.quantile(1 - (u + stratum) / batch_size).clamp_min(LEAST_TIME)  # (B,)


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


def _integral_of_powers(values: Float[Tensor, " n"], u: Float[Tensor, " n"]) -> float:
    """The integral of a function over u > 0 that is a power of u between any two of the points where its values are
    given: exact for powers, however steep."""
    start, end, first, last = u[:-1], u[1:], values[:-1], values[1:]
    power = (last / first).log() / (end / start).log() + 1
    of_power = (last * end - first * start) / power
    is_straight = ~(power.abs() > 1e-3) | ~of_power.isfinite()  # 1 / u, or 0 at an end: the parts are short enough
    return torch.where(is_straight, (first + last) / 2 * (end - start), of_power).sum().item()


class Weighting:
    """Weight of the masked tokens' loss at time t, scaled so that every token is expected to be scored exactly once.

    elbo: schedule.weight(t), the bound's own (1/t for linear); flat: 1; clipped: min(schedule.weight(t), 1/clip).
    The scale is 1 / E[mask_rate(t) * weight(t)] under the training density, so the training loss is always in nats per
    token. With uniform t and elbo the scale is 1, whatever the schedule, and the loss is an unbiased estimate of the
    bound; with anything else it is not.
    """

    def __init__(self, kind: WeightingKind, schedule: Schedule, density: TimeDensity, clip: float = 0.1) -> None:
        self.kind: WeightingKind = kind
        self.schedule, self.clip = schedule, clip
        mean = self._mean_rate_times_weight(density)
        if not 0 < mean < math.inf:
            raise UserError(
                f"`objective.weighting={kind}` has no finite mean under these times and this noise schedule: both are "
                "too steep at 0; take an `objective.exponent=` and a first number of `objective.beta=` that are above "
                "1 together, other times, or another weighting"
            )
        self.scale = 1 / mean

    def _mean_rate_times_weight(self, density: TimeDensity) -> float:
        """E[mask_rate(t) * unscaled weight(t)] over the density."""
        u = torch.arange(NUM_PARTS + 1, dtype=torch.float64) / NUM_PARTS
        if self.kind != "elbo":  # never infinite
            t = density.quantile((u[1:] + u[:-1]) / 2).clamp_min(LEAST_TIME)
            return (self.schedule.mask_rate(t) * self._unscaled(t)).mean().item()
        # mask_rate * weight is the slope of mask_rate, which may be infinite at 0 (polynomials of an exponent below 1)
        if isinstance(density, UniformTime):
            low, high = torch.tensor([density.low, density.high], dtype=torch.float64)
            return ((self.schedule.mask_rate(high) - self.schedule.mask_rate(low)) / (high - low)).item()
        if isinstance(density, BetaTime) and density.uniform_share > 0:  # two parts, of different powers of u near 0
            parts = [(density.uniform_share, UniformTime()), (1 - density.uniform_share, density.without_uniform())]
            return sum(share * self._mean_rate_times_weight(part) for share, part in parts if share > 0)
        u = u * u * (3 - 2 * u)  # finer at the ends
        t = density.quantile(u)
        rest = slice(1, None) if t[0] == 0 else slice(None)
        slope = self.schedule.mask_rate(t[rest]) * self.schedule.weight(t[rest])
        from_zero = 0.0 if t[0] > 0 else self._integral_from_zero(density, u[1], slope[0])
        return from_zero + _integral_of_powers(slope, u[rest])

    def _integral_from_zero(self, density: TimeDensity, u: Float[Tensor, ""], slope: Float[Tensor, ""]) -> float:
        """The integral of the slope of mask_rate over the first part, to the u where it is `slope`: it is u^k there,
        with k = (p - 1) q for a mask rate of t^p and times of u^q. Of Beta(a, b) with a < 1, q is 1 / a. Infinity where
        k is -1 or less."""
        t, half = density.quantile(u), density.quantile(u / 2)
        power = (t * self.schedule.weight(t) - 1) * (t / half).log2()
        return math.inf if power <= -1 + 1e-6 else (slope * u / (1 + power)).item()

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
