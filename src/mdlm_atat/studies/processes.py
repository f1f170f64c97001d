"""Child processes of an experiment: the ordinary command, on a device of its own, its output in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mdlm_atat.studies.jobs import command_line

COMMAND = (sys.executable, "-m", "mdlm_atat")
NUM_LAST_LINES = 15
GRACE_S = 60.0  # for a child to write its checkpoint, before it is told again


def visible_devices() -> list[str]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them; one `cpu` where there is none."""
    import torch

    if not torch.cuda.is_available():
        return ["cpu"]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def start_command(
    words: Sequence[str], log: Path, *, device: str, num_threads: int, keep_open: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start `atat WORDS`, its output at the end of `log`. In a session of its own: Ctrl-C reaches the runner alone,
    which passes it on."""
    environment = dict(os.environ)
    environment["PYTHONUNBUFFERED"] = "1"
    if device == "cpu":
        environment.setdefault("OMP_NUM_THREADS", str(num_threads))
    else:
        environment["CUDA_VISIBLE_DEVICES"] = device
    log.parent.mkdir(parents=True, exist_ok=True)
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


def stop_commands(children: Sequence[subprocess.Popen[bytes]], at_once: Callable[[], bool]) -> None:
    """Ask training commands to end with a checkpoint, and wait for it; `at_once` kills what is left."""
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
        time.sleep(0.05)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """In the block, Ctrl-C, SIGTERM and a closed terminal are noted in the list that it gives."""
    heard: list[int] = []
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    previous = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in numbers}
    try:
        yield heard
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def last_lines(log: Path) -> list[str]:
    """The end of a log, of its latest command."""
    if not log.exists():
        return []
    lines = [line for line in log.read_text(errors="replace").split("\n") if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
    return lines[starts[-1] + 1 if starts else 0 :][-NUM_LAST_LINES:]
