"""A document as pieces: a long one is cut where tokenizers give the same ids as for the whole, in constant memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from mdlm_atat.data.answers import LONGEST_MARKED, Marked, Spans
from mdlm_atat.data.detokenizers import detokenizer, whole_documents

EMPTY_DOCUMENTS, DETOKENIZED = "empty documents", "characters by which detokenized documents are shorter"
PIECE_CHARACTERS = 1 << 18  # a tokenized piece takes about 100 bytes a token, so 10 MB a worker
MOST_PIECES = 4  # that wait for a place to cut at


class Piece(NamedTuple):
    """A document or, where it is long, a part of one; the parts of a document follow each other."""

    text: str
    ends_document: bool
    answers: Spans = ()
    """Of a whole document."""


def counted_pieces(document: Iterable[str], left_out: Counter[str]) -> Iterator[Piece]:
    """The pieces of a document, which is counted as left out where it is empty."""
    is_empty = True
    for piece in pieces(document):
        is_empty = False
        yield piece
    if is_empty:
        left_out[EMPTY_DOCUMENTS] += 1


def pieces(chunks: Iterable[str]) -> Iterator[Piece]:
    """Yield one document, given in chunks of any size, as pieces of about 256 Ki characters.

    A cut goes before the space that starts a word, or after a single line end: tokenizers that split at spaces
    (GPT-2's and BERT's among them) then give the same ids as for the whole. Only a text that has no such place for
    4 pieces is cut anywhere, after 2 pieces. Where the cuts are does not depend on the chunks. A text whose answers are
    known is one piece.
    """
    chunks = iter(chunks)
    first = next(chunks, "")
    if isinstance(first, Marked) and 0 < len(first) <= LONGEST_MARKED:  # a row, which is held as a whole anyway
        yield Piece(str(first), ends_document=True, answers=first.answers)
        return
    chunks = chain([first], chunks)
    waiting, searched = "", 1  # no cut goes before `searched`
    for part in (chunk[i : i + PIECE_CHARACTERS] for chunk in chunks for i in range(0, len(chunk), PIECE_CHARACTERS)):
        waiting += part
        while len(waiting) > PIECE_CHARACTERS:
            cut = _last_cut(waiting, searched)
            if cut is None:
                searched = min(
                    len(waiting) - 1, MOST_PIECES * PIECE_CHARACTERS
                )  # of the last place it is not known what follows
                if len(waiting) <= MOST_PIECES * PIECE_CHARACTERS:
                    break
            at = cut or MOST_PIECES // 2 * PIECE_CHARACTERS
            yield Piece(waiting[:at], ends_document=False)
            waiting, searched = waiting[at:], 1 if cut else searched - at
    if waiting:
        yield Piece(waiting, ends_document=True)


def detokenized(parts: Iterator[Piece], name: str | None, left_out: Counter[str] | None = None) -> Iterator[Piece]:
    """The parts as they are, or their documents detokenized; `left_out` counts by how much those are shorter."""
    if name is None:
        yield from parts
        return
    detokenize, left_out = detokenizer(name), Counter() if left_out is None else left_out
    for before in whole_documents(parts):
        text = detokenize(before)
        left_out[DETOKENIZED] += len(before) - len(text)
        yield from pieces([text])


def _last_cut(text: str, start: int) -> int | None:
    """The last place for a cut in the first piece, else the first one after it; None where there is none from `start`
    on."""
    for first in (max(start, PIECE_CHARACTERS - 4096), start):
        places = [match.start() for match in _CUT.finditer(text, first, PIECE_CHARACTERS)]
        if places:
            return places[-1]
    after = _CUT.search(text, max(start, PIECE_CHARACTERS - 2), MOST_PIECES * PIECE_CHARACTERS + 1)
    return after.start() if after else None


_CUT = re.compile(r"(?= \S)|(?<=\S\n)(?=\S)")
