"""The steps of a run: signals are heard and logs written, and after a number that is not finite it may go back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError, call
from mdlm_atat.signals import reason_of, signals_heard
from mdlm_atat.training.checkpoint import newest_sound
from mdlm_atat.training.folder import note, note_micro_batches
from mdlm_atat.training.log import ProgressLine, open_writers
from mdlm_atat.training.loop import NotFinite, Progress, Training, seed_after, train
from mdlm_atat.training.metrics import OnStep
from mdlm_atat.training.owner import Owner


@dataclass(frozen=True)
class Home:
    """Where a run is kept, and who hears what happens to it."""

    folder: Path
    record: dict[str, Any]
    """What stands in run.json, with all that is noted there on the way."""
    label: str
    """What loggers call the run."""
    owner: Owner | None
    """Of the folder; None in all processes but the main one."""
    say: Callable[[str], None]
    console: Console


def take_steps(training: Training, progress: Progress, home: Home, on_step: OnStep) -> str | None:
    """Train until the last step, a signal, the time limit, `on_step` returning True, or the folder going away. Returns
    why it stopped early, None where it did not."""
    with stop_requests(training.config.train.max_minutes) as should_stop:
        asked: list[str] = []

        def after_step(step: int, values: Mapping[str, float]) -> None:
            if on_step(step, values) is True:
                asked.append("on_step returned True")
            if home.owner is not None and (home.owner.left or not home.owner.is_in_place()):
                asked.append("the run's folder is gone")

        training = replace(training, should_stop=lambda: should_stop() or next(iter(asked), None), on_step=after_step)
        while True:
            try:
                return log_steps(training, progress, home)
            except NotFinite as error:
                training = go_back(training, progress, home, error)


def log_steps(training: Training, progress: Progress, home: Home) -> str | None:
    """The loop, with its log files and progress line open. Returns what it does."""
    config, is_main = training.config, training.engine.is_main
    line = ProgressLine(home.console, config.train.num_steps, progress.step) if is_main else None
    about = {"preset": home.label}
    writers = open_writers(home.folder, config.train.loggers, progress.step, about) if is_main else []
    try:
        return train(replace(training, writers=writers, line=line), progress)
    except OSError as error:
        again = call("train", resume=home.folder)
        raise UserError(
            f"could not write to {home.folder}: {error}. Mend that, then continue with\n  {again}"
        ) from error
    finally:
        if line is not None:
            line.close()
        for writer in writers:
            writer.close()


def go_back(training: Training, progress: Progress, home: Home, error: NotFinite) -> Training:
    """Load the last good checkpoint into a run, whose `progress` follows, and return the run with another data order.
    That is said, and noted in run.json. Raises `error` where `train.on_nan` does not ask for it or there is no
    checkpoint, and UserError where it has been done `train.max_rewinds` times."""
    config, num_rewinds = training.config.train, progress.num_rewinds + 1
    if config.on_nan == "stop":
        raise error
    if num_rewinds > config.max_rewinds:
        raise UserError(f"{error}. It went back {progress.num_rewinds} times before (train.max_rewinds)") from error
    training.engine.barrier()
    checkpoint = newest_sound(home.folder / "checkpoints", home.say)
    if checkpoint is None or training.load is None:
        raise error
    saved, stage = training.load(checkpoint)
    progress.become(replace(saved, num_rewinds=num_rewinds))
    home.say(
        f"step {error.step + 1} gave a number that is not finite: back to step {saved.step}, with another data order"
    )
    if training.engine.is_main:
        home.record.update(note(home.folder, "rewinds", {"bad_step": error.step + 1, "to_step": saved.step}))
    return replace(training, seed=seed_after(config.seed, num_rewinds), last_stage=stage)


def config_that_fits(training: Training) -> RunConfig:
    """The settings of a run with the number of micro-batches that was found."""
    return replace(training.config, train=replace(training.config.train, num_micro_batches=training.num_micro_batches))


def go_on_in(num: int, training: Training, progress: Progress, home: Home) -> None:
    """Say, and note in run.json, that a step did not fit in memory and is cut into `num` micro-batches from now on."""
    home.say(f"out of memory in step {progress.step + 1}: it and all after it are cut into {num} micro-batches")
    home.record.update(note_micro_batches(home.folder, config_that_fits(training), progress.step))


@contextmanager
def stop_requests(max_minutes: float) -> Iterator[Callable[[], str | None]]:
    """Within the block, a signal asks for a stop after the current step (see `signals`); a second Ctrl-C stops at
    once."""
    start_s = time.monotonic()
    reasons: list[str] = []

    def hear(number: int) -> None:
        if reasons and number == signal.SIGINT:
            raise KeyboardInterrupt
        reasons.append(reason_of(number))

    def should_stop() -> str | None:
        if reasons:
            return reasons[0]
        if max_minutes > 0 and time.monotonic() - start_s > 60 * max_minutes:
            return f"{max_minutes:g} minutes are over"
        return None

    with signals_heard(hear):
        yield should_stop
