import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from exact import CASES, CONTENT_FREE, STAGE, TOKEN_IDENTITY, WHOLE_SEQUENCE, Case
from torch import Tensor

from mdlm_atat.core.curriculum import Stage
from mdlm_atat.core.masking import mask_exactly, mask_independently
from mdlm_atat.core.objective import MaskedDiffusion, TimePlan
from mdlm_atat.core.schedules import Cosine, Geometric, Linear, Polynomial, Schedule
from mdlm_atat.core.strategies.by_importance import AdaptiveMaskingScheduler, Direction
from mdlm_atat.core.strategies.by_position import PositionAwareMaskingScheduler, position_bias
from mdlm_atat.core.strategies.by_stage import CurriculumMasking, membership
from mdlm_atat.core.strategies.literal import LiteralMasking, water_fill
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking, MaskingRates, MaskingScheduler
from mdlm_atat.core.strategies.uniform import UniformMasking
from mdlm_atat.core.times import UniformTime, Weighting
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.schedule_bound import draw_schedule_nll
from toys import ListRows, uniform_denoiser

SCHEDULES = [Linear(), Cosine(), Geometric(), Polynomial(2.0)]
IMPORTANCE = torch.rand(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SCORED = torch.ones_like(IMPORTANCE, dtype=torch.bool)
LITERAL_KINDS = ["literal_importance", "literal_curriculum"]
DIRECTIONS: list[Direction] = ["inverse", "proportional", "balanced", "time_only"]


def literal(kind, direction) -> Callable[[Schedule], MaskingScheduler]:
    return lambda schedule: LiteralMasking(schedule, kind, direction, 0.5)


LITERAL_CASES = [
    (f"{kind}_{direction}", literal(kind, direction)) for kind in LITERAL_KINDS for direction in DIRECTIONS
]
EVERY_STRATEGY = [(case.name, case.make) for case in CASES] + LITERAL_CASES


def clean_text(scored: Tensor, importance: Tensor, stage: Stage | None = STAGE) -> Clean:
    """A text of tokens 0 to 3 that differ where importance does."""
    return Clean(scored, (importance * 4).long(), importance, stage)


def rates_at(
    t: float, masking: MaskingScheduler, importance: Tensor = IMPORTANCE, stage: Stage | None = STAGE
) -> MaskingRates:
    times = torch.full((len(importance),), t, dtype=torch.float64)
    return masking(times, clean_text(torch.ones_like(importance, dtype=torch.bool), importance, stage))


def rates_over(num: int, masking: MaskingScheduler, importance: Tensor = IMPORTANCE) -> MaskingRates:
    """Of all rows at time 1 / num, then of all at 2 / num, and so on to 1."""
    times = (torch.arange(1, num + 1, dtype=torch.float64) / num).repeat_interleave(len(importance))
    rows = importance.repeat(num, 1)
    return masking(times, clean_text(torch.ones_like(rows, dtype=torch.bool), rows))


def speeds(masking: MaskingScheduler, importance: list[float], t: float = 0.5, stage=None) -> list[float]:
    row = torch.tensor([importance], dtype=torch.float64)
    scored = torch.ones_like(row, dtype=torch.bool)
    return masking(torch.tensor([t], dtype=torch.float64), Clean(scored, importance=row, stage=stage)).speed[0].tolist()


# what every strategy does


@pytest.mark.parametrize(("name", "make"), EVERY_STRATEGY, ids=[name for name, _ in EVERY_STRATEGY])
def test_every_token_is_masked_at_1_and_at_a_trillionth_fewer_than_one_in_ten_thousand_under_4_schedules(name, make):
    for schedule in SCHEDULES:
        masking = make(schedule)
        torch.testing.assert_close(rates_at(1.0, masking).mask_rate, SCORED.double(), atol=1e-12, rtol=0.0)
        assert rates_at(1e-12, masking).mask_rate.max() < 1e-4
        assert rates_at(1e-12, masking).mask_rate.min() >= 0


@pytest.mark.parametrize(("name", "make"), EVERY_STRATEGY, ids=[name for name, _ in EVERY_STRATEGY])
def test_mask_rates_rise_over_50_times_and_stay_within_0_and_1_under_4_schedules(name, make):
    for schedule in SCHEDULES:
        masking = make(schedule)
        found = rates_over(50, masking).mask_rate.view(50, *IMPORTANCE.shape)
        assert found.min() > 0
        assert found.max() <= 1
        assert (found[-1] > found[0]).all()
        # as the documents have `balanced`, an easy token can turn visible again
        if not ("literal" in name and "balanced" in name):
            assert (found.diff(dim=0) >= -1e-9).all()


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("direction", ["inverse", "proportional", "balanced"])
def test_mask_rates_rise_strictly_for_exponents_as_far_apart_as_temperatures_of_a_hundredth_make_them(
    direction, temperature
):
    masking = AdaptiveMaskingScheduler(Linear(), direction, temperature)
    importance = IMPORTANCE if direction == "balanced" else 0.05 * IMPORTANCE
    rates = rates_over(500, masking, importance)
    assert (rates.mask_rate.log().view(500, *importance.shape).diff(dim=0) > 0).all()
    assert (rates.speed > 0).all()


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_the_closed_form_weight_is_the_slope_of_the_log_mask_rate_to_1e_5_under_4_schedules(case):
    for schedule, t in itertools.product(SCHEDULES, (0.003, 0.1, 0.5, 0.77, 0.99)):
        masking, step = case.make(schedule), 1e-5 * t
        after, before = (rates_at(t + sign * step, masking).mask_rate.log() for sign in (1, -1))
        found = rates_at(t, masking)
        torch.testing.assert_close(found.weight, (after - before) / (2 * step), rtol=1e-5, atol=0.0)
        own = schedule.weight(torch.tensor(t, dtype=torch.float64))
        torch.testing.assert_close(found.weight, found.speed * own, rtol=1e-12, atol=0.0)
        assert masking.is_bound


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_a_token_masked_at_rate_u_is_revealed_at_the_mask_rate_that_log_reveal_rate_gives_to_1e_9(case):
    masking = case.make(Linear())
    uniform = torch.rand(64, 3, generator=torch.Generator().manual_seed(1)).clamp_min(2**-25)
    revealed = masking.log_reveal_rate(uniform, clean_text(SCORED, IMPORTANCE))
    for i in range(3):
        found = masking(revealed[:, i].exp(), clean_text(SCORED, IMPORTANCE)).mask_rate[:, i]
        torch.testing.assert_close(found, uniform[:, i].double(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("name", "make"), EVERY_STRATEGY, ids=[name for name, _ in EVERY_STRATEGY])
def test_20000_independent_masks_hide_as_many_tokens_as_the_rates_add_up_to_within_four_standard_errors(name, make, t):
    importance = torch.tensor([[0.1, 0.8, 0.5]]).expand(20_000, 3)
    rates = rates_at(t, make(Linear()), importance).mask_rate
    uniform = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(2))
    found = mask_independently(uniform, rates, torch.ones_like(uniform, dtype=torch.bool)).double()
    error = (rates[0] * (1 - rates[0]) / 20_000).sqrt()
    assert ((found.mean(0) - rates[0]).abs() <= 4 * error + 1e-12).all()
    assert abs(found.sum(1).mean() - rates[0].sum()) < 4 * error.square().sum().sqrt() + 1e-12


ANY_LENGTH = [(name, make) for name, make in EVERY_STRATEGY if "biased" not in name and name != "table"]


@pytest.mark.parametrize(("name", "make"), ANY_LENGTH, ids=[name for name, _ in ANY_LENGTH])
def test_what_stands_in_4_places_of_padding_changes_no_rate_of_the_text(name, make):
    generator = torch.Generator().manual_seed(3)
    first, second = torch.rand(2, 5, 8, generator=generator, dtype=torch.float64)
    text = torch.arange(8) < torch.tensor([4, 4, 4, 4, 4])[:, None]
    second = torch.where(text, first, second)
    t = torch.linspace(0.1, 1, 5, dtype=torch.float64)
    masking = make(Linear())
    rates, others, alone = (
        masking(t, clean_text(scored, importance))
        for importance, scored in ((first, text), (second, text), (first[:, :4], text[:, :4]))
    )
    for part in ("mask_rate", "speed", "weight"):
        found = getattr(rates, part)[:, :4]
        assert found.equal(getattr(others, part)[:, :4])
        torch.testing.assert_close(found, getattr(alone, part), rtol=1e-9, atol=1e-12)


POSITIONS = [("slope", 2.0), ("slope", -2.0), ("u_shape", 2.0), ("u_shape", -2.0)]


@pytest.mark.parametrize(("shape", "strength"), POSITIONS)
def test_a_text_of_2_tokens_in_a_row_of_256_has_a_finite_training_loss(shape, strength):
    masking = PositionAwareMaskingScheduler(Linear(), shape, strength)
    plan = TimePlan(UniformTime(), Weighting("elbo", Linear(), UniformTime()))
    objective = MaskedDiffusion(Linear(), lambda _: plan, 7, masking)
    x0, lengths = torch.zeros(64, 256, dtype=torch.int64), torch.full((64,), 2)
    draw = objective.draw(64, 256, torch.Generator().manual_seed(0))
    loss = objective.loss(uniform_denoiser(7), x0, lengths, draw, num_tokens=128, measure=True)
    assert loss.total.isfinite()
    assert all(metric.isfinite() for metric in loss.metrics.values())


@pytest.mark.parametrize(("shape", "strength"), POSITIONS)
def test_a_text_of_2_tokens_in_a_row_of_256_costs_a_denoiser_that_knows_nothing_log_7_nats_per_token(shape, strength):
    masking = PositionAwareMaskingScheduler(Linear(), shape, strength)
    rows = ListRows(np.zeros((32, 256), dtype=np.int64), np.full(32, 2))
    draws = draw_schedule_nll(uniform_denoiser(7), rows, masking=masking, mask_id=7, draws=DrawSettings(num_draws=32))
    assert draws.nelbo()[0] == pytest.approx(math.log(7), abs=1e-12)


# which tokens each of them masks late


def test_inverse_reveals_importance_1_at_e_times_the_speed_of_0_and_proportional_the_reverse():
    found = speeds(AdaptiveMaskingScheduler(Linear(), "inverse"), [0.0, 0.5, 1.0])
    assert found == pytest.approx([math.exp(-0.5), 1, math.exp(0.5)])
    assert speeds(AdaptiveMaskingScheduler(Linear(), "proportional"), [0.0, 0.5, 1.0]) == pytest.approx(found[::-1])
    assert speeds(AdaptiveMaskingScheduler(Linear(), "time_only"), [0.0, 0.5, 1.0]) == [1.0] * 3


def test_inverse_masks_importance_1_with_probability_a_half_to_the_e():
    masking = AdaptiveMaskingScheduler(Linear(), "inverse", center=0.0)
    found = rates_at(0.5, masking, torch.tensor([[1.0, 0.0]]), None).mask_rate
    assert found[0].tolist() == pytest.approx([0.5**math.e, 0.5])


def test_the_temperature_divides_the_log_exponent_and_a_stages_multiplies_it():
    masking = AdaptiveMaskingScheduler(Linear(), "inverse", 0.5, center=0.0)
    assert speeds(masking, [1.0]) == pytest.approx([math.exp(2)])
    assert speeds(masking, [1.0], stage=STAGE) == pytest.approx([math.exp(2 / 0.8)])


def test_with_the_mean_as_center_log_speeds_add_up_to_0_in_every_row():
    for direction in ("inverse", "proportional"):
        found = rates_at(0.3, AdaptiveMaskingScheduler(Linear(), direction, 0.2)).speed.log().sum(1)
        assert found.abs().max() < 1e-6
    assert rates_at(0.3, CurriculumMasking(Linear())).speed.log().sum(1).abs().max() < 1e-6


def test_balanced_begins_as_inverse_and_ends_as_proportional_and_half_way_masks_all_alike():
    masking = AdaptiveMaskingScheduler(Linear(), "balanced", center=0.5)
    importance = torch.tensor([[0.0, 1.0]])
    for t, exponent in ((1e-9, 0.5), (0.5, 0.0), (1 - 1e-9, -0.5)):
        log_rate = rates_at(t, masking, importance, None).mask_rate.log() / math.log(t)
        assert log_rate[0].log().tolist() == pytest.approx([-exponent, exponent], abs=1e-6)
    speed = rates_at(0.5, masking, importance, None).speed[0]  # 1 - 2 d r log r
    assert speed.tolist() == pytest.approx([1 - 0.5 * math.log(2), 1 + 0.5 * math.log(2)])


def test_a_bias_on_positions_is_added_to_the_log_exponent():
    bias = torch.tensor([0.3, -0.2, 0.1, 9.0])
    signs: dict[Direction, int] = {"inverse": 1, "proportional": -1, "time_only": 0}
    for direction, sign in signs.items():
        masking = AdaptiveMaskingScheduler(Linear(), direction, center=0.5, position_bias=bias)
        expected = [math.exp(b + sign * d) for b, d in zip((0.3, -0.2, 0.1), (-0.5, 0.0, 0.5), strict=True)]
        assert speeds(masking, [0.0, 0.5, 1.0]) == pytest.approx(expected)


def log_ratios(masking: PositionAwareMaskingScheduler, length: int, num_scored: int, t: float) -> list[float]:
    """Log of each token's speed over the last token's."""
    scored = torch.arange(length)[None] < num_scored
    speed = masking(torch.tensor([t], dtype=torch.float64), Clean(scored)).speed[0, :num_scored]
    return (speed / speed[-1]).log().tolist()


@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_a_slope_of_2_gives_the_first_token_e_squared_times_the_speed_of_the_last_at_any_length(t):
    masking = PositionAwareMaskingScheduler(Linear(), "slope", 2.0)
    assert log_ratios(masking, 5, 5, t) == pytest.approx([2, 1.5, 1, 0.5, 0])
    assert log_ratios(masking, 8, 3, t) == pytest.approx([2, 1, 0])
    assert log_ratios(PositionAwareMaskingScheduler(Linear(), "slope", -2.0), 5, 3, t) == pytest.approx([-2, -1, 0])


@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_a_u_shape_of_2_gives_both_ends_e_squared_times_the_speed_of_the_middle(t):
    masking = PositionAwareMaskingScheduler(Linear(), "u_shape", 2.0)
    assert log_ratios(masking, 7, 5, t) == pytest.approx([0, -1.5, -2, -1.5, 0])


SHAPES = [("slope", 3.0), ("slope", -3.0), ("u_shape", 2.0), ("u_shape", -2.0), ("slope", 8.0), ("u_shape", 8.0)]


@pytest.mark.parametrize(("shape", "strength"), SHAPES)
def test_every_shape_hides_mask_rate_times_the_text_at_each_of_7_times_to_1e_9(shape, strength):
    scored = torch.arange(24) < torch.tensor([24, 13, 1])[:, None]
    for schedule, t in itertools.product(SCHEDULES, (1e-12, 1e-6, 0.01, 0.2, 0.5, 0.9, 1.0)):
        masking = PositionAwareMaskingScheduler(schedule, shape, strength)
        time = torch.full((3,), t, dtype=torch.float64)
        found = torch.where(scored, masking(time, Clean(scored)).mask_rate, 0.0).sum(1)
        torch.testing.assert_close(found, schedule.mask_rate(time) * scored.sum(1), rtol=1e-9, atol=0.0)


def test_the_bias_added_to_other_strategies_is_that_of_a_full_sequence_of_7():
    for shape in ("slope", "u_shape"):
        masking = PositionAwareMaskingScheduler(Linear(), shape, 1.5)
        found = position_bias(shape, 1.5, torch.arange(7)[None], 7)
        assert (found[0] - found[0, -1]).tolist() == pytest.approx(log_ratios(masking, 7, 7, 0.5))
        assert found.max() == 0.75
        assert found.min() == -0.75


def test_a_table_and_no_other_shape_takes_a_parameter_and_there_is_no_strategy_at_temperature_0():
    table = torch.nn.Parameter(torch.tensor([0.0, math.log(3)]))
    found = speeds(PositionAwareMaskingScheduler(Linear(), "table", table=table), [0.0, 0.0])
    assert found == pytest.approx([3**-0.5, 3**0.5])  # the mean of the table is taken out
    with pytest.raises(ValueError, match="table"):
        PositionAwareMaskingScheduler(Linear(), "table")
    with pytest.raises(ValueError, match="table"):
        PositionAwareMaskingScheduler(Linear(), "slope", table=table)
    with pytest.raises(ValueError, match="temperature is 0"):
        AdaptiveMaskingScheduler(Linear(), "inverse", 0.0)
    with pytest.raises(ValueError, match="temperature is 0"):
        CurriculumMasking(Linear(), 0.0)
    with pytest.raises(ValueError, match="temperature is 0"):
        LiteralMasking(Linear(), "literal_importance", "inverse", 0.0)


def test_a_curriculum_masks_the_stages_own_tokens_early_with_exponents_e_to_the_membership_over_08():
    # STAGE: importance 0 to 0.3, temperature 0.8; memberships 1, 0.5, 0
    found = speeds(CurriculumMasking(Linear()), [0.2, 0.35, 0.9], stage=STAGE)
    assert found == pytest.approx([math.exp(x / 0.8) for x in (-0.5, 0, 0.5)])
    sharper = speeds(CurriculumMasking(Linear(), 0.5), [0.2, 0.35, 0.9], stage=STAGE)
    assert sharper == pytest.approx([x**2 for x in found])


def test_membership_falls_from_1_to_0_over_a_tenth_on_both_sides_of_a_range():
    importance = torch.tensor([0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 0.725, 0.8, 0.9])
    found = membership(importance, (0.3, 0.7))
    torch.testing.assert_close(found, torch.tensor([0, 0, 0.5, 1, 1, 1, 0.75, 0, 0]), atol=1e-6, rtol=0)


def test_the_strategies_say_truly_what_they_read():
    other = IMPORTANCE.flip(0)
    for name, make in EVERY_STRATEGY:
        masking = make(Linear())
        differs = not rates_at(0.4, masking).mask_rate.equal(rates_at(0.4, masking, other).mask_rate)
        if isinstance(masking, ExponentMasking):
            assert differs == masking.reads_content, name
            early, late = rates_at(0.1, masking).speed, rates_at(0.9, masking).speed
            early, late = (speed / speed.sum(1, keepdim=True) for speed in (early, late))  # all that orders read
            assert torch.allclose(early, late) == masking.is_plackett_luce, name
        if not masking.needs_importance:
            tokens = None if not masking.reads_content else torch.zeros(1, 3, dtype=torch.int64)
            masking(torch.tensor([0.4]).double(), Clean(SCORED[:1], tokens, stage=STAGE))
        assert masking.is_bound == ("literal" not in name)


# polynomial exponents and the orders of Plackett and Luce

ORDERS = list(itertools.permutations(range(3)))


def plackett_luce(w: list[float]) -> dict[tuple[int, ...], float]:
    """P(order) = the product over k of w_{s_k} / (w_{s_k} + ... + w_{s_L})."""
    return {order: math.prod(w[order[k]] / sum(w[i] for i in order[k:]) for k in range(3)) for order in ORDERS}


def chi_square_p(found: dict[tuple[int, ...], int], expected: dict[tuple[int, ...], float]) -> float:
    total = sum(found.values())
    statistic = sum((found.get(o, 0) - total * p) ** 2 / (total * p) for o, p in expected.items())
    halves = torch.tensor([(len(expected) - 1) / 2, statistic / 2], dtype=torch.float64)
    return torch.special.gammaincc(*halves).item()


def counted_orders(masking: ExponentMasking, importance: Tensor) -> dict[tuple[int, ...], int]:
    """Of 60,000 draws of when each of three tokens is revealed; r falls from 1 to 0, so the largest is first."""
    uniform = torch.rand(60_000, 3, generator=torch.Generator().manual_seed(4))
    scored = torch.ones_like(uniform, dtype=torch.bool)
    revealed = masking.log_reveal_rate(uniform, Clean(scored, importance=importance.expand(60_000, 3), stage=STAGE))
    order = revealed.argsort(1, descending=True)
    code = (order * torch.tensor([9, 3, 1])).sum(1).bincount(minlength=27)
    return {s: int(code[9 * s[0] + 3 * s[1] + s[2]]) for s in ORDERS}


@pytest.mark.parametrize(
    "case", [CONTENT_FREE[0], CONTENT_FREE[1], TOKEN_IDENTITY[0], TOKEN_IDENTITY[1], *WHOLE_SEQUENCE[:2]], ids=repr
)
def test_60000_reveal_orders_of_3_tokens_are_those_of_plackett_and_luce(case: Case):
    masking, importance = case.make(Linear()), torch.tensor([[0.0, 0.4, 1.0]])
    w = rates_at(0.5, masking, importance).speed[0].tolist()
    found = counted_orders(masking, importance)
    assert sum(found.values()) == 60_000
    assert chi_square_p(found, plackett_luce(w)) > 1e-4
    if max(w) > min(w):
        assert chi_square_p(found, plackett_luce([1 / x for x in w])) < 1e-12
        assert chi_square_p(found, plackett_luce([x**1.15 for x in w])) < 1e-4
        assert chi_square_p(found, plackett_luce([1.0, 1.0, 1.0])) < 1e-12


def test_60000_reveal_orders_under_the_balanced_direction_are_not_those_of_its_speeds_at_any_of_3_times():
    masking, importance = TOKEN_IDENTITY[2].make(Linear()), torch.tensor([[0.0, 0.4, 1.0]])
    found = counted_orders(masking, importance)
    for t in (0.01, 0.5, 0.99):
        assert chi_square_p(found, plackett_luce(rates_at(t, masking, importance).speed[0].tolist())) < 1e-12


def test_masking_the_n_latest_to_be_revealed_leaves_the_sets_of_plackett_and_luce_visible():
    masking = AdaptiveMaskingScheduler(Linear(), "inverse", 0.5, center=0.5)
    importance = torch.tensor([[0.0, 0.4, 1.0]])
    uniform = torch.rand(60_000, 3, generator=torch.Generator().manual_seed(5))
    scored = torch.ones_like(uniform, dtype=torch.bool)
    revealed = masking.log_reveal_rate(uniform, Clean(scored, importance=importance.expand(60_000, 3), stage=STAGE))
    masks = mask_exactly(revealed, torch.full((60_000,), 2), scored)
    w = rates_at(0.5, masking, importance).speed[0]
    visible = (~masks).double().mean(0)
    assert ((visible - w / w.sum()).abs() < 4 * (0.25 / 60_000) ** 0.5).all()


# the documents' own formulas


def skewed(num_rows: int = 3, length: int = 300) -> tuple[Tensor, Tensor]:
    """Text of which one token in a hundred has importance 1 and the others 0, padded with importance 1."""
    importance = torch.zeros(num_rows, length, dtype=torch.float64)
    importance[:, ::100] = 1.0
    scored = torch.arange(length) < torch.tensor([length, length - 100, 100])[:num_rows, None]
    return torch.where(scored, importance, 1.0), scored


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", LITERAL_KINDS)
def test_the_documents_masking_hides_mask_rate_times_the_text_at_each_of_7_times_also_for_1_important_token_in_100(
    kind, direction, temperature
):
    importance, scored = skewed()
    for schedule in (Linear(), Cosine()):
        masking = LiteralMasking(schedule, kind, direction, temperature)
        for t in (1e-6, 0.01, 0.2, 0.5, 0.9, 0.999, 1.0):
            time = torch.full((3,), t, dtype=torch.float64)
            rates = masking(time, clean_text(scored, importance))
            expected = schedule.mask_rate(time) * scored.sum(1)
            torch.testing.assert_close(rates.mask_rate.sum(1), expected, rtol=1e-7, atol=0.0)
            assert rates.mask_rate.max() <= 1
            assert rates.mask_rate[~scored].abs().max() == 0
            assert not masking.is_bound


def test_shares_of_7_2_and_1_tenth_fill_2_tokens_as_1_two_thirds_and_one_third():
    share = torch.tensor([[0.7, 0.2, 0.1, 0.9]], dtype=torch.float64)
    scored = torch.tensor([[True, True, True, False]])
    found = water_fill(share, torch.tensor([[2.0]], dtype=torch.float64), scored)
    assert found[0].tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=1e-9)
    assert water_fill(share, torch.tensor([[1.0]], dtype=torch.float64), scored)[0].tolist() == pytest.approx(
        [0.7, 0.2, 0.1, 0], abs=1e-9
    )
    assert water_fill(share, torch.tensor([[3.0]], dtype=torch.float64), scored)[0].tolist() == [1, 1, 1, 0]


