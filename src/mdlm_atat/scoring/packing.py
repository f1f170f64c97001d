"""Many numbers in a line of JSON: a stored evaluation stays a file that a person can read."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

DIGITS = 8


def pack(values: Float[Tensor, " blocks *groups"]) -> str | list[str]:
    """Numbers of eight digits with spaces between; with a second axis, such a line for each column."""
    if values.ndim == 2:
        return [str(pack(column)) for column in values.T]
    return " ".join(f"{value:.{DIGITS}g}" for value in values.tolist())


def unpack(text: str) -> Float[Tensor, " blocks"]:
    return torch.tensor([float(value) for value in text.split()], dtype=torch.float64)
