import math

import numpy as np
import pytest
import torch

from mdlm_atat.core.prior import mean_importance, prior_importance

COUNTS = np.array([100, 10, 1, 50])


def test_surprisal_is_0_for_the_commonest_token_a_half_at_a_tenth_of_it_and_1_for_a_token_seen_once():
    found = prior_importance(COUNTS, "surprisal")
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([0, 0.5, 1, math.log(2) / math.log(100)], abs=1e-6)


def test_frequency_is_1_less_the_share_of_the_largest_count():
    assert prior_importance(COUNTS, "frequency").tolist() == pytest.approx([0, 0.9, 0.99, 0.5], abs=1e-6)


def test_surprisal_of_8_4_2_and_1_is_four_evenly_spaced_values():
    found = prior_importance(np.array([8, 4, 2, 1]), "surprisal")
    assert found.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-6)


@pytest.mark.parametrize("kind", ["surprisal", "frequency"])
def test_a_token_that_was_never_seen_is_as_important_as_one_seen_once(kind):
    found = prior_importance(np.array([20, 1, 0]), kind)
    assert found[2] == found[1]
    assert found[1].item() == pytest.approx({"surprisal": 1.0, "frequency": 0.95}[kind])


@pytest.mark.parametrize("kind", ["surprisal", "frequency"])
@pytest.mark.parametrize("count", [1, 2, 10**12])
def test_in_a_corpus_of_one_kind_of_token_it_has_importance_0(kind, count):
    assert prior_importance(np.array([count]), kind).tolist() == [0.0]


def test_next_to_one_kind_of_token_seen_5_times_the_others_have_surprisal_1():
    assert prior_importance(np.array([0, 5, 0]), "surprisal").tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("kind", ["surprisal", "frequency"])
def test_tokens_all_seen_7_times_have_importance_0(kind):
    assert prior_importance(np.full(4, 7), kind).tolist() == [0.0] * 4


@pytest.mark.parametrize("kind", ["surprisal", "frequency"])
def test_importance_falls_with_the_count_and_stays_within_0_and_1_for_1000_counts(kind):
    counts = np.sort(np.random.default_rng(0).zipf(1.3, 1000).clip(max=10**9))
    found = prior_importance(counts, kind)
    assert (found.diff() <= 0).all()
    assert found.min() == 0
    assert found.max() <= 1


def test_counts_of_1000_and_1_in_a_million_are_a_thousandth_apart_in_frequency_and_a_half_in_surprisal():
    counts = np.array([10**6, 1000, 1])
    frequency, surprisal = prior_importance(counts, "frequency"), prior_importance(counts, "surprisal")
    assert (frequency[2] - frequency[1]).item() == pytest.approx(1e-3, rel=0.01)
    assert (surprisal[2] - surprisal[1]).item() == pytest.approx(0.5, abs=1e-6)


def test_the_mean_weighs_every_token_by_its_count():
    assert mean_importance(torch.tensor([0.0, 0.5, 1.0]), np.array([6, 3, 1])) == pytest.approx(0.25)
    assert mean_importance(torch.tensor([0.3, 0.9]), np.array([4, 0])) == pytest.approx(0.3)


def test_the_mean_surprisal_of_8_4_2_and_1_is_11_45ths():
    counts = np.array([8, 4, 2, 1])
    assert mean_importance(prior_importance(counts, "surprisal"), counts) == pytest.approx((4 / 3 + 4 / 3 + 1) / 15)
