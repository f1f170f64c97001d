from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdlm_atat.errors import UserError
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.loop import StepRule
from mdlm_atat.samplers.sizes import Profile, Sizes, all_boundaries, as_profile, boundaries
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler
from samplers.enumerated import drawn
from samplers.stand_ins import CURVED, SHARES, examples, profile_of

KINDS: tuple[Sizes, ...] = get_args(Sizes)
STRAIGHT = profile_of(lambda masked: 1 + 2 * masked)


def sizes_of(ends: list[int]) -> list[int]:
    return torch.tensor(ends).diff().tolist()


@given(
    st.sampled_from(KINDS),
    st.integers(0, 300),
    st.integers(1, 400),
    st.integers(0, 300),
    st.lists(st.floats(0, 8), min_size=10, max_size=10),
)
@examples(150)
def test_boundaries_rise_from_0_to_n_in_exactly_T_or_n_steps(
    kind: Sizes, number: int, num_steps: int, given_tokens: int, nats: list[float]
):
    """In any profile, one that falls where it should rise included, and after any prompt."""
    profile = profile_of(dict(zip(SHARES, nats, strict=True)).__getitem__)
    ends = boundaries(kind, number, num_steps, profile, number + given_tokens)
    assert (ends[0], ends[-1]) == (0, number)
    assert len(ends) == 1 + min(num_steps, number)
    assert all(size >= 1 for size in sizes_of(ends))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [3, 3, 3, 3]),
        ("cosine", [1, 3, 3, 5]),  # 12 (1 - cos): .91, 3.51, 7.41, 12, rounded
        ("half_cosine", [2, 4, 4, 2]),  # 6 (1 - cos): 1.76, 6, 10.24, 12
        ("optimal", [3, 3, 3, 3]),
    ],
)
def test_12_tokens_in_4_steps(kind: Sizes, expected: list[int]):
    assert sizes_of(boundaries(kind, 12, 4, STRAIGHT)) == expected


@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 50))
@examples(40)
def test_optimal_sizes_of_a_straight_profile_are_constant_with_any_prompt(size: int, num_steps: int, prompt: int):
    number = size * num_steps
    assert sizes_of(boundaries("optimal", number, num_steps, STRAIGHT, number + prompt)) == [size] * num_steps


def cost(ends: list[int], length: int) -> float:
    """What the groups cost too much: m (m - 1) / 2 |f'(r)| / L nats each, at the share r revealed in their middle, with
    f(r) = 1 + 3 (1 - r)^3, as in CURVED."""
    given_tokens = length - ends[-1]
    return sum(
        (end - start) * (end - start - 1) / 2 * 9 * (1 - ((start + end) / 2 + given_tokens) / length) ** 2 / length
        for start, end in pairwise(ends)
    )


@pytest.mark.parametrize("prompt", [0, 64])
@pytest.mark.parametrize(("number", "num_steps"), [(256, 32), (256, 8), (100, 12)])
def test_optimal_sizes_cost_least_of_the_four_where_the_profile_is_curved(number: int, num_steps: int, prompt: int):
    """Small groups first."""
    length = number + prompt
    costs = {kind: cost(boundaries(kind, number, num_steps, CURVED, length), length) for kind in KINDS}
    others = min(costs[kind] for kind in KINDS if kind != "optimal")
    assert costs["optimal"] < 0.9 * others


def test_optimal_sizes_grow_as_the_inverse_root_of_the_slope():
    """|f'|^(-1/2) = 1 / (3 (1 - r)): a group at r = 1/2 is twice as large as the first."""
    ends = boundaries("optimal", 4000, 200, CURVED)
    sizes = sizes_of(ends)
    middle = next(step for step, end in enumerate(ends) if end >= 2000)
    assert sizes[middle] / sizes[0] == pytest.approx(2, rel=0.1)


def test_a_prompt_of_half_the_row_shifts_the_sizes_to_those_of_its_second_half():
    """f'(r) = -1 - 9 (1 - r)^2, from 10 to 1, and 3.25 in the middle: the last group is 10^(1/2) times as large as the
    first, and after a prompt of half the row 3.25^(1/2) times."""
    bent = profile_of(lambda masked: masked + 3 * masked**3)
    whole, half = (sizes_of(boundaries("optimal", number, number // 50, bent, 8000)) for number in (8000, 4000))
    assert whole[-1] / whole[0] == pytest.approx(10**0.5, rel=0.04)
    assert half[-1] / half[0] == pytest.approx(3.25**0.5, rel=0.04)
    assert sizes_of(boundaries("optimal", 4000, 80, bent)) != half  # without a prompt


def test_rows_of_2_5_and_0_stay_at_their_end():
    ends = all_boundaries("constant", [2, 5, 0], [2, 3, 0], None, 8)
    assert ends.tolist() == [[0, 1, 2, 2], [0, 2, 3, 5], [0, 0, 0, 0]]
    # the same number of tokens in another number of steps
    assert all_boundaries("constant", [4, 4], [2, 1], None, 8).tolist() == [[0, 2, 4], [0, 4, 4]]


@pytest.mark.parametrize("rule", [FirstHitting(sizes="optimal"), UncertaintyGuidedSampler(amount="optimal")])
def test_optimal_sizes_without_a_profile_say_how_to_measure_it(rule: StepRule):
    with pytest.raises(UserError, match=r"needs the model's validation profile; measure it with `evaluate"):
        drawn(rule, 1)


def test_a_profile_of_10_shares_comes_back_from_its_record():
    record = {name: list(getattr(CURVED, name)) for name in ("mask_rate", "nats_per_masked_token", "standard_error")}
    assert as_profile(record) == CURVED


UNKNOWN = {
    "no errors": Profile((0.1, 0.5, 1.0), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0)),
    "a single draw in a bin": Profile((0.1, 0.5, 1.0), (1.0, 2.0, 3.0), (0.1, math.nan, 0.1)),
    "a bin without a value": Profile((0.1, 0.5, 1.0), (1.0, math.nan, 3.0), (0.1, math.nan, 0.1)),
    "one bin": Profile((1.0,), (3.0,), (math.nan,)),
    "nothing": Profile((), (), ()),
}


@pytest.mark.parametrize("profile", UNKNOWN)
def test_a_profile_with_errors_that_are_not_known_or_of_one_bin_gives_4_steps_that_fill_10_places(profile):
    ends = boundaries("optimal", 10, 4, UNKNOWN[profile], 10)
    assert (ends[0], ends[-1], len(ends)) == (0, 10, 5)
    assert all(later > earlier for earlier, later in pairwise(ends))
