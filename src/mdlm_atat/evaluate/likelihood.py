"""The number that is reported: the bound on a data set's negative log-likelihood, with its standard error.

Draws are fixed by (seed, block) alone, so every model, device and batch size is scored on the same masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mdlm_atat.atat.curriculum import Stage
from mdlm_atat.atat.masking.rates import ExponentMasking
from mdlm_atat.denoiser import Denoiser
from mdlm_atat.errors import UserError
from mdlm_atat.masking import hide, mask_exactly, scored_positions
from mdlm_atat.objective import causal_nll, count_weights, denoise_under, masked_nll

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
        sizes = per_block(self.lengths.double(), self.block)
        return ratio_with_standard_error(per_block(score, self.block), sizes)

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


def per_block(values: Float[Tensor, " draws"], block: Int[Tensor, " draws"]) -> Float[Tensor, " blocks"]:
    """Sums over the draws of each block, float64."""
    _, index = block.unique(return_inverse=True)
    return torch.zeros(int(index.max()) + 1, dtype=torch.float64).index_add_(0, index, values.double())


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
    _check_enough(num_draws)

    def score(x0: Tensor, lengths: Tensor, num_masked: Tensor, uniform: Tensor) -> Tensor:
        is_masked = mask_exactly(uniform, num_masked, scored_positions(lengths, x0.shape[1]))
        z_t = hide(x0, is_masked, mask_id)
        logits = denoise(
            z_t.to(device),
            (num_masked / lengths).to(device, torch.float32),
            lengths.to(device) if (lengths < x0.shape[1]).any() else None,
        )  # (B, L, V)
        return masked_nll(logits, x0.to(device), is_masked.to(device)).double().sum(1, keepdim=True)

    columns, num_masked, lengths, block = _over_draws(
        rows, score, num_draws, batch_size, seed, rank, num_ranks, gather, on_progress
    )
    return Draws(columns[:, 0], num_masked, lengths, block)


@dataclass(frozen=True)
class ScheduleDraws:
    """What was measured under a masking's own schedule, a row a draw, each an unbiased estimate for its sequence."""

    diffusion: Float[Tensor, " draws"]
    """Cost of the tokens, nats per sequence."""
    rates: Float[Tensor, " draws"]
    """Cost of predicting which token is revealed when, nats per sequence."""
    lengths: Int[Tensor, " draws"]
    block: Int[Tensor, " draws"]

    def nelbo(self) -> tuple[float, float]:
        """Bound in nats per token, and its standard error between blocks."""
        return self._ratio(self.diffusion + self.rates)

    def rate_nats(self) -> tuple[float, float]:
        """The part of it that predicting the rates costs."""
        return self._ratio(self.rates)

    def _ratio(self, score: Tensor) -> tuple[float, float]:
        sizes = per_block(self.lengths.double(), self.block)
        return ratio_with_standard_error(per_block(score, self.block), sizes)


@torch.no_grad()
def draw_schedule_nll(
    network: Any,
    rows: Rows,
    *,
    masking: ExponentMasking,
    stage: Stage | None = None,
    form: Literal["continuous", "order"] = "continuous",
    num_draws: int,
    mask_id: int,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    rank: int = 0,
    num_ranks: int = 1,
    gather: Gather = lambda x: x,
    on_progress: OnProgress | None = None,
) -> ScheduleDraws:
    """Score sequences under a masking's own schedule: PPL-S, from the same sequences and numbers as draw_nll's.

    A reverse process of L tokens has L reveals. Draw when each token is revealed, choose n from 1..L, and look at the
    state just before the reveal that leaves n - 1 masked: M, at mask rate r. With hazard shares q_i = speed_i / sum
    over M of speed, and S, S_hat the sums of speeds and of predicted speeds over M,

        continuous: L { sum over M of q_i [ -log p(x0_i | z) + log(speed_i / speed_hat_i) ] + S_hat / S - 1 }
        order:      L { sum over M of q_i [ -log p(x0_i | z) + log(q_i / q_hat_i) ] },  q_hat_i = speed_hat_i / S_hat

    has the bound of docs/method.md as its expectation: the integral over t, of which this is one point of the path; or
    the bound on the order alone, for which the network is told n / L in place of r, since times are no part of that
    model. Where nothing depends on hidden content and speeds are 1, both are draw_nll's. `network` is any object with
    the methods of ATATDiT that the masking needs. `masking` must have the linear schedule: its noise schedule does not
    matter to the bound. `order` is for speeds that do not change with t.
    """
    _check_enough(num_draws)
    if form == "order" and not masking.is_plackett_luce:
        raise ValueError("the order form needs speeds that do not change with t")

    def score(x0: Tensor, lengths: Tensor, num_masked: Tensor, uniform: Tensor) -> Tensor:
        x0, lengths, num_masked, uniform = (part.to(device) for part in (x0, lengths, num_masked, uniform))
        padded = lengths if (lengths < x0.shape[1]).any() else None
        scored = scored_positions(lengths, x0.shape[1])
        importance = None
        if masking.needs_importance:
            f = network.importance_score(x0, torch.zeros(len(x0), device=device), padded)
            importance = network.importance(x0, f)
        # above 0, whose logarithm is not finite
        revealed_at = masking.reveal_rate(uniform.clamp_min(2**-25), importance, scored, stage)  # (B, L)
        is_masked = mask_exactly(revealed_at, num_masked, scored)
        r = torch.where(is_masked, revealed_at, 0.0).amax(1)  # (B,): the last of them to be masked
        told = r if form == "continuous" else num_masked / lengths
        z_t = hide(x0, is_masked, mask_id)
        logits, log_speed_hat = denoise_under(masking, network, z_t, told.double(), told.float(), padded, stage)
        speed = masking(r, importance, scored, stage).speed.double()  # (B, L)
        log_hat = speed.log() if log_speed_hat is None else log_speed_hat.double()
        speed, speed_hat = torch.where(is_masked, speed, 0.0), torch.where(is_masked, log_hat.exp(), 0.0)
        total, total_hat = speed.sum(1), speed_hat.sum(1)
        share = speed / total[:, None]  # q
        nll = masked_nll(logits, x0, is_masked).double()
        mismatch = torch.where(is_masked, share * (speed.clamp_min(1e-300).log() - log_hat), 0.0).sum(1)
        ratio = total_hat / total
        mismatch = mismatch + (ratio - 1 if form == "continuous" else ratio.log())
        if log_speed_hat is None:
            mismatch = torch.zeros_like(mismatch)  # known rates cost nothing, not even a rounding error
        return lengths[:, None] * torch.stack([(share * nll).sum(1), mismatch], dim=1)

    columns, _, lengths, block = _over_draws(
        rows, score, num_draws, batch_size, seed, rank, num_ranks, gather, on_progress
    )
    return ScheduleDraws(columns[:, 0], columns[:, 1], lengths, block)


