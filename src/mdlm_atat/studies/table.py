"""report.md: the paper's table, what to think of it, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = (
    "arm",
    "seeds",
    "PPL-U",
    "nats",
    "PPL-S",
    "nats",
    "against the baseline",
    "steps to baseline",
    "training s",
    "overhead",
)
SMALLEST_P = 1e-12  # below it a float says nothing


def report_markdown(results: Mapping[str, Any]) -> str:
    """All of it from results.json alone."""
    lines = [f"# {results['name']}", ""]
    if results["description"]:
        lines += [results["description"], ""]
    lines += [
        f"Baseline `{results['baseline']}`; {amount(results['budget'])}; {results['created'][:10]}, version "
        f"{results['code_version']}{' at ' + results['commit'] if results['commit'] else ''}.",
        "",
    ]
    for corpus, arms in results["derived"].items():
        lines += [f"## {corpus}", "", *corpus_table(results, arms), ""]
    lines += [
        "Perplexities are per token, of the last step's averaged weights: PPL-U under the uniform schedule, PPL-S "
        "under the method's own. Means over seeds, 95% t-intervals in brackets, with the error of the draws that "
        "all seeds share. Against the baseline: the difference of each one's own bound (PPL-S where it has a "
        "schedule of its own), paired by seed, ± its standard error, with p of the paired t-test; below twice its "
        "error, or p above 0.05, it is none.",
        "",
        "## Caveats",
        "",
        *([f"- {sentence}" for sentence in results["caveats"]] or ["None that the stored facts show."]),
        "",
        "## What differs between the arms",
        "",
        *differences_lines(results),
        "",
        *machine_lines(results),
        "## Commands",
        "",
        *[f"    {run['command']}" for run in (*results["runs"], *results["branch_runs"]) if run["command"]],
        "",
    ]
    return "\n".join(lines)


def corpus_table(results: Mapping[str, Any], arms: Mapping[str, Any]) -> list[str]:
    rows = [row(results, name, arms[name]) for name in results["arms"] if name in arms]
    return markdown_table(HEADER, rows) if rows else ["No run is done yet."]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def row(results: Mapping[str, Any], arm: str, numbers: Mapping[str, Any]) -> list[str]:
    name = f"`{arm}`"
    if arm in results["reference"]:
        name += ", reference"
    if numbers["kind"] == "exact":
        name += " (exact)"
    own = numbers["ppl_s"]
    return [
        name,
        str(numbers["num_seeds"]),
        f"{numbers['ppl_u']['perplexity']:,.2f}",
        with_interval(numbers["ppl_u"]),
        "" if own is None else f"{own['perplexity']:,.2f}",
        "" if own is None else with_interval(own),
        against(numbers["own_difference"]) if arm != results["baseline"] else "baseline",
        to_baseline(numbers),
        f"{numbers['train_seconds']:,.0f}",
        overhead(numbers["overhead"]),
    ]


def with_interval(bound: Mapping[str, Any]) -> str:
    if bound["interval95"] is None:
        return f"{bound['mean_nats']:.4f}"
    low, high = bound["interval95"]
    return f"{bound['mean_nats']:.4f} [{low:.4f}, {high:.4f}]"


def against(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    error = difference["standard_error"]
    text = f"{difference['mean_nats']:+.4f}" + ("" if error is None else f" ± {error:.4f}") + " nats"
    if difference["p_value"] is not None:
        p = difference["p_value"]
        text += f", p = {p:.2g}" if p >= SMALLEST_P else f", p < {SMALLEST_P:g}"
    if difference["over"] == "draws":
        text += " over draws, one seed"
    verdict = {True: f"**{difference['relative_perplexity']:+.1%}**", False: "no difference", None: "not tested"}
    return f"{verdict[difference['significant']]} ({text})"


def to_baseline(numbers: Mapping[str, Any]) -> str:
    steps = numbers["steps_to_baseline"]
    if steps is None:
        return "not reached" if numbers["steps_to_baseline_note"] else ""
    text = f"{steps['steps']:,.0f}, {steps['share']:.0%}"
    seconds = numbers["gpu_seconds_to_baseline"]
    if seconds is not None:
        text += f"; {seconds['gpu_seconds']:,.0f} s, {seconds['share']:.0%}"
    return f"at most {text}" if steps["at_most"] else text


def overhead(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    named = (("seconds_per_step_ratio", "time"), ("peak_memory_ratio", "memory"), ("parameters_ratio", "parameters"))
    return ", ".join(f"{found[key]:.3f} {what}" for key, what in named if found[key] is not None)


def amount(budget: Mapping[str, Any]) -> str:
    return f"{budget['amount']:,g} {budget['unit'].replace('_', ' ').replace('gpu', 'GPU')} a run"


def differences_lines(results: Mapping[str, Any]) -> list[str]:
    arms, baseline = results["arms"], results["baseline"]
    paths = list(dict.fromkeys(path for arm in arms.values() for path in arm["config_differences"]))
    names = [name for name in arms if name != baseline]
    if not paths:
        return ["Nothing."]
    before = {path: value for arm in arms.values() for path, value in arm["baseline_values"].items()}
    rows = [
        [
            f"`{path}`",
            shown(before[path]),
            *(
                shown(arms[name]["config_differences"][path]) if path in arms[name]["config_differences"] else ""
                for name in names
            ),
        ]
        for path in paths
    ]
    return markdown_table(["setting", f"`{baseline}`", *(f"`{name}`" for name in names)], rows)


def shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def machine_lines(results: Mapping[str, Any]) -> list[str]:
    machines = dict.fromkeys(
        ", ".join(str(run["machine"][name]) for name in ("device", "cpu", "precision"))
        for run in results["runs"]
        if run["machine"]
    )
    return ["## Machines", "", *(f"- {machine}" for machine in machines), ""] if machines else []
