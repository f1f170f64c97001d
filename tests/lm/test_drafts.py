"""The experiment with drafts: what is written follows the causal mode exactly."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.core.left_to_right import causal_nll
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.nets.two_way import TwoWayDiT
from mdlm_atat.samplers.draw import TokenDraw

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.drafts import Written, write_with_drafts

AB = CharTokenizer("ab")  # and eos: a vocabulary of 3
NUM_TEXTS = 6_000


def made(length: int, alignment: str) -> MaskedDiffusionLM:
    torch.manual_seed(0)
    network = TwoWayDiT(3, length, num_layers=1, width=16, num_heads=2, alignment=alignment)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return MaskedDiffusionLM(network, AB)


def written(lm: MaskedDiffusionLM, num_given: int, num_drafts: int, num_texts: int = NUM_TEXTS) -> Written:
    prompts = torch.ones(num_texts, num_given, dtype=torch.long)
    return write_with_drafts(lm, prompts, lm.max_length, num_drafts, torch.Generator().manual_seed(1))


def chi_square(lm: MaskedDiffusionLM, tokens: Tensor, num_given: int) -> float:
    """Of how often each continuation was written, against the causal mode's joint, a degree of freedom."""
    texts = torch.tensor(list(itertools.product(range(3), repeat=lm.max_length - num_given)))
    whole = torch.cat([torch.ones(len(texts), num_given, dtype=torch.long), texts], dim=1)
    with torch.no_grad():
        nll = causal_nll(lm.network(whole), whole, None)[:, num_given:].sum(1)
    expected = (-nll).exp() * len(tokens)
    assert expected.sum().item() == pytest.approx(len(tokens), rel=1e-4)
    number = (tokens[:, num_given:] * 3 ** torch.arange(texts.shape[1] - 1, -1, -1)).sum(1)
    found = torch.bincount(number, minlength=len(texts))
    return ((found - expected) ** 2 / expected).sum().item() / (len(texts) - 1)


@pytest.mark.parametrize(
    ("alignment", "length", "num_given", "num_drafts"),
    [("own", 3, 0, 2), ("own", 4, 1, 3), ("shifted", 2, 0, 2), ("shifted", 4, 1, 1), ("shifted", 4, 1, 3)],
)
def test_texts_drafted_in_the_masked_mode_have_the_causal_joint(alignment, length, num_given, num_drafts):
    lm = made(length, alignment)
    result = written(lm, num_given, num_drafts)
    assert chi_square(lm, result.tokens, num_given) < 1.9  # 8 to 26 degrees; without checks it is above 20
    assert 0.3 < result.num_accepted.float().mean() < length - num_given


def test_with_a_temperature_and_top_p_no_draft_outside_the_causal_modes_own_set_is_kept():
    lm, draw = made(3, "own"), TokenDraw(temperature=0.5, top_p=0.8)
    given = torch.zeros(NUM_TEXTS, 0, dtype=torch.long)
    found = write_with_drafts(lm, given, 3, 2, torch.Generator().manual_seed(1), draw).tokens
    texts = torch.tensor(list(itertools.product(range(3), repeat=3)))
    with torch.no_grad():
        probs = draw.probabilities(lm.network(texts).flatten(0, 1)).view(27, 3, 3)
    joint = probs.gather(2, texts[..., None]).prod(1)[:, 0]
    times = torch.bincount(found @ torch.tensor([9, 3, 1]), minlength=27)
    assert 1 < (joint > 0).sum() < 27
    assert not times[joint == 0].any()
    expected = joint[joint > 0] * NUM_TEXTS
    assert ((times[joint > 0] - expected) ** 2 / expected).sum() < 2.5 * (len(expected) - 1)


def test_the_same_drafts_unchecked_would_not_have_it():
    lm = made(3, "own")
    x = torch.full((NUM_TEXTS, 3), 3)
    with torch.no_grad():
        probs = lm.network(x[:1], torch.ones(1)).softmax(-1)[0]  # of each place, all else hidden
    drafts = torch.multinomial(probs, NUM_TEXTS, replacement=True, generator=torch.Generator().manual_seed(1)).T
    assert chi_square(lm, drafts, 0) > 20


def test_refused_drafts_leave_nothing_behind_each_token_is_the_one_that_the_causal_mode_finds_likeliest(monkeypatch):
    lm = made(12, "own")
    # sure of eos, which the causal mode never finds likeliest here, so that every draft is refused
    eos = torch.linalg.pinv(lm.network.embedding.weight[:3]) @ torch.tensor([0.0, 0.0, 99.0])
    monkeypatch.setattr(lm, "_hidden", lambda z_t, _: eos.expand(*z_t.shape, -1))
    given, greedy = torch.ones(4, 3, dtype=torch.long), TokenDraw(temperature=0)
    result = write_with_drafts(lm, given, 12, 4, torch.Generator(), greedy)
    assert result.num_accepted.tolist() == [0] * 4
    assert result.num_passes == 1 + 2 * 9
    assert result.tokens.tolist() == [text.tokens for text in lm.generate(["bbb"] * 4, temperature=0)]
