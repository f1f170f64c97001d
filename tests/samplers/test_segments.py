"""Left to right in every part of what is masked at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdlm_atat.errors import UserError
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.loop import trait
from mdlm_atat.samplers.segments import Segments
from samplers.enumerated import CHANCE, JOINT, WIDER, chi_square_per_degree, how_often, in_groups, text_probs
from samplers.stand_ins import examples
from samplers.test_dilated import steps_of


def test_of_8_places_in_4_steps_the_first_of_both_halves_comes_then_the_next_of_both():
    assert steps_of(Segments(num_steps=4), Canvas.blank(1, 8, 5)) == [[1, 2, 3, 4, 1, 2, 3, 4]]


def test_given_text_is_passed_over_and_rows_of_3_and_8_places_have_parts_of_their_own():
    tokens = torch.tensor([[1, 5, 5, 2, 2, 5, 3, 1], [5] * 8])
    steps = steps_of(Segments(num_steps=3), Canvas(tokens, tokens != 5))
    assert steps == [[0, 1, 2, 0, 0, 3, 0, 0], [1, 2, 3, 1, 2, 3, 1, 2]]


@given(
    number=st.integers(1, 300),
    num_steps=st.none() | st.integers(1, 300),
    tokens_a_step=st.none() | st.integers(1, 40),
    least_steps=st.integers(1, 40),
)
@examples(120)
def test_parts_are_as_few_as_the_steps_allow_and_differ_by_one_place_at_most(
    number: int, num_steps: int | None, tokens_a_step: int | None, least_steps: int
):
    rule = Segments(num_steps=num_steps, tokens_a_step=tokens_a_step, least_steps=least_steps)
    steps = rule.plan(number).tolist()
    starts = [place for place, step in enumerate(steps) if step == 1]
    sizes = [end - start for start, end in zip(starts, [*starts[1:], number], strict=True)]
    assert steps == [step for size in sizes for step in range(1, size + 1)]  # each part from left to right
    assert max(sizes) - min(sizes) <= 1
    assert rule.max_nfe(number) == max(sizes)
    if num_steps is not None:
        assert max(sizes) <= num_steps
        assert len(sizes) == 1 or -(-number // (len(sizes) - 1)) > num_steps
    else:
        assert len(sizes) <= (tokens_a_step or 1)
        assert max(sizes) >= min(least_steps, number)


def test_256_tokens_take_as_many_steps_as_are_asked_for():
    assert [Segments(num_steps=steps).max_nfe(256) for steps in (4, 8, 16, 32, 64, 256)] == [4, 8, 16, 32, 64, 256]


def test_one_part_has_exactly_the_probability_of_every_text():
    for joint in (JOINT, WIDER):
        torch.testing.assert_close(text_probs(Segments(), joint=joint), joint.probs)


def test_of_3_places_in_2_steps_the_first_and_the_third_come_together_and_a_text_costs_exactly_that():
    rule = Segments(num_steps=2)
    expected = in_groups([[0, 2], [1]])
    torch.testing.assert_close(text_probs(rule), expected)
    torch.testing.assert_close(text_probs(rule, seed=7), expected)  # no chance in the order
    assert trait(rule, "order_is_deterministic")
    assert chi_square_per_degree(how_often(rule), expected) < CHANCE


@pytest.mark.parametrize(("option", "value"), [("num_steps", 0), ("tokens_a_step", 0), ("least_steps", -1)])
def test_an_impossible_option_of_segments_is_refused_by_its_name(option: str, value: Any):
    with pytest.raises(UserError, match=f"^{option} is {value!r}, expected"):
        Segments(**{option: value})
