"""One training run from start to finish: data, folder, objects, loop, and what is made of the trained model."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from mdlm_atat.atomic import write_json, write_text
from mdlm_atat.config.build import build_model, build_objective, own_schedule, prepare_data
from mdlm_atat.config.method import check_method
from mdlm_atat.config.schema import DataConfig, RunConfig
from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.objective import MaskedDiffusion
from mdlm_atat.core.strategies.rates import ExponentMasking
from mdlm_atat.data.progress import Silent, TerminalProgress
from mdlm_atat.data.sources import HUB_SETS
from mdlm_atat.data.tokenizers import HUB_NAMES
from mdlm_atat.data.tokens import TokenDataset, batch_at
from mdlm_atat.device import explain_out_of_memory
from mdlm_atat.errors import UserError
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM, load_lm
from mdlm_atat.nets.ema import EMA
from mdlm_atat.provenance import code_version, commit
from mdlm_atat.report.eval_lines import result_table
from mdlm_atat.report.report import write_report
from mdlm_atat.runs.evaluate import evaluate_run
from mdlm_atat.runs.forgetting import measure_forgetting
from mdlm_atat.runs.initial import Initial, initial_of
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.exact import exact_nll
from mdlm_atat.scoring.likelihood import draw_nll, in_every_unit
from mdlm_atat.scoring.record import text_counts, unigram_record
from mdlm_atat.scoring.schedule_bound import draw_schedule_nll
from mdlm_atat.training.checkpoint import Checkpoint, collect, newest_sound, save, tidy
from mdlm_atat.training.dry_run import dry_run, plan
from mdlm_atat.training.engine import Engine, speed_up
from mdlm_atat.training.flops import matrix_rate, training_flops_per_token
from mdlm_atat.training.folder import (
    check_free,
    check_resumable,
    check_same_data,
    describe_data,
    write_again,
    write_start,
)
from mdlm_atat.training.log import ProgressLine, check_installed, open_writers
from mdlm_atat.training.loop import Progress, Training, as_state, from_state, make_recorded, train
from mdlm_atat.training.optim import make_optimizer

Say = Callable[[str], None]
EXIT_CODES = {"Ctrl-C": 130, "SIGTERM": 143}
NUM_INSPECTED_TOKENS = 512  # of the validation text, for the report: each is scored in 124 masked rows


def run(
    config: RunConfig, folder: Path, *, resumed_from: RunConfig | None, preset: str, init: Initial | None = None
) -> int:
    """Train and, when it got to the end, evaluate, generate and write the report. Returns the exit code.

    `init`: whose weights a new run begins with; random ones without it.
    """
    check_method(config)
    config = replace(config, data=with_absolute_paths(config.data))
    engine = Engine(config.train.precision, shard=config.train.shard)
    console = Console(quiet=not engine.is_main)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    check_installed(config.train.loggers)
    if config.train.shard and not engine.is_sharded:
        say("train.shard: a single process holds all weights; there is nothing to share out")
    train_data, valid_data = open_data(config, engine)
    checkpoint = None
    if resumed_from is not None:
        data = describe_data(train_data, valid_data)
        checkpoint = find_resume_point(folder, resumed_from, config, engine, data, say)
        init = initial_of(folder) if checkpoint is None else None
    else:
        check_free(folder)
    if init is not None:  # the old run may go: the new one has a tokenizer of its own
        config = replace(config, data=replace(config.data, tokenizer=str((folder / "tokenizer").resolve())))
    training, progress = assemble(config, engine, folder, train_data, valid_data, checkpoint, init)
    advice = memory_advice(config, engine)
    with explain_out_of_memory(advice), engine.deterministic(config.train.deterministic):
        measured = dry_run(training, progress.step)
        say(plan(training, train_data, valid_data, measured, progress.step))
        if init is not None:
            say(init.describe(config))
        say(f"run        {folder}")
        if engine.is_main and resumed_from is None:
            record = start_record(training, preset, train_data, valid_data)
            if init is not None:
                record["init"] = init.record()
            write_start(folder, config, train_data, {**record, "peak_memory_bytes": measured.memory_bytes})
        elif engine.is_main:
            say(f"continuing after step {progress.step}")
            write_again(folder, config, train_data)
        reason = train_and_log(training, progress, folder, preset, console)
    if reason is not None:
        say(f"stopped at step {progress.step} of {config.train.num_steps} ({reason}); a checkpoint is written")
        say(f"continue   atat train --resume {folder}")
        return EXIT_CODES.get(reason, 0)
    if training.recorded is not None:
        training.recorded.forget()
    if engine.is_main:
        with explain_out_of_memory(advice):
            finish(folder, engine, config, valid_data, say)
    engine.barrier()
    return 0


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
    rows = train.batch_size // engine.num_ranks // train.num_micro_batches
    is_recorded = train.cuda_graph and engine.can_record
    keeps = "; a recorded step keeps its memory meanwhile: --train.cuda_graph false" if is_recorded else ""
    return (
        f"training uses {rows} sequences at once; the same in less memory: --train.num_micro_batches "
        f"{train.num_micro_batches * 2}, or a smaller batch: --train.batch_size {max(1, train.batch_size // 2)}. "
        f"Scoring uses {config.eval.batch_size}: --eval.batch_size {max(1, config.eval.batch_size // 2)}"
        f"{keeps}"
    )


def train_and_log(training: Training, progress: Progress, folder: Path, preset: str, console: Console) -> str | None:
    """The loop, with its log files and progress line open and signals heard; why it stopped early, if it did."""
    config, is_main = training.config, training.engine.is_main
    line = ProgressLine(console, config.train.num_steps, progress.step) if is_main else None
    writers = open_writers(folder, config.train.loggers, progress.step, {"preset": preset}) if is_main else []
    try:
        with stop_requests(config.train.max_minutes) as should_stop:
            return train(replace(training, writers=writers, line=line, should_stop=should_stop), progress)
    except OSError as error:
        raise UserError(
            f"could not write to {folder}: {error}. Mend that, then continue with\n  atat train --resume {folder}"
        ) from error
    finally:
        if line is not None:
            line.close()
        for writer in writers:
            writer.close()


def open_data(config: RunConfig, engine: Engine) -> tuple[TokenDataset, TokenDataset]:
    """The training and the validation split, prepared by the main process if they are not there yet."""
    with engine.main_first():
        folder = prepare_data(config.data, TerminalProgress() if engine.is_main else Silent())
    return (
        TokenDataset.open(folder, "train", config.data.length),
        TokenDataset.open(folder, "valid", config.data.length),
    )


def find_resume_point(
    folder: Path, before: RunConfig, config: RunConfig, engine: Engine, data: dict[str, Any], say: Say
) -> Checkpoint | None:
    """The newest sound checkpoint of a run, if this run may continue it; says what it will do differently."""
    check_same_data(folder, data)
    checkpoint = newest_sound(folder / "checkpoints", say)
    step, machine = (0, {}) if checkpoint is None else (checkpoint.step, checkpoint.state()["machine"])
    for line in check_resumable(before, config, step, machine, engine.describe()):
        say(line)
    if checkpoint is None:
        say("there is no checkpoint yet: the run starts again from its first step")
    return checkpoint


def assemble(
    config: RunConfig,
    engine: Engine,
    folder: Path,
    train_data: TokenDataset,
    valid_data: TokenDataset,
    checkpoint: Checkpoint | None,
    init: Initial | None = None,
) -> tuple[Training, Progress]:
    """The objects of a run, fresh from the seed, with the weights of `init`, or as the checkpoint left them."""
    num_parts = engine.num_ranks * config.train.num_micro_batches
    rows = config.train.batch_size // num_parts
    if config.train.batch_size % num_parts:
        raise UserError(
            f"train.batch_size = {config.train.batch_size} cannot be cut into {engine.num_ranks} processes x "
            f"{config.train.num_micro_batches} micro-batches of equal size; try --train.batch_size "
            f"{max(1, rows) * num_parts}"
        )
    if config.importance.through_bound and rows % 2:
        raise UserError(
            f"importance.through_bound masks every sequence twice, and {config.train.batch_size} sequences over "
            f"{engine.num_ranks} processes and {config.train.num_micro_batches} micro-batches are {rows} at once, not "
            "an even number: change --train.batch_size"
        )
    vocab_size = train_data.tokenizer.vocab_size
    torch.manual_seed(config.train.seed)
    counts = train_data.counts
    model = build_model(config, vocab_size, counts)
    if init is not None:
        init.load_into(model, config, train_data.tokenizer)
    speed_up(model, config.train, engine.precision)
    objective = build_objective(config, vocab_size, counts, model)
    curriculum = objective.curriculum if isinstance(objective, MaskedDiffusion) else None
    schedule = own_schedule(config, vocab_size, counts, model)
    wrapped, optimizer, wrapped_optimizer = engine.setup(model, lambda model: make_optimizer(model, config.optim))
    ema = EMA(model, config.train.ema_decay)
    progress = Progress()
    if checkpoint is not None:
        checkpoint.load_training(model, ema, optimizer)
        state = checkpoint.state()
        progress = from_state(state["progress"])
        if curriculum is not None:
            curriculum.load_state(state["curriculum"])

    def save_checkpoint(progress: Progress, stage: Stage | None) -> None:
        engine.barrier()
        tensors = collect(model, ema, optimizer)
        if engine.is_main:
            checkpoints = folder / "checkpoints"
            state = {"progress": as_state(progress), "machine": engine.describe()}
            if curriculum is not None and stage is not None:
                state["curriculum"] = curriculum.state()
                state["stage"] = asdict(stage)
            saved = save(checkpoints, step=progress.step, tensors=tensors, state=state)
            keep_interval_steps = config.train.keep_interval_steps
            tidy(checkpoints, newest=saved, best_step=progress.best_step, keep_interval_steps=keep_interval_steps)
        engine.barrier()

    def score(stage: Stage | None) -> dict[str, float]:
        with engine.whole(wrapped):
            return score_validation(config, engine, model, valid_data, schedule, stage)

    training = Training(
        config=config,
        engine=engine,
        model=wrapped,
        raw_model=model,
        optimizer=wrapped_optimizer,
        ema=ema,
        objective=objective,
        curriculum=curriculum,
        batch_at=lambda step: batch_at(
            train_data,
            seed=config.train.seed,
            step=step,
            batch_size=config.train.batch_size,
            rank=engine.rank,
            num_ranks=engine.num_ranks,
        ),
        evaluate=score,
        recorded=make_recorded(config.train, engine, model),
        flops_share_per_token=flops_share_per_token(config, vocab_size, engine),
        save=save_checkpoint,
    )
    return training, progress


def flops_share_per_token(config: RunConfig, vocab_size: int, engine: Engine) -> float | None:
    """See Training; the machine's rate is measured on one GPU, and the others are taken to be like it."""
    rate = matrix_rate(engine.device)
    return None if rate is None else training_flops_per_token(config, vocab_size) / (rate * engine.num_ranks)


