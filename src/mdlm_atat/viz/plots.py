"""The figures of a run: numbers in, a matplotlib Figure out; no pyplot, so nothing is global and no display needed."""

import html
import re
from dataclasses import dataclass
from io import StringIO

import matplotlib
import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# One accent and greys: the accent is the blue of Okabe and Ito's colour-blind safe set, and every line also differs
# from the others by width, dash or marker, so that a black-and-white print stays readable.
INK = "#22262b"
MUTED = "#7a828c"
FAINT = "#c3c8ce"
ACCENT = "#0072b2"
_CSS_NAMES = {INK: "ink", MUTED: "muted", FAINT: "faint", ACCENT: "accent"}

MAX_DRAWN_POINTS = 1500  # more than the pixels across a page; keeps the report of a long run small


@dataclass(frozen=True, kw_only=True)
class Series:
    """Measured points; `standard_error`, where known, belongs to y and has its unit."""

    x: Num[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]
    standard_error: Float[np.ndarray, " points"] | None = None


def training_curves(
    *,
    loss_nats: Series | None = None,
    bound_nats: Series | None = None,
    unigram_nats: float | None = None,
    lr: Series | None = None,
    grad_norm: Series | None = None,
    bound_name: str = "validation bound",
) -> Figure:
    """Training loss and validation bound against the step; learning rate and gradient norm small below.

    x is the optimizer step everywhere; loss, bound and unigram are in nats per token. The band is two standard errors
    to either side. The vertical range follows the bulk of the losses: the few outside it are counted in the picture.
    """
    below = [
        (series, name)
        for series, name in ((lr, "learning rate"), (grad_norm, "gradient norm"))
        if series is not None and len(series.x)
    ]
    figure = _figure(height_in=5.0 if below else 3.7)
    grid = figure.add_gridspec(2 if below else 1, max(len(below), 1), height_ratios=[3, 1] if below else [1])
    main = figure.add_subplot(grid[0, :])
    if loss_nats is not None and len(loss_nats.x):
        _draw_loss(main, loss_nats)
    if bound_nats is not None and len(bound_nats.x):
        _draw_band(main, bound_nats)
        main.plot(
            bound_nats.x,
            bound_nats.y,
            color=ACCENT,
            linewidth=2,
            marker="o",
            markersize=4,
            label=bound_name,
            zorder=4,
        )
    _draw_unigram(main, unigram_nats)
    _fit_height(main, loss_nats, bound_nats, unigram_nats)
    _label(main, x="step", y="nats per token")
    main.xaxis.set_major_locator(MaxNLocator(9, integer=True, steps=[1, 2, 2.5, 5, 10]))
    _legend(main)
    for column, (series, name) in enumerate(below):
        axes = figure.add_subplot(grid[1, column])
        drawn = _thinned(series)
        axes.plot(drawn.x, drawn.y, color=MUTED, linewidth=1, marker=_marker(drawn))
        axes.set_xlim(main.get_xlim())
        axes.set_ylim(bottom=0)
        _label(axes, x="step", y=name)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    return figure


def mask_rate_profile(
    *,
    mask_rate: Float[np.ndarray, " bins"],
    nats_per_masked_token: Float[np.ndarray, " bins"],
    standard_error: Float[np.ndarray, " bins"] | None = None,
    unigram_nats: float | None = None,
) -> Figure:
    """Mean cost of a masked token, in nats, against the share of tokens masked; bars are two standard errors."""
    figure = _figure(height_in=3.7)
    axes = figure.add_subplot()
    axes.errorbar(
        mask_rate,
        nats_per_masked_token,
        yerr=None if standard_error is None else 2 * standard_error,
        color=ACCENT,
        linewidth=2,
        elinewidth=1.2,
        capsize=3,
        marker="o",
        markersize=4,
        label="this model",
    )
    _draw_unigram(axes, unigram_nats)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    _label(axes, x="share of tokens masked", y="nats per masked token")
    _legend(axes)
    return figure


