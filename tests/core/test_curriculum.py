import json
import math
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from mdlm_atat.core.curriculum import (
    Curriculum,
    CurriculumScheduler,
    DynamicCurriculumScheduler,
    ProgressKind,
    three_stages,
)
from mdlm_atat.errors import UserError

STAGES = three_stages(
    ranges_low=(0.0, 0.3, 0.6),
    ranges_high=(0.4, 0.7, 1.0),
    temperatures=(2.0, 1.0, 0.5),
    windows_low=(0.15, 0.30, 0.50),
    windows_high=(0.30, 0.50, 0.70),
    weight_in_range=2.0,
    time_sampling=("beta", "beta", "uniform"),
    weighting=("flat", "flat", "elbo"),
)


def by_progress(progress: ProgressKind, num_steps=100, boundaries: Sequence[float] = (0.2, 0.8)) -> CurriculumScheduler:
    return CurriculumScheduler(STAGES, num_steps=num_steps, boundaries=boundaries, progress=progress)


def by_loss(**changes) -> DynamicCurriculumScheduler:
    """Unsmoothed unless told, so that a test can count observations by hand."""
    settings = {"patience": 3, "min_steps": 0, "max_steps": 0, "smoothing": 0.0, "tolerance": 0.01, "setback": 0.1}
    return DynamicCurriculumScheduler(STAGES, **(settings | changes))


def visited(curriculum: DynamicCurriculumScheduler, losses: Sequence[float], steps_taken: int = 0) -> list[int]:
    """The stage after each of the losses, one observed after every step."""
    indices = []
    for step, loss in enumerate(losses, start=steps_taken + 1):
        curriculum.observe(step, loss)
        indices.append(curriculum.stage(step).index)
    return indices


def test_the_three_stages_hold_the_nine_values_of_the_source_in_order():
    easy, medium, hard = STAGES
    assert [(stage.index, stage.name) for stage in STAGES] == [(0, "easy"), (1, "medium"), (2, "hard")]
    assert [easy.importance_range, medium.importance_range, hard.importance_range] == [(0, 0.4), (0.3, 0.7), (0.6, 1)]
    assert [easy.temperature, medium.temperature, hard.temperature] == [2.0, 1.0, 0.5]
    assert [easy.window, medium.window, hard.window] == [(0.15, 0.3), (0.3, 0.5), (0.5, 0.7)]
    assert {stage.weight_in_range for stage in STAGES} == {2.0}
    assert [stage.time_sampling for stage in STAGES] == ["beta", "beta", "uniform"]
    assert [stage.weighting for stage in STAGES] == ["flat", "flat", "elbo"]


# by progress


@pytest.mark.parametrize("progress", ["step", "linear", "exponential"])
@pytest.mark.parametrize("boundaries", [(0.33, 0.66), (0.2, 0.8), (0.3, 0.7), (0.07, 0.29)])
@pytest.mark.parametrize("num_steps", [100, 46_600, 700_000])
def test_a_stage_begins_at_exactly_its_boundarys_step(progress, boundaries, num_steps):
    curriculum = by_progress(progress, num_steps, boundaries)
    for k, boundary in enumerate(boundaries, start=1):
        first_step = round(boundary * num_steps)
        assert curriculum.stage(first_step - 1).index == k - 1
        assert curriculum.stage(first_step) == STAGES[k]
    assert curriculum.stage(0) == STAGES[0]


def test_step_progress_keeps_every_stage_as_it_was_given_for_all_100_steps():
    found = [by_progress("step").stage(step) for step in range(100)]
    assert found == [STAGES[0]] * 20 + [STAGES[1]] * 60 + [STAGES[2]] * 20


