"""Tables of measurements whose file may not be there yet: then the command that makes it stands in their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.results.budgets import amount, by_budget, tokens_of, trend
from benchmarks.results.markdown import arm_name, interval, less, mean_cell, nats, table
from benchmarks.results.novels import by_arm
from benchmarks.results.stored import FOLDER, Number, Run, difference_of, mean_of, runs_in, stored

NAMED_BY_RATE = re.compile(r"(\w+?)_(muon|adamw)_([\d_]+e-\d)")
ARM_NAMES = {"times": "time_sampling_only"}
OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon"}


def sweep(file: str) -> str:
    """Learning rates: an experiment whose arms are called METHOD_OPTIMIZER_RATE, a point in the rate written as _."""
    if not (FOLDER / file).exists():
        return f"Not measured yet: `atat experiment run docs/results/{file.removesuffix('.json')}.yaml --processes 6`."
    found: dict[tuple[str, str, float], list[Run]] = {}
    for run in runs_in(stored(file)["runs"]):
        named = NAMED_BY_RATE.fullmatch(run.arm)
        if named is None:
            raise ValueError(f"arm {run.arm!r} is not called METHOD_OPTIMIZER_RATE")
        method, optimizer, rate = named.groups()
        found.setdefault((ARM_NAMES.get(method, method), optimizer, float(rate.replace("_", "."))), []).append(run)
    columns = sorted({(optimizer, rate) for _, optimizer, rate in found})
    rows = []
    for column in ("any_order", "left_to_right"):
        for method in dict.fromkeys(method for method, _, _ in found):
            cells = [nats(mean_of(found.get((method, *at), []), column)) for at in columns]
            if any(cells):
                rows.append([f"{arm_name(method)}, {column.replace('_', ' ')}", *cells])
    return table(["", *(f"{OPTIMIZERS[optimizer]} {_short(rate)}" for optimizer, rate in columns)], rows)


def experiment(file: str) -> str:
    """The arms of one experiment: what a token costs in each likelihood, and the difference to the baseline, or to the
    first reference arm where the baseline has no such likelihood, paired by seed."""
    if not (FOLDER / file).exists():
        return f"Not measured yet: `atat experiment run docs/results/{file.removesuffix('.json')}.yaml`."
    content = stored(file)
    arms = by_arm(runs_in(content["runs"]))
    shown = [arm for arm in content["arms"] if arm in arms]
    columns: dict[str, str] = {}
    for column in ("any_order", "left_to_right"):
        having = [arm for arm in [content["baseline"], *content["reference"], *shown] if arm in arms]
        first = next((arm for arm in having if mean_of(arms[arm], column) is not None), None)
        if first is not None:
            columns[column] = first
    rows = []
    for arm in shown:
        cells = [arm_name(arm), str(len(arms[arm])), amount(tokens_of(arms[arm]))]
        for column, base in columns.items():
            found = None if arm == base else difference_of(arms[arm], arms[base], column)
            beside = (
                "" if found is None else f"{nats(found, sign=True)} {interval(found)}".rstrip() + f" ({less(found)})"
            )
            cells += [mean_cell(arms[arm], column), beside]
        rows.append(cells)
    names = [name for column, base in columns.items() for name in (LIKELIHOODS[column], f"minus {arm_name(base)}")]
    return table(["", "seeds", "tokens", *names], rows)


LIKELIHOODS = {"any_order": "any order, at most", "left_to_right": "left to right"}


def _short(rate: float) -> str:
    return re.sub(r"\.?0*e-0?", "e-", f"{rate:.1e}")


def adapted(file: str) -> str:
    """What benchmarks.adapt_causal stored: a pretrained causal network, and what further training makes of it."""
    content = stored(file)
    orders = {"left to right": "left to right", "any order (PPL-U)": "any order", EVALUATIONS_64: "own order, 64"}
    orders = {
        order: name for order, name in orders.items() if any(order in each for each in content["evaluate"].values())
    }
    rows = []
    for name, found in content["evaluate"].items():
        run = content.get(name) if name != "start" else None
        how = ["", "", ""] if run is None else [_optimizer(run), f"{run['num_steps']:,}", f"{run['train_s']:.0f}"]
        numbers = [nats(Number(*found[order])) if order in found else "" for order in orders]
        rows.append([NETWORKS[name.partition(",")[0]], *how, *numbers])
    return table(["", "optimizer", "steps", "s", *orders.values()], rows)


EVALUATIONS_64 = "own order of spread, 64 evaluations"
NETWORKS = {
    "start": "as published",
    "causal": "left to right alone",
    "two_ways": "both ways",
    "scratch": "both ways, from random weights",
}


def _optimizer(run: Mapping[str, Any]) -> str:
    return f"{OPTIMIZERS[run['optimizer']]} {_short(run['lr'])}"


TABLES_TO_COME: Mapping[str, Callable[..., str]] = {
    "adapted": adapted,
    "by_budget": by_budget,
    "experiment": experiment,
    "sweep": sweep,
    "trend": trend,
}
