"""What the head reads of a text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mdlm_atat import CausalLM, MaskedDiffusionLM
from mdlm_atat.finetuning.head import longest_text, pooled
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
def test_padding_changes_what_a_causal_model_makes_of_a_text_by_less_than_1e_5(causal: CausalLM, ids):
    lengths = torch.tensor([12, 5, 1])
    together = pooled(causal.network, ids, lengths, "last")
    for row, length in enumerate(lengths.tolist()):
        alone = pooled(causal.network, ids[row : row + 1, :length], lengths[row : row + 1], "last")
        assert torch.allclose(together[row], alone[0], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("position", [0, 5, 11])
def test_every_token_of_a_text_counts_for_a_causal_and_for_a_masked_model(masked, causal, ids, position):
    changed = ids.clone()
    changed[:, position] = (changed[:, position] + 1) % 20
    lengths = torch.tensor([12, 12, 12])
    readers: list[tuple[Any, Pooling]] = [(masked, "mean"), (masked, "first"), (causal, "last")]
    for lm, pooling in readers:
        before, after = (pooled(lm.network, rows, lengths, pooling) for rows in (ids, changed))
        assert (before - after).abs().max() > 1e-3


def test_a_causal_model_keeps_a_place_for_the_state_that_has_read_all(masked, causal):
    assert longest_text(masked.max_length, "mean") == 16
    assert longest_text(causal.max_length, "last") == 15
