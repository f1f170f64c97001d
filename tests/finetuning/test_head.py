"""What the head reads of a text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mdlm_atat import CausalLM, MaskedDiffusionLM
from mdlm_atat.finetuning.head import default_pooling, longest_text, pooled
from mdlm_atat.finetuning.settings import Pooling


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 20, (3, 12), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_padding_changes_what_a_masked_model_makes_of_a_text_by_less_than_1e_5(masked: MaskedDiffusionLM, ids, pooling):
    lengths = torch.tensor([12, 5, 1])
    together = pooled(masked.network, ids, lengths, pooling)
    for row, length in enumerate(lengths.tolist()):
        alone = pooled(masked.network, ids[row : row + 1, :length], lengths[row : row + 1], pooling)
        assert torch.allclose(together[row], alone[0], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["last", "causal_mean"])
def test_padding_changes_what_a_causal_model_makes_of_a_text_by_less_than_1e_5(causal: CausalLM, ids, pooling):
    lengths = torch.tensor([12, 5, 1])
    together = pooled(causal.network, ids, lengths, pooling)
    for row, length in enumerate(lengths.tolist()):
        alone = pooled(causal.network, ids[row : row + 1, :length], lengths[row : row + 1], pooling)
        assert torch.allclose(together[row], alone[0], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("position", [0, 5, 11])
def test_every_token_of_a_text_counts_for_a_causal_and_for_a_masked_model(masked, causal, ids, position):
    changed = ids.clone()
    changed[:, position] = (changed[:, position] + 1) % 20
    lengths = torch.tensor([12, 12, 12])
    readers: list[tuple[Any, Pooling]] = [
        (masked, "mean"),
        (masked, "first"),
        (causal, "last"),
        (causal, "causal_mean"),
    ]
    for lm, pooling in readers:
        before, after = (pooled(lm.network, rows, lengths, pooling) for rows in (ids, changed))
        assert (before - after).abs().max() > 1e-3


def test_a_causal_model_keeps_a_place_for_the_state_that_has_read_all(masked, causal):
    assert longest_text(masked.max_length, "mean") == 16
    assert longest_text(causal.max_length, "last") == longest_text(causal.max_length, "causal_mean") == 15


@torch.no_grad()
def test_the_causal_mean_is_that_of_the_states_that_have_read_1_2_and_all_tokens(causal: CausalLM, ids):
    of_each = [pooled(causal.network, ids[:, :n], torch.tensor([n] * 3), "last") for n in range(1, 13)]
    found = pooled(causal.network, ids, torch.tensor([12] * 3), "causal_mean")
    assert torch.allclose(found, torch.stack(of_each).mean(0), atol=1e-5)


def test_a_network_of_both_modes_is_asked_in_the_causal_one_by_default():
    assert default_pooling(frozenset({"masked"})) == "mean"
    assert default_pooling(frozenset({"causal"})) == "last"
    assert default_pooling(frozenset({"masked", "causal"})) == "causal_mean"
