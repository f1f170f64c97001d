"""The fused output layer and cross-entropy against the plain way: all logits, autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import mdlm_atat.core.fused_loss as fused_loss
from mdlm_atat.config.build import build_model, build_objective
from mdlm_atat.config.files import load_config
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.core.fused_loss import Scored, weighted_nll
from mdlm_atat.core.left_to_right import causal_nll, read_nll
from mdlm_atat.core.objective import FusedLoss, TimePlan, denoised_nll, masked_nll
from mdlm_atat.core.schedules import Linear
from mdlm_atat.core.strategies.uniform import UniformMasking
from mdlm_atat.core.times import UniformTime, Weighting
from mdlm_atat.lm.asking import projection
from mdlm_atat.nets.two_way import TwoWayDiT
from mdlm_atat.training.engine import speed_up

VOCAB = 301


def parts(num_positions: int, vocab: int, width: int, seed: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_positions, width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, width, generator=generator, dtype=dtype, requires_grad=True)
    bias = torch.randn(vocab, generator=generator, dtype=dtype, requires_grad=True)
    scale = torch.rand(num_positions, generator=generator, dtype=dtype, requires_grad=True)
    target = torch.randint(0, vocab, (num_positions,), generator=generator)
    return hidden, weight, bias, target, scale


@given(st.integers(1, 40), st.integers(2, 70), st.integers(1, 9), st.booleans(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_sum_nll_and_every_gradient_are_those_of_all_logits_at_once_in_any_chunks(n, vocab, width, with_bias, seed):
    hidden, weight, bias, target, scale = parts(n, vocab, width, seed)
    table, row = torch.randn(3, vocab, dtype=torch.float64), torch.arange(n) % 3
    logits = hidden @ weight.T + table[row] + (bias if with_bias else 0.0)
    nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    leaves = [hidden, weight, scale, *([bias] if with_bias else [])]
    expected = torch.autograd.grad(3 * (scale * nll).sum(), leaves)
    before = fused_loss.CHUNK_ELEMENTS
    fused_loss.CHUNK_ELEMENTS = 64 * 64 * (1 + seed % 3)
    try:
        total, found = weighted_nll(hidden, weight, bias if with_bias else None, target, scale, correction=(table, row))
        gradients = torch.autograd.grad(3 * total, leaves)
    finally:
        fused_loss.CHUNK_ELEMENTS = before
    torch.testing.assert_close(found, nll.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(total, (scale * nll).sum(), rtol=1e-10, atol=1e-10)
    for gradient, of_plain in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, of_plain, rtol=1e-9, atol=1e-9)


def run_config(preset: str, method: str | None, **train: object) -> RunConfig:
    config = load_config(preset, method)
    shape = replace(config.model, num_layers=2, width=64, num_heads=2, dropout=0.0)
    data = replace(config.data, length=48)
    return replace(config, model=shape, data=data, train=replace(config.train, batch_size=16, **train))  # type: ignore[arg-type]


def loss_and_gradients(
    config: RunConfig,
    *,
    dtype: torch.dtype = torch.float32,
    autocast: bool = False,
    padded: bool = False,
    prompts: torch.Tensor | None = None,
):
    """Of one batch of random tokens under fixed weights; the same for every switch of speed."""
    counts = np.arange(1, VOCAB + 1) * 100
    torch.manual_seed(0)
    model = build_model(config, VOCAB, counts)
    for p in model.parameters():
        p.data += 0.02 * torch.randn_like(p)
    model = model.to(dtype)
    speed_up(model, config.train, "bf16" if autocast else "float32")
    objective = build_objective(config, VOCAB, counts, model)
    rows, length = config.train.batch_size, config.data.length
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randint(0, VOCAB, (rows, length), generator=generator)
    lengths = torch.randint(5, length, (rows,), generator=generator) if padded else None
    draw = objective.draw(rows, length, generator)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = objective.loss(model, x0, lengths, draw, float(rows * length), measure=True, prompts=prompts)
    loss.total.backward()
    gradients = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    return loss, gradients


def distance(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """Of all gradients as one vector, relative."""
    assert found.keys() == exact.keys()
    squares = sum((found[name] - exact[name]).square().sum().item() for name in exact)
    return (squares / sum(g.square().sum().item() for g in exact.values())) ** 0.5


METHODS = ["mdlm", "atat", "importance_rates", "frequency_only", "position_slope", "literal_importance"]
PARTIAL = ("padded", "answers")
OF_SHAPES = [*(("demo", method) for method in METHODS), ("mdlm-owt", "mdlm"), ("causal-char", None)]


OF_ROWS = [(*shape, "full") for shape in OF_SHAPES]
OF_ROWS += [(*shape, rows) for shape in OF_SHAPES if shape[1] in (None, "atat", "importance_rates") for rows in PARTIAL]


@pytest.mark.parametrize(("preset", "method", "rows"), OF_ROWS)
def test_the_loss_of_every_method_is_the_plain_one_to_1e_minus_5(preset, method, rows):
    how = {"padded": rows != "full", "prompts": torch.arange(16) % 5 if rows == "answers" else None}
    plain, exact = loss_and_gradients(run_config(preset, method, fused_loss=False), **how)
    fused, found = loss_and_gradients(run_config(preset, method, fused_loss=True), **how)
    assert fused.total.item() == pytest.approx(plain.total.item(), rel=1e-5)
    assert fused.metrics.get("masking/unscored_share", torch.zeros(())).item() == 0
    for name, term in plain.terms.items():
        assert fused.terms[name].item() == pytest.approx(term.item(), rel=1e-5)
    assert distance(found, exact) < 1e-5


def test_masks_that_are_learned_through_the_bound_get_the_plain_loss_s_gradient():
    def config(fused: bool) -> RunConfig:
        plain = run_config("demo", "importance_only", fused_loss=fused)
        return replace(plain, importance=replace(plain.importance, through_bound=True))

    plain, exact = loss_and_gradients(config(False))
    fused, found = loss_and_gradients(config(True))
    assert any(name.startswith("estimator.") for name in exact)
    assert fused.metrics["masking/unscored_share"].item() == 0
    assert fused.total.item() == pytest.approx(plain.total.item(), rel=1e-5)
    assert distance(found, exact) < 1e-5


# the residual stream in bf16 rounds every sum of a block: measured 2 to 3 times the error
@pytest.mark.parametrize(("residual", "tolerance"), [("float32", 1e-2), ("bf16", 3e-2)])
def test_in_bf16_the_loss_is_the_float64_one_to_1e_minus_4_and_gradients_to_one_percent(residual, tolerance):
    config = run_config("mdlm-owt", "mdlm", residual=residual)
    plain, exact = loss_and_gradients(
        run_config("mdlm-owt", "mdlm", fused_loss=False), dtype=torch.float64, autocast=False
    )
    fused, found = loss_and_gradients(config, autocast=True)
    assert fused.total.item() == pytest.approx(plain.total.item(), rel=1e-4)
    assert distance(found, exact) < tolerance


def test_where_there_is_no_room_for_all_masked_positions_the_loss_is_right_on_average():
    """32 positions masked of 64, room for 20: the mean over 4,000 draws within 4 standard errors."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(4, 16, generator=generator) * 5
    rate = torch.tensor([[0.2], [0.4], [0.6], [0.8]])
    errors = []
    for _ in range(4000):
        uniform = torch.rand(4, 16, generator=generator)
        is_masked = uniform < rate
        scored = Scored.choose(is_masked, uniform, rate, capacity=20)
        assert len(scored.index) == 20
        assert is_masked.flatten()[scored.index[scored.is_scored]].all()
        estimate = (cost.flatten()[scored.index] * scored.is_scored).sum() * scored.inflation
        errors.append((estimate - cost[is_masked].sum()).item())
    mean, deviation = np.mean(errors), np.std(errors)
    assert deviation > 1  # positions were left out, or nothing is tested
    assert abs(mean) < 4 * deviation / 4000**0.5


