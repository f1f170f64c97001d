"""Which stage of the curriculum training is in: from easy masks (few tokens hidden) to hard ones (most hidden).

A stage says how training draws and weights its masks; what a model is evaluated on never depends on it. Two ways to
move through the stages: by the share of training done (`CurriculumScheduler`) or by the smoothed training loss
(`DynamicCurriculumScheduler`).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, assert_never, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mdlm_atat.errors import UserError

TimeSamplingKind = Literal["uniform", "beta", "window"]
WeightingKind = Literal["elbo", "flat", "clipped"]
ProgressKind = Literal["step", "linear", "exponential"]
Number = float | Float[Tensor, ""]
"""A tensor only inside a step that is recorded once and replayed with other values."""
CurriculumState = Mapping[str, float | int | None]
"""JSON-ready."""

EXPONENTIAL_RATE = 3.0  # half of a stage's way is gone after 21% of its steps


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage's settings of the training masks and of the loss."""

    index: Number
    """From 0."""
    name: str
    importance_range: tuple[Number, Number]
    """Lowest and highest importance, in [0, 1], of the tokens that are the stage's own."""
    temperature: Number
    """Softness tau of importance-driven masking: the higher, the closer to uniform masking."""
    window: tuple[float, float]
    """Lowest and highest t that are drawn, where time_sampling is `window`."""
    weight_in_range: Number
    """Loss weight of the tokens in range, the others' being 1. Anything but 1 depends on hidden tokens: no bound."""
    time_sampling: TimeSamplingKind
    """Density that t is drawn from."""
    weighting: WeightingKind
    """Weight of the loss over t."""

    def numbers(self) -> tuple[Number, ...]:
        """What may change from step to step without a change of shapes, times or weights over t."""
        return (self.index, self.temperature, *self.importance_range, self.weight_in_range)

    def with_numbers(self, numbers: Sequence[Number]) -> Stage:
        """The stage with other `numbers`, and without what is no part of a step's work: its name, and a window that no
        time is drawn from."""
        index, temperature, low, high, weight_in_range = numbers
        return replace(
            self,
            index=index,
            name="",
            temperature=temperature,
            importance_range=(low, high),
            weight_in_range=weight_in_range,
            window=self.window if self.time_sampling == "window" else (0.0, 1.0),
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Stage:
        """As `asdict` gave it, after a round trip through JSON, which turns tuples into lists."""
        pairs = {name: tuple(stored[name]) for name in ("importance_range", "window")}
        return cls(**{**stored, **pairs})


@runtime_checkable
class Curriculum(Protocol):
    """Tells the training loop its stage, and is told what the loop measured."""

    def stage(self, step: int) -> Stage:
        """The stage in force at optimizer step `step`, from 0."""
        ...

    def observe(self, step: int, loss_nats: float) -> None:
        """Take the training loss, in nats per token, measured when `step` steps had been taken.

        Every process must give the same number (the mean over all), or their stages part.
        """
        ...

    def state(self) -> dict[str, float | int | None]:
        """Everything that later decisions depend on, JSON-ready, for a checkpoint."""
        ...

    def load_state(self, state: CurriculumState) -> None:
        """Go on exactly where `state` was taken."""
        ...


def three_stages(
    *,
    ranges_low: tuple[float, float, float],
    ranges_high: tuple[float, float, float],
    temperatures: tuple[float, float, float],
    windows_low: tuple[float, float, float],
    windows_high: tuple[float, float, float],
    weight_in_range: float,
    time_sampling: tuple[TimeSamplingKind, TimeSamplingKind, TimeSamplingKind],
    weighting: tuple[WeightingKind, WeightingKind, WeightingKind],
) -> tuple[Stage, Stage, Stage]:
    """The stages easy, medium and hard, each setting given for the three in this order."""

    def stage(index: int, name: str) -> Stage:
        return Stage(
            index=index,
            name=name,
            importance_range=(ranges_low[index], ranges_high[index]),
            temperature=temperatures[index],
            window=(windows_low[index], windows_high[index]),
            weight_in_range=weight_in_range,
            time_sampling=time_sampling[index],
            weighting=weighting[index],
        )

    return stage(0, "easy"), stage(1, "medium"), stage(2, "hard")


def mixed(here: Number, there: Number, share: float) -> Number:
    return here + share * (there - here)


def between(stage: Stage, following: Stage, share: float) -> Stage:
    """`stage` with each numeric value moved to (1 - share) * its own + share * the following stage's."""
    (low, high), (next_low, next_high) = stage.importance_range, following.importance_range
    (first, last), (next_first, next_last) = stage.window, following.window
    return replace(
        stage,
        importance_range=(mixed(low, next_low, share), mixed(high, next_high, share)),
        temperature=mixed(stage.temperature, following.temperature, share),
        window=(mixed(first, next_first, share), mixed(last, next_last, share)),
        weight_in_range=mixed(stage.weight_in_range, following.weight_in_range, share),
    )


class CurriculumScheduler:
    """Stages by the share of training done: stage k is in force while b_{k-1} <= step / num_steps < b_k.

    With s in [0, 1) the share of the stage's steps that are gone, the numeric values are, for progress

        step:         the stage's own throughout
        linear:       own + s * (next - own)
        exponential:  own + (1 - exp(-3 s)) / (1 - exp(-3)) * (next - own), fast first

    The last two are continuous at the boundaries; the last stage holds its own values. Name, index, time sampling and
    weighting are always the current stage's own.
    """

    def __init__(
        self, stages: Sequence[Stage], *, num_steps: int, boundaries: Sequence[float], progress: ProgressKind
    ) -> None:
        self.stages = in_order(stages)
        if num_steps < 1:
            raise ValueError(f"num_steps is {num_steps}; a curriculum needs at least 1")
        if len(boundaries) != len(stages) - 1:
            raise ValueError(f"{len(stages)} stages have {len(stages) - 1} boundaries between them, not {boundaries}")
        self._edges = (0.0, *boundaries, 1.0)
        if not all(left < right for left, right in zip(self._edges[:-1], self._edges[1:], strict=True)):
            raise ValueError(f"boundaries must rise strictly inside (0, 1), unlike {boundaries}")
        self.num_steps = num_steps
        self.progress: ProgressKind = progress

    def stage(self, step: int) -> Stage:
        # the quotient of two integers is correctly rounded: step 33 of 100 is exactly the boundary written 0.33
        gone = step / self.num_steps
        k = bisect.bisect_right(self._edges[1:-1], gone)
        if k == len(self.stages) - 1:
            return self.stages[k]
        s = (gone - self._edges[k]) / (self._edges[k + 1] - self._edges[k])
        match self.progress:
            case "step":
                return self.stages[k]
            case "linear":
                return between(self.stages[k], self.stages[k + 1], s)
            case "exponential":
                share = math.expm1(-EXPONENTIAL_RATE * s) / math.expm1(-EXPONENTIAL_RATE)
                return between(self.stages[k], self.stages[k + 1], share)
            case _:
                assert_never(self.progress)

    def observe(self, step: int, loss_nats: float) -> None:
        """Nothing: the stage depends on the step alone."""

    def state(self) -> dict[str, float | int | None]:
        return {}

    def load_state(self, state: CurriculumState) -> None:
        check_fits(state, self.state())


@dataclass
class Standing:
    """Where the loss-driven curriculum stands; all of it starts anew with every change of stage, because losses under
    different masks cannot be compared."""

    stage: int = 0
    stage_start: int = 0
    """Steps taken when the stage began."""
    num_observations: int = 0
    average_nats: float = 0.0
    """Exponential moving average that started from 0, before the correction of that bias."""
    best_nats: float | None = None
    """Lowest smoothed loss, moved by clear improvements alone, so that many slight ones add up to one."""
    num_since_best: int = 0
    num_risen: int = 0
    """Latest observations in a row whose smoothed loss was clearly above best_nats."""


class DynamicCurriculumScheduler:
    """Stages by the training loss, smoothed within each stage: m_n = smoothing * m_{n-1} + (1 - smoothing) * loss,
    reported as m_n / (1 - smoothing^n).

    Rules, checked at each observation once the stage is min_steps old, the first that applies:

        step back  the smoothed loss was above the stage's best by more than `setback` (relative) for `patience`
                   observations in a row. Not from stage 0, and from any other stage once only: when it is entered
                   again it cannot be left backwards, so training does not swing between two stages for ever.
        advance    the stage is max_steps old (0: no such limit), or the smoothed loss has not improved by more than
                   `tolerance` (relative) for `patience` observations and is not above the best by `setback`.
                   Not from the last stage.
        hold       otherwise. Where a loss has risen for `patience` observations and there is no way back, its new level
                   becomes the best to compare with: a single lucky best cannot keep training in a stage.

    A stage's own best is the measure because a harder stage has a larger loss by its masks alone. It is taken from the
    observation on at which smoothing^n <= 1/e: the first averages are of few losses, and one low by chance would make
    all later ones look risen. Losses that are not finite are ignored. Numeric values are each stage's own.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        patience: int,
        min_steps: int,
        max_steps: int,
        smoothing: float,
        tolerance: float,
        setback: float,
    ) -> None:
        self.stages = in_order(stages)
        if patience < 1:
            raise ValueError(f"patience is {patience} observations; at least 1 is needed")
        if min_steps < 0 or (max_steps != 0 and max_steps < max(1, min_steps)):
            raise ValueError(f"0 <= min_steps <= max_steps (or max_steps 0: no limit), unlike {min_steps}, {max_steps}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is {smoothing}; the weight of the past lies in [0, 1)")
        if not (0 <= tolerance < math.inf and 0 < setback < math.inf):
            raise ValueError(f"tolerance {tolerance} must be >= 0 and setback {setback} > 0, both finite")
        self.patience, self.min_steps, self.max_steps = patience, min_steps, max_steps
        self.smoothing, self.tolerance, self.setback = smoothing, tolerance, setback
        self._now = Standing()
        self._num_setbacks = [0] * len(stages)  # how often each stage was left backwards: 0 or 1

    @property
    def smoothed_loss_nats(self) -> float | None:
        """Bias-corrected moving average of this stage's losses; None before its first one."""
        n = self._now.num_observations
        return self._now.average_nats / (1 - self.smoothing**n) if n else None

    def stage(self, step: int) -> Stage:
        del step  # the losses observed so far decide alone
        return self.stages[self._now.stage]

    def observe(self, step: int, loss_nats: float) -> None:
        if not math.isfinite(loss_nats):
            return
        now = self._now
        now.num_observations += 1
        now.average_nats = self.smoothing * now.average_nats + (1 - self.smoothing) * loss_nats
        if self.smoothing**now.num_observations <= math.exp(-1):
            self._compare_with_best()
        if step - now.stage_start >= self.min_steps:
            self._decide(step)

    def _compare_with_best(self) -> None:
        now, smoothed = self._now, self.smoothed_loss_nats
        assert smoothed is not None
        # abs: a loss with estimated rate terms may be negative
        if now.best_nats is None or smoothed < now.best_nats - self.tolerance * abs(now.best_nats):
            now.best_nats, now.num_since_best, now.num_risen = smoothed, 0, 0
            return
        now.num_since_best += 1
        has_risen = smoothed > now.best_nats + self.setback * abs(now.best_nats)
        now.num_risen = now.num_risen + 1 if has_risen else 0

    def _decide(self, step: int) -> None:
        now = self._now
        keeps_rising = now.num_risen >= self.patience
        may_step_back = now.stage > 0 and not self._num_setbacks[now.stage]
        is_over = self.max_steps > 0 and step - now.stage_start >= self.max_steps
        is_flat = now.num_since_best >= self.patience and not now.num_risen
        if keeps_rising and may_step_back:
            self._num_setbacks[now.stage] += 1
            self._enter(now.stage - 1, step)
        elif (is_over or is_flat) and now.stage < len(self.stages) - 1:
            self._enter(now.stage + 1, step)
        elif keeps_rising:
            now.best_nats, now.num_since_best, now.num_risen = self.smoothed_loss_nats, 0, 0

    def _enter(self, stage: int, step: int) -> None:
        self._now = Standing(stage=stage, stage_start=step)

    def state(self) -> dict[str, float | int | None]:
        setbacks = {f"num_setbacks_{k}": count for k, count in enumerate(self._num_setbacks)}
        return {**asdict(self._now), **setbacks}

    def load_state(self, state: CurriculumState) -> None:
        check_fits(state, self.state())
        for name in asdict(self._now):
            setattr(self._now, name, state[name])
        self._num_setbacks = [int(state[f"num_setbacks_{k}"] or 0) for k in range(len(self.stages))]


def in_order(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages, checked to be numbered 0, 1, ..."""
    if not stages or [stage.index for stage in stages] != list(range(len(stages))):
        raise ValueError(f"stages must be numbered 0, 1, ..., unlike {[stage.index for stage in stages]}")
    return tuple(stages)


def check_fits(state: CurriculumState, expected: CurriculumState) -> None:
    """Raise UserError for the state of another curriculum."""
    if state.keys() != expected.keys():
        raise UserError(
            f"the checkpoint's curriculum state has {sorted(state) or 'nothing'}, this curriculum expects "
            f"{sorted(expected) or 'nothing'}; resume with the curriculum that the run was started with"
        )
