"""What a preparation says while it works."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def update(self, stage: str, num_characters: int, num_tokens: int) -> None:
        """How far a stage has come."""
        ...

    def done(self) -> None:
        """The stage is over."""
        ...


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None: ...
    def update(self, stage: str, num_characters: int, num_tokens: int) -> None: ...
    def done(self) -> None: ...


def reporting(progress: bool | Progress) -> Progress:
    """Who hears about a preparation: a terminal (True), nobody (False), or the one given."""
    if isinstance(progress, bool):
        return TerminalProgress() if progress else Silent()
    return progress


class TerminalProgress:
    """A moving line on a terminal's stderr; elsewhere nothing but the lines that stay."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status = None
        self._stage = ""
        self._start_s = self._shown_s = 0.0

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, stage: str, num_characters: int, num_tokens: int) -> None:
        now_s = time.monotonic()
        if stage != self._stage:
            self._stage, self._start_s, self._shown_s = stage, now_s, 0.0
        if not self._console.is_terminal or now_s - self._shown_s < 0.1:
            return
        self._shown_s = now_s
        millions_a_second = num_characters / 1e6 / max(now_s - self._start_s, 1e-3)
        text = f"{stage}: {num_characters / 1e6:,.1f}M characters"
        text += f", {num_tokens / 1e6:,.1f}M tokens" if num_tokens else ""
        text += f", {millions_a_second:.1f}M characters/s"
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def done(self) -> None:
        if self._status is not None:
            self._status.stop()
        self._status, self._stage = None, ""
