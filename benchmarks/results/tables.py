"""The tables of the page on results, of the report and of the README."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.results.goals import goals
from benchmarks.results.markdown import (
    arm_name,
    interval,
    less,
    mean_cell,
    memory,
    nats,
    operations,
    perplexity,
    seconds,
    steps,
    table,
)
from benchmarks.results.novels import equal_seconds_novels, novels
from benchmarks.results.stored import FOLDER, OWN, Number, Run, difference_of, mean_of, stored

from mdlm_atat.formats import p_value as p_text
from mdlm_atat.formats import with_error
from mdlm_atat.scoring.statistics import Mean, p_value

ORDERS = {
    "any_order": "any order, at most",
    "left_to_right": "left to right",
    f"{OWN}16": "own order, 16",
    f"{OWN}64": "64",
    f"{OWN}256": "256 evaluations",
}
FIRST = ["mdlm, AdamW", "mdlm", "time_sampling_only, AdamW", "time_sampling_only", "importance_rates, AdamW"]
LAST = ["two_way", "atat", "causal"]
NOT_SHOWN = ["frequency_only, AdamW", "learned_only, AdamW", "1/2", "3/4", "told the time"]
NOT_SHOWN += ["5/8 without QK-norm", "causal without QK-norm"]
"""Ablations, which the log has."""


def shown_arms(which: str) -> dict[str, list[Run]]:
    """The arms of the main table in its order, after so many steps or, with `seconds`, of the experiment at equal
    seconds. What was added to the files comes before two ways."""
    arms = equal_seconds_novels() if which == "seconds" else novels(int(which))
    more = [arm for arm in arms if arm not in (*FIRST, *LAST, *NOT_SHOWN)]
    return {arm: arms[arm] for arm in [*FIRST, *more, *LAST] if arm in arms}


def comparison(which: str = "1500") -> str:
    """Every arm by every likelihood that any of them has, means over seeds."""
    arms = shown_arms(which)
    columns = [column for column in ORDERS if any(_has(runs, column) for runs in arms.values())]
    costs = {"steps": steps, "s": seconds}
    if which == "seconds":
        costs |= {"10^15 operations": operations, "GiB": memory}
    rows = [
        [arm_name(arm), str(len(runs)), *(mean_cell(runs, column) for column in columns)]
        + [cost(runs) for cost in costs.values()]
        for arm, runs in arms.items()
    ]
    return table(["method", "seeds", *(ORDERS[column] for column in columns), *costs], rows)


def perplexities(*arms: str) -> str:
    """Those of the arms that are stored, as perplexities, the lowest of each column in bold."""
    columns = ["any_order", f"{OWN}64", "left_to_right"]
    found = {arm: [mean_of(novels()[arm], column) for column in columns] for arm in arms if arm in novels()}
    lowest = [min(mean.value for mean in column if mean is not None) for column in zip(*found.values(), strict=True)]
    rows = [
        [arm_name(arm), *(_bold(perplexity(mean), mean, low) for mean, low in zip(means, lowest, strict=True))]
        for arm, means in found.items()
    ]
    return table(["trained by", "any order, at most", "own order, 64 evaluations", "left to right"], rows)


def _bold(text: str, mean: Mean | None, lowest: float) -> str:
    return f"**{text}**" if mean is not None and mean.value == lowest else text


def own_bounds(*lengths: str) -> str:
    """The perplexity that each method's own bound is: under its schedule where it has one."""
    arms = shown_arms(lengths[0])
    rows = []
    for arm in (arm for arm, runs in arms.items() if _has(runs, "any_order")):
        runs = [novels(int(length)).get(arm, []) for length in lengths]
        means = [mean_of(each, "own_schedule") or mean_of(each, "any_order") for each in runs]
        rows.append([arm_name(arm), *(perplexity(mean) or "not run" for mean in means)])
    return table(["", *(f"{int(length):,} steps" for length in lengths)], rows)


def leads(which: str = "1500") -> str:
    """Differences to the baseline that has the same likelihood, paired by seed. A baseline with Muon is compared with
    no method that has AdamW."""
    arms = shown_arms(which)
    baselines = {"any_order": ["mdlm, AdamW", "mdlm"], f"{OWN}16": ["mdlm"], "left_to_right": ["causal"]}
    rows = []
    for column, names in baselines.items():
        for base in (name for name in names if name in arms):
            for arm in (arm for arm in arms if arm != base and (_has_adamw(base) or not _has_adamw(arm))):
                found = difference_of(arms[arm], arms[base], column)
                if found is not None:
                    rows.append([ORDERS[column], arm_name(arm), arm_name(base), *_difference_cells(found)])
    return table(["likelihood", "method", "against", "pairs", "nats", "95% interval", "perplexity", "p"], rows)


def _has_adamw(arm: str) -> bool:
    return arm.endswith(", AdamW")


def _difference_cells(found: Mean) -> list[str]:
    p = p_value(found)
    return [str(found.num), nats(found, sign=True), interval(found), less(found), "" if p is None else _p(p)]


