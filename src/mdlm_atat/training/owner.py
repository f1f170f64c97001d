"""Who may write a run's folder: one process at a time, its owner.

The owner holds the lock of the file `.lock` in the folder, which ends with the process, however that ends. Locks do not
reach across machines on every network file system, and some have none; so the file also says who the owner is, and its
time is renewed every few seconds. Where a lock can be had but the file names a process of another machine, a newcomer
waits for a sign of life and takes the folder over only if none comes. Readers need none of it.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from mdlm_atat.errors import UserError
from mdlm_atat.locks import Lock, NoLocks, try_lock
from mdlm_atat.model_folder import LOCK_FILE
from mdlm_atat.small_files import read_object

BEAT_S = 5.0
"""Between two signs of life."""
SILENCE_S = 30.0
"""Without one, a process of another machine is taken to be gone."""
GOING_S = 2.0  # a folder that is being deleted, file by file, is gone by then
POLL_S = 0.5


class Owned(UserError):
    """A folder is another's."""


class Owner:
    """The right to write a run's folder, from `Owner.of(folder)` until `release()`."""

    def __init__(self, folder: Path, lock: Lock, made: list[Path]) -> None:
        self.folder = folder
        """Where the run lies: the folder that was asked for, and where it was moved to once that was noticed."""
        self.left: str | None = None
        """What became of the folder that was asked for, once it was noticed that it is not there any more."""
        self._lock = lock
        self._made = made  # folders that were not there before, the innermost first
        self._token = secrets.token_hex(8)
        self._ended = threading.Event()
        self._again: Owner | None = None  # of the folder that was made in place of one that was deleted
        self._is_taken = False
        content = {
            "token": self._token,
            "machine": machine(),
            "host": platform.node(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "inode": os.fstat(lock.descriptor).st_ino,  # a copy of the file says nothing of a process
        }
        os.ftruncate(lock.descriptor, 0)
        os.lseek(lock.descriptor, 0, os.SEEK_SET)
        os.write(lock.descriptor, json.dumps(content).encode())
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    @classmethod
    def of(cls, folder: Path, say: Callable[[str], None]) -> Owner:
        """Become the owner of a folder, which is made if it is missing. Raises UserError where another process owns it;
        `say` is told where it takes some seconds to find that out."""
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        file = folder / LOCK_FILE
        try:
            before = _read(file)
            has_locks = True
            try:
                lock = try_lock(file, for_forks=False)
            except NoLocks:
                say(f"{folder} lies on a file system without file locks: signs of life every {BEAT_S:g} s stand in")
                lock, has_locks = Lock(os.open(file, os.O_RDWR | os.O_CREAT, 0o666)), False
            if lock is None:
                raise Owned(_owned(folder, _read(file)))
            with ExitStack() as on_error:
                on_error.callback(lock.release)
                reaches_it = has_locks and before.get("machine") == machine()
                if not reaches_it and before.get("inode") == os.fstat(lock.descriptor).st_ino:
                    _wait_for_sign_of_life(folder, before, say)
                owner = cls(folder, lock, made)
                on_error.pop_all()
                on_error.callback(owner.release)
                if not has_locks:  # of those who start at the same moment, the last one has its name in the file
                    time.sleep(POLL_S)
                    owner.check()
                on_error.pop_all()
                return owner
        except OSError as error:
            with suppress(OSError):  # that there is something in them
                if made and not _read(file):
                    file.unlink(missing_ok=True)
                for path in made:
                    path.rmdir()
            raise UserError(f"{folder} cannot be written ({error}); choose another place, or mend that") from error

    def release(self) -> None:
        """Let others have the folder. Folders that were made for it and are empty go again."""
        self._ended.set()
        self._beats.join()  # it uses the descriptor, which another file may get as soon as it is closed
        if self._again is not None:
            self._again.release()
        if _read(self.folder / LOCK_FILE).get("token") == self._token:
            with suppress(OSError):  # Windows removes no file that is open: it is empty then, and names nobody
                os.ftruncate(self._lock.descriptor, 0)
                (self.folder / LOCK_FILE).unlink()
        self._lock.release()
        with suppress(OSError):  # that something is in them
            for folder in self._made:
                folder.rmdir()

    def is_in_place(self) -> bool:
        """Whether the folder is still where it was asked for, and nobody else has it. It costs microseconds."""
        return not self._is_taken and self._lock.is_at(self.folder / LOCK_FILE)

    def check(self) -> None:
        """Raises UserError where another process has taken the folder over."""
        other = _read(self.folder / LOCK_FILE)
        if other.get("token", self._token) != self._token and self._lock.is_at(self.folder / LOCK_FILE):
            raise Owned(
                f"{_process(other)} has taken {self.folder} over, as this one gave no sign of life for "
                f"{SILENCE_S:.0f} seconds or they started together; this one ends, and leaves what is there alone"
            )

    def place(self, restore: Callable[[Path], None]) -> Path:
        """Where to write now: the folder; the place that it was moved to, if that can be found out; and where it was
        deleted, the same path again, after `restore` has written there what a run's folder starts with. `left` says
        what happened.

        Raises Owned where another process has taken the folder over, and where it cannot be written again.
        """
        self.check()
        if self.is_in_place() or self.left is not None:
            return self.folder
        if (moved_to := self._moved_to()) is not None:
            self.left = f"{self.folder} was moved to {moved_to} while it was trained"
            self.folder = moved_to
            return moved_to
        end_s = time.monotonic() + GOING_S
        while self.folder.exists() and time.monotonic() < end_s:
            time.sleep(POLL_S / 10)
        what = f"lost its file {LOCK_FILE}" if self.folder.exists() else "was deleted"
        left = f"{self.folder} {what} while it was trained"
        try:
            self._again = self._again or Owner.of(self.folder, lambda _: None)
            restore(self.folder)
        except (OSError, UserError) as error:
            raise Owned(f"{left}, and what it had reached could not be saved there again: {error}") from error
        self.left = left
        return self.folder

    def _moved_to(self) -> Path | None:
        """Where the folder is now, as the system knows of a file that is open; None where it does not say."""
        descriptor, found = self._lock.descriptor, ""
        with suppress(OSError, ImportError, AttributeError):
            if os.path.lexists(f"/proc/self/fd/{descriptor}"):
                found = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  # as text: " (deleted)" may end it
            else:
                import fcntl

                found = os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))  # type: ignore[attr-defined]
        return Path(found).parent if found and self._lock.is_at(Path(found).with_name(LOCK_FILE)) else None

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self.check()
                os.utime(self._lock.descriptor if os.utime in os.supports_fd else self.folder / LOCK_FILE)
            except OSError:
                continue  # it is for those who write to say that
            except Owned:
                self._is_taken = True


