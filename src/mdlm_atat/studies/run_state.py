"""The state of a run, from what is in its folder: done, failed, running, or waiting to be started or continued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mdlm_atat.atomic import make_folder, write_json
from mdlm_atat.config.files import load_config
from mdlm_atat.config.schema import RunConfig, settings_with
from mdlm_atat.errors import UserError
from mdlm_atat.locks import is_locked
from mdlm_atat.scoring.records import Evaluation
from mdlm_atat.small_files import NUMBER, check_kinds, read_json, taken_apart
from mdlm_atat.studies.jobs import Job, differences, flat_settings

Status = Literal["done", "failed", "running", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One call of the training command. It is stored when the call starts, and again when it ends."""

    started: float
    """Seconds since 1970."""
    ended: float | None
    exit_code: int | None
    outcome: Literal["done", "failed", "interrupted"] | None
    """interrupted: stopped by us, with a checkpoint. None: still running, or lost with its runner."""
    last_lines: list[str]
    """Of its log."""
    host: str
    device: str

    @property
    def failed(self) -> bool:
        return self.outcome == "failed"


def attempts_file(folder: Path, job: Job) -> Path:
    return folder / "jobs" / f"{job.name}.json"


def lock_file(folder: Path, job: Job) -> Path:
    return folder / "jobs" / f"{job.name}.lock"


def log_file(folder: Path, job: Job) -> Path:
    return folder / "logs" / f"{job.name}.txt"


def read_attempts(folder: Path, job: Job) -> list[Attempt]:
    """Every call of the run's training command so far. Raises UserError for a damaged file."""
    file = attempts_file(folder, job)
    remedy = "delete it: it only tells how often the run was tried"
    if not file.exists():
        return []
    with taken_apart(file, remedy=remedy):
        stored = read_json(file, remedy=remedy)
        for attempt in stored:
            check_kinds(attempt, started=NUMBER, ended=NUMBER, exit_code=int, outcome=str, last_lines=list, host=str)
        return [Attempt(**attempt) for attempt in stored]


def write_attempts(folder: Path, job: Job, attempts: list[Attempt]) -> None:
    make_folder(attempts_file(folder, job).parent)
    write_json(attempts_file(folder, job), [vars(attempt) for attempt in attempts])


def has_begun(run: Path) -> bool:
    """Whether a run can be continued: config.yaml is the last file that is written before the first step."""
    return (run / "config.yaml").is_file()


def stored_config(run: Path) -> RunConfig:
    """The settings of a run. They are read again only if config.yaml has changed, since a study asks for them often."""
    return _config_at(run / "config.yaml", (run / "config.yaml").stat().st_mtime_ns)


@cache
def _config_at(file: Path, _mtime_ns: int) -> RunConfig:
    return load_config(str(file))


def check_same_run(run: Path, config: RunConfig) -> None:
    """Raise UserError where the folder holds a run with other settings, but for those that change no number."""
    before, after = flat_settings(stored_config(run)), flat_settings(config)
    changed = {
        path: pair for path, pair in differences(before, after).items() if path not in settings_with("resume", "free")
    }
    if changed:
        listed = ", ".join(f"{path} ({old!r}, and {new!r} now)" for path, (old, new) in changed.items())
        raise UserError(f"{run} holds a run with other settings: {listed}; delete it, or choose another `out=`")


def final_evaluation(run: Path, num_steps: int, data: Mapping[str, Any] | None) -> Evaluation | None:
    """The stored evaluation of a run's last step on its own validation text; None where there is none.

    It is the one that the run itself made: text cut as in the run, as many draws as it asks for, of seed 0. Another
    evaluation, with other draws or more of them, changes nothing.
    """
    if not has_begun(run):
        return None
    config = stored_config(run)
    found: list[tuple[tuple[int, float], Evaluation]] = []
    for file in sorted((run / "evals").glob("*.json")):
        try:
            evaluation = Evaluation.load(file)
        except UserError:  # written by someone else: ours are whole or not there
            continue
        if is_final(evaluation, config, num_steps, data):
            beyond = evaluation.num_draws - config.eval.final_num_draws
            found.append(((-abs(beyond), file.stat().st_mtime), evaluation))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def is_final(evaluation: Evaluation, config: RunConfig, num_steps: int, data: Mapping[str, Any] | None) -> bool:
    """Whether an evaluation can be the one that a run of this configuration makes after its last step."""
    text, seed = evaluation.text, evaluation.seed
    ours = data is None or str(text.corpus_hash)[:32] == data["hash"][32:]
    # what an early version did not store is taken to be as in the run
    cut = (text.mode or config.data.mode, text.length or config.data.length)
    same = (text.split or "valid", seed) == ("valid", 0) and cut == (config.data.mode, config.data.length)
    # whole blocks: a few more draws, never less; an exact value needs each sequence once
    enough = evaluation.num_draws >= config.eval.final_num_draws or not evaluation.is_bound
    return ours and same and evaluation.step == num_steps and enough


def is_done(run: Path, num_steps: int, data: Mapping[str, Any] | None) -> bool:
    """Whether a run has been trained to the end and scored. The report is the last file that it writes."""
    return has_begun(run) and (run / "report.html").is_file() and final_evaluation(run, num_steps, data) is not None


def status_of(folder: Path, job: Job, num_steps: int | None, data: Mapping[str, Any] | None) -> Status:
    """The state of a run. `num_steps` and `data` are those of the plan; None where there is none yet."""
    if is_locked(lock_file(folder, job)):
        return "running"
    if num_steps is not None and is_done(folder / job.folder, num_steps, data):
        return "done"
    attempts = read_attempts(folder, job)
    return "failed" if attempts and attempts[-1].failed else "waiting"
