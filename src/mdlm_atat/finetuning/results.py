"""Results of fine-tuning and their files: JSON for each seed, and a summary over seeds.

A seed whose file is there is not run again if it was made from the same weights, examples, settings and metrics.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mdlm_atat.atomic import make_folder, stored_if_possible, write_json
from mdlm_atat.data.files import folder_size
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.calibration import FEWEST_ROWS
from mdlm_atat.finetuning.classifier import TextClassifier, read_record
from mdlm_atat.finetuning.metrics import standard_error, title
from mdlm_atat.finetuning.settings import FinetuneSettings
from mdlm_atat.finetuning.tasks import Task
from mdlm_atat.finetuning.training import CrossValidation, Epoch, Finetuning, Hooks, Outcome, Trained
from mdlm_atat.formats import with_error
from mdlm_atat.model_folder import CLASSIFIER_FILE
from mdlm_atat.provenance import code_version, commit
from mdlm_atat.small_files import read_object

ADVICE = "`again=True` puts the new result in its place, `out='FOLDER'` puts it elsewhere"
IDENTITY = ("task", "weights", "data_hash", "settings")
"""What tells whether a stored seed is the one that is asked for, besides its metrics."""


@dataclass(frozen=True, kw_only=True, repr=False)
class SeedResult(Outcome):
    """The result of one seed, as its file holds it."""

    seed: int
    standard_error: dict[str, float | None]
    """Standard error of each metric that comes from the number of examples scored. None: not known."""
    baseline: dict[str, float]
    """Metrics of the majority-class baseline, or for a regression of the mean training score."""
    about: dict[str, Any]
    """Where it came from: task, data, settings, weights, machine and code."""
    file: Path
    """The JSON file, with every epoch and the prediction for each example."""

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last epoch: the result."""
        return self.last.metrics

    def __repr__(self) -> str:
        values = ", ".join(f"{title(name)} {value:.4f}" for name, value in self.metrics.items())
        return f"<seed {self.seed}: {values} after {self.last.number} epochs>"

    def record(self) -> dict[str, Any]:
        """The content of its file."""
        return {
            **self.about,
            "seed": self.seed,
            "last_epoch": {"epoch": self.last.number, "metrics": self.last.metrics},
            "best_epoch": {
                "epoch": self.best.number,
                "metrics": self.best.metrics,
                "chosen_on": "the examples it is scored on: too high",
            },
            "standard_error": self.standard_error,
            "baseline": self.baseline,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "num_trained_parameters": self.num_trained,
            "elapsed_s": self.last.elapsed_s,
            "predictions": self.predictions.tolist(),
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any], file: Path) -> SeedResult:
        own = ("seed", "last_epoch", "best_epoch", "standard_error", "baseline", "epochs", "num_trained_parameters")
        return cls(
            epochs=[Epoch(**epoch) for epoch in record["epochs"]],
            predictions=np.array(record["predictions"]),
            num_trained=record["num_trained_parameters"],
            seed=record["seed"],
            standard_error=record["standard_error"],
            baseline=record["baseline"],
            about={name: value for name, value in record.items() if name not in (*own, "elapsed_s", "predictions")},
            file=file,
        )


@dataclass(frozen=True, repr=False)
class MetricResult:
    """A metric over seeds."""

    values: tuple[float, ...]
    """Of each seed at its last epoch."""
    best_values: tuple[float, ...]
    """Of each seed at its best epoch, which is chosen on the examples it is scored on: too high."""
    standard_error: float | None
    """Standard error that comes from the number of examples scored, the mean over seeds. None: not known."""
    baseline: float
    """Of the majority-class baseline, or for a regression of the mean training score."""

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def standard_deviation(self) -> float | None:
        """Over seeds, with n - 1. None for a single seed."""
        return _spread(self.values)

    def __repr__(self) -> str:
        return f"{_with_spread(self.values)} (baseline {self.baseline:.4f})"


