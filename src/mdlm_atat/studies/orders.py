"""The arms of a study by what they have of one order: left to right, and the own orders of samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mdlm_atat.errors import UserError
from mdlm_atat.scoring.cost import LEFT_TO_RIGHT, OrderCost
from mdlm_atat.scoring.statistics import CommonError
from mdlm_atat.studies.over_seeds import difference_over_seeds, mean_over_seeds
from mdlm_atat.studies.steps_to_baseline import final_of

Run = dict[str, Any]
Asked = tuple[str, int | None]
"""A sampler, or left_to_right, and the network evaluations asked for."""


def by_order(runs_by_arm: dict[str, list[Run]], baseline: str, reference: set[str]) -> dict[str, list[dict[str, Any]]]:
    """For each arm, a record of each order that its finished runs at the full budget were scored in: the mean over
    seeds, and the difference to the baseline in the same order, or where that was not scored in it to the first
    reference arm that was, else to the first arm. Only values of one order are ever compared."""
    found: dict[Asked, dict[str, list[tuple[Run, OrderCost]]]] = {}
    for arm, runs in runs_by_arm.items():
        for run in runs:
            for _, cost, _ in final_of(run).likelihoods:
                if isinstance(cost, OrderCost):
                    found.setdefault(cost.asked, {}).setdefault(arm, []).append((run, cost))
    records: dict[str, list[dict[str, Any]]] = {arm: [] for arm in runs_by_arm}
    for _, arms in sorted(found.items(), key=lambda item: item[0][0] != LEFT_TO_RIGHT):
        against = next(arm for arm in (baseline, *(arm for arm in arms if arm in reference), *arms) if arm in arms)
        for arm, scored in arms.items():
            records[arm].append(_record(scored, arms[against], None if arm == against else against))
    return records


def _record(
    mine: Sequence[tuple[Run, OrderCost]], theirs: Sequence[tuple[Run, OrderCost]], against: str | None
) -> dict[str, Any]:
    costs = [cost for _, cost in mine]
    degrees = min(1 if cost.sequences is None else len(cost.sequences.score) for cost in costs) - 1
    difference = None
    if against is not None:
        by_seed = {run["seed"]: cost for run, cost in theirs}
        pairs = [(cost, by_seed[run["seed"]]) for run, cost in mine if run["seed"] in by_seed]
        if pairs:
            values = [(a.nats_per_token, b.nats_per_token) for a, b in pairs]
            difference = difference_over_seeds(values, _common_error(pairs), against=against, over="sequences")
    return {
        "name": costs[0].name,
        "order": costs[0].order,
        "num_steps": costs[0].num_steps,
        "is_exact": all(cost.is_exact for cost in costs),
        "num_seeds": len(costs),
        **mean_over_seeds(costs, degrees),
        "difference": difference,
    }


def _common_error(pairs: Sequence[tuple[OrderCost, OrderCost]]) -> CommonError | None:
    """The error between the sequences, which all seeds share; None where their sums are not stored."""
    from mdlm_atat.scoring.paired import mean_order_difference

    try:
        found = mean_order_difference(pairs)
    except UserError:
        return None
    return CommonError(found.standard_error, found.degrees) if found.standard_error > 0 else None
