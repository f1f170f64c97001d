"""Texts for a terminal, which would obey the control characters in them; files and pipes get texts as they are."""

from __future__ import annotations

import re
import sys
import unicodedata
from contextlib import suppress
from typing import Any

BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Embeddings, overrides and isolates: they turn around how what comes after them is shown."""

MARKS = re.compile("[\u061c\u200e\u200f]")
"""Of a direction, which are not seen, and turn around signs beside them."""


def printable(text: str, encoding: str = "utf-8", instead: str = "?") -> str:
    """The text without what steers a terminal. Line ends and tabs stay, and a carriage return before a line end goes;
    every other control character (ESC, BEL, backspace, C1), every bidirectional control and half a character is shown
    as U+FFFD, marks of a direction as nothing, and what the encoding lacks as `instead`."""
    text = MARKS.sub("", text.replace("\r\n", "\n"))
    shown = "".join("\N{REPLACEMENT CHARACTER}" if steers(char) else char for char in text)
    try:
        shown.encode(encoding)
    except UnicodeEncodeError:
        return "".join(char if _can_encode(char, encoding) else instead for char in shown)
    return shown


class Messages:
    """A stream for what tells of work and must not end it: what cannot be written is left out, since the disk is full,
    the reader or the terminal is gone, or the stream is closed (None); and what the encoding lacks is written as ?."""

    def __init__(self, stream: Any) -> None:
        self._stream: Any = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        with suppress(AttributeError, OSError, ValueError):
            return self._stream.isatty()
        return False

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self.write(text.encode(self.encoding, "replace").decode(self.encoding))
            except (OSError, ValueError):  # ValueError: it was closed
                self._stream = None
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._stream = None


def shown(text: str) -> str:
    """The text as it is to be printed: `printable` where standard output is a terminal, and as it is where that is a
    file or a pipe."""
    return printable(text) if is_terminal() else text


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def steers(char: str) -> bool:
    """Whether a terminal may obey a character, or a line be turned around by it."""
    # Cc are control codes, C0 and C1; Cs halves of a character in UTF-16
    return (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t") or char in BIDI


def _can_encode(char: str, encoding: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
