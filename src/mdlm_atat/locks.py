"""Locks between processes. A lock ends with the process that holds it, however that ends: nothing has to be cleaned up
after a crash. On Linux and macOS it is an advisory lock of the kernel (flock), on Windows a locked byte of the file."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mdlm_atat.atomic import make_folder
from mdlm_atat.errors import UserError

try:
    import fcntl
except ImportError:
    import msvcrt

    FAR = 1 << 30  # a byte that is locked cannot be read by others: one behind the content is

    def _take(descriptor: int, shared: bool = False) -> None:
        del shared  # Windows knows no shared lock of a byte
        os.lseek(descriptor, FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]

else:

    def _take(descriptor: int, shared: bool = False) -> None:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


POLL_S = 0.2
_HAS_NONE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a file system says that has no locks: some network file systems, depending on how they are mounted."""


class NoLocks(UserError):
    """A file lies on a file system without locks."""


@dataclass(frozen=True)
class Lock:
    descriptor: int
    """Handed to a child process (not on Windows), it keeps the lock for as long as either process lives."""

    def is_at(self, file: Path) -> bool:
        """Whether `file` is what is locked: a file of that name may have been removed, moved or put in its place."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), file.stat())
        except OSError:
            return False

    def release(self) -> None:
        _not_for_forks.discard(self.descriptor)
        os.close(self.descriptor)


_not_for_forks: set[int] = set()


def _drop_in_fork() -> None:
    for descriptor in _not_for_forks:
        os.close(descriptor)
    _not_for_forks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_in_fork)


def try_lock(file: Path, *, shared: bool = False, for_forks: bool = True) -> Lock | None:
    """Take the lock of a file, making the file if it is missing; None where another holder has it. Several may hold
    a `shared` one (on Linux and macOS). A process that is forked from this one keeps it too, unless `for_forks` is
    false: then it ends with this process, whoever outlives it. Raises NoLocks on a file system without locks."""
    make_folder(file.parent)
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)  # less the umask
        try:
            _take(descriptor, shared)
        except (BlockingIOError, PermissionError):  # what flock and Windows say of a lock that is held
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            if error.errno in _HAS_NONE:
                raise NoLocks(
                    f"{file.parent} lies on a file system without file locks ({error.strerror}), which keep processes "
                    "from writing the same files at a time: choose a place on another one (caches: set ATAT_CACHE)"
                ) from error
            raise
        lock = Lock(descriptor)
        if lock.is_at(file):
            if not for_forks:
                _not_for_forks.add(descriptor)
            return lock
        lock.release()  # the holder before removed the file: it locks nothing any more


def shared_lock(file: Path) -> Lock | None:
    """Take a shared lock of a file, after whoever holds it alone. None on Windows, where another process has it too:
    the lock of a file is one process's there."""
    while (lock := try_lock(file, shared=True)) is None and os.name != "nt":
        time.sleep(POLL_S)
    return lock


def is_locked(file: Path) -> bool:
    """Whether some process holds the lock of a file."""
    if not file.exists():
        return False
    lock = try_lock(file, shared=True)  # many may look at a time
    if lock is not None:
        lock.release()
    return lock is None


@contextmanager
def waiting_lock(file: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Wait for the lock of a file, hold it in the block, and remove the file after it. Meanwhile `on_wait` is called
    several times a second."""
    while (lock := try_lock(file)) is None:
        on_wait()
        time.sleep(POLL_S)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open
            file.unlink()
        lock.release()
