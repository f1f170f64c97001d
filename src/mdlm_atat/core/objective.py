"""The objective of masked diffusion: SUBS log-probabilities, the bound (NELBO), and the training loss.

Everything is in nats. The bound of one sequence x0 is, for any noise schedule,

    NELBO(x0) = integral over t of weight(t) E_{z_t} [ sum over masked i of -log p(x0_i | z_t) ]  >=  -log p(x0)

(Sahoo et al. 2024, arXiv 2406.07524, eq. 10), or, summed over the number n of masked tokens instead of t,

    NELBO(x0) = sum over n = 1..L of 1/n E_{|M| = n} [ sum over i in M of -log p(x0_i | z) ].

A masking schedule that gives every token a hazard of its own, A_i = speed_i weight(t), has to predict it where it
depends on hidden tokens, A_hat_i = speed_hat_i(z_t, t) weight(t), and pays for its mistakes (docs/method.md):

    NELBO(x0) = integral over t of
        E sum over masked i of [ -A_i log p(x0_i | z_t) + A_i log(A_i / A_hat_i) - A_i + A_hat_i ].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.core.curriculum import Curriculum, Stage
from mdlm_atat.core.denoiser import Denoiser, Network
from mdlm_atat.core.fused_loss import ChunkNLL, Scored, gradients_of_chunk, nll_in_chunks, weighted_nll
from mdlm_atat.core.importance_loss import importance_loss, masking_metrics
from mdlm_atat.core.masking import hide, mask_independently, scored_positions, share_to_fill
from mdlm_atat.core.schedules import Schedule
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking, MaskingScheduler
from mdlm_atat.core.times import TimeDensity, Weighting, highest_mean_of_share, low_discrepancy_times

CONTENT_MARGIN = 0.1


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


def denoised_nll(
    denoise: Denoiser | Network,
    z_t: Int[Tensor, "batch length"],
    t: Float[Tensor, " batch"],
    lengths: Int[Tensor, " batch"] | None,
    x0: Int[Tensor, "batch length"],
    is_masked: Bool[Tensor, "batch length"],
) -> Float[Tensor, "batch length"]:
    """`masked_nll` of what a denoiser says, without a gradient; a network's output layer is asked at masked positions
    only, a chunk at a time."""
    if not isinstance(denoise, Network):
        clean = torch.where(is_masked, x0, 0)  # what is visible may hold [MASK] itself, which has no logit
        return masked_nll(denoise(z_t, t, lengths), clean, is_masked)
    weight, bias = denoise.output_layer()
    nll = nll_in_chunks(denoise.hidden(z_t, t, lengths)[is_masked], weight, bias, x0[is_masked])
    return nll.new_zeros(x0.shape).masked_scatter(is_masked, nll)


def rate_mismatch(
    speed: Float[Tensor, "batch length"],
    log_speed_hat: Float[Tensor, "batch length"],
    is_masked: Bool[Tensor, "batch length"],
) -> Float[Tensor, "batch length"]:
    """speed log(speed / speed_hat) - speed + speed_hat at masked positions: what predicting the rates costs, over
    weight(t). Never negative, and 0 where they are predicted exactly."""
    mismatch = speed * (speed.log() - log_speed_hat) - speed + log_speed_hat.exp()
    return torch.where(is_masked, mismatch, 0.0)


def mask_log_prob(
    mask_rate: Float[Tensor, "batch length"],
    is_masked: Bool[Tensor, "batch length"],
    scored: Bool[Tensor, "batch length"],
) -> Float[Tensor, " batch"]:
    """log q(z_t | x0) of independent masks, for the gradient of the rates. float64 in, float64 out."""
    # clamped: an infinite logarithm in the branch not taken makes the gradient NaN
    log_masked, log_visible = mask_rate.clamp_min(1e-300).log(), torch.log1p(-mask_rate.clamp_max(1 - 1e-12))
    return torch.where(scored, torch.where(is_masked, log_masked, log_visible), 0.0).sum(1)


@dataclass(frozen=True)
class TrainingLoss:
    """The loss to minimise, and its terms, detached, under the names they are logged by."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]
    """Parts of the loss: they add up over micro-batches."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Other numbers about the batch: averaged over micro-batches."""


@dataclass(frozen=True)
class Draw:
    """The random numbers of one training batch, a row a sequence, and the stage of the curriculum they are for."""

    t: Float[Tensor, " batch"]
    uniform: Float[Tensor, "batch length"]
    stage: Stage | None = None

    def __getitem__(self, rows: slice) -> Draw:
        return Draw(self.t[rows], self.uniform[rows], self.stage)


