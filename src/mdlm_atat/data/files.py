"""A file as text, packed (see unpack.py) or not, in constant memory, and what is wrong with one that is none.

A byte order mark is obeyed and dropped, and line ends are read as in Python's text mode ("\\r\\n" and "\\r" become
"\\n"); otherwise text is passed on as it is.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from mdlm_atat.data.encodings import (
    LONGEST_MARK,
    check_encoding,
    escaped_encoding,
    follows_utf8,
    has_halves,
    has_utf8_lines,
    is_full_of_nuls,
    is_separated_by_nuls,
    is_text_by_chance,
    is_utf16,
    likely_encodings,
    marked_encoding,
    overruled,
)
from mdlm_atat.data.signatures import signature_of
from mdlm_atat.data.unpack import READ_BYTES, ending_of, first_bytes, open_bytes, read_errors
from mdlm_atat.errors import UserError

HELD_BYTES = 1 << 28  # of memory for a line or row that has to be held as a whole, which is done up to three times
LONGEST_FILE = 1 << 26  # bytes, or characters, of a file that has to be
OF_WINDOWS = re.compile("[\x80-\x9f]")
"""Control characters in ISO 8859-1, which takes any bytes, and no text has: quotes and dashes in cp1252."""
FEWEST_UTF8 = 12  # bytes that are not ASCII, as of six letters: in other encodings they are hardly ever UTF-8 by chance
MARK, RETURNS = "byte order marks", "carriage returns before line feeds"
CHANGED_RETURNS = "carriage returns that became line feeds"
"""Not left out, but another character than it was."""
_BLANK_LINES = re.compile(r"\s*\n")


def read_lines(path: Path, encoding: str | None = None, *, translate: bool = True) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, each with its number and without its end, "\\n" alone where
    `translate` is off. Raises UserError where it is no text, and for a line that is too long to be held."""
    waiting: list[str] = []
    num_characters, width, number = 0, 1, 1
    for chunk in decoded(path, encoding, translate=translate):
        at = 0
        while at < len(chunk):
            if not waiting and (blank := _BLANK_LINES.match(chunk, at)):  # all at once: 250 times as fast
                number += chunk.count("\n", at, blank.end())
                at = blank.end()
                continue
            end = chunk.find("\n", at)
            part = chunk[at:] if end < 0 else chunk[at:end]
            at = len(chunk) if end < 0 else end + 1
            num_characters += len(part)
            width = max(width, bytes_per_character(part) if waiting or end < 0 else 1)
            if num_characters * width > HELD_BYTES:
                raise UserError(
                    f"{path}, line {number} is longer than can be held at once: put long texts into .txt files"
                )
            if end < 0:
                waiting.append(part)
                continue
            line, waiting = "".join([*waiting, part]) if waiting else part, []
            if line and not line.isspace():
                yield number, line
            number += 1
            num_characters, width = 0, 1
    line, waiting = "".join(waiting), []
    if line and not line.isspace():
        yield number, line


def bytes_per_character(text: str) -> int:
    """Return the bytes that Python holds each character of a text in: 1, 2 or 4, as the widest needs."""
    widest = "" if text.isascii() else max(text)
    return 1 if widest <= "\xff" else 2 if widest <= "\uffff" else 4


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check_is_file(path: Path) -> None:
    """Raise UserError where there is no file of this name."""
    if not path.is_file():
        raise UserError(f"{path} is a folder; name a file in it" if path.is_dir() else f"there is no file {path}")


def check_mark(path: Path, encoding: str | None) -> None:
    """Raise UserError for a file whose byte order mark says another encoding than the one that was named."""
    if encoding is not None and (marked := overruled(encoding, first_bytes(path, LONGEST_MARK))):
        raise UserError(
            f"{path} begins with the byte order mark of {marked}, so it is not {encoding}: leave `encoding=` out"
        )


def count_mark(path: Path, encoding: str | None, left_out: Counter[str]) -> None:
    """As `check_mark`, of one among many files that an encoding is named for: counts it among what is not as it was."""
    if encoding is not None and (marked := overruled(encoding, first_bytes(path, LONGEST_MARK))):
        left_out[f"files read as {marked} by their byte order mark, not as {encoding}"] += 1


