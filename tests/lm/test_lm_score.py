"""lm.score in the order of a sampler: exact, by the chain rule."""

from __future__ import annotations

import math

import pytest
import torch

from mdlm_atat import UserError
from mdlm_atat.lm import How
from mdlm_atat.samplers.canvas import Canvas
from mdlm_atat.samplers.first_hitting import FirstHitting
from mdlm_atat.samplers.uncertainty import UncertaintyGuidedSampler

TEXT = "the cat sat on a"  # 16 tokens, the models' length


@pytest.mark.parametrize("text", [TEXT, "a", "the cat sat on a mat and ran to see it if"])
def test_left_to_right_a_causal_model_pays_the_exact_chain_rule(causal, text):
    tokens = torch.tensor(causal.tokenizer.encode(text))
    by_hand = 0.0
    for piece in tokens.split(16):
        for i, token in enumerate(piece):
            z_t = torch.where(torch.arange(len(piece)) < i, piece, causal.tokenizer.mask_id)[None]
            with torch.no_grad():
                logits = causal.network.logits(causal.network.hidden(z_t))[0, i]
            by_hand -= logits.double().log_softmax(-1)[token].item()
    (in_order,) = causal.score([text], order="left_to_right")
    (exact,) = causal.score([text])
    assert in_order.nats == pytest.approx(by_hand, rel=1e-5)
    assert exact.nats == pytest.approx(by_hand, rel=1e-5)
    assert in_order.num_tokens == len(text)
    assert in_order.standard_error == 0


ORDERS = [
    "left_to_right",
    "uncertainty:num_steps=none,amount=constant",
    "uncertainty:num_steps=none,amount=constant,order=most_uncertain,score=margin",
    "uncertainty:num_steps=4",
    "threshold",
    "confidence:num_steps=8",
    "documents",
]


@pytest.mark.parametrize("order", ORDERS)
def test_in_its_own_order_a_masked_model_pays_what_the_network_says_frame_by_frame(masked, order, monkeypatch):
    frames, hidden = [], masked.network.hidden
    monkeypatch.setattr(masked.network, "hidden", lambda z_t, t: frames.append(z_t[0].clone()) or hidden(z_t, t))
    (score,) = masked.score([TEXT], order=order)
    monkeypatch.undo()
    tokens, mask_id = torch.tensor(masked.tokenizer.encode(TEXT)), masked.tokenizer.mask_id
    assert (frames[0] == mask_id).all()
    by_hand = 0.0
    for frame, after in zip(frames, [*frames[1:], tokens], strict=True):
        share = (frame == mask_id).float().mean()[None]
        with torch.no_grad():
            log_probs = masked.network(frame[None], share)[0].double().log_softmax(-1)
        revealed = (frame == mask_id) & (after != mask_id)
        assert revealed.any()
        assert after[revealed].equal(tokens[revealed])
        by_hand -= log_probs[revealed, tokens[revealed]].sum().item()
        if "num_steps=none" in order:  # one position, the most certain or the most uncertain one
            assert revealed.sum() == 1
            self_information = -log_probs.exp().mul(log_probs).sum(-1)
            top = log_probs.exp().topk(2).values
            uncertainty = self_information if "margin" not in order else top[:, 0] - top[:, 1]
            candidates = uncertainty[frame == mask_id]
            # what is closer than this is a tie, and goes to the leftmost
            assert uncertainty[revealed].item() == pytest.approx(candidates.min().item(), abs=1e-4)
    assert score.nats == pytest.approx(by_hand, rel=1e-5)
    assert (score.standard_error, score.num_tokens, score.num_draws) == (0, 16, 1)


@pytest.mark.parametrize("order", ["left_to_right", "uncertainty:num_steps=none", "uncertainty:num_steps=1"])
def test_the_probabilities_of_all_529_endings_of_2_tokens_sum_to_1(masked, order):
    vocab = torch.arange(masked.tokenizer.vocab_size)
    endings = torch.cartesian_prod(vocab, vocab)
    start = masked.tokenizer.encode("the ca")
    tokens = torch.cat([torch.tensor(start).expand(len(endings), -1), endings], dim=1)
    fixed = (torch.arange(tokens.shape[1]) < len(start)).expand_as(tokens)
    nll, is_exact = masked.nll_revealed_by(Canvas(tokens, fixed), tokens, order)
    assert is_exact
    assert (-nll).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_the_uniform_bound_is_close_to_the_mean_cost_in_256_random_orders(masked):
    tokens = torch.tensor(masked.tokenizer.encode(TEXT)).expand(256, -1)
    canvas = Canvas.blank(256, 16, masked.tokenizer.mask_id)
    nll, is_exact = masked.nll_revealed_by(canvas, tokens, "first_hitting")
    assert not is_exact
    (bound,) = masked.score([TEXT], num_draws=512)
    error = math.hypot(nll.std().item() / 16, bound.standard_error)
    assert abs(nll.mean().item() - bound.nats) < 4 * error
    assert error < 0.05 * bound.nats


