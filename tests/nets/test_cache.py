"""Reading left to right with a key-value cache gives what one pass over the whole text gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mdlm_atat.nets.cache import KeyValueCache
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.nets.layers import Layout
from mdlm_atat.nets.protocol import Cached
from mdlm_atat.nets.two_way import TwoWayDiT

VOCAB, LENGTH = 13, 20
SHAPE: dict[str, Any] = {"num_layers": 2, "width": 16, "num_heads": 2}
NETWORKS: dict[str, tuple[type, dict[str, Any]]] = {
    "causal": (CausalTransformer, {}),
    "causal, rms": (CausalTransformer, {"norm": "rms", "qk_norm": True, "tied": False}),
    "causal, grouped": (CausalTransformer, {"layout": Layout(num_kv_heads=1, head_width=12, mlp="swiglu")}),
    "own": (TwoWayDiT, {}),
    "shifted": (TwoWayDiT, {"alignment": "shifted"}),
    "own, time": (TwoWayDiT, {"time_conditioning": True}),
    "shifted, time": (TwoWayDiT, {"alignment": "shifted", "time_conditioning": True, "time_through": "embedding"}),
}


@pytest.fixture(params=NETWORKS)
def network(request) -> Any:
    kind, more = NETWORKS[request.param]
    torch.manual_seed(0)
    made = kind(VOCAB, LENGTH, **SHAPE, **more).eval()
    for p in made.parameters():  # zero-initialised parts would hide what they do
        torch.nn.init.normal_(p, std=0.2)
    return made


def texts(num_rows: int = 2) -> Tensor:
    return torch.randint(0, VOCAB, (num_rows, LENGTH), generator=torch.Generator().manual_seed(1))


def symbols_of(x: Tensor) -> Tensor:
    """What stands at the places: the start, then the tokens."""
    return F.pad(x[:, :-1], (1, 0), value=VOCAB)


@torch.no_grad()
def read(network: Any, x: Tensor, sizes: Sequence[int], cache: KeyValueCache, num_places: int | None = None) -> Tensor:
    """Logits of the first sum(sizes) tokens, read in parts of these sizes."""
    symbols, places, found = symbols_of(x), torch.arange(LENGTH).expand(len(x), -1), []
    start = 0
    for size in sizes:
        here = slice(start, start + size)
        found.append(network.logits(network.read(symbols[:, here], places[:, here], cache, num_places)))
        start += size
    return torch.cat(found, dim=1)


@torch.no_grad()
def whole(network: Any, x: Tensor) -> Tensor:
    return network(x)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", [[1] * 20, [20], [9, *[1] * 11], [3, 1, 5, 2, 9]], ids=str)
def test_cached_logits_are_those_of_one_pass_within_1e_5_however_the_text_is_cut(network, sizes):
    assert isinstance(network, Cached)
    x = texts()
    expected = whole(network, x)
    assert expected.std() > 0.1
    close(read(network, x, sizes, network.empty_cache(2, LENGTH)), expected)


@torch.no_grad()
def test_prompts_of_3_and_9_tokens_together_go_on_as_each_does_alone(network):
    x, cache = texts(), network.empty_cache(2, LENGTH)
    expected = whole(network, x)
    padded = x.clone()
    padded[0, 3:] = VOCAB  # [MASK], which is what stands behind a prompt
    read(network, padded, [10], cache)  # the start and 9 tokens; 6 of the first row's are padding
    symbols = symbols_of(x)
    for step in range(10):
        places = torch.tensor([[4 + step], [10 + step]])
        hidden = network.read(symbols.gather(1, places), places, cache)
        close(network.logits(hidden), expected.gather(1, places[..., None].expand(-1, -1, VOCAB)))


def test_what_unused_slots_hold_changes_no_bit(network):
    x, sizes = texts(), [5, *[1] * 10]
    clean, dirty = network.empty_cache(2, LENGTH), network.empty_cache(2, LENGTH)
    for part in (*dirty.keys, *dirty.values):
        part.fill_(1e4)
    assert read(network, x, sizes, dirty).equal(read(network, x, sizes, clean))


def test_another_text_in_the_same_cache_and_a_row_taken_back_to_its_7th_place_read_as_afresh(network):
    first, second = texts(4).split(2)
    cache = network.empty_cache(2, LENGTH)
    read(network, first, [20], cache)
    read(network, second, [9], cache)
    mixed = torch.cat([second[:, :6], first[:, 6:]], dim=1)
    symbols, places = symbols_of(mixed)[:, 7:], torch.arange(7, LENGTH).expand(2, -1)
    with torch.no_grad():
        found = network.logits(network.read(symbols, places, cache))
    # place 6 holds token 5, the last that they have in common
    close(found, whole(network, mixed)[:, 7:])


def test_a_part_of_the_buffers_is_enough_for_a_text_that_is_shorter(network):
    cache, x = network.empty_cache(8, LENGTH), texts()
    found = read(network, x, [4, *[1] * 7], cache.first(2), num_places=11)
    close(found, whole(network, x)[:, :11])
    assert all(part[2:].count_nonzero() == 0 and part[:, :, 11:].count_nonzero() == 0 for part in cache.keys)
    assert all(part[:2, :, :11].ne(0).all() for part in cache.keys)


def test_the_cache_has_the_type_of_the_weights_or_the_one_that_is_asked_for(network):
    assert network.double().empty_cache(1, 4).keys[0].dtype == torch.float64
    assert network.empty_cache(1, 4, torch.bfloat16).values[1].dtype == torch.bfloat16
