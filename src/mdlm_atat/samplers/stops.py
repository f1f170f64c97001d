"""When a rule may stop looking and draw all that is left."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mdlm_atat.checks import at_least
from mdlm_atat.effect import A_NUMBER
from mdlm_atat.samplers.adaptive import Seen


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Stopping criteria, checked for each row. A row stops when any criterion that is set is met: then all its masked
    positions are drawn at once, from the evaluation at hand, so that no mask survives. The numbers said to be of ATAT's
    first description (docs/method.md, section 9) are those of the sampler `documents`."""

    entropy: float | None = None
    """Mean entropy of the masked positions below this, nats; ATAT's first description has 0.5."""
    relative_entropy: float | None = None
    """The same over log V, free of the vocabulary's size."""
    confidence: float | None = None
    """Mean probability of the likeliest tokens above this, with fewer than `few` positions left; the first
    description has 0.7."""
    few: int = field(default=5, metadata={"when": ({"confidence": A_NUMBER},)})
    patience: int | None = None
    """The mean entropy has not been lower than its least for this many steps, counted after half of the steps; the
    first description has 100."""

    def __post_init__(self) -> None:
        for name in ("entropy", "relative_entropy", "confidence", "few", "patience"):
            at_least(f"stop.{name}", getattr(self, name), 0)

    @property
    def is_on(self) -> bool:
        """Whether any criterion is set."""
        return any(x is not None for x in (self.entropy, self.relative_entropy, self.confidence, self.patience))


class Watch:
    """What a Stop has seen of a batch so far."""

    def __init__(self, stop: Stop, num_steps: Int[Tensor, " batch"]) -> None:
        self.stop = stop
        self.num_steps = num_steps  # that each row takes at most
        self._least = torch.full(num_steps.shape, torch.inf, dtype=torch.float64, device=num_steps.device)
        self._since = torch.zeros_like(num_steps)  # steps since each row's mean entropy was lowest

    def __call__(self, seen: Seen) -> Bool[Tensor, " rows"]:
        """Which of the rows stop now."""
        stop = self.stop
        number = seen.is_masked.sum(1)
        entropy = torch.where(seen.is_masked, seen.entropy, 0.0).sum(1) / number
        stops = torch.zeros_like(number, dtype=torch.bool)
        if stop.entropy is not None:
            stops |= entropy < stop.entropy
        if stop.relative_entropy is not None:
            stops |= entropy / math.log(seen.vocab_size) < stop.relative_entropy
        if stop.confidence is not None:
            confidence = torch.where(seen.is_masked, seen.max_probability, 0.0).sum(1) / number
            stops |= (confidence > stop.confidence) & (number < stop.few)
        if stop.patience is not None:
            least = self._least[seen.rows]
            counted = seen.step > self.num_steps[seen.rows] / 2
            since = torch.where(entropy < least, 0, self._since[seen.rows] + counted)
            self._least[seen.rows] = torch.minimum(entropy.double(), least)
            self._since[seen.rows] = since
            stops |= since >= max(1, stop.patience)
        return stops