def _p(p: float) -> str:
    return p_text(p).removeprefix("p ").removeprefix("= ")


def by_length(column: str = "any_order") -> str:
    """One likelihood at every length of training that at least two arms have."""
    lengths = [
        n for n in (500, 750, 1500, 3000, 4500, 6000) if sum(_has(runs, column) for runs in novels(n).values()) > 1
    ]
    arms = [arm for arm in shown_arms("1500") if sum(_has(novels(n).get(arm, []), column) for n in lengths) > 1]
    rows = [[arm_name(arm), *(mean_cell(novels(n).get(arm, []), column) for n in lengths)] for arm in arms]
    return table(["method", *(f"{n:,} steps" for n in lengths)], rows)


def _has(runs: Sequence[Run], column: str) -> bool:
    return mean_of(runs, column) is not None


WRITING = {
    f"writing-{length}.json": "atat samplers bench runs/novels-120s/runs/atat/seed-0 --judge "
    "runs/novels-120s/runs/causal/seed-0 --samplers spread dilated segments first_hitting ancestral entropy_budget "
    f"entropy_budget:gamma=1 entropy_budget:gamma=5 remask left_to_right --length {length} {how} --compile --mauve "
    f"--out docs/results/writing-{length}.json"
    for length, how in {
        256: "--steps 16 64 256 --num_texts 256 --num_scored 32 --batch_size 256",
        1024: "--steps 4 16 64 --num_texts 64 --num_scored 8 --batch_size 64",
    }.items()
}


def writing(file: str, *more: str) -> str:
    """Texts written from nothing: what a judge pays, what the text costs in the sampler's own order, its entropy; and
    of `more` what is asked for: mauve, and seconds, all texts together."""
    if not (FOLDER / file).exists():
        return f"Not measured yet: `{WRITING[file]}`."
    content = stored(file)
    rows = [
        [
            _writer(point),
            f"{point['nfe_mean']:.0f}",
            *_quality(point, more),
            *([f"{point['seconds']:.1f}"] if "seconds" in more else []),
        ]
        for point in content["points"]
    ]
    rows.append(["validation text", "", *_quality(content["real"], more), *([""] if "seconds" in more else [])])
    titles = ["MAUVE"] * ("mauve" in more) + ["s"] * ("seconds" in more)
    return table(["", "evaluations", "judge", "own order, of validation text", "entropy", *titles], rows)


def _quality(found: Mapping[str, Any], more: Sequence[str]) -> list[str]:
    own = found.get("order_nats")
    cells = [
        nats(Number(found["judge_nats"], found["judge_error"])),
        "" if own is None else "at most " * (found["order_kind"] == "bound") + nats(Number(own, found["order_error"])),
        f"{found['entropy_nats']:.3f}",
    ]
    mauve = found.get("mauve")
    return cells + (
        [with_error(mauve, found["mauve_spread"], decimals=3) if mauve is not None else ""] if "mauve" in more else []
    )


def _writer(point: Mapping[str, Any]) -> str:
    name = f"`{point['sampler']}`"
    return f"{name}, one at a time" if point["sampler"] == "first_hitting" and point["steps"] is None else name


def judge(num_steps: str, task: str) -> str:
    """What a judge pays for the texts of some samplers, by network evaluations, of the model of so many steps."""
    points = stored("samplers-novels.json")[f"{num_steps} steps"][task]["points"]
    samplers = [name for name in SAMPLER_NAMES if any(point["sampler"] == name for point in points)]
    alone = next(point for point in points if point["sampler"] == "first_hitting" and point["steps"] is None)
    asked = sorted({point["steps"] for point in points if point["sampler"] == samplers[0]} - {None})
    rows = []
    for sampler in samplers:
        mine = {point["steps"]: f"{point['judge_nats']:.2f}" for point in points if point["sampler"] == sampler}
        last = f"{alone['judge_nats']:.2f}" if sampler.startswith("first_hitting") else ""
        rows.append([SAMPLER_NAMES[sampler], *(mine.get(steps, "") for steps in asked), last])
    return table(["evaluations", *map(str, asked), f"{alone['nfe_mean']:.0f}: one at a time"], rows)


SPREAD = "uncertainty:amount=constant,spread=true"
SAMPLER_NAMES = {
    "first_hitting:sizes=constant": "`first_hitting`",
    SPREAD: "`spread`",
    SPREAD.replace("amount", "score=margin,amount"): "the same, score=margin",
    SPREAD.replace("amount", "score=max_probability,amount"): "the same, score=max_probability",
    SPREAD.replace(
        "amount", "order=most_uncertain,amount"
    ): "the same, order=most_uncertain (ATAT's first description)",
}


TABLES: Mapping[str, Callable[..., str]] = {
    "by_length": by_length,
    "comparison": comparison,
    "goals": goals,
    "judge": judge,
    "leads": leads,
    "own_bounds": own_bounds,
    "perplexities": perplexities,
    "writing": writing,
}
