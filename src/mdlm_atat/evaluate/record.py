"""One evaluation as it is stored: the bound in every unit, and everything needed to trace it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.evaluate.likelihood import Likelihood, ScheduleDraws, TextCounts, in_every_unit
from mdlm_atat.evaluate.unigram import unigram_nll
from mdlm_atat.provenance import code_version, commit


def text_counts(data: TokenDataset) -> TextCounts:
    split = data.manifest.splits[data.split]
    return TextCounts(split.tokens, split.words, split.characters, split.bytes)


def unigram_record(data: TokenDataset, train_counts: Any) -> dict[str, float]:
    """The floor to beat, on the same text."""
    nats, error = unigram_nll(data, train_counts)
    units = in_every_unit(nats, text_counts(data))
    return {
        "nats_per_token": nats,
        "standard_error": error,
        "nats_per_character": units["nats_per_character"],
        "bits_per_character": units["bits_per_character"],
    }


def schedule_record(
    own: ScheduleDraws | None, found: Likelihood, data: TokenDataset, *, strategy: str, is_bound: bool
) -> dict[str, Any] | None:
    """PPL-S: the bound under the method's own masking schedule, its rate terms included. The uniform schedule's is
    PPL-U; None for a strategy whose loss is no bound, and for the causal baseline."""
    if found.kind == "exact" or not is_bound:
        return None
    (nats, error), rate = (found.nats_per_token, found.standard_error), 0.0
    if own is not None:
        (nats, error), (rate, _) = own.nelbo(), own.rate_nats()
    return {
        "strategy": strategy,
        "nelbo_nats_per_token": nats,
        "standard_error": error,
        "rate_nats_per_token": rate,
        **in_every_unit(nats, text_counts(data)),
    }


def evaluation_record(
    found: Likelihood,
    data: TokenDataset,
    *,
    schedule: dict[str, Any] | None,
    unigram: dict[str, float] | None,
    step: int | None,
    checkpoint: str,
    checkpoint_hash: str | None,
    seed: int,
    machine: dict[str, Any],
) -> dict[str, Any]:
    """JSON-ready. The headline is PPL-U, the bound under the uniform schedule; `schedule` is PPL-S. `standard_error` is
    in nats per token, between draws (see Draws.nelbo); counts are exact."""
    counts = text_counts(data)
    manifest = data.manifest
    return {
        "kind": found.kind,
        "nelbo_nats_per_token": found.nats_per_token,
        "standard_error": found.standard_error,
        "standard_error_bits_per_character": in_every_unit(found.standard_error, counts)["bits_per_character"],
        **in_every_unit(found.nats_per_token, counts),
        "schedule": schedule,
        "num_draws": found.num_draws,
        "seed": seed,
        **asdict(counts),
        "profile": found.profile,
        "unigram": unigram,
        "step": step,
        "checkpoint": checkpoint,
        "checkpoint_hash": checkpoint_hash,
        "split": data.split,
        "corpus": manifest.source,
        "corpus_hash": manifest.splits[data.split].sha256,
        "tokenizer": manifest.tokenizer["name"],
        "tokenizer_hash": manifest.tokenizer["hash"],
        "detokenizer": None,
        "mode": manifest.mode,
        "eos": manifest.eos,
        "bos": False,
        "length": data.length,
        "code_version": code_version(),
        "commit": commit(),
        "machine": machine,
    }
