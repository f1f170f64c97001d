"""Tiny grids for tests, and the stand-in that trains them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdlm_atat.atomic import write_json
from mdlm_atat.cli.main import main
from mdlm_atat.errors import command_line
from mdlm_atat.studies import processes, runner
from studies import stand_in_train
from tiny_runs import TINY, write_text

STAND_IN_ATAT = Path(__file__).parent / "stand_in_atat.py"
SETTINGS = {path: value for path, value in TINY.items() if path != "train.num_steps"} | {
    "train.batch_size": 8  # of which atat reads five rows left to right
}


def grid_file(folder: Path, **changed: Any) -> Path:
    """A grid of two arms and two seeds on a text of its own; a key that is None is left out."""
    text = folder / "text.txt"
    if not text.exists():
        write_text(text, num_words=800)
    tree: dict[str, Any] = {
        "base": "demo",
        "overrides": SETTINGS,
        "arms": {"mdlm": {"method": "mdlm"}, "atat": {"method": "atat"}},
        "baseline": "mdlm",
        "seeds": [0, 1],
        "data": {"source": str(text)},
        "budget": {"steps": 8},
    }
    tree |= changed
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in tree.items() if value is not None}, sort_keys=False))
    return file


class Ended(subprocess.Popen[bytes]):
    """A process that has ended."""

    def __init__(self, code: int) -> None:
        self.returncode = code

    def poll(self) -> int:
        return self.returncode


def stand_in_here(words: Sequence[str], log: Path, **_: Any) -> Ended:
    """Run the stand-in in this process, with its output in the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream, redirect_stdout(stream):
        print(f"$ {command_line(words)}")
        return Ended(stand_in_train.main([*words]))


def use_stand_in(
    patch: pytest.MonkeyPatch, folder: Path, *, with_page: bool = False, as_processes: bool = False
) -> None:
    """Let experiments train by tests/studies/stand_in_train.py, in this process or, `as_processes`, started as the real
    command is, and draw no page."""
    from mdlm_atat.studies import planning

    if not with_page:
        patch.setattr("mdlm_atat.report.experiment_page.write_experiment_page", lambda *_: None)

    patch.setenv("ATAT_CACHE", str(folder / "cache"))
    patch.setenv("STAND_IN_DATA", str(folder / "data.json"))
    if as_processes:
        patch.setattr(processes, "COMMAND", (sys.executable, str(Path(stand_in_train.__file__))))
    else:
        patch.setattr(processes, "start_command", stand_in_here)
        patch.setattr(runner, "start_command", stand_in_here)
        patch.setattr(runner, "POLL_S", 0.0)
    open_data = planning.open_data

    def noted(data: Any) -> Any:
        found = open_data(data)
        write_json(folder / "data.json", found[0])  # whole at any moment: another runner's process may be reading it
        return found

    patch.setattr(planning, "open_data", noted)


def run(file: Path | str, out: Path, *more: str) -> int:
    return main(["experiment", "run", str(file), "--out", str(out), *more])


def steps_taken(out: Path, arm: str) -> list[str]:
    """`SEED STEP` of every training step that any process took for an arm."""
    return (out / "runs" / arm / "steps.txt").read_text().splitlines()
