"""What a tokenizer loses of a text: decode(encode(text)) compared with the text, character by character.

Both are folded (compatibility decomposition, no case, no combining marks, no white space) and aligned from left to
right. Where they part, the nearest place is looked for at which both go on with the same few characters, in windows
that grow fourfold, so that the work stays in proportion to the text. Between two such places, short stretches are
aligned by difflib, and in longer ones nothing counts as given back unless the rest is what is left when characters are
dropped: there the count is an upper bound.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from functools import lru_cache

import numpy as np

from mdlm_atat.formats import percent

MOST_LOST = 0.01
"""Share of a text's characters above which a preparation asks whether the loss is meant."""
UNKNOWN = "\uffff"  # stands for the unknown token in what was decoded: no character
LARGEST = 1 << 16  # characters of a window; what has nothing in common over so many is passed over
_one_at_a_time = threading.Lock()  # a long piece takes 60 MB; it is mostly Python's work, so that threads gain nothing
SHORT = 32  # characters of a stretch that is aligned by difflib, which takes their product
_SAME = {16: 3, 64: 4, 256: 6}  # characters that have to agree where two texts go on together, by window; else 8


@dataclass(frozen=True)
class Changes:
    """Characters of a text that a tokenizer does not give back, each counted once, by what becomes of it."""

    case: int = 0
    """Given back in the other case."""
    accents: int = 0
    """Given back without its marks or with others, in the other case too, or a mark that is not given back."""
    unknown: int = 0
    """Dropped, or given back as an unknown token or U+FFFD."""
    white_space: int = 0
    """White space that is dropped, or other than it was, or put in where there was none."""
    other: int = 0
    """Given back as something else, such as a compatible form (a ligature as its letters), or put in where nothing is
    lost: a stretch counts once."""

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def __add__(self, other: Changes) -> Changes:
        return Changes(**{name: count + getattr(other, name) for name, count in vars(self).items()})

    def in_words(self, num_characters: int) -> str:
        """Say which share of so many characters is lost, and how many by kind: `3.1% of the characters (20 case)`."""
        parts = [
            f"{getattr(self, part.name):,} {part.name.replace('_', ' ')}"
            for part in fields(self)
            if getattr(self, part.name)
        ]
        return f"{percent(self.total / max(1, num_characters))} of the characters ({', '.join(parts)})"


def compare(text: str, decoded: str, unknown_text: str | None = None) -> Changes:
    """Count what of a text is not given back in `decoded`. `unknown_text`: how the tokenizer writes what it does not
    know, such as [UNK]. Takes memory and, on texts that differ, time in proportion to their length."""
    if text == decoded or not text:
        return Changes()
    if not decoded:
        spaces = sum(map(str.isspace, text))
        return Changes(unknown=len(text) - spaces, white_space=spaces)
    if unknown_text and unknown_text not in text:
        decoded = decoded.replace(unknown_text, UNKNOWN)
    with _one_at_a_time:
        return _compared(text, decoded)


def _compared(text: str, decoded: str) -> Changes:
    mine, theirs = _Folded(text), _Folded(decoded)
    places, others = _aligned(mine.text, theirs.text)
    kinds = _not_matched(mine, theirs, places, others)
    at, back = mine.source[places], theirs.source[others]
    unequal = mine.codes[at] != theirs.codes[back]
    kinds[at[unequal]] = _kinds_of_changes(mine.codes[at[unequal]], theirs.codes[back[unequal]])
    spaces, marks, changed = _between(text, decoded, mine.codes, theirs.codes, at, back)
    counts = np.bincount(kinds, minlength=5)
    found = Changes(
        case=int(counts[1]),
        accents=int(counts[2]) + marks,
        unknown=int(counts[3]),
        white_space=spaces,
        other=int(counts[4]) + _put_in(mine.text, theirs.text, places, others, changed),
    )
    return found if found.total else Changes(other=1)


_CASE, _ACCENTS, _UNKNOWN, _OTHER = 1, 2, 3, 4


