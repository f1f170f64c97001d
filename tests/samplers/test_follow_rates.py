"""FollowRates and RateHitting: the reverse process of a masking schedule of its own, from predicted rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.exact import ExactNetwork
from mdlm_atat.core.denoiser import Prediction
from mdlm_atat.core.objective import denoise_under
from mdlm_atat.core.schedules import Linear
from mdlm_atat.core.strategies.by_importance import AdaptiveMaskingScheduler
from mdlm_atat.core.strategies.by_position import PositionAwareMaskingScheduler
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking
from mdlm_atat.errors import UserError
from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.follow_rates import FollowRates, RateHitting
from mdlm_atat.samplers.loop import StepRule, sample
from samplers.enumerated import (
    CHANCE,
    JOINT,
    LENGTH,
    MASK,
    NUM_ROWS,
    STATES,
    at_the_end,
    chi_square_per_degree,
    drawn,
    how_often,
    in_groups,
    in_random_groups,
    step_of_chain,
    text_probs,
    token_probs,
    total_variation,
)

Denoise = Callable[[Tensor, Tensor], Prediction]

# the exact rates of a schedule that reveals token 1 (importance 1/2) much earlier than token 0 (importance 0): at
# log w = -1 and +1
TILTED = AdaptiveMaskingScheduler(Linear(), "inverse", 0.25, center=0.25)
SLOPE = PositionAwareMaskingScheduler(Linear(), "slope", 2.0)


def following(masking: ExponentMasking) -> Denoise:
    """Logits and speeds of the exact network at a mask rate, as `lm.denoiser` gives them for a trained one."""
    network = ExactNetwork(JOINT, masking)

    def denoise(z_t: Tensor, t: Tensor) -> Prediction:
        logits, log_speed = denoise_under(masking, network, z_t, t.double().log(), t, None)
        if log_speed is None:
            speed = masking(t.double(), Clean(torch.ones_like(z_t, dtype=torch.bool))).speed
        else:
            speed = log_speed.exp()
        return Prediction(Prediction.of(logits).logits, speed)

    return denoise


def at_speed(denoise: Denoise, speed: float | Tensor) -> Denoise:
    """The same tokens at another speed."""

    def changed(z_t: Tensor, t: Tensor) -> Prediction:
        return Prediction(denoise(z_t, t).logits, torch.as_tensor(speed).expand(z_t.shape))

    return changed


def knows_nothing(z_t: Tensor, t: Tensor) -> Prediction:
    return Prediction.of(torch.zeros(*z_t.shape, 2))


def enumerated(denoise: Denoise, num_steps: int) -> Tensor:
    """The distribution that num_steps steps of FollowRates end in, by their transitions."""
    steps = []
    for k in range(num_steps, 0, -1):
        r, s = k / num_steps, (k - 1) / num_steps
        prediction = denoise(STATES, torch.full((len(STATES),), r))
        assert prediction.speed is not None
        steps.append(step_of_chain(token_probs(denoise, r), 1 - (s / r) ** prediction.speed.double()))
    return at_the_end(steps)


def test_exact_rates_followed_for_128_steps_give_the_joint_within_8_thousandths_and_2_times_that_in_half_of_them():
    error = [total_variation(enumerated(following(TILTED), steps), JOINT.probs) for steps in (64, 128)]
    assert error[1] < 0.008
    assert 1.8 < error[0] / error[1] < 2.2


@pytest.mark.parametrize("num_steps", [2, 6])
@pytest.mark.parametrize("masking", [TILTED, SLOPE], ids=["by_token", "by_place"])
def test_samples_of_few_steps_follow_the_enumerated_distribution(masking: ExponentMasking, num_steps: int):
    denoise = following(masking)
    observed = how_often(FollowRates(num_steps=num_steps), denoise=denoise)
    assert chi_square_per_degree(observed, enumerated(denoise, num_steps)) < CHANCE


def test_the_same_network_revealed_uniformly_gives_another_distribution():
    network = ExactNetwork(JOINT, TILTED)
    observed = how_often(Ancestral(num_steps=64), denoise=lambda z_t, t: network(z_t, t))
    assert chi_square_per_degree(observed, JOINT.probs) > 20


def test_speeds_that_depend_on_the_hidden_tokens_cannot_be_left_out():
    """The right tokens at the wrong times: every speed 1 where the schedule's are not."""
    assert total_variation(enumerated(at_speed(following(TILTED), 1.0), 64), JOINT.probs) > 0.08


