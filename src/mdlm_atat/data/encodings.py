"""Encodings of text: byte order marks, names that a user gives, and guesses for messages."""

from __future__ import annotations

import codecs
from encodings import normalize_encoding
from encodings.aliases import aliases
from importlib.util import find_spec

from mdlm_atat.errors import UserError

LONGEST_MARK = 4
MARKS = (  # UTF-32 before UTF-16, whose mark it begins with
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
NO_TEXT = ("aliases", "charmap", "idna", "mbcs", "oem", "raw_unicode_escape", "undefined", "unicode_escape")
GUESSED_BYTES = 1 << 16
MAX_NUL_SHARE = 1e-3  # of the characters read at a time: text has none, other data has many


def check_encoding(encoding: str, name: str = "encoding") -> None:
    """Raise UserError, in which the setting is called `name`, for an encoding that is not one of Python's for text."""
    if not is_encoding(encoding):
        raise UserError(
            f"`{name}={encoding!r}`: there is no such encoding; expected one such as utf-8, cp1252, utf-16-le, cp1251, "
            "shift_jis or gb18030"
        )


def is_encoding(name: str) -> bool:
    """Return whether a name is that of an encoding of Python's own for text."""
    own = normalize_encoding(name).lower()
    own = aliases.get(own, own)
    if own in NO_TEXT or not own.isidentifier() or find_spec(f"encodings.{own}") is None:
        return False
    try:
        return isinstance(b"a\0\0\0".decode(own), str)
    except (LookupError, UnicodeError):
        return False


def marked_encoding(data: bytes) -> tuple[str, int] | None:
    """Return the encoding that a file's first bytes are marked with, and the length of the mark; None without one."""
    return next(((encoding, len(mark)) for mark, encoding in MARKS if data.startswith(mark)), None)


def is_full_of_nuls(text: str | bytes) -> bool:
    """Return whether more than one character, and more than one in a thousand, is a NUL."""
    num_nuls = text.count("\0") if isinstance(text, str) else text.count(0)
    return num_nuls > max(1, MAX_NUL_SHARE * len(text))


def likely_encoding(data: bytes) -> str | None:
    """Guess the encoding of bytes that are not UTF-8 or full of NULs; None where they look like no text.

    Without NULs the guess is charset-normalizer's, except that cp1252 is preferred where it reads as well.
    """
    data = data[: GUESSED_BYTES // 4 * 4]
    if is_full_of_nuls(data):
        wide = [encoding for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be") if _reads(data, encoding)]
        return max(wide, key=lambda encoding: _share_of_ascii(data, encoding), default=None)
    from charset_normalizer import from_bytes

    matches = from_bytes(data)
    best = matches.best()
    if best is None:
        return "cp1252" if _reads(data, "cp1252") else None
    found = {match.encoding for match in matches} | set(best.could_be_from_charset)
    return "cp1252" if "cp1252" in found and _reads(data, "cp1252") else best.encoding


def _reads(data: bytes, encoding: str) -> bool:
    """Whether the bytes are text in this encoding: no NUL, and hardly another control character."""
    text = data.decode(encoding, errors="replace")
    odd = sum(character == "\ufffd" or (character < " " and character not in "\t\n\r\f\x1b") for character in text)
    return "\0" not in text and odd <= len(text) // 100


def _share_of_ascii(data: bytes, encoding: str) -> float:
    text = data.decode(encoding, errors="replace")
    return sum(map(str.isascii, text)) / max(len(text), 1)
