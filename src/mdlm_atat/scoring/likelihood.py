"""The number that is reported: the bound on a data set's negative log-likelihood, with its standard error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from mdlm_atat.core.denoiser import Denoiser, Network
from mdlm_atat.core.masking import hide, mask_exactly, scored_positions, share_to_fill
from mdlm_atat.core.objective import count_weights, denoised_nll, t_step_count_weights
from mdlm_atat.core.schedules import Schedule
from mdlm_atat.device import as_float64, float64_device
from mdlm_atat.scoring.cost import StepBound, TextCounts
from mdlm_atat.scoring.draws import Drawn, DrawSettings, Rows, score_draws
from mdlm_atat.scoring.records import Kind, MaskRateProfile

NUM_PROFILE_BINS = 10


CountWeights = Callable[[int], Float[Tensor, " length_plus_1"]]
"""Weights w(n) of the number masked of a sequence of so many tokens: see objective.count_weights."""
Groups = Float[Tensor, "vocab groups"]
"""Which share of a token of each kind belongs to each group; rows add up to 1. float64."""


@dataclass(frozen=True)
class Blocks:
    """Sums over the draws of each block, in the order of the draws: all that an estimate, its standard error and a
    paired difference need. With a second axis: a column a group of tokens."""

    score: Float[Tensor, " blocks *groups"]
    """Nats, each draw's an unbiased estimate of its sequence's bound (or that sequence's exact cost)."""
    length: Float[Tensor, " blocks *groups"]
    """Tokens of the sequences."""

    def ratio(self) -> tuple[float, float]:
        """Nats per token and their standard error between blocks."""
        return ratio_with_standard_error(self.score, self.length)

    def column(self, group: int) -> Blocks:
        """The sums of one group of tokens."""
        return Blocks(self.score[:, group], self.length[:, group])


@dataclass(frozen=True)
class Sequences:
    """What some sequences cost, each once, in the order in which a seed takes them."""

    nats: Float[Tensor, " sequences"]
    lengths: Int[Tensor, " sequences"]
    rows: Int[Tensor, " sequences"]
    """Which rows of the data set they are."""

    def ratio(self) -> tuple[float, float]:
        """Nats per token and their standard error between sequences."""
        return ratio_with_standard_error(self.nats, self.lengths.double())


@dataclass(frozen=True)
class GroupDraws:
    """The part of each draw that belongs to each group of tokens."""

    nll: Float[Tensor, "draws groups"]
    num_masked: Float[Tensor, "draws groups"]
    num_tokens: Float[Tensor, "draws groups"]
    """Of the sequence, masked or not. They add up to its length."""


@dataclass(frozen=True)
class Draws:
    """What was measured, a row a draw: enough to compute every bound, profile and paired difference afterwards."""

    nll: Float[Tensor, " draws"]
    """Sum over the masked tokens of -log p, nats."""
    num_masked: Int[Tensor, " draws"]
    lengths: Int[Tensor, " draws"]
    block: Int[Tensor, " draws"]
    by_group: GroupDraws | None = None
    all_masked: Float[Tensor, " draws"] | None = None
    """What the whole sequence costs when all of it is masked."""

    def nelbo(self, weights: CountWeights = count_weights) -> tuple[float, float]:
        """Bound in nats per token, and its standard error, under the weights w(n) of the number masked.

        n is uniform on 1..L, so each draw scores L w(n) * nll; with w(n) = 1/n that is the continuous-time bound.
        The estimate is the ratio of summed scores to summed lengths. Its error is taken between blocks by the delta
        method, as if each had drawn sequences and masks anew: it is too large, never too small, as an error of the
        bound of this very text where draws take its sequences several times; it says nothing of other texts.
        """
        return self.blocks(weights).ratio()

    def t_step_nelbo(self, weights: CountWeights) -> tuple[float, float]:
        """Bound in nats per token of ancestral sampling in T steps, and its standard error; `weights`: those of T
        steps.

        It is the continuous-time bound plus what these weights add to it, on the same draws, so that the two agree for
        large T. w(L) is about 1/T where the others are about 1/L, but only one draw in L has n = L: that term is taken
        from `all_masked` of every sequence that was drawn.
        """
        assert self.all_masked is not None
        weights = cache(weights)  # the table of a length is large
        continuous = self._factors(count_weights)
        factors = torch.where(self.num_masked < self.lengths, self._factors(weights), continuous)
        end = torch.tensor([weights(n)[n] - 1 / n for n in self.lengths.tolist()], dtype=torch.float64)
        score = self.nll.double() * factors + end * self.all_masked
        return Blocks(per_block(score, self.block), per_block(self.lengths, self.block)).ratio()

    def blocks(self, weights: CountWeights = count_weights) -> Blocks:
        """Scores and lengths summed over each block of draws."""
        score = self.nll.double() * self._factors(weights)
        return Blocks(per_block(score, self.block), per_block(self.lengths, self.block))

    def group_blocks(self) -> Blocks:
        """The bound of each group of tokens: the group's part of the cost, over its number of tokens. The bound of the
        whole is the mean over groups, weighted by their tokens."""
        assert self.by_group is not None
        score = self.by_group.nll * self._factors(count_weights)[:, None]
        return Blocks(per_block(score, self.block), per_block(self.by_group.num_tokens, self.block))

    def likelihood(self) -> Likelihood:
        """The bound with its error, profile and groups, as an evaluation uses it."""
        blocks = self.blocks()
        groups = None
        if self.by_group is not None:
            parts = self.group_blocks()
            ratios = [parts.column(group).ratio() for group in range(parts.score.shape[1])]
            groups = GroupCosts(ratios, self.by_group.num_masked.sum(0).tolist(), parts)
        return Likelihood("nelbo", *blocks.ratio(), len(self.nll), blocks, self.profile(), groups, self)

    def profile(self, num_bins: int = NUM_PROFILE_BINS) -> MaskRateProfile:
        """Nats per masked token in bins of the mask rate n / L."""
        rate = self.num_masked.double() / self.lengths
        index = (self.num_masked * num_bins - 1) // self.lengths  # bin k holds rates in (k, k + 1] / num_bins
        rows: list[tuple[float, float, float, int]] = []
        for bin_ in index.unique().tolist():
            chosen = index == bin_
            mean, error = ratio_with_standard_error(self.nll[chosen], self.num_masked[chosen].double())
            rows.append((rate[chosen].mean().item(), mean, error, int(self.num_masked[chosen].sum())))
        rates, nats, errors, numbers = zip(*rows, strict=True)
        return MaskRateProfile(
            mask_rate=rates, nats_per_masked_token=nats, standard_error=errors, num_masked_tokens=numbers
        )

    def _factors(self, weights: CountWeights) -> Float[Tensor, " draws"]:
        """L w(n) of each draw."""
        factors = torch.empty(len(self.nll), dtype=torch.float64)
        for length in self.lengths.unique().tolist():
            rows = self.lengths == length
            factors[rows] = length * weights(length)[self.num_masked[rows]]
        return factors


@dataclass(frozen=True)
class GroupCosts:
    """What the tokens of each group cost."""

    ratios: list[tuple[float, float]]
    """(nats per token, standard error) of each."""
    num_scored: list[float]
    """Tokens of each whose -log p was taken: masked ones, each as often as it was; or, exactly, all."""
    blocks: Blocks
    """(blocks, groups)"""
    sequences: Blocks | None = None
    """(sequences, groups): each sequence once. exact only."""


@dataclass(frozen=True)
class Likelihood:
    """What a model was found to pay for a data set."""

    kind: Kind
    """nelbo: an unbiased estimate of an upper bound (masked diffusion); exact: the chain rule (causal)."""
    nats_per_token: float
    standard_error: float
    num_draws: int
    blocks: Blocks
    """Of the same draws for every model, whatever its kind."""
    profile: MaskRateProfile | None = None
    """nelbo only: nats per masked token by mask rate."""
    groups: GroupCosts | None = None
    draws: Draws | None = None
    """nelbo only."""
    sequences: Sequences | None = None
    """exact only."""


def per_block(values: Num[Tensor, " draws *groups"], block: Int[Tensor, " draws"]) -> Float[Tensor, " blocks *groups"]:
    """Sum of `values` over the draws of each block, in float64."""
    _, index = block.unique(return_inverse=True)
    zeros = torch.zeros(int(index.max()) + 1, *values.shape[1:], dtype=torch.float64)
    return zeros.index_add_(0, index, values.double())


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
    denoise: Denoiser | Network,
    rows: Rows,
    *,
    draws: DrawSettings,
    mask_id: int,
    groups: Groups | None = None,
    with_all_masked: bool = False,
) -> Draws:
    """Mask sequences of a data set at random and score them; see scoring.draws for how they are chosen and masked.

    The result is the same for any number of processes. `groups`: keep the costs of each group of tokens too.
    `with_all_masked`: score each sequence with all of it masked too, which T-step bounds need. Raises UserError for
    fewer than two blocks of draws.
    """
    draws.check_enough()
    device = draws.device
    groups = None if groups is None else groups.to(float64_device(device))

    def score(drawn: Drawn) -> Tensor:
        is_masked = mask_exactly(drawn.uniform, drawn.num_masked, drawn.scored)
        x0, is_masked = drawn.x0.to(device), is_masked.to(device)
        nll = nll_of_masked(denoise, x0, drawn.lengths, is_masked, mask_id)  # (B, L)
        columns = [nll.sum(1, keepdim=True)]  # (B, 1)
        if with_all_masked:
            columns.append(all_masked_nll(denoise, x0, drawn.lengths, mask_id, drawn.prompts)[:, None])
        if groups is not None:
            columns.append(by_group(groups[x0.to(groups.device)], nll, is_masked, drawn.scored.to(device)))
        return torch.cat(columns, dim=1)

    columns, num_masked, lengths, block = score_draws(rows, score, draws)
    nll, all_masked, of_groups = columns.tensor_split([1, 1 + with_all_masked], dim=1)
    parts = None if groups is None else GroupDraws(*of_groups.chunk(3, dim=1))
    return Draws(nll[:, 0], num_masked, lengths, block, parts, all_masked[:, 0] if with_all_masked else None)


