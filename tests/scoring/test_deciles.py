import math

import numpy as np
import pytest
import torch

from mdlm_atat.scoring.deciles import decile_costs, frequency_deciles, token_counts
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.exact import exact_nll
from mdlm_atat.scoring.likelihood import draw_nll
from toys import CausalTable, Joint, ListRows

JOINT = Joint.random(length=3, vocab=3)
COUNTS = np.array([100, 10, 1000])  # token 1 is the rarest in training


def text(counts: list[int]) -> ListRows:
    """One token a sequence."""
    return ListRows(np.repeat(np.arange(len(counts)), counts)[:, None])


def test_ten_kinds_of_equal_share_are_a_tenth_each_the_rarest_in_training_first():
    found = frequency_deciles(text([7] * 10), np.array([5, 3, 9, 1, 2, 10, 4, 8, 7, 6]))
    assert found.share.argmax(1).tolist() == [4, 2, 8, 0, 1, 9, 3, 7, 6, 5]
    assert found.share.max(1).values.tolist() == [1.0] * 10
    assert found.num_tokens == 7
    assert found.num_types == [1] * 10
    assert found.train_counts == [(count, count) for count in range(1, 11)]


def test_each_tenth_has_the_same_number_of_the_texts_tokens_whatever_the_vocabulary():
    rng = np.random.default_rng(0)
    in_text = rng.zipf(1.3, size=400).clip(max=5000)
    found = frequency_deciles(text(in_text.tolist()), rng.zipf(1.3, size=400))
    assert found.share.sum(1).allclose(torch.ones(400, dtype=torch.float64))
    mass = torch.from_numpy(in_text).double() @ found.share
    assert mass.allclose(torch.full((10,), in_text.sum() / 10, dtype=torch.float64), atol=1e-6)
    lowest = [low for low, _ in found.train_counts]
    assert lowest == sorted(lowest)


def test_a_kind_more_frequent_than_a_tenth_is_shared_and_ties_are_too():
    found = frequency_deciles(text([25, 25, 50]), np.array([3, 3, 9]))
    assert found.share[0].tolist() == pytest.approx([0.2] * 5 + [0] * 5)
    assert found.share[1].tolist() == found.share[0].tolist()  # nothing ranks it before or after
    assert found.share[2].tolist() == pytest.approx([0] * 5 + [0.2] * 5)
    assert found.num_types == [2] * 5 + [1] * 5
    assert found.train_counts == [(3, 3)] * 5 + [(9, 9)] * 5


def test_kinds_that_the_text_does_not_have_belong_to_the_tenth_between_their_neighbours():
    found = frequency_deciles(text([0, 30, 0, 70]), np.array([0, 2, 5, 7]))
    assert found.share[0].argmax() == 0
    assert found.share[2].argmax() == 3
    assert found.share.sum(1).tolist() == pytest.approx([1.0] * 4)


def test_padding_counts_for_nothing():
    rows = ListRows(np.array([[2, 1, 0, 0], [1, 1, 1, 0]]), np.array([2, 3]))
    assert token_counts(rows, 4).tolist() == [0, 4, 1, 0]


@pytest.mark.parametrize("kind", ["nelbo", "exact"])
def test_the_tenths_add_up_to_the_whole(kind):
    deciles = frequency_deciles(JOINT.rows(), COUNTS)
    settings = {"draws": DrawSettings(num_draws=96 * 20), "groups": deciles.share}
    if kind == "nelbo":
        found = draw_nll(JOINT.denoise, JOINT.rows(), mask_id=3, **settings).likelihood()
    else:
        found = exact_nll(CausalTable(JOINT), JOINT.rows(), **settings)
    assert found.groups is not None
    record = decile_costs(deciles, found.groups)
    # a tenth each of the text, and of the draws too: they take every sequence equally often
    assert sum(record.nats_per_token) / 10 == pytest.approx(found.nats_per_token, abs=1e-10)
    assert found.groups.blocks.score.sum(1).allclose(found.blocks.score)
    assert found.groups.blocks.length.sum(1).allclose(found.blocks.length)
    scored = 96 * 3 if kind == "exact" else int(found.draws.num_masked.sum())  # pyright: ignore[reportOptionalMemberAccess]
    assert sum(record.num_scored_tokens) == pytest.approx(scored)
    assert record.num_tokens == pytest.approx(96 * 3 / 10)


def test_with_some_of_the_sequences_the_whole_is_the_mean_of_tenths_weighted_by_their_tokens():
    deciles = frequency_deciles(JOINT.rows(), COUNTS)
    found = draw_nll(
        JOINT.denoise, JOINT.rows(), mask_id=3, groups=deciles.share, draws=DrawSettings(num_draws=32)
    ).likelihood()
    assert found.groups is not None
    weight = found.groups.blocks.length.sum(0)
    nats = torch.tensor([nats for nats, _ in found.groups.ratios], dtype=torch.float64)
    assert (nats @ weight / weight.sum()).item() == pytest.approx(found.nats_per_token, abs=1e-12)


def test_a_model_that_is_bad_at_rare_tokens_pays_for_them_in_the_first_tenths_alone():
    rows = ListRows(np.array([[0] * 9 + [1]] * 50))  # token 1: a tenth of the text

    def denoise(z_t, t, lengths=None):
        return torch.tensor([0.9, 0.1], dtype=torch.float64).log().expand(*z_t.shape, 2)

    deciles = frequency_deciles(rows, np.array([90, 10]))
    found = draw_nll(denoise, rows, mask_id=2, groups=deciles.share, draws=DrawSettings(num_draws=3200)).likelihood()
    assert found.groups is not None
    nats, errors = zip(*found.groups.ratios, strict=True)
    assert abs(nats[0] - math.log(10)) < 4 * errors[0]
    assert all(abs(part - math.log(10 / 9)) < 4 * error for part, error in zip(nats[1:], errors[1:], strict=True))
    assert errors[0] < 0.2


def test_the_error_of_a_tenth_is_the_spread_of_repeated_estimates():
    deciles = frequency_deciles(JOINT.rows(), COUNTS, num_deciles=3)
    found = [
        draw_nll(
            JOINT.denoise, JOINT.rows(), mask_id=3, groups=deciles.share, draws=DrawSettings(num_draws=480, seed=seed)
        ).likelihood()
        for seed in range(30)
    ]
    for group in range(3):
        ratios = torch.tensor([part.groups.ratios[group] for part in found if part.groups], dtype=torch.float64)
        assert ratios[:, 0].std().item() == pytest.approx(ratios[:, 1].mean().item(), rel=0.35)
