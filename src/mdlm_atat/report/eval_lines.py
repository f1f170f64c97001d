"""Evaluations as aligned lines for a person."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdlm_atat.scoring.paired import PairedDifference


def result_table(record: dict[str, Any]) -> list[str]:
    """The result as aligned lines for a person."""
    is_bound = record["kind"] == "nelbo"
    unigram, machine = record["unigram"], record["machine"]
    bits = plus_minus(record["bits_per_character"], record["standard_error_bits_per_character"])
    lines = [
        f"{'bound' if is_bound else 'exact':10} {plus_minus(record['nelbo_nats_per_token'], record['standard_error'])} "
        f"nats per token, perplexity {'at most ' if is_bound else ''}{record['perplexity_per_token']:,.2f}"
        + (" (PPL-U)" if is_bound else ""),
        f"{'':10} {record['nats_per_character']:.4f} nats and "
        f"{bits} bits per character, {record['bits_per_byte']:.4f} bits per "
        f"byte, perplexity per word {record['perplexity_per_word']:,.0f}",
    ]
    if is_bound:
        lines += schedule_lines(record["schedule"])
    if unigram is not None:
        lines.append(
            f"{'unigram':10} {plus_minus(unigram['nats_per_token'], unigram['standard_error'])} nats per token, "
            f"{unigram['bits_per_character']:.4f} bits per character: the floor to beat"
        )
    return [
        *lines,
        f"{'scored':10} {record['num_draws']:,} {'draws' if is_bound else 'sequences'} from {record['num_tokens']:,} "
        f"tokens, {record['num_characters']:,} characters ({record['split']}, seed {record['seed']}); "
        f"{machine['device']}, {machine['precision']}",
        f"{'stored':10} {record['file']}",
    ]


def schedule_lines(schedule: dict[str, Any] | None) -> list[str]:
    """PPL-S, where it is another number than PPL-U, or why there is none."""
    if schedule is None:
        return [f"{'':10} no bound under its own masking schedule, which leaks what it hides: only PPL-U is reported"]
    if schedule["strategy"] == "uniform":
        return []
    return [
        f"{'schedule':10} {plus_minus(schedule['nelbo_nats_per_token'], schedule['standard_error'])} nats per token, "
        f"perplexity at most {schedule['perplexity_per_token']:,.2f} (PPL-S), under its own masking schedule "
        f"({schedule['strategy']}); predicting the rates costs {schedule['rate_nats_per_token']:.4f} of it"
    ]


def plus_minus(value: float, standard_error: float) -> str:
    """Four decimals, with the error where there is one: a single sequence has none."""
    return f"{value:.4f}" if math.isnan(standard_error) else f"{value:.4f} ± {standard_error:.4f}"


def t_step_lines(record: dict[str, Any]) -> list[str]:
    """The bounds of T steps, a line each."""
    lines = []
    for found in record["t_step"]:
        bound = plus_minus(found["nelbo_nats_per_token"], found["standard_error"])
        lines.append(
            f"{'' if lines else 'T-step':10} {bound} nats per token, perplexity at most "
            f"{found['perplexity_per_token']:,.2f}, in {found['num_steps']:,} steps of ancestral sampling "
            f"({found['schedule']} schedule)"
        )
    return lines


def decile_lines(record: dict[str, Any]) -> list[str]:
    """The cost of each tenth of the text's tokens, the rarest first."""
    deciles = record["deciles"]
    lines = [
        f"tenths of the text's tokens, the rarest in training first: {deciles['num_tokens']:,.1f} tokens each",
        f"{'':4}{'in training':>23} {'kinds':>8} {'nats per token':>19} {'scored':>10}",
    ]
    for index, nats in enumerate(deciles["nats_per_token"]):
        least, most = deciles["train_count_min"][index], deciles["train_count_max"][index]
        lines.append(
            f"{index + 1:<4}{f'{least:,} to {most:,}':>23} {deciles['num_types'][index]:>8,} "
            f"{plus_minus(nats, deciles['standard_error'][index]):>19} {deciles['num_scored_tokens'][index]:>10,.0f}"
        )
    whole = plus_minus(record["nelbo_nats_per_token"], record["standard_error"])
    return [*lines, f"{'all':<4}{'':>23} {'':>8} {whole:>19} {sum(deciles['num_scored_tokens']):>10,.0f}"]


def difference_lines(name: str, other: str, found: PairedDifference) -> list[str]:
    """One paired difference and how to read it."""
    # the bound's true value is lower: an exact model that is ahead need not be better
    kinds = {("exact", "nelbo"): "an exact value less a bound", ("nelbo", "exact"): "a bound less an exact value"}
    note = kinds.get(found.kinds)
    percent = 100 * math.expm1(found.nats_per_token)
    if found.nats_per_token == 0 and found.standard_error == 0:
        verdict = "no difference at all"
    elif found.is_significant:
        verdict = f"perplexity {abs(percent):.2f}% {'below' if percent < 0 else 'above'} that of {other}"
    else:
        verdict = "no difference that can be told from chance"
    return [
        f"{name:10} {signed(found.nats_per_token, found.standard_error)} nats per token{f' ({note})' if note else ''}: "
        f"{verdict}",
        f"{'':10} over {found.num_draws:,} draws that are the same for both; on draws of its own for each the error "
        f"would be {found.unpaired_error:.4f}",
    ]


def decile_difference_line(found: Sequence[PairedDifference]) -> str:
    """Differences by token frequency, starred where they are twice their error."""
    each = [f"{signed(part.nats_per_token, part.standard_error)}{'*' if part.is_significant else ''}" for part in found]
    return f"{'deciles':10} {'; '.join(each)} (the rarest tokens first; *: at least two standard errors)"


def signed(value: float, standard_error: float) -> str:
    return f"{value:+.4f}" if math.isnan(standard_error) else f"{value:+.4f} ± {standard_error:.4f}"
