"""One network asked in two ways, against CausalTransformer, against ATATDiT, and by enumeration."""

import itertools
from typing import Any

import pytest
import torch

from mdlm_atat.core.left_to_right import causal_nll
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.nets.two_way import TwoWayDiT

SHAPE: dict[str, Any] = {"num_layers": 2, "width": 16, "num_heads": 2}
ALIGNMENTS = ["own", "shifted"]


def two_way(vocab_size: int = 13, max_length: int = 20, **more) -> TwoWayDiT:
    torch.manual_seed(0)
    made = TwoWayDiT(vocab_size, max_length, **{**SHAPE, **more})
    for p in made.parameters():  # zero-initialised parts would hide what they do
        torch.nn.init.normal_(p, std=0.3)
    return made.eval()


def fresh(kind: type, **more) -> torch.nn.Module:
    torch.manual_seed(3)
    return kind(13, 20, **SHAPE, **more)


@pytest.mark.parametrize("more", [{}, {"tied": False}, {"time_conditioning": True}], ids=str)
def test_its_first_weights_are_the_denoisers_and_a_mode_vector_of_zeros_is_all_it_has_more(more):
    one_way, both_ways = fresh(ATATDiT, **more).state_dict(), fresh(TwoWayDiT, **more).state_dict()
    mode = both_ways.pop("mode_vector")
    assert mode.equal(torch.zeros(16))
    assert one_way.keys() == both_ways.keys()
    assert all(one_way[name].equal(both_ways[name]) for name in one_way)


def test_with_its_own_alignment_and_no_mode_vector_it_is_both_networks_bit_for_bit():
    network = two_way()
    torch.nn.init.zeros_(network.mode_vector)
    weights = {name: p for name, p in network.state_dict().items() if name != "mode_vector"}
    masked, causal = ATATDiT(13, 20, **SHAPE).eval(), CausalTransformer(13, 20, **SHAPE).eval()
    masked.load_state_dict(weights)
    causal.load_state_dict(weights)
    x, t = torch.randint(0, 13, (3, 20)), torch.rand(3)
    assert network(x).equal(causal(x))
    assert network(x, t).equal(masked(x, t))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("time_through", [None, "adaln", "embedding"])
def test_probabilities_left_to_right_sum_to_1_over_all_27_texts_of_three_tokens(alignment, time_through):
    times = {} if time_through is None else {"time_conditioning": True, "time_through": time_through}
    network = two_way(3, 3, alignment=alignment, **times).double()
    texts = torch.tensor(list(itertools.product(range(3), repeat=3)))
    log_p = -causal_nll(network(texts), texts, None).sum(1)
    assert log_p.logsumexp(0).item() == pytest.approx(0.0, abs=1e-9)
    assert log_p.std() > 0.1


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_left_to_right_a_token_sees_what_is_before_it_and_nothing_else(alignment):
    network, x = two_way(alignment=alignment), torch.randint(0, 13, (1, 20))
    changed = x.clone()
    changed[0, 7] = (x[0, 7] + 1) % 13
    difference = (network(x) - network(changed)).abs().sum(-1)[0]
    assert difference[:8].max() == 0
    assert difference[8:].min() > 1e-5


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_masked_every_place_sees_every_other(alignment):
    network = two_way(alignment=alignment)
    z_t, t = torch.full((1, 20), 13), torch.full((1,), 0.5)
    for place in (0, 7, 19):
        changed = z_t.clone()
        changed[0, place] = 4
        difference = (network(z_t, t) - network(changed, t)).abs().sum(-1)[0]
        assert difference.min() > 1e-6


def test_shifted_token_i_is_predicted_from_the_place_before_it_and_the_first_from_the_start():
    network = two_way(alignment="shifted")
    z_t, t = torch.full((2, 20), 13), torch.full((2,), 0.5)
    h = network.embedding(z_t)
    assert network.start_vector is not None
    h = torch.cat([network.start_vector.expand(2, 1, 16), h], dim=1)  # (B, L + 1, D)
    for block in network.blocks:
        h = block(h, network.rotary)
    torch.testing.assert_close(network.hidden(z_t, t), network.norm(h)[:, :20])


def test_shifted_the_start_of_a_text_is_told_from_a_mask_and_own_takes_its_embedding():
    shifted, own = two_way(alignment="shifted"), two_way()
    x = torch.randint(0, 13, (1, 4))
    for network, changes in ((shifted, False), (own, True)):
        before = network(x)
        with torch.no_grad():
            network.embedding.weight[13] += torch.randn(16)  # [MASK]
        assert (network(x) - before).abs().max().item() > 1e-4 if changes else network(x).equal(before)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("mode", ["masked", "causal"])
def test_what_stands_in_padding_changes_nothing(alignment, mode):
    network, lengths = two_way(alignment=alignment), torch.tensor([5, 20, 11])
    x = torch.randint(0, 13, (3, 20))
    other = torch.where(torch.arange(20) < lengths[:, None], x, (x + 5) % 13)
    t = torch.full((3,), 0.5) if mode == "masked" else None
    found, again = network(x, t, lengths), network(other, t, lengths)
    for row, length in enumerate(lengths.tolist()):
        assert found[row, :length].equal(again[row, :length])
        alone = network(x[row : row + 1, :length], None if t is None else t[:1])
        torch.testing.assert_close(found[row, :length], alone[0], rtol=1e-4, atol=1e-5)


def test_the_mode_vector_tells_the_ways_apart_and_moves_only_the_causal_one():
    network, x, t = two_way(), torch.randint(0, 13, (2, 9)), torch.full((2,), 0.5)
    causal, masked = network(x), network(x, t)
    with torch.no_grad():
        network.mode_vector.add_(torch.randn(16))
    assert (network(x) - causal).abs().max() > 1e-3
    assert network(x, t).equal(masked)


def test_a_time_conditioned_network_reads_left_to_right_as_if_nothing_were_masked():
    network = two_way(time_conditioning=True, time_through="embedding")
    assert network.added_time is not None
    with torch.no_grad():
        network.added_time.weight[:8, :16] += 1.0  # the cosines, which are 1 at t = 0
    plain = two_way(time_conditioning=True, time_through="embedding")
    x = torch.zeros(1, 5, dtype=torch.long)
    changed = network.hidden(x, torch.zeros(1)) - plain.hidden(x, torch.zeros(1))
    assert changed.abs().max() > 1e-3
    assert (network(x) - plain(x)).abs().max() > 1e-3
