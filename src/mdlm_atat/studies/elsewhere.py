"""Runs of an experiment that were trained elsewhere, from the results of another folder or machine (`--done FILE`).

Their records are copied into elsewhere.json of the experiment's folder once its data is known to be theirs. A call that
goes on there needs FILE no more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdlm_atat.atomic import finite, write_json
from mdlm_atat.errors import UserError
from mdlm_atat.locks import waiting_lock
from mdlm_atat.scoring.records import Evaluation
from mdlm_atat.small_files import NUMBER, check_kinds, read_object, taken_apart
from mdlm_atat.studies.grid import Grid
from mdlm_atat.studies.jobs import (
    Job,
    Variant,
    arm_differences,
    job_steps,
    jobs_of,
    run_config,
    tokens_per_step,
)
from mdlm_atat.studies.run_record import FORMAT, MOST_BYTES, Records, corpus_name, differs_from_plan
from mdlm_atat.studies.run_state import is_final

FILE_NAME, RESULTS = "elsewhere.json", "results.json"
EXPECTED = "expected results.json of an experiment, or what is kept of it as docs/results keeps it"
DIGITS = 1e-6  # what is kept of results may be rounded to 7 digits
NOT_KEPT: dict[str, Any] = {
    **dict.fromkeys(("branch_of", "error", "command", "config", "machine", "host", "commit", "code_version")),
    **dict.fromkeys(("train_flops", "seconds_per_step", "peak_memory_bytes", "calibration", "best")),
    "share": 1,
    "attempts": [],
    "samples": [],
}
"""What results that were made small may lack of a run, and what stands in its place."""
NO_CURVE: dict[str, Any] = {
    **{name: [] for name in ("step", "tokens", "seconds", "nats", "standard_error")},
    "schedule_nats": None,
    "train_loss": {"step": [], "loss": []},
}


@dataclass(frozen=True, kw_only=True)
class DoneRuns:
    """The runs of a grid that a file of results holds as done."""

    file: Path
    records: Records
    flops_per_token: Mapping[str, float | None]
    """By arm."""
    jobs: Sequence[Job]
    """All of the grid."""

    def __contains__(self, job: Job) -> bool:
        return str(job.folder) in self.records

    def timing(self, variant: Variant, *, is_budget: bool) -> dict[str, Any] | None:
        """How a step of an arm was timed there. With a budget of seconds (`is_budget`) the arm's other seeds are to
        have the same steps; otherwise it is for arms of which nothing is left to train. None where it was not."""
        mine = [job for job in self.jobs if job.variant.key == variant.key]
        timings = [self.records[str(job.folder)]["calibration"] for job in mine if job in self]
        if not is_budget and len(timings) < len(mine):
            return None
        return next((timing for timing in timings if timing is not None), None)

    def check_data(self, variant: Variant, data: Mapping[str, Any]) -> None:
        """Raise UserError where the text of a variant is not the one that the file's runs on that corpus had."""
        for job in self.jobs:
            if job in self and job.corpus == variant.corpus.name:
                stored = self.records[str(job.folder)]["data"]
                if stored["hash"] != data["hash"]:
                    raise UserError(
                        f"{self.file} holds runs on other data than {variant.config.data.source}: "
                        f"{stored['train_tokens']:,} training tokens there, {data['train_tokens']:,} here, with other "
                        "hashes; prepare the same text with the same tokenizer, or leave out `done=`"
                    )

    def check_plan(self, variant: Variant, entry: Mapping[str, Any]) -> None:
        """Raise UserError where a run of the file is not the one that is planned."""
        wrong: list[str] = []
        flops = self.flops_per_token.get(variant.arm.name)
        planned = entry["flops_per_token"]
        if flops and planned and not math.isclose(flops, planned, rel_tol=DIGITS):
            wrong.append(f"{flops:,.0f} FLOPs a token, and {planned:,.0f} here: another network, or another length")
        for job in self.jobs:
            if job in self and job.variant.key == variant.key:
                wrong += _differences(self.records[str(job.folder)], job, job_steps(job, entry["num_steps"]), entry)
        if wrong:
            raise UserError(
                "\n  ".join(
                    [
                        f"{self.file} holds other runs of {variant.key}; make the grid theirs, or leave out `done=`. "
                        "What differs:",
                        *dict.fromkeys(wrong),
                    ]
                )
            )

    def store(self, folder: Path, on_wait: Callable[[], None]) -> None:
        """Copy the records into the experiment's folder, beside those of other files that are there."""
        with waiting_lock(folder / "jobs" / "elsewhere.lock", on_wait):
            runs = {**read_elsewhere(folder), **self.records}
            content = {"format": FORMAT, "runs": list(runs.values())}
            if not (folder / FILE_NAME).exists() or read_object(folder / FILE_NAME, most_bytes=MOST_BYTES) != content:
                write_json(folder / FILE_NAME, content)


