import math
from itertools import pairwise

import pytest
import torch

from mdlm_atat.core.denoiser import Denoiser
from mdlm_atat.core.masking import hide, mask_exactly, mask_independently, scored_positions
from mdlm_atat.core.objective import (
    count_weights,
    masked_nll,
    subs_log_probs,
    t_step_count_weights,
)
from mdlm_atat.core.schedules import Cosine, Geometric, Linear, Polynomial, Schedule
from mdlm_atat.core.times import UniformTime, Weighting
from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.loop import sample
from toys import Joint, all_masks, expected_nll, mdlm, uniform_denoiser

SCHEDULES = [Linear(), Cosine(), Geometric(), Polynomial(2.0)]


def enumerated_nelbo(joint: Joint, schedule: Schedule, num_nodes: int = 100_000) -> float:
    """The continuous-time bound by the midpoint rule over t and every mask, with exact conditionals."""
    t = (torch.arange(num_nodes, dtype=torch.float64) + 0.5) / num_nodes
    rate, weight = schedule.mask_rate(t), schedule.weight(t)
    length = joint.sequences.shape[1]
    total = 0.0
    for mask in all_masks(length):
        n = int(mask.sum())
        probability = rate**n * (1 - rate) ** (length - n)
        total += (weight * probability).mean().item() * expected_nll(joint, mask) if n else 0.0
    return total


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("seed", [0, 1])
def test_with_exact_conditionals_the_bound_is_the_entropy_to_1e_6_for_every_schedule(schedule, seed):
    joint = Joint.random(length=3, vocab=3, seed=seed)
    assert enumerated_nelbo(joint, schedule) == pytest.approx(joint.entropy_nats, abs=1e-6)


def test_the_exact_count_form_agrees_with_the_continuous_one_to_1e_12():
    joint = Joint.random(length=3, vocab=3)
    total = 0.0
    for n, weight in enumerate(count_weights(3).tolist()):
        masks = [mask for mask in all_masks(3) if int(mask.sum()) == n]
        total += weight * sum(expected_nll(joint, mask) for mask in masks) / len(masks)
    assert total == pytest.approx(joint.entropy_nats, abs=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_t_step_bounds_fall_monotonically_to_the_continuous_bound(schedule):
    joint = Joint.random(length=3, vocab=3)
    by_count = [
        sum(expected_nll(joint, m) for m in all_masks(3) if int(m.sum()) == n) / math.comb(3, n) for n in range(4)
    ]
    bounds = []
    for num_steps in (1, 2, 4, 16, 64, 1024):
        weights = t_step_count_weights(schedule, 3, num_steps).tolist()
        bounds.append(sum(w * nll for w, nll in zip(weights, by_count, strict=True)))
    assert all(later < earlier for earlier, later in pairwise(bounds))
    assert bounds[0] == pytest.approx(by_count[3])  # one step: everything from nothing, independently
    assert bounds[0] > joint.entropy_nats + 0.05
    assert bounds[-1] > joint.entropy_nats
    assert bounds[-1] == pytest.approx(joint.entropy_nats, abs=0.05)


def test_one_step_from_fully_masked_costs_the_marginals_and_1024_steps_almost_nothing_extra_for_linear():
    weights = t_step_count_weights(Linear(), 8, 100_000)
    torch.testing.assert_close(weights, count_weights(8), rtol=1e-3, atol=1e-4)


def test_the_training_loss_estimates_the_entropy_within_four_standard_errors():
    joint = Joint.random(length=3, vocab=3)
    schedule, density = Linear(), UniformTime()
    objective = mdlm(schedule, density, Weighting("elbo", schedule, density), joint.mask_id)
    x0 = joint.sequences.repeat_interleave(joint.counts, dim=0).repeat(10, 1)
    generator = torch.Generator().manual_seed(0)
    losses = torch.stack([
        objective.loss(joint.denoise, x0, None, objective.draw(len(x0), 3, generator), num_tokens=len(x0)).total
        for _ in range(200)
    ])  # fmt: skip
    error = losses.std().item() / len(losses) ** 0.5
    assert abs(losses.mean().item() - joint.entropy_nats) < 4 * error
    assert error < 0.01


@pytest.mark.parametrize("kind", ["elbo", "flat", "clipped"])
def test_a_denoiser_that_knows_nothing_costs_log_vocab_nats_per_token_in_training(kind):
    schedule, density = Linear(), UniformTime()
    objective = mdlm(schedule, density, Weighting(kind, schedule, density), mask_id=7)
    x0 = torch.zeros(4000, 16, dtype=torch.int64)
    draw = objective.draw(4000, 16, torch.Generator().manual_seed(0))
    loss = objective.loss(uniform_denoiser(7), x0, None, draw, num_tokens=x0.numel())
    assert loss.total.item() == pytest.approx(math.log(7), rel=0.02)
    assert loss.terms["diffusion"].item() == pytest.approx(loss.total.item())


def test_padding_is_neither_masked_nor_scored():
    schedule, density = Linear(), UniformTime()
    objective = mdlm(schedule, density, Weighting("elbo", schedule, density), mask_id=7)
    lengths = torch.tensor([2, 5])
    seen = {}

    def denoise(z_t, t, lengths=None):
        seen["z_t"], seen["lengths"] = z_t, lengths
        return torch.zeros(*z_t.shape, 7)

    draw = objective.draw(2, 5, torch.Generator().manual_seed(3))
    draw.t.fill_(1.0)
    loss = objective.loss(denoise, torch.zeros(2, 5, dtype=torch.int64), lengths, draw, num_tokens=7)
    assert (seen["z_t"] == 7).tolist() == [[True, True, False, False, False], [True] * 5]
    assert seen["lengths"] is lengths
    assert loss.total.item() == pytest.approx(math.log(7), rel=1e-6)


def test_subs_copies_visible_tokens_and_gives_the_mask_no_probability():
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    z_t = torch.tensor([[5, 1, 5, 0], [4, 5, 5, 5]])
    probs = subs_log_probs(logits, z_t, mask_id=5).exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 4))
    assert probs[0, 1].tolist() == [0, 1, 0, 0, 0]
    assert probs[1, 0].tolist() == [0, 0, 0, 0, 1]
    torch.testing.assert_close(probs[0, 0], logits[0, 0].softmax(-1))


