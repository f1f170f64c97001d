"""The numbers of tasks, for a person: each with what it comes from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdlm_atat.harness.adapter import HarnessModel

GREEDY = {"loglikelihood": ("acc", "exact_match"), "multiple_choice": ("exact_match",)}
"""Numbers that say how often the model writes the answer itself, by the kind of task."""
OF_LIKELIHOOD = ("perplexity", "bits_per_byte")
"""Words in the names of numbers that are a likelihood themselves, and do not only compare several."""


@dataclass(frozen=True)
class Basis:
    """What a number comes from."""

    of: str
    """The likelihood, or how the model writes."""
    is_bound: bool
    """Whether the number itself is an estimate of an upper bound; False where bounds are only compared, too."""


def basis_of(kinds: Collection[str], metric: str, lm: HarnessModel) -> Basis:
    """What a number of tasks of these kinds comes from."""
    if all(kind == "generate_until" for kind in kinds):
        return Basis(f"text by {lm.written_by}", False)
    if all(metric in GREEDY.get(kind, ()) for kind in kinds):
        return Basis(f"greedy text by {lm.written_by}", False)
    if "generate_until" in kinds:
        return Basis(f"text by {lm.written_by}; {lm.likelihood}", lm.is_bound)
    is_value = all(kind != "multiple_choice" for kind in kinds) or any(word in metric for word in OF_LIKELIHOOD)
    if is_value:
        return Basis(lm.likelihood, lm.is_bound)
    return Basis(f"compares answers by {lm.likelihood}", False)


def lines_of(record: Mapping[str, Any]) -> list[str]:
    """A line for each number: task, number of examples before a question, metric, value with its standard error over
    questions, and what it comes from. A number that is a bound has a sign for it."""
    rows = [("task", "shots", "metric", "value", "from")]
    for name, metrics in record["results"].items():
        title, shots = str(metrics.get("alias", name)).strip(), str(record["n-shot"].get(name, ""))
        for metric, value in metrics.items():
            basis = record["likelihoods"][name].get(metric)
            if basis is None:
                continue
            plain, _, chosen = metric.partition(",")
            error = metrics.get(f"{plain}_stderr,{chosen}")
            shown = f"{'≤ ' if basis['is_bound'] else ''}{_number(value)}"
            shown += f" ± {_number(error)}" if isinstance(error, float) else ""
            label = plain if chosen in ("none", "") else f"{plain} ({chosen})"
            rows.append((title, shots, label, shown, basis["of"]))
            title = shots = ""
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]).rstrip()
        for row in rows
    ]


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"