@torch.no_grad()
def nll_of_masked(
    denoise: Denoiser | Network,
    x0: Int[Tensor, "batch length"],
    lengths: Int[Tensor, " batch"],
    is_masked: Bool[Tensor, "batch length"],
    mask_id: int,
) -> Float[Tensor, "batch length"]:
    """-log p(x0_i | the row with its masks), nats, in float64, at the places that are masked, and 0 elsewhere. Rows
    end at `lengths`, which may be on another device. The denoiser is told the share of masks in the row."""
    padded = lengths.to(x0.device) if (lengths < x0.shape[1]).any() else None
    told = is_masked.sum(1).float() / lengths.to(x0.device)
    return as_float64(denoised_nll(denoise, hide(x0, is_masked, mask_id), told, padded, x0, is_masked))


def all_masked_nll(
    denoise: Denoiser | Network,
    x0: Int[Tensor, "batch length"],
    lengths: Int[Tensor, " batch"],
    mask_id: int,
    prompts: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, " batch"]:
    """-log p of each row, its prompt given, when all else is masked, in float64. The denoiser is asked once for all
    rows of one length where none has a prompt."""
    if prompts is not None and prompts.any():
        scored = scored_positions(lengths, x0.shape[1], prompts).to(x0.device)
        told = share_to_fill(lengths, prompts).to(x0.device)
        padded = lengths.to(x0.device) if (lengths < x0.shape[1]).any() else None
        return as_float64(denoised_nll(denoise, hide(x0, scored, mask_id), told, padded, x0, scored)).sum(1)
    nll = torch.empty(len(x0), dtype=torch.float64, device=float64_device(x0.device))
    for length in lengths.unique().tolist():
        z_t = torch.full((1, x0.shape[1]), mask_id, device=x0.device)
        padded = None if length == x0.shape[1] else torch.tensor([length], device=x0.device)
        logits = denoise(z_t, torch.ones(1, dtype=torch.float32, device=x0.device), padded)[0, :length]  # type: ignore[operator]
        log_probs = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
        rows = (lengths == length).to(x0.device)
        costs = -log_probs.expand(int(rows.sum()), -1, -1).gather(-1, x0[rows, :length, None])  # (rows, length, 1)
        nll[rows.to(nll.device)] = as_float64(costs).sum((1, 2))
    return nll


def by_group(
    share: Float[Tensor, "batch length groups"],
    nll: Float[Tensor, "batch length"],
    is_masked: Bool[Tensor, "batch length"],
    scored: Bool[Tensor, "batch length"],
) -> Float[Tensor, "batch groups_three_times"]:
    """nll, number of masked tokens and number of tokens of each row, each divided among the groups by `share`."""
    return torch.cat([torch.einsum("bl,blg->bg", as_float64(part), share) for part in (nll, is_masked, scored)], dim=1)


def t_step_bounds(
    draws: Draws, counts: TextCounts, num_steps: Sequence[int], schedule: Schedule, name: str
) -> tuple[StepBound, ...]:
    """Bounds of ancestral sampling in T steps of equal time, for each T of `num_steps`, from the draws of PPL-U, which
    they approach from above as T grows. Unlike PPL-U they depend on the noise schedule, which is recorded under
    `name`."""

    def bound(steps: int) -> StepBound:
        nats, error = draws.t_step_nelbo(lambda length: t_step_count_weights(schedule, length, steps))
        return StepBound(nats_per_token=nats, standard_error=error, counts=counts, num_steps=steps, schedule=name)

    return tuple(map(bound, num_steps))
