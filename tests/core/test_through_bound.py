# ruff: noqa: ARG002, ARG005 (stand-ins take what the real thing takes)
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from exact import time_nodes
from torch import Tensor, nn

from mdlm_atat.core import objective as objective_module
from mdlm_atat.core.objective import Draw, FusedLoss, MaskedDiffusion, TimePlan, leave_one_out
from mdlm_atat.core.schedules import Cosine, Linear, Schedule
from mdlm_atat.core.strategies.by_importance import AdaptiveMaskingScheduler
from mdlm_atat.core.strategies.by_position import PositionAwareMaskingScheduler
from mdlm_atat.core.strategies.rates import Clean, ExponentMasking, MaskingScheduler
from mdlm_atat.core.times import UniformTime, Weighting

MASK_ID = 3
X0 = torch.tensor([[0, 2]])
HIDE, SHOW = 0.0, 1.0  # uniform numbers that mask a token at any rate, and at none
PAIRS = list(itertools.product([False, True], repeat=2))  # masks of two tokens


class TinyModel(nn.Module):
    """A wrong denoiser of three kinds of tokens, whose estimator is a table: one score a kind."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([0.7, -0.4, -1.1, 0.0]))
        self.answers = nn.Parameter(torch.tensor([0.4, -0.3, 0.2]))
        self.told: list[float] = []

    def importance_score(self, tokens: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.scores[tokens]

    def importance(self, tokens: Tensor, score: Tensor) -> Tensor:
        return score.sigmoid()

    def logits_and_log_speed(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.told += t.tolist()
        seen = z_t.sum(1)[:, None, None] + 2 * torch.arange(z_t.shape[1])[None, :, None]  # (B, L, 1)
        logits = self.answers + (seen + torch.arange(3) + t[:, None, None]).sin()
        return logits, 0.3 * (seen[..., 0] + t[:, None]).cos() + self.answers[0]

    def forward(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.logits_and_log_speed(z_t, t)[0]


def by_importance(schedule: Schedule, model: TinyModel, center: float | None = None) -> AdaptiveMaskingScheduler:
    return AdaptiveMaskingScheduler(schedule, "inverse", 0.4, center=center)


def balanced(schedule: Schedule, model: TinyModel) -> AdaptiveMaskingScheduler:
    return AdaptiveMaskingScheduler(schedule, "balanced", 0.75, center=0.5)


def by_token(schedule: Schedule, model: TinyModel) -> AdaptiveMaskingScheduler:
    return by_importance(schedule, model, center=0.5)


def by_table(schedule: Schedule, model: TinyModel) -> PositionAwareMaskingScheduler:
    """The model's scores of the first two kinds of tokens serve as the table of two places."""
    return PositionAwareMaskingScheduler(schedule, "table", table=model.scores)


STRATEGIES = [by_importance, by_token, balanced, by_table]


def make_objective(schedule: Schedule, masking: MaskingScheduler, *, through_bound: bool = True) -> MaskedDiffusion:
    plan = TimePlan(UniformTime(), Weighting("elbo", schedule, UniformTime()))
    return MaskedDiffusion(schedule, lambda _: plan, MASK_ID, masking, through_bound=through_bound)


def exact_loss(schedule: Schedule, masking: ExponentMasking, model: TinyModel, t: float) -> Tensor:
    """E over the four masks of X0 at t of its loss, nats per sequence, written out, with its true gradient."""
    time = torch.tensor([t], dtype=torch.float64)
    importance = model.importance(X0, model.scores[X0])
    rates = masking(time, Clean(torch.ones(1, 2, dtype=torch.bool), importance=importance))
    weight = schedule.weight(time)
    total = torch.zeros((), dtype=torch.float64)
    for mask in PAIRS:
        is_masked = torch.tensor([mask])
        chance = torch.where(is_masked, rates.mask_rate, 1 - rates.mask_rate).prod()
        z_t = torch.where(is_masked, MASK_ID, X0)
        logits, log_hat = model.logits_and_log_speed(z_t, schedule.mask_rate(time).float())
        nll = -logits.log_softmax(-1).gather(-1, X0[..., None])[..., 0]
        cost = rates.speed * nll
        if masking.reads_content:
            cost = cost + rates.speed * (rates.speed.log() - log_hat) - rates.speed + log_hat.exp()
        total = total + chance * (weight * cost * is_masked).sum()
    return total


def chance_of(masking: ExponentMasking, model: TinyModel, t: float, mask: tuple[bool, ...]) -> float:
    importance = model.importance(X0, model.scores[X0])
    rate = masking(
        torch.tensor([t], dtype=torch.float64), Clean(torch.ones(1, 2, dtype=torch.bool), importance=importance)
    ).mask_rate
    return torch.where(torch.tensor([mask]), rate, 1 - rate).prod().item()


