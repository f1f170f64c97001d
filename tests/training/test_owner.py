"""One process at a time writes a run's folder, and what becomes of it when that process, or the folder, goes away."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mdlm_atat import locks
from mdlm_atat.errors import UserError
from mdlm_atat.locks import NoLocks, waiting_lock
from mdlm_atat.model_folder import LOCK_FILE
from mdlm_atat.training import owner as module
from mdlm_atat.training.owner import Owned, Owner

OWN = """
import os, sys, time
from pathlib import Path
from mdlm_atat.training.owner import Owner
owner = Owner.of(Path(sys.argv[1]), print)
{then}
print("mine", flush=True)
time.sleep(60)
"""


def start_owner(folder: Path, then: str = "") -> subprocess.Popen[str]:
    """Another process that owns the folder once this returns."""
    command = [sys.executable, "-c", OWN.format(then=then), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def refused(_: str) -> None:
    pytest.fail("nothing is to be waited for")


def untouched(folder: Path) -> None:
    pytest.fail(f"nothing is to be written to {folder}")


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.05)
    monkeypatch.setattr(module, "SILENCE_S", 0.5)
    monkeypatch.setattr(module, "GOING_S", 0.1)
    monkeypatch.setattr(module, "POLL_S", 0.02)


def test_a_second_owner_is_refused_with_the_process_that_has_the_folder_and_nothing_stays_of_an_empty_one(tmp_path):
    folder = tmp_path / "runs" / "a"
    owner = Owner.of(folder, refused)
    with pytest.raises(Owned, match=rf"process {os.getpid()} on this machine is at work in .*a since 20"):
        Owner.of(folder, refused)
    assert owner.is_in_place()
    owner.release()
    assert not (tmp_path / "runs").exists()
    folder.mkdir(parents=True)
    Owner.of(folder, refused).release()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_process_leaves_its_folder_to_the_next_within_a_second_and_one_that_is_stopped_keeps_it(
    tmp_path, number
):
    other = start_owner(tmp_path / "run")
    other.send_signal(number)
    try:
        if number == signal.SIGKILL:
            other.wait()
            start_s = time.monotonic()
            Owner.of(tmp_path / "run", refused).release()
            assert time.monotonic() - start_s < 1
        else:
            with pytest.raises(Owned, match=f"process {other.pid} on this machine"):
                Owner.of(tmp_path / "run", refused)
    finally:
        end(other)


def test_a_forked_process_that_outlives_the_owner_does_not_keep_the_folder(tmp_path):
    fork = "file = Path(sys.argv[1]) / 'child'\n"
    fork += "if os.fork() == 0: file.write_text(str(os.getpid())); time.sleep(20); os._exit(0)\n"
    fork += "while not file.exists() or not file.read_text(): time.sleep(0.01)"
    other = start_owner(tmp_path / "run", fork)
    child = int((tmp_path / "run" / "child").read_text())
    other.kill()
    other.wait()
    try:
        os.kill(child, 0)  # it lives
        Owner.of(tmp_path / "run", refused).release()
    finally:
        os.kill(child, signal.SIGKILL)
        other.communicate()


def left_by_another_machine(folder: Path, **changed: object) -> Path:
    """A lock file as a process of another machine has left it, or has it still."""
    folder.mkdir(exist_ok=True)
    file = folder / LOCK_FILE
    file.touch()
    content = {
        "token": "theirs",
        "machine": "another",
        "host": "node7",
        "pid": 12,
        "since": "yesterday",
        "inode": file.stat().st_ino,
    }
    file.write_text(json.dumps({**content, **changed}))
    return file


def test_a_process_of_another_machine_keeps_its_folder_as_long_as_it_gives_signs_of_life(tmp_path, fast):
    file = left_by_another_machine(tmp_path)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            os.utime(file)

    thread = threading.Thread(target=beat)
    thread.start()
    said: list[str] = []
    with pytest.raises(Owned, match="process 12 on node7 is at work"):
        Owner.of(tmp_path, said.append)
    ended.set()
    thread.join()
    Owner.of(tmp_path, said.append).release()  # half a second without one
    assert len(said) == 2
    assert "waiting" in said[1]


def test_the_lock_of_a_folder_that_was_copied_says_nothing_of_a_process(tmp_path):
    left_by_another_machine(tmp_path, inode=1)
    Owner.of(tmp_path, refused).release()


def test_a_container_that_was_killed_leaves_its_folder_to_the_next_one_of_the_same_machine_at_once(tmp_path):
    left_by_another_machine(tmp_path, machine=module.machine(), host="pod-1")
    Owner.of(tmp_path, refused).release()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": "x"}', '{"token": 3}'])
def test_any_content_of_a_lock_file_that_nobody_holds_is_overwritten(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    owner = Owner.of(tmp_path, refused)
    owner.check()
    owner.release()


@pytest.mark.parametrize("call", ["write", "ftruncate"])
def test_a_folder_whose_lock_could_not_be_written_on_a_full_disk_is_free_once_there_is_room(tmp_path, call):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=r"cannot be written .*No space left"):
        patch.setattr(os, call, full)
        Owner.of(tmp_path, refused)
    Owner.of(tmp_path, refused).release()


def test_ctrl_c_while_a_sign_of_life_is_waited_for_leaves_the_folder_free(tmp_path, fast):
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    left_by_another_machine(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        Owner.of(tmp_path, interrupt)
    Owner.of(tmp_path, [].append).release()


@pytest.fixture(params=["ENOLCK", "ENOTSUP", "ENOSYS"])
def no_locks(request, monkeypatch) -> str:
    number = getattr(errno, request.param)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks, "_take", refuse)
    return os.strerror(number)


def test_without_locks_a_folder_is_owned_by_signs_of_life_and_that_is_said(tmp_path, fast, no_locks):
    said: list[str] = []
    owner = Owner.of(tmp_path, said.append)
    assert "file system without file locks" in said[0]
    with pytest.raises(Owned, match=f"process {os.getpid()} on this machine is at work"):
        Owner.of(tmp_path, said.append)
    owner._ended.set()  # as when it is killed
    next_owner = Owner.of(tmp_path, said.append)
    with pytest.raises(Owned, match="has taken"):
        owner.place(untouched)
    owner.release()
    assert next_owner.is_in_place()
    next_owner.check()
    next_owner.release()


def test_without_locks_a_corpus_is_not_prepared_and_the_message_says_where_it_could_be(tmp_path, no_locks):
    expected = pytest.raises(NoLocks, match=rf"without file locks \({no_locks}\).*set ATAT_CACHE")
    with expected, waiting_lock(tmp_path / "a.lock", lambda: None):
        pytest.fail("it has no lock")


def test_an_owner_that_was_taken_over_while_it_was_suspended_writes_nothing_and_leaves_the_other_alone(tmp_path, fast):
    owner = Owner.of(tmp_path, refused)
    left_by_another_machine(tmp_path)
    with pytest.raises(Owned, match="process 12 on node7 has taken"):
        owner.place(untouched)
    time.sleep(0.2)  # it notices by itself, too
    assert not owner.is_in_place()
    owner.release()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["token"] == "theirs"


def test_a_folder_that_was_moved_is_found_even_where_another_run_has_its_place(tmp_path, fast):
    owner = Owner.of(tmp_path / "a", refused)
    (tmp_path / "a").rename(tmp_path / "b")
    other = Owner.of(tmp_path / "a", refused)
    assert not owner.is_in_place()
    assert owner.place(untouched) == tmp_path / "b"
    assert owner.left == f"{tmp_path / 'a'} was moved to {tmp_path / 'b'} while it was trained"
    owner.release()
    assert other.is_in_place()
    other.release()
    assert list(tmp_path.rglob("*")) == [tmp_path / "b"]  # it was made by another name


def test_a_folder_that_was_deleted_is_made_again_once_and_one_that_holds_something_else_is_not(tmp_path, fast):
    owner = Owner.of(tmp_path / "a", refused)
    shutil.rmtree(tmp_path / "a")
    restored: list[Path] = []
    assert owner.place(restored.append) == owner.place(restored.append) == tmp_path / "a"
    assert restored == [tmp_path / "a"]
    with pytest.raises(Owned, match="at work"):
        Owner.of(tmp_path / "a", refused)
    owner.release()
    owner = Owner.of(tmp_path / "b", refused)
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "b").write_text("mine")
    for _ in range(2):
        with pytest.raises(Owned, match=r"b lost its file \.lock while it was trained, and .* could not be saved"):
            owner.place(restored.append)
    owner.release()
    assert (tmp_path / "b").read_text() == "mine"
