"""Standard output and error that end no work: a full disk, a closed pipe or a terminal that is gone."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

POLL_S = 0.01
COPIES: dict[str, str] = {}
"""Path of the file that a stream was copied to -> what a message calls it."""


@dataclass
class Lost:
    """The first error of standard output; None where all of it was written."""

    error: OSError | None = None


@contextmanager
def steady_streams(*, results_are_printed: bool) -> Iterator[Lost]:
    """Within the block, what cannot be written to standard output or error is left out, and the work goes on: what it
    stores is stored. The `Lost` that this gives says whether any of standard output was left out.

    `results_are_printed`: standard output is what the command is for, so that one whose reader has left (`| head`)
    raises BrokenPipeError, and ends. A character that the encoding lacks is written as "?" or as its number. A stream
    that was closed at the start leads nowhere.
    """
    before, lost = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}, Lost()
    for number, (name, stream) in enumerate(before.items()):
        if stream is None:
            setattr(sys, name, _nowhere(number))
    sys.stdout = _steady(sys.stdout, _SteadyRaw(lost, ends_by_broken_pipe=results_are_printed), errors="replace")
    sys.stderr = _steady(sys.stderr, _SteadyRaw(Lost(), ends_by_broken_pipe=False), errors="backslashreplace")
    try:
        yield lost
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(BrokenPipeError):  # that was the first, and everything else is left out
                stream.flush()
        sys.stdin, sys.stdout, sys.stderr = before.values()


def _nowhere(number: int) -> Any:
    """A stream that leads nowhere, under the file number that is its own: the next file to be opened would get that,
    and whatever a library prints."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        os.fstat(number)
    except OSError:
        os.dup2(null, number)
    if null != number:
        os.close(null)
    return open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)


class _SteadyRaw(io.RawIOBase):
    def __init__(self, lost: Lost, *, ends_by_broken_pipe: bool) -> None:
        self._lost, self._ends_by_broken_pipe = lost, ends_by_broken_pipe
        self.raw: io.RawIOBase
        self.stream: Any
        """What closes `raw` when nobody holds it any more."""

    def write(self, content: Any, /) -> int:
        if self._lost.error is not None:
            return len(content)
        try:
            while (written := self.raw.write(content)) is None:  # a pipe that does not block, and is full
                time.sleep(POLL_S)
        except OSError as error:
            self._lost.error = error
            if self._ends_by_broken_pipe and isinstance(error, BrokenPipeError):
                raise
            return len(content)
        return written

    @property
    def name(self) -> Any:
        return getattr(self.raw, "name", None)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()


def _steady(stream: Any, steady: _SteadyRaw, *, errors: str) -> Any:
    """The stream with `steady` between it and its file; one that is no file, a notebook's or a test's, as it is."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if not isinstance(raw, io.RawIOBase):
        stream.reconfigure(errors=errors)
        return stream
    stream.flush()
    steady.raw, steady.stream = raw, stream
    return io.TextIOWrapper(
        steady if raw is buffer else io.BufferedWriter(steady),  # type: ignore[arg-type]  # python -u has no buffer
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
