import functools
import math

import numpy as np
import pytest
import torch

from mdlm_atat.core.objective import count_weights, t_step_count_weights
from mdlm_atat.core.schedules import Linear
from mdlm_atat.errors import UserError
from mdlm_atat.scoring.draws import BLOCK_SIZE, DrawSettings
from mdlm_atat.scoring.exact import exact_nll
from mdlm_atat.scoring.likelihood import (
    all_masked_nll,
    draw_nll,
    ratio_with_standard_error,
)
from mdlm_atat.scoring.unigram import unigram_nll
from toys import CausalTable, Joint, ListRows, all_masks, expected_nll, uniform_denoiser

JOINT = Joint.random(length=3, vocab=3)


def test_the_estimated_bound_is_the_entropy_within_four_standard_errors():
    draws = draw_nll(JOINT.denoise, JOINT.rows(), mask_id=3, draws=DrawSettings(num_draws=96 * 200))
    nats_per_token, error = draws.nelbo()
    assert error < 0.01
    assert abs(nats_per_token - JOINT.entropy_nats / 3) < 4 * error


def test_the_standard_error_is_the_spread_of_repeated_estimates():
    estimates = [
        draw_nll(JOINT.denoise, JOINT.rows(), mask_id=3, draws=DrawSettings(num_draws=480, seed=seed)).nelbo()
        for seed in range(30)
    ]
    values, errors = torch.tensor(estimates, dtype=torch.float64).T
    assert values.std().item() == pytest.approx(errors.mean().item(), rel=0.35)


def test_a_denoiser_that_knows_nothing_costs_log_vocab_nats_per_token_without_any_error():
    rows = ListRows(np.zeros((40, 20), dtype=np.int64))
    nats_per_token, error = draw_nll(uniform_denoiser(11), rows, mask_id=11, draws=DrawSettings(num_draws=100)).nelbo()
    assert nats_per_token == pytest.approx(math.log(11), abs=1e-12)
    assert error < 1e-12


def test_the_draws_are_the_same_for_every_batch_size_and_number_of_processes():
    one = draw_nll(JOINT.denoise, JOINT.rows(), mask_id=3, draws=DrawSettings(num_draws=320, batch_size=16))
    other = draw_nll(JOINT.denoise, JOINT.rows(), mask_id=3, draws=DrawSettings(num_draws=320, batch_size=300))
    assert one.nll.equal(other.nll)
    shares = [
        draw_nll(JOINT.denoise, JOINT.rows(), mask_id=3, draws=DrawSettings(num_draws=320, rank=r, num_ranks=3))
        for r in range(3)
    ]
    by_block = torch.cat([share.block for share in shares]).argsort(stable=True)
    assert torch.cat([share.nll for share in shares])[by_block].equal(one.nll)
    assert not draw_nll(JOINT.denoise, JOINT.rows(), mask_id=3, draws=DrawSettings(num_draws=320, seed=1)).nll.equal(
        one.nll
    )


def test_draws_are_rounded_up_to_whole_blocks_and_spread_over_all_counts():
    draws = draw_nll(
        uniform_denoiser(5),
        ListRows(np.zeros((9, BLOCK_SIZE), dtype=np.int64)),
        mask_id=5,
        draws=DrawSettings(num_draws=33),
    )
    assert len(draws.nll) == 3 * BLOCK_SIZE
    assert sorted(draws.num_masked[:BLOCK_SIZE].tolist()) == list(range(1, BLOCK_SIZE + 1))


def test_padding_does_not_change_a_score():
    rows = JOINT.rows()
    padded = ListRows(np.pad(rows.ids, ((0, 0), (0, 4))), rows.lengths)

    def denoise(z_t, t, lengths=None):
        if lengths is None:
            return JOINT.denoise(z_t, t)
        assert (lengths == 3).all()
        return torch.nn.functional.pad(JOINT.denoise(z_t[:, :3], t), (0, 0, 0, 4))

    nats_per_token, error = draw_nll(denoise, padded, mask_id=3, draws=DrawSettings(num_draws=96 * 100)).nelbo()
    assert abs(nats_per_token - JOINT.entropy_nats / 3) < 4 * error
    uniform = draw_nll(uniform_denoiser(3), padded, mask_id=3, draws=DrawSettings(num_draws=96))
    assert uniform.nelbo()[0] == pytest.approx(math.log(3), abs=1e-12)
    assert (uniform.lengths == 3).all()


def test_rows_of_different_lengths_weigh_by_their_tokens():
    ids = np.zeros((50, 8), dtype=np.int64)
    ids[:25] = 1
    rows = ListRows(ids, np.where(np.arange(50) < 25, 2, 8))

    def skewed(z_t, t, lengths=None):
        logits = torch.zeros(*z_t.shape, 2, dtype=torch.float64)
        logits[..., 1] = math.log(3)  # p(1) = 3/4, p(0) = 1/4
        return logits

    nats_per_token, _ = draw_nll(skewed, rows, mask_id=2, draws=DrawSettings(num_draws=50 * 32)).nelbo()
    tokens_short, tokens_long = 25 * 2, 25 * 8
    expected = (tokens_short * math.log(4 / 3) + tokens_long * math.log(4)) / (tokens_short + tokens_long)
    assert nats_per_token == pytest.approx(expected, abs=1e-9)


