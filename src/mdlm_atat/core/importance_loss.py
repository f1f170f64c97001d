"""What the importance estimator is trained by, and what a log says of it and of the masks it makes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.core.strategies.rates import Clean, MaskingRates


def importance_loss(
    model: Any,
    x0: Int[Tensor, "batch length"],
    z_t: Int[Tensor, "batch length"],
    told: Float[Tensor, " batch"],
    lengths: Int[Tensor, " batch"] | None,
    nll: Float[Tensor, "batch length"],
    is_scored: Bool[Tensor, "batch length"],
    *,
    measure: bool = False,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Mean squared errors of the estimator's scores against the standardised losses of the masked tokens, added up: of
    the clean input (t = 0), which drives the masking, and of the masked one, for samplers. `measure`: both
    correlations too.

    Mean and variance are those of the rows at hand, so more processes or micro-batches make nearly the same run.
    """
    target = standardised(nll, is_scored)
    both_lengths = None if lengths is None else torch.cat([lengths, lengths])
    score = model.importance_score(torch.cat([x0, z_t]), torch.cat([torch.zeros_like(told), told]), both_lengths)
    score = score.unflatten(0, (2, len(x0)))  # (2, B, L): of the clean and of the masked input
    error = torch.where(is_scored, (score - target).square(), 0.0).sum() / is_scored.sum().clamp_min(1)
    if not measure:
        return error, {}
    clean, masked = score.detach()
    return error, {
        "importance/correlation": correlation(clean, target, is_scored),
        "importance/correlation_masked_input": correlation(masked, target, is_scored),
    }


def standardised(
    nll: Float[Tensor, "batch length"], is_masked: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """The losses of the masked tokens with mean 0 and variance 1; 0 elsewhere."""
    count = is_masked.sum().clamp_min(1)
    mean = torch.where(is_masked, nll, 0.0).sum() / count
    centred = torch.where(is_masked, nll - mean, 0.0)
    return centred / (centred.square().sum() / count).sqrt().clamp_min(1e-6)


def correlation(
    score: Float[Tensor, "batch length"],
    target: Float[Tensor, "batch length"],
    is_masked: Bool[Tensor, "batch length"],
) -> Float[Tensor, ""]:
    """Pearson's, over the masked tokens."""
    product = standardised(score, is_masked) * standardised(target, is_masked)
    return product.sum() / is_masked.sum().clamp_min(1)


def masking_metrics(
    rates: MaskingRates,
    is_masked: Bool[Tensor, "batch length"],
    clean: Clean,
) -> dict[str, Tensor]:
    """Expected and realised share of masked tokens, the distribution of importance, the stage of the curriculum."""
    scored, stage, importance = clean.scored, clean.stage, clean.importance
    metrics = {
        "masking/expected_rate": torch.where(scored, rates.mask_rate.detach(), 0.0).sum().float() / scored.sum(),
        "masking/realised_rate": is_masked.sum().float() / scored.sum(),
    }
    if stage is not None:
        zero = torch.zeros((), dtype=torch.float64, device=scored.device)
        metrics |= {"curriculum/stage": zero + stage.index, "curriculum/temperature": zero + stage.temperature}
    if importance is None:
        return metrics
    importance, count = importance.detach().float(), scored.sum()
    mean = torch.where(scored, importance, 0.0).sum() / count
    variance = torch.where(scored, (importance - mean).square(), 0.0).sum() / count
    metrics |= {"importance/mean": mean, "importance/std": variance.sqrt()}
    in_order = torch.where(scored, importance, torch.inf).flatten().sort().values  # nobody waits for the count
    for percent in (10, 50, 90):
        metrics[f"importance/q{percent}"] = in_order.gather(0, ((count - 1) * percent // 100)[None])[0]
    return metrics
