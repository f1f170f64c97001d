"""Characters of prompts and templates that a tokenizer does not know."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from made_tokenizers import FORMS, tokenizer_of

from mdlm_atat import MaskedDiffusionLM, UserError
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.lm.unknown import check_known

READ_AS = {
    "WordPiece, lower case": "'❀' (U+2740) as '[UNK]'",
    "WordPiece, cased": "'❀' (U+2740) as '[UNK]'",
    "unigram": "'❀' (U+2740) as '<unk>'",
    "unigram without prefix": "'❀' (U+2740) as '<unk>'",
    "unigram, first prefix": "'❀' (U+2740) as '<unk>'",
}


def model(form: str) -> MaskedDiffusionLM:
    tokenizer = tokenizer_of(form)
    table = torch.zeros(tokenizer.vocab_size)
    return MaskedDiffusionLM(lambda z_t, _: table.expand(*z_t.shape, -1), tokenizer, max_length=32)


@pytest.mark.parametrize("form", READ_AS)
def test_an_unknown_character_is_named_in_a_warning_and_kept_in_the_text(form):
    lm = model(form)
    says = re.escape(READ_AS[form]) + "; the text keeps what was given"
    with pytest.warns(UserWarning, match=says):
        made = lm.generate("a ❀ cat", max_new_tokens=2)
    with pytest.warns(UserWarning, match=says):
        way = lm.infill("a ❀[MASK] cat")
    assert made.text.startswith("a ❀ cat")
    assert way.given == ["a ❀", " cat"]


@pytest.mark.parametrize("form", [form for form in FORMS if form not in (*READ_AS, "characters")])
def test_a_tokenizer_of_bytes_knows_every_character(form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("a ❀ cat", "É\u200d天\r\n", "👩‍👩‍👧 \x1b[0m", "", " "):
            check_known(tokenizer_of(form), text)


@pytest.mark.parametrize("text", ["THE CAT", "Cafe\u0301 CAFÉ", "a\tcat\r\n sat"])
def test_case_accents_spaces_and_forms_are_no_unknown_characters(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_known(tokenizer_of("WordPiece, lower case"), text)


def test_a_word_of_known_characters_that_is_none_of_the_vocabularys_is_named_whole():
    with pytest.warns(UserWarning, match=r"the model reads 'a{37}\.\.\.' as '\[UNK\]'; the text keeps"):
        check_known(tokenizer_of("WordPiece, cased"), "the " + "a" * 101)


def test_of_8_unknown_characters_5_are_named_and_the_others_counted():
    with pytest.warns(UserWarning, match=r"'④' \(U\+2463\) as '<unk>' and 3 more; the text"):
        check_known(tokenizer_of("unigram without prefix"), "❀①②③④⑤⑥⑦")


def test_a_char_tokenizer_refuses_in_terms_of_the_prompt_and_not_of_a_corpus():
    lm = model("characters")
    for ask in (lm.generate, lm.prompt_rows, lambda texts: lm.infill([text + "[MASK]" for text in texts])):
        with pytest.raises(UserError, match=r"character '❀' \(U\+2740\) in 'a ❀' is not one that this model") as caught:
            ask(["a ❀"])
        assert "remove or replace it" in str(caught.value)
        assert "tokenizer byte" not in str(caught.value)


@pytest.mark.parametrize("name", ["length", "max_new_tokens"])
def test_a_text_of_10_to_the_9_tokens_is_refused_before_memory_is_short(name):
    with pytest.raises(UserError, match=f"^`{name}=1000000000`, expected at most 16,777,216 tokens$"):
        model("characters").prompt_rows([""], **{name: 10**9})


@pytest.mark.parametrize("text", ["ab\r\n", "ab\r", "\r\nab"])
def test_line_ends_are_read_as_those_of_training_text_and_given_back_as_they_were(text):
    tokenizer = CharTokenizer("abc\n")  # of a file with any line ends
    lm = MaskedDiffusionLM(lambda z_t, _: torch.zeros(*z_t.shape, tokenizer.vocab_size), tokenizer, max_length=16)
    read = tokenizer.encode(text.replace("\r\n", "\n").replace("\r", "\n"))
    (made,) = lm.infill([text + "[MASK:2]c"], seed=1)
    assert made.text.startswith(text)
    assert made.tokens[: len(read)] == read
    (made,) = lm.generate([text], seed=1)
    assert made.text.startswith(text)
