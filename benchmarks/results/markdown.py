"""Numbers and tables as the pages show them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from benchmarks.results.stored import Number, Run, mean_of, numbers_of

from mdlm_atat.formats import with_error
from mdlm_atat.scoring.statistics import Mean

LIKELIHOODS = {"any_order": "any order, at most", "left_to_right": "left to right"}
CODE = ("mdlm", "time_sampling_only", "importance_rates", "frequency_only", "learned_only", "two_way", "atat")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Raises ValueError where a row has not as many cells as the header."""
    lines = [header, *rows]
    if any(len(line) != len(header) for line in lines):
        raise ValueError(f"rows of {sorted({len(line) for line in lines})} cells under {len(header)} names")
    first, *rest = ("|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in lines)
    return "\n".join([first, "|" + "---|" * len(header), *rest])


def nats(found: Mean | Number | None, *, sign: bool = False) -> str:
    """`4.027 ± 0.002`, or nothing where there is no number."""
    if found is None:
        return ""
    error = found.standard_error if isinstance(found, Mean) else found.error
    return with_error(found.value, error, decimals=3, sign=sign)


def interval(found: Mean | None) -> str:
    """`[4.020, 4.034]`, which is infinitely wide for a single number and then is not written."""
    if found is None or found.interval95 is None:
        return ""
    return "[{:.3f}, {:.3f}]".format(*found.interval95)


def percent_interval(found: Mean) -> str:
    """`[-5.2%, +0.0%]`, the interval as changes of perplexity. ValueError for a single number, which has none."""
    if found.interval95 is None:
        raise ValueError("a single number has no interval")
    low, high = (100 * math.expm1(end) for end in found.interval95)
    return f"[{low:+.1f}%, {high:+.1f}%]"


def perplexity(found: Mean | Number | None) -> str:
    return "" if found is None else f"{math.exp(found.value):.1f}"


def less(found: Mean | Number | None) -> str:
    """`-40%`, the change of perplexity that a difference in nats is; with a decimal where it is below 10%."""
    if found is None:
        return ""
    change = 100 * math.expm1(found.value)
    return f"{change:+.0f}%" if abs(change) >= 9.95 else f"{change:+.1f}%"


def mean_cell(runs: Sequence[Run], column: str) -> str:
    """The mean over seeds; how many there are is said where they are not all of the runs."""
    found = mean_of(runs, column)
    few = found is not None and found.num < len(runs)
    return nats(found) + (f" ({found.num} of {len(runs)} seeds)" if few and found is not None else "")


def arm_of(run: str) -> str:
    """`atat` of a point's run `atat/seed-0`; of a run that no experiment made, the last part of its path."""
    return run.partition("/seed-")[0].rpartition("/")[2]


def arm_name(arm: str) -> str:
    """The arm with what can be given to --method as code."""
    first, comma, rest = arm.partition(",")
    return (f"`{first}`" if first in CODE else first) + comma + rest


def seconds(runs: Sequence[Run]) -> str:
    """Of training alone, in the mean over the runs that had a card to themselves."""
    known = [run.train_s for run in runs if run.train_s is not None]
    return f"{sum(known) / len(known):.1f}" if known else ""


def steps(runs: Sequence[Run]) -> str:
    """Of training, in the mean."""
    return f"{sum(run.num_steps for run in runs) / len(runs):,.0f}"


def operations(runs: Sequence[Run]) -> str:
    """Of training, in 10^15 multiplications and additions, in the mean over the runs that have them stored."""
    known = [run.train_flops for run in runs if run.train_flops is not None]
    return f"{sum(known) / len(known) / 1e15:.1f}" if known else ""


def memory(runs: Sequence[Run]) -> str:
    """The most of the card's memory that a run took, in GiB."""
    known = [run.peak_memory_bytes for run in runs if run.peak_memory_bytes is not None]
    return f"{max(known) / 2**30:.1f}" if known else ""


def one(runs: Sequence[Run], column: str, seed: int = 0) -> str:
    """One run's number, with its error over the draws or sequences."""
    return nats(numbers_of(runs, column).get(seed))
