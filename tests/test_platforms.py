"""Where Windows lacks what Linux and macOS have, one process works all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from mdlm_atat.cli.main import main
from tiny_runs import tiny_flags, write_text

AS_ON_WINDOWS = """
import fcntl, importlib, os, pkgutil, signal, sys, types, warnings
from pathlib import Path
import lightning_fabric, matplotlib.figure, rich.progress, subprocess, tokenizers, torch

def locking(descriptor, mode, size):
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        raise PermissionError("Permission denied")

def refuse(*arguments, **named):
    raise OSError("A required privilege is not held by the client")

def open_file(path, *arguments, **named):
    if os.path.isdir(path):
        raise PermissionError("Permission denied")
    return open_any(path, *arguments, **named)

flock, LOCK_EX, LOCK_NB, open_any = fcntl.flock, fcntl.LOCK_EX, fcntl.LOCK_NB, os.open
os.symlink, os.open = refuse, open_file
del signal.SIGHUP, os.sched_getaffinity, os.uname
for name in ("fcntl", "resource", "termios"):
    sys.modules[name] = None
msvcrt = sys.modules["msvcrt"] = types.ModuleType("msvcrt")
msvcrt.locking, msvcrt.LK_NBLCK = locking, 2
import mdlm_atat.locks
del sys.modules["msvcrt"]  # others take its presence for Windows itself

# the encoding of a text file is the system's where none is named, and Windows' is not UTF-8
warnings.filterwarnings("error", category=EncodingWarning, module="mdlm_atat")
for module in pkgutil.walk_packages(mdlm_atat.__path__, "mdlm_atat."):
    if not module.name.startswith(("mdlm_atat.__main__", "mdlm_atat.harness", "mdlm_atat.hf")):  # these import extras
        importlib.import_module(module.name)
"""

ONE_PROCESS = """
from mdlm_atat import load_lm
from mdlm_atat.cli.main import main
from mdlm_atat.locks import is_locked, try_lock

folder, flags = Path(sys.argv[1]), sys.argv[2:]
assert main(["train", "demo", "--out", str(folder / "run"), *flags]) == 0
assert main(["train", "--resume", str(folder / "run"), "--train.num_steps", "4"]) == 0
best = folder / "run" / "checkpoints" / "best"
assert not best.is_symlink() and best.read_text(encoding="utf-8").startswith("step-")
assert load_lm(best).generate("the", length=8).text.startswith("the")
assert main(["generate", str(folder / "run"), "--length", "8"]) == 0
lock = try_lock(folder / "a.lock")
assert is_locked(folder / "a.lock") and try_lock(folder / "a.lock") is None
lock.release()
assert not is_locked(folder / "a.lock")
"""


@pytest.mark.slow
def test_all_modules_import_and_a_run_is_trained_resumed_and_loaded_without_what_windows_lacks(tmp_path: Path):
    flags = tiny_flags(write_text(tmp_path / "text.txt"), train__num_steps=2)
    done = subprocess.run(
        [sys.executable, "-c", AS_ON_WINDOWS + ONE_PROCESS, str(tmp_path), *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "ATAT_CACHE": str(tmp_path / "cache"), "PYTHONWARNDEFAULTENCODING": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "at the peak" not in done.stdout  # a process is not told there


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "module://nonexistent"])
def test_the_drawing_backend_of_a_notebook_does_not_reach_a_command(backend):
    """`!atat train` in a cell, where matplotlib_inline is installed for the notebook alone."""
    draw = "from mdlm_atat.cli.main import main; main(['--version']); import matplotlib.pyplot as plt; plt.figure()"
    subprocess.run([sys.executable, "-c", draw], check=True, env={**os.environ, "MPLBACKEND": backend})


def test_a_character_that_the_output_cannot_show_does_not_end_a_command(monkeypatch):
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(written, encoding="cp1252"))
    assert main(["--version"]) == 0
    print("cats \N{CHECK MARK}")
    sys.stdout.flush()
    assert b"cats ?" in written.getvalue()
