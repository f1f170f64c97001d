"""Ancestral sampling under a model's own masking schedule: positions are revealed at the rates that it predicts."""

from __future__ import annotations

import torch

from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse


class FollowRates:
    """From r = k/T to s = (k-1)/T, in mask rates of the noise schedule, reveal masked position i with probability
    1 - (s / r) ** speed_hat_i(z, r), drawing its token from the distribution of a token revealed there.

    The reverse process that PPL-S is the bound of (docs/method.md); exact for the model as T grows. Where every
    speed is 1 it is Ancestral. The rates depend on what was revealed, so each step asks the network: NFE = T.
    """

    def __init__(self, num_steps: int, draw: TokenDraw | None = None) -> None:
        self.num_steps = num_steps
        self.draw = draw or TokenDraw()

    def __call__(self, step: int, state: Reverse) -> None:
        r = 1 - (step - 1) / self.num_steps
        s = 1 - step / self.num_steps if step < self.num_steps else 0.0
        masked = state.masked
        rows = masked.any(dim=1)
        logits, speed = state.evaluate(r, rows)  # (R, L, V), (R, L)
        probability = torch.zeros(masked.shape, dtype=torch.float64, device=masked.device)
        probability[rows] = 1 - (s / r) ** speed.double()
        reveal = masked & (state.uniform() < probability)
        uniform = state.uniform()
        state.set(reveal, self.draw(logits[reveal[rows]], uniform[reveal]))