def every_pair(masking: ExponentMasking, model: TinyModel, t: float) -> Iterator[tuple[float, Tensor]]:
    """(probability, uniform numbers) of every pair of masks of X0."""
    for first, second in itertools.product(PAIRS, PAIRS):
        uniform = torch.tensor([[HIDE if hidden else SHOW for hidden in mask] for mask in (first, second)])
        yield chance_of(masking, model, t, first) * chance_of(masking, model, t, second), uniform


def expected_gradient(
    objective: MaskedDiffusion, masking: ExponentMasking, model: TinyModel, t: float
) -> tuple[float, dict[str, Tensor]]:
    """The code's loss and gradient, nats per sequence, in expectation over all pairs of masks."""
    x0 = torch.cat([X0, torch.ones_like(X0)])  # the second half of the rows is not used
    value, gradient = 0.0, {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for chance, uniform in every_pair(masking, model, t):
        draw = Draw(torch.tensor([t, 0.9], dtype=torch.float64), uniform)
        model.zero_grad()
        loss = objective.loss(model, x0, None, draw, num_tokens=2)
        loss.total.backward()
        value += chance * loss.total.item()
        for name, p in model.named_parameters():
            gradient[name] += 0.0 if p.grad is None else chance * p.grad
    return value, gradient


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_over_all_16_pairs_of_masks_the_gradient_is_that_of_the_expected_loss(strategy, schedule, t):
    model = TinyModel()
    masking = strategy(schedule, model)
    value, found = expected_gradient(make_objective(schedule, masking), masking, model, t)
    expected = exact_loss(schedule, masking, model, t)
    gradient = torch.autograd.grad(expected, list(model.parameters()))
    assert value == pytest.approx(expected.item(), rel=1e-5)
    for (name, _), exact in zip(model.named_parameters(), gradient, strict=True):
        torch.testing.assert_close(found[name], exact, rtol=1e-4, atol=1e-5)
        assert exact.abs().max() > 0.01


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_naive_autodiff_is_off_by_a_tenth_or_more_of_the_gradient_of_what_drives_the_masks(strategy, monkeypatch):
    monkeypatch.setattr(objective_module, "leave_one_out", lambda row_loss, log_prob: torch.zeros(()))
    model = TinyModel()
    masking = strategy(Linear(), model)
    _, naive = expected_gradient(make_objective(Linear(), masking), masking, model, 0.4)
    (exact,) = torch.autograd.grad(exact_loss(Linear(), masking, model, 0.4), [model.scores])
    assert (naive["scores"] - exact).norm() > 0.1 * exact.norm()


def test_naive_autodiff_drives_both_exponents_down_where_the_exact_gradient_moves_neither(monkeypatch):
    # A denoiser that knows nothing pays log 3 a token whatever the masks: the bound is flat, over all t.
    class Ignorant(TinyModel):
        def logits_and_log_speed(self, z_t, t, lengths=None):
            return torch.zeros(*z_t.shape, 3), torch.zeros_like(t)[:, None].expand(z_t.shape)

    def gradient_over_t() -> Tensor:
        model = Ignorant()
        masking = by_table(Linear(), model)
        total = torch.zeros(4)
        for t, dt in zip(*time_nodes(12, power=4), strict=True):
            _, found = expected_gradient(make_objective(Linear(), masking), masking, model, t.item())
            total += dt * found["scores"]
        return total[:2]

    assert gradient_over_t().abs().max() < 1e-4
    monkeypatch.setattr(objective_module, "leave_one_out", lambda row_loss, log_prob: torch.zeros(()))
    assert gradient_over_t().min() > 0.5


def test_unless_it_goes_through_the_bound_the_estimator_gets_0_gradient_from_it():
    model = TinyModel()
    objective = make_objective(Linear(), by_importance(Linear(), model), through_bound=False)
    draw = Draw(torch.tensor([0.5], dtype=torch.float64), torch.tensor([[HIDE, HIDE]]))
    objective.loss(model, X0, None, draw, num_tokens=2).total.backward()
    assert model.scores.grad is None or not model.scores.grad.any()
    assert model.answers.grad is not None
    assert model.answers.grad.abs().max() > 0.01


def test_two_tokens_of_text_and_two_of_padding_have_the_gradient_of_two_tokens():
    model = TinyModel()
    masking = by_importance(Linear(), model)  # its center is the mean over the text alone
    (exact,) = torch.autograd.grad(exact_loss(Linear(), masking, model, 0.4), [model.scores])
    objective = make_objective(Linear(), masking)
    x0 = torch.tensor([[0, 2, 1, 1], [1, 1, 1, 1]])
    found = torch.zeros(4)

    class Unpadded(TinyModel):
        def logits_and_log_speed(self, z_t, t, lengths=None):
            assert lengths is not None
            assert lengths.tolist() == [2, 2]
            logits, log_speed = super().logits_and_log_speed(z_t[:, :2], t)
            pad = nn.functional.pad
            return pad(logits, (0, 0, 0, 2)), pad(log_speed, (0, 2))

    model = Unpadded()
    for chance, uniform in every_pair(masking, model, 0.4):
        uniform = nn.functional.pad(uniform, (0, 2), value=HIDE)
        draw = Draw(torch.tensor([0.4, 0.9], dtype=torch.float64), uniform)
        model.zero_grad()
        objective.loss(model, x0, torch.tensor([2, 4]), draw, num_tokens=2).total.backward()
        assert model.scores.grad is not None
        found += chance * model.scores.grad
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


def test_each_of_the_first_2_of_4_rows_is_masked_twice_at_its_own_t():
    model = TinyModel()
    objective = make_objective(Linear(), by_importance(Linear(), model))
    draw = Draw(torch.tensor([0.2, 0.6, 0.7, 0.8], dtype=torch.float64), torch.rand(4, 2))
    objective.loss(model, X0.repeat(4, 1), None, draw, num_tokens=8)
    assert model.told == pytest.approx([0.2, 0.6, 0.2, 0.6])


def test_two_equal_losses_or_two_equal_masks_give_no_gradient_and_the_surrogates_value_is_0():
    log_prob = torch.tensor([-1.0, -2.0, -3.0, -2.0], requires_grad=True)
    surrogate = leave_one_out(torch.tensor([5.0, 4.0, 5.0, 1.0]), log_prob)
    assert surrogate.item() == 0.0
    surrogate.backward()
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [0.0, 3.0, 0.0, -3.0]


@pytest.mark.parametrize("t", [1e-9, 1.0])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_gradient_is_finite_at_a_billionth_and_at_1(strategy, t):
    model = TinyModel()
    objective = make_objective(Linear(), strategy(Linear(), model))
    uniform = torch.tensor([[HIDE, HIDE], [HIDE, HIDE if t == 1 else SHOW]])
    draw = Draw(torch.tensor([t, t], dtype=torch.float64), uniform)
    objective.loss(model, X0.repeat(2, 1), None, draw, num_tokens=4).total.backward()
    assert model.scores.grad is not None
    assert model.scores.grad.isfinite().all()


def test_the_gradient_is_finite_where_a_rate_of_a_millionth_to_the_55_is_0_in_float64():
    model = TinyModel()
    with torch.no_grad():
        model.scores[0] = 4.0  # the log of its exponent
    objective = make_objective(Linear(), by_table(Linear(), model))
    draw = Draw(torch.tensor([1e-6, 1e-6], dtype=torch.float64), torch.tensor([[SHOW, HIDE], [SHOW, SHOW]]))
    objective.loss(model, X0.repeat(2, 1), None, draw, num_tokens=4).total.backward()
    assert model.scores.grad is not None
    assert model.scores.grad.isfinite().all()


class WithLayer(TinyModel):
    """The same model with an output layer apart, as the fused loss asks for it."""

    def hidden(self, z_t: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        logits, self.speeds = self.logits_and_log_speed(z_t, t)
        return logits

    def output_layer(self) -> tuple[Tensor, None]:
        return torch.eye(3), None

    def log_speed(self, hidden: Tensor) -> Tensor:
        return self.speeds


@dataclass(frozen=True)
class RoomFor(FusedLoss):
    """A fused loss that scores so many places of a batch."""

    room: int = 0

    def capacity(self, *_, **__) -> int:
        return self.room


@pytest.mark.parametrize("room", [1, 3])
def test_where_1_or_3_of_4_masked_places_are_scored_the_expected_gradient_is_still_that_of_the_loss(room):
    """Over all 16 pairs of masks, and over all 24 orders in which the masked places may be scored."""
    model = WithLayer()
    masking = by_importance(Linear(), model)
    objective = replace(make_objective(Linear(), masking), fused=RoomFor(batch_size=2, room=room))
    clean = Clean(torch.ones(1, 2, dtype=torch.bool), importance=model.importance(X0, model.scores[X0]))
    rate = masking(torch.tensor([0.4], dtype=torch.float64), clean).mask_rate.detach().repeat(2, 1)
    expected = exact_loss(Linear(), masking, model, 0.4)
    exact = torch.autograd.grad(expected, list(model.parameters()))
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    orders = list(itertools.permutations([0.1, 0.3, 0.5, 0.7]))
    for first, second in itertools.product(PAIRS, PAIRS):
        chance = chance_of(masking, model, 0.4, first) * chance_of(masking, model, 0.4, second)
        for order in orders:
            uniform = torch.where(torch.tensor([first, second]), rate * torch.tensor(order).view(2, 2), SHOW)
            draw = Draw(torch.tensor([0.4, 0.9], dtype=torch.float64), uniform)
            model.zero_grad()
            objective.loss(model, torch.cat([X0, X0]), None, draw, num_tokens=2).total.backward()
            for name, p in model.named_parameters():
                found[name] += 0.0 if p.grad is None else chance / len(orders) * p.grad
    for (name, _), gradient in zip(model.named_parameters(), exact, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
