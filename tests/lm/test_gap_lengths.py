"""cost_of_given: what a model pays for the given tokens of a row, whatever the gaps hold."""

from __future__ import annotations

import math

import pytest
import torch

from mdlm_atat.lm.gap_lengths import cost_of_given
from toys import Joint, all_masks, uniform_denoiser

NUM_SEEDS = 60


def exact_cost(joint: Joint, tokens: torch.Tensor, fixed: torch.Tensor) -> float:
    """-log of the probability that the fixed positions hold these tokens."""
    fits = ((joint.sequences == tokens) | ~fixed).all(1)
    return -math.log(joint.probs[fits].sum())


@pytest.mark.parametrize("fixed", [m for m in all_masks(4) if 0 < m.sum() < 4 or m.all()][::3])
def test_with_an_exact_denoiser_the_cost_is_minus_log_p_of_what_is_given_within_4_standard_errors(fixed):
    """In every order of the given tokens the conditionals telescope, so the mean over orders is that too."""
    joint = Joint.random(length=4, vocab=3, seed=1)
    tokens = joint.sequences[joint.counts.argmax()]
    costs = torch.tensor(
        [
            cost_of_given(joint.denoise, tokens, fixed, mask_id=joint.mask_id, num_draws=16, seed=seed)
            for seed in range(NUM_SEEDS)
        ],
        dtype=torch.float64,
    )
    exact, error = exact_cost(joint, tokens, fixed), (costs.std() / math.sqrt(NUM_SEEDS)).item()
    assert abs(costs.mean().item() - exact) <= 4 * error + 1e-6
    assert error < 0.05 * exact


def test_one_given_token_costs_exactly_minus_log_p_in_a_single_draw():
    joint = Joint.random(length=4, vocab=3, seed=1)
    tokens = joint.sequences[joint.counts.argmax()]
    for position in range(4):
        fixed = torch.arange(4) == position
        cost = cost_of_given(joint.denoise, tokens, fixed, mask_id=joint.mask_id, num_draws=1)
        assert cost == pytest.approx(exact_cost(joint, tokens, fixed), abs=1e-6)


def test_a_denoiser_that_knows_nothing_pays_5_log_7_for_5_tokens_whatever_the_gaps_and_the_batches():
    for length in (5, 9, 20):
        tokens = torch.arange(length) % 7
        fixed = torch.arange(length) < 5
        for batch_size in (1, 16, 64):
            cost = cost_of_given(uniform_denoiser(7), tokens, fixed, mask_id=7, batch_size=batch_size)
            assert cost == pytest.approx(5 * math.log(7))


def test_the_gaps_stay_masked_and_what_stands_there_is_not_looked_at():
    joint = Joint.random(length=4, vocab=3, seed=2)
    tokens = joint.sequences[joint.counts.argmax()]
    fixed = torch.tensor([True, False, False, True])
    seen = []

    def watched(z_t: torch.Tensor, t: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        seen.append(z_t)
        assert t.allclose((z_t == joint.mask_id).float().mean(1))
        return joint.denoise(z_t, t)

    costs = {
        cost_of_given(watched, torch.where(fixed, tokens, other), fixed, mask_id=joint.mask_id) for other in (0, 2, 3)
    }
    assert len(costs) == 1
    assert (torch.cat(seen)[:, 1:3] == joint.mask_id).all()


def test_the_number_of_given_tokens_masked_is_spread_evenly_from_1_to_all():
    counts = []

    def watched(z_t: torch.Tensor, t: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        counts.extend((z_t[:, :4] == 3).sum(1).tolist())
        return torch.zeros(*z_t.shape, 3)

    tokens, fixed = torch.zeros(6, dtype=torch.int64), torch.arange(6) < 4
    cost_of_given(watched, tokens, fixed, mask_id=3, num_draws=64)
    assert [counts.count(n) for n in range(6)] == [0, 16, 16, 16, 16, 0]
