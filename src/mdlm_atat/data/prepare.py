"""A corpus as a folder of memory-mapped tokens: written aside, checked, then renamed into place.

    train.bin, valid.bin    the tokens of a split, flat little-endian integers, as small as the vocabulary allows
    train.idx, valid.idx    pad mode: where each row starts in the .bin, and its end, little-endian 64-bit
    train.prompts, ...      loss_on=answers: how many tokens of each row are its prompt, little-endian 32-bit
    counts.npy              how often each token occurs in train; with loss_on=answers, in the answers
    tokenizer/              what `load_tokenizer` needs
    manifest.json           see manifest.py; written last

Wrap: every document is followed by eos, except that a split of a single document has none.
Pad: every document is followed by eos; one that is longer than a row goes on in further rows.
Answers: a row is a prompt, an answer and eos (see answers.py).
"""

from __future__ import annotations

import functools
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

from mdlm_atat.atomic import full_disk_named, sync, sync_folder, write_text
from mdlm_atat.checks import check_keywords
from mdlm_atat.data.accounts import account, check_halves, decided_lines, no_text, read_lines
from mdlm_atat.data.answers import NO_ROOM, NO_TOKENS, WITHOUT
from mdlm_atat.data.cache import cache_folder, hold
from mdlm_atat.data.corpus import Corpus
from mdlm_atat.data.counts import write_counts
from mdlm_atat.data.encode import encoded
from mdlm_atat.data.held_out import BY_HASH, Stream, hold_out
from mdlm_atat.data.loss import MOST_LOST, Changes
from mdlm_atat.data.manifest import (
    FILE_NAME,
    FORMAT,
    Manifest,
    Split,
    is_prepared,
    manifest_json,
    read_manifest,
)
from mdlm_atat.data.open_tokenizer import is_plain_name, load_tokenizer, save_tokenizer
from mdlm_atat.data.pieces import Piece
from mdlm_atat.data.plugged import allow_named
from mdlm_atat.data.progress import Progress, reporting
from mdlm_atat.data.repeats import Repeats
from mdlm_atat.data.request import DataRequest, RequestSettings
from mdlm_atat.data.sources import HubSet, SourceLike, Texts, label_of
from mdlm_atat.data.split_writer import SplitWriter, token_dtype
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.locks import waiting_lock
from mdlm_atat.plugins import trusted

Opened = tuple[Texts, Texts | None]
"""The source, and the validation text that was named."""
GIVEN = "given"  # the rule where validation text is named
ENOUGH = 1 << 24  # characters, of a long text, after which too great a loss stops a preparation that goes on


def prepare(
    source: SourceLike | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    request: DataRequest | None = None,
    progress: bool | Progress = True,
    num_workers: int | None = None,
    trust_plugins: bool = False,
    **settings: Unpack[RequestSettings],
) -> Corpus:
    """Turn a text into tokens that training and scoring read, or find those that an equal request has made before.

    `source` is a name, a path, a plugin or a list of texts, and `settings` are those of `DataRequest`:
    `prepare("mine.txt", tokenizer="byte")`; `request` gives all of it as one object instead. A source that is a folder
    of prepared tokens is taken as it is, if it agrees with `tokenizer`, `mode` and, in pad mode, `length`.

    `out` is the folder to make, which appears when it is complete; left out, it is one in the cache ($ATAT_CACHE, else
    ~/.cache/mdlm-atat; `atat cache list` shows it). `progress` False says nothing. `num_workers` threads tokenize, by
    default one a core, at most 16. `trust_plugins` imports the plugins that `request` or a tokenizer's folder names;
    those that are named in the call need no trust.

    Validation is, in this order: `validation`; what comes with the source (files of a folder whose names say so, a hub
    split, the two held-out plays); documents chosen by a hash of their text; of fewer than 20 documents, the end of
    the text.

    All of the text is compared with decode(encode(text)), and the manifest has what is lost, by kind (see loss.py).

    Raises UserError for a source that is not there or cannot be read, where the tokenizer loses more than 1% of a
    split's characters and `accept_loss` does not say that this is meant, for settings that do not fit, and for an `out`
    that holds something else; TypeError for an unknown setting.
    """
    if request is None:
        request = _requested(source, settings)
    elif source is not None or settings:
        raise TypeError("prepare() takes a source and its settings, or `request=`, not both")
    progress = reporting(progress)
    with trusted() if trust_plugins else nullcontext():
        if request.prepared is None:
            folder = _prepare(request, out, num_workers, progress)
            hold(folder)
            if not is_prepared(folder):  # `atat cache clear` was faster
                folder = _prepare(request, out, num_workers, progress)
            return Corpus(folder)
        if out is not None:
            raise UserError(f"{request.prepared} is prepared already: leave out `out=`, or name the text itself")
        corpus = Corpus(request.prepared)
        _check_agrees(corpus, request)
        for line in read_lines(corpus.manifest):
            progress.say(line)
        return corpus


