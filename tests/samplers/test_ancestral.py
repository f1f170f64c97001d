from itertools import combinations

import pytest
import torch
from torch import Tensor

from mdlm_atat.core.schedules import Cosine, Linear, Schedule
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.loop import sample
from samplers.enumerated import (
    CHANCE,
    JOINT,
    at_the_end,
    chi_square_per_degree,
    how_often,
    in_groups,
    step_of_chain,
    token_probs,
    total_variation,
)
from samplers.stand_ins import says
from toys import uniform_denoiser


def exact_distribution(num_steps: int, schedule: Schedule) -> Tensor:
    """Of the texts that ancestral sampling ends in, with an exact denoiser, by the transitions of eq. 7."""
    tokens, steps = token_probs(JOINT.denoise), []
    for k in range(num_steps, 0, -1):
        t, s = schedule.mask_rate(torch.tensor([k / num_steps, (k - 1) / num_steps], dtype=torch.float64)).tolist()
        steps.append(step_of_chain(tokens, 1 - s / t))
    return at_the_end(steps)


def test_1_step_is_the_product_of_the_marginals_and_128_are_within_4_thousandths_of_the_joint():
    one_hot = torch.nn.functional.one_hot(JOINT.sequences, 2).double()
    marginals = torch.einsum("n,nlv->lv", JOINT.probs, one_hot)
    torch.testing.assert_close(exact_distribution(1, Linear()), (one_hot * marginals).sum(-1).prod(-1))
    assert total_variation(exact_distribution(128, Linear()), JOINT.probs) < 0.004


def test_the_error_of_T_steps_falls_as_1_over_T_times_what_revealing_each_pair_at_once_costs():
    """Two given positions are revealed in the same of T steps with probability 1 / T; the third comes before them or
    after them with equal probability."""
    cost = torch.zeros(8, dtype=torch.float64)
    for pair in combinations(range(3), 2):
        (third,) = set(range(3)) - set(pair)
        cost += (in_groups([pair, [third]]) + in_groups([[third], pair])) / 2 - JOINT.probs
    assert cost.abs().max() > 0.1
    for num_steps in (64, 256):
        error = num_steps * (exact_distribution(num_steps, Linear()) - JOINT.probs)
        assert (error - cost).abs().max() < 1 / num_steps


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_samples_of_few_steps_follow_the_enumerated_distribution_and_not_the_joint(schedule: Schedule, num_steps: int):
    observed = how_often(Ancestral(num_steps=num_steps, schedule=schedule))
    assert chi_square_per_degree(observed, exact_distribution(num_steps, schedule)) < CHANCE
    assert chi_square_per_degree(observed, JOINT.probs) > 10  # the failure that more steps cure


def test_samples_of_an_exact_denoiser_have_the_right_joint_distribution_at_256_steps():
    assert chi_square_per_degree(how_often(Ancestral(num_steps=256)), JOINT.probs) < CHANCE


def small_network(**more) -> ATATDiT:
    torch.manual_seed(0)
    return ATATDiT(11, 24, num_layers=1, width=16, num_heads=2, **more).double().eval()


@pytest.mark.parametrize("time_conditioning", [False, True])
def test_cached_and_uncached_sampling_give_identical_tokens_under_one_seed(time_conditioning: bool):
    network = small_network(time_conditioning=time_conditioning)
    for p in network.parameters():  # zero-initialised layers would hide what they do
        torch.nn.init.normal_(p, std=0.3)
    canvas = Canvas.blank(3, 24, network.mask_id)
    cached, uncached = (
        sample(
            network,
            canvas,
            Ancestral(num_steps=60, schedule=Cosine(), cache=cache),
            mask_id=network.mask_id,
            seeds=range(3),
        )
        for cache in (True, False)
    )
    assert cached.tokens.equal(uncached.tokens)
    assert cached.trace.revealed_at_step.equal(uncached.trace.revealed_at_step)
    # uncached, a row asks at every step until its last token is there; cached, where it reveals something
    assert uncached.trace.nfe.equal(uncached.trace.revealed_at_step.amax(1))
    assert (uncached.trace.nfe > 24).all()
    assert cached.trace.nfe.tolist() == [len(set(row.tolist())) for row in cached.trace.revealed_at_step]


def test_the_canvas_is_reported_before_step_1_and_after_every_step_and_each_of_48_positions_is_set_once():
    network, seen = small_network(), []
    result = sample(
        network,
        Canvas.blank(2, 24, 11),
        Ancestral(num_steps=40),
        mask_id=11,
        seeds=[0, 1],
        on_step=lambda step, z_t: seen.append((step, z_t.clone())),
        keep_frames=True,
    )
    trace = result.trace
    assert [step for step, _ in seen] == list(range(len(seen)))
    assert trace.frames is not None
    assert (trace.frames[0] == 11).all()
    assert trace.frames.equal(torch.stack([z_t for _, z_t in seen]))
    assert trace.frames[-1].equal(result.tokens)
    revealed = (trace.frames[:-1] == 11) & (trace.frames[1:] != 11)  # (steps, B, L)
    assert revealed.long().sum(0).equal(torch.ones(2, 24, dtype=torch.int64))
    assert (revealed.long().argmax(0) + 1).equal(trace.revealed_at_step)
    assert trace.entropy.isnan().equal(~revealed.any(2).T)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_each_of_8_steps_reveals_as_many_as_the_mask_rate_falls_by(schedule: Schedule, cache: bool):
    """An eighth of the positions in linear steps; in cosine ones from 4 to 19 hundredths, most in the middle."""
    num_rows = 200
    rule = Ancestral(num_steps=8, schedule=schedule, cache=cache)
    result = sample(uniform_denoiser(2), Canvas.blank(num_rows, 24, 2), rule, mask_id=2, seeds=range(num_rows))
    counts = result.trace.revealed_at_step.flatten().bincount(minlength=9)[1:]
    share = -schedule.mask_rate(torch.linspace(1, 0, 9, dtype=torch.float64)).diff()
    expected = num_rows * 24 * share
    assert ((counts - expected).abs() < 4.5 * (expected * (1 - share)).sqrt()).all()


def test_the_denoiser_is_told_the_share_of_masked_tokens_of_each_row():
    """Of the whole row as it is, fixed tokens included, whatever the schedule's rate."""
    told = []

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        told.append(t.equal((z_t == 2).float().mean(1)))
        return torch.zeros(*z_t.shape, 2)

    canvas = Canvas.with_prefixes([[1, 0], [], [1]], 6, 2)
    result = sample(denoise, canvas, Ancestral(num_steps=9, schedule=Cosine()), mask_id=2, seeds=range(3))
    assert all(told)
    assert result.trace.nfe.sum() >= len(told) > 1


def test_the_entropy_of_a_step_is_the_mean_over_what_it_revealed_and_the_confidence_the_tokens_probability():
    table = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    denoise, num_rows = says(table.tolist()), 20
    result = sample(denoise, Canvas.blank(num_rows, 2, 2), Ancestral(num_steps=1), mask_id=2, seeds=range(num_rows))
    entropy = torch.special.entr(table).sum().item() / 2
    torch.testing.assert_close(result.trace.entropy, torch.full((num_rows, 1), entropy, dtype=torch.float64))
    expected = table.expand(num_rows, -1, -1).gather(-1, result.tokens[..., None])[..., 0]
    torch.testing.assert_close(result.trace.confidence, expected)
