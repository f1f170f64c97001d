"""Asking a network in its causal mode: about all tokens at once, or one after the other with a key-value cache."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_atat.core.denoiser import Prediction
from mdlm_atat.device import Graphed
from mdlm_atat.nets.cache import KeyValueCache
from mdlm_atat.nets.protocol import Cached

FEWEST_PLACES = 64


class CachedSteps:
    """Passes of a network that has a key-value cache over one new token of each row.

    A pass attends to the first 64, 128, 256, ... places, as many as have been read. After `record`, for a GPU, each is
    captured as a CUDA graph, once for each power of two of rows and of places; the caches that the graphs write to
    stay, and are written over by the next texts. Of texts that are written in turns each has a cache of its own.
    """

    def __init__(
        self, network: Cached, inference: Callable[[], AbstractContextManager[None]], dtype: torch.dtype | None
    ) -> None:
        """`inference`: the arithmetic that the network runs in. `dtype`: the one of keys and values there; None: the
        weights'."""
        self._network, self._inference, self._dtype = network, inference, dtype
        self._capacity: int | None = None  # of places, where graphs are recorded
        self._kept: dict[int, list[Kept]] = {}  # by their rows

    @property
    def is_recorded(self) -> bool:
        return self._capacity is not None

    def record(self, capacity: int) -> None:
        """From now on record passes, over at most so many places."""
        self._capacity = capacity

    @torch.no_grad()
    def begin(self, z_t: Tensor, num_given: int) -> Callable[[Tensor], Tensor]:
        """Read the first `num_given` tokens of z_t (B, L), fewer where [MASK] comes before. What is returned, called
        with the same rows and one more token each time, gives what the last norm does (B, D) where the first [MASK] of
        each row is predicted."""
        num_rows, length = z_t.shape
        cache = self.cache_of(num_rows, length)
        start_id = mask_id = self._network.vocab_size
        if num_given > 0:  # all but the last token: it is read in the first step
            symbols = F.pad(z_t[:, : num_given - 1], (1, 0), value=start_id)
            places = torch.arange(num_given, device=z_t.device).expand(num_rows, -1)
            with self._inference():
                self._network.read(symbols, places, cache.first(num_rows), num_looked_at(num_given, cache))
        num_read = num_given

        def step(z_t: Tensor) -> Tensor:
            nonlocal num_read
            num_read += 1
            num_places = num_looked_at(num_read, cache)
            unknown = z_t == mask_id
            place = torch.where(unknown.any(1), unknown.int().argmax(1), length)
            # a row in which nothing is to be filled in any more, or not here, reads what nobody asks for
            place = place.clamp_max(min(num_read, length) - 1)[:, None]
            symbol = torch.where(place > 0, z_t.gather(1, (place - 1).clamp_min(0)), start_id)
            return self.over(cache, num_places)(symbol, place)[:, 0]

        return step

    def cache_of(self, num_rows: int, length: int) -> KeyValueCache:
        """A cache for so many rows and places, or for more. Whoever holds it has it to themselves."""
        if self._capacity is None:
            return self._network.empty_cache(num_rows, length, self._dtype)
        num_rows = 1 << (num_rows - 1).bit_length()
        kept = self._kept.setdefault(num_rows, [])
        free = next((each for each in kept if each.lent() is None), None)
        if free is None:
            free = Kept(self._network.empty_cache(num_rows, self._capacity, self._dtype))
            kept.append(free)
        return free.lend()

    def over(self, cache: KeyValueCache, num_places: int) -> Callable[[Tensor, Tensor], Tensor]:
        """A pass over symbols and their places (B, K), that looks at the first places of the cache."""
        kept = next((each for each in self._kept.get(len(cache.keys[0]), ()) if each.lent() is cache), None)
        buffers = cache if kept is None else kept.cache  # a graph is not to hold what was lent

        def read(symbols: Tensor, places: Tensor) -> Tensor:
            with self._inference():
                return self._network.read(symbols, places, buffers.first(len(symbols)), num_places)

        # reading the same again changes nothing, so what a graph reads before it is recorded does no harm; and rows
        # that are there to fill a power of two have rows of the cache to themselves
        return read if kept is None else kept.graphs.setdefault(num_places, Graphed(read))


@dataclass
class Kept:
    """A cache in memory that stays, and the graphs that write to it."""

    cache: KeyValueCache
    graphs: dict[int, Graphed] = field(default_factory=dict)
    """By the number of places that they look at."""
    lent: Callable[[], KeyValueCache | None] = lambda: None
    """What was lent, as long as somebody holds it."""

    def lend(self) -> KeyValueCache:
        """The cache as an object of its own: who lets go of that has given it back."""
        lent = KeyValueCache(self.cache.keys, self.cache.values)
        self.lent = weakref.ref(lent)
        return lent


def num_looked_at(num_read: int, cache: KeyValueCache) -> int:
    """At how many places a pass looks when so many have been read: few numbers, for each is compiled and recorded."""
    return min(cache.num_places, max(FEWEST_PLACES, 1 << (num_read - 1).bit_length()))


class LeftToRightDenoiser:
    """The causal mode as step rules ask it: a core.denoiser.Reader."""

    def __init__(
        self, whole: Callable[[Tensor, Tensor], Prediction], steps: CachedSteps, project: Callable[[Tensor], Tensor]
    ) -> None:
        """`whole`: all tokens at once. `project`: the output layer."""
        self._whole, self._steps, self._project = whole, steps, project

    @property
    def is_recorded(self) -> bool:
        return self._steps.is_recorded

    def __call__(self, z_t: Tensor, t: Tensor) -> Prediction:
        return self._whole(z_t, t)

    def begin(self, z_t: Tensor, num_given: int) -> Callable[[Tensor, Tensor], Prediction]:
        step = self._steps.begin(z_t, num_given)

        def ask(z_t: Tensor, rows: Tensor) -> Prediction:
            hidden = step(z_t)[rows]
            return Prediction(lambda positions: self._project(hidden)[:, None].expand(-1, positions.shape[1], -1))

        return ask