def test_the_documents_masking_is_in_proportion_to_exp_of_importance_over_temperature_below_1():
    importance = torch.tensor([[0.0, 0.5, 1.0, 0.2]], dtype=torch.float64)
    scored = torch.ones_like(importance, dtype=torch.bool)
    t = torch.tensor([0.3], dtype=torch.float64)
    bias = torch.tensor([0.1, 0.2, -0.3, 0.0], dtype=torch.float64)
    inverse, proportional = (-importance / 0.5 + bias).softmax(1), (importance / 0.5 + bias).softmax(1)
    shares: dict[Direction, Tensor] = {
        "inverse": inverse,
        "proportional": proportional,
        "balanced": 0.7 * inverse + 0.3 * proportional,
        "time_only": bias[None].softmax(1),
    }
    for direction, share in shares.items():
        masking = LiteralMasking(Linear(), "literal_importance", direction, 0.5, position_bias=bias)
        rates = masking(t, Clean(scored, importance=importance))
        torch.testing.assert_close(rates.mask_rate, 0.3 * 4 * share, rtol=1e-7, atol=0.0)
        assert rates.mask_rate.max() < 1
        torch.testing.assert_close(rates.weight, torch.full((1, 4), 1 / 0.3, dtype=torch.float64), rtol=1e-12, atol=0.0)


