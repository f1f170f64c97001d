"""One evaluation as it is stored: the bound in every unit, and everything needed to trace it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mdlm_atat.core.objective import t_step_count_weights
from mdlm_atat.core.schedules import Schedule
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.provenance import code_version, commit
from mdlm_atat.scoring.deciles import Deciles, decile_record
from mdlm_atat.scoring.draws import BLOCK_SIZE
from mdlm_atat.scoring.likelihood import Draws, Likelihood, TextCounts, in_every_unit
from mdlm_atat.scoring.packing import pack
from mdlm_atat.scoring.schedule_bound import ScheduleDraws
from mdlm_atat.scoring.unigram import unigram_nll


def text_counts(data: TokenDataset) -> TextCounts:
    split = data.manifest.splits[data.split]
    return TextCounts(split.tokens, split.words, split.characters, split.bytes)


def text_record(data: TokenDataset) -> dict[str, Any]:
    """Which text, and how it became sequences of tokens."""
    manifest = data.manifest
    return {
        "split": data.split,
        "corpus": manifest.source,
        "corpus_hash": manifest.splits[data.split].sha256,
        "tokenizer": manifest.tokenizer["name"],
        "tokenizer_hash": manifest.tokenizer["hash"],
        "detokenizer": manifest.source.get("detokenizer"),
        "mode": manifest.mode,
        "eos": manifest.eos,
        "bos": False,
        "length": data.length,
    }


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


def block_record(found: Likelihood, own: ScheduleDraws | None) -> dict[str, Any]:
    """Sums by block of draws, which evaluate.paired reads: of PPL-U, of PPL-S where it is another bound, and of each
    frequency decile."""
    record: dict[str, Any] = {
        "size": BLOCK_SIZE,
        "score": pack(found.blocks.score),
        "length": pack(found.blocks.length),
    }
    if own is not None:
        record["schedule_score"] = pack(own.blocks().score)
    if found.groups is not None:
        record |= {
            "decile_score": pack(found.groups.blocks.score),
            "decile_length": pack(found.groups.blocks.length),
        }
    return record


def t_step_record(
    draws: Draws, data: TokenDataset, num_steps: Sequence[int], schedule: Schedule, name: str
) -> list[dict[str, Any]]:
    """Bounds of ancestral sampling in T steps of equal time, from the draws of PPL-U, which they fall to as T grows.
    Unlike PPL-U they depend on the noise schedule, of this name."""
    found = []
    for steps in num_steps:
        nats, error = draws.t_step_nelbo(lambda length, steps=steps: t_step_count_weights(schedule, length, steps))
        units = in_every_unit(nats, text_counts(data))
        found.append(
            {
                "num_steps": steps,
                "schedule": name,
                "nelbo_nats_per_token": nats,
                "standard_error": error,
                "perplexity_per_token": units["perplexity_per_token"],
                "bits_per_character": units["bits_per_character"],
            }
        )
    return found


def evaluation_record(
    found: Likelihood,
    data: TokenDataset,
    *,
    schedule: dict[str, Any] | None,
    own: ScheduleDraws | None,
    unigram: dict[str, float] | None,
    deciles: Deciles | None,
    t_step: list[dict[str, Any]] | None,
    step: int | None,
    checkpoint: str,
    checkpoint_hash: str | None,
    seed: int,
    machine: dict[str, Any],
) -> dict[str, Any]:
    """JSON-ready. The headline is PPL-U, the bound under the uniform schedule; `schedule` is PPL-S, `t_step` the bounds
    of T steps, `deciles` the bound by token frequency. `standard_error` is in nats per token, between draws (see
    Draws.nelbo); counts are exact; `blocks` is what evaluate.paired compares."""
    counts = text_counts(data)
    return {
        "kind": found.kind,
        "nelbo_nats_per_token": found.nats_per_token,
        "standard_error": found.standard_error,
        "standard_error_bits_per_character": in_every_unit(found.standard_error, counts)["bits_per_character"],
        **in_every_unit(found.nats_per_token, counts),
        "schedule": schedule,
        "t_step": t_step,
        "deciles": None if deciles is None or found.groups is None else decile_record(deciles, found.groups),
        "blocks": block_record(found, own),
        "num_draws": found.num_draws,
        "num_sequences": data.num_evaluation_rows,
        "seed": seed,
        **asdict(counts),
        "profile": found.profile,
        "unigram": unigram,
        "step": step,
        "checkpoint": checkpoint,
        "checkpoint_hash": checkpoint_hash,
        **text_record(data),
        "code_version": code_version(),
        "commit": commit(),
        "machine": machine,
    }
