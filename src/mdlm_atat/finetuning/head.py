"""A trained network with a small classification or regression head that reads a whole text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.settings import Pooling
from mdlm_atat.nets.protocol import Backbone, Mode

POOLINGS: dict[Mode, tuple[Pooling, ...]] = {"masked": ("mean", "first"), "causal": ("causal_mean", "last")}
"""How the states of a network can be pooled in each of its modes."""


def default_pooling(modes: frozenset[Mode]) -> Pooling:
    """What the head reads where nothing is said. A network of both modes is asked in the causal one: a probe of it
    on 80 e-mails told 0.63 of 40 others right, in the masked mode 0.38 (see docs/classify.md)."""
    if modes == {"masked"}:
        return "mean"
    return "last" if modes == {"causal"} else "causal_mean"


class Head(nn.Module):
    """Dropout, then a linear layer: an output for each class, or one for a score."""

    def __init__(self, width: int, num_outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.output = nn.Linear(width, num_outputs, dtype=torch.float32)
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


def check_backbone(network: Callable[..., Any]) -> Any:
    """The network, as one whose states a head can read. Raises UserError for a bare function, and for a module without
    what `Backbone` asks for."""
    if isinstance(network, nn.Module) and isinstance(network, Backbone):
        return network
    raise UserError(
        f"{getattr(network, '__name__', type(network).__name__)} cannot be fine-tuned: it needs to be a torch module "
        "with `hidden`, `output_layer`, `modes` and `max_length`, as mdlm_atat.nets.protocol describes them"
    )


def pooled(
    backbone: Backbone,
    ids: Int[Tensor, "batch length"],
    lengths: Int[Tensor, " batch"],
    pooling: Pooling,
) -> Float[Tensor, "batch width"]:
    """One float32 vector for each text, from the last layer's states. Padding beyond `lengths` has no part in it.

    In the mode masked the network reads the text with nothing masked, at t = 0; the vector is the `mean` over the text,
    or the `first` position. In the mode causal the state at position i has read the tokens before i: `last` is the
    state one position after the text's end, and `causal_mean` the mean of the states after each of its tokens.
    """
    if pooling in ("last", "causal_mean"):
        hidden = backbone.hidden(F.pad(ids, (0, 1)))  # (B, L + 1, D)
        if pooling == "last":
            return hidden[torch.arange(len(ids), device=ids.device), lengths].float()
        hidden = hidden[:, 1:]
    else:
        hidden = backbone.hidden(
            ids, torch.zeros(len(ids), dtype=torch.float32, device=ids.device), lengths
        )  # (B, L, D)
        if pooling == "first":
            return hidden[:, 0].float()
    is_text = torch.arange(ids.shape[1], device=ids.device)[None, :] < lengths[:, None]
    return (hidden.float() * is_text[..., None]).sum(1) / lengths[:, None]


def longest_text(max_length: int, pooling: Pooling) -> int:
    """Tokens of the longest text that a network of this length reads whole: one fewer in the causal mode."""
    return max_length - (pooling in POOLINGS["causal"])


def output_width(backbone: Backbone) -> int:
    """Width of the states that `pooled` returns."""
    return backbone.output_layer()[0].shape[1]