@pytest.mark.parametrize(("rows", "parts_"), [(8, 1), (8, 2), (32, 4), (24, 2)])
def test_the_masks_of_a_part_of_the_batch_nearly_always_find_room(rows, parts_):
    """500 draws of each: more masked than the capacity in at most 1 of 1,000, where 4 standard deviations say 1 in
    30,000; and the capacity of a part, too, is at most one of its rows above half of it, and what coins add."""
    schedule, density, length = Linear(), UniformTime(), 256
    plan = TimePlan(density, Weighting("elbo", schedule, density))
    own = rows // parts_
    capacity = FusedLoss(rows).capacity(plan, own, length, UniformMasking(schedule))
    assert capacity < (0.5 + 1 / own + 2 / (own * length) ** 0.5) * own * length + 1
    config = run_config("demo", "mdlm")
    objective = build_objective(config, VOCAB, np.ones(VOCAB, dtype=np.int64), build_model(config, VOCAB))
    generator = torch.Generator().manual_seed(0)
    too_many = 0
    for _ in range(500):
        draw = objective.draw(rows, length, generator)
        too_many += sum(int(part.sum() > capacity) for part in (draw.uniform < draw.t[:, None]).split(own))
    assert too_many <= 500 * parts_ / 1000


@pytest.mark.parametrize("preset", ["demo", "mdlm-owt"])
def test_scoring_asks_a_network_s_output_layer_at_masked_positions_only_and_finds_what_all_logits_say(preset):
    config = run_config(preset, "mdlm")
    torch.manual_seed(0)
    network = build_model(config, VOCAB).eval()
    for p in network.parameters():
        p.data += 0.02 * torch.randn_like(p)
    x0 = torch.randint(0, VOCAB, (5, 48))
    is_masked = torch.rand(5, 48) < torch.tensor([[0.0], [0.1], [0.5], [0.9], [1.0]])
    z_t, lengths = torch.where(is_masked, VOCAB, x0), torch.tensor([48, 20, 48, 31, 48])
    is_masked &= torch.arange(48) < lengths[:, None]
    t = torch.rand(5)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        expected = masked_nll(network(z_t, t, lengths), x0, is_masked)
        patch.setattr(fused_loss, "CHUNK_ELEMENTS", 17 * 320)  # 17 positions at a time
        patch.setattr(network, "forward", None)
        patch.setattr(network, "logits", None)
        found = denoised_nll(network, z_t, t, lengths, x0, is_masked)
    assert (found == 0).equal(~is_masked)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [None, [48, 20, 1]])
