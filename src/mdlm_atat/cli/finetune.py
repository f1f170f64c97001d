"""atat finetune: a trained model on tasks with labels, over several seeds, or its frozen backbone as a probe."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.cli.model import add_model_arguments, load_model
from mdlm_atat.errors import UserError

if TYPE_CHECKING:
    from mdlm_atat.finetune.encode import EncodedTexts, Separator
    from mdlm_atat.finetune.settings import FinetuneSettings
    from mdlm_atat.finetune.tasks import Task
    from mdlm_atat.finetune.training import Finetuning, OnStep
    from mdlm_atat.lm import CausalLM, MaskedDiffusionLM

TRAINED = {"epochs": 5, "batch_size": 32, "lr": 1e-4}
PROBED = {"epochs": 20, "batch_size": 64, "lr": 1e-3}
TITLES = {"accuracy": "accuracy", "f1": "F1", "matthews": "Matthews", "pearson": "Pearson", "spearman": "Spearman"}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atat finetune",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fine-tune a trained model on a task with labels: sst2, cola, mrpc, rte, stsb (GLUE), or a file.",
        epilog="""examples:
  atat finetune runs/mine --task rte --data glue/            glue/RTE/{train,dev}.tsv
  atat finetune runs/mine --task mrpc                        from the hub (pip install 'mdlm-atat[hub]')
  atat finetune runs/mine --task sst2 --data glue/ --probe   train the head alone, on a frozen backbone
  atat finetune runs/mine --task reviews.csv --seeds 5       columns text, perhaps text2, and label

