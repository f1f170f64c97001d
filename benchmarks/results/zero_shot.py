"""What texts cost that no run was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results.markdown import LIKELIHOODS, arm_name, arm_of, nats, table
from benchmarks.results.stored import FOLDER, Number, stored

from mdlm_atat.scoring.statistics import Mean, mean_with_interval

ZERO_SHOT = (
    "python -m benchmarks.zero_shot runs/novels-120s/runs/*/seed-0 "
    "--texts wikitext-2.txt wiki.jsonl tinyshakespeare.txt --out docs/results/zero-shot.json"
)


def zero_shot(file: str) -> str:
    """What benchmarks.zero_shot stored, in nats per token: a line a method and likelihood, a column a text."""
    if not (FOLDER / file).exists():
        return f"Not measured yet: `{ZERO_SHOT}`."
    head, *rows = zero_shot_rows(stored(file)["points"])
    return table(head, rows)


def zero_shot_rows(points: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The cells, those of the head first. Of several seeds the mean, with the error between them."""
    texts = list(dict.fromkeys(point["text"] for point in points))
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for point in points:
        found.setdefault((arm_of(point["run"]), point["text"]), []).append(point)
    rows = [["nats per token", "", *texts]]
    for key, name in LIKELIHOODS.items():
        for arm in dict.fromkeys(arm for arm, _ in found):
            numbers = [[point[key] for point in found.get((arm, text), []) if key in point] for text in texts]
            cells = [nats(_over_seeds(each)) for each in numbers]
            if any(cells):
                rows.append([arm_name(arm), name, *cells])
    return rows


def _over_seeds(numbers: Sequence[tuple[float, float]]) -> Number | Mean | None:
    if len(numbers) < 2:
        return Number(*numbers[0]) if numbers else None
    return mean_with_interval([value for value, _ in numbers])
