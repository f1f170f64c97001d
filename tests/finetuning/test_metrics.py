"""The metrics of the fine-tuning tasks against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mdlm_atat.finetuning.metrics import (
    accuracy,
    f1,
    find_metrics,
    matthews,
    measure,
    pearson,
    spearman,
    standard_error,
)
from mdlm_atat.plugins import names
from mdlm_atat.scoring.correlation import ranks

TRUTH = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
PREDICTED = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0])  # 3 true positives, 2 false negatives, 1 false positive, 4 true


def test_of_10_examples_with_3_1_2_4_in_the_table_accuracy_f1_and_matthews_are_what_the_definitions_give():
    assert accuracy(PREDICTED, TRUTH) == pytest.approx(7 / 10)
    assert f1(PREDICTED, TRUTH) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))  # precision 3/4, recall 3/5
    assert f1(PREDICTED, TRUTH) == pytest.approx(2 / (4 / 3 + 5 / 3))
    assert matthews(PREDICTED, TRUTH) == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))


def test_of_two_classes_the_matthews_correlation_is_the_pearson_correlation():
    assert matthews(PREDICTED, TRUTH) == pytest.approx(pearson(PREDICTED, TRUTH))


def test_matthews_is_1_for_the_truth_minus_1_for_its_opposite_and_of_three_classes_too():
    assert matthews(TRUTH, TRUTH) == pytest.approx(1)
    assert matthews(1 - TRUTH, TRUTH) == pytest.approx(-1)
    three = np.array([0, 1, 2, 0, 1, 2])
    assert matthews(three, three) == pytest.approx(1)
    # c = 3 right of s = 6; p = (3, 2, 1), t = (2, 2, 2): (6 * 3 - 12) / sqrt((36 - 14) (36 - 12))
    assert matthews(np.array([0, 1, 0, 0, 2, 1]), three) == pytest.approx(6 / math.sqrt(22 * 24))


def test_f1_is_of_class_1_and_not_of_class_0():
    assert f1(1 - PREDICTED, 1 - TRUTH) == pytest.approx(2 * 4 / (2 * 4 + 2 + 1))


def test_pearson_and_spearman_of_4_points_by_hand():
    assert pearson(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])) == pytest.approx(4 / 5)
    assert pearson(np.array([1.0, 2, 4]), np.array([1.0, 2, 3])) == pytest.approx(3 / math.sqrt(14 / 3 * 2))
    assert spearman(np.array([1.0, 10, 100, 1000]), np.array([1.0, 3, 2, 4])) == pytest.approx(4 / 5)


def test_equal_values_share_the_mean_of_their_ranks():
    assert ranks(np.array([20.0, 10, 20, 30])).tolist() == [2.5, 1, 2.5, 4]
    assert spearman(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 3, 4])) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_a_guess_that_never_changes_has_no_correlation_and_no_f1():
    zeros = np.zeros(10, np.int64)
    assert matthews(zeros, TRUTH) == f1(zeros, np.zeros(10, np.int64)) == 0
    assert pearson(np.full(4, 0.1), np.array([1.0, 2, 3, 4])) == spearman(np.full(4, 0.1), np.arange(4)) == 0
    assert f1(np.ones(10, np.int64), TRUTH) == pytest.approx(2 / 3)


def test_every_metric_is_measured_under_its_name():
    found = measure(find_metrics(("accuracy", "f1")), PREDICTED, TRUTH)
    assert found == {"accuracy": 0.7, "f1": pytest.approx(2 / 3)}
    assert all(metric(TRUTH, TRUTH) == pytest.approx(1) for metric in find_metrics(names("metric")).values())


def test_the_error_of_an_accuracy_is_that_of_a_share():
    expected = math.sqrt(0.7 * 0.3 / 9)
    assert standard_error(accuracy, PREDICTED, TRUTH) == pytest.approx(expected)
    many = np.tile(np.arange(10) < 7, 100).astype(np.int64)  # more examples than parts
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(many)
    found = standard_error(accuracy, shuffled, np.ones(1000, np.int64))
    assert found == pytest.approx(math.sqrt(0.7 * 0.3 / 1000), rel=0.2)
    assert math.isnan(standard_error(accuracy, TRUTH[:1], TRUTH[:1]))


def test_the_error_of_a_correlation_is_how_far_it_spreads_over_samples_within_a_third():
    def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
        x, noise = np.random.default_rng(seed).normal(size=(2, 300))
        return x + noise, x

    spread = np.std([pearson(*draw(seed)) for seed in range(200)])
    assert standard_error(pearson, *draw(0)) == pytest.approx(spread, rel=0.33)
