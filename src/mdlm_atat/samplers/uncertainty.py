"""Sampling by uncertainty: the network says where it is sure, and that is revealed first (or last)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.checks import at_least, one_of
from mdlm_atat.effect import A_NUMBER
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.adaptive import Choice, Seen, reveal_adaptively, settle_ties
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse
from mdlm_atat.samplers.sizes import Profile, Sizes, all_boundaries
from mdlm_atat.samplers.stops import Stop, Watch

Uncertainty = Literal["entropy", "margin", "max_probability", "importance_entropy"]
Amount = Literal["constant", "cosine", "half_cosine", "optimal", "entropy_budget", "threshold"]
ADAPTIVE_AMOUNTS = ("entropy_budget", "threshold")
ABOVE_ALL = 1e4  # above every score: entropies are below log V


@dataclass(frozen=True, kw_only=True)
class UncertaintyGuidedSampler:
    """Where the network is most certain first, or most uncertain; may stop early.

    Each step reveals the masked positions of lowest uncertainty (or of highest), drawing their tokens independently.

    Uncertainty: entropy; margin (negative difference of the two likeliest tokens); max_probability (negative);
    importance_entropy (importance times entropy, of a model that knows importance). How many: num_steps groups of a
    size known beforehand (see sizes), or what the network's certainty allows: entropy_budget, the largest set, most
    certain first, with sum of entropies - largest entropy <= gamma (arXiv 2505.24857: a bound on the dependence between
    tokens drawn at once); threshold, all whose likeliest token has at least that probability. At least one each step.

    With one token at a time every order that depends on nothing hidden draws from the model's joint distribution of
    that order, whose exact likelihood `lm.score(text, order=...)` gives.
    """

    order_is_deterministic: ClassVar = True
    looks_first: ClassVar = True

    num_steps: int | None = field(default=64, metadata={"when": ({"tokens_a_step": None},)})
    """Steps at most; what is left is drawn in the last. None: one token at a time, or as many as it takes."""
    tokens_a_step: int | None = None
    """Instead of num_steps: a row has as many steps as this goes into its tokens."""
    least_steps: int = field(default=1, metadata={"when": ({"tokens_a_step": A_NUMBER},)})
    """With tokens_a_step: at least so many steps, or one a token where there are fewer: what fills a short gap stands
    side by side."""
    score: Uncertainty = "entropy"
    order: Literal["most_certain", "most_uncertain"] = "most_certain"
    amount: Amount = "half_cosine"
    gamma: float = field(default=0.1, metadata={"when": ({"amount": "entropy_budget"},)})
    """Budget of entropy_budget, nats."""
    spread: bool = False
    """Take the most certain position out of each of as many equal parts of the masked positions, instead of the most
    certain of all, which are often neighbours and depend on each other. For amounts known beforehand."""
    spacing: int = field(default=0, metadata={"when": ({"amount": ADAPTIVE_AMOUNTS},)})
    """Of what entropy_budget and threshold choose, take none that is less than a gap from a better one: the others wait
    (the filter of dilated unmasking for such samplers, arXiv 2506.19037, section 4.4, as its authors' page has it). The
    gap is this, their g_0, times the share that is still masked, rounded down, and at least 2. 0: no gap; theirs: 8."""
    threshold: float = field(default=0.9, metadata={"when": ({"amount": "threshold"},)})
    """Least probability of amount=threshold."""
    profile: Profile | None = None
    stop: Stop = field(default_factory=Stop)
    draw: TokenDraw = field(default_factory=TokenDraw)

    def __post_init__(self) -> None:
        at_least("num_steps", self.num_steps, 1)
        at_least("tokens_a_step", self.tokens_a_step, 1)
        at_least("least_steps", self.least_steps, 1)
        if self.tokens_a_step is not None and self.amount in ADAPTIVE_AMOUNTS:
            raise UserError(f"tokens_a_step needs an amount known beforehand, such as constant; {self.amount} is not")
        one_of("score", self.score, get_args(Uncertainty))
        one_of("order", self.order, ("most_certain", "most_uncertain"))
        one_of("amount", self.amount, get_args(Amount))
        at_least("gamma", self.gamma, 0)
        at_least("spacing", self.spacing, 0)
        if self.spacing and self.amount not in ADAPTIVE_AMOUNTS:
            raise UserError(f"spacing needs amount={' or '.join(ADAPTIVE_AMOUNTS)}, not {self.amount}; try spread")
        if self.spread and self.amount in ADAPTIVE_AMOUNTS:
            raise UserError(f"spread needs an amount known beforehand, such as constant; {self.amount} is not")
        if not 0 < self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}, expected above 0 and at most 1")

    def __call__(self, state: Reverse) -> Iterator[None]:
        ends = None
        if self.amount not in ADAPTIVE_AMOUNTS:
            sizes: Sizes = self.amount  # type: ignore[assignment]
            steps = [self.max_nfe(n) for n in state.num_to_fill]
            ends = all_boundaries(sizes, state.num_to_fill, steps, self.profile, state.z_t.shape[1])
        watch = None
        if self.stop.is_on:
            num_steps = torch.tensor([self.max_nfe(n) for n in state.num_to_fill], device=state.z_t.device)
            watch = Watch(self.stop, num_steps)

        num_to_fill = torch.tensor(state.num_to_fill, device=state.z_t.device)

        def decide(seen: Seen) -> Choice:
            uncertainty = self.uncertainty(seen)
            priority = own = settle_ties(-uncertainty if self.order == "most_certain" else uncertainty)
            count = None
            if self.amount == "entropy_budget":
                count = self._within_budget(seen, priority + seen.guided)
            elif self.amount == "threshold":
                sure = seen.max_probability >= self.threshold
                priority = priority.masked_fill(sure, torch.inf)
                count = (sure & seen.is_masked).sum(1).clamp_min(1)
            if self.spread:
                priority = spread_out(priority, seen)
            if self.spacing and count is not None:
                gap = (self.spacing * seen.num_left // num_to_fill[seen.rows]).clamp_min(2)
                best = first_of(priority + seen.guided, seen, count)
                kept = far_apart(seen.positions, own + seen.guided, best, gap)
                priority, count = own.masked_fill(kept, torch.inf), kept.sum(1)
            if watch is not None:
                count = torch.where(watch(seen), seen.num_left, seen.num_due if count is None else count)
            return Choice(priority, count)

        return reveal_adaptively(
            state,
            self.draw,
            decide,
            ends=ends,
            num_steps=self.num_steps,
            counts_vary=self.amount in ADAPTIVE_AMOUNTS or watch is not None,
        )

    def uncertainty(self, seen: Seen) -> Float[Tensor, "rows k"]:
        """The score, higher where the network is less sure."""
        match self.score:
            case "entropy":
                return seen.entropy
            case "margin":
                return -seen.margin
            case "max_probability":
                return -seen.max_probability
            case "importance_entropy":
                if seen.prediction.importance is None:
                    raise UserError(
                        "score=importance_entropy needs a model that knows importance, as "
                        "`train(method='importance_rates')` makes it; use score=entropy"
                    )
                return seen.prediction.importance().gather(1, seen.positions) * seen.entropy

    def _within_budget(self, seen: Seen, priority: Float[Tensor, "rows k"]) -> Tensor:
        ranked = best_first(priority, seen.is_masked)
        entropy = seen.entropy.gather(1, ranked)
        is_masked = seen.is_masked.gather(1, ranked)
        excess = entropy.cumsum(1) - entropy.cummax(1).values
        # the excess never falls, so the sets within the budget are the first ones
        return (is_masked & (excess <= self.gamma)).sum(1).clamp_min(1)

    def max_nfe(self, num_to_fill: int) -> int:
        if self.tokens_a_step is not None:
            return max(-(-num_to_fill // self.tokens_a_step), min(self.least_steps, num_to_fill))
        return min(self.num_steps or num_to_fill, num_to_fill)


def best_first(priority: Float[Tensor, "rows k"], among: Bool[Tensor, "rows k"]) -> Int[Tensor, "rows k"]:
    """The slots of each row by falling priority, of equal ones the leftmost first, those that are not `among` last."""
    return priority.masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)


def first_of(priority: Float[Tensor, "rows k"], seen: Seen, count: Int[Tensor, " rows"]) -> Bool[Tensor, "rows k"]:
    """Which are the `count` best masked positions of each row."""
    rank = best_first(priority, seen.is_masked).argsort(dim=1)
    return rank < count[:, None]


def far_apart(
    positions: Int[Tensor, "rows k"],
    priority: Float[Tensor, "rows k"],
    among: Bool[Tensor, "rows k"],
    gap: Int[Tensor, " rows"],
) -> Bool[Tensor, "rows k"]:
    """Which of the positions `among` remain, if they are taken one by one, the best first, and each only if it is at
    least `gap` from all that were taken.

    All of a row that have no better one within the gap are taken at once, and what is near them goes; a few times over.
    Positions rise, at least those `among`, so that what is near one stands in slots side by side: memory is of the
    order of K a row, not of its square.
    """
    rank = best_first(priority, among).argsort(dim=1)
    rising = positions.cummax(1).values  # slots behind those that are masked only fill the shape
    reach = gap[:, None] - 1
    start = torch.searchsorted(rising, rising - reach)
    end = torch.searchsorted(rising, rising + reach, right=True)
    widest = int((end - start).max())
    taken, left = torch.zeros_like(among), among
    while left.any():
        best = left & (lowest_between(rank.masked_fill(~left, rank.shape[1]), start, end, widest) == rank)
        taken = taken | best
        num_before = F.pad(best.cumsum(1), (1, 0))
        left = left & (num_before.gather(1, start) == num_before.gather(1, end))
    return taken


def lowest_between(
    values: Int[Tensor, "rows k"], start: Int[Tensor, "rows k"], end: Int[Tensor, "rows k"], widest: int
) -> Int[Tensor, "rows k"]:
    """The lowest of a row's values in the slots from `start` to before `end`, of which there are 1 to `widest`: of the
    first and of the last 2^n of them, which overlap, for the largest n."""
    found, num = values.gather(1, start), 2
    while num <= widest:
        values = torch.minimum(values[:, : -(num // 2)], values[:, num // 2 :])  # of `num` slots from each on
        first, last = start.clamp_max(values.shape[1] - 1), (end - num).clamp_min(0)
        found = torch.where(end - start >= num, torch.minimum(values.gather(1, first), values.gather(1, last)), found)
        num *= 2
    return found


def spread_out(priority: Float[Tensor, "rows k"], seen: Seen) -> Float[Tensor, "rows k"]:
    """Raise the best position of each of num_due parts of a row's masked positions above all others; of equal ones the
    leftmost."""
    place = torch.arange(priority.shape[1], device=priority.device)  # masked positions come first, in order
    part = place * seen.num_due[:, None] // seen.num_left[:, None]
    part = part.clamp_max(priority.shape[1] - 1)
    guided = (priority + seen.guided).masked_fill(~seen.is_masked, -torch.inf)
    best = torch.full_like(guided, -torch.inf).scatter_reduce(1, part, guided, "amax")
    places = torch.where(guided == best.gather(1, part), place, len(place))
    leftmost = torch.full_like(part, len(place)).scatter_reduce(1, part, places, "amin")
    return torch.where((place == leftmost.gather(1, part)) & seen.is_masked, ABOVE_ALL, priority)