@runtime_checkable
class Objective(Protocol):
    """What a network is trained by. `draw` makes the numbers of a whole batch, whatever number of processes share it;
    `loss` scores some of its rows, and never waits for the device."""

    @property
    def curriculum(self) -> Curriculum | None:
        """What decides the stage of a step, where there is one."""
        ...

    def draw(self, batch_size: int, length: int, generator: torch.Generator, step: int = 0) -> Draw: ...

    def loss(
        self,
        model: Any,
        x0: Int[Tensor, "batch length"],
        lengths: Int[Tensor, " batch"] | None,
        draw: Draw,
        num_tokens: float | Float[Tensor, ""],
        *,
        measure: bool = False,
        prompts: Int[Tensor, " batch"] | None = None,
    ) -> TrainingLoss:
        """The rows' summed loss over `num_tokens`, nats per token; with `measure`, its metrics too. `prompts`: how many
        tokens each row begins with that are given, so that the loss is that of the rest under them (`lengths` is there
        too then, and `num_tokens` counts the rest); None: none."""
        ...


@dataclass(frozen=True)
class TimePlan:
    """Which t a stage of training draws, and how it weights them."""

    density: TimeDensity
    weighting: Weighting


@lru_cache(maxsize=64)  # a look at the density from the CPU in every step would move its tables to and fro
def highest_mask_rate(plan: TimePlan, batch_size: int, num_rows: int) -> float:
    """The most that the mean mask rate of a share of `num_rows` rows of a batch can be."""
    highest_t = plan.density.quantile(1 - torch.arange(batch_size, dtype=torch.float64) / batch_size)  # of each stratum
    return highest_mean_of_share(plan.weighting.schedule.mask_rate(highest_t), num_rows)


@dataclass(frozen=True)
class FusedLoss:
    """The output layer and its cross-entropy at scored positions only (see fused_loss), instead of all logits."""

    batch_size: int
    """Sequences of the whole batch, over all processes and micro-batches."""
    chunk_nll: ChunkNLL = gradients_of_chunk
    """The function of a chunk, or its compiled form."""

    def capacity(
        self, plan: TimePlan, num_rows: int, length: int, masking: MaskingScheduler, *, num_times: int | None = None
    ) -> int:
        """Positions to score of so many rows: as many as the highest times mask, and 4 standard deviations of the coins
        more. Importance shifts the share by little; CONTENT_MARGIN is left for it. For what is masked beyond, see
        `Scored.inflation`.
        `num_times`: different times among the rows, where rows share them."""
        mean = highest_mask_rate(plan, self.batch_size, num_times or num_rows)
        of_coins = 0.5 / (num_rows * length) ** 0.5  # at most: each position is masked or not
        share = mean + 4 * of_coins + CONTENT_MARGIN * masking.reads_content
        return min(num_rows * length, math.ceil(share * num_rows * length))


