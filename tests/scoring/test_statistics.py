"""Student's t against printed tables and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mdlm_atat.scoring.statistics import (
    CommonError,
    clear_factor,
    incomplete_beta,
    interval_factor,
    mean_with_interval,
    p_value,
    t_distribution,
    t_quantile,
)


@pytest.mark.parametrize(
    ("degrees", "p", "t"),
    [  # Abramowitz and Stegun, table 26.10
        (1, 0.975, 12.706),
        (2, 0.975, 4.303),
        (2, 0.995, 9.925),
        (4, 0.95, 2.132),
        (9, 0.975, 2.262),
        (30, 0.995, 2.750),
        (120, 0.975, 1.980),
    ],
)
def test_quantiles_are_those_of_the_printed_table(degrees, p, t):
    assert t_quantile(p, degrees) == pytest.approx(t, abs=6e-4)
    assert t_quantile(1 - p, degrees) == pytest.approx(-t, abs=6e-4)


def test_an_interval_of_8_blocks_reaches_2_365_errors_and_holds_the_truth_95_times_in_100_where_twice_holds_it_91():
    blocks = np.random.default_rng(0).normal(size=(40_000, 8))
    distance = np.abs(blocks.mean(1)) / (blocks.std(1, ddof=1) / 8**0.5)
    assert interval_factor(7) == pytest.approx(2.365, abs=6e-4)
    assert (distance < 2).mean() == pytest.approx(0.914, abs=0.005)
    assert (distance < interval_factor(7)).mean() == pytest.approx(0.95, abs=0.005)
    assert (clear_factor(7), clear_factor(1e6)) == (interval_factor(7), 2.0)
    assert interval_factor(0) == math.inf


@pytest.mark.parametrize("t", [-30.0, -2.0, -0.3, 0.0, 0.5, 1.0, 7.0, 200.0])
def test_one_and_two_degrees_of_freedom_have_closed_forms(t):
    assert t_distribution(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-13)
    assert t_distribution(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-13)


def test_the_incomplete_beta_function_has_its_polynomial_and_its_symmetry():
    x = 0.3
    assert incomplete_beta(x, 2, 3) == pytest.approx(6 * x**2 - 8 * x**3 + 3 * x**4, abs=1e-15)
    assert incomplete_beta(x, 40, 0.5) == pytest.approx(1 - incomplete_beta(1 - x, 0.5, 40), abs=1e-15)
    assert (incomplete_beta(0, 2, 3), incomplete_beta(1, 2, 3)) == (0, 1)


def test_the_interval_of_1_2_3_is_2_plus_minus_4_303_over_the_root_of_3():
    found = mean_with_interval([1.0, 2.0, 3.0])
    assert (found.value, found.num) == (2.0, 3)
    assert found.standard_error == pytest.approx(1 / math.sqrt(3))
    assert found.interval95 is not None
    assert found.interval95[1] - 2 == pytest.approx(4.30265 / math.sqrt(3), abs=1e-4)


def test_one_number_has_no_interval():
    found = mean_with_interval([1.5])
    assert (found.standard_error, found.interval95, p_value(found)) == (None, None, None)


def test_an_error_that_all_share_is_added_and_is_all_there_is_of_one_number():
    common = CommonError(0.5, 9)
    alone = mean_with_interval([3.0], common)
    assert (alone.standard_error, alone.degrees) == (0.5, 9)
    assert alone.interval95 == pytest.approx((3 - 2.26216 * 0.5, 3 + 2.26216 * 0.5), abs=1e-4)
    found = mean_with_interval([1.0, 2.0, 3.0], common)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 3 + 0.25))
    assert found.interval95 is not None
    assert found.interval95[1] - 2 >= 4.30265 / math.sqrt(3) - 1e-4  # never surer than the three alone
    alone_p, p = p_value(mean_with_interval([1.0, 2.0, 3.0])), p_value(found)
    assert alone_p is not None and p is not None and p >= alone_p  # noqa: PT018
    assert found.degrees == pytest.approx((1 / 3 + 0.25) ** 2 / ((1 / 3) ** 2 / 2 + 0.25**2 / 9))


@pytest.mark.slow
def test_the_interval_holds_the_truth_19_times_in_20_whatever_the_seeds_share():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(250):  # three seeds, which differ by less than what they share
        blocks = rng.normal(0, 1.0, 32)
        values = blocks.mean() + rng.normal(0, 0.05, 3)
        found = mean_with_interval(list(values), CommonError(blocks.std(ddof=1) / math.sqrt(32), 31)).interval95
        assert found is not None
        held += found[0] < 0 < found[1]
    assert 0.91 < held / 250 < 0.99  # 3 deviations


def test_the_p_of_1_2_3_is_that_of_t_at_2_root_3_with_two_degrees():
    t = 2 * math.sqrt(3)

    def paired_t_test(differences):
        return p_value(mean_with_interval(differences))

    assert paired_t_test([1.0, 2.0, 3.0]) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)
    assert paired_t_test([-1.0, -2.0, -3.0]) == paired_t_test([1.0, 2.0, 3.0])
    assert paired_t_test([0.0, 0.0]) == 1
    assert paired_t_test([0.5, 0.5]) == 0
