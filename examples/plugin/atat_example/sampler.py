"""A sampler: a step rule."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse


@dataclass(frozen=True, kw_only=True)
class RightToLeft:
    """Right to left, `group` tokens at a time."""

    order_is_deterministic: ClassVar = True  # so a text has an exact likelihood: lm.score(text, order="right_to_left")

    group: int = 1
    draw: TokenDraw = field(default_factory=TokenDraw)

    def __call__(self, state: Reverse) -> Iterator[None]:
        uniform = state.uniform()  # (B, L): one number a position
        while (masked := state.masked).any():
            rows = masked.any(dim=1).nonzero()[:, 0]  # (R,)
            places = torch.where(masked[rows], torch.arange(masked.shape[1], device=masked.device), -1)  # (R, L)
            rightmost, positions = places.topk(min(self.group, masked.shape[1]), dim=1)  # (R, K)
            is_masked = rightmost >= 0  # at the left end there may be fewer
            state.reveal(state.predict(rows), rows, positions, is_masked, self.draw, uniform)
            yield

    def max_nfe(self, num_to_fill: int) -> int:
        return -(-num_to_fill // self.group)
