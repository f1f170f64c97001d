"""The importance estimators: how hard each token will be to predict, from its context, the time and its frequency."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mdlm_atat.nets.layers import Block, Rotary, TimeEmbedding, attend_mask, make_norm, zero_linear


class ImportanceEstimator(nn.Module):
    """Score f of every token from the backbone's embeddings, which it reads and does not train.

    Linear D -> 256 and ReLU; transformer blocks (4 heads, full attention); LayerNorm, Linear 256 -> 128, GELU,
    Linear 128 -> 1. f estimates the standardised difficulty; `importance` turns it into a number in [0, 1]. The last
    layer starts at zero, so an untrained estimator says 0.5. The time is taken and not used.
    """

    def __init__(
        self, embedding_width: int, max_length: int, *, width: int = 256, num_layers: int = 2, num_heads: int = 4
    ) -> None:
        super().__init__()
        self.input = nn.Linear(embedding_width, width)
        self.rotary = Rotary(width // num_heads, max_length)
        self.blocks = nn.ModuleList(
            Block(
                width,
                num_heads,
                mlp_ratio=4,
                norm="layer",
                qk_norm=False,
                dropout=0.0,
                time_width=None,
            )
            for _ in range(num_layers)
        )
        self.norm = make_norm("layer", width)
        self.head = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), zero_linear(width // 2, 1))

    def forward(
        self,
        embedding: Float[Tensor, "batch length width"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length"]:
        """f (B, L), float32."""
        x = self.add_time(F.relu(self.input(embedding.detach())), t)  # (B, L, W)
        attend = attend_mask(lengths, x.shape[1])
        for block in self.blocks:
            x = block(x, self.rotary, attend)
        return self.head(self.norm(x))[..., 0].float()

    def add_time(
        self,
        context: Float[Tensor, "batch length width"],
        t: Float[Tensor, " batch"],  # noqa: ARG002
    ) -> Float[Tensor, "batch length width"]:
        return context


class AdaptiveImportanceEstimator(ImportanceEstimator):
    """The estimator that knows the time: sinusoidal features and an MLP to W, concatenated with the context (2 W),
    projected back to W and added to it. t = 0 means clean input. 2.07M parameters at D = 768 and W = 256."""

    def __init__(
        self, embedding_width: int, max_length: int, *, width: int = 256, num_layers: int = 2, num_heads: int = 4
    ) -> None:
        super().__init__(embedding_width, max_length, width=width, num_layers=num_layers, num_heads=num_heads)
        self.time_embedding = TimeEmbedding(width)
        self.mix = nn.Linear(2 * width, width)

    def add_time(
        self, context: Float[Tensor, "batch length width"], t: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch length width"]:
        time = self.time_embedding(t)[:, None].expand_as(context)
        return context + self.mix(torch.cat([context, time], dim=-1))


def mix_importance(
    score: Float[Tensor, "batch length"] | None, prior: Float[Tensor, "batch length"] | None, prior_share: float
) -> Float[Tensor, "batch length"]:
    """(1 - prior_share) * sigmoid(score) + prior_share * prior, in [0, 1]; only one of them where the other is None."""
    if score is None:
        assert prior is not None
        return prior
    learned = score.sigmoid()
    return learned if prior is None else (1 - prior_share) * learned + prior_share * prior
