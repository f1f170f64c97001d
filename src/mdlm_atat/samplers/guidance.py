"""Guidance by importance: weights that a user gives to tokens make them likelier, and have them revealed earlier."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mdlm_atat.core.denoiser import Prediction


@dataclass(frozen=True)
class Guidance:
    """Token v's logit rises by logit_strength * weights[v] everywhere; and where a rule orders positions by what the
    network says of them, a position comes earlier by order_strength times the weight that is expected there,
    sum over v of p(v) weights[v]. Negative weights or strengths do the opposite. The samples are then no longer
    the model's own."""

    weights: Float[Tensor, " vocab"]
    logit_strength: float = 1.0
    order_strength: float = 0.0

    def apply(self, prediction: Prediction) -> Prediction:
        """The prediction with its logits shifted."""
        bias = self.logit_strength * self.weights

        def logits(positions: Tensor) -> Tensor:
            found = prediction.logits(positions)
            return found.to(torch.promote_types(found.dtype, torch.float32)) + bias

        return replace(prediction, logits=logits)

    def expected_weight(self, probs: Float[Tensor, "rows k vocab"]) -> Float[Tensor, "rows k"]:
        """What a position's priority rises by: order_strength * sum over v of p(v) weights[v]."""
        return self.order_strength * (probs @ self.weights.to(probs.dtype))
