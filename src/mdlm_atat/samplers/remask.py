"""Remasking (ReMDM, arXiv 2503.00307): tokens may be taken back and drawn again with more around them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mdlm_atat.checks import at_least, one_of
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse, positions_of

Strategy = Literal["cap", "rescale", "confidence"]


@dataclass(frozen=True, kw_only=True)
class Remask:
    """Like ancestral, but tokens may be taken back and drawn again.

    From mask rate t = k/T to s = (k-1)/T, every revealed token (never one fixed from the start) is masked again with
    probability sigma, and every masked one revealed with probability 1 - (s - sigma (1 - t)) / t, so that the share of
    masked positions stays that of ancestral sampling for any sigma up to sigma_max = min(1, s / (1 - t)):

        cap:        sigma = min(eta, sigma_max)
        rescale:    sigma = eta sigma_max
        confidence: sigma_i = eta n softmax(-c)_i sigma_max over the row's n revealed tokens, c_i being the probability
                    that token i was drawn with: as many as with rescale, the least confident first. (The paper has no
                    eta n: one token a step at most.) Above eta = 1/e, softmax leans towards 1/n as far as it takes to
                    keep sigma_i below sigma_max.

    With an exact denoiser, cap and rescale end in the model's distribution as T grows, but their error falls as
    T^(-1/2), ancestral sampling's as 1/T: what they mend is a network's mistakes. confidence does not: it takes
    unlikely tokens back more often, so its texts are likelier than the model's. Asks the network at every step,
    num_steps times a row.
    """

    num_steps: int = 128
    strategy: Strategy = "cap"
    eta: float = 0.02
    draw: TokenDraw = field(default_factory=TokenDraw)

    def __post_init__(self) -> None:
        at_least("num_steps", self.num_steps, 1)
        one_of("strategy", self.strategy, get_args(Strategy))
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta is {self.eta}, expected from 0 (no remasking) to 1")

    def __call__(self, state: Reverse) -> Iterator[None]:
        rows = state.to_fill.any(dim=1).nonzero()[:, 0].to(state.z_t.device)
        for step in range(1, self.num_steps + 1):
            if len(rows) == 0:
                break
            t = 1 - (step - 1) / self.num_steps
            s = 1 - step / self.num_steps if step < self.num_steps else 0.0
            sigma_max = min(1.0, s / (1 - t)) if t < 1 else 0.0  # at t = 1 nothing is revealed yet
            sigma = min(self.eta, sigma_max) if self.strategy == "cap" else self.eta * sigma_max
            masked = state.masked
            when, what = state.uniform(), state.uniform()
            revealed = masked & (when < 1 - (s - sigma * (1 - t)) / t)
            taken_back = ~masked & (when < sigma * self._doubt(state, ~masked & state.fillable))
            prediction = state.predict(rows)
            positions, valid = positions_of(revealed[rows])
            state.remask(taken_back)
            if positions.shape[1] > 0:
                state.reveal(prediction, rows, positions, valid, self.draw, what)
            yield

    def _doubt(self, state: Reverse, revealed: Bool[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
        """Each revealed position's sigma over the mean one. The mean over a row is 1, and no sigma above sigma_max."""
        if self.strategy != "confidence" or self.eta == 0:
            return torch.ones_like(state.confidence)
        lean = min(1.0, (1 / self.eta - 1) / (math.e - 1))  # n softmax(-c) is below e, as c is from 0 to 1
        share = torch.where(revealed, -state.confidence, -torch.inf).softmax(1)  # NaN where nothing is revealed
        return lean * revealed.sum(1, keepdim=True) * share + 1 - lean

    def max_nfe(self, num_to_fill: int) -> int:
        return self.num_steps * (num_to_fill > 0)
