"""A corpus as a folder of memory-mapped tokens: written aside, checked, then renamed into place.

    train.bin, valid.bin    the tokens of a split, flat little-endian integers, as small as the vocabulary allows
    train.idx, valid.idx    pad mode: where each row starts in the .bin, and its end, little-endian 64-bit
    counts.npy              how often each token occurs in train
    tokenizer/              what `load_tokenizer` needs
    manifest.json           see manifest.py; written last

Wrap: every document is followed by eos, except that a split of a single document has none.
Pad: every document is followed by eos; one that is longer than a row goes on in further rows.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mdlm_atat.atomic import sync
from mdlm_atat.data.encode import encoded
from mdlm_atat.data.held_out import Stream, hold_out
from mdlm_atat.data.manifest import (
    FILE_NAME,
    FORMAT,
    Manifest,
    Split,
    is_prepared,
    manifest_json,
    read_manifest,
)
from mdlm_atat.data.progress import Progress, Silent
from mdlm_atat.data.sources import HubSet, Piece, Source, open_source
from mdlm_atat.data.split_writer import SplitWriter, token_dtype
from mdlm_atat.data.tokenizers import CharTokenizer, Tokenizer, load_tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.locks import waiting_lock


def prepare(
    source: str,
    tokenizer: str | Tokenizer,
    out: str | Path,
    *,
    mode: Literal["wrap", "pad"] = "wrap",
    length: int | None = None,
    validation: str | None = None,
    validation_fraction: float = 0.05,
    split: str = "train",
    column: str = "text",
    documents: Literal["file", "line"] = "file",
    whole: bool = False,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Tokenize a source into the folder `out` and return it; an `out` of the same request is reused.

    Validation is, in this order: `validation`; what comes with the source (valid.* in a folder, a hub split, the two
    held-out plays); documents chosen by a hash of their text; of fewer than 20 documents, the end of the text.
    `whole` makes one split, valid, for scoring: a hub set's `split`, the validation that comes with another
    source, else all of it.
    """
    request = _Request(
        source=source,
        tokenizer=tokenizer,
        mode=mode,
        length=length,
        validation=validation,
        validation_fraction=validation_fraction,
        split=split,
        column=column,
        documents=documents,
        whole=whole,
    )
    return _prepare(request, Path(out), num_workers, progress or Silent())


def ensure_prepared(
    source: str,
    tokenizer: str | Tokenizer | None,
    *,
    mode: Literal["wrap", "pad"] | None = "wrap",
    length: int | None = None,
    validation: str | None = None,
    validation_fraction: float = 0.05,
    split: str = "train",
    column: str = "text",
    documents: Literal["file", "line"] = "file",
    whole: bool = False,
    detokenize: str | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
    cache: str | Path | None = None,
) -> Path:
    """The prepared folder of a request: `source` itself if it is one, else one in the cache, made if it is missing.

    A prepared `source` has to agree with `tokenizer`, `mode` and, in pad mode, `length`; None agrees with all.
    The cache is `cache`, else $ATAT_CACHE, else ~/.cache/mdlm-atat.
    """
    folder = Path(source).expanduser()
    if folder.is_dir() and is_prepared(folder):
        _check_agrees(folder, read_manifest(folder), tokenizer, mode, length)
        return folder
    request = _Request(
        source=source,
        tokenizer="char" if tokenizer is None else tokenizer,
        mode=mode or "wrap",
        length=length,
        validation=validation,
        validation_fraction=validation_fraction,
        split=split,
        column=column,
        documents=documents,
        whole=whole,
        detokenize=detokenize,
    )
    root = Path(cache or os.environ.get("ATAT_CACHE") or "~/.cache/mdlm-atat").expanduser()
    out = root / "data" / request.fingerprint()[:16]
    return _prepare(request, out, num_workers, progress or Silent())


