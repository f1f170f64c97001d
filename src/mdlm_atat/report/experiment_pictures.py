"""The pictures of one corpus: which runs make which line, and the notes below them."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from mdlm_atat.formats import number, with_error
from mdlm_atat.report import experiment_plots as plots
from mdlm_atat.report.experiment_plots import Drawn
from mdlm_atat.report.experiment_results import (
    Arm,
    Band,
    Curve,
    curve_of,
    decile_curve,
    decile_difference,
    final_of,
    is_done,
    minus_baseline,
    over_seeds,
    profile_curve,
)
from mdlm_atat.report.figure import svg
from mdlm_atat.report.run_reader import number_at
from mdlm_atat.report.wording import section

Run = Mapping[str, Any]
RunsByArm = Mapping[str, Sequence[Run]]
Branches = Mapping[str, Sequence[Sequence[Run]]]
"""Of each arm the runs that ended earlier, a list a share of the budget."""


class Picture(NamedTuple):
    title: str
    drawing: Markup
    arms: list[Arm]
    """Those that are drawn, for the legend."""


def curve_pictures(
    arms: Sequence[Arm], by_arm: RunsByArm, branches: Branches, target_nats: float | None, name: str
) -> list[Picture]:
    """Both bounds against steps, tokens and seconds, and perplexity against seconds. A picture without a line is left
    out.

    `target_nats` is the baseline's final value, and `name` begins the ids of the pictures in the page.
    """
    seconds = "CPU-seconds" if _all_on_cpu(by_arm) else "GPU-seconds"
    has_own = any(section(run, "curve").get("schedule_nats") for runs in by_arm.values() for run in runs)
    uniform, own = ("nats", "validation, nats per token"), ("own_nats", "own schedule, nats per token")
    panels = [
        ("steps", "step", "step", 1.0, *uniform, "PPL-U bound against steps"),
        ("tokens", "tokens", "million tokens", 1e6, *uniform, "PPL-U bound against tokens"),
        ("seconds", "seconds", seconds, 1.0, *uniform, f"PPL-U bound against {seconds}"),
    ]
    own_panels = [
        ("own-steps", "step", "step", 1.0, *own, "Own bound (PPL-S) against steps"),
        ("own-seconds", "seconds", seconds, 1.0, *own, f"Own bound (PPL-S) against {seconds}"),
    ]
    pictures = []
    for key, x, x_label, x_scale, y, y_label, title in [*panels, *(own_panels if has_own else [])]:
        drawn = _drawn(arms, by_arm, branches, x=x, y=y)
        if drawn:
            target = target_nats if y == "nats" else None
            figure = plots.nats_against(drawn, x_label=x_label, y_label=y_label, target_nats=target, x_scale=x_scale)
            pictures.append(_picture(figure, f"{name}-{key}", title, drawn))
    drawn = _drawn(arms, by_arm, branches, x="seconds", y="nats")
    if drawn:
        figure = plots.perplexity_against(drawn, x_label=seconds, target_nats=target_nats)
        title = f"Perplexity against {seconds}, both logarithmic"
        pictures.insert(3, _picture(figure, f"{name}-perplexity", title, drawn))
    return pictures


def curve_notes(arms: Sequence[Arm], by_arm: RunsByArm, branches: Branches) -> list[str]:
    """Sentences on what the lines and bands of these arms mean."""
    curves = {arm.name: [run for run in by_arm[arm.name] if section(run, "curve")] for arm in arms}
    num_done = {name: sum(map(is_done, runs)) for name, runs in curves.items()}
    in_band = {num_done[name] or len(runs) for name, runs in curves.items() if runs}
    notes = []
    if max(in_band, default=0) > 1:
        notes.append(
            "A line is the mean over seeds at the same step, its band runs from the lowest to the highest seed."
        )
    if 1 in in_band:
        notes.append("The band of an arm with one seed is two standard errors of the evaluation to either side.")
    if any(num_done[name] and len(runs) > num_done[name] for name, runs in curves.items()):
        notes.append("Thin dotted lines are runs that are not finished.")
    if any(branches.values()):
        notes.append(
            "Hollow marks are shorter runs that ended there, with their learning rate decayed; means over seeds."
        )
    running = [name for name, runs in curves.items() if runs and not num_done[name]]
    if running:
        notes.append(f"No run of {', '.join(running)} is finished: what is drawn is what there is.")
    return notes


def profile_pictures(arms: Sequence[Arm], by_arm: RunsByArm, baseline: str, name: str) -> list[Picture]:
    """The cost of a masked token by the share of tokens that is masked, and the arms' differences to the baseline."""
    return _with_differences(
        arms,
        by_arm,
        baseline,
        profile_curve,
        lambda run, other: minus_baseline(profile_curve(run), profile_curve(other)),
        name=f"{name}-profile",
        labels=("share of tokens masked", "nats per masked token"),
        title="Cost of a masked token by mask rate",
    )


