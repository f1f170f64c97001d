"""What is stored with every number, so that it can be traced: code version, commit, machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path


def command() -> str:
    """The command line of this process, with the program's bare name."""
    name = Path(sys.argv[0]).name
    return shlex.join(["atat" if name == "__main__.py" else name, *sys.argv[1:]])


def code_version() -> str:
    return version("mdlm-atat")


@cache
def commit() -> str | None:
    """The git commit of the checkout this code runs from, with `+changes` where it was edited; None outside a
    checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+changes", "--exclude=*"],
            cwd=here,
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=10,
        )
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=here, capture_output=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() if tracked.returncode == 0 else None  # an environment inside someone else's checkout


def num_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu() -> str:
    """The processor's name and the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip()
            for line in info.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{name}, {num_cores()} cores"
