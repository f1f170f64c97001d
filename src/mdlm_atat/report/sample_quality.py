"""The pictures of measured samples: quality against variety, network evaluations and seconds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from mdlm_atat.report.figure import FAINT, INK, LINE_COLOURS, LINE_MARKERS, MUTED, label_axes
from mdlm_atat.scoring.quality import REFERENCE, SamplePoint, SampleQuality, TextQuality

DASHES = ("-", "--", "-.", ":")


class Panel(NamedTuple):
    """Which number is drawn against which."""

    y: str
    x: str
    y_label: str
    x_label: str

    @property
    def is_of_texts(self) -> bool:
        """Whether both are measured on the texts, and each has an error."""
        return self.x == "entropy_nats"


def panels_of(record: SampleQuality) -> list[Panel]:
    """Judge and entropy against evaluations, the judge (or, without one, the entropy) against seconds; and with a
    judge, what it pays against how varied the texts are."""
    labels = {"entropy_nats": "entropy of a text's tokens, nats"}
    if any(point.judge_nats is not None for point in record.points):
        name = "judge" if record.judge is None else Path(record.judge).name
        labels = {"judge_nats": f"{name}, nats per token", **labels}
    first = next(iter(labels))
    panels = [Panel(y, "nfe_mean", label, "network evaluations a text") for y, label in labels.items()]
    panels.append(Panel(first, "seconds", labels[first], f"seconds for {record.setting.num_texts} texts"))
    if len(labels) == 1:
        return panels
    numbered = f"{labels['entropy_nats']} (numbers: evaluations)"
    return [*panels, Panel(first, "entropy_nats", labels[first], numbered)]


def draw_panel(axes: Axes, record: SampleQuality, panel: Panel, curves: dict[str, list[SamplePoint]]) -> None:
    """Some samplers' curves. The grey band is the reference, one token at a time, with two standard errors to either
    side: where a curve enters it for good, in every picture of quality, nothing is lost by so few evaluations. Against
    entropy, cheap and varied is the lower right corner, and what is far from validation text in any direction is not
    like it; the numbers are network evaluations."""
    reference = record.reference
    if reference is not None and not panel.is_of_texts:
        middle, spread = _value(reference, panel.y), 2 * _error(reference, panel.y)
        axes.axhspan(middle - spread, middle + spread, color=FAINT, alpha=0.5, linewidth=0)
    others = [name for name in curves if name != REFERENCE]
    for name, points in curves.items():
        points = sorted(points, key=lambda point: _value(point, "nfe_mean" if panel.is_of_texts else panel.x))
        index = others.index(name) if name in others else None
        xs, ys = ([_value(point, part) for point in points] for part in (panel.x, panel.y))
        axes.errorbar(
            xs,
            ys,
            xerr=[2 * _error(point, panel.x) for point in points] if panel.is_of_texts else None,
            yerr=[2 * _error(point, panel.y) for point in points],
            color=INK if index is None else LINE_COLOURS[index % len(LINE_COLOURS)],
            marker="o" if index is None else LINE_MARKERS[index % len(LINE_MARKERS)],
            linestyle="-" if index is None else DASHES[index // len(LINE_COLOURS) % len(DASHES)],
            linewidth=1.2,
            markersize=5,
            elinewidth=0.7,
            label=name,
        )
        for point, x, y in zip(points, xs, ys, strict=True) if panel.is_of_texts else ():
            _note(axes, f"{point.nfe_mean:.0f}", (x, y), xytext=(5, 4), textcoords="offset points")
    _mark_real_text(axes, record.real, panel)
    if not panel.is_of_texts:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    label_axes(axes, x=panel.x_label, y=panel.y_label)


def _mark_real_text(axes: Axes, real: TextQuality, panel: Panel) -> None:
    """A line at its value, or a star."""
    y, name = _value(real, panel.y), "validation text"
    if panel.is_of_texts:
        x = _value(real, panel.x)
        axes.plot(x, y, marker="*", markersize=13, color=INK, linestyle="none")
        _note(axes, name, (x, y), xytext=(8, -10), textcoords="offset points")
    else:
        axes.axhline(y, color=MUTED, linestyle=":", linewidth=1)
        _note(axes, name, (1, y), xycoords=("axes fraction", "data"), ha="right", va="bottom")


def _note(axes: Axes, text: str, place: tuple[float, float], **how: Any) -> None:
    axes.annotate(text, place, color=MUTED, fontsize=8, **how)


def draw_quality(record: SampleQuality, file: Path) -> Path:
    """Every panel with every curve, as a PNG."""
    panels, curves = panels_of(record), record.curves()
    fig = Figure(figsize=(5.2 * len(panels), 5.6), layout="constrained")
    for axes, panel in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_panel(axes, record, panel, curves)
        axes.grid(alpha=0.25)
    handles, labels = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    setting, samplers = record.setting, {point.how.sampler for point in record.points}
    what = "filling half of given texts" if setting.task == "infill" else "unconditional texts"
    by = f", {samplers.pop()}" if len(samplers) == 1 else ""
    fig.suptitle(
        f"{what}: {setting.num_texts} of {setting.length} tokens{by}, bars are two standard errors", fontsize=10
    )
    fig.savefig(file, dpi=110)
    return file


def _value(found: TextQuality, name: str) -> float:
    value = getattr(found, name)
    return math.nan if value is None else value


def _error(found: TextQuality, name: str) -> float:
    """The standard error of a value in nats; 0 where none is known: no bar."""
    error = _value(found, name.replace("_nats", "_error"))
    return 0.0 if math.isnan(error) else error
