"""What the objective and the samplers ask of a denoiser: a callable. Networks, tables and hand-made toys all
qualify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
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
        the last. `t` is the expected share of masked tokens in the row, a prompt counted: the linear schedule's
        time, whatever the schedule, times the share that is not given, so that it means the same in training,
        evaluation and generation. `lengths`: where rows end and padding begins, None when no row is padded; padding
        must not change the logits.
        """
        ...


@runtime_checkable
class Network(Protocol):
    """A denoiser whose logits are its output layer applied to `hidden`, for those who want them at some positions only.
    Calling it must give the same."""

    def hidden(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length width"]: ...

    def output_layer(self) -> tuple[Float[Tensor, "vocab width"], Float[Tensor, " vocab"] | None]: ...


def without_padding(
    function: Callable[[Tensor, Tensor], Tensor],
    z_t: Int[Tensor, "batch length"],
    t: Float[Tensor, " batch"],
    lengths: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch length size"]:
    """function(z_t, t) of a function that knows no padding: rows that are padded beyond their `lengths` are given to it
    without their padding, those of one length together. 0 at the padding; `lengths` None: no row is padded."""
    if lengths is None:
        return function(z_t, t)
    rows_of = {length: (lengths == length).nonzero()[:, 0] for length in lengths.unique().tolist()}
    found = {length: function(z_t[rows, :length], t[rows]) for length, rows in rows_of.items()}
    some = next(iter(found.values()))
    padded = some.new_zeros(*z_t.shape, some.shape[-1])
    for length, rows in rows_of.items():
        padded[rows, :length] = found[length]
    return padded


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of a batch of canvases, with logits only where they are asked for: the output layer is a
    large part of a step's work, and a step reveals few tokens."""

    logits: Callable[[Tensor], Tensor]
    """Logits (B, K, V) at chosen positions (B, K)."""
    speed: Float[Tensor, "batch length"] | None = None
    """How many times as fast as in MDLM each masked position is expected to be revealed; None: it says nothing."""
    importance: Callable[[], Tensor] | None = None
    """Importance in [0, 1] (B, L) of every position; None: the model knows none."""

    @classmethod
    def of(cls, logits: Float[Tensor, "batch length vocab"]) -> Prediction:
        """Of logits that are there already."""
        rows = torch.arange(len(logits), device=logits.device)[:, None]
        return cls(lambda positions: logits[rows, positions])


@dataclass(frozen=True)
class AtMaskRate:
    """A denoiser under a masking schedule of its own. What it says depends on the mask rate of the tokens to fill in,
    besides the share of masks in the row that the network is told: where something is given, the two differ. It may
    depend on where the given part ends, too."""

    ask: Callable[[Tensor, Tensor, Tensor, Tensor], Prediction]
    """Of (z_t, t, mask rate, to_fill): the last (B, L) is which places of the row were not given at the start."""

    def __call__(self, z_t: Int[Tensor, "batch length"], t: Float[Tensor, " batch"]) -> Prediction:
        """Nothing is given: they are one."""
        return self.ask(z_t, t, t, torch.ones_like(z_t, dtype=torch.bool))


@runtime_checkable
class Reader(Protocol):
    """A denoiser that can be asked about one token after the other, from left to right, and keeps what it has read."""

    @property
    def is_recorded(self) -> bool:
        """Whether its passes are replayed from CUDA graphs: what is done between them is then worth recording too."""
        ...

    def begin(
        self, z_t: Int[Tensor, "batch length"], num_given: int
    ) -> Callable[[Int[Tensor, "batch length"], Int[Tensor, " rows"]], Prediction]:
        """Read rows that begin with at most `num_given` tokens and then have [MASK].

        What is returned says of `rows` of z_t how likely each token is to be the first that is masked, and nothing of
        other positions. It is to be called each time that one more token of these rows is known.
        """
        ...
