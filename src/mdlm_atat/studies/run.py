"""A study from Python: open a grid, train what is not done yet, see how far it is, and report what it found.

    study = open_study("quick", seeds=[0], settings={"train.batch_size": 16})
    outcome = run_study(study, processes=2)
    outcome.report.results["derived"]

`atat experiment` calls the same functions.
"""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdlm_atat.atomic import is_empty, make_folder, nothing_new_left, stored_if_possible, write_text
from mdlm_atat.checks import at_least
from mdlm_atat.config.yaml_text import yaml_text
from mdlm_atat.errors import UserError, command_line
from mdlm_atat.studies import processes as children
from mdlm_atat.studies.benches import run_benches
from mdlm_atat.studies.elsewhere import DoneRuns, read_done, read_elsewhere
from mdlm_atat.studies.grid import Grid, grid_tree, merge
from mdlm_atat.studies.grid_file import load_grid, select
from mdlm_atat.studies.jobs import Job, jobs_of, train_words, variants_of
from mdlm_atat.studies.planning import (
    Machine,
    check_plan,
    ensure_planned,
    expected_steps,
    read_plan,
)
from mdlm_atat.studies.results import stored_runs, write_results
from mdlm_atat.studies.runner import Outcome, Runner, cpu_threads
from mdlm_atat.studies.slurm import write_array_script
from mdlm_atat.studies.study_progress import RunProgress, progress_of, status_lines

TOLD_EVERY_S = 30.0

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid, and the folder in which its runs are or will be."""

    grid: Grid
    folder: Path
    done: DoneRuns | None = None
    """Runs that were trained elsewhere, and are not trained here."""

    @property
    def jobs(self) -> list[Job]:
        """Every run of the grid, in the order in which they are started."""
        return jobs_of(self.grid)


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """The files that `report_study` wrote."""

    results: dict[str, Any]
    """The content of results.json."""
    folder: Path

    @property
    def page(self) -> Path:
        return self.folder / "report.html"

    def lines(self) -> list[str]:
        """For a terminal: the main table of each corpus, the caveats, and where the files are."""
        from mdlm_atat.report.experiment_markdown import corpus_table

        lines: list[str] = []
        for corpus in self.results["derived"]:
            lines += [corpus, *corpus_table(self.results, corpus), ""]
        lines += [f"caveat     {sentence}" for sentence in self.results["caveats"]]
        written = f"{self.folder / 'results.json'}, {self.folder / 'report.md'}"
        return [*lines, f"written    {written}", f"report     {self.page}"]


@dataclass(frozen=True, kw_only=True)
class StudyOutcome:
    """How a call of `run_study` ended."""

    folder: Path
    """The study's."""
    runs: Mapping[str, Outcome]
    """done, failed, skipped (it was done before) or interrupted, by the name of the run."""
    failed_runs: Mapping[str, str]
    """The last line of the log of each run that failed."""
    failed_benches: Mapping[str, str]
    """The same of sampler benches."""
    stopped_by: signal.Signals | None
    """The signal that ended the call early: every run has a checkpoint, and the next call goes on from there."""
    report: StudyReport | None
    """None where the call was stopped."""

    def lines(self) -> list[str]:
        """For a terminal: the report, or how to go on; and what failed, with the last line that each run said."""
        again = command_line(["experiment", "run", self.folder])
        if self.report is None:
            return [f"go on      {again}"]
        runs, benches = self.failed_runs, self.failed_benches
        if not (runs or benches):
            return self.report.lines()
        counted = [f"{len(runs)} of {len(self.runs)} runs"] * bool(runs)
        counted += [f"{len(benches)} sampler {'benches' if len(benches) > 1 else 'bench'}"] * bool(benches)
        return [
            *self.report.lines(),
            f"{' and '.join(counted)} failed:",
            *(f"  {name}: {reason}" for name, reason in [*runs.items(), *benches.items()]),
            f"logs       {self.folder / 'logs'}",
            f"mend the cause and try them again: {again}",
        ]


