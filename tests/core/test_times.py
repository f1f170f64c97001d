import math

import pytest
import torch

from mdlm_atat.core.schedules import Cosine, Geometric, Linear, Polynomial
from mdlm_atat.core.times import (
    LEAST_TIME,
    BetaTime,
    UniformTime,
    Weighting,
    check_density,
    highest_mean_of_share,
    low_discrepancy_times,
    van_der_corput_ranks,
)
from mdlm_atat.errors import UserError
from mdlm_atat.scoring.statistics import incomplete_beta

DENSITIES = {"uniform": UniformTime(), "beta": BetaTime(3, 3), "window": UniformTime(0.3, 0.7)}


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (3.0, 3.0), (0.5, 2.0), (20.0, 20.0)])
def test_beta_quantiles_match_the_moments_of_the_distribution(a, b):
    u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    t = BetaTime(a, b, uniform_share=0.0).quantile(u)
    assert t.mean().item() == pytest.approx(a / (a + b), abs=2e-4)
    assert t.var().item() == pytest.approx(a * b / ((a + b) ** 2 * (a + b + 1)), abs=2e-4)


SHAPES = [(0.1, 3), (3, 0.2), (0.3, 0.4), (0.05, 20), (0.7, 0.9), (1, 0.5), (0.01, 1), (3, 3), (20, 20)]


@pytest.mark.parametrize("uniform_share", [0.0, 0.05])
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_a_share_u_of_beta_times_falls_below_their_quantile_of_u_to_2e_5(a, b, uniform_share):
    u = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    t = BetaTime(a, b, uniform_share).quantile(u)
    inside = (t > 1e-290) & (t < 1 - 1e-9)  # nearer to 1, a float64 does not tell times apart
    below = [(1 - uniform_share) * incomplete_beta(x, a, b) + uniform_share * x for x in t[inside].tolist()]
    assert inside.sum() > 100
    assert below == pytest.approx(u[inside].tolist(), abs=2e-5)
    assert (t.diff() >= 0).all()
    assert 0 <= t.min() <= t.max() <= 1


@pytest.mark.parametrize("density", [BetaTime(0.01, 0.01), BetaTime(0.1, 3, uniform_share=0)])
def test_times_are_never_0_and_the_weight_of_the_least_is_finite_in_float32(density):
    times = low_discrepancy_times(density, 20_000, torch.Generator().manual_seed(0))
    assert LEAST_TIME == times.min() < times.max() <= 1
    assert (math.exp(40) / times).float().isfinite().all()


class Rounded:
    """One time alone, whose quantiles fall by a rounding of float32 here and there."""

    def quantile(self, u: torch.Tensor) -> torch.Tensor:
        return 0.5 + 1e-7 * torch.sin(1e9 * u)


@pytest.mark.parametrize("density", [*DENSITIES.values(), Rounded()], ids=[*DENSITIES, "rounded"])
def test_a_density_of_times_in_0_to_1_is_taken(density):
    check_density("mine:Mine", density)


@pytest.mark.parametrize(
    ("density", "message"),
    [
        (object(), "no density of training times: it has no quantile"),
        (UniformTime(-0.5, 1.0), "goes from -0.5 to 1;"),
        (UniformTime(0.0, 2.0), "goes from 0 to 2;"),
        (UniformTime(1.0, 0.0), "goes from 1 to 0;"),
        (UniformTime(math.nan), "goes from nan to nan"),
    ],
)
def test_times_outside_0_to_1_or_that_fall_are_refused_before_anything_is_trained_by_them(density, message):
    with pytest.raises(UserError, match=f"mine:Mine.*{message}"):
        check_density("mine:Mine", density)


def test_a_share_of_five_percent_stays_uniform_so_that_the_ends_are_trained_too():
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    below = (BetaTime(20, 20, uniform_share=0.05).quantile(u) < 0.02).double().mean().item()
    assert below == pytest.approx(0.05 * 0.02, rel=0.02)  # Beta(20, 20) itself has no mass there


def test_times_of_a_batch_fall_one_in_each_of_its_equal_parts():
    times = low_discrepancy_times(UniformTime(), 64, torch.Generator().manual_seed(0))
    assert sorted((times * 64).ceil().int().tolist()) == list(range(1, 65))
    assert times.min() > 0


def test_times_are_uniform_over_many_batches():
    generator = torch.Generator().manual_seed(1)
    times = torch.cat([low_discrepancy_times(UniformTime(), 3, generator) for _ in range(4000)])
    histogram = torch.histc(times, bins=10, min=0, max=1)
    assert (histogram - 1200).abs().max() < 5 * 1200**0.5


def test_every_row_of_a_batch_gets_each_stratum_equally_often():
    """4,000 batches of 6: each count of a row and a stratum within 5 standard deviations of 667."""
    generator = torch.Generator().manual_seed(0)
    strata = torch.stack([6 - (6 * low_discrepancy_times(UniformTime(), 6, generator)).ceil() for _ in range(4000)])
    counts = torch.stack([(strata == s).sum(0) for s in range(6)])
    assert (counts - 4000 / 6).abs().max() < 5 * (4000 * 5 / 36) ** 0.5


