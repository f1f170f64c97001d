"""Sampling from left to right, one token a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from mdlm_atat.errors import UserError
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse
from mdlm_atat.samplers.plan import reveal_as_planned
from mdlm_atat.samplers.sizes import all_boundaries

STEPS_BETWEEN_LOOKS = 16  # at whether all rows have ended: each waits for the device


@dataclass(frozen=True, kw_only=True)
class LeftToRight:
    """Left to right, one token at a time: for models with a causal mode.

    Reveals the leftmost masked position of every row, from p(x_i | x_<i). A network with a key-value cache reads every
    token once.
    """

    order_is_deterministic: ClassVar = True

    draw: TokenDraw = field(default_factory=TokenDraw)
    stop_at_eos: bool = False
    """A text ends at the first end-of-document token that is drawn. Otherwise another document follows."""
    eos_id: int | None = None

    def __post_init__(self) -> None:
        if self.stop_at_eos and self.eos_id is None:
            raise UserError("`stop_at_eos` needs a tokenizer with an end-of-document token, and this one has none")

    def __call__(self, state: Reverse) -> Iterator[None]:
        if self.stop_at_eos and state.ended.all():
            return
        length = state.z_t.shape[1]
        order = torch.where(state.to_fill, torch.arange(length), length).argsort(dim=1, stable=True)
        ends = all_boundaries("constant", state.num_to_fill, state.num_to_fill, None, length)
        state.read_left_to_right()
        for number, _ in enumerate(reveal_as_planned(state, order, ends, self.draw), 1):
            if self.stop_at_eos:
                is_new = state.revealed_at_step == state.step
                state.ended |= (is_new & (state.z_t == self.eos_id)).any(1)
            yield
            if self.stop_at_eos and number % STEPS_BETWEEN_LOOKS == 0 and state.ended.all():
                return

    def max_nfe(self, num_to_fill: int) -> int:
        return num_to_fill