@dataclass(frozen=True)
class MaskedDiffusion:
    """The training loss of masked diffusion, in nats per token; MDLM is the case with every part of ATAT off.

    diffusion: sum over masked tokens of speed_i weighting(t) * -log p(x0_i | z_t);
    rate_mismatch: what predicting speed_i costs, with the same weights, where the masking reads hidden content;
    importance: mean squared error of the estimator's score against the standardised loss of the masked tokens, on the
    masked and on the clean input (not part of the bound; it trains nothing but the estimator).

    With uniform t and the elbo weighting, diffusion + rate_mismatch is an unbiased estimate of the bound under the
    masking's own schedule. The model is any denoiser; ATATDiT where parts are on.
    """

    schedule: Schedule
    time_plan: Callable[[Stage | None], TimePlan]
    mask_id: int
    masking: MaskingScheduler
    importance_weight: float = 0.0
    """Weight of the importance loss; 0 where there is no estimator."""
    importance_share: float = 1.0
    """Share of the rows that the estimator is trained on."""
    through_bound: bool = False
    """Train what drives the masking through the bound too: each sequence is masked twice (RLOO)."""
    curriculum: Curriculum | None = None
    fused: FusedLoss | None = None
    """None: logits at all positions, from any denoiser; otherwise the model is one of this package's networks."""

    def draw(self, batch_size: int, length: int, generator: torch.Generator, step: int = 0) -> Draw:
        stage = None if self.curriculum is None else self.curriculum.stage(step)
        t = low_discrepancy_times(self.time_plan(stage).density, batch_size, generator)
        return Draw(
            t, torch.rand(batch_size, length, generator=generator, dtype=torch.float32, device=generator.device), stage
        )

    def loss(
        self,
        model: Any,
        x0: Int[Tensor, "batch length"],
        lengths: Int[Tensor, " batch"] | None,
        draw: Draw,
        num_tokens: float | Float[Tensor, ""],
        *,
        measure: bool = False,
        prompts: Int[Tensor, " batch"] | None = None,
    ) -> TrainingLoss:
        t, stage = draw.t, draw.stage
        if self.through_bound:
            x0, t = _twice(x0), _twice(t)
            lengths, prompts = (None if each is None else _twice(each) for each in (lengths, prompts))
        scored = torch.ones_like(x0, dtype=torch.bool)
        if lengths is not None:
            scored = scored_positions(lengths, x0.shape[1], prompts)
        importance = self._importance(model, x0, lengths, measure)  # (B, L), of the clean text
        # t, the draws and the rates are float64, which not every device has: theirs may be another than the model's
        clean = Clean(scored, x0, importance, stage).to(t.device)
        rates = self.masking(t, clean)  # (B, L)
        drawn = mask_independently(draw.uniform, rates.mask_rate.detach(), clean.scored)  # (B, L)
        is_masked = drawn.to(x0.device)
        z_t = hide(x0, is_masked, self.mask_id)  # (B, L)
        rate = self.schedule.mask_rate(t)  # (B,)
        log_rate, told = rate.log(), rate.float().to(x0.device)  # (B,), (B,)
        if lengths is not None and prompts is not None:
            told = told * share_to_fill(lengths, prompts)
        weight = self.time_plan(stage).weighting(t).float()[:, None].to(x0.device)  # (B, 1)
        speed = rates.speed.float().to(x0.device)  # (B, L); 1 everywhere for MDLM
        is_scored, inflation = is_masked, 1.0
        if self.fused is None:
            # (B, L, V), (B, L)
            logits, log_speed_hat = denoise_under(self.masking, model, z_t, log_rate, told, lengths, stage)
            nll = masked_nll(logits, x0, is_masked)  # (B, L)
            total = (weight * speed * nll).sum()  # Sahoo et al. 2024, eq. 10
        else:
            num_times = len(x0) // 2 if self.through_bound else len(x0)
            capacity = self.fused.capacity(
                self.time_plan(stage), len(x0), x0.shape[1], self.masking, num_times=num_times
            )
            scored_first = Scored.choose(drawn, draw.uniform, rates.mask_rate.detach(), capacity).to(x0.device)
            total, nll, log_speed_hat = self._fused(
                model, x0, z_t, log_rate, told, lengths, stage, weight * speed, scored_first
            )
            inflation = scored_first.inflation
            is_scored = scored_first.spread(torch.ones_like(scored_first.index, dtype=torch.float32), x0) > 0
        terms = {"diffusion": total}
        row_loss = (weight * speed * nll).sum(1) * inflation  # (B,): of each row as large on average as `total` is
        if log_speed_hat is not None:
            mismatch = (weight * rate_mismatch(speed, log_speed_hat, is_masked)).sum(1)  # (B,)
            total, row_loss, terms["rate_mismatch"] = total + mismatch.sum(), row_loss + mismatch, mismatch.sum()
        if self.through_bound:
            total = total + leave_one_out(
                row_loss, mask_log_prob(rates.mask_rate, drawn, clean.scored).float().to(x0.device)
            )
        total = total / num_tokens
        terms = {name: term.detach() / num_tokens for name, term in terms.items()}
        metrics: dict[str, Tensor] = {}
        if self.importance_weight > 0:
            rows = slice(max(1, round(self.importance_share * len(x0))))
            error, metrics = importance_loss(
                model,
                x0[rows],
                z_t[rows],
                told[rows],
                None if lengths is None else lengths[rows],
                nll[rows].detach(),
                is_scored[rows],
                measure=measure,
            )
            # of the batch: the mean over micro-batches weighs each by its tokens
            share = scored.sum().float() / num_tokens
            total = total + self.importance_weight * share * error
            terms["importance"] = (share * error).detach()
        if measure:
            metrics |= masking_metrics(rates, drawn, clean)
            metrics["masking/unscored_share"] = 1 - is_scored.sum().float() / is_masked.sum().clamp_min(1)
        return TrainingLoss(total, terms, metrics)

    def _fused(
        self,
        model: Any,
        x0: Tensor,
        z_t: Tensor,
        log_rate: Tensor,
        told: Tensor,
        lengths: Tensor | None,
        stage: Stage | None,
        scale: Float[Tensor, "batch length"],
        scored: Scored,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch length"], Float[Tensor, "batch length"] | None]:
        """What the plain branch of `loss` computes, without the logits of all positions: the sum of scale * nll, nll
        without a gradient, and the log-speeds as `denoise_under` gives them."""
        content = self.masking if isinstance(self.masking, ExponentMasking) and self.masking.reads_content else None
        hidden = model.hidden(z_t, told, lengths)  # (B, L, D)
        weight, bias = model.output_layer()
        correction = None if content is None else content.token_correction(log_rate, stage)  # (B, V)
        row = scored.index // x0.shape[1]
        total, nll = weighted_nll(
            hidden.flatten(0, 1)[scored.index],
            weight,
            bias,
            x0.flatten()[scored.index],
            torch.where(scored.is_scored, scale.expand_as(x0).flatten()[scored.index], 0.0) * scored.inflation,
            correction=None if correction is None else (correction.float().to(x0.device), row),
            chunk_nll=self.fused.chunk_nll if self.fused else None,
        )
        return total, scored.spread(nll, x0), None if content is None else model.log_speed(hidden)

    def _importance(
        self, model: Any, x0: Tensor, lengths: Tensor | None, measure: bool
    ) -> Float[Tensor, "batch length"] | None:
        """Importance of the clean text, where the masking or the log wants it; with a gradient only if it is to come
        through the bound."""
        if not (self.masking.needs_importance or (measure and self.importance_weight > 0)):
            return None
        with torch.set_grad_enabled(self.through_bound and torch.is_grad_enabled()):
            return model.importance(
                x0, model.importance_score(x0, torch.zeros(len(x0), dtype=torch.float32, device=x0.device), lengths)
            )


def denoise_under(
    masking: MaskingScheduler,
    model: Any,
    z_t: Int[Tensor, "batch length"],
    log_rate: Float[Tensor, " batch"],
    told: Float[Tensor, " batch"],
    lengths: Int[Tensor, " batch"] | None,
    stage: Stage | None = None,
) -> tuple[Float[Tensor, "batch length vocab"], Float[Tensor, "batch length"] | None]:
    """Logits of the clean tokens under a masking's own schedule where the noise schedule's mask rate is exp(log_rate),
    and the predicted log-speeds where they are not known. `told` is the time as the denoiser is told it: that mask
    rate, times the share of the row that is not a prompt."""
    if not (isinstance(masking, ExponentMasking) and masking.reads_content):
        return model(z_t, told, lengths), None
    logits, log_speed_hat = model.logits_and_log_speed(z_t, told, lengths)
    correction = masking.token_correction(log_rate, stage)
    if correction is not None:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = logits + correction[:, None, :].to(logits)
    return logits, log_speed_hat


def leave_one_out(row_loss: Float[Tensor, " batch"], log_prob: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """The part of the loss whose gradient is that of the masks' distribution: for each pair of masks of one sequence at
    one t (row i and row i + B/2), 1/2 stopgrad(L1 - L2) (log q(z1 | x0) - log q(z2 | x0)), times two masks.

    Its value is zeroed. Leave-one-out REINFORCE (RLOO, arXiv 1903.00383): unbiased, each loss a baseline for the other.
    """
    loss_1, loss_2 = row_loss.detach().chunk(2)
    log_1, log_2 = log_prob.chunk(2)
    surrogate = ((loss_1 - loss_2) * (log_1 - log_2)).sum()
    return surrogate - surrogate.detach()


def _twice(rows: Tensor) -> Tensor:
    """The first half of the rows, twice over."""
    half = rows[: len(rows) // 2]
    return torch.cat([half, half])


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
    reveal = 1 - rate[:-1] / rate[1:].clamp_min(torch.finfo(rate.dtype).tiny)  # (T,); a rate of t^400 may be 0
    n = torch.arange(length + 1, dtype=torch.float64)
    weights = torch.zeros(length + 1, dtype=torch.float64)
    for chunk in torch.arange(num_steps).split(256):  # bounds the (T, L) table
        binomial = torch.distributions.Binomial(length, probs=rate[1:][chunk][:, None], validate_args=False)
        weights += (reveal[chunk][:, None] * binomial.log_prob(n[None, :]).exp()).sum(0)
    weights[0] = 0.0  # nothing masked, nothing to pay
    return weights
