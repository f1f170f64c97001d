"""The weights of MDLM's family: which there are, and what they are called and fold into in our networks; see
`published.mdlm`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.errors import UserError

CLOSED = -1e6
"""Bias of an output that is never to have any probability."""
NUM_FEATURES = 256


@dataclass(frozen=True)
class Shape:
    """What config.json or the hyperparameters of a checkpoint say of a network."""

    num_rows: int
    """Of the embedding: tokens, and [MASK] where it is none of them."""
    length: int
    width: int
    num_layers: int
    num_heads: int
    condition_width: int
    mlp_width: int
    dropout: float
    is_causal: bool
    sees_time: bool

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights, in the order of `backbone.parameters()`."""
        width, conditioned = self.width, not self.is_causal
        found: dict[str, tuple[int, ...]] = {"vocab_embed.embedding": (self.num_rows, width)}
        if conditioned:
            found |= _linear("sigma_map.mlp.0", NUM_FEATURES, self.condition_width)
            found |= _linear("sigma_map.mlp.2", self.condition_width, self.condition_width)
        for index in range(self.num_layers):
            block = f"blocks.{index}."
            found[block + "norm1.weight"] = (width,)
            found[block + "attn_qkv.weight"] = (3 * width, width)
            found[block + "attn_out.weight"] = (width, width)
            found[block + "norm2.weight"] = (width,)
            found |= _linear(block + "mlp.0", width, self.mlp_width) | _linear(block + "mlp.2", self.mlp_width, width)
            if conditioned:
                found |= _linear(block + "adaLN_modulation", self.condition_width, 6 * width)
        found["output_layer.norm_final.weight"] = (width,)
        found |= _linear("output_layer.linear", width, self.num_rows)
        if conditioned:
            found |= _linear("output_layer.adaLN_modulation", self.condition_width, 2 * width)
        return found


def _linear(name: str, num_in: int, num_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (num_out, num_in), f"{name}.bias": (num_out,)}


def folded(shape: Shape, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with what adaLN makes of sigma = 0 worked into them, in float64, and `attn_qkv.bias` besides. Those
    that it leaves as they are stay the tensors that they are.

    Every norm is followed by x * (1 + scale) + shift and a linear layer W x + b: the norm's weight takes 1 + scale, and
    the bias W shift. What attention and the MLP give is multiplied by a gate: so are the rows of their last layers.
    """
    found = {
        name: value
        for name, value in tensors.items()
        if not name.startswith("sigma_map.") and "adaLN_modulation" not in name
    }

    def scale_by(name: str, factor: Tensor) -> None:
        found[name] = (found[name].double() * factor).float()

    def shift_through(layer: str, shift: Tensor) -> None:
        weight, bias = tensors[f"{layer}.weight"].double(), tensors.get(f"{layer}.bias")
        found[f"{layer}.bias"] = (weight @ shift + (0 if bias is None else bias.double())).float()

    half = NUM_FEATURES // 2
    features = torch.cat([torch.ones(half), torch.zeros(half)]).double()  # cosines and sines of 0
    condition = F.silu(_apply(tensors, "sigma_map.mlp.2", F.silu(_apply(tensors, "sigma_map.mlp.0", features))))
    for index in range(shape.num_layers):
        block = f"blocks.{index}."
        parts = _apply(tensors, block + "adaLN_modulation", condition).chunk(6)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        scale_by(block + "norm1.weight", 1 + scale_a)
        shift_through(block + "attn_qkv", shift_a)
        scale_by(block + "attn_out.weight", gate_a[:, None])
        scale_by(block + "norm2.weight", 1 + scale_m)
        shift_through(block + "mlp.0", shift_m)
        scale_by(block + "mlp.2.weight", gate_m[:, None])
        scale_by(block + "mlp.2.bias", gate_m)
    shift, scale = _apply(tensors, "output_layer.adaLN_modulation", condition).chunk(2)
    scale_by("output_layer.norm_final.weight", 1 + scale)
    shift_through("output_layer.linear", shift)
    return found


def _apply(weights: Mapping[str, Tensor], layer: str, x: Tensor) -> Tensor:
    return weights[f"{layer}.weight"].double() @ x + weights[f"{layer}.bias"].double()


OUR_NAMES = {
    "vocab_embed.embedding": "embedding.weight",
    "sigma_map.mlp.0": "time_embedding.up",
    "sigma_map.mlp.2": "time_embedding.out",
    "norm1": "norm_attention",
    "attn_qkv": "attention.qkv",
    "attn_out": "attention.out",
    "norm2": "norm_mlp",
    "mlp.0": "mlp.up",
    "mlp.2": "mlp.down",
    "adaLN_modulation": "modulation",
    "output_layer.norm_final": "norm",
    "output_layer.linear": "output",
    "output_layer.adaLN_modulation": "modulation",
}


def _our_name(name: str) -> str:
    if name == "vocab_embed.embedding":
        return OUR_NAMES[name]
    layer, _, kind = name.rpartition(".")
    if layer.startswith("blocks."):
        _, index, part = layer.split(".", 2)
        return f"blocks.{index}.{OUR_NAMES[part]}.{kind}"
    return f"{OUR_NAMES[layer]}.{kind}"


def renamed(tensors: Mapping[str, Tensor], tokenizer: Tokenizer, mask_id: int) -> dict[str, Tensor]:
    """Our network's weights. A [MASK] among the tokens gets a row of its own behind them, and no output."""
    weights = {_our_name(name): value for name, value in tensors.items()}
    if mask_id < tokenizer.vocab_size:
        embedding, bias = weights["embedding.weight"], weights["output.bias"].clone()
        weights["embedding.weight"] = torch.cat([embedding, embedding[mask_id : mask_id + 1]])
        bias[mask_id] = CLOSED
        weights["output.bias"] = bias
    return weights


def causal_weights(
    path: Path,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    mask_id: int,
    bos_id: int | None,
) -> dict[str, Tensor]:
    """Those of the left-to-right baseline, whose start symbol is the token that its rows began with."""
    if bos_id is None:
        raise UserError(
            f"{path} is read left to right behind a first token, and the tokenizer names none as bos or eos"
        )
    weights = renamed(tensors, tokenizer, mask_id)
    size = tokenizer.vocab_size
    embedding = weights["embedding.weight"][:size]
    weights["embedding.weight"] = torch.cat([embedding, embedding[bos_id : bos_id + 1]])
    for name in ("output.weight", "output.bias"):
        weights[name] = weights[name][:size].clone()
    return weights
