"""The one reverse-time loop: a canvas, a denoiser, a step rule; tokens and a trace come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mdlm_atat.core.denoiser import AtMaskRate, Prediction, Reader
from mdlm_atat.device import Replayed
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.draw import TokenDraw, inverse_cdf
from mdlm_atat.samplers.guidance import Guidance
from mdlm_atat.samplers.seeds import block_seed

DRAWS_AHEAD = 8  # random numbers are drawn on the CPU, the same for every device, and sent there this many at a time
LOOK_INTERVAL_S = 0.1  # at how many places are filled: each look waits for the device
MAX_DISTRIBUTION_ENTRIES = 2**26  # of float64 held at once while tokens are drawn: 0.5 GiB, a few times over
CPU_DISTRIBUTION_ENTRIES = 2**23  # on a CPU, where more at once are no faster


class Reverse:
    """The state of a reverse process: the partly masked rows, their random numbers, and what happened so far.

    Every row draws from a generator of its own, so its text does not depend on the batch it is in. Nothing here waits
    for the device: what a rule needs to know of the canvas beforehand (`to_fill`, `num_to_fill`) is kept on the CPU.
    """

    def __init__(
        self,
        denoise: Callable[..., Any],
        canvas: Canvas,
        mask_id: int,
        seeds: Sequence[int],
        *,
        guidance: Guidance | None = None,
        known: Int[Tensor, "batch length"] | None = None,
    ) -> None:
        self.z_t = torch.where(canvas.fixed, canvas.tokens, mask_id)  # (B, L)
        self.mask_id, self.seeds, self.guidance = mask_id, list(seeds), guidance
        self.to_fill = ~canvas.fixed.cpu()  # (B, L), on the CPU
        self.fillable = ~canvas.fixed  # the same on the device
        self.not_given = self.fillable  # the same in windows, where only a part is fillable
        self.known = known
        """Text to be scored: every reveal takes its token from here, whatever the model would have drawn."""
        batch, device = len(self.z_t), self.z_t.device
        self._clock = [1]  # the step that is being taken, shared with windows
        self.nfe = torch.zeros(batch, dtype=torch.int64, device=device)
        self.nll = torch.zeros(batch, dtype=torch.float64, device=device)
        """-log of the probability of all that was revealed, nats."""
        self.revealed_at_step = torch.zeros_like(self.z_t)
        self.num_remasked = torch.zeros_like(self.z_t)
        self.confidence = torch.full(self.z_t.shape, torch.nan, dtype=torch.float64, device=device)
        # sum over the tokens revealed in this step of the entropy they were drawn from, and their number
        self.step_entropy = torch.zeros(batch, 2, dtype=torch.float64, device=device)
        self.ended = torch.zeros(batch, dtype=torch.bool, device=device)
        """Rows that are to be left as they are, masks in them or not; shared with windows."""
        self._denoise = denoise
        self._read: Callable[[Tensor, Tensor], Prediction] | None = None
        self._is_window = False  # too short-lived for recording to pay
        self._recorded: dict[TokenDraw, Replayed] | None = None  # of what `reveal` does with logits; None: it is not
        self._start_random(seeds)

    def _start_random(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._drawn, self._num_used = torch.zeros(0, dtype=torch.float64), 0

    @property
    def step(self) -> int:
        """The step of the loop that is being taken, from 1."""
        return self._clock[0]

    @property
    def masked(self) -> Bool[Tensor, "batch length"]:
        """Which positions are still to be filled."""
        return (self.z_t == self.mask_id) & self.fillable & ~self.ended[:, None]

    @property
    def num_to_fill(self) -> list[int]:
        """How many positions of each row were to be filled at the start."""
        return self.to_fill.sum(1).tolist()

    def uniform(self) -> Float[Tensor, "batch length"]:
        """A number in [0, 1) for every position, float64, new at each call."""
        if self._num_used == len(self._drawn):
            shape = (DRAWS_AHEAD, self.z_t.shape[1])
            rows = [torch.rand(shape, generator=g, dtype=torch.float64) for g in self._generators]
            self._drawn, self._num_used = torch.stack(rows, dim=1).to(self.z_t.device), 0
        self._num_used += 1
        return self._drawn[self._num_used - 1]

    def predict(self, rows: Int[Tensor, " rows"], rate: float | None = None) -> Prediction:
        """What the denoiser says of the chosen rows; each counts one network evaluation.

        It is told the share of masked tokens in each row; or, by a rule with a time of its own, which is the mask
        `rate` of what is to be filled in, the share that is to be expected then.
        """
        self.nfe.index_add_(0, rows, (~self.ended[rows]).long())
        if self._read is not None:
            found = self._read(self.z_t, rows)
        else:
            z_t = self.z_t[rows]
            share = (z_t == self.mask_id).float().mean(1)
            if rate is None and not isinstance(self._denoise, AtMaskRate):
                found = self._denoise(z_t, share)
            else:
                found = self._at_rate(z_t, share, rows, rate)
        prediction = Prediction.of(found) if isinstance(found, Tensor) else found
        return prediction if self.guidance is None else self.guidance.apply(prediction)

    def _at_rate(self, z_t: Tensor, share: Tensor, rows: Tensor, rate: float | None) -> Any:
        """`share`: of the places of each row, those that are masked. In a window masks of later ones may be among them,
        which stay: they are to be filled in too, and not given."""
        fillable = self.fillable[rows]
        waiting = ((z_t == self.mask_id) & ~fillable).float().mean(1)
        to_fill = fillable.float().mean(1)
        told = share if rate is None else rate * to_fill + waiting
        of_rule = told / (to_fill + waiting)
        if isinstance(self._denoise, AtMaskRate):
            return self._denoise.ask(z_t, told, of_rule, self.not_given[rows])
        return self._denoise(z_t, told)

    def read_left_to_right(self) -> None:
        """Promise that all further calls of `predict` are for the leftmost masked position of their rows, one more
        known at each call. A denoiser that keeps what it has read (core.denoiser.Reader) then reads only what is new;
        but for canvases with given text between what is to be filled in, which are read as a whole every time."""
        number = self.to_fill.sum(1)
        if isinstance(self._denoise, Reader) and number.any():
            first = self.to_fill.int().argmax(1)
            last = self.to_fill.shape[1] - 1 - self.to_fill.flip(1).int().argmax(1)
            if ((last - first + 1 == number) | (number == 0)).all():
                self._read = self._denoise.begin(self.z_t, int(first[number > 0].max()))
                self._recorded = {} if self._denoise.is_recorded and not self._is_window else None

    def forget_recorded(self) -> None:
        """Let go of what was recorded, which holds memory of the device, and this state in a circle."""
        self._recorded = None

    def reveal(
        self,
        prediction: Prediction,
        rows: Int[Tensor, " rows"],
        positions: Int[Tensor, "rows k"],
        valid: Bool[Tensor, "rows k"],
        draw: TokenDraw,
        uniform: Float[Tensor, "batch length"],
    ) -> None:
        """Draw the tokens at `positions` of `rows` (distinct in each row) where `valid`, by each position's uniform."""
        step = torch.full((), self.step, device=self.z_t.device)
        columns = self.chunks(positions)
        if self._recorded is None or len(columns) > 1:
            logits = (prediction.logits(positions[:, part]) for part in columns)
            self._reveal(draw, logits, step, rows, positions, valid, uniform)
            return
        if draw not in self._recorded:
            self._recorded[draw] = Replayed(lambda logits, *rest: self._reveal(draw, [logits], *rest))
        self._recorded[draw](prediction.logits(positions), step, rows, positions, valid, uniform)

    def _reveal(
        self,
        draw: TokenDraw,
        logits: Iterable[Tensor],
        step: Tensor,
        rows: Tensor,
        positions: Tensor,
        valid: Tensor,
        uniform: Tensor,
    ) -> None:
        """`logits` (R, K of each chunk, V). All that changes from one step to the next is an argument, or written here
        in place: this is recorded."""
        across = rows[:, None].expand_as(positions)
        valid = valid & ~self.ended[rows, None]
        numbers = uniform[across, positions]
        parts = [
            self._draw(found, positions[:, columns], across[:, columns], draw, numbers[:, columns])
            for found, columns in zip(logits, self.chunks(positions), strict=True)
        ]
        tokens, probability, entropy = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))  # (R, K)
        for stored, new in (
            (self.z_t, tokens),
            (self.confidence, probability),
            (self.revealed_at_step, step.expand_as(tokens)),
        ):
            stored[across, positions] = torch.where(valid, new, stored[across, positions])
        seen = torch.stack([torch.where(valid, entropy, 0.0).sum(1), valid.sum(1).double()], dim=1)
        self.step_entropy.index_add_(0, rows, seen)
        self.nll.index_add_(0, rows, torch.where(valid, -probability.log(), 0.0).sum(1))

    def _draw(
        self, logits: Tensor, positions: Tensor, across: Tensor, draw: TokenDraw, numbers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        probs = draw.probabilities(logits.flatten(0, 1))  # (R K, V), float64
        tokens = (
            inverse_cdf(probs, numbers.flatten()) if self.known is None else self.known[across, positions].flatten()
        )
        chosen = probs.gather(1, tokens[:, None])[:, 0]
        entropy = torch.special.entr(probs).sum(1)
        return tokens.view_as(positions), chosen.view_as(positions), entropy.view_as(positions)

    def chunks(self, positions: Int[Tensor, "rows k"]) -> list[slice]:
        """Slices of the columns of `positions` to take one after the other, so that the distributions held at once stay
        within MAX_DISTRIBUTION_ENTRIES, and on a CPU within fewer."""
        is_on_cpu = self.z_t.device.type == "cpu"
        most = min(MAX_DISTRIBUTION_ENTRIES, CPU_DISTRIBUTION_ENTRIES) if is_on_cpu else MAX_DISTRIBUTION_ENTRIES
        width = max(1, most // (len(positions) * self.mask_id))  # mask_id: the vocabulary's size
        return [slice(start, start + width) for start in range(0, positions.shape[1], width)]

    def advance(self) -> None:
        """Go on to the next step."""
        self._clock[0] += 1
        self.step_entropy.zero_()

    def remask(self, where: Bool[Tensor, "batch length"]) -> None:
        """Mask these positions again. Those that were fixed from the start stay as they are."""
        where = where & self.fillable & (self.z_t != self.mask_id)
        self.z_t.masked_fill_(where, self.mask_id)
        self.revealed_at_step.masked_fill_(where, 0)
        self.num_remasked += where

    def window(self, start: int, stop: int, fill: Bool[Tensor, "batch width"], index: int) -> Reverse:
        """The same process on positions start..stop alone, of which `fill` are to be filled, for a rule inside a rule.
        It draws random numbers of its own, those of window `index`."""
        inner = copy(self)
        for name in ("z_t", "fillable", "not_given", "revealed_at_step", "num_remasked", "confidence"):
            setattr(inner, name, getattr(self, name)[:, start:stop])  # views: what happens there happens here
        inner.to_fill = fill
        inner.fillable = inner.fillable & fill.to(self.z_t.device)
        inner.known = None if self.known is None else self.known[:, start:stop]
        inner._recorded, inner._is_window = None, True
        inner.seeds = [block_seed(seed, index) for seed in self.seeds]
        inner._start_random(inner.seeds)
        return inner


def positions_of(
    where: Bool[Tensor, "rows length"], width: int | None = None
) -> tuple[Int[Tensor, "rows k"], Bool[Tensor, "rows k"]]:
    """The positions at which each row is True, in rising order, and which of them are valid; others are distinct ones,
    to keep the shape.

    `width`: the most that a row has of them, where the caller knows it; None: the device is waited for, to learn it.
    """
    if width is None:
        width = int(where.sum(1).amax()) if len(where) else 0
    positions = (~where).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    return positions, where.gather(1, positions)


@runtime_checkable
class StepRule(Protocol):
    """One way to go from everything masked to nothing masked. A sampler is a step rule, in a file of its own.

    What else is to be known of a rule it says by class attributes; see `trait`.
    """

    def __call__(self, state: Reverse) -> Iterator[None]:
        """Fill the canvas, yielding after every step; when it ends, no mask may be left but in rows that it `ended`."""
        ...

    def max_nfe(self, num_to_fill: int) -> int:
        """The most network evaluations that a row with so many positions to fill can need."""
        ...


Trait = Literal["order_is_deterministic", "looks_first", "follows_rates"]


def trait(rule: StepRule, name: Trait) -> bool:
    """Whether a rule has a property, which it says by a class attribute of that name (False if it does not); for a rule
    around another (`inner`), whether the innermost one has it.

    order_is_deterministic: what is revealed next depends on the canvas so far alone, so a text has an exact likelihood
    in that order. looks_first: the network's output decides what is revealed next, so guidance can change the order.
    follows_rates: the rule needs predicted rates.
    """
    inner = getattr(rule, "inner", None)
    return bool(getattr(rule, name, False)) if inner is None else trait(inner, name)


@dataclass(frozen=True)
class Trace:
    """How a sample came about."""

    nfe: Int[Tensor, " batch"]
    """Network evaluations each row needed."""
    revealed_at_step: Int[Tensor, "batch length"]
    """Step (from 1) at which each position was last set; 0 where it was fixed from the start."""
    confidence: Float[Tensor, "batch length"]
    """Probability its token had when it was last set; NaN where it was fixed."""
    entropy: Float[Tensor, "batch steps"]
    """Mean entropy, in nats, of the distributions that each step's tokens were drawn from; NaN where none was."""
    num_remasked: Int[Tensor, "batch length"]
    """How often each position was masked again."""
    nll: Float[Tensor, " batch"]
    """-log of the product of all the probabilities that tokens were drawn with, nats."""
    elapsed_s: float
    frames: Int[Tensor, "frames batch length"] | None = None
    """The canvas as given and after every step, where that was asked for."""


@dataclass(frozen=True)
class Sample:
    """Filled rows, and how they came about."""

    tokens: Int[Tensor, "batch length"]
    trace: Trace


OnStep = Callable[[int, Tensor], None]
"""Called with (step, z_t (B, L)): 0 and the canvas as given, then after every step."""

OnFilled = Callable[[int], None]
"""Called now and then with the number of places that are filled, or that no more is to be filled in; in the end with
all of them."""


@torch.no_grad()
def reverse(state: Reverse, rule: StepRule) -> Iterator[int]:
    """Run a rule on a state, yielding the number of each step once it is taken."""
    try:
        for _ in rule(state):
            yield state.step
            state.advance()
    finally:
        state.forget_recorded()
    assert not state.masked.any(), f"{type(rule).__name__} left masked positions"


def sample(
    denoise: Callable[..., Any],
    canvas: Canvas,
    rule: StepRule,
    *,
    mask_id: int,
    seeds: Sequence[int],
    guidance: Guidance | None = None,
    known: Int[Tensor, "batch length"] | None = None,
    on_step: OnStep | None = None,
    on_filled: OnFilled | None = None,
    keep_frames: bool = False,
) -> Sample:
    """Fill a canvas by a step rule: one seed a row. Fixed positions never change and no mask survives, but behind the
    end of a row that the rule ended.

    `denoise` is a Denoiser, or gives a Prediction instead of logits. With `known` text, nothing is drawn: the text is
    revealed in the rule's order, and the trace's `nll` is its cost.
    """
    start_s = time.perf_counter()
    state = Reverse(denoise, canvas, mask_id, seeds, guidance=guidance, known=known)
    frames = [state.z_t.clone()]
    entropy = []
    num_to_fill, looked_s = sum(state.num_to_fill), start_s
    if on_step is not None:
        on_step(0, state.z_t)
    for step in reverse(state, rule):
        total, count = state.step_entropy.unbind(1)
        entropy.append(total / count)  # 0 / 0: NaN
        if keep_frames:
            frames.append(state.z_t.clone())
        if on_step is not None:
            on_step(step, state.z_t)
        if on_filled is not None and time.perf_counter() - looked_s >= LOOK_INTERVAL_S:
            on_filled(num_to_fill - int(state.masked.sum()))
            looked_s = time.perf_counter()
    if on_filled is not None:
        on_filled(num_to_fill)
    trace = Trace(
        nfe=state.nfe,
        revealed_at_step=state.revealed_at_step,
        confidence=state.confidence,
        entropy=torch.stack(entropy, dim=1) if entropy else state.nll.new_zeros(len(state.z_t), 0),
        num_remasked=state.num_remasked,
        nll=state.nll,
        elapsed_s=time.perf_counter() - start_s,
        frames=torch.stack(frames) if keep_frames else None,
    )
    return Sample(state.z_t, trace)
