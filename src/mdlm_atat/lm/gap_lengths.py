"""How long gaps should be, by the model's likelihood of the text that is given, whatever the gaps hold.

Every estimator here draws numbers for each choice of lengths, the same random numbers for all of them, and
`compare_lengths` asks for more until one choice is clearly the best. What is known of the lengths before the given
text is looked at, the prior, counts with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.core.denoiser import Denoiser
from mdlm_atat.core.objective import masked_nll
from mdlm_atat.data.phrases import Phrases, kind_at_end, kind_at_start
from mdlm_atat.device import as_float64
from mdlm_atat.lm.results import LengthCosts, Lengths
from mdlm_atat.samplers.seeds import mix_seed
from mdlm_atat.samplers.template import Gap, Template
from mdlm_atat.scoring.statistics import t_distribution

WRONG = 0.01
"""Of templates whose choice is called settled, at most such a share has another best choice, by Student's t. It is
divided among all comparisons that are made: each choice with the best, after each doubling of the draws."""
ROUNDING = 1e-4  # nats: a difference within this is none, however small its error
FIRST_DRAWS = 64
"""For each choice, before any are compared; fewer where no more are allowed."""


def first_draws(max_draws: int) -> int:
    """Draws for each choice before any are compared. They are even in number: they are compared in pairs."""
    return min(FIRST_DRAWS, max_draws + max_draws % 2)


Prior = Callable[[Lengths], float]
"""-log of how likely a choice of lengths is beforehand, up to a constant, nats."""


def prior_of(phrases: Phrases, template: Template) -> Prior:
    """The prior that gaps are one unit of text each: a stretch within a sentence, a phrase or a word, whichever its
    ends are.

    With n tokens in a gap and u for its being one unit, p(n | given, u) is proportional to p(given | n) p(u | n,
    given). The first is the model's, and all n are as likely in it: its value knows already how often n tokens have
    such ends in a text. The second is taken to depend on the given text by the gap's ends alone, and is the share of
    the training text's stretches of n tokens with such ends that are one unit. Gaps that stand side by side are one.
    """
    runs: list[tuple[list[int], tuple[int, int]]] = []  # numbers of the gaps of each, and the kinds of its ends
    num_gaps, before = 0, ""
    for place, part in enumerate(template):
        if not isinstance(part, Gap):
            before = part
            continue
        if place and isinstance(template[place - 1], Gap):
            runs[-1][0].append(num_gaps)
        else:
            after = next((other for other in template[place:] if isinstance(other, str)), "")
            runs.append(([num_gaps], (kind_at_end(before), kind_at_start(after))))
        num_gaps += 1
    return lambda lengths: sum(phrases.nats(ends, sum(lengths[gap] for gap in gaps)) for gaps, ends in runs)


@dataclass(frozen=True)
class Estimate:
    """What the given text costs with gaps of some lengths."""

    nats: float
    deviations: Float[Tensor, " n"]
    """What each draw, or pair of draws, adds to the error: the standard error is their root sum of squares, and that of
    a difference of two costs from the same random numbers is that of the differences."""

    degrees: float
    """Of freedom, of the error: how many draws count, less 1."""
    unseen: float = 0.0
    """What a kind of draw that is rare, and by chance was not among these, could change: draws that are all alike have
    no error, and yet the next one may be another."""

    @property
    def error(self) -> float:
        return self.deviations.norm().item()

    def error_of_excess(self, other: Estimate) -> float:
        """The standard error of its nats less the other's: paired where both come from the same draws."""
        if len(self.deviations) == len(other.deviations):
            return (self.deviations - other.deviations).norm().item()
        return math.hypot(self.error, other.error)

    def exceeds(self, other: Estimate, chance: float) -> bool:
        """Whether it is clearly more nats than the other: by more than twice the standard error of the difference, and
        by so many of them as Student's t exceeds by chance with the probability `chance` at most."""
        excess = self.nats - other.nats - ROUNDING
        error = math.hypot(self.error_of_excess(other), self.unseen, other.unseen)
        if not excess > 2 * error:
            return False
        degrees = max(1.0, min(self.degrees, other.degrees))
        return error == 0 or t_distribution(-excess / error, degrees) <= chance


@runtime_checkable
class Estimator(Protocol):
    """One way to estimate what the given text costs."""

    likelihood: ClassVar[str]
    knows_its_error: ClassVar[bool]
    """Whether its errors tell what other draws may choose; where they do not, nothing is settled by it."""

    @property
    def first_draws(self) -> int:
        """Draws for each choice before any are compared."""
        ...

    def draw(self, lengths: Lengths, start: int, stop: int) -> Float[Tensor, " draws"]:
        """Draws number `start` to `stop`, on the CPU."""
        ...

    def estimate(self, values: Float[Tensor, " draws"]) -> Estimate:
        """The cost by all draws so far."""
        ...


