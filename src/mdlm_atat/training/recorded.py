"""The forward and backward pass of a training step, captured on a GPU as a CUDA graph and replayed. The CPU then
launches one graph instead of hundreds of kernels; launching them is often what bounds the speed of a small network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.objective import Draw, TrainingLoss
from mdlm_atat.device import record_cuda_graph
from mdlm_atat.errors import UserError

Gradients = Callable[..., TrainingLoss]
"""Called with (run, x0, lengths, draw, num_tokens, measure, prompts); returns the loss and adds its gradients to
`p.grad`."""
Record = Callable[[Callable[[], TrainingLoss]], tuple[Callable[[], None], TrainingLoss]]
"""Captures a function; returns `(replay, out)` as `device.record_cuda_graph` does."""


class Recorded:
    """`gradients` of the loop, captured once and replayed as long as steps differ in numbers alone. When they differ in
    more (other shapes, a curriculum stage with other times) a few steps run without a graph, then a new one is
    captured.

    A captured step always computes the metrics, so that one graph serves all steps. The next call overwrites the loss
    that is returned.
    """

    def __init__(
        self,
        gradients: Gradients,
        parameters: Sequence[nn.Parameter],
        num_warm_up: int = 3,
        record: Record = record_cuda_graph,
    ) -> None:
        """`num_warm_up`: how many steps run without a graph first. They compile, choose kernels and fill caches, none
        of which can be captured."""
        self._gradients, self._parameters, self._record = gradients, parameters, record
        self.num_warm_up = num_warm_up
        self._fixed: Hashable = None
        self._num_seen = 0
        self._recording: _Recording | None = None

    def __call__(
        self,
        run: Any,
        x0: Tensor,
        lengths: Tensor | None,
        draw: Draw,
        num_tokens: float | Tensor,
        measure: bool,
        prompts: Tensor | None = None,
    ) -> TrainingLoss:
        stage, without, of_stage = draw.stage, None, None
        if stage is not None:
            numbers = stage.numbers()
            without = stage.with_numbers([0.0] * len(numbers))
            of_stage = run.engine.to_device(np.array(numbers, dtype=np.float64))
        fixed = (
            x0.shape,
            lengths is None,
            prompts is None,
            without,
            None if isinstance(num_tokens, Tensor) else num_tokens,
        )
        if fixed != self._fixed:
            self._fixed, self._num_seen, self._recording = fixed, 0, None
        self._num_seen += 1
        if self._num_seen <= self.num_warm_up:
            return self._gradients(run, x0, lengths, draw, num_tokens, measure or self._num_seen > 1, prompts)
        changing = _Inputs(x0, lengths, draw.t, draw.uniform, of_stage, num_tokens, prompts)
        if self._recording is None:
            self._recording = self._recorded(run, changing, stage)
        self._recording.inputs.fill(changing)
        self._recording.replay()
        for p, gradient in zip(self._parameters, self._recording.gradients, strict=True):
            p.grad = gradient
        return self._recording.loss

    def forget(self) -> None:
        """Free the memory that the graph keeps."""
        self._fixed, self._num_seen, self._recording = None, 0, None

    def _recorded(self, run: Any, changing: _Inputs, stage: Stage | None) -> _Recording:
        inputs = changing.clone()
        if stage is not None and inputs.of_stage is not None:
            stage = stage.with_numbers(list(inputs.of_stage))
        draw = Draw(inputs.t, inputs.uniform, stage)
        for p in self._parameters:
            p.grad = None  # the recording makes its own
        try:
            replay, loss = self._record(
                lambda: self._gradients(run, inputs.x0, inputs.lengths, draw, inputs.num_tokens, True, inputs.prompts)
            )
        except RuntimeError as error:
            # ending a recording that failed fails too, and says less than what came before
            before = error.__context__
            cause = before if isinstance(before, (RuntimeError, KeyboardInterrupt)) else error
            if isinstance(cause, (torch.OutOfMemoryError, KeyboardInterrupt)):
                raise cause from None
            raise UserError(
                f"this run's steps cannot be recorded as a CUDA graph ({str(cause).splitlines()[0]}); set "
                "`train.cuda_graph=False`"
            ) from cause
        return _Recording(inputs, replay, loss, [p.grad for p in self._parameters])


class _Inputs(NamedTuple):
    """The inputs of a step: all that changes between two replays."""

    x0: Tensor
    lengths: Tensor | None
    t: Tensor
    uniform: Tensor
    of_stage: Tensor | None
    """`Stage.numbers`."""
    num_tokens: float | Tensor
    """A float where it is the same in every step."""
    prompts: Tensor | None

    def clone(self) -> _Inputs:
        return _Inputs._make(part.clone() if isinstance(part, Tensor) else part for part in self)

    def fill(self, other: _Inputs) -> None:
        for mine, new in zip(self, other, strict=True):
            if isinstance(mine, Tensor) and isinstance(new, Tensor):
                mine.copy_(new)


@dataclass(frozen=True)
class _Recording:
    inputs: _Inputs
    """What the captured work reads; they are filled before each replay."""
    replay: Callable[[], None]
    loss: TrainingLoss
    gradients: Sequence[Tensor | None]
    """One for each parameter: what the captured work writes, besides `loss`."""
