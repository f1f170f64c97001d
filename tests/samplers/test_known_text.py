"""What a text costs under a rule: the text is revealed in the rule's order, and nothing is drawn."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from mdlm_atat.samplers.blocks import Blocks
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.left_to_right import LeftToRight
from mdlm_atat.samplers.loop import StepRule, sample, trait
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler as Uncertainty
from samplers.enumerated import JOINT, WIDER, forced, text_probs
from samplers.stand_ins import RULES, Hashed
from toys import Joint

NEVER_TAKES_BACK = [name for name in RULES if "remask" not in name]
IN_ORDER = [name for name in RULES if trait(RULES[name], "order_is_deterministic")]
# 3 tokens that can be, and one that cannot
TEXTS = Joint(torch.tensor(list(product(range(4), repeat=4))), torch.ones(256))


def test_the_chain_rule_from_left_to_right_is_what_a_text_costs():
    """p(x1) p(x2 | x1) p(x3 | x1, x2), from sums over the joint."""
    costs = []
    for text in WIDER.sequences:
        total = 0.0
        for i in range(3):
            begins = (WIDER.sequences[:, :i] == text[:i]).all(1)
            goes_on = begins & (WIDER.sequences[:, i] == text[i])
            total -= math.log(WIDER.probs[goes_on].sum() / WIDER.probs[begins].sum())
        costs.append(total)
    found = forced(LeftToRight(), joint=WIDER)
    assert found.trace.nll.tolist() == pytest.approx(costs, abs=1e-12)
    assert found.tokens.equal(WIDER.sequences)
    torch.testing.assert_close(found.trace.nll, -WIDER.probs.log())


@pytest.mark.parametrize("name", NEVER_TAKES_BACK)
def test_the_probabilities_of_all_256_texts_sum_to_1_under_every_rule_that_takes_nothing_back(name: str):
    """In groups or one at a time, also where what is revealed next depends on what the text is: what a seed leaves
    to chance is the order, and by what has been revealed it is settled."""
    probs = text_probs(RULES[name], seed=3, denoise=Hashed(4), joint=TEXTS)
    assert probs.sum().item() == pytest.approx(1, abs=1e-12)
    possible = (TEXTS.sequences < 3).all(1)
    assert (probs[~possible] == 0).all()
    if RULES[name].draw == TokenDraw():  # type: ignore[attr-defined]
        assert (probs[possible] > 0).all()
        assert probs.max() < 0.5


@pytest.mark.parametrize("name", IN_ORDER)
def test_the_probabilities_sum_to_1_in_blocks_of_3_and_1_too(name: str):
    rule = Blocks(inner=RULES[name], size=3, window=4)
    assert trait(rule, "order_is_deterministic")
    probs = text_probs(rule, denoise=Hashed(4), joint=TEXTS)
    assert probs.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", IN_ORDER)
def test_a_rule_whose_order_is_deterministic_gives_a_text_1_probability_whatever_the_seed(name: str):
    probs = [text_probs(RULES[name], seed=seed, denoise=Hashed(4), joint=TEXTS) for seed in (0, 1)]
    assert probs[0].equal(probs[1])


def test_the_rules_that_say_so_are_the_25_by_uncertainty_and_confidence_dilated_in_segments_and_from_left_to_right():
    by_place = ("dilated", "dilated_in_3", "dilated_skips", "segments", "segments_in_3")
    of_uncertainty = [name for name, rule in RULES.items() if isinstance(rule, Uncertainty)]
    assert set(IN_ORDER) == {*of_uncertainty, *by_place, "confidence", "confidence_of_3", "left_to_right"}
    assert len(IN_ORDER) == 25


@pytest.mark.parametrize("inner", [LeftToRight(), Uncertainty(num_steps=None)], ids=["left_to_right", "uncertainty"])
@pytest.mark.parametrize("joint", [JOINT, WIDER], ids=["8 texts", "27 texts"])
def test_one_at_a_time_in_blocks_of_2_every_text_has_exactly_its_probability(inner: StepRule, joint: Joint):
    torch.testing.assert_close(text_probs(Blocks(inner=inner, size=2, window=3), joint=joint), joint.probs)


def test_given_positions_cost_nothing_and_the_rest_what_it_costs_given_them():
    """log 0.3125 - log 0.5 for 0 0 0 after 0, which half of the texts begin with."""
    canvas = Canvas(torch.tensor([[0, 2, 2]]), torch.tensor([[True, False, False]]))
    result = sample(
        JOINT.denoise, canvas, Uncertainty(num_steps=None), mask_id=2, seeds=[0], known=torch.tensor([[0, 0, 0]])
    )
    assert result.trace.nll.item() == pytest.approx(-math.log(30 / 96 / 0.5))


def test_a_text_drawn_at_temperature_0_costs_nothing_and_every_other_infinitely_much():
    rule = Uncertainty(num_steps=None, draw=TokenDraw(temperature=0))
    probs = text_probs(rule, joint=WIDER)
    assert sorted(probs.tolist()) == [0] * 26 + [1]


def test_a_drawn_text_costs_exactly_what_it_costs_when_it_is_known():
    """In every rule, with the seed it was drawn by."""
    for rule in RULES.values():
        canvas = Canvas.with_prefixes([[2], [], [1, 1, 1]], 7, 5)
        drawn = sample(Hashed(5), canvas, rule, mask_id=5, seeds=[4, 5, 6])
        known = sample(Hashed(5), canvas, rule, mask_id=5, seeds=[4, 5, 6], known=drawn.tokens)
        if drawn.trace.num_remasked.sum() == 0:
            assert known.trace.nll.equal(drawn.trace.nll)
            assert known.trace.revealed_at_step.equal(drawn.trace.revealed_at_step)
        assert known.tokens.equal(drawn.tokens)
