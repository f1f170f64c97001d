import math
import re
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from experiment_toys import results, run

from mdlm_atat.report.experiment_pictures import curve_notes, curve_pictures
from mdlm_atat.report.experiment_plots import DIVERGED_NATS, Drawn, by_group, nats_against, perplexity_against
from mdlm_atat.report.experiment_results import (
    Band,
    Curve,
    arms_of,
    branches_of,
    curve_of,
    decile_curve,
    decile_difference,
    minus_baseline,
    over_seeds,
    runs_of,
)
from mdlm_atat.report.figure import CSS_NAMES, INK, LINE_COLOURS, MUTED
from mdlm_atat.scoring.records import BlockSums, DecileCosts, Evaluation


def curve(x: list[float], y: list[float], error: float = math.nan) -> Curve:
    return Curve(
        x=np.array(x, dtype=np.float64), y=np.array(y, dtype=np.float64), standard_error=np.full(len(x), error)
    )


def test_a_band_of_3_seeds_is_their_mean_lowest_and_highest():
    band = over_seeds(curve([1, 2], [y, y + 1]) for y in (1.0, 2.0, 6.0))
    assert band is not None
    assert (band.mean.tolist(), band.low.tolist(), band.high.tolist()) == ([3, 4], [1, 2], [6, 7])
    assert band.num_seeds == 3


def test_seeds_that_were_evaluated_at_other_steps_are_met_half_way_where_both_are_known():
    band = over_seeds([curve([0, 2, 4], [0.0, 2.0, 4.0]), curve([1, 3, 5], [3.0, 5.0, 7.0]), None])
    assert band is not None
    assert band.x.tolist() == [1, 2, 3, 4]
    assert band.mean.tolist() == [2, 3, 4, 5]
    assert over_seeds([curve([0, 1], [1, 1]), curve([2, 3], [1, 1])]) is None
    assert over_seeds([None]) is None


def test_1_seed_has_a_band_of_2_standard_errors():
    band = over_seeds([curve([1], [3.0], error=0.1)])
    assert band is not None
    assert (band.low[0], band.high[0]) == (pytest.approx(2.8), pytest.approx(3.2))


def test_points_that_are_not_finite_are_left_out_and_columns_of_other_lengths_are_no_curve():
    stored = {"x": [0, 1, 2, None], "y": [1.0, math.nan, 3.0, 4.0], "standard_error": [0.1, 0.1]}
    found = curve_of(stored, x="x", y="y")
    assert found is not None
    assert (found.x.tolist(), found.y.tolist()) == ([0, 2], [1, 3])
    assert np.isnan(found.standard_error).all()
    assert curve_of({"x": [1], "y": [1, 2]}, x="x", y="y") is None
    assert curve_of({"x": None, "y": "no"}, x="x", y="y") is None


def test_a_difference_has_the_error_of_2_independent_numbers():
    found = minus_baseline(curve([1, 2], [3.0, 4.0], error=0.3), curve([2, 3], [1.0, 1.0], error=0.4))
    assert found is not None
    assert (found.x.tolist(), found.y.tolist()) == ([2], [3])
    assert found.standard_error[0] == pytest.approx(0.5)
    assert minus_baseline(curve([1], [1]), curve([2], [1])) is None


def test_deciles_of_the_same_draws_are_compared_in_pairs_with_a_smaller_error():
    hard = 40 + 10 * np.random.default_rng(0).random((2, 64))  # dear to both models
    tokens = np.full((2, 64), 10.0)
    columns = {"train_count_min": (0, 5), "train_count_max": (4, 9), "num_types": (3, 2), "standard_error": (0.3,) * 2}

    def scored(less: float) -> dict[str, Any]:
        nats = (hard - less).mean(1) / 10
        final = Evaluation(
            kind="nelbo",
            nats_per_token=nats.mean(),
            deciles=DecileCosts(nats_per_token=tuple(nats.tolist()), **columns),
            blocks=BlockSums(
                score=tuple((hard - less).sum(0)),
                length=tuple(tokens.sum(0)),
                decile_score=tuple(map(tuple, hard - less)),
                decile_length=tuple(map(tuple, tokens)),
            ),
        )
        return {"final": final.to_json()}

    better, baseline = scored(2.0), scored(0.0)
    found = decile_difference(better, baseline)
    assert found is not None
    assert found.y.tolist() == pytest.approx([-0.2, -0.2])
    assert (found.standard_error < 1e-6).all()
    baseline["final"]["seed"] = 1  # draws of its own: no pairs
    unpaired = decile_difference(better, baseline)
    assert unpaired is not None
    assert unpaired.standard_error.tolist() == pytest.approx([0.3 * math.sqrt(2)] * 2)
    plain = decile_curve(better)
    assert plain is not None
    assert plain.x.tolist() == [1, 2]


def test_the_baseline_is_first_and_the_reference_last_each_with_its_own_look():
    arms = arms_of(results() | {"baseline": "atat"})
    assert [(arm.name, arm.role) for arm in arms] == [
        ("atat", "baseline"), ("mdlm", "arm"), ("plain_times", "arm"), ("causal", "reference"),
    ]  # fmt: skip
    assert [arm.look.colour for arm in arms] == [INK, *LINE_COLOURS[:2], MUTED]


def test_20_arms_can_be_told_apart_by_colour_marker_and_dash():
    names = [f"arm {index}" for index in range(20)]
    looks = [arm.look for arm in arms_of({"arms": {name: {} for name in names}, "baseline": "arm 0"})]
    assert len({(look.colour, look.marker, look.dash) for look in looks[:19]}) == 19


