"""A step's forward and backward pass recorded on a GPU as a CUDA graph, and replayed: the CPU starts one thing instead
of hundreds. What bounds a small network's speed is often the CPU, and a recorded step takes what the GPU takes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdlm_atat.atat.curriculum import Stage
from mdlm_atat.device import record_cuda_graph
from mdlm_atat.errors import UserError
from mdlm_atat.objective import Draw, TrainingLoss

Gradients = Callable[..., TrainingLoss]
"""(run, x0, lengths, draw, num_tokens, measure): gives the loss, and its gradients to the parameters."""
Record = Callable[[Callable[[], TrainingLoss]], tuple[Callable[[], None], TrainingLoss]]
"""Runs a function once and gives (what repeats its work into the same memory, what the function gave)."""


class Recorded:
    """`gradients` of the loop, recorded and replayed for as long as steps differ in numbers alone; where they differ in
    more (other shapes, a stage with times of its own) a few steps run as ever, and then it is recorded anew.

    A recording always measures, so that one serves for all steps. What a call gives is overwritten by the next.
    """

    NUM_WARM_UP = 3  # steps that compile, choose kernels and fill caches: none of it may be recorded

    def __init__(
        self, gradients: Gradients, parameters: Sequence[nn.Parameter], record: Record = record_cuda_graph
    ) -> None:
        self._gradients, self._parameters, self._record = gradients, parameters, record
        self._fixed: Hashable = None
        self._num_seen = 0
        self._recording: _Recording | None = None

    def __call__(
        self,
        run: Any,
        x0: Tensor,
        lengths: Tensor | None,
        draw: Draw,
        num_tokens: float,
        measure: bool,
    ) -> TrainingLoss:
        fixed, numbers = apart(x0, lengths, draw, num_tokens)
        if fixed != self._fixed:
            self._fixed, self._num_seen, self._recording = fixed, 0, None
        self._num_seen += 1
        if self._num_seen <= self.NUM_WARM_UP:
            return self._gradients(run, x0, lengths, draw, num_tokens, measure or self._num_seen > 1)
        changing = [x0, draw.t, draw.uniform, run.engine.to_device(numbers), *([] if lengths is None else [lengths])]
        if self._recording is None:
            self._recording = self._recorded(run, changing, draw.stage)
        for inside, now in zip(self._recording.inputs, changing, strict=True):
            inside.copy_(now)
        self._recording.replay()
        for p, gradient in zip(self._parameters, self._recording.gradients, strict=True):
            p.grad = gradient
        return self._recording.loss

    def _recorded(self, run: Any, changing: Sequence[Tensor], stage: Stage | None) -> _Recording:
        inputs = [part.clone(memory_format=torch.contiguous_format) for part in changing]
        x0, t, uniform, numbers, *lengths = inputs
        draw = Draw(t, uniform, None if stage is None else stage.with_numbers(list(numbers[1:])))

        def work() -> TrainingLoss:
            num_tokens = numbers[0].float()  # float32, so that it divides as the number would
            return self._gradients(run, x0, lengths[0] if lengths else None, draw, num_tokens, True)

        for p in self._parameters:
            p.grad = None  # the recording makes its own
        try:
            replay, loss = self._record(work)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UserError(
                f"this run's steps cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); set "
                "--train.cuda_graph false"
            ) from error
        return _Recording(inputs, replay, loss, [p.grad for p in self._parameters])


@dataclass(frozen=True)
class _Recording:
    inputs: Sequence[Tensor]
    """What the recorded work reads; to be filled before a replay."""
    replay: Callable[[], None]
    loss: TrainingLoss
    gradients: Sequence[Tensor | None]
    """One a parameter: what the work writes, with `loss`."""


def apart(x0: Tensor, lengths: Tensor | None, draw: Draw, num_tokens: float) -> tuple[Hashable, NDArray[np.float64]]:
    """(what a recording is made for, the numbers that may change from step to step beside the batch and its draw)."""
    stage = draw.stage
    numbers = () if stage is None else stage.numbers()
    without = None if stage is None else stage.with_numbers([0.0] * len(numbers))
    return (x0.shape, lengths is None, without), np.array([num_tokens, *numbers], dtype=np.float64)
