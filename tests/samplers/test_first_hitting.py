from itertools import permutations

import pytest
import torch

from mdlm_atat.samplers.ancestral import Ancestral
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.loop import sample
from samplers.enumerated import (
    CHANCE,
    JOINT,
    chi_square_per_degree,
    drawn,
    forced,
    how_often,
    in_groups_of_steps,
    in_random_groups,
    text_probs,
)
from samplers.stand_ins import Hashed

IN_TWO, IN_ONE = FirstHitting(num_steps=2), FirstHitting(num_steps=1)


@pytest.mark.parametrize("seed", range(6))
def test_one_at_a_time_every_text_has_exactly_its_probability_in_every_order(seed: int):
    torch.testing.assert_close(text_probs(FirstHitting(), seed=seed), JOINT.probs)


def test_samples_one_at_a_time_follow_the_joint_in_3_evaluations():
    assert chi_square_per_degree(how_often(FirstHitting()), JOINT.probs) < CHANCE
    assert drawn(FirstHitting(), 10).trace.nfe.tolist() == [3] * 10


def test_each_of_the_6_orders_is_equally_likely():
    order = drawn(FirstHitting()).trace.revealed_at_step
    counts = torch.stack([(order == torch.tensor(p)).all(1).sum() for p in permutations([1, 2, 3])])
    assert chi_square_per_degree(counts, torch.full((6,), 1 / 6)) < CHANCE


@pytest.mark.parametrize("seed", range(6))
def test_a_group_of_2_costs_the_product_of_its_conditionals(seed: int):
    """What a text costs in the groups that this seed makes, against their enumeration."""
    trace = forced(IN_TWO, seed=seed).trace
    assert (trace.revealed_at_step.sort(1).values == torch.tensor([1, 1, 2])).all()
    torch.testing.assert_close(trace.nll.neg().exp(), in_groups_of_steps(trace.revealed_at_step))


@pytest.mark.parametrize(("rule", "sizes"), [(IN_TWO, (2, 1)), (IN_ONE, (3,))])
def test_samples_in_groups_follow_the_mean_over_orders_and_not_the_joint(rule: FirstHitting, sizes: tuple[int, ...]):
    observed = how_often(rule, num_rows=6000)
    assert chi_square_per_degree(observed, in_random_groups(sizes)) < CHANCE
    assert chi_square_per_degree(observed, JOINT.probs) > 10
    assert (drawn(rule, 10).trace.nfe == len(sizes)).all()


def test_ancestral_sampling_of_4000_steps_reveals_the_same_tokens_in_the_same_order():
    """Position by position the same random numbers: no two of 7 fall into one of so many steps."""
    canvas, denoise = Canvas.with_prefixes([[], [1, 2], [], [3]], 7, 5), Hashed(5, reads_time=False)
    rules = (Ancestral(num_steps=4000), FirstHitting())
    results = [sample(denoise, canvas, rule, mask_id=5, seeds=range(4)) for rule in rules]
    many, jumps = (result.trace.revealed_at_step for result in results)
    assert all(len(set(row[row > 0].tolist())) == int((row > 0).sum()) for row in many)
    assert many.argsort(1).equal(jumps.argsort(1))
    assert results[0].tokens.equal(results[1].tokens)
    torch.testing.assert_close(results[0].trace.confidence, results[1].trace.confidence, equal_nan=True)
    assert results[0].trace.nfe.equal(results[1].trace.nfe)
