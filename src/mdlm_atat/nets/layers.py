"""The blocks both networks are made of. Networks know nothing of diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mdlm_atat.nets.cache import BlockMemory

Norm = Literal["layer", "rms"]
MLPKind = Literal["gelu", "swiglu"]
RotaryScaling = Literal["none", "linear", "llama3"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a network is laid out beyond its depth, width and heads. The defaults are this package's own layout; with the
    others, networks of Llama's layout (Llama, SmolLM2, Qwen2, Qwen3) are these too."""

    num_kv_heads: int | None = None
    """Heads of keys and values, each for num_heads / num_kv_heads heads of queries (arXiv 2305.13245); None: as many as
    of queries."""
    head_width: int | None = None
    """Width of a head; None: width / num_heads."""
    qkv_bias: bool = False
    """Biases in the layers of queries, keys and values."""
    mlp: MLPKind = "gelu"
    """gelu: down(gelu(up(x))), with biases; swiglu: down(silu(gate(x)) * up(x)), without (arXiv 2002.05202)."""
    mlp_width: int | None = None
    """Hidden width of the MLP; None: mlp_ratio * width."""
    norm_eps: float = 1e-5
    """What the norms add to the variance or mean square."""
    rotary_base: float = 10_000.0
    """The rotary angle of pair k of n at place i is i * base ** (-k / n), before it is scaled."""
    rotary_scaling: RotaryScaling = "none"
    """How these angles are slowed down for longer texts than were trained on: linear, all by `rotary_factor`; llama3,
    those of long waves by it and those of short ones not."""
    rotary_factor: float = 8.0
    rotary_range: tuple[float, float] = (1.0, 4.0)
    """llama3 only: waves that go fewer than `rotary_range[0]` times into `rotary_length` tokens are long, those that go
    more than `rotary_range[1]` times are short, and between them the factor changes smoothly."""
    rotary_length: int = 8192


OWN_LAYOUT = Layout()


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm with a scale, in float32 whatever the input's type, which it gives back (arXiv
    1910.07467)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps=eps)

    def forward(self, x: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape width"]:
        return super().forward(x.float()).to(x.dtype)


def make_norm(kind: Norm, width: int, eps: float = 1e-5) -> nn.Module:
    """A norm with a scale and no bias."""
    return nn.LayerNorm(width, eps=eps, bias=False) if kind == "layer" else RMSNorm(width, eps)


class Rotary(nn.Module):
    """Rotary position embedding (arXiv 2104.09864), halves rotated against each other, angles in float32."""

    def __init__(self, head_width: int, max_length: int, layout: Layout = OWN_LAYOUT) -> None:
        super().__init__()
        frequency = layout.rotary_base ** (
            -torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
        )  # (Dh / 2,)
        frequency = slowed_down(frequency, layout)
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


def slowed_down(frequency: Float[Tensor, " pairs"], layout: Layout) -> Float[Tensor, " pairs"]:
    """The rotary frequencies (radians per place) as `layout.rotary_scaling` says."""
    match layout.rotary_scaling:
        case "none":
            return frequency
        case "linear":
            return frequency / layout.rotary_factor
        case "llama3":
            low, high = layout.rotary_range
            num_waves = layout.rotary_length * frequency / (2 * math.pi)
            kept = ((num_waves - low) / (high - low)).clamp(0, 1)
            return (1 - kept) * frequency / layout.rotary_factor + kept * frequency
        case _:
            assert_never(layout.rotary_scaling)


class Attention(nn.Module):
    """Multi-head attention through torch's SDPA; bidirectional or causal, as it is asked.

    Queries, keys and values come from one layer, `qkv`, where they are equally many; where there are fewer heads of
    keys and values, queries have a layer of their own, `q`, and the two others share one, `kv`: parts of a layer are of
    one size, for Muon (training.optim).
    """

    def __init__(self, width: int, num_heads: int, qk_norm: bool, layout: Layout = OWN_LAYOUT) -> None:
        super().__init__()
        head_width = layout.head_width or width // num_heads
        self.num_heads, self.num_kv_heads = num_heads, layout.num_kv_heads or num_heads
        self.head_width = head_width
        self.is_grouped = self.num_kv_heads != num_heads
        if self.is_grouped:
            self.q = nn.Linear(width, num_heads * head_width, bias=layout.qkv_bias)
            self.kv = nn.Linear(width, 2 * self.num_kv_heads * head_width, bias=layout.qkv_bias)
        else:
            self.qkv = nn.Linear(width, 3 * num_heads * head_width, bias=layout.qkv_bias)
        self.out = nn.Linear(num_heads * head_width, width, bias=False)
        self.norm_q = RMSNorm(head_width, layout.norm_eps) if qk_norm else nn.Identity()
        self.norm_k = RMSNorm(head_width, layout.norm_eps) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch length width"],
        rotary: Rotary,
        attend: Bool[Tensor, "batch 1 _ _"] | None,
        causal: bool,
        memory: BlockMemory | None,
    ) -> Float[Tensor, "batch length width"]:
        batch, length, _ = x.shape
        # each (B, L, H, Dh): the layout the kernels answer in, so that nothing is copied
        if self.is_grouped:
            q = self.q(x).view(batch, length, self.num_heads, self.head_width)
            k, v = self.kv(x).view(batch, length, 2, self.num_kv_heads, self.head_width).unbind(2)
        else:
            q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, self.head_width).unbind(2)
        places = None if memory is None else memory.now
        q, k = rotary(self.norm_q(q), places), rotary(self.norm_k(k), places)
        if memory is None and torch.compiler.is_compiling():
            v = v.contiguous()  # or the backward pass would keep all of qkv for it, beside q and k: 10% of the memory
        if memory is None:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        else:
            assert attend is not None
            q, (k, v) = q.transpose(1, 2), memory.keep(k, v, attend.shape[-1])
        if self.is_grouped:  # repeated, because not every kernel takes grouped queries
            k, v = (part.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1) for part in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attend, is_causal=causal)
        return self.out(y.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_width))


class MLP(nn.Module):
    """Linear, GELU (tanh), Linear, with biases."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden_width)
        self.down = nn.Linear(hidden_width, width)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class GatedMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden_width, bias=False)
        self.up = nn.Linear(width, hidden_width, bias=False)
        self.down = nn.Linear(hidden_width, width, bias=False)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        return self.down(F.silu(self.gate(x)) * self.up(x))


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
        layout: Layout = OWN_LAYOUT,
    ) -> None:
        super().__init__()
        self.norm_attention = make_norm(norm, width, layout.norm_eps)
        self.attention = Attention(width, num_heads, qk_norm, layout)
        self.norm_mlp = make_norm(norm, width, layout.norm_eps)
        kind = MLP if layout.mlp == "gelu" else GatedMLP
        self.mlp = kind(width, layout.mlp_width or mlp_ratio * width)
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
        for layer in (*block.attention.children(), *block.mlp.children()):
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for layer in (block.attention.out, block.mlp.down):
            layer.weight.data /= math.sqrt(2 * len(blocks))


def attend_mask(lengths: Int[Tensor, " batch"] | None, length: int) -> Bool[Tensor, "batch 1 1 length"] | None:
    """True where a key may be attended to: everywhere but on padding."""
    if lengths is None:
        return None
    return (torch.arange(length, device=lengths.device)[None, :] < lengths[:, None])[:, None, None, :]
