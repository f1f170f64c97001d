"""How many rows go through a network together where nobody said."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from made_models import two_way_lm

from mdlm_atat.core import fused_loss
from mdlm_atat.lm.pieces import Pieces
from mdlm_atat.runs.evaluate import draw_settings
from mdlm_atat.scoring.draws import CPU_TOKENS, DrawSettings, rows_together


@pytest.mark.parametrize(("length", "rows"), [(1, 128), (64, 128), (512, 32), (1024, 16), (8192, 16)])
def test_on_a_cpu_128_rows_are_16_thousand_tokens_at_most_but_16_rows_at_least(length, rows):
    assert rows_together(128, length, torch.device("cpu")) == rows
    assert rows_together(128, length, torch.device("cuda")) == 128
    assert rows * length <= CPU_TOKENS or rows == 16


def test_an_evaluation_on_a_cpu_takes_fewer_rows_of_a_long_model_than_on_a_gpu_unless_it_is_told():
    lm = two_way_lm(length=2000)
    assert draw_settings(lm, num_draws=None, batch_size=None, seed=0).batch_size == 16
    assert draw_settings(lm, num_draws=None, batch_size=64, seed=0).batch_size == 64
    assert draw_settings(two_way_lm(length=3), num_draws=None, batch_size=None, seed=0).batch_size == 64


@pytest.mark.parametrize("work", ["left_to_right", "likelihood", "inspect", "score"])
def test_no_more_than_a_chunk_of_logits_is_held_whatever_the_batch_is(work, monkeypatch):
    lm, sizes = two_way_lm(length=8), []
    cross_entropy = F.cross_entropy

    def counted(logits, *given, **more):
        sizes.append(logits.numel())
        return cross_entropy(logits, *given, **more)

    monkeypatch.setattr(fused_loss, "CPU_CHUNK_ELEMENTS", 5 * fused_loss.MULTIPLE)
    monkeypatch.setattr(F, "cross_entropy", counted)
    rows = Pieces([[0, 1, 1, 0, 1, 0, 0, 1]] * 64, 8)
    draws = DrawSettings(num_draws=64, batch_size=64)
    match work:
        case "inspect":
            lm.counts = torch.tensor([3, 2, 1]).numpy()
            lm.inspect("abbabaab", times=(0.5,), num_draws=16)
        case "score":
            lm.score(["abbabaab"] * 32, batch_size=32)
            lm.score("abbabaab", order="any", num_draws=32)
        case _:
            getattr(lm, work)(rows, draws)
    assert max(sizes) == 5 * fused_loss.MULTIPLE
