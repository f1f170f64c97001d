"""The blocks both networks are made of. Networks know nothing of diffusion."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mdlm_atat.nets.cache import BlockMemory

Norm = Literal["layer", "rms"]


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm with a scale, in float32 whatever the input's type, which it gives back (arXiv
    1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-5)

    def forward(self, x: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape width"]:
        return super().forward(x.float()).to(x.dtype)


def make_norm(kind: Norm, width: int) -> nn.Module:
    """A norm with a scale and no bias."""
    return nn.LayerNorm(width, bias=False) if kind == "layer" else RMSNorm(width)


class Rotary(nn.Module):
    """Rotary position embedding (arXiv 2104.09864), halves rotated against each other, angles in float32."""

    def __init__(self, head_width: int, max_length: int) -> None:
        super().__init__()
        frequency = 10_000.0 ** (-torch.arange(0, head_width, 2) / head_width)  # (Dh / 2,)
        angle = torch.arange(max_length)[:, None] * frequency[None, :]  # (L, Dh / 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    def forward(
        self, x: Float[Tensor, "batch length heads head_width"], places: Int[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length heads head_width"]:
        """`places`: where in the text each row's vectors stand; None: at 0, 1, ..."""
        here = slice(x.shape[1]) if places is None else places
        cos, sin = self.cos[here][..., None, :], self.sin[here][..., None, :]  # (L, 1, Dh / 2) or (B, L, 1, Dh / 2)
        left, right = x.float().chunk(2, dim=-1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head attention through torch's SDPA, no biases; bidirectional or causal, as it is asked."""

    def __init__(self, width: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        head_width = width // num_heads
        self.norm_q = RMSNorm(head_width) if qk_norm else nn.Identity()
        self.norm_k = RMSNorm(head_width) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch length width"],
        rotary: Rotary,
        attend: Bool[Tensor, "batch 1 _ _"] | None,
        causal: bool,
        memory: BlockMemory | None,
    ) -> Float[Tensor, "batch length width"]:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.unbind(2)  # each (B, L, H, Dh): the layout the kernels answer in, so that nothing is copied
        places = None if memory is None else memory.now
        q, k = rotary(self.norm_q(q), places), rotary(self.norm_k(k), places)
        if memory is None and torch.compiler.is_compiling():
            v = v.contiguous()  # or the backward pass would keep all of qkv for it, beside q and k: 10% of the memory
        if memory is None:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        else:
            assert attend is not None
            q, (k, v) = q.transpose(1, 2), memory.keep(k, v, attend.shape[-1])
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attend, is_causal=causal)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    """Linear, GELU (tanh), Linear, with biases."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class TimeEmbedding(nn.Module):
    """Sinusoidal features of t in [0, 1], then an MLP, to the conditioning vector of adaLN (arXiv 2212.09748)."""

    def __init__(self, width: int, num_frequencies: int = 128) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.up = nn.Linear(2 * num_frequencies, width)
        self.out = nn.Linear(width, width)

    def forward(self, t: Float[Tensor, " batch"]) -> Float[Tensor, "batch time_width"]:
        features = sinusoidal_features(t, self.num_frequencies)
        return F.silu(self.out(F.silu(self.up(features.to(self.up.weight.dtype)))))


def sinusoidal_features(t: Float[Tensor, " batch"], num_frequencies: int) -> Float[Tensor, "batch features"]:
    """cos and sin of 1000 t at geometrically falling frequencies, float32 (B, 2 num_frequencies)."""
    index = torch.arange(num_frequencies, device=t.device, dtype=torch.float32)
    frequency = torch.exp(-math.log(10_000) * index / num_frequencies)
    angle = 1000 * t.float()[:, None] * frequency  # t in [0, 1] spread over the range the frequencies were made for
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class Block(nn.Module):
    """Pre-norm transformer block. With a conditioning vector, adaLN-zero: shift, scale and gate for attention
    and MLP."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        mlp_ratio: int,
        norm: Norm,
        qk_norm: bool,
        dropout: float,
        time_width: int | None,
    ) -> None:
        super().__init__()
        self.norm_attention = make_norm(norm, width)
        self.attention = Attention(width, num_heads, qk_norm)
        self.norm_mlp = make_norm(norm, width)
        self.mlp = MLP(width, mlp_ratio)
        self.dropout = dropout
        self.modulation = None if time_width is None else zero_linear(time_width, 6 * width)

    def forward(
        self,
        x: Float[Tensor, "batch length width"],
        rotary: Rotary,
        attend: Bool[Tensor, "batch 1 _ _"] | None = None,
        condition: Float[Tensor, "batch time_width"] | None = None,
        causal: bool = False,
        memory: BlockMemory | None = None,
    ) -> Float[Tensor, "batch length width"]:
        """`attend`: which keys (last) each query (last but one; one for all) may see; None: every one. `memory`: see
        nets.cache."""
        if self.modulation is None or condition is None:
            x = x + self._drop(self.attention(self.norm_attention(x), rotary, attend, causal, memory))
            return x + self._drop(self.mlp(self.norm_mlp(x)))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        h = modulate(self.norm_attention(x), shift_a, scale_a)
        x = x + gate_a * self._drop(self.attention(h, rotary, attend, causal, memory))
        h = modulate(self.norm_mlp(x), shift_m, scale_m)
        return x + gate_m * self._drop(self.mlp(h))

    def read(
        self,
        x: Float[Tensor, "batch k width"],
        rotary: Rotary,
        attend: Bool[Tensor, "batch 1 k places"],
        condition: Float[Tensor, "batch time_width"] | None,
        memory: BlockMemory,
    ) -> Float[Tensor, "batch k width"]:
        """`forward` at the places that are read now, which `memory` then keeps. Never compiled: prompts have all
        lengths."""
        return Block.forward(self, x, rotary, attend, condition, memory=memory)

    def read_one(
        self,
        x: Float[Tensor, "batch 1 width"],
        rotary: Rotary,
        attend: Bool[Tensor, "batch 1 1 places"],
        condition: Float[Tensor, "batch time_width"] | None,
        memory: BlockMemory,
    ) -> Float[Tensor, "batch 1 width"]:
        """`read` of one place of each row, which may be compiled."""
        return Block.forward(self, x, rotary, attend, condition, memory=memory)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def zero_linear(in_width: int, out_width: int) -> nn.Linear:
    """A linear layer that starts at zero, so that what it gates or adds starts at nothing."""
    layer = nn.Linear(in_width, out_width)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def initialise(blocks: nn.ModuleList, embedding: nn.Embedding) -> None:
    """Embeddings N(0, 0.02²); torch's own uniform init for linear layers, with zero biases, and the two projections
    back into the residual stream scaled by 1 / sqrt(2 num_layers), so that depth does not grow its variance (GPT-2)."""
    nn.init.normal_(embedding.weight, std=0.02)
    for block in blocks:
        assert isinstance(block, Block)
        for layer in (block.mlp.up, block.mlp.down):
            nn.init.zeros_(layer.bias)
        for layer in (block.attention.out, block.mlp.down):
            layer.weight.data /= math.sqrt(2 * len(blocks))


def attend_mask(lengths: Int[Tensor, " batch"] | None, length: int) -> Bool[Tensor, "batch 1 1 length"] | None:
    """True where a key may be attended to: everywhere but on padding."""
    if lengths is None:
        return None
    return (torch.arange(length, device=lengths.device)[None, :] < lengths[:, None])[:, None, None, :]
