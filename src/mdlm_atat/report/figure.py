"""What all figures share: colours, axes, legends, thinning, and how they are put into a page.

Without pyplot, so that nothing is global and no display is needed.
"""

import html
import re
from dataclasses import dataclass
from io import StringIO

import matplotlib
import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

# One accent and greys: the accent is the blue of Okabe and Ito's colour-blind safe set, and every line also differs
# from the others by width, dash or marker, so that a black-and-white print stays readable.
INK = "#22262b"
MUTED = "#7a828c"
FAINT = "#c3c8ce"
ACCENT = "#0072b2"
# Of several lines: Okabe and Ito's colours, darkened where they would be too pale for a line on white; palette.css has
# those of a dark page under the same names. Markers differ too.
LINE_COLOURS = (ACCENT, "#d55e00", "#00805c", "#a8447f", "#8a6400", "#5b4bb7")
LINE_MARKERS = "s^DvPX"
CSS_NAMES = {INK: "ink", MUTED: "muted", FAINT: "faint", ACCENT: "accent"} | {
    colour: f"line-{index}" for index, colour in enumerate(LINE_COLOURS[1:], 2)
}

# A picture is as wide as a phone shows it (358 px of 390), and at most 30rem: its letters are 12 px there, and those of
# the page's text elsewhere.
WIDTH_IN = 5.0
TEXT_PT = 12.5
MONO = "DejaVu Sans Mono"  # comes with matplotlib
MAX_DRAWN_POINTS = 1500  # more than the pixels across a page; keeps the report of a long run small


@dataclass(frozen=True, kw_only=True)
class Series:
    """Measured points; `standard_error`, where known, belongs to y and has its unit."""

    x: Num[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]
    standard_error: Float[np.ndarray, " points"] | None = None


def svg(figure: Figure, *, name: str, title: str) -> str:
    """The figure as one `<svg>` element for an HTML page.

    Colours become CSS variables (`--ink`, `--muted`, ..., see CSS_NAMES) with the printed colours as fall-back, so that
    a page can have a dark mode. Text stays text, in the page's font. `name` makes ids unique in the page.
    """
    buffer = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)  # an HTML parser knows both
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for colour, css_name in CSS_NAMES.items():
        text = text.replace(colour, f"var(--{css_name}, {colour})")
    # a width and height in points would fix the size on the page; the viewBox alone keeps the proportions
    head, body = text.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    head = head.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
    return f"{head}>{body}".strip()


def running_mean(values: Float[np.ndarray, " points"], window: int) -> Float[np.ndarray, " points"]:
    """Mean over `window` (odd) neighbours centred on each point; over fewer near the ends, as many on each side."""
    half = window // 2
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, len(values) - 1 - index), half)  # as far to the left as to the right
    return (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def new_figure(*, height_in: float, num_named: int = 0) -> Figure:
    """A picture of the page, with room for a legend of `num_named` lines above it."""
    return Figure(figsize=(WIDTH_IN, height_in + 0.24 * num_named), layout="constrained")


def thinned(series: Series) -> Series:
    """Every n-th point, so that at most MAX_DRAWN_POINTS are left."""
    every = -(-len(series.x) // MAX_DRAWN_POINTS)
    return Series(x=series.x[::every], y=series.y[::every]) if every > 1 else series


def point_marker(series: Series) -> str:
    return "." if len(series.x) < 20 else ""  # a single point makes no line


def label_axes(axes: Axes, *, x: str, y: str, remark: str = "") -> None:
    """Name both axes. A remark on what is drawn stands in a line of its own below, where no point can be."""
    axes.set_xlabel(f"{x}\n{remark}" if remark else x, color=INK, fontsize=TEXT_PT)
    axes.set_ylabel(y, color=INK, fontsize=TEXT_PT)
    axes.tick_params(colors=INK, labelsize=TEXT_PT, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_edgecolor(MUTED)


def add_legend(axes: Axes, num_columns: int = 1) -> None:
    """Put the legend above the plot.

    Curves fall from top left to bottom right, and would meet a legend in most corners.
    """
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=num_columns,
            frameon=False,
            fontsize=TEXT_PT,
            labelcolor=INK,
            borderaxespad=0.2,
            handlelength=1.6,
            labelspacing=0.25,
            columnspacing=1.4,
        )


def drawable(label: str) -> str:
    """The label, with a box for every character that the font does not have."""
    font = get_font(findfont(FontProperties(family=MONO)))
    return "".join(char if font.get_char_index(ord(char)) else "\N{WHITE VERTICAL RECTANGLE}" for char in label)
