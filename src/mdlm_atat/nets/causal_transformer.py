"""CausalTransformer: the left-to-right baseline, made of the same blocks as the denoiser."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.nets.cache import KeyValueCache
from mdlm_atat.nets.layers import OWN_LAYOUT, Layout, Norm
from mdlm_atat.nets.protocol import Mode
from mdlm_atat.nets.transformer import Transformer


class CausalTransformer(Transformer):
    """p(x) = product over i of p(x_i | x_<i), exactly. The first token is predicted from a start symbol, which takes
    the embedding with id `vocab_size`: the one the denoiser gives to [MASK]. So both models score the same L
    tokens."""

    modes: ClassVar[frozenset[Mode]] = frozenset({"causal"})

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
        layout: Layout = OWN_LAYOUT,
    ) -> None:
        super().__init__(
            vocab_size,
            max_length,
            num_layers=num_layers,
            width=width,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            norm=norm,
            qk_norm=qk_norm,
            dropout=dropout,
            tied=tied,
            layout=layout,
        )

    def forward(self, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocab"]:
        """Logits of x_i given x_<i, for every i; x itself is shifted here, so logits[:, i] never sees x_i."""
        return self.logits(self.hidden(x))

    def hidden(self, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length width"]:
        """What the last norm gives: all but the output layer, for those who want logits at some positions only."""
        shifted = F.pad(x[:, :-1], (1, 0), value=self.vocab_size)  # (B, L): start, x_1 .. x_{L-1}
        return self.through_blocks(self.embedding(shifted), causal=True)

    def read(
        self,
        symbols: Int[Tensor, "batch k"],
        places: Int[Tensor, "batch k"],
        cache: KeyValueCache,
        num_places: int | None = None,
    ) -> Float[Tensor, "batch k width"]:
        """`hidden` at k places of each row only; see nets.protocol.Cached."""
        return self.through_blocks(self.embedding(symbols), reading=cache.read(places, num_places))
