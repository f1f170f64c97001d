"""Tiny hand-made denoisers and joints that can be enumerated, standing in for networks and corpora."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdlm_atat.core.objective import MaskedDiffusion, TimePlan
from mdlm_atat.core.schedules import Schedule
from mdlm_atat.core.strategies.uniform import UniformMasking
from mdlm_atat.core.times import TimeDensity, Weighting


@dataclass(frozen=True)
class Joint:
    """A distribution over sequences of `length` tokens from `vocab`, whose probabilities are whole multiples
    of 1 / total."""

    sequences: Tensor  # (N, L)
    counts: Tensor  # (N,)

    @classmethod
    def random(cls, length: int, vocab: int, total: int = 96, seed: int = 0) -> Joint:
        sequences = torch.tensor(list(itertools.product(range(vocab), repeat=length)))
        generator = torch.Generator().manual_seed(seed)
        shares = torch.rand(len(sequences), generator=generator, dtype=torch.float64) ** 4  # uneven on purpose
        drawn = torch.multinomial(shares / shares.sum(), total, replacement=True, generator=generator)
        return cls(sequences, torch.bincount(drawn, minlength=len(sequences)))

    @property
    def mask_id(self) -> int:
        return int(self.sequences.max()) + 1

    @property
    def probs(self) -> Tensor:
        return self.counts.double() / self.counts.sum()

    @property
    def entropy_nats(self) -> float:
        return torch.special.entr(self.probs).sum().item()

    def rows(self) -> ListRows:
        """A data set in which every sequence occurs exactly as often as its probability says."""
        return ListRows(self.sequences.repeat_interleave(self.counts, dim=0).numpy())

    def denoise(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The exact conditionals log p(x0_i | visible part of z_t), (B, L, V) in float64."""
        vocab, length = self.mask_id, self.sequences.shape[1]
        visible = z_t != self.mask_id
        fits = ((z_t[:, None] == self.sequences[None]) | ~visible[:, None]).all(-1)  # (B, N)
        weight = fits * self.probs  # (B, N)
        one_hot = torch.nn.functional.one_hot(self.sequences, vocab).double()  # (N, L, V)
        table = torch.einsum("bn,nlv->blv", weight, one_hot)
        assert length == z_t.shape[1]
        return (table / table.sum(-1, keepdim=True)).log()


class ListRows:
    """Rows in memory, all full and without a prompt where nothing else is said."""

    def __init__(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64] | None = None,
        prompts: NDArray[np.int64] | None = None,
    ) -> None:
        self.ids = ids
        self.prompts = np.zeros(len(ids), np.int64) if prompts is None else prompts
        self.lengths = np.full(len(ids), ids.shape[1]) if lengths is None else lengths
        self.num_evaluation_rows = len(ids)

    def evaluation_rows(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.ids[indices], self.lengths[indices]

    def num_prompt_tokens(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.prompts[indices]


class CausalTable:
    """Exact log p(x_i | x_<i) of a joint."""

    def __init__(self, joint: Joint) -> None:
        self.joint = joint

    def __call__(self, x: Tensor) -> Tensor:
        columns = []
        for i in range(x.shape[1]):
            prefix = torch.where(torch.arange(x.shape[1]) < i, x, self.joint.mask_id)
            columns.append(self.joint.denoise(prefix, torch.zeros(len(x)))[:, i])
        return torch.stack(columns, dim=1)


def uniform_denoiser(vocab: int):
    """Knows nothing: every token is equally likely everywhere."""

    def denoise(z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        return torch.zeros(*z_t.shape, vocab, dtype=torch.float64)

    return denoise


def expected_nll(joint: Joint, is_masked: Tensor) -> float:
    """E over x0 of the sum over masked positions of -log p(x0_i | visible), for one mask (L,), exactly."""
    z_t = torch.where(is_masked, joint.mask_id, joint.sequences)
    log_probs = joint.denoise(z_t, torch.zeros(len(z_t)))
    nll = -log_probs.gather(-1, joint.sequences[..., None])[..., 0]  # (N, L)
    nll = torch.where(is_masked & (joint.counts > 0)[:, None], nll, 0.0)
    return (joint.probs * nll.sum(1)).sum().item()


def all_masks(length: int) -> list[Tensor]:
    return [torch.tensor(mask, dtype=torch.bool) for mask in itertools.product([False, True], repeat=length)]


def mdlm(schedule: Schedule, density: TimeDensity, weighting: Weighting, mask_id: int) -> MaskedDiffusion:
    """The objective with every part of ATAT off."""
    plan = TimePlan(density, weighting)
    return MaskedDiffusion(schedule, lambda _: plan, mask_id, UniformMasking(schedule))
