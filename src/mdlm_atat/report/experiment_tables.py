"""The tables of an experiment: every number worded once, for the page and for report.md.

A cell is a list of lines, of which the first is the one that matters.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mdlm_atat.formats import MISSING, count, duration, number, p_value, percent, perplexity, plural, with_error
from mdlm_atat.report.experiment_results import (
    Arm,
    all_runs,
    corpus_of,
    final_of,
    interval_at,
    is_done,
    name_of,
    runs_of,
)
from mdlm_atat.report.run_reader import number_at
from mdlm_atat.report.wording import flat, plain, section
from mdlm_atat.scoring.cost import LEFT_TO_RIGHT

NO_CAVEATS = "None that the stored facts show."
ABOUT_ORDERS = (
    "By the likelihood of one order: left to right, and the order in which a sampler reveals the text. A column is "
    "compared within itself alone: an exact value is no rival of a bound in the table above, nor of another order's."
)
HEADS = (
    "arm",
    "seeds",
    "PPL-U",
    "PPL-S",
    "PPL-U against the baseline",
    "own bound against the baseline",
    "to the baseline's final value",
    "cost of training",
)


class Cell(NamedTuple):
    """A cell of the main table."""

    lines: list[str]
    is_good: bool = False
    """Significantly better than the baseline."""


class Row(NamedTuple):
    """A row of the main table."""

    arm: Arm
    cells: list[Cell]
    """One under each of HEADS but the first."""


class Group(NamedTuple):
    """Some runs, and what they have in common."""

    runs: str
    rows: list[tuple[str, str]]


def main_table(results: Mapping[str, Any], corpus: str, arms: Sequence[Arm]) -> list[Row]:
    """The main table of one corpus: a row for each of these arms that has a run there."""
    derived = section(section(results, "derived"), corpus)
    return [
        Row(arm, _cells(arm, section(derived, arm.name), runs_of(results, corpus=corpus, arm=arm.name)))
        for arm in arms
        if arm.name in derived or runs_of(results, corpus=corpus, arm=arm.name)
    ]


def order_table(derived: Mapping[str, Any], arms: Sequence[Arm]) -> tuple[list[str], list[Row]]:
    """What the arms of a corpus have of one order, left to right and in the own orders of samplers: (heads, rows). A
    column holds values of one order alone, exact or bounds as its head says. Empty where there is at most one value."""
    orders: dict[tuple[str, Any], str] = {}
    cells: dict[str, dict[tuple[str, Any], Cell]] = {}
    for arm in arms:
        stored = section(derived, arm.name).get("orders")
        for record in stored if isinstance(stored, list) else []:
            key = (str(record.get("order")), record.get("num_steps"))
            orders.setdefault(key, f"{record.get('name')}, {'exact' if record.get('is_exact') else 'at most'}")
            cells.setdefault(arm.name, {})[key] = _order_cell(record)
    if sum(map(len, cells.values())) < 2:
        return [], []
    orders = dict(sorted(orders.items(), key=lambda item: item[0][0] != LEFT_TO_RIGHT))  # stable
    missing = Cell([MISSING])
    rows = [Row(arm, [cells[arm.name].get(key, missing) for key in orders]) for arm in arms if arm.name in cells]
    return ["arm", *orders.values()], rows


def _order_cell(record: Mapping[str, Any]) -> Cell:
    """Its value, and its difference to the arm that it is compared with."""
    difference = section(record, "difference")
    if not difference:
        return _bound(record)
    change = _difference(difference)
    return Cell([*_bound(record).lines, *change.lines, f"against {difference.get('against')}"], change.is_good)


def verdicts(rows: Sequence[Row], derived: Mapping[str, Any], baseline: str) -> list[str]:
    """A sentence for each row of the main table: how the arm differs from the baseline, if it was shown to."""
    sentences = []
    for row in rows:
        if row.arm.role != "arm":
            continue
        about = section(derived, row.arm.name)
        uniform, own = section(about, "difference"), section(about, "own_difference")
        parts = [_verdict(uniform, "PPL-U")]
        if number_at(own, "mean_nats") != number_at(uniform, "mean_nats"):
            parts.append(_verdict(own, "perplexity under its own bound"))
        steps = section(about, "steps_to_baseline")
        share = number_at(steps, "share")
        if share is not None:
            at_most = "at most " if steps.get("at_most") else ""
            parts.append(f"{baseline}'s final value in {at_most}{percent(share)} of the steps")
        told = "; ".join(part for part in parts if part)
        sentences.append(f"{row.arm.name}: {told or 'nothing to compare yet'}.")
    return sentences


def table_notes(derived: Mapping[str, Any]) -> list[str]:
    """Sentences on how the steps to the baseline were found, or why they were not, and on how steps were timed."""
    found: dict[str, list[str]] = {}
    for arm in derived:
        about = section(derived, arm)
        how, note = section(about, "steps_to_baseline").get("how"), about.get("steps_to_baseline_note")
        timed = section(about, "overhead").get("timed")
        for told, what in ((how, "Steps to the baseline's value"), (note, "Not reached"), (timed, "Time of a step")):
            if told:
                found.setdefault(f"{what}: {told}", []).append(arm)
    return [f"{told} ({', '.join(arms)})." for told, arms in found.items()]


def runs_table(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each run, by column: how it went, its own numbers and what it took."""
    rows = []
    for run in all_runs(results):
        final, best = final_of(run), section(run, "best")
        best_nats, best_step = number_at(best, "nats"), number_at(best, "step")
        seconds = number_at(run, "train_seconds")
        rows.append(
            {
                "run": name_of(run),
                "corpus": corpus_of(run),
                "status": str(run.get("status") or "unknown"),
                "final, nats": MISSING if final is None else with_error(final.nats_per_token, final.standard_error),
                "best, nats": number(best_nats) + (f" at {count(best_step)}" if best_step is not None else ""),
                "steps": count(number_at(run, "num_steps")),
                "tokens": count(number_at(run, "num_tokens")),
                "FLOPs": number(number_at(run, "train_flops"), 3),
                "training time": duration(seconds),
                "s/step": number(number_at(run, "seconds_per_step"), 3),
                "parameters": count(number_at(run, "num_parameters")),
            }
        )
    if all(not row["corpus"] for row in rows):
        for row in rows:
            del row["corpus"]
    return rows


