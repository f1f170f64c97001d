"""The picture of a sampler bench: quality against network evaluations and against seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from mdlm_atat.viz.plots import FAINT, INK, MUTED

# Okabe and Ito's colour-blind safe colours; every curve differs by marker and dash too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#22262b", "#7a828c")
MARKERS = "osD^vP*X<>hp8d"
DASHES = ("-", "--", "-.", ":")


def draw_frontier(record: dict[str, Any], file: Path) -> Path:
    """Judge and entropy against NFE, and the judge (or, without one, the entropy) against seconds a text.

    The grey band is the reference, one token at a time, with two standard errors to either side: where a curve
    enters it for good, in both pictures on top, nothing is lost by so few evaluations.
    """
    curves: dict[str, list[dict[str, Any]]] = {}
    for point in record["points"]:
        curves.setdefault(point["curve"], []).append(point)
    reference = record["points"][0]
    measures = [("judge_nats", "judge_error", "judge, nats per token")] if "judge_nats" in reference else []
    measures.append(("entropy_nats", "entropy_error", "entropy of a text's tokens, nats"))
    panels = [(*m, "nfe_mean", "network evaluations a text") for m in measures]
    panels.append((*measures[0], "seconds", f"seconds for {record['num_texts']} texts"))
    fig = Figure(figsize=(5.2 * len(panels), 5.6), layout="constrained")
    for axes, (value, error, label, across, across_label) in zip(fig.subplots(1, len(panels)), panels, strict=True):
        middle, spread = reference[value], 2 * reference[error]
        axes.axhspan(middle - spread, middle + spread, color=FAINT, alpha=0.5, linewidth=0)
        axes.axhline(record["real"][value], color=MUTED, linestyle=":", linewidth=1)
        axes.annotate(
            "validation text", (1, record["real"][value]), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            color=MUTED, fontsize=8,
        )  # fmt: skip
        for index, (name, points) in enumerate(curves.items()):
            points = sorted(points, key=lambda point: point[across])
            axes.errorbar(
                [point[across] for point in points],
                [point[value] for point in points],
                yerr=[2 * point[error] for point in points],
                color=INK if name == reference["sampler"] else COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                linestyle=DASHES[index // len(COLOURS) % len(DASHES)],
                linewidth=1.2,
                markersize=5,
                elinewidth=0.7,
                label=name,
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(across_label)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    handles, labels = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    what = "filling half of given texts" if record["task"] == "infill" else "unconditional texts"
    fig.suptitle(
        f"{what}: {record['num_texts']} of {record['length']} tokens, bars are two standard errors", fontsize=10
    )
    fig.savefig(file, dpi=110)
    return file
