"""Samplers on a joint so small that every text, every order and every partly masked state can be enumerated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.loop import Sample, StepRule, sample
from toys import Joint

LENGTH, NUM_ROWS = 3, 2000
CHANCE = 3.5  # chi-square over 7 degrees of freedom has mean 1, and exceeds 3.5 once in a thousand times (5: in 300)


def full_joint() -> Joint:
    """Three places, two kinds of tokens, every text possible, and the places depend on each other."""
    return Joint(Joint.random(LENGTH, vocab=2).sequences, torch.tensor([30, 2, 5, 11, 3, 14, 27, 4]))


def wider_joint() -> Joint:
    """Three kinds of tokens: which place the network is sure of depends on what is there."""
    texts = Joint.random(LENGTH, vocab=3).sequences
    return Joint(texts, torch.randint(1, 40, (len(texts),), generator=torch.Generator().manual_seed(5)))


JOINT, WIDER = full_joint(), wider_joint()
MASK = JOINT.mask_id
STATES = torch.tensor(list(product(range(MASK + 1), repeat=LENGTH)))  # every partly masked text, (27, L)

Denoise = Callable[..., Any]


def drawn(rule: StepRule, num_rows: int = NUM_ROWS, denoise: Denoise = JOINT.denoise) -> Sample:
    return sample(denoise, Canvas.blank(num_rows, LENGTH, MASK), rule, mask_id=MASK, seeds=range(num_rows))


def how_often(rule: StepRule, num_rows: int = NUM_ROWS, denoise: Denoise = JOINT.denoise) -> Tensor:
    """How often each text of the joint is sampled, (N,)."""
    index = drawn(rule, num_rows, denoise).tokens @ torch.tensor([4, 2, 1])
    return index.bincount(minlength=len(JOINT.sequences))


def chi_square_per_degree(observed: Tensor, probs: Tensor) -> float:
    expected = probs * observed.sum()
    return ((observed - expected) ** 2 / expected).sum().item() / (len(probs) - 1)


def total_variation(p: Tensor, q: Tensor) -> float:
    return (p - q).abs().sum().item() / 2


def forced(rule: StepRule, *, seed: int = 0, denoise: Denoise | None = None, joint: Joint = JOINT) -> Sample:
    """Every text of the joint revealed by a rule, none drawn."""
    texts, mask_id = joint.sequences, joint.mask_id
    canvas, seeds = Canvas.blank(len(texts), texts.shape[1], mask_id), [seed] * len(texts)
    return sample(denoise or joint.denoise, canvas, rule, mask_id=mask_id, seeds=seeds, known=texts)


def text_probs(rule: StepRule, *, seed: int = 0, denoise: Denoise | None = None, joint: Joint = JOINT) -> Tensor:
    """The probability with which a rule generates each text of the joint, by what it costs when it is forced, (N,)."""
    return forced(rule, seed=seed, denoise=denoise, joint=joint).trace.nll.neg().exp()


def in_groups(groups: Sequence[Sequence[int]]) -> Tensor:
    """Probability of each text, (N,), when these positions are revealed group after group, each drawn independently."""
    texts = JOINT.sequences
    z_t, probs = torch.full_like(texts, MASK), torch.ones(len(texts), dtype=torch.float64)
    for group in groups:
        chosen = JOINT.denoise(z_t, torch.zeros(len(texts))).exp().gather(-1, texts[..., None])[..., 0]  # (N, L)
        probs = probs * chosen[:, list(group)].prod(1)
        z_t[:, list(group)] = texts[:, list(group)]
    return probs


def in_groups_of_steps(steps: Tensor) -> Tensor:
    """The same for each text in the groups of its own, which the steps (N, L) of its places make."""
    groups = [[(row == step).nonzero()[:, 0].tolist() for step in range(1, int(row.max()) + 1)] for row in steps]
    return torch.stack([in_groups(own)[text] for text, own in enumerate(groups)])


def in_random_groups(sizes: Sequence[int]) -> Tensor:
    """The same for positions in a uniformly random order, cut into groups of these sizes."""
    orders = [
        in_groups([order[sum(sizes[:k]) : sum(sizes[: k + 1])] for k in range(len(sizes))])
        for order in permutations(range(LENGTH))
    ]
    return torch.stack(orders).mean(0)


def token_probs(denoise: Denoise, t: float = 0.0) -> Tensor:
    """Of every state, (27, L, V); what is visible is copied."""
    found = denoise(STATES, torch.full((len(STATES),), t))
    logits = found if isinstance(found, Tensor) else found.logits(torch.arange(LENGTH).expand_as(STATES))
    probs = logits.softmax(-1)
    return torch.where((STATES == MASK)[..., None], probs, F.one_hot(STATES, MASK + 1)[..., :MASK].double())


def step_of_chain(tokens: Tensor, reveal: Tensor | float, remask: float = 0.0) -> Tensor:
    """Probabilities (27, 27) to go from one state to the other, if every masked position is revealed with probability
    `reveal` and every other one masked again with probability `remask`, independently."""
    reveal = torch.as_tensor(reveal, dtype=torch.float64)
    shown = torch.where(STATES == MASK, reveal, 1 - remask)[..., None]  # afterwards
    after = torch.cat([shown * tokens, 1 - shown], dim=-1)  # (27, L, V + 1)
    return torch.stack([after[:, i, STATES[:, i]] for i in range(LENGTH)]).prod(0)


def chain(steps: Sequence[Tensor]) -> Iterator[Tensor]:
    """The distribution over states, (27,), after each step from everything masked."""
    p = (STATES == MASK).all(1).double()
    for step in steps:
        p = p @ step
        yield p


def at_the_end(steps: Sequence[Tensor]) -> Tensor:
    """Over the joint's texts, (N,), after the last step."""
    *_, p = chain(steps)
    return p[(STATES != MASK).all(1)]


def share_masked(p: Tensor) -> float:
    return (p[:, None] * (STATES == MASK)).sum(0).mean().item()
