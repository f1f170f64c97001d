"""What a model that was trained on from another has forgotten: what the old text costs before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mdlm_atat.atomic import write_json
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.errors import UserError
from mdlm_atat.formats import with_error
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM, load_lm
from mdlm_atat.runs.evaluate import draw_settings, measure, open_data, store
from mdlm_atat.runs.initial import reopen
from mdlm_atat.scoring.cost import bound_json
from mdlm_atat.training.folder import read_start

FILE_NAME = "forgetting.json"


def measure_forgetting(lm: MaskedDiffusionLM | CausalLM, folder: Path, say: Callable[[str], None]) -> list[str]:
    """Score the validation text of the run that this one began with, by the weights of then and of now, on the same
    draws: its bound, or where the old model read left to right only, its exact value. The result as lines for a person,
    also where the old text or weights are not there any more; none for a run that began with random weights. Stored in
    forgetting.json, with both evaluations in forgetting/."""
    init = read_start(folder).get("init")
    if init is None:
        return []
    say("scoring the old validation text ...")
    try:
        initial = reopen(init)
        if initial.is_published:
            raise UserError(f"what {initial.name} was trained on is not stored with it")
        old = load_lm(init["path"], device=lm.device, precision=lm.precision)
        if old.checkpoint is None:
            raise UserError(f"{initial.name} is a saved model, and has no text stored with it")
        data = open_old_text(old, lm)
    except UserError as error:
        return [f"forgetting not measured: {error}"]
    (folder / "forgetting").mkdir(exist_ok=True)
    draws = draw_settings(lm, num_draws=None, batch_size=None, seed=0)
    before, after = (
        store(measure(model, data, draws), model, folder / "forgetting" / f"{name}.json")
        for name, model in (("before", old), ("after", lm))
    )
    now = after if before.is_bound else after.left_to_right or after
    difference = after.compare(before, bound="uniform" if now is after else "left_to_right")
    record = {
        "init": init,
        "text": before.text.corpus,
        "corpus_hash": before.text.corpus_hash,
        "before": bound_json(before),
        "after": bound_json(now),
        "difference": asdict(difference),
        "checkpoint_hash": after.checkpoint_hash,
        "code_version": after.code_version,
        "commit": after.commit,
        "machine": asdict(after.machine),
    }
    write_json(folder / FILE_NAME, record)
    verdict = "no difference"
    if difference.is_significant:
        verdict = "worse than before" if difference.nats_per_token > 0 else "better than before"
    shown = with_error(difference.nats_per_token, difference.standard_error, decimals=4, sign=True)
    return [
        f"forgetting {shown} nats per token of the validation text of {initial.found.home}: {verdict}",
        f"{'':10} {before.nats_per_token:.4f} before, {now.nats_per_token:.4f} after, on the same "
        f"{difference.num_draws:,} {'draws' if difference.num_groups is None else 'sequences'}",
    ]


def open_old_text(old: MaskedDiffusionLM | CausalLM, lm: MaskedDiffusionLM | CausalLM) -> TokenDataset:
    """The old run's validation text, in sequences that both models take."""
    data = open_data(old, None)
    if lm.config.data.length >= data.length:
        return data
    if data.manifest.mode == "pad":
        raise UserError(f"its rows have {data.length} tokens, and this model takes {lm.config.data.length}")
    return TokenDataset.open(data.folder, data.split, lm.config.data.length)
