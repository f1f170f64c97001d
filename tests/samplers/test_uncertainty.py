from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from mdlm_atat.core.denoiser import Prediction
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.confidence import ConfidenceBasedSampler
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import Sample, StepRule, sample
from mdlm_atat.samplers.sizes import boundaries
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler as Uncertainty
from samplers.enumerated import (
    CHANCE,
    JOINT,
    WIDER,
    Denoise,
    chi_square_per_degree,
    drawn,
    forced,
    how_often,
    in_groups_of_steps,
    text_probs,
    total_variation,
)
from samplers.stand_ins import Hashed, examples, says

SCORES = ("entropy", "margin", "max_probability", "importance_entropy")
ORDERS = ("most_certain", "most_uncertain")


def knows_importance(z_t: Tensor, t: Tensor) -> Prediction:
    """The exact denoiser of the wider joint, with an importance at each place."""
    importance = torch.tensor([0.5, 0.51, 0.49]).expand(z_t.shape)
    return Prediction(Prediction.of(WIDER.denoise(z_t, t)).logits, importance=lambda: importance)


def one_row(denoise: Denoise, rule: StepRule, length: int, vocab_size: int) -> Sample:
    return sample(denoise, Canvas.blank(1, length, vocab_size), rule, mask_id=vocab_size, seeds=[0])


def step_of_each(denoise: Denoise, rule: StepRule, length: int, vocab_size: int) -> list[int]:
    return one_row(denoise, rule, length, vocab_size).trace.revealed_at_step[0].tolist()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("score", SCORES)
def test_one_at_a_time_every_text_has_exactly_its_probability_by_any_score_and_order(score, order):
    rule = Uncertainty(num_steps=None, score=score, order=order)
    result = forced(rule, denoise=knows_importance, joint=WIDER)
    torch.testing.assert_close(result.trace.nll.neg().exp(), WIDER.probs)
    assert len(result.trace.revealed_at_step.unique(dim=0)) > 1  # it depends on the text


