"""Student's t against printed tables and closed forms."""

from __future__ import annotations

import math

import pytest

from mdlm_atat.experiments.statistics import (
    incomplete_beta,
    mean_with_interval,
    paired_t_test,
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
    assert mean_with_interval([1.5]).interval95 is None
    with pytest.raises(ValueError, match="two differences"):
        paired_t_test([1.0])


def test_the_p_of_1_2_3_is_that_of_t_at_2_root_3_with_two_degrees():
    t = 2 * math.sqrt(3)
    assert paired_t_test([1.0, 2.0, 3.0]) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)
    assert paired_t_test([-1.0, -2.0, -3.0]) == paired_t_test([1.0, 2.0, 3.0])
    assert paired_t_test([0.0, 0.0]) == 1
    assert paired_t_test([0.5, 0.5]) == 0
