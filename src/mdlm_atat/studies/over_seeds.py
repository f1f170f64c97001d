"""Means over seeds, and differences that are paired by seed, as results.json holds them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

from mdlm_atat.scoring.cost import Cost, relative_perplexity
from mdlm_atat.scoring.statistics import CommonError, Mean, mean_with_interval, p_value


def mean_over_seeds(costs: Sequence[Cost], degrees: float) -> dict[str, Any]:
    """The mean of one number of several seeds. Its error includes that of the draws, or between the sequences, which
    all seeds share and which has so many degrees of freedom."""
    draws_error = statistics.fmean(0.0 if math.isnan(cost.standard_error) else cost.standard_error for cost in costs)
    common = CommonError(draws_error, degrees) if len(costs) > 1 and degrees > 0 else None
    found = mean_with_interval([cost.nats_per_token for cost in costs], common)
    return {
        "mean_nats": found.value,
        "standard_error": found.standard_error,
        "interval95": found.interval95,
        "perplexity": Cost(nats_per_token=found.value).perplexity_per_token,
        "draws_standard_error": draws_error,
    }


def difference_over_seeds(
    pairs: Sequence[tuple[float, float]],
    common: CommonError | None,
    *,
    against: str,
    over: Literal["draws", "sequences"],
) -> dict[str, Any]:
    """The mean of a - b in nats per token over seeds, `common` being the error of what they all share: the draws, or
    the sequences. With a single pair that is all that is known."""
    found = mean_with_interval([a - b for a, b in pairs], common)
    p = p_value(found)
    return {
        "against": against,
        "mean_nats": found.value,
        "standard_error": found.standard_error,
        "interval95": found.interval95,
        "num_pairs": len(pairs),
        "over": "seeds" if len(pairs) > 1 else over if found.standard_error is not None else None,
        "p_value": p,
        "significant": is_significant(found, p),
        "relative_perplexity": relative_perplexity(found.value),
    }


def is_significant(found: Mean, p: float | None) -> bool | None:
    """Whether the mean differs from 0, by its error and by p. Returns None where its error is not known."""
    if found.standard_error is None or p is None:
        return None
    return abs(found.value) > 2 * found.standard_error and p < 0.05
