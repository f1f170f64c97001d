"""Plan a study before its first run: prepare the data, time a step where needed, and work out each arm's steps.

The plan is stored in plan.json, so that a run keeps its length when it is continued.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdlm_atat.atomic import write_json
from mdlm_atat.config.schema import DataConfig, RunConfig
from mdlm_atat.errors import UserError
from mdlm_atat.locks import waiting_lock
from mdlm_atat.small_files import NUMBER, check_kinds, read_object, taken_apart
from mdlm_atat.studies.elsewhere import DoneRuns
from mdlm_atat.studies.grid import Budget, Grid
from mdlm_atat.studies.jobs import (
    Job,
    Variant,
    budget_steps,
    differences,
    flat_settings,
    job_steps,
    tokens_per_step,
    train_words,
)
from mdlm_atat.studies.processes import last_lines, run_command
from mdlm_atat.studies.run_record import seconds_per_step
from mdlm_atat.training.metrics import read_metrics

CALIBRATION_STEPS = 72
CALIBRATION_LAPS = 3  # log lines, of which the first is warm-up and compilation; few, because the loop waits at each
SHORT = {  # a calibration is timed, not scored
    "eval.num_draws": 32,
    "eval.final_num_draws": 32,
    "eval.num_samples": 0,
    "train.num_steps": CALIBRATION_STEPS,
    "train.loggers": [],
    "train.checkpoint_interval_steps": CALIBRATION_STEPS,
    "train.eval_interval_steps": CALIBRATION_STEPS,
    "train.log_interval_steps": CALIBRATION_STEPS // CALIBRATION_LAPS,
    "train.keep_interval_steps": 0,
}

Plan = dict[str, dict[str, Any]]
"""By Variant.key."""


@dataclass(frozen=True)
class Machine:
    """The devices of this machine, and when to stop."""

    devices: Sequence[str]
    num_threads: int
    should_stop: Callable[[], bool]

    def stop_waiting(self) -> None:
        """Raise KeyboardInterrupt when it is time to stop."""
        if self.should_stop():
            raise KeyboardInterrupt


def plan_file(folder: Path) -> Path:
    return folder / "plan.json"


def read_plan(folder: Path) -> Plan:
    """The plan of a study's folder; empty where there is none yet. Raises UserError for a damaged file."""
    file = plan_file(folder)
    remedy = "delete it, and the next run plans anew"
    if not file.exists():
        return {}
    plan = read_object(file, remedy=remedy)
    with taken_apart(file, remedy=remedy):
        for entry in plan.values():
            check_kinds(entry, calibration=dict, flops_per_token=NUMBER, num_steps=int)
            _ = entry["data"]["hash"][32:]
    return plan


def check_plan(plan: Plan, grid: Grid, variants: Sequence[Variant], folder: Path) -> None:
    """Raise UserError where an arm, or the budget, is not what it was when the experiment in this folder began."""
    wrong: list[str] = []
    defaults = flat_settings(RunConfig())
    for variant in variants:
        entry = plan.get(variant.key)
        if entry is None:
            continue
        stored, after = {**defaults, **entry["settings"]}, _settings(variant)
        # a setting that a newer version brought was at its default then, and one that it dropped changes nothing
        changed = differences({path: stored[path] for path in after}, after)
        wrong += [f"{variant.key}: {path} was {old!r}, and is {new!r} now" for path, (old, new) in changed.items()]
        if entry["budget"] != _budget(grid.budget):
            wrong.append(f"{variant.key}: the budget was {entry['budget']}, and is {_budget(grid.budget)} now")
    if wrong:
        raise UserError(
            "\n  ".join(
                [f"{folder} holds another experiment; choose another `out=`, or delete it. What differs:", *wrong]
            )
        )


def ensure_planned(
    grid: Grid,
    variants: Sequence[Variant],
    folder: Path,
    machine: Machine,
    say: Callable[[str], None],
    done: DoneRuns | None = None,
) -> tuple[Plan, dict[str, str]]:
    """Add what is missing to plan.json. Returns the plan, and by their keys why some variants could not be planned.

    Entries that are there stay as they are. One runner plans at a time; another one waits, and finds it done. Raises
    KeyboardInterrupt when it is to stop, and UserError where the data has changed since the experiment began, or runs
    that were trained elsewhere (`done`) are not those that are planned.
    """

    failures: dict[str, str] = {}
    prepared: dict[DataConfig, tuple[dict[str, Any], int]] = {}
    with waiting_lock(folder / "jobs" / "plan.lock", machine.stop_waiting):
        plan = read_plan(folder)
        check_plan(plan, grid, variants, folder)
        for variant in variants:
            machine.stop_waiting()
            data = variant.config.data
            if data not in prepared:
                prepared[data] = open_data(data)
            if done is not None:
                done.check_data(variant, prepared[data][0])
            if variant.key in plan:
                _check_data(variant, plan[variant.key], prepared[data][0])
                if done is not None:
                    done.check_plan(variant, plan[variant.key])
                continue
            known = None if done is None else done.timing(variant, is_budget=grid.budget.unit == "gpu_seconds")
            try:
                entry = _plan_variant(grid, variant, *prepared[data], folder, machine, say, known)
            except UserError as error:  # of this arm: it crashed while it was timed
                failures[variant.key] = str(error)
                say(f"FAILED     {variant.key}: {error}")
                continue
            if done is not None:
                done.check_plan(variant, entry)
            plan[variant.key] = entry
            write_json(plan_file(folder), plan)
    return plan, failures


