"""Left to right at many places at once: each part of the text is read from its own left end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from mdlm_atat.checks import at_least
from mdlm_atat.effect import A_NUMBER
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse
from mdlm_atat.samplers.plan import order_of_steps, reveal_as_planned


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The leftmost token of each of several equal parts of what is masked, then the next of each.

    The N masked positions are cut into as few parts as num_steps allows, ceil(N / num_steps), in which the positions
    are revealed from left to right, all parts at once. So tokens that come together are far apart, and all but the
    first of a part follow a token that is known, which suits a network that was also trained to read left to right.
    Where the network is sure does not matter: the order is known beforehand. A single part is read from left to right,
    and what is given on its right is seen.
    """

    order_is_deterministic: ClassVar = True

    num_steps: int | None = field(default=None, metadata={"when": ({"tokens_a_step": None},)})
    """Steps at most: positions of the largest part. None: by tokens_a_step, or else one token at a time."""
    tokens_a_step: int | None = None
    """Instead of num_steps: how many parts."""
    least_steps: int = field(default=1, metadata={"when": ({"tokens_a_step": A_NUMBER},)})
    """With tokens_a_step: at least so many steps, or one a token where there are fewer: what fills a short gap stands
    side by side."""
    draw: TokenDraw = field(default_factory=TokenDraw)

    def __post_init__(self) -> None:
        at_least("num_steps", self.num_steps, 1)
        at_least("tokens_a_step", self.tokens_a_step, 1)
        at_least("least_steps", self.least_steps, 1)

    def __call__(self, state: Reverse) -> Iterator[None]:
        step = torch.zeros(state.to_fill.shape, dtype=torch.int64)  # (B, L)
        for row, to_fill in enumerate(state.to_fill):
            step[row, to_fill] = self.plan(int(to_fill.sum()))
        return reveal_as_planned(state, *order_of_steps(step, state.to_fill), self.draw)

    def plan(self, num_to_fill: int) -> Int[Tensor, " num_to_fill"]:
        """The step, from 1, of each position to fill."""
        place, num_parts = torch.arange(num_to_fill), self.num_parts(num_to_fill)
        part = place * num_parts // max(1, num_to_fill)
        start = -(-part * num_to_fill // num_parts)  # rounded up: the first place of the part
        return place - start + 1

    def num_parts(self, num_to_fill: int) -> int:
        if self.num_steps is not None:
            return max(1, -(-num_to_fill // self.num_steps))
        most = num_to_fill // max(1, min(self.least_steps, num_to_fill))
        return max(1, min(self.tokens_a_step or 1, most))

    def max_nfe(self, num_to_fill: int) -> int:
        return -(-num_to_fill // self.num_parts(num_to_fill))
