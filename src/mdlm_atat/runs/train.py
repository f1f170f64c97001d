"""Training a model: `train` reads settings, prepares the text, trains, and leaves a run's folder."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from mdlm_atat.atomic import write_json
from mdlm_atat.config.arguments import Setting, read_arguments
from mdlm_atat.config.build import build_model, own_schedule
from mdlm_atat.config.schema import DataConfig, RunConfig
from mdlm_atat.config.size import check_memory, memory_of
from mdlm_atat.core.curriculum import Stage
from mdlm_atat.data.corpus import Corpus
from mdlm_atat.data.hub import HUB_SETS
from mdlm_atat.data.open_tokenizer import HUB_NAMES
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.request import DataRequest
from mdlm_atat.data.sources import SourceLike
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.device import explain_out_of_memory
from mdlm_atat.errors import UserError, command_line
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM, load_lm
from mdlm_atat.plugins import trusted
from mdlm_atat.progress import messages
from mdlm_atat.provenance import code_version, commit
from mdlm_atat.report.eval_lines import result_table
from mdlm_atat.report.report import write_report
from mdlm_atat.runs.claim import check_in_place, owned_folder
from mdlm_atat.runs.evaluate import draw_settings, measure, store
from mdlm_atat.runs.forgetting import measure_forgetting
from mdlm_atat.runs.initial import Initial, initial_of
from mdlm_atat.runs.request import RunRequest
from mdlm_atat.runs.run import Run
from mdlm_atat.runs.samples import sample_lines, write_samples
from mdlm_atat.runs.steps import Home, config_that_fits, go_on_in, take_steps
from mdlm_atat.scoring.cost import unigram_json
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.unigram import unigram_cost
from mdlm_atat.scoring.validation import score_validation
from mdlm_atat.training.assemble import make_training
from mdlm_atat.training.check import check_settings
from mdlm_atat.training.checkpoint import Checkpoint, newest_sound
from mdlm_atat.training.dry_run import DryRun, announcement, dry_run, find_micro_batches, measured_plan, plan
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.folder import (
    changes,
    check_free,
    check_resumable,
    check_same_data,
    describe_data,
    found_again,
    has_record,
    note_micro_batches,
    note_resumed,
    settings_before,
    settings_of,
    write_again,
    write_start,
)
from mdlm_atat.training.loop import Progress, Training
from mdlm_atat.training.low_rank import add_low_rank
from mdlm_atat.training.metrics import OnStep
from mdlm_atat.training.owner import Owned

Say = Callable[[str], None]
NUM_INSPECTED_TOKENS = 512  # of the validation text, for the report: each is scored in 124 masked rows


@torch.inference_mode(False)  # where the caller has turned gradients off, they are on in here
def train(
    config: RunConfig | str | os.PathLike[str] | None = None,
    *,
    data: SourceLike | None = None,
    method: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    init: str | os.PathLike[str] | None = None,
    on_step: OnStep | None = None,
    progress: bool = True,
    trust_plugins: bool = False,
    settings: Mapping[str, Any] | None = None,
    command: str | None = None,
    **keywords: Setting,
) -> Run:
    """Train a model, evaluate it, write samples and a report; return the run, which lies in a folder.

    `config`: a preset's name, a YAML file, a run folder to repeat, or a `RunConfig`. `data`: the text to train on, as
    `data.source` names it, or a list of texts, each a document. `method`: a training method's name, or a YAML file.
    `out`: the run's folder, which must not be there yet or be empty (default: runs/PRESET-METHOD-DATE-TIME). `resume`:
    a run to go on with from its newest checkpoint, in place of `config`. `init`: a run, checkpoint or saved model to
    begin with the weights of; without a `config`, with its settings too.

    Settings are keywords: `num_steps=2000`, `lr=3e-4`, `masking="mypackage.vowels:VowelsLast"`, a whole section as
    `model={"width": 64}`, or any of them by its path, `settings={"optim.lr": 3e-4}`. `atat train --settings` lists
    all. `on_step(step, values)` is called after every step, with what is logged of it (nothing between two log lines);
    where it returns True, training stops there with a checkpoint.
    `progress`: say what happens, as the command line does. `trust_plugins`: import the plugins that a folder (`resume`,
    `init`, a run to repeat) names. `command`: what run.json says that the run was started by.

    Ctrl-C ends with a checkpoint: the run that is returned says why it `stopped`, and `train(resume=run)` goes on as if
    nothing had happened, bit for bit; a second Ctrl-C stops at once. Raises UserError for everything that a user can
    mend, before the first step where it can be known then.
    """
    changed = read_arguments(settings or {}, keywords)
    texts = None if data is None or isinstance(data, (str, os.PathLike)) else data
    if isinstance(data, Corpus):
        changed = {**data.settings(), **changed}
    elif data is not None and texts is None:
        changed["data.source"] = os.fspath(data)  # type: ignore[arg-type]
    caller = _Caller(on_step or (lambda _step, _values: None), progress, command, trust_plugins, texts)
    request = RunRequest(
        config=config,
        method=method,
        out=out,
        resume=resume,
        init=init,
        settings=changed,
        has_texts=texts is not None,
    )
    with trusted(trust_plugins):
        return _run(request, caller)


@dataclass(frozen=True)
class _Caller:
    """Who asked for the run, and what they want to hear of it."""

    on_step: OnStep
    progress: bool
    command: str | None
    trust_plugins: bool
    texts: SourceLike | None
    """What to train on, where it is no name or path."""

    def console(self, engine: Engine) -> Console:
        """Where the main process says what happens, if that is wanted."""
        return messages(quiet=not (engine.is_main and self.progress))

    def teller(self, engine: Engine) -> Say:
        """A function that prints a line, as it is, where this process is the one that speaks."""
        console = self.console(engine)
        return lambda text: None if console.quiet else print(text, file=console.file, flush=True)


def _run(request: RunRequest, caller: _Caller) -> Run:
    """Train and, when it got to the end, evaluate, generate and write the report."""
    config = request.run_config()
    config = replace(config, data=with_absolute_paths(config.data))
    engine = Engine(config.train.precision, shard=config.train.shard)
    say = caller.teller(engine)
    check_settings(config, engine.num_ranks, is_sharded=engine.is_sharded, precision=engine.precision)
    if config.train.shard and not engine.is_sharded:
        say("train.shard: a single process holds all weights; there is nothing to share out")
    with owned_folder(request, engine, say) as (folder, owner):
        home = Home(folder, {}, request.label, owner, say, caller.console(engine))
        return _run_in(home, request, config, engine, caller)


def _run_in(home: Home, request: RunRequest, config: RunConfig, engine: Engine, caller: _Caller) -> Run:
    """`_run` in a folder that belongs to this process, or to the main one of many."""
    folder, say = home.folder, home.say
    start = find_start(folder, request, config, engine, caller, say)
    training, progress = assemble(start, home, engine)
    advice = memory_advice(start.config, engine)
    with explain_out_of_memory(advice), engine.deterministic(start.config.train.deterministic):
        training, measured = try_a_step(training, progress, start, say)
        say(f"run        {folder}")
        if engine.is_main:
            write_first_files(training, progress, start, home, measured, caller.command)
        reason = take_steps(training, progress, home, caller.on_step)
    engine.on_main(lambda: check_in_place(home.owner, progress))
    run = Run(folder, trust_plugins=caller.trust_plugins, stopped=reason)
    if reason is not None:
        say(f"stopped at step {progress.step} of {training.config.train.num_steps} ({reason}); a checkpoint is written")
        say(f"continue   {command_line(['train', '--resume', folder])}")
        return run
    if training.recorded is not None:
        training.recorded.forget()
    if engine.is_main:
        with explain_out_of_memory(advice), trusted():  # the run's plugins are imported already
            finish(folder, engine, training.config, start.train_data, start.valid_data, say)
    engine.barrier()
    return run


@dataclass(frozen=True)
class Start:
    """What a run starts with, whether it is new or resumed."""

    config: RunConfig
    """With paths that hold here and now."""
    train_data: TokenDataset
    valid_data: TokenDataset
    init: Initial | None
    """Whose weights its first step starts from; None for random ones, and where there is a checkpoint."""
    checkpoint: Checkpoint | None
    """What it is resumed from; None where it starts at its first step."""
    changed: dict[str, tuple[Any, Any]] | None
    """The settings that a resumed run has changed, (before, now) by dotted path; None for a new run."""


def find_start(
    folder: Path, request: RunRequest, config: RunConfig, engine: Engine, caller: _Caller, say: Say
) -> Start:
    """Prepare the text and, where a run is resumed, find its newest sound checkpoint and the settings that changed.
    Raises UserError where it cannot be resumed."""
    init, before = request.initial, request.resumed_config
    if before is not None:
        config = replace(config, data=found_again(folder, config.data))
    corpus = prepare_text(config, engine, caller.texts, caller.progress)
    if caller.texts is not None:  # a resumed run finds them in the cache
        config = replace(config, data=replace(config.data, source=str(corpus.folder), validation=None))
    train_data, valid_data = (corpus.open(split, config.data.length) for split in ("train", "valid"))
    checkpoint, changed = None, None
    if before is not None:
        found = describe_data(train_data, valid_data)
        checkpoint, changed = find_resume_point(folder, before, config, engine, found, say)
        init = initial_of(folder) if checkpoint is None else None
    if init is not None:  # the old run may go: the new one has a tokenizer of its own
        config = replace(config, data=replace(config.data, tokenizer=str((folder / "tokenizer").resolve())))
    return Start(config, train_data, valid_data, init, checkpoint, changed)


def assemble(start: Start, home: Home, engine: Engine) -> tuple[Training, Progress]:
    """The objects of a run, and how far it is. Its checkpoints go where its folder is, also where that is moved or
    deleted meanwhile (see `Owner.place`)."""
    config, data = start.config, start.train_data
    check_memory(config, data.tokenizer.vocab_size, memory_of(engine.device))
    torch.manual_seed(config.train.seed)
    model = build_model(config, data.tokenizer.vocab_size, data.counts)
    if start.init is not None:
        start.init.load_into(model, config, data.tokenizer)
    if config.lora.rank:
        learns_gaps = start.init is not None and start.init.learns_to_fill(config)
        is_begun = start.checkpoint is not None and start.checkpoint.trains_symbols
        add_low_rank(model, config.lora, with_symbols=learns_gaps or is_begun)

    def restore(folder: Path) -> None:
        if not has_record(folder, home.record):
            check_free(folder)
        write_start(folder, config_that_fits(training), data, home.record)

    def place() -> Path:
        assert home.owner is not None
        return home.owner.place(restore)

    schedule = own_schedule(config, model.vocab_size, data.counts, model, data.tokenizer)
    training, progress = make_training(
        config,
        engine,
        model,
        data,
        evaluate=lambda model, stage, on_progress: score_validation(
            config, engine, model, start.valid_data, schedule, stage, on_progress
        ),
        checkpoints=lambda: engine.on_main(place) / "checkpoints",
        resume_from=start.checkpoint,
    )

    def save(progress: Progress, stage: Stage | None) -> None:
        try:
            training.save(progress, stage)
        except (OSError, UserError) as error:
            if isinstance(error, Owned) or home.owner is None or home.owner.is_in_place() or engine.num_ranks > 1:
                raise
            training.save(progress, stage)  # its folder was taken away while it was written: where there is one now

    return replace(training, save=save), progress


def try_a_step(training: Training, progress: Progress, start: Start, say: Say) -> tuple[Training, DryRun]:
    """Say what the run will do, and try a step: how many micro-batches it takes, where that is to be found out, and
    its time and memory. Returns the run as it fits in memory, and what was measured."""
    say(plan(training, start.train_data, start.valid_data, progress.step))
    if start.init is not None:
        say(start.init.describe(start.config))
    if (slow := announcement(training, start.train_data)) is not None:
        say(slow)
    find_micro_batches(training, progress.step)
    measured = dry_run(training, progress.step)
    if training.micro_batches is not None:
        training = replace(training, config=config_that_fits(training))
        say(f"memory     is enough for a step in {training.num_micro_batches} micro-batches")
    say(measured_plan(training, measured, progress.step))
    return training, measured


def write_first_files(
    training: Training, progress: Progress, start: Start, home: Home, measured: DryRun, command: str | None
) -> None:
    """Write what a run's folder holds before its first step, or what changes in it where the run goes on."""
    folder, config, record = home.folder, training.config, home.record
    if start.changed is None:
        record |= start_record(training, home.label, command, start.train_data, start.valid_data)
        record |= {} if start.init is None else {"init": start.init.record()}
        record |= {"peak_memory_bytes": measured.memory_bytes, "settings": settings_of(config)}
        record |= {"folder": str(folder.resolve())}
        write_start(folder, config, start.train_data, record)
    else:
        home.say(f"continuing after step {progress.step}")
        record |= note_resumed(folder, start.changed, progress.step, progress.num_rewinds)
        write_again(folder, config, start.train_data)
    if training.micro_batches is not None:
        record |= note_micro_batches(folder, config, progress.step)
        training.micro_batches.on_more = lambda num: go_on_in(num, training, progress, home)


