"""Sampling from the causal baseline: left to right, one token a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse
from mdlm_atat.samplers.plan import reveal_as_planned
from mdlm_atat.samplers.sizes import all_boundaries


@dataclass(frozen=True, kw_only=True)
class LeftToRight:
    """Left to right, one token at a time: for causal models.

    Reveals the leftmost masked position of every row, from p(x_i | x_<i).
    """

    order_is_deterministic: ClassVar = True

    draw: TokenDraw = field(default_factory=TokenDraw)

    def __call__(self, state: Reverse) -> Iterator[None]:
        length = state.z_t.shape[1]
        order = torch.where(state.to_fill, torch.arange(length), length).argsort(dim=1, stable=True)
        ends = all_boundaries("constant", state.num_to_fill, state.num_to_fill, None, length)
        return reveal_as_planned(state, order, ends, self.draw)

    def max_nfe(self, num_to_fill: int) -> int:
        return num_to_fill
