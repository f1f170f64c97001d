"""A trained network with a small classification or regression head that reads a whole text."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mdlm_atat.finetuning.settings import Pooling
from mdlm_atat.nets.protocol import Backbone


class Head(nn.Module):
    """Dropout, then a linear layer: an output for each class, or one for a score."""

    def __init__(self, width: int, num_outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.output = nn.Linear(width, num_outputs)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Float[Tensor, "batch width"]) -> Float[Tensor, "batch outputs"]:
        return self.output(F.dropout(features, self.dropout, self.training)).float()


class Classifier(nn.Module):
    """A backbone and a head that reads its pooled states."""

    def __init__(self, backbone: Any, head: Head, pooling: Pooling) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.pooling: Pooling = pooling

    def forward(
        self, ids: Int[Tensor, "batch length"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch outputs"]:
        return self.head(pooled(self.backbone, ids, lengths, self.pooling))


def pooled(
    backbone: Backbone,
    ids: Int[Tensor, "batch length"],
    lengths: Int[Tensor, " batch"],
    pooling: Pooling,
) -> Float[Tensor, "batch width"]:
    """One float32 vector for each text, from the last layer's states. Padding beyond `lengths` has no part in it.

    A masked model reads the text with nothing masked, at t = 0; the vector is the `mean` over the text, or the `first`
    position. A causal model's state at position i has read the tokens before i, so `last` is the state one position
    after the text's end.
    """
    if pooling == "last":
        hidden = backbone.hidden(F.pad(ids, (0, 1)))  # (B, L + 1, D)
        return hidden[torch.arange(len(ids), device=ids.device), lengths].float()
    hidden = backbone.hidden(ids, torch.zeros(len(ids), device=ids.device), lengths)  # (B, L, D)
    if pooling == "first":
        return hidden[:, 0].float()
    is_text = torch.arange(ids.shape[1], device=ids.device)[None, :] < lengths[:, None]
    return (hidden.float() * is_text[..., None]).sum(1) / lengths[:, None]


def longest_text(backbone: Backbone) -> int:
    """Tokens of the longest text that the backbone can read whole: for a causal one, one fewer than its length."""
    return backbone.max_length - ("masked" not in backbone.modes)


def output_width(backbone: Backbone) -> int:
    """Width of the states that `pooled` returns."""
    return backbone.output_layer()[0].shape[1]
