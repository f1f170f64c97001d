"""Read metrics.jsonl: what a run measured, by step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Float

from mdlm_atat.small_files import check_file

# the bound of the validation text under the uniform schedule, and under the method's own where it has one
EVAL_NATS, EVAL_ERROR = "eval/nelbo_nats_per_token", "eval/standard_error"
EVAL_OWN_NATS, EVAL_OWN_ERROR = "eval/schedule_nelbo_nats_per_token", "eval/schedule_standard_error"
# the exact value, of a network that is trained left to right too
EVAL_CAUSAL_NATS, EVAL_CAUSAL_ERROR = "eval/left_to_right_nats_per_token", "eval/left_to_right_standard_error"

OnStep = Callable[[int, Mapping[str, float]], object]
"""Called after every step, in every process, with the steps taken and what metrics.jsonl gets for this one: nothing
between two log lines."""

Column = Float[np.ndarray, " rows"]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """A row a step, in order, with whatever was measured at that step: train/..., eval/..., elapsed_s."""

    rows: list[dict[str, Any]]

    @classmethod
    def from_lines(cls, lines: Iterable[Mapping[str, Any]]) -> Metrics:
        """One row for each step, from all lines of the step: older versions wrote several.

        Where two lines hold the same value of a step, the later one counts: a resumed run repeats the steps after its
        checkpoint, and the later ones led to its weights.
        """
        by_step: dict[float, dict[str, Any]] = {}
        for line in lines:
            if is_number(line.get("step")):
                by_step.setdefault(line["step"], {}).update(line)
        return cls(rows=[by_step[step] for step in sorted(by_step)])

    def having(self, name: str) -> Metrics:
        """The rows that hold a number under this name."""
        return Metrics(rows=[row for row in self.rows if is_number(row.get(name))])

    def column(self, name: str) -> Column:
        """A value of every row, NaN where it was not measured."""
        values = [row.get(name) for row in self.rows]
        return np.array([value if is_number(value) else math.nan for value in values], dtype=np.float64)

    def last(self, name: str) -> float | None:
        """The value at the last step that holds a number under this name."""
        values = [row[name] for row in self.rows if is_number(row.get(name))]
        return float(values[-1]) if values else None

    def __len__(self) -> int:
        return len(self.rows)


def read_metrics(run: Path) -> Metrics:
    """metrics.jsonl of a run's folder; no rows where there is none yet."""
    return Metrics.from_lines(read_json_lines(run / "metrics.jsonl")[0])


def read_json_lines(file: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a .jsonl file, and the number of lines that are no object; none of either where there is no file.

    A killed process leaves half a line, which is in the middle of the file once its run has been resumed.
    """
    if not file.exists():
        return [], 0
    found: list[dict[str, Any]] = []
    num_broken = 0
    # Not splitlines(): a sample may hold U+2028, which JSON leaves as it is and splitlines() takes for a line's end.
    check_file(file, most_bytes=math.inf)
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, dict):
            found.append(content)
        else:
            num_broken += 1
    return found, num_broken


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a stored value is a number; true and false are none here, NaN is."""
    return isinstance(value, int | float) and not isinstance(value, bool)
