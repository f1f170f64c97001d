"""Texts with gaps: "The [MASK:5] sat on the [MASK:2]."."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from mdlm_atat.errors import UserError

GAP = re.compile(r"(?<!\\)\[MASK(?::([^\]]*))?\]")
MAX_CHOICES = 64  # of lengths for the gaps of one template


@dataclass(frozen=True)
class Gap:
    """Between `shortest` and `longest` tokens to be filled in."""

    shortest: int
    longest: int


Template = list[str | Gap]


def parse_template(text: str) -> Template:
    r"""Split a template into text and gaps. [MASK] is a gap of one token, [MASK:5] of five, [MASK:3-8] of three to
    eight; \[MASK] is text. Raises UserError for an empty template, one without gaps, and a malformed gap."""
    if not text:
        raise UserError('the template is empty; expected a text with gaps, such as "The [MASK:5] sat on the mat."')
    parts: Template = []
    end = 0
    for match in GAP.finditer(text):
        parts += [text[end : match.start()], _gap(match)]
        end = match.end()
    parts.append(text[end:])
    if len(parts) == 1:
        raise UserError(f"the template has no gap: {shortened(text)!r}; expected [MASK], [MASK:5] or [MASK:3-8] in it")
    return [part.replace("\\[MASK", "[MASK") if isinstance(part, str) else part for part in parts if part != ""]


def _gap(match: re.Match[str]) -> Gap:
    size = match[1]
    numbers = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", "1" if size is None else size)
    if numbers is None:
        raise UserError(f"{match[0]} is not a gap; expected [MASK], [MASK:5] or [MASK:3-8]")
    gap = Gap(int(numbers[1]), int(numbers[2] or numbers[1]))
    if not 1 <= gap.shortest <= gap.longest:
        raise UserError(f"{match[0]} is not a gap: expected at least 1 token, and the smaller number first")
    return gap


def encode_template(parts: Template, encode: Callable[[str], list[int]]) -> list[list[int] | Gap]:
    """The template with its texts as tokens. Where tokens may begin with the space before a word, a space before a gap
    is left out: it becomes part of what fills the gap."""
    joins = space_joins_next(encode)
    encoded: list[list[int] | Gap] = []
    for index, part in enumerate(parts):
        if isinstance(part, Gap):
            encoded.append(part)
            continue
        before_gap = index + 1 < len(parts)
        encoded.append(encode(part.removesuffix(" ") if before_gap and joins else part))
    return encoded


def space_joins_next(encode: Callable[[str], list[int]]) -> bool:
    """Whether a token may begin with the space before a word, as in byte-level BPE."""
    try:
        return encode("a a") != encode("a ") + encode("a")
    except UserError:  # a char tokenizer without these: its tokens are single characters
        return False


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
