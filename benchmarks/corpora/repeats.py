"""Copies and near-copies of documents, by the lines that they share.

A document is the set of its windows: three lines that follow each other, without lines of fewer than four characters
and without indentation. A copy with other names in some lines, another header or a passage more shares most of them. A
document is a near-copy of those before it if half of its windows stand in them.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

LINES = 3
COPIED = 0.5
"""Share of a document's windows from which it is a near-copy of what is kept already."""
HELD_OUT = 0.25
"""Share of a held-out document's windows from which a training document that has them is left out."""


def windows(text: str) -> list[int]:
    """Return the hash of every window of a text, of all its lines if it has fewer than three.

    They are Python's hashes of 64 bits, which differ from process to process; what is found by them does not, but for
    two different windows with the same one (12 million windows: 4 in a million such pairs).
    """
    lines = [line for each in text.split("\n") if len(line := each.strip()) > 3]
    if len(lines) < LINES:
        return [hash(tuple(lines))]
    return [hash(window) for window in zip(*(lines[start:] for start in range(LINES)), strict=False)]


class _HeldOut(NamedTuple):
    of: int
    """Windows of the document that no held-out document before it has."""
    met: set[int]
    """Those that stand in training text too."""


class Repeats:
    """Says of each document whether it repeats one before it; held-out documents come first."""

    def __init__(self) -> None:
        self._kept: set[int] = set()
        self._held_out: dict[int, int] = {}
        self._documents: list[_HeldOut] = []

    def hold_out(self, text: str) -> str:
        """Why a document is not to be held out; nothing where it is."""
        found = windows(text)
        if sum(each in self._held_out for each in found) >= COPIED * len(found):
            return "near-copy of held-out text"
        own = {each for each in found if each not in self._held_out}
        self._held_out |= dict.fromkeys(own, len(self._documents))
        self._documents.append(_HeldOut(len(own), set()))
        return ""

    def keep(self, text: str) -> str:
        """Why a document is not to be trained on; nothing where it is."""
        found = windows(text)
        if len(distinct := set(found)) < COPIED * len(found):
            return "repeats itself"
        if sum(each in self._kept for each in found) >= COPIED * len(found):
            return "near-copy of text before it"
        met = [each for each in distinct if each in self._held_out]
        by_document = Counter(self._held_out[each] for each in met)
        if len(met) >= HELD_OUT * len(distinct) or any(
            number >= max(2, HELD_OUT * self._documents[which].of) for which, number in by_document.items()
        ):
            return "near-copy of held-out text"
        self._kept |= distinct
        for each in met:
            self._documents[self._held_out[each]].met.add(each)
        return ""

    def covered(self) -> list[float]:
        """Return the share of each held-out document's windows that stand in training text, in pieces, in the order in
        which they were held out."""
        return [len(document.met) / document.of for document in self._documents]
