"""Reading the small files of a folder that somebody else may have made: within limits, and nothing outside of it.

A folder from a stranger may hold a link to another file, a pipe that never ends, a file of any size, or JSON that is
thousands of levels deep. Everything in it that is read whole goes through here.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdlm_atat.errors import UserError
from mdlm_atat.formats import data_size

MOST_BYTES = 8 << 20
"""Of a small file, unless its reader says otherwise. As Python's objects it may take twenty times as much."""
MOST_SHOWN = 160  # characters of what is wrong
RESTORE = "restore it from a copy"


def check_file(file: Path, *, most_bytes: float = MOST_BYTES) -> None:
    """Raise UserError unless `file` is a plain file of at most `most_bytes` that lies in its own folder: neither a
    device or a pipe, nor a link that leads out. Raises FileNotFoundError where there is none.

    The hub's cache is excepted: it links the files of `snapshots/REVISION` to `blobs` beside `snapshots`.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "no file that holds data"
        raise UserError(f"{file} is {what}; remove it")
    if file.is_symlink():
        home, target = file.parent.resolve(), file.resolve()
        snapshots = next((path for path in home.parents[:2] if path.name == "snapshots"), None)  # tokenizer/ is in it
        blobs = home if snapshots is None else snapshots.parent / "blobs"
        if not any(target.is_relative_to(place) for place in (home, blobs)):
            raise UserError(
                f"{file} is a link to {target}, and what a folder links to elsewhere is not read; put a copy in its "
                "place"
            )
    if found.st_size > most_bytes:
        raise UserError(
            f"{file} has {data_size(found.st_size)}, and no such file has more than {data_size(most_bytes)}; {RESTORE}"
        )


def check_folder(folder: Path) -> None:
    """Raise UserError for a folder that is a link out of the one that it lies in."""
    home, target = folder.parent.resolve(), folder.resolve()
    if not target.is_relative_to(home):
        raise UserError(
            f"{folder} is a link to {target}, and what a folder links to elsewhere is not read; put a copy in its place"
        )


def read_small(file: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a file, as `check_file` allows. Raises UserError for any other, and FileNotFoundError where there is
    none."""
    check_file(file, most_bytes=most_bytes)
    with file.open("rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:  # it grew meanwhile, or its size says nothing, as in /proc
        raise UserError(f"{file} has more than {data_size(most_bytes)}; {RESTORE}")
    return content


def read_json(file: Path, *, most_bytes: int = MOST_BYTES, remedy: str = RESTORE) -> Any:
    """The content of a JSON file. Raises UserError, which ends in `remedy`, for one that is no JSON, is too large, or
    that `check_file` does not allow, and FileNotFoundError where there is none."""
    try:
        return json.loads(read_small(file, most_bytes=most_bytes))
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{file} is damaged ({why}); {remedy}") from None


def read_object(file: Path, *, most_bytes: int = MOST_BYTES, remedy: str = RESTORE) -> dict[str, Any]:
    """The content of a JSON file that holds an object; raises as `read_json` does, for any other content too."""
    content = read_json(file, most_bytes=most_bytes, remedy=remedy)
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged (it holds no object of names and values); {remedy}")
    return content


DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)
"""What fails where the content of a file is taken apart, and is not what was written."""


def why(error: Exception) -> str:
    """What is wrong with the content of a file, in short, from an error of taking it apart."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return (str(error).splitlines() or [type(error).__name__])[0][:MOST_SHOWN]


@contextmanager
def taken_apart(file: Path, *, remedy: str = RESTORE) -> Iterator[None]:
    """Within the block the content of `file` is taken apart. Where it is not what was written there (a name is missing,
    a value of another kind), raises UserError, which names the file and ends in `remedy`."""
    try:
        yield
    except DAMAGE as error:
        raise UserError(f"{file} is damaged ({why(error)}); {remedy}") from error


def check_kinds(content: Mapping[str, Any], **kinds: type | tuple[type, ...]) -> None:
    """Raise ValueError for a value of another kind than the one under its name; what is missing, or null, passes."""
    for name, kind in kinds.items():
        value = content.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{name} is {value!r}"[:MOST_SHOWN])


NUMBER = (int, float)
"""For `check_kinds`."""
