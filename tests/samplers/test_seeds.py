"""Which seed each text is drawn from."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from mdlm_atat import UserError
from mdlm_atat.samplers.seeds import block_seed, context_seed, mix_seed, text_seeds


@pytest.mark.slow
def test_a_million_texts_of_1000_neighbouring_seeds_have_a_million_seeds_below_2_to_the_62():
    seeds = {mix_seed(seed, index) for seed in range(-500, 500) for index in range(1000)}
    assert len(seeds) == 1_000_000
    assert min(seeds) >= 0
    assert 2**61 < max(seeds) < 2**62


def test_the_hash_is_the_one_that_is_written_down():
    """echo -n 7,3 | sha256sum gives 9ca29a28a8e8cac5..., of which the first 62 bits count."""
    assert mix_seed(7, 3) == 0x9CA29A28A8E8CAC5 >> 2


def test_a_text_and_a_block_of_it_share_no_seed():
    texts = {mix_seed(seed, index) for seed in range(50) for index in range(50)}
    assert texts.isdisjoint(block_seed(seed, block) for seed in range(50) for block in range(50))


def test_texts_made_in_batches_have_the_seeds_of_those_made_at_once():
    for rule in ("hash", "add"):
        whole = text_seeds(5, range(10), rule)
        assert whole == text_seeds(5, range(4), rule) + text_seeds(5, range(4, 10), rule)
    assert text_seeds(5, range(3), "add") == [5, 6, 7]
    assert text_seeds(5, [2]) == [mix_seed(5, 2)]


def test_a_sequence_of_seeds_is_taken_as_it_is_and_must_have_one_for_each_text():
    assert text_seeds([9, 9, 4], range(3)) == [9, 9, 4]
    with pytest.raises(UserError, match="`seed` has 2 seeds, expected one for each of 3 texts"):
        text_seeds([1, 2], range(3))


def test_an_unknown_rule_is_refused_and_a_seed_of_numpy_is_a_number():
    """Without the check of types, which there is in the tests alone."""
    unchecked = inspect.unwrap(text_seeds)
    with pytest.raises(UserError, match="seed_rule is 'sum', expected one of hash, add"):
        unchecked(0, [0], "sum")  # type: ignore[arg-type]
    assert unchecked(np.int64(5), [2]) == [mix_seed(5, 2)]  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [3.0, "3", None, True, np.float64(3), [3, 1.5], ["3", "4"]])
def test_a_seed_that_is_no_whole_number_is_refused_wherever_one_is_mixed(seed):
    """1.5 was taken for 1 in a list, and "3" for a list of seeds; "3.0" and "None" were hashed as they are written."""
    with pytest.raises(UserError, match=r"`seed` is .*, expected a whole number"):
        inspect.unwrap(text_seeds)(seed, range(2))
    if not isinstance(seed, list):
        with pytest.raises(UserError, match=r"`seed` is .*, expected a whole number"):
            inspect.unwrap(mix_seed)(seed, 0)
        with pytest.raises(UserError, match=r"`seed` is .*, expected a whole number"):
            inspect.unwrap(context_seed)(seed, "the")