def test_linear_progress_is_half_way_to_the_next_stage_in_the_middle_of_a_stage():
    stage = by_progress("linear").stage(10)
    assert stage.importance_range == pytest.approx((0.15, 0.55))
    assert stage.temperature == pytest.approx(1.5)
    assert stage.window == pytest.approx((0.225, 0.40))
    assert stage.weight_in_range == 2.0
    stage = by_progress("linear").stage(65)  # three quarters of the second
    assert stage.temperature == pytest.approx(0.625)
    assert stage.window == pytest.approx((0.45, 0.65))


def test_exponential_progress_has_82_percent_of_the_way_behind_it_in_the_middle_of_a_stage():
    share = (1 - math.exp(-1.5)) / (1 - math.exp(-3))
    assert share == pytest.approx(0.8176, abs=1e-4)
    stage = by_progress("exponential").stage(10)
    assert stage.temperature == pytest.approx(2.0 - share)
    assert stage.window == pytest.approx((0.15 + 0.15 * share, 0.30 + 0.20 * share))
    assert stage.importance_range == pytest.approx((0.3 * share, 0.4 + 0.3 * share))


def test_exponential_is_ahead_of_linear_at_all_78_steps_strictly_inside_the_first_two_stages():
    linear, exponential = by_progress("linear"), by_progress("exponential")
    inside = [step for step in range(80) if step not in (0, 20)]
    assert sum(exponential.stage(step).window[1] > linear.stage(step).window[1] for step in inside) == 78


@pytest.mark.parametrize("progress", ["linear", "exponential"])
def test_interpolated_values_reach_the_next_stages_to_a_thousandth_before_it_begins(progress):
    curriculum = by_progress(progress, num_steps=10_000)
    for first_step, stage in ((2_000, STAGES[1]), (8_000, STAGES[2])):
        before = curriculum.stage(first_step - 1)
        assert before.temperature == pytest.approx(stage.temperature, abs=1e-3)
        assert before.window == pytest.approx(stage.window, abs=1e-3)
        assert before.importance_range == pytest.approx(stage.importance_range, abs=1e-3)


@pytest.mark.parametrize("progress", ["step", "linear", "exponential"])
def test_masks_only_get_harder_from_step_0_to_step_1000(progress):
    stages = [by_progress(progress, num_steps=1_000).stage(step) for step in range(1_001)]
    for a, b in pairwise(stages):
        assert a.index <= b.index
        assert a.temperature >= b.temperature
        assert a.window[0] <= b.window[0]
        assert a.window[1] <= b.window[1]
        assert a.importance_range[0] <= b.importance_range[0]
        assert a.importance_range[1] <= b.importance_range[1]


@pytest.mark.parametrize("progress", ["step", "linear", "exponential"])
def test_the_last_stage_holds_its_own_values_to_the_end_and_beyond(progress):
    curriculum = by_progress(progress)
    assert [curriculum.stage(step) for step in (80, 90, 99, 100, 1_000)] == [STAGES[2]] * 5


@pytest.mark.parametrize("progress", ["linear", "exponential"])
def test_the_kind_of_sampling_and_weighting_changes_at_the_stage_alone(progress):
    found = [by_progress(progress).stage(step) for step in range(100)]
    assert [stage.weighting for stage in found] == ["flat"] * 80 + ["elbo"] * 20
    assert [stage.time_sampling for stage in found] == ["beta"] * 80 + ["uniform"] * 20
    assert [stage.name for stage in found] == ["easy"] * 20 + ["medium"] * 60 + ["hard"] * 20


def test_one_stage_without_a_boundary_is_in_force_at_every_step():
    curriculum = CurriculumScheduler(STAGES[:1], num_steps=1, boundaries=(), progress="linear")
    assert [curriculum.stage(step) for step in (0, 1, 2)] == [STAGES[0]] * 3


@pytest.mark.parametrize(
    "boundaries", [(), (0.5,), (0.2, 0.5, 0.8), (0.8, 0.2), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0), (0.5, math.nan)]
)
def test_three_stages_accept_nothing_but_2_boundaries_that_rise_strictly_inside_0_and_1(boundaries):
    with pytest.raises(ValueError, match="boundaries"):
        by_progress("step", boundaries=boundaries)


