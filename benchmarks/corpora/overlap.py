"""How much of the validation tokens stands in the training tokens word for word: the check on the choice of documents,
which went by lines."""

from __future__ import annotations

from typing import Any

import numpy as np

WINDOW = 32
"""Tokens of a window: about 100 characters of code, two lines or three. A power of two."""
CHUNK = 1 << 22


def overlap(train: np.ndarray, valid: np.ndarray, eos_id: int) -> dict[str, Any]:
    """Compare every window of 32 tokens of `valid`, shape (n,), with every one of `train`, shape (m,), by a hash of 64
    bits. Returns the share of the validation windows that stand in training text; of validation documents (eos ends
    each), the number, how many have at least half of their windows there, and the largest share of one."""
    hashes = _hashes(valid)
    known = np.unique(hashes)
    found = np.zeros(len(known), bool)
    for start in range(0, len(train), CHUNK):
        part = _hashes(train[start : start + CHUNK + WINDOW - 1])
        places = np.minimum(np.searchsorted(known, part), max(len(known) - 1, 0))
        found[places[known[places] == part]] = True
    met = found[np.searchsorted(known, hashes)]
    ends = np.flatnonzero(valid == eos_id)
    starts = np.concatenate([[0], ends[:-1] + 1])
    total = np.concatenate([[0], np.cumsum(met)])
    inside = np.maximum(ends - starts - WINDOW + 1, 0)  # windows within the document, without eos
    here = total[np.minimum(starts + inside, len(met))] - total[np.minimum(starts, len(met))]
    share = here[inside > 0] / inside[inside > 0]
    return {
        "window_tokens": WINDOW,
        "share_of_windows": float(here.sum() / max(inside.sum(), 1)),
        "documents": len(ends),
        "documents_with_half_of_them": int((share >= 0.5).sum()),
        "largest_share_of_a_document": float(share.max(initial=0.0)),
    }


def _hashes(tokens: np.ndarray) -> np.ndarray:
    """A polynomial of each window of 32 tokens, modulo 2^64, by doubling: windows of 1, 2, 4, ... tokens."""
    num_ids = int(tokens.max(initial=0)) + 1
    spread = np.random.default_rng(2026).integers(1 << 64, size=num_ids, dtype=np.uint64)  # a random number a token id
    hashes, factor, width = spread[tokens], np.uint64(0x9E3779B97F4A7C15), 1
    with np.errstate(over="ignore"):
        while width < WINDOW and len(hashes) > width:
            hashes = hashes[:-width] * factor + hashes[width:]
            factor, width = factor * factor, 2 * width
    return hashes
