"""A disk that fails: the n-th thing that is done to the files of a folder goes wrong, as a full or broken disk, closed
permissions or a killed process would have it. All else on the machine is left alone."""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import safetensors.torch
from safetensors import SafetensorError

from mdlm_atat import locks
from mdlm_atat.data import cache
from mdlm_atat.training import packed

WRITES = {"write", "rename", "fsync", "create", "mkdir", "symlink"}
"""Operations that a full disk refuses."""
CHANGES = WRITES - {"fsync"}
"""Operations after which there is something else on the disk, for those who read it."""
ERRORS = {  # what the system may say of each kind of operation
    "open": (errno.EACCES, errno.EIO),
    "read": (errno.EIO,),
    "create": (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO),
    "write": (errno.ENOSPC, errno.EDQUOT, errno.EIO),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.EACCES, errno.ENOSPC),
    "mkdir": (errno.ENOSPC, errno.EACCES, errno.EIO),
    "symlink": (errno.ENOSPC, errno.EIO),
}


class Killed(BaseException):
    """Stands in for signal 9. Nothing that is done after it reaches the disk, so that cleaning up is no help."""


@dataclass(frozen=True)
class Fault:
    """Operation `number`, counted from 1, fails: with `code`, or (None) the process is killed there. `lasts`: what
    writes fails from then on, as on a full disk."""

    number: int
    code: int | None
    lasts: bool = False

    @classmethod
    def drawn(cls, number: int, kind: str, rng: random.Random) -> Fault:
        return cls(number, rng.choice(ERRORS[kind]), lasts=kind in WRITES and rng.random() < 0.5)

    def __str__(self) -> str:
        said = "killed" if self.code is None else errno.errorcode[self.code]
        return f"{said} at operation {self.number}{' and after it' * self.lasts}"


@dataclass
class Disk:
    """What is done to the files below `root` while `mounted`, in `events` of (kind, path), and what fails."""

    root: Path
    fault: Fault | None = None
    events: list[tuple[str, str]] = field(default_factory=list)
    is_dead: bool = False
    _is_paused: bool = False
    _open: dict[int, str] = field(default_factory=dict)
    _files: WeakSet[_File] = field(default_factory=WeakSet)

    def meet(self, kind: str, path: str, half: Callable[[], object] = lambda: None) -> None:
        """Before an operation is done: raises what it is to fail with. `half` is what gets done nevertheless."""
        if self._is_paused:
            return
        if self.is_dead:
            raise Killed
        self.events.append((kind, path))
        fault, number = self.fault, len(self.events)
        if fault is None or (number != fault.number and not (number > fault.number and fault.lasts and kind in WRITES)):
            return
        half()
        if fault.code is None:
            self.is_dead = True
            raise Killed
        raise OSError(fault.code, os.strerror(fault.code), path)

    @property
    def has_failed(self) -> bool:
        return self.fault is not None and len(self.events) >= self.fault.number

    def finds(self, path: Any, folder: int | None = None) -> str | None:
        """The path below `root` that is meant; None for any other."""
        if isinstance(path, int):
            return self._open.get(path)
        if folder is not None:
            path = os.path.join(self._open.get(folder, "/"), os.fspath(path))  # noqa: PTH118
        path = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        return path if path.startswith(f"{self.root}{os.sep}") else None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block nothing is counted, and nothing fails."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Within the block the disk is as this object has it. What a killed process had open is closed at its end."""
        with pytest.MonkeyPatch.context() as patch:
            for name, function in _stand_ins(self).items():
                patch.setattr(os, name, function)
            patch.setattr(io, "open", opened := _open_in(self, io.open))
            patch.setattr(builtins, "open", opened)
            patch.setattr(safetensors.torch, "serialize_file", _tensors_in(self, "serialize_file"))
            for module in (safetensors.torch, packed):
                patch.setattr(module, "safe_open", _tensors_in(self, "safe_open"))
            yield
        if self.is_dead:
            for file in list(self._files):
                file.close()
            for descriptor in self._open:
                os.close(descriptor)
            cache._held.clear()
            locks._not_for_forks.clear()


