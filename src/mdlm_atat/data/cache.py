"""The cache: corpora that were prepared without a folder of their own, and published models that were read. Each is a
folder, a corpus named after its request.

Beside a corpus NAME lie `.NAME.use`, which every process that reads it holds a shared lock of until it ends, and whose
time is that of the last use, and while it is prepared `.NAME.lock` and `NAME.partial`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mdlm_atat.checks import did_you_mean
from mdlm_atat.data.files import folder_size
from mdlm_atat.data.manifest import FILE_NAME, is_prepared, read_manifest
from mdlm_atat.errors import UserError
from mdlm_atat.locks import Lock, NoLocks, shared_lock, try_lock
from mdlm_atat.model_folder import ORIGIN_FILE, PARTIAL, cache_home, models_folder, preparing_file
from mdlm_atat.small_files import read_object

_held: dict[Path, Lock] = {}  # until the process ends: a corpus is memory-mapped, and read long after it was opened


def cache_folder() -> Path:
    """Where corpora are cached: `data` in $ATAT_CACHE, else in ~/.cache/mdlm-atat."""
    return cache_home() / "data"


def hold(folder: Path) -> None:
    """Say that this process reads a corpus, until it ends: one of the cache is not removed meanwhile. Any other folder
    is left alone."""
    folder = folder.resolve()
    if folder.parent != cache_folder() or folder.suffix == PARTIAL:
        return
    file = _use_file(folder)
    with suppress(OSError, NoLocks):  # a cache that may only be read, or a file system without locks
        if (folder not in _held or not file.exists()) and (lock := shared_lock(file)) is not None:
            _held[folder] = lock
        os.utime(file)


@dataclass(frozen=True, kw_only=True)
class Cached:
    """A folder of the cache, as `list_cache` finds it: a corpus, or a published model."""

    folder: Path
    source: str
    """What it was prepared or read from."""
    tokenizer: str
    """Of a corpus; empty for a model."""
    num_bytes: int
    """Of all its files."""
    made: float
    """When, in seconds since 1970."""
    last_used: float
    """In the same unit; when it was made, where that is not known."""
    is_in_use: bool
    """Whether a process reads or prepares it now."""

    @property
    def name(self) -> str:
        return self.folder.name


def list_cache() -> list[Cached]:
    """What is in the cache, the last used first. What a process that was killed left there counts too; whatever else
    lies in the folder does not."""
    found = []
    for folder in (*_folders_in(cache_folder()), *_folders_in(models_folder())):
        with suppress(FileNotFoundError):  # another process removes it, or gives it its final name
            if folder.suffix == PARTIAL or (folder.parent == cache_folder() and is_prepared(folder)):
                found.append(_look_at(folder))
            elif (folder / ORIGIN_FILE).is_file():
                found.append(_look_at_model(folder))
    return sorted(found, key=lambda entry: -entry.last_used)


def _folders_in(place: Path) -> list[Path]:
    try:
        return [folder for folder in place.iterdir() if folder.is_dir() and not folder.is_symlink()]
    except FileNotFoundError:
        return []


def _look_at_model(folder: Path) -> Cached:
    made = (folder / ORIGIN_FILE).stat().st_mtime
    try:
        origin = read_object(folder / ORIGIN_FILE)
        source = str(origin.get("source", ""))
    except UserError:
        source = "(damaged)"
    return Cached(
        folder=folder,
        source=source,
        tokenizer="",
        num_bytes=folder_size(folder),
        made=made,
        last_used=max(made, folder.stat().st_mtime),
        is_in_use=_is_held(preparing_file(folder)),
    )


def _look_at(folder: Path) -> Cached:
    source, tokenizer = "(not finished)", ""
    made = last_used = folder.stat().st_mtime
    if folder.suffix != PARTIAL:
        made = last_used = (folder / FILE_NAME).stat().st_mtime
        try:
            manifest = read_manifest(folder)
            source, tokenizer = str(manifest.source.get("spec", "")), str(manifest.tokenizer.get("name", ""))
        except UserError:
            source = "(damaged)"
        with suppress(FileNotFoundError):
            last_used = max(made, _use_file(folder).stat().st_mtime)
    return Cached(
        folder=folder,
        source=source,
        tokenizer=tokenizer,
        num_bytes=folder_size(folder),
        made=made,
        last_used=last_used,
        is_in_use=_is_held(_use_file(folder)) or _is_held(preparing_file(folder)),
    )


def _is_held(file: Path) -> bool:
    """Whether any process has the lock of a file, shared or alone."""
    if not file.exists():
        return False
    try:
        lock = try_lock(file)
    except (OSError, NoLocks):  # a cache that may only be read
        return False
    if lock is not None:
        lock.release()
    return lock is None


def choose_cached(entries: list[Cached], names: list[str] | None = None, *, older_than_s: float = 0.0) -> list[Cached]:
    """Those of the entries that go by one of `names`, or all, and were last used more than `older_than_s` ago.

    A name is that of the folder, or its beginning where only one begins so, or the source, of which there may be
    several. Raises UserError for one that there is not.
    """
    chosen = entries if not names else []
    for name in names or ():
        same = [entry for entry in entries if name in (entry.name, entry.source)]
        begins = [entry for entry in entries if entry.name.startswith(name)] if name else []
        if not same and len(begins) > 1:
            raise UserError(f"{name} is the beginning of {len(begins)} names in the cache: write more of it")
        if not same and not begins:
            known = [known for entry in entries for known in (entry.name, entry.source)]
            raise UserError(f"nothing in the cache is called {name}{did_you_mean(name, known)}; see `atat cache list`")
        chosen = chosen + [entry for entry in same or begins if entry not in chosen]
    before = time.time() - older_than_s
    return [entry for entry in chosen if older_than_s == 0 or entry.last_used < before]


def clear_cached(entries: list[Cached], kept: Callable[[Cached], None]) -> list[Cached]:
    """Remove what no process uses, and return that. `kept` is called for whatever is in use."""
    removed = []
    for entry in entries:
        if _remove(entry.folder):
            removed.append(entry)
        else:
            kept(entry)
    return removed


def _remove(folder: Path) -> bool:
    """Remove a corpus or a model unless a process uses it. While this goes on, no process begins to."""
    files = preparing_file(folder), _use_file(folder)
    locks: list[Lock] = []
    try:
        for file in files:
            if (lock := try_lock(file)) is None:
                return False
            locks.append(lock)
        # a name that `prepare` takes for remains, should this be interrupted
        doomed = folder if folder.suffix == PARTIAL else folder.with_name(folder.name + PARTIAL)
        if doomed != folder and folder.is_dir():
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        for file in files:
            with suppress(OSError):  # Windows removes no file that is open
                file.unlink()
        return not doomed.exists()
    finally:
        for lock in locks:
            lock.release()


def _use_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name.removesuffix(PARTIAL)}.use")
