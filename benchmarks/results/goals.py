"""What was to be shown, and whether it was: each goal by the numbers that are stored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.results.budgets import FILES, budgets
from benchmarks.results.markdown import nats, percent_interval, table
from benchmarks.results.novels import arms_of, equal_seconds_novels, novels, of_two_ways, older_novels
from benchmarks.results.parts import differences
from benchmarks.results.stored import FOLDER, OWN, Run, difference_of, mean_of

from mdlm_atat.scoring.statistics import Mean


@dataclass(frozen=True)
class Found:
    measured: str
    reached: str


def not_measured(command: str) -> Found:
    return Found(f"not measured: `{command}`", "open")


SECONDS = "atat experiment run docs/results/novels-seconds.yaml"
AT_EQUAL_SECONDS = [*FILES["novels"], *FILES["code"], "size.json"]
OWN_ORDERS = "atat eval RUN --order spread --evaluations 16 64 256` of the runs of `novels-seconds.yaml"


def goals() -> str:
    """A row a goal."""
    found = [(goal.goal, goal.found()) for goal in GOALS]
    return table(["goal", "measured", "reached"], [[goal, one.measured, one.reached] for goal, one in found])


def _yes(is_reached: bool) -> str:
    return "yes" if is_reached else "no"


def _at_most(found: Mean, most: float) -> Found:
    """Whether a change of perplexity is at most that, with its whole interval or in the mean alone. One pair has no
    interval, and can reach a goal in the mean only."""
    worst = math.inf if found.interval95 is None else found.interval95[1]
    in_mean = "in the mean" if math.expm1(found.value) <= most else "no"
    return Found(_with_interval(found), "yes" if worst <= math.log1p(most) else in_mean)


def _at_equal_seconds(column: str, base: str, most: float, command: str) -> Found:
    """The change of perplexity from the baseline to `atat`."""
    arms = equal_seconds_novels()
    found = difference_of(arms.get("atat", []), arms.get(base, []), column)
    return not_measured(command) if found is None else _at_most(found, most)


def _with_interval(found: Mean) -> str:
    mean = f"{100 * math.expm1(found.value):+.1f}%"
    if found.interval95 is None:
        return f"{mean}, one pair"
    return f"{mean} {percent_interval(found)}, {found.num} pairs"


def _near_causal() -> Found:
    found = difference_of(older_novels()["atat"], older_novels()["causal"], "left_to_right")
    return not_measured(SECONDS) if found is None else _at_most(found, 0.02)


def _nats_at_most(columns: Mapping[str, float]) -> Found:
    """Whether `atat` after 1,500 steps costs at most so many nats, in each likelihood with its whole interval or in the
    mean alone."""
    measured, reached = [], []
    for column, most in columns.items():
        found = mean_of(older_novels()["atat"], column)
        if found is None:
            return not_measured(OWN_ORDERS)
        measured.append(nats(found))
        whole = found.interval95 is not None and found.interval95[1] <= most
        reached.append("yes" if whole else "in the mean" if found.value <= most else "no")
    return Found(" and ".join(measured), max(reached, key=["yes", "in the mean", "no"].index))


def _share_of_seconds() -> Found:
    slow, fast = of_two_ways("long", lambda entry: "timed_in_one_call" in entry)
    share = fast["train_s"] / slow["train_s"]
    return Found(
        f"{fast['train_s']:.1f} s of {slow['train_s']:.1f} ({100 * share:.0f}%), `two_way`, one seed",
        _yes(share <= 0.1),
    )


def _share_to_largest(text: str) -> Found:
    """After which share of its seconds `atat` is where `mdlm` ends at the largest budget of a text: between two budgets
    on the straight line over log seconds."""
    file, command = list(FILES[text].items())[-1]
    arms = budgets(text) if (FOLDER / file).exists() else [{}]
    goal, whole_s = mean_of(arms[-1].get("mdlm", []), "any_order"), _seconds(arms[-1].get("mdlm", []))
    ends = [(_seconds(each.get("atat", [])), mean_of(each.get("atat", []), "any_order")) for each in arms]
    points = [(seconds, found.value) for seconds, found in ends if seconds is not None and found is not None]
    if goal is None or whole_s is None or not points:
        return not_measured(command)
    first_s, first = points[0]
    if first <= goal.value:
        return Found(f"at most {100 * first_s / whole_s:.0f}%", "yes" if first_s / whole_s <= 1 / 3 else "open")
    for (before_s, before), (after_s, after) in itertools.pairwise(points):
        if before > goal.value >= after:
            share = before_s * (after_s / before_s) ** ((before - goal.value) / (before - after)) / whole_s
            return Found(f"{100 * share:.0f}%", _yes(share <= 1 / 3))
    share = points[-1][0] / whole_s
    return Found(f"more than {100 * share:.0f}%", "no" if share >= 1 / 3 else "open")


def _seconds(runs: Sequence[Run]) -> float | None:
    known = [run.train_s for run in runs if run.train_s is not None]
    return sum(known) / len(known) if known else None


def _of_code(file: str, column: str, base: str, most: float) -> Found:
    """The change of perplexity from the baseline to `atat` at one budget of code."""
    if not (FOLDER / file).exists():
        return not_measured(FILES["code"][file])
    arms = arms_of(file)
    found = difference_of(arms.get("atat", []), arms.get(base, []), column)
    return not_measured(FILES["code"][file]) if found is None else _at_most(found, most)


def _few_evaluations() -> Found:
    few, any_order = mean_of(novels()["atat"], f"{OWN}16"), mean_of(novels()["atat"], "any_order")
    if few is None or any_order is None:
        return not_measured(SECONDS)
    text = f"{nats(few)} nats exactly with 16, {nats(any_order)} with 256 in the mean over random orders"
    return Found(text, _yes(few.value <= any_order.value))


def _rare_tokens(*files: str) -> Found:
    """The rarest three tenths and the total, in the mean over paired seeds, in experiments where an arm called atat was
    run beside mdlm, which was importance_rates in the older ones."""
    worse = [file for file in files if any(mean.value >= 0 for mean in _tenths_and_total(file))]
    told = f"; not in {', '.join(f'`{file}`' for file in worse)}" if worse else ""
    return Found(f"better in {len(files) - len(worse)} of {len(files)}, the total too{told}", _yes(not worse))


def _tenths_and_total(file: str) -> list[Mean]:
    return differences(arms_of(file), "atat", "mdlm", lambda run: (*run.tenths[:3], run.numbers["any_order"].value))


@dataclass(frozen=True)
class Goal:
    goal: str
    found: Callable[[], Found]


GOALS = [
    Goal(
        "any order at least 15% below `mdlm` at equal seconds, Muon in both",
        lambda: _at_equal_seconds("any_order", "mdlm", -0.15, SECONDS),
    ),
    Goal(
        "own order with 16 evaluations at least 15% below `mdlm`'s",
        lambda: _at_equal_seconds(f"{OWN}16", "mdlm", -0.15, OWN_ORDERS),
    ),
    Goal("any order at most 4.05 nats, 1,500 steps", lambda: _nats_at_most({"any_order": 4.05})),
    Goal(
        "own order at most 3.97 nats with 16 evaluations and 3.87 with 256, 1,500 steps",
        lambda: _nats_at_most({f"{OWN}16": 3.97, f"{OWN}256": 3.87}),
    ),
    Goal("left to right at most 2% above the causal network, 1,500 steps", _near_causal),
    Goal("the same at equal seconds", lambda: _at_equal_seconds("left_to_right", "causal", 0.02, SECONDS)),
    Goal("a tenth of the seconds to what `mdlm` with AdamW ends 393M tokens at", _share_of_seconds),
    Goal(
        "a third of the seconds to what `mdlm` ends 400M tokens of novels at, Muon in both",
        lambda: _share_to_largest("novels"),
    ),
    Goal("the same at 200M tokens of fresh text", lambda: _share_to_largest("code")),
    Goal("16 times fewer evaluations at equal quality, without a judge (novels, 100M tokens)", _few_evaluations),
    Goal(
        "the rarest three tenths of tokens better than with `mdlm` at equal seconds, all no worse, at each budget",
        lambda: _rare_tokens(*(file for file in AT_EQUAL_SECONDS if (FOLDER / file).exists())),
    ),
    Goal(
        "the same of `importance_rates`, in three experiments, two of them at equal steps",
        lambda: _rare_tokens("wikitext-2.json", "wiki27.json", "wiki27-seconds.json"),
    ),
    Goal(
        "any order at least 15% below `mdlm` after 100M tokens of fresh text",
        lambda: _of_code("fresh-seconds.json", "any_order", "mdlm", -0.15),
    ),
    Goal(
        "any order at least 10% below `mdlm` after 200M tokens of fresh text",
        lambda: _of_code("fresh-120s.json", "any_order", "mdlm", -0.10),
    ),
    Goal(
        "own order with 16 evaluations at least 15% below `mdlm`'s there",
        lambda: _of_code("fresh-120s.json", f"{OWN}16", "mdlm", -0.15),
    ),
    Goal(
        "left to right at most 2% above the causal network there",
        lambda: _of_code("fresh-120s.json", "left_to_right", "causal", 0.02),
    ),
]