class _Folded:
    """A text without case, marks and white space, and which character each of its characters comes from."""

    def __init__(self, text: str) -> None:
        characters = set(text)
        self.text = text.translate({ord(character): _fold(character) for character in characters})
        self.codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")  # (characters,)
        kinds, places = np.unique(self.codes, return_inverse=True)
        lengths = np.array([len(_fold(chr(code))) for code in kinds], np.int64)[places]
        self.source = np.repeat(np.arange(len(text)), lengths)  # (folded characters,)


@lru_cache(maxsize=1 << 16)
def _fold(character: str) -> str:
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(part for part in plain if not part.isspace() and unicodedata.combining(part) == 0)


@lru_cache(maxsize=1 << 12)
def _kind_of_change(character: str, came: str) -> int:
    if came == UNKNOWN:
        return _UNKNOWN
    if character.casefold() == came.casefold():
        return _CASE
    bare, other = (_without_marks(each.casefold()) for each in (character, came))
    return _ACCENTS if bare == other else _OTHER


def _without_marks(text: str) -> str:
    return "".join(part for part in unicodedata.normalize("NFD", text) if not unicodedata.combining(part))


def _kinds_of_changes(codes: np.ndarray, came: np.ndarray) -> np.ndarray:
    """The kind of change of each code point and what it came back as."""
    pairs, places = np.unique(codes.astype(np.int64) << 32 | came, return_inverse=True)
    kinds = [_kind_of_change(chr(pair >> 32), chr(pair & 0xFFFFFFFF)) for pair in pairs.tolist()]
    return np.array(kinds, np.int64)[places]


