"""Scoring a text with a trained model: which text, and the record that is stored of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdlm_atat.atomic import write_json
from mdlm_atat.config.build import build_schedule, masking_traits, prepare_data
from mdlm_atat.data.manifest import is_prepared
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.sources import SourceLike
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.errors import UserError
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
from mdlm_atat.progress import OnProgress
from mdlm_atat.provenance import cpu
from mdlm_atat.scoring.deciles import frequency_deciles
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.record import evaluation_record, schedule_record, t_step_record, unigram_record
from mdlm_atat.training.folder import check_same_data, describe_data

T_STEPS = (64, 256, 1000)


def open_data(
    lm: MaskedDiffusionLM | CausalLM, source: SourceLike | None, *, column: str = "text", split: str | None = None
) -> TokenDataset:
    """The text to score, as tokens of this model's own tokenizer: a source as `prepare` takes it, a prepared folder, or
    the validation text of the model's run (None).

    `split` is one of the run's or the folder's splits (default: valid), or one of a hub set (default: train), and
    `column` holds the text of a JSONL, Parquet or hub source. Raises UserError where there is no such text, and where
    it was prepared with another tokenizer or has changed since the run.
    """
    data = lm.config.data
    if source is None:
        if lm.checkpoint is None or lm.home is None:
            raise UserError("a saved model has no validation text of its own; name one with `data=`")
        if split not in (None, "train", "valid"):
            raise UserError(f"`split={split!r}`: the run's own text has train and valid")
        corpus = prepare_data(data)
        train_data, valid_data = (corpus.open(name, data.length) for name in ("train", "valid"))
        check_same_data(lm.home, describe_data(train_data, valid_data))
        return train_data if split == "train" else valid_data
    if isinstance(source, (str, os.PathLike)) and is_prepared(Path(source).expanduser()):
        dataset = TokenDataset.open(Path(source).expanduser(), split or "valid", data.length)
        if dataset.manifest.tokenizer["hash"] != lm.tokenizer.fingerprint():
            raise UserError(
                f"{dataset.folder} was prepared with another tokenizer ({dataset.manifest.tokenizer['name']}) than "
                f"the model was trained with ({lm.tokenizer.name}); name the text itself with `data=`, and it is "
                "encoded as the model needs"
            )
        return dataset
    corpus = prepare(
        source,
        tokenizer=lm.tokenizer,
        mode=data.mode,
        length=data.length,
        column=column,
        split=split or "train",
        whole=True,
    )
    return corpus.open("valid", data.length)


def evaluate_run(
    lm: MaskedDiffusionLM | CausalLM,
    data: TokenDataset,
    *,
    num_draws: int,
    seed: int,
    batch_size: int | None = None,
    num_steps: Sequence[int] = T_STEPS,
    file: Path | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Score a data set, store the record as JSON (in the run's evals/ unless `file` says where), and return it.

    `num_steps`: of the T-step bounds, which come from the same draws.
    """

    home = lm.home
    assert home is not None
    draws = DrawSettings(
        num_draws=num_draws, seed=seed, batch_size=batch_size or lm.config.eval.batch_size, on_progress=on_progress
    )
    deciles = None if lm.counts is None else frequency_deciles(data, lm.counts)
    found = lm.likelihood(data, draws, groups=None if deciles is None else deciles.share)
    own = lm.schedule_draws(data, draws) if lm.kind == "masked" else None
    strategy, objective = lm.config.masking.strategy, lm.config.objective
    is_bound = masking_traits(lm.config).is_bound
    t_step = None
    if found.draws is not None:
        t_step = t_step_record(found.draws, data, num_steps, build_schedule(objective), objective.schedule)
    record = evaluation_record(
        found,
        data,
        schedule=schedule_record(own, found, data, strategy=strategy, is_bound=is_bound),
        own=own,
        unigram=None if lm.counts is None else unigram_record(data, lm.counts),
        deciles=deciles,
        t_step=t_step,
        step=lm.checkpoint.step if lm.checkpoint else None,
        checkpoint=lm.checkpoint.folder.name if lm.checkpoint else str(home),
        checkpoint_hash=lm.checkpoint.checksum() if lm.checkpoint else None,
        seed=seed,
        machine={"cpu": cpu(), "device": lm.device_name, "precision": lm.precision},
    )
    if file is None:
        (home / "evals").mkdir(exist_ok=True)
        file = home / "evals" / f"{record['checkpoint']}-{record['corpus_hash'][:8]}-{found.num_draws}-{seed}.json"
    record["file"] = str(file)
    write_json(file, record)
    return record
