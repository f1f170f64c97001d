"""What is in a folder of text: which files are for training and which are held out, by their names, and what is left
out and why. Nothing of a folder goes unmentioned."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from mdlm_atat.data.readers.kinds import USABLE, Refusal, find_reader
from mdlm_atat.data.readers.reading import Reading
from mdlm_atat.data.split_names import Part, has_split_word, split_parts
from mdlm_atat.data.unpack import PACKED
from mdlm_atat.errors import UserError
from mdlm_atat.formats import counted, percent, plural

SHOWN_FILES = 10
"""Files that are named one by one; others are counted."""
REST = "rest"
"""In `leave_out`: all that would be left out anyway."""

Role = Literal["train", "valid", "test", "given"]
"""`given`: named as validation text, so not trained on either."""
HIDDEN, ASKED, EMPTY, NEITHER = "hidden", "as asked", "empty", "neither train nor valid or test in its name"
LINKED, LINKED_BACK = "a link to what is read already", "a link to a folder that this one is in"
MADE, STORED = "a run, a model or tokens that atat made", "the hub's cache: read by the names in snapshots"
_KNOWN = (HIDDEN, ASKED, LINKED, LINKED_BACK, MADE, STORED)
"""Reasons by which nobody is surprised: they do not count towards the half of a folder that may be left out."""


class LeftOut(NamedTuple):
    """A file or folder that is not read."""

    path: Path
    """In the folder."""
    reason: str
    size: int = 0
    """Bytes, where they are known."""


class Found(NamedTuple):
    """A file that could be read."""

    path: Path
    """In the folder."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Folder:
    """The files of a folder, each with what it is for, in the order of their paths."""

    path: Path
    files: tuple[tuple[Found, Role], ...]
    left_out: tuple[LeftOut, ...]
    is_split: bool
    """Whether names say what is for training and what is held out. If not, every file is text."""
    unmatched: tuple[str, ...] = ()
    """What was to be left out and is not there."""
    rest_is_known: bool = False
    """Whether more than half may be left out."""

    def files_for(self, role: Role) -> list[Path]:
        """Return the files with that role, as paths that can be opened."""
        return [self.path / found.path for found, own in self.files if own == role]

    def check(self) -> None:
        """Raise UserError where more than half of the files, or of their bytes, would be left out unasked."""
        surprises = [left for left in self.left_out if left.reason not in _KNOWN]
        num_files, num_bytes = len(self.files), sum(found.size for found, _ in self.files)
        left_bytes = sum(left.size for left in surprises)
        by_files = len(surprises) / max(num_files + len(surprises), 1)
        by_bytes = left_bytes / max(num_bytes + left_bytes, 1)
        if self.rest_is_known or max(by_files, by_bytes) <= 0.5:
            return
        unnamed = any(left.reason == NEITHER for left in surprises)
        endings = sorted({_ending(left.path) for left in surprises})
        is_all = not {"", *(_ending(found.path) for found, _ in self.files)} & set(endings)
        which = " ".join(endings) if is_all and len(endings) <= 5 else REST
        raise UserError(
            f"{self.path}: {len(surprises):,} of {num_files + len(surprises):,} files ({percent(by_files)} of the "
            f"files, {percent(by_bytes)} of the bytes) would be left out: {', '.join(_groups(surprises))}. To go on "
            f"without them: `leave_out={which!r}` (endings, names or patterns; {REST!r}: all that is left out)"
            + ("; to read every file as text whatever its name: `splits='none'`" if unnamed else "")
            + f". Files that can be read: {USABLE}"
        )

    def lines(self) -> list[str]:
        """Return what was decided, in lines for a person: the files, at most ten by name, and what is left out."""
        return [*self._file_lines(), *self._left_out_lines()]

    def record(self) -> dict[str, object]:
        """Return what was decided, as JSON."""
        roles = Counter(role for _, role in self.files)
        groups = Counter((_ending(left.path), left.reason) for left in self.left_out)
        sizes = Counter[tuple[str, str]]()
        for left in self.left_out:
            sizes[_ending(left.path), left.reason] += left.size
        return {
            "split_by_names": self.is_split,
            "files": dict(roles),
            "left_out": [
                {"ending": ending, "reason": reason, "files": number, "bytes": sizes[ending, reason]}
                for (ending, reason), number in sorted(groups.items())
            ],
        }

    def _file_lines(self) -> list[str]:
        number = f"{counted(len(self.files), 'file')} in {shown(self.path)}"
        neither = [left for left in self.left_out if left.reason == NEITHER]
        roles = [(found.path, _ROLES[role]) for found, role in self.files]
        roles += [(left.path, f"left out: {left.reason}") for left in neither]
        if len({role for _, role in roles}) > 1:
            how = ", by their names (splits=none: all are text)" if self.is_split else ""
            return [f"text       {number}{how}", *_one_by_one(roles)]
        names = ", ".join(shown(path) for path, _ in roles[:SHOWN_FILES])
        more = f" and {len(roles) - SHOWN_FILES:,} more" if len(roles) > SHOWN_FILES else ""
        lines = [f"text       {number}: {names}{more}"]
        titles = [path for path, _ in roles if has_split_word(path)]
        if titles and len(roles) > 1:
            lines.append(
                f"           all of it is text, {shown(titles[0])} too, since the names do not set files to train on "
                "apart from files to hold out; to hold a file out: validation=FILE"
            )
        return lines

    def _left_out_lines(self) -> list[str]:
        left = [left for left in self.left_out if left.reason != NEITHER]
        lines = [f"left out   {', '.join(_groups(left))}"] if left else []
        if self.unmatched:
            lines.append(f"           nothing is there to leave out as {', '.join(self.unmatched)}")
        return lines