def read_text(path: Path, encoding: str | None = None, *, translate: bool = True) -> str:
    """Return the whole text of a file, packed or not, with its line ends as they are where `translate` is off. A byte
    order mark says the encoding, else `encoding` does, else it is UTF-8. Raises UserError where there is no file, or no
    text in that encoding, and where the mark says another than `encoding`."""
    check_is_file(path)
    if encoding is not None:
        check_encoding(encoding)
        check_mark(path, encoding)
    return "".join(decoded(path, encoding, translate=translate))


def decoded(
    path: Path, encoding: str | None = None, left_out: Counter[str] | None = None, *, translate: bool = True
) -> Iterator[str]:
    """Yield the text of a file in chunks. A byte order mark says the encoding, else `encoding` does, else it is UTF-8.

    `left_out` counts the characters that are not passed on as they are: the mark, and carriage returns, of which those
    before a line feed are dropped and others become one, unless `translate` is off. Raises UserError where the bytes
    are not in that encoding, are UTF-8, or those of cp1252 and asked for as ISO 8859-1, and where more than one
    character in a thousand is a NUL.
    """
    left_out = Counter() if left_out is None else left_out
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    position = num_lines = 0  # bytes before the decoder's own buffer, line ends before it
    is_ascii = True
    num_returns = num_dropped = 0
    is_latin_1 = encoding is not None and codecs.lookup(encoding).name == "iso8859-1"
    if encoding and not is_utf8_name(encoding) and is_utf8_file(path):
        raise UserError(f"{path} is not {encoding}: its bytes are UTF-8; leave `encoding=` out")
    with read_errors(path), open_bytes(path) as file:
        data = _at_least(file, LONGEST_MARK)
        mark = marked_encoding(data)
        if mark is not None:
            encoding, position = mark
            data = data[position:] or file.read(READ_BYTES)
            left_out[MARK] += 1
        decoder = codecs.getincrementaldecoder(encoding or "utf-8")()
        while True:
            kept = _kept(decoder)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeError as error:
                start = error.start if isinstance(error, UnicodeDecodeError) else 0
                if mark is not None:
                    raise _damaged(mark[0], path, kept + data, start, position, num_lines + 1) from error
                if encoding is None and not data and not is_ascii:
                    raise _cut(path, position) from error
                raise _not_in(encoding, path, kept + data, start, position, num_lines + 1) from error
            is_ascii = is_ascii and text.isascii()
            if encoding is None and is_ascii and (seven_bits := escaped_encoding(data)):
                raise UserError(
                    f"{path} looks like {seven_bits} ({_shown(data, seven_bits)!r}): try `encoding={seven_bits!r}`, "
                    "which is a guess"
                )
            if encoding and not text.isascii():
                _check_whole(path, text)
            if is_latin_1 and (control := OF_WINDOWS.search(text)):
                raise _not_in(encoding, path, data, control.start(), position, num_lines + 1)
            if is_full_of_nuls(text):
                raise _nuls(encoding, path, data, text)
            is_first = mark is None and position == 0
            if encoding and is_first and is_utf16(encoding) and is_text_by_chance(data, text):
                raise _by_chance(encoding, path, data, text)
            position += len(kept) + len(data) - len(_kept(decoder))
            num_lines += text.count("\n")
            if translate:
                num_returns += text.count("\r")
                num_dropped += len(text)
                text = newlines.decode(text, final=not data)
                num_dropped -= len(text)
            if text:
                yield text
            if not data:
                break
            data = file.read(READ_BYTES)
    if num_dropped:
        left_out[RETURNS] += num_dropped
    if num_returns > num_dropped:
        left_out[CHANGED_RETURNS] += num_returns - num_dropped


