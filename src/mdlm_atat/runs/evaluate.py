"""Score a text with a trained model, and store what was found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

import torch

from mdlm_atat.atomic import check_writable, stored_if_possible
from mdlm_atat.checks import at_least, check_keywords
from mdlm_atat.config.build import build_schedule, masking_traits, prepare_data
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.data.manifest import is_prepared
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.readers.reading import ReadingSettings
from mdlm_atat.data.request import DataRequest
from mdlm_atat.data.sources import SourceLike
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.device import Precision, explain_out_of_memory
from mdlm_atat.errors import UserError
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
from mdlm_atat.model_folder import borrowed_name, results_folder
from mdlm_atat.plugins import trusted
from mdlm_atat.progress import OnProgress, shown
from mdlm_atat.provenance import code_version, commit, cpu
from mdlm_atat.runs.model import Model, open_model
from mdlm_atat.runs.orders import Order, asked_orders, in_orders, left_to_right_cost, with_stored_orders
from mdlm_atat.scoring.cost import TextCounts
from mdlm_atat.scoring.deciles import decile_costs, frequency_deciles
from mdlm_atat.scoring.draws import DrawSettings, rows_together
from mdlm_atat.scoring.likelihood import t_step_bounds
from mdlm_atat.scoring.paired import check_same_text, compare
from mdlm_atat.scoring.records import BlockSums, Evaluation, Machine, TextIdentity
from mdlm_atat.scoring.schedule_bound import recorded_bound
from mdlm_atat.scoring.unigram import unigram_cost
from mdlm_atat.training.folder import check_same_data, describe_data, found_again

T_STEPS = (64, 256, 1000)

Data = SourceLike | TokenDataset
"""A text to score: a source as `prepare` takes it (a file, a folder, hub:OWNER/NAME, a list of texts), a prepared
folder or `Corpus`, or rows that are open already."""


def evaluate(
    model: Model,
    data: Data | None = None,
    *,
    num_draws: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    split: str | None = None,
    loss_on: Literal["all", "answers"] | None = None,
    num_steps: Sequence[int] | None = None,
    order: Order | Sequence[Order] | None = None,
    evaluations: int | Sequence[int] | None = None,
    against: Model | Evaluation | None = None,
    profile: bool = False,
    save: bool | str | Path = True,
    progress: bool | OnProgress = True,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    trust_plugins: bool = False,
    **reading: Unpack[ReadingSettings],
) -> Evaluation:
    """What a model pays for a text: an upper bound on its negative log-likelihood, a causal model's exact value, or
    both, of a model that fills masks and reads left to right.

    `model`: a run, a folder (of a run, a checkpoint or a saved model) or a language model.
    `data`: see `Data`; None: the validation text of the model's run, or another `split` of it. `split` says
    which part of a data set is scored, and `reading` (`column`, `encoding`, `leave_out`, ...) which of its files are
    read and how, as for `prepare`. `loss_on`: whether all of `data` is scored or its answers alone, each under its
    prompt; None: as the model was trained.
    `num_draws`: masked sequences, from `seed`; None: as many as the run's last evaluation takes. `batch_size`:
    sequences in one call of the network; it changes nothing but the memory that is needed. `num_steps`: numbers of
    steps of the T-step bounds; None: 64, 256 and 1,000.
    `order`: samplers, by name or as rules: `.own_orders` of the result has what the text costs in the order of each, in
    at most each of `evaluations` network evaluations of a sequence (None: the sampler's own number). All sequences are
    scored, or with `num_draws` so many of them.
    `against`: another model, or an evaluation or its file: `.against` of the result has the paired differences to it,
    over the same draws.
    `profile`: keep the cost by mask rate beside the weights, for samplers with sizes=optimal.
    `save`: where the result is stored as JSON; True: in evals/ of the model's folder, False: nowhere. `progress`: show
    a bar, or a function that is called with (done, total). `device`, `precision`: of models that are loaded here.
    `trust_plugins`: import the plugins that their folders name.

    Returns the numbers with their standard errors. Raises UserError for a text or another model that does not fit, and
    for fewer than 32 draws.
    """
    check_keywords(reading, evaluate, ReadingSettings.__annotations__)
    with trusted(trust_plugins):
        lm = open_model(model, device=device, precision=precision)
        if num_steps is not None and lm.kind == "causal":
            raise UserError("`num_steps=`: a causal model takes one step a token; its value is exact and no bound")
        if profile and lm.kind == "causal":
            raise UserError("`profile=`: a causal model reveals in one order and has no cost by mask rate")
        if profile:
            _ = lm.profile_file  # refuses a model that is in no folder
        for steps in num_steps or ():
            at_least("`num_steps`", steps, 1)
        file = None if isinstance(save, bool) else writable(Path(save))
        other = None if against is None else _open_other(against, lm)
        orders = asked_orders(lm, order, evaluations)
        rows = open_data(lm, data, split=split, loss_on=loss_on, **reading)
        if isinstance(other, Evaluation):
            check_same_text(TextIdentity.of(rows), seed, other)
        draws = draw_settings(lm, num_draws=num_draws, batch_size=batch_size, seed=seed)
        steps = T_STEPS if num_steps is None else num_steps

        def scored(model: MaskedDiffusionLM | CausalLM, doing: str) -> Evaluation:
            with shown(doing, progress) as on_progress:
                found = measure(model, rows, replace(draws, on_progress=on_progress), num_steps=steps)
            if model is other and model.kind == "causal":
                return found  # and the comparison says that it has no such order
            own = in_orders(model, rows, draws, orders, every=num_draws is None, progress=progress)
            return replace(found, own_orders=own)

        with explain_out_of_memory(f"try `batch_size={max(1, draws.batch_size // 2)}`"):
            found = scored(lm, "scoring")
            found = store(found, lm, file) if save else found
            if profile and found.profile is not None:
                with stored_if_possible(lm.profile_file):
                    lm.save_profile(found.profile, num_draws=found.num_draws)
            if other is None:
                return found
            if not isinstance(other, Evaluation):
                theirs = scored(other, "scoring the other")
                other = store(theirs, other) if save else theirs
    assert against is not None
    found = replace(found, against=compare(found, other, name=_name(against)))
    if found.file is not None:
        with stored_if_possible(found.file):
            found.save(found.file)
    return found


def open_data(
    lm: MaskedDiffusionLM | CausalLM,
    source: Data | None,
    *,
    split: str | None = None,
    loss_on: Literal["all", "answers"] | None = None,
    **reading: Unpack[ReadingSettings],
) -> TokenDataset:
    """The text to score, as tokens of this model's own tokenizer: see `Data`, or the validation text of the model's run
    (None). `loss_on`: see `evaluate`.

    `split` is one of the run's or the folder's splits (default: valid), or one of a hub set (default: train), and
    `reading` says how files become documents. Raises UserError where there is no such text, and where
    it was prepared with another tokenizer or has changed since the run.
    """
    length = lm.max_length
    if source is None:
        if reading:
            raise UserError(f"`{next(iter(reading))}=`: the text of a run is prepared already: it goes with `data=`")
        if loss_on is not None:
            raise UserError("`loss_on=`: the text of a run is scored as it was trained on: it goes with `data=`")
        if lm.checkpoint is None or lm.home is None:
            raise UserError("only a run has a validation text of its own; name a text with `data=`")
        if split not in (None, "train", "valid"):
            raise UserError(f"`split={split!r}`: the run's own text has train and valid")
        corpus = prepare_data(found_again(lm.home, lm.config.data))
        train_data, valid_data = (corpus.open(name, length) for name in ("train", "valid"))
        check_same_data(lm.home, describe_data(train_data, valid_data))
        return train_data if split == "train" else valid_data
    if isinstance(source, (str, os.PathLike)) and is_prepared(Path(source).expanduser()):
        DataRequest(source=source, **reading).warn_of_what_has_no_effect()
        source = TokenDataset.open(Path(source).expanduser(), split or "valid", length)
    if isinstance(source, TokenDataset):
        if source.tokenizer.fingerprint() != lm.tokenizer.fingerprint():
            raise UserError(
                f"{source.folder} was prepared with another tokenizer ({source.manifest.tokenizer['name']}) than "
                f"the model was trained with ({lm.tokenizer.name}); name the text itself with `data=`, and it is "
                "encoded as the model needs"
            )
        if loss_on not in (None, source.manifest.loss_on):
            raise UserError(
                f"{source.folder} was prepared with `loss_on={source.manifest.loss_on!r}`: name the text itself with "
                "`data=`"
            )
        return source
    mode, loss_on = config_of(lm).data.mode, loss_on or config_of(lm).data.loss_on
    corpus = prepare(
        source,
        tokenizer=lm.tokenizer,
        mode=mode,
        length=length if mode == "pad" or loss_on == "answers" else None,
        loss_on=loss_on,
        split=split or "train",
        whole=True,
        accept_loss=True,
        **reading,
    )
    return corpus.open("valid", length)


def config_of(lm: MaskedDiffusionLM | CausalLM) -> RunConfig:
    """The configuration that a model was trained by; the default one of a bare network, which is taken to be masked
    uniformly under the linear noise schedule."""
    return lm.config if lm.has_config else RunConfig()


def draw_settings(
    lm: MaskedDiffusionLM | CausalLM, *, num_draws: int | None, batch_size: int | None, seed: int
) -> DrawSettings:
    """How a likelihood of this model is drawn; what is None is as in its run, but for a smaller batch on a CPU."""
    evaluation = config_of(lm).eval
    if batch_size is None:
        batch_size = rows_together(evaluation.batch_size, lm.max_length, lm.device)
    return DrawSettings(
        num_draws=evaluation.final_num_draws if num_draws is None else num_draws,
        batch_size=batch_size,
        seed=seed,
    )


def measure(
    lm: MaskedDiffusionLM | CausalLM,
    data: TokenDataset,
    draws: DrawSettings,
    *,
    num_steps: Sequence[int] = T_STEPS,
    zero_shot: str | None = None,
) -> Evaluation:
    """Score a data set of the model's own tokens. `num_steps`: of the T-step bounds, which come from the same draws;
    `zero_shot`: the name of a zero-shot text."""
    deciles = None if lm.counts is None else frequency_deciles(data, lm.counts)
    found = lm.likelihood(data, draws, groups=None if deciles is None else deciles.share)
    own = lm.schedule_draws(data, draws) if found.kind == "nelbo" else None
    exact = found if found.kind == "exact" else lm.left_to_right(data, draws) if "causal" in lm.modes else None
    config, counts = config_of(lm), TextCounts.of(data)
    strategy, objective, is_bound = config.masking.strategy, config.objective, masking_traits(config).is_bound
    t_step = ()
    if found.draws is not None:
        t_step = t_step_bounds(found.draws, counts, num_steps, build_schedule(objective), objective.schedule)
    return Evaluation(
        kind=found.kind,
        nats_per_token=found.nats_per_token,
        standard_error=found.standard_error,
        counts=counts,
        schedule=recorded_bound(own, found, counts, strategy=strategy, is_bound=is_bound),
        left_to_right=None if exact is None else left_to_right_cost(exact, counts),
        t_step=t_step,
        deciles=None if deciles is None or found.groups is None else decile_costs(deciles, found.groups),
        blocks=BlockSums.of(found, own),
        num_draws=found.num_draws,
        num_sequences=data.num_evaluation_rows,
        seed=draws.seed,
        profile=found.profile,
        unigram=None if lm.counts is None else unigram_cost(data, lm.counts),
        step=lm.checkpoint.step if lm.checkpoint else None,
        checkpoint_hash=lm.checkpoint.checksum if lm.checkpoint else None,
        text=TextIdentity.of(data),
        **traced(lm),
        zero_shot=zero_shot,
    )


def traced(lm: MaskedDiffusionLM | CausalLM) -> dict[str, Any]:
    """What a record says of where its numbers come from: checkpoint, code_version, commit and machine."""
    return {
        "checkpoint": lm.checkpoint.folder.name if lm.checkpoint else str(lm.home or type(lm.network).__name__),
        "code_version": code_version(),
        "commit": commit(),
        "machine": Machine(cpu=cpu(), device=lm.device_name, precision=lm.precision),
    }


def store(found: Evaluation, lm: MaskedDiffusionLM | CausalLM, file: Path | None = None) -> Evaluation:
    """Write an evaluation to `file`, by default one in evals/ of the model's folder, and return it with its place. The
    orders that the latter has of the same weights are kept. A model that is in no folder has no such file, and nothing
    is written; where the file cannot be written a warning says so. Its place is None then."""
    if file is None:
        if lm.home is None:
            return found
        digest = str(found.text.corpus_hash)[:8]
        file = evals_folder(lm.home) / f"{weights_name(lm)}-{digest}-{found.num_draws}-{found.seed}.json"
        found = with_stored_orders(found, file)
    with stored_if_possible(file):
        file.parent.mkdir(exist_ok=True)
        return replace(found, file=found.save(file))
    return replace(found, file=None)


def evals_folder(home: Path) -> Path:
    """Where a model's evaluations are stored: in its folder, or for the model in the box in the working directory."""
    return results_folder(home, "evals")


def weights_name(lm: MaskedDiffusionLM | CausalLM) -> str:
    """Which weights a model has, for names of files: of those in its folder or, for a model whose results lie in the
    working directory beside those of others, the model's own name."""
    if lm.checkpoint is not None:
        return lm.checkpoint.folder.name
    return (None if lm.home is None else borrowed_name(lm.home)) or "saved"


def writable(file: Path) -> Path:
    """The same file. Raises UserError where none can be written there."""
    check_writable(file, "`save=`")
    return file


def _open_other(
    against: Model | Evaluation, lm: MaskedDiffusionLM | CausalLM
) -> MaskedDiffusionLM | CausalLM | Evaluation:
    """A model that can score the same sequences, or a stored evaluation. Raises UserError for any other."""
    if isinstance(against, Evaluation):
        return against
    try:
        if isinstance(against, (str, Path)) and Path(against).suffix == ".json":
            return Evaluation.load(against)
        loaded = open_model(against, device=lm.device, precision=lm.precision)
    except UserError as error:
        raise UserError(f"`against=`: {error}") from error
    if loaded.tokenizer.fingerprint() != lm.tokenizer.fingerprint():
        theirs, mine = (f"{each.tokenizer.name}, {each.tokenizer.vocab_size} tokens" for each in (loaded, lm))
        raise UserError(
            f"`against=`: {_name(against)} has another tokenizer ({theirs}) than the "
            f"model ({mine}), so their nats per token are of other tokens; evaluate each alone and compare bits "
            "per character, if both tokenizers give back the whole text"
        )
    lengths = loaded.max_length, lm.max_length
    if lengths[0] != lengths[1]:
        raise UserError(
            f"`against=`: {_name(against)} takes sequences of {lengths[0]} tokens, the model of {lengths[1]}: what is "
            "seen of a text differs, and no draw is the same"
        )
    return loaded


def _name(model: Model | Evaluation) -> str:
    match model:
        case str() | Path():
            return str(model)
        case Evaluation():
            return str(model.file or model.checkpoint)
        case MaskedDiffusionLM() | CausalLM():
            return str(model.home or type(model).__name__)
        case _:
            return str(model.folder)
