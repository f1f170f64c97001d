"""The record of one run in results.json: its settings, what it cost, its curves and its final evaluation."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdlm_atat.config.schema import RunConfig, settings_with
from mdlm_atat.errors import UserError, command_line
from mdlm_atat.small_files import read_object
from mdlm_atat.studies.jobs import Job, differences, flat_settings, run_config, train_words
from mdlm_atat.studies.run_state import final_evaluation, read_attempts, status_of, stored_config
from mdlm_atat.training.metrics import EVAL_ERROR, EVAL_NATS, EVAL_OWN_NATS, Metrics, read_json_lines, read_metrics

FORMAT = 1
"""Of results.json."""
MOST_BYTES = 1 << 28
MAX_LOSS_POINTS = 1000

Records = Mapping[str, dict[str, Any]]
"""Of runs that are done and have no folder here, by what it would be in the experiment's: `runs/mdlm/seed-0`."""
Stored = Mapping[str, Sequence[dict[str, Any]]]
"""As `Records`, with every record that there is of a run, which may have been planned otherwise before: newest first.
"""


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file, or no object in it. Raises OSError where it cannot
    be read now: what is in it is not lost, and a record without it would be wrong."""
    try:
        return read_object(file)
    except (FileNotFoundError, NotADirectoryError, UserError):
        return None


def differs_from_plan(
    stored: Mapping[str, Any], job: Job, num_steps: int | None, data: Mapping[str, Any] | None
) -> list[str]:
    """In what the run of a record is not the one that is planned, a phrase each: its steps, its text, its settings.

    What is not known of either of them does not count; nor does a setting that changes no number, or where a text lies:
    the hash tells whether it is the same.
    """
    found: list[str] = []
    if num_steps is not None and stored["num_steps"] != num_steps:
        found.append(f"{stored['num_steps']:,} steps, and {num_steps:,} now")
    if data is not None and stored["data"]["hash"] != data["hash"]:
        tokens = stored["data"]["train_tokens"], data["train_tokens"]
        found.append(f"other data ({tokens[0]:,} training tokens, and {tokens[1]:,} now)")
    if stored["config"] is not None:
        after = flat_settings(run_config(job, stored["num_steps"]))
        known = {**flat_settings(RunConfig()), **stored["config"]}  # of a setting that came later, its default
        told_or_free = settings_with("resume", "free", "place") | {"train.num_steps"}
        found += [
            f"{path} {old!r}, and {new!r} now"
            for path, (old, new) in differences({path: known[path] for path in after}, after).items()
            if path not in told_or_free
        ]
    return found


def planned_record(
    stored: Stored, job: Job, num_steps: int | None, data: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The record of a run as it is planned; None where there is none, or only of other plans."""
    kept = stored.get(str(job.folder), ())
    return next((record for record in kept if not differs_from_plan(record, job, num_steps, data)), None)


def collect_run(
    folder: Path, job: Job, num_steps: int | None, entry: Mapping[str, Any] | None, stored: Stored
) -> dict[str, Any]:
    """The record of a run, from its folder. Where that is gone or it was trained elsewhere, the one in `stored`, if it
    is of the run that is planned."""
    run = folder / job.folder
    data = None if entry is None else entry["data"]
    status = status_of(folder, job, num_steps, data)
    kept = None if status == "done" else planned_record(stored, job, num_steps, data)
    if kept is not None:
        return kept
    attempts = read_attempts(folder, job)
    ended = [attempt for attempt in attempts if attempt.ended is not None]
    started = read_json(run / "run.json") or {}
    metrics = read_metrics(run)
    training = metrics.having("train/loss")
    calibration = None if entry is None else entry["calibration"]
    seconds = training_seconds(training, None if calibration is None else calibration["seconds_per_step"])
    num_tokens = int(training.last("train/tokens") or 0)
    final = None if status != "done" or num_steps is None else final_evaluation(run, num_steps, data)
    flops = None if entry is None else entry["flops_per_token"]
    return {
        "arm": job.arm,
        "branch_of": job.variant.arm.name if job.share != 1 else None,
        "share": job.share,
        "corpus": corpus_name(job),
        "seed": job.seed,
        "status": status,
        "error": "\n".join(ended[-1].last_lines) if status == "failed" and ended else None,
        "folder": str(job.folder),
        "elsewhere": None,
        "command": started.get("command") or _command(job, num_steps, run),
        "config": _config(run),
        "data": started.get("data") or data,
        "machine": started.get("machine"),
        "host": attempts[-1].host if attempts else None,
        "attempts": [[a.started, a.ended, a.host, a.device] for a in attempts],
        "commit": started.get("commit"),
        "code_version": (started.get("versions") or {}).get("mdlm_atat"),
        "num_parameters": started.get("parameters"),
        "num_steps": num_steps,
        "num_tokens": num_tokens,
        "train_flops": None if flops is None else flops * num_tokens,
        "train_seconds": seconds[-1] if seconds else 0.0,
        "seconds_per_step": seconds_per_step(training),
        "peak_memory_bytes": started.get("peak_memory_bytes"),
        "calibration": calibration,
        "final": None if final is None else final.to_json(),
        "best": best_step(metrics, run, data),
        "curve": curve(metrics, training, seconds),
        "samples": read_json_lines(run / "samples.jsonl")[0],
        "inspection": _relative(job, run, "inspection.json"),
        "sampler_bench": _relative(job, run, "samplers-generate.json"),
    }


