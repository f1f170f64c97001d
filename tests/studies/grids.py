"""Tiny grids for tests, and the stand-in that trains them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdlm_atat.cli.main import main
from mdlm_atat.studies import processes
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


def use_stand_in(patch: pytest.MonkeyPatch, folder: Path, *, with_page: bool = False) -> None:
    """Let experiments start tests/studies/stand_in_train.py in place of the real command, and draw no page."""
    from mdlm_atat.studies import planning

    if not with_page:
        patch.setattr("mdlm_atat.report.experiment_page.write_experiment_page", lambda *_: None)

    patch.setenv("ATAT_CACHE", str(folder / "cache"))
    patch.setenv("STAND_IN_DATA", str(folder / "data.json"))
    patch.setattr(processes, "COMMAND", (sys.executable, str(Path(__file__).parent / "stand_in_train.py")))
    open_data = planning.open_data

    def noted(data: Any) -> Any:
        found = open_data(data)
        (folder / "data.json").write_text(json.dumps(found[0]))
        return found

    patch.setattr(planning, "open_data", noted)


def run(file: Path | str, out: Path, *more: str) -> int:
    return main(["experiment", "run", str(file), "--out", str(out), *more])


def steps_taken(out: Path, arm: str) -> list[str]:
    """`SEED STEP` of every training step that any process took for an arm."""
    return (out / "runs" / arm / "steps.txt").read_text().splitlines()
