"""Validation text that is cut from its source: documents chosen by hash or, of few, the end of the text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from mdlm_atat.data.progress import Progress
from mdlm_atat.data.sources import Piece, Texts

MIN_DOCUMENTS_TO_HASH = 20
"""Below, a single document is too large a share: the end of the text is held out instead."""
SURVEYED_DOCUMENTS = 1000
"""Up to here the held-out documents are those of the smallest hashes, so that there is at least one."""
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
        return lambda: _cut_at(place, source), {"rule": "the end of the text", "fraction": fraction}
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


def _cut_at(place: int, source: Texts) -> Iterator[tuple[str, Piece]]:
    """Train up to `place`, moved to the next line's start in the piece, else the last one's, else the piece's."""
    name, seen = "train", 0
    for piece in source:
        text = piece.text
        if name == "train" and seen + len(text) > place:
            name = "valid"
            at = text.find("\n", place - seen) + 1
            if at in (0, len(text)):
                at = text.rfind("\n", 0, place - seen) + 1 or (0 if seen else place)
            if at:
                yield "train", Piece(text[:at], ends_document=True)
            piece = Piece(text[at:], piece.ends_document)
        seen += len(text)
        yield name, piece
