"""Student's t: intervals over seeds, and whether a paired difference is one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Mean:
    """The mean of some numbers; the standard error and the interval are None for a single one."""

    value: float
    standard_error: float | None
    interval95: tuple[float, float] | None
    num: int


def mean_with_interval(values: Sequence[float]) -> Mean:
    """Mean, its standard error s / sqrt(n), and the interval mean ± t(n - 1) s / sqrt(n)."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Mean(mean, None, None, n)
    error = statistics.stdev(values) / math.sqrt(n)
    half = t_quantile((1 + LEVEL) / 2, n - 1) * error
    return Mean(mean, error, (mean - half, mean + half), n)


def paired_t_test(differences: Sequence[float]) -> float:
    """Two-sided p of the paired t-test: the chance of a mean at least this far from 0, were it 0."""
    found = mean_with_interval(differences)
    if found.standard_error is None:
        raise ValueError("a t-test needs two differences")
    if found.standard_error == 0:
        return 1.0 if found.value == 0 else 0.0
    return 2 * (1 - t_distribution(abs(found.value) / found.standard_error, found.num - 1))


def t_distribution(t: float, degrees: float) -> float:
    """P(T <= t) for Student's t: 1 - I_x(degrees / 2, 1/2) / 2 with x = degrees / (degrees + t^2), t >= 0."""
    tail = incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return 1 - tail if t >= 0 else tail


def t_quantile(p: float, degrees: float) -> float:
    """t with P(T <= t) = p, by halving, to the last bits."""
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
