"""Training a bare network in place: no run folder, no checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mdlm_atat.config.arguments import read_arguments, read_config
from mdlm_atat.config.build import own_schedule
from mdlm_atat.config.low_rank_schema import LoraConfig
from mdlm_atat.config.schema import DataConfig, RunConfig
from mdlm_atat.data.phrases import count_phrases
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.request import DataRequest
from mdlm_atat.data.sources import SourceLike, label_of
from mdlm_atat.errors import UserError
from mdlm_atat.progress import messages
from mdlm_atat.scoring.validation import score_validation
from mdlm_atat.training.assemble import make_training
from mdlm_atat.training.check import check_split
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.log import ProgressLine
from mdlm_atat.training.loop import train
from mdlm_atat.training.metrics import OnStep

if TYPE_CHECKING:
    from mdlm_atat.lm.base import LanguageModel


class Rows:
    """A metrics writer that keeps its rows in memory."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def write(self, step: int, values: dict[str, float]) -> None:
        self.rows.append({"step": step, **values})

    def close(self) -> None: ...


@torch.inference_mode(False)  # where the caller has turned gradients off, they are on in here
def fit(
    lm: LanguageModel,
    data: SourceLike,
    *,
    on_step: OnStep | None = None,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
    keywords: Mapping[str, Any],
) -> list[dict[str, float]]:
    """Train the network of `lm` in place; see `LanguageModel.fit`, whose settings are `keywords` here. Returns what was
    logged, a row a step. Raises UserError for a network without `hidden` and `output_layer`."""
    network: Any = lm.network
    if not isinstance(network, nn.Module) or not hasattr(network, "output_layer"):
        raise UserError(
            f"{type(network).__name__} is no network of the form that can be trained: an nn.Module with `hidden` and "
            "`output_layer` (see nets/protocol.py)"
        )
    before = lm._config or RunConfig(data=DataConfig(length=lm.max_length))
    # the network itself is what is trained, though low-rank weights may have been added to it before
    before = replace(before, train=replace(before.train, ema_decay=0.0), lora=LoraConfig())
    before = replace(before, data=replace(before.data, source=label_of(data)))  # which the settings are said of
    config = read_config(before, None, read_arguments(settings or {}, keywords), "fit")
    if config.lora.rank:
        raise UserError(
            "`lora.rank=`: fit() trains the network itself; a run trains beside one: `train(init=..., lora_rank=8)`"
        )
    engine = Engine(config.train.precision)
    check_split(config, engine.num_ranks, is_sharded=engine.is_sharded)
    corpus = prepare(request=DataRequest.of(config.data, source=data, tokenizer=lm.tokenizer), progress=progress)
    train_data, valid_data = (corpus.open(split, config.data.length) for split in ("train", "valid"))
    torch.manual_seed(config.train.seed)
    network.train()
    schedule = own_schedule(config, lm.tokenizer.vocab_size, train_data.counts, network, lm.tokenizer)
    training, start = make_training(
        config,
        engine,
        network,
        train_data,
        evaluate=lambda model, stage, on_progress: score_validation(
            config, engine, model, valid_data, schedule, stage, on_progress
        ),
        checkpoints=None,
    )
    rows, line = Rows(), ProgressLine(messages(quiet=not progress), config.train.num_steps, 0)
    ask: Callable[[int, Mapping[str, float]], object] = on_step or (lambda _step, _values: None)
    stop: list[str] = []

    def call(step: int, values: Mapping[str, float]) -> None:
        if ask(step, values) is True:
            stop.append("on_step returned True")

    # how many operations a network of somebody else's takes is not known
    training = replace(training, writers=[rows], line=line, on_step=call, flops_share_per_token=None)
    try:
        train(replace(training, should_stop=lambda: next(iter(stop), None)), start)
    finally:
        line.close()
        if training.recorded is not None:
            training.recorded.forget()
        network.eval()
        lm.to(engine.device)
        lm.counts = train_data.counts
        lm.phrases = count_phrases(train_data.tokens, lm.tokenizer)
    return rows.rows
