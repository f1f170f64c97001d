"""What follows from the runs: means over seeds, paired differences, steps to the baseline, overhead."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from mdlm_atat.errors import UserError
from mdlm_atat.scoring.records import BLOCK_SIZE
from mdlm_atat.scoring.statistics import CommonError
from mdlm_atat.studies.orders import by_order
from mdlm_atat.studies.over_seeds import difference_over_seeds, mean_over_seeds
from mdlm_atat.studies.steps_to_baseline import Bound, cost_of, costs_to_baseline, final_of

Run = dict[str, Any]


def derive(results: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """What follows from the runs that are done: by corpus, then by arm. The content of `derived` in results.json.

    An arm is compared with the baseline on a corpus once the baseline has a run there that is done.
    """
    baseline, reference = results["baseline"], set(results["reference"])
    derived: dict[str, dict[str, dict[str, Any]]] = {}
    runs = [*results["runs"], *results["branch_runs"]]
    for corpus in dict.fromkeys(run["corpus"] for run in runs):
        done = [run for run in runs if run["corpus"] == corpus and run["final"] is not None]
        theirs = runs_of(done, baseline)
        arms = {arm: runs_of(done, arm) for arm in results["arms"] if runs_of(done, arm)}
        orders = by_order(arms, baseline, reference)
        derived[corpus] = {
            arm: {**_of_arm(done, arm, theirs, baseline, is_reference=arm in reference), "orders": orders[arm]}
            for arm in arms
        }
    return derived


def runs_of(runs: Sequence[Run], arm: str) -> list[Run]:
    """The runs of an arm at the full budget, sorted by seed."""
    return sorted((run for run in runs if run["arm"] == arm), key=lambda run: run["seed"])


def own_bound(run: Run) -> Bound:
    """The bound that a method is judged by: PPL-S if its own masking schedule gives one, else PPL-U.

    The rule is fixed beforehand; it is never the lower of the two.
    """
    return "ppl_s" if final_of(run).has_own_schedule else "ppl_u"


def _of_arm(done: Sequence[Run], arm: str, theirs: list[Run], baseline: str, *, is_reference: bool) -> dict[str, Any]:
    mine = runs_of(done, arm)
    own = own_bound(mine[0])
    compared = bool(theirs) and arm != baseline
    difference, own_difference, costs = None, None, costs_to_baseline([], [], own, own)
    if compared:
        difference = difference_of(mine, theirs, own=False, against=baseline)
        own_difference = difference_of(mine, theirs, own=True, against=baseline)
    if compared and not is_reference:
        with_branches = [run for run in done if run["arm"] == arm or run["branch_of"] == arm]
        costs = costs_to_baseline(with_branches, theirs, own, own_bound(theirs[0]))
    return {
        "num_seeds": len(mine),
        "kind": final_of(mine[0]).kind,
        "own": own,
        "ppl_u": _bound(mine, "ppl_u"),
        "ppl_s": _bound(mine, "ppl_s") if own == "ppl_s" else None,
        "difference": difference,
        "own_difference": own_difference,
        **costs,
        "train_seconds": statistics.fmean(run["train_seconds"] for run in mine),
        "seconds_per_step": seconds_per_step(mine),
        "overhead": overhead(mine, theirs) if compared else None,
        "profile": mean_tree([run["final"].get("profile") for run in mine]),
        "deciles": mean_tree([run["final"].get("deciles") for run in mine]),
    }


def _bound(runs: list[Run], bound: Bound) -> dict[str, Any]:
    """The mean of a bound over seeds. Its error includes that of the draws, which all seeds share."""
    degrees = min(final_of(run).num_draws for run in runs) / BLOCK_SIZE - 1
    return mean_over_seeds([cost_of(run, bound) for run in runs], degrees)


def difference_of(mine: list[Run], theirs: list[Run], *, own: bool, against: str) -> dict[str, Any] | None:
    """Mean over seeds of arm - baseline in nats per token, paired by seed. Returns None where no seed has both.

    With `own`, each is measured by its own bound, otherwise both by PPL-U. A difference is significant if it is more
    than twice its standard error and p is below 0.05. The error is that of the seeds and that of the draws, which all
    seeds share. With a single seed it is that of the draws alone, and says nothing about another seed.
    """

    def nats(run: Run) -> float:
        return cost_of(run, own_bound(run) if own else "ppl_u").nats_per_token

    by_seed = {run["seed"]: run for run in theirs}
    pairs = [(run, by_seed[run["seed"]]) for run in mine if run["seed"] in by_seed]
    if not pairs:
        return None
    return difference_over_seeds(
        [(nats(a), nats(b)) for a, b in pairs], _common_error(pairs, own=own), against=against, over="draws"
    )


def _common_error(pairs: Sequence[tuple[Run, Run]], *, own: bool) -> CommonError | None:
    """The error that the draws leave in the mean difference of pairs that were all scored on the same draws.

    Returns None where the scores of the draws are not stored, or the draws differ.
    """
    from mdlm_atat.scoring.paired import mean_paired_difference

    records = [(final_of(mine), final_of(theirs)) for mine, theirs in pairs]
    try:
        found = mean_paired_difference(records, bound="own" if own else "uniform")
    except UserError:  # scored on other draws, or by a version that did not keep them
        return None
    if not found.standard_error > 0:  # nan: of a single block
        return None
    return CommonError(found.standard_error, found.degrees)


def seconds_per_step(runs: Sequence[Run]) -> float | None:
    """Seconds of a training step: as timed alone before the runs, or else the mean of what the runs themselves took."""
    calibrated = [run["calibration"]["seconds_per_step"] for run in runs if run["calibration"] is not None]
    measured = [run["seconds_per_step"] for run in runs if run["seconds_per_step"] is not None]
    found = calibrated or measured
    return statistics.fmean(found) if found else None


def overhead(mine: Sequence[Run], theirs: Sequence[Run]) -> dict[str, Any]:
    """Ratios of what the arm costs to what the baseline costs: seconds a step, peak memory, parameters.

    A ratio is None where one of the two was not measured.
    """
    calibrated = all(run["calibration"] is not None for run in (*mine, *theirs))

    def ratio(one: float | None, other: float | None) -> float | None:
        return None if one is None or not other else one / other

    def mean(runs: Sequence[Run], key: str) -> float | None:
        found = [run[key] for run in runs if run.get(key) is not None]
        return statistics.fmean(found) if found else None

    return {
        "seconds_per_step_ratio": ratio(seconds_per_step(mine), seconds_per_step(theirs)),
        "timed": "alone, before the runs" if calibrated else "in the runs",
        "peak_memory_ratio": ratio(mean(mine, "peak_memory_bytes"), mean(theirs, "peak_memory_bytes")),
        "parameters_ratio": ratio(mean(mine, "num_parameters"), mean(theirs, "num_parameters")),
    }


def mean_tree(trees: Sequence[Any]) -> Any:
    """The mean of trees of the same shape, number by number. Returns None if one of the trees is None.

    What is no number is taken from the first tree.
    """
    first = trees[0]
    if any(tree is None for tree in trees):
        return None
    if isinstance(first, dict):
        return {key: mean_tree([tree.get(key) for tree in trees]) for key in first}
    if isinstance(first, list):
        return [mean_tree(list(items)) for items in zip(*trees, strict=False)]
    if isinstance(first, (int, float)) and not isinstance(first, bool):
        return first if all(tree == first for tree in trees) else statistics.fmean(trees)
    return first
