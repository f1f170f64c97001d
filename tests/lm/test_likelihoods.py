"""The likelihoods of one network that fills masks and reads left to right, over all texts of 3 tokens from 3."""

from __future__ import annotations

import itertools

import pytest
import torch
from made_models import two_way_lm

from mdlm_atat import CausalLM, MaskedDiffusionLM
from mdlm_atat.core.left_to_right import causal_nll
from mdlm_atat.lm.scoring import every_row
from mdlm_atat.samplers.canvas import Canvas
from samplers.enumerated import chi_square_per_degree
from toys import ListRows

TEXTS = torch.tensor(list(itertools.product(range(3), repeat=3)))
ROWS = ListRows(TEXTS.numpy())
NUM_DRAWN = 2500
CHANCE = 2.1  # chi-square over 26 degrees of freedom has mean 1, and exceeds this once in a thousand times

IN_ORDER = [
    ("spread", 1),
    ("spread", 2),
    ("spread", 3),
    ("uncertainty:amount=constant", 2),
    ("uncertainty:amount=constant,order=most_uncertain,score=margin", 3),
    ("entropy_budget:gamma=0.9", None),
    ("confidence:threshold=0.4", 2),
    ("left_to_right:draw.top_k=2", None),
]


@pytest.fixture(scope="module")
def lm() -> MaskedDiffusionLM:
    return two_way_lm()


def probs_in_order(lm: MaskedDiffusionLM, order: str, evaluations: int | None) -> torch.Tensor:
    found = lm.own_order(ROWS, every_row(ROWS, 8), order, evaluations=evaluations)
    assert found.is_exact
    return torch.zeros(27, dtype=torch.float64).scatter(0, found.sequences.rows, found.sequences.nats.neg().exp())


@pytest.mark.parametrize(("order", "evaluations"), IN_ORDER)
def test_in_a_samplers_own_order_probabilities_sum_to_1_and_are_how_often_it_writes_each_text(lm, order, evaluations):
    probs = probs_in_order(lm, order, evaluations)
    assert probs.sum().item() == pytest.approx(1, abs=1e-9)
    assert probs.std() > 0.01
    canvas = Canvas.blank(NUM_DRAWN, 3, lm.tokenizer.mask_id)
    made = lm.fill(canvas, sampler=order, steps=evaluations, seed=1)
    written = torch.tensor([text.tokens for text in made]) @ torch.tensor([9, 3, 1])
    observed = written.bincount(minlength=27)
    assert observed[probs == 0].sum() == 0
    assert chi_square_per_degree(observed[probs > 0], probs[probs > 0]) < CHANCE


def test_places_revealed_together_are_independent_and_so_their_likelihood_is_another(lm):
    one_at_a_time, at_once = (probs_in_order(lm, "spread", evaluations) for evaluations in (3, 1))
    assert (one_at_a_time - at_once).abs().max() > 0.005


def test_left_to_right_is_the_causal_mode_exactly_and_by_default(lm):
    texts = [lm.tokenizer.decode(row) for row in TEXTS.tolist() if 2 not in row]  # 2 ends a text
    scores = lm.score(texts)
    assert all(score.is_exact and score.likelihood == "left to right" for score in scores)
    ids = torch.tensor([lm.tokenizer.encode(text) for text in texts])
    expected = causal_nll(lm.network(ids), ids, None).sum(1).tolist()
    assert [score.nats for score in scores] == pytest.approx(expected, rel=1e-9)
    assert lm.score(texts, order="left_to_right") == scores
    assert CausalLM(lm.network, lm.tokenizer).score(texts) == scores
    bounds = lm.score(texts, order="any", num_draws=512)
    assert all(bound.likelihood == "any order" and not bound.is_exact for bound in bounds)
    assert abs(bounds[0].nats - scores[0].nats) > 4 * bounds[0].standard_error


def test_all_27_texts_left_to_right_sum_to_1_also_in_pieces_of_short_and_long_texts(lm):
    found = lm.left_to_right(ROWS, every_row(ROWS, 4))
    assert found.kind == "exact"
    assert found.sequences is not None
    assert found.sequences.nats.neg().exp().sum().item() == pytest.approx(1, abs=1e-9)
    whole, first, rest = lm.score(["abbab", "abb", "ab"])
    assert whole.nats == pytest.approx(first.nats + rest.nats, rel=1e-12)
    assert whole.num_tokens == 5


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_batch_size_changes_nothing_and_a_number_of_draws_takes_the_first_sequences(lm, batch_size):
    rows = ListRows(TEXTS.numpy(), (TEXTS.sum(1) % 3 + 1).numpy())  # of 1, 2 and 3 tokens
    whole = lm.own_order(rows, every_row(rows, 27), "spread", evaluations=2)
    found = lm.own_order(rows, every_row(rows, batch_size), "spread", evaluations=2)
    torch.testing.assert_close(found.sequences.nats, whole.sequences.nats)
    assert found.sequences.rows.equal(whole.sequences.rows)
    assert found.sequences.lengths.equal(torch.from_numpy(rows.lengths)[found.sequences.rows])
    assert 1.5 < found.evaluations == whole.evaluations < 2
