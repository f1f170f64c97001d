"""What the objective and the samplers ask of a denoiser: a callable. Networks, tables and hand-made toys all
qualify."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Denoiser(Protocol):
    def __call__(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Logits of the clean token at every position, given the partly masked tokens z_t at time t.

        Only the logits at masked positions are ever read. The mask token has no logit: its id is `vocab`, one past
        the last. `t` is the expected share of masked tokens: the linear schedule's time, whatever the schedule, so that
        it means the same in training, evaluation and generation. `lengths`: where rows end and padding begins, None
        when no row is padded; padding must not change the logits.
        """
        ...
