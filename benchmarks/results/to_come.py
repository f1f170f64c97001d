"""Tables of measurements whose file may not be there yet: then the command that makes it stands in their place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from benchmarks.results.markdown import arm_name, nats, table
from benchmarks.results.stored import FOLDER, Number, Run, mean_of, runs_in, stored

NAMED_BY_RATE = re.compile(r"(\w+?)_(muon|adamw)_([\d_]+e-\d)")
ARM_NAMES = {"times": "time_sampling_only"}
OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon"}


def sweep(file: str) -> str:
    """Learning rates: an experiment whose arms are called METHOD_OPTIMIZER_RATE, a point in the rate written as _."""
    if not (FOLDER / file).exists():
        return f"Not measured yet: `atat experiment run docs/results/{file.removesuffix('.json')}.yaml`."
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
    """What benchmarks.adapt_causal stored: a pretrained causal network, and what the same seconds make of it."""
    if not (FOLDER / file).exists():
        return "Not measured yet: `python -m benchmarks.adapt_causal START TEXT --out FOLDER`."
    content = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    names = {
        "start": "before",
        "causal": "left to right alone",
        "two_ways": "both ways",
        "scratch": "both, random start",
    }
    likelihoods = dict.fromkeys(
        name for found in content["evaluate"].values() for name, number in found.items() if _is_likelihood(name, number)
    )
    rows = []
    for name, shown in names.items():
        if name in content["evaluate"]:
            found, run = content["evaluate"][name], content.get(name, {})
            steps = f"{run['num_steps']:,}" if isinstance(run, dict) and run else ""
            cells = [nats(Number(*found[each])) if each in found else "" for each in likelihoods]
            rows.append([shown, *cells, steps])
    return table(["", *likelihoods, "steps"], rows)


def _is_likelihood(name: str, number: object) -> bool:
    return isinstance(number, list) and "less" not in name


TABLES_TO_COME: Mapping[str, Callable[..., str]] = {"adapted": adapted, "sweep": sweep}