def with_absolute_paths(data: DataConfig) -> DataConfig:
    """Paths that hold wherever the run is resumed or scored from; names of corpora and tokenizers stay names."""

    def absolute(spec: str) -> str:
        is_name = spec in {"shakespeare", "char", "byte", *HUB_SETS, *HUB_NAMES}
        return str(Path(spec).resolve()) if Path(spec).exists() and not is_name else spec

    return replace(
        data,
        source=absolute(data.source),
        tokenizer=absolute(data.tokenizer),
        validation=None if data.validation is None else absolute(data.validation),
    )


def memory_advice(config: RunConfig, engine: Engine) -> str:
    train = config.train
    rows = train.batch_size // engine.num_ranks // train.least_micro_batches
    is_recorded = train.cuda_graph and engine.can_record
    keeps = "; a recorded step keeps its memory meanwhile: `train.cuda_graph=False`" if is_recorded else ""
    return (
        f"training uses {rows} sequences at once; the same in less memory: `train.num_micro_batches="
        f"{train.least_micro_batches * 2}`, or a smaller batch: `train.batch_size={max(1, train.batch_size // 2)}`. "
        f"Scoring uses {config.eval.batch_size}: `eval.batch_size={max(1, config.eval.batch_size // 2)}`"
        f"{keeps}"
    )