@dataclass(frozen=True, repr=False)
class FinetuneResult:
    """The results of all seeds. `repr` and a notebook show them as a table."""

    seeds: tuple[SeedResult, ...]
    file: Path
    """JSON file of the summary."""
    classifier_folder: Path | None = None
    """The folder of the classifier that was kept. None: none was."""

    @cached_property
    def classifier(self) -> TextClassifier:
        """The classifier that was kept, loaded from its folder. Raises UserError where none was."""
        if self.classifier_folder is None:
            raise UserError("no classifier was kept: leave `keep=False` out")
        return TextClassifier.from_pretrained(self.classifier_folder)

    @property
    def task(self) -> str:
        return self.seeds[0].about["task"]

    @property
    def metrics(self) -> dict[str, MetricResult]:
        """Each metric by its name."""
        return {
            name: MetricResult(
                values=tuple(seed.last.metrics[name] for seed in self.seeds),
                best_values=tuple(seed.best.metrics[name] for seed in self.seeds),
                standard_error=_mean([seed.standard_error[name] for seed in self.seeds]),
                baseline=self.seeds[0].baseline[name],
            )
            for name in self.seeds[0].baseline
        }

    def __getitem__(self, metric: str) -> MetricResult:
        return self.metrics[metric]

    def record(self) -> dict[str, Any]:
        """The content of the summary's file: for each metric the mean, the standard deviation and the values, at the
        last epoch and at each seed's best."""
        first, metrics = self.seeds[0], self.metrics

        def over_seeds(epochs: list[int], values: dict[str, tuple[float, ...]]) -> dict[str, Any]:
            found = {
                name: {"mean": statistics.fmean(each), "standard_deviation": _spread(each), "values": list(each)}
                for name, each in values.items()
            }
            return {"epochs": epochs, **found}

        return {
            **{name: value for name, value in first.about.items() if name != "started"},
            "num_trained_parameters": first.num_trained,
            "seeds": [seed.seed for seed in self.seeds],
            "last_epoch": over_seeds(
                [seed.last.number for seed in self.seeds], {name: found.values for name, found in metrics.items()}
            ),
            "best_epoch": over_seeds(
                [seed.best.number for seed in self.seeds], {name: found.best_values for name, found in metrics.items()}
            ),
            "standard_error": {name: found.standard_error for name, found in metrics.items()},
            "baseline": first.baseline,
            "elapsed_s": sum(seed.last.elapsed_s for seed in self.seeds),
        }

    def __repr__(self) -> str:
        """The result as an aligned table, and what its numbers are."""
        lines = [f"{'':10} {'last epoch':^20} {'best epoch':^20} {'baseline':>9}  last epoch of each seed"]
        for name, found in self.metrics.items():
            each = "  ".join(f"{value:.4f}" for value in found.values)
            last, best = _with_spread(found.values), _with_spread(found.best_values)
            lines.append(f"{title(name):10} {last:^20} {best:^20} {found.baseline:9.4f}  {each}")
        return "\n".join([*lines, *(f"{'':10} {note}" for note in self._notes())])

    def _repr_html_(self) -> str:
        header = "".join(f"<th>{name}</th>" for name in ("", "last epoch", "best epoch", "baseline", "each seed"))
        rows = "".join(
            f"<tr><th>{escape(title(name))}</th><td>{_with_spread(found.values)}</td>"
            f"<td>{_with_spread(found.best_values)}</td><td>{found.baseline:.4f}</td>"
            f"<td>{' '.join(f'{value:.4f}' for value in found.values)}</td></tr>"
            for name, found in self.metrics.items()
        )
        notes = "<br>".join(map(escape, self._notes()))
        return f"<table><caption>{escape(self.task)}</caption><tr>{header}</tr>{rows}</table><small>{notes}</small>"

    def _notes(self) -> list[str]:
        num, about = len(self.seeds), self.seeds[0].about
        spread = f"mean ± standard deviation of {num} seeds" if num > 1 else "one seed, so no spread is known"
        guess = "the class that most have" if about["labels"] else "the mean score"
        known = {name: found.standard_error for name, found in self.metrics.items()}
        errors = ", ".join(f"{title(name)} {error:.4f}" for name, error in known.items() if error is not None)
        notes = [
            f"{spread}; best epoch: chosen on these examples, so too high; baseline: {guess}",
            f"standard error from there being {about['num_dev']:,} examples to score: {errors or 'not known'}",
        ]
        if self.classifier_folder is not None:
            notes += _classifier_notes(self.classifier_folder)
        return notes


def _classifier_notes(folder: Path) -> list[str]:
    record = read_record(folder)
    size = f"{folder_size(folder) / 1e6:,.1f} MB"
    notes = [f"classifier: {folder}, {size}, the network and head of seed {record.about['seed']}"]
    if record.labels:
        notes.append(
            f"its probabilities: {record.calibration}"
            if record.calibration is not None
            else f"its probabilities are not calibrated, for there are fewer than {FEWEST_ROWS} examples to do it by"
        )
    return notes


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _with_spread(values: Sequence[float]) -> str:
    return with_error(statistics.fmean(values), _spread(values), decimals=4)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return statistics.fmean(known) if known else None


def seed_file(folder: Path, task: str, settings: FinetuneSettings, seed: int) -> Path:
    return folder / f"{_stem(task, settings)}-seed{seed}.json"


def summary_file(folder: Path, task: str, settings: FinetuneSettings) -> Path:
    return folder / f"{_stem(task, settings)}-summary.json"


def classifier_folder(folder: Path, task: str, settings: FinetuneSettings) -> Path:
    return folder / f"{_stem(task, settings)}-classifier"


