"""report.md of an experiment: the page's table and caveats as Markdown, and the commands that make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mdlm_atat.report.experiment_results import Arm, all_runs, arms_of, corpora_of
from mdlm_atat.report.experiment_tables import (
    ABOUT_ORDERS,
    HEADS,
    Cell,
    budget_words,
    caveats_of,
    differences_table,
    groups,
    main_table,
    order_table,
)

ABOUT = (
    "Perplexities are per token, of the last step's averaged weights: PPL-U under the uniform schedule, PPL-S under "
    "the method's own. Means over seeds, with nats per token and 95% t-intervals that hold the error of the draws that "
    "all seeds share. A difference is arm minus baseline, paired by seed, ± its standard error, with p of the paired "
    "t-test; below twice its error, or with p above 0.05, it is none. What is significantly better is bold."
)


def report_markdown(results: Mapping[str, Any]) -> str:
    """The content of report.md, from the content of results.json alone."""
    arms = arms_of(results)
    version = " at ".join(str(results[key]) for key in ("code_version", "commit") if results.get(key))
    about = [
        f"Baseline `{results.get('baseline')}`",
        budget_words(results),
        f"{str(results.get('created'))[:10]}, version {version}",
    ]
    lines = [f"# {results.get('name')}", ""]
    if results.get("description"):
        lines += [str(results["description"]), ""]
    lines += ["; ".join(part for part in about if part) + ".", ""]
    for corpus in corpora_of(results):
        lines += [f"## {corpus or 'Results'}", "", *corpus_table(results, corpus), "", *orders(results, corpus)]
    lines += [
        ABOUT,
        "",
        "## Caveats",
        "",
        *[f"- {sentence}" for sentence in caveats_of(results)],
        "",
        "## What differs between the arms",
        "",
        *_differences(results, arms),
        "",
    ]
    machines = groups(results, "machine")
    if machines:
        lines += ["## Machines", ""]
        lines += [
            f"- {', '.join(f'{name} {value}' for name, value in group.rows)} ({group.runs})" for group in machines
        ]
        lines += [""]
    commands = [f"    {run['command']}" for run in all_runs(results) if run.get("command")]
    return "\n".join([*lines, "## Commands", "", *commands, ""])


def corpus_table(results: Mapping[str, Any], corpus: str) -> list[str]:
    """The main table of one corpus, a row for each arm that has a run that is done."""
    derived = (results.get("derived") or {}).get(corpus) or {}
    rows = main_table(results, corpus, [arm for arm in arms_of(results) if arm.name in derived])
    if not rows:
        return ["No run is done yet."]
    return _table(HEADS, [[_name(row.arm), *map(_cell, row.cells)] for row in rows])


def orders(results: Mapping[str, Any], corpus: str) -> list[str]:
    """The table of what the arms have of one order, and what it says; nothing where they have none."""
    heads, rows = order_table((results.get("derived") or {}).get(corpus) or {}, arms_of(results))
    if not rows:
        return []
    return [ABOUT_ORDERS, "", *_table(heads, [[_name(row.arm), *map(_cell, row.cells)] for row in rows]), ""]


def _differences(results: Mapping[str, Any], arms: Sequence[Arm]) -> list[str]:
    rows = [[f"`{key}`", *values] for key, values in differences_table(results, arms)]
    return _table(["setting", *(f"`{arm.name}`" for arm in arms)], rows) if rows else ["Nothing."]


def _name(arm: Arm) -> str:
    return f"`{arm.name}`" + (", reference" if arm.role == "reference" else "")


def _cell(cell: Cell) -> str:
    first, *others = cell.lines
    return (f"**{first}**" if cell.is_good else first) + (f" ({', '.join(others)})" if others else "")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in (header, ["---"] * len(header), *rows)]
    return [f"| {' | '.join(cells)} |" for cells in escaped]
