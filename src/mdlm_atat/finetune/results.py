"""What fine-tuning found, as it is stored: a JSON file a seed, and a summary over seeds.

A seed whose file is there is not run again if it was made from the same weights, examples and settings.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mdlm_atat.atomic import write_json
from mdlm_atat.errors import UserError
from mdlm_atat.finetune.metrics import standard_error
from mdlm_atat.finetune.settings import FinetuneSettings
from mdlm_atat.finetune.tasks import Task
from mdlm_atat.finetune.training import Epoch, Finetuning, OnStep, Outcome
from mdlm_atat.provenance import code_version, commit

IDENTITY = ("task", "weights", "data_hash", "settings")
"""What tells whether a stored seed is the one that is asked for."""


def seed_file(folder: Path, task: str, settings: FinetuneSettings, seed: int) -> Path:
    return folder / f"{_stem(task, settings)}-seed{seed}.json"


def summary_file(folder: Path, task: str, settings: FinetuneSettings) -> Path:
    return folder / f"{_stem(task, settings)}-summary.json"


def _stem(task: str, settings: FinetuneSettings) -> str:
    return f"{task}-probe" if settings.probe else task


def request_record(task: Task, settings: FinetuneSettings, weights: str) -> dict[str, Any]:
    """What a result belongs to."""
    return {"task": task.name, "weights": weights, "data_hash": task.hash, "settings": asdict(settings)}


def run_seeds(
    finetuning: Finetuning,
    seeds: Sequence[int],
    folder: Path,
    *,
    request: dict[str, Any],
    provenance: dict[str, Any],
    again: bool,
    on_seed: Callable[[int, dict[str, Any] | None], None],
    on_epoch: Callable[[int, Epoch], None],
    on_step: OnStep,
) -> list[dict[str, Any]]:
    """The record of every seed, those that are stored read, the others run and stored one by one.

    `on_seed` hears of each seed before it starts, with its record where it is stored. `again`: run all, in place of
    what is stored. UserError where a file holds another result.
    """
    task, settings = finetuning.task, finetuning.settings
    files = {seed: seed_file(folder, task.name, settings, seed) for seed in seeds}
    stored = {} if again else {seed: read_stored(file, request) for seed, file in files.items() if file.exists()}
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for seed, file in files.items():
        record = stored.get(seed)
        on_seed(seed, record)
        if record is None:
            started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            outcome = finetuning.run(seed, on_epoch=lambda epoch, seed=seed: on_epoch(seed, epoch), on_step=on_step)
            record = {**request, **seed_record(outcome, task, seed), **provenance, "started": started}
            write_json(file, record)
        records.append(record)
    return records


def read_stored(file: Path, request: dict[str, Any]) -> dict[str, Any]:
    """A stored seed; UserError where it is of other weights, examples or settings, with what differs."""
    advice = "--again puts the new result in its place, --out FOLDER puts it elsewhere"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        different = [name for name in IDENTITY if record[name] != request[name]]
        if "settings" in different:
            old, new = record["settings"], request["settings"]
            changed = [f"{name} {old.get(name)} there, {new[name]} now" for name in new if old.get(name) != new[name]]
            different[different.index("settings")] = ", ".join(changed)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read ({error!r}); {advice}") from error
    if different:
        names = {"weights": "other weights", "data_hash": "other examples"}
        raise UserError(f"{file} holds another result: {'; '.join(names.get(d, d) for d in different)}; {advice}")
    return record


def seed_record(outcome: Outcome, task: Task, seed: int) -> dict[str, Any]:
    """JSON-ready: the last and the best epoch, kept apart, and the baseline beside them."""
    truth = task.dev.targets
    return {
        "seed": seed,
        "last_epoch": {"epoch": outcome.last.number, "metrics": outcome.last.metrics},
        "best_epoch": {
            "epoch": outcome.best.number,
            "metrics": outcome.best.metrics,
            "chosen_on": "the examples it is scored on: too high",
        },
        "standard_error": {name: standard_error(name, outcome.predictions, truth) for name in task.metrics},
        "baseline": task.baseline(),
        "epochs": [asdict(epoch) for epoch in outcome.epochs],
        "num_trained_parameters": outcome.num_trained,
        "elapsed_s": outcome.last.elapsed_s,
        "predictions": outcome.predictions.tolist(),
    }


def provenance_record(task: Task) -> dict[str, Any]:
    return {
        "labels": list(task.labels),
        "data": task.source,
        "num_train": len(task.train),
        "num_dev": len(task.dev),
        "code_version": code_version(),
        "commit": commit(),
    }


def summary_record(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over seeds: every metric's mean, standard deviation (n - 1; none for one seed) and values, at the last epoch and
    at each seed's best. `standard_error`: from the number of examples scored, the mean over seeds."""
    first = records[0]
    kept = [name for name in first if name not in SEEDS_OWN]
    metrics = list(first["baseline"])
    return {
        **{name: first[name] for name in kept},
        "seeds": [record["seed"] for record in records],
        **{which: _over_seeds(records, which, metrics) for which in ("last_epoch", "best_epoch")},
        "standard_error": {name: _mean([record["standard_error"][name] for record in records]) for name in metrics},
        "baseline": first["baseline"],
        "elapsed_s": sum(record["elapsed_s"] for record in records),
    }


SEEDS_OWN = {"seed", "last_epoch", "best_epoch", "standard_error", "epochs", "predictions", "elapsed_s", "started"}
"""Parts of a seed's record that are no part of the summary as they are."""


def _over_seeds(records: Sequence[dict[str, Any]], which: str, metrics: Sequence[str]) -> dict[str, Any]:
    summary: dict[str, Any] = {"epochs": [record[which]["epoch"] for record in records]}
    for name in metrics:
        values = [record[which]["metrics"][name] for record in records]
        spread = statistics.stdev(values) if len(values) > 1 else None
        summary[name] = {"mean": statistics.fmean(values), "standard_deviation": spread, "values": values}
    return summary


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return statistics.fmean(known) if known else None