def _check_enough(num_draws: int) -> None:
    if num_draws < 2 * BLOCK_SIZE:
        raise UserError(f"{num_draws} draws are too few for a standard error; ask for at least {2 * BLOCK_SIZE}")


def _over_draws(
    rows: Rows,
    score: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    num_draws: int,
    batch_size: int,
    seed: int,
    rank: int,
    num_ranks: int,
    gather: Gather,
    on_progress: OnProgress | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Columns that `score(x0, lengths, num_masked, uniform)` gives (draws, k), with num_masked, lengths and block."""
    num_blocks = -(-num_draws // BLOCK_SIZE)
    mine = list(range(rank, num_blocks, num_ranks))
    blocks_per_call = max(1, batch_size // BLOCK_SIZE)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for start in range(0, len(mine), blocks_per_call):
        chosen = mine[start : start + blocks_per_call]
        parts = [_block(rows, block, seed) for block in chosen]
        x0, lengths, num_masked, uniform = (torch.cat(part) for part in zip(*parts, strict=True))
        columns = score(x0, lengths, num_masked, uniform).cpu()
        found.append((columns, num_masked, lengths, torch.tensor(chosen).repeat_interleave(BLOCK_SIZE)))
        if on_progress is not None:
            on_progress(min(start + len(chosen), len(mine)), len(mine))
    empty = torch.zeros(0, dtype=torch.int64)
    # a process without a block of its own still takes part, with as many columns as the others
    all_found = [torch.cat(part) for part in zip(*found, strict=True)] or [empty.double(), empty, empty, empty]
    columns, num_masked, lengths, block = all_found
    flat = gather(columns.flatten())
    num_masked, lengths, block = gather(num_masked), gather(lengths), gather(block)
    order = block.argsort(stable=True)
    return flat.view(len(block), -1)[order], num_masked[order], lengths[order], block[order]


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
    """(x0, lengths, num_masked, uniform) of one block: a function of (seed, block) and the data alone."""
    draws = np.arange(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)
    num_rows = rows.num_evaluation_rows
    indices = np.array([_permutation(seed, int(d // num_rows), num_rows)[d % num_rows] for d in draws])
    ids, row_lengths = rows.evaluation_rows(indices)
    x0, lengths = torch.from_numpy(ids), torch.from_numpy(row_lengths)
    generator = torch.Generator().manual_seed(_mix(seed, block))
    u = torch.rand(1, generator=generator, dtype=torch.float64)
    stratum = (u + torch.arange(BLOCK_SIZE)) / BLOCK_SIZE  # in [0, 1)
    num_masked = 1 + (lengths * stratum).long().clamp_max(lengths - 1)
    return x0, lengths, num_masked, torch.rand(x0.shape, generator=generator)


@lru_cache(maxsize=2)  # a block may span two epochs
def _permutation(seed: int, epoch: int, num_rows: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch, num_rows)).permutation(num_rows)


def _mix(seed: int, block: int) -> int:
    return int(np.random.SeedSequence((seed, block)).generate_state(1, np.uint64)[0] >> 1)
