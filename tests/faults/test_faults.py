"""Every operation on files that a command does fails once, or the command is killed there: one message says so, nothing
half done has a final name, what was there before is there, and the same command again, or the one that is named,
comes to the same as without the fault, bit for bit."""

from __future__ import annotations

import random

import pytest

from faults.commands import COMMANDS, SEED, Undisturbed
from faults.disk import CHANGES, Fault

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
