"""How far an experiment is: each run's state, step and speed, and the time that is left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mdlm_atat.formats import count, duration
from mdlm_atat.studies.grid import Grid
from mdlm_atat.studies.jobs import Job, jobs_of, tokens_per_step
from mdlm_atat.studies.planning import Plan, expected_steps, read_plan
from mdlm_atat.studies.results import stored_runs
from mdlm_atat.studies.run_record import Stored, planned_record
from mdlm_atat.studies.run_state import Status, read_attempts, status_of
from mdlm_atat.training.metrics import read_metrics

NUM_RECENT_LINES = 10  # of the log, whose speed is what is expected of the rest


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """How far one run is."""

    job: Job
    status: Status
    step: int
    num_steps: int | None
    tokens_per_s: float | None
    """Over the latest log lines; None before there is one."""
    left_s: float | None
    """Of training, for this run alone; None where nothing is known of its speed."""
    last_line: str
    """Of a failed run's log."""


def progress_of(folder: Path, grid: Grid) -> list[RunProgress]:
    """How far each run of a study is, in the order in which they are started."""
    plan, stored = read_plan(folder), stored_runs(folder)
    found = [_run_progress(folder, job, expected_steps(grid, job, plan), plan, stored) for job in jobs_of(grid)]
    speeds: dict[str, list[float]] = {}
    for run in found:
        if run.tokens_per_s is not None:
            speeds.setdefault(run.job.variant.key, []).append(run.tokens_per_s)
    every = [speed for known in speeds.values() for speed in known]
    return [_with_time_left(run, speeds.get(run.job.variant.key) or every, plan) for run in found]


def whole_time_left(runs: Sequence[RunProgress]) -> float | None:
    """Seconds until the last run ends, if as many run at a time as now, or one if none runs now.

    Returns None where the speed of a run is not known.
    """
    open_ = [run for run in runs if run.status in ("running", "waiting")]
    left = [run.left_s for run in open_]
    known = [seconds for seconds in left if seconds is not None]
    if len(known) < len(left):
        return None
    at_once = max(1, sum(run.status == "running" for run in runs))
    return max([sum(known) / at_once, *known], default=0.0)


def _run_progress(folder: Path, job: Job, num_steps: int | None, plan: Plan, stored: Stored) -> RunProgress:
    entry = plan.get(job.variant.key)
    data = None if entry is None else entry["data"]
    status = status_of(folder, job, num_steps, data)
    if status in ("waiting", "failed") and planned_record(stored, job, num_steps, data) is not None:
        status = "done"
    training = read_metrics(folder / job.folder).having("train/loss")
    speeds = training.column("train/tokens_per_s")[-NUM_RECENT_LINES:].tolist()
    attempts = read_attempts(folder, job)
    lines = attempts[-1].last_lines if attempts and status == "failed" else []
    return RunProgress(
        job=job,
        status=status,
        step=int(training.last("step") or 0),
        num_steps=num_steps,
        tokens_per_s=statistics.harmonic_mean(speeds) if speeds else None,
        left_s=None,
        last_line=lines[-1] if lines else "",
    )


def _with_time_left(run: RunProgress, speeds: Sequence[float], plan: Plan) -> RunProgress:
    """The run with the time that is left, by its own speed, or its timing alone, or the speed of other runs."""
    calibration = (plan.get(run.job.variant.key) or {}).get("calibration")
    if run.status in ("done", "failed") or run.num_steps is None:
        return run
    per_step = tokens_per_step(run.job.variant.config)
    speed = run.tokens_per_s
    if speed is None and calibration is not None:
        speed = per_step / calibration["seconds_per_step"]
    if speed is None and speeds:
        speed = statistics.fmean(speeds)
    return run if not speed else replace(run, left_s=(run.num_steps - run.step) * per_step / speed)


def status_lines(runs: Sequence[RunProgress]) -> list[str]:
    """A line for each run, and a last one for all of them."""
    width = max([len(run.job.name) for run in runs], default=0)
    lines = []
    for run in runs:
        steps = "?" if run.num_steps is None else f"{run.num_steps:,}"
        speed = "" if run.tokens_per_s is None else f"{count(run.tokens_per_s)} tokens/s"
        left = "" if run.left_s is None else f"{duration(run.left_s)} left"
        step = run.num_steps if run.status == "done" and run.num_steps is not None else run.step
        done = f"step {step:,} of {steps}"
        lines.append(f"{run.job.name:{width}}  {run.status:8} {done:24} {speed:20} {left}{run.last_line}".rstrip())
    found = {status: sum(run.status == status for run in runs) for status in ("done", "running", "waiting", "failed")}
    whole = whole_time_left(runs)
    told = ", ".join(f"{number} {status}" for status, number in found.items() if number)
    open_ = found["running"] + found["waiting"]
    ending = "" if not open_ else "; time left unknown" if whole is None else f"; {duration(whole)} of training left"
    if open_ and whole is not None and found["running"]:
        ending += f", until about {time.strftime('%H:%M', time.localtime(time.time() + whole))}"
    return [*lines, f"{len(runs)} runs: {told}{ending}"]
