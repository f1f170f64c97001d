"""The figures of a run: curves, profile and curriculum. Each function takes numbers and returns a matplotlib Figure."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mdlm_atat.report.figure import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    TEXT_PT,
    Series,
    add_legend,
    label_axes,
    new_figure,
    point_marker,
    running_mean,
    thinned,
)


def training_curves(
    *,
    loss_nats: Series | None = None,
    bound_nats: Series | None = None,
    schedule_bound_nats: Series | None = None,
    left_to_right_nats: Series | None = None,
    unigram_nats: float | None = None,
    lr: Series | None = None,
    grad_norm: Series | None = None,
    bound_name: str = "validation bound",
) -> Figure:
    """Training loss and validation bound against the step, with learning rate and gradient norm small below.

    x is the optimizer step in all of them; loss, bounds and unigram are in nats per token. The band is two standard
    errors to either side. The vertical range follows the bulk of the losses; the picture counts those outside it.
    `schedule_bound_nats` is the bound under the method's own masking schedule, and has bars instead of a band;
    `left_to_right_nats` is the exact value of a network that is trained in two ways.
    """
    below = [
        (series, name)
        for series, name in ((lr, "learning rate"), (grad_norm, "gradient norm"))
        if series is not None and len(series.x)
    ]
    drawn_above = (loss_nats, bound_nats, schedule_bound_nats, left_to_right_nats, unigram_nats)
    figure = new_figure(height_in=5.0 if below else 3.3, num_named=sum(item is not None for item in drawn_above))
    grid = figure.add_gridspec(2 if below else 1, max(len(below), 1), height_ratios=[5, 2] if below else [1])
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
            label=bound_name if schedule_bound_nats is None else f"{bound_name}, uniform (PPL-U)",
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
            label=f"{bound_name}, own (PPL-S)",
            zorder=4,
        )
    if left_to_right_nats is not None and len(left_to_right_nats.x):
        main.plot(
            left_to_right_nats.x,
            left_to_right_nats.y,
            color=ACCENT,
            linewidth=1.2,
            linestyle=(0, (4, 1.5)),
            marker="^",
            markersize=4,
            label="left to right (exact)",
            zorder=4,
        )
    _draw_unigram(main, unigram_nats)
    remark = _fit_height(main, loss_nats, (bound_nats, schedule_bound_nats, left_to_right_nats), unigram_nats)
    label_axes(main, x="step", y="nats per token", remark=remark)
    main.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    add_legend(main)
    for column, (series, name) in enumerate(below):
        axes = figure.add_subplot(grid[1, column])
        drawn = thinned(series)
        axes.plot(drawn.x, drawn.y, color=MUTED, linewidth=1, marker=point_marker(drawn))
        axes.set_xlim(main.get_xlim())
        axes.set_ylim(bottom=0)
        label_axes(axes, x="step", y=name)
        axes.xaxis.set_major_locator(MaxNLocator(2, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(3))
    return figure


def mask_rate_profile(
    *,
    mask_rate: Float[np.ndarray, " bins"],
    nats_per_masked_token: Float[np.ndarray, " bins"],
    standard_error: Float[np.ndarray, " bins"] | None = None,
    unigram_nats: float | None = None,
) -> Figure:
    """Mean cost of a masked token in nats, against the share of tokens that is masked. Bars are two standard errors."""
    figure = new_figure(height_in=3.3, num_named=2)
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
    label_axes(axes, x="share of tokens masked", y="nats per masked token")
    add_legend(axes)
    return figure


def curriculum_progress(
    *,
    stage: Series | None = None,
    temperature: Series | None = None,
    importance: tuple[Series, Series, Series] | None = None,
    correlation: Series | None = None,
    stage_names: Sequence[str] = (),
) -> Figure:
    """The course of training against the step, in up to three panels.

    They are the curriculum's stage with the temperature factor; importance, as its median and the range from the 10th
    to the 90th percentile; and its correlation with the loss of the masked tokens.
    """
    panels = [series is not None for series in (stage, importance, correlation)]
    figure = new_figure(height_in=0.4 + 2.1 * max(1, sum(panels)))
    grid = figure.add_gridspec(max(1, sum(panels)), 1)
    rows = iter(range(sum(panels)))
    if stage is not None:
        axes = figure.add_subplot(grid[next(rows), 0])
        _draw_stages(axes, stage, temperature, stage_names)
    if importance is not None:
        axes = figure.add_subplot(grid[next(rows), 0])
        low, median, high = (thinned(series) for series in importance)
        axes.fill_between(low.x, low.y, high.y, color=FAINT, linewidth=0, alpha=0.6, label="10th to 90th percentile")
        axes.plot(median.x, median.y, color=ACCENT, linewidth=1.6, marker=point_marker(median), label="median")
        axes.set_ylim(0, 1)
        label_axes(axes, x="", y="importance")
        add_legend(axes)
    if correlation is not None:
        axes = figure.add_subplot(grid[next(rows), 0])
        finite = np.isfinite(correlation.y)
        _draw_smooth(axes, Series(x=correlation.x[finite], y=correlation.y[finite]), name="training batches")
        axes.axhline(0, color=MUTED, linewidth=0.8)
        label_axes(axes, x="", y="correlation\nwith the loss")
        add_legend(axes)
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    if figure.axes:
        figure.axes[-1].set_xlabel("step", color=INK, fontsize=TEXT_PT)
    return figure


def _draw_stages(axes: Axes, stage: Series, temperature: Series | None, names: Sequence[str]) -> None:
    axes.step(stage.x, stage.y, where="post", color=ACCENT, linewidth=2, label="stage")
    highest = int(max(stage.y.max(), len(names) - 1))
    axes.set_yticks(range(highest + 1), [names[k] if k < len(names) else str(k + 1) for k in range(highest + 1)])
    axes.set_ylim(-0.3, highest + 0.3)
    label_axes(axes, x="", y="stage")
    if temperature is None:
        add_legend(axes)
        return
    twin = axes.twinx()
    drawn = thinned(temperature)
    twin.plot(drawn.x, drawn.y, color=MUTED, linewidth=1.4, linestyle="--", label="temperature factor")
    twin.set_ylim(0, 1.15 * drawn.y.max())
    twin.tick_params(colors=INK, labelsize=TEXT_PT, length=0)
    twin.set_ylabel("temperature", color=INK, fontsize=TEXT_PT)
    twin.spines[:].set_visible(False)
    axes.plot([], [], color=MUTED, linewidth=1.4, linestyle="--", label="temperature factor")
    add_legend(axes)


def _draw_loss(axes: Axes, loss_nats: Series) -> None:
    finite = np.isfinite(loss_nats.y)
    _draw_smooth(axes, Series(x=loss_nats.x[finite], y=loss_nats.y[finite]), name="training loss")


def _draw_smooth(axes: Axes, series: Series, *, name: str) -> None:
    """Draw a noisy curve faintly, and its running mean over it."""
    window = len(series.x) // 30 | 1  # odd
    smooth = thinned(Series(x=series.x, y=running_mean(series.y, window)))
    drawn = thinned(series)
    if window == 1:
        axes.plot(drawn.x, drawn.y, color=MUTED, linewidth=1.4, marker=point_marker(drawn), label=name)
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


def _fit_height(axes: Axes, loss: Series | None, bounds: Sequence[Series | None], unigram_nats: float | None) -> str:
    """Set the height so that a few noisy batches, or the first steps of a large vocabulary, do not flatten the rest.
    Returns a remark on what lies outside, or nothing."""
    inside = [np.atleast_1d(np.float64(unigram_nats))] if unigram_nats is not None else []
    inside += [bound.y[np.isfinite(bound.y)] for bound in bounds if bound is not None]
    losses = np.empty(0) if loss is None else loss.y[np.isfinite(loss.y)]
    if len(losses):
        inside.append(np.quantile(losses, [0.003, 0.99]))
    values = np.concatenate([np.empty(0), *inside])
    if not len(values):
        return ""
    low, high = values.min(), values.max()
    margin = 0.06 * (high - low) or 0.1
    low, high = low - margin, high + margin
    axes.set_ylim(low, high)
    outside = int(((losses < low) | (losses > high)).sum())
    return f"{outside} of {len(losses)} logged losses are outside the picture" if outside else ""