def decile_pictures(arms: Sequence[Arm], by_arm: RunsByArm, baseline: str, name: str) -> list[Picture]:
    """The bound by token frequency, and the arms' differences to the baseline."""
    return _with_differences(
        arms,
        by_arm,
        baseline,
        decile_curve,
        decile_difference,
        name=f"{name}-deciles",
        labels=("tenth of the text, from the rarest tokens", "nats per token"),
        title="Bound by token frequency",
    )


def decile_table(
    arms: Sequence[Arm], by_arm: RunsByArm, baseline: str
) -> tuple[list[Arm], list[tuple[int, str, list[list[str]]]]]:
    """The bound by token frequency as numbers.

    Returns the arms that have deciles, and a row for each tenth: its number, the tokens in it, and for each arm its
    nats and their difference to the baseline.
    """
    bands = {arm.name: over_seeds(map(decile_curve, by_arm[arm.name])) for arm in arms}
    shown = [arm for arm in arms if bands[arm.name] is not None]
    bounds = {arm.name: _values(bands[arm.name]) for arm in shown}
    differences = {
        arm.name: _values(_difference_band(by_arm, arm.name, baseline, decile_difference))
        for arm in shown
        if arm.role != "baseline"
    }
    runs = [run for runs in by_arm.values() for run in runs if decile_curve(run) is not None]
    rows = []
    for decile in sorted({decile for found in bounds.values() for decile in found}):
        cells = [
            [number(found.get(decile))]
            + ([with_error(differences[name][decile], sign=True)] if decile in differences.get(name, {}) else [])
            for name, found in bounds.items()
        ]
        rows.append((decile, _about_decile(runs[0], decile), cells))
    return shown, rows


def _drawn(arms: Sequence[Arm], by_arm: RunsByArm, branches: Branches, *, x: str, y: str) -> list[Drawn]:
    """What is drawn of each arm: the band of its finished runs, or of all its runs where none is finished."""
    drawn = []
    for arm in arms:
        done = [run for run in by_arm[arm.name] if is_done(run)]
        others = [run for run in by_arm[arm.name] if not is_done(run)]
        band = _band(done or others, x, y)
        unfinished = [curve for run in others if (curve := _run_curve(run, x, y)) is not None] if done else []
        if band is not None or unfinished:
            ends = _ends(branches.get(arm.name, ()), x, y)
            drawn.append(Drawn(arm=arm, band=band, unfinished=unfinished, ends=ends))
    return drawn


def _band(runs: Sequence[Run], x: str, y: str) -> Band | None:
    """The band over seeds at the same step, where x is the mean of the tokens or seconds that the seeds took to it."""
    band = over_seeds(_run_curve(run, "step", y) for run in runs)
    if x == "step" or band is None:
        return band
    taken = over_seeds(_run_curve(run, "step", x) for run in runs)
    if taken is None:
        return None
    known = (band.x >= taken.x[0]) & (band.x <= taken.x[-1])
    if not known.any():
        return None
    return Band(
        x=np.interp(band.x[known], taken.x, taken.mean),
        mean=band.mean[known],
        low=band.low[known],
        high=band.high[known],
        num_seeds=band.num_seeds,
    )


