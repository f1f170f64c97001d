"""results.json of an experiment: a record of every run and what follows from them. Reports need nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from mdlm_atat.atomic import finite, stored_if_possible, write_json
from mdlm_atat.config.schema import settings_with
from mdlm_atat.errors import UserError
from mdlm_atat.locks import waiting_lock
from mdlm_atat.provenance import code_version, commit
from mdlm_atat.small_files import check_kinds, read_object, taken_apart
from mdlm_atat.studies.caveats import caveats_of
from mdlm_atat.studies.derived import derive
from mdlm_atat.studies.elsewhere import read_elsewhere
from mdlm_atat.studies.grid import Grid
from mdlm_atat.studies.jobs import arm_differences, jobs_of
from mdlm_atat.studies.planning import Plan, expected_steps, read_plan
from mdlm_atat.studies.run_record import FORMAT, MOST_BYTES, Stored, collect_run

FILE_NAME = "results.json"
REMEDY = "delete it, and the next report makes it anew from runs/; a run whose folder is gone is trained again"


def read_results(folder: Path) -> dict[str, Any] | None:
    """The content of results.json; None where there is none. Raises UserError for a damaged file."""
    file = folder / FILE_NAME
    if not file.is_file():
        return None
    results = read_object(file, most_bytes=MOST_BYTES, remedy=REMEDY)
    with taken_apart(file, remedy=REMEDY):
        if results["format"] != FORMAT:
            raise UserError(f"{file} has format {results['format']}, this version reads {FORMAT}")
    return results


def stored_runs(folder: Path) -> Stored:
    """The records of runs that are done and need no folder here: its own is gone and results.json holds it, or it was
    trained elsewhere. Raises UserError for a damaged file."""
    return _stored(folder, _done_runs(folder))


def _stored(folder: Path, done: Sequence[dict[str, Any]]) -> Stored:
    stored: dict[str, list[dict[str, Any]]] = {}
    gone = [run for run in done if not (folder / run["folder"]).exists()]
    for run in [*gone, *read_elsewhere(folder).values()]:
        stored.setdefault(run["folder"], []).append(run)
    return stored


def _done_runs(folder: Path) -> list[dict[str, Any]]:
    """The records of results.json of runs that were trained here to the end, those that it does not report at the end.
    Raises UserError for a damaged file."""
    results = read_results(folder)
    if results is None:
        return []
    with taken_apart(folder / FILE_NAME, remedy=REMEDY):
        kept = [*results["runs"], *results["branch_runs"], *results.get("other_runs", [])]
        runs = [run for run in kept if run["status"] == "done" and not run.get("elsewhere")]
        for run in runs:
            check_kinds(run, folder=str, num_steps=int, config=dict)
            check_kinds(run["data"], hash=str, train_tokens=int)
            _ = run["config"], run["num_steps"], run["data"]["hash"], run["data"]["train_tokens"]
        return runs


def write_results(folder: Path, grid: Grid) -> dict[str, Any]:
    """Collect all runs, derive what follows, and write results.json. Returns its content as a reader finds it.

    One process at a time, so that the last one to write has seen all that the others saw.
    """
    with ExitStack() as alone:
        with suppress(OSError):  # where a lock cannot be written, nor can results.json
            alone.enter_context(waiting_lock(folder / "jobs" / "results.lock", lambda: None))
        done = _done_runs(folder)
        results = collect(folder, grid, read_plan(folder), _stored(folder, done))
        results["other_runs"] = _not_reported(done, results)
        with stored_if_possible(folder / FILE_NAME):
            write_json(folder / FILE_NAME, results)
    return json.loads(json.dumps(finite(results)))  # as a report finds it


def _not_reported(done: Sequence[dict[str, Any]], results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of another plan, or of arms and seeds that the grid no longer has. They took hours, and a later plan
    may be theirs again."""
    reported = [run for run in [*results["runs"], *results["branch_runs"]] if run["status"] == "done"]
    found: list[dict[str, Any]] = []
    for run in done:
        if not any(_is_of_plan(run, other) for other in [*reported, *found]):
            found.append(run)
    return found


def _is_of_plan(run: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of one plan: of a run at two times, the later one by a version with more settings."""
    if (
        any(run[name] != other[name] for name in ("folder", "num_steps"))
        or run["data"]["hash"] != other["data"]["hash"]
    ):
        return False
    one, two = (finite(each["config"] or {}) for each in (run, other))
    return all(one[path] == two[path] for path in (one.keys() & two.keys()) - settings_with("resume", "free", "place"))


def collect(folder: Path, grid: Grid, plan: Plan, stored: Stored) -> dict[str, Any]:
    """The content of results.json. A run whose folder is gone stays as it was in `stored`."""
    runs = [
        collect_run(folder, job, expected_steps(grid, job, plan), plan.get(job.variant.key), stored)
        for job in jobs_of(grid)
    ]
    order = {arm.name: place for place, arm in enumerate(grid.arms)}
    runs.sort(key=lambda run: (run["corpus"], order[run["branch_of"] or run["arm"]], run["share"], run["seed"]))
    results: dict[str, Any] = {
        "format": FORMAT,
        "name": grid.name,
        "description": grid.description,
        "baseline": grid.baseline,
        "reference": list(grid.reference),
        "budget": {"unit": grid.budget.unit, "amount": grid.budget.amount, grid.budget.unit: grid.budget.amount},
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "code_version": code_version(),
        "commit": commit(),
        "arms": _arms(grid, runs, plan),
        "runs": [run for run in runs if run["branch_of"] is None],
        "branch_runs": [run for run in runs if run["branch_of"] is not None],
    }
    results["derived"] = derive(results)
    results["caveats"] = caveats_of(results)
    return results


def _arms(grid: Grid, runs: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, Any]:
    """Of each arm its description, its size, and the settings in which it differs from the baseline on the first
    corpus."""
    corpus = grid.corpora[0]
    arms: dict[str, Any] = {}
    for arm in grid.arms:
        changed = arm_differences(grid, arm)
        mine = [run for run in runs if run["arm"] == arm.name]
        entry = plan.get(f"{arm.name}/{corpus.name}" if corpus.name else arm.name, {})
        arms[arm.name] = {
            "description": arm.description,
            "config_differences": {path: value for path, (_, value) in changed.items()},
            "baseline_values": {path: value for path, (value, _) in changed.items()},
            "num_parameters": next((run["num_parameters"] for run in mine if run["num_parameters"]), None),
            "flops_per_token": entry.get("flops_per_token"),
        }
    return arms
