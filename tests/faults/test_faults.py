"""Every operation on files that a command does fails once, or the command is killed there: one message says so, nothing
half done has a final name, what was there before is there, and the same command again, or the one that is named,
comes to the same as without the fault, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from faults.commands import COMMANDS, SEED, SHORT, Undisturbed, quick
from faults.disk import CHANGES, Fault, Killed
from mdlm_atat.cli.main import main
from mdlm_atat.training.checkpoint import Checkpoint, tidy
from tiny_runs import train, write_text

NUM_PARTS = 4
SHARE = 2
"""Operations of each command that fail in the suite."""


def faults_of(found: Undisturbed, rng: random.Random) -> list[Fault]:
    """An error at every operation, and a kill before every one that changes the disk: before the others, it is as it
    was."""
    faults = []
    for number, (kind, _) in enumerate(found.events, start=1):
        faults.append(Fault.drawn(number, kind, rng))
        if kind in CHANGES:
            faults.append(Fault(number, None))
    return faults


@pytest.mark.parametrize("name", COMMANDS)
def test_some_operations_fail_and_the_command_completes_afterwards(undisturbed, name):
    found, rng = undisturbed(name), random.Random(SEED)
    for fault in rng.sample(faults_of(found, rng), SHARE):
        found.check(fault)


@pytest.mark.torture
@pytest.mark.parametrize("part", range(NUM_PARTS))
@pytest.mark.parametrize("name", COMMANDS)
def test_every_operation_fails_and_the_command_completes_afterwards(undisturbed, name, part):
    found = undisturbed(name)
    for fault in faults_of(found, random.Random(SEED))[part::NUM_PARTS]:
        found.check(fault)


def test_a_run_that_is_killed_after_its_last_checkpoint_keeps_the_same_ones_when_gone_on_with(tmp_path, monkeypatch):
    """It was killed before the older ones were deleted and `last` was pointed at the new one."""
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    text = write_text(tmp_path / "text.txt", 800)
    often = {**SHORT, "train__num_steps": 5, "train__checkpoint_interval_steps": 1}

    def kept(run: Path) -> dict[str, str]:
        return {path.name: path.resolve().name for path in sorted((run / "checkpoints").iterdir())}

    def killed_at_the_end(folder: Path, *, newest: Checkpoint, **how: Any) -> None:
        if newest.step == 5:
            raise Killed
        tidy(folder, newest=newest, **how)

    with quick(tmp_path):
        assert train(text, tmp_path / "whole", **often) == 0
        with monkeypatch.context() as patch:
            patch.setattr("mdlm_atat.training.assemble.tidy", killed_at_the_end)
            with pytest.raises(Killed):
                train(text, tmp_path / "killed", **often)
        assert len(kept(tmp_path / "killed")) > len(kept(tmp_path / "whole"))
        assert main(["train", "--resume", str(tmp_path / "killed")]) == 0
    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")
