"""The objective of masked diffusion: SUBS log-probabilities, the bound (NELBO), and the training loss.

Everything is in nats. The bound of one sequence x0 is, for any noise schedule,

    NELBO(x0) = integral over t of weight(t) E_{z_t} [ sum over masked i of -log p(x0_i | z_t) ]  >=  -log p(x0)

(Sahoo et al. 2024, arXiv 2406.07524, eq. 10), or, summed over the number n of masked tokens instead of t,

    NELBO(x0) = sum over n = 1..L of 1/n E_{|M| = n} [ sum over i in M of -log p(x0_i | z) ].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.denoiser import Denoiser
from mdlm_atat.masking import hide, mask_independently, scored_positions
from mdlm_atat.schedules import Schedule
from mdlm_atat.time_sampling import TimeDensity, Weighting, low_discrepancy_times


def subs_log_probs(
    logits: Float[Tensor, "batch length vocab"], z_t: Int[Tensor, "batch length"], mask_id: int
) -> Float[Tensor, "batch length vocab"]:
    """log p(x0 | z_t) under SUBS: no probability for [MASK] (it has no logit), visible positions copied with certainty.

    Computed in float32 or wider, whatever the logits' type (Sahoo et al. 2024, section 3.2.3).
    """
    log_probs = F.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    visible = z_t != mask_id
    copied = torch.full_like(log_probs, -torch.inf).scatter_(-1, z_t.clamp_max(logits.shape[-1] - 1)[..., None], 0.0)
    return torch.where(visible[..., None], copied, log_probs)


def masked_nll(
    logits: Float[Tensor, "batch length vocab"],
    x0: Int[Tensor, "batch length"],
    is_masked: Bool[Tensor, "batch length"],
) -> Float[Tensor, "batch length"]:
    """-log p(x0_i | z_t) at masked positions, 0 at visible ones (which SUBS copies), in float32 or wider."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll = F.cross_entropy(logits.flatten(0, 1), x0.flatten(), reduction="none").view_as(x0)
    return torch.where(is_masked, nll, 0.0)


@dataclass(frozen=True)
class TrainingLoss:
    """The loss to minimise, and its terms, detached, under the names they are logged by."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class Draw:
    """The random numbers of one training batch, a row a sequence."""

    t: Float[Tensor, " batch"]
    uniform: Float[Tensor, "batch length"]

    def __getitem__(self, rows: slice) -> Draw:
        return Draw(self.t[rows], self.uniform[rows])


@runtime_checkable
class Objective(Protocol):
    """What a network is trained by. `draw` makes the numbers of a whole batch, whatever number of processes share it;
    `loss` scores some of its rows."""

    def draw(self, batch_size: int, length: int, generator: torch.Generator) -> Draw: ...

    def loss(
        self,
        model: Callable[..., Tensor],
        x0: Int[Tensor, "batch length"],
        lengths: Int[Tensor, " batch"] | None,
        draw: Draw,
        num_tokens: float,
    ) -> TrainingLoss:
        """The rows' summed loss over `num_tokens`, nats per token."""
        ...