def start_record(training: Training, preset: str, train_data: TokenDataset, valid_data: TokenDataset) -> dict[str, Any]:
    """run.json: what was asked for, on what, where, and the floor to beat."""
    return {
        "command": shlex.join(["atat", *sys.argv[1:]]),
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
        "unigram": unigram_record(valid_data, train_data.counts),
    }


def score_validation(
    config: RunConfig,
    engine: Engine,
    model: Any,
    data: TokenDataset,
    schedule: ExponentMasking | None,
    stage: Stage | None,
) -> dict[str, float]:
    """The validation bounds under the names they are logged by, over all processes: under the uniform schedule, and
    under the method's own where it has one."""
    draws = DrawSettings(
        num_draws=config.eval.num_draws,
        batch_size=config.eval.batch_size,
        device=engine.device,
        rank=engine.rank,
        num_ranks=engine.num_ranks,
        gather=engine.gather,
    )
    counts, mask_id = text_counts(data), data.tokenizer.mask_id
    # the raw model: the wrapped one would wait for processes that have nothing left to score
    with engine.autocast():
        if "masked" not in model.modes:
            found = exact_nll(model, data, draws=draws)
        else:
            found = draw_nll(model, data, mask_id=mask_id, draws=draws).likelihood()
        units = in_every_unit(found.nats_per_token, counts)
        values = {
            "eval/nelbo_nats_per_token": found.nats_per_token,
            "eval/standard_error": found.standard_error,
            "eval/perplexity": units["perplexity_per_token"],
            "eval/bits_per_character": units["bits_per_character"],
        }
        if schedule is not None:
            own = draw_schedule_nll(model, data, masking=schedule, stage=stage, mask_id=mask_id, draws=draws)
            bound, error = own.nelbo()
            values |= {
                "eval/schedule_nelbo_nats_per_token": bound,
                "eval/schedule_standard_error": error,
                "eval/schedule_perplexity": in_every_unit(bound, counts)["perplexity_per_token"],
                "eval/schedule_rate_nats": own.rate_nats()[0],
            }
    return values


