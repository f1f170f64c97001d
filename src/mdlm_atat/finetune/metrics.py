"""The metrics of the fine-tuning tasks (GLUE, arXiv 1804.07461), from their definitions, as shares and not percents.

A metric is a function of predictions and truths, arrays of one value an example: classes 0, 1, ... or real scores. One
that its definition leaves open, since one side is constant, is 0: what such predictions deserve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Num
from numpy.typing import NDArray

Metric = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]


def accuracy(predicted: Int[np.ndarray, " n"], truth: Int[np.ndarray, " n"]) -> float:
    """Share of examples whose class is right."""
    return float((predicted == truth).mean())


def f1(predicted: Int[np.ndarray, " n"], truth: Int[np.ndarray, " n"]) -> float:
    """2 TP / (2 TP + FP + FN) of class 1: the harmonic mean of precision and recall."""
    true_positives = np.sum((predicted == 1) & (truth == 1))
    counted = np.sum(predicted == 1) + np.sum(truth == 1)  # 2 TP + FP + FN
    return float(2 * true_positives / counted) if counted else 0.0


def matthews(predicted: Int[np.ndarray, " n"], truth: Int[np.ndarray, " n"]) -> float:
    """Matthews correlation: cov(p, t) / sqrt(cov(p, p) cov(t, t)), where cov(a, b) = n sum_i [a_i = b_i] - sum_k
    (number of class k in a) (number of class k in b). For two classes that is

        (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)),

    for more it is Gorodkin's R_K (2004).
    """
    num_classes = int(max(predicted.max(), truth.max())) + 1
    in_predicted, in_truth = (np.bincount(a, minlength=num_classes).astype(float) for a in (predicted, truth))
    n = float(len(truth))
    covariance = n * float(np.sum(predicted == truth)) - in_predicted @ in_truth
    variances = (n * n - in_predicted @ in_predicted) * (n * n - in_truth @ in_truth)
    return float(covariance / math.sqrt(variances)) if variances > 0 else 0.0


def pearson(predicted: Num[np.ndarray, " n"], truth: Num[np.ndarray, " n"]) -> float:
    """sum_i (p_i - mean p) (t_i - mean t) / sqrt(sum_i (p_i - mean p)^2 sum_i (t_i - mean t)^2)."""
    if np.ptp(predicted) == 0 or np.ptp(truth) == 0:  # whose deviations may round to anything but 0
        return 0.0
    p, t = (np.asarray(a, np.float64) - np.mean(a, dtype=np.float64) for a in (predicted, truth))
    return float(p @ t / math.sqrt((p @ p) * (t @ t)))


def spearman(predicted: Num[np.ndarray, " n"], truth: Num[np.ndarray, " n"]) -> float:
    """Pearson correlation of the ranks; equal values share the mean of their ranks."""
    return pearson(ranks(predicted), ranks(truth))


def ranks(values: Num[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 for the smallest, n for the largest; equal values share the mean of theirs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


METRICS: dict[Metric, Callable[[Any, Any], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def measure(metrics: Sequence[Metric], predicted: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """Each metric by its name."""
    return {name: METRICS[name](predicted, truth) for name in metrics}


def standard_error(metric: Metric, predicted: NDArray[Any], truth: NDArray[Any], num_groups: int = 200) -> float:
    """How far the metric would be off for examples drawn anew, by the jackknife over at most num_groups parts:

        sqrt((G - 1) / G sum_g (metric without part g - their mean)^2)

    For an accuracy of up to num_groups examples it is sqrt(a (1 - a) / (n - 1)). It says nothing of seeds. NaN for
    fewer than two examples.
    """
    num_groups = min(num_groups, len(truth))
    if num_groups < 2:
        return math.nan
    group = np.arange(len(truth)) % num_groups
    left_out = np.array([METRICS[metric](predicted[group != g], truth[group != g]) for g in range(num_groups)])
    return float(math.sqrt((num_groups - 1) * left_out.var()))
