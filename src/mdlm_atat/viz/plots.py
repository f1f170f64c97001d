"""The figures of a run: numbers in, a matplotlib Figure out; no pyplot, so nothing is global and no display needed."""

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

import matplotlib
import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator

# One accent and greys: the accent is the blue of Okabe and Ito's colour-blind safe set, and every line also differs
# from the others by width, dash or marker, so that a black-and-white print stays readable.
INK = "#22262b"
MUTED = "#7a828c"
FAINT = "#c3c8ce"
ACCENT = "#0072b2"
_CSS_NAMES = {INK: "ink", MUTED: "muted", FAINT: "faint", ACCENT: "accent"}

MAX_DRAWN_POINTS = 1500  # more than the pixels across a page; keeps the report of a long run small

# A heatmap is laid out in inches, so that every band of tokens has cells of one size.
MONO = "DejaVu Sans Mono"  # comes with matplotlib
LETTERS_PER_BAND, WORDS_PER_BAND, MIN_PER_BAND = 64, 40, 24  # words are written upwards
HEATMAP_WIDTH_IN, LEFT_IN, RIGHT_IN, TOP_IN, BOTTOM_IN = 7.6, 0.5, 0.2, 0.62, 0.1
ROW_IN, BAND_GAP_IN, BLOCK_GAP_IN, LETTER_IN = 0.105, 0.14, 0.04, 0.17


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
    schedule_bound_nats: Series | None = None,
    unigram_nats: float | None = None,
    lr: Series | None = None,
    grad_norm: Series | None = None,
    bound_name: str = "validation bound",
) -> Figure:
    """Training loss and validation bound against the step; learning rate and gradient norm small below.

    x is the optimizer step everywhere; loss, bounds and unigram are in nats per token. The band is two standard errors
    to either side. The vertical range follows the bulk of the losses: the few outside it are counted in the picture.
    `schedule_bound_nats`, where the method's own masking schedule has a bound of its own, has bars instead of a band.
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
            label=bound_name if schedule_bound_nats is None else f"{bound_name}, uniform schedule (PPL-U)",
            zorder=4,
        )
    if schedule_bound_nats is not None and len(schedule_bound_nats.x):
        error = schedule_bound_nats.standard_error
        main.errorbar(  # bars: a second band would hide the first
            schedule_bound_nats.x,
            schedule_bound_nats.y,
            yerr=None if error is None else 2 * error,
            color=ACCENT,
            linewidth=1.2,
            elinewidth=0.9,
            capsize=2.5,
            linestyle=(0, (2, 1.5)),
            marker="s",
            markersize=4,
            markerfacecolor="none",
            label=f"{bound_name}, own schedule (PPL-S)",
            zorder=4,
        )
    _draw_unigram(main, unigram_nats)
    _fit_height(main, loss_nats, (bound_nats, schedule_bound_nats), unigram_nats)
    _label(main, x="step", y="nats per token")
    main.xaxis.set_major_locator(MaxNLocator(9, integer=True, steps=[1, 2, 2.5, 5, 10]))
    _legend(main, num_columns=4 if schedule_bound_nats is None else 2)
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
    figure = _figure(height_in=3.7)
    axes = figure.add_subplot()
    every = -(-len(importance) // MAX_DRAWN_POINTS)
    axes.scatter(
        importance[::every],
        mean_nll[::every],
        s=9,
        color=FAINT,
        linewidths=0,
        label=f"tokens: correlation {pearson:.2f} (Pearson), {spearman:.2f} (Spearman)",
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
    _label(axes, x="importance in the clean text", y="nats when masked, mean over t")
    _legend(axes)
    return figure


def mask_rate_by_importance(
    *,
    importance: Float[np.ndarray, " tokens"],
    times: Float[np.ndarray, " times"],
    mask_rate: Float[np.ndarray, "times tokens"],
) -> Figure:
    """How likely the masking schedule masks an easy, a median and a hard token at t: the means of the tokens that rank
    within 5 percent of the 10th, 50th and 90th percentile of importance. 0 at t = 0 and 1 at t = 1."""
    figure = _figure(height_in=3.7)
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
    _label(axes, x="t, the share of tokens that uniform masking hides", y="mask probability")
    _legend(axes, num_columns=2)
    return figure


def near_percentile(order: Num[np.ndarray, " tokens"], percentile: float) -> Num[np.ndarray, " chosen"]:
    """Of tokens in ascending order those that rank within 5 percent of a percentile, and at least one."""
    low, high = (len(order) * (percentile + side) / 100 for side in (-5, 5))
    first = min(math.floor(low), len(order) - 1)
    return order[first : max(first + 1, math.ceil(high))]


def curriculum_progress(
    *,
    stage: Series | None = None,
    temperature: Series | None = None,
    importance: tuple[Series, Series, Series] | None = None,
    correlation: Series | None = None,
    stage_names: Sequence[str] = (),
) -> Figure:
    """What training went through, against the step: the curriculum's stage and the temperature factor; importance, its
    median and the range from the 10th to the 90th percentile; its correlation with the loss of the masked tokens."""
    panels = [series is not None for series in (stage, importance, correlation)]
    figure = _figure(height_in=0.4 + 1.6 * max(1, sum(panels)))
    grid = figure.add_gridspec(max(1, sum(panels)), 1)
    rows = iter(range(sum(panels)))
    if stage is not None:
        axes = figure.add_subplot(grid[next(rows), 0])
        _draw_stages(axes, stage, temperature, stage_names)
    if importance is not None:
        axes = figure.add_subplot(grid[next(rows), 0])
        low, median, high = (_thinned(series) for series in importance)
        axes.fill_between(low.x, low.y, high.y, color=FAINT, linewidth=0, alpha=0.6, label="10th to 90th percentile")
        axes.plot(median.x, median.y, color=ACCENT, linewidth=1.6, marker=_marker(median), label="median")
        axes.set_ylim(0, 1)
        _label(axes, x="", y="importance")
        _legend(axes)
    if correlation is not None:
        axes = figure.add_subplot(grid[next(rows), 0])
        finite = np.isfinite(correlation.y)
        _draw_smooth(axes, Series(x=correlation.x[finite], y=correlation.y[finite]), name="training batches")
        axes.axhline(0, color=MUTED, linewidth=0.8)
        _label(axes, x="", y="correlation\nwith the loss")
        _legend(axes)
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, steps=[1, 2, 2.5, 5, 10]))
    if figure.axes:
        figure.axes[-1].set_xlabel("step", color=INK, fontsize=10)
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


def drawable(label: str) -> str:
    """The label with a box for every character that the font lacks."""
    font = get_font(findfont(FontProperties(family=MONO)))
    return "".join(char if font.get_char_index(ord(char)) else "\N{WHITE VERTICAL RECTANGLE}" for char in label)


def _draw_stages(axes: Axes, stage: Series, temperature: Series | None, names: Sequence[str]) -> None:
    axes.step(stage.x, stage.y, where="post", color=ACCENT, linewidth=2, label="stage")
    highest = int(max(stage.y.max(), len(names) - 1))
    axes.set_yticks(range(highest + 1), [names[k] if k < len(names) else str(k + 1) for k in range(highest + 1)])
    axes.set_ylim(-0.3, highest + 0.3)
    _label(axes, x="", y="stage")
    if temperature is None:
        _legend(axes)
        return
    twin = axes.twinx()
    drawn = _thinned(temperature)
    twin.plot(drawn.x, drawn.y, color=MUTED, linewidth=1.4, linestyle="--", label="temperature factor")
    twin.set_ylim(0, 1.15 * drawn.y.max())
    twin.tick_params(colors=INK, labelsize=9, length=0)
    twin.set_ylabel("temperature", color=INK, fontsize=10)
    twin.spines[:].set_visible(False)
    axes.plot([], [], color=MUTED, linewidth=1.4, linestyle="--", label="temperature factor")
    _legend(axes)


def _draw_loss(axes: Axes, loss_nats: Series) -> None:
    finite = np.isfinite(loss_nats.y)
    _draw_smooth(axes, Series(x=loss_nats.x[finite], y=loss_nats.y[finite]), name="training loss")


def _draw_smooth(axes: Axes, series: Series, *, name: str) -> None:
    """A noisy curve faint, and its running mean over it."""
    window = len(series.x) // 30 | 1  # odd
    smooth = _thinned(Series(x=series.x, y=running_mean(series.y, window)))
    drawn = _thinned(series)
    if window == 1:
        axes.plot(drawn.x, drawn.y, color=MUTED, linewidth=1.4, marker=_marker(drawn), label=name)
        return
    axes.plot(drawn.x, drawn.y, color=FAINT, linewidth=0.7, zorder=1)
    label = f"{name}, mean of {window} lines"
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


def _fit_height(axes: Axes, loss: Series | None, bounds: Sequence[Series | None], unigram_nats: float | None) -> None:
    """The noise of a few small batches, or the first steps of a large vocabulary, must not flatten everything else."""
    inside = [np.atleast_1d(np.float64(unigram_nats))] if unigram_nats is not None else []
    inside += [bound.y[np.isfinite(bound.y)] for bound in bounds if bound is not None]
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


def _legend(axes: Axes, num_columns: int = 4) -> None:
    """Above the plot, in one row where it fits: curves fall from top left to bottom right and would meet any corner but
    one."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=num_columns,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            borderaxespad=0.2,
            handlelength=1.6,
            columnspacing=1.4,
        )
