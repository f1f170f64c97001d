"""A JSON file of points, each of a run, that is written as it grows and gone on with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mdlm_atat.errors import UserError
from mdlm_atat.provenance import code_version, commit, cpu
from mdlm_atat.small_files import read_object


def name_of(run: Path) -> str:
    """The last two parts of its path, which of an experiment's run are the arm and the seed."""
    return "/".join(run.resolve().parts[-2:])


def read_or_begin(file: Path, benchmark: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the file holds, or what it is to hold. Raises UserError where it holds points of other settings."""
    if file.exists():
        stored = read_object(file)
        if stored.get("what") != benchmark:
            raise UserError(f"{file} is no file of {benchmark}; name another --out")
        wrong = [name for name, value in settings.items() if stored["settings"].get(name) != value]
        if wrong:
            raise UserError(f"{file} has other {', '.join(wrong)}; name another --out")
        return stored
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    machine = {"cpu": cpu(), "device": gpu, "torch": torch.__version__}
    code = f"{code_version()} {commit() or ''}".strip()
    about = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "code": code}
    return {"format": 1, "what": benchmark, **about, "settings": dict(settings), "points": []}


def is_stored(stored: Mapping[str, Any], what: Mapping[str, Any], file: Path) -> bool:
    """Whether a point is there, `what` being what tells it from others and its run's `weights`. Raises UserError where
    it is of other weights."""
    for point in stored["points"]:
        if all(point[name] == value for name, value in what.items() if name != "weights"):
            if point["weights"] != what["weights"]:
                raise UserError(f"{file} has {what['run']} of other weights; name another --out")
            return True
    return False
