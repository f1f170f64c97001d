"""JSON: .jsonl, a row a line, and .json, an array of rows or one or more of them, read a row at a time."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdlm_atat.data.files import HELD_BYTES, bytes_per_character, decoded, read_lines, whole_number
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.records import Ambiguous
from mdlm_atat.errors import UserError


class Number(float):
    """A number that as a text is what was written, so that in a template 0.50 stays 0.50, and 1e-7 that."""

    __slots__ = ("written",)  # with a dictionary of its own a number takes 460 bytes, not 108

    written: str

    def __new__(cls, written: str) -> Number:
        number = super().__new__(cls, written)
        number.written = written
        return number

    def __str__(self) -> str:
        return self.written


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    return Ambiguous(row, {name for name, number in Counter(name for name, _ in pairs).items() if number > 1})


_DECODER = json.JSONDecoder(
    parse_float=Number, parse_int=whole_number, parse_constant=Number, object_pairs_hook=_object
)
_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
OBJECT_BYTES = 128
"""That Python may take for a value: a number with a fraction, or an object in a list."""
_LONGEST_WORD = len("-Infinity") + len("\\ud83d\\ude42")


def jsonl_rows(path: Path, reading: Reading, _left_out: Counter[str]) -> Iterator[tuple[Any, str]]:
    """Yield the value of each line that is not blank, with its file and line; lines end at "\\n" alone."""
    for number, line in read_lines(path, reading.encoding, translate=False):
        where = f"{path}, line {number}"
        yield _row(line, where), where


def _row(line: str, where: str) -> Any:
    check_can_be_held(line, where)
    try:
        return _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where} is not JSON: {error}; expected one JSON object a line; other JSON goes into a .json file"
        ) from error


def json_rows(path: Path, reading: Reading, _left_out: Counter[str]) -> Iterator[tuple[Any, str]]:
    """Yield each element of an array, or each value of a file that holds one or several, with its file and number."""
    for number, row in enumerate(_values(path, decoded(path, reading.encoding, translate=False)), start=1):
        yield row, f"{path}, row {number}"


def _values(path: Path, chunks: Iterator[str]) -> Iterator[Any]:
    """The elements of an array, or the values that follow each other. Only one of them is held at a time."""
    text = _Window(path, chunks)
    is_array = text.take("[")
    while not text.at_end():
        if is_array and text.take("]"):
            if not text.at_end():
                raise text.error("there is more after the array")
            return
        yield text.value()
        if is_array and not text.take(",") and not text.starts_with("]"):
            raise text.error("expected , or ] after an element")
    if is_array:
        raise text.error("the array does not end")


class _Window:
    """The part of a text from the value that is being read on. It grows to twice its length when that is not whole, so
    that all of it is parsed at most twice."""

    def __init__(self, path: Path, chunks: Iterator[str]) -> None:
        self._path, self._chunks = path, chunks
        self._text, self._at, self._num_before = "", 0, 0

    def starts_with(self, mark: str) -> bool:
        """Whether `mark`, one character, is what comes next after white space."""
        return not self.at_end() and self._text[self._at] == mark

    def take(self, mark: str) -> bool:
        """Go on after `mark` if it comes next, and return whether it did."""
        found = self.starts_with(mark)
        self._at += found
        return found

    def at_end(self) -> bool:
        """Go on to what is no white space, and return whether there is nothing."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return False
            if not self._grow():
                return True

    def value(self) -> Any:
        """Read the next value. Raises UserError where there is none."""
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                place = self._num_before + error.pos
                may_go_on = "Unterminated" in error.msg or error.pos > len(self._text) - _LONGEST_WORD
                if not (may_go_on and self._grow(2 * (len(self._text) - self._at))):
                    raise self.error(error.msg, place) from error
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from error
            else:
                return value

    def error(self, reason: str, place: int | None = None) -> UserError:
        """The error of a text that is no JSON from `place` on; None: from here on."""
        at = self._num_before + self._at if place is None else place
        return UserError(
            f"{self._path} is not JSON: {reason} (character {at + 1:,}); lines of JSON go into a .jsonl file"
        )

    def _grow(self, length: int = 1) -> bool:
        """Read on until the window holds so many characters; whether there was anything to read."""
        parts = [self._text[self._at :]]
        self._num_before += self._at
        self._text, self._at = "", 0
        num_characters = len(parts[0])
        while num_characters < max(length, len(parts[0]) + 1) and (chunk := next(self._chunks, None)) is not None:
            parts.append(chunk)
            num_characters += len(chunk)
        self._text = "".join(parts)
        check_can_be_held(self._text, f"{self._path}, character {self._num_before + 1:,}")
        return len(parts) > 1


def check_can_be_held(text: str, where: str) -> None:
    """Raise UserError for JSON that takes too much memory as a text, or as the objects that Python makes of it."""
    if len(text) <= HELD_BYTES // OBJECT_BYTES:
        return
    width = 4 if "\\u" in text else bytes_per_character(text)  # one escape may make four bytes of every character
    if len(text) * width > HELD_BYTES:
        raise UserError(f"{where}: a value is longer than can be held at once: put long texts into .txt files")
    most = 2 * HELD_BYTES // OBJECT_BYTES
    if _num_marks(text) > most and _has_more_values(text, most):
        raise UserError(f"{where}: a value holds more than {most:,} others, which have to be held at once: split it")


def _num_marks(text: str) -> int:
    return sum(map(text.count, ",:[{"))


def _has_more_values(text: str, most: int) -> bool:
    """Whether there are more marks of values than that outside of strings."""
    number = end = 0
    for string in _STRING.finditer(text):
        number += _num_marks(text[end : string.start()])
        if number > most:
            return True
        end = string.end()
    return number + _num_marks(text[end:]) > most
