"""A denoiser on one device for canvases on another: Apple's mps has no float64, which tokens are drawn in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mdlm_atat.core.denoiser import Prediction


class Moved:
    """Asks a denoiser that is `there`, and gives what it says `here`."""

    def __init__(self, denoise: Any, *, there: torch.device, here: torch.device) -> None:
        self.denoise, self.there, self.here = denoise, there, here

    def __call__(self, z_t: Tensor, *times: Tensor) -> Prediction:
        return self._moved(self.denoise(z_t.to(self.there), *(each.to(self.there) for each in times)))

    def _moved(self, said: Prediction) -> Prediction:
        importance, here = said.importance, self.here
        return Prediction(
            lambda positions: said.logits(positions.to(self.there)).to(here),
            None if said.speed is None else said.speed.to(here),
            None if importance is None else lambda: importance().to(here),
        )


class MovedReader(Moved):
    """The same of a core.denoiser.Reader."""

    is_recorded = False

    def begin(self, z_t: Tensor, num_given: int) -> Callable[[Tensor, Tensor], Prediction]:
        ask = self.denoise.begin(z_t.to(self.there), num_given)
        return lambda z_t, rows: self._moved(ask(z_t.to(self.there), rows.to(self.there)))
