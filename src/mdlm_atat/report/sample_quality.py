"""The pictures of measured samples: quality against variety, network evaluations and seconds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from mdlm_atat.atomic import written_aside
from mdlm_atat.report.figure import FAINT, INK, LINE_COLOURS, LINE_MARKERS, MUTED, TEXT_PT, label_axes
from mdlm_atat.samplers.catalogue import in_words
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
    return [*panels, Panel(first, "entropy_nats", labels[first], labels["entropy_nats"])]


def draw_panel(axes: Axes, record: SampleQuality, panel: Panel, curves: dict[str, list[SamplePoint]]) -> None:
    """Some samplers' curves. The grey band is the reference, one token at a time, with two standard errors to either
    side: where a curve enters it for good, in every picture of quality, nothing is lost by so few evaluations. Against
    entropy, cheap and varied is the lower right corner, and what is far from validation text in any direction is not
    like it; the larger a mark, the more network evaluations."""
    reference = record.reference
    if reference is not None and not panel.is_of_texts:
        middle, spread = _value(reference, panel.y), 2 * _error(reference, panel.y)
        axes.axhspan(middle - spread, middle + spread, color=FAINT, alpha=0.5, linewidth=0)
    others = [name for name in curves if name != REFERENCE]
    for name, points in curves.items():
        points = sorted(points, key=lambda point: _value(point, "nfe_mean" if panel.is_of_texts else panel.x))
        index = others.index(name) if name in others else None
        colour, marker, dash = _look(index)
        xs, ys = ([_value(point, part) for point in points] for part in (panel.x, panel.y))
        axes.errorbar(
            xs,
            ys,
            xerr=[2 * _error(point, panel.x) for point in points] if panel.is_of_texts else None,
            yerr=[2 * _error(point, panel.y) for point in points],
            color=colour,
            marker=marker,
            linestyle=dash,
            linewidth=1.2,
            markersize=0 if panel.is_of_texts else 5,
            elinewidth=0.7,
        )
        if panel.is_of_texts:
            sizes = [_mark_size(point.nfe_mean) ** 2 for point in points]
            axes.scatter(xs, ys, sizes, color=colour, marker=marker, zorder=3)
    _mark_real_text(axes, record.real, panel)
    if not panel.is_of_texts:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    remark = "larger marks: more evaluations" if panel.is_of_texts else ""
    label_axes(axes, x=panel.x_label, y=panel.y_label, remark=remark)


def _mark_real_text(axes: Axes, real: TextQuality, panel: Panel) -> None:
    """A line at its value, or a star."""
    if panel.is_of_texts:
        axes.plot(
            _value(real, panel.x), _value(real, panel.y), marker="*", markersize=13, color=MUTED, linestyle="none"
        )
    else:
        axes.axhline(_value(real, panel.y), color=MUTED, linestyle=":", linewidth=1)


def _mark_size(nfe: float) -> float:
    """The width of a mark in points: 3 of a single evaluation, one more for each doubling."""
    return 3 + math.log2(max(nfe, 1))


def legend_of(curves: dict[str, list[SamplePoint]]) -> tuple[list[Artist], list[str]]:
    """The lines of a legend to all panels, and their names in words; the last one is validation text."""
    others = [name for name in curves if name != REFERENCE]
    words = {name: _in_words(name, points) for name, points in curves.items()}
    lines: list[Artist] = []
    for name in curves:
        colour, marker, dash = _look(others.index(name) if name in others else None)
        lines.append(Line2D([], [], color=colour, marker=marker, linestyle=dash, linewidth=1.2, markersize=5))
    lines.append(Line2D([], [], color=MUTED, linestyle=":", linewidth=1, marker="*", markersize=9))
    said = list(words.values())
    names = [word if said.count(word) == 1 else f"{word} ({name})" for name, word in words.items()]
    return lines, [*names, "validation text"]


def _in_words(name: str, points: list[SamplePoint]) -> str:
    """The name of a curve with its sampler in words."""
    family = points[0].how.family
    return in_words(family) + name.removeprefix(family) if name.startswith(family) else name


def _look(index: int | None) -> tuple[str, str, Any]:
    """Colour, marker and dash of a curve by its number; None is the reference."""
    if index is None:
        return INK, "o", "-"
    dash = DASHES[index // len(LINE_COLOURS) % len(DASHES)]
    return LINE_COLOURS[index % len(LINE_COLOURS)], LINE_MARKERS[index % len(LINE_MARKERS)], dash


def draw_quality(record: SampleQuality, file: Path) -> Path:
    """Every panel with every curve, as a PNG."""
    panels, curves = panels_of(record), record.curves()
    fig = Figure(figsize=(5.2 * len(panels), 5.2 + 0.2 * len(curves)), layout="constrained")
    for axes, panel in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_panel(axes, record, panel, curves)
        axes.grid(alpha=0.25)
    lines, names = legend_of(curves)
    # as many columns as the longest name leaves room for: a letter takes some 0.09 inches
    num_columns = max(1, min(3, int(5.2 * len(panels) / (0.7 + 0.09 * max(map(len, names))))))
    fig.legend(lines, names, loc="outside lower center", ncols=num_columns, frameon=False, fontsize=10, handlelength=3)
    setting, samplers = record.setting, {point.how.sampler for point in record.points}
    what = "filling half of given texts" if setting.task == "infill" else "unconditional texts"
    by = f", {in_words(samplers.pop())}" if len(samplers) == 1 else ""
    fig.suptitle(
        f"{what}: {setting.num_texts} of {setting.length} tokens{by}, bars are two standard errors", fontsize=TEXT_PT
    )
    with written_aside(file) as aside:
        fig.savefig(aside, dpi=110, format="png")
    return file


def _value(found: TextQuality, name: str) -> float:
    value = getattr(found, name)
    return math.nan if value is None else value


def _error(found: TextQuality, name: str) -> float:
    """The standard error of a value in nats; 0 where none is known: no bar."""
    error = _value(found, name.replace("_nats", "_error"))
    return 0.0 if math.isnan(error) else error