def finish(folder: Path, engine: Engine, config: RunConfig, valid_data: TokenDataset, say: Say) -> None:
    """The final evaluation, samples and report of a run that reached its last step."""
    say("scoring the validation text ...")
    try:
        lm = load_lm(folder, device=engine.device, precision=engine.precision, say=say)
        record = evaluate_run(lm, valid_data, num_draws=config.eval.final_num_draws, seed=0)
        write_samples(lm, folder, config)
        write_inspection(lm, folder, config, valid_data)
        report = write_report(folder)
        forgetting = measure_forgetting(lm, folder, say)
    except KeyboardInterrupt:
        say(f"\ntraining is done, scoring was interrupted; for the rest: atat train --resume {folder}")
        raise
    for text in [*result_table(record), *forgetting]:
        say(text)
    say(f"report     {report}")
    say(f"next       atat generate {folder} --watch")


def write_samples(lm: MaskedDiffusionLM | CausalLM, folder: Path, config: RunConfig) -> None:
    """Texts for the report, in samples.jsonl."""
    if not config.eval.num_samples:
        return
    assert lm.checkpoint is not None
    steps = config.eval.sample_steps if lm.kind == "masked" else None  # a causal model takes one a token
    texts = lm.generate([""] * config.eval.num_samples, steps=steps, seed=0)
    lines = [
        {
            "text": text.text,
            "step": lm.checkpoint.step,
            "seed": text.seed,
            "num_steps": config.eval.sample_steps,
            "nfe": text.nfe,
            "sampler": lm.default_sampler,
        }
        for text in texts
    ]
    write_text(folder / "samples.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


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


@contextmanager
def stop_requests(max_minutes: float) -> Iterator[Callable[[], str | None]]:
    """Within the block, Ctrl-C and SIGTERM ask for a stop after the current step; a second Ctrl-C stops at once."""
    start_s = time.monotonic()
    reasons: list[str] = []

    def on_signal(number: int, _: object) -> None:
        if reasons and number == signal.SIGINT:
            raise KeyboardInterrupt
        reasons.append("Ctrl-C" if number == signal.SIGINT else "SIGTERM")

    def should_stop() -> str | None:
        if reasons:
            return reasons[0]
        if max_minutes > 0 and time.monotonic() - start_s > 60 * max_minutes:
            return f"{max_minutes:g} minutes are over"
        return None

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield should_stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
