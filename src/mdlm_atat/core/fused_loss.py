"""The output layer and its cross-entropy in one, for the positions that are scored and no others.

Half of a batch is masked on average, and only there is the loss taken; float32 log-probabilities of every token of a
large vocabulary at all positions are most of a plain step's memory. Here positions go through the output layer in
chunks, and each chunk's gradient is taken at once, so that no more than one chunk of logits is ever in memory. The
plain twin is `objective.masked_nll` on the logits of all positions; tests hold both to be the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK_ELEMENTS = 2**28  # logits of one chunk: 512 MiB in bf16, and matrices large enough for any GPU
CPU_CHUNK_ELEMENTS = 2**24  # of one chunk on a CPU, 64 MiB in float32: a larger one is no faster there
MULTIPLE = 64  # the vocabulary is padded to it: matrix units refuse odd strides and take a path several times slower

ChunkNLL = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Scored:
    """The positions of a batch that are scored: `capacity` of them whatever the masks, so that shapes never change and
    nobody waits for the device to count."""

    index: Int[Tensor, " capacity"]
    """Flat positions, those to score first."""
    is_scored: Bool[Tensor, " capacity"]
    """False for those that only fill up."""
    inflation: Float[Tensor, ""]
    """Masked positions over scored ones: 1 where there was room for all. Where there was not, the scored are drawn from
    them at random, and the loss times this is as large on average."""

    @classmethod
    def choose(
        cls,
        is_masked: Bool[Tensor, "batch length"],
        uniform: Float[Tensor, "batch length"],
        mask_rate: Float[Tensor, "batch columns"],
        capacity: int,
    ) -> Scored:
        """`uniform` and `mask_rate` are those that drew the masks: given uniform < mask_rate, their ratio is uniform
        again, and independent of everything else."""
        key = torch.where(is_masked, uniform / mask_rate, torch.inf).flatten()
        index = key.argsort(stable=True)[: min(capacity, key.numel())]
        is_scored = is_masked.flatten()[index]
        inflation = is_masked.sum().float() / is_scored.sum().clamp_min(1)
        return cls(index, is_scored, inflation)

    def to(self, device: torch.device) -> Scored:
        """The same on another device."""
        return Scored(self.index.to(device), self.is_scored.to(device), self.inflation.to(device))

    def spread(self, values: Float[Tensor, " capacity"], like: Tensor) -> Float[Tensor, "batch length"]:
        """Values at the scored positions, 0 elsewhere."""
        values = torch.where(self.is_scored, values, 0.0)
        return values.new_zeros(like.numel()).index_copy(0, self.index, values).view_as(like)


def weighted_nll(
    hidden: Float[Tensor, "positions width"],
    weight: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"] | None,
    target: Int[Tensor, " positions"],
    scale: Float[Tensor, " positions"],
    *,
    correction: tuple[Float[Tensor, "rows vocab"], Int[Tensor, " positions"]] | None = None,
    chunk_nll: ChunkNLL | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " positions"]]:
    """(sum over positions of scale * nll, nll), nll = -log softmax(hidden weight^T + bias)[target], float32 or wider.

    The sum has gradients to hidden, weight, bias and scale; nll has none. Products are in autocast's type where that is
    on, the softmax is not. `correction`: (table, row of each position), constants added to the logits. `chunk_nll`:
    this module's, or a compiled one.
    """
    return _WeightedNLL.apply(  # pyright: ignore[reportReturnType]
        hidden, weight, bias, target, scale, correction, product_type(hidden), chunk_nll or gradients_of_chunk
    )


def nll_in_chunks(
    hidden: Float[Tensor, "positions width"],
    weight: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"] | None,
    target: Int[Tensor, " positions"],
) -> Float[Tensor, " positions"]:
    """nll as above, where no gradient is wanted."""
    w, b = padded_layer(weight, bias, product_type(hidden))
    return torch.cat([F.cross_entropy(logits, x, reduction="none") for logits, x in _in_chunks(hidden, w, b, target)])


def nll_and_likeliest(
    hidden: Float[Tensor, "positions width"],
    weight: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"] | None,
    target: Int[Tensor, " positions"],
) -> tuple[Float[Tensor, " positions"], Int[Tensor, " positions"]]:
    """nll as above, and the likeliest token of each position, where no gradient is wanted."""
    w, b = padded_layer(weight, bias, product_type(hidden))
    nll, likeliest = [], []
    for logits, x in _in_chunks(hidden, w, b, target):
        nll.append(F.cross_entropy(logits, x, reduction="none"))
        likeliest.append(logits.argmax(1))
    return torch.cat(nll), torch.cat(likeliest)


def _in_chunks(hidden: Tensor, w: Tensor, b: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The logits of a padded output layer and the targets, a chunk of positions at a time."""
    num_elements = min(CHUNK_ELEMENTS, CPU_CHUNK_ELEMENTS) if hidden.device.type == "cpu" else CHUNK_ELEMENTS
    num_positions = max(1, num_elements // len(w))
    for h, x in zip(hidden.split(num_positions), target.split(num_positions), strict=True):
        yield (h.to(w.dtype) @ w.T).to(b.dtype) + b, x


def product_type(hidden: Tensor) -> torch.dtype:
    """What a matrix product with it is computed in."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def padded_layer(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The output layer for a vocabulary padded to MULTIPLE: weight in `dtype`, bias in float32 or wider."""
    wide, padding = torch.promote_types(dtype, torch.float32), -len(weight) % MULTIPLE
    bias = weight.new_zeros(len(weight), dtype=wide) if bias is None else bias.to(wide)
    # padding has no probability, so it gets no gradient either
    return F.pad(weight.to(dtype), (0, 0, 0, padding)), F.pad(bias, (0, padding), value=-torch.inf)


class _WeightedNLL(torch.autograd.Function):
    """Gradients are taken in the forward pass, for a sum whose own gradient is 1, and multiplied in the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        scale: Tensor,
        correction: tuple[Tensor, Tensor] | None,
        dtype: torch.dtype,
        chunk_nll: ChunkNLL,
    ) -> tuple[Tensor, Tensor]:
        vocab_size, num_positions = len(weight), len(hidden)
        w, b = padded_layer(weight, bias, dtype)  # (V', D), (V',)
        wide, padding = b.dtype, len(w) - vocab_size
        num_chunks = max(1, -(-num_positions * len(w) // CHUNK_ELEMENTS))
        rows = -(-num_positions // (num_chunks * MULTIPLE)) * MULTIPLE  # all chunks alike: one compiled shape
        nll, d_hidden = torch.empty_like(scale, dtype=wide), torch.empty_like(hidden)
        d_w, d_b = torch.zeros_like(w, dtype=wide), torch.zeros_like(b, dtype=wide)
        h, scale_in = hidden.to(dtype), scale.to(wide)
        for start in range(0, num_positions, rows):
            part = slice(start, start + rows)
            short = rows - len(h[part])
            added = None if correction is None else F.pad(correction[0][_pad(correction[1][part], short)], (0, padding))
            part_nll, part_h, part_w, part_b = chunk_nll(
                _pad(h[part], short), w, b, _pad(target[part], short), _pad(scale_in[part], short), added
            )
            nll[part], d_hidden[part] = part_nll[: rows - short], part_h[: rows - short]
            d_w += part_w
            d_b += part_b
        ctx.save_for_backward(d_hidden, d_w[:vocab_size], None if bias is None else d_b[:vocab_size], nll)
        ctx.mark_non_differentiable(nll)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype, scale.dtype
        return (nll * scale_in).sum(), nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias, nll = ctx.saved_tensors
        weight_type, bias_type, scale_type = ctx.dtypes
        g = gradients[0]
        return (
            g.to(d_hidden.dtype) * d_hidden,
            (g * d_weight).to(weight_type),
            None if d_bias is None else (g * d_bias).to(bias_type),
            None,
            (g * nll).to(scale_type),
            None,
            None,
            None,
        )


def gradients_of_chunk(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"],
    target: Int[Tensor, " rows"],
    scale: Float[Tensor, " rows"],
    added: Float[Tensor, "rows vocab"] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(nll, and the gradients of sum(scale * nll) to hidden, weight and bias): d nll / d logits = softmax - one-hot."""
    logits = (hidden @ weight.T).to(bias.dtype) + bias  # (N, V)
    if added is not None:
        logits = logits + added
    log_z = logits.logsumexp(-1)  # (N,)
    nll = log_z - logits.gather(-1, target[:, None])[:, 0]
    is_target = torch.arange(len(bias), device=target.device)[None, :] == target[:, None]
    d_logits = ((logits - log_z[:, None]).exp() - is_target.to(logits.dtype)) * scale[:, None]
    d_logits = d_logits.to(weight.dtype)
    # by a product, which reads half as much as a sum over float32 would
    d_bias = (d_logits.new_ones(1, len(d_logits)) @ d_logits)[0]
    return nll, d_logits @ weight, d_logits.T @ hidden, d_bias


def _pad(rows: Tensor, number: int) -> Tensor:
    """`number` rows of zeros after the others: a scale of 0 takes them out."""
    return F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, number)) if number else rows
