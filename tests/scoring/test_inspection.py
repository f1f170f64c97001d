import json
import math

import numpy as np
import pytest
import torch

from mdlm_atat.core.schedules import Linear
from mdlm_atat.core.strategies.by_importance import AdaptiveMaskingScheduler
from mdlm_atat.core.strategies.uniform import UniformMasking
from mdlm_atat.errors import UserError
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.inspection import (
    DEFAULT_TIMES,
    Inspection,
    inspect_rows,
    mask_share,
    partition_masks,
    pearson,
    spearman,
    token_texts,
)

PROBS = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)  # of tokens 0..3, whatever is around them
MASK = 4
IDS = np.array([[0, 1, 2, 0, 1, 0, 3, 0, 1, 2, 0, 0], [1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
LENGTHS = np.array([12, 4])


class Fake:
    """A network whose loss of token v is -log p_v, and whose importance of a clean token is `slope` times that plus
    1/2; of a mask it is the share of the row that is masked."""

    def __init__(self, slope: float = 0.1) -> None:
        self.slope = slope
        self.batch_sizes: list[int] = []

    def __call__(self, z_t, t, lengths=None):
        assert lengths is None
        self.batch_sizes.append(len(z_t))
        assert torch.allclose(t, (z_t == MASK).float().mean(1))  # told what is masked
        return PROBS.log().expand(*z_t.shape, 4)

    def importance_score(self, tokens, t):
        return t[:, None].expand(tokens.shape)

    def importance(self, tokens, score):
        nll = torch.cat([-PROBS.log(), torch.zeros(1)])[tokens]
        return torch.where(tokens == MASK, score, 0.5 + self.slope * nll).float()


def inspected(network: Fake | None = None, **changed) -> Inspection:
    drawn = {name: changed.pop(name) for name in ("num_draws", "seed", "batch_size", "on_progress") if name in changed}
    settings = {"masking": UniformMasking(Linear()), "mask_id": MASK, **changed}
    network = network or Fake()
    drawn = DrawSettings(**{"num_draws": 4, **drawn})
    return inspect_rows(network, IDS, LENGTHS, denoise=network, draws=drawn, **settings)


def test_the_loss_of_every_token_is_the_networks_and_padding_is_left_out():
    found = inspected()
    assert found.tokens.tolist() == [*IDS[0], *IDS[1, :4]]
    expected = -PROBS.log()[torch.from_numpy(found.tokens)].numpy()
    assert found.nll.shape == (9, 16)
    assert np.allclose(found.nll, expected)
    assert np.allclose(found.mean_nll, expected)
    assert np.allclose(found.importance, 0.5 + 0.1 * expected)


def test_importance_that_is_the_loss_correlates_1_and_its_opposite_minus_1_at_every_t():
    for slope, expected in ((0.1, 1.0), (-0.1, -1.0)):
        found = inspected(Fake(slope))
        for time in (None, *range(9)):
            assert found.correlation(time) == pytest.approx((expected, expected))
    constant = inspected(Fake(0.0)).correlation()
    assert math.isnan(constant.pearson)
    assert math.isnan(constant.spearman)


def test_masked_importance_is_what_the_estimator_says_of_masks():
    found = inspected()
    assert np.abs(found.masked_importance[:, :12] - found.times[:, None]).max() < 1 / 12  # a row of 12 tokens
    assert inspected(times=(1.0,)).masked_importance == pytest.approx(np.ones((1, 16)))


def test_the_mask_rate_is_the_maskings_own():
    assert np.allclose(inspected().mask_rate, np.array(DEFAULT_TIMES)[:, None])
    found = inspected(masking=AdaptiveMaskingScheduler(Linear(), "inverse", temperature=0.5))
    distance = (found.importance[:12] - found.importance[:12].mean()) / 0.5
    assert np.allclose(found.mask_rate[:, :12], found.times[:, None] ** np.exp(distance), atol=1e-6)


def test_the_numbers_are_the_same_for_every_batch_size_and_other_times_and_change_with_the_seed():
    network = Fake()
    whole, parts = inspected(), inspected(network, batch_size=7)
    assert max(network.batch_sizes) == 7
    assert np.array_equal(whole.masked_importance, parts.masked_importance)
    assert np.array_equal(inspected(times=(0.3,)).masked_importance[0], whole.masked_importance[2])
    assert not np.array_equal(inspected(seed=1).masked_importance, whole.masked_importance)


@pytest.mark.parametrize("t", [1e-310, 0.01, 0.1, 0.3, 0.37, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("length", [1, 2, 7, 128])
def test_a_partition_masks_every_position_equally_often_and_about_t_of_a_row(t: float, length: int):
    masks = partition_masks(t, length, 3, np.random.default_rng(0))
    assert len(set(masks.sum(0).tolist())) == 1
    assert masks.sum(0)[0] >= 3
    share = mask_share(t, length)
    # groups differ by one token; and a short row cannot be masked by any share
    assert np.abs(masks.sum(1) - share * length).max() <= share.numerator
    assert abs(share - t) <= max(0.03, 1 / length)
    assert masks.any(1).all()


def test_default_times_cost_62_masks_of_a_long_row_in_every_partition():
    assert sum(mask_share(t, 256).denominator for t in DEFAULT_TIMES) == 62


def test_spearman_shares_the_rank_of_equal_values():
    assert spearman(np.array([1.0, 2.0, 2.0, 9.0]), np.array([10.0, 20.0, 20.0, 30.0])) == pytest.approx(1)
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5
    assert spearman(np.array([1.0, 2.0, 2.0, 9.0]), np.array([0.0, 1.0, 2.0, 3.0])) == pytest.approx(4.5 / 22.5**0.5)
    assert pearson(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(
        np.corrcoef([1, 2, 4], [1, 3, 2])[0, 1]
    )
    assert math.isnan(pearson(np.full(3, 0.1), np.arange(3.0)))
    assert math.isnan(spearman(np.array([0.5]), np.array([0.5])))


def test_the_record_is_json_of_4_decimals_with_the_correlation_of_each_t():
    found = inspected()
    record = json.loads(json.dumps(found.record(list("abcabcabcabcabcd"), {"strategy": "uniform"})))
    assert record["strategy"] == "uniform"
    assert record["texts"][3] == "a"
    assert record["nll"][0][0] == round(math.log(2), 4) == 0.6931
    assert record["lengths"] == [12, 4]
    assert record["correlation"]["pearson"] == pytest.approx(1)
    assert len(record["correlation"]["spearman_at_t"]) == 9
    assert np.array(record["masked_importance"]).shape == np.array(record["mask_rate"]).shape == (9, 16)


@pytest.mark.parametrize("times", [(), (0.0,), (0.5, 1.1), (-0.1,), (math.nan,)])
def test_times_outside_0_to_1_are_a_users_mistake(times):
    with pytest.raises(UserError, match=r"above 0 and at most 1"):
        inspected(times=times)


def test_0_draws_are_a_users_mistake():
    with pytest.raises(UserError, match="`num_draws=` is 0"):
        inspected(num_draws=0)


def test_word_pieces_keep_the_space_before_them_and_lose_the_mark_of_a_continuation():
    pieces = ["the", "play", "##ing", "ball", "!"]

    def decode(tokens: list[int]) -> str:
        text = " ".join(pieces[token] for token in tokens)
        return text.replace(" ##", "").replace(" !", "!")

    assert token_texts(decode, [0, 1, 2, 3, 4]) == ["the", " play", "ing", " ball", "!"]


def test_halves_of_a_character_are_each_decoded_alone():
    def decode(tokens: list[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    assert token_texts(decode, list("aé".encode())) == ["a", "\ufffd", "\ufffd"]
