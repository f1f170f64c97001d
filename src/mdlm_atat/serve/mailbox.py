"""What jobs tell the one who waits for them, from the model's thread to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from mdlm_atat.lm.results import Frame

MAX_FRAMES = 32
"""Frames that wait for a slow reader. Older ones are left out: each has all of the text."""


@dataclass(frozen=True)
class Queued:
    """It waits."""

    ahead: int
    """So many are before it."""


@dataclass(frozen=True)
class Started:
    """The model begins with it."""

    num_steps: int


@dataclass(frozen=True)
class Framed:
    """One of its texts after a step."""

    number: int
    """Of the text."""
    frame: Frame


@dataclass(frozen=True)
class Done:
    """It is done."""

    value: Any
    elapsed_s: float


@dataclass(frozen=True)
class Failed:
    """It will not be done."""

    error: BaseException


Event = Queued | Started | Framed | Done | Failed


class Mailbox:
    """A queue of events that any thread may put into, and one task takes out of."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[int, Event]] = deque()
        self._filled = asyncio.Event()

    def put(self, event: Event, job: int = 0) -> None:
        """`job`: the number of the job that tells it."""
        try:
            self._loop.call_soon_threadsafe(self._take_in, job, event)
        except RuntimeError:  # the loop is closed: nobody is there any more
            return

    async def get(self) -> tuple[int, Event]:
        """The next event, with the number of its job."""
        while not self._events:
            self._filled.clear()
            await self._filled.wait()
        return self._events.popleft()

    def _take_in(self, job: int, event: Event) -> None:
        if isinstance(event, Framed):
            later = [each for each in self._events if isinstance(each[1], Framed) and each[1].frame.step > 0]
            if len(later) >= MAX_FRAMES:
                self._events.remove(later[0])
        self._events.append((job, event))
        self._filled.set()
