"""The first-hitting sampler (arXiv 2409.02908): jump from one reveal to the next instead of stepping through time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxtyping import Int
from torch import Tensor

from mdlm_atat.checks import at_least
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse
from mdlm_atat.samplers.plan import reveal_as_planned, reveal_order
from mdlm_atat.samplers.sizes import Profile, Sizes, all_boundaries


@dataclass(frozen=True, kw_only=True)
class FirstHitting:
    """A random order, in groups; exact one token at a time.

    Reveal the positions in a uniformly random order: one at a time, which is exact (what ancestral sampling tends
    to as T grows, without its discretisation), or `num_steps` groups of `sizes`, each group's tokens drawn
    independently. At most num_steps network evaluations a row.

    With the same seed it reveals in the order that Ancestral does.
    """

    num_steps: int | None = None
    """Groups; None: one token at a time."""
    sizes: Sizes = "constant"
    profile: Profile | None = None
    """The model's own validation profile, for sizes=optimal."""
    draw: TokenDraw = field(default_factory=TokenDraw)

    def __post_init__(self) -> None:
        at_least("num_steps", self.num_steps, 1)

    def __call__(self, state: Reverse) -> Iterator[None]:
        return reveal_as_planned(state, reveal_order(state, state.uniform()), self.ends(state), self.draw)

    def ends(self, state: Reverse) -> Int[Tensor, "batch steps_and_start"]:
        """How many of each row's tokens are revealed after each step."""
        steps = [self.max_nfe(n) for n in state.num_to_fill]
        return all_boundaries(self.sizes, state.num_to_fill, steps, self.profile, state.z_t.shape[1])

    def max_nfe(self, num_to_fill: int) -> int:
        return min(self.num_steps or num_to_fill, num_to_fill)
