"""The commands that faults are injected into: short, and each with what it must come to, bit for bit."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from faults.disk import Disk, Fault, Killed
from mdlm_atat.cli.main import main
from mdlm_atat.studies import processes
from mdlm_atat.training.checkpoint import Checkpoint
from studies import stand_in_train
from studies.grids import grid_file, use_stand_in
from tiny_runs import WORDS, tiny_flags, train, write_text

SEED = int(os.environ.get("TORTURE_SEED", "0"))
SHORT: dict[str, Any] = {
    "train__num_steps": 4,
    "train__eval_interval_steps": 2,
    "train__checkpoint_interval_steps": 2,
    "eval__sample_steps": 2,
}
CLOCKS = re.compile(r"elapsed_s|tokens_per_s|started|ended|created|peak_memory|seconds|command|hash|attempts")
"""What values are called that are another in every run, or follow from those."""
UNREAD = {".html", ".md", ".txt", ".lock", ".use"}
"""Files of which it counts only that they are there: they show times."""


@dataclass(frozen=True)
class Command:
    """A command in a folder of its own, which `words` are made for. `again` are those that go on after a fault."""

    set_up: Callable[[Path], object]
    """Makes what has to be there before, once."""
    words: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    results: str = ""
    """Part of the folder that the result lies in."""


def _one_run(folder: Path) -> None:
    write_text(folder / "text.txt", 800)
    assert train(folder / "text.txt", folder / "model", **SHORT) == 0
    shutil.rmtree(folder / "cache")


def _set_up_training(folder: Path) -> None:
    write_text(folder / "text.txt", 800)
    assert main(_train(folder)) == 0
    shutil.rmtree(folder / "run")


def _set_up_finetuning(folder: Path) -> None:
    _one_run(folder)
    rows = [f"{' '.join(WORDS[i % 20 : i % 20 + 3])},{'yes' if i % 3 else 'no'}" for i in range(24)]
    (folder / "task.csv").write_text("\n".join(["text,label", *rows]) + "\n")


def _set_up_generating(folder: Path) -> None:
    _one_run(folder)
    (folder / "prompts.txt").write_text("\n".join(WORDS[:5]) + "\n")


def _set_up_experiment(folder: Path) -> None:
    grid_file(folder, arms={"mdlm": {"method": "mdlm"}}, seeds=[0])
    with _children_in_this_process(Disk(folder)):
        assert main(_experiment(folder)) == 0
    shutil.rmtree(folder / "study")


def _train(folder: Path) -> list[str]:
    return ["train", "demo", "--out", str(folder / "run"), *tiny_flags(folder / "text.txt", **SHORT)]


def _prepare(folder: Path) -> list[str]:
    return [
        "data",
        "prepare",
        str(folder / "text.txt"),
        "--out",
        str(folder / "corpus"),
        "--mode",
        "pad",
        "--length",
        "16",
    ]


def _generate(folder: Path) -> list[str]:
    words = ["generate", str(folder / "model"), "--prompts", str(folder / "prompts.txt"), "--steps", "2"]
    return [*words, "--out", str(folder / "out.jsonl"), "--batch_size", "2"]


def _finetune(folder: Path) -> list[str]:
    words = ["finetune", str(folder / "model"), "--task", str(folder / "task.csv"), "--probe", "--epochs", "1"]
    return [*words, "--seeds", "2", "--dev_fraction", "0.25", "--out", str(folder / "tuned")]


def _experiment(folder: Path) -> list[str]:
    return ["experiment", "run", str(folder / "tiny.yaml"), "--out", str(folder / "study")]


COMMANDS = {
    "train": Command(_set_up_training, _train, _train, "run"),
    "prepare": Command(lambda folder: write_text(folder / "text.txt", 800), _prepare, _prepare, "corpus"),
    "experiment": Command(_set_up_experiment, _experiment, _experiment, "study"),
    "generate": Command(_set_up_generating, _generate, lambda folder: [*_generate(folder), "--resume"], "out.jsonl"),
    "finetune": Command(_set_up_finetuning, _finetune, _finetune, "tuned"),
}


@dataclass(frozen=True)
class Ended:
    """How a command ended. `code` None: it was killed."""

    code: int | None
    said: str
    errors: str
    disk: Disk


def run(words: list[str], disk: Disk) -> Ended:
    """A command in this process, on a disk."""
    output, errors = io.StringIO(), io.StringIO()
    with disk.mounted(), redirect_stdout(output), redirect_stderr(errors), _children_in_this_process(disk):
        try:
            code = main(words)
        except Killed:
            code = None
    return Ended(code, output.getvalue(), errors.getvalue(), disk)


def next_words(command: Command, folder: Path, ended: Ended) -> list[str]:
    """What a person types next: the command that the messages name, else the same again."""
    named = re.findall(r"atat train --resume .*", ended.errors)
    return shlex.split(named[-1])[1:] if named else command.again(folder)


@contextmanager
def _children_in_this_process(disk: Disk) -> Iterator[None]:
    """An experiment's runs are stand-ins here, and no fault is theirs."""

    class Child(subprocess.Popen[bytes]):
        def __init__(self, words: list[str], *, stdout: Any, **_: Any) -> None:
            self._child_created = False
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            said = io.StringIO()
            with disk.paused(), redirect_stdout(said), redirect_stderr(said):
                self.returncode = stand_in_train.main(words[len(processes.COMMAND) :])
                os.write(stdout.fileno(), said.getvalue().encode())
            for number, handler in handlers.items():
                signal.signal(number, handler)

        def poll(self) -> int:
            return self.returncode

    with pytest.MonkeyPatch.context() as patch:
        system = SimpleNamespace(Popen=Child, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
        patch.setattr(processes, "subprocess", system)
        yield


@contextmanager
def quick(folder: Path) -> Iterator[None]:
    """Within the block commands of `folder` draw no pictures and have their cache there."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)  # as in a process of its own
        use_stand_in(patch, folder.parent, as_processes=True)
        patch.setenv("ATAT_CACHE", str(folder / "cache"))
        patch.setattr(processes, "COMMAND", (sys.executable, "stand-in"))
        patch.setattr("mdlm_atat.studies.runner.POLL_S", 0.0)
        patch.setattr("mdlm_atat.studies.processes.POLL_S", 0.0)
        patch.setattr("mdlm_atat.training.owner.BEAT_S", 3600.0)  # signs of life come by the clock, not in an order
        for name in ("_curves", "_profile"):
            patch.setattr(f"mdlm_atat.report.report.{name}", lambda *_, **__: None)
        yield


# --- what must hold afterwards ---


def contents(place: Path) -> dict[str, Any]:
    """Every file of a result, by its path: what is in it, but for what a clock says."""
    if not place.exists():
        return {}
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if not path.is_dir())
    files = [file for file in files if not file.name.endswith(".writing") and file.parent.name not in ("jobs", "logs")]
    files = [file for file in files if file.name not in ("best", "last", ".lock")]  # or files where links are refused
    return {re.sub(r"-[0-9a-f]{8}-", "-", str(file.relative_to(place))): _content(file) for file in files}


def _content(file: Path) -> Any:
    if file.suffix in UNREAD or file.name in ("checksums.json", "verified.json"):
        return None
    if file.suffix == ".jsonl":
        return [_without_clocks(json.loads(line)) for line in file.read_text().splitlines()]
    if file.suffix == ".json":
        return _without_clocks(json.loads(file.read_text()))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clocks(each) for key, each in value.items() if not CLOCKS.search(key)}
    return [_without_clocks(each) for each in value] if isinstance(value, list) else value


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """What differs between two results, by its place in them."""
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(f"{where}/{key}", one.get(key, ...), other.get(key, ...)) for key in {**one, **other}]
        return [line for place, left, right in pairs for line in differences(left, right, place)]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(f"{where}[{number}]", *pair) for number, pair in enumerate(zip(one, other, strict=True))]
        return [line for place, left, right in pairs for line in differences(left, right, place)]
    return [] if one == other else [f"{where}: {str(one)[:80]} / {str(other)[:80]}"]


def half_written(folder: Path) -> list[str]:
    """The files below a folder that are not whole, but for those that are being written, whose names say so."""
    found = []
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") or part.endswith(".partial") for part in path.relative_to(folder).parts):
            continue
        try:
            _check_whole(path)
        except Exception as error:
            found.append(f"{path.relative_to(folder)}: {error!r}")
    return found


def _check_whole(path: Path) -> None:
    if path.is_dir():
        assert not path.name.startswith("step-") or Checkpoint(path).fault() is None
        return
    match path.suffix:
        case ".json":
            json.loads(path.read_text())
        case ".jsonl":  # what is written line by line may end in half a line
            *whole, _ = path.read_text().split("\n")
            for line in whole:
                json.loads(line)
        case ".yaml":
            assert yaml.safe_load(path.read_text())
        case ".safetensors":
            with safe_open(path, "np"):
                pass
        case ".npy":
            np.load(path, allow_pickle=False)
        case ".html":
            assert path.read_text().rstrip().endswith(("</html>", "</p>"))


class Undisturbed:
    """A command's folder before it, the operations on files that it does, and what it comes to."""

    def __init__(self, name: str, folder: Path) -> None:
        self.command, self.before, self.work = COMMANDS[name], folder / "before", folder / "work"
        self.work.mkdir()
        with quick(self.work):
            self.command.set_up(self.work)
            shutil.copytree(self.work, self.before, symlinks=True)
            ended = run(self.command.words(self.work), Disk(self.work))
            assert ended.code == 0, ended.errors
            self.result = contents(self.work / self.command.results)
        self.events = ended.disk.events

    def check(self, fault: Fault) -> None:
        """The command with a fault, and what follows it."""
        kind, path = self.events[fault.number - 1]
        ended, told = self.begin(f"{fault}: {kind} {Path(path).relative_to(self.work)}", fault)
        assert ended.disk.has_failed, told
        if fault.code is None:
            assert ended.code is None, f"{told}: the kill was caught"
        else:
            assert ended.code in (0, 1, 2), told
            assert "Traceback" not in ended.errors + ended.said, told
            assert len(re.findall(r"^error: ", ended.errors, re.MULTILINE)) == (ended.code == 2), (
                f"{told}: {ended.errors}"
            )
        self.check_rest(ended, told)

    def begin(self, what: str, fault: Fault | None = None) -> tuple[Ended, str]:
        """The command in a new folder, with a fault; and what to tell where a promise is broken."""
        shutil.rmtree(self.work)
        shutil.copytree(self.before, self.work, symlinks=True)
        with quick(self.work):
            ended = run(self.command.words(self.work), Disk(self.work, fault))
        return ended, f"{what} (TORTURE_SEED={SEED})\n{ended.errors}"

    def check_rest(self, ended: Ended, told: str) -> None:
        """What has to hold after a command that has ended in whatever way."""
        assert half_written(self.work) == [], told
        for file in self.before.rglob("*"):
            now = self.work / file.relative_to(self.before)
            assert now.exists(), f"{told}: {now} is gone"
            assert not file.is_file() or now.read_bytes() == file.read_bytes(), f"{told}: {now} was changed"
        with quick(self.work):
            for _ in range(2):  # the second is the command that a refusal names
                if (
                    ended.code != 0 or "not stored" in ended.errors
                ):  # what was found is printed then, and can be had again
                    ended = run(next_words(self.command, self.work, ended), Disk(self.work))
        assert ended.code == 0, f"{told}, and then:\n{ended.errors}"
        found = differences(self.result, contents(self.work / self.command.results))
        assert found == [], f"{told}: {'; '.join(found[:5])}"
