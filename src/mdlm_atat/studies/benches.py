"""Benches of samplers on finished runs: how good the texts are that each sampler draws from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mdlm_atat.locks import try_lock
from mdlm_atat.studies.grid import Grid, SamplerBench
from mdlm_atat.studies.jobs import Job
from mdlm_atat.studies.planning import Plan, planned_steps
from mdlm_atat.studies.processes import last_lines, run_command
from mdlm_atat.studies.results import stored_runs
from mdlm_atat.studies.run_record import read_json
from mdlm_atat.studies.run_state import is_done

FILE_NAME = "samplers-generate.json"


def bench_jobs(grid: Grid, jobs: Sequence[Job]) -> list[Job]:
    """The runs to bench: the first seed of each arm that the grid's `samplers` names."""
    named = () if grid.bench is None else grid.bench.arms
    return [job for job in jobs if job.share == 1 and job.seed == grid.seeds[0] and job.variant.arm.name in named]


def run_benches(
    grid: Grid,
    jobs: Sequence[Job],
    folder: Path,
    plan: Plan,
    *,
    device: str,
    num_threads: int,
    should_stop: Callable[[], bool],
    say: Callable[[str], None],
) -> dict[str, str]:
    """Run `atat samplers bench` on every run that is trained and not benched yet. Returns why some failed, by name.

    Benches run one after the other, because they measure seconds. One that is interrupted goes on in the next call.
    """
    failures: dict[str, str] = {}
    stored = stored_runs(folder) if grid.bench is not None else {}
    for job in bench_jobs(grid, jobs):
        assert grid.bench is not None
        name, run = f"samplers-{job.name}", folder / job.folder
        if not _is_trained(job, folder, plan):
            for kept in stored.get(str(job.folder), ())[:1]:
                if kept["sampler_bench"] is not None:
                    continue
                where = kept.get("elsewhere")
                say(f"left out   {name}: {f'its run is in {where}' if where else 'the folder of its run is gone'}")
            continue
        if "needed" in (read_json(run / FILE_NAME) or {}) or should_stop():
            continue
        judge = _judge(grid, grid.bench, job, jobs, folder, plan)
        if grid.bench.judge is not None and judge is None:
            say(f"left out   {name}: its judge {grid.bench.judge} is not trained here, or its folder is gone")
            continue
        lock = try_lock(folder / "jobs" / f"{name}.lock")
        if lock is None:
            continue
        say(f"start      {name}")
        log = folder / "logs" / f"{name}.txt"
        words = bench_words(grid.bench, run, judge)
        code = run_command(
            words,
            log,
            device=device,
            num_threads=num_threads,
            should_stop=should_stop,
            keep_open=[lock.descriptor],
        )
        lock.release()
        if code != 0 and not should_stop():
            failures[name] = (last_lines(log) or ["it said nothing"])[-1]
            say(f"FAILED     {name}: {failures[name]}")
    return failures


def bench_words(bench: SamplerBench, run: Path, judge: Path | None) -> list[str]:
    """The words that follow `atat` in the command of a bench."""
    samplers = ["--samplers", *bench.samplers] if bench.samplers else []
    steps = ["--steps", *map(str, bench.steps), "--num_texts", str(bench.num_texts)]
    return ["samplers", "bench", str(run), *steps, *samplers, *([] if judge is None else ["--judge", str(judge)])]


def _is_trained(job: Job, folder: Path, plan: Plan) -> bool:
    steps = planned_steps(job, plan)
    return steps is not None and is_done(folder / job.folder, steps, plan[job.variant.key]["data"])


def _judge(grid: Grid, bench: SamplerBench, job: Job, jobs: Sequence[Job], folder: Path, plan: Plan) -> Path | None:
    """The folder of the judge's run on the job's corpus, with the first seed; None until it is trained."""
    for other in jobs:
        is_judge = other.variant.arm.name == bench.judge and other.seed == grid.seeds[0] and other.share == 1
        if is_judge and other.corpus == job.corpus and _is_trained(other, folder, plan):
            return folder / other.folder
    return None
