"""Encodings of text: byte order marks, names that a user gives, and guesses for messages."""

from __future__ import annotations

import codecs
import unicodedata
from encodings import normalize_encoding
from encodings.aliases import aliases
from importlib.util import find_spec

from mdlm_atat.data.languages import USUAL, fit
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
SAMPLED_BYTES = 1 << 13  # of lines that are not ASCII
GUESSED_CHARACTERS = 1 << 12
MAX_GUESSES = 3
LEAST_FIT, NEAR_FIT = 0.6, 0.08
MOST = 0.7  # of the characters that are not ASCII, which by chance are pairs of letters
FEWEST_BYTES = 6  # that are UTF-8: no chance for three letters of two, or two of three
WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
ASCII_TEXT = frozenset(b"\t\n\r" + bytes(range(32, 127)))
PAIRED = ASCII_TEXT - {0x30}  # which is "0", and the first byte of kana
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


def overruled(encoding: str | None, data: bytes) -> str | None:
    """Return the encoding that a file's first bytes are marked with, where it is another than the one that was named:
    the mark goes before it. Else None. utf-16 and utf-32 name either order of bytes."""
    mark = marked_encoding(data)
    if encoding is None or mark is None:
        return None
    return None if mark[0].startswith(codecs.lookup(encoding).name.removesuffix("-sig")) else mark[0]


def is_full_of_nuls(text: str | bytes) -> bool:
    """Return whether more than one character, and more than one in a thousand, is a NUL."""
    num_nuls = text.count("\0") if isinstance(text, str) else text.count(0)
    return num_nuls > max(1, MAX_NUL_SHARE * len(text))