def is_utf8_file(path: Path, *, least: int = FEWEST_UTF8) -> bool:
    """Return whether a file without a byte order mark is UTF-8, with at least so many bytes that are not ASCII, so that
    it is no chance, and no NUL. It is read for that once, until it changes."""
    with read_errors(path):
        stat = path.stat()
    return _is_utf8(path, (stat.st_size, stat.st_mtime_ns, stat.st_ino), least)


@lru_cache(maxsize=1 << 12)
def _is_utf8(path: Path, _: tuple[int, ...], least: int) -> bool:
    # a preparation reads a folder up to three times and asks twice each time: 1.5 s more for 100 MB of ASCII in a .gz
    decoder, num_high = codecs.getincrementaldecoder("utf-8")(), 0
    with read_errors(path), open_bytes(path) as file:
        data = _at_least(file, LONGEST_MARK)
        if marked_encoding(data):
            return False
        try:
            while data:
                decoder.decode(data)
                num_high += len(data.translate(None, delete=_ASCII))
                if b"\0" in data:
                    return False
                data = file.read(READ_BYTES)
            decoder.decode(b"", final=True)
        except UnicodeError:
            return False
    return num_high >= least


_ASCII = bytes(range(128))


def is_utf8_name(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def _check_whole(path: Path, text: str) -> None:
    """Raise UserError for half of a character, which UTF-7 has."""
    try:
        utf8(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _at_least(file: io.BufferedIOBase, num_bytes: int) -> bytes:
    data = file.read(READ_BYTES)
    while len(data) < num_bytes and (more := file.read(READ_BYTES)):
        data += more
    return data


def _kept(decoder: codecs.IncrementalDecoder) -> bytes:
    return decoder.getstate()[0]


def held(path: Path, chunks: Iterator[str], longest: int) -> str:
    """Return the text of a file that has to be read as a whole. Raises UserError for one of more than `longest`
    characters."""
    parts: list[str] = []
    num_characters = 0
    for chunk in chunks:
        parts.append(chunk)
        num_characters += len(chunk)
        if num_characters > longest:
            raise _too_long(path, f"{longest:,} characters")
    return "".join(parts)


def held_bytes(path: Path) -> bytes:
    """Return the bytes of a file that has to be read as a whole, unpacked. Raises UserError for one that is too long,
    or damaged."""
    data = first_bytes(path, LONGEST_FILE + 1)
    if len(data) > LONGEST_FILE:
        raise _too_long(path, f"{LONGEST_FILE:,} bytes")
    return data


def _too_long(path: Path, what: str) -> UserError:
    return UserError(f"{path} is longer than {what}, which have to be held at once: convert it to .txt")


def undecodable(path: Path | str, data: bytes, encoding: str | None) -> UserError:
    """Return the error of bytes that are not in the encoding that they should be in, with the likely one."""
    return UserError(f"{path} is not {encoding or 'UTF-8'}: {_advice(data, 0)}")


def utf8(text: str) -> bytes:
    """Return a text as UTF-8. Raises UserError where it holds a lone surrogate: half of a character, or the byte of
    another encoding on a command line (PEP 383)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        surrogate = f"the text holds a lone surrogate (U+{code:04X}) at position {error.start}"
        if 0xDC80 <= code <= 0xDCFF:
            raise UserError(
                f"{surrogate}: the byte 0x{code - 0xDC00:02X} of a text that is not UTF-8, such as one on the command "
                "line of a terminal with another encoding; give it in UTF-8, or as a file with its `encoding`"
            ) from error
        raise UserError(f"{surrogate}, half of a character that cannot be written as UTF-8: remove it") from error


def _not_in(encoding: str | None, path: Path, data: bytes, start: int, position: int, line: int) -> UserError:
    if position == 0 and (known := signature_of(data)):
        remedy = "convert it to text" if ending_of(path) in known.endings else known.remedy
        return UserError(f"{path} is no text but {known.what}, by its content: {remedy}")
    line += data[:start].count(b"\n")
    where = f"byte 0x{data[start]:02X} at offset {position + start} (line {line})" if start < len(data) else "its end"
    advice = _advice(data, start)
    if encoding is None and follows_utf8(data, start):
        advice = "the text before it is UTF-8, so it is damaged there or two encodings are mixed: mend it there"
    elif encoding is None and has_halves(data):
        advice = "it is UTF-8 but for halves of characters, as of CESU-8: write it anew as UTF-8"
    elif encoding is None and has_utf8_lines(data):
        advice = "other lines are UTF-8, so two encodings are mixed: bring all of it into UTF-8"
    return UserError(f"{path} is not {(encoding or 'UTF-8')}: {where}; {advice}")


def _damaged(encoding: str, path: Path, data: bytes, start: int, position: int, line: int) -> UserError:
    line += data[:start].decode(encoding, errors="replace").count("\n")
    return UserError(
        f"{path} is damaged at offset {position + start} (line {line}): its byte order mark says {encoding}, in which "
        "the bytes there are no character, or the end of one is missing; mend it there, or convert it to UTF-8"
    )


def _cut(path: Path, position: int) -> UserError:
    return UserError(
        f"{path} is UTF-8 and ends inside a character, at offset {position}: it was cut there; get the whole file, or "
        "take its last bytes off"
    )


def _nuls(encoding: str | None, path: Path, data: bytes, text: str) -> UserError:
    if encoding is not None:
        advice = f"is {encoding} the right `encoding=`?"
    elif 0 not in data.strip(b"\0"):
        advice = "they are its start or end, as of a file whose writing was cut off: take them off"
    elif is_separated_by_nuls(data) and not likely_encodings(data):
        advice = "they stand between texts, as find -print0 writes them: put line ends in their place"
    else:
        advice = _advice(data, 0)
    return UserError(f"{path} is full of NUL characters ({text.count(chr(0)):,} of {len(text):,}): {advice}")


def _by_chance(encoding: str, path: Path, data: bytes, text: str) -> UserError:
    shown = " ".join(text[:20].split())
    nuls = ", with NULs between texts: put line ends in their place" if 0 in data else ": leave `encoding=` out"
    return UserError(f"{path} is not {encoding}, in which it reads {shown!r}: its bytes are UTF-8{nuls}")


def _advice(data: bytes, at: int) -> str:
    """What to do about bytes that are not UTF-8: the likely encodings, and how the place `at` reads in each."""
    guesses = likely_encodings(data, at)
    start = max(0, at - 12) // 4 * 4
    shown = [(guess, " ".join(data[start : start + 40].decode(guess, errors="replace").split())) for guess in guesses]
    match [f"{guess} ({sample!r})" for guess, sample in shown]:
        case []:
            return "it is no text in an encoding that could be told; name it with `encoding=`, or convert it to text"
        case [only]:
            return f"it looks like {only}: try `encoding={guesses[0]!r}`, which is a guess"
        case several:
            return (
                f"it may be {', '.join(several[:-1])} or {several[-1]}, which are guesses: look which reads "
                f"right and name it, as in `encoding={guesses[0]!r}`"
            )


def _shown(data: bytes, encoding: str) -> str:
    return " ".join(data[:400].decode(encoding, errors="replace")[:40].split())


def whole_number(written: str) -> int | Decimal:
    """Return a number of JSON without a fraction; one of more digits than Python makes an int of as Decimal, which is
    exact as well."""
    try:
        return int(written)
    except ValueError:
        return Decimal(written)


def json_object(where: str, line: str, holds: str) -> dict[str, Any]:
    """Read a line as a JSON object. `where` is its file and line and `holds` what is expected in it, for the message of
    the UserError that is raised for anything else, and for an object in which a name stands twice."""
    names: list[str] = []  # of the object that ends last, which is the whole

    def remember(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names[:] = [name for name, _ in pairs]
        return dict(pairs)

    try:
        row = json.loads(line, parse_int=whole_number, object_pairs_hook=remember)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}; expected one JSON object a line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is a JSON {type(row).__name__}, expected an object with {holds}")
    if len(row) < len(names):
        twice = next(name for name in row if names.count(name) > 1)
        raise UserError(f"{where} has more than one {twice!r}: give them names of their own, or remove all but one")
    return row