def prepare_text(config: RunConfig, engine: Engine, texts: SourceLike | None, progress: bool) -> Corpus:
    """The text as tokens, prepared by the main process if that is not done yet; `texts` in place of the source."""
    changes = {} if texts is None else {"source": texts}
    with engine.main_first():
        return prepare(request=DataRequest.of(config.data, **changes), progress=progress and engine.is_main)


def find_resume_point(
    folder: Path, before: RunConfig, config: RunConfig, engine: Engine, data: dict[str, Any], say: Say
) -> tuple[Checkpoint | None, dict[str, tuple[Any, Any]]]:
    """The newest sound checkpoint of a run and the settings that have changed since, (before, now) by dotted path, if
    this run may continue it; says what it will do differently. `before` is taken to be the settings of a run that has
    not kept them."""
    check_same_data(folder, data)
    checkpoint = newest_sound(folder / "checkpoints", say)
    step, machine = (0, {}) if checkpoint is None else (checkpoint.step, checkpoint.state()["machine"])
    changed = changes(settings_before(folder, checkpoint) or before, config)
    for line in check_resumable(folder, changed, config, step, machine, engine.describe()):
        say(line)
    if checkpoint is None:
        say("there is no checkpoint yet: the run starts again from its first step")
    return checkpoint, changed


