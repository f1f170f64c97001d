"""Sampling by stable confidence: a position is revealed when the network has been sure of it for a while."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from mdlm_atat.checks import at_least
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.adaptive import Choice, Seen, reveal_adaptively, settle_ties
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse
from mdlm_atat.samplers.sizes import all_boundaries


@dataclass(frozen=True, kw_only=True)
class ConfidenceBasedSampler:
    """Where the network has been certain of the same token for some steps.

    Keeps, for every masked position, the confidence (probability of the likeliest token) of the last `window` steps.

    A position's stability is the least of them, 0 as long as its history is shorter or its likeliest token has changed
    within it. All positions with stability of at least `threshold` are revealed; and as many more, the most stable
    first and then the most confident, as it takes to be done in num_steps steps: at least one each step.
    """

    order_is_deterministic: ClassVar = True
    looks_first: ClassVar = True

    num_steps: int = 64
    window: int = 2
    threshold: float = 0.9
    draw: TokenDraw = field(default_factory=TokenDraw)

    def __post_init__(self) -> None:
        at_least("num_steps", self.num_steps, 1)
        at_least("window", self.window, 1)
        if not 0 < self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}, expected above 0 and at most 1")

    def __call__(self, state: Reverse) -> Iterator[None]:
        steps = [self.max_nfe(n) for n in state.num_to_fill]
        ends = all_boundaries("constant", state.num_to_fill, steps, None, state.z_t.shape[1])
        shape = (self.window, *state.z_t.shape)
        confidence = torch.zeros(shape, dtype=torch.float64, device=state.z_t.device)
        best = torch.full(shape, -1, device=state.z_t.device)  # -1: not seen yet

        def decide(seen: Seen) -> Choice:
            slot = seen.step % self.window
            across = seen.rows[:, None].expand_as(seen.positions)
            confidence[slot, across, seen.positions] = seen.max_probability.double()
            best[slot, across, seen.positions] = seen.best
            same = (best[:, across, seen.positions] == seen.best).all(0)
            stability = torch.where(same, confidence[:, across, seen.positions].amin(0), 0.0)
            count = ((stability >= self.threshold) & seen.is_masked).sum(1)
            # 1 + stability: above every confidence, so that confidence only decides where no history does
            priority = torch.where(stability > 0, 1 + stability, seen.max_probability.double())
            return Choice(settle_ties(priority), torch.maximum(count, seen.num_due))

        return reveal_adaptively(state, self.draw, decide, ends=ends, counts_vary=True)

    def max_nfe(self, num_to_fill: int) -> int:
        return min(self.num_steps, num_to_fill)