_ROLES: dict[Role, str] = {
    "train": "training",
    "valid": "validation",
    "test": "test: held out, never trained on",
    "given": "named as validation",
}


def list_folder(folder: Path, reading: Reading, *, given: Path | None = None) -> Folder:
    """List a folder and all that is in it, and decide what each file is for.

    `splits` and `leave_out` of `reading` are asked for. `given`: the validation text, where one is named; what lies in
    the folder of it is not trained on. Links are followed once. Raises UserError where no file is for training.
    """
    found, left_out = _sorted_out(folder, reading.encoding)
    patterns = (reading.leave_out or "").replace(",", " ").split()
    rest_is_known = REST in patterns
    patterns = [pattern for pattern in patterns if pattern != REST]
    used = {pattern for pattern in patterns for file in [*found, *left_out] if _matches(file.path, pattern)}
    asked = {file for file in found if any(_matches(file.path, pattern) for pattern in patterns)}
    found = [file for file in found if file not in asked]
    left_out = [
        left._replace(reason=ASKED) if any(_matches(left.path, pattern) for pattern in patterns) else left
        for left in left_out
    ]
    left_out += [LeftOut(file.path, ASKED, file.size) for file in asked]
    parts = split_parts(file.path for file in found) if reading.splits == "names" else None
    apart = None if given is None or folder.resolve().is_relative_to(given) else given
    roles: list[tuple[Found, Role]] = []
    for file in found:
        part: Part | None = parts[file.path] if parts else "train"
        if apart is not None and (folder / file.path).resolve().is_relative_to(apart):
            roles.append((file, "given"))
        elif not file.size:
            left_out.append(LeftOut(file.path, EMPTY))
        elif part is None:
            left_out.append(LeftOut(file.path, NEITHER, file.size))
        else:
            roles.append((file, part))
    listed = Folder(
        folder,
        tuple(roles),
        tuple(sorted(left_out)),
        is_split=parts is not None,
        unmatched=tuple(pattern for pattern in patterns if pattern not in used),
        rest_is_known=rest_is_known,
    )
    if not listed.files_for("train"):
        what = f"; left out: {', '.join(_groups(listed.left_out))}" if left_out else ""
        raise UserError(
            f"{folder} holds no file that can be read{' and trained on' * bool(roles)}{what}; expected {USABLE}"
        )
    return listed


def shown(path: PurePath | str) -> str:
    """Return a path as it can be printed and written as UTF-8: characters that cannot are escaped."""
    text = str(path)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def irregular(path: Path) -> str | None:
    """Return why a path is no file or folder that can be read: a pipe, a socket, a device, a link that leads nowhere;
    None where it is a file or folder, or not there."""
    try:
        return _irregular(path.stat().st_mode)
    except FileNotFoundError:
        return _DANGLING if path.is_symlink() else None
    except (OSError, ValueError) as error:
        return _why(error)


_DANGLING = "a link that leads nowhere"
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _irregular(mode: int) -> str | None:
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), None)


def _sorted_out(folder: Path, encoding: str | None) -> tuple[list[Found], list[LeftOut]]:
    """What could be read, and what could not; both in the order of their paths."""
    files, left_out = [], []
    for item in _walk(folder):
        if isinstance(item, LeftOut):
            left_out.append(item)
        elif not os.access(folder / item.path, os.R_OK):
            left_out.append(LeftOut(item.path, "unreadable: no permission", item.size))
        elif not item.size:  # nothing to look at; opening one may hang, as of some in /proc
            files.append(item)
        elif isinstance(refusal := find_reader(folder / item.path, encoding), Refusal):
            left_out.append(LeftOut(item.path, str(refusal), item.size))
        else:
            files.append(item)
    return sorted(files), sorted(left_out)