def test_the_same_draws_give_the_t_step_bound_which_lies_above():
    draws = draw_nll(
        JOINT.denoise, JOINT.rows(), mask_id=3, with_all_masked=True, draws=DrawSettings(num_draws=96 * 100)
    )
    continuous, error = draws.nelbo()
    bounds = [draws.t_step_nelbo(lambda length, T=T: t_step_count_weights(Linear(), length, T))[0] for T in (1, 4, 64)]
    assert bounds[0] > bounds[1] > bounds[2] > continuous - error


def test_few_draws_of_long_rows_see_the_first_of_1_4_64_and_256_steps_too():
    # who knows nothing pays log V for every token, whatever the bound; 1 of 256 draws has n = 256
    rows = ListRows(np.random.default_rng(0).integers(0, 50, (40, 256)), np.full(40, 256))
    drawn = [
        draw_nll(
            uniform_denoiser(50), rows, mask_id=50, with_all_masked=True, draws=DrawSettings(num_draws=512, seed=seed)
        )
        for seed in range(10)
    ]
    for num_steps in (1, 4, 64, 256):
        weights = functools.partial(t_step_count_weights, Linear(), num_steps=num_steps)
        nats, errors = torch.tensor([draws.t_step_nelbo(weights) for draws in drawn]).T
        assert nats.mean().item() == pytest.approx(math.log(50), abs=3 * (errors.square().mean() / 10).sqrt().item())
        assert ((nats - math.log(50)).abs() < 4 * errors).all()
        assert errors.max() < 0.05 * math.log(50)


def test_what_all_masked_rows_cost_is_the_sum_over_their_own_tokens():
    ids = torch.tensor([[0, 1, 1], [1, 0, 0]])

    def skewed(z_t, t, lengths=None):
        assert (z_t == 2).all()
        assert (t == 1).all()
        return torch.tensor([0.25, 0.75], dtype=torch.float64).log().expand(*z_t.shape, 2)

    found = all_masked_nll(skewed, ids, torch.tensor([3, 2]), mask_id=2)
    assert found.tolist() == pytest.approx([-math.log(0.25 * 0.75**2), -math.log(0.75 * 0.25)])


def test_bounds_of_t_steps_fall_to_the_continuous_bound_which_is_the_entropy():
    # by enumeration, without draws: every mask of every sequence of the joint
    by_count = [torch.tensor([expected_nll(JOINT, mask) for mask in all_masks(3) if mask.sum() == n]).mean()
                for n in range(4)]  # fmt: skip
    cost = torch.stack(by_count).double()

    def bound(weights) -> float:
        # w(n) scores a mask of n tokens; every n has 3 choose n of them, of which each is drawn alike
        return (weights * cost).sum().item()

    continuous = bound(count_weights(3))
    assert continuous == pytest.approx(JOINT.entropy_nats, abs=1e-6)
    found = [bound(t_step_count_weights(Linear(), 3, T)) for T in (1, 2, 3, 4, 8, 16, 64, 256, 1000, 10_000)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(cost[3].item())  # one step: everything is drawn at once, independently
    assert all(value >= continuous for value in found)
    assert found[-1] - continuous < 1e-3


def test_the_profile_costs_more_where_more_is_masked():
    draws = draw_nll(JOINT.denoise, JOINT.rows(), mask_id=3, draws=DrawSettings(num_draws=96 * 50))
    profile = draws.profile(num_bins=3)
    assert profile.mask_rate == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert list(profile.nats_per_masked_token) == sorted(profile.nats_per_masked_token)
    assert sum(profile.num_masked_tokens) == int(draws.num_masked.sum())


def test_the_causal_chain_rule_gives_the_entropy_exactly():
    causal = CausalTable(JOINT)
    found = exact_nll(causal, JOINT.rows(), draws=DrawSettings(num_draws=10_000, batch_size=10))
    assert found.kind == "exact"
    assert found.nats_per_token == pytest.approx(JOINT.entropy_nats / 3, abs=1e-9)
    assert found.num_draws == 96


def test_the_unigram_model_costs_the_entropy_of_its_counts():
    rows = ListRows(np.array([[0, 0, 0, 1]] * 30))
    nats_per_token, error = unigram_nll(rows, np.array([299, 99, 0]))  # plus one each: 300, 100, 1
    expected = -(3 * math.log(300 / 401) + math.log(100 / 401)) / 4
    assert nats_per_token == pytest.approx(expected, abs=1e-12)
    assert error < 1e-12


def test_the_error_of_a_ratio_of_equal_sizes_is_the_usual_standard_error():
    total = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    ratio, error = ratio_with_standard_error(total, torch.ones(4, dtype=torch.float64))
    assert ratio == 3.0
    assert error == pytest.approx(total.std().item() / 2)


def test_fewer_than_32_draws_are_refused_because_they_have_no_standard_error():
    with pytest.raises(UserError, match="31 draws are too few"):
        draw_nll(JOINT.denoise, JOINT.rows(), mask_id=3, draws=DrawSettings(num_draws=31))