def _differences(record: Mapping[str, Any], job: Job, num_steps: int, entry: Mapping[str, Any]) -> list[str]:
    found = differs_from_plan(record, job, num_steps, entry["data"])
    if found:
        return found
    config = run_config(job, num_steps)
    per_step = record["num_tokens"] / num_steps
    is_whole = config.data.mode == "wrap" and "loss_on" not in entry["data"]  # else rows are padded, or count in part
    if is_whole and not math.isclose(per_step, tokens_per_step(config), rel_tol=DIGITS):
        found.append(f"{per_step:,.0f} tokens a step, and {tokens_per_step(config):,} here")
    final = Evaluation.from_json(record["final"])
    if not is_final(final, config, num_steps, entry["data"]):
        found.append(
            f"a final evaluation of {final.num_draws:,} draws on text of length {final.text.length}, and "
            f"{config.eval.final_num_draws:,} on length {config.data.length} here, or of other text"
        )
    return found


def read_done(file: Path, grid: Grid) -> DoneRuns:
    """The runs of `grid` that `file` holds as done: results.json (or a folder that holds it), or what is kept of it
    without settings, samples and long lists.

    Raises UserError where it holds another experiment: of another name, baseline or budget, or an arm that differs from
    the baseline by other settings. Steps, text and the rest are told by the plan, see `DoneRuns.check_plan`.
    """
    file = file / RESULTS if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"`done=`: there is no file {file}; {EXPECTED}")
    content = read_object(file, most_bytes=MOST_BYTES, remedy=EXPECTED)
    if any(name not in content for name in ("format", "name", "baseline", "budget", "arms", "runs")):
        raise UserError(f"{file} holds no results of an experiment; {EXPECTED}")
    with taken_apart(file, remedy=EXPECTED):
        if content["format"] != FORMAT:
            raise UserError(f"{file} has format {content['format']}, this version reads {FORMAT}")
        _check_same(file, content, grid)
        runs = [run for run in [*content["runs"], *content.get("branch_runs", [])] if run["status"] == "done"]
        jobs = jobs_of(grid)
        found = _by_job(file, runs, jobs)
        name = file.name if file.name != RESULTS else f"{file.resolve().parent.name}/{RESULTS}"  # most are called so
        records = {folder: _whole(run, folder, corpus, name) for folder, (corpus, run) in found.items()}
        flops = {arm: about.get("flops_per_token") for arm, about in content["arms"].items()}
        check_kinds(flops, **dict.fromkeys(flops, NUMBER))
    return DoneRuns(file=file, records=records, flops_per_token=flops, jobs=jobs)


def read_elsewhere(folder: Path) -> Records:
    """The records of the runs that were trained elsewhere; none where there is no elsewhere.json. Raises UserError for
    a damaged file."""
    file = folder / FILE_NAME
    remedy = "delete it, and name the file of results with `done=` again"
    if not file.exists():
        return {}
    content = read_object(file, most_bytes=MOST_BYTES, remedy=remedy)
    with taken_apart(file, remedy=remedy):
        for run in content["runs"]:
            _check(run)
            _ = run["elsewhere"][0], run["config"], run["curve"]["nats"]
        return {run["folder"]: run for run in content["runs"]}