class _File(io.FileIO):
    """A file below the root of a disk, without a buffer."""

    def __init__(self, disk: Disk, path: str, mode: str) -> None:
        self._disk, self._path = disk, path
        self._fails_next: OSError | None = None
        self._is_unread = True
        super().__init__(path, mode)
        disk._open[self.fileno()] = path
        disk._files.add(self)

    def write(self, data: Any, /) -> int:
        if self._disk.is_dead:
            return len(data)  # what a buffer held is lost with its process
        write, half = super().write, bytes(data)[: len(data) // 2]
        if self._fails_next is not None:
            failed, self._fails_next = self._fails_next, None
            raise failed
        try:
            self._disk.meet("write", self._path, half=lambda: write(half))
        except OSError as error:  # the system says how much it has written, and when asked for the rest that it cannot
            self._fails_next = error
            return len(half)
        return write(data)

    def readinto(self, buffer: Any, /) -> int:
        self._meet_first_read()
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._meet_first_read()
        return super().readall()

    def _meet_first_read(self) -> None:
        """The first alone: what is read here is read in one piece, or is as well lost from its beginning."""
        if self._is_unread:
            self._is_unread = False
            self._disk.meet("read", self._path)

    def _dealloc_warn(self, source: Any) -> None:
        if not self._disk.is_dead:  # a killed process warns of nothing
            warnings.warn(f"unclosed file {source!r}", ResourceWarning, source=source, stacklevel=2)

    def close(self) -> None:
        if not self.closed:
            self._disk._open.pop(self.fileno(), None)
        super().close()


def _open_in(disk: Disk, real: Callable[..., Any]) -> Callable[..., Any]:
    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        path = None if isinstance(file, int) or opener is not None else disk.finds(file)
        if path is None or disk._is_paused or Path(path).is_dir():
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        writes = any(letter in mode for letter in "wax+")
        disk.meet("create" if any(letter in mode for letter in "wax") else "open", path)
        raw = _File(disk, path, mode.replace("b", "").replace("t", ""))
        buffered = (
            io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw) if writes else io.BufferedReader(raw)
        )
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "locale", errors, newline)

    return opened


def _stand_ins(disk: Disk) -> dict[str, Callable[..., Any]]:
    real = {name: getattr(os, name) for name in ("open", "close", "fsync", "write")}

    def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if (found := disk.finds(path, dir_fd)) is not None:
            creates = flags & os.O_CREAT and not Path(found).exists()
            disk.meet("create" if creates else "open", found)
        descriptor = real["open"](path, flags, mode, dir_fd=dir_fd)
        if found is not None:
            disk._open[descriptor] = found
        return descriptor

    def close(descriptor: int) -> None:
        disk._open.pop(descriptor, None)
        real["close"](descriptor)

    def fsync(descriptor: int) -> None:
        if (found := disk.finds(descriptor)) is not None:
            disk.meet("fsync", found)  # and that is enough: what really waits for the disk is slow

    def write(descriptor: int, data: Any) -> int:
        if (found := disk.finds(descriptor)) is not None:
            disk.meet("write", found, half=lambda: real["write"](descriptor, bytes(data)[: len(data) // 2]))
        return real["write"](descriptor, data)

    def changing(name: str, kind: str | None, which: int = 0) -> Callable[..., Any]:
        """`kind` None: it is not counted, but a dead process does it no more."""
        function = getattr(os, name)

        def change(*arguments: Any, dir_fd: int | None = None, **named: Any) -> Any:
            if (found := disk.finds(arguments[which], dir_fd)) is not None:
                if kind is not None:
                    disk.meet(kind, found)
                elif disk.is_dead:
                    raise Killed
            return function(*arguments, **({} if dir_fd is None else {"dir_fd": dir_fd}), **named)

        return change

    kinds = {"rename": "rename", "replace": "rename", "mkdir": "mkdir", "symlink": "symlink"}
    kinds |= dict.fromkeys(["unlink", "remove", "rmdir", "utime", "chmod"])
    changes = {name: changing(name, kind, which=1 if name == "symlink" else 0) for name, kind in kinds.items()}
    return {"open": open_, "close": close, "fsync": fsync, "write": write, **changes}


def _tensors_in(disk: Disk, name: str) -> Callable[..., Any]:
    """The two functions of safetensors, which reads and writes files by itself."""
    function = getattr(safetensors.torch, name)

    def written(tensors: Any, file: Any, *more: Any, **named: Any) -> Any:
        if disk.is_dead:
            raise Killed
        function(tensors, file, *more, **named)
        if (path := disk.finds(file)) is not None:
            try:
                disk.meet("write", path, half=lambda: os.truncate(path, Path(path).stat().st_size // 2))
            except OSError as error:
                said = f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
                raise SafetensorError(said) from None

    def read(file: Any, *more: Any, **named: Any) -> Any:
        if (path := disk.finds(file)) is not None:
            disk.meet("open", path)
        return function(file, *more, **named)

    return written if name == "serialize_file" else read
