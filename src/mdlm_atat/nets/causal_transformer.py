"""CausalTransformer: the left-to-right baseline, made of the same blocks as the denoiser."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mdlm_atat.nets.layers import Block, Norm, Rotary, initialise, make_norm, zero_linear
from mdlm_atat.nets.protocol import Mode


class CausalTransformer(nn.Module):
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
    ) -> None:
        super().__init__()
        self.vocab_size, self.start_id, self.max_length = vocab_size, vocab_size, max_length
        self.embedding = nn.Embedding(vocab_size + 1, width)
        self.rotary = Rotary(width // num_heads, max_length)
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads,
                mlp_ratio=mlp_ratio,
                norm=norm,
                qk_norm=qk_norm,
                dropout=dropout,
                causal=True,
                time_width=None,
            )
            for _ in range(num_layers)
        )
        self.norm = make_norm(norm, width)
        self.output = None if tied else zero_linear(width, vocab_size)
        initialise(self.blocks, self.embedding)

    def forward(self, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocab"]:
        """Logits of x_i given x_<i, for every i; x itself is shifted here, so logits[:, i] never sees x_i."""
        return self.logits(self.hidden(x))

    def hidden(self, x: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length width"]:
        """What the last norm gives: all but the output layer, for those who want logits at some positions only."""
        shifted = F.pad(x[:, :-1], (1, 0), value=self.start_id)  # (B, L): start, x_1 .. x_{L-1}
        h = self.embedding(shifted)  # (B, L, D)
        for block in self.blocks:
            h = block(h, self.rotary)
        return self.finish(h)

    def finish(self, h: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """The last norm."""
        return self.norm(h)

    def output_layer(self) -> tuple[Float[Tensor, "vocab width"], Float[Tensor, " vocab"] | None]:
        """Its weight and bias."""
        if self.output is None:
            return self.embedding.weight[: self.vocab_size], None
        return self.output.weight, self.output.bias

    def logits(self, hidden: Float[Tensor, "batch positions width"]) -> Float[Tensor, "batch positions vocab"]:
        """The output layer's logits."""
        return F.linear(hidden, *self.output_layer())