def svg(figure: Figure, *, name: str, title: str) -> str:
    """The figure as one `<svg>` element for an HTML page.

    Colours become CSS variables (`--ink`, `--muted`, `--faint`, `--accent`, with the printed colours as fall-back) so
    that a page can offer a dark mode; text stays text, in the page's font; `name` makes ids unique in the page.
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
    for colour, css_name in _CSS_NAMES.items():
        text = text.replace(colour, f"var(--{css_name}, {colour})")
    # a width and height in points would fix the size on the page; the viewBox alone keeps the proportions
    head, body = text.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    head = head.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
    return f"{head}>{body}".strip()


def running_mean(values: Float[np.ndarray, " points"], window: int) -> Float[np.ndarray, " points"]:
    """Mean over `window` (odd) neighbours centred on each point, over fewer at the ends so that no end is invented."""
    half = window // 2
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, len(values) - 1 - index), half)  # as far to the left as to the right
    return (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def _figure(*, height_in: float) -> Figure:
    return Figure(figsize=(7.6, height_in), layout="constrained")


def _draw_loss(axes: Axes, loss_nats: Series) -> None:
    finite = np.isfinite(loss_nats.y)
    loss = Series(x=loss_nats.x[finite], y=loss_nats.y[finite])
    window = len(loss.x) // 30 | 1  # odd
    smooth = _thinned(Series(x=loss.x, y=running_mean(loss.y, window)))
    drawn = _thinned(loss)
    if window == 1:
        axes.plot(drawn.x, drawn.y, color=MUTED, linewidth=1.4, marker=_marker(drawn), label="training loss")
        return
    axes.plot(drawn.x, drawn.y, color=FAINT, linewidth=0.7, zorder=1)
    label = f"training loss, mean of {window} lines"
    axes.plot(smooth.x, smooth.y, color=MUTED, linewidth=1.6, label=label, zorder=3)


def _draw_band(axes: Axes, bound_nats: Series) -> None:
    if bound_nats.standard_error is None:
        return
    two = 2 * bound_nats.standard_error
    axes.fill_between(
        bound_nats.x,
        bound_nats.y - two,
        bound_nats.y + two,
        color=ACCENT,
        alpha=0.22,
        linewidth=0,
    )


def _draw_unigram(axes: Axes, unigram_nats: float | None) -> None:
    if unigram_nats is not None:
        axes.axhline(
            unigram_nats,
            color=INK,
            linewidth=1.1,
            linestyle=(0, (5, 3)),
            label=f"unigram model, {unigram_nats:.2f}",
            zorder=2,
        )


def _fit_height(axes: Axes, loss: Series | None, bound: Series | None, unigram_nats: float | None) -> None:
    """The noise of a few small batches, or the first steps of a large vocabulary, must not flatten everything else."""
    inside = [np.atleast_1d(np.float64(unigram_nats))] if unigram_nats is not None else []
    if bound is not None:
        inside.append(bound.y[np.isfinite(bound.y)])
    losses = np.empty(0) if loss is None else loss.y[np.isfinite(loss.y)]
    if len(losses):
        inside.append(np.quantile(losses, [0.003, 0.99]))
    values = np.concatenate([np.empty(0), *inside])
    if not len(values):
        return
    low, high = values.min(), values.max()
    margin = 0.06 * (high - low) or 0.1
    low, high = low - margin, high + margin
    axes.set_ylim(low, high)
    outside = int(((losses < low) | (losses > high)).sum())
    if outside:
        axes.text(
            0.995,
            0.98,
            f"{outside} of {len(losses)} logged losses lie outside the picture",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=8.5,
            color=MUTED,
        )


def _thinned(series: Series) -> Series:
    every = -(-len(series.x) // MAX_DRAWN_POINTS)
    return Series(x=series.x[::every], y=series.y[::every]) if every > 1 else series


def _marker(series: Series) -> str:
    return "." if len(series.x) < 20 else ""  # a single point makes no line


def _label(axes: Axes, *, x: str, y: str) -> None:
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_edgecolor(MUTED)


def _legend(axes: Axes) -> None:
    """Above the plot, in one row: curves fall from top left to bottom right and would meet any corner but one."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=4,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            borderaxespad=0.2,
            handlelength=1.6,
            columnspacing=1.4,
        )
