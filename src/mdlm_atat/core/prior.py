"""Importance from the training corpus alone: how rare a token is."""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

PriorKind = Literal["surprisal", "frequency"]


def prior_importance(counts: NDArray, kind: PriorKind) -> Float[Tensor, " vocab"]:
    """Importance in [0, 1] of every token, from its count in the training text. float32.

    frequency: 1 - count / largest count, as ATAT's first description has it: nearly 1 for all but a few tokens.
    surprisal: -log of the frequency, linear between the commonest token (0) and a token seen once (1).
    Tokens that were never seen count as seen once.
    """
    seen = torch.from_numpy(counts).double().clamp_min(1)
    match kind:
        case "frequency":
            prior = 1 - seen / seen.max()
        case "surprisal":
            prior = (seen.max() / seen).log() / seen.max().log().clamp_min(1e-12)
        case _:
            assert_never(kind)
    return prior.clamp(0, 1).float()


def mean_importance(prior: Float[Tensor, " vocab"], counts: NDArray) -> float:
    """The mean over the training text: every token weighted by how often it occurs."""
    weight = torch.from_numpy(counts).double()
    return ((weight * prior.double()).sum() / weight.sum().clamp_min(1)).item()
