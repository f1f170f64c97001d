"""The loss of two ways: how rows are split, and what each mode's part is."""

from fractions import Fraction

import pytest
import torch

from mdlm_atat.core.left_to_right import CausalNLL
from mdlm_atat.core.objective import FusedLoss, MaskedDiffusion, TimePlan
from mdlm_atat.core.schedules import Linear
from mdlm_atat.core.strategies.uniform import UniformMasking
from mdlm_atat.core.times import UniformTime, Weighting
from mdlm_atat.core.two_ways import TwoWays
from mdlm_atat.nets.two_way import TwoWayDiT

V, L = 7, 10


def masked(batch_size: int, fused: bool) -> MaskedDiffusion:
    schedule = Linear()
    plan = TimePlan(UniformTime(), Weighting("elbo", schedule, UniformTime(), 0.1))
    loss = FusedLoss(batch_size) if fused else None
    return MaskedDiffusion(schedule, lambda _: plan, V, UniformMasking(schedule), fused=loss)


def two_ways(share: Fraction, batch_size: int = 12, fused: bool = False) -> TwoWays:
    num_masked = int(batch_size * (1 - share))
    return TwoWays(masked(num_masked, fused), CausalNLL(FusedLoss(batch_size) if fused else None), share)


def network() -> TwoWayDiT:
    torch.manual_seed(0)
    made = TwoWayDiT(V, L, num_layers=1, width=16, num_heads=2)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return made.eval()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("share", [Fraction(1, 2), Fraction(1, 4), Fraction(2, 3)])
@pytest.mark.parametrize("fused", [False, True])
def test_the_loss_is_the_mean_over_rows_each_trained_in_its_own_way(share, fused):
    objective, model, x0 = two_ways(share, fused=fused), network(), torch.randint(0, V, (12, L))
    draw = objective.draw(12, L, generator())
    found = objective.loss(model, x0, None, draw, 12 * L)
    period, num_causal = share.denominator, share.numerator
    reads = torch.tensor([row % period >= period - num_causal for row in range(12)])
    num_masked = int((~reads).sum())
    drawn = objective.masked.draw(num_masked, L, generator())
    diffusion = masked(num_masked, fused).loss(model, x0[~reads], None, drawn, num_masked * L)
    nll = torch.nn.functional.cross_entropy(model(x0[reads]).flatten(0, 1), x0[reads].flatten())
    assert found.terms.keys() == {"diffusion", "nll"}
    torch.testing.assert_close(found.terms["diffusion"], diffusion.total)
    torch.testing.assert_close(found.terms["nll"], nll)
    torch.testing.assert_close(found.total, (num_masked * diffusion.total + int(reads.sum()) * nll) / 12)


def test_any_parts_of_a_batch_split_alike_and_add_up_to_the_whole():
    objective, model, x0 = two_ways(Fraction(1, 4), 16), network(), torch.randint(0, V, (16, L))
    lengths = torch.tensor([3, 10, 7, 5] * 4)
    draw = objective.draw(16, L, generator())
    num_tokens = float(lengths.sum())
    whole = objective.loss(model, x0, lengths, draw, num_tokens).total
    for size in (4, 8):
        parts = [slice(start, start + size) for start in range(0, 16, size)]
        losses = [objective.loss(model, x0[part], lengths[part], draw[part], num_tokens).total for part in parts]
        torch.testing.assert_close(torch.stack(losses).sum(), whole)


def test_the_times_of_the_rows_to_mask_are_spread_over_the_whole_batch():
    draw = two_ways(Fraction(1, 3), 24).draw(24, L, generator())
    times = draw.t.view(8, 3)
    assert times[:, 2].eq(0).all()
    strata = (times[:, :2].flatten() * 16).long().sort().values
    assert strata.tolist() == list(range(16))  # one in each sixteenth


def test_every_weight_of_the_network_gets_a_gradient():
    objective, model, x0 = two_ways(Fraction(1, 2)), network(), torch.randint(0, V, (12, L))
    objective.loss(model, x0, None, objective.draw(12, L, generator()), 12 * L).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
