"""Semi-autoregressive sampling: block after block, for texts of any length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mdlm_atat.checks import at_least
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.loop import Reverse, StepRule


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Fill `size` positions at a time, left to right, each block by the rule `inner`, anew.

    The network sees `window` positions, which end `look_ahead` after the block, or later where the text begins; what
    lies before them it has forgotten. Positions after the block stay masked; fixed ones among them are seen.
    """

    inner: StepRule
    size: int
    window: int
    """The model's length."""
    look_ahead: int = 0
    """How many positions after the block the network sees where it can: for text that is given there."""

    def __post_init__(self) -> None:
        at_least("block size", self.size, 1)
        if self.size > self.window:
            raise UserError(f"block size is {self.size}, expected at most {self.window}, the model's length")
        at_least("look_ahead", self.look_ahead, 0)

    def __call__(self, state: Reverse) -> Iterator[None]:
        length = state.z_t.shape[1]
        for index, begin in enumerate(range(0, length, self.size)):
            end = min(begin + self.size, length)
            ahead = min(self.look_ahead, self.window - self.size)
            start = min(max(0, end + ahead - self.window), max(0, length - self.window))
            stop = min(start + self.window, length)
            inside = (torch.arange(start, stop) >= begin) & (torch.arange(start, stop) < end)
            fill = state.to_fill[:, start:stop] & inside
            if fill.any():
                yield from self.inner(state.window(start, stop, fill, index))

    def max_nfe(self, num_to_fill: int) -> int:
        """The positions may lie in any blocks, at worst each in one of its own."""
        return num_to_fill * self.inner.max_nfe(1)
