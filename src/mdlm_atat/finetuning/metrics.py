"""The metrics of the fine-tuning tasks (GLUE, arXiv 1804.07461), from their definitions, as shares and not percents.

A metric is a function of predictions and truths, arrays of one value for each example: classes 0, 1, ... or real
scores. It returns one finite number, larger for better predictions. Where its definition leaves the value open because
one side is constant, it returns 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Num
from numpy.typing import NDArray

from mdlm_atat import plugins
from mdlm_atat.errors import UserError
from mdlm_atat.scoring import correlation

Metric = Callable[[Any, Any], float]
"""Called with (predicted, truth)."""
OF_CLASSES, OF_SCORES = ("accuracy", "f1", "matthews"), ("pearson", "spearman")
TITLES = {"f1": "F1", "matthews": "Matthews", "pearson": "Pearson", "spearman": "Spearman"}


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
    """Correlation of predicted and true scores."""
    found = correlation.pearson(predicted, truth)
    return 0.0 if math.isnan(found) else found


def spearman(predicted: Num[np.ndarray, " n"], truth: Num[np.ndarray, " n"]) -> float:
    """Correlation of the ranks of predicted and true scores."""
    found = correlation.spearman(predicted, truth)
    return 0.0 if math.isnan(found) else found


def find_metrics(chosen: str | Metric | Sequence[str | Metric]) -> dict[str, Metric]:
    """Metrics by name.

    `chosen`: one or several of a built-in name (accuracy, f1, matthews, pearson, spearman), a name that an installed
    package offers as an entry point of the group `mdlm_atat.metric`, `package.module:Name`, or a function, which goes
    by its own name. A class is called without arguments, and the object that it returns is the metric. Raises
    UserError for a name that is not known, for a class that asks for arguments, and for a thing that cannot be called.
    """
    metrics: dict[str, Any] = {}
    for metric in [chosen] if isinstance(chosen, str) or callable(chosen) else chosen:
        if isinstance(metric, str):
            name = metric
            plugins.allow("metric", name)  # a person has named it
            found: Any = plugins.resolve("metric", name)
        else:
            name, found = getattr(metric, "__name__", type(metric).__name__), metric
        if isinstance(found, type):
            try:
                found = found()
            except (TypeError, ValueError) as error:
                raise UserError(f"metric {name}: cannot be called without arguments: {error}") from error
        if not callable(found):
            raise UserError(f"metric {name}: expected a function of (predicted, truth), found {found!r}")
        metrics[name] = found
    if not metrics:
        raise UserError("`metric=` names no metric; leave it out for those of the task")
    return metrics


def title(name: str) -> str:
    """A metric's name for a person; of `package.module:Name`, the Name."""
    return TITLES.get(name, name.rpartition(":")[2])


def measure(metrics: Mapping[str, Metric], predicted: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """The value of each metric. Raises UserError where one returns anything but a finite number."""
    return {name: _measure(name, metric, predicted, truth) for name, metric in metrics.items()}


def _measure(name: str, metric: Metric, predicted: NDArray[Any], truth: NDArray[Any]) -> float:
    found = metric(predicted, truth)
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(
            f"metric {name} returned {found!r} for {len(truth)} examples, expected a finite number; where it is not "
            "defined, let it return 0"
        )
    return value


def standard_error(metric: Metric, predicted: NDArray[Any], truth: NDArray[Any], num_groups: int = 200) -> float:
    """Standard error that a metric has from the number of examples, by the jackknife over at most num_groups parts:

        sqrt((G - 1) / G sum_g (metric without part g - their mean)^2)

    For an accuracy of up to num_groups examples it is sqrt(a (1 - a) / (n - 1)). It says nothing of seeds. NaN for
    fewer than two examples.
    """
    num_groups = min(num_groups, len(truth))
    if num_groups < 2:
        return math.nan
    group = np.arange(len(truth)) % num_groups
    left_out = np.array([metric(predicted[group != g], truth[group != g]) for g in range(num_groups)])
    return float(math.sqrt((num_groups - 1) * left_out.var()))
