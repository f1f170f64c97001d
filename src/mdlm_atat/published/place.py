"""From the name of a model to the folder that holds it: a model of the hub is downloaded, and one that others have
published is read once and kept in the cache as a folder of ours."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mdlm_atat import __version__
from mdlm_atat.errors import UserError
from mdlm_atat.locks import waiting_lock
from mdlm_atat.model_folder import follow, is_published, models_folder, preparing_file
from mdlm_atat.published.hub import (
    HubName,
    check_memory,
    download,
    downloaded_before,
    is_commit,
    is_weights,
    look_up,
    unreachable,
)
from mdlm_atat.published.parts import parts_of, parts_there, tokenizer_beside

CONVERTER = 3
"""Counts up where published models are read otherwise than before: what was kept in the cache is read anew then."""
Tell = Callable[[str], None]


def to_stderr(text: str) -> None:
    """Say what takes a while, once it begins."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Place:
    """Where a model was found: a folder of ours, a folder in the hub's format, or a file of weights."""

    path: Path
    name: str
    """As a person named it."""
    commit: str | None = None
    """Of the hub."""
    licence: str | None = None
    """As the hub names it."""

    @property
    def is_published(self) -> bool:
        """Whether somebody else's code has made it, so that it has to be read first."""
        return is_published(self.path)

    def check_memory(self) -> None:
        """Raise UserError where its weights do not fit into this machine's memory, from the sizes of its files. The one
        of a checkpoint does not tell: most of it is the optimizer's state, which stays on disk. Its reader looks."""
        if self.path.suffix == ".ckpt":
            return
        if self.path.is_file():
            check_memory(self.name, None, sum(file.stat().st_size for file in parts_there(self.path)))
            return
        files = [file for file in self.path.glob("*.safetensors") if file.is_file()]
        check_memory(self.name, sum(map(_num_weights, files)), sum(file.stat().st_size for file in files))


def find_model(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    of_any_family: bool = False,
    tell: Tell = to_stderr,
) -> Place:
    """Where the model is that a name stands for: hub:OWNER/NAME or hub:OWNER/NAME@REVISION, which is downloaded, or a
    path. Neither read nor checked further. `revision` and `cache_dir` are for a model of the hub: its branch, tag or
    commit, and where downloads are kept. Raises UserError where the hub has no such model, and before its weights are
    downloaded where its config.json says that it cannot be read, unless `of_any_family`: transformers reads more."""
    hub_name = HubName.parse(name, revision)
    if hub_name is None:
        if revision is not None:
            raise UserError(f"`revision={revision!r}` is for a model of the hub, and {name} is none")
        return Place(follow(Path(name)), str(name))
    repository, found = hub_name.repository, None
    if hub_name.revision is not None and is_commit(hub_name.revision):
        kept = _kept(repository, hub_name.revision)
        if kept.is_dir():
            return Place(kept, str(name), hub_name.revision)
    if not is_commit(hub_name.revision) or (found := downloaded_before(hub_name, cache_dir)) is None:
        listed = look_up(hub_name)
        if listed is not None and (kept := _kept(repository, listed.commit)).is_dir():
            return Place(kept, str(name), listed.commit)
        if listed is not None:
            folder = download(listed, cache_dir, tell, None if of_any_family else partial(_check_family, str(hub_name)))
            return Place(_weights_of(folder), str(name), folder.name, listed.licence)
        found = downloaded_before(hub_name, cache_dir)
    if found is None:
        raise unreachable(hub_name)
    kept = _kept(repository, found.name)
    return Place(kept if kept.is_dir() else _weights_of(found), str(name), found.name)


