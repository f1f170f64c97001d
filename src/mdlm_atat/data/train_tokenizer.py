"""A tokenizer trained on a source, saved as a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mdlm_atat.data.plugged import allow_named
from mdlm_atat.data.progress import Progress, reporting
from mdlm_atat.data.request import DataRequest
from mdlm_atat.data.sources import SourceLike
from mdlm_atat.data.tokenizers import HFTokenizer, save_tokenizer, train_bpe
from mdlm_atat.errors import UserError


def train_tokenizer(
    source: SourceLike,
    *,
    vocab_size: int,
    out: str | os.PathLike[str],
    split: str = "train",
    column: str = "text",
    progress: bool | Progress = True,
) -> HFTokenizer:
    """Train a byte-level BPE of at most `vocab_size` tokens on a text and save it in the folder `out`.

    `source`, `split` and `column` are as for `prepare`, which takes the folder as its `tokenizer`. A small text may
    give fewer tokens than asked for. Raises UserError for an `out` that is not empty, a `vocab_size` below 258, and a
    source that is not there, cannot be read or is empty.
    """
    folder = Path(out).expanduser()
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: choose another `out=`, or delete it first")
    request = DataRequest(source=source, split=split, column=column)
    allow_named("source", request.source)
    opened = request.open()
    progress = reporting(progress)

    def texts() -> Iterator[str]:
        num_characters = 0
        for piece in opened:
            num_characters += len(piece.text)
            progress.update("counting words", num_characters, 0)
            yield piece.text
        progress.update("merging", num_characters, 0)

    try:
        tokenizer = train_bpe(texts(), vocab_size, name=folder.resolve().name)
    finally:
        progress.done()
    save_tokenizer(tokenizer, folder)
    return tokenizer