@dataclass(frozen=True)
class MaskedDiffusion:
    """MDLM's training loss, in nats per token: sum over masked tokens of weighting(t) * -log p(x0_i | z_t).

    With uniform t and the elbo weighting it is an unbiased estimate of the bound.
    """

    schedule: Schedule
    density: TimeDensity
    weighting: Weighting
    mask_id: int

    def draw(self, batch_size: int, length: int, generator: torch.Generator) -> Draw:
        t = low_discrepancy_times(self.density, batch_size, generator)
        # shuffled, so that no process and no micro-batch gets all of the heavily masked rows
        t = t[torch.randperm(batch_size, generator=generator, device=generator.device)]
        return Draw(t, torch.rand(batch_size, length, generator=generator, device=generator.device))

    def loss(
        self,
        model: Denoiser,
        x0: Int[Tensor, "batch length"],
        lengths: Int[Tensor, " batch"] | None,
        draw: Draw,
        num_tokens: float,
    ) -> TrainingLoss:
        scored = torch.ones_like(x0, dtype=torch.bool) if lengths is None else scored_positions(lengths, x0.shape[1])
        mask_rate = self.schedule.mask_rate(draw.t)  # (B,)
        is_masked = mask_independently(draw.uniform, mask_rate, scored)  # (B, L)
        z_t = hide(x0, is_masked, self.mask_id)  # (B, L)
        logits = model(z_t, mask_rate.float(), lengths)  # (B, L, V)
        nll = masked_nll(logits, x0, is_masked)  # (B, L)
        weight = self.weighting(draw.t).float()  # (B,)
        diffusion = (weight[:, None] * nll).sum() / num_tokens  # Sahoo et al. 2024, eq. 10
        return TrainingLoss(total=diffusion, terms={"diffusion": diffusion.detach()})


@dataclass(frozen=True)
class CausalNLL:
    """The causal baseline's loss: its exact negative log-likelihood, nats per token. It draws nothing."""

    def draw(self, batch_size: int, length: int, generator: torch.Generator) -> Draw:
        empty = torch.zeros(batch_size, device=generator.device)
        return Draw(empty, empty[:, None].expand(batch_size, length))

    def loss(
        self,
        model: Callable[[Tensor], Tensor],
        x0: Int[Tensor, "batch length"],
        lengths: Int[Tensor, " batch"] | None,
        draw: Draw,  # noqa: ARG002
        num_tokens: float,
    ) -> TrainingLoss:
        total = causal_nll(model(x0), x0, lengths).sum() / num_tokens
        return TrainingLoss(total=total, terms={"nll": total.detach()})


def causal_nll(
    logits: Float[Tensor, "batch length vocab"],
    x0: Int[Tensor, "batch length"],
    lengths: Int[Tensor, " batch"] | None,
) -> Float[Tensor, "batch length"]:
    """-log p(x_i | x_<i) at every position that is not padding."""
    scored = torch.ones_like(x0, dtype=torch.bool) if lengths is None else scored_positions(lengths, x0.shape[1])
    return masked_nll(logits, x0, scored)


def count_weights(length: int) -> Float[Tensor, " length_plus_1"]:
    """w(n) = 1/n for n = 1..length, 0 for n = 0: NELBO = sum over n of w(n) E_{|M| = n} [ sum over M of nll ].

    The integral over t of weight(t) * P(n of L are masked at t), which is 1/n for every schedule. float64.
    """
    n = torch.arange(1, length + 1, dtype=torch.float64)
    return torch.cat([torch.zeros(1, dtype=torch.float64), 1 / n])


def t_step_count_weights(schedule: Schedule, length: int, num_steps: int) -> Float[Tensor, " length_plus_1"]:
    """The same weights for the bound of ancestral sampling in T steps, which is never below the continuous one.

    w(n) = sum over k of (1 - mask_rate(t_{k-1}) / mask_rate(t_k)) Binomial(n; L, mask_rate(t_k)), t_k = k / T
    (Sahoo et al. 2024, eq. 9). float64.
    """
    times = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    rate = schedule.mask_rate(times).clamp(0, 1)  # (T + 1,)
    reveal = 1 - rate[:-1] / rate[1:]  # (T,)
    n = torch.arange(length + 1, dtype=torch.float64)
    weights = torch.zeros(length + 1, dtype=torch.float64)
    for chunk in torch.arange(num_steps).split(256):  # bounds the (T, L) table
        binomial = torch.distributions.Binomial(length, probs=rate[1:][chunk][:, None], validate_args=False)
        weights += (reveal[chunk][:, None] * binomial.log_prob(n[None, :]).exp()).sum(0)
    weights[0] = 0.0  # nothing masked, nothing to pay
    return weights
