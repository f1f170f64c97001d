"""The number that is reported: the bound on a data set's negative log-likelihood, with its standard error.

Draws are fixed by (seed, block) alone, so every model, device and batch size is scored on the same masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mdlm_atat.denoiser import Denoiser
from mdlm_atat.errors import UserError
from mdlm_atat.masking import hide, mask_exactly, scored_positions
from mdlm_atat.objective import causal_nll, count_weights, masked_nll

BLOCK_SIZE = 16  # draws whose mask counts are spread evenly together; standard errors are taken between blocks
NUM_PROFILE_BINS = 10


@runtime_checkable
class Rows(Protocol):
    """Sequences to score: every token of the data set is in exactly one of them."""

    @property
    def num_evaluation_rows(self) -> int: ...

    def evaluation_rows(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ids (n, L), lengths (n,)): rows are padded beyond their length."""
        ...


Gather = Callable[[Tensor], Tensor]
"""Concatenates a tensor over processes, along its first axis."""
OnProgress = Callable[[int, int], None]
"""Called now and then with (done, total), in units of one's own."""


@dataclass(frozen=True)
class Draws:
    """What was measured, a row a draw: enough to compute every bound, profile and paired difference afterwards."""

    nll: Float[Tensor, " draws"]
    """Sum over the masked tokens of -log p, nats."""
    num_masked: Int[Tensor, " draws"]
    lengths: Int[Tensor, " draws"]
    block: Int[Tensor, " draws"]

    def nelbo(self, weights: Callable[[int], Float[Tensor, " length_plus_1"]] = count_weights) -> tuple[float, float]:
        """Bound in nats per token, and its standard error, under the weights w(n) of the number masked.

        n is uniform on 1..L, so each draw scores L w(n) * nll; with w(n) = 1/n that is the continuous-time bound.
        The estimate is the ratio of summed scores to summed lengths. Its error is taken between blocks by the delta
        method, as if each had drawn sequences and masks anew: it is too large, never too small, as an error of the
        bound of this very text where draws take its sequences several times; it says nothing of other texts.
        """
        score = torch.empty_like(self.nll)
        for length in self.lengths.unique().tolist():
            rows = self.lengths == length
            score[rows] = self.nll[rows] * length * weights(length)[self.num_masked[rows]]
        return ratio_with_standard_error(self._per_block(score), self._per_block(self.lengths.double()))

    def likelihood(self) -> Likelihood:
        return Likelihood("nelbo", *self.nelbo(), len(self.nll), self.profile())

    def profile(self, num_bins: int = NUM_PROFILE_BINS) -> dict[str, list[float]]:
        """Nats per masked token by mask rate n / L: which part of the bound is paid where."""
        rate = self.num_masked.double() / self.lengths
        index = (self.num_masked * num_bins - 1) // self.lengths  # bin k holds rates in (k, k + 1] / num_bins
        rows: dict[str, list[float]] = {
            "mask_rate": [], "nats_per_masked_token": [], "standard_error": [], "num_masked_tokens": []
        }  # fmt: skip
        for bin_ in index.unique().tolist():
            chosen = index == bin_
            mean, error = ratio_with_standard_error(self.nll[chosen], self.num_masked[chosen].double())
            rows["mask_rate"].append(rate[chosen].mean().item())
            rows["nats_per_masked_token"].append(mean)
            rows["standard_error"].append(error)
            rows["num_masked_tokens"].append(int(self.num_masked[chosen].sum()))
        return rows

    def _per_block(self, values: Tensor) -> Tensor:
        _, block = self.block.unique(return_inverse=True)
        return torch.zeros(int(block.max()) + 1, dtype=torch.float64).index_add_(0, block, values.double())


@dataclass(frozen=True)
class Likelihood:
    """What a model was found to pay for a data set."""

    kind: Literal["nelbo", "exact"]
    """nelbo: an unbiased estimate of an upper bound (masked diffusion); exact: the chain rule (causal)."""
    nats_per_token: float
    standard_error: float
    num_draws: int
    profile: dict[str, list[float]] | None = None
    """nelbo only: nats per masked token by mask rate."""


def ratio_with_standard_error(total: Float[Tensor, " n"], size: Float[Tensor, " n"]) -> tuple[float, float]:
    """sum(total) / sum(size) over independent parts, and its standard error by the delta method (NaN for one part)."""
    ratio = (total.sum() / size.sum()).item()
    n = len(total)
    if n < 2:
        return ratio, float("nan")
    residual = total - ratio * size
    return ratio, ((residual.square().sum() / (n * (n - 1))).sqrt() / size.mean()).item()


