"""What the loss, the samplers, fine-tuning and the compiler ask of a network: `Backbone`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.nets.cache import KeyValueCache

Mode = Literal["masked", "causal"]
"""How a network may be asked: about masked tokens from all others (masked), or about each token from those before it
(causal)."""


@runtime_checkable
class Backbone(Protocol):
    """A network over tokens 0 .. vocab_size - 1, as an `nn.Module`. Yours joins in as `model.kind: mypackage:Mine`, or
    bare: `MaskedDiffusionLM(network, tokenizer)`.

    In the mode masked it is called as `network(z_t, t, lengths)`, with [MASK] as token `vocab_size`, and gives the
    logits (B, L, vocab_size) of the clean tokens; in the mode causal as `network(x)`, and gives those of x_i from x_<i
    at every place i. `hidden`, called alike, gives the same but for the output layer, so that the loss and the samplers
    take logits only where they need them: logits = hidden @ weight.T + bias, by `output_layer`.

    A network that has transformer blocks in `blocks` (an nn.ModuleList) and what follows them in `finish` is compiled
    and sharded block by block, and as a whole otherwise.
    """

    modes: ClassVar[frozenset[Mode]]
    """The modes it has; the first thing that is asked of it."""
    vocab_size: int
    max_length: int
    """Longest sequence, in tokens."""

    def hidden(self, *tokens: Any, **more: Any) -> Float[Tensor, "batch length width"]:
        """All but the output layer, called as the network is."""
        ...

    def output_layer(self) -> tuple[Float[Tensor, "vocab width"], Float[Tensor, " vocab"] | None]:
        """The output layer's weight and bias."""
        ...


@runtime_checkable
class Cached(Protocol):
    """A Backbone whose mode causal can go on reading where it has stopped. One that has only `hidden` is read from the
    start again for every token."""

    vocab_size: int

    def empty_cache(self, num_rows: int, num_places: int, dtype: torch.dtype | None = None) -> KeyValueCache:
        """For reading so many rows, of at most so many places."""
        ...

    def read(
        self,
        symbols: Int[Tensor, "batch k"],
        places: Int[Tensor, "batch k"],
        cache: KeyValueCache,
        num_places: int | None = None,
    ) -> Float[Tensor, "batch k width"]:
        """`hidden` of the mode causal at k places of each row, in rising order, by what `cache` has kept of all places
        before them; it then keeps these too.

        Place 0 holds the start symbol, `vocab_size`, and place i token i - 1; what is returned at place i predicts
        token i. `num_places`: a number that all places are below, so that no more need be looked at.
        """
        ...
