"""Texts with gaps: "The [MASK:5] sat on the [MASK:2]."."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from mdlm_atat.errors import UserError

GAP = re.compile(r"\[MASK(?::(?P<size>[^\]]*))?\]")
_NEARLY = re.compile(r"\[\s*mask\b[^\[\]\n]{0,9}(?:\]|$|(?=[\[\s]))|<mask(?::\d+)?>", re.IGNORECASE)
ESCAPE = re.compile(r"\\(?:u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8})|(?P<letter>.?))", re.DOTALL)
ESCAPE_OR_GAP = re.compile(f"{ESCAPE.pattern}|{GAP.pattern}", re.DOTALL)
ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "[": "["}
MAX_CHOICES = 64  # of lengths for the gaps of one template
MAX_DRAWS = 1024
"""For each choice of lengths, by default."""
QUICK_DRAWS = 8
"""The same where an answer is waited for: a rough choice, which takes seconds on a laptop."""


@dataclass(frozen=True)
class Gap:
    """Between `shortest` and `longest` tokens to be filled in."""

    shortest: int
    longest: int


Template = Sequence[str | Gap]
"""Texts, none of them empty, and gaps in turn."""


def parse_template(text: str, *, escape: bool = False) -> Template:
    r"""Split a template into text and gaps. [MASK] is a gap of one token, [MASK:5] of five, [MASK:3-8] of three to
    eight; all else is text as it stands, backslashes too. With `escape` backslashes are escapes, as `unescaped` reads
    them, and \[MASK] is text. Raises UserError for an empty template, one without gaps, a malformed gap or escape."""
    if not text:
        raise UserError('the template is empty; expected a text with gaps, such as "The [MASK:5] sat on the mat."')
    parts: list[str | Gap] = []
    given, end = "", 0
    for match in (ESCAPE_OR_GAP if escape else GAP).finditer(text):
        given += text[end : match.start()]
        end = match.end()
        if match[0].startswith("["):
            parts += [given, _gap(match)]
            given = ""
        else:
            given += _character(match)
    if not parts:
        nearly = f"{nearly_gaps(text)[0]} is none; " if nearly_gaps(text) else ""
        raise UserError(
            f"the template has no gap: {shortened(text)!r}; {nearly}expected [MASK], [MASK:5] or [MASK:3-8] in it"
        )
    return [part for part in [*parts, given + text[end:]] if part != ""]


def nearly_gaps(text: str) -> list[str]:
    """Return what looks like a gap in a text and is none: [mask], [MASK 3], <mask>, or [MASK that is not closed."""
    return [nearly[0] for nearly in _NEARLY.finditer(text) if not GAP.fullmatch(nearly[0])]


def has_gap(text: str, *, escape: bool = False) -> bool:
    """Whether a text is a template: it has a gap, or what is meant to be one."""
    return any(match[0].startswith("[") for match in (ESCAPE_OR_GAP if escape else GAP).finditer(text))


def unescaped(text: str) -> str:
    r"""The text with its escapes read: \n, \t, \r, \\ and \[, \uXXXX and \UXXXXXXXX. Raises UserError for any other."""
    return ESCAPE.sub(_character, text)


def escaped(text: str) -> str:
    """The text so that `parse_template(..., escape=True)` reads it as it is, with no gap in it."""
    return text.replace("\\", "\\\\").replace("[MASK", "\\[MASK")


def _character(match: re.Match[str]) -> str:
    code = match["short"] or match["long"]
    if code is None and match["letter"] in ESCAPED:
        return ESCAPED[match["letter"]]
    number = None if code is None else int(code, 16)
    if number is None or number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:  # no letter of ours, or half of a character
        raise UserError(
            f"{match[0]} is no escape; expected \\n, \\t, \\r, \\[, \\uXXXX or \\UXXXXXXXX (a character), or \\\\ for "
            "a backslash"
        )
    return chr(number)


def _gap(match: re.Match[str]) -> Gap:
    size = match["size"]
    numbers = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", "1" if size is None else size)
    if numbers is None:
        raise UserError(f"{match[0]} is not a gap; expected [MASK], [MASK:5] or [MASK:3-8]")
    gap = Gap(int(numbers[1]), int(numbers[2] or numbers[1]))
    if not 1 <= gap.shortest <= gap.longest:
        raise UserError(f"{match[0]} is not a gap: expected at least 1 token, and the smaller number first")
    return gap


def length_choices(encoded: Sequence[list[int] | Gap]) -> list[tuple[int, ...]]:
    """Every combination of lengths that the gaps can have. Raises UserError for more than MAX_CHOICES."""
    gaps = [part for part in encoded if isinstance(part, Gap)]
    number = 1
    for gap in gaps:
        number *= gap.longest - gap.shortest + 1
    if number > MAX_CHOICES:
        raise UserError(
            f"the template's gaps can be {number:,} combinations of lengths; at most {MAX_CHOICES} are compared: give "
            "narrower ranges, or fewer of them"
        )
    return list(product(*(range(gap.shortest, gap.longest + 1) for gap in gaps)))


def lay_out(encoded: Sequence[list[int] | Gap], lengths: Sequence[int], mask_id: int) -> tuple[list[int], list[slice]]:
    """The tokens of a template whose gaps have these lengths, [MASK] in the gaps, and the slice of each gap."""
    tokens: list[int] = []
    gaps: list[slice] = []
    sizes = iter(lengths)
    for part in encoded:
        if isinstance(part, Gap):
            gaps.append(slice(len(tokens), len(tokens) + next(sizes)))
            tokens += [mask_id] * (gaps[-1].stop - gaps[-1].start)
        else:
            tokens += part
    return tokens, gaps


def shortened(text: str, length: int = 40) -> str:
    """The text cut to `length` characters, for messages."""
    return text if len(text) <= length else text[: length - 3] + "..."
