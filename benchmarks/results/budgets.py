"""What longer training does to the methods and to their leads: experiments at several budgets on the same text."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from benchmarks.results.markdown import arm_name, interval, less, mean_cell, nats, table
from benchmarks.results.novels import arms_of, older_novels
from benchmarks.results.stored import FOLDER, OWN, Run, difference_of, numbers_of, runs_in, stored
from benchmarks.results.trend import Line, fitted

from mdlm_atat.formats import counted

Arms = Mapping[str, Sequence[Run]]
GRIDS = FOLDER
NOVELS = "atat experiment run docs/results/novels-seconds.yaml"
FRESH = "atat experiment run docs/results/fresh-seconds.yaml"
FILES = {
    "novels": {
        "novels-30s.json": f"{NOVELS} --budget gpu_seconds=30 --seeds 0 1 --out runs/novels-30s",
        "novels-seconds.json": NOVELS,
        "novels-120s.json": f"{NOVELS} --budget gpu_seconds=120 --seeds 0 1 --out runs/novels-120s",
        "novels-240s.json": f"{NOVELS} --budget gpu_seconds=240 --seeds 0 1 --out runs/novels-240s",
    },
    "code": {
        "fresh-30s.json": f"{FRESH} --budget gpu_seconds=30 --out runs/fresh-30s",
        "fresh-seconds.json": FRESH,
        "fresh-120s.json": f"{FRESH} --budget gpu_seconds=120 --out runs/fresh-120s",
    },
}
"""By text the file of each budget and the command that it is taken from."""
NAMES = {
    "any_order": "any order",
    f"{OWN}16": "own order, 16",
    f"{OWN}64": "own order, 64",
    "left_to_right": "left to right",
}
COMPARED = [
    *(
        (column, *pair)
        for column in list(NAMES)[:3]
        for pair in (("time_sampling_only", "mdlm"), ("atat", "mdlm"), ("atat", "time_sampling_only"))
    ),
    ("left_to_right", "atat", "causal"),
]
FITTED = [one for one in COMPARED if one[0] in ("any_order", "left_to_right") and one[2] != "time_sampling_only"]
FITTED += [(f"{OWN}16", "atat", "mdlm")]
"""The leads that a line is laid through."""
OLDER = [("any_order", f"{arm}, AdamW", "mdlm, AdamW") for arm in ("time_sampling_only", "importance_rates")]
"""What two lengths of training are stored of from before; see `novels`."""


@dataclass(frozen=True)
class Lead:
    """An arm against another one in one likelihood, over budgets."""

    text: str
    column: str
    arm: str
    against: str

    def pairs(self) -> list[tuple[float, float]]:
        """(tokens of the other arm, difference in nats) of each seed that both have, at each budget."""
        found = []
        for arms in budgets(self.text):
            mine, theirs = (numbers_of(arms.get(arm, []), self.column) for arm in (self.arm, self.against))
            seeds = mine.keys() & theirs.keys()
            if seeds:
                tokens = tokens_of(arms[self.against])
                found += [(tokens, mine[seed].value - theirs[seed].value) for seed in sorted(seeds)]
        return found

    def line(self) -> Line | None:
        return fitted(self.pairs())


def budgets(text: str) -> list[Arms]:
    """The arms at each budget that is stored, the smallest first. `older` are those with AdamW on the novels."""
    if text == "older":
        return [older_novels(num_steps) for num_steps in (1500, 6000)]
    return [arms_of(file) for file in FILES[text] if (FOLDER / file).exists()]


def tokens_of(runs: Iterable[Run]) -> float:
    """The mean of what they were trained on."""
    per_step = stored("corpora.json")["novels"]["tokens_per_step"]  # of the runs that do not say it themselves
    return statistics.fmean(run.num_tokens or run.num_steps * per_step for run in runs)


def by_budget(text: str) -> str:
    """Every arm and the leads that matter, a column a budget; and the commands of what is not there."""
    open_ones = not_measured_yet(FILES[text])
    found = [arms for arms in budgets(text) if arms]
    if not found:
        return open_ones
    rows = []
    for column, name in NAMES.items():
        for arm in dict.fromkeys(arm for arms in found for arm in arms):
            cells = [mean_cell(arms.get(arm, []), column) for arms in found]
            if any(cells):
                rows.append([name, arm_name(arm), *cells])
        for _, arm, against in (one for one in COMPARED if one[0] == column):
            cells = [_difference(arms, column, arm, against) for arms in found]
            if any(cells):
                rows.append([name, f"{arm_name(arm)} minus {arm_name(against)}", *cells])
    columns = [f"{amount(tokens_of(next(iter(arms.values()))))} tokens" for arms in found]
    return "\n\n".join(filter(None, [table(["likelihood", "", *columns], rows), open_ones]))


def not_measured_yet(files: Mapping[str, str]) -> str:
    """A sentence with the commands of what files of experiments, which these commands make, lack; nothing if all is
    there."""
    missing = [told for file, command in files.items() if (told := _missing(file, command))]
    return f"Not measured yet: {', '.join(missing)}." if missing else ""


def _missing(file: str, command: str) -> str:
    """The command of an experiment that is not stored, or of the runs of its grid that are not; nothing if all are."""
    if not (FOLDER / file).exists():
        return f"`{command}`"
    have = {(run.arm, run.seed) for run in runs_in(stored(file)["runs"])}
    left = len(set(_planned(command)) - have)
    return f"`{command} --done docs/results/{file}` ({counted(left, 'run')})" if left else ""


def _planned(command: str) -> Iterable[tuple[str, int]]:
    """Arm and seed of every run of the command: the arms of its grid, and the seeds that it names itself or else the
    grid's."""
    (file,) = (word for word in command.split() if word.endswith(".yaml"))
    grid = yaml.safe_load((GRIDS / Path(file).name).read_text(encoding="utf-8"))
    named = command.partition("--seeds ")[2].partition(" --")[0].split()
    return itertools.product(grid["arms"], map(int, named or grid["seeds"]))


