"""Temperature scaling: one number that makes a classifier's probabilities mean what they say, and how well it does so.

A classifier is calibrated if, of the texts to which it gives a label with probability p, a share p has that label. One
that has been trained until it makes no mistake on its examples is usually too sure. Dividing its logits by a
temperature T > 1 makes it less so, and changes no label (Guo et al. 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

NUM_BINS = 15
NUM_FOLDS = 5
FEWEST_ROWS = 10
FEW_ROWS = 200
"""With fewer rows, what is said of the calibration is called uncertain."""
LARGEST_LOG = 3.0  # of the temperature: from 1/20 to 20
NUM_SIMULATED = 200


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a classifier's temperature was chosen, and what it does on texts that had no part in the choice.

    The temperature is fitted on all rows. `ece_after` and `nats_after` come from cross-fitting: the rows are cut into
    `NUM_FOLDS` parts, and those of each part are scored with a temperature fitted on the others.
    """

    temperature: float
    num_rows: int
    """Texts with a label that it rests on, none of them trained on by the network that was asked about it."""
    ece_before: float
    """Expected calibration error at temperature 1."""
    ece_after: float
    ece_by_chance: float
    """What a classifier of the same probabilities would show on so many rows if it were perfectly calibrated."""
    nats_before: float
    """Mean of -log of the probability of the right label, at temperature 1."""
    nats_after: float

    def __str__(self) -> str:
        few = "; so few rows leave it uncertain" if self.num_rows < FEW_ROWS else ""
        return (
            f"temperature {self.temperature:.2f}; calibration error {self.ece_before:.3f} before, {self.ece_after:.3f} "
            f"after, {self.ece_by_chance:.3f} by chance alone, on {self.num_rows:,} rows{few}"
        )


def calibrate(logits: Float[np.ndarray, "n classes"], targets: Int[np.ndarray, " n"]) -> Calibration | None:
    """Choose a temperature on rows that were not trained on. None where there are fewer than `FEWEST_ROWS`."""
    num_rows = len(targets)
    if num_rows < FEWEST_ROWS:
        return None
    generator = np.random.default_rng(0)
    fold = generator.permutation(num_rows) % NUM_FOLDS
    after = np.empty_like(logits)
    for number in range(NUM_FOLDS):
        after[fold == number] = logits[fold == number] / fit_temperature(
            logits[fold != number], targets[fold != number]
        )
    return Calibration(
        temperature=fit_temperature(logits, targets),
        num_rows=num_rows,
        ece_before=calibration_error(probabilities(logits), targets),
        ece_after=calibration_error(probabilities(after), targets),
        ece_by_chance=error_by_chance(probabilities(after), generator),
        nats_before=mean_nats(logits, targets),
        nats_after=mean_nats(after, targets),
    )


def fit_temperature(logits: Float[np.ndarray, "n classes"], targets: Int[np.ndarray, " n"]) -> float:
    """The temperature T that minimises

        sum_i -log softmax(logits_i / T)[target_i] + (log T)^2 / 2,

    from 1/20 to 20. The second term is a standard normal prior on log T: without it, rows that are all right would have
    T = 0, however few they are.
    """

    def cost(log_t: float) -> float:
        return len(targets) * mean_nats(logits / math.exp(log_t), targets) + log_t**2 / 2

    grid = np.linspace(-LARGEST_LOG, LARGEST_LOG, 61)
    best = int(np.argmin([cost(log_t) for log_t in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, 60)]
    while high - low > 1e-4:
        first, second = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, second) if cost(first) < cost(second) else (first, high)
    return math.exp((low + high) / 2)


def calibration_error(p: Float[np.ndarray, "n classes"], targets: Int[np.ndarray, " n"]) -> float:
    """Expected calibration error: over `NUM_BINS` bins of equal width of the likeliest label's probability, the mean of
    |share that is right - mean probability|, weighted by the rows in the bin. With few rows it is too large: see
    `error_by_chance`."""
    confidence, is_right = p.max(1), p.argmax(1) == targets
    in_bin = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(in_bin, weights=is_right - confidence, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(targets))


def error_by_chance(p: Float[np.ndarray, "n classes"], generator: np.random.Generator) -> float:
    """The calibration error that is expected where the labels are drawn by the probabilities themselves."""
    ends = p.cumsum(1)[:, :-1]
    drawn = (generator.random((NUM_SIMULATED, len(p), 1)) > ends).sum(2)
    return float(np.mean([calibration_error(p, labels) for labels in drawn]))


def mean_nats(logits: Float[np.ndarray, "n classes"], targets: Int[np.ndarray, " n"]) -> float:
    """Mean cross-entropy in nats."""
    return float(-np.log(np.maximum(probabilities(logits)[np.arange(len(targets)), targets], 1e-300)).mean())


def probabilities(logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
    """softmax(logits), row by row, which sums to 1."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
