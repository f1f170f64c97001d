"""How long a gap should be, by the model's own likelihood of the text around it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mdlm_atat.core.denoiser import Denoiser
from mdlm_atat.core.objective import masked_nll
from mdlm_atat.device import as_float64

NUM_DRAWS = 64


@torch.no_grad()
def cost_of_given(
    denoise: Denoiser,
    tokens: Int[Tensor, " length"],
    fixed: Bool[Tensor, " length"],
    *,
    mask_id: int,
    num_draws: int = NUM_DRAWS,
    batch_size: int = 16,
    seed: int = 0,
) -> float:
    """An upper bound on -log p(fixed tokens), nats, whatever the gaps hold: they stay masked throughout.

    With F fixed tokens: draw n from 1..F, mask n of them and every gap, and add up -log p of those n, times F / n. The
    number of tokens scored is the same for every length of the gaps, so their costs can be compared; and so are
    the random numbers, which makes the difference surer than either.
    """
    places = fixed.cpu().nonzero()[:, 0]
    num_fixed = len(places)
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(1, generator=generator, dtype=torch.float64)
    num_masked = 1 + (num_fixed * (u + torch.arange(num_draws)) / num_draws).long().clamp_max(num_fixed - 1)
    rank = torch.rand(num_draws, num_fixed, generator=generator).argsort(dim=1).argsort(dim=1)
    hidden = rank < num_masked[:, None]  # (draws, F)
    is_masked = torch.zeros(num_draws, len(tokens), dtype=torch.bool)
    is_masked[:, places] = hidden
    is_masked = is_masked.to(tokens.device)
    total = 0.0
    for start in range(0, num_draws, batch_size):
        scored = is_masked[start : start + batch_size]
        z_t = torch.where(scored | ~fixed, mask_id, tokens)
        t = (z_t == mask_id).float().mean(1)
        x0 = torch.where(fixed, tokens, 0).expand_as(z_t)  # what a gap holds is not scored
        nll = as_float64(masked_nll(denoise(z_t, t), x0, scored)).sum(1)
        total += (nll * (num_fixed / scored.sum(1).to(nll.device))).sum().item()
    return total / num_draws
