"""Score a model on texts that it was not trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Unpack

import torch

from mdlm_atat.checks import check_keywords
from mdlm_atat.data.detokenizers import detokenizer as find_detokenizer
from mdlm_atat.data.prepare import prepare
from mdlm_atat.data.readers.reading import ReadingSettings
from mdlm_atat.data.request import DataRequest
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.device import Precision, explain_out_of_memory
from mdlm_atat.errors import UserError
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
from mdlm_atat.plugins import trusted
from mdlm_atat.runs.evaluate import draw_settings, evals_folder, measure, shown, store, weights_name
from mdlm_atat.runs.model import Model, open_model
from mdlm_atat.scoring.records import Evaluation
from mdlm_atat.scoring.zero_shot import NO_DETOKENIZER, ZeroShotSet, zero_shot_set

RARE_ENDS = 1000  # tokens a document: ends cost a model that never saw one at most about 0.02 nats per token then


def evaluate_zero_shot(
    model: Model,
    texts: Sequence[str],
    *,
    detokenizer: str | None = None,
    mode: Literal["wrap", "pad"] | None = None,
    split: str | None = None,
    num_draws: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    num_steps: Sequence[int] = (),
    save: bool = True,
    progress: bool = True,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    trust_plugins: bool = False,
    **reading: Unpack[ReadingSettings],
) -> dict[str, Evaluation]:
    """What a model pays for each of some texts, by their names.

    `texts`: files, folders, hub:OWNER/NAME, or names of the field's usual sets (see ZERO_SHOT_SETS in
    scoring.zero_shot). `detokenizer`, `mode`, `split` and `reading` (`column`, `encoding`, ...) override what is
    published for a set, for all of them; `detokenizer` "none": the text as it was published. The rest is as for
    `evaluate`; each text's result is stored as soon as it is there, and `cautions` of it say where a number is known to
    mislead. Raises UserError with all that is wrong with the names, before anything is scored.
    """
    check_keywords(reading, evaluate_zero_shot, ReadingSettings.__annotations__)
    sets = _named(texts, detokenizer=detokenizer, mode=mode, split=split, reading=reading)
    found: dict[str, Evaluation] = {}
    with trusted(trust_plugins):
        lm = open_model(model, device=device, precision=precision)
        draws = draw_settings(lm, num_draws=num_draws, batch_size=batch_size, seed=seed)
        advice = f"try `batch_size={max(1, draws.batch_size // 2)}`"
        opened = [(part, open_set(lm, part)) for part in sets]
        for index, (part, rows) in enumerate(opened):
            title = f"{part.name} ({index + 1} of {len(opened)})"
            with explain_out_of_memory(advice), shown(title, progress) as on_progress:
                settings = replace(draws, on_progress=on_progress)
                result = measure(lm, rows, settings, num_steps=num_steps, zero_shot=part.name)
            result = replace(result, cautions=tuple(cautions(lm, rows)))
            if save and lm.home is not None:
                name = f"{weights_name(lm)}-zero-shot-{_file_part(part.name)}-{part.mode}"
                digest = str(result.text.corpus_hash)[:8]
                file = evals_folder(lm.home) / f"{name}-{digest}-{draws.num_draws}-{seed}.json"
                result = store(result, lm, file)
            found[part.name] = result
    return found


def open_set(lm: MaskedDiffusionLM | CausalLM, part: ZeroShotSet) -> TokenDataset:
    """A text as tokens of this model's own tokenizer, prepared if it is not there yet."""
    length = lm.max_length
    try:
        corpus = prepare(
            request=DataRequest.of(part, tokenizer=lm.tokenizer, length=length, whole=True, accept_loss=True)
        )
    except UserError as error:
        raise UserError(f"{part.name}: {error}") from error
    return corpus.open("valid", length)


def cautions(lm: MaskedDiffusionLM | CausalLM, data: TokenDataset) -> list[str]:
    """Sentences on where the number is known to mislead."""
    split, eos = data.manifest.splits[data.split], lm.tokenizer.eos_id
    unseen = data.manifest.eos and eos is not None and lm.counts is not None and lm.counts[eos] == 0
    if not unseen or split.documents * RARE_ENDS < split.tokens:
        return []
    share = split.documents / split.tokens
    return [f"{share:.1%} of the tokens are ends of documents, which the model never saw in training, and pays for"]


def _named(
    texts: Sequence[str],
    *,
    detokenizer: str | None,
    mode: Literal["wrap", "pad"] | None,
    split: str | None,
    reading: ReadingSettings,
) -> list[ZeroShotSet]:
    """All that was named, or all that is wrong with it at once."""
    if detokenizer not in (None, NO_DETOKENIZER):
        find_detokenizer(detokenizer)  # refuses an unknown name
    found, wrong = [], []
    for name in texts:
        try:
            found.append(zero_shot_set(name, detokenizer=detokenizer, mode=mode, split=split, **reading))
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError("; ".join(wrong))
    twice = next((part.name for index, part in enumerate(found) if part in found[:index]), None)
    if twice is not None:
        raise UserError(f"{twice} is named twice")
    return found


def _file_part(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-")
