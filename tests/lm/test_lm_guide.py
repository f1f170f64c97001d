"""Guidance: words that are wanted, or not."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from made_models import random_lm

from mdlm_atat import UserError
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.data.train_tokenizer import train_bpe
from mdlm_atat.lm import Guide
from tiny_runs import WORDS


def share_of(letter: str, lm, **how) -> float:
    texts = lm.generate([""] * 32, seed=0, **how)
    return sum(text.text.count(letter) for text in texts) / (32 * 16)


@pytest.mark.parametrize("sampler", ["first_hitting", "uncertainty:num_steps=8", "follow_rates:num_steps=8"])
def test_a_wanted_letter_comes_2_times_as_often_and_an_unwanted_one_half_as_often(adaptive, sampler):
    plain = share_of("o", adaptive, sampler=sampler)
    assert share_of("o", adaptive, sampler=sampler, guide=Guide({"o": 2})) > 2 * plain > 0.05
    assert share_of("o", adaptive, sampler=sampler, guide=Guide({"o": 1}, logits=-2)) < plain / 2
    assert share_of("o", adaptive, sampler=sampler, guide=Guide({"o": 2}, logits=0)) == plain


def test_a_guided_token_is_drawn_with_its_probability_times_e_to_the_weight_over_all(masked):
    weights = {"o": 1.5, "e": -0.5}
    z_t = torch.full((1, 16), masked.tokenizer.mask_id)
    with torch.no_grad():
        probs = masked.network(z_t, torch.ones(1))[0].double().softmax(-1)  # (L, V)
    factor = torch.ones(masked.tokenizer.vocab_size, dtype=torch.float64)
    for letter, weight in weights.items():
        factor[masked.tokenizer.encode(letter)[0]] = np.exp(2 * weight)
    guided = probs * factor / (probs * factor).sum(-1, keepdim=True)
    texts = masked.generate(
        [""] * 4, sampler="first_hitting", steps=1, guide=Guide(weights, logits=2), return_trace=True
    )
    for text in texts:
        assert text.trace is not None
        expected = guided[torch.arange(16), torch.tensor(text.tokens)]
        assert text.trace.confidence == pytest.approx(expected.numpy(), rel=1e-4)


def test_with_order_the_position_comes_first_where_the_word_is_expected_most(masked):
    """And last with a negative one: order=1e6 outweighs every entropy."""
    o = masked.tokenizer.encode("o")[0]
    for order, best in ((1e6, torch.argmax), (-1e6, torch.argmin)):
        text = masked.infill(
            "the [MASK:9] on",
            sampler="uncertainty:num_steps=none,amount=constant",
            guide=Guide({"o": 1}, logits=0, order=order),
            return_trace=True,
        )
        assert text.trace is not None
        for step in range(1, 10):
            z_t = torch.from_numpy(text.trace.frames[step - 1])[None]
            is_masked = z_t == masked.tokenizer.mask_id
            with torch.no_grad():
                expected = masked.network(z_t, is_masked.float().mean(1))[0].softmax(-1)[:, o]
            candidates = is_masked[0].nonzero()[:, 0]
            assert text.trace.revealed_at_step[candidates[best(expected[candidates])]] == step


@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting", "left_to_right", "remask", "follow_rates"])
def test_order_is_refused_by_5_samplers_that_choose_without_looking(adaptive, sampler):
    with pytest.raises(UserError, match="before it asks the network, so guidance cannot change the order"):
        adaptive.generate([""], sampler=sampler, guide=Guide({"o": 1}, order=1))


def test_a_word_of_3_tokens_is_refused_and_an_unknown_letter_named(masked):
    with pytest.raises(UserError, match="'the' is 3 tokens of this model's tokenizer; guidance takes words of one"):
        masked.generate([""], guide=Guide({"o": 1, "the": 1}))
    with pytest.raises(UserError, match=r"character 'Q' \(U\+0051\)"):
        masked.generate([""], guide=Guide({"Q": 1}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_refused(value):
    for guide in (
        lambda: Guide({"a": 1, "logits": value}),
        lambda: Guide({"a": 1}, logits=value),
        lambda: Guide({"a": 1}, order=value),
    ):
        with pytest.raises(UserError, match="expected a finite number"):
            guide()


def test_a_word_means_its_token_with_and_without_a_space_before(masked):
    texts = [" ".join(random.Random(seed).choices(WORDS, k=8)) for seed in range(200)]
    tokenizer = train_bpe(texts, 350)
    forms = {tuple(tokenizer.encode(form)) for form in ("old", " old")}
    single = {form[0] for form in forms if len(form) == 1}
    lm = random_lm(tokenizer, masked.config)
    (text,) = lm.generate([""], length=32, guide=Guide({"old": 100}))
    assert single
    assert set(text.tokens) <= single


def test_a_char_model_without_a_space_is_guided_too(masked):
    lm = random_lm(CharTokenizer("xyz"), masked.config)
    assert lm.generate([""], guide=Guide({"y": 100}))[0].text == "y" * 16


def test_no_text_changes_with_a_guide_of_no_words_or_weight_0(masked):
    plain = masked.generate(["a"], seed=1)
    assert masked.generate(["a"], seed=1, guide=Guide({})) == plain
    assert masked.generate(["a"], seed=1, guide=Guide({"o": 0})) == plain
