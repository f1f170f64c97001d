"""Processes that run `atat`, forked from one that has imported it: a start takes milliseconds instead of the seconds
that importing torch takes. The checks of types and warnings of the tests are not in them."""

from __future__ import annotations

import multiprocessing
import os
import pty
import shutil
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TextIO

import pytest


class Started:
    """A process that runs a command. `output` and `errors` are what it has printed, once it has ended."""

    def __init__(
        self, argv: list[str], environment: dict[str, str] | None = None, printed_to: dict[str, str] | None = None
    ) -> None:
        """`printed_to`: the kind of place that "stdout" and "stderr" are, one of PLACES, or an encoding of a file."""
        self._folder = Path(tempfile.mkdtemp())
        self.output = self.errors = ""
        everything = {**os.environ, **(environment or {}), "CUDA_VISIBLE_DEVICES": ""}
        self.process = _context().Process(
            target=_run, args=(argv, everything, str(Path.cwd()), str(self._folder), printed_to or {})
        )
        self.process.start()

    @property
    def output_so_far(self) -> str:
        """What it has printed, while it runs."""
        return (self._folder / "out").read_text() if (self._folder / "out").exists() else ""

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, timeout_s: float = 120) -> int:
        """The exit code; minus the signal that ended it. A process that does not end in time is killed."""
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        found = [file for file in (self._folder / "out", self._folder / "err") if file.exists()]
        found += [Path(os.devnull)] * (2 - len(found))  # it was killed before it could print
        self.output, self.errors = (file.read_bytes().decode(errors="surrogateescape") for file in found)
        shutil.rmtree(self._folder)
        assert self.process.exitcode is not None
        return self.process.exitcode


def run_command(argv: list[str]) -> str:
    """What a command prints that ends well."""
    started = Started(argv)
    assert started.wait() == 0, started.errors[-3000:]
    return started.output


def start_ranks(num_processes: int, argv: list[str]) -> list[Started]:
    """Start a command on some processes of one machine, in the environment that torchrun gives to each."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0"}
    common |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
    return [Started(argv, {**common, "RANK": str(n), "LOCAL_RANK": str(n)}) for n in range(num_processes)]


def run_ranks(num_processes: int, argv: list[str]) -> None:
    """Run a command that ends well on some processes of one machine."""
    ranks = start_ranks(num_processes, argv)
    waiting = {each.process.sentinel: each for each in ranks}
    while waiting:
        ready = connection.wait(list(waiting), timeout=120)
        ended = [waiting.pop(sentinel) for sentinel in list(waiting) if sentinel in ready]
        if not ended or any(each.process.exitcode for each in ended):  # the others wait for what will not come
            for each in waiting.values():
                each.process.kill()
    codes = [each.wait() for each in ranks]
    assert not any(codes), "\n".join(each.errors[-3000:] for each in ranks)


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mdlm_atat.cli.main", "mdlm_atat.runs.train", "mdlm_atat.report.report"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("OMP_NUM_THREADS", "1")
        multiprocessing.forkserver.ensure_running()  # type: ignore[attr-defined]
    return context


_terminals: dict[int, threading.Thread] = {}
PLACES = ("full", "closed", "broken pipe", "gone terminal", "terminal")


def _run(argv: list[str], environment: dict[str, str], folder: str, printed: str, printed_to: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{printed}/{name}", os.O_WRONLY | os.O_CREAT), number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, _stream(number, printed_to.get(name, "utf-8")))
    sys.argv = ["atat", *argv]
    from mdlm_atat.cli.main import main

    code = main(argv)
    for number, copying in _terminals.items():  # all that was printed is to be read
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        copying.join()
    sys.exit(code)


def _stream(number: int, place: str) -> TextIO | None:
    """Standard output or error, which lead to a file as yet, leading to such a place."""
    match place:
        case "closed":
            os.close(number)
            return None
        case "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), number)
        case "broken pipe":
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, number)
        case "gone terminal" | "terminal":
            reader, writer = pty.openpty()
            file = os.dup(number)
            os.dup2(writer, number)
            if place == "terminal":
                _terminals[number] = threading.Thread(target=_copy, args=(reader, file), daemon=True)
                _terminals[number].start()
            else:
                os.close(reader)
            os.close(writer)
    return os.fdopen(number, "w", closefd=False, encoding="utf-8" if place in PLACES else place)


def _copy(reader: int, file: int) -> None:
    with suppress(OSError):  # nobody writes to the terminal any more
        while content := os.read(reader, 1 << 16):
            os.write(file, content)