def start_record(
    training: Training, preset: str, command: str | None, train_data: TokenDataset, valid_data: TokenDataset
) -> dict[str, Any]:
    """run.json: what was asked for, on what, where, and the floor to beat."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command or f"mdlm_atat.train in {shlex.join(sys.argv)}",
        "preset": preset,
        "versions": {
            "mdlm_atat": code_version(),
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        },
        "machine": training.engine.describe(),
        "commit": commit(),
        "parameters": sum(p.numel() for p in training.raw_model.parameters()),
        "data": describe_data(train_data, valid_data),
        "unigram": unigram_json(unigram_cost(valid_data, train_data.counts)),
    }


def finish(
    folder: Path,
    engine: Engine,
    config: RunConfig,
    train_data: TokenDataset,
    valid_data: TokenDataset,
    say: Say,
) -> None:
    """The final evaluation, samples and report of a run that reached its last step."""
    say("scoring the validation text ...")
    try:
        lm = load_lm(folder, device=engine.device, precision=engine.precision, say=say)
        draws = draw_settings(lm, num_draws=None, batch_size=None, seed=0)
        for text in result_table(store(measure(lm, valid_data, draws), lm)):
            say(text)
        samples = write_samples(lm, folder, config, train_data, valid_data)
        write_inspection(lm, folder, config, valid_data)
        report = write_report(folder)
        forgetting = measure_forgetting(lm, folder, say)
    except KeyboardInterrupt:
        again = command_line(["train", "--resume", folder])
        say(f"\ntraining is done, scoring was interrupted; for the rest: {again}")
        raise
    for text in [*forgetting, *sample_lines(samples)]:
        say(text)
    say(f"report     {report}")
    say(f"next       {command_line(['generate', folder, '--watch'])}")


def write_inspection(
    lm: MaskedDiffusionLM | CausalLM, folder: Path, config: RunConfig, valid_data: TokenDataset
) -> None:
    """Importance and loss of the beginning of the validation text, in inspection.json, where there is importance."""
    if config.importance.mode == "none" or not isinstance(lm, MaskedDiffusionLM):
        return
    num_rows = min(valid_data.num_evaluation_rows, max(1, NUM_INSPECTED_TOKENS // valid_data.length))
    ids, lengths = valid_data.evaluation_rows(np.arange(num_rows))
    found = lm.inspect_rows(ids, lengths, DrawSettings(num_draws=2, batch_size=config.eval.batch_size))
    write_json(folder / "inspection.json", lm.inspection_record(found, split=valid_data.split))