def _requested(source: SourceLike | None, settings: RequestSettings) -> DataRequest:
    """The request that a person has written down in a call; the plugins that it names may be imported."""
    if source is None:
        raise TypeError("prepare() needs a source, as in prepare('mine.txt')")
    check_keywords(settings, prepare, RequestSettings.__annotations__)
    request = DataRequest(source=source, **settings)
    request.warn_of_what_has_no_effect()
    allow_named("source", request.source)
    allow_named("source", request.validation)
    allow_named("tokenizer", request.tokenizer)
    return request


def _prepare(
    request: DataRequest, out: str | os.PathLike[str] | None, num_workers: int | None, progress: Progress
) -> Path:
    opened = request.open_all()
    fingerprint = request.fingerprint(opened)
    if out is None:
        out = cache_folder() / fingerprint[:16]
    out = Path(out).expanduser().resolve()
    if _is_done(out, request, opened, fingerprint):
        for name, split in read_manifest(out).splits.items():
            _check_loss(request, name, split.changes, split.characters)
        progress.say(f"{out} holds the same text already prepared: used as it is")
        for line in [*decided_lines(*opened), *read_lines(read_manifest(out))]:
            progress.say(line)
        return out
    check_halves(*opened)
    for line in decided_lines(*opened):
        progress.say(line)
    with full_disk_named(out), _claimed(out, progress) as partial:
        if not _is_done(out, request, opened, fingerprint):  # another process may have just made it
            try:
                _write(request, opened, fingerprint, partial, num_workers, progress)
            finally:
                progress.done()
            sync_folder(partial)
            partial.rename(out)
            sync(out.parent)
    for line in read_lines(read_manifest(out)):
        progress.say(line)
    return out


def _is_done(out: Path, request: DataRequest, opened: Opened, fingerprint: str) -> bool:
    if out.is_file():
        raise UserError(f"{out} is a file; `out` is a folder to make")
    if not out.is_dir() or not any(out.iterdir()):
        return False
    if is_prepared(out) and (read_manifest(out).fingerprint == fingerprint or _was_done(out, request, opened)):
        return True
    what = "holds a corpus prepared from other text or settings" if is_prepared(out) else "is not empty"
    raise UserError(f"{out} {what}: choose another `out=`, or delete it first")


def _was_done(out: Path, request: DataRequest, opened: Opened) -> bool:
    """Whether a version until 0.1 has fulfilled the request, with this very tokenizer."""
    asked = request.fixed_tokenizer
    if asked is None or read_manifest(out).fingerprint != request.fingerprint(opened, former=True):
        return False
    return load_tokenizer(out / "tokenizer").fingerprint() == asked.fingerprint()


@contextmanager
def _claimed(out: Path, progress: Progress) -> Iterator[Path]:
    """An empty folder beside `out` that no other process writes to; it is gone afterwards unless it was renamed."""
    partial = out.with_name(f"{out.name}.partial")
    new = [folder for folder in out.parents if not folder.exists()]
    say_so = functools.cache(lambda: progress.say(f"another process is preparing {out}: waiting for it"))
    try:
        with waiting_lock(out.with_name(f".{out.name}.lock"), say_so):
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            partial.mkdir()
            try:
                yield partial
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    finally:
        with suppress(OSError):  # that something is in them
            for folder in new:
                folder.rmdir()


