"""Child processes of a study: each runs an ordinary `atat` command on one device, with its output in a log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mdlm_atat.atomic import make_folder
from mdlm_atat.errors import command_line
from mdlm_atat.signals import signals_heard

COMMAND = (sys.executable, "-m", "mdlm_atat")
SILENT = "ignore::UserWarning:mdlm_atat.runs.request"
"""For PYTHONWARNINGS: a run has settings that are meant for other arms too, and `Grid.without_effect` is said once."""
NUM_LAST_LINES = 15
POLL_S = 0.05
GRACE_S = 60.0  # for a child to write its checkpoint, before it is told again


def visible_devices() -> list[str]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them; `["cpu"]` where there is none."""
    import torch

    if not torch.cuda.is_available():
        return ["cpu"]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def start_command(
    words: Sequence[str], log: Path, *, device: str, num_threads: int, keep_open: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start `atat WORDS` on a device. Its output is added to `log`.

    It runs in a session of its own, so that Ctrl-C reaches the runner alone, which passes it on. `keep_open` are file
    descriptors, of locks, that it inherits.
    """
    environment = dict(os.environ)
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONWARNINGS"] = ",".join(filter(None, [environment.get("PYTHONWARNINGS"), SILENT]))
    if device == "cpu":
        environment.setdefault("OMP_NUM_THREADS", str(num_threads))
    else:
        environment["CUDA_VISIBLE_DEVICES"] = device
    make_folder(log.parent)
    with log.open("ab") as stream:
        stream.write(f"$ {command_line(words)}\n".encode())
        stream.flush()
        return subprocess.Popen(
            [*COMMAND, *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=tuple(keep_open) if os.name == "posix" else (),
        )


def run_command(
    words: Sequence[str],
    log: Path,
    *,
    device: str,
    num_threads: int,
    should_stop: Callable[[], bool],
    keep_open: Sequence[int] = (),
    kill: bool = False,
) -> int:
    """Run `atat WORDS` as `start_command` starts it, and wait for its end. Returns its exit code.

    Once `should_stop()` is true it is asked to end or, with `kill`, killed.
    """
    child = start_command(words, log, device=device, num_threads=num_threads, keep_open=keep_open)
    while child.poll() is None and not should_stop():
        time.sleep(POLL_S)
    stop_commands([child], at_once=lambda: kill)
    return child.returncode


def stop_commands(children: Sequence[subprocess.Popen[bytes]], at_once: Callable[[], bool]) -> None:
    """Ask commands to end, which they do with a checkpoint where they train, and wait until they have ended.

    Once `at_once()` is true, those that are left are killed.
    """
    for child in children:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
    asked_s = time.monotonic()
    told_again = False
    while any(child.poll() is None for child in children):
        if at_once():
            for child in children:
                child.kill()
        elif not told_again and time.monotonic() - asked_s > GRACE_S:
            told_again = True
            for child in children:
                child.terminate()  # ends what does not train; in training it asks for the checkpoint once more
        time.sleep(POLL_S)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Within the block, add the number of each signal that asks for the end to the list that it yields."""
    heard: list[int] = []
    with signals_heard(heard.append):
        yield heard


def last_lines(log: Path) -> list[str]:
    """The last lines of a log, of its latest command alone."""
    if not log.exists():
        return []
    lines = [line for line in log.read_text(errors="replace").split("\n") if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
    return lines[starts[-1] + 1 if starts else 0 :][-NUM_LAST_LINES:]
