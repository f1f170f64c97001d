"""Grouped queries, heads of another width, SwiGLU, biases, rotary positions of another base: the layout of Llama."""

import math
from typing import Any

import pytest
import torch

from mdlm_atat.config.build import build_model, shapes_of
from mdlm_atat.config.schema import DataConfig, ModelConfig, ObjectiveConfig, RunConfig
from mdlm_atat.config.size import block_weights
from mdlm_atat.errors import UserError
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.nets.layers import Layout, Rotary
from mdlm_atat.training.flops import training_flops_per_token

SHAPE: dict[str, Any] = {"num_layers": 2, "width": 24, "num_heads": 4}
LLAMA: dict[str, Any] = {"num_kv_heads": 2, "head_width": 8, "mlp": "swiglu", "mlp_width": 40, "norm": "rms"}


def config_of(causal_share: float = 1.0, **model: Any) -> RunConfig:
    objective = ObjectiveConfig(causal_share=causal_share)
    return RunConfig(data=DataConfig(length=16), model=ModelConfig(**{**SHAPE, **model}), objective=objective)


def drawn(network: Any, std: float = 0.3) -> Any:
    generator = torch.Generator().manual_seed(0)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=std, generator=generator)
    return network.eval()


def test_heads_of_keys_and_values_that_are_the_same_for_two_heads_of_queries_are_one_of_grouped_ones():
    grouped = drawn(CausalTransformer(13, 16, **SHAPE, layout=Layout(num_kv_heads=2)))
    plain = CausalTransformer(13, 16, **SHAPE).eval()
    weights = {name: p for name, p in grouped.named_parameters() if ".q." not in name and ".kv." not in name}
    for n in range(2):
        q = grouped.blocks[n].attention.q.weight
        k, v = grouped.blocks[n].attention.kv.weight.view(2, 2, 1, 6, 24).expand(2, 2, 2, 6, 24).reshape(2, 24, 24)
        weights[f"blocks.{n}.attention.qkv.weight"] = torch.cat([q, k, v])
    plain.load_state_dict(weights)
    x = torch.randint(0, 13, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(grouped(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("layout", "num_numbers"),
    [
        ({}, 12 * 24**2),
        ({"num_kv_heads": 1}, (2 * 24 + 2 * 6 + 8 * 24) * 24),
        ({"head_width": 16}, (4 * 64 + 8 * 24) * 24),
        (LLAMA, (2 * 32 + 2 * 16 + 3 * 40) * 24),
    ],
)
def test_a_block_has_as_many_weights_and_takes_as_many_operations_as_its_layout_says(share, layout, num_numbers):
    config = config_of(share, **layout)
    shapes = shapes_of(config, 13)
    assert shapes is not None
    matrices = [shape for name, shape in shapes.items() if name.startswith("blocks.1.") and len(shape) == 2]
    assert sum(math.prod(shape) for shape in matrices) == block_weights(config.model) == num_numbers
    heads = 4 * layout.get("head_width", 6)
    attention = 4 * 16 * heads * (1 - share / 2)
    outputs = 2 * 24 * 13 * (share + (1 - share) / 2)
    assert training_flops_per_token(config, 13) == pytest.approx(3 * (2 * (2 * num_numbers + attention) + outputs))


def test_biases_are_where_they_are_asked_for_and_begin_at_zero():
    network = build_model(config_of(**LLAMA, qkv_bias=True), 13)
    biases = {name: p for name, p in network.named_parameters() if name.endswith("bias")}
    assert sorted(biases) == [f"blocks.{n}.attention.{part}.bias" for n in range(2) for part in ("kv", "q")]
    assert all(not bias.any() for bias in biases.values())
    equal = build_model(config_of(**{**LLAMA, "num_kv_heads": None}, qkv_bias=True), 13)
    assert "blocks.0.attention.qkv.bias" in dict(equal.named_parameters())


def test_the_norms_add_what_they_are_told():
    one, other = (drawn(build_model(config_of(**LLAMA, qk_norm=True, norm_eps=eps), 13)) for eps in (1e-6, 1.0))
    x = torch.zeros(1, 4, dtype=torch.long)
    assert {m.eps for m in other.modules() if isinstance(m, torch.nn.RMSNorm)} == {1.0}
    assert not torch.allclose(one(x), other(x), atol=1e-2)


def test_linear_scaling_turns_place_40_as_place_10_was():
    plain, slow = Rotary(8, 64), Rotary(8, 64, Layout(rotary_scaling="linear", rotary_factor=4.0))
    torch.testing.assert_close(slow.cos[40], plain.cos[10])


def test_llama3_scaling_keeps_short_waves_and_slows_long_ones_down_by_the_factor():
    base = {"rotary_base": 500_000.0, "rotary_length": 64}
    plain, slow = Rotary(32, 9, Layout(**base)), Rotary(32, 9, Layout(**base, rotary_scaling="llama3"))
    num_waves = 64 / (2 * math.pi) * 500_000.0 ** (-torch.arange(0, 32, 2) / 32)
    short, long = num_waves > 4, num_waves < 1
    assert short.any()
    assert long.any()
    assert (~short & ~long).any()
    assert slow.sin[8, short].equal(plain.sin[8, short])
    torch.testing.assert_close(slow.sin[8, long], plain.sin[1, long])  # factor 8
    between = slow.sin[1, ~short & ~long].asin() / plain.sin[1, ~short & ~long].asin()
    assert ((between > 1 / 8) & (between < 1)).all()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            {"num_kv_heads": 3},
            r"cannot share model\.num_kv_heads = 3 .* try `model\.num_kv_heads=2`",
        ),
        ({"num_kv_heads": 8}, r"try `model\.num_kv_heads=4`"),
        ({"head_width": 7}, r"model\.head_width is 7, .* try `model\.head_width=8`"),
        ({"width": 26}, r"cannot be split over model\.num_heads = 4 heads"),
    ],
)
def test_a_layout_that_does_not_work_out_says_which_number_would(model, said):
    with pytest.raises(UserError, match=said):
        ModelConfig(**{**SHAPE, **model})


def test_a_width_that_the_heads_do_not_divide_is_fine_with_heads_of_their_own_width():
    assert build_model(config_of(width=26, head_width=6), 13).head_width == 6


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_every_setting_of_the_layout_reaches_the_network(share):
    """Each changes the logits, with the same weights where the shapes are the same."""
    x, t = torch.arange(12)[None] % 13, torch.tensor([0.5])

    def logits(**model: Any) -> torch.Tensor:
        network = drawn(build_model(config_of(share, **model), 13))
        return network(x) if share else network(x, t)

    with torch.no_grad():
        base = logits(**LLAMA)
        for more in ({"num_kv_heads": None}, {"head_width": 10}, {"mlp": "gelu"}, {"mlp_width": 44}):
            assert not torch.allclose(logits(**{**LLAMA, **more}), base, atol=1e-3)
        for more in ({"qkv_bias": True}, {"norm_eps": 0.5}, {"rotary_base": 100.0}, {"rotary_scaling": "linear"}):
            assert not torch.allclose(logits(**{**LLAMA, **more}), base, atol=1e-3)
        scaled = {**LLAMA, "rotary_scaling": "llama3", "rotary_length": 32, "rotary_base": 10.0}
        base = logits(**scaled)
        for more in ({"rotary_factor": 2.0}, {"rotary_range": (2.0, 3.0)}, {"rotary_length": 8}):
            assert not torch.allclose(logits(**{**scaled, **more}), base, atol=1e-4), more
