"""The pictures of a sampler bench: quality against network evaluations and against seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from mdlm_atat.report.figure import FAINT, INK, LINE_COLOURS, LINE_MARKERS, MUTED, label_axes

DASHES = ("-", "--", "-.", ":")


class Panel(NamedTuple):
    value: str
    error: str
    label: str
    across: str
    across_label: str


def panels_of(record: dict[str, Any]) -> list[Panel]:
    """Judge and entropy against NFE, and the judge (or, without one, the entropy) against seconds a text."""
    measures = [("judge_nats", "judge_error", "judge, nats per token")] if "judge_nats" in record["points"][0] else []
    measures.append(("entropy_nats", "entropy_error", "entropy of a text's tokens, nats"))
    panels = [Panel(*measure, "nfe_mean", "network evaluations a text") for measure in measures]
    return [*panels, Panel(*measures[0], "seconds", f"seconds for {record['num_texts']} texts")]


def curves_of(record: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The points of each sampler, the reference's first."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for point in record["points"]:
        curves.setdefault(point["curve"], []).append(point)
    return curves


def draw_panel(axes: Axes, record: dict[str, Any], panel: Panel, curves: dict[str, list[dict[str, Any]]]) -> None:
    """Some samplers' curves. The grey band is the reference, one token at a time, with two standard errors to either
    side: where a curve enters it for good, in every picture of quality, nothing is lost by so few evaluations."""
    reference = record["points"][0]
    middle, spread = reference[panel.value], 2 * reference[panel.error]
    axes.axhspan(middle - spread, middle + spread, color=FAINT, alpha=0.5, linewidth=0)
    axes.axhline(record["real"][panel.value], color=MUTED, linestyle=":", linewidth=1)
    axes.annotate(
        "validation text",
        (1, record["real"][panel.value]),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color=MUTED,
        fontsize=8,
    )
    others = [name for name in curves if name != reference["sampler"]]
    for name, points in curves.items():
        points = sorted(points, key=lambda point: point[panel.across])
        index = others.index(name) if name in others else None
        axes.errorbar(
            [point[panel.across] for point in points],
            [point[panel.value] for point in points],
            yerr=[2 * point[panel.error] for point in points],
            color=INK if index is None else LINE_COLOURS[index % len(LINE_COLOURS)],
            marker="o" if index is None else LINE_MARKERS[index % len(LINE_MARKERS)],
            linestyle="-" if index is None else DASHES[index // len(LINE_COLOURS) % len(DASHES)],
            linewidth=1.2,
            markersize=5,
            elinewidth=0.7,
            label=name,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    label_axes(axes, x=panel.across_label, y=panel.label)


def draw_frontier(record: dict[str, Any], file: Path) -> Path:
    """Every panel with every sampler, as a PNG."""
    panels, curves = panels_of(record), curves_of(record)
    fig = Figure(figsize=(5.2 * len(panels), 5.6), layout="constrained")
    for axes, panel in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_panel(axes, record, panel, curves)
        axes.grid(alpha=0.25)
    handles, labels = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    what = "filling half of given texts" if record["task"] == "infill" else "unconditional texts"
    fig.suptitle(
        f"{what}: {record['num_texts']} of {record['length']} tokens, bars are two standard errors", fontsize=10
    )
    fig.savefig(file, dpi=110)
    return file
