"""KeyValueCache: what causal attention keeps of the places that it has read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class BlockMemory(NamedTuple):
    """Keys and values of one transformer block, and the places that are read now."""

    keys: Float[Tensor, "batch heads places head_width"]
    values: Float[Tensor, "batch heads places head_width"]
    now: Int[Tensor, "batch k"]

    def keep(
        self,
        k: Float[Tensor, "batch k heads head_width"],
        v: Float[Tensor, "batch k heads head_width"],
        num_places: int,
    ) -> tuple[Float[Tensor, "batch heads seen head_width"], Float[Tensor, "batch heads seen head_width"]]:
        """Write the keys and values of the places that are read now; return those of the first places."""
        rows = torch.arange(len(self.now), device=self.now.device)[:, None]
        self.keys[rows, :, self.now] = k.to(self.keys.dtype)
        self.values[rows, :, self.now] = v.to(self.values.dtype)
        return self.keys[:, :, :num_places], self.values[:, :, :num_places]


class Reading(NamedTuple):
    """The places that a pass reads, and what it may look at."""

    blocks: Sequence[BlockMemory]
    attend: Bool[Tensor, "batch 1 k seen"]
    """Place j, of the first so many, is seen from place i where j <= i."""


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of every block, (batch, heads of keys and values, places, head width), in buffers that stay where
    they are, so that a CUDA graph can write to them.

    Every row has a length of its own, and it is the place that is read now which says it: place i sees places 0 to i,
    and what the buffers hold beyond i, of an earlier text or of padding, is never seen. Reading the same again changes
    nothing. So prompts of different lengths go in one batch, aligned at the left, and a row is taken back to any
    length by reading on from there.
    """

    keys: Sequence[Float[Tensor, "batch heads places head_width"]]
    values: Sequence[Float[Tensor, "batch heads places head_width"]]

    @classmethod
    def empty(
        cls,
        num_blocks: int,
        shape: tuple[int, int, int, int],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> KeyValueCache:
        """`shape`: (batch, heads, places, head width). Zeros: what attention gives no weight must be finite."""
        keys, values = ([torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_blocks)] for _ in "kv")
        return cls(keys, values)

    @property
    def num_places(self) -> int:
        return self.keys[0].shape[2]

    def first(self, num_rows: int) -> KeyValueCache:
        """The cache of the first rows alone, in the same memory."""
        keys, values = ([part[:num_rows] for part in parts] for parts in (self.keys, self.values))
        return KeyValueCache(keys, values)

    def read(self, places: Int[Tensor, "batch k"], num_places: int | None = None) -> Reading:
        """A pass over these places. `num_places`: a number that they are all below, to look at no more; None: all."""
        blocks = [BlockMemory(keys, values, places) for keys, values in zip(self.keys, self.values, strict=True)]
        seen = torch.arange(self.num_places if num_places is None else num_places, device=places.device)
        return Reading(blocks, (seen <= places[..., None])[:, None])