def _not_matched(mine: _Folded, theirs: _Folded, places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The kind of change of each character: 0, or what became of one that has no counterpart."""
    kinds = np.zeros(len(mine.codes), np.int64)
    lost = np.ones(len(mine.text), bool)
    lost[places] = False
    lost = np.flatnonzero(lost)
    if not len(lost):
        return kinds
    # what stands in their place is between the neighbours that are matched
    before = np.searchsorted(places, lost)
    first = np.concatenate([[-1], others])[before] + 1
    last = np.concatenate([others, [len(theirs.text)]])[before]
    known = np.array([character not in (UNKNOWN, "\ufffd") for character in theirs.text], np.int64)
    num_known = np.concatenate([[0], np.cumsum(known)])
    is_other = num_known[last] - num_known[first] > 0
    kinds[mine.source[lost]] = np.where(is_other, _OTHER, _UNKNOWN)
    return kinds


def _put_in(mine: str, theirs: str, places: np.ndarray, others: np.ndarray, changed: list[int]) -> int:
    """Stretches that are put in between neighbours; but for those in place of white space or marks (between `changed`
    ones), which are counted already."""
    steps, back = np.diff(places, prepend=-1, append=len(mine)), np.diff(others, prepend=-1, append=len(theirs))
    return len(np.setdiff1d(np.flatnonzero((steps == 1) & (back > 1)), changed))


def _between(
    text: str, decoded: str, codes: np.ndarray, came: np.ndarray, at: np.ndarray, back: np.ndarray
) -> tuple[int, int, list[int]]:
    """Changes of white space, and marks that are not given back, between neighbours that are matched; and between which
    of these, by the number of the second one, there are any."""
    starts, ends = np.concatenate([[-1], at]) + 1, np.concatenate([at, [len(text)]])
    others, other_ends = np.concatenate([[-1], back]) + 1, np.concatenate([back, [len(decoded)]])
    looked_at = np.flatnonzero((ends > starts) | (other_ends > others))
    # most are one space that is the same in both: 14 million in a hundred novels
    first, second = starts[looked_at], others[looked_at]
    one = (ends[looked_at] - first == 1) & (other_ends[looked_at] - second == 1)
    same = codes[np.minimum(first, len(codes) - 1)] == came[np.minimum(second, len(came) - 1)]
    looked_at = looked_at[~(one & same)]
    spaces, marks, changed_at = 0, 0, list[int]()
    for index in looked_at.tolist():
        mine, theirs = text[starts[index] : ends[index]], decoded[others[index] : other_ends[index]]
        if mine != theirs:
            changed = _gap(mine, theirs) if len(mine) + len(theirs) < 64 else _gap.__wrapped__(mine, theirs)
            spaces, marks = spaces + changed[0], marks + changed[1]
            if changed != (0, 0):
                changed_at.append(index)
    return spaces, marks, changed_at


@lru_cache(maxsize=1 << 12)
def _gap(mine: str, theirs: str) -> tuple[int, int]:
    white, came = ("".join(part for part in each if part.isspace()) for each in (mine, theirs))
    same = _common(white, came)
    same += _common(white[same:][::-1], came[same:][::-1])
    marks, others = ([part for part in each if unicodedata.combining(part)] for each in (mine, theirs))
    return max(len(white) - same, int(not white and bool(came))), max(0, len(marks) - len(others))


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with together."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


# --- alignment of folded texts


def _aligned(mine: str, theirs: str) -> tuple[np.ndarray, np.ndarray]:
    """Places of characters that are the same in both texts, in order: (matched,) in each."""
    # a letter that only one of them has is lost or put in wherever it stands
    (short, kept), (back, came) = _without(mine, set(mine) - set(theirs)), _without(theirs, set(theirs) - set(mine))
    blocks = list(_blocks(short, back))
    places = [np.arange(i, i + size) for i, _, size in blocks] or [np.zeros(0, np.int64)]
    others = [np.arange(j, j + size) for _, j, size in blocks] or [np.zeros(0, np.int64)]
    return kept[np.concatenate(places)], came[np.concatenate(others)]


def _without(text: str, letters: set[str]) -> tuple[str, np.ndarray]:
    """A text without some letters, and where the others stand in it."""
    if not letters:
        return text, np.arange(len(text))
    kept = np.array([place for place, letter in enumerate(text) if letter not in letters], np.int64)
    return text.translate({ord(letter): None for letter in letters}), kept


def _blocks(mine: str, theirs: str) -> Iterator[tuple[int, int, int]]:
    i = j = 0
    while i < len(mine) and j < len(theirs):
        size = _run(mine, i, theirs, j)
        if size:
            yield i, j, size
        i, j = i + size, j + size
        if i >= len(mine) or j >= len(theirs):
            return
        skipped, passed = _resume(mine, i, theirs, j)
        for x, y, length in _inside(mine[i : i + skipped], theirs[j : j + passed]):
            yield i + x, j + y, length
        i, j = i + skipped, j + passed


def _run(mine: str, i: int, theirs: str, j: int) -> int:
    """How far two texts go on together from i and j."""
    size, step = 0, 64
    while step:
        if mine[i + size : i + size + step] == (part := theirs[j + size : j + size + step]) and len(part) == step:
            size, step = size + step, min(4 * step, 1 << 16)
        elif step == 64:
            return size + _common(mine[i + size : i + size + step], part)
        else:
            step = max(64, step // 4)
    return size


def _resume(mine: str, i: int, theirs: str, j: int) -> tuple[int, int]:
    """The fewest characters to skip in each until both go on with the same few; where they do not, a window or what is
    left."""
    window = 16
    while True:
        same = _SAME.get(window, 8)
        near, far = mine[i : i + window + same], theirs[j : j + window + same]
        found = {far[y : y + same]: y for y in range(len(far) - same, -1, -1)}
        best: tuple[int, int] | None = None
        for x in range(len(near) - same + 1):
            if best is not None and x >= sum(best):
                break
            y = found.get(near[x : x + same])
            if y is not None and (best is None or x + y < sum(best)):
                best = x, y
        if best is not None:
            return best
        if window == LARGEST or (i + window >= len(mine) and j + window >= len(theirs)):
            return min(window, len(mine) - i), min(window, len(theirs) - j)
        window *= 4


def _inside(mine: str, theirs: str) -> Iterator[tuple[int, int, int]]:
    """What two stretches have in common that part at both ends."""
    if not mine or not theirs:
        return
    if max(len(mine), len(theirs)) <= SHORT:
        yield from SequenceMatcher(None, mine, theirs, autojunk=False).get_matching_blocks()[:-1]
        return
    places, start = [], 0
    kept = [(y, character) for y, character in enumerate(theirs) if character != UNKNOWN]
    for y, character in kept:
        start = mine.find(character, start) + 1
        if not start:
            return
        places.append((start - 1, y, 1))
    yield from places
