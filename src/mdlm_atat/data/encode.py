"""Encode pieces of text as token ids, in parallel and in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from mdlm_atat.data.sources import PIECE_CHARACTERS, Piece
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.provenance import num_cores

MAX_WORKERS = 16  # a worker holds about 20 MB


class Chunk(NamedTuple):
    """Pieces of one split and their ids."""

    ids: list[np.ndarray]
    ends_document: list[bool]
    words: int
    characters: int
    bytes: int


def encoded(
    stream: Iterable[tuple[str, Piece]], tokenizer: Tokenizer, num_workers: int | None
) -> Iterator[tuple[str, Chunk]]:
    """Encode a stream of (split, piece) on `num_workers` threads; yield (split, chunk) in the order of the stream.

    None takes one thread a core, at most 16. At most two chunks a thread are in flight, so that memory stays bounded.
    Threads are enough: the tokenizers library runs without the GIL, and there is nothing to start. Raises UserError for
    fewer than one thread, and for a text that the tokenizer cannot encode.
    """
    num_workers = num_workers or min(num_cores(), MAX_WORKERS)
    if num_workers < 1:
        raise UserError(f"num_workers is {num_workers}, expected at least 1")
    waiting: deque[tuple[str, Future[Chunk]]] = deque()
    with _serial_tokenizers(), ThreadPoolExecutor(num_workers) as pool:
        try:
            for name, batch in _batches(stream):
                waiting.append((name, pool.submit(_encode, batch, tokenizer)))
                if len(waiting) >= 2 * num_workers:
                    name, future = waiting.popleft()
                    yield name, future.result()
            while waiting:
                name, future = waiting.popleft()
                yield name, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _batches(stream: Iterable[tuple[str, Piece]]) -> Iterator[tuple[str, list[Piece]]]:
    batches: dict[str, list[Piece]] = {}
    sizes: dict[str, int] = {}
    for name, piece in stream:
        batches.setdefault(name, []).append(piece)
        sizes[name] = sizes.get(name, 0) + len(piece.text) + 100  # very short documents have a price too
        if sizes[name] >= PIECE_CHARACTERS:
            yield name, batches.pop(name)
            del sizes[name]
    yield from batches.items()


def _encode(batch: list[Piece], tokenizer: Tokenizer) -> Chunk:
    texts = [piece.text for piece in batch]
    return Chunk(
        ids=tokenizer.encode_batch(texts),
        ends_document=[piece.ends_document for piece in batch],
        words=sum(len(text.split()) for text in texts),
        characters=sum(map(len, texts)),
        bytes=sum(len(text.encode()) for text in texts),
    )


@contextmanager
def _serial_tokenizers() -> Iterator[None]:
    """Each call of the tokenizers library in its own thread: as many cores as there are workers, no more."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
