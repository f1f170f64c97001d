"""PPL-S: the bound under a method's own masking schedule, from the same draws as PPL-U (see likelihood.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.masking import hide, mask_exactly, share_to_fill
from mdlm_atat.core.objective import denoise_under, masked_nll
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking
from mdlm_atat.device import as_float64, float64_device
from mdlm_atat.scoring.cost import ScheduleBound, TextCounts
from mdlm_atat.scoring.draws import Drawn, DrawSettings, Rows, score_draws
from mdlm_atat.scoring.likelihood import Blocks, Likelihood, per_block


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
        return self.blocks().ratio()

    def rate_nats(self) -> tuple[float, float]:
        """The part of the bound that predicting the rates costs, nats per token, and its standard error."""
        return self._blocks(self.rates).ratio()

    def blocks(self) -> Blocks:
        """Scores and lengths summed over each block of draws."""
        return self._blocks(self.diffusion + self.rates)

    def _blocks(self, score: Tensor) -> Blocks:
        return Blocks(per_block(score, self.block), per_block(self.lengths, self.block))


@torch.no_grad()
def draw_schedule_nll(
    network: Any,
    rows: Rows,
    *,
    masking: ExponentMasking,
    stage: Stage | None = None,
    form: Literal["continuous", "order"] = "continuous",
    draws: DrawSettings,
    mask_id: int,
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
    draws.check_enough()
    device = draws.device
    if form == "order" and not masking.is_plackett_luce:
        raise ValueError("the order form needs speeds that do not change with t")

    def score(drawn: Drawn) -> Tensor:
        x0, scored = drawn.x0.to(device), drawn.scored.to(device)
        wide = float64_device(device)  # of times, rates and sums
        num_masked, num_scored = drawn.num_masked.to(wide), drawn.num_scored.to(wide)
        uniform = drawn.uniform.to(wide)
        padded = None if drawn.padded is None else drawn.padded.to(device)
        importance = None
        if masking.needs_importance:
            f = network.importance_score(x0, torch.zeros(len(x0), dtype=torch.float32, device=device), padded)
            importance = network.importance(x0, f)
        clean = Clean(scored, x0, importance, stage).to(wide)
        # above 0, whose logarithm is not finite
        revealed_at = masking.log_reveal_rate(uniform.clamp_min(2**-25), clean)  # (B, L)
        is_masked = mask_exactly(revealed_at, num_masked, clean.scored)
        log_r = torch.where(is_masked, revealed_at, -torch.inf).amax(1)  # (B,): the last of them to be masked
        r, share_masked = log_r.exp(), num_masked.float() / num_scored
        rate, log_rate = (r, log_r) if form == "continuous" else (share_masked, share_masked.log())
        z_t = hide(x0, is_masked.to(device), mask_id)
        told = rate.float().to(device) * share_to_fill(drawn.lengths, drawn.prompts).to(device)
        logits, log_speed_hat = denoise_under(masking, network, z_t, log_rate, told, padded, stage)
        speed = masking(r, clean).speed.double()  # (B, L)
        log_hat = speed.log() if log_speed_hat is None else as_float64(log_speed_hat)
        speed, speed_hat = torch.where(is_masked, speed, 0.0), torch.where(is_masked, log_hat.exp(), 0.0)
        total, total_hat = speed.sum(1), speed_hat.sum(1)
        share = speed / total[:, None]  # q
        nll = as_float64(masked_nll(logits, x0, is_masked.to(device)))
        mismatch = torch.where(is_masked, share * (speed.clamp_min(1e-300).log() - log_hat), 0.0).sum(1)
        ratio = total_hat / total
        mismatch = mismatch + (ratio - 1 if form == "continuous" else ratio.log())
        if log_speed_hat is None:
            mismatch = torch.zeros_like(mismatch)  # known rates cost nothing, not even a rounding error
        return num_scored[:, None] * torch.stack([(share * nll).sum(1), mismatch], dim=1)

    columns, _, lengths, block = score_draws(rows, score, draws)
    return ScheduleDraws(columns[:, 0], columns[:, 1], lengths, block)


def recorded_bound(
    own: ScheduleDraws | None, found: Likelihood, counts: TextCounts, *, strategy: str, is_bound: bool
) -> ScheduleBound | None:
    """PPL-S as an evaluation records it: the bound of `own`, rate terms included; for a model trained under the uniform
    schedule, which has no `own` draws, PPL-U itself. None for a strategy whose loss is no bound, and for a causal
    model."""
    if found.kind == "exact" or not is_bound:
        return None
    (nats, error), rate = (found.nats_per_token, found.standard_error), 0.0
    if own is not None:
        (nats, error), (rate, _) = own.nelbo(), own.rate_nats()
    return ScheduleBound(
        strategy=strategy, nats_per_token=nats, standard_error=error, rate_nats_per_token=rate, counts=counts
    )
