"""MAUVE: how far generated texts are from real ones, in both directions at once (Pillutla et al., arXiv 2102.01454).

Texts are points, the features that a judge gives them. Both sets are cut into the same clusters; with p and q the
shares of either set in each cluster, the frontier of exp(-5 KL(q | r)) against exp(-5 KL(p | r)), over the mixtures r
of the two, encloses an area between 0 (no cluster in common) and 1 (p = q). One direction is paid by texts that real
ones are not like, the other by real texts that are never generated: dull samples cannot win it, as they can generative
perplexity.

Written out rather than taken from the library mauve-text 0.4, which brings 200 MB (faiss, scikit-learn, scipy) for one
k-means. Its steps and constants are kept: unit features, 90% of the variance, n / 10 clusters, scale 5, 25 mixtures.
On the same histograms the area is the same to the last digit; on the same features the values differ by as much as
another seed of k-means changes them.

The estimate depends on the number of texts, on the judge and on the length: compare equal ones only, and put beside it
what real text gets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mdlm_atat.errors import UserError

SCALE = 5.0
NUM_MIXTURES = 25
EXPLAINED_VARIANCE = 0.9
TEXTS_PER_CLUSTER = 10
MAX_ITERATIONS = 100
PUBLISHED_TEXTS = 5000
"""What published values take. The estimate is noisy far below."""


@dataclass(frozen=True)
class Mauve:
    """A MAUVE value, and how far it depends on the clustering."""

    value: float
    """Mean over several clusterings, in [0, 1]; 1 is the best."""
    spread: float
    """Their standard deviation: how much of the value is k-means's luck. It says nothing of other texts."""
    num_clusters: int


def mauve(
    p: Float[Tensor, "texts width"],
    q: Float[Tensor, "others width"],
    *,
    num_clusters: int | None = None,
    num_clusterings: int = 5,
    seed: int = 0,
) -> Mauve:
    """MAUVE of two sets of features, from 0 to 1 (the same); it is symmetric in p and q. Raises UserError for fewer
    than two texts of either."""
    if min(len(p), len(q)) < 2:
        raise UserError(f"MAUVE compares sets of texts: {len(p)} and {len(q)} are too few, expected at least 2 of each")
    num_clusters = num_clusters or max(2, round(min(len(p), len(q)) / TEXTS_PER_CLUSTER))
    points = principal_components(torch.nn.functional.normalize(torch.cat([p, q]).double(), dim=1))
    values = []
    for clustering in range(num_clusterings):
        labels = k_means(points, num_clusters, torch.Generator(points.device).manual_seed(seed + clustering))
        shares = [torch.bincount(part, minlength=num_clusters).double() for part in labels.split([len(p), len(q)])]
        values.append(frontier_area(*(share / share.sum() for share in shares)))
    found = torch.tensor(values, dtype=torch.float64)
    return Mauve(found.mean().item(), found.std(correction=0).item(), num_clusters)


def frontier_area(p: Float[Tensor, " clusters"], q: Float[Tensor, " clusters"]) -> float:
    """Area under the divergence frontier of two histograms: 1 where they are the same, 0 where they are disjoint."""
    weight = torch.linspace(1e-6, 1 - 1e-6, NUM_MIXTURES, dtype=p.dtype, device=p.device)[:, None]
    mixture = weight * p + (1 - weight) * q  # (mixtures, clusters)

    def closeness(histogram: Tensor) -> Tensor:
        kl = torch.special.xlogy(histogram, histogram) - torch.special.xlogy(histogram, mixture)
        return torch.exp(-SCALE * torch.where(histogram > 0, kl, 0.0).sum(1))

    x, y = closeness(q), closeness(p)  # as the weight of p grows, x falls and y rises
    ends = x.new_tensor([0.0, 1.0])
    x, y = torch.cat([ends[1:], x, ends[:1]]), torch.cat([ends[:1], y, ends[1:]])
    return min(1.0, abs(torch.trapezoid(y, x).item()))


def principal_components(points: Float[Tensor, "points width"]) -> Float[Tensor, "points components"]:
    """Coordinates along the fewest directions that hold 90% of the variance."""
    centred = points - points.mean(0)
    u, size, _ = torch.linalg.svd(centred, full_matrices=False)
    held = size.square().cumsum(0)
    total = held[-1].clamp_min(1e-300)  # of points that are all the same
    num_components = int((held / total < EXPLAINED_VARIANCE).sum()) + 1
    return (u * size)[:, :num_components]


def k_means(
    points: Float[Tensor, "points width"], num_clusters: int, generator: torch.Generator
) -> Int[Tensor, " points"]:
    """The cluster of each point, by Lloyd's iterations from centres that k-means++ draws."""
    centres = _first_centres(points, num_clusters, generator)
    labels = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for _ in range(MAX_ITERATIONS):
        distance, found = torch.cdist(points, centres).min(1)
        if found.equal(labels):
            break
        labels = found
        size = torch.bincount(labels, minlength=num_clusters).to(points.dtype)
        total = torch.zeros_like(centres).index_add_(0, labels, points)
        centres = total / size.clamp_min(1)[:, None]
        if (size == 0).any():  # an empty cluster starts again at the point that is the worst served
            centres[size == 0] = points[distance.topk(int((size == 0).sum())).indices]
    return labels


def _first_centres(
    points: Float[Tensor, "points width"], num_clusters: int, generator: torch.Generator
) -> Float[Tensor, "clusters width"]:
    """Points drawn one by one, each by its squared distance to the nearest one so far (Arthur & Vassilvitskii 2007)."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator, device=points.device))]
    nearest = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < num_clusters:
        weights = nearest if nearest.sum() > 0 else torch.ones_like(nearest)  # fewer different points than clusters
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]
