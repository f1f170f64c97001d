"""What rare and what frequent tokens cost: a bound by tenths of the text, from its rarest tokens to its commonest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mdlm_atat.scoring.draws import Rows, is_scored
from mdlm_atat.scoring.likelihood import GroupCosts
from mdlm_atat.scoring.records import DecileCosts

NUM_DECILES = 10
ROWS_PER_PART = 1024


@dataclass(frozen=True)
class Deciles:
    """Tenths of a text's tokens, ranked by how often a token occurs in the training text: the first holds the rarest.

    Each holds the same number of the text's tokens, not of the vocabulary's: a tenth of the vocabulary is hardly any
    text. Kinds of tokens that are equally frequent cannot be ranked; where they lie across a border, each of them is
    shared between the tenths in the same proportion, as is a single kind more frequent than a tenth.
    """

    share: Float[Tensor, "vocab deciles"]
    """Which share of a token of each kind belongs to each tenth; rows add up to 1, also of kinds not in the text."""
    train_counts: list[tuple[int, int]]
    """Fewest and most occurrences in the training text of the kinds in each tenth."""
    num_types: list[int]
    """Kinds of tokens of the text in each tenth; one that is shared counts in each."""
    num_tokens: float
    """Of the text, in each tenth."""


def frequency_deciles(rows: Rows, train_counts: NDArray[np.int64], num_deciles: int = NUM_DECILES) -> Deciles:
    """Rank all tokens of a data set by how often they occur in the training text (`train_counts`), rarest first, and
    cut the ranking into `num_deciles` parts of equal size."""
    in_text = token_counts(rows, len(train_counts))
    frequencies, kind = np.unique(train_counts, return_inverse=True)  # rarest first
    size = np.bincount(kind, weights=in_text, minlength=len(frequencies))  # tokens of the text of each frequency
    ends = size.cumsum()
    starts, edges = ends - size, np.linspace(0, ends[-1], num_deciles + 1)
    inside = np.minimum(ends[:, None], edges[1:]) - np.maximum(starts[:, None], edges[:-1])  # (frequencies, deciles)
    inside = np.clip(inside, 0, None)
    absent = np.searchsorted(edges[1:-1], starts, side="right")  # for frequencies that the text does not have
    share = np.where(size[:, None] > 0, inside / np.maximum(size, 1)[:, None], np.eye(num_deciles)[absent])
    # differences of large sums leave crumbs of a share, which would put a kind in a tenth that it is not in
    share[share < 1e-9] = 0
    share /= share.sum(1, keepdims=True)
    present = share * (size > 0)[:, None] > 0
    types = np.bincount(kind, weights=in_text > 0, minlength=len(frequencies))
    return Deciles(
        share=torch.from_numpy(share)[torch.from_numpy(kind.astype(np.int64))],
        train_counts=[(int(frequencies[column].min()), int(frequencies[column].max())) for column in present.T],
        num_types=[int(types[column].sum()) for column in present.T],
        num_tokens=float(ends[-1]) / num_deciles,
    )


def token_counts(rows: Rows, vocab_size: int) -> NDArray[np.int64]:
    """How often each token of the vocabulary occurs in a data set, padding and prompts left out."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, rows.num_evaluation_rows, ROWS_PER_PART):
        indices = np.arange(start, min(start + ROWS_PER_PART, rows.num_evaluation_rows))
        ids, lengths = rows.evaluation_rows(indices)
        counts += np.bincount(ids[is_scored(rows, indices, lengths, ids.shape[1])], minlength=vocab_size)
    return counts


def decile_costs(deciles: Deciles, found: GroupCosts) -> DecileCosts:
    """The costs of the tenths as an evaluation records them, the rarest tokens first."""
    return DecileCosts(
        num_tokens=deciles.num_tokens,
        nats_per_token=tuple(nats for nats, _ in found.ratios),
        standard_error=tuple(error for _, error in found.ratios),
        num_scored_tokens=tuple(found.num_scored),
        num_types=tuple(deciles.num_types),
        train_count_min=tuple(least for least, _ in deciles.train_counts),
        train_count_max=tuple(most for _, most in deciles.train_counts),
    )
