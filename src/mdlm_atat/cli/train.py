"""atat train: from a preset and a text to a run folder."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlm_atat.config.files import describe_presets, load_config, override, save_config, split_flags

if TYPE_CHECKING:
    from mdlm_atat.config.schema import RunConfig
    from mdlm_atat.data.progress import Progress
    from mdlm_atat.data.tokens import TokenDataset
    from mdlm_atat.train.checkpoint import Checkpoint
    from mdlm_atat.train.engine import Engine


def make_parser() -> argparse.ArgumentParser:
    presets = "\n".join(f"  {name:12} {text}" for name, text in describe_presets().items())
    parser = argparse.ArgumentParser(
        prog="atat train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a model from a preset, changed by dotted flags.",
        epilog=f"""presets:
{presets}

examples:
  atat train demo                                  Shakespeare, on a laptop, in minutes
  atat train char --data.source mine.txt           your own text
  atat train char --optim.lr 3e-4 --train.num_steps 2000
  atat train char --settings                       every setting of a preset, with its flag and meaning
  torchrun --nproc-per-node 8 -m mdlm_atat train small    8 GPUs of one machine
""",
    )
    parser.add_argument("preset", nargs="?", help="a preset's name, a YAML file, or a run folder to repeat")
    parser.add_argument("--out", type=Path, help="run folder (default: runs/PRESET-DATE-TIME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue a run from its newest checkpoint")
    parser.add_argument("--max-minutes", "--max_minutes", type=float, help="the same as --train.max_minutes")
    parser.add_argument("--settings", action="store_true", help="list every setting of the preset, and exit")
    return parser


def main(argv: list[str]) -> int:
    own, dotted = split_flags(argv)
    parser = make_parser()
    arguments = parser.parse_args(own)
    if (arguments.preset is None) == (arguments.resume is None):
        parser.error("name a preset (e.g. atat train demo), or a run to --resume; not both")
    if arguments.max_minutes is not None:
        dotted += ["--train.max_minutes", str(arguments.max_minutes)]
    if arguments.settings:
        dotted = ["--help"]
    name = str(arguments.resume or arguments.preset)
    before = load_config(name)
    config = override(before, dotted, prog=f"atat train {name}")
    if arguments.resume is not None:
        if arguments.out is not None:
            parser.error("a resumed run stays in its folder: leave out --out")
        return run(config, arguments.resume, resumed_from=before, preset=name)
    out = arguments.out or Path("runs") / f"{Path(name).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    return run(config, out, resumed_from=None, preset=name)


def run(config: RunConfig, folder: Path, *, resumed_from: RunConfig | None, preset: str) -> int:
    """Train and, when it got to the end, evaluate, generate and write the report."""
    import torch
    from rich.console import Console

    from mdlm_atat.config.build import build_model, build_objective
    from mdlm_atat.data.progress import Silent, TerminalProgress
    from mdlm_atat.data.tokens import TokenDataset, batch_at
    from mdlm_atat.evaluate.record import unigram_record
    from mdlm_atat.models.ema import EMA
    from mdlm_atat.provenance import code_version, commit, cpu
    from mdlm_atat.train.checkpoint import newest_sound, prune, save
    from mdlm_atat.train.engine import Engine
    from mdlm_atat.train.log import ProgressLine, open_writers
    from mdlm_atat.train.loop import Progress as TrainingProgress
    from mdlm_atat.train.loop import Training, as_state, from_state, train
    from mdlm_atat.train.optim import make_optimizer
    from mdlm_atat.train.plan import dry_run, plan
    from mdlm_atat.train.run_folder import (
        check_resumable,
        check_same_data,
        create_run_folder,
        describe_data,
        write_start,
    )

    engine = Engine(config.train.precision)
    console = Console(quiet=not engine.is_main)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    with engine.main_first():
        data_folder = prepare_data(config, TerminalProgress() if engine.is_main else Silent())
    train_data = TokenDataset.open(data_folder, "train", config.data.length)
    valid_data = TokenDataset.open(data_folder, "valid", config.data.length)
    described = describe_data(train_data, valid_data)

    checkpoint: Checkpoint | None = None
    if resumed_from is None:
        with engine.main_first():
            if engine.is_main:
                create_run_folder(folder)
    else:
        check_same_data(folder, described)
        ranks_before = json.loads((folder / "run.json").read_text())["machine"]["num_processes"]
        for line in check_resumable(resumed_from, config, ranks_before, engine.num_ranks):
            say(line)
        checkpoint = newest_sound(folder / "checkpoints", say)

    torch.manual_seed(config.train.seed)
    model = build_model(config.model, train_data.tokenizer.vocab_size, config.data.length)
    optimizer = make_optimizer(model, config.optim)
    wrapped, wrapped_optimizer = engine.setup(model, optimizer)
    ema = EMA(model, config.train.ema_decay)
    progress = TrainingProgress()
    if checkpoint is not None:
        checkpoint.load_training(model, ema, optimizer)
        progress = from_state(checkpoint.state()["progress"])
        say(f"continuing {folder} after step {progress.step}")

    def save_checkpoint(progress: TrainingProgress) -> None:
        engine.barrier()
        if engine.is_main:
            state = {"progress": as_state(progress), "num_processes": engine.num_ranks}
            save(folder / "checkpoints", step=progress.step, model=model, ema=ema, optimizer=optimizer, state=state)
            prune(
                folder / "checkpoints",
                best_step=progress.best_step,
                keep_interval_steps=config.train.keep_interval_steps,
            )
        engine.barrier()

    training = Training(
        config=config,
        engine=engine,
        model=wrapped,
        raw_model=model,
        optimizer=wrapped_optimizer,
        ema=ema,
        objective=build_objective(config, train_data.tokenizer.vocab_size),
        batch_at=lambda step: batch_at(
            train_data,
            seed=config.train.seed,
            step=step,
            batch_size=config.train.batch_size,
            rank=engine.rank,
            num_ranks=engine.num_ranks,
        ),
        evaluate=lambda: score_validation(config, engine, wrapped, valid_data),
        save=save_checkpoint,
    )
    try:
        measured = dry_run(training, progress.step)
    except BaseException:
        if resumed_from is None and engine.is_main:
            folder.rmdir()  # still empty: the same command can be given again
        raise
    say(plan(training, train_data, valid_data, measured, progress.step))
    say(f"run        {folder}")
    if engine.is_main:
        if resumed_from is None:
            record = {
                "command": shlex.join(["atat", *sys.argv[1:]]),
                "preset": preset,
                "versions": {
                    "mdlm_atat": code_version(),
                    "torch": torch.__version__,
                    "python": sys.version.split()[0],
                },
                "machine": {**engine.describe(), "cpu": cpu()},
                "commit": commit(),
                "parameters": sum(p.numel() for p in model.parameters()),
                "data": described,
                "unigram": unigram_record(valid_data, train_data.counts),
            }
            write_start(folder, config, train_data, record)
        else:
            save_config(config, folder / "config.yaml")

    line = ProgressLine(console, config.train.num_steps, progress.step) if engine.is_main else None
    writers = open_writers(folder, config.train.loggers, progress.step, {"preset": preset}) if engine.is_main else []
    try:
        with stop_requests(config.train.max_minutes) as should_stop:
            training = replace(training, writers=writers, line=line, should_stop=should_stop)
            reason = train(training, progress)
    finally:
        if line is not None:
            line.close()
        for writer in writers:
            writer.close()
    if reason is not None:
        say(f"stopped at step {progress.step} of {config.train.num_steps} ({reason}); a checkpoint is written")
        say(f"continue   atat train --resume {folder}")
        return {"Ctrl-C": 130, "SIGTERM": 143}.get(reason, 0)
    if engine.is_main:
        finish(folder, engine, config, valid_data, say)
    engine.barrier()
    return 0


def prepare_data(config: RunConfig, progress: Progress) -> Path:
    """The prepared tokens of this configuration, from the cache if they are there."""
    from mdlm_atat.data.prepare import ensure_prepared

    data = config.data
    return ensure_prepared(
        data.source,
        data.tokenizer,
        mode=data.mode,
        length=data.length,
        validation=data.validation,
        validation_fraction=data.validation_fraction,
        split=data.split,
        column=data.column,
        documents=data.documents,
        progress=progress,
    )


def score_validation(config: RunConfig, engine: Engine, model: Any, data: TokenDataset) -> dict[str, float]:
    """The validation bound under the names it is logged by, over all processes."""
    from mdlm_atat.evaluate.likelihood import draw_nll, exact_nll, in_every_unit
    from mdlm_atat.evaluate.record import text_counts

    common: dict[str, Any] = {
        "num_draws": config.eval.num_draws,
        "batch_size": config.eval.batch_size,
        "device": engine.device,
        "rank": engine.rank,
        "num_ranks": engine.num_ranks,
        "gather": engine.gather,
    }
    if config.model.kind == "causal":
        found = exact_nll(model, data, **common)
    else:
        found = draw_nll(model, data, mask_id=data.tokenizer.mask_id, **common).likelihood()
    units = in_every_unit(found.nats_per_token, text_counts(data))
    return {
        "eval/nelbo_nats_per_token": found.nats_per_token,
        "eval/standard_error": found.standard_error,
        "eval/perplexity": units["perplexity_per_token"],
        "eval/bits_per_character": units["bits_per_character"],
    }


def finish(
    folder: Path, engine: Engine, config: RunConfig, valid_data: TokenDataset, say: Callable[[str], None]
) -> None:
    """The final evaluation, samples and report of a run that reached its last step."""
    from mdlm_atat.cli.eval import evaluate_run, result_table
    from mdlm_atat.lm import load_lm
    from mdlm_atat.viz.report import write_report

    say("scoring the validation text ...")
    lm = load_lm(folder, device=engine.device, precision=engine.precision, say=say)
    record = evaluate_run(lm, folder, valid_data, num_draws=config.eval.final_num_draws, seed=0)
    write_samples(lm, folder, config)
    for line in result_table(record):
        say(line)
    say(f"report     {write_report(folder)}")
    say(f"next       atat generate {folder} --watch")


def write_samples(lm: Any, folder: Path, config: RunConfig) -> None:
    """Texts for the report, in samples.jsonl."""
    if not config.eval.num_samples:
        return
    texts = lm.generate([""] * config.eval.num_samples, num_steps=config.eval.sample_steps, seed=0)
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as stream:
        for text in texts:
            line = {
                "text": text.text,
                "step": lm.checkpoint.step,
                "seed": text.seed,
                "num_steps": config.eval.sample_steps,
                "nfe": text.nfe,
                "sampler": "ancestral" if lm.kind == "masked" else "left to right",
            }
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


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
