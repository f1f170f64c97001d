"""How many tokens to reveal in each step, where that is decided beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.errors import UserError

Sizes = Literal["constant", "cosine", "half_cosine", "optimal"]
GRID = 1000  # points at which the profile's slope is integrated
MIN_SLOPE = 0.05  # of the mean slope: where a noisy profile is flat, a step still takes a finite share


@dataclass(frozen=True)
class Profile:
    """What a masked token costs by the share of tokens masked, as `evaluate(..., profile=True)` measures it."""

    mask_rate: tuple[float, ...]
    nats_per_masked_token: tuple[float, ...]
    standard_error: tuple[float, ...]

    @cached_property
    def effort(self) -> Float[np.ndarray, " grid"]:
        """Integral from 0 to r of |f'|^(1/2), at GRID + 1 values of the share r that is revealed; 1 at r = 1.

        Revealing m tokens at once costs about m (m - 1) / 2 times |f'(r)| / L nats too much, f(r) being the
        cross-entropy of a masked token when a share r is revealed: each token of the group would have been |f'| / L
        cheaper after each other. For a given number of groups that is least when m is in proportion to |f'|^(-1/2). f
        is a cubic through the profile, weighted by its errors; one that is not known (of a single draw) or 0 counts as
        the largest that is. Of fewer than two points nothing is known, and all sizes are equal.
        """
        known = np.isfinite(self.nats_per_masked_token)
        if known.sum() < 2:
            return np.linspace(0.0, 1.0, GRID + 1)
        revealed, nats = 1 - np.array(self.mask_rate)[known], np.array(self.nats_per_masked_token)[known]
        errors = np.array(self.standard_error)[known]
        is_error = np.isfinite(errors) & (errors > 0)
        errors = np.where(is_error, errors, errors[is_error].max(initial=0.0) or 1.0)
        cubic = np.polynomial.Polynomial.fit(revealed, nats, deg=min(3, len(revealed) - 1), w=1 / errors)
        slope = -cubic.deriv()((np.arange(GRID) + 0.5) / GRID)
        slope = np.maximum(slope, MIN_SLOPE * abs(slope).mean() + 1e-12)
        effort = np.concatenate([[0.0], np.cumsum(np.sqrt(slope))])
        return effort / effort[-1]


def boundaries(
    sizes: Sizes, num_to_fill: int, num_steps: int, profile: Profile | None = None, length: int | None = None
) -> list[int]:
    """How many of a row's tokens are revealed after each step: 0, ..., num_to_fill, rising, at most num_steps steps.

    With k = step / num_steps, the share that is revealed is k (constant), 1 - cos(pi k / 2) (cosine; MaskGIT, arXiv
    2202.04200), 1 - (1 + cos(pi k)) / 2 (half_cosine), or the one that makes the groups |f'(r)|^(-1/2) (optimal; see
    Profile), where a prompt in a row of `length` tokens counts as revealed.
    """
    num_steps = min(num_steps, num_to_fill)
    if num_to_fill == 0:
        return [0]
    k = np.arange(num_steps + 1) / num_steps
    match sizes:
        case "constant":
            share = k
        case "cosine":
            share = 1 - np.cos(math.pi / 2 * k)
        case "half_cosine":
            share = (1 - np.cos(math.pi * k)) / 2
        case "optimal":
            if profile is None:
                raise UserError(
                    "sizes=optimal needs the model's validation profile; measure it with "
                    "`evaluate(RUN, profile=True)`, or use sizes=cosine"
                )
            given = 1 - num_to_fill / (length or num_to_fill)
            grid = np.linspace(0, 1, GRID + 1)
            done = np.interp(given, grid, profile.effort)
            reached = np.interp(done + (1 - done) * k, profile.effort, grid)
            share = (reached - given) / (1 - given)
    ends = np.rint(share * num_to_fill).astype(int)
    # every step reveals something: at least as many as there were steps, and enough left for those to come
    steps = np.arange(num_steps + 1)
    ends = np.maximum.accumulate(ends - steps) + steps
    return np.minimum(ends, num_to_fill - num_steps + steps).tolist()


def all_boundaries(
    sizes: Sizes, num_to_fill: list[int], num_steps: list[int], profile: Profile | None, length: int
) -> Int[Tensor, "batch steps_and_start"]:
    """`boundaries` of every row, on the CPU, padded to the same number of steps: a row that is done early repeats its
    last value."""
    cache: dict[tuple[int, int], list[int]] = {}
    rows = []
    for asked in zip(num_to_fill, num_steps, strict=True):
        if asked not in cache:
            cache[asked] = boundaries(sizes, *asked, profile, length)
        rows.append(cache[asked])
    longest = max(map(len, rows))
    return torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])


def as_profile(record: Mapping[str, Sequence[float]]) -> Profile:
    """Read the columns of a stored profile. Raises KeyError, TypeError or ValueError for anything else."""
    names = ("mask_rate", "nats_per_masked_token", "standard_error")
    columns = [tuple(float(value) for value in record[name]) for name in names]
    if len(set(map(len, columns))) != 1 or len(columns[0]) < 2 or not all(math.isfinite(x) for c in columns for x in c):
        raise ValueError("columns of numbers of different lengths, or none")
    return Profile(*columns)
