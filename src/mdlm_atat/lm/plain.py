"""A function that gives logits, and nothing else, as a denoiser."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.core.denoiser import without_padding


class PlainDenoiser:
    """logits = function(z_t, t) of a network that knows neither padding nor a hidden layer, as a core.Denoiser:
    rows are asked about without their padding."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def __call__(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        return without_padding(self.function, z_t, t, lengths)
