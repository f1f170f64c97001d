"""Every operation on files that a command does fails once, or the command is killed there: one message says so, nothing
half done has a final name, what was there before is there, and the same command again, or the one that is named,
comes to the same as without the fault, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from faults.commands import COMMANDS, contents, differences, half_written, next_words, quick, run
from faults.disk import WRITES, Disk, Fault

SEED = int(os.environ.get("TORTURE_SEED", "0"))
NUM_PARTS = 4
SHARE = 2
"""Operations of each command that fail in the suite."""


class Undisturbed:
    """A command's folder before it, the operations that it does, and what it comes to."""

    def __init__(self, name: str, folder: Path) -> None:
        self.command, self.before, self.work = COMMANDS[name], folder / "before", folder / "work"
        self.before.mkdir()
        self.work.mkdir()
        with quick(self.work):
            self.command.set_up(self.work)
            self.before.rmdir()
            shutil.copytree(self.work, self.before, symlinks=True)
            ended = run(self.command.words(self.work), Disk(self.work))
            assert ended.code == 0, ended.errors
            self.result = contents(self.work / self.command.results)
        self.events = ended.disk.events

    def anew(self) -> Path:
        shutil.rmtree(self.work)
        shutil.copytree(self.before, self.work, symlinks=True)
        return self.work

    def check(self, fault: Fault) -> None:
        """The command with a fault, and what follows it."""
        command, work = self.command, self.anew()
        kind, path = self.events[fault.number - 1]
        told = f"{fault}: {kind} {Path(path).relative_to(work)} (TORTURE_SEED={SEED})"
        with quick(work):
            ended = run(command.words(work), Disk(work, fault))
            assert ended.disk.has_failed, told
            if fault.code is None:
                assert ended.code is None, f"{told}: the kill was caught"
            else:
                self.check_message(ended, told)
            assert half_written(work) == [], told
            self.check_kept(told)
            for _ in range(2):  # the command that is named by a refusal is the second
                if ended.code == 0:
                    break
                ended = run(next_words(command, work, ended), Disk(work))
            assert ended.code == 0, f"{told}, and then:\n{ended.errors}"
            found = differences(self.result, contents(work / command.results))
            assert found == [], f"{told}: {'; '.join(found[:5])}"

    def check_message(self, ended: Any, told: str) -> None:
        if ended.code != 0:
            assert ended.code in (1, 2), f"{told}:\n{ended.errors}"
        assert "Traceback" not in ended.errors + ended.said, f"{told}:\n{ended.errors}"

    def check_kept(self, told: str) -> None:
        """What was there before is as it was."""
        for file in self.before.rglob("*"):
            now = self.work / file.relative_to(self.before)
            assert now.exists(), f"{told}: {now} is gone"
            assert not file.is_file() or now.read_bytes() == file.read_bytes(), f"{told}: {now} was changed"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory):
    known: dict[str, Undisturbed] = {}

    def of(name: str) -> Undisturbed:
        if name not in known:
            known[name] = Undisturbed(name, tmp_path_factory.mktemp(name))
        return known[name]

    return of


def faults_of(found: Undisturbed, rng: random.Random) -> list[Fault]:
    """An error at every operation, and a kill before every one that changes the disk: before the others, it is as it
    was."""
    faults = []
    for number, (kind, _) in enumerate(found.events, start=1):
        faults.append(Fault.drawn(number, kind, rng))
        if kind in WRITES:
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
