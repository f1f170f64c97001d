"""atat experiment: train every arm and seed of a grid, watch it, and make the table of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mdlm_atat.cli.parser import Parser, choose, whole
from mdlm_atat.errors import UserError, command_line, quoted
from mdlm_atat.formats import counted

if TYPE_CHECKING:
    from mdlm_atat.studies.run import Study


HELP = """\
usage: atat experiment list | run | status | report

Compare ways of training: arms x seeds x corpora under one budget, from a grid in YAML.

commands:
  list      the grids that come along
  run       train and evaluate what is not done yet
  status    how far each run is, and the time left
  report    make report.html, report.md and results.json anew

examples:
  atat experiment list                                    the grids that come along
  atat experiment run quick                               on a laptop, in minutes
  atat experiment run main --out runs/main --processes 4  four runs at a time, over all GPUs
  atat experiment run my-grid.yaml --seeds 0 --budget steps=200 --train.batch_size 16
  atat experiment run runs/main                           go on where it stopped
  atat experiment run my-grid.yaml --done other/results.json   only the runs that are missing there
  atat experiment run main --slurm --submit --sbatch-option=--partition=gpu --sbatch-option=--time=4:00:00
  atat experiment status runs/main                        how far each run is, and the time left
  atat experiment report runs/main                        report.html, report.md and results.json

What a grid may say is in docs/experiments.md.
"""


def main(argv: list[str]) -> int:
    chosen = choose("atat experiment", argv, ("list", "run", "status", "report"), HELP)
    match chosen:
        case None:
            return 0
        case "run", words:
            return run(run_parser().parse(words))
        case "list", words:
            from mdlm_atat.studies.grid_file import describe_grids

            Parser("atat experiment list", "The grids that come along.").parse(words)
            lines = [f"{name:12} {text}" for name, text in describe_grids().items()]
        case action, words:
            from mdlm_atat.studies.run import report_study, stored_study, study_progress
            from mdlm_atat.studies.study_progress import status_lines

            parser = Parser(
                f"atat experiment {action}", "How far each run is." if action == "status" else "Report anew."
            )
            parser.add_argument("folder", type=Path, help="the folder that the experiment was run in")
            study = stored_study(parser.parse(words).folder)
            lines = status_lines(study_progress(study)) if action == "status" else report_study(study).lines()
    print("\n".join(lines))
    return 0


def run_parser() -> Parser:
    parser = Parser("atat experiment run", "Train and evaluate what is not done yet.", takes_settings=True)
    parser.add_argument("grid", help="a grid's name, a YAML file, or an experiment's folder to go on with")
    parser.add_argument("--out", type=Path, help="folder of the experiment (default: runs/GRID)")
    parser.add_argument("--processes", type=whole(1), default=1, help="runs at a time, over the visible GPUs")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these arms")
    parser.add_argument("--seeds", nargs="+", type=whole(0), help="these seeds")
    parser.add_argument("--budget", metavar="UNIT=AMOUNT", help="steps=, tokens=, flops= or gpu_seconds=")
    parser.add_argument("--done", type=Path, metavar="FILE", help="leave out the runs that these results hold as done")
    parser.add_argument("--dry_run", action="store_true", help="say what would be run, and run nothing")
    parser.add_argument("--task", type=whole(0), help="only this run of the list, from 0 on (for job arrays)")
    parser.add_argument("--slurm", action="store_true", help="write a job array script instead of running")
    parser.add_argument("--submit", action="store_true", help="and hand it to sbatch")
    parser.add_argument(
        "--sbatch_option", action="append", default=[], metavar="=--OPTION=VALUE", help="an option for sbatch, as it is"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 where every run is done, 1 where one failed, 128 and the signal's number where one ended it."""
    from mdlm_atat.progress import messages
    from mdlm_atat.studies.run import open_study, planned_commands, run_study, tasks_of

    if (arguments.submit or arguments.sbatch_option) and not arguments.slurm:
        raise UserError("--submit and --sbatch-option go with --slurm")
    if arguments.slurm and arguments.task is not None:
        raise UserError("--slurm writes an array of all runs; --task is what each of its jobs is given: leave one out")
    study = open_study(
        arguments.grid,
        arguments.out,
        arms=arguments.arms,
        seeds=arguments.seeds,
        budget=None if arguments.budget is None else read_budget(arguments.budget),
        settings=arguments.settings,
        done=arguments.done,
    )
    if arguments.dry_run:
        commands = planned_commands(study, arguments.task)
        open_ended = any("--train.num_steps STEPS" in command for command in commands)
        ending = "; STEPS is worked out from the budget before the first" if open_ended else ""
        asked = len(tasks_of(study, arguments.task))
        told = counted(asked, "run")
        if len(commands) < asked:
            told = f"{len(commands)} of {told}; the others are done"
        print("\n".join([*commands, f"{told}{ending}"]))
        return 0
    if arguments.slurm:
        return slurm(arguments, study)
    console = messages()

    def say(text: str) -> None:
        print(text, file=console.file, flush=True)

    outcome = run_study(study, processes=arguments.processes, task=arguments.task, say=say)
    for line in outcome.lines():
        say(line)
    if outcome.stopped_by is not None:
        return 128 + outcome.stopped_by
    return 1 if outcome.failed_runs or outcome.failed_benches else 0


def read_budget(words: str) -> dict[str, float]:
    unit, _, amount = words.partition("=")
    try:
        return {unit: float(amount)}
    except ValueError:
        raise UserError(f"--budget is {words!r}, expected e.g. steps=1000 or gpu_seconds=600") from None


def slurm(arguments: argparse.Namespace, study: Study) -> int:
    from mdlm_atat.studies.run import write_job_array
    from mdlm_atat.studies.slurm import submit

    at_once = arguments.processes if arguments.processes > 1 else None
    script, num_tasks = write_job_array(study, options=arguments.sbatch_option, at_once=at_once)
    print(f"written    {script}: {num_tasks} tasks")
    print(f"submitted  job {submit(script)}" if arguments.submit else f"next       sbatch {quoted(str(script))}")
    print(f"watch      {command_line(['experiment', 'status', study.folder])}")
    return 0
