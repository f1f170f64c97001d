"""Where masks are drawn: which tokens of a clean sequence are hidden. Randomness comes in as numbers, so that the
same numbers give the same masks on every device and number of processes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def scored_positions(
    lengths: Int[Tensor, " batch"], length: int, prompts: Int[Tensor, " batch"] | None = None
) -> Bool[Tensor, "batch length"]:
    """True where a row holds text to learn, False where it holds padding, or one of the `prompts` tokens that it begins
    with: these are never masked and never scored."""
    place = torch.arange(length, device=lengths.device)[None, :]
    is_text = place < lengths[:, None]
    return is_text if prompts is None else is_text & (place >= prompts[:, None])


def share_to_fill(lengths: Int[Tensor, " batch"], prompts: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The share of each row's tokens that are not its prompt: a denoiser is told this times their mask rate, which is
    the share of masks that it can expect in the row, as samplers tell it the share that there is. float32."""
    return (lengths - prompts).float() / lengths


def mask_independently(
    uniform: Float[Tensor, "batch length"],
    mask_rate: Float[Tensor, "batch columns"],
    scored: Bool[Tensor, "batch length"],
) -> Bool[Tensor, "batch length"]:
    """q(z_t | x0): every scored token is masked with its probability, independently: mask_rate(t) for all of a row
    (Sahoo et al. 2024, eq. 4), or one for each token."""
    return (uniform < mask_rate) & scored


def mask_exactly(
    uniform: Float[Tensor, "batch length"],
    num_masked: Int[Tensor, " batch"],
    scored: Bool[Tensor, "batch length"],
) -> Bool[Tensor, "batch length"]:
    """Mask exactly num_masked scored positions of each row, every subset of that size being equally likely."""
    keys = uniform.masked_fill(~scored, torch.inf)
    rank = keys.argsort(dim=1).argsort(dim=1)  # (B, L): 0 for the smallest number of the row
    return (rank < num_masked[:, None]) & scored


def hide(
    x0: Int[Tensor, "batch length"], is_masked: Bool[Tensor, "batch length"], mask_id: int
) -> Int[Tensor, "batch length"]:
    """z_t: the clean tokens with [MASK] where is_masked."""
    return torch.where(is_masked, mask_id, x0)