def corpus_name(job: Job) -> str:
    """The corpus's name in the grid, or else the last part of its source."""
    return job.corpus or Path(job.variant.config.data.source).name


def _command(job: Job, num_steps: int | None, run: Path) -> str | None:
    if num_steps is None:
        return None
    return command_line(train_words(job.variant, {"train.seed": job.seed, "train.num_steps": num_steps}, run))


def _config(run: Path) -> dict[str, Any] | None:
    try:
        return flat_settings(stored_config(run))
    except (UserError, FileNotFoundError):
        return None


def _relative(job: Job, run: Path, name: str) -> str | None:
    return str(job.folder / name) if (run / name).is_file() else None


def training_seconds(training: Metrics, per_step: float | None = None) -> list[float]:
    """Seconds of training alone up to each row that holds a training loss.

    They are the steps times `per_step`, the seconds of one step, where that was timed alone before the runs. Otherwise
    they come from tokens over tokens per second: that clock stands still while the run is evaluated, but not while
    another run has the device.
    """
    if per_step is not None:
        return (training.column("step") * per_step).tolist()
    return np.cumsum(
        np.diff(training.column("train/tokens"), prepend=0) / training.column("train/tokens_per_s")
    ).tolist()


def seconds_per_step(training: Metrics) -> float | None:
    """Median seconds of a step, over the laps between rows that hold a training loss; None where there is no lap.

    A median, so that a hiccup of the machine does not count. What came before the first row is left out: it holds the
    compilation.
    """
    if len(training) < 2:
        return None
    seconds = np.diff(training.column("train/tokens")) / training.column("train/tokens_per_s")[1:]
    return float(np.median(seconds / np.diff(training.column("step"))))


def best_step(metrics: Metrics, run: Path, data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The step with the lowest bound in training, under the method's own schedule where it has one.

    Its `final` is a stored evaluation of that checkpoint, as `atat eval RUN/checkpoints/best` makes it, or None.
    """
    lines = metrics.having(EVAL_NATS).rows
    if not lines:
        return None
    best = min(lines, key=lambda line: line.get(EVAL_OWN_NATS, line[EVAL_NATS]))
    step = best["step"]
    final = final_evaluation(run, step, data)
    nats = best.get(EVAL_OWN_NATS, best[EVAL_NATS])
    return {"step": step, "nats": nats, "final": None if final is None else final.to_json()}


def curve(metrics: Metrics, training: Metrics, seconds: Sequence[float]) -> dict[str, Any]:
    """The evaluations made in training, as columns, with the tokens and the seconds of training up to each; and the
    training loss, thinned."""
    lines = metrics.having(EVAL_NATS).rows
    steps, tokens = training.column("step").tolist(), training.column("train/tokens").tolist()
    every = -(-len(training) // MAX_LOSS_POINTS) or 1
    kept = [line for index, line in enumerate(training.rows) if (len(training) - 1 - index) % every == 0]
    own = [line.get(EVAL_OWN_NATS) for line in lines]
    return {
        "step": [line["step"] for line in lines],
        "tokens": [interpolate(line["step"], steps, tokens) for line in lines],
        "seconds": [interpolate(line["step"], steps, seconds) for line in lines],
        "nats": [line[EVAL_NATS] for line in lines],
        "standard_error": [line.get(EVAL_ERROR) for line in lines],
        "schedule_nats": own if any(value is not None for value in own) else None,
        "train_loss": {"step": [line["step"] for line in kept], "loss": [line["train/loss"] for line in kept]},
    }


def interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """y at x on the line through (0, 0) and the points, which goes straight on beyond the last one.

    Returns None where there are no points.
    """
    if not xs:
        return None
    right = min(bisect.bisect_left(xs, x), len(xs) - 1)
    x0, y0 = (xs[right - 1], ys[right - 1]) if right else (0.0, 0.0)
    x1, y1 = xs[right], ys[right]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
