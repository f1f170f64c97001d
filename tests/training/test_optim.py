import pytest
import torch

from mdlm_atat.config.schema import OptimConfig
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.training.optim import learning_rate, make_optimizer


def rates(num_steps: int, **settings) -> list[float]:
    config = OptimConfig(lr=1.0, warmup_steps=10, final_lr_ratio=0.1, **settings)
    return [learning_rate(step, num_steps, config) for step in range(num_steps)]


@pytest.mark.parametrize("decay", ["cosine", "constant", "wsd"])
def test_the_rate_rises_linearly_to_its_peak_in_10_steps_for_every_decay(decay):
    assert rates(100, decay=decay)[:10] == pytest.approx([0.1 * i for i in range(1, 11)])


def test_cosine_ends_at_a_tenth_and_passes_the_middle_half_way():
    found = rates(101, decay="cosine")
    assert found[10] == 1.0
    assert found[55] == pytest.approx(0.55)
    assert found[100] == pytest.approx(0.1)


def test_wsd_is_constant_until_its_last_fifth_and_ends_at_a_tenth():
    found = rates(100, decay="wsd", cooldown_fraction=0.2)
    assert found[10:81] == [1.0] * 71
    assert found[99] == pytest.approx(0.1)
    assert found[80] > found[81] > found[98] > found[99]


def test_constant_stays_at_the_peak():
    assert rates(50, decay="constant")[10:] == [1.0] * 40


def test_weight_decay_acts_on_the_matrices_of_linear_layers_alone():
    network = ATATDiT(13, 20, num_layers=2, width=16, num_heads=2, tied=False)
    decayed, spared = make_optimizer(network, OptimConfig(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in network.named_parameters()}
    assert {names[id(p)].split(".")[-2] for p in decayed["params"]} == {"qkv", "out", "up", "down", "output"}
    assert {names[id(p)] for p in spared["params"]} >= {"embedding.weight", "norm.weight", "blocks.0.mlp.up.bias"}
    num_grouped = sum(len(group["params"]) for group in (decayed, spared))
    assert num_grouped == len(list(network.parameters()))
    assert all(isinstance(p, torch.nn.Parameter) for p in decayed["params"])
