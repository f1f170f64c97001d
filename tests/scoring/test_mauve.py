import pytest
import torch

from mdlm_atat.errors import UserError
from mdlm_atat.scoring.mauve import frontier_area, k_means, mauve, principal_components


def clouds(num_texts: int, shares: list[float], *, seed: int = 0, width: int = 16) -> torch.Tensor:
    """Points around far-apart corners, the first share of them around the first one, and so on."""
    generator = torch.Generator().manual_seed(seed)
    counts = [round(share * num_texts) for share in shares]
    corner = torch.eye(len(shares), width).repeat_interleave(torch.tensor(counts), dim=0)
    return corner + 0.01 * torch.randn(sum(counts), width, generator=generator)


def test_a_set_of_texts_is_like_itself_to_the_last_digit():
    points = torch.randn(60, 32, generator=torch.Generator().manual_seed(0))
    found = mauve(points, points)
    assert found.value == pytest.approx(1, abs=1e-12)
    assert found.spread < 1e-12
    assert found.num_clusters == 6


def test_texts_that_have_nothing_in_common_are_near_0():
    assert mauve(clouds(80, [1, 0]), clouds(80, [0, 1])).value < 0.01


def test_two_draws_of_the_same_kind_are_near_1_and_a_shift_falls_below():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 300, 8, generator=generator)
    near = mauve(first, second).value
    shifted = second + 1.5 * torch.eye(8)[0]
    far = mauve(first, shifted).value
    assert near > 0.9
    assert 0.05 < far < 0.8


def test_of_clusters_far_apart_the_value_is_the_area_of_their_shares():
    p, q = [0.5, 0.3, 0.2, 0.0], [0.2, 0.3, 0.2, 0.3]
    found = mauve(clouds(200, p), clouds(200, q, seed=1), num_clusters=4)
    expected = frontier_area(torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64))
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert found.spread < 1e-9


@pytest.mark.parametrize(
    ("p", "q", "area"),
    [
        # by the library mauve-text 0.4.0 on the same histograms
        ([1.0, 0.0], [0.5, 0.5], 0.27811372536724027),
        ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6], 0.26298917731813637),
        ([1.0, 0.0], [0.0, 1.0], 0.0040720962619612555),
    ],
)
def test_the_area_is_the_librarys_in_both_directions(p, q, area):
    histograms = torch.tensor([p, q], dtype=torch.float64)
    assert frontier_area(histograms[0], histograms[1]) == pytest.approx(area, abs=1e-9)
    assert frontier_area(histograms[1], histograms[0]) == pytest.approx(area, abs=1e-9)


def test_dull_texts_lose_though_each_of_them_is_real():
    real = clouds(200, [0.25] * 4)
    dull = clouds(200, [1, 0, 0, 0], seed=1)
    assert mauve(real, dull, num_clusters=4).value < 0.15
    assert mauve(dull, real, num_clusters=4).value == pytest.approx(mauve(real, dull, num_clusters=4).value, abs=0.02)


def test_k_means_finds_clusters_far_apart_for_every_seed():
    points = clouds(90, [0.5, 0.3, 0.2]).double()
    for seed in range(10):
        labels = k_means(points, 3, torch.Generator().manual_seed(seed))
        assert sorted(torch.bincount(labels).tolist()) == [18, 27, 45]


def test_fewer_different_points_than_clusters_are_no_failure():
    points = torch.ones(20, 4)
    found = mauve(points, points[:12])
    assert found.value == pytest.approx(1)
    assert mauve(torch.zeros(4, 3), torch.zeros(4, 3)).value == pytest.approx(1)


def test_principal_components_hold_nine_tenths_of_the_variance_and_no_more_than_they_must():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(400, 6, generator=generator, dtype=torch.float64) * torch.tensor([10, 10, 1, 0.1, 0.1, 0.1])
    found = principal_components(points)
    assert found.shape == (400, 2)
    assert found.var(0).sum() / points.var(0).sum() > 0.9


def test_one_text_is_refused():
    with pytest.raises(UserError, match="1 and 5 are too few"):
        mauve(torch.ones(1, 3), torch.ones(5, 3))