def _read(file: Path) -> dict[str, Any]:
    """Who the file says that the owner is; nothing where it is missing, empty or anything else."""
    try:
        return read_object(file)
    except (OSError, UserError):
        return {}


def machine() -> str:
    """What tells this machine from others, where locks may not reach: containers of one have it in common."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()


def _process(owner: dict[str, Any]) -> str:
    if "pid" not in owner:
        return "another process"
    return f"process {owner['pid']} on {'this machine' if _is_here(owner) else owner.get('host')}"


def _is_here(owner: dict[str, Any]) -> bool:
    """Whether it is a process of this machine and, in a container, of this one."""
    return (owner.get("machine"), owner.get("host")) == (machine(), platform.node())


def _owned(folder: Path, owner: dict[str, Any]) -> str:
    since = f" since {owner['since']}" if "since" in owner else ""
    kill = f" (kill {owner['pid']})" if _is_here(owner) and "pid" in owner else ""
    return (
        f"{_process(owner)} is at work in {folder}{since}, and one at a time may be: wait until it is done, or end "
        f"it{kill}, which saves what it has reached"
    )


def _wait_for_sign_of_life(folder: Path, owner: dict[str, Any], say: Callable[[str], None]) -> None:
    """Raises UserError if the owner that a folder names gives a sign of life within SILENCE_S."""
    say(f"{_process(owner)} had {folder} and has not given it back: waiting {SILENCE_S:.0f} s for a sign of life")
    before = _beaten(folder)
    end_s = time.monotonic() + SILENCE_S
    while time.monotonic() < end_s:
        time.sleep(POLL_S)
        if _beaten(folder) != before:
            raise Owned(_owned(folder, _read(folder / LOCK_FILE)))


def _beaten(folder: Path) -> tuple[int, Any]:
    """The last sign of life. The file is opened for it: network file systems look at it anew then."""
    with (folder / LOCK_FILE).open("rb") as stream:
        return os.fstat(stream.fileno()).st_mtime_ns, stream.read()
