"""Student's t: intervals over seeds, and whether a paired difference is one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """The mean of some numbers; the rest is None where nothing is known of its error."""

    value: float
    standard_error: float | None
    interval95: tuple[float, float] | None
    num: int
    degrees: float | None = None
    """Of freedom, of the standard error."""
    own_error: float | None = None
    """s / sqrt(n), of the numbers alone; None of a single one."""


@dataclass(frozen=True)
class CommonError:
    """The standard error of what all numbers of a mean have in common: here, the draws that all seeds are scored on."""

    standard_error: float
    degrees: float


def mean_with_interval(values: Sequence[float], common: CommonError | None = None) -> Mean:
    """Mean, its standard error, and the interval mean ± t(degrees) times that.

    The error is s / sqrt(n) with n - 1 degrees, and the `common` one, which more numbers do not make smaller: their
    squares are added, and the degrees are Welch's and Satterthwaite's, V^2 / (sum of V_k^2 / degrees_k). The interval
    is never narrower than that of s / sqrt(n) alone. Of a single number the common error is all that is known.
    """
    mean, n = statistics.fmean(values), len(values)
    parts = [(statistics.variance(values) / n, n - 1.0)] if n > 1 else []
    parts += [] if common is None else [(common.standard_error**2, common.degrees)]
    if not parts:
        return Mean(mean, None, None, n)
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / degrees for part, degrees in parts)
    degrees = variance**2 / spread if spread > 0 else parts[0][1]
    own_error = math.sqrt(parts[0][0]) if n > 1 else None
    half = interval_factor(degrees) * math.sqrt(variance)
    if own_error is not None:
        half = max(half, interval_factor(n - 1) * own_error)
    return Mean(mean, math.sqrt(variance), (mean - half, mean + half), n, degrees, own_error)


def p_value(found: Mean) -> float | None:
    """Two-sided p-value of the t-test: the chance of a mean at least this far from 0 if it were 0. If that of the
    numbers alone, without the `common` error, is larger, it is returned: three runs cannot be surer than three runs
    allow."""
    if found.standard_error is None or found.degrees is None:
        return None
    p = _two_sided(found.value, found.standard_error, found.degrees)
    return p if found.own_error is None else max(p, _two_sided(found.value, found.own_error, found.num - 1))


def _two_sided(value: float, error: float, degrees: float) -> float:
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return 2 * (1 - t_distribution(abs(value) / error, degrees))


def t_distribution(t: float, degrees: float) -> float:
    """P(T <= t) for Student's t: 1 - I_x(degrees / 2, 1/2) / 2 with x = degrees / (degrees + t^2), t >= 0."""
    tail = incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return 1 - tail if t >= 0 else tail


def t_quantile(p: float, degrees: float) -> float:
    """The t with P(T <= t) = p, by bisection, to the last bits."""
    low, high = 0.0, 1.0
    if p < 0.5:
        return -t_quantile(1 - p, degrees)
    while t_distribution(high, degrees) < p:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_distribution(middle, degrees) < p else (low, middle)
    return (low + high) / 2


@cache
def interval_factor(degrees: float) -> float:
    """How many standard errors a 95% interval reaches to either side, where the error has so many degrees of freedom:
    12.7 for 1, 2.36 for 7, 1.96 for very many. Infinite where there are none: then the error is not known."""
    return t_quantile((1 + LEVEL) / 2, degrees) if degrees > 0 else math.inf


def clear_factor(degrees: float) -> float:
    """How many standard errors a difference has to be to be called one: `interval_factor`, and at least 2."""
    return max(2.0, interval_factor(degrees))


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22, Lentz's method)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, the mirror image does fast
        return 1 - incomplete_beta(1 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) - math.log(a)
    log_front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    tiny = 1e-300
    c, d = 1.0, 1 / _away_from_0(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        factor = 1.0
        for term in (even, odd):
            d = 1 / _away_from_0(1 + term * d, tiny)
            c = _away_from_0(1 + term / c, tiny)
            factor = c * d
            fraction *= factor
        if abs(factor - 1) < 1e-15:
            break
    return math.exp(log_front) * fraction


def _away_from_0(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
