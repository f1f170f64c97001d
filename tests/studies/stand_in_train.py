"""Stands in for `python -m mdlm_atat`: a training command that takes a moment and learns nothing.

It writes what the real one writes into its run folder, a step at a time, and ends with a checkpoint when it is
interrupted as a process of its own. Arms named `bad` crash; one named `slow` takes its time. Every step it takes is a
line of steps.txt.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.files import load_config, read_flags, save_config, split_flags


def bench(run: Path, words: list[str]) -> int:
    """Stands in for `atat samplers bench RUN`."""
    if "13" in words:
        print("error: 13 steps are bad luck")
        return 2
    with (run / "benched.txt").open("a") as calls:
        calls.write(" ".join(words[3:]) + "\n")
    (run / "samplers-generate.json").write_text(json.dumps({"points": [], "needed": {}}))
    return 0


def main(words: list[str], stop: Sequence[int] = ()) -> int:
    """`stop`: signals that were heard."""
    if words[0] == "samplers":
        return bench(Path(words[2]), words)
    own, dotted = split_flags(words[1:])
    resumed = "--resume" in own
    run = Path(own[own.index("--resume" if resumed else "--out") + 1])
    if resumed:
        config = load_config(str(run))
    else:
        method = own[own.index("--method") + 1] if "--method" in own else None
        with warnings.catch_warnings(action="ignore"):  # settings without effect, for all arms alike
            config = read_config(own[0], method, read_flags(dotted)[0], "stand-in")
        run.mkdir(parents=True)
        start = {
            "command": f"atat {' '.join(words)}",
            "data": json.loads(Path(os.environ["STAND_IN_DATA"]).read_text()),
            "machine": {
                "cpu": "stand-in",
                "device": os.environ.get("CUDA_VISIBLE_DEVICES", "CPU"),
                "precision": "bf16",
            },
            "commit": "abc",
            "versions": {"mdlm_atat": "0"},
            "parameters": 1000 + 100 * (method == "atat"),
            "peak_memory_bytes": 2000,
        }
        (run / "run.json").write_text(json.dumps(start))
        save_config(config, run / "config.yaml")
    arm = run.parts[run.parts.index("runs") + 1].partition("@")[0] if "runs" in run.parts else "calibration"
    print(f"training {arm}", flush=True)
    if arm == "bad":
        print("error: this arm cannot be trained", flush=True)
        return 2
    checkpoint = run / "step.txt"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    num_tokens = config.train.batch_size * config.data.length
    level = {"mdlm": 4.0, "atat": 3.5}.get(arm, 4.0) + 0.01 * config.train.seed
    with (run / "metrics.jsonl").open("a") as metrics, (run.parents[0] / "steps.txt").open("a") as taken:
        while step < config.train.num_steps and not stop:
            time.sleep(0.2 if arm == "slow" else 0.005)
            step += 1
            taken.write(f"{config.train.seed} {step}\n")
            line: dict[str, Any] = {
                "step": step,
                "train/loss": 5.0,
                "train/tokens": step * num_tokens,
                "train/tokens_per_s": num_tokens / 0.5,
            }
            metrics.write(json.dumps(line) + "\n")
            if step % config.train.eval_interval_steps == 0 or step == config.train.num_steps:
                bound = {"eval/nelbo_nats_per_token": level + 1 / step, "eval/standard_error": 0.1}
                metrics.write(json.dumps({"step": step, **bound}) + "\n")
            metrics.flush()
            taken.flush()
    checkpoint.write_text(str(step))
    if stop:
        print(f"stopped at step {step}")
        return 130
    (run / "evals").mkdir(exist_ok=True)
    record = {
        "kind": "nelbo",
        "nelbo_nats_per_token": level + 1 / step,
        "standard_error": 0.1,
        "schedule": {"strategy": "uniform", "nelbo_nats_per_token": level + 1 / step, "standard_error": 0.1},
        "step": step,
        "split": "valid",
        "num_draws": 64,
        "corpus_hash": json.loads(Path(os.environ["STAND_IN_DATA"]).read_text())["hash"][32:],
        "profile": {"mask_rate": [0.5], "nats_per_masked_token": [level], "num_masked_tokens": [7]},
    }
    (run / "evals" / "final.json").write_text(json.dumps(record))
    (run / "samples.jsonl").write_text(json.dumps({"text": f"{arm} says", "step": step}) + "\n")
    (run / "report.html").write_text("<p>done</p>")
    return 0


if __name__ == "__main__":
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    sys.exit(main(sys.argv[1:], heard))