def _stem(task: str, settings: FinetuneSettings) -> str:
    return f"{task}-probe" if settings.probe else task


def run_seeds(
    finetuning: Finetuning | CrossValidation,
    seeds: Sequence[int],
    folder: Path,
    *,
    weights: str,
    provenance: dict[str, Any],
    again: bool,
    hooks: Hooks,
    keep: Callable[[Outcome, Trained, dict[str, Any], Path], object] | None = None,
) -> FinetuneResult:
    """Run the seeds one by one and store each as it ends, then the summary. Seeds that are stored are read instead.

    `weights`: hash of the model's. `again`: run all, in place of what is stored. `keep(outcome, trained, about,
    folder)` stores the classifier of the first seed; that seed is run again where its result is stored and the
    classifier is not. Raises UserError where a file holds another result.
    """
    task, settings = finetuning.task, finetuning.settings
    request = {"task": task.name, "weights": weights, "data_hash": task.hash, "settings": asdict(settings)}
    baseline = task.baseline()
    files = {seed: seed_file(folder, task.name, settings, seed) for seed in seeds}
    stored = {
        seed: read_stored(file, request, list(baseline)) for seed, file in files.items() if not again and file.exists()
    }
    kept = classifier_folder(folder, task.name, settings)
    if keep is not None and kept.exists() and not again:
        check_kept(kept, request)
    make_folder(folder)
    results = []
    for seed, file in files.items():
        result = stored.get(seed)
        is_to_be_kept = seed == seeds[0] and (again or result is None or not kept.exists())
        hooks.on_seed(seed, result, is_to_be_kept and keep is not None)
        about = {**request, **provenance, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        if keep is not None and is_to_be_kept:
            outcome = finetuning.run(seed, hooks)
            trained = finetuning.classifier(outcome, seed, hooks)
            with stored_if_possible(kept):
                keep(outcome, trained, {**about, "seed": seed}, kept)
        else:
            outcome = finetuning.run(seed, hooks) if result is None else result
        if result is None:
            result = _seed_result(outcome, task, seed, baseline, about, file)
            with stored_if_possible(file):
                write_json(file, result.record())
        results.append(result)
    is_kept = keep is not None and kept.exists()
    found = FinetuneResult(tuple(results), summary_file(folder, task.name, settings), kept if is_kept else None)
    with stored_if_possible(found.file):
        write_json(found.file, found.record())
    return found


def _seed_result(
    outcome: Outcome, task: Task, seed: int, baseline: dict[str, float], about: dict[str, Any], file: Path
) -> SeedResult:
    errors = {
        name: standard_error(metric, outcome.predictions, task.dev.targets) for name, metric in task.metrics.items()
    }
    return SeedResult(
        epochs=outcome.epochs,
        predictions=outcome.predictions,
        num_trained=outcome.num_trained,
        seed=seed,
        standard_error={name: error if np.isfinite(error) else None for name, error in errors.items()},
        baseline=baseline,
        about=about,
        file=file,
    )


def check_kept(folder: Path, request: Mapping[str, Any]) -> None:
    """Raise UserError unless the classifier in a folder was made from these weights, examples and settings."""
    try:
        about = read_object(folder / CLASSIFIER_FILE)["about"]
        is_same = all(about[name] == request[name] for name in IDENTITY)
    except (OSError, UserError, KeyError, TypeError):
        is_same = False
    if not is_same:
        raise UserError(f"{folder} holds another classifier; {ADVICE}")


def read_stored(file: Path, request: Mapping[str, Any], metrics: Sequence[str]) -> SeedResult:
    """A stored seed. Raises UserError, with what differs, where it is of other weights, examples, settings or
    metrics."""
    try:
        record = read_object(file, remedy=ADVICE)
        different = [name for name in IDENTITY if record[name] != request[name]]
        if "settings" in different:
            old, new = record["settings"], request["settings"]
            changed = [f"{name} {old.get(name)} there, {new[name]} now" for name in new if old.get(name) != new[name]]
            different[different.index("settings")] = ", ".join(changed)
        if list(record["baseline"]) != list(metrics):
            different.append(f"metrics {', '.join(record['baseline'])} there, {', '.join(metrics)} now")
        result = SeedResult.of_record(record, file)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read ({error!r}); {ADVICE}") from error
    if different:
        names = {"weights": "other weights", "data_hash": "other examples"}
        raise UserError(f"{file} holds another result: {'; '.join(names.get(d, d) for d in different)}; {ADVICE}")
    return result


def provenance_record(task: Task) -> dict[str, Any]:
    """Of the data and the code, for results to be traced by."""
    return {
        "labels": list(task.labels),
        "data": task.source,
        "num_train": len(task.train),
        "num_dev": len(task.dev),
        "code_version": code_version(),
        "commit": commit(),
    }
