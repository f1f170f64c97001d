"""The picture of `atat eval --samples`: what a judge pays for texts against how varied they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdlm_atat.report.figure import INK, LINE_COLOURS, LINE_MARKERS, MUTED, label_axes


def draw_quality(record: dict[str, Any], file: Path) -> Path:
    """A curve a temperature through its numbers of steps, as a PNG. Cheap and varied is the lower right corner; what is
    far from validation text in any direction is not like it. Without a judge: variety against evaluations."""
    fig = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes: Axes = fig.subplots()
    judged = "judge_nats" in record["points"][0]
    x, y = ("entropy_nats", "judge_nats") if judged else ("nfe_mean", "entropy_nats")
    curves: dict[str, list[dict[str, Any]]] = {}
    for point in record["points"]:
        curves.setdefault(point["curve"], []).append(point)
    for index, (name, points) in enumerate(curves.items()):
        points = sorted(points, key=lambda point: point["nfe_mean"])
        axes.errorbar(
            [point[x] for point in points],
            [point[y] for point in points],
            xerr=[2 * (point["entropy_error"] or 0) for point in points] if judged else None,
            yerr=[2 * (point["judge_error" if judged else "entropy_error"] or 0) for point in points],
            color=LINE_COLOURS[index % len(LINE_COLOURS)],
            marker=LINE_MARKERS[index % len(LINE_MARKERS)],
            linewidth=1.2,
            markersize=5,
            elinewidth=0.7,
            label=name,
        )
        for point in points if judged else []:
            axes.annotate(f"{point['nfe_mean']:.0f}", (point[x], point[y]), xytext=(5, 4), textcoords="offset points",
                          color=MUTED, fontsize=8)  # fmt: skip
    if judged:
        axes.plot(record["real"][x], record["real"][y], marker="*", markersize=13, color=INK, linestyle="none",
                  label="validation text")  # fmt: skip
    else:
        axes.axhline(record["real"][y], color=MUTED, linestyle=":", linewidth=1, label="validation text")
    entropy = "entropy of a text's tokens, nats"
    if judged:
        label_axes(axes, x=entropy, y=f"{Path(record['judge']).name}, nats per token")
    else:
        label_axes(axes, x="network evaluations a text", y=entropy)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    numbers = "; numbers are network evaluations" if judged else ""
    fig.suptitle(
        f"{record['num_texts']} texts of {record['length']} tokens, {record['sampler']}{numbers}; bars are two errors",
        fontsize=9,
    )
    fig.savefig(file, dpi=110)
    return file
