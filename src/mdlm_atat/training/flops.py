"""Floating-point operations that the mathematics of training needs: matrix products, and nothing that is done twice."""

from __future__ import annotations

import time

import torch

from mdlm_atat.config.build import masking_traits, modes_of
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.config.size import block_weights


def training_flops_per_token(config: RunConfig, vocab_size: int, mean_mask_rate: float = 0.5) -> float:
    """Operations (a multiplication and an addition are two) for one token of training text.

    Forward, for every layer: 2 operations for each weight of its matrices, which are (4 + 2 mlp_ratio) D² in the plain
    layout, and 4 L D of attention over all heads (half of it where it is causal); 2 D V of the output layer at scored
    positions only, a share `mean_mask_rate` (all of them where causal). Backward is twice forward. The estimator's
    clean pass has no backward; it is trained on two passes over a share of the rows. Left out, as they are under 1%:
    norms, softmaxes, adaLN (once a row), the optimizer.
    """
    model, importance, length = config.model, config.importance, config.data.length
    causal_share = config.objective.causal_share if "masked" in modes_of(config) else 1.0
    forward = 0.0
    heads_width = model.width if model.head_width is None else model.num_heads * model.head_width
    for share, causal in ((1 - causal_share, False), (causal_share, True)):
        blocks = model.num_layers * transformer_flops(block_weights(model), heads_width, length, causal)
        forward += share * (blocks + 2 * model.width * vocab_size * (1.0 if causal else mean_mask_rate))
    estimator = 0.0
    if importance.has_estimator:
        block = 12 * importance.width**2
        estimator = importance.num_layers * transformer_flops(block, importance.width, length, causal=False)
        estimator += 2 * model.width * importance.width + importance.width**2
    clean_passes = 1.0 if masking_traits(config).needs_importance else 0.0
    return 3 * forward + estimator * (clean_passes + 3 * 2 * importance.train_share)


def transformer_flops(num_weights: int, heads_width: int, length: int, causal: bool) -> float:
    """Forward operations of one layer for one token: `num_weights` in its matrices, and attention of `heads_width` over
    all heads."""
    return 2 * num_weights + 4 * length * heads_width * (0.5 if causal else 1.0)


def matrix_rate(device: torch.device, size: int = 8192) -> float | None:
    """Operations a second of a square bf16 product of random matrices: what a step is measured against. None: no GPU.
    It takes a tenth of a second. Of ten products the fastest counts, as what else runs on the GPU slows down most."""
    if device.type != "cuda":
        return None
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    times_s: list[float] = []
    for _ in range(13):
        torch.cuda.synchronize(device)
        start_s = time.perf_counter()
        torch.mm(a, a)
        torch.cuda.synchronize(device)
        times_s.append(time.perf_counter() - start_s)
    del a
    torch.cuda.reset_peak_memory_stats(device)  # its matrices are no part of a run's peak
    return 2 * size**3 / min(times_s[3:])