@torch.no_grad()
def draw_nll(
    denoise: Denoiser,
    rows: Rows,
    *,
    num_draws: int,
    mask_id: int,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    rank: int = 0,
    num_ranks: int = 1,
    gather: Gather = lambda x: x,
    on_progress: OnProgress | None = None,
) -> Draws:
    """Mask sequences of a data set and score them: num_draws of them, rounded up to whole blocks of BLOCK_SIZE.

    Rows are taken in a random order without replacement, and again in another when all were used. In each block the
    numbers masked are n_i = 1 + floor(L (u + i) / BLOCK_SIZE), spread evenly over 1..L with one uniform u.
    `gather` brings the processes' shares together; the result is the same for any number of them.
    """
    if num_draws < 2 * BLOCK_SIZE:
        raise UserError(f"{num_draws} draws are too few for a standard error; ask for at least {2 * BLOCK_SIZE}")
    num_blocks = -(-num_draws // BLOCK_SIZE)
    mine = list(range(rank, num_blocks, num_ranks))
    blocks_per_call = max(1, batch_size // BLOCK_SIZE)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for start in range(0, len(mine), blocks_per_call):
        chosen = mine[start : start + blocks_per_call]
        parts = [_block(rows, block, seed) for block in chosen]
        x0 = torch.cat([part[0] for part in parts])  # (B, L)
        lengths = torch.cat([part[1] for part in parts])  # (B,)
        num_masked = torch.cat([part[2] for part in parts])  # (B,)
        is_masked = torch.cat([part[3] for part in parts])  # (B, L)
        z_t = hide(x0, is_masked, mask_id)
        padded = bool((lengths < x0.shape[1]).any())
        logits = denoise(
            z_t.to(device),
            (num_masked / lengths).to(device, torch.float32),
            lengths.to(device) if padded else None,
        )  # (B, L, V)
        nll = masked_nll(logits, x0.to(device), is_masked.to(device)).double().sum(1).cpu()
        found.append((nll, num_masked, lengths, torch.tensor(chosen).repeat_interleave(BLOCK_SIZE)))
        if on_progress is not None:
            on_progress(min(start + len(chosen), len(mine)), len(mine))
    empty = torch.zeros(0, dtype=torch.int64)
    columns = [torch.cat(column) for column in zip(*found, strict=True)] or [
        empty.double(),
        empty,
        empty,
        empty,
    ]
    nll, num_masked, lengths, block = (gather(column) for column in columns)
    order = block.argsort(stable=True)
    return Draws(nll[order], num_masked[order], lengths[order], block[order])


@torch.no_grad()
def exact_nll(
    model: Callable[[Tensor], Tensor],
    rows: Rows,
    *,
    num_draws: int,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    rank: int = 0,
    num_ranks: int = 1,
    gather: Gather = lambda x: x,
    on_progress: OnProgress | None = None,
) -> Likelihood:
    """Nats per token of the causal baseline by the chain rule.

    At most num_draws sequences, chosen by the seed without replacement; the error is between sequences.
    """
    chosen = _permutation(seed, 0, rows.num_evaluation_rows)[:num_draws]
    mine = chosen[rank::num_ranks]
    totals, sizes = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.int64)]
    for start in range(0, len(mine), batch_size):
        ids, row_lengths = rows.evaluation_rows(mine[start : start + batch_size])
        x0, lengths = torch.from_numpy(ids).to(device), torch.from_numpy(row_lengths).to(device)
        totals.append(causal_nll(model(x0), x0, lengths).double().sum(1).cpu())
        sizes.append(lengths.cpu())
        if on_progress is not None:
            on_progress(min(start + batch_size, len(mine)), len(mine))
    total, size = gather(torch.cat(totals)), gather(torch.cat(sizes)).double()
    return Likelihood("exact", *ratio_with_standard_error(total, size), len(chosen))


@dataclass(frozen=True)
class TextCounts:
    """How much text a data set is, in every unit a bound is reported in."""

    num_tokens: int
    num_words: int
    num_characters: int
    num_bytes: int


def in_every_unit(nats_per_token: float, counts: TextCounts) -> dict[str, float]:
    """One bound as perplexities and bits, from exact counts of the whole text."""
    nats = nats_per_token * counts.num_tokens
    return {
        "perplexity_per_token": _exp(nats_per_token),
        "perplexity_per_word": _exp(nats / max(1, counts.num_words)),
        "nats_per_character": nats / max(1, counts.num_characters),
        "bits_per_character": nats / max(1, counts.num_characters) / math.log(2),
        "bits_per_byte": nats / max(1, counts.num_bytes) / math.log(2),
    }


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))  # perplexity per word of an untrained model overflows a float


def _block(rows: Rows, block: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x0, lengths, num_masked, is_masked) of one block: a function of (seed, block) and the data alone."""
    draws = np.arange(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)
    num_rows = rows.num_evaluation_rows
    indices = np.array([_permutation(seed, int(d // num_rows), num_rows)[d % num_rows] for d in draws])
    ids, row_lengths = rows.evaluation_rows(indices)
    x0, lengths = torch.from_numpy(ids), torch.from_numpy(row_lengths)
    generator = torch.Generator().manual_seed(_mix(seed, block))
    u = torch.rand(1, generator=generator, dtype=torch.float64)
    stratum = (u + torch.arange(BLOCK_SIZE)) / BLOCK_SIZE  # in [0, 1)
    num_masked = 1 + (lengths * stratum).long().clamp_max(lengths - 1)
    uniform = torch.rand(x0.shape, generator=generator)
    return x0, lengths, num_masked, mask_exactly(uniform, num_masked, scored_positions(lengths, x0.shape[1]))


@lru_cache(maxsize=2)  # a block may span two epochs
def _permutation(seed: int, epoch: int, num_rows: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch, num_rows)).permutation(num_rows)


def _mix(seed: int, block: int) -> int:
    return int(np.random.SeedSequence((seed, block)).generate_state(1, np.uint64)[0] >> 1)
