"""When sampling by uncertainty stops looking, of rows whose entropy in each step is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mdlm_atat.errors import UserError
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.loop import Sample, sample
from mdlm_atat.samplers.stops import Stop
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler

V = 2
# of a coin that shows its likelier side with this probability
NATS = {0.65: 0.647, 0.75: 0.562, 0.8: 0.5004, 0.81: 0.486, 0.88: 0.367, 0.9: 0.325, 0.95: 0.199}


def coins(likelier: Callable[[int], float]) -> Callable[[Tensor, Tensor], Tensor]:
    """Every token is a coin, whose likelier side has this probability while so many are masked."""

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        p = torch.tensor([likelier(number) for number in (z_t == V).sum(1).tolist()], dtype=torch.float64)
        return torch.stack([p, 1 - p], dim=-1).log()[:, None].expand(-1, z_t.shape[1], -1)

    return denoise


def one_by_one(likelier: Callable[[int], float], stop: Stop, left: Sequence[int], **more: Any) -> Sample:
    """Rows of 12 with so many left to fill, one token a step, until they stop."""
    canvas = Canvas.with_prefixes([[0] * (12 - number) for number in left], 12, V)
    rule = UncertaintyGuidedSampler(num_steps=None, stop=stop, **more)
    return sample(coins(likelier), canvas, rule, mask_id=V, seeds=range(len(left)))


def test_the_coins_entropies_are_what_they_are_said_to_be():
    p = torch.tensor(list(NATS), dtype=torch.float64)
    entropy = torch.special.entr(torch.stack([p, 1 - p])).sum(0)
    assert (entropy - torch.tensor(list(NATS.values()))).abs().max() < 6e-4


@pytest.mark.parametrize(
    ("stop", "before", "after"),
    [
        (Stop(entropy=0.5), 0.8, 0.81),  # .5004 and .486 nats
        (Stop(relative_entropy=0.5), 0.88, 0.9),  # .367 and .325 nats, half of log 2 is .347
        (Stop(entropy=0.1, relative_entropy=0.5), 0.88, 0.9),  # either of them is enough
    ],
)
def test_a_row_stops_when_its_mean_entropy_falls_below_the_limit_with_5_left(stop: Stop, before: float, after: float):
    result = one_by_one(lambda left: before if left > 5 else after, stop, [12, 8, 5, 1])
    assert result.trace.nfe.tolist() == [8, 4, 1, 1]
    counts = [row.bincount(minlength=9)[1:].tolist() for row in result.trace.revealed_at_step]
    assert counts[0] == [1, 1, 1, 1, 1, 1, 1, 5]
    assert counts[1] == [1, 1, 1, 5, 0, 0, 0, 0]
    assert counts[2] == [5, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("likelier", "few", "nfe"), [(0.75, 5, 9), (0.75, 8, 6), (0.65, 5, 12), (0.75, 1, 12)])
def test_confidence_above_7_tenths_stops_a_row_of_12_once_fewer_than_5_are_left(likelier: float, few: int, nfe: int):
    result = one_by_one(always(likelier), Stop(confidence=0.7, few=few), [12, 3])
    assert result.trace.nfe[0] == nfe
    assert result.trace.nfe[1] == (1 if likelier > 0.7 and few > 3 else 3)


def falls_until(least: int) -> Callable[[int], float]:
    """Entropy falls from step to step until so many are left, and rises a little after that."""
    return lambda left: 0.95 - 0.02 * abs(left - least)


def always(p: float) -> Callable[[int], float]:
    return lambda _: p


@pytest.mark.parametrize(
    ("least", "patience", "nfe"),
    [
        (8, 3, 9),  # lowest at step 5, but steps 6 and before are not counted: 7, 8, 9
        (8, 1, 7),
        (5, 3, 11),  # lowest at step 8: 9, 10, 11
        (3, 3, 12),  # lowest at step 10: two steps later it is done
        (0, 1, 12),  # lower in every step
    ],
)
def test_patience_counts_the_steps_without_a_lower_entropy_after_step_6_of_12(least: int, patience: int, nfe: int):
    result = one_by_one(falls_until(least), Stop(patience=patience), [12])
    assert result.trace.nfe.tolist() == [nfe]
    assert result.trace.revealed_at_step.amax() == nfe


def test_half_of_the_steps_is_half_of_the_rows_own_also_beside_a_row_of_12():
    """Rows of 4 and 12 whose entropy never falls: step 3 of 4 and step 7 of 12 are the first that count."""
    result = one_by_one(always(0.75), Stop(patience=1), [4, 12])
    assert result.trace.nfe.tolist() == [3, 7]
    result = one_by_one(always(0.75), Stop(patience=1), [4])
    assert result.trace.nfe.tolist() == [3]


def test_a_threshold_beside_a_stop_reveals_what_it_would_without_one_before_it():
    result = one_by_one(
        lambda left: 0.75 if left > 5 else 0.81, Stop(entropy=0.5), [8], amount="threshold", threshold=0.8
    )
    assert result.trace.revealed_at_step[0, 4:].tolist() == [1, 2, 3, 4, 4, 4, 4, 4]
    assert result.trace.nfe.tolist() == [4]


def test_the_mean_is_over_masked_positions_only():
    """Fixed tokens, of which the network is sure, do not make a row stop."""

    def denoise(z_t: Tensor, t: Tensor) -> Tensor:
        p = torch.where(z_t == V, 0.8, 0.999).double()
        return torch.stack([p, 1 - p], dim=-1).log()

    canvas = Canvas.with_prefixes([[0] * 9, []], 12, V)
    rule = UncertaintyGuidedSampler(num_steps=None, stop=Stop(entropy=0.5, confidence=0.9))
    assert sample(denoise, canvas, rule, mask_id=V, seeds=[0, 1]).trace.nfe.tolist() == [3, 12]


@pytest.mark.parametrize("name", ["entropy", "relative_entropy", "confidence", "few", "patience"])
def test_a_negative_limit_is_refused_by_its_name(name: str):
    with pytest.raises(UserError, match=f"stop.{name} is -1, expected at least 0"):
        Stop(**{name: -1})
