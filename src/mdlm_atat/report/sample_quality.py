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
MAX_IN_A_ROW = 4  # panels
REMARKS = {"order_nats": "hollow marks: upper bounds", "mauve": "bars: two standard deviations over clusterings"}


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
    """Every measure of quality against network evaluations: what a judge pays, what real text costs in the sampler's
    own order, the entropy, and MAUVE; the first of them, and the own order, against seconds; and with a judge, what it
    pays against how varied the texts are. What no point has is left out."""
    name = "judge" if record.judge is None else Path(record.judge).name
    labels = {
        "judge_nats": f"{name}, nats per token",
        "order_nats": "validation text in its own order, nats per token",
        "entropy_nats": "entropy of a text's tokens, nats",
        "mauve": "MAUVE against validation text",
    }
    labels = {y: label for y, label in labels.items() if any(getattr(point, y) is not None for point in record.points)}
    first = next(iter(labels), "entropy_nats")
    seconds = f"seconds for {record.setting.num_texts} texts"
    panels = [Panel(y, "nfe_mean", label, "network evaluations a text") for y, label in labels.items()]
    panels += [Panel(y, "seconds", labels[y], seconds) for y in dict.fromkeys((first, "order_nats")) if y in labels]
    if "judge_nats" in labels:
        panels.append(Panel(first, "entropy_nats", labels[first], labels["entropy_nats"]))
    return panels


def draw_panel(axes: Axes, record: SampleQuality, panel: Panel, curves: dict[str, list[SamplePoint]]) -> None:
    """Some samplers' curves. The grey band is the reference, one token at a time, with two standard errors to either
    side: where a curve enters it for good, in every picture of quality, nothing is lost by so few evaluations. Against
    entropy, cheap and varied is the lower right corner, and what is far from validation text in any direction is not
    like it; the larger a mark, the more network evaluations."""
    reference = record.reference
    middle = math.nan if reference is None or panel.is_of_texts else _value(reference, panel.y)
    if reference is not None and not math.isnan(middle):
        spread = 2 * _error(reference, panel.y)
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
            markerfacecolor="none" if panel.y == "order_nats" and points[0].order_kind == "bound" else None,
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
    remark = "larger marks: more evaluations" if panel.is_of_texts else REMARKS.get(panel.y, "")
    label_axes(axes, x=panel.x_label, y=panel.y_label, remark=remark)


def _mark_real_text(axes: Axes, real: TextQuality, panel: Panel) -> None:
    """A line at its value, or a star."""
    if panel.is_of_texts:
        axes.plot(
            _value(real, panel.x), _value(real, panel.y), marker="*", markersize=13, color=MUTED, linestyle="none"
        )
    elif not math.isnan(_value(real, panel.y)):
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
    """Colour, marker and dash of a curve by its number; None is the reference. Where colours begin anew, markers go on
    by one: a curve of a single point is known by these two."""
    if index is None:
        return INK, "o", "-"
    again, colour = divmod(index, len(LINE_COLOURS))
    return LINE_COLOURS[colour], LINE_MARKERS[(index + again) % len(LINE_MARKERS)], DASHES[again % len(DASHES)]


def draw_quality(record: SampleQuality, file: Path) -> Path:
    """Every panel with every curve, as a PNG."""
    panels, curves = panels_of(record), record.curves()
    num_rows = 1 if len(panels) <= MAX_IN_A_ROW else 2
    across = -(-len(panels) // num_rows)
    fig = Figure(figsize=(5.2 * across, 5.2 * num_rows + 0.2 * len(curves)), layout="constrained")
    places = fig.subplots(num_rows, across, squeeze=False).flatten()
    for axes, panel in zip(places, panels, strict=False):
        draw_panel(axes, record, panel, curves)
        axes.grid(alpha=0.25)
    for axes in places[len(panels) :]:
        axes.remove()
    lines, names = legend_of(curves)
    # as many columns as the longest name leaves room for: a letter takes some 0.09 inches
    num_columns = max(1, min(3, int(5.2 * across / (0.7 + 0.09 * max(map(len, names))))))
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
    value = getattr(found, name, None)  # validation text has no order
    return math.nan if value is None else value


def _error(found: TextQuality, name: str) -> float:
    """The standard error of a value in nats, or how far a MAUVE value depends on the clustering; 0 where none is known:
    no bar."""
    error = _value(found, "mauve_spread" if name == "mauve" else name.replace("_nats", "_error"))
    return 0.0 if math.isnan(error) else error