Seeds that are stored already, from the same weights, examples and settings, are not run again.
docs/finetuning.md says what is measured, and how.
""",
    )
    add_model_arguments(parser)
    parser.add_argument("--task", required=True, help="sst2, cola, mrpc, rte, stsb, or a .tsv, .csv or .jsonl file")
    parser.add_argument("--data", help="folder of GLUE's TSV files, or hub:NAME (default: hub:nyu-mll/glue)")
    parser.add_argument("--dev", type=Path, help="file: another file to score on")
    parser.add_argument("--dev_fraction", type=float, help="file without --dev: share to score on (default: 0.1)")
    parser.add_argument("--regression", action="store_true", help="file: the labels are numbers to predict")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--probe", action="store_true", help="train the head alone, on the frozen backbone")
    parser.add_argument("--pooling", choices=["mean", "first", "last"], help="default: mean; last for a causal model")
    for name, kind, what in (
        ("epochs", int, "passes over the training examples"),
        ("batch_size", int, "examples of a step"),
        ("lr", float, "peak learning rate"),
    ):
        default = f"(default: {TRAINED[name]:g}, with --probe {PROBED[name]:g})"
        parser.add_argument(f"--{name}", type=kind, help=f"{what} {default}")
    parser.add_argument("--warmup_share", type=float, default=0.1, help="share of steps to warm up (default: 0.1)")
    parser.add_argument("--weight_decay", type=float, default=0.01, help="default: 0.01")
    parser.add_argument("--grad_clip", type=float, default=1.0, help="largest gradient norm; 0: any (default: 1)")
    parser.add_argument("--dropout", type=float, default=0.1, help="before the head (default: 0.1)")
    parser.add_argument("--backbone_dropout", type=float, help="in the backbone (default: as it was trained)")
    parser.add_argument("--max_length", type=int, help="tokens of a text or pair (default: all the model takes)")
    parser.add_argument("--patience", type=int, default=0, help="stop after so many worse epochs (default: 0, never)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: finetune/ in the model's)")
    parser.add_argument("--again", action="store_true", help="run seeds anew whose results are stored")
    return parser


def main(argv: list[str]) -> int:
    arguments = make_parser().parse_args(argv)
    for name, least in (("seeds", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} is {getattr(arguments, name)}, expected at least {least}")
    if arguments.seed + arguments.seeds > 2**31:
        raise UserError(f"--seed is {arguments.seed}, expected less than 2,147,483,648")
    if arguments.out is not None and arguments.out.exists() and not arguments.out.is_dir():
        raise UserError(f"--out: {arguments.out} is a file; name a folder")
    from mdlm_atat.atomic import write_json
    from mdlm_atat.finetune.encode import choose_separator, encode_split
    from mdlm_atat.finetune.read import open_task
    from mdlm_atat.finetune.results import provenance_record, request_record, summary_file, summary_record
    from mdlm_atat.finetune.training import Finetuning

    task = open_task(
        arguments.task,
        data=arguments.data,
        dev=arguments.dev,
        dev_fraction=arguments.dev_fraction,
        regression=arguments.regression,
    )
    lm = load_model(arguments)
    assert lm.home is not None
    settings = choose_settings(arguments, lm)
    separator = choose_separator(lm.tokenizer, lm.counts)
    train, dev = (encode_split(split, lm.tokenizer, separator, settings.max_length) for split in (task.train, task.dev))
    print("\n".join(plan(lm, task, settings, separator, train, dev)), flush=True)
    folder = arguments.out or lm.home / "finetune"
    request = request_record(task, settings, lm.fingerprint())
    provenance = {
        **provenance_record(task),
        **model_record(lm),
        "num_cut": {"train": train.num_cut, "dev": dev.num_cut},
    }
    finetuning = Finetuning(lm.network, task, train, dev, settings, device=lm.device, precision=lm.precision)
    records = run_shown(
        finetuning,
        range(arguments.seed, arguments.seed + arguments.seeds),
        folder,
        request=request,
        provenance=provenance,
        again=arguments.again,
    )
    summary = summary_record(records)
    file = summary_file(folder, task.name, settings)
    write_json(file, summary)
    print("\n".join(result_table(summary)))
    print(f"stored     {file}")
    return 0


def choose_settings(arguments: argparse.Namespace, lm: MaskedDiffusionLM | CausalLM) -> FinetuneSettings:
    """The settings of the command line, checked against the model's kind and length."""
    from mdlm_atat.finetune.head import longest_text
    from mdlm_atat.finetune.settings import FinetuneSettings

    pooling = arguments.pooling or ("last" if lm.kind == "causal" else "mean")
    if (pooling == "last") != (lm.kind == "causal"):
        expected = "last" if lm.kind == "causal" else "mean or first"
        reason = "reads to the right" if lm.kind == "causal" else "reads both ways"
        raise UserError(f"--pooling {pooling}: this model is {lm.kind} and {reason}; use {expected}, or leave it out")
    longest = longest_text(lm.network)
    if arguments.max_length is not None and arguments.max_length > longest:
        raise UserError(f"--max_length is {arguments.max_length}; this model takes texts of at most {longest} tokens")
    given = {name: getattr(arguments, name) for name in TRAINED if getattr(arguments, name) is not None}
    dropout = arguments.backbone_dropout
    if dropout is None:
        dropout = 0.0 if arguments.probe else lm.config.model.dropout
    return FinetuneSettings(
        probe=arguments.probe,
        pooling=pooling,
        max_length=arguments.max_length or longest,
        **{**(PROBED if arguments.probe else TRAINED), **given},
        warmup_share=arguments.warmup_share,
        weight_decay=arguments.weight_decay,
        grad_clip=arguments.grad_clip,
        dropout=arguments.dropout,
        backbone_dropout=dropout,
        patience=arguments.patience,
    )


def model_record(lm: MaskedDiffusionLM | CausalLM) -> dict[str, Any]:
    """The model and the machine, for results to be traced by."""
    from mdlm_atat.provenance import cpu

    return {
        "model": lm.kind,
        "checkpoint": str(lm.checkpoint.folder if lm.checkpoint else lm.home),
        "checkpoint_hash": lm.checkpoint.checksum() if lm.checkpoint else None,
        "step": lm.checkpoint.step if lm.checkpoint else None,
        "tokenizer": lm.tokenizer.name,
        "tokenizer_hash": lm.tokenizer.fingerprint(),
        "command": shlex.join(["atat", *sys.argv[1:]]),
        "machine": {"cpu": cpu(), "device": lm.device_name, "precision": lm.precision},
    }


