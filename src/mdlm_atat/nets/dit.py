"""ATATDiT: the bidirectional transformer that denoises masked tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mdlm_atat.nets.cache import Reading
from mdlm_atat.nets.estimator import ImportanceEstimator, mix_importance
from mdlm_atat.nets.layers import OWN_LAYOUT, Layout, Norm, attend_mask, sinusoidal_features, zero_linear
from mdlm_atat.nets.protocol import Mode
from mdlm_atat.nets.transformer import Transformer

NUM_ADDED_FREQUENCIES = 16

Alignment = Literal["own", "shifted"]
TimeFeatures = Literal["t", "sigma"]
LEAST_KEPT = 1e-3
"""Of the log-linear schedule: the share of tokens that it leaves unmasked at t = 1."""


def total_noise(t: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """sigma(t) = -log(1 - (1 - eps) t), float32: with eps = 1e-3, exp(-sigma) of the tokens are not masked at t (the
    log-linear schedule of SEDD, arXiv 2310.16834)."""
    return -torch.log1p(-(1 - LEAST_KEPT) * t.float())


@dataclass(frozen=True)
class ImportanceParts:
    """What makes importance in a network: an estimator, a prior, or both."""

    make_estimator: Callable[[], ImportanceEstimator] | None
    """Called once all other weights are drawn, so that they are the same with and without an estimator."""
    prior: Float[Tensor, " vocab_and_mask"] | None
    """Importance in [0, 1] of every token by its frequency, and last the one of [MASK]: the corpus mean."""
    prior_share: float = 0.3
    """Share of the prior where there is an estimator too."""


class ATATDiT(Transformer):
    """A diffusion transformer over tokens (arXiv 2212.09748, 2406.07524): embeddings, blocks, norm, output layer.

    Its vocabulary has `vocab_size` tokens with an output each, and [MASK] with id `vocab_size`, which has an embedding
    and no output. `extra_outputs` rows of the output layer are cut off unread: MDLM's published DDiT has one, and is
    ATATDiT(50257, 1024, num_layers=12, width=768, num_heads=12, time_conditioning=True, tied=False, extra_outputs=1).

    `time_through`: how a time-conditioned network is told t, by adaLN in every block or, at a hundredth of the
    parameters, by features of t added to the embeddings. `time_features`: they are of 1000 t, or of the total noise
    sigma(t) of the log-linear schedule, as in published networks of MDLM's family (see `total_noise`).

    ATAT's parts, all off by default: `importance`, `predict_speed` (a linear head for the rates of its masking
    schedule) and `position_table` (the log-exponents of a learned one).

    `alignment`: which place predicts token i, its own, or the one before it, as in a causal network (shifted): then
    L + 1 places go through the blocks, the first with a start vector of its own.
    """

    modes: ClassVar[frozenset[Mode]] = frozenset({"masked"})

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
        time_through: Literal["adaln", "embedding"] = "adaln",
        time_width: int = 128,
        time_features: TimeFeatures = "t",
        tied: bool = True,
        extra_outputs: int = 0,
        importance: ImportanceParts | None = None,
        predict_speed: bool = False,
        position_table: bool = False,
        alignment: Alignment = "own",
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
            extra_outputs=extra_outputs,
            time_width=time_width if time_conditioning and time_through == "adaln" else None,
            num_places=max_length + (alignment == "shifted"),
            layout=layout,
        )
        self.mask_id = vocab_size
        self.time_features: TimeFeatures = time_features
        added = time_conditioning and time_through == "embedding"
        self.added_time = zero_linear(2 * NUM_ADDED_FREQUENCIES, width) if added else None
        make = None if importance is None else importance.make_estimator
        self.estimator = None if make is None else make()
        self.prior_share = 0.0 if importance is None else importance.prior_share
        self.register_buffer("prior", None if importance is None else importance.prior, persistent=False)
        self.prior: Tensor | None
        self.speed_head = zero_linear(width, 1) if predict_speed else None
        self.position_table = nn.Parameter(torch.zeros(max_length)) if position_table else None
        self.alignment: Alignment = alignment
        self.start_vector = nn.Parameter(0.02 * torch.randn(width)) if alignment == "shifted" else None

    def forward(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Logits of the clean tokens. `t` is not used without time conditioning; padding beyond `lengths` is
        not attended to."""
        return self.logits(self.hidden(z_t, t, lengths))

    def logits_and_log_speed(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch length vocab"], Float[Tensor, "batch length"]]:
        """The logits, and the log of the predicted speed w_hat(z_t, t) of every masked position: how many times as
        fast as in MDLM it is expected to be revealed. Needs predict_speed."""
        hidden = self.hidden(z_t, t, lengths)
        return self.logits(hidden), self.log_speed(hidden)

    @property
    def has_importance(self) -> bool:
        """Whether it knows the importance of tokens: by an estimator, a prior, or both."""
        return self.estimator is not None or self.prior is not None

    def importance_score(
        self,
        tokens: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length"] | None:
        """The estimator's f for clean (t = 0) or partly masked tokens; None where importance is the prior alone."""
        return None if self.estimator is None else self.estimator(self.embedding(tokens), t, lengths)

    def importance(
        self, tokens: Int[Tensor, "batch length"], score: Float[Tensor, "batch length"] | None
    ) -> Float[Tensor, "batch length"]:
        """Importance in [0, 1] from the estimator's score and the tokens' prior."""
        prior = None if self.prior is None else self.prior[tokens]
        return mix_importance(score, prior, self.prior_share)

    def hidden(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """What the last norm gives: all but the output layer, for those who want logits at some positions only."""
        if self.start_vector is None:
            return self._denoise(self.embedding(z_t), t, lengths)
        padded = None if lengths is None else lengths + 1
        return self._denoise(self._behind_start(z_t), t, padded)[:, :-1]

    def _denoise(
        self,
        x: Tensor,
        t: Tensor,
        lengths: Tensor | None = None,
        *,
        causal: bool = False,
        reading: Reading | None = None,
    ) -> Tensor:
        """Embeddings (B, places, D), told t, through the blocks."""
        if self.time_features == "sigma":
            t = total_noise(t) / 1000  # the features are of 1000 times what they are given
        if self.added_time is not None:
            features = sinusoidal_features(t, NUM_ADDED_FREQUENCIES)
            x = x + self.added_time(features.to(self.added_time.weight.dtype))[:, None]
        condition = None if self.time_embedding is None else self.time_embedding(t)  # (B, time_width)
        attend = attend_mask(lengths, x.shape[1])
        return self.through_blocks(x, attend=attend, condition=condition, causal=causal, reading=reading)

    def _behind_start(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch places width"]:
        """Embeddings of start, token 1 .. token L (B, L + 1, D)."""
        assert self.start_vector is not None
        x = self.embedding(tokens)
        return torch.cat([self.start_vector.to(x.dtype).expand(len(x), 1, -1), x], dim=1)

    def log_speed(self, hidden: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length"]:
        """The head for the rates. Needs predict_speed."""
        assert self.speed_head is not None
        return self.speed_head(hidden)[..., 0].float()
