from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mdlm_atat.errors import UserError
from mdlm_atat.samplers.blocks import Blocks
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.dilated import Dilated, dilated_plan, num_rounds
from mdlm_atat.samplers.loop import StepRule, positions_of, sample, trait
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler as Uncertainty
from mdlm_atat.samplers.uncertainty import best_first, far_apart
from samplers.enumerated import (
    CHANCE,
    JOINT,
    WIDER,
    chi_square_per_degree,
    forced,
    how_often,
    in_groups,
    in_groups_of_steps,
    text_probs,
    total_variation,
)
from samplers.stand_ins import Hashed, examples, says


def steps_of(rule: StepRule, canvas: Canvas, vocab_size: int = 5, denoise: Any = None) -> list[list[int]]:
    """The step of each place, 0 where it is given."""
    result = sample(denoise or Hashed(vocab_size), canvas, rule, mask_id=vocab_size, seeds=range(len(canvas.tokens)))
    return result.trace.revealed_at_step.tolist()


def places_of_each_step(steps: list[int]) -> list[list[int]]:
    return [[place for place, step in enumerate(steps) if step == k] for k in range(1, max(steps) + 1)]


def test_of_8_places_first_0_and_4_come_then_2_and_6_then_the_odd_ones():
    (steps,) = steps_of(Dilated(), Canvas.blank(1, 8, 5))
    assert places_of_each_step(steps) == [[0, 4], [2, 6], [1, 3, 5, 7]]


@pytest.mark.parametrize(
    ("size", "base", "groups"),
    [
        (32, 2, [2, 2, 4, 8, 16]),  # as many as the authors' code has for their block of 32
        (64, 4, [4, 12, 48]),
        (27, 3, [3, 6, 18]),
        (6, 2, [2, 1, 3]),
        (1, 2, [1]),
    ],
)
def test_rounds_of_a_block_have_so_many_places(size: int, base: int, groups: list[int]):
    first = [step for step, _ in dilated_plan(size, size, base)]
    assert [first.count(k) for k in range(1, len(groups) + 1)] == groups


