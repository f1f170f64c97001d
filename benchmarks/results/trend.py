"""Where a lead goes as training gets longer: a straight line through paired differences over log tokens."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mdlm_atat.scoring.statistics import Mean, interval_factor


@dataclass(frozen=True)
class Zero:
    """The tokens at which a line is 0."""

    tokens: float
    interval95: tuple[float, float] | None
    """The tokens at which it cannot be told from 0 (Fieller 1954). Infinite above where the slope itself cannot be told
    from 0: then those below a second end belong to it as well, which lies before the middle of what was measured; they
    are left out. None where nothing is known of the error."""


@dataclass(frozen=True)
class Line:
    """difference = level + slope * (log2(tokens) - middle), by least squares over the pairs, so that a budget weighs as
    much as it has pairs. The pairs are taken to scatter about the line alike at all budgets."""

    level: float
    slope: float
    """Nats a doubling of the tokens."""
    middle: float
    """The mean of log2(tokens)."""
    num: int
    """Pairs."""
    num_budgets: int
    spread: float
    """The sum of (log2(tokens) - middle)^2."""
    scatter: float | None
    """The standard deviation of the pairs about the line, with num - 2 degrees of freedom; None for two pairs."""

    @property
    def doubling(self) -> Mean:
        """The slope with its error."""
        return self._mean(self.slope, 1 / self.spread)

    def at(self, tokens: float) -> Mean:
        """The line at so many tokens, with the error of the line (not of a single pair there)."""
        x = math.log2(tokens) - self.middle
        return self._mean(self.level + self.slope * x, 1 / self.num + x * x / self.spread)

    def zero(self) -> Zero | None:
        """Where the line reaches 0 beyond the middle of what was measured; None where it goes away from 0."""
        if self.level * self.slope >= 0:
            return None
        return Zero(self._tokens(-self.level / self.slope), self._zero_interval())

    def _zero_interval(self) -> tuple[float, float] | None:
        """The x with (level + slope x)^2 <= factor^2 (1 / num + x^2 / spread): between the roots of a quadratic, or
        outside of them where the slope is less than `factor` of its errors."""
        if self.scatter is None:
            return None
        factor = interval_factor(self.num - 2) * self.scatter
        a = self.slope**2 - factor**2 / self.spread
        b, c = 2 * self.level * self.slope, self.level**2 - factor**2 / self.num
        inside = b * b - 4 * a * c
        if a == 0 or inside < 0:
            return (0.0, math.inf)
        low, high = sorted((-b + sign * math.sqrt(inside)) / (2 * a) for sign in (-1, 1))
        return (self._tokens(low), self._tokens(high)) if a > 0 else (self._tokens(high), math.inf)

    def _mean(self, value: float, variance: float) -> Mean:
        if self.scatter is None:
            return Mean(value, None, None, self.num)
        error = self.scatter * math.sqrt(variance)
        half = interval_factor(self.num - 2) * error
        return Mean(value, error, (value - half, value + half), self.num, self.num - 2)

    def _tokens(self, x: float) -> float:
        exponent = x + self.middle
        return 2**exponent if exponent < 1000 else math.inf


def fitted(pairs: Sequence[tuple[float, float]]) -> Line | None:
    """The line through (tokens, difference in nats) of paired seeds; None for fewer than two budgets."""
    budgets = {tokens for tokens, _ in pairs}
    if len(budgets) < 2:
        return None
    xs, ys = [math.log2(tokens) for tokens, _ in pairs], [difference for _, difference in pairs]
    middle, level = statistics.fmean(xs), statistics.fmean(ys)
    spread = math.fsum((x - middle) ** 2 for x in xs)
    slope = math.fsum((x - middle) * (y - level) for x, y in zip(xs, ys, strict=True)) / spread
    rest = math.fsum((y - level - slope * (x - middle)) ** 2 for x, y in zip(xs, ys, strict=True))
    scatter = math.sqrt(rest / (len(pairs) - 2)) if len(pairs) > 2 else None
    return Line(level, slope, middle, len(pairs), len(budgets), spread, scatter)
