"""Commands that are killed with signal 9 at a random moment, and then gone on with: they come to the same as those that
nobody killed, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from faults.commands import COMMANDS, SEED, SHORT, contents, differences, half_written
from processes import Started
from tiny_runs import tiny_flags, write_text

KILLS = int(os.environ.get("TORTURE_KILLS", "50"))
LONG = {**SHORT, "train__num_steps": 60, "train__checkpoint_interval_steps": 4, "train__eval_interval_steps": 20}
SHARES = {"train": 7, "prepare": 1, "generate": 1, "finetune": 1}


def _train(folder: Path) -> list[str]:
    return ["train", "demo", "--out", str(folder / "run"), *tiny_flags(folder / "text.txt", **LONG)]


LONGER = {
    **COMMANDS,
    "train": replace(COMMANDS["train"], words=_train, again=_train),
    "prepare": replace(COMMANDS["prepare"], set_up=lambda folder: write_text(folder / "text.txt", 40_000)),
}


class Killable:
    """A command, the folder before it, what it comes to, and how long that takes."""

    def __init__(self, name: str, folder: Path) -> None:
        self.command, self.before, self.work = LONGER[name], folder / "before", folder / "work"
        self.work.mkdir()
        self.environment = {"ATAT_CACHE": str(self.work / "cache")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ATAT_CACHE", str(self.work / "cache"))
            self.command.set_up(self.work)
        shutil.copytree(self.work, self.before, symlinks=True)
        for _ in range(2):  # the first starts the server of processes
            self.anew()
            start_s = time.monotonic()
            self.finish(self.command.words(self.work))
            self.takes_s = time.monotonic() - start_s
        self.result = contents(self.work / self.command.results)

    def anew(self) -> None:
        shutil.rmtree(self.work)
        shutil.copytree(self.before, self.work, symlinks=True)

    def start(self, words: list[str]) -> Started:
        return Started(words, self.environment)

    def finish(self, words: list[str]) -> None:
        started = self.start(words)
        assert started.wait() == 0, started.errors[-3000:]

    def kill(self, after_s: float) -> bool:
        """Kill the command after so many seconds. Returns False where it had ended before."""
        self.anew()
        started = self.start(self.command.words(self.work))
        time.sleep(after_s)
        with suppress(ProcessLookupError):
            started.send_signal(signal.SIGKILL)
        return started.wait() == -signal.SIGKILL

    def next_words(self) -> list[str]:
        run = self.work / "run"
        is_run = (run / "config.yaml").exists()
        return ["train", "--resume", str(run)] if is_run else self.command.again(self.work)


@pytest.fixture(scope="session")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Killable]:
    known: dict[str, Killable] = {}

    def of(name: str) -> Killable:
        if name not in known:
            known[name] = Killable(name, tmp_path_factory.mktemp(f"kill-{name}"))
        return known[name]

    return of


@pytest.mark.torture
@pytest.mark.parametrize("number", range(KILLS))
def test_a_command_that_is_killed_at_a_random_moment_comes_to_the_same_bit_for_bit_when_gone_on_with(killable, number):
    rng = random.Random(f"{SEED} {number}")
    name = rng.choices(list(SHARES), list(SHARES.values()))[0]
    found = killable(name)
    after_s = rng.uniform(0, found.takes_s)
    while not found.kill(after_s):  # it was quicker this time
        after_s *= 0.8
    told = f"{name}, killed after {after_s:.3f} of {found.takes_s:.3f} s (TORTURE_SEED={SEED}, number {number})"
    assert half_written(found.work) == [], told
    found.finish(found.next_words())
    missing = differences(found.result, contents(found.work / found.command.results))
    assert missing == [], f"{told}: {'; '.join(missing[:5])}"