def _difference(arms: Arms, column: str, arm: str, against: str) -> str:
    found = difference_of(arms.get(arm, []), arms.get(against, []), column)
    if found is None:
        return ""
    return f"{nats(found, sign=True)} ({less(found)}, {counted(found.num, 'pair')})"


def leads() -> list[Lead]:
    """Those that have two budgets or more."""
    wanted = [Lead(text, *one) for text in FILES for one in FITTED] + [Lead("older", *one) for one in OLDER]
    return [lead for lead in wanted if lead.line() is not None]


def trend() -> str:
    """A row a lead: the line through it, what it says of ten times the tokens, and where it is 0."""
    rows = []
    for lead in leads():
        line = lead.line()
        assert line is not None
        largest = max(tokens for tokens, _ in lead.pairs())
        far = line.at(10 * largest)
        rows.append(
            [
                "novels" if lead.text == "older" else lead.text,
                f"{NAMES[lead.column]}, {arm_name(lead.arm)} minus {arm_name(lead.against)}",
                f"{line.num_budgets}",
                f"{line.num}",
                f"{nats(line.doubling, sign=True)} {interval(line.doubling)}".strip(),
                f"{amount(10 * largest)}",
                f"{nats(far, sign=True)} {interval(far)}".strip(),
                less(far),
                zero(line),
            ]
        )
    names = ["text", "lead", "budgets", "pairs", "nats a doubling", "ten times the tokens", "there", "perplexity"]
    return table([*names, "0 at"], rows)


def zero(line: Line) -> str:
    """`2.1B [900M, 8.0B]`: the tokens at which nothing is left of a lead, and between which that may be."""
    found = line.zero()
    if found is None:
        return "does not shrink"
    if found.interval95 is None:
        return f"{amount(found.tokens)}, no error known"
    low, high = found.interval95
    ends = f"[{amount(low)}, {amount(high)}]" if math.isfinite(high) else f"[{amount(low)}, no end]"
    return f"{amount(found.tokens)} {ends}"


def amount(tokens: float) -> str:
    """`98M`, `3.9B`; of more than a thousand billions nothing is said but that."""
    if tokens >= 1e12:
        return "> 1000B"
    return f"{tokens / 1e9:.1f}B" if tokens >= 1e9 else f"{tokens / 1e6:.0f}M"
