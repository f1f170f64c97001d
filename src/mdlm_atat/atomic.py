"""Writing files and folders atomically: they are written under another name, flushed to the disk, and renamed. Their
permissions follow the umask, whatever library writes them."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mdlm_atat.errors import UserError


def check_writable(file: Path, name: str) -> None:
    """Raises UserError where no file can be written there, so that it is said before the work is done. `name`: the
    argument or flag that names the file, for the message."""
    if file.is_dir():
        raise UserError(f"{name}: {file} is a folder; name a file in it")
    if not file.parent.is_dir():
        raise UserError(f"{name}: there is no folder {file.parent}; make it first")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"{name}: {file} cannot be written; choose another place or change its permissions")


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, unless they are there. Raises PermissionError where there can be none: in
    /proc, for one, of which the system says that the folder above is missing; and NotADirectoryError where a file is in
    its place, as the system says of a file farther up."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error
    except FileNotFoundError as error:
        raise PermissionError(errno.EACCES, "No folder can be made here", str(folder)) from error


def write_text(file: Path, content: str) -> None:
    """Write `content` to `file`, atomically: after a crash, and to whoever reads it meanwhile, it is the old file or
    the new one. A byte of a path that is no UTF-8 (half a character in Python: "\\udcfc" is the byte FC) is written as
    JSON and YAML write it in their strings, and read back as that byte."""
    write_bytes(file, content.encode(errors="backslashreplace"))


def write_bytes(file: Path, content: bytes) -> None:
    """Write bytes to `file`, atomically: see `write_text`."""
    with written_aside(file) as aside, aside.open("wb") as stream:
        stream.write(content)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Within the block an error that says that a disk is full names `path`, unless it names a file: `write` and `fsync`
    do not know theirs, and the cache, the results and the temporary files may be on disks of their own."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def nothing_new_left(path: Path) -> Iterator[None]:
    """Within the block a file or a folder is written to in its place. Where that fails, and it was not there before, it
    is removed with what is in it."""
    is_new = not path.exists()
    try:
        yield
    except OSError:
        if is_new:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


@contextmanager
def written_aside(file: Path) -> Iterator[Path]:
    """An empty file beside `file` to write to. At the end of the block it is flushed to the disk and becomes `file`;
    where the block raises, `file` stays as it was. A device, a pipe or the name of an open file is written to itself:
    root could put a file in the place of /dev/null."""
    if is_device(file):
        yield file
        return
    aside = file.with_name(f".{file.name}.{secrets.token_hex(4)}.writing")  # its own: others may write the same file
    try:
        aside.touch(exist_ok=False)
        mode = aside.stat().st_mode
        with full_disk_named(file):
            yield aside
            if aside.stat().st_mode != mode:  # safetensors makes files that nobody else may read
                aside.chmod(stat.S_IMODE(mode))
            sync(aside)
            aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
    sync(file.parent)


def is_device(file: Path) -> bool:
    """Whether this is a device, a pipe or the name of an open file, such as /dev/stdout, which may lead to a file."""
    folder = file.parent.resolve()
    is_name_of_open_file = folder == Path("/dev") or folder.is_relative_to("/proc")
    return file.exists() and (is_name_of_open_file or not (file.is_file() or file.is_dir()))


@contextmanager
def folder_written_aside(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` to write to. At the end of the block all that is in it is flushed to the disk and
    it becomes `folder`, in place of one that is there; where the block raises, `folder` stays as it was. What a killed
    process has left under the same name is removed."""
    aside = aside_of(folder)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        make_folder(folder.parent)
        aside.mkdir()
        with full_disk_named(folder):
            yield aside
            sync_folder(aside)
        if folder.exists():
            remove_folder(folder)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sync(folder.parent)


def aside_of(folder: Path) -> Path:
    """The folder in which `folder_written_aside` writes, where several processes write to it."""
    return folder.with_name(f".writing-{folder.name}")


def remove_folder(folder: Path) -> None:
    """Remove a folder and all that is in it. Under its own name it is whole until it is not there any more: a killed
    process leaves no half of it."""
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def sweep(folder: Path, older_than_s: float = 0.0) -> None:
    """Remove what killed processes have left of files and folders that they were writing into `folder`, if nobody has
    touched it for so long."""
    for path in [*folder.glob(".*.writing"), *folder.glob(".writing-*")]:
        with suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime >= older_than_s:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what killed processes have left of files that they were writing into it."""
    return all(is_aside(path.name) for path in folder.iterdir())


def is_aside(name: str) -> bool:
    """Whether a file or folder of this name is one that is being written, or was when its process was killed."""
    return name.startswith(".writing-") or re.fullmatch(r"\..+\.writing", name) is not None


@contextmanager
def stored_if_possible(place: Path) -> Iterator[None]:
    """Within the block a result that was computed is stored in `place`. Where it cannot be, since that may only be read
    or the disk is full, a warning says so, and the result goes on to whoever asked for it."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        warnings.warn(f"what was found is not stored, for {place} cannot be written: {why}", stacklevel=3)


def write_json(file: Path, content: Any) -> None:
    """Write `content` as JSON, atomically. NaN and infinity become null (the standard error of a single draw, for
    example)."""
    write_text(file, json.dumps(finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def finite(content: Any) -> Any:
    """The content with null in place of NaN and infinity, which JSON does not have."""
    match content:
        case dict():
            return {key: finite(value) for key, value in content.items()}
        case list() | tuple():
            return [finite(value) for value in content]
        case float() if not math.isfinite(content):
            return None
        case _:
            return content


def sync_folder(folder: Path) -> None:
    """Flush a folder and all that is in it to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk. Where folders cannot be opened (Windows), the system does
    that by itself."""
    is_folder = path.is_dir()
    reads_only = is_folder or not os.access(path, os.W_OK)
    try:
        descriptor = os.open(path, os.O_RDONLY if reads_only else os.O_RDWR)  # Windows flushes what may be written
    except PermissionError:
        if is_folder:
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
