"""Plain text: .txt, source code and whatever else decodes. A document is the whole file, or a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from mdlm_atat.data.files import decoded
from mdlm_atat.data.readers.reading import Reading

LINE_ENDS, BLANKS = "line ends between documents", "characters of empty lines"
LONG_LINE = 1 << 20
"""Characters from which a line is passed on in parts; one that begins with so much white space is not empty."""


def read_plain(path: Path, reading: Reading, left_out: Counter[str]) -> Iterator[Iterable[str]]:
    """Yield the file as one document, or each line that is not empty, in chunks of bounded length."""
    chunks = decoded(path, reading.encoding, left_out)
    yield from _lines(chunks, left_out) if reading.documents == "line" else [chunks]


def _lines(chunks: Iterator[str], left_out: Counter[str]) -> Iterator[Iterable[str]]:
    waiting = ""
    for chunk in chunks:
        *lines, waiting = (waiting + chunk).split("\n")
        left_out[LINE_ENDS] += len(lines)
        yield from _not_empty(lines, left_out)
        if len(waiting) > LONG_LINE:
            rest = _RestOfLine(chunks)
            yield chain([waiting], rest)
            for _ in rest:  # whoever asked for the document may not have read all of it
                pass
            waiting = rest.after
            left_out[LINE_ENDS] += rest.ended
    *lines, waiting = waiting.split("\n")
    left_out[LINE_ENDS] += len(lines)
    yield from _not_empty([*lines, waiting], left_out)


def _not_empty(lines: Iterable[str], left_out: Counter[str]) -> Iterator[Iterable[str]]:
    for line in lines:
        if line.strip():
            yield [line]
        elif line:
            left_out[BLANKS] += len(line)


class _RestOfLine:
    """The chunks up to the next line end; `after` is what follows it in the last of them."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks, self.ended, self.after = chunks, False, ""

    def __iter__(self) -> Iterator[str]:
        while not self.ended and (chunk := next(self._chunks, None)) is not None:
            part, end, self.after = chunk.partition("\n")
            self.ended = bool(end)
            yield part
