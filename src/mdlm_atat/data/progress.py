"""What a preparation says while it works."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

from mdlm_atat.progress import Bar


@runtime_checkable
class Progress(Protocol):
    """Who hears about a preparation."""

    def say(self, text: str) -> None:
        """Take a line that stays."""
        ...

    def update(self, stage: str, num_characters: int, num_tokens: int) -> None:
        """Take how far a stage has come; 0 tokens where it makes none."""
        ...

    def done(self) -> None:
        """Take the end of the last stage, however it ended."""
        ...


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None: ...
    def update(self, stage: str, num_characters: int, num_tokens: int) -> None: ...
    def done(self) -> None: ...


def reporting(progress: bool | Progress) -> Progress:
    """Return who hears about a preparation: stderr (True), nobody (False), or the one given."""
    if isinstance(progress, bool):
        return TerminalProgress() if progress else Silent()
    return progress


class TerminalProgress:
    """Says it on stderr: by a moving line where that is a terminal or a notebook."""

    def __init__(self) -> None:
        self._bar = Bar()
        self._stage, self._start_s = "", 0.0

    def say(self, text: str) -> None:
        self._bar.say(text)

    def update(self, stage: str, num_characters: int, num_tokens: int) -> None:
        now_s = time.monotonic()
        if stage != self._stage:
            self._stage, self._start_s = stage, now_s
        text = f"{num_characters / 1e6:,.1f}M characters"
        text += f", {num_tokens / 1e6:,.1f}M tokens" if num_tokens else ""
        text += f", {num_characters / 1e6 / max(now_s - self._start_s, 1e-3):.1f}M characters/s"
        self._bar.update(num_characters, text, title=stage)

    def done(self) -> None:
        self._bar.close()
        self._bar = Bar()