def _ends(branches: Sequence[Sequence[Run]], x: str, y: str) -> Curve | None:
    """Where the shorter runs ended: a point for each share of the budget, the mean over seeds."""
    column = {"step": "num_steps", "tokens": "num_tokens", "seconds": "train_seconds"}[x]
    points = []
    for runs in branches:
        finals = [final for run in runs if (final := final_of(run)) is not None]
        nats = [(final.own_bound if y == "own_nats" else final).nats_per_token for final in finals]
        across = [value for run in runs if (value := number_at(run, column)) is not None]
        if len(nats) == len(across) == len(runs):
            points.append((fmean(across), fmean(nats)))
    return curve_of({"x": [at for at, _ in points], "y": [nats for _, nats in points]}, x="x", y="y")


def _run_curve(run: Mapping[str, Any], x: str, y: str) -> Curve | None:
    record = section(run, "curve")
    if y == "own_nats":  # without a schedule of its own an arm's own bound is PPL-U
        own = record.get("schedule_nats")
        record = {**record, "own_nats": own or record.get("nats")}
    return curve_of(record, x=x, y=y)


def _with_differences(
    arms: Sequence[Arm],
    by_arm: RunsByArm,
    baseline: str,
    curve: Callable[[Run], Curve | None],
    difference: Callable[[Run, Run], Curve | None],
    *,
    name: str,
    labels: tuple[str, str],
    title: str,
) -> list[Picture]:
    """A picture of a measure by groups, and one of the arms' differences to the baseline."""
    drawn = [
        Drawn(arm=arm, band=band) for arm in arms if (band := over_seeds(map(curve, by_arm[arm.name]))) is not None
    ]
    if not drawn:
        return []
    x_label, y_label = labels
    pictures = [_picture(plots.by_group(drawn, x_label=x_label, y_label=y_label), name, title, drawn)]
    against = [
        Drawn(arm=item.arm, band=band)
        for item in drawn
        if item.arm.role == "arm"
        and (band := _difference_band(by_arm, item.arm.name, baseline, difference)) is not None
    ]
    if against:
        figure = plots.by_group(against, x_label=x_label, y_label=y_label, is_difference=True)
        pictures.append(_picture(figure, f"{name}-difference", f"The same, minus {baseline}", against))
    return pictures


def _difference_band(
    by_arm: RunsByArm,
    arm: str,
    baseline: str,
    difference: Callable[[Run, Run], Curve | None],
) -> Band | None:
    """The band of arm - baseline over the seeds that both have."""
    others = {str(run.get("seed")): run for run in by_arm.get(baseline, ())}
    pairs = [(run, others[seed]) for run in by_arm[arm] if (seed := str(run.get("seed"))) in others]
    return over_seeds(difference(run, other) for run, other in pairs)


def _about_decile(run: Run, decile: int) -> str:
    """`3 to 17; 412 kinds`: how often the tokens of a tenth occur in training, and how many kinds there are."""
    final = final_of(run)
    assert final is not None
    assert final.deciles is not None
    columns = (final.deciles.train_count_min, final.deciles.train_count_max, final.deciles.num_types)
    low, high, kinds = (column[decile - 1] if len(column) >= decile else None for column in columns)
    parts = [] if low is None or high is None else [f"{low:,} to {high:,}" if low != high else f"{low:,}"]
    return "; ".join(parts + ([] if kinds is None else [f"{kinds:,} kinds"]))


def _values(band: Band | None) -> dict[int, float]:
    return {} if band is None else {round(x): float(y) for x, y in zip(band.x, band.mean, strict=True)}


def _picture(figure: Figure, name: str, title: str, drawn: Sequence[Drawn]) -> Picture:
    """A picture with a text for those who do not see it, which says where every line ends."""
    ends = [f"{item.arm.name} {number(float(item.band.mean[-1]))}" for item in drawn if item.band is not None]
    told = f"{title}. At the right end: {', '.join(ends)}." if ends else title
    return Picture(title, Markup(svg(figure, name=name, title=told)), [item.arm for item in drawn])


def _all_on_cpu(by_arm: RunsByArm) -> bool:
    devices = {str(section(run, "machine").get("device")).lower() for runs in by_arm.values() for run in runs}
    return bool(devices - {"none"}) and devices <= {"cpu", "none"}
