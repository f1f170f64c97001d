"""The files of a prepared folder are those that were written: their hashes are compared when they are first opened.

What was found right is remembered in verified.json by size and time of change, so that the next opening costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mdlm_atat.atomic import write_json
from mdlm_atat.data.manifest import PROMPTS, PROMPTS_DTYPE, Manifest
from mdlm_atat.errors import UserError
from mdlm_atat.small_files import read_object

FILE_NAME = "verified.json"
READ_BYTES = 1 << 24
_verified: dict[str, list[int | str]] = {}
"""Of this process, by path: folders that nothing can be written to have no other memory."""


def verify(folder: Path, manifest: Manifest, split: str) -> None:
    """Check the .bin of a split and, where there are some, its .idx and .prompts against the manifest: size, hash, and
    that every id is one of the tokenizer's, every row one of the tokens and every prompt shorter than its row.

    Takes one or two seconds a gigabyte, the first time. Raises UserError that names the file which is missing, changed
    or damaged, and says what to do.
    """
    found, sizes = manifest.splits[split], {f"{split}.bin": manifest.splits[split].tokens}
    if manifest.mode == "pad":
        sizes[f"{split}.idx"] = found.rows + 1
    if manifest.loss_on == "answers":
        sizes[f"{split}{PROMPTS}"] = found.rows
    remembered = _remembered(folder)
    for name, num_items in sizes.items():
        path = folder / name
        dtype, sha256 = {
            ".bin": (manifest.dtype, found.sha256),
            ".idx": ("<u8", found.rows_sha256),
            PROMPTS: (PROMPTS_DTYPE, found.prompts_sha256),
        }[path.suffix]
        _check_size(path, num_items * np.dtype(dtype).itemsize)
        stamp = _stamp(path, sha256)
        if stamp in (remembered.get(name), _verified.get(str(path))):
            continue
        if name.endswith(".bin"):
            _check_ids(path, dtype, manifest.tokenizer["vocab_size"], sha256)
        elif path.suffix == PROMPTS:
            _check_prompts(path, np.fromfile(path.with_suffix(".idx"), "<u8"), sha256)
        else:
            _check_rows(path, manifest, found.tokens, sha256)
        _verified[str(path)] = remembered[name] = stamp
        _remember(folder, remembered)


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != expected:
        found = "is missing" if size is None else f"has {size:,} bytes"
        raise UserError(f"{path} {found}, its manifest says {expected:,}: {_remedy(path)}")


def _check_ids(path: Path, dtype: str, vocab_size: int, sha256: str) -> None:
    digest, largest = hashlib.sha256(), 0
    for data in _read(path):
        digest.update(data)
        largest = max(largest, int(np.frombuffer(data, dtype).max()))
    if digest.hexdigest() != sha256:
        raise _changed(path)
    if largest >= vocab_size:
        raise UserError(
            f"{path} holds the id {largest}, and its tokenizer has ids 0 .. {vocab_size - 1} only: {_remedy(path)}"
        )


def _check_rows(path: Path, manifest: Manifest, num_tokens: int, sha256: str) -> None:
    stored = np.fromfile(path, "<u8")
    starts = stored.astype(np.int64)
    sizes = np.diff(starts)
    fits = starts[0] == 0 and starts[-1] == num_tokens and bool((sizes > 0).all())
    # until 0.1 the manifest had no hash of the rows
    if (
        (sha256 and hashlib.sha256(stored.data).hexdigest() != sha256)
        or not fits
        or sizes.max(initial=0) > (manifest.length or 0)
    ):
        raise _changed(path)


def _check_prompts(path: Path, row_starts: np.ndarray, sha256: str) -> None:
    prompts = np.fromfile(path, PROMPTS_DTYPE)
    if hashlib.sha256(prompts.data).hexdigest() != sha256 or (prompts >= np.diff(row_starts)).any():
        raise _changed(path)


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            yield data


def _changed(path: Path) -> UserError:
    return UserError(f"{path} is not what was prepared: it was changed or damaged since. Either {_remedy(path)}")


def _remedy(path: Path) -> str:
    return f"restore it from a copy, or delete {path.parent} and prepare the corpus again"


def _stamp(path: Path, sha256: str) -> list[int | str]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, sha256]


def _remembered(folder: Path) -> dict[str, Any]:
    try:
        return read_object(folder / FILE_NAME)
    except (OSError, UserError):
        return {}


def _remember(folder: Path, verified: dict[str, Any]) -> None:
    try:
        write_json(folder / FILE_NAME, verified)
    except OSError:
        return  # a folder that may only be read is verified once a process