def _write(
    request: DataRequest,
    opened: Opened,
    fingerprint: str,
    folder: Path,
    num_workers: int | None,
    progress: Progress,
) -> None:
    source, _ = opened
    held_out, rule = _held_out(request, *opened)
    stream, rule = _stream(request, source, held_out, rule, progress)
    tokenizer = request.fixed_tokenizer or CharTokenizer.from_texts(_counted(stream(), request, source, progress))
    names = ("valid",) if request.whole else ("train", "valid")
    repeats = Repeats()
    writers: dict[str, SplitWriter] = {}
    is_answers = request.loss_on == "answers"
    answer_length = request.row_length if is_answers else None
    with ExitStack() as files:
        for name in names:
            writers[name] = SplitWriter(folder, name, tokenizer, request.row_length, answers=is_answers)
            files.callback(writers[name].close)
        num_characters = num_tokens = 0
        for name, chunk in encoded(repeats.watch(stream()), tokenizer, num_workers, answer_length):
            writers[name].add(chunk)
            if (so_far := writers[name].num_characters) >= ENOUGH:
                _check_loss(request, name, writers[name].changes, so_far)
            num_characters += chunk.characters
            num_tokens += sum(map(len, chunk.ids))
            progress.update("tokenizing", num_characters, num_tokens)
        splits = {name: writer.finish() for name, writer in writers.items()}
    if held_out is not None:
        rule = {**rule, **held_out.describe()}
    if is_answers:
        _check_answers(request, writers, splits)
    _check_not_empty(request, splits, rule, source, held_out)
    for name, split in splits.items():
        _check_loss(request, name, split.changes, split.characters)
    save_tokenizer(tokenizer, folder / "tokenizer")
    if "train" in writers:
        write_counts(folder, writers["train"].counts)
    manifest = Manifest(
        format=FORMAT,
        fingerprint=fingerprint,
        source={"spec": label_of(request.source), **source.describe()},
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
        loss_on=request.loss_on,
        accounts={
            **account({"source": source, "validation": held_out}, None if request.whole else repeats.found()),
            **({"answers": {name: dict(writer.left_out) for name, writer in writers.items()}} if is_answers else {}),
        },
    )
    write_text(folder / FILE_NAME, manifest_json(manifest))


def _check_loss(request: DataRequest, split: str, changes: Changes, num_characters: int) -> None:
    """Raise UserError where the tokenizer loses much of a split, and nobody has said that this is meant."""
    if request.accept_loss or changes.total <= MOST_LOST * num_characters:
        return
    tokenizer = request.fixed_tokenizer
    name = "char" if tokenizer is None else tokenizer.name
    raise UserError(
        f"the tokenizer {name} does not give back {changes.in_words(num_characters)} of the {split} text of "
        f"{label_of(request.source)}, so what is trained on and scored would be another text: take `tokenizer='byte'` "
        "or one that is trained on this text, or say `accept_loss=True` if that is meant"
    )


def _check_answers(request: DataRequest, writers: dict[str, SplitWriter], splits: dict[str, Split]) -> None:
    """Raise UserError where no answer is found, or none has room in a row."""
    if any(split.rows for split in splits.values()):
        return
    found = sum((writer.left_out for writer in writers.values()), Counter[str]())
    name = label_of(request.source)
    if found[NO_ROOM]:
        raise UserError(
            f"`loss_on='answers'`: every prompt of {name} fills a row of {request.length} tokens, so that no answer "
            "has room: take a larger `length=`"
        )
    if found[WITHOUT] or found[NO_TOKENS]:
        raise UserError(
            f"`loss_on='answers'`: there are no answers in {name}: name the column of its chats, whose messages have "
            "`role` and `content`, as in `column='messages'`, or write its rows by a template that ends in the answer, "
            "as in `template='{question} {answer}'`; or train on all of the text with `loss_on='all'`"
        )


