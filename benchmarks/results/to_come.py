"""Tables of measurements whose file may not be there yet: then the command that makes it stands in their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.results.markdown import arm_name, nats, table
from benchmarks.results.stored import FOLDER, Number, Run, mean_of, runs_in, stored

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


TABLES_TO_COME: Mapping[str, Callable[..., str]] = {"adapted": adapted, "sweep": sweep}
