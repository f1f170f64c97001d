"""The one reverse-time loop: a canvas, a denoiser, a step rule; tokens and a trace come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.samplers.canvas import Canvas

DRAWS_AHEAD = 32  # random numbers are drawn on the CPU, the same for every device, and sent there this many at a time


class Reverse:
    """The state of a reverse process: the partly masked rows, their random numbers, and the count of network
    evaluations.

    Every row draws from a generator of its own, so its text does not depend on the batch it is in.
    """

    def __init__(self, denoise: Callable[..., Any], canvas: Canvas, mask_id: int, seeds: Sequence[int]) -> None:
        self.z_t = torch.where(canvas.fixed, canvas.tokens, mask_id)  # (B, L)
        self.mask_id = mask_id
        self.nfe = torch.zeros(len(self.z_t), dtype=torch.int64, device=self.z_t.device)
        self._denoise = denoise
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._drawn = torch.zeros(0)
        self._num_used = 0

    @property
    def masked(self) -> Bool[Tensor, "batch length"]:
        return self.z_t == self.mask_id

    def uniform(self) -> Float[Tensor, "batch length"]:
        """A number in [0, 1) for every position, float64."""
        if self._num_used == len(self._drawn):
            shape = (DRAWS_AHEAD, self.z_t.shape[1])
            rows = [torch.rand(shape, generator=g, dtype=torch.float64) for g in self._generators]
            self._drawn, self._num_used = torch.stack(rows, dim=1).to(self.z_t.device), 0
        self._num_used += 1
        return self._drawn[self._num_used - 1]

    def logits(self, t: float, rows: Bool[Tensor, " batch"]) -> Float[Tensor, "rows length vocab"]:
        """The denoiser's logits for the chosen rows only; each of them counts one network evaluation."""
        return self.evaluate(t, rows)

    def evaluate(self, t: float, rows: Bool[Tensor, " batch"]) -> Any:
        """Whatever the denoiser gives for the chosen rows: for a rule that is used with one that gives more than
        logits."""
        self.nfe += rows
        z_t = self.z_t[rows]
        return self._denoise(z_t, torch.full((len(z_t),), t, device=z_t.device))

    def set(self, where: Bool[Tensor, "batch length"], tokens: Int[Tensor, " n"]) -> None:
        """Reveal tokens at masked positions, in row-major order."""
        self.z_t = self.z_t.masked_scatter(where, tokens)


@runtime_checkable
class StepRule(Protocol):
    """One way to go from everything masked to nothing masked. A sampler is a step rule, in a file of its own."""

    num_steps: int

    def __call__(self, step: int, state: Reverse) -> None:
        """Take step number `step` of `num_steps`; after the last one no mask may be left."""
        ...


@dataclass(frozen=True)
class Trace:
    """How a sample came about."""

    nfe: Int[Tensor, " batch"]
    """Network evaluations each row needed."""
    revealed_at_step: Int[Tensor, "batch length"]
    """Step (from 1) at which each position was set; 0 where it was fixed from the start."""
    elapsed_s: float


@dataclass(frozen=True)
class Sample:
    tokens: Int[Tensor, "batch length"]
    trace: Trace


OnStep = Callable[[int, Tensor, Tensor], None]
"""Called after every step with (step from 1, z_t (B, L), newly revealed (B, L))."""


@torch.no_grad()
def sample(
    denoise: Callable[..., Any],
    canvas: Canvas,
    rule: StepRule,
    *,
    mask_id: int,
    seeds: Sequence[int],
    on_step: OnStep | None = None,
) -> Sample:
    """Fill a canvas by a step rule: one seed a row. Fixed positions never change and no mask survives.

    `denoise` is a Denoiser; rules that follow predicted rates take a callable that gives those too.
    """
    start_s = time.perf_counter()
    state = Reverse(denoise, canvas, mask_id, seeds)
    revealed_at_step = torch.zeros_like(state.z_t)
    for step in range(1, rule.num_steps + 1):
        before = state.masked
        rule(step, state)
        revealed = before & ~state.masked
        revealed_at_step[revealed] = step
        if on_step is not None:
            on_step(step, state.z_t, revealed)
        if not state.masked.any():
            break
    assert not state.masked.any(), f"{type(rule).__name__} left masked positions"
    return Sample(state.z_t, Trace(state.nfe, revealed_at_step, time.perf_counter() - start_s))
