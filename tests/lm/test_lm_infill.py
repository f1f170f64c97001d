"""lm.infill: gaps of any tokenizer's texts, several ways, lengths that the model chooses."""

from __future__ import annotations

import random

import pytest
from made_models import lm_that_knows, random_lm

from mdlm_atat import MaskedDiffusionLM, UserError
from mdlm_atat.data.tokenizers import ByteTokenizer
from mdlm_atat.data.train_tokenizer import train_bpe
from mdlm_atat.lm import Infilled
from mdlm_atat.samplers.seeds import mix_seed
from tiny_runs import WORDS

LETTERS = "abcdefghiklmnorst"  # each once, all known to the run's tokenizer


@pytest.fixture(scope="module")
def models(masked) -> dict[str, MaskedDiffusionLM]:
    texts = [" ".join(random.Random(seed).choices(WORDS, k=8)) for seed in range(100)]
    return {
        "char": masked,
        "byte": random_lm(ByteTokenizer(), masked.config),
        "bpe": random_lm(train_bpe(texts, 300), masked.config),
    }


TEMPLATES = {
    "the [MASK:3] sat": ("the ", " sat"),
    "[MASK:2]the cat": ("", "the cat"),
    "the cat [MASK]": ("the cat ", ""),
    "the\n[MASK:4]\nsat": ("the\n", "\nsat"),
    "the cat sat on a mat and [MASK:9]ran to see if you can": ("the cat sat on a mat and ", "ran to see if you can"),
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_the_text_around_a_gap_stays_letter_for_letter(models, tokenizer, template):
    lm, (before, after) = models[tokenizer], TEMPLATES[template]
    for way in lm.infill(template, alternatives=3, seed=1):
        assert way.text.startswith(before)
        assert way.text.endswith(after)
        assert lm.tokenizer.mask_id not in way.tokens
        if tokenizer != "byte":  # bytes that are no UTF-8 show as one sign, alone or with their neighbours
            assert way.text == before + way.gaps[0] + after


def test_every_gap_is_given_back_with_its_number_of_tokens(models):
    for lm in models.values():
        way = lm.infill("a [MASK:2] b[MASK]c [MASK:3]", seed=4)
        assert isinstance(way, Infilled)
        assert way.lengths == (2, 1, 3)
        assert way.nats_by_lengths is None
        encoded = lm.encode_template("a [MASK:2] b[MASK]c [MASK:3]")
        given = [len(part) for part in encoded if isinstance(part, list)]
        assert len(way.tokens) == sum(given) + 6
        start = given[0]
        assert way.gaps[0] == lm.tokenizer.decode(way.tokens[start : start + 2])
        assert way.gaps[2] == lm.tokenizer.decode(way.tokens[-3:])


def test_5_ways_differ_and_way_j_of_template_i_is_text_5i_plus_j_of_the_seed(masked):
    templates = ["the [MASK:6] sat", "[MASK:8]"]
    ways = masked.infill(templates, alternatives=5, seed=10)
    assert [len(group) for group in ways] == [5, 5]
    for i, group in enumerate(ways):
        assert len({way.text for way in group}) > 1
        assert [way.seed for way in group] == [mix_seed(10, 5 * i + j) for j in range(5)]
        for way in group:
            assert masked.infill(templates[i], seed=[way.seed]) == way


def test_a_text_does_not_depend_on_the_others_of_the_call_nor_on_their_lengths(models):
    """Among them texts longer than the model, of one length, of which only one has text after its gap."""
    lm = models["byte"]
    long = "the cat sat on a mat and "
    templates = ["the [MASK:3] sat", long + "[MASK:6]", long[:20] + "[MASK:6]after", "[MASK:10]", "the [MASK:3] sat"]
    together = lm.infill(templates, seed=3, sampler="first_hitting")
    assert together == [lm.infill(t, seed=[mix_seed(3, i)], sampler="first_hitting") for i, t in enumerate(templates)]


def test_the_one_length_that_fits_a_text_known_by_heart_is_chosen(masked):
    lm = lm_that_knows(LETTERS[:16], masked.tokenizer, masked.config)
    for length in range(1, 7):
        template = f"{LETTERS[:3]}[MASK:1-6]{LETTERS[3 + length : 10 + length]}"
        way = lm.infill(template, temperature=0)
        assert way.text == LETTERS[: 10 + length]
        assert way.gaps == [LETTERS[3 : 3 + length]]
        assert way.lengths == (length,)
        assert way.nats_by_lengths is not None
        assert set(way.nats_by_lengths) == {(n,) for n in range(1, 7)}
        others = [cost for lengths, cost in way.nats_by_lengths.items() if lengths != (length,)]
        assert way.nats_by_lengths[length,] < 1 < min(others) - 20


def test_two_gaps_of_variable_length_are_chosen_together(masked):
    lm = lm_that_knows(LETTERS[:16], masked.tokenizer, masked.config)
    way = lm.infill(f"{LETTERS[:2]}[MASK:1-3]{LETTERS[4:7]}[MASK:2-4]{LETTERS[10:13]}", temperature=0)
    assert way.lengths == (2, 3)
    assert way.text == LETTERS[:13]
    assert way.nats_by_lengths is not None
    assert len(way.nats_by_lengths) == 9


def test_the_chosen_length_is_the_same_for_every_seed_and_way(masked):
    ways = masked.infill("the [MASK:1-5] a mat", alternatives=3, seed=0)
    again = masked.infill(["the [MASK:1-5] a mat", "[MASK]"], alternatives=2, seed=9)[0]
    assert len({way.lengths for way in [*ways, *again]}) == 1
    assert ways[0].nats_by_lengths == again[0].nats_by_lengths


REFUSED = {
    "": "the template is empty",
    "the cat": "has no gap",
    "the [MASK:17]": "a gap of 17 tokens is longer than the model: it was trained at 16",
    "the [MASK:2-17]": "a gap of 17 tokens is longer",
    "THE [MASK]": r"character 'T' \(U\+0054\)",
    "[MASK:2-3]": "needs given text around it",
    "the cat sat on [MASK:1-4]": r"with gaps of 4 tokens the text has 19; lengths are chosen for texts of at most 16",
    "a[MASK:1-9]b[MASK:1-9]c": "81 combinations",
}


@pytest.mark.parametrize("template", REFUSED)
def test_what_cannot_be_filled_is_refused(masked, template):
    with pytest.raises(UserError, match=REFUSED[template]):
        masked.infill([template])


def test_0_alternatives_are_refused(masked):
    with pytest.raises(UserError, match="alternatives is 0"):
        masked.infill(["a [MASK]"], alternatives=0)
