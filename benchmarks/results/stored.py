"""What docs/results/*.json hold, as runs with numbers that have an error.

Runs are stored in one of two forms. `atat experiment` writes a list "runs" whose entries have an evaluation in `final`;
entries made by hand have the numbers themselves:

    {"arm": "atat", "seed": 0, "num_steps": 1500, "train_s": 61.1, "any_order": [4.0245, 0.005],
     "left_to_right": [3.6144, 0.0102], "own_order": {"16": [3.914, 0.0103]}}

with the value and its standard error, in nats per token. What a run does not have is left out. `train_s` is
left out too, or `shared_card` is true, where something else ran on the card.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mdlm_atat.scoring.records import Evaluation
from mdlm_atat.scoring.statistics import Mean, mean_with_interval

FOLDER = Path(__file__).parents[2] / "docs" / "results"
OWN = "own_order_"


@dataclass(frozen=True)
class Number:
    """Nats per token, and the standard error over the draws or sequences that it was measured on."""

    value: float
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    arm: str
    seed: int
    num_steps: int
    numbers: Mapping[str, Number]
    """By likelihood: any_order, own_schedule, left_to_right, own_order_16 (of `spread`), "own_order_16 dilated", ..."""
    train_s: float | None = None
    """Alone on its card; None where it was not, or that is not known."""
    tokens_per_s: float | None = None
    num_tokens: int | None = None
    """That it was trained on."""
    train_flops: float | None = None
    peak_memory_bytes: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    profile: tuple[float, ...] = ()
    """Nats per masked token, in tenths of the mask rate from 0 to 1; nothing where that is not stored."""
    tenths: tuple[float, ...] = ()
    """Nats per token, in tenths of the text from the rarest tokens to the commonest; nothing where it is not stored."""


@cache
def stored(name: str) -> Any:
    """The content of a file of docs/results."""
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def runs_in(entries: Iterable[Mapping[str, Any]]) -> list[Run]:
    """The finished runs of a list in either form. Raises ValueError where an arm has a seed twice at one length."""
    runs = [_of_experiment(entry) if "final" in entry else _by_hand(entry) for entry in entries if _finished(entry)]
    seen = [(run.arm, run.num_steps, run.seed) for run in runs]
    twice = {key for key in seen if seen.count(key) > 1}
    if twice:
        raise ValueError(
            f"stored twice: {', '.join(f'{arm}, {n} steps, seed {seed}' for arm, n, seed in sorted(twice))}"
        )
    return runs


def _finished(entry: Mapping[str, Any]) -> bool:
    return "final" not in entry or entry["final"] is not None


def _of_experiment(entry: Mapping[str, Any]) -> Run:
    final = Evaluation.from_json(entry["final"])
    costs = {"any_order": final} if final.is_bound else {}
    costs |= {"own_schedule": final.schedule, "left_to_right": final.left_to_right}
    for cost in final.own_orders:  # those of another sampler than `spread` have its name
        name = f"{OWN}{cost.num_steps or round(cost.evaluations)}"
        costs[name if cost.order == "spread" else f"{name} {cost.order}"] = cost
    return Run(
        arm=entry["arm"],
        seed=entry["seed"],
        num_steps=entry["num_steps"],
        numbers={k: Number(cost.nats_per_token, _known(cost.standard_error)) for k, cost in costs.items() if cost},
        train_s=None if entry.get("shared_card") else entry.get("train_seconds"),
        num_tokens=entry.get("num_tokens"),
        train_flops=entry.get("train_flops"),
        peak_memory_bytes=entry.get("peak_memory_bytes"),
        settings=entry.get("config") or {},
        profile=profile_of(entry["final"]),
        tenths=tuple((entry["final"].get("deciles") or {}).get("nats_per_token", ())),
    )


def profile_of(final: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple((final.get("profile") or {}).get("nats_per_masked_token", ()))


def _by_hand(entry: Mapping[str, Any]) -> Run:
    numbers = {name: Number(*entry[name]) for name in ("any_order", "left_to_right") if name in entry}
    for name, number in entry.get("own_order", {}).items():
        found = re.search(r"([\d.]+)(?: evaluations)?$", name)  # "16", or "own order of spread, 16 evaluations"
        if found is None:
            raise ValueError(f"{name!r} names no number of evaluations")
        numbers[f"{OWN}{math.ceil(float(found[1]))}"] = Number(*number)
    return Run(
        arm=entry.get("arm") or entry["method"],
        seed=entry["seed"],
        num_steps=entry["num_steps"],
        numbers=numbers,
        train_s=None if entry.get("shared_card") else entry.get("train_s"),
        num_tokens=entry.get("num_tokens"),
        tokens_per_s=None if entry.get("shared_card") else entry.get("tokens_per_s"),
        settings=entry.get("settings", {}),
    )


def _known(error: float) -> float | None:
    return None if math.isnan(error) else error


def numbers_of(runs: Iterable[Run], column: str) -> dict[int, Number]:
    """One likelihood of the runs that have it, by seed."""
    return {run.seed: run.numbers[column] for run in runs if column in run.numbers}


def mean_of(runs: Sequence[Run], column: str) -> Mean | None:
    """The mean over seeds and its standard error between them; of a single seed with the error over the draws. None
    where no run has it."""
    found = numbers_of(runs, column)
    if not found:
        return None
    if len(found) > 1:
        return mean_with_interval([number.value for number in found.values()])
    (number,) = found.values()
    return Mean(number.value, number.error, None, 1)


def difference_of(mine: Sequence[Run], theirs: Sequence[Run], column: str) -> Mean | None:
    """The mean of mine - theirs over the seeds that both have; None where there is none. A single pair has no error."""
    a, b = numbers_of(mine, column), numbers_of(theirs, column)
    pairs = [a[seed].value - b[seed].value for seed in a if seed in b]
    return mean_with_interval(pairs) if pairs else None
