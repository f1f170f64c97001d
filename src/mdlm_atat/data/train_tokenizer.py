"""A tokenizer trained on a source, saved as a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Unpack

from mdlm_atat.atomic import nothing_new_left, write_json
from mdlm_atat.data.accounts import account, changed_lines, check_halves, decided_lines, documents_in_words, no_text
from mdlm_atat.data.open_tokenizer import save_tokenizer
from mdlm_atat.data.plugged import allow_named
from mdlm_atat.data.progress import Progress, reporting
from mdlm_atat.data.readers.reading import ReadingSettings
from mdlm_atat.data.request import DataRequest
from mdlm_atat.data.sources import SourceLike, label_of
from mdlm_atat.data.tokenizers import END_OF_TEXT, HFTokenizer, byte_level
from mdlm_atat.errors import UserError
from mdlm_atat.interrupts import interruptible

LEAST_VOCAB_SIZE = 258
"""256 bytes, eos and one merge."""


def train_tokenizer(
    source: SourceLike,
    *,
    vocab_size: int,
    out: str | os.PathLike[str],
    split: str = "train",
    progress: bool | Progress = True,
    **reading: Unpack[ReadingSettings],
) -> HFTokenizer:
    """Train a byte-level BPE of at most `vocab_size` tokens on a text and save it in the folder `out`.

    `source`, `split` and `reading` (`column`, `encoding`, `leave_out`, ...) are as for `prepare`, which takes the
    folder as its `tokenizer`. What names hold out is not read. A small text may give fewer tokens than asked for.
    What was read is said, and kept in accounts.json of the folder. Raises UserError for an `out` that is not empty, a
    `vocab_size` below 258, and a source that is not there, cannot be read or is empty.
    """
    folder = Path(out).expanduser()
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: choose another `out=`, or delete it first")
    request = DataRequest(source=source, split=split, **reading)
    request.warn_of_what_has_no_effect()
    allow_named("source", request.source)
    opened = request.open()
    progress = reporting(progress)
    check_halves(opened)
    for line in decided_lines(opened):
        progress.say(line)
    num_documents = num_characters = 0

    def texts() -> Iterator[str]:
        nonlocal num_documents, num_characters
        for piece in opened:
            num_documents += piece.ends_document
            num_characters += len(piece.text)
            progress.update("counting words", num_characters, 0)
            yield piece.text
        if not num_characters:
            raise no_text(opened, source)
        progress.update("merging", num_characters, 0)

    try:
        tokenizer = train_bpe(texts(), vocab_size, name=folder.resolve().name)
    finally:
        progress.done()
    accounts = account({"source": opened}, None)
    for line in [f"read       {documents_in_words(num_documents, num_characters)}", *changed_lines(accounts)]:
        progress.say(line)
    read = {"source": label_of(source), "documents": num_documents, "characters": num_characters}
    with nothing_new_left(folder):
        save_tokenizer(tokenizer, folder)
        write_json(folder / "accounts.json", {**read, **accounts})
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int, *, name: str = "bpe", show_progress: bool = False) -> HFTokenizer:
    """Train a byte-level BPE with GPT-2's pre-tokenizer on texts; its last id is eos, <|endoftext|>.

    All 256 bytes are in the vocabulary, so that any text round-trips. A small corpus may give fewer than `vocab_size`
    ids. Raises UserError for a `vocab_size` below 258, and where the texts are empty.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import models, trainers

    if vocab_size < LEAST_VOCAB_SIZE:
        raise UserError(
            f"vocab_size is {vocab_size}, expected at least {LEAST_VOCAB_SIZE}: 256 bytes, eos and one merge"
        )
    inner = byte_level(Inner(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=_byte_alphabet(),
        special_tokens=[],
        show_progress=show_progress,
    )
    seen = False

    def watched() -> Iterator[str]:
        nonlocal seen
        for text in texts:
            seen = seen or bool(text)
            yield text

    interruptible(lambda: inner.train_from_iterator(watched(), trainer))
    if not seen:
        raise UserError("the corpus is empty: there is nothing to train a tokenizer on")
    inner.add_special_tokens([END_OF_TEXT])
    return HFTokenizer(inner, name=name, eos_id=inner.token_to_id(END_OF_TEXT))


def _byte_alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())
