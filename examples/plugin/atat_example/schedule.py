"""A noise schedule."""

import math

import torch
from torch import Tensor


class Sine:
    """mask_rate(t) = sin(pi t / 2): most of the masking happens early."""

    def mask_rate(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def weight(self, t: Tensor) -> Tensor:
        return math.pi / 2 / torch.tan(math.pi / 2 * t)  # mask_rate'(t) / mask_rate(t), in closed form
