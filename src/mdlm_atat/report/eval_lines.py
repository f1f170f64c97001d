"""Evaluations as aligned lines for a person."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mdlm_atat.data.accounts import repeated_in_words
from mdlm_atat.formats import number, perplexity, with_error
from mdlm_atat.scoring.cost import LOSSY, OrderCost, relative_perplexity
from mdlm_atat.scoring.records import Comparison, Evaluation, PairedDifference

KINDS = {("exact", "nelbo"): "an exact value less a bound", ("nelbo", "exact"): "a bound less an exact value"}
"""What a difference of two kinds of numbers is: the bound's true value is lower, so an exact model that is ahead need
not be better."""


FEW_DEGREES = 30  # of freedom: with fewer a 95% interval is wider than twice the error by 2% or more


def result_table(found: Evaluation) -> list[str]:
    """What was found, where it is stored, and the floor to beat."""
    answers = "answer " if found.text.loss_on == "answers" else ""
    lines = [
        f"{'bound' if found.is_bound else 'exact':10} {found.shown()} nats per token, "
        f"perplexity {'at most ' if found.is_bound else ''}{perplexity(found.perplexity_per_token)}"
        + (" (PPL-U): any order" if found.is_bound else ": left to right"),
        f"{'':10} {found.nats_per_character:.4f}{LOSSY * found.is_lossy} nats and "
        f"{found.shown_bits()} bits per character, {found.bits_per_byte:.4f}{LOSSY * found.is_lossy} bits per byte, "
        + (
            f"no perplexity per word: {found.why_not_per_word}"
            if found.why_not_per_word
            else f"perplexity per word {found.perplexity_per_word:,.0f}{LOSSY * found.is_lossy}"
        ),
        *([f"{'lossy':10} {found.loss_in_words}"] if found.is_lossy else []),
        *schedule_lines(found),
        *order_lines(found),
    ]
    if found.unigram is not None:
        floor = found.unigram.shown()
        lines.append(
            f"{'unigram':10} {floor} nats per token, "
            f"{found.unigram.bits_per_character:.4f}{LOSSY * found.is_lossy} bits per character: the floor to beat"
        )
    if 1 <= found.degrees < FEW_DEGREES:
        low, high = found.interval95
        lines.append(
            f"{'':10} 95% interval {low:.4f} to {high:.4f} by Student's t: {found.degrees + 1} "
            f"{'blocks of draws' if found.is_bound else 'sequences'} are few"
        )
    lines.append(
        f"{'scored':10} {found.num_draws:,} {'draws' if found.is_bound else 'sequences'} from "
        f"{found.counts.num_tokens:,} tokens, {found.counts.num_characters:,} characters"
        f"{' of answers' if answers else ''} ({found.text.split}, seed {found.seed}); "
        f"{found.machine.device}, {found.machine.precision}"
    )
    if found.text.split == "valid" and (repeated := repeated_in_words(found.text.accounts)):
        lines.append(f"{'repeated':10} {repeated}")
    lines = [line.replace("nats per token", f"nats per {answers}token") for line in lines]
    return lines if found.file is None else [*lines, f"{'stored':10} {found.file}"]


def schedule_lines(found: Evaluation) -> list[str]:
    """PPL-S, where it is another number than PPL-U, or why there is none."""
    if not found.is_bound:
        return []
    if found.schedule is None:
        return [f"{'':10} no bound under its own masking schedule, which leaks what it hides: only PPL-U is reported"]
    if not found.has_own_schedule:
        return []
    own = found.schedule
    return [
        f"{'schedule':10} {own.shown()} nats per token, "
        f"perplexity at most {perplexity(own.perplexity_per_token)} (PPL-S), under its own masking schedule "
        f"({own.strategy}); predicting the rates costs {own.rate_nats_per_token:.4f} of it"
    ]


def order_lines(found: Evaluation) -> list[str]:
    """The exact value left to right beside a bound, and what was found in the own orders of samplers."""
    lines, exact = [], found.left_to_right if found.is_bound else None
    if exact is not None:
        lines.append(
            f"{'exact':10} {exact.shown()} nats per token, {exact.shown_bits()} bits per character, "
            f"perplexity {perplexity(exact.perplexity_per_token)}: left to right"
        )
    for cost in found.own_orders:
        at_most, kind = ("", "exact") if cost.is_exact else ("at most ", "a bound, the order is random")
        lines.append(
            f"{'own order':10} {cost.shown()} nats per token, perplexity {at_most}"
            f"{perplexity(cost.perplexity_per_token)}: {cost.name.removeprefix('own order of ')} ({kind}"
            f"{_number_of_sequences(cost, found)})"
        )
    return lines


def _number_of_sequences(cost: OrderCost, found: Evaluation) -> str:
    if cost.sequences is None:
        return ""
    number = cost.sequences.num_sequences
    return f"; {'all ' if number == found.num_sequences else ''}{number:,} sequences"


def t_step_lines(found: Evaluation) -> list[str]:
    """The bounds of T steps, a line each."""
    return [
        f"{'' if index else 'T-step':10} {bound.shown()} nats per token, perplexity at most "
        f"{perplexity(bound.perplexity_per_token)}, in {bound.num_steps:,} steps of ancestral sampling "
        f"({bound.schedule} schedule)"
        for index, bound in enumerate(found.t_step)
    ]


def decile_lines(found: Evaluation) -> list[str]:
    """The cost of each tenth of the text's tokens, the rarest first."""
    deciles = found.deciles
    assert deciles is not None
    lines = [
        f"tenths of the text's tokens, the rarest in training first: {deciles.num_tokens:,.1f} tokens each",
        f"{'':4}{'in training':>23} {'kinds':>8} {'nats per token':>19} {'scored':>10}",
    ]
    for index, nats in enumerate(deciles.nats_per_token):
        least, most = deciles.train_count_min[index], deciles.train_count_max[index]
        each = with_error(None if math.isnan(nats) else nats, deciles.standard_error[index], decimals=4)
        lines.append(
            f"{index + 1:<4}{f'{least:,} to {most:,}':>23} {deciles.num_types[index]:>8,} "
            f"{each:>19} {deciles.num_scored_tokens[index]:>10,.0f}"
        )
    whole = found.shown()
    return [*lines, f"{'all':<4}{'':>23} {'':>8} {whole:>19} {sum(deciles.num_scored_tokens):>10,.0f}"]


