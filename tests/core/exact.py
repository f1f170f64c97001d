# ruff: noqa: ARG002 (stand-ins take what the real thing takes)
"""Masking strategies on joints small enough to enumerate, with the exact reverse process in the place of a network."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.masking import hide
from mdlm_atat.core.objective import denoise_under, masked_nll, rate_mismatch
from mdlm_atat.core.schedules import Linear, Schedule
from mdlm_atat.core.strategies.by_importance import AdaptiveMaskingScheduler
from mdlm_atat.core.strategies.by_position import PositionAwareMaskingScheduler
from mdlm_atat.core.strategies.by_stage import CurriculumMasking
from mdlm_atat.core.strategies.literal import LiteralMasking
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking
from mdlm_atat.core.strategies.uniform import UniformMasking
from toys import Joint, all_masks

ImportanceOf = Callable[[Tensor], Tensor]
TOKEN_IMPORTANCE = torch.tensor([0.0, 0.5, 1.0, 0.25], dtype=torch.float64)
STAGE = Stage(
    index=0,
    name="easy",
    importance_range=(0.0, 0.3),
    temperature=0.8,
    window=(0.0, 1.0),
    weight_in_range=2.0,
    time_sampling="uniform",
    weighting="elbo",
)


def by_token(x0: Tensor) -> Tensor:
    return TOKEN_IMPORTANCE[x0]


def by_context(x0: Tensor) -> Tensor:
    """Of a token and its two neighbours, so that the same token is important here and not there."""
    return TOKEN_IMPORTANCE[(x0 + 2 * x0.roll(1, 1) + 5 * x0.roll(2, 1)) % 3]


@dataclass(frozen=True)
class Case:
    """A strategy on text of up to four kinds of tokens in three places."""

    name: str
    make: Callable[[Schedule], ExponentMasking]
    importance_of: ImportanceOf = by_token
    stage: Stage | None = None

    def __repr__(self) -> str:  # names the tests
        return self.name


def adaptive(direction, temperature=0.7, **settings) -> Callable[[Schedule], ExponentMasking]:
    return lambda schedule: AdaptiveMaskingScheduler(schedule, direction, temperature, **settings)


def position(shape, strength=1.0, **settings) -> Callable[[Schedule], ExponentMasking]:
    return lambda schedule: PositionAwareMaskingScheduler(schedule, shape, strength, **settings)


class FirstTokensLast(ExponentMasking):
    """As a plugin may be written: it reads token ids, and wants no importance."""

    needs_importance = False

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def log_exponent(self, clean: Clean) -> Tensor:
        assert clean.tokens is not None
        return torch.where(clean.tokens == 0, -0.7, 0.2).double()


BIAS = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
CONTENT_FREE = [
    Case("uniform", UniformMasking),
    Case("slope", position("slope")),
    Case("u_shape", position("u_shape", -0.8)),
    Case("table", position("table", table=nn.Parameter(torch.tensor([0.4, -0.5, 0.1])))),
    Case("time_only_biased", adaptive("time_only", position_bias=BIAS)),
]
TOKEN_IDENTITY = [
    Case("token_inverse", adaptive("inverse", center=0.5)),
    Case("token_proportional", adaptive("proportional", center=0.5)),
    Case("token_balanced", adaptive("balanced", 0.75, center=0.5)),
    Case("token_ids", FirstTokensLast),
    Case("token_inverse_biased", adaptive("inverse", center=0.4, position_bias=BIAS)),
]
WHOLE_SEQUENCE = [
    Case("sequence_mean_inverse", adaptive("inverse")),
    Case("sequence_mean_proportional", adaptive("proportional")),
    Case("contextual", adaptive("inverse", center=0.5), by_context),
    Case("contextual_balanced", adaptive("balanced", 0.75, center=0.5), by_context),
    Case("contextual_sequence_mean", adaptive("proportional"), by_context),
    Case("curriculum", CurriculumMasking, by_token, STAGE),
]
TIGHT = CONTENT_FREE + TOKEN_IDENTITY
CASES = TIGHT + WHOLE_SEQUENCE
JOINT = Joint.random(length=3, vocab=3)
JOINTS = {3: JOINT, 4: Joint.random(length=3, vocab=4)}
TILT = 0.3


class ExactNetwork:
    """What training converges to, by Bayes' rule over all sequences, told the mask rate r of the noise schedule: the
    expected speeds given (z_t, r), and the distribution of each token given that it is the one revealed at r, which is
    the posterior weighted by speed.

    A tilt other than 0 leans it away from there, by a function of place, token, state and r: a network that is wrong.
    """

    def __init__(
        self,
        joint: Joint,
        masking: ExponentMasking | LiteralMasking,
        importance_of: ImportanceOf = by_token,
        stage: Stage | None = None,
        *,
        tilt: float = 0.0,
    ) -> None:
        possible = joint.counts > 0
        self.mask_id, self.x0, self.probs = joint.mask_id, joint.sequences[possible], joint.probs[possible]
        self.masking = copy.copy(masking)
        self.masking.schedule = Linear()
        self.importance_of, self.stage, self.tilt = importance_of, stage, tilt

    def importance_score(self, tokens: Tensor, t: Tensor, lengths: Tensor | None = None) -> None:
        return None

    def importance(self, tokens: Tensor, score: Tensor | None) -> Tensor:
        return self.importance_of(tokens)

    def posterior(self, z_t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Probability (B, N) of every sequence, and its speeds (B, N, L)."""
        (batch, length), num = z_t.shape, len(self.x0)
        every = self.x0.repeat(batch, 1)
        r = r.double().clamp_max(1 - 1e-12).repeat_interleave(num)
        rates = self.masking(
            r, Clean(torch.ones_like(every, dtype=torch.bool), every, self.importance_of(every), self.stage)
        )
        mask_rate, speed = (part.detach().view(batch, num, length) for part in (rates.mask_rate, rates.speed))
        masked = (z_t == self.mask_id)[:, None]  # (B, 1, L)
        fits = ((z_t[:, None] == self.x0) | masked).all(-1)
        joint = torch.where(masked, mask_rate, 1 - mask_rate).prod(-1) * fits * self.probs
        return joint / joint.sum(1, keepdim=True), speed

    def logits_and_log_speed(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        posterior, speed = self.posterior(z_t, t)
        return self.tilted(z_t, t, posterior[..., None] * speed)

    def tilted(self, z_t: Tensor, t: Tensor, reveal: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and log-speeds of the rates (B, N, L) at which the tokens of every sequence are revealed."""
        logits = torch.einsum("bnl,nlv->blv", reveal, F.one_hot(self.x0, self.mask_id).double()).log()
        log_speed = reveal.sum(1).log()
        place = torch.arange(z_t.shape[1]) + z_t.sum(1, keepdim=True) + 3 * t.double()[:, None]  # (B, L)
        token = torch.arange(self.mask_id)
        return logits + self.tilt * (place[..., None] + token**2).sin(), log_speed + self.tilt * place.cos()

    def __call__(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.logits_and_log_speed(z_t, t)[0]


def exact(case: Case, joint: Joint, *, tilt: float = 0.0) -> ExactNetwork:
    return ExactNetwork(joint, case.make(Linear()), case.importance_of, case.stage, tilt=tilt)


def time_nodes(num_nodes: int = 40, power: int = 6) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on (0, 1), crowded at 0 by t = u ** power: t ** (w - 1) is singular there."""
    x, w = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(num_nodes))
    u = (x + 1) / 2
    return u**power, w / 2 * power * u ** (power - 1)


def enumerated_bound(
    network: ExactNetwork,
    masking: ExponentMasking | LiteralMasking | None = None,
    *,
    with_rates: bool = True,
    nodes: tuple[Tensor, Tensor] | None = None,
) -> float:
    """The continuous bound of docs/method.md, nats per sequence, over every sequence, every mask and the integral over
    t, under the network's own masking or one that differs from it in the noise schedule.

    with_rates False leaves out the rate terms: the number that is no bound where rates read content.
    """
    masking = network.masking if masking is None else masking
    t, dt = time_nodes() if nodes is None else nodes
    num = len(network.x0)
    x0, t_rows = network.x0.repeat(len(t), 1), t.repeat_interleave(num)  # (T N, L), (T N,)
    chance = network.probs.repeat(len(t)) * dt.repeat_interleave(num)
    scored = torch.ones_like(x0, dtype=torch.bool)
    rates = masking(t_rows, Clean(scored, x0, network.importance_of(x0), network.stage))
    total = 0.0
    for mask in all_masks(x0.shape[1])[1:]:  # the first hides nothing
        is_masked = mask.expand_as(x0)
        probability = chance * torch.where(is_masked, rates.mask_rate, 1 - rates.mask_rate).prod(1)
        z_t = hide(x0, is_masked, network.mask_id)
        told = masking.schedule.mask_rate(t_rows)
        logits, log_hat = denoise_under(masking, network, z_t, told.log(), told, None, network.stage)
        cost = rates.weight * masked_nll(logits, x0, is_masked)
        if with_rates and log_hat is not None:
            weight = masking.schedule.weight(t_rows)[:, None]
            cost = cost + weight * rate_mismatch(rates.speed, log_hat, is_masked)
        # a mask that cannot be has no exact answer
        total += torch.where(probability > 0, probability * cost.sum(1), 0.0).sum().item()
    return total


class OrderNetwork(ExactNetwork):
    """The exact reverse process of the order alone, which knows z_t and no time: which place is revealed next, and
    which token is there."""

    def shares(self) -> Tensor:
        """w (N, L) of every sequence."""
        scored = torch.ones_like(self.x0, dtype=torch.bool)
        t = torch.ones(len(self.x0), dtype=torch.float64)
        return self.masking(t, Clean(scored, self.x0, self.importance_of(self.x0), self.stage)).speed.detach()

    def logits_and_log_speed(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        masked = (z_t == self.mask_id)[:, None]  # (B, 1, L)
        fits = ((z_t[:, None] == self.x0) | masked).all(-1)
        revealed = (~masked[:, 0]).long() @ (2 ** torch.arange(z_t.shape[1]))  # a number for every set
        joint = chance_of_revealed_sets(self.shares())[:, revealed].T * fits * self.probs  # (B, N)
        w = self.shares() * masked
        next_one = w / w.sum(-1, keepdim=True).clamp_min(1e-300)  # (B, N, L); 0 at visible places
        visible_too = torch.where(masked, next_one, 1.0)
        return self.tilted(z_t, torch.zeros(len(z_t)), (joint / joint.sum(1, keepdim=True))[..., None] * visible_too)


def chance_of_revealed_sets(w: Tensor) -> Tensor:
    """(N, 2^L): the probability that the first |R| tokens revealed are those of R, R written in binary."""
    num, length = w.shape
    chance = torch.zeros(num, 2**length, dtype=torch.float64)
    chance[:, 0] = 1
    for revealed in range(2**length):
        hidden = [i for i in range(length) if not revealed >> i & 1]
        for i in hidden:
            chance[:, revealed | 1 << i] += chance[:, revealed] * w[:, i] / w[:, hidden].sum(1)
    return chance


def enumerated_order_bound(network: OrderNetwork) -> float:
    """Sum over sequences and orders s of q(s | x0) sum over k of
    [ -log p(x_{s_k} | revealed) + log q(s_k | x0) - log p_hat(s_k | z) ], nats per sequence."""
    w = network.shares()
    total = 0.0
    for order in itertools.permutations(range(w.shape[1])):
        chance, cost = network.probs.clone(), torch.zeros_like(network.probs)
        for k, place in enumerate(order):
            hidden = list(order[k:])
            z_t = network.x0.clone()
            z_t[:, hidden] = network.mask_id
            logits, log_speed = network.logits_and_log_speed(z_t, torch.zeros(len(z_t)))
            log_p = logits[:, place].log_softmax(-1).gather(1, network.x0[:, place, None])[:, 0]
            log_p_hat = log_speed[:, place] - log_speed[:, hidden].logsumexp(1)
            q = w[:, place] / w[:, hidden].sum(1)
            cost += q.log() - log_p - log_p_hat
            chance *= q
        total += (chance * cost).sum().item()
    return total


def order_network(case: Case, joint: Joint, *, tilt: float = 0.0) -> OrderNetwork:
    return OrderNetwork(joint, case.make(Linear()), case.importance_of, case.stage, tilt=tilt)
