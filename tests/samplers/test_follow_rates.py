"""FollowRates: the reverse process of a masking schedule of its own, from predicted rates."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from atat.exact import ExactNetwork
from mdlm_atat.atat.masking.importance import AdaptiveMaskingScheduler
from mdlm_atat.atat.masking.position import PositionAwareMaskingScheduler
from mdlm_atat.atat.masking.rates import ExponentMasking
from mdlm_atat.models.dit import ATATDiT
from mdlm_atat.objective import denoise_under
from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.follow_rates import FollowRates
from mdlm_atat.samplers.loop import StepRule, sample
from mdlm_atat.schedules import Linear
from toys import Joint

Denoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
NUM_ROWS, NUM_STEPS = 4000, 256


def full_joint() -> Joint:
    """Three places, two kinds of tokens, every sequence possible, and the places depend on each other."""
    joint = Joint.random(length=3, vocab=2, seed=3)
    return Joint(joint.sequences, torch.tensor([30, 2, 5, 11, 3, 14, 27, 4]))


def tilted_network(joint: Joint) -> tuple[ExactNetwork, AdaptiveMaskingScheduler]:
    """The exact rates of a schedule that reveals token 1 (importance 1/2) much earlier than token 0 (importance 0):
    at log w = -1 and +1."""
    masking = AdaptiveMaskingScheduler(Linear(), "inverse", 0.25, center=0.25)
    return ExactNetwork(joint, masking), masking


def following(network: ExactNetwork, masking: ExponentMasking) -> Denoise:
    """Logits and speeds at a mask rate, as `lm.predict_under` gives them for a trained network."""

    def denoise(z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        logits, log_speed = denoise_under(masking, network, z_t, t.double(), t, None)
        if log_speed is None:
            return logits, masking(t.double(), None, torch.ones_like(z_t, dtype=torch.bool)).speed
        return logits, log_speed.exp()

    return denoise


def how_often(joint: Joint, denoise: Denoise | ExactNetwork, rule: StepRule, num_rows: int = NUM_ROWS) -> Tensor:
    length = joint.sequences.shape[1]
    canvas = Canvas.blank(num_rows, length, joint.mask_id)
    tokens = sample(denoise, canvas, rule, mask_id=joint.mask_id, seeds=range(num_rows)).tokens
    index = tokens @ torch.tensor([joint.mask_id**i for i in reversed(range(length))])
    return index.bincount(minlength=len(joint.sequences))


def chi_square_per_degree(observed: Tensor, probs: Tensor) -> float:
    expected = probs * observed.sum()
    return ((observed - expected) ** 2 / expected).sum().item() / (len(probs) - 1)


def test_exact_rates_followed_for_256_steps_give_the_right_joint_distribution():
    joint = full_joint()
    network, masking = tilted_network(joint)
    observed = how_often(joint, following(network, masking), FollowRates(NUM_STEPS))
    # chi-square over its 7 degrees of freedom has mean 1, and exceeds 3.5 once in a thousand times
    assert chi_square_per_degree(observed, joint.probs) < 3.5


def test_the_same_network_revealed_uniformly_gives_another_distribution():
    joint = full_joint()
    network, _ = tilted_network(joint)
    observed = how_often(joint, network, Ancestral(Linear(), NUM_STEPS))
    assert chi_square_per_degree(observed, joint.probs) > 20


def test_speeds_that_depend_on_the_hidden_tokens_cannot_be_left_out():
    """The right tokens at the wrong times: every speed 1 where the schedule's are not."""
    joint = full_joint()
    denoise = following(*tilted_network(joint))

    def without_speeds(z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        logits, speed = denoise(z_t, t)
        return logits, torch.ones_like(speed)

    assert chi_square_per_degree(how_often(joint, without_speeds, FollowRates(NUM_STEPS)), joint.probs) > 20


def test_a_schedule_by_position_is_followed_with_its_known_speeds():
    joint = full_joint()
    masking = PositionAwareMaskingScheduler(Linear(), "slope", 2.0)
    denoise = following(ExactNetwork(joint, masking), masking)
    observed = how_often(joint, denoise, FollowRates(64), num_rows=1000)
    assert chi_square_per_degree(observed, joint.probs) < 3.5


@pytest.mark.parametrize("num_steps", [3, 16])
def test_a_token_of_constant_speed_w_is_hidden_at_mask_rate_r_with_probability_r_to_the_w(num_steps: int):
    speeds = torch.tensor([0.4, 1.0, 3.0])
    num_rows = 3000

    def denoise(z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(*z_t.shape, 2), speeds.expand(z_t.shape)

    result = sample(
        denoise, Canvas.blank(num_rows, 3, 2), FollowRates(num_steps), mask_id=2, seeds=range(10**4, 10**4 + num_rows)
    )
    for step in range(1, num_steps):
        hidden = (result.trace.revealed_at_step > step).double().mean(0)
        expected = (1 - step / num_steps) ** speeds.double()
        assert (hidden - expected).abs().max() < 4.5 * math.sqrt(0.25 / num_rows)


def small_network() -> ATATDiT:
    torch.manual_seed(0)
    network = ATATDiT(11, 24, num_layers=1, width=16, num_heads=2, time_conditioning=True, predict_speed=True)
    for p in network.parameters():  # zero-initialised layers would hide what they do
        torch.nn.init.normal_(p, std=0.3)
    return network.double().eval()


def with_own_speeds(network: ATATDiT) -> Denoise:
    def denoise(z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        logits, log_speed = network.logits_and_log_speed(z_t, t)
        return logits, log_speed.exp()

    return denoise


@pytest.mark.parametrize("cache", [True, False])
def test_with_every_speed_1_it_is_ancestral_sampling_token_by_token(cache: bool):
    network, canvas = small_network(), Canvas.blank(20, 24, 11)

    def denoise(z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return network(z_t, t), torch.ones(z_t.shape)

    ours = sample(denoise, canvas, FollowRates(40), mask_id=11, seeds=range(20))
    ancestral = sample(network, canvas, Ancestral(Linear(), 40, cache=cache), mask_id=11, seeds=range(20))
    assert ours.trace.revealed_at_step.equal(ancestral.trace.revealed_at_step)
    assert ours.tokens.equal(ancestral.tokens)


@pytest.mark.parametrize("num_steps", [1, 3, 50])
def test_fixed_positions_never_change_every_row_ends_and_no_row_asks_more_often_than_there_are_steps(num_steps: int):
    network = small_network()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 11, (6, 24), generator=generator)
    fixed = torch.rand(6, 24, generator=generator) < torch.linspace(0, 1, 6)[:, None]
    result = sample(with_own_speeds(network), Canvas(tokens, fixed), FollowRates(num_steps), mask_id=11, seeds=range(6))
    assert result.tokens[fixed].equal(tokens[fixed])
    assert (result.tokens < network.mask_id).all()
    assert (result.trace.revealed_at_step == 0).equal(fixed)
    assert (result.trace.nfe <= num_steps).all()
    # a row asks once a step until its last token is there; the last row has nothing to ask
    assert result.trace.nfe.equal(result.trace.revealed_at_step.amax(1))
    assert result.trace.nfe[-1] == 0


def test_a_row_is_the_same_text_alone_and_in_a_batch_of_4():
    denoise, rule = with_own_speeds(small_network()), FollowRates(30)
    together = sample(denoise, Canvas.blank(4, 24, 11), rule, mask_id=11, seeds=[7, 8, 9, 10]).tokens
    alone = sample(denoise, Canvas.blank(1, 24, 11), rule, mask_id=11, seeds=[9]).tokens
    assert together[2].equal(alone[0])


def test_the_denoiser_is_asked_for_logits_and_speeds_at_mask_rates_1_to_1_over_T_of_rows_with_masks_only():
    seen: list[tuple[int, float]] = []
    fixed = torch.zeros(3, 5, dtype=torch.bool)
    fixed[1] = True

    def denoise(z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        assert (z_t == 2).any(dim=1).all()
        assert t.shape == (len(z_t),)
        seen.append((len(z_t), t[0].item()))
        return torch.zeros(*z_t.shape, 2), torch.full(z_t.shape, 1e-6)  # nearly never: all at the last step

    result = sample(denoise, Canvas(torch.zeros(3, 5).long(), fixed), FollowRates(4), mask_id=2, seeds=range(3))
    assert seen == [(2, 1.0), (2, 0.75), (2, 0.5), (2, 0.25)]
    assert (result.trace.revealed_at_step[~fixed] == 4).all()


@pytest.mark.parametrize("speed", [1e-30, 1e30])
def test_the_last_step_reveals_everything_at_any_speed(speed: float):
    def denoise(z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(*z_t.shape, 2), torch.full(z_t.shape, speed, dtype=torch.float64)

    result = sample(denoise, Canvas.blank(8, 5, 2), FollowRates(3), mask_id=2, seeds=range(8))
    assert (result.tokens < 2).all()
    assert (result.trace.revealed_at_step == (3 if speed < 1 else 1)).all()
