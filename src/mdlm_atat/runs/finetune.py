"""Fine-tune a trained model on a task with labels, over several seeds, or a head alone on its frozen backbone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Unpack

import torch

from mdlm_atat import plugins
from mdlm_atat.checks import at_least, check_keywords
from mdlm_atat.device import Precision, explain_out_of_memory
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.calibration import calibrate
from mdlm_atat.finetuning.classifier import ClassifierRecord, TextClassifier
from mdlm_atat.finetuning.encode import EncodedTexts, Separator, choose_separator, encode_texts
from mdlm_atat.finetuning.head import POOLINGS, check_backbone, default_pooling, longest_text
from mdlm_atat.finetuning.metrics import Metric, title
from mdlm_atat.finetuning.read import Data, open_task
from mdlm_atat.finetuning.results import FinetuneResult, provenance_record, run_seeds, seed_file
from mdlm_atat.finetuning.settings import PROBE_IS_LIKELY_BETTER, FinetuneSettings, GivenSettings, usual
from mdlm_atat.finetuning.tasks import Task
from mdlm_atat.finetuning.training import (
    CrossValidation,
    Epoch,
    Finetuning,
    Hooks,
    OnStep,
    Outcome,
    Trained,
    dropout_of,
)
from mdlm_atat.formats import counted
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
from mdlm_atat.model_folder import BOX, ORIGIN_FILE, borrowed_name, models_folder, results_folder
from mdlm_atat.progress import OnProgress, shown
from mdlm_atat.provenance import command, cpu
from mdlm_atat.published.files import name_of_published
from mdlm_atat.published.hub import PREFIX
from mdlm_atat.runs.model import Model, open_model
from mdlm_atat.small_files import read_object
from mdlm_atat.terminal import Messages


@torch.inference_mode(False)  # where the caller has turned gradients off, they are on in here
def finetune(
    model: Model,
    *,
    task: str | Path | None = None,
    data: Data | None = None,
    dev: str | Path | None = None,
    dev_fraction: float | None = None,
    folds: int | None = None,
    regression: bool = False,
    metric: str | Metric | Sequence[str | Metric] | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    seeds: int | Sequence[int] = 3,
    out: str | Path | None = None,
    again: bool = False,
    keep_classifier: bool = True,
    on_step: OnStep | None = None,
    progress: bool | OnProgress = True,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    trust_plugins: bool = False,
    **settings: Unpack[GivenSettings],
) -> FinetuneResult:
    """Fine-tune a trained model on a task with labels, once for each seed.

    `model`: a run, a folder (of a run, a checkpoint or a saved model) or a language model, which stays as it is.
    `task`: sst2, cola, mrpc, rte or stsb of GLUE (then `data` is the folder with its files, hub:NAME, or None for the
    hub), or the name of your own, whose `data` is a .tsv, .csv, .json, .jsonl or .parquet file, a list of such records,
    or a tuple of two lists, to train on and to score on. Its columns are `text` (None: text), `text_pair` (None: text2
    or text_pair, if there is one) and `label` (None: label). `dev`: another file to score on. Without it the share
    `dev_fraction` is held out, or all are scored by cross-validation in so many `folds`; without any of these, 5 folds
    of fewer than 1,000 examples, else a tenth is held out. `regression`: the labels are numbers to predict.
    `metric`: names, functions of (predicted, truth), or `package.module:Name`; None: those of the task.
    `encoding`, `delimiter`: of files, as for `prepare`; None: UTF-8 or what a mark says, and what the first lines show.
    `seeds`: how many, from 0, or which. `out`: folder of the results; None: finetune/ in the model's, or in
    the working directory for the model in the box. Seeds that are
    stored there, from the same weights, examples and settings, are not run again unless `again`. `keep_classifier`:
    store what the first seed has trained there too, calibrated on the examples to score on (see `calibrate`).
    `on_step`: called with (step, values); an exception in it ends the fine-tuning, and seeds that are done stay stored,
    as after Ctrl-C. `progress`: print what is done and show a bar, or a function that is called with (done, total) of
    the running seed's steps. `device`, `precision`: of a model that is loaded
    here. `trust_plugins`: import the plugins that the model's folder names. `settings`: see `FinetuneSettings`.

    Returns the metrics of every seed with the baseline's, which are also stored as JSON, and the classifier. Raises
    UserError for whatever does not fit together, before anything is written.
    """
    check_keywords(settings, finetune, [field.name for field in fields(FinetuneSettings)])
    numbers = _seed_numbers(seeds)
    folder = None if out is None else Path(out)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"`out=`: {folder} is a file; name a folder")
    opened = open_task(
        task,
        data=data,
        dev=dev,
        dev_fraction=dev_fraction,
        folds=folds,
        regression=regression,
        metric=metric,
        text=text,
        text_pair=text_pair,
        label=label,
        encoding=encoding,
        delimiter=delimiter,
    )
    say = _print if progress is True else _keep_silent
    lm = open_model(
        model,
        device=device,
        precision=precision,
        trust_plugins=trust_plugins,
        say=lambda text: say(f"warning: {text}"),
    )
    backbone = check_backbone(lm.network)
    if folder is None:
        if lm.home is None:
            raise UserError("this model is in no folder yet: name one for the results by `out=`")
        folder = results_folder(lm.home, "finetune")
    chosen = choose_settings(lm, settings, len(opened.train))
    separator = choose_separator(lm.tokenizer, lm.counts)
    train, scored = (
        encode_texts(split.texts, lm.tokenizer, separator, chosen.max_length, place=split.places.__getitem__)
        for split in (opened.train, opened.dev)
    )
    for line in _plan(lm, opened, chosen, separator, train, scored):
        say(line)
    how: Any = {"device": lm.device, "precision": lm.precision}
    if opened.fold is not None:
        finetuning = CrossValidation(backbone, opened, train, chosen, **how)
    else:
        finetuning = Finetuning(backbone, opened, train, scored, chosen, **how)
    provenance = {
        **provenance_record(opened),
        **_model_record(lm),
        "plugins": [plugins.requirement("metric", name) for name in filter(_is_plugin, opened.metrics)],
        "num_cut": {"train": train.num_cut, "dev": scored.num_cut},
    }

    def say_seed(seed: int, stored: Outcome | None, is_to_be_kept: bool) -> None:
        if stored is not None:
            again = "; it runs again, for its classifier is not stored" if is_to_be_kept else ""
            say(f"seed {seed:<5} stored already: {_in_words(stored.last.metrics)}{again}")

    def say_epoch(seed: int, epoch: Epoch) -> None:
        say(
            f"seed {seed:<5} epoch {epoch.number}/{chosen.epochs}  loss {epoch.train_loss:.4f}  "
            f"{_in_words(epoch.metrics)}  {epoch.elapsed_s:.1f} s"
        )

    def keep(outcome: Outcome, trained: Trained, about: dict[str, Any], where: Path) -> None:
        calibration = None if outcome.logits is None else calibrate(outcome.logits, opened.dev.targets)
        record = ClassifierRecord(
            labels=opened.labels,
            is_pair=len(opened.train.texts[0]) == 2,
            pooling=chosen.pooling,
            max_length=chosen.max_length,
            separator=separator,
            mean=trained.mean,
            spread=trained.spread,
            calibration=calibration,
            columns=opened.columns,
            label_column=opened.label_column,
            about={**about, "metrics": outcome.last.metrics},
        )
        TextClassifier.of_trained(trained, lm, record).save_pretrained(where, overwrite=True)

    if keep_classifier and not lm.has_config:
        say("classifier not stored, for this model is a bare network, which could not be built again")
    advice = f"try `batch_size={max(1, chosen.batch_size // 2)}`"
    try:
        with shown("training", progress) as on_progress, explain_out_of_memory(advice):
            hooks = Hooks(
                on_seed=say_seed, on_epoch=say_epoch, on_step=on_step, on_progress=on_progress or _keep_silent
            )
            return run_seeds(
                finetuning,
                numbers,
                folder,
                weights=lm.fingerprint(),
                provenance=provenance,
                again=again,
                hooks=hooks,
                keep=keep if keep_classifier and lm.has_config else None,
            )
    except KeyboardInterrupt:
        num_stored = sum(seed_file(folder, opened.name, chosen, seed).exists() for seed in numbers)
        say(f"\n{num_stored} of {len(numbers)} seeds are stored in {folder}; the same command goes on from there")
        raise


def choose_settings(lm: MaskedDiffusionLM | CausalLM, given: GivenSettings, num_examples: int) -> FinetuneSettings:
    """The settings that were given, checked against the model, and the defaults of the others for so many examples."""
    modes = check_backbone(lm.network).modes
    allowed = [pooling for mode in sorted(modes, reverse=True) for pooling in POOLINGS[mode]]
    pooling = given.get("pooling") or default_pooling(modes)
    if pooling not in allowed:
        reads = "reads both ways" if "masked" in lm.modes else "reads to the right"
        use = f"use {' or '.join(allowed)}, or leave it out"
        raise UserError(f"`pooling={pooling!r}`: this model is {lm.kind} and {reads}; {use}")
    longest, max_length = longest_text(lm.max_length, pooling), given.get("max_length")
    if max_length is not None and max_length > longest:
        raise UserError(f"`max_length=` is {max_length}; this model takes texts of at most {longest} tokens")
    probe = given.get("probe", False)
    decided = {name: value for name, value in given.items() if value is not None}
    defaults = {
        **usual(num_examples, probe=probe),
        "pooling": pooling,
        "max_length": longest,
        "backbone_dropout": 0.0 if probe else dropout_of(lm.network),
    }
    return FinetuneSettings(**{**defaults, **decided})  # type: ignore[arg-type]


def _seed_numbers(seeds: int | Sequence[int]) -> Sequence[int]:
    if isinstance(seeds, int):
        at_least("`seeds=`", seeds, 1)
        return range(seeds)
    if not seeds:
        raise UserError("`seeds=` is empty: expected how many, or which")
    for seed in seeds:
        at_least("`seed=`", seed, 0)
        if seed >= 2**31:
            raise UserError(f"`seed=` is {seed}, expected less than 2,147,483,648")
    return seeds


def _model_record(lm: MaskedDiffusionLM | CausalLM) -> dict[str, Any]:
    """The model and the machine, for results to be traced by."""
    return {
        "model": lm.kind,
        "checkpoint": _place(lm),
        "checkpoint_hash": lm.checkpoint.checksum if lm.checkpoint else None,
        "step": lm.checkpoint.step if lm.checkpoint else None,
        "tokenizer": lm.tokenizer.name,
        "tokenizer_hash": lm.tokenizer.fingerprint(),
        "command": command(),
        "machine": {"cpu": cpu(), "device": lm.device_name, "precision": lm.precision},
    }


def _place(lm: MaskedDiffusionLM | CausalLM) -> str:
    """Where the weights came from: a name of the hub, a folder, or the class of a network that is in none."""
    if lm.checkpoint is not None or lm.home is None:
        return str(lm.checkpoint.folder if lm.checkpoint else type(lm.network).__name__)
    if lm.home.parent == models_folder():
        return str(read_object(lm.home / ORIGIN_FILE).get("source"))
    is_of_hub = lm.home != BOX and borrowed_name(lm.home) is not None
    return f"{PREFIX}{name_of_published(lm.home)}" if is_of_hub else str(lm.home)


def _plan(
    lm: MaskedDiffusionLM | CausalLM,
    task: Task,
    settings: FinetuneSettings,
    separator: Separator,
    train: EncodedTexts,
    dev: EncodedTexts,
) -> list[str]:
    """What is about to be done, in lines."""
    what = "a regression" if task.is_regression else f"{len(task.labels)} classes"
    joined = f"pairs joined by {separator.name}, " if len(task.train.texts[0]) == 2 else ""
    accounts = task.source["accounts"]
    lines = [
        f"task       {task.name}, {what}: {len(task.train):,} examples, each scored {accounts['rule']}"
        if task.fold is not None
        else f"task       {task.name}, {what}: {len(task.train):,} examples to train on, {len(task.dev):,} to score on "
        f"({accounts['rule']})",
        f"text       {joined}{train.num_tokens / len(train):.0f} {lm.tokenizer.name} tokens in the mean; cut to "
        f"{settings.max_length}: {train.num_cut:,} and {dev.num_cut:,} of them",
        f"model      {_place(lm)}: {lm.kind}, {sum(p.numel() for p in lm.network.parameters()):,} parameters, "
        f"{'frozen, ' if settings.probe else ''}{settings.pooling} pooling; {lm.device_name}, {lm.precision}",
        f"training   {counted(settings.epochs, 'epoch')}, {settings.batch_size} examples a step, "
        f"learning rate {settings.lr:g}",
    ]
    replaced = train.num_replaced + dev.num_replaced
    if replaced:
        share = replaced / (train.num_characters + dev.num_characters)
        lines.insert(2, f"           {share:.2%} of the characters are not in the model's alphabet and were replaced")
    if changed := task.source.get("changed"):
        counts = ", ".join(f"{what} ({number:,})" for what, number in changed.items())
        lines.insert(1, f"           not as they were: {counts}")
    if accounts["repeated"]:
        lines.insert(1, f"           {accounts['repeated']:,} of those to score on are trained on too")
    if len(task.train) < PROBE_IS_LIKELY_BETTER and not (settings.probe or task.is_regression):
        lines[:0] = [
            "hint       for so few examples `--probe` (probe=True), which trains the head alone, is likely better: of",
            "           80 e-mails in four classes it labelled 0.626 right, the whole network 0.475 (docs/classify.md)",
        ]
    return lines


def _is_plugin(metric: str) -> bool:
    return plugins.is_plugin("metric", metric)


def _in_words(metrics: dict[str, float]) -> str:
    return ", ".join(f"{title(name)} {value:.4f}" for name, value in metrics.items())


def _print(text: str) -> None:
    print(text, file=Messages(sys.stdout), flush=True)


def _keep_silent(*_: object) -> None:
    pass
