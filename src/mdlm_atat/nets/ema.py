"""Exponential moving average of the weights, used for evaluation and generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """average <- d * average + (1 - d) * weights after every step, d = min(decay, (1 + step) / (10 + step)).

    Weights that ask for no gradient have none: they stay what they are. The warm-up of d keeps the random initial
    weights out of the average of a short run. decay 0: no average is kept.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """`step`: optimizer steps taken so far, this one included."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), [p for p in model.parameters() if p.requires_grad], 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Inside the block the model holds the averages; afterwards its own weights again, also after an exception."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            if name not in self.average:
                continue
            weights = p.detach().clone()  # by value: who shards or records the weights goes on reading where they are
            p.copy_(self.average[name])
            self.average[name].copy_(weights)
