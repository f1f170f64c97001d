"""Ancestral sampling over T steps: MDLM's own sampler (`ddpm` in the paper's code)."""

from __future__ import annotations

import torch

from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse
from mdlm_atat.schedules import Schedule, reveal_probability


class Ancestral:
    """From t = k/T to s = (k-1)/T, reveal each masked position with probability 1 - mask_rate(s) / mask_rate(t),
    drawing its token from p(x0_i | z_t) (Sahoo et al. 2024, eq. 7). All of a step's tokens are drawn independently:
    exact as T grows.

    Which positions are revealed does not depend on the network, so with `cache` it is asked only about rows in which
    something is revealed: the same tokens from at most L evaluations a row instead of T. This is the paper's cache, a
    row at a time, with nothing to store, and it holds for time-conditioned denoisers too.
    """

    def __init__(
        self, schedule: Schedule, num_steps: int, draw: TokenDraw | None = None, *, cache: bool = True
    ) -> None:
        self.schedule, self.num_steps, self.cache = schedule, num_steps, cache
        self.draw = draw or TokenDraw()

    def __call__(self, step: int, state: Reverse) -> None:
        t = 1 - (step - 1) / self.num_steps
        s = 1 - step / self.num_steps
        if step == self.num_steps:
            s = 0.0  # exactly: the last step reveals everything
        reveal = state.masked & (state.uniform() < reveal_probability(self.schedule, t, s))  # (B, L)
        token_uniform = state.uniform()
        rows = reveal.any(dim=1) if self.cache else torch.ones_like(reveal[:, 0])
        if not rows.any():
            return
        mask_rate = self.schedule.mask_rate(torch.tensor(t, dtype=torch.float64)).item()
        logits = state.logits(mask_rate, rows)  # (R, L, V)
        state.set(reveal, self.draw(logits[reveal[rows]], token_uniform[reveal]))
