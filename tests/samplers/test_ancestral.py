import math

import pytest
import torch
from torch import Tensor

from mdlm_atat.models.dit import ATATDiT
from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.loop import sample
from mdlm_atat.schedules import Cosine, Linear
from toys import Joint


def draw_joint(joint: Joint, num_steps: int, num_rows: int) -> Tensor:
    """How often each sequence was sampled, (N,)."""
    length = joint.sequences.shape[1]
    canvas = Canvas.blank(num_rows, length, joint.mask_id)
    rule = Ancestral(Linear(), num_steps)
    tokens = sample(joint.denoise, canvas, rule, mask_id=joint.mask_id, seeds=range(num_rows)).tokens
    index = tokens @ torch.tensor([joint.mask_id**i for i in reversed(range(length))])
    return index.bincount(minlength=len(joint.sequences))


def chi_square_per_degree(observed: Tensor, probs: Tensor) -> float:
    expected = probs * observed.sum()
    likely = expected > 0
    if not likely.all():
        assert observed[~likely].sum() <= 0.01 * observed.sum()  # what the last coarse steps let through
    statistic = ((observed - expected)[likely] ** 2 / expected[likely]).sum().item()
    return statistic / (int(likely.sum()) - 1)


def test_ancestral_samples_of_an_exact_denoiser_have_the_right_joint_distribution_at_256_steps():
    joint = Joint.random(length=3, vocab=2, seed=3)
    observed = draw_joint(joint, num_steps=256, num_rows=4000)
    # chi-square over its degrees of freedom has mean 1; 7 degrees exceed 3.5 once in a thousand times
    assert chi_square_per_degree(observed, joint.probs) < 3.5


def test_one_step_draws_the_product_of_the_marginals_instead():
    joint = Joint.random(length=3, vocab=2, seed=3)
    observed = draw_joint(joint, num_steps=1, num_rows=6000)
    one_hot = torch.nn.functional.one_hot(joint.sequences, 2).double()
    marginals = torch.einsum("n,nlv->lv", joint.probs, one_hot)
    product = (one_hot * marginals).sum(-1).prod(-1)
    assert chi_square_per_degree(observed, product) < 3.5
    assert chi_square_per_degree(observed, joint.probs.clamp_min(1e-3)) > 20  # the failure that more steps cure


def small_network(**more) -> ATATDiT:
    torch.manual_seed(0)
    return ATATDiT(11, 24, num_layers=2, width=16, num_heads=2, **more).double().eval()


@pytest.mark.parametrize("time_conditioning", [False, True])
def test_cached_and_uncached_sampling_give_identical_tokens_under_one_seed(time_conditioning):
    network = small_network(time_conditioning=time_conditioning)
    canvas = Canvas.blank(5, 24, network.mask_id)
    results = [
        sample(network, canvas, Ancestral(Cosine(), 60, cache=cache), mask_id=network.mask_id, seeds=range(5))
        for cache in (True, False)
    ]
    assert results[0].tokens.equal(results[1].tokens)
    assert results[0].trace.revealed_at_step.equal(results[1].trace.revealed_at_step)
    assert (results[1].trace.nfe >= 24).all()
    assert (results[0].trace.nfe <= 24).all()
    # the cached count is the number of steps in which the row reveals something
    steps = [len(set(row.tolist())) for row in results[0].trace.revealed_at_step]
    assert results[0].trace.nfe.tolist() == steps


@pytest.mark.parametrize("num_steps", [1, 3, 50])
def test_the_sampler_never_changes_a_fixed_position_and_no_mask_survives(num_steps):
    network = small_network()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 11, (6, 24), generator=generator)
    fixed = torch.rand(6, 24, generator=generator) < torch.linspace(0, 1, 6)[:, None]
    canvas = Canvas(tokens, fixed)
    result = sample(network, canvas, Ancestral(Linear(), num_steps), mask_id=network.mask_id, seeds=range(6))
    assert result.tokens[fixed].equal(tokens[fixed])
    assert (result.tokens < network.mask_id).all()
    assert (result.trace.revealed_at_step == 0).equal(fixed)


def test_a_row_is_the_same_text_alone_and_in_a_batch_of_4():
    network = small_network()
    together = sample(network, Canvas.blank(4, 24, 11), Ancestral(Linear(), 30), mask_id=11, seeds=[7, 8, 9, 10]).tokens
    alone = sample(network, Canvas.blank(1, 24, 11), Ancestral(Linear(), 30), mask_id=11, seeds=[9]).tokens
    assert together[2].equal(alone[0])


def test_every_step_reports_the_positions_it_revealed_and_they_add_up_to_all():
    network = small_network()
    seen = []
    sample(
        network,
        Canvas.blank(2, 24, 11),
        Ancestral(Linear(), 10),
        mask_id=11,
        seeds=[0, 1],
        on_step=lambda step, z_t, revealed: seen.append((step, z_t.clone(), revealed.clone())),
    )
    assert [step for step, _, _ in seen] == list(range(1, len(seen) + 1))
    assert torch.stack([revealed.long() for _, _, revealed in seen]).sum(0).equal(torch.ones(2, 24, dtype=torch.int64))


def test_the_expected_number_revealed_in_each_of_8_linear_steps_is_an_eighth():
    network = small_network()
    result = sample(network, Canvas.blank(200, 24, 11), Ancestral(Linear(), 8), mask_id=11, seeds=range(200))
    counts = result.trace.revealed_at_step.flatten().bincount(minlength=9)[1:]
    expected = 200 * 24 / 8
    assert (counts - expected).abs().max() < 5 * math.sqrt(expected)
