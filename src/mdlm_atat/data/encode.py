"""Encode pieces of text as token ids, in parallel and in order."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from mdlm_atat.data.answers import answer_rows
from mdlm_atat.data.loss import Changes, compare
from mdlm_atat.data.pieces import PIECE_CHARACTERS, Piece
from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer, HFTokenizer, Tokenizer
from mdlm_atat.environment import environment_variable
from mdlm_atat.errors import UserError
from mdlm_atat.provenance import num_cores

FIRST = 1000  # characters of a batch that a plugin's tokenizer encodes twice
# Thai, Lao, Tibetan, Myanmar, Khmer, kana, bopomofo, Han
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\u3005-\u3007\u3040-\u312f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\ua980-\ua9df\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]+"
)
MAX_WORKERS = 16  # a worker holds about 20 MB


class Chunk(NamedTuple):
    """Pieces of one split and their ids."""

    ids: list[np.ndarray]
    ends_document: list[bool]
    words: int
    characters: int
    bytes: int
    unspaced: int = 0
    """Characters of scripts that put no spaces between words."""
    changes: Changes = Changes()
    """What the tokenizer does not give back."""
    answers: ChunkAnswers | None = None
    """Where `ids` are rows, each an answer with its prompt; None where all of the text is scored."""


class ChunkAnswers(NamedTuple):
    """What of a chunk's rows are answers."""

    prompts: list[int]
    """Tokens at the beginning of each row that are none."""
    words: int
    characters: int
    bytes: int
    unspaced: int
    left_out: Counter[str]
    """See answers.AnswerRows."""


def encoded(
    stream: Iterable[tuple[str, Piece]],
    tokenizer: Tokenizer,
    num_workers: int | None,
    answer_length: int | None = None,
) -> Iterator[tuple[str, Chunk]]:
    """Encode a stream of (split, piece) on `num_workers` threads; yield (split, chunk) in the order of the stream.

    None takes one thread a core, at most 16. At most two chunks a thread are in flight, so that memory stays bounded.
    `answer_length`: make a row of at most so many tokens of each answer (see answers.py); None: encode all of the text.
    Threads are enough: the tokenizers library runs without the GIL, and there is nothing to start. Raises UserError for
    fewer than one thread, and for a text that the tokenizer cannot encode.
    """
    num_workers = num_workers or min(num_cores(), MAX_WORKERS)
    if num_workers < 1:
        raise UserError(f"num_workers is {num_workers}, expected at least 1")
    unknown_text = tokenizer.unknown_text if isinstance(tokenizer, HFTokenizer) else None
    waiting: deque[tuple[str, Future[Chunk]]] = deque()
    # each call of the tokenizers library in its own thread: as many cores as there are workers, no more
    with environment_variable("TOKENIZERS_PARALLELISM", "false"), ThreadPoolExecutor(num_workers) as pool:
        try:
            for name, batch in _batches(stream):
                waiting.append((name, pool.submit(_encode, batch, tokenizer, unknown_text, answer_length)))
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


def _encode(batch: list[Piece], tokenizer: Tokenizer, unknown_text: str | None, answer_length: int | None) -> Chunk:
    texts = [piece.text for piece in batch]
    if answer_length is not None:
        rows = answer_rows([(piece.text, piece.answers) for piece in batch], tokenizer, answer_length)
        whole, encoded = [text for text, _ in rows.whole], [ids for _, ids in rows.whole]
        return Chunk(
            rows.ids,
            rows.ends_document,
            *_sizes(texts),
            changes=_lost(whole, encoded, tokenizer, unknown_text),
            answers=ChunkAnswers(rows.prompts, *_sizes(rows.answers), rows.left_out),
        )
    ids = tokenizer.encode_batch(texts)
    ends = [piece.ends_document for piece in batch]
    return Chunk(ids, ends, *_sizes(texts), changes=_lost(texts, ids, tokenizer, unknown_text))


def _sizes(texts: list[str]) -> tuple[int, int, int, int]:
    """Words, characters, bytes and characters of scripts without spaces."""
    return (
        sum(len(text.split()) for text in texts),
        sum(map(len, texts)),
        sum(len(text.encode()) for text in texts),
        sum(sum(map(len, UNSPACED.findall(text))) for text in texts if not text.isascii()),
    )


def lost_in(text: str, tokenizer: Tokenizer) -> Changes:
    """Count what of one text its tokens do not give back."""
    unknown_text = tokenizer.unknown_text if isinstance(tokenizer, HFTokenizer) else None
    return _lost([text], tokenizer.encode_batch([text]), tokenizer, unknown_text)


def _lost(texts: list[str], ids: list[np.ndarray], tokenizer: Tokenizer, unknown_text: str | None) -> Changes:
    match tokenizer:
        case CharTokenizer() | ByteTokenizer():
            return Changes()  # which give back all that they encode
        case HFTokenizer():
            decoded = tokenizer.decode_batch(ids)
        case _:
            decoded = [tokenizer.decode(each) for each in ids]
            if texts:
                _check_draws_nothing(texts[0][:FIRST], tokenizer)
    return sum((compare(text, back, unknown_text) for text, back in zip(texts, decoded, strict=True)), Changes())


def _check_draws_nothing(text: str, tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode_batch([text, text])
    if not np.array_equal(first, second):
        raise UserError(
            f"the tokenizer {tokenizer.name} gives one text other ids the second time: a corpus that is prepared once "
            "and read many times needs one that draws nothing at random"
        )
