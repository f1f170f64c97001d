"""Validation text that is cut from its source: documents chosen by hash or, of few, the end of the text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from mdlm_atat.data.pieces import Piece
from mdlm_atat.data.progress import Progress
from mdlm_atat.data.sources import Texts

MIN_DOCUMENTS_TO_HASH = 20
"""Below, a single document is too large a share: the end of the text is held out instead."""
SURVEYED_DOCUMENTS = 1000
"""Up to here the held-out documents are those of the smallest hashes, so that there is at least one."""
REACH = 1 << 12
"""Characters by which the end of a text may always be longer or shorter than was asked for, to begin with a line."""
BY_HASH = "documents by hash"

Stream = Callable[[], Iterator[tuple[str, Piece]]]
"""Pieces with the split that each goes to, as often as asked for."""


def hold_out(
    source: Texts, fraction: float, progress: Progress, *, whole: bool = False
) -> tuple[Stream, dict[str, Any]]:
    """Hold out about `fraction` of a source: return its pieces as the splits valid and train, and the rule in words.

    Of 20 documents and more those with the smallest hashes of their text are held out, wherever they stand; of fewer,
    the end of the text, or with `whole` documents too, at least one.
    """
    hashes, num_characters = _survey(source, progress)
    if len(hashes) < MIN_DOCUMENTS_TO_HASH and not whole:
        place = int(num_characters * (1 - fraction))
        reach = max(num_characters - place, REACH)
        return lambda: _cut_at(place, reach, source), {"rule": "the end of the text", "fraction": fraction}
    few = 0 < len(hashes) < SURVEYED_DOCUMENTS
    cutoff = sorted(hashes)[max(1, round(fraction * len(hashes))) - 1] if few else int(fraction * 2**64)
    return lambda: _cut_by_hash(cutoff, source), {"rule": BY_HASH, "fraction": fraction}


def _survey(source: Texts, progress: Progress) -> tuple[list[int], int]:
    """Hashes of the first 1000 documents; where there are fewer, the characters of all."""
    hashes: list[int] = []
    num_characters, starts = 0, True
    for piece in source:
        if starts:
            hashes.append(_document_hash(piece))
        starts = piece.ends_document
        num_characters += len(piece.text)
        progress.update("reading", num_characters, 0)
        if len(hashes) >= SURVEYED_DOCUMENTS:
            break
    return hashes, num_characters


def _document_hash(first: Piece) -> int:
    """64 bits of the document's text; of its first piece where it is long, to know them when writing starts."""
    return int.from_bytes(hashlib.sha256(first.text.encode()).digest()[:8], "little")


def _cut_by_hash(cutoff: int, source: Texts) -> Iterator[tuple[str, Piece]]:
    name, starts = "train", True
    for piece in source:
        if starts:
            name = "valid" if _document_hash(piece) <= cutoff else "train"
        starts = piece.ends_document
        yield name, piece


def _cut_at(place: int, reach: int, source: Texts) -> Iterator[tuple[str, Piece]]:
    """Train up to `place`, moved by at most `reach` characters to where a line or a word begins."""
    name, seen = "train", 0
    for piece in source:
        text = piece.text
        if name == "train" and seen + len(text) > place:
            name = "valid"
            if at := _near(text, place - seen, reach, is_first=not seen):
                yield "train", Piece(text[:at], ends_document=True)
            piece = Piece(text[at:], piece.ends_document)
        seen += len(text)
        yield name, piece


def _near(text: str, place: int, reach: int, *, is_first: bool) -> int:
    """Where the next line begins, else this one, else the text itself, unless it is the first, else the space before
    the word, if not farther than `reach`; else the place itself."""
    line, this_line = text.find("\n", place) + 1, text.rfind("\n", 0, place) + 1
    starts = [*(at for at in (line, this_line) if 0 < at < len(text)), *([] if is_first else [0])]
    starts += [at for at in [text.rfind(" ", 0, place)] if at > 0]
    return next((at for at in starts if abs(at - place) <= reach), place)
