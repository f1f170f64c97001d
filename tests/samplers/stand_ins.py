"""Stand-ins for networks, and every step rule with several sets of options."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import settings
from torch import Tensor

from mdlm_atat.core.denoiser import Prediction
from mdlm_atat.core.schedules import Cosine
from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.confidence import ConfidenceBasedSampler
from mdlm_atat.samplers.dilated import Dilated
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.follow_rates import FollowRates, RateHitting
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import StepRule
from mdlm_atat.samplers.remask import Remask
from mdlm_atat.samplers.segments import Segments
from mdlm_atat.samplers.sizes import Profile
from mdlm_atat.samplers.stops import Stop
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler as Uncertainty

SHARES = tuple(k / 10 for k in range(1, 11))  # of masked tokens


def profile_of(nats: Callable[[float], float]) -> Profile:
    return Profile(SHARES, tuple(nats(share) for share in SHARES), (0.01,) * len(SHARES))


CURVED = profile_of(lambda masked: 1 + 3 * masked**3)  # what is revealed first helps most

RULES: dict[str, StepRule] = {
    "ancestral": Ancestral(num_steps=5),
    "ancestral_uncached": Ancestral(num_steps=4, schedule=Cosine(), cache=False),
    "first_hitting": FirstHitting(),
    "first_hitting_cosine": FirstHitting(num_steps=3, sizes="cosine", draw=TokenDraw(temperature=0.7, top_k=2)),
    "first_hitting_optimal": FirstHitting(num_steps=3, sizes="optimal", profile=CURVED),
    "entropy": Uncertainty(num_steps=None),
    "entropy_in_3": Uncertainty(num_steps=3),
    "margin": Uncertainty(num_steps=4, score="margin", order="most_uncertain", amount="constant"),
    "greedy": Uncertainty(num_steps=3, score="max_probability", amount="cosine", draw=TokenDraw(temperature=0)),
    "importance": Uncertainty(num_steps=None, score="importance_entropy", order="most_uncertain"),
    "spread": Uncertainty(num_steps=None, tokens_a_step=3, amount="constant", spread=True),
    "spread_in_3": Uncertainty(num_steps=3, score="margin", order="most_uncertain", spread=True),
    "budget": Uncertainty(num_steps=None, amount="entropy_budget", gamma=0.8),
    "budget_in_3": Uncertainty(num_steps=3, amount="entropy_budget", gamma=0.2),
    "threshold": Uncertainty(num_steps=None, score="margin", amount="threshold", threshold=0.6),
    "budget_spaced": Uncertainty(num_steps=None, amount="entropy_budget", gamma=2.5, spacing=4),
    "threshold_spaced": Uncertainty(num_steps=None, amount="threshold", threshold=0.5, spacing=3),
    "dilated": Dilated(block=4),
    "dilated_in_3": Dilated(num_steps=3),
    "dilated_skips": Dilated(block=8, skip_below=0.6),
    "segments": Segments(tokens_a_step=3),
    "segments_in_3": Segments(num_steps=3),
    "stop_entropy": Uncertainty(num_steps=None, stop=Stop(entropy=0.7)),
    "stop_relative_entropy": Uncertainty(num_steps=6, stop=Stop(relative_entropy=0.7)),
    "stop_confidence": Uncertainty(num_steps=None, amount="threshold", stop=Stop(confidence=0.5, few=4)),
    "stop_spread": Uncertainty(num_steps=4, amount="cosine", spread=True, stop=Stop(entropy=0.7)),
    "stop_patience": Uncertainty(num_steps=None, order="most_uncertain", stop=Stop(patience=1)),
    "confidence": ConfidenceBasedSampler(num_steps=5, threshold=0.6),
    "confidence_of_3": ConfidenceBasedSampler(num_steps=9, window=3, threshold=0.5),
    "remask_cap": Remask(num_steps=6, eta=0.4),
    "remask_rescale": Remask(num_steps=5, strategy="rescale", eta=1.0),
    "remask_confidence": Remask(num_steps=6, strategy="confidence", eta=0.6),
    "follow_rates": FollowRates(num_steps=5),
    "rate_hitting": RateHitting(),
    "rate_hitting_in_3": RateHitting(num_steps=3, sizes="half_cosine"),
    "left_to_right": LeftToRight(draw=TokenDraw(top_p=0.9)),
}
STOPPING = [name for name in RULES if name.startswith("stop")]


class Hashed:
    """A network of chance: all it says is a hash of the whole row, and of t where it `reads_time`, the same in any
    batch. The last token has probability 0."""

    def __init__(self, vocab_size: int, *, reads_time: bool = True) -> None:
        self.vocab_size, self.reads_time = vocab_size, reads_time
        self.asked: list[tuple[int, int]] = []
        """Rows and positions of every call for logits."""

    def __call__(self, z_t: Tensor, t: Tensor) -> Prediction:
        length = z_t.shape[1]
        row = (z_t * 31 ** torch.arange(length)).sum(1, keepdim=True)  # (B, 1)
        if self.reads_time:
            row = row + 7919 * (4096 * t).round().long()[:, None]
        place = hashed(row * 1009 + torch.arange(length))  # (B, L)
        logits = hashed(place[..., None] + torch.arange(self.vocab_size)) % 4001 / 1000.0
        logits[..., -1] = -torch.inf
        of_rows = Prediction.of(logits.double())

        def asked_for(positions: Tensor) -> Tensor:
            self.asked.append((positions.shape[0], positions.shape[1]))
            return of_rows.logits(positions)

        speed, importance = (hashed(place + k) % 1000 / 1000.0 for k in (77, 78))
        return Prediction(asked_for, 0.2 + 2 * speed, lambda: importance)


def hashed(x: Tensor) -> Tensor:
    """Whole numbers that look random; int64 wraps around."""
    for _ in range(2):
        x = x * 6364136223846793005 + 1442695040888963407
        x = x ^ (x >> 29)
    return x


def says(probs: Sequence[Sequence[float]], importance: Sequence[float] | None = None):
    """A denoiser whose distributions are the same whatever is revealed: a list of probabilities at each position."""
    logits = torch.tensor(probs, dtype=torch.float64).log()

    def denoise(z_t: Tensor, t: Tensor) -> Prediction:
        found = Prediction.of(logits.expand(len(z_t), -1, -1))
        if importance is None:
            return found
        return Prediction(found.logits, importance=lambda: torch.tensor(importance).expand(z_t.shape))

    return denoise


def examples(number: int) -> settings:
    """Of a property, the same in every run."""
    return settings(deadline=None, derandomize=True, database=None, max_examples=number)