def test_a_network_that_reads_is_asked_for_17_positions_at_a_time_with_the_costs_of_all_at_once(lengths):
    torch.manual_seed(0)
    network = TwoWayDiT(VOCAB, 48, num_layers=1, width=16, num_heads=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x0 = torch.randint(0, VOCAB, (3, 48))
    lengths = None if lengths is None else torch.tensor(lengths)
    prompts = None if lengths is None else torch.tensor([5, 0, 0])
    cross_entropy, sizes = F.cross_entropy, []

    def counted(logits, target, **more):
        sizes.append(len(logits))
        return cross_entropy(logits, target, **more)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        expected = causal_nll(network(x0), x0, lengths, prompts)
        patch.setattr(fused_loss, "CPU_CHUNK_ELEMENTS", 17 * 320)
        patch.setattr(F, "cross_entropy", counted)
        found = read_nll(network, x0, lengths, prompts)
    assert max(sizes) == 17
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", ["demo", "mdlm-owt"])
def test_samplers_get_the_network_s_own_logits_from_weights_cast_once_and_padded(preset):
    torch.manual_seed(0)
    network = build_model(run_config(preset, "mdlm"), VOCAB)
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    hidden = torch.randn(2, 5, 64)
    with torch.no_grad():
        exact = network.logits(hidden)
        assert projection(network, None)(hidden).equal(exact)
        found = projection(network, torch.bfloat16)(hidden)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = network.logits(hidden)
    assert found.dtype == torch.bfloat16
    assert found.shape == (2, 5, VOCAB)
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-7)
    assert not found.float().equal(exact)
