"""The floor to beat: a model that knows how often each token occurs and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.scoring.cost import Cost, TextCounts
from mdlm_atat.scoring.draws import Rows, is_scored
from mdlm_atat.scoring.likelihood import ratio_with_standard_error

ROWS_PER_PART = 256


def unigram_log_probs(counts: NDArray[np.int64]) -> Float[Tensor, " vocab"]:
    """log p(token) from training counts, plus one for every token so that none is impossible. float64."""
    smoothed = torch.from_numpy(counts).double() + 1
    return (smoothed / smoothed.sum()).log()


def unigram_cost(data: TokenDataset, train_counts: NDArray[np.int64]) -> Cost:
    """What a prepared data set costs under the unigram model of the training text: any trained model should cost
    less."""
    nats, error = unigram_nll(data, train_counts)
    return Cost(nats_per_token=nats, standard_error=error, counts=TextCounts.of(data))


def unigram_nll(rows: Rows, counts: NDArray[np.int64]) -> tuple[float, float]:
    """Exact nats per token of a data set under the unigram model, and the standard error between its sequences."""
    log_probs = unigram_log_probs(counts)
    totals, sizes = [], []
    for start in range(0, rows.num_evaluation_rows, ROWS_PER_PART):
        indices = np.arange(start, min(start + ROWS_PER_PART, rows.num_evaluation_rows))
        ids, lengths = rows.evaluation_rows(indices)
        scored = is_scored(rows, indices, lengths, ids.shape[1])
        nll = torch.where(torch.from_numpy(scored), -log_probs[torch.from_numpy(ids)], 0.0)
        totals.append(nll.sum(1))
        sizes.append(torch.from_numpy(scored.sum(1)).double())
    return ratio_with_standard_error(torch.cat(totals), torch.cat(sizes))