@pytest.mark.parametrize("num_steps", [3, 16])
def test_a_token_of_constant_speed_w_is_hidden_at_mask_rate_r_with_probability_r_to_the_w(num_steps: int):
    speeds = torch.tensor([0.4, 1.0, 3.0])
    # of the seeds 0 to 2999 the numbers themselves are 4.8 deviations off, by chance
    rule, seeds = FollowRates(num_steps=num_steps), range(10**4, 10**4 + 3000)
    trace = sample(at_speed(knows_nothing, speeds), Canvas.blank(3000, 3, 2), rule, mask_id=2, seeds=seeds).trace
    for step in range(1, num_steps):
        hidden = (trace.revealed_at_step > step).double().mean(0)
        expected = (1 - step / num_steps) ** speeds.double()
        assert (hidden - expected).abs().max() < 4.5 * math.sqrt(0.25 / 3000)


def test_with_every_speed_1_follow_rates_is_ancestral_and_rate_hitting_first_hitting_in_distribution():
    denoise = at_speed(lambda z_t, t: Prediction.of(JOINT.denoise(z_t, t)), 1.0)
    ancestral = at_the_end([step_of_chain(token_probs(JOINT.denoise), 1 / k) for k in (3, 2, 1)])
    torch.testing.assert_close(enumerated(denoise, 3), ancestral)
    assert chi_square_per_degree(how_often(FollowRates(num_steps=3), denoise=denoise), ancestral) < CHANCE
    observed = how_often(RateHitting(num_steps=2), denoise=denoise)
    assert chi_square_per_degree(observed, in_random_groups((2, 1))) < CHANCE


def test_the_denoiser_is_asked_for_logits_and_speeds_at_mask_rates_1_to_1_over_T_of_rows_with_masks_only():
    seen: list[tuple[int, float]] = []
    fixed = torch.zeros(3, 5, dtype=torch.bool)
    fixed[1] = True

    def denoise(z_t: Tensor, t: Tensor) -> Prediction:
        assert (z_t == 2).any(dim=1).all()
        assert t.shape == (len(z_t),)
        seen.append((len(z_t), t[0].item()))
        return at_speed(knows_nothing, 1e-6)(z_t, t)  # nearly never: all at the last step

    rule = FollowRates(num_steps=4)
    result = sample(denoise, Canvas(torch.zeros(3, 5).long(), fixed), rule, mask_id=2, seeds=range(3))
    assert seen == [(2, 1.0), (2, 0.75), (2, 0.5), (2, 0.25)]
    assert (result.trace.revealed_at_step[~fixed] == 4).all()


@pytest.mark.parametrize("speed", [0.0, 1e-30, 1e30])
def test_the_last_of_3_steps_reveals_everything_at_any_speed(speed: float):
    result = drawn(FollowRates(num_steps=3), 8, at_speed(knows_nothing, speed))
    assert (result.trace.revealed_at_step == (3 if speed < 1 else 1)).all()
    assert (drawn(RateHitting(), 8, at_speed(knows_nothing, speed)).tokens < MASK).all()


