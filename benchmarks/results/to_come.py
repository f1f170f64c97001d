"""Tables of measurements whose file may not be there yet: then the command that makes it stands in their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from benchmarks.results.budgets import NAMES, amount, by_budget, not_measured_yet, tokens_of, trend
from benchmarks.results.glue import glue
from benchmarks.results.markdown import LIKELIHOODS, arm_name, arm_of, interval, less, mean_cell, nats, table
from benchmarks.results.novels import arms_of
from benchmarks.results.stored import FOLDER, OWN, Number, Run, difference_of, mean_of, numbers_of, runs_in, stored
from benchmarks.results.zero_shot import zero_shot

from mdlm_atat.formats import counted, with_error
from mdlm_atat.scoring.statistics import mean_with_interval

NAMED_BY_RATE = re.compile(r"(\w+?)_(muon|adamw)_([\d_]+e-\d)")
ARM_NAMES = {"times": "time_sampling_only"}
OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon"}


def sweep(file: str) -> str:
    """Learning rates: an experiment whose arms are called METHOD_OPTIMIZER_RATE, a point in the rate written as _."""
    missing = not_measured_yet({file: f"{_command(file)} --processes 6"})
    if not (FOLDER / file).exists():
        return missing
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
    shown = table(["", *(f"{OPTIMIZERS[optimizer]} {_short(rate)}" for optimizer, rate in columns)], rows)
    return "\n\n".join(filter(None, [shown, missing]))


def _command(file: str) -> str:
    return f"atat experiment run docs/results/{file.removesuffix('.json')}.yaml"


def experiment(file: str) -> str:
    """The arms of one experiment: what a token costs in each likelihood that was measured, and the difference to the
    baseline, or to the first arm that has such a likelihood where the baseline has none, paired by seed; and what is
    missing."""
    missing = not_measured_yet({file: _command(file)})
    if not (FOLDER / file).exists():
        return missing
    content = stored(file)
    arms = arms_of(file)
    shown = [arm for arm in content["arms"] if arm in arms]
    columns: dict[str, str] = {}
    for column in NAMES:
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
    names = [name for column, base in columns.items() for name in (_named(column), f"minus {arm_name(base)}")]
    return "\n\n".join(filter(None, [table(["", "seeds", "tokens", *names], rows), missing]))


def _named(column: str) -> str:
    return LIKELIHOODS.get(column, NAMES[column])


def own_orders(file: str) -> str:
    """What text costs in the own orders of one experiment's arms, by sampler and evaluations, and the difference of
    each sampler to `spread`, paired by seed; and what is missing."""
    missing = not_measured_yet({file: _command(file)})
    if not (FOLDER / file).exists():
        return missing
    content, rows = stored(file), []
    arms = arms_of(file)
    for arm in [arm for arm in content["arms"] if arm in arms]:
        columns = {name for run in arms[arm] for name in run.numbers if name.startswith(OWN)}
        asked = [(int(name.removeprefix(OWN).partition(" ")[0]), name) for name in columns]
        for evaluations, name in sorted(asked):
            sampler, spread = name.partition(" ")[2], f"{OWN}{evaluations}"
            mine, its = numbers_of(arms[arm], name), numbers_of(arms[arm], spread)
            pairs = [mine[seed].value - its[seed].value for seed in mine if seed in its] if sampler else []
            less_than_spread = nats(mean_with_interval(pairs), sign=True) if pairs else ""
            cell = mean_cell(arms[arm], name)
            rows.append([arm_name(arm), f"`{sampler or 'spread'}`", str(evaluations), cell, less_than_spread])
    shown = table(["", "order", "evaluations", "nats per token", "minus `spread`"], rows)
    return "\n\n".join(filter(None, [shown, missing]))


FILL_IN = {
    "fill-in-novels.json": "python -m benchmarks.fill_in runs/novels-seconds/runs/{mdlm,atat}/seed-4 "
    "runs/novels-seconds/runs/causal/seed-3 --judge runs/novels-seconds/runs/causal/seed-4 --spans 1 4 16 "
    "--out docs/results/fill-in-novels.json",
    "fill-in-code.json": "python -m benchmarks.fill_in runs/fresh-120s/runs/{mdlm,atat}/seed-0 "
    "--judge runs/fresh-120s/runs/causal/seed-0 --spans 1 4 16 line --out docs/results/fill-in-code.json",
}


def filled_in(file: str) -> str:
    """What benchmarks.fill_in stored: means over the runs that differ in their seed alone, with the error over them; of
    one run the error over the gaps, and Wilson's interval of its exact matches."""
    if not (FOLDER / file).exists():
        return f"Not measured yet: `{FILL_IN[file]}`."
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for point in stored(file)["points"]:
        groups.setdefault((arm_of(point["run"]), point["given"], str(point["gap"])), []).append(point)
    rows = []
    for (arm, given, gap), points in groups.items():
        numbers = [
            _over_seeds(points, name, error, decimals, factor)
            for name, error, decimals, factor in (
                ("token_accuracy", "token_accuracy_error", 1, 100),
                ("judge_more_nats", "judge_more_error", 3, 1),
                ("evaluations", None, 1, 1),
            )
        ]
        exact = _over_seeds(points, "exact", None, 1, 100)
        if len(points) == 1:
            exact += " [{:.1f}, {:.1f}]".format(*(100 * end for end in points[0]["exact_interval95"]))
        gap = "a line" if gap == "line" else counted(int(gap), "token")
        rows.append([arm_name(arm), given, gap, exact, *numbers])
    names = ["exact match, %", "tokens right, %", "judge, more nats a token", "evaluations"]
    return table(["", "given", "gap", *names], rows)


def _over_seeds(points: Sequence[Mapping[str, Any]], name: str, error: str | None, decimals: int, factor: float) -> str:
    found = mean_with_interval([factor * point[name] for point in points])
    own = None if error is None or len(points) > 1 else factor * points[0][error]
    return with_error(found.value, own if len(points) == 1 else found.standard_error, decimals=decimals)


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
        label = NETWORKS[name.partition(",")[0]]
        if name.startswith("two_ways") and run is not None:
            label += f", {Fraction(run['causal_share']).limit_denominator(8)} of the rows left to right"
        rows.append([label, *how, *numbers])
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
    "filled_in": filled_in,
    "glue": glue,
    "own_orders": own_orders,
    "sweep": sweep,
    "trend": trend,
    "zero_shot": zero_shot,
}
