"""Tiny runs through the real command line, for tests."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mdlm_atat.cli.main import main
from mdlm_atat.config.files import load_config

WORDS = "the cat dog sat on a mat and ran to see if you can be so kind as that old man was then".split()

TINY = {
    "data.tokenizer": "char",
    "data.length": 16,
    "model.num_layers": 1,
    "model.width": 16,
    "model.num_heads": 2,
    "optim.warmup_steps": 2,
    "train.precision": "float32",
    "train.num_steps": 8,
    "train.batch_size": 4,
    "train.log_interval_steps": 1,
    "train.eval_interval_steps": 4,
    "train.checkpoint_interval_steps": 4,
    "eval.num_draws": 32,
    "eval.final_num_draws": 32,
    "eval.num_samples": 1,
    "eval.sample_steps": 4,
}

MASKED = {"objective.causal_share": 0, "optim.kind": "adamw", "optim.lr": 3e-3}
"""What the preset demo does not do by itself."""


def write_text(file: Path, num_words: int = 3000, seed: int = 0) -> Path:
    rng = random.Random(seed)
    lines = [" ".join(rng.choices(WORDS, k=8)) for _ in range(num_words // 8)]
    file.write_text("\n".join(lines) + "\n")
    return file


def tiny_flags(source: Path | str, **changed: object) -> list[str]:
    """Flags of a masked run of a second; `train__num_steps=4` changes train.num_steps."""
    return as_flags({"data.source": str(source), **MASKED, **TINY}, changed)


def as_flags(settings: dict[str, object], changed: dict[str, object]) -> list[str]:
    flags = []
    for path, value in {**settings, **{k.replace("__", "."): v for k, v in changed.items()}}.items():
        flags += [f"--{path}", *(map(str, value) if isinstance(value, (list, tuple)) else [str(value)])]
    return flags


def leave_out_reports(patch: pytest.MonkeyPatch) -> None:
    """Reports, and what is measured for them alone."""
    patch.setattr("mdlm_atat.runs.train.write_inspection", lambda *_: None)
    for module in ("mdlm_atat.runs.train", "mdlm_atat.report.report"):
        patch.setattr(f"{module}.write_report", lambda folder: folder / "report.html")


def train(source: Path | str, out: Path, **changed: object) -> int:
    return main(["train", "demo", "--out", str(out), *tiny_flags(source, **changed)])


def method_flags(method: str, source: Path | str, **changed: object) -> list[str]:
    """Flags of a tiny run of a training method, its estimator tiny too, where it has one."""
    estimator: dict[str, object] = {}
    if load_config("demo", method).importance.has_estimator:
        estimator = {"importance__width": 16, "importance__num_layers": 1, "importance__num_heads": 2}
    return ["--method", method, *as_flags({"data.source": str(source), **TINY}, {**estimator, **changed})]


def train_method(method: str, source: Path | str, out: Path, **changed: object) -> int:
    return main(["train", "demo", "--out", str(out), *method_flags(method, source, **changed)])


def losses_of(run: Path) -> list[float]:
    return values_of(run, "train/loss")


def values_of(run: Path, name: str) -> list[float]:
    """What was logged under a name, step by step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def torchrun(num_processes: int, flags: list[str]) -> None:
    """Processes on the CPU, also where there is a GPU, started as a user does; `processes.run_ranks` is quicker."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes), "-m", "mdlm_atat"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launch, *flags], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