def test_a_curriculum_of_0_steps_or_of_misnumbered_stages_is_refused():
    with pytest.raises(ValueError, match="num_steps is 0"):
        by_progress("step", num_steps=0)
    with pytest.raises(ValueError, match=r"unlike \[2, 1, 0\]"):
        CurriculumScheduler(STAGES[::-1], num_steps=10, boundaries=(0.2, 0.8), progress="step")
    with pytest.raises(ValueError, match=r"unlike \[\]"):
        CurriculumScheduler((), num_steps=10, boundaries=(), progress="step")


def test_no_loss_moves_the_curriculum_by_progress_and_its_state_has_0_entries():
    curriculum = by_progress("linear")
    before = curriculum.stage(10)
    curriculum.observe(10, 1e9)
    assert curriculum.stage(10) == before
    assert curriculum.state() == {}
    curriculum.load_state({})


def test_both_curricula_are_curricula():
    assert isinstance(by_progress("step"), Curriculum)
    assert isinstance(by_loss(), Curriculum)


# by loss


def test_a_flat_loss_advances_after_its_first_observation_and_3_more_per_stage_and_stays_in_the_last():
    assert visited(by_loss(patience=3), [5.0] * 20) == [0] * 3 + [1] * 4 + [2] * 13


def test_a_loss_that_falls_by_2_percent_a_step_holds_the_first_stage_for_500_steps():
    assert set(visited(by_loss(tolerance=0.01), [5.0 * 0.98**n for n in range(500)])) == {0}


def test_slight_improvements_add_up_to_a_clear_one_within_the_patience():
    falling = [5.0 * 0.999**n for n in range(200)]  # 1% is gone after 11 observations
    assert set(visited(by_loss(patience=12, tolerance=0.01), falling)) == {0}
    assert visited(by_loss(patience=10, tolerance=0.01), falling)[10] == 1


def test_a_flat_loss_advances_once_the_stage_is_50_steps_old_and_not_before():
    found = visited(by_loss(min_steps=50), [5.0] * 120)
    assert (found.index(1), found.index(2)) == (50 - 1, 100 - 1)  # the loss of index 49 came after 50 steps


def test_a_rising_loss_steps_back_once_the_stage_is_50_steps_old_and_not_before():
    found = visited(by_loss(min_steps=50), [5.0] * 50 + [6.0, 7.0] + [8.0] * 60)
    assert found == [0] * 49 + [1] * 50 + [0] * 13


def test_max_steps_of_30_ends_every_stage_but_the_last_while_the_loss_still_falls():
    found = visited(by_loss(max_steps=30), [5.0 * 0.95**n for n in range(100)])
    assert found == [0] * 29 + [1] * 30 + [2] * 41


def test_observations_every_10_steps_count_stages_in_steps_and_patience_in_observations():
    curriculum = by_loss(patience=3, min_steps=100)
    for step in range(10, 100, 10):
        curriculum.observe(step, 5.0)
    assert curriculum.stage(90).index == 0
    curriculum.observe(100, 5.0)
    assert curriculum.stage(100) == STAGES[1]


PLATEAU = [5.0] * 4  # with patience 3: into the next stage
RISE = [6.0, 9.0, 9.0, 9.0]  # its first sets the stage's best; with patience 3, out of the stage backwards


def test_a_harder_stages_larger_loss_is_no_reason_to_step_back():
    assert visited(by_loss(), [*PLATEAU, 50.0, 49.0, 48.0, 47.0]) == [0, 0, 0, 1, 1, 1, 1, 1]


def test_a_loss_that_rises_by_half_for_3_observations_steps_back_one_stage():
    assert visited(by_loss(), PLATEAU * 2 + RISE)[-5:] == [2, 2, 2, 2, 1]


