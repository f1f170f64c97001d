import dataclasses
import json
import math

import pytest

from mdlm_atat.scoring.generative import bigram_entropy, distinct_n, measure_texts, repetition, unigram_entropy


def test_a_sample_of_k_equally_frequent_tokens_has_an_entropy_of_log_k():
    assert unigram_entropy([[3, 1, 4, 3, 1, 4]])[0] == pytest.approx(math.log(3), abs=1e-12)
    assert unigram_entropy([[7] * 20])[0] == 0
    assert unigram_entropy([[0, 0, 0, 1]])[0] == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4), abs=1e-12)


def test_entropy_is_of_each_sample_alone_and_not_of_all_of_them_pooled():
    assert unigram_entropy([[0] * 5, [1] * 5, [2] * 3]) == (0, 0)


def test_the_error_of_entropy_is_the_spread_of_samples_over_the_root_of_their_number():
    mean, error = unigram_entropy([[0, 1], [0, 0], [0, 1], [0, 1, 2, 3]])
    log2 = math.log(2)
    values = [log2, 0, log2, 2 * log2]
    assert mean == pytest.approx(log2, abs=1e-12)
    spread = math.sqrt(sum((value - log2) ** 2 for value in values) / 3)  # n - 1
    assert error == pytest.approx(spread / 2, abs=1e-12)


def test_bigram_entropy_is_of_neighbouring_pairs():
    assert bigram_entropy([[0, 1, 0, 1, 0]])[0] == pytest.approx(math.log(2))  # 01 10 01 10
    assert bigram_entropy([[0, 1, 2, 3]])[0] == pytest.approx(math.log(3))
    assert bigram_entropy([[5] * 9])[0] == 0
    # as varied as can be token by token, and yet a loop of two pairs and their seams
    looping, fresh = [0, 1, 2, 3] * 4, [0, 1, 2, 3, 0, 2, 1, 3, 1, 0, 3, 2, 0, 0, 1, 1]
    assert bigram_entropy([looping])[0] < bigram_entropy([fresh])[0] - 0.5
    assert math.isnan(bigram_entropy([[1], []])[0])


def test_distinct_2_counts_each_bigram_once_over_all_samples_and_none_across_two():
    rows = [[0, 1, 0, 1], [0, 1]]  # 01 10 01, 01
    assert distinct_n(rows, 2) == 2 / 4
    assert distinct_n(rows, 1) == 2 / 6
    assert distinct_n(rows, 3) == 1  # 010 101


def test_distinct_n_halves_when_every_sample_comes_twice():
    rows = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert distinct_n(rows, 3) == 1
    assert distinct_n(rows * 2, 3) == 0.5


def test_repetition_is_the_share_of_ngrams_seen_earlier_in_the_same_sample():
    looping = [0, 1, 0, 1, 0, 1]  # 01 10 01 10 01: three of five came before
    assert repetition([looping], n=2)[0] == pytest.approx(3 / 5)
    fresh = [0, 1, 2, 3, 4, 5]
    assert repetition([fresh, fresh], n=2) == (0, 0)  # what another sample said is no repetition
    mean, error = repetition([looping, fresh], n=2)
    assert (mean, error) == (pytest.approx(0.3), pytest.approx(0.3))
    assert repetition([[0, 1, 2, 0, 1, 2]])[0] == 0  # 4-grams: no trigram counts
    assert repetition([[0, 1, 2, 3, 0, 1, 2, 3]])[0] == pytest.approx(1 / 5)


def test_samples_shorter_than_n_have_no_ngrams_and_do_not_count():
    rows = [[0, 0, 0, 0, 0], [0, 1, 2], []]
    assert repetition(rows)[0] == 1 / 2  # 0000 twice in the first, and the others are no samples without repetition
    assert distinct_n(rows, 4) == 1 / 2
    assert unigram_entropy([[0, 1], []])[0] == pytest.approx(math.log(2))
    assert math.isnan(distinct_n([[0], []], 2))
    assert all(math.isnan(value) for value in repetition([[0, 1, 2]]))
    assert all(math.isnan(value) for value in unigram_entropy([]))


def test_one_sample_alone_has_a_mean_but_no_error():
    quality = measure_texts([[0, 1, 2, 3, 4]])
    assert math.isnan(quality.entropy_error)
    assert math.isnan(quality.repetition_error)
    assert quality.entropy_nats == pytest.approx(math.log(5))
    assert quality.repetition == 0


def test_all_11_numbers_of_a_set_of_samples_are_ready_for_json():
    rows = [[0, 1, 0, 1, 0, 1], [2, 3, 4, 5]]
    found = dataclasses.asdict(measure_texts(rows))
    record = json.loads(
        json.dumps({name: value for name, value in found.items() if value is not None}, allow_nan=False)
    )
    entropy, pairs, repeated = unigram_entropy(rows), bigram_entropy(rows), repetition(rows)
    assert record == {
        "num_samples": 2,
        "num_tokens": 10,
        "entropy_nats": entropy[0],
        "entropy_error": entropy[1],
        "bigram_entropy_nats": pairs[0],
        "bigram_entropy_error": pairs[1],
        "distinct_1": 6 / 10,
        "distinct_2": 5 / 8,
        "distinct_3": 4 / 6,
        "repetition": repeated[0],
        "repetition_error": repeated[1],
    }
    assert repeated[0] == pytest.approx(1 / 6)  # 0101 1010 0101, and nothing in the other
