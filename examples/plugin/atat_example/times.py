"""A density of training times."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Triangle:
    """Rises linearly from t = 0 to the peak and falls linearly to 0 at t = 1."""

    peak: float = 0.5
    """The t that is drawn most, between 0 and 1."""

    def __post_init__(self) -> None:
        if not 0 < self.peak < 1:
            raise ValueError(f"peak is {self.peak}, expected between 0 and 1")

    def quantile(self, u: Tensor) -> Tensor:
        return torch.where(u < self.peak, (self.peak * u).sqrt(), 1 - ((1 - self.peak) * (1 - u)).sqrt())
