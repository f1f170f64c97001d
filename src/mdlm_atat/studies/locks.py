"""Locks that end with their holders, however those end: two runners on one folder share its work."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.2


@dataclass(frozen=True)
class Lock:
    descriptor: int
    """Handed to a child process, it keeps the lock for as long as either lives."""

    def release(self) -> None:
        os.close(self.descriptor)


def try_lock(file: Path) -> Lock | None:
    """The lock of a file, or None where another process holds it."""
    descriptor = _open(file)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Lock(descriptor)


def is_locked(file: Path) -> bool:
    """Whether some process holds it."""
    if not file.exists():
        return False
    descriptor = _open(file)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # many may look at a time
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def waiting_lock(file: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Wait for the lock of a file, and hold it in the block; `on_wait` is called every now and then meanwhile."""
    while (lock := try_lock(file)) is None:
        on_wait()
        time.sleep(POLL_S)
    try:
        yield
    finally:
        lock.release()


def _open(file: Path) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