def in_reveal_order(log_speed: Tensor) -> Denoise:
    """The reverse of a process that reveals the positions of x0 one after the other, without replacement, in
    proportion to exp(log_speed[x0_i]): by Bayes' rule over every text and every order of what is visible."""
    texts = JOINT.sequences
    weight = log_speed[texts].exp()  # (N, L)

    def revealed_first(visible: list[int]) -> Tensor:
        """Probability of each text, (N,), that these positions come first."""
        total = torch.zeros(len(texts), dtype=torch.float64)
        for order in permutations(visible):
            left, probability = weight.sum(1), torch.ones(len(texts), dtype=torch.float64)
            for i in order:
                probability, left = probability * weight[:, i] / left, left - weight[:, i]
            total += probability
        return total

    def of_state(z: Tensor) -> Tensor:
        """Probability (L, V) that position i is revealed next, and as token v; not divided by their sum."""
        hidden = z == MASK
        fits = (hidden | (texts == z)).all(1)
        of_text = fits * JOINT.probs * revealed_first((~hidden).nonzero()[:, 0].tolist())
        following = of_text[:, None] * torch.where(hidden, weight, 0) / torch.where(hidden, weight, 0).sum(1, True)
        return torch.einsum("nl,nlv->lv", following, F.one_hot(texts, MASK).double())

    table = torch.stack([of_state(z) if (z == MASK).any() else torch.ones(LENGTH, MASK) for z in STATES])

    def denoise(z_t: Tensor, t: Tensor) -> Prediction:
        rates = table[z_t @ torch.tensor([9, 3, 1])]
        return Prediction(Prediction.of(rates.log()).logits, rates.sum(-1))

    return denoise


def test_rates_of_the_reveal_order_hit_one_at_a_time_give_the_joint_though_they_depend_on_what_is_hidden():
    denoise = in_reveal_order(torch.tensor([-1.5, 1.5], dtype=torch.float64))
    observed = how_often(RateHitting(), denoise=denoise)
    assert chi_square_per_degree(observed, JOINT.probs) < CHANCE
    uniformly = how_often(FirstHitting(), denoise=denoise)
    assert chi_square_per_degree(uniformly, JOINT.probs) > 10
    assert (drawn(RateHitting(), 10, denoise).trace.nfe == 3).all()


def test_exact_rates_for_times_that_depend_on_what_is_hidden_are_not_those_of_the_order():
    """The limit that the docstring states, a total variation above a tenth: only FollowRates asks at the times that
    these rates are for."""
    observed = how_often(RateHitting(), denoise=following(TILTED))
    assert total_variation(observed / NUM_ROWS, JOINT.probs) > 0.1


@pytest.mark.parametrize("seed", range(4))
def test_under_rates_by_place_every_text_has_exactly_its_probability_one_at_a_time(seed: int):
    torch.testing.assert_close(text_probs(RateHitting(), seed=seed, denoise=following(SLOPE)), JOINT.probs)


def test_groups_of_2_are_drawn_without_replacement_in_proportion_to_the_speeds():
    """Position i and then j of speeds w: w_i / sum w times w_j / (sum w - w_i)."""
    speed = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    denoise = at_speed(lambda z_t, t: Prediction.of(JOINT.denoise(z_t, t)), speed)
    expected = torch.zeros(8, dtype=torch.float64)
    first = torch.zeros(3, dtype=torch.float64)
    for i, j, k in permutations(range(3)):
        chance = speed[i] / speed.sum() * speed[j] / (speed.sum() - speed[i])
        expected += chance * in_groups([[i, j], [k]])
        first[[i, j]] += chance
    result = drawn(RateHitting(num_steps=2), 4000, denoise)
    found = (result.trace.revealed_at_step == 1).double().mean(0)
    assert (found - first).abs().max() < 4 * math.sqrt(0.25 / 4000)
    observed = (result.tokens @ torch.tensor([4, 2, 1])).bincount(minlength=8)
    assert chi_square_per_degree(observed, expected) < CHANCE


@pytest.mark.parametrize("rule", [FollowRates(), RateHitting()])
def test_a_model_without_rates_is_told_to_use_first_hitting(rule: StepRule):
    with pytest.raises(UserError, match=r"predicts no rates.*use the sampler first_hitting or ancestral"):
        drawn(rule, 1, knows_nothing)
