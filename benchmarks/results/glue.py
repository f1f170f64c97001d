"""What fine-tuning on GLUE's tasks gave, over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.results.markdown import arm_name, arm_of, table
from benchmarks.results.stored import FOLDER, stored

from mdlm_atat.formats import with_error
from mdlm_atat.scoring.statistics import CommonError, Mean, mean_with_interval

METRICS = {"accuracy": "accuracy", "matthews": "Matthews correlation", "pearson": "Pearson correlation"}
"""The first of each task."""
TASKS = ("cola", "sst2", "mrpc", "stsb", "rte")
GLUE = (
    "python -m benchmarks.glue runs/novels-120s/runs/{mdlm,atat,causal}/seed-0 --data data/glue "
    "--out docs/results/glue.json"
)


def glue(file: str) -> str:
    """What benchmarks.glue stored: the first metric of each task, mean over seeds, and whether it is near chance; and
    how much of the five tasks is missing."""
    if not (FOLDER / file).exists():
        return f"Not measured yet: `{GLUE}`."
    points = stored(file)["points"]
    measured = {point["task"] for point in points}
    tasks = [task for task in TASKS if task in measured]
    first = {task: next(point for point in points if point["task"] == task) for task in tasks}
    names = {task: next(iter(point["metrics"])) for task, point in first.items()}
    rows = []
    runs = dict.fromkeys(point["run"] for point in points)
    for run in runs:
        found = {point["task"]: point for point in points if point["run"] == run}
        cells = [_glue_cell(found[task], names[task]) if task in found else "" for task in tasks]
        rows.append([arm_name(arm_of(run)), *cells])
    baselines = [f"{first[task]['metrics'][name]['baseline']:.3f}" for task, name in names.items()]
    rows.append(["the commonest class, or the mean score", *baselines])
    shown = table(["", *(f"{task}, {METRICS[name]}" for task, name in names.items())], rows)
    left = len(runs) * len(TASKS) - len(points)
    return (
        f"{shown}\n\nNot measured yet: `{GLUE}` ({left} of {len(runs) * len(TASKS)} fine-tunings)." if left else shown
    )


def _glue_cell(point: Mapping[str, Any], name: str) -> str:
    metric = point["metrics"][name]
    found = mean_over_seeds(metric, point["num_dev"])
    told = ", near chance" if is_near_chance(found, metric["baseline"]) else ""
    return with_error(found.value, found.standard_error, decimals=3) + told


def mean_over_seeds(metric: Mapping[str, Any], num_dev: int) -> Mean:
    """The mean over seeds, with the error between them and that of the examples, on which all are scored."""
    error = metric["standard_error"]
    return mean_with_interval(metric["values"], None if not error else CommonError(error, num_dev - 1))


def is_near_chance(found: Mean, baseline: float) -> bool:
    """Whether the interval reaches down to the baseline; of a number without an error, whether that does."""
    low = found.value if found.interval95 is None else found.interval95[0]
    return low <= baseline
