"""What a pretrained causal network is worth as a start: for the same seconds of training on a text, fine-tuned left to
right (`causal`), adapted to fill gaps and read left to right (`two_ways`), and trained in two ways from random weights
(`scratch`); then what the validation text costs each, and passages with a gap that is filled.

    python -m benchmarks.adapt_causal START TEXT --out FOLDER --seconds 360 --set train.batch_size=64 data.length=512 \\
        --lr causal=3e-4 two_ways=5e-4

`--steps` names what is done, in this order: causal two_ways scratch evaluate infill. What was done before is kept in
FOLDER/adapt.json and not done again; so each may be a call of its own. Of every network 72 steps are timed first, by
which the number of its steps is chosen, so that its learning rate falls to the end within its seconds. Passages to
infill are the same evenly spaced ones of the validation text for all networks: none is chosen.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.command import exit_code

from mdlm_atat import MaskedDiffusionLM, evaluate, load_lm, train
from mdlm_atat.atomic import write_json
from mdlm_atat.cli.parser import whole
from mdlm_atat.config.files import method_settings
from mdlm_atat.config.yaml_text import yaml_value
from mdlm_atat.runs.evaluate import open_data
from mdlm_atat.runs.initial import Initial
from mdlm_atat.runs.run import Run
from mdlm_atat.scoring.records import Evaluation

NETWORKS = ("causal", "two_ways", "scratch")
STEPS = (*NETWORKS, "evaluate", "infill")
LAP = 24
"""Steps between two readings of the speed. Of three laps that are timed the first compiles and records."""
STRAIGHT_ON = {
    "train.eval_interval_steps": 10**9,
    "train.checkpoint_interval_steps": 10**9,
    "eval.num_draws": 32,
    "eval.final_num_draws": 32,
}
"""Nothing stops the runs on their way, and they are hardly scored: the step `evaluate` does that, by the same draws."""


def settings_of(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """The settings of a network's run, by dotted path."""
    settings = {path: yaml_value(value) for path, value in args.set.items()}
    if name in args.lr:
        settings["optim.lr"] = float(args.lr[name])
    return {"data.source": str(args.text), "eval.num_samples": 0, **settings}


def train_once(args: argparse.Namespace, name: str, out: Path, num_steps: int) -> float:
    """Train a network; returns its tokens a second, without what compiles and evaluates."""
    settings = {
        **settings_of(args, name),
        "train.num_steps": num_steps,
        "train.log_interval_steps": LAP,
        **STRAIGHT_ON,
    }
    shutil.rmtree(out, ignore_errors=True)
    if name == "scratch":
        config = Initial.open(args.start).run_config(None, args.method, settings)
        own = {**method_settings(args.method, "optim"), **settings}  # the method's, which are for random weights
        run = train(replace(config, train=replace(config.train, seed=args.seed)), out=out, settings=own)
    else:
        run = train(init=args.start, method=args.method if name == "two_ways" else None, out=out, settings=settings)
    laps = [row["train/tokens_per_s"] for row in run.metrics if "train/tokens_per_s" in row]
    return statistics.median(laps[1:] or laps)