def planned_steps(job: Job, plan: Plan) -> int | None:
    """The steps of a run by the plan; None where its variant is not planned yet."""
    entry = plan.get(job.variant.key)
    return None if entry is None else job_steps(job, entry["num_steps"])


def expected_steps(grid: Grid, job: Job, plan: Plan) -> int | None:
    """The steps of a run by the plan, or else by the budget alone.

    Returns None where the data or a measurement is needed to tell.
    """
    steps = planned_steps(job, plan)
    if steps is None and grid.budget.unit in ("steps", "tokens"):
        budgeted = budget_steps(grid.budget, job.variant.config, flops_per_token=None, seconds_per_step=None)
        steps = job_steps(job, budgeted)
    return steps


def _settings(variant: Variant) -> dict[str, Any]:
    return {
        path: value
        for path, value in flat_settings(variant.config).items()
        if path not in ("train.seed", "train.num_steps")
    }


def _budget(budget: Budget) -> dict[str, float]:
    return {budget.unit: budget.amount}


def open_data(data: DataConfig) -> tuple[dict[str, Any], int]:
    """Prepare the data if it is not prepared yet. Returns its description, as run.json stores it, and the vocabulary's
    size."""
    from mdlm_atat.config.build import prepare_data
    from mdlm_atat.data.progress import TerminalProgress
    from mdlm_atat.data.tokens import TokenDataset
    from mdlm_atat.training.folder import describe_data

    prepared = prepare_data(data, TerminalProgress())
    train_data, valid_data = (TokenDataset.open(prepared, split, data.length) for split in ("train", "valid"))
    return describe_data(train_data, valid_data), train_data.tokenizer.vocab_size


def _check_data(variant: Variant, entry: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    stored = entry["data"]
    if found["hash"] != stored["hash"]:  # of the tokens; those of a tokenizer have changed between versions
        raise UserError(
            f"{variant.key}: the data has changed since the experiment began ({stored['train_tokens']:,} training "
            f"tokens then, {found['train_tokens']:,} now): restore it, or choose another `out=`"
        )


def _plan_variant(
    grid: Grid,
    variant: Variant,
    data: Mapping[str, Any],
    vocab_size: int,
    folder: Path,
    machine: Machine,
    say: Callable[[str], None],
    timed: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """`timed` is how a step of it was timed elsewhere; what the grid says of that comes first."""
    from mdlm_atat.training.flops import training_flops_per_token  # torch: a list or a mistake need not wait for it

    flops = training_flops_per_token(variant.config, vocab_size)
    calibration = None
    if grid.budget.unit == "gpu_seconds" or grid.calibrate:
        known = grid.seconds_per_step.get(variant.arm.name)
        if known is not None:
            calibration = _measured_before(known)
        elif timed is not None:
            calibration = {**_measured_before(timed["seconds_per_step"]), **timed}
        else:
            calibration = calibrate(variant, folder, machine, say)
    seconds = None if calibration is None else calibration["seconds_per_step"]
    steps = budget_steps(grid.budget, variant.config, flops_per_token=flops, seconds_per_step=seconds)
    return {
        "settings": _settings(variant),
        "budget": _budget(grid.budget),
        "num_steps": steps,
        "tokens_per_step": tokens_per_step(variant.config),
        "flops_per_token": flops,
        "vocab_size": vocab_size,
        "data": data,
        "calibration": calibration,
    }


def _measured_before(seconds_per_step: float) -> dict[str, Any]:
    """The record of a timing of which nothing else is known."""
    return {
        "seconds_per_step": seconds_per_step,
        "num_steps": None,
        "machine": None,
        "host": None,
        "peak_memory_bytes": None,
    }


def calibrate(variant: Variant, folder: Path, machine: Machine, say: Callable[[str], None]) -> dict[str, Any]:
    """Time a short run of an arm, alone on the first device. Returns the seconds of a step, without evaluation, and
    where they were measured. Raises UserError, with the end of its log, where the run fails."""
    say(f"timing     {variant.key}: {CALIBRATION_STEPS} steps on {machine.devices[0]}")
    out = folder / "calibration" / variant.key
    shutil.rmtree(out, ignore_errors=True)
    log = folder / "logs" / f"calibration-{variant.key.replace('/', '-')}.txt"
    words = train_words(variant, SHORT, out)
    code = run_command(
        words,
        log,
        device=machine.devices[0],
        num_threads=machine.num_threads,
        should_stop=machine.should_stop,
        kill=True,
    )
    if machine.should_stop():
        raise KeyboardInterrupt
    if code != 0:
        raise UserError("\n  ".join([f"{variant.key} could not be timed; its log {log} ends with", *last_lines(log)]))
    per_step = seconds_per_step(read_metrics(out).having("train/tokens_per_s"))
    run = read_object(out / "run.json")
    shutil.rmtree(out)
    return {
        "seconds_per_step": per_step,
        "num_steps": CALIBRATION_STEPS,
        "machine": run["machine"],
        "host": platform.node(),
        "peak_memory_bytes": run.get("peak_memory_bytes"),
    }
