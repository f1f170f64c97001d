"""The files of one `.gguf` network in several parts, NAME-00001-of-00003.gguf and so on. No torch here."""

from __future__ import annotations

import re
from pathlib import Path

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
MOST_PARTS = 10_000


def names_of_parts(name: str) -> list[str]:
    """The names of all parts of the network that the file `name` is a part of, in order; `name` alone where it is not
    called as a part is."""
    found = _PART.fullmatch(name)
    if found is None or not 1 <= int(found[2]) <= int(found[3]) <= MOST_PARTS:
        return [name]
    return [f"{found[1]}-{number:05d}-of-{found[3]}.gguf" for number in range(1, int(found[3]) + 1)]


def parts_of(path: Path) -> list[Path]:
    """The files of the network that a `.gguf` file is a part of, in order, whether they are there or not; `path` alone
    where it is no part. A link may be called anything: the parts lie beside it, or beside what it leads to."""
    for file in (path, path.resolve()):
        if len(names := names_of_parts(file.name)) > 1:
            return [file.with_name(name) for name in names]
    return [path]


def parts_there(path: Path) -> list[Path]:
    """A file of weights, and the other parts of its network that are there."""
    return [file for file in parts_of(path) if file.is_file()]


def tokenizer_beside(path: Path) -> Path | None:
    """The folder with the tokenizer.json that belongs to a `.gguf` file: the one in which the file, or the link, lies,
    else that of the file that the link leads to. None where neither has one."""
    return next((file.parent for file in (path, path.resolve()) if (file.parent / "tokenizer.json").exists()), None)