def likely_encodings(data: bytes, at: int = 0) -> list[str]:
    """Guess the encodings, the likeliest first and at most three, of bytes that are full of NULs, or that are not UTF-8
    at `at`. Each decodes all of them. Empty where they look like no text.

    Without NULs they are those among the usual encodings in which letters that are not ASCII stand as in one of the
    languages written in it; where none does, charset-normalizer's. Of those that read the same the first is named.
    """
    if is_full_of_nuls(data):
        data = data[: GUESSED_BYTES // 4 * 4]
        wide = [encoding for encoding in WIDE if reads_wide(data, encoding)]
        return sorted(wide, key=lambda encoding: _share_of_ascii(data, encoding), reverse=True)[:1]
    data = data[_start_of_sample(data, at) :]
    guesses: dict[str, tuple[float, str]] = {}
    sample = b"\n".join(line for line in data[:GUESSED_BYTES].split(b"\n") if not line.isascii())
    sample = sample[:SAMPLED_BYTES]
    for text, encoding in [(_decoded(sample, encoding), encoding) for encoding in USUAL if _decodes(data, encoding)]:
        if text not in guesses:
            guesses[text] = (fit(text, encoding), encoding)
    best = max(guesses.values(), key=lambda guess: guess[0], default=(0.0, ""))
    if best[0] >= LEAST_FIT:
        near = [guess for guess in guesses.values() if guess[0] >= max(LEAST_FIT, best[0] - NEAR_FIT)]
        return [encoding for _, encoding in sorted(near, key=lambda guess: -guess[0])][:MAX_GUESSES]
    from charset_normalizer import from_bytes

    return [match.encoding for match in from_bytes(sample) if _decodes(data, match.encoding)][:1]


def _start_of_sample(data: bytes, at: int) -> int:
    """The start of the line that holds `at`, or of a word not far before it."""
    far = max(0, at - SAMPLED_BYTES // 2)
    return (data.rfind(b"\n", far, at) + 1) or (data.find(b" ", far, at) + 1 if far else 0) or far


def _decoded(data: bytes, encoding: str) -> str:
    return codecs.getincrementaldecoder(encoding)("replace").decode(data)  # the last character may be cut


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        return bool(codecs.getincrementaldecoder(encoding)().decode(data))
    except UnicodeError:
        return False


def meant_by(name: str) -> str:
    """Return the encoding that a page or a mail means by the one it names: cp1252 by ISO 8859-1 and ASCII, as browsers
    read them."""
    return "cp1252" if name.lower() in _LATIN_1 else name


_LATIN_1 = ("iso-8859-1", "iso8859-1", "iso_8859-1", "latin-1", "latin1", "us-ascii", "ascii")


def is_utf16(encoding: str) -> bool:
    """Return whether an encoding is one of two bytes a character."""
    return codecs.lookup(encoding).name.startswith("utf-16")


def is_text_by_chance(data: bytes, text: str, *, least: int = FEWEST_BYTES) -> bool:
    """Return whether `data`, read as UTF-16 as `text`, is ASCII or UTF-8 in truth, maybe with NULs in it.

    Then two letters, or a letter and a NUL, each make a rare character, or what is not ASCII is UTF-8 throughout.
    `least` of them are needed to say so, or one where most are no characters at all.
    """
    data = data[: 2 * GUESSED_CHARACTERS]
    if sum(byte > 127 for byte in data) >= least and _decodes(data, "utf-8"):
        return True
    odd = [ord(character) for character in text[:GUESSED_CHARACTERS] if not character.isascii()]
    paired = sum(code >> 8 in PAIRED and (code & 255 in ASCII_TEXT or not code & 255) for code in odd)
    unassigned = sum(unicodedata.category(chr(code)) in ("Cn", "Co") for code in odd)
    return paired > MOST * len(odd) and (len(odd) >= least or unassigned > len(odd) / 2)


def is_utf8(data: bytes) -> bool:
    """Return whether bytes are UTF-8, with so many that are not ASCII that it is no chance."""
    return sum(byte > 127 for byte in data[:GUESSED_BYTES]) >= FEWEST_BYTES and _decodes(data, "utf-8")


def follows_utf8(data: bytes, at: int) -> bool:
    """Return whether the bytes before `at`, which are UTF-8, hold so many that are not ASCII that it is no chance."""
    return sum(byte > 127 for byte in data[:at]) >= FEWEST_BYTES


def has_utf8_lines(data: bytes) -> bool:
    """Return whether some lines of bytes that are not UTF-8 are, with twice as many bytes that are not ASCII as make
    that no chance: there may be many lines."""
    return any(sum(byte > 127 for byte in line) >= 2 * FEWEST_BYTES and is_utf8(line) for line in data.split(b"\n"))


def has_halves(data: bytes) -> bool:
    """Return whether bytes are UTF-8 but for halves of characters (surrogates), which some programs write for those
    beyond U+FFFF."""
    try:
        text = codecs.getincrementaldecoder("utf-8")("surrogatepass").decode(data)
    except UnicodeError:
        return False
    return any("\ud800" <= character <= "\udfff" for character in text)


def escaped_encoding(data: bytes) -> str | None:
    """Return the encoding of seven bits that bytes switch to by an escape, as old mails from Japan and Korea do."""
    if b"\x1b$" not in data:
        return None
    return next((encoding for escape, encoding in _ESCAPES if escape in data), None)


_ESCAPES = ((b"\x1b$B", "iso2022_jp"), (b"\x1b$@", "iso2022_jp"), (b"\x1b$)C", "iso2022_kr"))


def is_separated_by_nuls(data: bytes) -> bool:
    """Return whether what stands between the NULs of some bytes is text in UTF-8."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data[:GUESSED_BYTES].replace(b"\0", b"\n"))
    return bool(text.strip()) and all(character.isprintable() or character.isspace() for character in text)


def reads_wide(data: bytes, encoding: str) -> bool:
    """Return whether the bytes are text in this encoding of two or four bytes a character: no NUL, hardly another
    control character, and no pairs of ASCII letters."""
    text = data.decode(encoding, errors="replace")
    odd = sum(character == "\ufffd" or (character < " " and character not in "\t\n\r\f\x1b") for character in text)
    return "\0" not in text and odd <= len(text) // 100 and not is_text_by_chance(data, text, least=1)


def _share_of_ascii(data: bytes, encoding: str) -> float:
    text = data.decode(encoding, errors="replace")
    return sum(map(str.isascii, text)) / max(len(text), 1)
