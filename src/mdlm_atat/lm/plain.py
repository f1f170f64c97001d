"""A function that gives logits, and nothing else, as a denoiser."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor


class PlainDenoiser:
    """logits = function(z_t, t) of a network that knows neither padding nor a hidden layer, as a core.Denoiser.

    Rows that are padded are asked about without their padding, those of one length together.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def __call__(
        self,
        z_t: Int[Tensor, "batch length"],
        t: Float[Tensor, " batch"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        if lengths is None:
            return self.function(z_t, t)
        rows_of = [(lengths == length).nonzero()[:, 0] for length in lengths.unique()]
        found = [self.function(z_t[rows, : int(lengths[rows[0]])], t[rows]) for rows in rows_of]
        logits = found[0].new_zeros(*z_t.shape, found[0].shape[-1])
        for rows, part in zip(rows_of, found, strict=True):
            logits[rows, : part.shape[1]] = part
        return logits