@given(number=st.integers(1, 300), block=st.integers(1, 80), base=st.integers(2, 5))
@examples(60)
def test_n_tokens_take_ceil_of_log_b_evaluations_for_each_block_and_blocks_come_one_after_the_other(
    number, block, base
):
    plan = dilated_plan(number, block, base)
    sizes = [min(block, number - start) for start in range(0, number, block)]
    by_formula = [max(1, math.ceil(math.log(size, base) - 1e-9)) for size in sizes]
    assert [num_rounds(size, base) for size in sizes] == by_formula
    assert Dilated(block=block, base=base).max_nfe(number) == sum(by_formula)
    assert len(plan) == number
    assert sorted({step for step, _ in plan}) == list(range(1, sum(by_formula) + 1))  # none is idle
    for place, (step, last) in enumerate(plan):
        assert last == sum(by_formula[: place // block + 1])
        assert last - by_formula[place // block] < step <= last


@given(number=st.integers(3, 200), block=st.integers(3, 64))
@examples(60)
def test_with_base_2_no_two_neighbours_come_in_one_step_but_in_a_last_block_of_2(number: int, block: int):
    plan = dilated_plan(number, block, 2)
    for place, (one, other) in enumerate(pairwise(plan)):
        alone_in_a_block_of_2 = place == number - 2 and number % block == 2
        assert one[0] != other[0] or alone_in_a_block_of_2
    # and in each round of a whole block all are as far from each other as the round before left room
    first = [step for step, _ in dilated_plan(block, block, 2)]
    for k in range(1, max(first) + 1):
        so_far = [place for place, step in enumerate(first) if step <= k]
        assert {after - before for before, after in pairwise(so_far)} <= {2 ** (max(first) - k)}


@given(number=st.integers(1, 400), num_steps=st.integers(1, 300), base=st.integers(2, 3))
@examples(80)
def test_a_number_of_steps_is_never_passed_and_the_blocks_are_the_smallest_that_it_allows(number, num_steps, base):
    rule = Dilated(num_steps=num_steps, base=base)
    taken = rule.max_nfe(number)
    assert 1 <= taken <= num_steps
    if num_steps >= number:
        assert taken == number  # one at a time
    elif num_rounds(number, base) <= num_steps:
        smaller = [Dilated(block=base**k, base=base).max_nfe(number) for k in range(2, 9) if base**k < number]
        assert all(count <= taken or count > num_steps for count in smaller)


def test_256_tokens_take_these_evaluations_at_the_steps_that_benches_ask_for():
    asked = (4, 8, 16, 32, 64, 128, 256)
    assert [Dilated(num_steps=steps).max_nfe(256) for steps in asked] == [4, 8, 14, 24, 64, 128, 256]


def test_given_text_is_passed_over_and_rows_of_3_and_8_places_have_rounds_of_their_own():
    tokens = torch.tensor([[1, 5, 5, 2, 2, 5, 3, 1], [5] * 8])
    steps = steps_of(Dilated(block=8), Canvas(tokens, tokens != 5))
    assert steps == [[0, 1, 2, 0, 0, 1, 0, 0], [1, 3, 2, 3, 1, 3, 2, 3]]


def test_in_blocks_of_4_around_it_the_rounds_begin_anew():
    (steps,) = steps_of(Blocks(inner=Dilated(), size=4, window=8), Canvas.blank(1, 8, 5))
    assert steps == [1, 2, 1, 2, 3, 4, 3, 4] == steps_of(Dilated(block=4), Canvas.blank(1, 8, 5))[0]


def test_one_at_a_time_every_text_has_exactly_its_probability():
    for joint in (JOINT, WIDER):
        torch.testing.assert_close(text_probs(Dilated(block=1), joint=joint), joint.probs)
        torch.testing.assert_close(text_probs(Dilated(num_steps=3), joint=joint), joint.probs)


def test_of_3_places_the_ends_come_together_and_a_text_costs_exactly_that():
    rule = Dilated()
    expected = in_groups([[0, 2], [1]])
    torch.testing.assert_close(text_probs(rule), expected)
    torch.testing.assert_close(text_probs(rule, seed=7), expected)  # no chance in the order
    assert trait(rule, "order_is_deterministic")
    assert total_variation(expected, JOINT.probs) > 0.01
    assert chi_square_per_degree(how_often(rule), expected) < CHANCE


def test_a_place_below_the_threshold_waits_for_the_next_round_and_in_the_last_of_a_block_none_waits():
    """Of 8, places 0 and 2 are unsure: 0 waits until the end, 2 too; 5 is as unsure and comes in the last round."""
    denoise = says([[0.4, 0.6 * 0.5, 0.3] if place in (0, 2, 5) else [0.9, 0.05, 0.05] for place in range(8)])
    (steps,) = steps_of(Dilated(skip_below=0.5), Canvas.blank(1, 8, 3), 3, denoise)
    assert steps == [3, 3, 3, 3, 1, 3, 2, 3]
    (steps,) = steps_of(Dilated(block=4, skip_below=0.5), Canvas.blank(1, 8, 3), 3, denoise)
    assert steps == [
        1,
        2,
        2,
        2,
        3,
        4,
        3,
        4,
    ]  # in a round with none above it the surest comes, of equal ones the leftmost


def test_where_all_wait_one_comes_each_round():
    denoise = says([[0.4, 0.3, 0.3]] * 8)
    (steps,) = steps_of(Dilated(skip_below=1.0), Canvas.blank(1, 8, 3), 3, denoise)
    assert steps == [1, 3, 2, 3, 3, 3, 3, 3]


def test_a_threshold_on_a_joint_makes_groups_of_the_texts_own_with_exactly_their_costs():
    rule = Dilated(skip_below=0.55)
    trace = forced(rule).trace
    expected = in_groups_of_steps(trace.revealed_at_step)
    torch.testing.assert_close(trace.nll.neg().exp(), expected)
    assert chi_square_per_degree(how_often(rule), expected) < CHANCE
    assert trace.revealed_at_step.tolist() != forced(Dilated()).trace.revealed_at_step.tolist()


@given(
    best=st.lists(st.sampled_from([0.4, 0.5, 0.6, 0.7, 0.8, 0.9]), min_size=1, max_size=16),
    gap=st.integers(1, 6),
    among=st.integers(0, 2**16 - 1),
    given=st.integers(0, 3),
)
@examples(120)
def test_far_apart_takes_what_one_by_one_from_the_best_would(best: list[float], gap: int, among: int, given: int):
    places = [place * (1 + given) // 2 + given for place in range(len(best))] if given else list(range(len(best)))
    wanted = [slot for slot in range(len(best)) if among >> slot & 1]
    taken: list[int] = []
    for slot in sorted(wanted, key=lambda slot: (-best[slot], slot)):
        if all(abs(places[slot] - places[other]) >= gap for other in taken):
            taken.append(slot)
    chosen = torch.tensor([[slot in wanted for slot in range(len(best))]])
    found = far_apart(torch.tensor([places]), torch.tensor([best]), chosen, torch.tensor([gap]))
    assert found[0].nonzero()[:, 0].tolist() == sorted(taken)


def plainly_far_apart(positions: Tensor, priority: Tensor, among: Tensor, gap: Tensor) -> Tensor:
    """As `far_apart`, by a table of all pairs of slots."""
    rank = best_first(priority, among).argsort(dim=1)
    near = (positions[:, :, None] - positions[:, None, :]).abs() < gap[:, None, None]  # (R, K, K)
    better = near & (rank[:, None, :] < rank[:, :, None])
    taken, left = torch.zeros_like(among), among
    while left.any():
        best = left & ~(better & left[:, None, :]).any(2)
        taken = taken | best
        left = left & ~best & ~(near & best[:, None, :]).any(2)
    return taken


def rows_with_ties(rows: int, length: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masked positions, padded, of which some were chosen, with few priorities and a gap of each row's own."""
    rng = torch.Generator().manual_seed(seed)
    share = torch.rand(rows, 1, generator=rng)
    masked = torch.rand(rows, length, generator=rng) < share
    masked[:, 0] = True
    positions, is_masked = positions_of(masked)
    priority = torch.randint(0, 5, positions.shape, generator=rng) / 4
    among = is_masked & (torch.rand(positions.shape, generator=rng) < 0.8)
    return positions, priority, among, 1 + torch.randint(0, 2 * length, (rows,), generator=rng) // (1 + seed % 20)


@given(rows=st.integers(1, 6), length=st.integers(1, 70), seed=st.integers(0, 10**6))
@examples(150)
def test_far_apart_of_rows_of_all_lengths_and_gaps_is_what_a_table_of_all_pairs_says(rows, length, seed):
    found = rows_with_ties(rows, length, seed)
    assert far_apart(*found).equal(plainly_far_apart(*found))


def test_far_apart_of_16_rows_of_4096_places_makes_no_tensor_larger_than_theirs():
    class Sizes(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            self.most = max([self.most, *(leaf.nbytes for leaf in tree_leaves(made) if isinstance(leaf, Tensor))])
            return made

    positions, priority, among, _ = rows_with_ties(16, 4096, 3)
    gap = torch.full((16,), 8)
    with Sizes() as sizes:
        far_apart(positions, priority, among, gap)
    assert sizes.most <= 8 * 16 * (4096 + 1)


@pytest.mark.parametrize("amount", ["entropy_budget", "threshold"])
def test_a_spacing_of_4_keeps_places_4_apart_at_first_and_2_apart_at_the_end(amount: Any):
    """All of 16 places are sure and in the budget: what is revealed is what the gap leaves, 4, then of 12 left with a
    gap of 3, and so on down to 2."""
    rule = Uncertainty(num_steps=None, amount=amount, gamma=100.0, threshold=0.5, spacing=4)
    certain = [[0.95 - 0.02 * place, 0.05 + 0.02 * place] for place in range(16)]
    (steps,) = steps_of(rule, Canvas.blank(1, 16, 2), 2, says(certain))
    groups, left = places_of_each_step(steps), 16
    for group in groups:
        gap = max(2, 4 * left // 16)
        assert all(after - before >= gap for before, after in pairwise(group))
        left -= len(group)
    assert groups[0] == [0, 4, 8, 12]
    assert [len(group) for group in groups] == [4, 4, 4, 4]
    assert left == 0
    least = Uncertainty(num_steps=None, amount=amount, gamma=100.0, threshold=0.5, spacing=1)
    assert steps_of(least, Canvas.blank(1, 16, 2), 2, says(certain)) == [[1, 2] * 8]  # never neighbours
    without = Uncertainty(num_steps=None, amount=amount, gamma=100.0, threshold=0.5)
    assert steps_of(without, Canvas.blank(1, 16, 2), 2, says(certain)) == [[1] * 16]


def test_a_gap_of_8_shrinks_with_the_share_that_is_still_masked():
    """Of 16 sure places in a scrambled order each step takes the best, one by one, at least 8 times the share left
    apart: 2 of 16 at first. With a gap of 8 throughout it would be 2 in every step."""
    falling = [7, 3, 11, 0, 14, 5, 9, 1, 13, 4, 15, 2, 10, 6, 12, 8]  # places, the surest first
    sure = {place: 0.95 - 0.02 * rank for rank, place in enumerate(falling)}
    rule = Uncertainty(num_steps=None, amount="threshold", threshold=0.5, spacing=8)
    (steps,) = steps_of(rule, Canvas.blank(1, 16, 2), 2, says([[sure[n], 1 - sure[n]] for n in range(16)]))
    expected, left = list[list[int]](), falling
    while left:
        gap, taken = max(2, 8 * len(left) // 16), list[int]()
        for place in left:
            taken += [place] * all(abs(place - other) >= gap for other in taken)
        expected.append(sorted(taken))
        left = [place for place in left if place not in taken]
    assert places_of_each_step(steps) == expected
    assert [len(group) for group in expected] == [2, 2, 3, 4, 5]


def test_the_best_is_never_held_back_by_a_gap_and_one_at_a_time_stays_exact():
    rule = Uncertainty(num_steps=None, amount="entropy_budget", gamma=0, spacing=8)
    torch.testing.assert_close(text_probs(rule, joint=WIDER), WIDER.probs)
    rule = Uncertainty(num_steps=None, amount="threshold", threshold=0.5, spacing=2)
    trace = forced(rule).trace
    torch.testing.assert_close(trace.nll.neg().exp(), in_groups_of_steps(trace.revealed_at_step))
    assert (trace.revealed_at_step[:, 1:] != trace.revealed_at_step[:, :-1]).all()  # no neighbours, of any text


def test_a_spacing_is_refused_where_the_number_is_known_beforehand():
    with pytest.raises(UserError, match="spacing needs amount=entropy_budget or threshold, not constant; try spread"):
        Uncertainty(amount="constant", spacing=8)


@pytest.mark.parametrize(
    ("option", "value"), [("num_steps", 0), ("block", 0), ("base", 1), ("skip_below", -0.1), ("skip_below", 1.5)]
)
def test_an_impossible_option_of_dilated_is_refused_by_its_name(option: str, value: Any):
    with pytest.raises(UserError, match=f"^{option} is {value!r}, expected"):
        Dilated(**{option: value})
