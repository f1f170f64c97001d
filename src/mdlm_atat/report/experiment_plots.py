"""The figures of an experiment: a band for each arm, always in the arm's colour. Each function takes numbers and
returns a matplotlib Figure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from mdlm_atat.report.experiment_results import Arm, Band, Curve
from mdlm_atat.report.figure import INK, label_axes, new_figure

HEIGHT_IN = 3.6
DIVERGED_NATS = 30.0  # a vocabulary of 10^13: what costs more has diverged
SETTLED = 0.1  # share of the longest x from which on all of every curve is inside the picture
BAND_ALPHA = 0.2
MAX_MARKERS = 12


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What is drawn of an arm."""

    arm: Arm
    band: Band | None
    unfinished: Sequence[Curve] = ()
    """Runs that failed or still run, beside those of the band."""
    ends: Curve | None = None
    """Where shorter runs ended."""


def nats_against(
    drawn: Sequence[Drawn], *, x_label: str, y_label: str, target_nats: float | None, x_scale: float = 1.0
) -> Figure:
    """The bound against steps, tokens or seconds, divided by `x_scale`. The dashed line is the baseline's final value.

    The height follows what comes after the first tenth of the longest curve. Where a line begins above it, the picture
    says so.
    """
    figure = new_figure(height_in=HEIGHT_IN)
    axes = figure.add_subplot()
    for item in drawn:
        _draw(axes, item, x_scale)
    _draw_target(axes, target_nats)
    is_cut = _fit(axes, [item.band for item in drawn if item.band is not None], target_nats)
    _finish(axes, x_label, y_label, "what is higher is not in the picture" if is_cut else "")
    return figure


def perplexity_against(
    drawn: Sequence[Drawn], *, x_label: str, target_nats: float | None, x_scale: float = 1.0
) -> Figure:
    """Perplexity against seconds, both on logarithmic scales, from the first point after 0 seconds."""
    figure = new_figure(height_in=HEIGHT_IN)
    axes = figure.add_subplot()
    for item in drawn:
        band = None if item.band is None else _as_perplexity(item.band)
        ends = item.ends and Curve(x=item.ends.x, y=np.exp(item.ends.y), standard_error=item.ends.standard_error)
        _draw(axes, Drawn(arm=item.arm, band=band, ends=ends), x_scale)
    if target_nats is not None and target_nats < DIVERGED_NATS:
        _draw_target(axes, float(np.exp(target_nats)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    _finish(axes, x_label, "perplexity per token")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=6))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    return figure


def by_group(
    drawn: Sequence[Drawn],
    *,
    x_label: str,
    y_label: str,
    is_difference: bool = False,
) -> Figure:
    """The cost by mask rate or by decile, or its difference to the baseline, which is then the line at zero."""
    figure = new_figure(height_in=HEIGHT_IN)
    axes = figure.add_subplot()
    if is_difference:
        axes.axhline(0, color=INK, linewidth=1.6, zorder=1)
    for item in drawn:
        _draw(axes, item, 1.0)
    _finish(axes, x_label, y_label)
    if max((item.band.x[-1] for item in drawn if item.band is not None), default=0) > 1:  # numbered groups, no rates
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    return figure


def _draw(axes: Axes, item: Drawn, x_scale: float) -> None:
    look, band = item.arm.look, item.band
    for curve in item.unfinished:
        axes.plot(curve.x / x_scale, curve.y, color=look.colour, linewidth=0.9, linestyle=":")
    if item.ends is not None:
        axes.plot(
            item.ends.x / x_scale,
            item.ends.y,
            color=look.colour,
            linestyle="",
            marker=look.marker,
            markersize=7,
            markerfacecolor="none",
            markeredgewidth=1.4,
            zorder=5,
        )
    if band is None:
        return
    x = band.x / x_scale
    axes.fill_between(x, band.low, band.high, color=look.colour, alpha=BAND_ALPHA, linewidth=0)
    axes.plot(
        x,
        band.mean,
        color=look.colour,
        linewidth=2.4 if item.arm.role == "baseline" else 1.6,  # wide, and below the others: an equal arm hides nothing
        linestyle=look.dash,
        marker=look.marker,
        markersize=5.5 if item.arm.role == "baseline" else 4.2,
        markevery=max(1, -(-len(x) // MAX_MARKERS)),
        zorder=2.5 if item.arm.role == "baseline" else 3,
    )


def _draw_target(axes: Axes, value: float | None) -> None:
    if value is not None and np.isfinite(value):
        axes.axhline(value, color=INK, linewidth=0.9, linestyle=(0, (5, 3)), zorder=1)


def _fit(axes: Axes, bands: Sequence[Band], target_nats: float | None) -> bool:
    """Set the height of the picture. Returns whether points lie above it."""
    if not bands:
        return False
    settled = SETTLED * max(band.x[-1] for band in bands)
    inside = [values[band.x >= settled] for band in bands for values in (band.low, band.high)]
    values = np.concatenate([*inside, *([[target_nats]] if target_nats is not None else [])])
    values = values[np.abs(values) < DIVERGED_NATS]
    if not len(values):
        return False
    low, high = float(values.min()), float(values.max())
    margin = max(0.05 * (high - low), 1e-6)
    axes.set_ylim(low - margin, high + margin)
    return any((band.mean > high + margin).any() for band in bands)


def _as_perplexity(band: Band) -> Band | None:
    kept = (band.x > 0) & (band.high < DIVERGED_NATS)
    if not kept.any():
        return None
    mean, low, high = (np.exp(values[kept]) for values in (band.mean, band.low, band.high))
    return Band(x=band.x[kept], mean=mean, low=low, high=high, num_seeds=band.num_seeds)


def _finish(axes: Axes, x_label: str, y_label: str, remark: str = "") -> None:
    label_axes(axes, x=x_label, y=y_label, remark=remark)
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