@dataclass(frozen=True, kw_only=True)
class _Request:
    source: str
    tokenizer: str | Tokenizer
    mode: Literal["wrap", "pad"]
    length: int | None
    validation: str | None
    validation_fraction: float
    split: str
    column: str
    documents: Literal["file", "line"]
    whole: bool
    detokenize: str | None = None

    def __post_init__(self) -> None:
        if self.mode == "pad" and (self.length is None or self.length < 2):
            raise UserError("pad mode needs --length, the tokens of a row, at least 2")
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"validation_fraction is {self.validation_fraction}, expected between 0 and 1, e.g. 0.05")

    @property
    def row_length(self) -> int | None:
        """pad: tokens in the longest row. wrap: None."""
        return self.length if self.mode == "pad" else None

    def open(self) -> Source:
        return open_source(
            self.source,
            split=self.split,
            column=self.column,
            documents=self.documents,
            detokenize=self.detokenize,
        )

    def open_validation(self, source: Source) -> Source | None:
        """The held-out text that was named; None where there is none."""
        if self.validation is None:
            return None
        if isinstance(source, HubSet) and not Path(self.validation).exists() and ":" not in self.validation:
            return source.with_split(self.validation)
        return open_source(self.validation, column=self.column, documents=self.documents)

    def fingerprint(self) -> str:
        source = self.open()
        validation = self.open_validation(source)
        named = isinstance(self.tokenizer, str) and not Path(self.tokenizer).expanduser().is_dir()
        request = {
            "format": FORMAT,
            "source": source.identity(),
            "validation": validation.identity() if validation else None,
            "fraction": self.validation_fraction,
            "tokenizer": self.tokenizer if named else self.load_tokenizer().fingerprint(),
            "mode": self.mode,
            "length": self.row_length,
            "whole": self.whole,
        }
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def load_tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.tokenizer) if isinstance(self.tokenizer, str) else self.tokenizer


def _prepare(request: _Request, out: Path, num_workers: int | None, progress: Progress) -> Path:
    out = out.expanduser().resolve()
    fingerprint = request.fingerprint()
    if _is_done(out, fingerprint):
        progress.say(f"{out} holds the same text already prepared: used as it is")
        return out
    with _claimed(out, progress) as partial:
        if not _is_done(out, fingerprint):  # another process may have just made it
            try:
                _write(request, fingerprint, partial, num_workers, progress)
            finally:
                progress.done()
            _sync_folder(partial)
            partial.rename(out)
            sync(out.parent)
    return out


def _is_done(out: Path, fingerprint: str) -> bool:
    if out.is_file():
        raise UserError(f"{out} is a file; --out is a folder to make")
    if not out.is_dir() or not any(out.iterdir()):
        return False
    if is_prepared(out) and read_manifest(out).fingerprint == fingerprint:
        return True
    what = "holds a corpus prepared from other text or settings" if is_prepared(out) else "is not empty"
    raise UserError(f"{out} {what}: choose another --out or delete it first")


@contextmanager
def _claimed(out: Path, progress: Progress) -> Iterator[Path]:
    """An empty folder beside `out` that no other process writes to; it is gone afterwards unless it was renamed."""
    partial = out.with_name(f"{out.name}.partial")
    say_so = functools.cache(lambda: progress.say(f"another process is preparing {out}: waiting for it"))
    with waiting_lock(out.with_name(f".{out.name}.lock"), say_so):
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write(request: _Request, fingerprint: str, folder: Path, num_workers: int | None, progress: Progress) -> None:
    source = request.open()
    stream, rule = _splits(request, source, progress)
    if request.tokenizer == "char":
        tokenizer: Tokenizer = CharTokenizer.from_texts(_counted(stream(), progress))
    else:
        tokenizer = request.load_tokenizer()
    names = ("valid",) if request.whole else ("train", "valid")
    writers = {name: SplitWriter(folder, name, tokenizer, request.row_length) for name in names}
    try:
        num_characters = num_tokens = 0
        for name, chunk in encoded(stream(), tokenizer, num_workers):
            writers[name].add(chunk)
            num_characters += chunk.characters
            num_tokens += sum(map(len, chunk.ids))
            progress.update("tokenizing", num_characters, num_tokens)
        splits = {name: writer.finish() for name, writer in writers.items()}
    finally:
        for writer in writers.values():
            writer.close()
    _check_not_empty(request, splits, rule)
    tokenizer.save(folder / "tokenizer")
    if "train" in writers:
        np.save(folder / "counts.npy", writers["train"].counts, allow_pickle=False)
    manifest = Manifest(
        format=FORMAT,
        fingerprint=fingerprint,
        source={"spec": request.source, **source.describe()},
        validation=rule,
        tokenizer={
            "name": tokenizer.name,
            "vocab_size": tokenizer.vocab_size,
            "mask_id": tokenizer.mask_id,
            "hash": tokenizer.fingerprint(),
        },
        mode=request.mode,
        length=request.row_length,
        eos=tokenizer.eos_id is not None and any(writer.num_eos for writer in writers.values()),
        dtype=token_dtype(tokenizer.vocab_size),
        splits=splits,
    )
    (folder / FILE_NAME).write_text(manifest_json(manifest), encoding="utf-8")


