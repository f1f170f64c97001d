"""What can be said of generated samples without a judge: how varied they are, and how much they repeat themselves.

Every one of these numbers depends on how long the samples are, and distinct-n on how many: compare samples of equal
length and number, and put the same numbers of real text beside them. None is better for being higher or lower, only
for being nearer to real text's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import torch

from mdlm_atat.scoring.likelihood import ratio_with_standard_error
from mdlm_atat.scoring.quality import TextQuality

TokenRows = Sequence[Sequence[int]]
"""Samples as token ids: rows may differ in length, and hold no padding."""


def unigram_entropy(rows: TokenRows) -> tuple[float, float]:
    """Mean over samples of the entropy of a sample's own token histogram, nats, and its standard error over samples.

    For counts c_v in a sample of L tokens: sum over v of c_v / L log(L / c_v), at most log min(L, V). Low where a
    sample says the same few things, which a judge's perplexity rewards (Zheng et al. 2024, arXiv 2409.02908). An empty
    sample has no histogram and is left out.
    """
    return _mean([_entropy(row) for row in rows if row])


def bigram_entropy(rows: TokenRows) -> tuple[float, float]:
    """The same of a sample's pairs of neighbours: at most log(L - 1). Low where phrases come again though no single
    token does. Samples of a single token have none and are left out."""
    return _mean([_entropy(list(_ngrams(row, 2))) for row in rows if len(row) > 1])


def distinct_n(rows: TokenRows, n: int) -> float:
    """Distinct n-grams over all n-grams, of all samples pooled: in (0, 1] (Li et al. 2016, arXiv 1510.03055).

    It falls as samples are added, for new n-grams run out: compare it at equal sizes only. Samples shorter than n have
    no n-grams; NaN if all are.
    """
    seen: set[tuple[int, ...]] = set()
    total = 0
    for row in rows:
        seen.update(_ngrams(row, n))
        total += _num_ngrams(row, n)
    return len(seen) / total if total else math.nan


def repetition(rows: TokenRows, n: int = 4) -> tuple[float, float]:
    """Mean over samples of the share of a sample's n-grams that occurred earlier in the same sample, in [0, 1), and its
    standard error over samples.

    1 - distinct / all, sample by sample (seq-rep-n: Welleck et al. 2019, arXiv 1908.04319). Samples shorter than n have
    no n-grams and are left out; NaN if all are.
    """
    return _mean([1 - len(set(_ngrams(row, n))) / _num_ngrams(row, n) for row in rows if _num_ngrams(row, n)])


def measure_texts(rows: TokenRows) -> TextQuality:
    """All of it, of one set of texts."""
    entropy, entropy_error = unigram_entropy(rows)
    of_pairs, error_of_pairs = bigram_entropy(rows)
    repeated, repetition_error = repetition(rows)
    return TextQuality(
        num_samples=len(rows),
        num_tokens=sum(len(row) for row in rows),
        entropy_nats=entropy,
        entropy_error=entropy_error,
        bigram_entropy_nats=of_pairs,
        bigram_entropy_error=error_of_pairs,
        distinct_1=distinct_n(rows, 1),
        distinct_2=distinct_n(rows, 2),
        distinct_3=distinct_n(rows, 3),
        repetition=repeated,
        repetition_error=repetition_error,
    )


def _entropy(row: Sequence[Hashable]) -> float:
    return sum(count / len(row) * math.log(len(row) / count) for count in Counter(row).values())


def _ngrams(row: Sequence[int], n: int) -> Iterable[tuple[int, ...]]:
    return zip(*(row[start:] for start in range(n)), strict=False)


def _num_ngrams(row: Sequence[int], n: int) -> int:
    return max(0, len(row) - n + 1)


def _mean(values: list[float]) -> tuple[float, float]:
    """And its standard error: NaN for one value, both NaN for none."""
    each = torch.tensor(values, dtype=torch.float64)
    return ratio_with_standard_error(each, torch.ones_like(each))