def compare_lengths(
    choices: Sequence[Lengths], by: Estimator, *, max_draws: int, prior: Prior | None = None
) -> LengthCosts:
    """What the given text costs with each of these lengths of its gaps, and the prior, by which they are chosen; None:
    all are as likely as each other.

    The number of draws, `by.first_draws` at first, is doubled until every other choice costs clearly more than the best
    (`Estimate.exceeds`, by chance in a share WRONG of all cases at most), or it would be more than `max_draws`: then it
    is not settled, as it never is by an estimator that does not know its error. What costs clearly more already gets no
    further draws.
    """
    num_looks = 1 + max(0, int(math.log2(max_draws / by.first_draws)) if max_draws > by.first_draws else 0)
    chance = WRONG / (num_looks * max(1, len(choices) - 1))
    values = {lengths: torch.zeros(0, dtype=torch.float64) for lengths in choices}
    costs: dict[Lengths, Estimate] = {}
    found: dict[Lengths, Estimate] = {}  # with the prior
    beforehand = {lengths: 0.0 if prior is None else prior(lengths) for lengths in choices}
    total = math.log(sum(math.exp(-nats) for nats in beforehand.values()))
    beforehand = {lengths: nats + total for lengths, nats in beforehand.items()}
    num_draws, contenders = by.first_draws, list(choices)
    while True:
        for lengths in contenders:
            values[lengths] = torch.cat([values[lengths], by.draw(lengths, len(values[lengths]), num_draws)])
            costs[lengths] = by.estimate(values[lengths])
            found[lengths] = replace(costs[lengths], nats=costs[lengths].nats + beforehand[lengths])
        best = min(choices, key=lambda lengths: found[lengths].nats)
        contenders = [each for each in choices if each == best or not found[each].exceeds(found[best], chance)]
        if len(contenders) == 1 or 2 * num_draws > max_draws:
            break
        num_draws *= 2
    second = min((each for each in choices if each != best), key=lambda lengths: found[lengths].nats)
    return LengthCosts(
        nats={lengths: each.nats for lengths, each in costs.items()},
        prior_nats=beforehand,
        errors={lengths: each.error for lengths, each in found.items()},
        num_draws={lengths: len(each) for lengths, each in values.items()},
        margin_error=found[second].error_of_excess(found[best]),
        is_settled=by.knows_its_error and len(contenders) == 1,
        likelihood=by.likelihood,
        prior="uniform" if prior is None else "text",
    )


@dataclass(frozen=True)
class Proposals:
    """Fillings of the gaps, drawn in turn by the masked mode, which sees both sides, and by the causal one."""

    rows: Int[Tensor, "draws length"]
    """Texts up to the last given token."""
    is_gap: Bool[Tensor, " length"]
    masked_nll: Float[Tensor, " draws"]
    """-log of the probability with which the masked mode fills the gaps so, whoever has drawn it."""


@dataclass(frozen=True)
class WeightedFillings:
    """Left to right, in a network that has both modes: -log p(given text after the first gap | text before it).

    That is -log of the sum over all fillings of p(filling, given text | text before). Half of the fillings are drawn
    by the masked mode with probability q_m, half by the causal one with q_c, both exact; with q = (q_m + q_c) / 2 the
    mean of p / q over all of them is an unbiased estimate of the sum (Veach and Guibas 1995, the balance heuristic).
    If the masked mode drew alone, what it finds unlikely but the causal one does not would be rare, with a huge weight:
    128 such draws for gaps of 3 to 6 characters were worth 3 to 7 independent ones, 128 of the causal mode 30 to 47 (a
    small network after 300 steps). Here no weight is above twice the largest p(given text | filling, text before).
    """

    propose: Callable[[Lengths, int, int], Proposals]
    """(lengths, start, stop) -> draws number start to stop, the even ones by the masked mode."""
    nll: Callable[[Tensor], Tensor]
    """Rows (B, L) -> -log p(x_i | x_<i) at each place (B, L), left to right; 0 before the first gap."""
    first_draws: int = FIRST_DRAWS

    likelihood: ClassVar[str] = "left to right"
    knows_its_error: ClassVar[bool] = True

    def draw(self, lengths: Lengths, start: int, stop: int) -> Float[Tensor, " draws"]:
        """log(p / q) of each draw."""
        drawn = self.propose(lengths, start, stop)
        nll = self.nll(drawn.rows)
        log_q = torch.logaddexp(-drawn.masked_nll, -nll[:, drawn.is_gap].sum(1)) - math.log(2)
        return -nll.sum(1) - log_q

    def estimate(self, values: Float[Tensor, " draws"]) -> Estimate:
        return _minus_log_mean(values, num_kinds=2)  # by the masked mode, by the causal one