def plan(
    lm: MaskedDiffusionLM | CausalLM,
    task: Task,
    settings: FinetuneSettings,
    separator: Separator,
    train: EncodedTexts,
    dev: EncodedTexts,
) -> list[str]:
    """What is about to be done, a line each."""
    what = "a regression" if task.is_regression else f"{len(task.labels)} classes"
    joined = f"pairs joined by {separator.name}, " if len(task.train.texts[0]) == 2 else ""
    where = str(lm.checkpoint.folder if lm.checkpoint else lm.home)
    lines = [
        f"task       {task.name}, {what}: {len(task.train):,} examples to train on, {len(task.dev):,} to score on",
        f"text       {joined}{train.num_tokens / len(train):.0f} {lm.tokenizer.name} tokens in the mean; cut to "
        f"{settings.max_length}: {train.num_cut:,} and {dev.num_cut:,} of them",
        f"model      {where}: {lm.kind}, {sum(p.numel() for p in lm.network.parameters()):,} parameters, "
        f"{'frozen, ' if settings.probe else ''}{settings.pooling} pooling; {lm.device_name}, {lm.precision}",
        f"training   {settings.epochs} epoch{'s' * (settings.epochs > 1)}, {settings.batch_size} examples a step, "
        f"learning rate {settings.lr:g}",
    ]
    replaced = train.num_replaced + dev.num_replaced
    if replaced:
        share = replaced / (train.num_characters + dev.num_characters)
        lines.insert(2, f"           {share:.2%} of the characters are not in the model's alphabet and were replaced")
    return lines


def run_shown(finetuning: Finetuning, seeds: range, folder: Path, **kept: Any) -> list[dict[str, Any]]:
    """Run the seeds, a line an epoch. Ctrl-C ends with what to do next; whole seeds are kept."""
    from mdlm_atat.device import explain_out_of_memory
    from mdlm_atat.finetune.results import run_seeds, seed_file
    from mdlm_atat.finetune.training import Epoch

    def say_seed(seed: int, stored: dict[str, Any] | None) -> None:
        if stored is not None:
            print(f"seed {seed:<5} stored already: {in_words(stored['last_epoch']['metrics'])}", flush=True)

    def say_epoch(seed: int, epoch: Epoch) -> None:
        print(
            f"seed {seed:<5} epoch {epoch.number}/{finetuning.settings.epochs}  loss {epoch.train_loss:.4f}  "
            f"{in_words(epoch.metrics)}  {epoch.elapsed_s:.1f} s",
            flush=True,
        )

    advice = f"try --batch_size {max(1, finetuning.settings.batch_size // 2)}"
    try:
        with steps_bar() as on_step, explain_out_of_memory(advice):
            return run_seeds(finetuning, seeds, folder, on_seed=say_seed, on_epoch=say_epoch, on_step=on_step, **kept)
    except KeyboardInterrupt:
        files = [seed_file(folder, finetuning.task.name, finetuning.settings, seed) for seed in seeds]
        num_stored = sum(file.exists() for file in files)
        print(f"\n{num_stored} of {len(seeds)} seeds are stored in {folder}; the same command goes on from there")
        raise


@contextmanager
def steps_bar() -> Iterator[OnStep]:
    """A bar of the running seed's steps on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def in_words(metrics: dict[str, float]) -> str:
    return ", ".join(f"{TITLES[name]} {value:.4f}" for name, value in metrics.items())


def result_table(summary: dict[str, Any]) -> list[str]:
    """The result as aligned lines for a person."""
    seeds, baseline = summary["seeds"], summary["baseline"]
    guess = "the class that most have" if summary["labels"] else "the mean score"
    lines = [f"\n{'':10} {'last epoch':^20} {'best epoch':^20} {'baseline':>9}  last epoch of each seed"]
    for name in baseline:
        last, best = summary["last_epoch"][name], summary["best_epoch"][name]
        each = "  ".join(f"{value:.4f}" for value in last["values"])
        lines.append(
            f"{TITLES[name]:10} {mean_and_spread(last):^20} {mean_and_spread(best):^20} {baseline[name]:9.4f}  {each}"
        )
    errors = ", ".join(
        f"{TITLES[name]} {error:.4f}" for name, error in summary["standard_error"].items() if error is not None
    )
    spread = f"mean ± standard deviation of {len(seeds)} seeds" if len(seeds) > 1 else "one seed, so no spread is known"
    return [
        *lines,
        f"{'':10} {spread}; best epoch: chosen on these examples, so too high; baseline: {guess}",
        f"{'':10} standard error from there being {summary['num_dev']:,} examples to score: {errors or 'not known'}",
    ]


def mean_and_spread(found: dict[str, Any]) -> str:
    spread = found["standard_deviation"]
    return f"{found['mean']:.4f}" + ("" if spread is None else f" ± {spread:.4f}")