def test_line_colours_have_a_contrast_of_3_to_1_on_light_and_on_dark():
    css = (files("mdlm_atat.report") / "palette.css").read_text()
    light, dark = css.split("@media")

    def luminance(colour: str) -> float:
        colour = colour if len(colour) == 7 else "#" + "".join(2 * digit for digit in colour[1:])
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for theme in (light, dark):
        values = dict(re.findall(r"--([\w-]+): (#\w+)", theme))
        for name in (*(CSS_NAMES[colour] for colour in LINE_COLOURS), "ink", "muted"):
            high, low = sorted((luminance(values[name]), luminance(values["paper"])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= (4.5 if name in ("ink", "muted") else 3), name
    printed = dict(re.findall(r"--([\w-]+): (#\w+)", light))
    assert all(printed[CSS_NAMES[colour]] == colour for colour in LINE_COLOURS)


def band(y: list[float]) -> Band:
    values = np.array(y)
    return Band(x=np.arange(len(y)) * 10.0, mean=values, low=values - 0.1, high=values + 0.1, num_seeds=2)


def test_the_first_tenth_may_lie_above_the_picture_which_says_so():
    (arm,) = arms_of({"arms": {"a": {}}})
    falling = Drawn(arm=arm, band=band([9.0, *np.linspace(5, 4, 20)]))
    axes = nats_against([falling], x_label="step", y_label="nats", target_nats=4.2).axes[0]
    assert axes.get_ylim()[1] < 5.3
    assert axes.get_xlabel() == "step\nwhat is higher is not in the picture"
    assert not axes.texts  # which would lie over points
    assert np.asarray(axes.lines[-1].get_ydata()).tolist() == [4.2, 4.2]
    flat = Drawn(arm=arm, band=band([5.0] * 20))
    assert nats_against([flat], x_label="step", y_label="nats", target_nats=None).axes[0].get_xlabel() == "step"


def test_a_diverged_arm_does_not_flatten_the_others():
    one, other = arms_of({"arms": {"a": {}, "b": {}}})
    both = [Drawn(arm=one, band=band([4.0] * 20)), Drawn(arm=other, band=band([10 * DIVERGED_NATS] * 20))]
    assert nats_against(both, x_label="step", y_label="nats", target_nats=None).axes[0].get_ylim()[1] < 5
    axes = perplexity_against(both, x_label="seconds", target_nats=1e9).axes[0]
    drawn = [np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines]
    assert len(drawn) == 1  # neither the diverged arm nor a target beyond any vocabulary
    assert drawn[0] == pytest.approx([math.exp(4.0)] * 19)  # not at 0 seconds: both axes are logarithmic


def test_10_deciles_have_10_whole_numbers_below_them():
    (arm,) = arms_of({"arms": {"a": {}}})
    deciles = Band(x=np.arange(1.0, 11), mean=np.ones(10), low=np.ones(10), high=np.ones(10), num_seeds=1)
    figure = by_group([Drawn(arm=arm, band=deciles)], x_label="tenth", y_label="nats", is_difference=True)
    ticks = [tick for tick in figure.axes[0].get_xticks() if 1 <= tick <= 10]
    assert ticks == list(range(1, 11))


def test_what_is_drawn_of_an_arm_is_its_finished_runs_and_the_others_dotted():
    content = results()
    arms = [arm for arm in arms_of(content) if arm.name == "atat"]
    by_arm = {"atat": runs_of(content, arm="atat")}
    pictures = curve_pictures(arms, by_arm, {}, None, "x")
    assert [picture.title for picture in pictures] == [
        "PPL-U bound against steps", "PPL-U bound against tokens", "PPL-U bound against GPU-seconds",
        "Perplexity against GPU-seconds, both logarithmic", "Own bound (PPL-S) against steps",
        "Own bound (PPL-S) against GPU-seconds",
    ]  # fmt: skip
    assert "At the right end: atat 4.205." in pictures[0].drawing  # of seeds 0 and 1, not of the failed one
    assert "At the right end: atat 4.195." in pictures[4].drawing
    assert "Thin dotted lines are runs that are not finished." in curve_notes(arms, by_arm, {})
    on_cpu = {"atat": [one | {"machine": {"device": "CPU"}} for one in by_arm["atat"]]}
    assert curve_pictures(arms, on_cpu, {}, None, "x")[2].title == "PPL-U bound against CPU-seconds"


def test_runs_that_ended_at_a_share_of_the_budget_are_points_and_no_arm():
    content = results()
    shorter = [run("mdlm at 0.5", seed, 4.7) | {"branch_of": "mdlm", "share": 0.5, "num_steps": 75} for seed in (0, 1)]
    content["branch_runs"] = [*shorter, run("mdlm at 0.5", 2, 4.7, status="failed") | {"branch_of": "mdlm"}]
    assert "mdlm at 0.5" not in [arm.name for arm in arms_of(content)]
    (group,) = branches_of(content, "novels", "mdlm")
    assert [one["seed"] for one in group] == [0, 1]
    arms = [arm for arm in arms_of(content) if arm.name == "mdlm"]
    by_arm = {"mdlm": runs_of(content, arm="mdlm")}
    notes = curve_notes(arms, by_arm, {"mdlm": [group]})
    assert any("shorter runs that ended there" in note for note in notes)
    with_points, without = (
        curve_pictures(arms, by_arm, branches, None, "x")[0].drawing for branches in ({"mdlm": [group]}, {})
    )
    assert with_points != without
