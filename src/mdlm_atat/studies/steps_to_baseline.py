"""How many steps, tokens and seconds of training an arm needs to reach the baseline's final bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from mdlm_atat.formats import with_error
from mdlm_atat.scoring.cost import Cost
from mdlm_atat.scoring.records import Evaluation
from mdlm_atat.scoring.statistics import mean_with_interval

Run = dict[str, Any]
Bound = Literal["ppl_u", "ppl_s"]
Point = tuple[float, float]
"""(steps, nats per token)."""
DECAYED = "interpolated over log steps between runs whose learning rate has decayed"
UNDECAYED = "upper bound from an undecayed curve"


def costs_to_baseline(
    mine: Sequence[Run], theirs: Sequence[Run], own: Bound, their_own: Bound
) -> dict[str, dict[str, Any] | str | None]:
    """Steps, tokens and seconds after which the arm's bound is the baseline's final one, means over seeds, with their
    shares of the baseline's. They are None where a seed does not reach it, and `steps_to_baseline_note` says which.

    `mine` are the arm's runs at every share of the budget. With shares below 1, final bounds of finished runs are
    interpolated. Otherwise the first crossing of the curve is taken, where the learning rate is still high: a run that
    had ended there would be better, so the number is an upper bound.
    """
    nothing: dict[str, dict[str, Any] | str | None] = {
        "steps_to_baseline": None,
        "tokens_to_baseline": None,
        "gpu_seconds_to_baseline": None,
        "steps_to_baseline_note": None,
    }
    pairs = [(seed_runs(mine, run["seed"]), run) for run in theirs]
    pairs = [(runs, run) for runs, run in pairs if runs]
    if not pairs:
        return nothing
    decayed = all(len(runs) > 1 for runs, _ in pairs)
    bare = [run for runs, baseline in pairs for run in (runs[-1], baseline) if not run["curve"]["nats"]]
    if bare and not decayed:
        return {**nothing, "steps_to_baseline_note": f"no curve of {bare[0]['arm']}, seed {bare[0]['seed']}, is stored"}
    found: list[tuple[float, bool]] = []
    for runs, baseline in pairs:
        points = decayed_points(runs, own) if decayed else curve_points(runs[-1], own)
        target = cost_of(baseline, their_own).nats_per_token if decayed else curve_points(baseline, their_own)[-1][1]
        crossing = first_crossing(points, target)
        if crossing is None:
            value = with_error(target)
            note = f"seed {baseline['seed']} does not reach the baseline's {value} nats"
            return {**nothing, "steps_to_baseline_note": note}
        found.append(crossing)
    how = {"how": DECAYED if decayed else UNDECAYED, "decayed": decayed, "at_most": not decayed}
    if any(at_first for _, at_first in found):
        how |= {"how": f"{how['how']}; at most, since the first point is past it already", "at_most": True}
    steps = [steps for steps, _ in found]
    per_step = [(_per_step(runs[-1]), _per_step(baseline), baseline["num_steps"]) for runs, baseline in pairs]
    costs = {
        "steps_to_baseline": _summary("steps", steps, [b["num_steps"] for _, b in pairs], how),
        "tokens_to_baseline": _summary(
            "tokens",
            [s * runs[-1]["num_tokens"] / runs[-1]["num_steps"] for s, (runs, _) in zip(steps, pairs, strict=True)],
            [float(baseline["num_tokens"]) for _, baseline in pairs],
            how,
        ),
    }
    timed = [(s * mine_s, theirs_s * n) for s, (mine_s, theirs_s, n) in zip(steps, per_step, strict=True) if theirs_s]
    seconds = None
    if timed and len(timed) == len(steps):
        seconds = _summary("gpu_seconds", [one for one, _ in timed], [other for _, other in timed], how)
    return {**nothing, **costs, "gpu_seconds_to_baseline": seconds}


def seed_runs(runs: Sequence[Run], seed: int) -> list[Run]:
    """An arm's runs of one seed by their share of the budget, the full one last; none where the full one is missing."""
    chosen = sorted((run for run in runs if run["seed"] == seed), key=lambda run: run["share"])
    return chosen if chosen and chosen[-1]["share"] == 1 else []


def final_of(run: Run) -> Evaluation:
    """The final evaluation of a run that is done."""
    return Evaluation.from_json(run["final"], source=f"results.json ({run['arm']}, seed {run['seed']})")


def cost_of(run: Run, bound: Bound) -> Cost:
    """One of the two bounds of its final evaluation."""
    final = final_of(run)
    if bound == "ppl_u":
        return final
    assert final.schedule is not None
    return final.schedule


def decayed_points(runs: Sequence[Run], bound: Bound) -> list[Point]:
    return [(run["num_steps"], cost_of(run, bound).nats_per_token) for run in runs]


def curve_points(run: Run, bound: Bound) -> list[Point]:
    curve = run["curve"]
    nats = curve["schedule_nats"] if bound == "ppl_s" and curve["schedule_nats"] else curve["nats"]
    return [(step, value) for step, value in zip(curve["step"], nats, strict=True) if value is not None]


def first_crossing(points: Sequence[Point], target: float) -> tuple[float, bool] | None:
    """Where the line through the points, over log steps, first comes down to the target.

    Returns the steps, and whether the first point is at or below the target already; None where no point is.
    """
    for index, (steps, nats) in enumerate(points):
        if nats > target:
            continue
        if index == 0:
            return steps, True
        before_steps, before = points[index - 1]
        share = (before - target) / (before - nats)
        return math.exp(math.log(before_steps) + share * (math.log(steps) - math.log(before_steps))), False
    return None


def _per_step(run: Run) -> float:
    """Seconds of a step: as timed alone before the runs, or else as the run took."""
    if run["calibration"] is not None:
        return run["calibration"]["seconds_per_step"]
    return run["seconds_per_step"] or 0.0


def _summary(unit: str, values: list[float], whole: list[float], how: dict[str, Any]) -> dict[str, Any]:
    shares = mean_with_interval([value / all_ for value, all_ in zip(values, whole, strict=True)])
    return {
        unit: sum(values) / len(values),
        "share": shares.value,
        "interval95": shares.interval95,
        "num_seeds": shares.num,
        **how,
    }