@pytest.mark.parametrize(
    "rule",
    [
        Uncertainty(num_steps=None, amount="entropy_budget", gamma=0),
        Uncertainty(num_steps=None, amount="threshold", threshold=1.0),
        ConfidenceBasedSampler(num_steps=3, threshold=1.0),
        LeftToRight(),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_so_it_has_by_a_budget_of_0_a_threshold_of_1_and_stable_confidence_and_from_left_to_right(rule: StepRule):
    for joint in (JOINT, WIDER):
        torch.testing.assert_close(text_probs(rule, joint=joint), joint.probs)
        assert (forced(rule, joint=joint).trace.nfe == 3).all()


def test_samples_one_at_a_time_follow_the_joint():
    assert chi_square_per_degree(how_often(Uncertainty(num_steps=None)), JOINT.probs) < CHANCE


@pytest.mark.parametrize(
    "rule",
    [
        Uncertainty(num_steps=2, amount="constant", order="most_uncertain"),
        # place 2 first; if it is 1, places 0 (.58) and 1 (.516) together
        Uncertainty(num_steps=None, amount="threshold", threshold=0.515),
        # place 0 first; if it is 0, places 1 (.637 nats) and 2 (.585) together
        Uncertainty(num_steps=None, amount="entropy_budget", gamma=0.6, order="most_uncertain"),
        ConfidenceBasedSampler(num_steps=3, window=1, threshold=0.515),
    ],
    ids=["constant", "threshold", "entropy_budget", "confidence"],
)
def test_in_groups_a_text_costs_the_product_of_its_own_groups_and_samples_follow_that_and_not_the_joint(rule: StepRule):
    trace = forced(rule).trace
    expected = in_groups_of_steps(trace.revealed_at_step)
    torch.testing.assert_close(trace.nll.neg().exp(), expected)
    assert total_variation(expected, JOINT.probs) > 0.05
    assert chi_square_per_degree(how_often(rule), expected) < CHANCE


# the scores disagree about these four places
PLACES = [[0.6, 0.4, 0.0], [0.55, 0.225, 0.225], [0.5, 0.5, 0.0], [0.58, 0.21, 0.21]]
IMPORTANCE = [1.0, 0.1, 0.5, 0.9]


@pytest.mark.parametrize(
    ("score", "order"),
    [
        ("entropy", [0, 2, 3, 1]),  # .673, .693, .97, .998 nats
        ("margin", [3, 1, 0, 2]),  # .37, .325, .2, 0
        ("max_probability", [0, 3, 1, 2]),
        ("importance_entropy", [1, 2, 0, 3]),  # .1, .35, .67, .87
    ],
)
def test_each_score_has_its_own_order_of_4_places_and_most_uncertain_is_the_other_way_round(score, order):
    steps = step_of_each(says(PLACES, IMPORTANCE), Uncertainty(num_steps=None, score=score), 4, 3)
    assert [steps[place] for place in order] == [1, 2, 3, 4]
    rule = Uncertainty(num_steps=None, score=score, order="most_uncertain")
    steps = step_of_each(says(PLACES, IMPORTANCE), rule, 4, 3)
    assert [steps[place] for place in order] == [4, 3, 2, 1]


def test_of_4_equal_places_the_leftmost_is_revealed_first():
    assert step_of_each(says([[0.7, 0.3]] * 4), Uncertainty(num_steps=None), 4, 2) == [1, 2, 3, 4]


@pytest.mark.parametrize("amount", ["constant", "cosine", "half_cosine"])
def test_steps_reveal_as_many_as_the_boundaries_say_where_13_are_left_of_16(amount):
    denoise = Hashed(5)
    canvas = Canvas.with_prefixes([[0, 1, 2], []], 16, 5)
    result = sample(denoise, canvas, Uncertainty(num_steps=6, amount=amount), mask_id=5, seeds=[0, 1])
    for steps, number in zip(result.trace.revealed_at_step, (13, 16), strict=True):
        ends = torch.tensor(boundaries(amount, number, 6))
        assert steps.bincount(minlength=7)[1:].tolist() == ends.diff().tolist()
    assert result.trace.nfe.tolist() == [6, 6]


certainties = st.lists(st.floats(0.34, 0.999), min_size=1, max_size=6)


@given(best=certainties, gamma=st.floats(0, 3))
@examples(40)
def test_entropy_budget_takes_the_largest_set_within_gamma_and_the_most_certain_of_that_size(
    best: list[float], gamma: float
):
    """Against every subset."""
    table = [[p, (1 - p) * 0.7, (1 - p) * 0.3] for p in best]
    entropy = torch.special.entr(torch.tensor(table, dtype=torch.float64)).sum(1).tolist()
    largest = 1
    for size in range(2, len(best) + 1):
        sets = combinations(entropy, size)
        largest = size if any(sum(chosen) - max(chosen) <= gamma for chosen in sets) else largest
    steps = step_of_each(says(table), Uncertainty(num_steps=None, amount="entropy_budget", gamma=gamma), len(best), 3)
    first = [place for place, step in enumerate(steps) if step == 1]
    assert len(first) == largest
    by_entropy = sorted(range(len(best)), key=lambda place: entropy[place])
    assert sorted(entropy[place] for place in first) == [entropy[place] for place in by_entropy[:largest]]


@given(best=certainties, threshold=st.floats(0.35, 1), order=st.sampled_from(ORDERS))
@examples(25)
def test_threshold_takes_all_that_reach_it_and_else_the_1_of_highest_priority(
    best: list[float], threshold: float, order: Any
):
    table = [[p, (1 - p) * 0.7, (1 - p) * 0.3] for p in best]
    assume(all(abs(p - threshold) > 1e-9 for p in best))
    rule = Uncertainty(num_steps=None, order=order, amount="threshold", threshold=threshold)
    steps = step_of_each(says(table), rule, len(best), 3)
    sure = [place for place, probs in enumerate(table) if max(probs) >= threshold]
    first = [place for place, step in enumerate(steps) if step == 1]
    if sure:
        assert first == sure
    else:
        entropy = torch.special.entr(torch.tensor(table, dtype=torch.float64)).sum(1)
        of_highest_priority = entropy.min() if order == "most_certain" else entropy.max()
        assert [entropy[place] for place in first] == [of_highest_priority]
    # nothing that is drawn changes the others here, so they come one by one
    assert sorted(steps)[len(first) :] == list(range(2, 2 + len(best) - len(first)))


@given(
    best=certainties,
    num_steps=st.integers(1, 6),
    order=st.sampled_from(ORDERS),
    more=st.lists(st.sampled_from([0.5, 0.9]), max_size=4),
)
@examples(40)
def test_spread_takes_the_best_of_each_equal_part_and_the_leftmost_of_equal_ones(
    best: list[float], num_steps: int, order: Any, more: list[float]
):
    """Of 7 places in 3 parts: 0 to 2, 3 and 4, 5 and 6."""
    best = best + more
    table = [[p, (1 - p) * 0.7, (1 - p) * 0.3] for p in best]
    entropy = torch.special.entr(torch.tensor(table, dtype=torch.float64)).sum(1).tolist()
    number = boundaries("constant", len(best), num_steps)[1]
    parts = [[i for i in range(len(best)) if i * number // len(best) == part] for part in range(number)]
    sign = 1 if order == "most_certain" else -1
    expected = [min(part, key=lambda i: (sign * round(entropy[i], 12), i)) for part in parts]
    rule = Uncertainty(num_steps=num_steps, amount="constant", spread=True, order=order)
    steps = step_of_each(says(table), rule, len(best), 3)
    assert [place for place, step in enumerate(steps) if step == 1] == expected


def test_the_parts_are_those_of_a_rows_own_masked_places_also_beside_a_row_with_more():
    """4 left beside 8, falling in certainty, in 2 steps: the first of each half."""
    denoise = says([[0.95 - 0.05 * place, 0.05 + 0.05 * place] for place in range(8)])
    rule = Uncertainty(num_steps=2, amount="constant", spread=True)
    canvas = Canvas.with_prefixes([[0, 0, 0, 0], []], 8, 2)
    steps = sample(denoise, canvas, rule, mask_id=2, seeds=[0, 1]).trace.revealed_at_step
    assert steps.tolist() == [[0, 0, 0, 0, 1, 2, 1, 2], [1, 2, 1, 2, 1, 2, 1, 2]]


def test_without_a_number_of_steps_rows_of_9_and_4_take_as_many_as_2_tokens_a_step_go_into_them():
    canvas = Canvas.with_prefixes([[0], [0] * 6], 10, 5)
    rule = Uncertainty(num_steps=None, tokens_a_step=2, amount="constant")
    result = sample(Hashed(5), canvas, rule, mask_id=5, seeds=[0, 1])
    assert result.trace.nfe.tolist() == [5, 2]
    counts = [row.bincount(minlength=6)[1:].tolist() for row in result.trace.revealed_at_step]
    assert counts == [[2, 2, 1, 2, 2], [2, 2, 0, 0, 0]]
    assert Uncertainty(num_steps=3, tokens_a_step=2).max_nfe(9) == 5  # it takes the place of num_steps


def test_a_short_gap_takes_as_many_steps_as_it_has_tokens_and_a_long_one_8_tokens_a_step():
    rule = Uncertainty(tokens_a_step=8, least_steps=16, amount="constant")
    assert [rule.max_nfe(number) for number in (0, 1, 6, 16, 17, 128, 129, 256)] == [0, 1, 6, 16, 16, 16, 17, 32]


def test_tokens_a_step_are_refused_where_the_network_says_how_many():
    with pytest.raises(UserError, match="tokens_a_step needs an amount known beforehand"):
        Uncertainty(tokens_a_step=2, amount="entropy_budget")


def test_spread_is_refused_where_the_network_says_how_many():
    with pytest.raises(UserError, match="spread needs an amount known beforehand, such as constant; threshold is not"):
        Uncertainty(spread=True, amount="threshold")


def test_a_budget_spent_in_2_steps_leaves_the_rest_to_the_second():
    rule = Uncertainty(num_steps=2, amount="entropy_budget", gamma=0.0)
    assert sorted(step_of_each(Hashed(5), rule, 7, 5)) == [1, 2, 2, 2, 2, 2, 2]
    assert drawn(rule, 1).trace.nfe.tolist() == [2]


def test_importance_entropy_without_importance_says_which_models_know_it():
    rule = Uncertainty(score="importance_entropy")
    with pytest.raises(UserError, match=r"needs a model that knows importance.*use score=entropy"):
        drawn(rule, 1)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_steps", 0),
        ("tokens_a_step", 0),
        ("gamma", -1.0),
        ("threshold", 0.0),
        ("threshold", 1.5),
    ],
)
def test_an_impossible_option_is_refused_by_its_name(option: str, value: Any):
    with pytest.raises(UserError, match=f"^{option} is {value!r}, expected"):
        Uncertainty(**{option: value})
