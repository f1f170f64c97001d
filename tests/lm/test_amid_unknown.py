"""Texts shorter than those that a network was trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.config.schema import DataConfig, RunConfig
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.lm.amid_unknown import AmidUnknown
from mdlm_atat.nets.dit import ATATDiT

LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def network() -> ATATDiT:
    torch.manual_seed(0)
    network = ATATDiT(9, 400, num_layers=2, width=16, num_heads=2, time_conditioning=True)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return network.double().eval()


def lm_of(network: ATATDiT, *, mode: str) -> MaskedDiffusionLM:
    config = replace(RunConfig(), data=replace(DataConfig(), mode=mode, length=400))
    lm = MaskedDiffusionLM(network, CharTokenizer(LETTERS), config)
    lm.counts = np.ones(9, dtype=np.int64)
    return lm


@torch.no_grad()
def test_a_text_of_20_tokens_is_seen_with_64_masks_on_either_side(network):
    z_t = torch.randint(0, 10, (3, 20), generator=torch.Generator().manual_seed(1)).clamp_max(9)
    t = torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64)
    wide = torch.full((3, 148), 9)
    wide[:, 64:84] = z_t
    expected = network(wide, (t * 20 + 128) / 148)[:, 64:84]
    torch.testing.assert_close(AmidUnknown(network, 9, 400)(z_t, t), expected, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(("length", "width"), [(399, 400), (300, 400), (272, 400), (271, 399)])
def test_there_are_never_more_places_than_the_network_was_trained_at(network, monkeypatch, length, width):
    seen = []
    hidden = network.hidden
    monkeypatch.setattr(network, "hidden", lambda z_t, t: seen.append(z_t.shape[1]) or hidden(z_t, t))
    AmidUnknown(network, 9, 400)(torch.zeros(1, length, dtype=torch.long), torch.zeros(1, dtype=torch.float64))
    assert seen == [width]


@torch.no_grad()
def test_a_text_of_the_trained_length_is_seen_as_it_is(network):
    z_t, t = torch.zeros(2, 400, dtype=torch.long), torch.tensor([0.1, 0.7], dtype=torch.float64)
    assert torch.equal(AmidUnknown(network, 9, 400)(z_t, t), network(z_t, t))


@torch.no_grad()
def test_the_other_rows_and_the_padding_of_a_batch_change_nothing(network):
    short, long = torch.tensor([[1, 9, 3]]), torch.tensor([[9, 2, 4, 5, 9]])
    padded = torch.cat([torch.cat([short, torch.tensor([[7, 7]])], dim=1), long])
    t = torch.tensor([1 / 3, 2 / 5], dtype=torch.float64)
    amid = AmidUnknown(network, 9, 400)
    together = amid(padded, t, torch.tensor([3, 5]))
    torch.testing.assert_close(together[:1, :3], amid(short, t[:1]), rtol=0, atol=1e-12)
    torch.testing.assert_close(together[1:], amid(long, t[1:]), rtol=0, atol=1e-12)


def test_networks_of_pieces_are_asked_so_and_networks_of_whole_documents_are_not(network):
    short, t = torch.tensor([[1, 9, 3]]), torch.tensor([1 / 3], dtype=torch.float64)
    with torch.no_grad():
        alone = network(short, t)
        pieces, documents = (lm_of(network, mode=mode).denoise(short, t) for mode in ("wrap", "pad"))
    assert torch.equal(documents, alone)
    assert (pieces - alone).abs().max() > 0.1


def test_scores_fillings_gap_lengths_and_inspections_all_see_it(network):
    pieces, documents = lm_of(network, mode="wrap"), lm_of(network, mode="pad")
    for ask in (
        lambda lm: lm.inspect("abcab", times=[0.4]).mean_nll.sum(),
        lambda lm: lm.score("abcab", num_draws=64).nats,
        lambda lm: lm.score("abcab", order="spread", evaluations=5).nats,
        lambda lm: lm.infill("a[MASK:1-2]b", length_draws=64).length_costs.nats[(1,)],
    ):
        assert ask(pieces) != pytest.approx(ask(documents), rel=1e-6)


def test_where_all_of_a_text_is_masked_inspect_shows_the_losses_that_the_denoiser_gives_amid_masks(network):
    lm = lm_of(network, mode="wrap")
    found = lm.inspect("abcab", times=[1.0], num_draws=1)
    z_t, t = torch.full((1, 5), 9), torch.ones(1, dtype=torch.float64)
    with torch.no_grad():
        log_p = lm.denoise(z_t, t)[0, :, :9].double().log_softmax(-1)
    expected = -log_p[torch.arange(5), torch.tensor(lm.tokenizer.encode("abcab"))]
    assert found.mean_nll.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@torch.no_grad()
def test_a_network_whose_rows_began_with_a_token_is_shown_it_and_then_the_text_with_masks_behind(network):
    z_t, t = torch.tensor([[1, 9, 3]]), torch.tensor([1 / 3], dtype=torch.float64)
    shown = torch.tensor([[8, 1, 9, 3, *[9] * 64]])
    amid = AmidUnknown(network, 9, 399, bos_id=8)
    expected = network(shown, 1 - (1 - t) * (3 / 67))[:, 1:4]
    torch.testing.assert_close(amid(z_t, t), expected, rtol=0, atol=1e-12)
    alone = AmidUnknown(network, 9, 399, bos_id=8, num_around=0)
    torch.testing.assert_close(alone(z_t, t), network(shown[:, :4], t)[:, 1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["wrap", "pad"])
def test_a_text_is_generated_filled_and_scored_behind_the_token_that_the_rows_began_with(network, monkeypatch, mode):
    lm = lm_of(network, mode=mode)
    lm = MaskedDiffusionLM(network, lm.tokenizer, replace(lm.config, model=replace(lm.config.model, bos_id=8)))
    assert lm.max_length == 399
    shown, hidden = [], network.hidden
    monkeypatch.setattr(network, "hidden", lambda z_t, *more: shown.append(z_t[:, 0]) or hidden(z_t, *more))
    made = lm.generate("ab", length=5, steps=4)
    assert len(made.tokens) == 5
    assert made.text.startswith("ab")
    lm.infill("a[MASK:2]b", steps=2)
    lm.score("abcab", num_draws=32)
    lm.score("abc", order="spread", evaluations=3)
    assert len(shown) > 8
    assert all((first == 8).all() for first in shown)


def test_a_token_that_rows_begin_with_has_to_be_one_of_the_vocabulary(network):
    lm = lm_of(network, mode="wrap")
    with pytest.raises(UserError, match="bos_id = 9 is none of the 9 tokens"):
        MaskedDiffusionLM(network, lm.tokenizer, replace(lm.config, model=replace(lm.config.model, bos_id=9)))
