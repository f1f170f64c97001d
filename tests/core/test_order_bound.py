# ruff: noqa: ARG002 (stand-ins take what the real thing takes)
"""The bound on the order alone."""

import pytest
import torch
from exact import (
    CASES,
    CONTENT_FREE,
    JOINT,
    JOINTS,
    TILT,
    TOKEN_IDENTITY,
    OrderNetwork,
    enumerated_bound,
    enumerated_order_bound,
    exact,
    order_network,
)

from mdlm_atat.core.schedules import Linear
from mdlm_atat.scoring.draws import DrawSettings
from mdlm_atat.scoring.schedule_bound import draw_schedule_nll

PLACKETT_LUCE = [case for case in CASES if case.make(Linear()).is_plackett_luce]


@pytest.mark.parametrize("vocab", [3, 4])
@pytest.mark.parametrize("case", CONTENT_FREE, ids=repr)
def test_the_order_form_is_the_continuous_one_to_1e_6_where_rates_are_free_of_content(case, vocab):
    joint = JOINTS[vocab]
    assert enumerated_order_bound(order_network(case, joint)) == pytest.approx(
        enumerated_bound(exact(case, joint)), abs=1e-6
    )


@pytest.mark.parametrize("tilt", [0.0, 0.03])
@pytest.mark.parametrize("vocab", [3, 4])
@pytest.mark.parametrize("case", [case for case in PLACKETT_LUCE if case not in CONTENT_FREE], ids=repr)
def test_the_order_form_is_1e_4_nats_or_more_above_the_entropy_where_rates_read_content(case, vocab, tilt):
    joint = JOINTS[vocab]
    assert enumerated_order_bound(order_network(case, joint, tilt=tilt)) > joint.entropy_nats + 1e-4


SOME_TILTED = [(case, 0.0) for case in PLACKETT_LUCE] + [(case, TILT) for case in PLACKETT_LUCE[::5]]


@pytest.mark.parametrize(("case", "tilt"), SOME_TILTED, ids=repr)
def test_6400_draws_of_the_order_form_estimate_its_bound_within_four_standard_errors(case, tilt):
    network = order_network(case, JOINT, tilt=tilt)
    draws = draw_schedule_nll(
        network,
        JOINT.rows(),
        masking=case.make(Linear()),
        stage=case.stage,
        form="order",
        mask_id=3,
        draws=DrawSettings(num_draws=6400, batch_size=6400),
    )
    nats, error = draws.nelbo()
    assert error < 0.0085
    assert abs(nats - enumerated_order_bound(network) / 3) < 4 * error


@pytest.mark.parametrize("case", PLACKETT_LUCE, ids=repr)
def test_with_one_network_that_knows_no_time_none_of_3200_draws_of_the_order_form_is_above_the_continuous_one(case):
    network = order_network(case, JOINT, tilt=TILT)
    continuous, order = (
        draw_schedule_nll(
            network,
            JOINT.rows(),
            masking=case.make(Linear()),
            stage=case.stage,
            form=form,
            mask_id=3,
            draws=DrawSettings(num_draws=3200, batch_size=3200),
        )
        for form in ("continuous", "order")
    )
    assert order.diffusion.equal(continuous.diffusion)
    assert (order.rates <= continuous.rates + 1e-12).all()
    if case in CONTENT_FREE:
        assert continuous.rates.abs().max() < 1e-12
    else:
        assert (continuous.rates - order.rates).mean() > 1e-3


def test_in_the_order_form_the_network_is_told_the_share_of_masked_tokens_in_thirds():
    told = []

    class Listening(OrderNetwork):
        def logits_and_log_speed(self, z_t, t, lengths=None):
            told.append((t, (z_t == self.mask_id).sum(1)))
            return super().logits_and_log_speed(z_t, t)

    case = TOKEN_IDENTITY[0]
    draw_schedule_nll(
        Listening(JOINT, case.make(Linear())),
        JOINT.rows(),
        masking=case.make(Linear()),
        mask_id=3,
        form="order",
        draws=DrawSettings(num_draws=320),
    )
    for t, num_masked in told:
        torch.testing.assert_close(t, num_masked / 3)
    assert sum(len(t) for t, _ in told) == 320


def test_1_masking_whose_speeds_change_with_t_has_no_order_form():
    case = TOKEN_IDENTITY[2]
    with pytest.raises(ValueError, match="do not change with t"):
        draw_schedule_nll(
            exact(case, JOINT),
            JOINT.rows(),
            masking=case.make(Linear()),
            form="order",
            mask_id=3,
            draws=DrawSettings(num_draws=32),
        )