def differences_table(results: Mapping[str, Any], arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """Every setting in which an arm differs from the baseline: its path, and the value of each arm.

    The baseline comes first. The value of an arm that has the baseline's is empty.
    """
    keys = dict.fromkeys(key for arm in arms for key in arm.differences)
    base = _config_of(results, arms[0].name) if arms and arms[0].role == "baseline" else {}
    for arm in arms:
        base = {**base, **section(section(section(results, "arms"), arm.name), "baseline_values")}
    return [
        (key, [plain(base[key]) if key in base else MISSING, *(_value(arm, key) for arm in arms[1:])]) for key in keys
    ]


def shared_settings(results: Mapping[str, Any], arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """The settings that all arms have from the baseline, and that all of its runs share."""
    if not arms:
        return []
    configs = [run["config"] for run in runs_of(results, arm=arms[0].name) if isinstance(run.get("config"), dict)]
    different = {key for arm in arms for key in arm.differences}
    different |= {key for config in configs for key in config if config[key] != configs[0].get(key)}
    return [(key, plain(value)) for config in configs[:1] for key, value in config.items() if key not in different]


def groups(results: Mapping[str, Any], key: str) -> list[Group]:
    """The distinct values of a mapping that every run stores under `key` (its machine, its data), with their runs."""
    found: dict[tuple[tuple[str, str], ...], list[dict[str, Any]]] = {}
    for run in all_runs(results):
        if isinstance(run.get(key), dict):
            found.setdefault(tuple(flat(run[key])), []).append(run)
    return [Group("all runs" if len(found) == 1 else _names(runs), list(rows)) for rows, runs in found.items()]


def commits(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every commit that runs were trained at, with the names of these runs."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in all_runs(results):
        if run.get("commit"):
            found.setdefault(str(run["commit"]), []).append(run)
    return [(commit, "all runs" if len(found) == 1 else _names(runs)) for commit, runs in found.items()]


def budget_words(results: Mapping[str, Any]) -> str:
    """`budget 1,000 steps a run`; empty where none is stored."""
    budget = section(results, "budget")
    unit, amount = budget.get("unit"), number_at(budget, "amount")
    named = {str(unit): amount} if unit and amount is not None else {name: number_at(budget, name) for name in budget}
    known = [
        f"{count(amount)} {name.replace('gpu_seconds', 'GPU-seconds')}" for name, amount in named.items() if amount
    ]
    return f"budget {', '.join(known)} a run" if known else ""


def caveats_of(results: Mapping[str, Any]) -> list[str]:
    """The stored caveats, a sentence each; one that says so where there are none."""
    caveats = results.get("caveats")
    if not isinstance(caveats, list):
        return ["The caveats have not been worked out: the results hold none."]
    return [plain(caveat) for caveat in caveats] or [NO_CAVEATS]


def _cells(arm: Arm, derived: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[Cell]:
    num_done = sum(map(is_done, runs))
    num_seeds = number_at(derived, "num_seeds")
    shown = num_done if num_seeds is None else num_seeds
    seeds = Cell([count(shown) if shown == len(runs) or not runs else f"{count(shown)} of {len(runs)}"])
    uniform, own = section(derived, "ppl_u"), section(derived, "ppl_s")
    bound, own_bound = _bound(uniform), _bound(own)
    if _is_exact(derived, runs):
        bound = Cell([*bound.lines, "exact, no bound"])
    elif own == uniform or (not own and derived.get("own") == "ppl_u"):
        own_bound = Cell(["the same"])
    cells = [seeds, bound, own_bound]
    seconds = number_at(derived, "train_seconds")
    trained = [] if seconds is None else [f"{duration(seconds)} a run"]
    if arm.role == "baseline":
        return [*cells, *[Cell(["baseline"])] * 3, Cell(["1", *trained])]
    difference, own_difference = section(derived, "difference"), section(derived, "own_difference")
    same = difference and number_at(own_difference, "mean_nats") == number_at(difference, "mean_nats")
    cells += [_difference(difference), Cell(["the same"]) if same else _difference(own_difference)]
    return [*cells, _to_baseline(derived), Cell([*_overhead(section(derived, "overhead")), *trained])]


def _is_exact(derived: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> bool:
    return derived.get("kind") == "exact" or any(
        final is not None and not final.is_bound for final in map(final_of, runs)
    )


def _bound(bound: Mapping[str, Any]) -> Cell:
    """A bound: its perplexity, then its nats and their interval."""
    nats, found = number_at(bound, "mean_nats"), perplexity(number_at(bound, "perplexity"))
    if nats is None:
        return Cell([MISSING])
    interval = interval_at(bound, "interval95")
    if interval is None:
        return Cell([found, f"{with_error(nats)} nats"])
    decimals = _decimals(interval)
    return Cell([found, f"{with_error(nats, decimals=decimals)} nats", _between(interval, decimals)])


def _difference(difference: Mapping[str, Any]) -> Cell:
    nats = number_at(difference, "mean_nats")
    if nats is None:
        return Cell([MISSING])
    error, p = number_at(difference, "standard_error"), number_at(difference, "p_value")
    interval = interval_at(difference, "interval95")
    relative = number_at(difference, "relative_perplexity")
    is_significant = difference.get("significant")
    change = [] if relative is None else [f"{_change(relative)} perplexity"]
    detail = [f"{with_error(nats, error, sign=True)} nats"]
    if interval is not None:
        detail.append(_between(interval, _decimals(interval), sign=True))
    detail.append("not tested" if p is None or not math.isfinite(p) else p_value(p))
    if difference.get("over") in ("draws", "sequences"):
        detail.append(f"over {difference['over']}, one seed")
    if is_significant is False:
        return Cell(["no difference", *detail])
    return Cell([*change, *detail], is_good=is_significant is True and nats < 0)


def _to_baseline(derived: Mapping[str, Any]) -> Cell:
    """The share of the baseline's steps and its interval, then the steps, tokens and seconds themselves."""
    steps = section(derived, "steps_to_baseline")
    if not steps:
        return Cell(["not reached" if derived.get("steps_to_baseline_note") else MISSING])
    at_most = "at most " if steps.get("at_most") else ""
    lines = []
    share, interval = number_at(steps, "share"), interval_at(steps, "interval95")
    if share is not None:
        lines.append(f"{at_most}{percent(share)} of the steps")
    if interval is not None and interval[0] < interval[1]:  # a bound that all seeds share is no interval
        lines.append(f"{percent(interval[0])} to {percent(interval[1])}")
    for key, unit in (("steps", "steps"), ("tokens", "tokens"), ("gpu_seconds", "seconds")):
        found = derived.get(f"{key}_to_baseline")
        taken = _plain_number(found, key)
        if taken is None:
            continue
        part = number_at(found, "share") if isinstance(found, dict) and key == "gpu_seconds" else None
        amount = number(taken, 2) if abs(taken) < 10 else count(taken)
        lines.append(f"{amount} {unit}" + ("" if part is None else f", {percent(part)}"))
    return Cell(lines or [MISSING])


def _overhead(overhead: Mapping[str, Any]) -> list[str]:
    names = (
        ("seconds_per_step_ratio", "time"),
        ("peak_memory_ratio", "memory"),
        ("parameters_ratio", "parameters"),
    )
    found = [(number_at(overhead, key), what) for key, what in names]
    return [f"{number(ratio, 3)} × {what}" for ratio, what in found if ratio is not None] or [MISSING]


def _verdict(difference: Mapping[str, Any], what: str) -> str:
    nats, relative = number_at(difference, "mean_nats"), number_at(difference, "relative_perplexity")
    if nats is None:
        return ""
    p = number_at(difference, "p_value")
    if difference.get("significant") is False:
        return f"no difference in {what}" + ("" if p is None else f" ({p_value(p)})")
    size = f"{with_error(nats, sign=True)} nats in" if relative is None else _change(relative)
    return f"{size} {what} ({'not tested' if p is None else p_value(p)})"


def _change(relative: float) -> str:
    """`27% lower`."""
    return f"{percent(abs(relative))} {'lower' if relative < 0 else 'higher'}"


def _plain_number(value: object, what: str) -> float | None:
    """A number that is stored as itself, or under its own name in a mapping."""
    return number_at(value if isinstance(value, dict) else {what: value}, what)


def _between(interval: tuple[float, float], decimals: int, *, sign: bool = False) -> str:
    return " to ".join(with_error(end, decimals=decimals, sign=sign) for end in interval)


def _decimals(interval: tuple[float, float]) -> int:
    """As many as show two digits of the interval's half width, three at least."""
    half_width = (interval[1] - interval[0]) / 2
    return min(max(1 - math.floor(math.log10(half_width)), 3), 6) if 0 < half_width < math.inf else 4


def _value(arm: Arm, key: str) -> str:
    return plain(arm.differences[key]) if key in arm.differences else ""


def _config_of(results: Mapping[str, Any], arm: str) -> dict[str, Any]:
    return next((run["config"] for run in runs_of(results, arm=arm) if isinstance(run.get("config"), dict)), {})


def _names(runs: Sequence[Mapping[str, Any]]) -> str:
    by_arm: dict[str, list[str]] = {}
    for run in runs:
        corpus = corpus_of(run)
        name = f"{run.get('arm')} on {corpus}" if corpus else str(run.get("arm"))
        by_arm.setdefault(name, []).append(str(run.get("seed")))
    return "; ".join(f"{arm}, {plural(len(seeds), 'seed')} {', '.join(seeds)}" for arm, seeds in by_arm.items())
