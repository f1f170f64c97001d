"""One run as results.json holds it: what was asked for, what it cost, every curve, the final evaluation."""

from __future__ import annotations

import bisect
import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mdlm_atat.errors import UserError
from mdlm_atat.studies.jobs import Job, command_line, flat_settings, train_words
from mdlm_atat.studies.run_state import final_record, read_attempts, status_of, stored_config

MAX_LOSS_POINTS = 1000
BOUND, OWN_BOUND = "eval/nelbo_nats_per_token", "eval/schedule_nelbo_nats_per_token"
Line = dict[str, Any]


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_lines(file: Path) -> list[Line]:
    """The objects of a .jsonl file; half a line, left by a killed process, is passed over."""
    if not file.is_file():
        return []
    found: list[Line] = []
    for text in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            content = json.loads(text)
        except ValueError:
            continue
        if isinstance(content, dict):
            found.append(content)
    return found


def collect_run(
    folder: Path, job: Job, num_steps: int | None, entry: Mapping[str, Any] | None, stored: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The record of a run from its folder; where that is gone, as it was `stored` when the run was done."""
    run = folder / job.folder
    data = None if entry is None else entry["data"]
    status = status_of(folder, job, num_steps, data)
    if status != "done" and stored is not None and stored["status"] == "done" and not run.exists():
        return dict(stored)
    attempts = read_attempts(folder, job)
    ended = [attempt for attempt in attempts if attempt.ended is not None]
    started = read_json(run / "run.json") or {}
    metrics = read_lines(run / "metrics.jsonl")
    training = by_step(metrics, "train/loss")
    calibration = None if entry is None else entry["calibration"]
    seconds = training_seconds(training, None if calibration is None else calibration["seconds_per_step"])
    num_tokens = int(training[-1]["train/tokens"]) if training else 0
    final = None if status != "done" or num_steps is None else final_record(run, num_steps, data)
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
        "final": final,
        "best": best_step(metrics, run, data),
        "curve": curve(metrics, training, seconds),
        "samples": read_lines(run / "samples.jsonl"),
        "inspection": _relative(job, run, "inspection.json"),
        "sampler_bench": _relative(job, run, "samplers-generate.json"),
    }


def corpus_name(job: Job) -> str:
    """Its name in the grid, or else the last part of what it comes from."""
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


def by_step(lines: Sequence[Line], key: str) -> list[Line]:
    """Lines that hold `key`, by step: a step that was taken again counts once, as it was the last time."""
    found = {line["step"]: line for line in lines if isinstance(line.get(key), (int, float)) and "step" in line}
    return [found[step] for step in sorted(found)]


def training_seconds(training: Sequence[Line], per_step: float | None = None) -> list[float]:
    """Seconds of training alone up to each log line: steps times the seconds of one, where they were timed alone before
    the runs; or tokens over tokens per second, whose clock stands still while the run is evaluated, but not while
    another run has the device."""
    if per_step is not None:
        return [line["step"] * per_step for line in training]
    total, tokens, seconds = 0.0, 0.0, list[float]()
    for line in training:
        total += (line["train/tokens"] - tokens) / line["train/tokens_per_s"]
        tokens = line["train/tokens"]
        seconds.append(total)
    return seconds


def seconds_per_step(training: Sequence[Line]) -> float | None:
    """Median over log lines, so that a hiccup of the machine does not count. The first line is left out: it holds the
    warm-up."""
    laps = [
        (line["train/tokens"] - before["train/tokens"]) / line["train/tokens_per_s"] / (line["step"] - before["step"])
        for before, line in pairwise(training)
    ]
    return statistics.median(laps) if laps else None


def best_step(metrics: Sequence[Line], run: Path, data: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The lowest bound during training, under the method's own schedule where it has one; `final` is an evaluation of
    that checkpoint, where one was made: `atat eval RUN/checkpoints/best`."""
    lines = by_step(metrics, BOUND)
    if not lines:
        return None
    best = min(lines, key=lambda line: line.get(OWN_BOUND, line[BOUND]))
    step = best["step"]
    return {"step": step, "nats": best.get(OWN_BOUND, best[BOUND]), "final": final_record(run, step, data)}


def curve(metrics: Sequence[Line], training: Sequence[Line], seconds: Sequence[float]) -> dict[str, Any]:
    """Evaluations over steps, tokens and training seconds; and the training loss."""
    lines = by_step(metrics, BOUND)
    steps = [line["step"] for line in training]
    tokens = [float(line["train/tokens"]) for line in training]
    every = -(-len(training) // MAX_LOSS_POINTS) or 1
    kept = [line for index, line in enumerate(training) if (len(training) - 1 - index) % every == 0]
    own = [line.get(OWN_BOUND) for line in lines]
    return {
        "step": [line["step"] for line in lines],
        "tokens": [interpolate(line["step"], steps, tokens) for line in lines],
        "seconds": [interpolate(line["step"], steps, seconds) for line in lines],
        "nats": [line[BOUND] for line in lines],
        "standard_error": [line.get("eval/standard_error") for line in lines],
        "schedule_nats": own if any(value is not None for value in own) else None,
        "train_loss": {"step": [line["step"] for line in kept], "loss": [line["train/loss"] for line in kept]},
    }


def interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """y at x on the line through (0, 0) and the points, straight on beyond the last; None where there are none."""
    if not xs:
        return None
    right = min(bisect.bisect_left(xs, x), len(xs) - 1)
    x0, y0 = (xs[right - 1], ys[right - 1]) if right else (0.0, 0.0)
    x1, y1 = xs[right], ys[right]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
