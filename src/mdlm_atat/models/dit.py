"""ATATDiT: the bidirectional transformer that denoises masked tokens."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mdlm_atat.models.layers import (
    Block,
    Norm,
    Rotary,
    TimeEmbedding,
    attend_mask,
    initialise,
    make_norm,
    modulate,
    zero_linear,
)


class ATATDiT(nn.Module):
    """A diffusion transformer over tokens (arXiv 2212.09748, 2406.07524): embeddings, blocks, norm, output layer.

    Its vocabulary has `vocab_size` tokens with an output each, and [MASK] with id `vocab_size`, which has an embedding
    and no output. `extra_outputs` rows of the output layer are cut off unread: MDLM's published DDiT has one, and is
    ATATDiT(50257, 1024, num_layers=12, width=768, num_heads=12, time_conditioning=True, tied=False, extra_outputs=1).
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
        time_conditioning: bool = False,
        time_width: int = 128,
        tied: bool = True,
        extra_outputs: int = 0,
    ) -> None:
        super().__init__()
        self.vocab_size, self.mask_id, self.max_length = vocab_size, vocab_size, max_length
        self.embedding = nn.Embedding(vocab_size + 1, width)
        self.rotary = Rotary(width // num_heads, max_length)
        self.time_embedding = TimeEmbedding(time_width) if time_conditioning else None
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads,
                mlp_ratio=mlp_ratio,
                norm=norm,
                qk_norm=qk_norm,
                dropout=dropout,
                causal=False,
                time_width=time_width if time_conditioning else None,
            )
            for _ in range(num_layers)
        )
        self.norm = make_norm(norm, width)
        self.modulation = zero_linear(time_width, 2 * width) if time_conditioning else None
        self.output = None if tied else zero_linear(width, vocab_size + extra_outputs)
        initialise(self.blocks, self.embedding)

    def forward(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Logits of the clean tokens. `t` is not used without time conditioning; padding beyond `lengths` is
        not attended to."""
        x = self.embedding(z_t)  # (B, L, D)
        condition = None if self.time_embedding is None else self.time_embedding(t)  # (B, time_width)
        attend = attend_mask(lengths, z_t.shape[1])
        for block in self.blocks:
            x = block(x, self.rotary, attend, condition)
        x = self.norm(x)
        if self.modulation is not None:
            x = modulate(x, *self.modulation(condition)[:, None].chunk(2, dim=-1))
        if self.output is None:
            return F.linear(x, self.embedding.weight[: self.vocab_size])
        return self.output(x)[..., : self.vocab_size]
