"""Transformer: what every network of this package is: embeddings, blocks, a norm, an output layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mdlm_atat.nets.cache import KeyValueCache, Reading
from mdlm_atat.nets.layers import (
    OWN_LAYOUT,
    Block,
    Layout,
    Norm,
    Rotary,
    TimeEmbedding,
    initialise,
    make_norm,
    modulate,
    zero_linear,
)


class Transformer(nn.Module):
    """Over `vocab_size` tokens with an output each, and one more symbol with an embedding and no output: [MASK], and
    the start of a text that is read left to right.

    `extra_outputs` rows of the output layer are cut off unread. `time_width`: the width of the vector that conditions
    every block (adaLN) on a time; None: there is none. Subclasses say in `hidden` what goes through the blocks: all but
    the output layer, for those who want logits at some positions only.
    """

    def __init__(
        self,
        vocab_size: int,
        max_length: int,
        *,
        num_layers: int,
        width: int,
        num_heads: int,
        mlp_ratio: int = 4,
        norm: Norm = "layer",
        qk_norm: bool = False,
        dropout: float = 0.0,
        tied: bool = True,
        extra_outputs: int = 0,
        time_width: int | None = None,
        num_places: int | None = None,
        layout: Layout = OWN_LAYOUT,
    ) -> None:
        """`num_places`: the most that go through the blocks at once, where that is more than `max_length`."""
        super().__init__()
        self.vocab_size, self.max_length = vocab_size, max_length
        self.num_kv_heads = layout.num_kv_heads or num_heads
        self.head_width = layout.head_width or width // num_heads
        self.embedding = nn.Embedding(vocab_size + 1, width)
        self.rotary = Rotary(self.head_width, num_places or max_length, layout)
        self.time_embedding = None if time_width is None else TimeEmbedding(time_width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads,
                mlp_ratio=mlp_ratio,
                norm=norm,
                qk_norm=qk_norm,
                dropout=dropout,
                time_width=time_width,
                layout=layout,
            )
            for _ in range(num_layers)
        )
        self.norm = make_norm(norm, width, layout.norm_eps)
        self.modulation = None if time_width is None else zero_linear(time_width, 2 * width)
        self.output = None if tied else zero_linear(width, vocab_size + extra_outputs)
        initialise(self.blocks, self.embedding)

    def through_blocks(
        self,
        x: Float[Tensor, "batch places width"],
        *,
        attend: Bool[Tensor, "batch 1 1 places"] | None = None,
        condition: Float[Tensor, "batch time_width"] | None = None,
        causal: bool = False,
        reading: Reading | None = None,
    ) -> Float[Tensor, "batch places width"]:
        """Embeddings through all blocks and the last norm. `causal`: a place sees itself and those before it; so it
        does in a `reading`, where those before it are in a cache."""
        if reading is None:
            for block in self.blocks:
                x = block(x, self.rotary, attend, condition, causal)
            return self.finish(x, condition)
        for block, memory in zip(self.blocks, reading.blocks, strict=True):
            assert isinstance(block, Block)
            read = block.read_one if x.shape[1] == 1 else block.read
            x = read(x, self.rotary, reading.attend, condition, memory)
        return Transformer.finish(self, x, condition)  # compiled it would be once more, for these shapes

    def empty_cache(self, num_rows: int, num_places: int, dtype: torch.dtype | None = None) -> KeyValueCache:
        """For reading left to right so many rows, of at most so many places. `dtype` None: the weights'."""
        weight = self.embedding.weight
        shape = (num_rows, self.num_kv_heads, num_places, self.head_width)
        return KeyValueCache.empty(len(self.blocks), shape, dtype=dtype or weight.dtype, device=weight.device)

    def finish(
        self, x: Float[Tensor, "batch places width"], condition: Float[Tensor, "batch time_width"] | None
    ) -> Float[Tensor, "batch places width"]:
        """The last norm."""
        x = self.norm(x)
        if self.modulation is None or condition is None:
            return x
        return modulate(x, *self.modulation(condition)[:, None].chunk(2, dim=-1))

    def output_layer(self) -> tuple[Float[Tensor, "vocab width"], Float[Tensor, " vocab"] | None]:
        """Its weight and bias."""
        if self.output is None:
            return self.embedding.weight[: self.vocab_size], None
        return self.output.weight[: self.vocab_size], self.output.bias[: self.vocab_size]

    def logits(self, hidden: Float[Tensor, "batch positions width"]) -> Float[Tensor, "batch positions vocab"]:
        """The output layer's logits."""
        return F.linear(hidden, *self.output_layer())
