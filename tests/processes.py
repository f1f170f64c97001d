"""Processes that run `atat`, forked from one that has imported it: a start takes milliseconds instead of the seconds
that importing torch takes. The checks of types and warnings of the tests are not in them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
from functools import cache
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest


class Started:
    """A process that runs a command. `output` and `errors` are what it has printed, once it has ended."""

    def __init__(self, argv: list[str], environment: dict[str, str] | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp())
        self.output = self.errors = ""
        everything = {**os.environ, **(environment or {}), "CUDA_VISIBLE_DEVICES": ""}
        self.process = _context().Process(target=_run, args=(argv, everything, str(Path.cwd()), str(self._folder)))
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
        self.output, self.errors = ((self._folder / name).read_text() for name in ("out", "err"))
        shutil.rmtree(self._folder)
        assert self.process.exitcode is not None
        return self.process.exitcode


def run_command(argv: list[str]) -> str:
    """What a command prints that ends well."""
    started = Started(argv)
    assert started.wait() == 0, started.errors[-3000:]
    return started.output


def run_ranks(num_processes: int, argv: list[str]) -> None:
    """Run a command on some processes of one machine, in the environment that torchrun gives to each."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0"}
    common |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
    ranks = [Started(argv, {**common, "RANK": str(n), "LOCAL_RANK": str(n)}) for n in range(num_processes)]
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


def _run(argv: list[str], environment: dict[str, str], folder: str, printed: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{printed}/{name}", os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    sys.argv = ["atat", *argv]
    from mdlm_atat.cli.main import main

    sys.exit(main(argv))
