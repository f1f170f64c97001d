"""Sampling from the causal baseline: left to right, one token a step."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.loop import Reverse

NextTokenLogits = Callable[[Int[Tensor, "batch length"]], Float[Tensor, "batch length vocab"]]


class LeftToRight:
    """A step rule that reveals the leftmost masked position of every row, from p(x_i | x_<i)."""

    def __init__(self, length: int, draw: TokenDraw | None = None) -> None:
        self.num_steps = length
        self.draw = draw or TokenDraw()

    def __call__(self, step: int, state: Reverse) -> None:  # noqa: ARG002
        masked = state.masked
        uniform = state.uniform()
        leftmost = masked & (masked.cumsum(dim=1) == 1)  # (B, L): one position in each unfinished row
        rows = masked.any(dim=1)
        logits = state.logits(0.0, rows)  # (R, L, V)
        state.set(leftmost, self.draw(logits[leftmost[rows]], uniform[leftmost]))


def as_denoiser(model: NextTokenLogits) -> Callable[..., Tensor]:
    """A causal model under the denoiser's signature: what stands right of a position is not looked at."""

    def denoise(z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG001
        return model(z_t)

    return denoise
