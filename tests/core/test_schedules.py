import math

import pytest
import torch

from mdlm_atat.core.objective import count_weights, t_step_count_weights
from mdlm_atat.core.schedules import Cosine, Geometric, Linear, Polynomial, reveal_probability

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