def _check_same(file: Path, content: Mapping[str, Any], grid: Grid) -> None:
    budget = content["budget"]
    wrong = [
        f"{what} {theirs!r}, and {ours!r} here"
        for what, theirs, ours in (
            ("name", content["name"], grid.name),
            ("baseline", content["baseline"], grid.baseline),
        )
        if theirs != ours
    ]
    if budget["unit"] != grid.budget.unit or not math.isclose(budget["amount"], grid.budget.amount, rel_tol=DIGITS):
        wrong.append(
            f"a budget of {budget['amount']:g} {budget['unit']}, and {grid.budget.amount:g} {grid.budget.unit} here"
        )
    for arm in grid.arms:
        if arm.name in content["arms"]:
            theirs = content["arms"][arm.name]["config_differences"]
            ours = {path: value for path, (_, value) in arm_differences(grid, arm).items()}
            wrong += [
                f"{arm.name}: {path} {theirs.get(path)!r}, and {ours.get(path)!r} here (null: as in the baseline)"
                for path in dict.fromkeys([*theirs, *ours])
                if not _alike(theirs.get(path), ours.get(path))
            ]
    if wrong:
        raise UserError("\n  ".join([f"{file} holds another experiment; leave out `done=`. What differs:", *wrong]))


def _alike(theirs: Any, ours: Any) -> bool:
    """Whether two values of a setting are the same: numbers may be rounded, and paths cut to their ends."""
    if isinstance(theirs, float) and isinstance(ours, (int, float)):
        return math.isclose(theirs, ours, rel_tol=DIGITS)
    if isinstance(theirs, str) and isinstance(ours, str) and "/" in ours:
        return Path(theirs).name == Path(ours).name
    return theirs == json.loads(json.dumps(finite(ours)))


def _by_job(
    file: Path, runs: Sequence[Mapping[str, Any]], jobs: Sequence[Job]
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """(corpus as it is called here, run) of each job that is among the runs, by its folder.

    A corpus that the grid does not name is called by where it lies: there runs on one and the same text count,
    whatever it was called.
    """
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for job in jobs:
        name = corpus_name(job)
        named = [run for run in runs if run["corpus"] == name]
        hashes = {run["data"]["hash"] for run in named or runs}
        if job.corpus:
            on_it = named
        elif len(hashes) > 1 and not named:
            theirs = ", ".join(sorted({run["corpus"] for run in runs}))
            raise UserError(
                f"{file} holds runs on several texts, {theirs}, and the grid's is {name}: name it in the grid, as in "
                f"`data: {{{theirs.partition(',')[0]}: {{source: ...}}}}`"
            )
        else:
            on_it = [run for run in runs if run["data"]["hash"] in hashes]
        mine = [run for run in on_it if (run["arm"], run["seed"]) == (job.arm, job.seed)]
        if mine:
            found[str(job.folder)] = (name, mine[-1])
    return found


def _whole(run: Mapping[str, Any], folder: str, corpus: str, file_name: str) -> dict[str, Any]:
    """The record with all that results.json has of a run. Files beside the run are not here."""
    record = {**NOT_KEPT, **run, "curve": _curve(run.get("curve") or {}), "corpus": corpus, "folder": folder}
    record |= {"elsewhere": file_name, "inspection": None, "sampler_bench": None}
    _check(record)
    return record


def _curve(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The curve, or none where its lists were too long to be kept."""
    curve = {**NO_CURVE, **kept}
    columns = [curve[name] for name in ("step", "tokens", "seconds", "nats", "standard_error")]
    columns += [] if curve["schedule_nats"] is None else [curve["schedule_nats"]]
    if len({len(column) for column in columns}) > 1:
        return NO_CURVE
    loss = {**NO_CURVE["train_loss"], **curve["train_loss"]}
    return {**curve, "train_loss": loss if len(loss["step"]) == len(loss["loss"]) else NO_CURVE["train_loss"]}


def _check(run: Mapping[str, Any]) -> None:
    """Raise an error of taking apart where the record is not one of a run that is done."""
    if run["status"] != "done":
        raise ValueError(f"status is {run['status']!r}")
    check_kinds(run, folder=str, arm=str, corpus=str, seed=int, num_steps=int, config=dict, calibration=dict)
    check_kinds(run, num_tokens=NUMBER, num_parameters=NUMBER, train_seconds=NUMBER, share=NUMBER, curve=dict)
    check_kinds(run["data"], hash=str, train_tokens=int)
    _ = run["data"]["hash"], run["data"]["train_tokens"], run["num_parameters"] + run["num_steps"]
    _ = run["num_tokens"] + run["train_seconds"], (run["calibration"] or {"seconds_per_step": 0})["seconds_per_step"]
    Evaluation.from_json(run["final"])