def _walk(root: Path) -> Iterator[Found | LeftOut]:
    """Every file of a folder. What links lead to comes after all that is no link, if it was not there already."""
    folders, links = deque([Path()]), deque[Path]()
    around = {_place(parent.stat()) for parent in root.resolve().parents}
    seen = set[tuple[int, int]]()
    through_links = False
    while folders or links:
        through_links = through_links or not folders
        path = folders.popleft() if folders else links.popleft()
        try:
            status = (root / path).stat()
            is_folder, place = stat.S_ISDIR(status.st_mode), _place(status)
            if place in around:
                yield LeftOut(path, LINKED_BACK)
            elif place in seen and (is_folder or through_links):  # else a file with two names
                yield LeftOut(path, LINKED)
            elif is_folder:
                seen.add(place)
                with os.scandir(root / path) as entries:
                    inside = sorted((entry.name, entry.is_symlink()) for entry in entries)
                if path != Path() and _is_made({name for name, _ in inside}):
                    yield LeftOut(path, MADE)
                    continue
                stored = _STORES if {name for name, _ in inside} >= _CACHE else frozenset[str]()
                for name, is_link in inside:
                    if name.startswith(".") or name in stored:
                        yield LeftOut(path / name, STORED if name in stored else HIDDEN)
                    else:
                        (links if is_link else folders).append(path / name)
            elif kind := _irregular(status.st_mode):
                yield LeftOut(path, kind)
            else:
                seen.add(place)
                yield Found(path, status.st_size)
        except FileNotFoundError:
            yield LeftOut(path, _DANGLING)
        except OSError as error:
            yield LeftOut(path, _why(error))


def _is_made(names: set[str]) -> bool:
    """Whether a folder of files of these names is a run or a saved model, or a prepared corpus: notes are often in the
    folder in which they are trained on, and what came of it lies beside them. All three have their tokenizer; a folder
    of notes may well have the rest."""
    return "tokenizer" in names and any(names >= made for made in _MADE)


_MADE = ({"config.yaml", "run.json"}, {"config.yaml", "model.safetensors"}, {"manifest.json", "train.bin"})


_CACHE, _STORES = {"blobs", "snapshots"}, frozenset(("blobs", "refs"))
"""Folders in which the hub's cache keeps a data set: its files under their hashes, and links to them by their names."""


def _place(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, PermissionError):
        return "unreadable: no permission"
    return f"unreadable: {(getattr(error, 'strerror', None) or str(error)).lower()}"


def _matches(path: Path, pattern: str) -> bool:
    """An ending such as .png, a name of a file or folder, or a pattern of one or of the whole path."""
    if re.fullmatch(r"\.[^/*?\[]+", pattern) and path.name.lower().endswith(pattern.lower()):
        return True
    name = pattern.rstrip("/")
    return any(part == name or fnmatch.fnmatchcase(part, name) for part in (path.as_posix(), *path.parts))


def as_pattern(path: PurePath) -> str:
    """Return what `leave_out` takes for a file: its path, with ? for characters that stand for something else there."""
    return "".join(
        "?" if letter in "*?[," or letter.isspace() or not letter.isprintable() else letter for letter in str(path)
    )


def _ending(path: Path) -> str:
    """`.png`, `.txt.gz`, or nothing where a name has no ending that is one."""
    suffixes = path.suffixes[-2:] if path.suffix.lower() in PACKED else path.suffixes[-1:]
    ending = "".join(suffixes).lower()
    return ending if re.fullmatch(r"(\.[\w+-]{1,12})+", ending) else ""


def _groups(left_out: Iterable[LeftOut]) -> list[str]:
    """Counts by ending and reason, the most numerous first, with the name of one that is alone or odd."""
    groups: dict[tuple[str, str], list[LeftOut]] = {}
    for left in left_out:
        ending = "" if left.reason in (HIDDEN, NEITHER) else _ending(left.path)
        groups.setdefault((ending, left.reason), []).append(left)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    texts = []
    for (ending, reason), members in ordered[:SHOWN_FILES]:
        what = f"{len(members):,} {ending or plural(len(members), 'file')}"
        texts.append(f"{shown(members[0].path) if len(members) == 1 else what} ({reason})")
    further = sum(len(members) for _, members in ordered[SHOWN_FILES:])
    return [*texts, f"{further:,} more"] if further else texts


def _one_by_one(roles: Sequence[tuple[Path, str]]) -> list[str]:
    """A line a file, at most ten, with some of every role, then a count of the others."""
    by_role: dict[str, list[Path]] = {}
    for path, role in roles:
        by_role.setdefault(role, []).append(path)
    kept: list[tuple[Path, str]] = []
    for number, (role, paths) in enumerate(sorted(by_role.items(), key=lambda group: len(group[1]))):
        room = (SHOWN_FILES - len(kept)) // (len(by_role) - number)
        kept += [(path, role) for path in paths[:room]]
    width = max(len(shown(path)) for path, _ in kept)
    lines = [f"           {shown(path):<{min(width, 48)}}  {role}" for path, role in sorted(kept)]
    if len(roles) > len(kept):
        left = Counter(role for _, role in roles) - Counter(role for _, role in kept)
        counts = ", ".join(f"{number:,} {role}" for role, number in left.items())
        lines.append(f"           and {len(roles) - len(kept):,} more: {counts}")
    return lines