def train_for(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Train a network for `--seconds`, or `--num_steps`."""
    folder, num_steps = args.out / name, args.num_steps
    if num_steps is None:
        tokens_per_s = train_once(args, name, args.out / "timed", 3 * LAP)
        config = Run(args.out / "timed").config
        num_steps = max(1, int(args.seconds * tokens_per_s / (config.train.batch_size * config.data.length)))
        shutil.rmtree(args.out / "timed")
    tokens_per_s = train_once(args, name, folder, num_steps)
    config = Run(folder).config
    num_tokens = num_steps * config.train.batch_size * config.data.length
    return {
        "folder": str(folder),
        "num_steps": num_steps,
        "train_s": num_tokens / tokens_per_s,
        "tokens": num_tokens,
        "tokens_per_s": tokens_per_s,
        "lr": config.optim.lr,
        "optimizer": config.optim.kind,
        "length": config.data.length,
        "causal_share": config.objective.causal_share,
    }


def costs(found: Evaluation) -> dict[str, Any]:
    """[nats per token, standard error] of each of a model's likelihoods."""
    return {each.name: [each.cost.nats_per_token, each.cost.standard_error] for each in found.likelihoods}


def evaluate_all(args: argparse.Namespace, done: dict[str, Any]) -> dict[str, Any]:
    """What the validation text costs the start and each network, on the same draws, and the paired difference of those
    in two ways to the one that was trained left to right alone, left to right. Each evaluation is stored as soon as it
    is there, in evaluations/NETWORK.json, and not made again."""
    names = [name for name in NETWORKS if name in done]
    found: dict[str, Evaluation] = {}
    text = open_data(load_lm(args.out / names[0]), None)
    for name in (*names, "start"):
        file = args.out / "evaluations" / f"{name}.json"
        if not file.exists():
            lm = load_lm(args.start if name == "start" else args.out / name)
            order = args.order if isinstance(lm, MaskedDiffusionLM) else None
            file.parent.mkdir(exist_ok=True)
            evaluate(lm, text, num_draws=args.num_draws, order=order, batch_size=args.batch_size, save=False).save(file)
        found[name] = Evaluation.load(file)
    record: dict[str, Any] = {name: costs(found[name]) for name in ("start", *names)}
    for name in ("start", "two_ways", "scratch"):
        if name in found and "causal" in found:
            paired = found[name].compare(found["causal"], bound="left_to_right")
            factor = float(np.exp(paired.nats_per_token))
            record[name]["left to right, less the causal one's"] = [paired.nats_per_token, paired.standard_error]
            record[name]["perplexity left to right, over the causal one's"] = factor
    return record


def infill_all(args: argparse.Namespace, done: dict[str, Any]) -> list[dict[str, str]]:
    """Evenly spaced passages of the validation text, whose middle each network that fills gaps fills."""
    names = [name for name in ("two_ways", "scratch") if name in done]
    lms = {name: load_lm(args.out / name) for name in names}
    text = open_data(next(iter(lms.values())), None)
    last = max(0, text.num_evaluation_rows - 2)  # but for the very last, which may be cut short
    indices = np.linspace(0, last, args.num_passages).astype(np.int64)
    rows, _ = text.evaluation_rows(indices)
    passages: list[dict[str, str]] = []
    for seed, row in enumerate(rows):
        tokens = row[: args.passage].tolist()
        start = (len(tokens) - args.gap) // 2
        before, gap, after = tokens[:start], tokens[start : start + args.gap], tokens[start + args.gap :]
        decode = text.tokenizer.decode
        passage = {"before": decode(before), "gap": decode(gap), "after": decode(after)}
        template = f"{passage['before']}[MASK:{args.gap}]{passage['after']}"
        for name, lm in lms.items():
            passage[name] = str(lm.infill(template, seed=seed))
        passages.append(passage)
    return passages


def pairs(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path, help="a causal network: a run, a folder, a .gguf file or hub:OWNER/NAME")
    parser.add_argument("text", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--seconds", type=float, default=360.0, help="of training, for each network")
    parser.add_argument("--num_steps", type=whole(1), help="in place of seconds")
    parser.add_argument("--method", default="atat")
    parser.add_argument("--lr", nargs="+", default=[], metavar="NETWORK=RATE")
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--seed", type=whole(), default=0)
    parser.add_argument("--num_draws", type=whole(1), default=1024)
    parser.add_argument("--batch_size", type=whole(1), default=16, help="of the evaluations")
    parser.add_argument("--order", default="spread", help="sampler in whose order a text is scored too")
    parser.add_argument("--num_passages", type=whole(1), default=10)
    parser.add_argument("--passage", type=whole(1), default=96, help="tokens of a passage")
    parser.add_argument("--gap", type=whole(1), default=12, help="tokens of its gap")
    args = parser.parse_args()
    args.lr, args.set = pairs(args.lr), pairs(args.set)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "adapt.json"
    done: dict[str, Any] = (
        json.loads(file.read_text()) if file.exists() else {"start": str(args.start), "text": str(args.text)}
    )
    for step in STEPS:
        if step not in args.steps or step in done:
            continue
        make = {"evaluate": evaluate_all, "infill": infill_all}.get(step)
        done[step] = train_for(args, step) if make is None else make(args, done)
        write_json(file, done)
        print(json.dumps({step: done[step]}, indent=1, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