def test_2_risen_losses_out_of_3_hold_the_stage():
    assert visited(by_loss(), [*PLATEAU, 6.0, 9.0, 9.0, 5.9, 9.0, 9.0, 5.8]) == [0] * 3 + [1] * 8


def test_3_risen_losses_with_a_better_one_among_them_are_not_in_a_row_and_hold_the_stage():
    assert visited(by_loss(), [*PLATEAU, 6.0, 9.0, 6.3, 9.0, 9.0, 5.8]) == [0] * 3 + [1] * 7


def test_a_rise_below_the_setback_is_a_plateau_and_advances():
    assert visited(by_loss(setback=0.1), [*PLATEAU, 6.0, 6.2, 6.4, 6.5])[-1] == 2
    assert visited(by_loss(setback=0.05), [*PLATEAU, 6.0, 6.4, 6.5, 6.6])[-1] == 0


def test_no_stage_is_left_backwards_a_second_time():
    curriculum = by_loss()
    assert visited(curriculum, PLATEAU + RISE)[-1] == 0
    assert visited(curriculum, PLATEAU + RISE, 8) == [0, 0, 0, 1, 1, 1, 1, 1]
    assert curriculum.state()["num_setbacks_1"] == 1


def test_each_stage_has_its_own_one_step_back():
    curriculum = by_loss()
    assert visited(curriculum, PLATEAU * 2 + RISE + RISE)[7::4] == [2, 1, 0]
    assert visited(curriculum, PLATEAU * 2 + RISE * 3, 16)[7::4] == [2, 2, 2, 2]


def test_the_first_stage_is_never_left_backwards_and_does_not_advance_on_a_rising_loss():
    assert set(visited(by_loss(), [1.3**n for n in range(100)])) == {0}


def test_a_best_that_was_luck_keeps_a_stage_without_a_way_back_for_one_patience_more():
    assert visited(by_loss(patience=3), [1.0] + [5.0] * 6) == [0] * 6 + [1]


def test_max_steps_ends_the_first_stage_even_on_a_rising_loss():
    assert visited(by_loss(max_steps=30), [1.3**n for n in range(30)]) == [0] * 29 + [1]


@pytest.mark.parametrize("seed", range(20))
def test_a_wild_loss_moves_at_most_one_stage_at_a_time_and_backwards_at_most_twice(seed):
    found = visited(by_loss(patience=2, smoothing=0.3), wild_losses(seed, 400))
    changes = [b - a for a, b in pairwise(found)]
    assert set(changes) <= {-1, 0, 1}
    assert changes.count(-1) <= 2


def test_smoothing_gives_a_constant_loss_back_from_its_first_observation():
    curriculum = by_loss(smoothing=0.99, patience=1_000)
    assert curriculum.smoothed_loss_nats is None
    for step in range(1, 50):
        curriculum.observe(step, 7.5)
        assert curriculum.smoothed_loss_nats == pytest.approx(7.5)


def test_the_smoothed_loss_of_2_then_5_under_smoothing_of_a_half_is_4():
    curriculum = by_loss(smoothing=0.5)
    visited(curriculum, [2.0, 5.0])
    assert curriculum.smoothed_loss_nats == pytest.approx((0.25 * 2 + 0.5 * 5) / 0.75)


def test_smoothing_of_09_takes_no_best_from_the_first_9_losses():
    curriculum = by_loss(smoothing=0.9)
    visited(curriculum, [1.0] + [5.0] * 8)
    assert curriculum.state()["best_nats"] is None
    visited(curriculum, [5.0], 9)
    assert curriculum.state()["best_nats"] == curriculum.smoothed_loss_nats


