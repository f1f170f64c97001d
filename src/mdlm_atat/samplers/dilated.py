"""Dilated unmasking (Luxembourg, Permuter and Nachmani, arXiv 2506.19037): tokens that are far apart come together.

What was read: the abstract (ICML 2026), and the page and code that the authors publish (github.com/omerlux/DUS).
From there are the rounds, the blocks of ceil(log_a B) evaluations, and that unsure tokens wait. Our own reading is the
rest. Where text is given, the positions to fill are numbered without it. Strides are powers of the base also in a block
whose size is none; there their code divides the size and rounds, which leaves neighbours for the last round. A position
waits by the largest probability that any token has there, not by that of the token drawn: the same at temperature 0,
and otherwise the order would depend on what is hidden. And it waits for the next round, where their code, as we read
it, draws it no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

import torch

from mdlm_atat.checks import at_least
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.adaptive import Choice, Seen, reveal_adaptively, settle_ties
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse
from mdlm_atat.samplers.plan import order_of_steps, reveal_as_planned


@dataclass(frozen=True, kw_only=True)
class Dilated:
    """Block after block, in each of them places far apart first and those between them later.

    Dilated unmasking (arXiv 2506.19037). Of a block of B positions round k of ceil(log_a B) reveals those at multiples
    of a^(ceil(log_a B) - k) that are masked still: of 8, with a = 2, first 0 and 4, then 2 and 6, then 1, 3, 5 and 7.
    With a = 2 and B above 2 no two neighbours are drawn at once, but where a last block of 2 is left over. Where the
    network is sure does not matter, so the order is known beforehand, and N positions take N / B times ceil(log_a B)
    evaluations.
    """

    order_is_deterministic: ClassVar = True

    num_steps: int | None = None
    """Steps at most: the block is the one with the most evaluations within that, the whole row at least; where that
    takes more, the base is raised. None: as many as `block` takes."""
    block: int = field(default=32, metadata={"when": ({"num_steps": None},)})
    """Positions of a block."""
    base: int = 2
    """a: how many times closer the positions of a round are than those of the round before."""
    skip_below: float = 0.0
    """A position whose likeliest token is less probable waits for the next round; in the last of a block none does, and
    in every round one comes."""
    draw: TokenDraw = field(default_factory=TokenDraw)

    def __post_init__(self) -> None:
        at_least("num_steps", self.num_steps, 1)
        at_least("block", self.block, 1)
        at_least("base", self.base, 2)
        if not 0 <= self.skip_below <= 1:
            raise UserError(f"skip_below is {self.skip_below}, expected from 0 (nothing waits) to 1")

    def __call__(self, state: Reverse) -> Iterator[None]:
        step, last = (torch.zeros(state.to_fill.shape, dtype=torch.int64) for _ in range(2))  # (B, L)
        for row, to_fill in enumerate(state.to_fill):
            plan = torch.tensor(self.plan(int(to_fill.sum())), dtype=torch.int64)
            step[row, to_fill], last[row, to_fill] = plan.view(-1, 2).T
        order, ends = order_of_steps(step, state.to_fill)
        if self.skip_below == 0:
            return reveal_as_planned(state, order, ends, self.draw)
        step, last = step.to(state.z_t.device), last.to(state.z_t.device)

        def decide(seen: Seen) -> Choice:
            across = seen.rows[:, None], seen.positions
            is_due = step[across] <= seen.step
            is_sure = (seen.max_probability >= self.skip_below) | (last[across] <= seen.step)
            chosen = is_due & is_sure & seen.is_masked
            # above every probability: what waits comes only where nothing else does, and what is not due not at all
            priority = settle_ties(seen.max_probability.double()) + 2.0 * is_due + 2.0 * chosen
            return Choice(priority, chosen.sum(1).clamp_min(1))

        return reveal_adaptively(state, self.draw, decide, ends=ends, counts_vary=True)

    def plan(self, num_to_fill: int) -> tuple[tuple[int, int], ...]:
        """Of each of so many positions the step that it comes in, from 1, and the last step of its block."""
        base = self.base
        if self.num_steps is None:
            return dilated_plan(num_to_fill, self.block, base)
        while num_rounds(num_to_fill, base) > self.num_steps:
            base += 1
        # not a block as large as the base: all of it, neighbours too, would come at once
        sizes = [base**k for k in range(num_rounds(num_to_fill, base)) if k != 1]
        plans = [dilated_plan(num_to_fill, size, base) for size in (num_to_fill, *reversed(sizes))]
        return max((plan for plan in plans if _num_steps(plan) <= self.num_steps), key=_num_steps)

    def max_nfe(self, num_to_fill: int) -> int:
        return _num_steps(self.plan(num_to_fill))


def num_rounds(size: int, base: int) -> int:
    """ceil(log_base size), in whole numbers; 1 for a single position, 0 for none."""
    rounds = min(size, 1)
    while base**rounds < size:
        rounds += 1
    return rounds


@cache
def dilated_plan(num_to_fill: int, block: int, base: int) -> tuple[tuple[int, int], ...]:
    """Of each of so many positions the step that it comes in, from 1, and the last step of its block: blocks one after
    the other, the last one with what is left."""
    plan: list[tuple[int, int]] = []
    done = 0
    for start in range(0, num_to_fill, max(1, block)):
        size = min(block, num_to_fill - start)
        rounds = num_rounds(size, base)
        for place in range(size):
            first = next(k for k in range(1, rounds + 1) if place % base ** (rounds - k) == 0)
            plan.append((done + first, done + rounds))
        done += rounds
    return tuple(plan)


def _num_steps(plan: tuple[tuple[int, int], ...]) -> int:
    return plan[-1][1] if plan else 0
