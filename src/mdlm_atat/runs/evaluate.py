"""Scoring a text with a trained model: which text, and the record that is stored of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mdlm_atat.config.build import build_schedule, masking_traits, prepare_data
from mdlm_atat.data.manifest import is_prepared
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.sources import SourceLike
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.errors import UserError
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
from mdlm_atat.progress import OnProgress
from mdlm_atat.provenance import code_version, commit, cpu
from mdlm_atat.scoring.deciles import decile_costs, frequency_deciles
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.likelihood import t_step_bounds
from mdlm_atat.scoring.records import BlockSums, Evaluation, Machine, TextCounts, TextIdentity
from mdlm_atat.scoring.schedule_bound import recorded_bound
from mdlm_atat.scoring.unigram import unigram_cost
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
    zero_shot: str | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Score a data set, store the evaluation as JSON (in the run's evals/ unless `file` says where), and return it.

    `num_steps`: of the T-step bounds, which come from the same draws; `zero_shot`: the name of a zero-shot text.
    """

    home = lm.home
    assert home is not None
    draws = DrawSettings(
        num_draws=num_draws, seed=seed, batch_size=batch_size or lm.config.eval.batch_size, on_progress=on_progress
    )
    deciles = None if lm.counts is None else frequency_deciles(data, lm.counts)
    found = lm.likelihood(data, draws, groups=None if deciles is None else deciles.share)
    own = lm.schedule_draws(data, draws) if lm.kind == "masked" else None
    strategy, objective, counts = lm.config.masking.strategy, lm.config.objective, TextCounts.of(data)
    is_bound = masking_traits(lm.config).is_bound
    t_step = ()
    if found.draws is not None:
        t_step = t_step_bounds(found.draws, counts, num_steps, build_schedule(objective), objective.schedule)
    evaluation = Evaluation(
        kind=found.kind,
        nats_per_token=found.nats_per_token,
        standard_error=found.standard_error,
        counts=counts,
        schedule=recorded_bound(own, found, counts, strategy=strategy, is_bound=is_bound),
        t_step=t_step,
        deciles=None if deciles is None or found.groups is None else decile_costs(deciles, found.groups),
        blocks=BlockSums.of(found, own),
        num_draws=found.num_draws,
        num_sequences=data.num_evaluation_rows,
        seed=seed,
        profile=found.profile,
        unigram=None if lm.counts is None else unigram_cost(data, lm.counts),
        step=lm.checkpoint.step if lm.checkpoint else None,
        checkpoint=lm.checkpoint.folder.name if lm.checkpoint else str(home),
        checkpoint_hash=lm.checkpoint.checksum() if lm.checkpoint else None,
        text=TextIdentity.of(data),
        code_version=code_version(),
        commit=commit(),
        machine=Machine(cpu=cpu(), device=lm.device_name, precision=lm.precision),
        zero_shot=zero_shot,
    )
    if file is None:
        (home / "evals").mkdir(exist_ok=True)
        digest = str(evaluation.text.corpus_hash)[:8]
        file = home / "evals" / f"{evaluation.checkpoint}-{digest}-{found.num_draws}-{seed}.json"
    evaluation = replace(evaluation, file=file)
    evaluation.save(file)
    return evaluation