def test_smoothing_forgets_the_stage_before():
    curriculum = by_loss(smoothing=0.5, patience=2)
    assert visited(curriculum, [5.0] * 4) == [0, 0, 0, 1]
    assert curriculum.smoothed_loss_nats is None
    curriculum.observe(5, 8.0)
    assert curriculum.smoothed_loss_nats == pytest.approx(8.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_leaves_every_number_of_the_state_as_it_was(bad):
    curriculum = by_loss(smoothing=0.5, max_steps=8)
    visited(curriculum, [5.0, 4.0, 4.5])
    before = curriculum.state()
    assert visited(curriculum, [bad] * 20, 3) == [0] * 20
    assert curriculum.state() == before


def test_losses_below_zero_advance_and_step_back_as_others_do():
    assert visited(by_loss(), [-1.0 * 1.02**n for n in range(50)]) == [0] * 50
    assert visited(by_loss(), [-1.0] * 4 + [-1.0, -0.8, -0.8, -0.8]) == [0] * 3 + [1] * 4 + [0]


def wild_losses(seed: int, num: int) -> list[float]:
    """Falls, plateaus and rises of random length, with noise and a few losses that are not finite."""
    rng = random.Random(seed)
    level, slope, losses = 9.0, 0.0, []
    for _ in range(num):
        if rng.random() < 0.1:
            slope = rng.choice([-0.03, 0.0, 0.0, 0.08])
        level = min(20.0, max(1.0, level * (1 + slope)))
        losses.append(math.nan if rng.random() < 0.02 else level * rng.uniform(0.99, 1.01))
    return losses


ROUND_TRIP = {"patience": 3, "min_steps": 5, "max_steps": 60, "smoothing": 0.6}


@pytest.mark.parametrize("seed", range(3))
def test_a_state_written_as_json_at_any_of_100_steps_continues_with_the_same_numbers(seed):
    losses = wild_losses(seed, 100)
    whole = by_loss(**ROUND_TRIP)
    states = [json.dumps(whole.state(), allow_nan=False)]
    for step, loss in enumerate(losses, start=1):
        whole.observe(step, loss)
        states.append(json.dumps(whole.state(), allow_nan=False))
    for cut in range(101):
        resumed = by_loss(**ROUND_TRIP)
        visited(resumed, losses[:7])  # whatever it was before is overwritten
        resumed.load_state(json.loads(states[cut]))
        assert json.dumps(resumed.state()) == states[cut]
        for step in range(cut + 1, 101):
            resumed.observe(step, losses[step - 1])
            assert resumed.state() == json.loads(states[step])


def test_the_wild_losses_of_the_round_trip_visit_all_3_stages_and_step_back():
    runs = [visited(by_loss(**ROUND_TRIP), wild_losses(seed, 100)) for seed in range(3)]
    assert {stage for found in runs for stage in found} == {0, 1, 2}
    assert any(b < a for found in runs for a, b in pairwise(found))


def test_a_state_is_not_changed_by_the_steps_that_follow_it():
    curriculum = by_loss()
    state = curriculum.state()
    visited(curriculum, PLATEAU)
    assert state == by_loss().state()


def test_the_state_of_another_curriculum_is_refused():
    two_stages = DynamicCurriculumScheduler(
        STAGES[:2], patience=3, min_steps=0, max_steps=0, smoothing=0.0, tolerance=0.01, setback=0.1
    )
    with pytest.raises(UserError, match="the curriculum that the run was started with"):
        by_loss().load_state(two_stages.state())
    with pytest.raises(UserError, match="nothing"):
        by_loss().load_state({})
    with pytest.raises(UserError, match="nothing"):
        by_progress("step").load_state(by_loss().state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": 0}, "patience is 0"),
        ({"min_steps": -1}, "unlike -1, 0"),
        ({"min_steps": 20, "max_steps": 10}, "unlike 20, 10"),
        ({"max_steps": -1}, "unlike 0, -1"),
        ({"smoothing": 1.0}, "smoothing is 1.0"),
        ({"smoothing": math.nan}, "smoothing is nan"),
        ({"tolerance": -0.1}, "tolerance -0.1"),
        ({"setback": 0.0}, "setback 0.0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        by_loss(**changes)