def open_study(
    grid: str | Path | Grid,
    out: str | Path | None = None,
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    budget: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    done: str | Path | None = None,
) -> Study:
    """Read and check a grid. Nothing is written or trained yet.

    `grid` is the name of a shipped grid, a YAML file, a `Grid`, or the folder of a study that is to go on. `out` is the
    study's folder, by default runs/NAME. `arms` leaves only these arms, `seeds` and `budget` (`{"steps": 1000}`)
    replace the grid's, and `settings`, by dotted path, go over those of every arm of a grid that is read from a file.
    `done` is the results.json of another folder, or what docs/results keeps of one: runs that it holds as done are not
    trained, and `arms` may leave out a baseline whose runs it holds. Raises UserError with every mistake at once, and
    where `done` is of another experiment.
    """
    is_folder = not isinstance(grid, Grid) and Path(grid).is_dir()
    if is_folder and out is not None:
        raise UserError("an experiment goes on in its folder: leave out `out=`")
    read = grid if isinstance(grid, Grid) else load_grid(str(grid), settings)
    for line in () if is_folder else read.without_effect():
        warnings.warn(line, stacklevel=2)
    read = select(read, arms=arms, seeds=seeds, budget=budget, keep_baseline=done is not None)
    folder = Path(grid) if is_folder and not isinstance(grid, Grid) else Path(out or Path("runs") / read.name)
    held = None if done is None else read_done(Path(done), read)
    if held is not None and arms is not None and read.baseline not in arms:
        missing = [job.name for job in held.jobs if job.variant.arm.name == read.baseline and job not in held]
        if missing:
            raise UserError(
                f"`arms=` leaves out the baseline {read.baseline}, and {held.file} does not hold {', '.join(missing)}; "
                "name the baseline too, or leave out that seed with `seeds=`"
            )
    return Study(grid=read, folder=folder, done=held)


def stored_study(folder: str | Path) -> Study:
    """The study that a folder holds. Raises UserError where it holds none."""
    if not (Path(folder) / "grid.yaml").is_file():
        raise UserError(f"{folder} is no experiment: it holds no grid.yaml; expected the folder that one was run in")
    return open_study(folder)


def run_study(study: Study, *, processes: int = 1, task: int | None = None, say: Say = print) -> StudyOutcome:
    """Train and evaluate every run that is not done yet, bench samplers where the grid asks for it, and report.

    `processes` runs are kept going at a time, spread over the visible GPUs; each is an `atat train` in a process of its
    own. A run that fails is noted and the others go on. Ctrl-C ends all of them with a checkpoint. `task` trains only
    that run of `study.jobs`. `say` is given a line of news at a time. Raises UserError for a folder that holds
    something else, or another study.
    """
    at_least("processes", processes, 1)
    jobs, folder = tasks_of(study, task), study.folder
    stored_runs(folder)  # a damaged file is told before anything is timed or trained
    grid = write_grid(study)
    devices = children.visible_devices()
    say(f"experiment {folder}: {len(jobs)} runs, {processes} at a time on {', '.join(devices)}")
    planned = jobs if study.done is None else study.jobs  # what is done elsewhere is checked by the plan, whole
    variants = list({job.variant.key: job.variant for job in planned}.values())
    outcomes: dict[str, Outcome] = {}
    failed_benches: dict[str, str] = {}
    with children.stop_signals() as heard:
        machine = Machine(devices, cpu_threads(1), should_stop=lambda: bool(heard))
        try:
            plan, failures = ensure_planned(grid, variants, folder, machine, say, study.done)
            if study.done is not None:
                study.done.store(folder, machine.stop_waiting)
            for line in _told_of_elsewhere(folder, grid):
                say(line)
            runner = Runner(
                folder=folder,
                plan=plan,
                devices=devices,
                num_processes=processes,
                stop=heard,
                say=say,
                on_change=lambda: _collect(folder, grid),
                on_wait=_progress_teller(folder, grid, say),
            )
            unplanned = [job for job in jobs if job.variant.key in failures]
            for job in unplanned:
                runner.give_up(job, failures[job.variant.key])
            outcomes = runner.run([job for job in jobs if job not in unplanned])
            failed_benches = run_benches(
                grid,
                jobs_of(grid),
                folder,
                plan,
                device=devices[0],
                num_threads=cpu_threads(1),
                should_stop=lambda: bool(heard),
                say=say,
            )
        except KeyboardInterrupt:  # heard while planning
            pass
    failed = [name for name, outcome in outcomes.items() if outcome == "failed"]
    told = progress_of(folder, grid) if failed else []
    return StudyOutcome(
        folder=folder,
        runs=outcomes,
        failed_runs={run.job.name: run.last_line for run in told if run.job.name in failed},
        failed_benches=failed_benches,
        stopped_by=signal.Signals(heard[0]) if heard else None,
        report=None if heard else report_study(Study(grid=grid, folder=folder)),
    )


def report_study(study: Study) -> StudyReport:
    """Write results.json, report.md and report.html of the runs as they are now."""
    from mdlm_atat.report.experiment_markdown import report_markdown
    from mdlm_atat.report.experiment_page import write_experiment_page

    results = write_results(study.folder, study.grid)
    with stored_if_possible(study.folder):
        write_text(study.folder / "report.md", report_markdown(results))
        write_experiment_page(results, study.folder)
    return StudyReport(results=results, folder=study.folder)


