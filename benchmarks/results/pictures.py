"""The pictures of the page on results, as SVG with white ground, drawn for the width of a phone (358 px).

What a picture shows is hashed and the hash is stored in it, so that a stale one is found without drawing: lines that
matplotlib's next version draws otherwise are no difference.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.results.novels import novels, older_novels
from benchmarks.results.stored import FOLDER, OWN, mean_of, stored
from benchmarks.results.tables import SPREAD, shown_arms

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points with a name; joined, or a sign at each, or a level over the whole width."""

    name: str
    points: Points
    joined: bool = True
    is_level: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    rows: tuple[str, ...] = ()
    """Names of y = 0, 1, ... from the top; then y is no number."""
    x_doubles: bool = False
    """Whether equal steps along x are doublings."""

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


def level(name: str, y: float, least_x: float, most_x: float) -> Line:
    """A value that does not depend on x."""
    return Line(name=name, points=((least_x, y), (most_x, y)), is_level=True)


def likelihoods() -> Picture:
    """Each method's likelihoods, a row a method."""
    arms = shown_arms("1500")
    signs = {"any order, at most": "any_order", "own order, 16 evaluations": f"{OWN}16"}
    signs |= {"own order, 256 evaluations": f"{OWN}256", "left to right": "left_to_right"}
    lines = []
    for name, column in signs.items():
        means = [(row, mean_of(runs, column)) for row, runs in enumerate(arms.values())]
        points = tuple((round(mean.value, 4), float(row)) for row, mean in means if mean is not None)
        lines.append(Line(name=name, points=points, joined=False))
    return Picture(
        title="What a token of held-out novels costs each method, by likelihood",
        x="nats per token",
        y="",
        lines=tuple(line for line in lines if line.points),
        rows=tuple(_in_two_lines(arm.replace("_", " ")) for arm in arms),
    )


def _in_two_lines(name: str) -> str:
    middle = name.find(" ", len(name) // 3)
    return name if len(name) < 14 or middle < 0 else f"{name[:middle]}\n{name[middle + 1 :]}"


def own_order() -> Picture:
    """What text costs in the sampler's own order, by evaluations."""
    lines = []
    for arm, runs in shown_arms("1500").items():
        means = [(evaluations, mean_of(runs, f"{OWN}{evaluations}")) for evaluations in (16, 64, 256)]
        points = tuple((float(n), round(mean.value, 4)) for n, mean in means if mean is not None)
        if points:
            lines.append(Line(name=arm.replace("_", " "), points=points))
    for column, name in (("any_order", "atat, any order, at most"), ("left_to_right", "atat, left to right")):
        mean = mean_of(novels()["atat"], column)
        if mean is not None:
            lines.append(level(name, round(mean.value, 4), 16.0, 256.0))
    return Picture(
        title="What held-out text costs in the order that spread reveals it in, by network evaluations",
        x="evaluations for 256 tokens",
        y="nats per token",
        lines=tuple(lines),
        x_doubles=True,
    )


def longer() -> Picture:
    """The bound while training four times longer."""
    curves = stored("atat-novels.json")["long"]
    names = {"mdlm": "mdlm", "time_sampling_only": "time sampling only", "atat": "importance rates"}
    lines = [
        Line(name=name, points=tuple((at["step"] / 1000, at["ppl_u_nats"]) for at in curves[arm]["curve"]))
        for arm, name in names.items()
    ]
    end = mean_of(older_novels(6000)["mdlm, AdamW"], "any_order")
    assert end is not None
    lines.append(level("where mdlm ends", round(end.value, 4), lines[0].points[0][0], 6.0))
    return Picture(
        title="Any order, at most, over 6,000 steps with AdamW",
        x="thousand steps",
        y="nats per token",
        lines=tuple(lines),
    )


def judge() -> Picture:
    """What a judge pays for filled gaps, by evaluations."""
    content = stored("samplers-novels.json")["2400 steps"]["infill"]
    names = {SPREAD: "spread", "first_hitting:sizes=constant": "random order"}
    lines = []
    for sampler, name in names.items():
        mine = sorted((p["steps"], p["judge_nats"]) for p in content["points"] if p["sampler"] == sampler)
        lines.append(Line(name=name, points=tuple((float(steps), nats) for steps, nats in mine)))
    (alone,) = (p for p in content["points"] if p["sampler"] == "first_hitting" and p["steps"] is None)
    lines.append(level("random order, one at a time (256)", alone["judge_nats"], 8.0, 64.0))
    return Picture(
        title="What a judge pays for texts of which half was filled in, by network evaluations",
        x="evaluations for 256 tokens",
        y="judge's nats per token",
        lines=tuple(lines),
        x_doubles=True,
    )


PICTURES: dict[str, Callable[[], Picture]] = {
    "likelihoods.svg": likelihoods,
    "own-order.svg": own_order,
    "longer.svg": longer,
    "judge.svg": judge,
}


def stale(folder: Path = FOLDER) -> list[str]:
    """The pictures that are not there, or show other numbers than are stored."""
    return [name for name, make in PICTURES.items() if not _shows(folder / name, make())]


def _shows(file: Path, picture: Picture) -> bool:
    return file.exists() and picture.hash in file.read_text(encoding="utf-8")


def draw_stale(folder: Path = FOLDER) -> None:
    for name in stale(folder):
        (folder / name).write_text(drawn(PICTURES[name]()), encoding="utf-8")


def drawn(picture: Picture) -> str:
    """The picture as SVG."""
    from io import StringIO

    import matplotlib
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    from mdlm_atat.report.figure import (
        INK,
        LINE_COLOURS,
        LINE_MARKERS,
        MUTED,
        TEXT_PT,
        add_legend,
        label_axes,
        new_figure,
    )

    figure = new_figure(height_in=0.7 + 0.42 * len(picture.rows) if picture.rows else 2.6, num_named=len(picture.lines))
    axes, markers = figure.add_subplot(), "o" + LINE_MARKERS
    for number, line in enumerate(picture.lines):
        x, y = zip(*line.points, strict=True)
        if line.is_level:
            axes.plot(x, y, label=line.name, color=MUTED, linestyle="--" if number % 2 else ":", linewidth=1.6)
        else:
            colour, marker = LINE_COLOURS[number % len(LINE_COLOURS)], markers[number % len(markers)]
            style = "-" if line.joined else ""
            axes.plot(x, y, label=line.name, color=colour, linestyle=style, marker=marker, markersize=6, linewidth=1.6)
    label_axes(axes, x=picture.x, y=picture.y)
    if picture.rows:
        axes.set_yticks(range(len(picture.rows)), picture.rows)
        axes.set_ylim(len(picture.rows) - 0.5, -0.5)
        axes.grid(axis="y", color="#e4e7ea")
        axes.set_axisbelow(True)
    if picture.x_doubles:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted({x for line in picture.lines for x, _ in line.points})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.tick_params(labelsize=TEXT_PT, colors=INK)
    if picture.rows:  # from the left edge, for the names of the rows leave little room
        figure.legend(loc="outside upper left", frameon=False, fontsize=TEXT_PT, labelcolor=INK, labelspacing=0.25)
    else:
        add_legend(axes)
    buffer = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.hash}):
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = "".join(f"{line.rstrip()}\n" for line in text[text.index("<svg") :].splitlines())
    head, body = text.split(">", 1)
    about = f"<title>{html.escape(picture.title)}</title>\n <desc>Shows the numbers with hash {picture.hash}.</desc>"
    return f"{head}>\n {about}{body}"
