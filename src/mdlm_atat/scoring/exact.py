"""The negative log-likelihood left to right, exact, over the sequences that the bounds are drawn from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mdlm_atat.core.left_to_right import read_nll
from mdlm_atat.core.masking import scored_positions
from mdlm_atat.device import as_float64, float64_device
from mdlm_atat.scoring.draws import BLOCK_SIZE, DrawSettings, Rows, permutation, score_each
from mdlm_atat.scoring.likelihood import (
    Blocks,
    GroupCosts,
    Groups,
    Likelihood,
    Sequences,
    by_group,
    per_block,
    ratio_with_standard_error,
)


@torch.no_grad()
def exact_nll(
    model: Callable[[Tensor], Tensor],
    rows: Rows,
    *,
    draws: DrawSettings,
    groups: Groups | None = None,
) -> Likelihood:
    """Nats per token by the chain rule, left to right; `model(x)` gives the logits of x_i from x_<i at every place i.

    Scores the sequences that draw_nll takes for the same `draws`, each once; the error is between sequences. `blocks`
    holds them as often and in the order that draw_nll draws them, to be paired with a bound.
    """
    groups = None if groups is None else groups.to(float64_device(draws.device))
    num_groups = 0 if groups is None else groups.shape[1]

    def score(x0: Tensor, lengths: Tensor, prompts: Tensor, indices: list[int]) -> Tensor:
        del indices
        nll = as_float64(read_nll(model, x0, lengths, prompts))  # (B, L)
        columns = [nll.sum(1, keepdim=True)]
        if groups is not None:
            scored = scored_positions(lengths, x0.shape[1], prompts)
            columns.append(by_group(groups[x0.to(groups.device)], nll, scored, scored)[:, : 2 * num_groups])
        return torch.cat(columns, dim=1)

    columns, lengths, taken = score_each(rows, score, draws)
    num_draws, num_rows = draws.num_blocks * BLOCK_SIZE, rows.num_evaluation_rows
    each = torch.cat([columns[:, :1], lengths[:, None].double(), columns[:, 1:]], dim=1)  # a row a sequence
    places, block = _places(len(each), num_draws, draws.seed, num_rows)
    blocks = per_block(each[places], block)  # (blocks, 2 + 2 groups)
    costs = None
    if groups is not None:
        nll, sizes = each[:, 2:].chunk(2, dim=1)
        ratios = [ratio_with_standard_error(nll[:, group], sizes[:, group]) for group in range(num_groups)]
        of_blocks = Blocks(*blocks[:, 2:].chunk(2, dim=1))
        costs = GroupCosts(ratios, sizes.sum(0).tolist(), of_blocks, Blocks(nll, sizes))
    sequences = Sequences(each[:, 0], lengths, taken)
    return Likelihood(
        "exact", *sequences.ratio(), len(each), Blocks(blocks[:, 0], blocks[:, 1]), groups=costs, sequences=sequences
    )


def _places(
    num_chosen: int, num_draws: int, seed: int, num_rows: int
) -> tuple[Int[Tensor, " draws"], Int[Tensor, " draws"]]:
    """Where in the first epoch's order the sequence of each draw stands, and the draw's block."""
    where = np.empty(num_rows, dtype=np.int64)
    where[permutation(seed, 0, num_rows)] = np.arange(num_rows)
    places = np.concatenate([where[permutation(seed, epoch, num_rows)] for epoch in range(-(-num_draws // num_rows))])[
        :num_draws
    ]
    assert places.max() < num_chosen
    return torch.from_numpy(places), torch.arange(num_draws) // BLOCK_SIZE
