import math

import pytest
import torch

from mdlm_atat.core.objective import count_weights, t_step_count_weights
from mdlm_atat.core.schedules import Cosine, Geometric, Linear, Polynomial, check_schedule, reveal_probability
from mdlm_atat.errors import UserError

SCHEDULES = [Linear(), Cosine(), Geometric(), Polynomial(0.5), Polynomial(2.0)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_nothing_is_masked_at_0_and_everything_at_1(schedule):
    ends = schedule.mask_rate(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends[0] == 0.0
    assert abs(ends[1] - 1) < 1e-15


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_weight_is_the_logarithmic_derivative_of_the_mask_rate(schedule):
    t = torch.linspace(1e-3, 1, 200, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.mask_rate(t).log().sum(), t)
    torch.testing.assert_close(schedule.weight(t).detach(), slope, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_every_token_is_expected_to_be_scored_exactly_once(schedule):
    # the integral of mask_rate * weight over t is one token
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    integral = (schedule.mask_rate(u) * schedule.weight(u)).mean().item()
    assert abs(integral - 1) < 1e-3 if isinstance(schedule, Polynomial) else abs(integral - 1) < 1e-9


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_weights_are_finite_and_accurate_in_float32_down_to_a_millionth(schedule):
    t = torch.tensor([1e-6, 1e-4, 0.5])
    exact = schedule.weight(t.double())
    assert torch.isfinite(schedule.weight(t)).all()
    torch.testing.assert_close(schedule.weight(t).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", [*SCHEDULES, Polynomial(0.1), Polynomial(30.0)], ids=repr)
def test_at_both_ends_weights_are_finite_not_negative_and_near_0_an_exponent_over_t(schedule, dtype):
    t = torch.tensor([2.0**-60, 1e-15, 1.0], dtype=dtype)
    rate, weight = schedule.mask_rate(t), schedule.weight(t)
    assert torch.isfinite(weight).all()
    assert (weight >= 0).all()
    assert (rate >= 0).all()
    exponent = getattr(schedule, "exponent", 1.0)
    assert (weight * t)[:2].tolist() == pytest.approx([exponent] * 2, rel=1e-5)
    if exponent == 1:  # a straight line: twice as much at twice the t
        assert (schedule.mask_rate(2 * t[:2]) / rate[:2]).tolist() == pytest.approx([2.0] * 2, rel=1e-5)


@pytest.mark.parametrize("exponent", [60.0, 120.0, 400.0])
def test_where_a_mask_rate_is_too_small_for_a_number_all_that_is_masked_is_revealed_and_no_weight_is_lost(exponent):
    schedule = Polynomial(exponent)
    assert reveal_probability(schedule, t=0.002, s=0.001) == pytest.approx(1.0)
    assert torch.isfinite(t_step_count_weights(schedule, 4, 1000)).all()
    assert t_step_count_weights(schedule, 4, 50_000).tolist() == pytest.approx(count_weights(4).tolist(), rel=0.02)


def test_a_masked_token_is_revealed_with_the_share_of_the_mask_rate_that_the_step_removes():
    assert reveal_probability(Linear(), t=0.8, s=0.6) == pytest.approx(0.25, abs=1e-12)
    assert reveal_probability(Geometric(), t=0.5, s=0.0) == 1.0
    t = torch.tensor(0.7, dtype=torch.float64)
    s = torch.tensor(0.3, dtype=torch.float64)
    expected = 1 - (Cosine().mask_rate(s) / Cosine().mask_rate(t)).item()
    assert math.isclose(reveal_probability(Cosine(), t=0.7, s=0.3), expected, rel_tol=1e-12)


@pytest.mark.parametrize("schedule", [*SCHEDULES, Polynomial(0.2), Polynomial(9.0)], ids=repr)
def test_a_schedule_whose_weight_belongs_to_its_mask_rate_is_taken(schedule):
    check_schedule("mine:Mine", schedule)


class Given:
    """A schedule of two given functions."""

    def __init__(self, mask_rate, weight):
        self.mask_rate, self.weight = mask_rate, weight


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (object(), "no noise schedule: it has not both mask_rate.t. and weight.t."),
        (Given(lambda t: t + 1, lambda t: 1 / (t + 1)), "mask_rate is 1 at t = 0 and 2 at 1"),
        (Given(lambda t: 0.9 * t, lambda t: 1 / t), "mask_rate is 0 at t = 0 and 0.9 at 1"),
        (Given(lambda t: t / 0, lambda t: 1 / t), "mask_rate is nan at t = 0"),
        (Given(lambda t: t - (6 * t).sin(), lambda t: 1 / t), "mask_rate is 0 at t = 0 and 1.279 at 1"),
        (Given(lambda t: t + (2 * torch.pi * t).sin(), lambda t: 1 / t), "nowhere to fall"),
        (Given(lambda t: t**3, lambda t: 2 / t), r"weight\(t\) \* mask_rate\(t\) is 0.6667 in the mean"),
    ],
)
def test_what_is_no_schedule_of_the_bound_is_refused_before_anything_is_trained_by_it(schedule, message):
    with pytest.raises(UserError, match=f"mine:Mine.*{message}"):
        check_schedule("mine:Mine", schedule)