def _check_not_empty(request: _Request, splits: dict[str, Split], rule: dict[str, Any]) -> None:
    if not any(split.documents for split in splits.values()):
        raise UserError(f"{request.source} holds no text: expected at least one document that is not empty")
    for name, split in splits.items():
        if not split.tokens:
            raise UserError(
                f"the {name} split of {request.source} is empty (validation: {rule['rule']}): use more text, "
                "another validation_fraction, or name the validation text with --validation"
            )


# --- which text is held out ---


def _splits(request: _Request, source: Source, progress: Progress) -> tuple[Stream, dict[str, Any]]:
    """The pieces with the split that each goes to, as often as asked for, and the rule in words."""
    if request.whole and isinstance(source, HubSet):
        return lambda: _named("valid", source), {"rule": "the whole split"}
    held_out, rule = request.open_validation(source), {"rule": "given", "source": request.validation}
    if held_out is None:
        held_out, rule = source.held_out(), {"rule": "comes with the source"}
    if held_out is not None:
        rule = {**rule, **held_out.describe()}
    if request.whole:
        return lambda: _named("valid", held_out or source), rule if held_out else {"rule": "the whole source"}
    if held_out is not None:
        return lambda: chain(_named("train", source), _named("valid", held_out)), rule
    return hold_out(source, request.validation_fraction, progress)


def _named(name: str, source: Source) -> Iterator[tuple[str, Piece]]:
    return ((name, piece) for piece in source)


def _counted(stream: Iterable[tuple[str, Piece]], progress: Progress) -> Iterator[str]:
    num_characters = 0
    for _, piece in stream:
        num_characters += len(piece.text)
        progress.update("collecting the alphabet", num_characters, 0)
        yield piece.text


def _check_agrees(
    folder: Path, manifest: Manifest, tokenizer: str | Tokenizer | None, mode: str | None, length: int | None
) -> None:
    if mode is not None and mode != manifest.mode:
        raise UserError(
            f"{folder} was prepared in {manifest.mode} mode, not {mode}: set data.mode to {manifest.mode} or "
            "prepare the corpus again"
        )
    if manifest.mode == "pad" and length not in (None, manifest.length):
        raise UserError(
            f"{folder} was padded to rows of {manifest.length} tokens, not {length}: set data.length to "
            f"{manifest.length} or prepare the corpus again"
        )
    stored = manifest.tokenizer
    if tokenizer is None or tokenizer == stored["name"]:
        return
    named = isinstance(tokenizer, str) and not Path(tokenizer).expanduser().is_dir()
    loaded = load_tokenizer(tokenizer) if isinstance(tokenizer, str) and not named else tokenizer
    if isinstance(loaded, str) or loaded.fingerprint() != stored["hash"]:
        name = tokenizer if isinstance(tokenizer, str) else tokenizer.name
        raise UserError(
            f"{folder} was prepared with the tokenizer {stored['name']}, not {name}: set data.tokenizer to "
            f"{stored['name']} or prepare the corpus again"
        )


def _sync_folder(folder: Path) -> None:
    for file in [*folder.rglob("*"), folder]:
        sync(file)
