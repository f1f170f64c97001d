import math
from collections import Counter
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mdlm_atat.cli.main import main
from mdlm_atat.config.schema import OptimConfig
from mdlm_atat.errors import UserError
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.nets.dit import ATATDiT, ImportanceParts
from mdlm_atat.nets.estimator import AdaptiveImportanceEstimator
from mdlm_atat.nets.layers import Layout
from mdlm_atat.nets.two_way import TwoWayDiT
from mdlm_atat.training import muon as module
from mdlm_atat.training.checkpoint import all_checkpoints, sha256
from mdlm_atat.training.engine import Engine
from mdlm_atat.training.muon import COEFFICIENTS, Muon, orthogonalise, orthogonalise_together
from mdlm_atat.training.optim import make_optimizer, set_learning_rate
from processes import run_ranks
from tiny_runs import losses_of, tiny_flags, train, train_method, write_text

pytestmark = pytest.mark.usefixtures("no_report")
SHAPES = [(24, 24), (16, 40), (40, 16)]


@pytest.fixture
def text(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    return write_text(tmp_path / "text.txt")


@pytest.fixture
def exact(monkeypatch):
    """Iterations in float32, also where bf16 is faster."""
    monkeypatch.setattr(module, "iteration_dtype", lambda _device: torch.float32)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_svd(matrix: Tensor) -> Tensor:
    """What five iterations give, from the singular value decomposition in float64: the polynomial of each value."""
    u, s, v = torch.linalg.svd(matrix.double() / matrix.double().norm(), full_matrices=False)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    return (u * s @ v).float()


def one_step(parameter: nn.Parameter, gradient: Tensor, num_matrices: int = 1, **more: float) -> Tensor:
    """The change of a parameter by a first step at a rate of 0.1."""
    optimizer = Muon([{"params": [parameter], "weight_decay": 0.0, "num_matrices": num_matrices, **more}], lr=0.1)
    before, parameter.grad = parameter.detach().clone(), gradient.clone()
    optimizer.step()
    return parameter.detach() - before


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_of_at_least_a_500th_of_the_norm_come_to_lie_in_068_to_121(shape):
    u, _, v = torch.linalg.svd(random(*shape), full_matrices=False)
    values = torch.logspace(-2.45, 0, min(shape))
    assert 0.002 < values.min() / values.norm() < 0.004
    found = torch.linalg.svdvals(orthogonalise((u * values @ v)[None], torch.float32)[0])
    assert found.min() > 0.68
    assert found.max() < 1.21


@pytest.mark.parametrize("shape", SHAPES)
def test_five_iterations_are_the_polynomial_of_the_singular_values(shape):
    matrix = random(*shape)
    assert orthogonalise(matrix[None], torch.float32)[0].allclose(by_svd(matrix), atol=2e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_iterations_go_the_way_of_the_polynomial_within_2_percent(shape):
    matrix = random(*shape)
    assert (orthogonalise(matrix[None], torch.bfloat16)[0] - by_svd(matrix)).norm() < 0.02 * by_svd(matrix).norm()


def test_a_zero_matrix_stays_zero_and_those_beside_it_are_what_they_are_alone():
    stack = torch.stack([random(8, 12), torch.zeros(8, 12), 1e-4 * random(8, 12, seed=1)])
    found = orthogonalise(stack, torch.float32)
    assert not found[1].any()
    for index in (0, 2):
        assert found[index].allclose(orthogonalise(stack[index][None], torch.float32)[0], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_step_is_the_rate_times_a_fifth_of_the_root_of_the_longer_side_along_the_gradient(shape, exact):
    gradient = random(*shape)
    change = one_step(nn.Parameter(random(*shape, seed=1)), gradient)
    assert change.allclose(-0.1 * 0.2 * math.sqrt(max(shape)) * by_svd(gradient), atol=1e-5)


def test_the_second_step_is_along_nesterov_s_momentum_and_weights_decay_first(exact):
    first, second, start = random(6, 9), random(6, 9, seed=1), random(6, 9, seed=2)
    parameter = nn.Parameter(start.clone())
    optimizer = Muon([{"params": [parameter], "weight_decay": 0.5, "num_matrices": 1}], lr=0.1, momentum=0.8)
    expected, momentum = start, torch.zeros(6, 9)
    for gradient in (first, second):
        parameter.grad = gradient.clone()
        optimizer.step()
        momentum = 0.8 * momentum + 0.2 * gradient
        step = by_svd(0.2 * gradient + 0.8 * momentum)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 3 * step
    assert parameter.allclose(expected, atol=1e-5)


def test_queries_keys_and_values_in_one_parameter_step_as_three_parameters_do(exact):
    whole, gradient = (
        random(24, 8, seed=1),
        random(24, 8) * torch.tensor([1.0, 10.0, 100.0]).repeat_interleave(8)[:, None],
    )
    fused = one_step(nn.Parameter(whole), gradient, num_matrices=3)
    three = [one_step(nn.Parameter(w.clone()), g) for w, g in zip(whole.chunk(3), gradient.chunk(3), strict=True)]
    assert fused.allclose(torch.cat(three), atol=1e-5)
    as_one = one_step(nn.Parameter(random(24, 8, seed=1)), gradient)
    assert not as_one.allclose(torch.cat(three), atol=1e-2)


def test_matrices_step_in_a_batch_as_each_does_alone(exact):
    shapes = [(8, 8), (8, 12), (12, 8), (8, 8), (8, 12), (24, 8)]
    parameters = [nn.Parameter(random(*shape, seed=index)) for index, shape in enumerate(shapes)]
    gradients = [random(*shape, seed=10 + index) for index, shape in enumerate(shapes)]
    alone = [one_step(nn.Parameter(p.detach().clone()), g) for p, g in zip(parameters, gradients, strict=True)]
    before = [p.detach().clone() for p in parameters]
    optimizer = Muon([{"params": parameters, "weight_decay": 0.0, "num_matrices": 1}], lr=0.1)
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient
    optimizer.step()
    for p, was, change in zip(parameters, before, alone, strict=True):
        assert (p - was).allclose(change, atol=1e-5)


def test_ten_steps_are_those_of_torch_s_own_muon(monkeypatch):
    monkeypatch.setattr(module, "iteration_dtype", lambda _device: torch.bfloat16)  # as torch's
    ours = [nn.Parameter(random(12, 20)), nn.Parameter(random(20, 12, seed=1))]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    groups = [{"params": ours, "weight_decay": 0.1, "num_matrices": 1}]
    optimizers = [
        Muon(groups, lr=0.02),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    start = [p.detach().clone() for p in ours]
    for step in range(10):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = random(*mine.shape, seed=100 + step)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, was in zip(ours, theirs, start, strict=True):
        assert (mine - other).norm() < 0.02 * (mine - was).norm()


class Linears(nn.Module):
    """A network without `blocks`, its output layer tied to nothing."""

    modes = frozenset({"masked"})

    def __init__(self) -> None:
        super().__init__()
        self.vocab_size, self.max_length = 5, 4
        self.embedding, self.mode_vector = nn.Embedding(6, 8), nn.Parameter(torch.zeros(8))
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)

    def hidden(self, z_t: Tensor, _t: Tensor, _lengths: Tensor | None = None) -> Tensor:
        return self.down(self.up(self.embedding(z_t) + self.mode_vector).relu())

    def output_layer(self) -> tuple[Tensor, Tensor]:
        return self.head.weight, self.head.bias


def with_all_parts() -> ATATDiT:
    estimator = ImportanceParts(lambda: AdaptiveImportanceEstimator(16, 8, width=8, num_layers=1, num_heads=2), None)
    return ATATDiT(
        13, 8, num_layers=2, width=16, num_heads=2, norm="rms", qk_norm=True, time_conditioning=True, tied=False,
        extra_outputs=1, importance=estimator, predict_speed=True, position_table=True,
    )  # fmt: skip


BLOCK = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
LLAMA_BLOCK = ("attention.q", "attention.kv", "attention.out", "mlp.gate", "mlp.up", "mlp.down")
LLAMA: dict[str, Any] = {"num_kv_heads": 2, "head_width": 6, "mlp": "swiglu", "qkv_bias": True}
NETWORKS = {
    "all parts": (
        with_all_parts,
        [f"{where}.{name}.weight" for where in ("blocks.0", "blocks.1", "estimator.blocks.0") for name in BLOCK],
        ["output.bias", "output.weight"],
    ),
    "time in the embedding": (
        lambda: ATATDiT(13, 8, num_layers=1, width=16, num_heads=2, time_conditioning=True, time_through="embedding"),
        [f"blocks.0.{name}.weight" for name in BLOCK],
        [],
    ),
    "causal": (
        lambda: CausalTransformer(13, 8, num_layers=1, width=16, num_heads=2),
        [f"blocks.0.{name}.weight" for name in BLOCK],
        [],
    ),
    "causal, not tied": (
        lambda: CausalTransformer(13, 8, num_layers=1, width=16, num_heads=2, tied=False),
        [f"blocks.0.{name}.weight" for name in BLOCK],
        ["output.bias", "output.weight"],
    ),
    "grouped queries": (
        lambda: CausalTransformer(13, 8, num_layers=1, width=16, num_heads=4, layout=Layout(**LLAMA)),
        [f"blocks.0.{name}.weight" for name in LLAMA_BLOCK],
        [],
    ),
    "two ways": (
        lambda: TwoWayDiT(13, 8, num_layers=1, width=16, num_heads=2),
        [f"blocks.0.{name}.weight" for name in BLOCK],
        [],
    ),
    "no blocks": (Linears, ["up.weight", "down.weight"], ["head.bias", "head.weight"]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_is_in_one_group_by_its_role(name):
    make, matrices, outputs = NETWORKS[name]
    network = make()
    optimizer = make_optimizer(network, OptimConfig(kind="muon", weight_decay=0.1))
    name_of = {id(p): name for name, p in network.named_parameters()}
    roles = [(name_of[id(p)], group) for group in optimizer.param_groups for p in group["params"]]
    assert Counter(name for name, _ in roles) == Counter(name_of.values())
    by_role = {name: group["role"] for name, group in roles}
    assert sorted(name for name, role in by_role.items() if role == "matrix") == sorted(matrices)
    assert sorted(name for name, role in by_role.items() if role == "output") == outputs
    assert [name for name, role in by_role.items() if role == "embedding"] == ["embedding.weight"]
    for name, group in roles:
        several = 3 if "qkv" in name else 2 if "kv" in name else 1
        assert group["num_matrices"] == (several if name in matrices else 0)
        owner = network.get_submodule(name.rpartition(".")[0])
        is_decayed = isinstance(owner, nn.Linear) and name.endswith("weight")
        assert group["weight_decay"] == (0.1 if is_decayed else 0.0)


def test_each_role_has_the_rate_of_a_step_times_its_own_ratio_also_after_loading():
    config = OptimConfig(kind="muon", embedding_lr_ratio=0.25, output_lr_ratio=2.0, rest_lr_ratio=0.125)
    optimizer = make_optimizer(Linears(), config)
    optimizer.load_state_dict(optimizer.state_dict())
    set_learning_rate(optimizer, 0.5)
    rates = {group["role"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"matrix": 0.5, "embedding": 0.125, "output": 1.0, "rest": 0.0625}


def test_what_is_not_a_matrix_steps_as_by_adamw_at_its_own_rate():
    ours, theirs = Linears(), Linears()
    theirs.load_state_dict(ours.state_dict())
    optimizer = make_optimizer(ours, OptimConfig(kind="muon", weight_decay=0.0))
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.005, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    for step in range(3):
        for (_, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            p.grad, q.grad = random(*p.shape, seed=step), random(*p.shape, seed=step)
        set_learning_rate(optimizer, 0.01)
        optimizer.step()
        adamw.step()
    for (name, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert p.equal(q) == (name not in ("up.weight", "down.weight")), name


def test_a_network_without_a_matrix_for_muon_is_refused():
    network = nn.Sequential(nn.Embedding(4, 8), nn.LayerNorm(8))
    with pytest.raises(UserError, match=r"muon is for the matrices of linear layers, and Sequential has none"):
        make_optimizer(network, OptimConfig(kind="muon"))


@pytest.mark.parametrize("make", [lambda: OptimConfig(momentum=1.0), lambda: OptimConfig(rest_lr_ratio=-1.0)])
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(UserError, match=r"optim\.(momentum is 1.0|rest_lr_ratio is -1.0), expected"):
        make()


MUON = {"optim__kind": "muon", "optim__lr": 1e-2}


def test_a_run_with_muon_goes_on_bit_for_bit_after_its_first_step_and_an_embedding_at_a_rate_of_0_stays(text, tmp_path):
    settings = {**MUON, "model__dropout": 0.2, "optim__embedding_lr_ratio": 0, "train__batch_size": 16}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_method("importance_rates", text, whole, **settings) == 0
    assert train_method("importance_rates", text, parts, **settings, train__num_steps=8, train__max_minutes=1e-9) == 0
    assert main(["train", "--resume", str(parts)]) == 0
    (early, late), (_, again) = ([c.folder for c in all_checkpoints(run / "checkpoints")] for run in (whole, parts))
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        assert sha256(late / name) == sha256(again / name)
    assert losses_of(whole) == losses_of(parts)
    before, after = (load_file(folder / "model.safetensors") for folder in (early, late))
    assert {name for name in before if before[name].equal(after[name])} == {"embedding.weight"}


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(text, tmp_path):
    flags = tiny_flags(text, **MUON, train__batch_size=8, train__num_micro_batches=2)
    for num_processes in (1, 2):
        run_ranks(num_processes, ["train", "demo", "--out", str(tmp_path / str(num_processes)), *flags])
    assert losses_of(tmp_path / "2") == pytest.approx(losses_of(tmp_path / "1"), abs=1e-3)
    assert train(text, tmp_path / "adamw", train__batch_size=8, train__num_micro_batches=2, optim__lr=1e-2) == 0
    assert losses_of(tmp_path / "adamw") != pytest.approx(losses_of(tmp_path / "1"), abs=1e-3)


@pytest.mark.parametrize("num_processes", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(5, 6, 9), (1, 9, 6), (6, 4, 4)])
def test_processes_that_divide_the_matrices_get_what_one_makes_of_all(num_processes, shape, monkeypatch):
    """Of 1 to 7 processes, some without a matrix of their own, whose exchange is done by hand."""
    matrices, done = random(*shape), []
    found = torch.zeros(0)

    def exchange(shares: list[Tensor], own: Tensor) -> None:
        done.append(own)
        for share, other in zip(shares, done, strict=False):
            share.copy_(other)

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: num_processes)
    monkeypatch.setattr(torch.distributed, "all_gather", exchange)
    for rank in range(num_processes):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        found = orthogonalise_together(matrices, torch.float32)  # of the last, all that were done
    assert found.shape == matrices.shape
    assert len({own.shape for own in done}) == 1
    assert found.allclose(orthogonalise(matrices, torch.float32), atol=1e-6)


def test_processes_on_cpus_that_have_whole_weights_divide_the_matrices_and_no_others(monkeypatch):
    asked = []
    monkeypatch.setattr(
        module, "orthogonalise_together", lambda x, dtype: asked.append(len(x)) or orthogonalise(x, dtype)
    )
    for device, num_ranks, is_sharded in product(("cpu", "cuda"), (1, 2), (False, True)):
        engine: Any = SimpleNamespace(device=torch.device(device), num_ranks=num_ranks, is_sharded=is_sharded)
        is_divided = Engine.divides_orthogonalisation.fget(engine)  # pyright: ignore[reportOptionalCall]
        assert is_divided == ((device, num_ranks, is_sharded) == ("cpu", 2, False))
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        optimizer = make_optimizer(network, OptimConfig(kind="muon"), divided=is_divided)
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert asked == [2]


@pytest.mark.slow
def test_two_processes_with_a_part_of_every_matrix_have_the_losses_of_one_and_go_on_where_it_stopped(text, tmp_path):
    settings = {**MUON, "train__batch_size": 8, "model__num_layers": 2}
    for num_processes, name in ((1, "one"), (2, "sharded")):
        flags = tiny_flags(
            text, **settings, train__num_micro_batches=4 // num_processes, train__shard=name == "sharded"
        )
        run_ranks(num_processes, ["train", "demo", "--out", str(tmp_path / name), *flags])
    assert losses_of(tmp_path / "sharded") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-3)
    more = ["--train.num_steps", "12", "--train.num_micro_batches"]
    run_ranks(1, ["train", "--resume", str(tmp_path / "sharded"), "--train.shard", "false", *more, "4"])
    run_ranks(2, ["train", "--resume", str(tmp_path / "one"), "--train.shard", "true", *more, "2"])
    assert losses_of(tmp_path / "sharded") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-3)