def _check_not_empty(
    request: DataRequest, splits: dict[str, Split], rule: dict[str, Any], source: Texts, held_out: Texts | None
) -> None:
    if not any(split.documents for split in splits.values()):
        raise no_text(source, request.source)
    together = ", equal ones together, so there may be too few different ones" if rule["rule"] == BY_HASH else ""
    for name, split in splits.items():
        if split.tokens:
            continue
        if held_out is not None and not split.characters:  # each split is a text of its own
            given = request.validation if name == "valid" and rule["rule"] == GIVEN else None
            raise no_text(source if name == "train" else held_out, request.source if given is None else given)
        raise UserError(
            f"the {name} split of {label_of(request.source)} is empty (validation: {rule['rule']}{together}): use "
            "more text, another `validation_fraction=`, or name the validation text with `validation=`"
        )


# --- which text is held out ---


def _held_out(request: DataRequest, source: Texts, named: Texts | None) -> tuple[Texts | None, dict[str, Any]]:
    """The validation text that was named or comes with the source, if any, and the rule in words."""
    if request.whole and isinstance(source, HubSet):
        return None, {"rule": "the whole split"}
    if (scored := request.open_test(source)) is not None:
        return scored, {"rule": "the test files of the source"}
    if named is not None:
        return named, {"rule": GIVEN, "source": label_of(request.validation)}
    held_out = source.held_out()
    if held_out is None and request.whole:
        return None, {"rule": "the whole source"}
    return held_out, {"rule": "comes with the source"}


def _stream(
    request: DataRequest, source: Texts, held_out: Texts | None, rule: dict[str, Any], progress: Progress
) -> tuple[Stream, dict[str, Any]]:
    """The pieces with the split that each goes to, as often as asked for, and the rule, also of what had to be cut."""
    if request.whole:
        return lambda: _named("valid", held_out or source), rule
    if held_out is not None:
        return lambda: chain(_named("train", source), _named("valid", held_out)), rule
    return hold_out(source, request.validation_fraction, progress, whole=request.loss_on == "answers")


def _named(name: str, source: Texts) -> Iterator[tuple[str, Piece]]:
    return ((name, piece) for piece in source)


def _counted(
    stream: Iterable[tuple[str, Piece]], request: DataRequest, source: Texts, progress: Progress
) -> Iterator[str]:
    """The texts; raises UserError after the last one where none has a character, of which no alphabet is made."""
    num_characters = 0
    for _, piece in stream:
        num_characters += len(piece.text)
        progress.update("collecting the alphabet", num_characters, 0)
        yield piece.text
    if not num_characters:
        raise no_text(source, request.source)


def _check_agrees(corpus: Corpus, request: DataRequest) -> None:
    """Raise UserError where a prepared corpus is not what is asked for."""
    manifest, asked = corpus.manifest, request.tokenizer
    if request.loss_on != manifest.loss_on:
        raise UserError(
            f"{corpus.folder} was prepared with `loss_on={manifest.loss_on!r}`, not {request.loss_on!r}: set "
            f"`data.loss_on={manifest.loss_on!r}` or prepare the corpus again"
        )
    if request.mode != manifest.mode:
        raise UserError(
            f"{corpus.folder} was prepared in {manifest.mode} mode, not {request.mode}: set "
            f"`data.mode={manifest.mode}` or prepare the corpus again"
        )
    if manifest.mode == "pad" and request.length != manifest.length:
        raise UserError(
            f"{corpus.folder} was padded to rows of {manifest.length} tokens, not {request.length}: set "
            f"`data.length={manifest.length}` or prepare the corpus again"
        )
    stored = manifest.tokenizer
    if is_plain_name(asked):
        given = None
        if asked == stored["name"]:
            return
    else:
        given = request.fixed_tokenizer
    if given is None or given.fingerprint() != corpus.tokenizer.fingerprint():
        name = asked if isinstance(asked, (str, os.PathLike)) else asked.name
        raise UserError(
            f"{corpus.folder} was prepared with the tokenizer {stored['name']}, not {name}: set "
            f"`data.tokenizer={stored['name']}` or prepare the corpus again"
        )