@pytest.mark.parametrize(("rows", "shares"), [(64, 2), (64, 16), (48, 3), (60, 3), (512, 8)])
def test_the_rows_of_every_share_of_a_batch_have_times_from_all_parts(rows, shares):
    """Where all is a power of two or a third of it, each of n rows lies in a part of its own of n equal ones, so that
    their mean is within 1 / (2 n) of the batch's."""
    own, generator = rows // shares, torch.Generator().manual_seed(0)
    highest = highest_mean_of_share(1 - torch.arange(rows, dtype=torch.float64) / rows, own)
    for _ in range(50):
        means = low_discrepancy_times(UniformTime(), rows, generator).view(shares, own).mean(1)
        assert means.max() <= highest
        assert (means - 0.5).abs().max() <= (0.5 if rows != 60 else 1.0) / own
    assert highest <= 0.5 + (0.5 if rows != 60 else 1.0) / own


def test_the_highest_mean_of_a_share_is_reached_by_some_rotation_and_passed_by_none():
    rate = torch.rand(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranks = van_der_corput_ranks(24, torch.device("cpu"))
    means = [rate[(ranks + k) % 24].view(4, 6).mean(1).max().item() for k in range(24)]
    assert highest_mean_of_share(rate, 6) == pytest.approx(max(means), rel=1e-12)
    assert highest_mean_of_share(rate, 24) == pytest.approx(rate.mean().item(), rel=1e-12)
    with pytest.raises(ValueError, match="24 rows are no whole number of shares of 7"):
        highest_mean_of_share(rate, 7)


def test_ranks_of_eight_rows_are_the_van_der_corput_sequence():
    assert van_der_corput_ranks(8, torch.device("cpu")).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


@pytest.mark.parametrize("kind", ["elbo", "flat", "clipped"])
@pytest.mark.parametrize("density", DENSITIES, ids=str)
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Geometric()], ids=repr)
def test_in_training_too_every_token_is_expected_to_be_scored_once(kind, density, schedule):
    weighting = Weighting(kind, schedule, DENSITIES[density])
    t = low_discrepancy_times(DENSITIES[density], 50_000, torch.Generator().manual_seed(0))
    assert (schedule.mask_rate(t) * weighting(t)).mean().item() == pytest.approx(1, abs=1e-3)


def test_uniform_times_with_the_elbo_weight_leave_the_bound_unscaled():
    t = torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(Weighting("elbo", Linear(), UniformTime())(t), 1 / t, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "schedule", [Linear(), Cosine(), Geometric(), *map(Polynomial, (0.01, 0.1, 0.25, 2.0, 30.0))], ids=repr
)
def test_the_scale_of_uniform_times_with_the_elbo_weight_is_1_under_8_schedules(schedule):
    weighting = Weighting("elbo", schedule, UniformTime())
    assert weighting.scale == pytest.approx(1, abs=1e-12)
    window = Weighting("elbo", schedule, UniformTime(0.3, 0.7))
    rise = schedule.mask_rate(torch.tensor([0.3, 0.7], dtype=torch.float64)).diff().item()
    assert window.scale == pytest.approx(0.4 / rise, rel=1e-12)


@pytest.mark.parametrize("exponent", [0.1, 0.25, 1.0, 4.0])
def test_under_beta_times_too_the_scale_of_the_elbo_weight_is_1_over_the_mean_slope_of_the_mask_rate(exponent):
    found = Weighting("elbo", Polynomial(exponent), BetaTime(3, 3, uniform_share=0.05)).scale
    assert found == pytest.approx(1 / beta_slope(exponent, 3, 3, 0.05), rel=1e-3)


def beta_slope(exponent: float, a: float, b: float, uniform_share: float) -> float:
    """E[w t^(w - 1)] is w B(a + w - 1, b) / B(a, b) of Beta(a, b), and 1 of uniform times."""

    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    beta = exponent * math.exp(log_beta(a + exponent - 1, b) - log_beta(a, b))
    return (1 - uniform_share) * beta + uniform_share


@pytest.mark.parametrize(
    ("exponent", "a", "b"),
    [
        (0.5, 0.55, 1.0),
        (0.5, 0.7, 2.0),
        (0.3, 0.8, 0.5),
        (0.9, 0.2, 1.0),
        (2.0, 0.3, 0.3),
        (0.1, 1.0, 1.0),
        (3.0, 5.0, 0.5),
        (0.1, 0.92, 0.2),
    ],
)
@pytest.mark.parametrize("uniform_share", [0.0, 0.05, 0.5])
def test_the_scale_is_right_where_times_and_mask_rate_are_both_steep_at_0(
    exponent: float, a: float, b: float, uniform_share: float
):
    found = Weighting("elbo", Polynomial(exponent), BetaTime(a, b, uniform_share=uniform_share)).scale
    assert found == pytest.approx(1 / beta_slope(exponent, a, b, uniform_share), rel=2e-3)


@pytest.mark.parametrize(("exponent", "a"), [(0.5, 0.5), (0.5, 0.3), (0.1, 0.9), (0.2, 0.4)])
def test_a_weight_without_a_finite_mean_is_refused(exponent: float, a: float):
    with pytest.raises(UserError, match=r"`objective\.weighting=elbo` has no finite mean under these times"):
        Weighting("elbo", Polynomial(exponent), BetaTime(a, 1.0))
    assert Weighting("elbo", Polynomial(exponent), BetaTime(a, 1.0, uniform_share=1.0)).scale == 1
    Weighting("flat", Polynomial(exponent), BetaTime(a, 1.0))


def test_the_clipped_weight_stops_growing_below_the_clip():
    weighting = Weighting("clipped", Linear(), UniformTime(), clip=0.1)
    low, at, high = weighting(torch.tensor([0.001, 0.1, 0.5], dtype=torch.float64))
    assert low == pytest.approx(at.item())
    assert (at / high).item() == pytest.approx(5)
