"""What a text costs in one order: left to right, and in the own order of the samplers that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

from mdlm_atat.checks import whole
from mdlm_atat.data.tokens import TokenDataset
from mdlm_atat.errors import UserError
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM
from mdlm_atat.lm.scoring import order_name
from mdlm_atat.progress import OnProgress, shown
from mdlm_atat.samplers.loop import StepRule
from mdlm_atat.scoring.cost import LEFT_TO_RIGHT, LEFT_TO_RIGHT_UNMASKED, OrderCost, SequenceSums, TextCounts
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.likelihood import Likelihood
from mdlm_atat.scoring.records import Evaluation

Order = str | StepRule
"""A sampler, by name with its options or as a rule."""


def left_to_right_cost(found: Likelihood, counts: TextCounts) -> OrderCost:
    """The exact value left to right as it is recorded."""
    assert found.sequences is not None
    return OrderCost(
        order=LEFT_TO_RIGHT,
        nats_per_token=found.nats_per_token,
        standard_error=found.standard_error,
        counts=counts,
        evaluations=1.0,
        sequences=SequenceSums.of(found.sequences.nats.tolist(), found.sequences.lengths.tolist()),
    )


def asked_orders(
    lm: MaskedDiffusionLM | CausalLM,
    order: Order | Sequence[Order] | None,
    evaluations: int | Sequence[int] | None,
) -> list[tuple[Order, int | None]]:
    """Each sampler with each number of network evaluations. Raises UserError for what this model cannot do. Orders that
    every evaluation of this model has, any and left to right, are left out."""
    if order is None:
        if evaluations is not None:
            raise UserError("`evaluations=` is for the own order of a sampler: name one with `order='spread'`")
        return []
    orders = list(order) if isinstance(order, Sequence) and not isinstance(order, str) else [order]
    numbers = list(evaluations) if isinstance(evaluations, Sequence) else [evaluations]
    for number in numbers:
        whole("`evaluations=`", number, 1)
    found = []
    for each, number in product(orders, numbers):
        if lm.is_own_order(each, number):
            lm.denoiser(lm.order_rule(each, number))
            found.append((each, number))
    return list(dict.fromkeys(found))


def in_orders(
    lm: MaskedDiffusionLM | CausalLM,
    data: TokenDataset,
    draws: DrawSettings,
    orders: Sequence[tuple[Order, int | None]],
    *,
    every: bool,
    progress: bool | OnProgress = True,
) -> tuple[OrderCost, ...]:
    """What a data set costs in the own order of samplers: `every` sequence, or as many as there are `draws`."""
    if every:
        draws = replace(draws, num_draws=data.num_evaluation_rows)
    costs = []
    for order, number in orders:
        name = order_name(order)
        with shown(f"revealing by {name}", progress) as on_progress:
            found = lm.own_order(data, replace(draws, on_progress=on_progress), order, evaluations=number)
        nats, error = found.sequences.ratio()
        costs.append(
            OrderCost(
                order=LEFT_TO_RIGHT_UNMASKED if name == LEFT_TO_RIGHT else name,
                is_exact=found.is_exact,
                num_steps=number,
                evaluations=found.evaluations,
                nats_per_token=nats,
                standard_error=error,
                counts=TextCounts.of(data),
                sequences=SequenceSums.of(found.sequences.nats.tolist(), found.sequences.lengths.tolist()),
            )
        )
    return tuple(costs)


def with_stored_orders(found: Evaluation, file: Path) -> Evaluation:
    """The evaluation with the orders that `file` has of the same weights, text and machine and that it lacks: they take
    long, and are not to be lost where it is written again."""
    stored = None
    if file.exists():
        with suppress(UserError):  # what cannot be read is written anew
            stored = Evaluation.load(file)
    same = ("checkpoint_hash", "text", "seed", "machine")
    if stored is None or any(getattr(stored, name) != getattr(found, name) for name in same):
        return found
    mine = {cost.asked for cost in found.own_orders}
    return replace(
        found, own_orders=(*(cost for cost in stored.own_orders if cost.asked not in mine), *found.own_orders)
    )