def comparison_lines(found: Comparison) -> list[str]:
    """All differences of an evaluation to another one."""
    kinds = found.uniform.kinds
    kind = {"nelbo": "bound"}.get(kinds[1], kinds[1])
    lines = [
        f"{'against':10} {found.name}: {kind}, {found.nats_per_token:.4f} nats per token",
        *difference_lines("difference" if kinds == ("exact", "exact") else "PPL-U", found.name, found.uniform),
    ]
    if found.own is not None:
        lines += difference_lines("own bound", found.name, found.own)
    for order in found.orders:
        label, name = ("exact", "") if order.name == "left to right" else ("own order", order.name + ", ")
        lines += difference_lines(label, found.name, order, about=name.removeprefix("own order of "))
    lines += [f"{'':10} {note}" for note in found.notes]
    return lines if found.deciles is None else [*lines, decile_difference_line(found.deciles)]


def difference_lines(name: str, other: str, found: PairedDifference, *, about: str = "") -> list[str]:
    """One paired difference and how to read it."""
    kinds = dict(KINDS)
    if found.num_groups is not None:
        kinds |= {("exact", "exact"): "exact, left to right" if not about else "exact", ("nelbo", "nelbo"): "bounds"}
    note = about + kinds.get(found.kinds, "")
    percent = 100 * relative_perplexity(found.nats_per_token)
    if found.nats_per_token == 0 and found.standard_error == 0:
        verdict = "no difference at all"
    elif found.is_significant:
        shown = f"{abs(percent):.2f}" if abs(percent) < 1e6 else number(abs(percent))
        verdict = f"perplexity {shown}% {'below' if percent < 0 else 'above'} that of {other}"
    else:
        verdict = "no difference that can be told from chance"
    over = f"{found.num_draws:,} draws that are the same for both; on draws of its own for each"
    if found.num_groups is not None:
        over = f"{found.num_draws:,} sequences, each scored once by both; on other sequences for each"
    would_be = "" if math.isnan(found.unpaired_error) else f" the error would be {found.unpaired_error:.4f}"
    return [
        f"{name:10} {signed(found)} nats per token{f' ({note})' if note else ''}: {verdict}",
        f"{'':10} over {over}{would_be}" if would_be else f"{'':10} over a single sequence, which leaves no error",
    ]


def decile_difference_line(found: Sequence[PairedDifference]) -> str:
    """Differences by token frequency, starred where they are at least twice their error, and more where Student's t
    asks for more."""
    each = [signed(part) + "*" * part.is_significant for part in found]
    kinds = next((f"{KINDS[part.kinds]}; " for part in found if part.kinds in KINDS), "")
    return f"{'deciles':10} {'; '.join(each)} ({kinds}the rarest tokens first; *: more than chance allows)"


def signed(found: PairedDifference) -> str:
    """`-0.1427 ± 0.0057`, in nats per token; `–` where no token was scored."""
    nats = None if math.isnan(found.nats_per_token) else found.nats_per_token
    return with_error(nats, found.standard_error, decimals=4, sign=True)
