"""Correlation of two series of numbers."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Num


def pearson(x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"]) -> float:
    """Pearson's correlation, sum_i (x_i - mean x) (y_i - mean y) / sqrt(sum_i (x_i - mean x)^2 sum_i (y_i - mean y)^2);
    NaN where either is constant."""
    # what is left of a constant after its mean is taken off is rounding, not spread
    if min(np.ptp(x), np.ptp(y)) <= 1e-12:
        return math.nan
    x, y = (np.asarray(values, np.float64) - np.mean(values, dtype=np.float64) for values in (x, y))
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


def spearman(x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"]) -> float:
    """Pearson correlation of the ranks, where equal values share the mean of their ranks."""
    return pearson(ranks(x), ranks(y))


def ranks(values: Num[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 for the smallest, n for the largest; equal values share the mean of their ranks."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]
