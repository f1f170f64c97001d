"""A metric for fine-tuning."""

import numpy as np


def kappa(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Cohen's kappa: agreement beyond chance, 1 where all classes are right and 0 for what chance would give."""
    agreement = np.mean(predicted == truth)
    chance = sum(np.mean(predicted == label) * np.mean(truth == label) for label in np.unique(truth))
    return float((agreement - chance) / (1 - chance)) if chance < 1 else 0.0
