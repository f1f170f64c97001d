"""The objects of a training run, made from a network, a corpus and the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mdlm_atat.config.build import build_objective
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.core.curriculum import Stage
from mdlm_atat.data.tokens import TokenDataset, batch_at, prompts_at
from mdlm_atat.errors import UserError
from mdlm_atat.nets.ema import EMA
from mdlm_atat.progress import OnProgress
from mdlm_atat.small_files import taken_apart
from mdlm_atat.training.check import check_split
from mdlm_atat.training.checkpoint import Checkpoint, all_checkpoints, collect, names_in_order, save, tidy
from mdlm_atat.training.engine import Engine, speed_up
from mdlm_atat.training.flops import matrix_rate, training_flops_per_token
from mdlm_atat.training.folder import settings_of
from mdlm_atat.training.kept_numbers import kept_numbers, numbers_of_groups
from mdlm_atat.training.loop import Progress, Training, as_state, from_state, make_recorded, seed_after
from mdlm_atat.training.micro_batches import MicroBatches
from mdlm_atat.training.optim import check_state, make_optimizer


def make_training(
    config: RunConfig,
    engine: Engine,
    model: nn.Module,
    data: TokenDataset,
    *,
    evaluate: Callable[[nn.Module, Stage | None, OnProgress], dict[str, float]],
    checkpoints: Callable[[], Path] | None,
    resume_from: Checkpoint | None = None,
) -> tuple[Training, Progress]:
    """The objects that the training loop needs, and how far the run is.

    `model` has its first weights; with `resume_from`, the checkpoint's weights replace them, and the optimizer's
    moments, the average and the curriculum's state are loaded too. `evaluate(model, stage, on_progress)` scores the
    averaged weights in every process; see `Training.evaluate` for what it returns. `checkpoints` is called in every
    process and gives the folder to write the next checkpoint to; None: none are written.
    """
    vocab_size, counts = data.tokenizer.vocab_size, data.counts
    speed_up(model, config.train, engine.precision)
    objective = build_objective(config, vocab_size, counts, model, data.tokenizer)
    curriculum = objective.curriculum
    wrapped, optimizer, wrapped_optimizer = engine.setup(
        model,
        lambda model: make_optimizer(
            model, config.optim, compile=config.train.compile, divided=engine.divides_orthogonalisation
        ),
    )
    at_first = numbers_of_groups(optimizer)
    check_state(config.optim, engine.device)
    ema = EMA(model, config.train.ema_decay)
    micro_batches = find_by_trying(config, engine)

    def load(checkpoint: Checkpoint) -> tuple[Progress, Stage | None]:
        checkpoint.load_training(model, ema, optimizer)
        state = checkpoint.state()
        with taken_apart(checkpoint.folder / "state.json"):
            if curriculum is not None:
                curriculum.load_state(state["curriculum"])
            return from_state(state["progress"]), Stage.from_json(state["stage"]) if "stage" in state else None

    def tidy_up(newest: Checkpoint, progress: Progress) -> None:
        keep_interval_steps = config.train.keep_interval_steps
        folder = newest.folder.parent
        tidy(folder, newest=newest, best_step=progress.best_step, keep_interval_steps=keep_interval_steps)

    progress, last_stage = (Progress(), None) if resume_from is None else load(resume_from)
    if resume_from is not None and engine.is_main and all_checkpoints(resume_from.folder.parent)[-1] == resume_from:
        tidy_up(resume_from, progress)  # which a killed process may not have come to

    def save_checkpoint(progress: Progress, stage: Stage | None) -> None:
        if checkpoints is None:
            return
        state: dict[str, Any] = {"progress": as_state(progress), "machine": engine.describe()}
        found = {} if micro_batches is None else {"num_micro_batches": micro_batches.num}
        state["settings"] = settings_of(replace(config, train=replace(config.train, **found)))
        if curriculum is not None and stage is not None:
            state["curriculum"] = curriculum.state()
            state["stage"] = asdict(stage)
        if numbers := kept_numbers(optimizer, names_in_order(model, optimizer), at_first):
            state["optimizer"] = numbers
        engine.barrier()
        saved = save(
            checkpoints(),
            step=progress.step,
            tensors=collect(model, ema, optimizer),
            state=state,
            is_main=engine.is_main,
            largest_whole_bytes=config.train.whole_checkpoint_gib * 2**30,
        )
        if engine.is_main:
            tidy_up(saved, progress)
        engine.barrier()

    def score(stage: Stage | None, on_progress: OnProgress) -> dict[str, float]:
        with engine.whole(wrapped):
            return evaluate(model, stage, on_progress)

    def rows_at(seed: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        share = {"batch_size": config.train.batch_size, "rank": engine.rank, "num_ranks": engine.num_ranks}
        prompts = None if data.row_prompts is None else prompts_at(data, seed=seed, step=step, **share)
        return *batch_at(data, seed=seed, step=step, **share), prompts

    training = Training(
        config=config,
        engine=engine,
        model=wrapped,
        raw_model=model,
        optimizer=wrapped_optimizer,
        ema=ema,
        objective=objective,
        curriculum=curriculum,
        last_stage=last_stage,
        seed=seed_after(config.train.seed, progress.num_rewinds),
        batch_at=rows_at,
        evaluate=score,
        micro_batches=micro_batches,
        recorded=make_recorded(config.train, engine, model),
        flops_share_per_token=flops_share_per_token(config, vocab_size, engine),
        save=save_checkpoint,
        load=load,
    )
    return training, progress


def find_by_trying(config: RunConfig, engine: Engine) -> MicroBatches | None:
    """The numbers of micro-batches to try; None where one is set."""
    if config.train.num_micro_batches != "auto":
        return None

    def cuts_evenly(num: int) -> bool:
        try:
            check_split(replace(config, train=replace(config.train, num_micro_batches=num)), engine.num_ranks)
        except UserError:
            return False
        return True

    rows = config.train.batch_size // engine.num_ranks
    return MicroBatches([num for num in range(1, rows + 1) if rows % num == 0 and cuts_evenly(num)])


def flops_share_per_token(config: RunConfig, vocab_size: int, engine: Engine) -> float | None:
    """`Training.flops_share_per_token`: a token's operations over what the machine can do in a second. The rate is
    measured on one GPU, and the others are taken to be like it. None where there is no GPU."""
    rate = matrix_rate(engine.device)
    return None if rate is None else training_flops_per_token(config, vocab_size) / (rate * engine.num_ranks)