def study_progress(study: Study) -> list[RunProgress]:
    """How far each run is: its state, step and speed, and the time that is left."""
    return progress_of(study.folder, study.grid)


def planned_commands(study: Study, task: int | None = None) -> list[str]:
    """`INDEX  RUN: COMMAND` of every run that is not done, as `run_study` would start it. Runs nothing.

    INDEX is that of the run in `study.jobs`. STEPS stands for a number of steps that has to be worked out from the
    budget first.
    """
    plan, lines, asked = read_plan(study.folder), list[str](), tasks_of(study, task)
    for index, job in _left(study, study.grid):
        if job not in asked:
            continue
        steps = expected_steps(study.grid, job, plan)
        settings: dict[str, Any] = {"train.seed": job.seed, "train.num_steps": "STEPS" if steps is None else steps}
        words = train_words(job.variant, settings, study.folder / job.folder)
        lines.append(f"{index:3}  {job.name}: {command_line(words)}")
    return lines


def write_job_array(study: Study, *, options: Sequence[str] = (), at_once: int | None = None) -> tuple[Path, int]:
    """Write a SLURM job array with a task for each run that is not done. Returns the script and its number of tasks.

    `options` are given to sbatch as they are; `at_once` limits the number of tasks that run at the same time. Raises
    UserError where every run is done.
    """
    grid = write_grid(study)
    tasks = [index for index, _ in _left(study, grid)]
    if not tasks:
        raise UserError(f"every run of {study.folder} is done: nothing is left for a job array")
    done = None if study.done is None else study.done.file
    script = write_array_script(study.folder, grid.name, tasks, options=options, at_once=at_once, done=done)
    return script, len(tasks)


def _left(study: Study, grid: Grid) -> list[tuple[int, Job]]:
    """The runs of a grid that are not done, here or elsewhere, each with its place among all of them."""
    found = progress_of(study.folder, grid)
    return [
        (index, run.job)
        for index, run in enumerate(found)
        if run.status != "done" and (study.done is None or run.job not in study.done)
    ]


def tasks_of(study: Study, task: int | None) -> list[Job]:
    """All runs of a study, or the one that a number names, from 0 on. Raises UserError for a number that is none."""
    jobs = study.jobs
    if task is None:
        return jobs
    if not 0 <= task < len(jobs):
        raise UserError(f"`task={task}` is no run, expected 0 to {len(jobs) - 1}: the grid has {len(jobs)} runs")
    return [jobs[task]]


def write_grid(study: Study) -> Grid:
    """Write grid.yaml, with what the folder's own has beyond the study's grid, and return the grid of both.

    Raises UserError, and writes nothing, where the folder is another's.
    """
    folder, grid = study.folder, study.grid
    file = folder / "grid.yaml"
    if folder.exists() and not (folder.is_dir() and (file.exists() or is_empty(folder))):
        raise UserError(f"{folder} is not an experiment and is not empty; choose another `out=`")
    check_plan(read_plan(folder), grid, variants_of(grid), folder)
    if file.exists():
        grid = merge(load_grid(str(folder)), grid)
    text = "# A grid as resolved. `atat experiment run FOLDER` goes on with it.\n" + yaml_text(grid_tree(grid))
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        with nothing_new_left(folder):
            make_folder(folder)
            write_text(file, text)
    return grid


def _collect(folder: Path, grid: Grid) -> None:
    write_results(folder, grid)


def _told_of_elsewhere(folder: Path, grid: Grid) -> list[str]:
    """A line on the runs that were trained elsewhere and what is left to do; none where all are of this folder."""
    runs = progress_of(folder, grid)
    records = read_elsewhere(folder)
    held = [records[str(run.job.folder)]["elsewhere"] for run in runs if str(run.job.folder) in records]
    if not held:
        return []
    left = ", ".join(run.job.name for run in runs if run.status != "done") or "nothing"
    return [f"elsewhere  {len(held)} of {len(runs)} runs are done in {', '.join(dict.fromkeys(held))}; left: {left}"]


def _progress_teller(folder: Path, grid: Grid, say: Say) -> Callable[[], None]:
    """A function that says how far the running ones are, every half minute that it is called."""
    last_s = time.monotonic()

    def tell() -> None:
        nonlocal last_s
        if time.monotonic() - last_s < TOLD_EVERY_S:
            return
        last_s = time.monotonic()
        *lines, whole = status_lines(progress_of(folder, grid))
        say("\n".join([*(line for line in lines if " running " in line), whole]))

    return tell
