"""What the importance estimator is trained by, and what a log says of it and of the masks it makes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.atat.curriculum import Stage
from mdlm_atat.atat.masking.rates import MaskingRates


def importance_loss(
    model: Any,
    x0: Int[Tensor, "batch length"],
    z_t: Int[Tensor, "batch length"],
    told: Float[Tensor, " batch"],
    lengths: Int[Tensor, " batch"] | None,
    nll: Float[Tensor, "batch length"],
    is_scored: Bool[Tensor, "batch length"],
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Mean squared error of the estimator's scores against the standardised losses of the masked tokens: of the clean
    input (t = 0), which drives the masking, and of the masked one, for samplers. And both correlations.

    Mean and variance are those of the rows at hand, so more processes or micro-batches make nearly the same run.
    """
    target = standardised(nll, is_scored)
    clean = model.importance_score(x0, torch.zeros(len(x0), device=x0.device), lengths)  # (B, L)
    masked = model.importance_score(z_t, told, lengths)  # (B, L)
    error = importance_error(clean, target, is_scored) + importance_error(masked, target, is_scored)
    return error, {
        "importance/correlation": correlation(clean.detach(), target, is_scored),
        "importance/correlation_masked_input": correlation(masked.detach(), target, is_scored),
    }


def standardised(
    nll: Float[Tensor, "batch length"], is_masked: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch length"]:
    """The losses of the masked tokens with mean 0 and variance 1; 0 elsewhere."""
    count = is_masked.sum().clamp_min(1)
    mean = torch.where(is_masked, nll, 0.0).sum() / count
    centred = torch.where(is_masked, nll - mean, 0.0)
    return centred / (centred.square().sum() / count).sqrt().clamp_min(1e-6)


def importance_error(
    score: Float[Tensor, "batch length"],
    target: Float[Tensor, "batch length"],
    is_masked: Bool[Tensor, "batch length"],
) -> Float[Tensor, ""]:
    """Mean squared error of the estimator's score over the masked tokens."""
    return torch.where(is_masked, (score - target).square(), 0.0).sum() / is_masked.sum().clamp_min(1)


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
    scored: Bool[Tensor, "batch length"],
    importance: Float[Tensor, "batch length"] | None,
    stage: Stage | None,
) -> dict[str, Tensor]:
    """Expected and realised share of masked tokens, the distribution of importance, the stage of the curriculum."""
    metrics = {
        "masking/expected_rate": torch.where(scored, rates.mask_rate.detach(), 0.0).sum().float() / scored.sum(),
        "masking/realised_rate": is_masked.sum() / scored.sum(),
    }
    if stage is not None:
        metrics["curriculum/stage"] = torch.full((), float(stage.index), device=scored.device)
        metrics["curriculum/temperature"] = torch.full((), stage.temperature, device=scored.device)
    if importance is None:
        return metrics
    values = importance.detach()[scored].float().sort().values
    metrics |= {"importance/mean": values.mean(), "importance/std": values.std(correction=0)}
    for percent in (10, 50, 90):
        metrics[f"importance/q{percent}"] = values[(len(values) - 1) * percent // 100]
    return metrics
