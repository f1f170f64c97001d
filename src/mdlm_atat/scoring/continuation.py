"""The conditional likelihood: what tokens cost that follow others, which are visible throughout.

In any order, the bound on -log p(x | c) of k tokens x after a context c is, as without one (core.objective), but with
masks on these k places alone,

    NELBO(x | c) = sum over n = 1..k of 1/n E_{|M| = n} [ sum over i in M of -log p(x_i | c, x without M) ].

Of one token it is -log p(x | c) itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from math import comb
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.core.denoiser import Denoiser, Network
from mdlm_atat.core.fused_loss import nll_and_likeliest
from mdlm_atat.core.masking import mask_exactly
from mdlm_atat.device import as_float64
from mdlm_atat.samplers.seeds import mix_seed
from mdlm_atat.scoring.draws import BLOCK_SIZE, DrawSettings
from mdlm_atat.scoring.likelihood import nll_of_masked


@dataclass(frozen=True)
class Continuation:
    """Tokens that are scored, at least one, and those before them that are read."""

    given: Sequence[int]
    tokens: Sequence[int]
    seed: int = 0
    """Of its masks, or of its random orders: those of two continuations with one seed have their random numbers in
    common, place by place."""

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.given) + len(self.tokens)


@dataclass(frozen=True)
class Masks:
    """Masks of some tokens, whose weighted costs add up to the bound."""

    is_masked: Bool[Tensor, "masks tokens"]
    weight: Float[Tensor, " masks"]
    """Of the cost of each, float64."""
    num_blocks: int
    """Blocks of BLOCK_SIZE draws that they are; 0 where they are all the masks that there are."""

    @classmethod
    def all(cls, num_tokens: int) -> Masks:
        """All but the empty one: mask M has the weight 1 / (n C(k, n)), n = |M|, and the bound has no error."""
        numbers = torch.arange(1, 2**num_tokens)
        is_masked = (numbers[:, None] >> torch.arange(num_tokens)) & 1 == 1
        weights = [0.0] + [1 / (n * comb(num_tokens, n)) for n in range(1, num_tokens + 1)]
        return cls(is_masked, torch.tensor(weights, dtype=torch.float64)[is_masked.sum(1)], 0)

    @classmethod
    def draw(cls, num_tokens: int, num_blocks: int, seed: int) -> Masks:
        """So many blocks of draws, n spread evenly over 1..k in each as in scoring.draws, with the weight k / n."""
        drawn, numbers = [], []
        for block in range(num_blocks):
            generator = torch.Generator().manual_seed(mix_seed(seed, block))
            u = torch.rand(1, generator=generator, dtype=torch.float64)
            stratum = (u + torch.arange(BLOCK_SIZE)) / BLOCK_SIZE
            num_masked = 1 + (num_tokens * stratum).long().clamp_max(num_tokens - 1)
            uniform = torch.rand(
                num_tokens, BLOCK_SIZE, generator=generator, dtype=torch.float32
            ).T  # by place, whatever is behind it
            drawn.append(mask_exactly(uniform, num_masked, torch.ones(BLOCK_SIZE, num_tokens, dtype=torch.bool)))
            numbers.append(num_masked)
        return cls(torch.cat(drawn), num_tokens / (torch.cat(numbers).double() * num_blocks * BLOCK_SIZE), num_blocks)

    @classmethod
    def of(cls, num_tokens: int, num_blocks: int, seed: int) -> Masks:
        """All masks, where they are no more than the draws would be; else drawn ones."""
        if masks_are_few(num_tokens, num_blocks):
            return _all_masks(num_tokens)
        return cls.draw(num_tokens, num_blocks, seed)

    def estimate(self, nll: Float[Tensor, " masks"]) -> Cost:
        """The bound, from the summed -log p of the masked tokens of each mask."""
        cost = nll * self.weight
        if self.num_blocks == 0:
            return Cost(cost.sum().item(), 0.0, len(nll), 0)
        blocks = cost.view(self.num_blocks, BLOCK_SIZE).sum(1)
        error = blocks.std().item() * self.num_blocks**0.5  # of their sum
        return Cost(blocks.sum().item(), error, len(nll), self.num_blocks - 1)


def masks_are_few(num_tokens: int, num_blocks: int) -> bool:
    """Whether so many tokens have no more masks than so many blocks of draws."""
    return num_tokens < 32 and 2**num_tokens - 1 <= num_blocks * BLOCK_SIZE


@lru_cache(maxsize=16)
def _all_masks(num_tokens: int) -> Masks:
    return Masks.all(num_tokens)


@dataclass(frozen=True)
class Cost:
    """What a continuation costs: an estimate, or the number itself where the standard error is 0."""

    nats: float
    standard_error: float
    num_draws: int
    """Masks or orders that it comes from."""
    degrees: int
    """Of freedom, of the standard error; 0 where there is no error."""


@torch.no_grad()
def bound(
    denoise: Denoiser | Network,
    continuations: Sequence[Continuation],
    *,
    draws: DrawSettings,
    mask_id: int,
) -> list[Cost]:
    """The bound in any order of each continuation, by at most `draws.num_draws` masks (rounded up to whole blocks): all
    there are of a short one, which has no error then, else drawn ones by its own seed. `draws.batch_size` masked rows
    go through the network at a time. Raises UserError for fewer than two blocks of draws.

    Masks fall on places, whatever stands there: a context may hold anything. What a continuation costs does not depend
    on the others, up to the rounding of the network's arithmetic.
    """
    draws.check_enough()
    masks = [Masks.of(len(each.tokens), draws.num_blocks, each.seed) for each in continuations]
    costs: list[list[Tensor]] = [[] for _ in continuations]

    def rows() -> Iterator[tuple[int, Tensor]]:
        for index in longest_first(continuations):
            yield from ((index, mask) for mask in masks[index].is_masked)

    total, done = sum(len(each.is_masked) for each in masks), 0
    for batch in _chunks(rows(), draws.batch_size):
        indices = [index for index, _ in batch]
        x0, lengths = padded([continuations[index] for index in indices])
        is_masked = torch.zeros(x0.shape, dtype=torch.bool)
        for row, (index, mask) in enumerate(batch):
            start = len(continuations[index].given)
            is_masked[row, start : start + len(mask)] = mask
        x0, is_masked = x0.to(draws.device), is_masked.to(draws.device)
        nll = nll_of_masked(denoise, x0, lengths, is_masked, mask_id).sum(1).cpu().double()
        for index, each in zip(indices, nll, strict=True):
            costs[index].append(each)
        done += len(batch)
        draws.report(done, total)
    return [each.estimate(torch.stack(nll)) for each, nll in zip(masks, costs, strict=True)]


@dataclass(frozen=True)
class ReadCost:
    """What a continuation costs left to right, exactly, and whether it is what greedy decoding writes."""

    nats: float
    is_greedy: bool
    """Whether each of its tokens is the likeliest one after those before it."""


@torch.no_grad()
def read(model: Callable[..., Any], continuations: Sequence[Continuation], *, draws: DrawSettings) -> list[ReadCost]:
    """-log p of each continuation by the chain rule, left to right, of a network in its causal mode: `model(x)` gives
    the logits of x_i from x_<i at every place. `draws.batch_size` of them go through it at a time."""
    found: dict[int, ReadCost] = {}
    for batch in _chunks(iter(longest_first(continuations)), draws.batch_size):
        chosen = [continuations[index] for index in batch]
        x0, lengths = padded(chosen)
        starts = torch.tensor([len(each.given) for each in chosen])
        place = torch.arange(x0.shape[1])
        scored = (place >= starts[:, None]) & (place < lengths[:, None])  # (B, L)
        nll, likeliest = _read_at(model, x0.to(draws.device), scored.to(draws.device))
        is_likeliest = (likeliest.cpu() == x0[scored]).split([len(each.tokens) for each in chosen])
        costs = nll.cpu().double().split([len(each.tokens) for each in chosen])
        found |= {
            index: ReadCost(cost.sum().item(), bool(fits.all()))
            for index, cost, fits in zip(batch, costs, is_likeliest, strict=True)
        }
        draws.report(len(found), len(continuations))
    return [found[index] for index in range(len(continuations))]


def _read_at(
    model: Callable[..., Any], x0: Int[Tensor, "batch length"], scored: Bool[Tensor, "batch length"]
) -> tuple[Float[Tensor, " scored"], Int[Tensor, " scored"]]:
    """-log p(x_i | x_<i) at the scored places, row by row, and the likeliest token there."""
    if isinstance(model, Network):
        hidden = model.hidden(x0)[scored]  # pyright: ignore[reportCallIssue]  # in the causal mode
        nll, likeliest = nll_and_likeliest(hidden, *model.output_layer(), x0[scored])
        return as_float64(nll), likeliest
    logits = model(x0)[scored]
    log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return as_float64(-log_probs.gather(1, x0[scored][:, None])[:, 0]), logits.argmax(-1)


def longest_first(continuations: Sequence[Continuation]) -> list[int]:
    """Their numbers by length, so that a batch that does not fit into memory is the first one, and none is padded
    much."""
    return sorted(range(len(continuations)), key=lambda index: -continuations[index].length)


def padded(continuations: Sequence[Continuation]) -> tuple[Int[Tensor, "batch length"], Int[Tensor, " batch"]]:
    """Rows of what is given and what is scored, padded with 0, and their lengths."""
    lengths = [each.length for each in continuations]
    ids = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    for row, each in enumerate(continuations):
        ids[row, : each.length] = [*each.given, *each.tokens]
    return torch.from_numpy(ids), torch.tensor(lengths)


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(islice(items, size)):
        yield chunk
