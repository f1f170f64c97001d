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
        self, k: Float[Tensor, "batch k heads head_width"], v: Float[Tensor, "batch k heads head_width"]
    ) -> tuple[Float[Tensor, "batch heads places head_width"], Float[Tensor, "batch heads places head_width"]]:
        """Write the keys and values of the places that are read now; return those of all places."""
        rows = torch.arange(len(self.now), device=self.now.device)[:, None]
        self.keys[rows, :, self.now] = k.to(self.keys.dtype)
        self.values[rows, :, self.now] = v.to(self.values.dtype)
        return self.keys, self.values


class Reading(NamedTuple):
    """The places that a pass reads, and what it may look at."""

    blocks: Sequence[BlockMemory]
    attend: Bool[Tensor, "batch 1 k places"]
    """Place j is seen from place i where j <= i."""


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of every block, (batch, heads, places, head width), in buffers that stay where they are, so that
    a CUDA graph can write to them.

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

    def first(self, num_rows: int, num_places: int) -> KeyValueCache:
        """The cache of the first rows and places alone, in the same memory."""
        keys, values = ([part[:num_rows, :, :num_places] for part in parts] for parts in (self.keys, self.values))
        return KeyValueCache(keys, values)

    def read(self, places: Int[Tensor, "batch k"]) -> Reading:
        """A pass over these places, all below the number that the cache has."""
        blocks = [BlockMemory(keys, values, places) for keys, values in zip(self.keys, self.values, strict=True)]
        all_places = torch.arange(self.keys[0].shape[2], device=places.device)
        return Reading(blocks, (all_places <= places[..., None])[:, None])
