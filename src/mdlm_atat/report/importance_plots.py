"""The figures of an inspected text: importance and loss of each token. Numbers in, a matplotlib Figure out."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from mdlm_atat.report.figure import (
    ACCENT,
    FAINT,
    INK,
    MAX_DRAWN_POINTS,
    MONO,
    MUTED,
    add_legend,
    drawable,
    label_axes,
    new_figure,
)

# A heatmap is laid out in inches, so that every band of tokens has cells of one size.
LETTERS_PER_BAND, WORDS_PER_BAND, MIN_PER_BAND = 64, 40, 24  # words are written upwards
HEATMAP_WIDTH_IN, LEFT_IN, RIGHT_IN, TOP_IN, BOTTOM_IN = 7.6, 0.5, 0.2, 0.62, 0.1
ROW_IN, BAND_GAP_IN, BLOCK_GAP_IN, LETTER_IN = 0.105, 0.14, 0.04, 0.17


def importance_heatmap(
    *,
    labels: Sequence[str],
    importance: Float[np.ndarray, " tokens"],
    times: Float[np.ndarray, " times"],
    masked_importance: Float[np.ndarray, "times tokens"],
    nll: Float[np.ndarray, "times tokens"],
    num_left_out: int = 0,
) -> Figure:
    """A column a token, a row a t: the token's importance when it is masked, above it that of the clean text; and,
    below in grey, its actual loss in nats. A long text goes on in further bands. Labels are drawn as they are.

    The colours of importance run from the lowest to the highest there is, those of the loss from 0. `num_left_out`:
    further tokens of the text, which are only counted.
    """
    is_upwards = any(len(label) > 1 for label in labels)
    width = max(MIN_PER_BAND, min(len(labels), WORDS_PER_BAND if is_upwards else LETTERS_PER_BAND))
    bands = [slice(start, start + width) for start in range(0, len(labels), width)]
    label_in = max((len(label) for label in labels), default=0) * 0.063 + 0.06 if is_upwards else LETTER_IN
    block_in = (1 + len(times)) * ROW_IN + BLOCK_GAP_IN
    band_in = label_in + block_in + len(times) * ROW_IN + BAND_GAP_IN
    height_in = TOP_IN + len(bands) * band_in + BOTTOM_IN
    figure = Figure(figsize=(HEATMAP_WIDTH_IN, height_in))
    inner_in = HEATMAP_WIDTH_IN - LEFT_IN - RIGHT_IN

    def place(left_in: float, top_in: float, width_in: float, tall_in: float) -> Axes:
        bottom = 1 - (top_in + tall_in) / height_in
        return figure.add_axes((left_in / HEATMAP_WIDTH_IN, bottom, width_in / HEATMAP_WIDTH_IN, tall_in / height_in))

    names = [f"t {t:g}" for t in times]
    with_clean = np.concatenate([importance[None], masked_importance])
    lowest, highest = with_clean.min(initial=1.0), with_clean.max(initial=0.0)
    blocks = (  # values, names of the rows, least and largest value, colour of the largest, title
        (with_clean, ["clean", *names], lowest, highest, ACCENT, "importance, of the clean text and when masked at t"),
        (nll, names, 0.0, nll.max(initial=0.0), INK, "loss when masked at t, nats"),
    )
    for index, (values, row_names, low, high, colour, title) in enumerate(blocks):
        colours = LinearSegmentedColormap.from_list(title, ["#ffffff", colour])
        norm = Normalize(low, max(high, low + 1e-6))
        _draw_scale(place(LEFT_IN + index * inner_in / 2, 0.3, 0.31 * inner_in, 0.08), norm, colours, title)
        for k, band in enumerate(bands):
            shown = values[:, band]
            top_in = TOP_IN + k * band_in + label_in + index * block_in
            axes = place(LEFT_IN, top_in, shown.shape[1] * inner_in / width, len(shown) * ROW_IN)
            axes.imshow(shown, cmap=colours, norm=norm, aspect="auto", interpolation="none")
            _name_rows(axes, row_names)
            if index == 0:
                axes.axhline(0.5, color="#ffffff", linewidth=1)
                _name_columns(axes, labels[band], is_upwards=is_upwards)
    if num_left_out:
        figure.text(0.99, 0.03 / height_in, f"{num_left_out:,} more tokens", ha="right", fontsize=7, color=MUTED)
    return figure


def importance_against_loss(
    *,
    importance: Float[np.ndarray, " tokens"],
    mean_nll: Float[np.ndarray, " tokens"],
    pearson: float,
    spearman: float,
) -> Figure:
    """What each token costs when it is masked, the mean over t in nats, against its importance in the clean text;
    and the means of ten groups of tokens of equal size, by importance."""
    figure = new_figure(height_in=3.3, num_named=3)
    axes = figure.add_subplot()
    every = -(-len(importance) // MAX_DRAWN_POINTS)
    axes.scatter(
        importance[::every],
        mean_nll[::every],
        s=9,
        color=FAINT,
        linewidths=0,
        label=f"tokens: correlation {pearson:.2f} (Pearson),\n{spearman:.2f} (Spearman)",
    )
    groups = [group for group in np.array_split(importance.argsort(kind="stable"), 10) if len(group)]
    axes.plot(
        [importance[group].mean() for group in groups],
        [mean_nll[group].mean() for group in groups],
        color=ACCENT,
        linewidth=2,
        marker="o",
        markersize=4,
        label="means of tenths of the tokens",
    )
    axes.set_ylim(bottom=0)
    label_axes(axes, x="importance in the clean text", y="nats when masked, mean over t")
    add_legend(axes)
    return figure


def mask_rate_by_importance(
    *,
    importance: Float[np.ndarray, " tokens"],
    times: Float[np.ndarray, " times"],
    mask_rate: Float[np.ndarray, "times tokens"],
) -> Figure:
    """How likely the masking schedule masks an easy, a median and a hard token at t: the means of the tokens that rank
    within 5 percent of the 10th, 50th and 90th percentile of importance. 0 at t = 0 and 1 at t = 1."""
    figure = new_figure(height_in=3.3, num_named=4)
    axes = figure.add_subplot()
    order = importance.argsort(kind="stable")
    x = np.concatenate([[0.0], times, [1.0]])
    looks = (
        (10, "easy tokens", MUTED, ":", "v"),
        (50, "median tokens", MUTED, "-", "o"),
        (90, "hard tokens", ACCENT, "-", "^"),
    )
    for percentile, name, colour, style, marker in looks:
        chosen = near_percentile(order, percentile)
        y = np.concatenate([[0.0], mask_rate[:, chosen].mean(1), [1.0]])
        label = f"{name}, importance {importance[chosen].mean():.2f}"
        axes.plot(x, y, color=colour, linewidth=2, linestyle=style, marker=marker, markersize=4, label=label)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1.1, linestyle=(0, (5, 3)), label="uniform schedule", zorder=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    label_axes(axes, x="t, the share masked uniformly", y="mask probability")
    add_legend(axes)
    return figure


def near_percentile(order: Num[np.ndarray, " tokens"], percentile: float) -> Num[np.ndarray, " chosen"]:
    """Of tokens in ascending order those that rank within 5 percent of a percentile, and at least one."""
    low, high = (len(order) * (percentile + side) / 100 for side in (-5, 5))
    first = min(math.floor(low), len(order) - 1)
    return order[first : max(first + 1, math.ceil(high))]


def _draw_scale(axes: Axes, norm: Normalize, colours: LinearSegmentedColormap, title: str) -> None:
    assert norm.vmin is not None
    assert norm.vmax is not None
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto", extent=(norm.vmin, norm.vmax, 0, 1))
    axes.set_title(title, color=INK, fontsize=8, loc="left", pad=3)
    axes.set_xticks([norm.vmin, norm.vmax], [f"{norm.vmin:.2f}", f"{norm.vmax:.2f}"])
    axes.set_yticks([])
    axes.tick_params(colors=INK, labelsize=7, length=2, pad=1)
    for spine in axes.spines.values():
        spine.set_edgecolor(FAINT)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", colors=INK, labelsize=5.5, length=0, pad=2)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)


def _name_columns(axes: Axes, labels: Sequence[str], *, is_upwards: bool) -> None:
    for column, label in enumerate(labels):
        axes.annotate(
            drawable(label),
            (column, 1),
            xytext=(0, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=90 if is_upwards else 0,
            fontsize=7,
            family=MONO,
            color=INK,
            parse_math=False,  # two dollars in a text are no formula
        )
