"""What the model is asked for: texts that are filled in, and anything else that is done in one call."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mdlm_atat.lm import How, LanguageModel
from mdlm_atat.lm.filling import Filling
from mdlm_atat.lm.given import Row
from mdlm_atat.lm.log_probs import TokenLogProb, log_probs_left_to_right
from mdlm_atat.lm.results import Frame, Layout, Pick, in_order
from mdlm_atat.serve.answers import Made
from mdlm_atat.serve.mailbox import Done, Event, Failed, Framed, Queued, Started
from mdlm_atat.serve.mistakes import RequestError

Tell = Callable[[Event], None]
T = TypeVar("T")


class Dropped(Exception):
    """Nobody waits any more for what the model is doing."""


class Job:
    """Work for the model, and who waits for it."""

    def __init__(self, tell: Tell, max_seconds: float) -> None:
        self.tell, self._max_seconds = tell, max_seconds
        self._is_cancelled = self._is_answered = False
        self._since_s: float | None = None
        self._busy_s = 0.0
        self._num_ahead: int | None = None

    def wait_behind(self, num_ahead: int) -> None:
        """So many are before it in the queue."""
        if num_ahead != self._num_ahead:
            self._num_ahead = num_ahead
            self.tell(Queued(num_ahead))

    def cancel(self) -> None:
        """Nobody waits for it any more. Any thread may say so."""
        self._is_cancelled = True

    @property
    def is_over(self) -> bool:
        """Whether the model need not go on with it: it is answered, nobody waits, or it took too long."""
        return self._is_cancelled or self._is_answered or self._is_late()

    def begin(self) -> None:
        """The model begins with it, or goes on."""
        if self._since_s is None:
            self._since_s = time.monotonic()

    def pause(self) -> None:
        """The model turns to others."""
        self._busy_s, self._since_s = self._elapsed_s(), None

    def end(self, value: Any) -> None:
        self._answer(Done(value, self._elapsed_s()))

    def fail(self, error: BaseException) -> None:
        self._answer(Failed(error))

    def give_up(self) -> None:
        """It is over before it was answered."""
        if self._is_late() and not self._is_cancelled:
            self.fail(
                RequestError(
                    f"stopped after {self._max_seconds:g} seconds, the most that this server spends on a request: ask "
                    "for fewer tokens, steps, texts or choices of lengths",
                    status=413,
                )
            )

    def _answer(self, event: Event) -> None:
        if not self._is_answered:
            self._is_answered = True
            self.tell(event)

    def _is_late(self) -> bool:
        return self._elapsed_s() > self._max_seconds

    def _elapsed_s(self) -> float:
        """How long the model has been busy with it."""
        return self._busy_s + (0.0 if self._since_s is None else time.monotonic() - self._since_s)


class Call(Job):
    """One call of the model."""

    def __init__(self, tell: Tell, max_seconds: float, work: Callable[[], Any]) -> None:
        super().__init__(tell, max_seconds)
        self.work = work


@dataclass(frozen=True)
class Plan:
    """Texts to be filled in."""

    rows: Sequence[Row]
    seeds: Sequence[int]
    layouts: Sequence[Layout] | None = None
    """Of templates; None: the texts go on from prompts."""
    num_kept: int | None = None
    """The best so many are kept; None: all, in their order."""
    pick: Pick = "likeliest"
    """Which are the best."""
    warnings: Sequence[str] = ()
    """What a client should know of how its text was read."""


@dataclass(frozen=True)
class Watch:
    """What is to be heard of texts on their way."""

    frames: frozenset[int] = frozenset()
    """Numbers of the texts whose frames are sent."""
    most_frames: int = 256
    """Where there are more steps, some of them have no frame."""
    importance: bool = False
    stop: Callable[[Frame], bool] | None = None
    """Whether a text has come to its end at this frame."""


@dataclass(frozen=True)
class Filled:
    """Texts that were filled in."""

    texts: Sequence[Made]
    """The best first, if they are ranked."""
    numbers: Sequence[int]
    """The number that each was drawn as."""
    warnings: Sequence[str]
    log_probs: Sequence[Sequence[TokenLogProb]] | None = None
    """Of each text, of all its tokens, where they were asked for."""


class Fill(Job):
    """Texts that are filled in, all of one length, in one batch or several."""

    def __init__(
        self,
        tell: Tell,
        max_seconds: float,
        how: How,
        plan: Callable[[], Plan],
        watch: Watch,
        *,
        is_quick: bool,
        num_likeliest: int | None = None,
    ) -> None:
        """`plan` is called on the model's thread. `is_quick`: it does not ask the model. `num_likeliest`: the texts are
        read again, left to right, for the log probability of each token and of so many others; None: they are not."""
        super().__init__(tell, max_seconds)
        self.how, self.watch, self.is_quick = how, watch, is_quick
        self._num_likeliest = num_likeliest
        self._make_plan = plan
        self.plan: Plan | None = None
        self.batch: Any = None
        """What others must have the same of, to be filled together with it."""
        self.waiting: list[int] = []
        """Numbers of the texts that are not begun."""
        self._made: dict[int, Made] = {}
        self._warnings: dict[str, None] = {}
        self._stride = 1

    def prepare(self, lm: LanguageModel) -> Plan:
        """Lay the texts out. Raises what the model refuses them with."""
        if self.plan is None:
            self.plan = self._make_plan()
            self.warn(self.plan.warnings)
            rows = self.plan.rows
            batches, warned = heard(lambda: lm.batches_of(rows[:1], self.how))
            self.warn(warned)
            self.batch = (self.how, batches[0])
            self.waiting = list(range(len(self.plan.rows)))
        return self.plan

    def warn(self, messages: Sequence[str]) -> None:
        """What its client is to be told of; the same is told once."""
        self._warnings |= dict.fromkeys(messages)

    def start(self, number: int, filling: Filling, place: int) -> None:
        """A text is begun, as row `place` of a batch."""
        if number == 0:
            num_steps = filling.max_steps(place)
            self._stride = max(1, -(-num_steps // self.watch.most_frames))
            self.tell(Started(num_steps))
        self._show(number, filling, place)

    def look(self, number: int, filling: Filling, place: int) -> bool:
        """A step was taken. Returns whether the text is done, and kept."""
        watch = self.watch
        is_done = filling.is_whole(place)
        if not is_done and watch.stop is not None and filling.is_settled_on_the_way:
            is_done = watch.stop(filling.frame(place))
            if is_done:
                filling.leave(place)  # it ends before what is hidden
        if is_done:
            self.take(number, filling, place)
        elif filling.step % self._stride == 0:
            self._show(number, filling, place)
        return is_done

    def take(self, number: int, filling: Filling, place: int) -> None:
        """A text is done."""
        frame = filling.frame(place, importance=self.watch.importance)
        if number in self.watch.frames:
            self.tell(Framed(number, frame))
        self._made[number] = Made(filling.text(place), frame)

    def finish(self, lm: LanguageModel) -> None:
        """All texts are done: rank them, and answer."""
        assert self.plan is not None
        made = [self._made[number] for number in range(len(self.plan.rows))]
        numbers = list(range(len(made)))
        if self.plan.layouts is not None:
            ways = lm.as_infilled([each.text for each in made], self.plan.layouts)
            best = in_order(ways, self.plan.pick)[: self.plan.num_kept]
            numbers = [next(n for n, way in enumerate(ways) if way is each) for each in best]
            made = [Made(way, made[number].last) for number, way in zip(numbers, best, strict=True)]
        log_probs = None
        if self._num_likeliest is not None:
            log_probs = [log_probs_left_to_right(lm, each.last.tokens, self._num_likeliest) for each in made]
        self.end(Filled(made, numbers, tuple(self._warnings), log_probs))

    def _show(self, number: int, filling: Filling, place: int) -> None:
        if number in self.watch.frames:
            self.tell(Framed(number, filling.frame(place, importance=self.watch.importance)))


def heard(work: Callable[[], T]) -> tuple[T, list[str]]:
    """Do what may warn, and return its result and the warnings: of what a client asked for and of its text, which they
    may hold, that client alone hears."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = work()
    return result, [str(warning.message) for warning in caught]
