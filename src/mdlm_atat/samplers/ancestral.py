"""Ancestral sampling over T steps: MDLM's own sampler (`ddpm` in the paper's code)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from mdlm_atat.checks import at_least
from mdlm_atat.core.schedules import Linear, Schedule
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse
from mdlm_atat.samplers.plan import reveal_as_planned, reveal_order


@dataclass(frozen=True, kw_only=True)
class Ancestral:
    """T steps through time; each reveals what chance has it, all at once (MDLM's own).

    From t = k/T to s = (k-1)/T, reveal each masked position with probability 1 - mask_rate(s) / mask_rate(t),
    drawing its token from p(x0_i | z_t) (Sahoo et al. 2024, eq. 7). All of a step's tokens are drawn independently:
    exact as T grows.

    Which positions are revealed does not depend on the network: position i is masked at time t while a uniform number
    of its own lies below mask_rate(t). So all of it is drawn beforehand, and with `cache` the network is asked only
    about rows in which something is revealed: the same tokens from at most L evaluations a row instead of T. This is
    the paper's cache, a row at a time, with nothing to store, and it holds for time-conditioned denoisers too.
    """

    num_steps: int = 128
    schedule: Schedule = field(default_factory=Linear)
    cache: bool = True
    draw: TokenDraw = field(default_factory=TokenDraw)

    def __post_init__(self) -> None:
        at_least("num_steps", self.num_steps, 1)

    def __call__(self, state: Reverse) -> Iterator[None]:
        uniform = state.uniform()
        t = torch.arange(self.num_steps, -1, -1, dtype=torch.float64) / self.num_steps  # 1, ..., 0
        mask_rate = self.schedule.mask_rate(t)
        # hidden still at the end of step k: the positions whose number lies below mask_rate
        hidden = torch.where(state.to_fill, uniform.cpu(), 2.0).sort(dim=1).values  # (B, L)
        num_hidden = torch.searchsorted(hidden, mask_rate.expand(len(hidden), -1).contiguous())  # (B, T + 1)
        ends = num_hidden[:, :1] - num_hidden
        return reveal_as_planned(state, reveal_order(state, uniform), ends, self.draw, ask_always=not self.cache)

    def max_nfe(self, num_to_fill: int) -> int:
        return min(self.num_steps, num_to_fill) if self.cache else self.num_steps * (num_to_fill > 0)
