from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mdlm_atat.errors import UserError
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.confidence import ConfidenceBasedSampler
from mdlm_atat.samplers.loop import sample

V = 2


def by_step(probs: list[list[float]]) -> Callable[[Tensor, Tensor], Tensor]:
    """Probability of token 1 at each place, in each call; the last line from then on."""
    calls = iter(probs)
    last = probs[-1]

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        p = torch.tensor(next(calls, last), dtype=torch.float64).expand(z_t.shape)
        return torch.stack([1 - p, p], dim=-1).log()

    return denoise


def steps_of_each(probs: list[list[float]], **options: Any) -> list[int]:
    length = len(probs[0])
    rule = ConfidenceBasedSampler(num_steps=length, **options)
    result = sample(by_step(probs), Canvas.blank(1, length, V), rule, mask_id=V, seeds=[0])
    return result.trace.revealed_at_step[0].tolist()


def test_a_position_whose_likeliest_token_flips_is_not_stable_for_as_long_as_the_window_of_2():
    """Place 1 goes in step 1, when nobody has a history, as the most confident. Places 2 and 4 are stable then, place 3
    is so in step 3 only: in step 2 it is sure of another token than in step 1."""
    first, later = [0.5, 0.97, 0.95, 0.96, 0.95], [0.5, 0.95, 0.95, 0.02, 0.95]
    assert steps_of_each([first, later]) == [4, 1, 2, 3, 2]


def test_a_place_of_stability_7_tenths_goes_before_one_that_is_surer_but_flips_in_every_step():
    """Place 1 comes last of all, with 0.95; place 2 is the one due in step 1."""
    probs = [[0.7, 0.95, 0.99, 0.6], [0.7, 0.05, 0.5, 0.6], [0.7, 0.95, 0.5, 0.6]]
    assert steps_of_each(probs) == [2, 4, 1, 3]


@pytest.mark.parametrize(("window", "expected"), [(1, [2, 1, 1, 1]), (2, [3, 1, 2, 2]), (3, [4, 1, 2, 3])])
def test_a_window_of_k_steps_must_be_full_of_confidence_above_the_threshold(window: int, expected: list[int]):
    """Until then only the one token that is due goes, the most confident: place 1, then place 2."""
    steps = steps_of_each([[0.55, 0.97, 0.96, 0.95]], window=window, threshold=0.9)
    assert steps == expected


def test_the_least_of_the_last_2_confidences_counts_and_not_what_was_before():
    """Place 2 is unsure in step 1 alone, place 3 in step 2 alone: at step 3 the last two of place 2 reach 0.9."""
    first, second, third = [0.95, 0.5, 0.55, 0.93], [0.5, 0.5, 0.95, 0.6], [0.5, 0.5, 0.95, 0.95]
    # step 1: place 0 is due. Step 2: place 2 has (.55, .95), place 3 (.93, .6): the more stable is due, place 3
    steps = steps_of_each([first, second, third])
    assert steps == [1, 4, 3, 2]


def test_what_is_due_is_the_most_stable_first_and_without_a_history_the_most_confident():
    """Thresholds that nothing reaches: 1 a step."""
    steps = steps_of_each([[0.6, 0.9, 0.8], [0.85, 0.5, 0.8], [0.6, 0.5, 0.6]], threshold=1.0)
    assert steps == [3, 1, 2]  # at step 2: stability .6 of place 0, though it is more confident now, and .8 of place 2


def test_4_tokens_in_2_steps_are_due_2_at_a_time_where_nothing_is_stable():
    rule = ConfidenceBasedSampler(num_steps=2, threshold=1.0)
    result = sample(by_step([[0.6, 0.7, 0.8, 0.9]]), Canvas.blank(1, 4, V), rule, mask_id=V, seeds=[0])
    assert result.trace.revealed_at_step[0].tolist() == [2, 2, 1, 1]
    assert result.trace.nfe.tolist() == [2]


@pytest.mark.parametrize(("option", "value"), [("num_steps", 0), ("window", 0), ("threshold", 0.0), ("threshold", 1.1)])
def test_an_impossible_option_is_refused_by_its_name(option: str, value: Any):
    with pytest.raises(UserError, match=f"^{option} is {value}, expected"):
        ConfidenceBasedSampler(**{option: value})