def test_in_the_documents_balance_an_easy_token_next_to_9_hard_ones_is_masked_for_certain_at_05_and_53_percent_at_09():
    masking = LiteralMasking(Linear(), "literal_importance", "balanced", 0.5)
    importance = torch.ones(1, 10, dtype=torch.float64)
    importance[0, 0] = 0.0
    found = [rates_at(t, masking, importance, None).mask_rate[0, 0].item() for t in (0.1, 0.5, 0.9, 1.0)]
    assert found == pytest.approx([0.407, 1, 0.526, 1], abs=1e-3)


def test_the_documents_curriculum_weighs_a_token_in_range_twice_and_all_of_them_1_on_average():
    masking = LiteralMasking(Linear(), "literal_curriculum", "proportional")
    assert speeds(masking, [0.1, 0.3, 0.9, 0.5], stage=STAGE) == pytest.approx([4 / 3, 4 / 3, 2 / 3, 2 / 3])
    rates = rates_at(0.25, masking, torch.tensor([[0.1, 0.3, 0.9, 0.5]], dtype=torch.float64))
    assert rates.weight[0].tolist() == pytest.approx([16 / 3, 16 / 3, 8 / 3, 8 / 3])


def test_uniform_masking_is_that_of_mdlm_with_speed_1():
    rates = rates_at(0.3, UniformMasking(Cosine()))
    t = torch.tensor([0.3], dtype=torch.float64)
    assert rates.mask_rate.equal(Cosine().mask_rate(t).expand(64, 3))
    assert rates.weight.equal(Cosine().weight(t).expand(64, 3))
    assert (rates.speed == 1).all()


@pytest.mark.parametrize("direction", ["inverse", "proportional"])
def test_of_two_tokens_of_exponent_exp_minus_10_each_is_revealed_first_in_half_of_20000_draws(direction):
    """Their mask rates are below the smallest float64 there, and would be equal."""
    importance = torch.tensor([[0.0, 0.0] if direction == "inverse" else [1.0, 1.0]]).expand(20_000, 2)
    masking = AdaptiveMaskingScheduler(Linear(), direction, 0.05, center=0.5)
    uniform = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(6)).clamp_min(2**-25)
    revealed = masking.log_reveal_rate(
        uniform, Clean(torch.ones_like(uniform, dtype=torch.bool), importance=importance)
    )
    assert revealed.isfinite().all()
    assert (revealed[:, 0] > revealed[:, 1]).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 20_000**0.5)
    assert (revealed[:, 0] < revealed[:, 1]).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / 20_000**0.5)
