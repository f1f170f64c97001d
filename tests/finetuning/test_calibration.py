"""Temperature scaling recovers a temperature, leaves labels alone, and is not measured on what it was fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from mdlm_atat.finetuning.calibration import (
    calibrate,
    calibration_error,
    error_by_chance,
    fit_temperature,
    mean_nats,
    probabilities,
)


def rows(number: int, temperature: float, seed: int = 0, num_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from them divided by the temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=3, size=(number, num_classes))
    p = probabilities(logits / temperature)
    return logits, np.array([generator.choice(num_classes, p=row) for row in p])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found_to_a_tenth_from_4000_rows(temperature):
    logits, targets = rows(4000, temperature)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.1)


def test_calibration_lowers_the_error_of_a_classifier_that_is_too_sure_to_what_chance_leaves():
    logits, targets = rows(2000, 3.0)
    found = calibrate(logits, targets)
    assert found is not None
    assert found.ece_before > 0.2
    assert found.ece_after < 2 * found.ece_by_chance < 0.06
    assert found.nats_after < found.nats_before - 0.2
    assert found.num_rows == 2000
    assert (logits / found.temperature).argmax(1).tolist() == logits.argmax(1).tolist()


def test_ten_rows_that_are_all_right_do_not_make_it_certain():
    logits, targets = np.eye(2)[[0, 1] * 5] * 4, np.array([0, 1] * 5)
    few, many = (fit_temperature(np.repeat(logits, n, 0), np.repeat(targets, n)) for n in (1, 100))
    assert 0.7 < few < 1
    assert many < 0.5


def test_what_is_measured_after_comes_from_rows_that_the_temperature_was_not_fitted_on():
    """Labels that have nothing to do with the logits: fitted and measured on the same rows it would look better."""
    generator = np.random.default_rng(0)
    logits, targets = generator.normal(scale=4, size=(20, 2)), generator.integers(0, 2, 20)
    found = calibrate(logits, targets)
    assert found is not None
    assert found.nats_after > mean_nats(logits / found.temperature, targets)


def test_fewer_than_10_rows_are_not_calibrated_and_fewer_than_200_are_called_few():
    assert calibrate(*rows(9, 1.0)) is None
    assert str(calibrate(*rows(199, 1.0))).endswith("on 199 rows; so few rows leave it uncertain")
    assert str(calibrate(*rows(200, 1.0))).endswith("on 200 rows")


def test_the_calibration_error_is_the_mean_gap_of_confidence_and_accuracy():
    p = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    targets = np.array([0] * 8 + [1] * 2 + [1] * 6 + [0] * 4)
    assert calibration_error(p, targets) == pytest.approx((0.1 + 0.0) / 2)


def test_chance_alone_leaves_an_error_that_falls_with_the_number_of_rows():
    few, many = (error_by_chance(np.full((n, 2), 0.5), np.random.default_rng(0)) for n in (16, 1600))
    assert few == pytest.approx(0.5 * np.sqrt(2 / np.pi / 16), rel=0.1)  # mean |share of heads - 1/2|
    assert many == pytest.approx(few / 10, rel=0.2)


def test_three_classes_are_drawn_by_their_probabilities():
    p = np.tile([0.2, 0.3, 0.5], (3000, 1))
    assert error_by_chance(p, np.random.default_rng(0)) == pytest.approx(np.sqrt(2 / np.pi * 0.25 / 3000), rel=0.2)