def folder_of(place: Place, *, tell: Tell = to_stderr) -> Path:
    """The folder of ours with the model of this place. A published one is read first, unless that was done before; two
    processes at a time read it once. Raises UserError for one that cannot be read, or does not fit into memory."""
    if not place.is_published:
        return place.path
    place.check_memory()
    folder = _kept_of(place)
    if folder.is_dir():
        return folder

    told: list[str] = []

    def wait() -> None:
        if not told:
            told.append(f"waiting for another process that reads {place.name}")
            tell(told[0])

    try:
        with waiting_lock(preparing_file(folder), wait):
            if not folder.is_dir():
                _convert(place, folder, tell)
    except PermissionError as error:
        if Path(error.filename or "").is_relative_to(place.path):
            raise  # a file of the model itself
        raise UserError(
            f"{place.name} is kept in {folder.parent} once it is read, which cannot be written: set ATAT_CACHE to a "
            "folder that can"
        ) from error
    return folder


def _convert(place: Place, folder: Path, tell: Tell) -> None:
    from mdlm_atat.published.read import read_published  # which imports torch

    hub_name = HubName.parse(place.name)
    with _named(place.path, place.name) if hub_name else nullcontext():
        found = read_published(place.path)
    origin = replace(
        found.origin,
        source=str(HubName(hub_name.repository)) if hub_name else _own_name(place.path),
        revision=place.commit,
        licence=found.origin.licence or place.licence,
    )
    tell(f"reading {place.name} as {origin.family}, once; kept in {folder}")
    replace(found, origin=origin).write(folder)


def _check_family(name: str, folder: Path) -> None:
    from mdlm_atat.published.read import check_family  # which imports torch

    with _named(folder, name):
        check_family(folder)


@contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """A UserError of the block has a model's name on the hub, not its path in the hub's cache."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(path), name)) from error


def _weights_of(folder: Path) -> Path:
    """The only .gguf network of a folder (of several parts the first); the folder itself where it holds no such one, or
    .safetensors besides."""
    found = sorted(folder.glob("*.gguf"))
    match [file for file in found if file == parts_of(file)[0]]:
        case [only] if not any(folder.glob("*.safetensors")):
            return only
        case _:
            return folder


def _kept_of(place: Place) -> Path:
    hub_name = HubName.parse(place.name)
    if hub_name is not None:
        assert place.commit is not None
        return _kept(hub_name.repository, place.commit)
    path, is_file = place.path, place.path.is_file()
    own = parts_there(path) if is_file else [*path.iterdir()]
    first = own[0].resolve() if is_file else path.resolve()
    own += (path.parent if is_file else path).glob("tokenizer/*")
    if is_file and (beside := tokenizer_beside(path)) is not None:  # a link may have another one beside it
        own.append(beside / "tokenizer.json")
    files = [(str(file.resolve()), file.stat()) for file in own if _is_read(file)]
    stats = sorted((file, found.st_size, found.st_mtime_ns) for file, found in files)
    return _folder(first.stem if is_file else first.name, [str(first), stats])


def _own_name(path: Path) -> str:
    """The name of a folder, or of a file: what a link to a file is called, for what it leads to need not have a name
    that says anything, as in the hub's cache."""
    return path.name if path.is_file() else path.resolve().name


def _is_read(file: Path) -> bool:
    """Whether something of a published model may be in a file: weights, settings, its tokenizer or its licence."""
    others = (".bin", ".json", ".txt", ".model", ".bpe", ".md")
    return file.is_file() and (is_weights(file.name) or file.suffix in others)


def _kept(repository: str, commit: str) -> Path:
    """Where a model of the hub is kept, once it is read."""
    return _folder(repository.replace("/", "--"), [repository, commit])


def _folder(title: str, identity: object) -> Path:
    key = json.dumps([identity, CONVERTER, __version__])
    title = re.sub(r"[^\w.-]", "-", title, flags=re.ASCII).lstrip(".") or "model"
    return models_folder() / f"{title}-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:12]}"


def _num_weights(file: Path) -> int:
    """How many numbers a safetensors file holds, from its header; 0 where that is damaged, which its reader says."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError), file.open("rb") as stream:
        header = json.loads(stream.read(min(int.from_bytes(stream.read(8), "little"), 1 << 26)))
        parts = [part["shape"] for title, part in header.items() if title != "__metadata__"]
        return sum(map(math.prod, parts))
    return 0
