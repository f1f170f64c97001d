"""How much memory a configuration asks for at least, told from its numbers before anything is built."""

from __future__ import annotations

import math
import os

from mdlm_atat.config.schema import RunConfig


def least_weights(config: RunConfig) -> int:
    """The weights of a configuration's network without its vocabulary's, its norms and its biases: there are more. 0
    for a plugin's network, which says itself what its settings mean."""
    model, importance = config.model, config.importance
    if model.kind not in ("masked", "causal"):
        return 0
    num_weights = model.num_layers * (4 + 2 * model.mlp_ratio) * model.width**2
    if model.kind == "masked":
        if model.time_conditioning and model.time_through == "adaln":
            num_weights += model.time_width * (model.time_width + 6 * model.num_layers * model.width)
        if not model.tied:
            num_weights += model.extra_outputs * model.width
        if importance.has_estimator:
            num_weights += importance.num_layers * 12 * importance.width**2
    return num_weights


def most_weights(config: RunConfig) -> float:
    """More weights than the configuration's network has with any vocabulary of up to 2^21 tokens; no limit for a
    plugin's network."""
    if config.model.kind not in ("masked", "causal"):
        return math.inf
    rows = 4 * ((1 << 21) + config.model.extra_outputs + config.data.length)
    return 2 * least_weights(config) + rows * config.model.width + (1 << 24)


def machine_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
