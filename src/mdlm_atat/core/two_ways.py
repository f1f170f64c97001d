"""The loss of a network that is trained in two ways: to fill masks, and to read left to right."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.core.curriculum import Curriculum
from mdlm_atat.core.left_to_right import CausalNLL
from mdlm_atat.core.objective import Draw, MaskedDiffusion, TrainingLoss


@dataclass(frozen=True)
class TwoWays:
    """One network, trained in two ways: of the rows of every batch a share is read left to right, the others are
    masked. The loss is the mean over all rows, each on the scale of nats per token:

        (1 - share) masked diffusion + share * -log p(x_i | x_<i).

    Of every `share.denominator` rows the last `share.numerator` are causal, so that any number of processes and
    micro-batches split a batch alike.
    """

    masked: MaskedDiffusion
    causal: CausalNLL
    share: Fraction

    @property
    def curriculum(self) -> Curriculum | None:
        return self.masked.curriculum

    def draw(self, batch_size: int, length: int, generator: torch.Generator, step: int = 0) -> Draw:
        draw = self.masked.draw(int(batch_size * (1 - self.share)), length, generator, step)
        return Draw(self._between(draw.t), self._between(draw.uniform), draw.stage)

    def loss(
        self,
        model: Any,
        x0: Int[Tensor, "batch length"],
        lengths: Int[Tensor, " batch"] | None,
        draw: Draw,
        num_tokens: float | Float[Tensor, ""],
        *,
        measure: bool = False,
        prompts: Int[Tensor, " batch"] | None = None,
    ) -> TrainingLoss:
        to_mask, to_read = self._split(x0)
        lengths_masked, lengths_read = (None, None) if lengths is None else self._split(lengths)
        prompts_masked, prompts_read = (None, None) if prompts is None else self._split(prompts)
        draw = Draw(self._split(draw.t)[0], self._split(draw.uniform)[0], draw.stage)
        share = float(self.share)
        num_masked, num_read = num_tokens * (1 - share), num_tokens * share
        masked = self.masked.loss(
            model, to_mask, lengths_masked, draw, num_masked, measure=measure, prompts=prompts_masked
        )
        causal = self.causal.loss(model, to_read, lengths_read, draw, num_read, prompts=prompts_read)
        total = (1 - share) * masked.total + share * causal.total
        return TrainingLoss(total, masked.terms | causal.terms, masked.metrics)

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The rows to mask, and those to read left to right."""
        groups = rows.unflatten(0, (-1, self.share.denominator))
        num_masked = self.share.denominator - self.share.numerator
        return groups[:, :num_masked].flatten(0, 1), groups[:, num_masked:].flatten(0, 1)

    def _between(self, masked: Tensor) -> Tensor:
        """Numbers of the rows to mask at the places of these rows, zeros at those of the others."""
        num_masked = self.share.denominator - self.share.numerator
        groups = masked.unflatten(0, (-1, num_masked))
        empty = groups.new_zeros(len(groups), self.share.numerator, *groups.shape[2:])
        return torch.cat([groups, empty], dim=1).flatten(0, 1)