def test_bf16_logits_are_scored_in_float32():
    logits = torch.randn(1, 3, 50).bfloat16()
    x0 = torch.tensor([[3, 4, 5]])
    nll = masked_nll(logits, x0, torch.ones(1, 3, dtype=torch.bool))
    expected = -logits.float().log_softmax(-1).gather(-1, x0[..., None])[..., 0]
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, expected)


def test_exact_masks_have_the_asked_size_and_every_subset_is_equally_likely():
    scored = scored_positions(torch.tensor([3]).expand(30_000), 5)
    uniform = torch.rand(30_000, 5, generator=torch.Generator().manual_seed(0))
    masks = mask_exactly(uniform, torch.full((30_000,), 2), scored)
    assert (masks.sum(1) == 2).all()
    assert not masks[:, 3:].any()
    subsets = (masks[:, :3].long() @ torch.tensor([4, 2, 1])).bincount(minlength=8)[[3, 5, 6]]
    assert (subsets - 10_000).abs().max() < 5 * (10_000 * 2 / 3) ** 0.5


def test_independent_masks_hide_at_the_mask_rate():
    uniform = torch.rand(2, 50_000, generator=torch.Generator().manual_seed(0))
    masks = mask_independently(uniform, torch.tensor([[0.2], [1.0]]), torch.ones(2, 50_000, dtype=torch.bool))
    assert masks[0].double().mean().item() == pytest.approx(0.2, abs=0.01)
    assert masks[1].all()
    assert (hide(torch.zeros(2, 50_000, dtype=torch.int64), masks, 9) == 9).equal(masks)


def test_any_callable_of_the_right_form_is_a_denoiser():
    denoise: Denoiser = Joint.random(2, 2).denoise
    assert denoise(torch.tensor([[2, 2]]), torch.ones(1)).shape == (1, 2, 2)


def test_a_time_conditioned_denoiser_is_told_the_mask_rate_whatever_the_schedule():
    told = {}

    def denoise(z_t, t, lengths=None):
        told["t"] = t
        return torch.zeros(*z_t.shape, 7)

    schedule, density = Polynomial(2.0), UniformTime()
    objective = mdlm(schedule, density, Weighting("elbo", schedule, density), mask_id=7)
    draw = objective.draw(4, 5, torch.Generator().manual_seed(0))
    objective.loss(denoise, torch.zeros(4, 5, dtype=torch.int64), None, draw, num_tokens=20)
    torch.testing.assert_close(told["t"], (draw.t**2).float())
    seen = []

    def watched(z_t, t, lengths=None):
        seen.append(t[0].item())
        assert seen[-1] == pytest.approx((z_t == 7).double().mean().item())
        return torch.zeros(*z_t.shape, 7)

    rule = Ancestral(schedule=schedule, num_steps=4, cache=False)
    sample(watched, Canvas.blank(1, 5000, 7), rule, mask_id=7, seeds=[0])
    assert seen == pytest.approx([1.0, 0.75**2, 0.5**2, 0.25**2], abs=0.02)  # its share of masks, which is the same
