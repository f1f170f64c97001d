"""Numbers of parameters and bytes of state are those of real networks and optimizers, to the byte."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mdlm_atat.config.arguments import read_config
from mdlm_atat.config.build import build_model, network_of_shapes
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.errors import UserError
from mdlm_atat.scaling.memory import checkpoint_bytes, optimizer_bytes
from mdlm_atat.scaling.sizes import NEARLY, of_size, sizes_of
from mdlm_atat.training.optim import make_optimizer

TINY = {"model.num_layers": 2, "model.width": 16, "model.num_heads": 2, "data.length": 8}
VOCABULARY = 21
WORDS = ["mdlm", "atat", "two_way", "learned_only"]


def tiny(method: str, **more) -> RunConfig:
    return read_config("demo", method, {**TINY, **more}, "test")


@pytest.mark.parametrize("method", WORDS)
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_is_counted_to_the_byte(method, kind):
    config = tiny(method, **{"optim.kind": kind, "model.tied": False, "model.time_conditioning": True})
    model = build_model(config, VOCABULARY)
    sizes = sizes_of(config, VOCABULARY)
    parameters = list(model.parameters())
    assert (sizes.num_parameters, sizes.num_tensors) == (sum(p.numel() for p in parameters), len(parameters))
    optimizer = make_optimizer(model, config.optim)
    for p in parameters:
        p.grad = torch.randn_like(p)
    optimizer.step()
    state = [value for of_p in optimizer.state.values() for value in of_p.values() if isinstance(value, torch.Tensor)]
    assert optimizer_bytes(config, sizes) == sum(value.nbytes for value in state)
    weights = sum(p.nbytes for p in parameters)
    assert checkpoint_bytes(config, sizes) == 2 * weights + optimizer_bytes(config, sizes)
    without = replace(config, train=replace(config.train, ema_decay=0.0))
    assert checkpoint_bytes(without, sizes) == weights + optimizer_bytes(config, sizes)


def test_a_network_of_124_million_parameters_has_124_million_and_16_bytes_of_state_for_each():
    settings = {"model.num_layers": 12, "model.width": 768, "model.num_heads": 12}
    config = read_config("tiny", "mdlm", settings, "test")
    sizes = sizes_of(config, 50_257)
    assert sizes.num_parameters == 123_598_080
    network = network_of_shapes(config, 50_257)
    optimizer = torch.optim.AdamW(network.parameters(), fused=False)
    for p in network.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    held = [value.nbytes for of_p in optimizer.state.values() for value in of_p.values()]
    assert optimizer_bytes(config, sizes) == sum(held) == 8 * 123_598_080 + 4 * sizes.num_tensors
    assert sum(p.grad.nbytes for p in network.parameters()) == 4 * sizes.num_parameters
    assert sizes.outside_blocks == 50_258 * 768 + 768
    assert sizes.block_matrices == 12 * 768**2


def test_muon_orthogonalises_300_cubes_of_the_width_a_layer():
    """Four squares at 5 (2 + 2 + 2) D^3 and two of the MLP's at 5 (8 + 2 + 8) D^3."""
    sizes = sizes_of(tiny("muon"), VOCABULARY)
    assert sizes.muon_flops == 2 * 300 * 16**3
    assert sizes.muon == 2 * 12 * 16**2
    assert sizes.largest_alike == 2 * 4 * 16**2


@pytest.mark.parametrize("wanted", [3e6, 1e9, 65e9])
@pytest.mark.parametrize("changed", [{}, {"model.mlp": "swiglu", "model.num_kv_heads": 2, "model.tied": False}])
def test_a_network_of_a_size_has_nearly_that_size_and_a_usual_shape(wanted, changed):
    vocab_size = 50_257 if wanted > 1e7 else 1000
    config = of_size(wanted, read_config("medium", "mdlm", changed, "test"), vocab_size)
    assert sizes_of(config, vocab_size).num_parameters == pytest.approx(wanted, rel=NEARLY + 0.01)
    assert (16 if wanted < 1e7 else 40) < config.model.width / config.model.num_layers < 200
    assert config.model.norm == "layer"


@pytest.mark.parametrize(("wanted", "vocab_size"), [(1e6, 50_257), (1e4, 1000), (2e7, 1 << 24)])
def test_a_vocabulary_that_is_too_large_for_a_size_is_said(wanted, vocab_size):
    with pytest.raises(UserError, match="no network has nearly"):
        of_size(wanted, read_config("medium", "mdlm", {}, "test"), vocab_size)


def test_no_plan_is_made_of_somebody_else_s_network():
    config = read_config(replace(RunConfig(), model=replace(RunConfig().model, kind="toys:Bare")), None, {}, "test")
    with pytest.raises(UserError, match="a plan is made for the networks of this package"):
        sizes_of(config, 10)