def test_a_text_of_40_tokens_is_3_pieces_each_for_itself_in_batches_of_any_size(masked):
    text = "the cat sat on a mat and ran to see if y"
    for order in ("left_to_right", "uncertainty:num_steps=4,amount=constant"):
        (whole,) = masked.score([text], order=order)
        pieces = masked.score([text[:16], text[16:32], text[32:]], order=order)
        assert whole.num_tokens == len(text) == 40
        assert whole.nats == pytest.approx(sum(piece.nats for piece in pieces), rel=1e-5)
        assert masked.score([text], order=order, batch_size=1)[0].nats == pytest.approx(whole.nats, rel=1e-5)


def test_a_rule_of_ones_own_scores_as_its_name_does(masked):
    rule = UncertaintyGuidedSampler(num_steps=4, score="margin")
    by_name = masked.score([TEXT], order="uncertainty:num_steps=4,score=margin")
    (by_rule,) = masked.score([TEXT], order=rule)
    assert by_rule == by_name[0]
    assert by_rule.likelihood == "own order of UncertaintyGuidedSampler"
    assert masked.rule(How(sampler=rule), Canvas.blank(1, 16, 23)) is rule


OF_CHANCE = [
    "ancestral:num_steps=16",
    "first_hitting",
    "remask:num_steps=16",
    "follow_rates:num_steps=16",
    "rate_hitting",
]


@pytest.mark.parametrize("order", OF_CHANCE)
def test_an_order_of_chance_gives_a_bound_that_says_so_and_is_the_same_in_any_company(adaptive, order):
    first, second = adaptive.score([TEXT, "a cat"], order=order, num_draws=4, seed=3)
    assert not first.is_exact
    assert first.likelihood == f"own order of {order}"
    assert (first.num_draws, first.degrees) == (4, 3)
    assert 0 < first.standard_error < first.nats
    assert adaptive.score("a cat", order=order, num_draws=4, seed=3).nats == pytest.approx(second.nats, rel=1e-5)
    assert repr(first).startswith(f"Score(own order of {order}: at most ")
    with pytest.raises(UserError, match=r"`num_draws=1`: own order of .* is random"):
        adaptive.score(TEXT, order=order, num_draws=1)


def test_the_mean_over_random_orders_one_at_a_time_is_the_bound_in_any_order(masked):
    of_orders = masked.score(TEXT, order="first_hitting", num_draws=32)
    bound = masked.score(TEXT, order="any", num_draws=256)
    assert abs(of_orders.nats - bound.nats) < 4 * math.hypot(of_orders.standard_error, bound.standard_error)
    assert masked.score(TEXT, order="uniform", num_draws=256) == bound  # its former name
    assert masked.score(TEXT, num_draws=256) == bound
    assert (bound.likelihood, bound.is_exact, bound.degrees) == ("any order", False, 15)


def test_with_8_blocks_the_interval_is_2_36_errors_wide_on_each_side(masked):
    score = masked.score(TEXT)
    low, high = score.interval95
    assert (
        high - score.nats == pytest.approx(score.nats - low) == pytest.approx(2.3646 * score.standard_error, rel=1e-4)
    )
    exact = masked.score(TEXT, order="spread")
    assert exact.interval95 == (exact.nats, exact.nats)


def test_what_a_model_does_not_have_is_refused_with_what_it_has(causal, masked):
    with pytest.raises(UserError, match=r"reads left to right only.*leave out `order=`"):
        causal.score(TEXT, order="any")
    with pytest.raises(UserError, match=r"`evaluations=4` is for the own order of a sampler"):
        masked.score(TEXT, evaluations=4)
    with pytest.raises(UserError, match=r"`evaluations=4`: sampler left_to_right has no number of steps"):
        masked.score(TEXT, order="left_to_right:draw.top_k=3", evaluations=4)
    by_option = masked.score(TEXT, order="spread:num_steps=4")
    assert masked.score(TEXT, order="spread", evaluations=4).nats == by_option.nats


def test_a_sampler_that_is_given_as_a_class_is_named_and_scored_as_one_that_is_made(masked):
    score = masked.score(TEXT, order=FirstHitting, num_draws=8)
    assert score.likelihood == "own order of FirstHitting"
    assert score == masked.score(TEXT, order=FirstHitting(), num_draws=8)


@pytest.mark.parametrize("order", [None, "left_to_right"])
def test_an_empty_text_and_an_unknown_order_are_refused(causal, masked, order):
    for lm in (causal, masked):
        with pytest.raises(UserError, match="empty: there is nothing to score"):
            lm.score(["a", ""], order=order)
        with pytest.raises(UserError, match="unknown order 'best'"):
            lm.score(["a"], order="best")
        assert lm.score([], order=order) == []
