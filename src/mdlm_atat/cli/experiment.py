"""atat experiment: train every arm and seed of a grid, watch it, and make the table of it."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.config.files import split_flags
from mdlm_atat.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mdlm_atat.studies.grid import Grid
    from mdlm_atat.studies.jobs import Job

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atat experiment",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compare ways of training: arms x seeds x corpora under one budget, from a grid in YAML.",
        epilog="""examples:
  atat experiment list                                    the grids that come along
  atat experiment run quick                               on a laptop, in minutes
  atat experiment run main --out runs/main --processes 4  four runs at a time, over all GPUs
  atat experiment run my-grid.yaml --seeds 0 --budget steps=200 --train.batch_size 16
  atat experiment run runs/main                           go on where it stopped
  atat experiment run main --slurm --submit --sbatch-option=--partition=gpu --sbatch-option=--time=4:00:00
  atat experiment status runs/main                        how far each run is, and the time left
  atat experiment report runs/main                        report.html, report.md and results.json

What a grid may say is in docs/experiments.md.
""",
    )
    commands = parser.add_subparsers(dest="action", required=True, metavar="list | run | status | report")
    commands.add_parser("list", help="the grids that come along")
    run = commands.add_parser("run", help="train and evaluate what is not done yet")
    run.add_argument("grid", help="a grid's name, a YAML file, or an experiment's folder to go on with")
    run.add_argument("--out", type=Path, help="folder of the experiment (default: runs/GRID)")
    run.add_argument("--processes", type=int, default=1, help="runs at a time, over the visible GPUs (default: 1)")
    run.add_argument("--arms", nargs="+", metavar="ARM", help="only these arms")
    run.add_argument("--seeds", nargs="+", type=int, metavar="N", help="these seeds")
    run.add_argument("--budget", metavar="UNIT=AMOUNT", help="steps=, tokens=, flops= or gpu_seconds=")
    run.add_argument("--dry-run", "--dry_run", action="store_true", help="say what would be run, and run nothing")
    run.add_argument("--task", type=int, metavar="I", help="only run I of the list, from 0 on (for job arrays)")
    run.add_argument("--slurm", action="store_true", help="write a job array script instead of running")
    run.add_argument("--submit", action="store_true", help="and hand it to sbatch")
    run.add_argument(
        "--sbatch-option", action="append", default=[], metavar="=--OPTION=VALUE", help="an option for sbatch, as it is"
    )
    status = commands.add_parser("status", help="how far each run is, and the time left")
    status.add_argument("folder", type=Path)
    report = commands.add_parser("report", help="make report.html, report.md and results.json anew")
    report.add_argument("folder", type=Path)
    return parser


def main(argv: list[str]) -> int:
    own, dotted = split_flags(argv)
    arguments = make_parser().parse_args(own)
    if dotted and arguments.action != "run":
        raise UserError(f"{dotted[0]} is for atat experiment run only")
    match arguments.action:
        case "list":
            return list_grids()
        case "run":
            return run(arguments, dotted)
        case "status":
            return status(arguments.folder)
        case _:
            return report(arguments.folder)


def list_grids() -> int:
    from mdlm_atat.studies.grid_file import describe_grids

    for name, text in describe_grids().items():
        print(f"{name:12} {text}")
    return 0


def run(arguments: argparse.Namespace, dotted: list[str]) -> int:
    from mdlm_atat.studies.jobs import jobs_of

    if arguments.processes < 1:
        raise UserError(f"--processes is {arguments.processes}, expected at least 1")
    if (arguments.submit or arguments.sbatch_option) and not arguments.slurm:
        raise UserError("--submit and --sbatch-option go with --slurm")
    if arguments.slurm and arguments.task is not None:
        raise UserError("--slurm writes an array of all runs; --task is what each of its jobs is given: leave one out")
    grid, folder = read_grid(arguments, dotted)
    jobs = jobs_of(grid)
    if arguments.task is not None:
        if not 0 <= arguments.task < len(jobs):
            raise UserError(f"--task is {arguments.task}, expected 0 to {len(jobs) - 1}: the grid has {len(jobs)} runs")
        jobs = [jobs[arguments.task]]
    if arguments.dry_run:
        return dry_run(grid, jobs, folder)
    grid = write_grid(folder, grid)
    if arguments.slurm:
        return slurm(arguments, grid, folder, len(jobs_of(grid)))
    return run_jobs(grid, jobs, folder, arguments.processes)


def read_grid(arguments: argparse.Namespace, dotted: list[str]) -> tuple[Grid, Path]:
    """The grid as the command line changes it, and its folder."""
    from mdlm_atat.studies.grid_file import load_grid, select

    grid = load_grid(arguments.grid, forced_settings(dotted))
    budget = None
    if arguments.budget is not None:
        unit, _, amount = arguments.budget.partition("=")
        try:
            budget = (unit, float(amount))
        except ValueError:
            raise UserError(f"--budget is {arguments.budget!r}, expected e.g. steps=1000 or gpu_seconds=600") from None
    grid = select(grid, arms=arguments.arms, seeds=arguments.seeds, budget=budget)
    is_folder = Path(arguments.grid).is_dir()
    if is_folder and arguments.out is not None:
        raise UserError("an experiment goes on in its folder: leave out --out")
    return grid, Path(arguments.grid) if is_folder else arguments.out or Path("runs") / grid.name


def forced_settings(dotted: list[str]) -> dict[str, Any]:
    """Dotted flags as settings by path."""
    from mdlm_atat.config.files import read_flags

    settings, mistakes = read_flags(dotted)
    if mistakes:
        raise UserError("; ".join(message for _, message in mistakes))
    return settings


def write_grid(folder: Path, grid: Grid) -> Grid:
    """grid.yaml, as resolved, with what the folder's own has beyond it. UserError where the folder is another's."""
    from mdlm_atat.atomic import write_text
    from mdlm_atat.config.files import yaml_text
    from mdlm_atat.studies.grid import grid_tree, merge
    from mdlm_atat.studies.grid_file import load_grid
    from mdlm_atat.studies.jobs import jobs_of, variants_of
    from mdlm_atat.studies.planning import check_lengths, check_plan, read_plan

    if folder.exists() and not (folder.is_dir() and ((folder / "grid.yaml").exists() or not any(folder.iterdir()))):
        raise UserError(f"{folder} is not an experiment and is not empty; choose another --out")
    file = folder / "grid.yaml"
    check_plan(read_plan(folder), grid, variants_of(grid), folder)
    check_lengths(grid, jobs_of(grid), read_plan(folder))
    if file.exists():
        grid = merge(load_grid(str(folder)), grid)
    folder.mkdir(parents=True, exist_ok=True)
    text = "# A grid as resolved. `atat experiment run FOLDER` goes on with it.\n" + yaml_text(grid_tree(grid))
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)
    return grid


def dry_run(grid: Grid, jobs: Sequence[Job], folder: Path) -> int:
    from mdlm_atat.studies.jobs import command_line, run_config, train_words
    from mdlm_atat.studies.planning import expected_steps, read_plan

    plan = read_plan(folder)
    for index, job in enumerate(jobs):
        steps = expected_steps(grid, job, plan)
        if steps is not None:
            run_config(job, steps)
        settings: dict[str, Any] = {"train.seed": job.seed, "train.num_steps": "STEPS" if steps is None else steps}
        print(f"{index:3}  {job.name}: {command_line(train_words(job.variant, settings, folder / job.folder))}")
    unknown = any(expected_steps(grid, job, plan) is None for job in jobs)
    print(f"{len(jobs)} runs" + ("; STEPS is worked out from the budget before the first" if unknown else ""))
    return 0


def slurm(arguments: argparse.Namespace, grid: Grid, folder: Path, num_jobs: int) -> int:
    from mdlm_atat.studies.slurm import submit, write_array_script

    at_once = arguments.processes if arguments.processes > 1 else None
    script = write_array_script(folder, grid.name, num_jobs, options=arguments.sbatch_option, at_once=at_once)
    print(f"written    {script}: {num_jobs} tasks")
    if arguments.submit:
        print(f"submitted  job {submit(script)}")
    else:
        print(f"next       sbatch {script}")
    print(f"watch      atat experiment status {folder}")
    return 0


def run_jobs(grid: Grid, jobs: Sequence[Job], folder: Path, num_processes: int) -> int:
    """Plan, run, report. Exit code 1 where a run failed."""
    from rich.console import Console

    from mdlm_atat.studies.benches import run_benches
    from mdlm_atat.studies.jobs import jobs_of
    from mdlm_atat.studies.planning import Machine, ensure_planned
    from mdlm_atat.studies.processes import stop_signals, visible_devices
    from mdlm_atat.studies.results import write_results
    from mdlm_atat.studies.runner import Runner, cpu_threads

    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    devices = visible_devices()
    say(f"experiment {folder}: {len(jobs)} runs, {num_processes} at a time on {', '.join(devices)}")
    variants = list({job.variant.key: job.variant for job in jobs}.values())
    with stop_signals() as heard:
        machine = Machine(devices, cpu_threads(1), should_stop=lambda: bool(heard))
        try:
            plan, failures = ensure_planned(grid, variants, folder, machine, say)
            runner = Runner(
                folder=folder,
                plan=plan,
                devices=devices,
                num_processes=num_processes,
                stop=heard,
                say=say,
                on_change=lambda: void(write_results(folder, grid)),
                on_wait=progress_teller(console, folder, grid),
            )
            for job in jobs:
                if job.variant.key in failures:
                    runner.give_up(job, failures[job.variant.key])
            outcomes: dict[str, Any] = runner.run([job for job in jobs if job.variant.key not in failures])
            benches = run_benches(
                grid,
                jobs_of(grid),
                folder,
                plan,
                device=devices[0],
                num_threads=cpu_threads(1),
                should_stop=lambda: bool(heard),
                say=say,
            )
        except KeyboardInterrupt:
            outcomes, benches = {}, {}
    if heard:
        say(f"go on      atat experiment run {folder}")
        return EXIT_CODES[signal.Signals(heard[0])]
    return tell_outcomes(folder, grid, outcomes, benches, say)


def void(_: object) -> None:
    return None


def progress_teller(console: Console, folder: Path, grid: Grid) -> Any:
    """A line on how far all runs are, every half minute."""
    import time

    from mdlm_atat.studies.study_progress import progress_of, status_lines

    interval_s = 30.0
    last_s = time.monotonic()

    def tell() -> None:
        nonlocal last_s
        if time.monotonic() - last_s < interval_s:
            return
        last_s = time.monotonic()
        *lines, whole = status_lines(progress_of(folder, grid))
        running = [line for line in lines if " running " in line]
        console.print("\n".join([*running, whole]), highlight=False, markup=False, soft_wrap=True)

    return tell


def tell_outcomes(folder: Path, grid: Grid, outcomes: dict[str, Any], benches: dict[str, str], say: Any) -> int:
    """The report, and what failed."""
    from mdlm_atat.studies.study_progress import progress_of

    failed = [name for name, outcome in outcomes.items() if outcome == "failed"]
    for line in report_files(folder, grid):
        say(line)
    if not failed and not benches:
        return 0
    counted = [f"{len(failed)} of {len(outcomes)} runs"] * bool(failed)
    counted += [f"{len(benches)} sampler {'benches' if len(benches) > 1 else 'bench'}"] * bool(benches)
    say(f"{' and '.join(counted)} failed:")
    for run in progress_of(folder, grid):
        if run.job.name in failed:
            say(f"  {run.job.name}: {run.last_line}")
    for name, reason in benches.items():
        say(f"  {name}: {reason}")
    say(f"logs       {folder / 'logs'}")
    say(f"mend the cause and try them again: atat experiment run {folder}")
    return 1


def status(folder: Path) -> int:
    from mdlm_atat.studies.grid_file import load_grid
    from mdlm_atat.studies.study_progress import progress_of, status_lines

    check_experiment(folder)
    runs = progress_of(folder, load_grid(str(folder)))
    print("\n".join(status_lines(runs)))
    return 0


def report(folder: Path) -> int:
    from mdlm_atat.studies.grid_file import load_grid

    check_experiment(folder)
    print("\n".join(report_files(folder, load_grid(str(folder)))))
    return 0


def check_experiment(folder: Path) -> None:
    if not (folder / "grid.yaml").is_file():
        raise UserError(f"{folder} is no experiment: it holds no grid.yaml; start one with: atat experiment run GRID")


def report_files(folder: Path, grid: Grid) -> list[str]:
    """Write results.json, report.md and report.html; the table, and where they are."""
    from mdlm_atat.atomic import write_text
    from mdlm_atat.report.experiment_page import write_experiment_page
    from mdlm_atat.studies.results import write_results
    from mdlm_atat.studies.table import corpus_table, report_markdown

    results = write_results(folder, grid)
    markdown = folder / "report.md"
    write_text(markdown, report_markdown(results))
    page = write_experiment_page(results, folder)
    lines: list[str] = []
    for corpus, arms in results["derived"].items():
        lines += [f"{corpus}", *corpus_table(results, arms), ""]
    lines += [f"caveat     {sentence}" for sentence in results["caveats"]]
    return [*lines, f"written    {folder / 'results.json'}, {markdown}", f"report     {page}"]