@dataclass(frozen=True)
class QuickFillings:
    """The same sum for those who cannot wait, from a few fillings that the masked mode alone draws, several tokens at a
    time: a fraction of the work. The estimate is unbiased too, but what the masked mode hardly ever draws may have most
    of the sum, and the error of a few draws does not show that it is missing."""

    propose: Callable[[Lengths, int, int], Proposals]
    """(lengths, start, stop) -> draws number start to stop."""
    nll: Callable[[Tensor], Tensor]
    """Rows (B, L) -> -log p(x_i | x_<i) at each place (B, L), left to right; 0 before the first gap."""
    first_draws: int

    likelihood: ClassVar[str] = "left to right"
    knows_its_error: ClassVar[bool] = False

    def draw(self, lengths: Lengths, start: int, stop: int) -> Float[Tensor, " draws"]:
        """log(p / q) of each draw."""
        drawn = self.propose(lengths, start, stop)
        return drawn.masked_nll - self.nll(drawn.rows).sum(1)

    def estimate(self, values: Float[Tensor, " draws"]) -> Estimate:
        return _minus_log_mean(values, num_kinds=1)


def _minus_log_mean(values: Float[Tensor, " draws"], *, num_kinds: int) -> Estimate:
    """-log of the mean of exp(values), drawn by so many kinds of proposals in turn.

    The error of the logarithm is that of the mean, relative to it (delta method); the draws of each kind vary around a
    mean of their own. A draw of weight 0 would change the mean by 1 / n.
    """
    num = len(values)
    log_mean = (values.logsumexp(0) - math.log(num)).item()
    if log_mean == -math.inf:  # no filling that was drawn is possible
        return Estimate(math.inf, torch.zeros_like(values), 1.0)
    weights = (values - log_mean).exp().view(-1, num_kinds)  # relative to their mean
    deviations = (weights.mean(0) - weights).flatten() / math.sqrt(num * max(1, num - num_kinds))
    num_effective = num**2 / weights.square().sum().item()
    return Estimate(-log_mean, deviations, num_effective - 1, unseen=1 / num)


@dataclass(frozen=True)
class MaskedGaps:
    """In any order, in a network that fills masks only: an upper bound on -log p(given text), the gaps masked
    throughout. See `cost_of_given`."""

    denoise: Denoiser
    lay_out: Callable[[Lengths], Int[Tensor, " length"]]
    """The text with gaps of these lengths, [MASK] in them."""
    mask_id: int
    seed: int = 0
    first_draws: int = FIRST_DRAWS

    likelihood: ClassVar[str] = "any order"
    knows_its_error: ClassVar[bool] = True

    def draw(self, lengths: Lengths, start: int, stop: int) -> Float[Tensor, " draws"]:
        tokens, size = self.lay_out(lengths), self.first_draws
        fixed = tokens != self.mask_id
        seeds = [mix_seed(self.seed, number) for number in range(start // size, -(-stop // size))]
        sets = [
            cost_of_given(self.denoise, tokens, fixed, mask_id=self.mask_id, num_draws=size, seed=seed)
            for seed in seeds
        ]
        return torch.cat(sets)

    def estimate(self, values: Float[Tensor, " draws"]) -> Estimate:
        """Draws next to each other mask nearly as many tokens: their differences are what chance does, and not what the
        number of masked tokens does."""
        return Estimate(values.mean().item(), (values[::2] - values[1::2]) / len(values), len(values) / 2)


@torch.no_grad()
def cost_of_given(
    denoise: Denoiser,
    tokens: Int[Tensor, " length"],
    fixed: Bool[Tensor, " length"],
    *,
    mask_id: int,
    num_draws: int,
    batch_size: int = 16,
    seed: int = 0,
) -> Float[Tensor, " num_draws"]:
    """Draws whose mean estimates an upper bound on -log p(fixed tokens), nats, whatever the gaps hold: they stay masked
    throughout.

    With F fixed tokens: draw n from 1..F, mask n of them and every gap, and add up -log p of those n, times F / n. The
    n of all draws are spread evenly, in rising order. The number of tokens scored is the same for every length of the
    gaps, so their costs can be compared; and so are the random numbers, which makes the difference surer than either.
    """
    places = fixed.cpu().nonzero()[:, 0]
    num_fixed = len(places)
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(1, generator=generator, dtype=torch.float64)
    num_masked = 1 + (num_fixed * (u + torch.arange(num_draws)) / num_draws).long().clamp_max(num_fixed - 1)
    rank = torch.rand(num_draws, num_fixed, generator=generator, dtype=torch.float32).argsort(dim=1).argsort(dim=1)
    hidden = rank < num_masked[:, None]  # (draws, F)
    is_masked = torch.zeros(num_draws, len(tokens), dtype=torch.bool)
    is_masked[:, places] = hidden
    is_masked = is_masked.to(tokens.device)
    costs = []
    for start in range(0, num_draws, batch_size):
        scored = is_masked[start : start + batch_size]
        z_t = torch.where(scored | ~fixed, mask_id, tokens)
        t = (z_t == mask_id).float().mean(1)
        x0 = torch.where(fixed, tokens, 0).expand_as(z_t)  # what a gap holds is not scored
        nll = as_float64(masked_nll(denoise(z_t, t), x0, scored)).sum(1)
        costs.append((nll * (num_fixed / scored.sum(1).float().to(nll.device))).cpu())
    return torch.cat(costs)
