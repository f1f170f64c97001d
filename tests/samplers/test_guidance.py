from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mdlm_atat.core.denoiser import Prediction
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.confidence import ConfidenceBasedSampler
from mdlm_atat.samplers.draw import TokenDraw
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.follow_rates import RateHitting
from mdlm_atat.samplers.guidance import Guidance
from mdlm_atat.samplers.loop import Sample, StepRule, sample
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler as Uncertainty
from samplers.enumerated import Denoise
from samplers.stand_ins import RULES, Hashed, says

WEIGHTS = torch.tensor([0.0, 1.5, -0.5])


def filled(denoise: Denoise, rule: StepRule, length: int, guidance: Guidance | None, **more: Any) -> Sample:
    known = more.get("known")
    num_rows, vocab_size = (1 if known is None else len(known)), more.pop("vocab_size", 3)
    canvas = Canvas.blank(num_rows, length, vocab_size)
    seeds = list(range(num_rows))
    return sample(denoise, canvas, rule, mask_id=vocab_size, seeds=seeds, guidance=guidance, **more)


@pytest.mark.parametrize("strength", [1.0, 2.0, -0.7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_probabilities_are_p_times_e_to_the_strength_times_weight_and_sum_to_1(strength, dtype, temperature):
    """At temperature 1/2 the square of that."""
    logits = torch.tensor([0.5, 0.25, -1.0], dtype=dtype)

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        return logits.expand(*z_t.shape, -1)

    rule = FirstHitting(draw=TokenDraw(temperature=temperature))
    known = torch.arange(3)[:, None]
    found = filled(denoise, rule, 1, Guidance(WEIGHTS, strength), known=known).trace.nll.neg().exp()
    expected = ((logits.double() + strength * WEIGHTS.double()) / temperature).softmax(0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def steps_with(rule: StepRule, order_strength: float, denoise: Denoise, length: int) -> list[int]:
    guidance = Guidance(torch.tensor([0.0, 0.0, 1.0]), logit_strength=0.0, order_strength=order_strength)
    return filled(denoise, rule, length, guidance).trace.revealed_at_step[0].tolist()


# the same entropy everywhere; token 2 has weight 1, and is expected with .1, .2 and .7
EXPECTING = says([[0.7, 0.2, 0.1], [0.7, 0.1, 0.2], [0.1, 0.2, 0.7]])


@pytest.mark.parametrize(
    "rule",
    [
        Uncertainty(num_steps=None),
        Uncertainty(num_steps=None, score="margin", order="most_uncertain"),
        Uncertainty(num_steps=None, amount="threshold", threshold=0.95),
        Uncertainty(num_steps=None, amount="threshold", threshold=0.95, spacing=2),
        Uncertainty(num_steps=None, amount="entropy_budget", gamma=0.0),
        ConfidenceBasedSampler(num_steps=3, threshold=1.0),
    ],
    ids=["entropy", "margin", "threshold", "spacing", "entropy_budget", "confidence"],
)
def test_order_strength_moves_the_place_where_the_wanted_token_is_expected_to_the_front(rule: StepRule):
    assert steps_with(rule, 1.0, EXPECTING, 3) == [3, 2, 1]
    assert steps_with(rule, -1.0, EXPECTING, 3) == [1, 2, 3]


def test_guidance_chooses_the_place_of_each_part_too():
    """Two parts of two: unguided the place of .61 nats in each goes before that of .67, which expects token 2."""
    denoise = says([[0.7, 0.3, 0.0], [0.6, 0.0, 0.4]] * 2)
    rule = Uncertainty(num_steps=2, amount="constant", spread=True)
    assert steps_with(rule, 0.0, denoise, 4) == [1, 2, 1, 2]
    assert steps_with(rule, 1.0, denoise, 4) == [2, 1, 2, 1]


def test_a_gap_is_kept_from_the_place_that_guidance_brings_forward():
    """All three are sure enough. The middle one is the surest, and both others wait for it; where token 2 is wanted the
    first one comes first, the last with it, and the middle one waits."""
    denoise = says([[0.8, 0.0, 0.2], [0.9, 0.1, 0.0], [0.8, 0.2, 0.0]])
    rule = Uncertainty(num_steps=None, amount="threshold", threshold=0.5, spacing=2)
    assert steps_with(rule, 0.0, denoise, 3) == [2, 1, 2]
    assert steps_with(rule, 100.0, denoise, 3) == [1, 2, 1]


def test_an_order_strength_of_2_nats_outweighs_1_nat_of_entropy_where_the_wanted_token_has_probability_six_tenths():
    """2 x 0.6 against 0.94 - 0.06 nats; 1 x 0.6 does not."""
    denoise = says([[0.99, 0.01, 0.0], [0.1, 0.3, 0.6]])
    rule = Uncertainty(num_steps=None)
    assert steps_with(rule, 1.0, denoise, 2) == [1, 2]
    assert steps_with(rule, 2.0, denoise, 2) == [2, 1]


def test_a_budget_counts_the_entropies_in_the_order_that_guidance_gives():
    """Within 0.1: unguided, places 2 (.06 nats) and 3 (.2) go together; places 0 (1.05) and 1 (1.1) do not when they
    come first, but 1 and 2 do."""
    denoise = says([[0.2, 0.4, 0.4], [0.34, 0.33, 0.33], [0.99, 0.01, 0.0], [0.95, 0.05, 0.0]])
    rule = Uncertainty(num_steps=None, amount="entropy_budget", gamma=0.1)
    assert steps_with(rule, 0.0, denoise, 4) == [2, 3, 1, 1]
    assert steps_with(rule, 100.0, denoise, 4) == [1, 2, 2, 3]


def test_rates_are_multiplied_by_e_to_the_order_strength_times_the_expected_weight():
    """Two places of equal speed: the second comes first with probability e^(0.6 s) / (1 + e^(0.6 s)), s = 2."""
    num_rows, places = 2000, says([[0.9, 0.1, 0.0], [0.3, 0.1, 0.6]])

    def equal(z_t: Tensor, t: Tensor) -> Prediction:
        return replace(places(z_t, t), speed=torch.ones(z_t.shape))

    guidance = Guidance(torch.tensor([0.0, 0.0, 1.0]), 0.0, 2.0)
    result = sample(
        equal, Canvas.blank(num_rows, 2, 3), RateHitting(), mask_id=3, seeds=range(num_rows), guidance=guidance
    )
    share = (result.trace.revealed_at_step[:, 1] == 1).double().mean().item()
    expected = torch.sigmoid(torch.tensor(1.2)).item()
    assert share == pytest.approx(expected, abs=3.5 * (expected * (1 - expected) / num_rows) ** 0.5)


@pytest.mark.parametrize("name", RULES)
def test_strengths_of_0_change_nothing_in_any_rule(name: str):
    free = filled(Hashed(3), RULES[name], 9, None)
    guided = filled(Hashed(3), RULES[name], 9, Guidance(WEIGHTS, 0.0, 0.0))
    assert guided.tokens.equal(free.tokens)
    assert guided.trace.revealed_at_step.equal(free.trace.revealed_at_step)
    torch.testing.assert_close(guided.trace.nll, free.trace.nll)
