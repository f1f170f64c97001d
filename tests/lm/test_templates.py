"""Templates: text with gaps, read and encoded."""

from __future__ import annotations

import pytest

from mdlm_atat import UserError
from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer
from mdlm_atat.data.train_tokenizer import train_bpe
from mdlm_atat.lm.given import encode_template, space_joins_next
from mdlm_atat.samplers.template import (
    Gap,
    Template,
    escaped,
    has_gap,
    lay_out,
    length_choices,
    nearly_gaps,
    parse_template,
    unescaped,
)

BPE = train_bpe(["the cat sat on a mat, and the dog ran to see the cat"] * 20, 300)
CHAR = CharTokenizer(" ,.abcdehimnorst\\[]MASK")

FORMS: dict[str, Template] = {
    "The [MASK:5] sat on the [MASK:2].": ["The ", Gap(5, 5), " sat on the ", Gap(2, 2), "."],
    "[MASK]": [Gap(1, 1)],
    "[MASK][MASK:2]": [Gap(1, 1), Gap(2, 2)],
    "a[MASK:3-8]b": ["a", Gap(3, 8), "b"],
    "[MASK: 3 - 8 ] b": [Gap(3, 8), " b"],
    "[MASK:4-4]": [Gap(4, 4)],
    "line\n[MASK]\nline": ["line\n", Gap(1, 1), "\nline"],
    r"\[MASK] and [MASK]": ["\\", Gap(1, 1), " and ", Gap(1, 1)],
    r"C:\[MASK:3]\new \n": ["C:\\", Gap(3, 3), r"\new \n"],
    r"[MASK]\[MASK:": [Gap(1, 1), r"\[MASK:"],
    "[mask] [MASK] [ MASK]": ["[mask] ", Gap(1, 1), " [ MASK]"],
    "[MASK]]": [Gap(1, 1), "]"],
}


@pytest.mark.parametrize("text", FORMS)
def test_a_template_is_texts_and_gaps_in_turn(text):
    assert parse_template(text) == FORMS[text]


ESCAPED: dict[str, Template] = {
    r"\[MASK] and [MASK]": ["[MASK] and ", Gap(1, 1)],
    r"\[MASK:3-8] [MASK]\[MASK:": ["[MASK:3-8] ", Gap(1, 1), "[MASK:"],
    r"C:\\[MASK:3]\\new\n": ["C:\\", Gap(3, 3), "\\new\n"],
    r"\\\[MASK][MASK]\\": [r"\[MASK]", Gap(1, 1), "\\"],
    r"\t\r\u00e9\U0001f642[MASK]": ["\t\r\xe9\U0001f642", Gap(1, 1)],
}


@pytest.mark.parametrize("text", ESCAPED)
def test_escapes_are_read_where_they_are_asked_for(text):
    assert parse_template(text, escape=True) == ESCAPED[text]
    assert has_gap(text, escape=True)


@pytest.mark.parametrize("text", ["\\[MASK] C:\\new\\ \n", "\\\\[MASK:2]", "[[MASK]]\\", "", "\\"])
def test_an_escaped_text_is_that_text_without_a_gap(text):
    assert parse_template(escaped(text) + "[MASK]", escape=True) == [*([text] if text else []), Gap(1, 1)]
    assert not has_gap(escaped(text), escape=True)


@pytest.mark.parametrize("text", [r"\q", r"C:\Users", r"\u12", r"\ud83d", r"\UFFFFFFFF", "\\"])
def test_what_is_no_escape_is_refused_with_those_that_are(text):
    with pytest.raises(UserError, match="is no escape; expected"):
        unescaped(text)
    with pytest.raises(UserError, match="is no escape; expected"):
        parse_template("[MASK]" + text, escape=True)


MALFORMED = {
    "": "the template is empty",
    "the cat": "has no gap: 'the cat'",
    "the [MASK": "has no gap",
    "the [MASK:5": "has no gap",
    "x" * 100: "has no gap: 'x{37}\\.\\.\\.'",
    "[MASK:]": r"\[MASK:\] is not a gap",
    "[MASK:0]": "at least 1 token",
    "[MASK:0-3]": "at least 1 token",
    "[MASK:8-3]": "the smaller number first",
    "[MASK:-3]": "is not a gap; expected",
    "[MASK:3-]": "is not a gap; expected",
    "[MASK:1.5]": "is not a gap; expected",
    "[MASK:two]": "is not a gap; expected",
    "[MASK:1-2-3]": "is not a gap; expected",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_template_is_refused_with_what_was_expected(text):
    with pytest.raises(UserError, match=MALFORMED[text]):
        parse_template(text)


def test_a_space_before_a_gap_belongs_to_the_gap_of_the_one_tokenizer_whose_words_begin_with_it():
    """A word after a space is one token with it; behind a space of its own it could not come."""
    parts = parse_template("the [MASK:2] sat [MASK], and ")
    for tokenizer, texts in (
        (CHAR, ["the ", " sat ", ", and "]),
        (ByteTokenizer(), ["the ", " sat ", ", and "]),
        (BPE, ["the", " sat", ", and "]),
    ):
        encoded = encode_template(tokenizer, parts, joins=space_joins_next(tokenizer))
        found = [tokenizer.decode(part) if isinstance(part, list) else part for part in encoded]
        assert found == [texts[0], Gap(2, 2), texts[1], Gap(1, 1), texts[2]]


def test_only_one_space_goes_and_no_line_end():
    for text, kept in (("a  [MASK]", "a "), ("a\n[MASK]", "a\n"), (" [MASK]", ""), ("a[MASK]", "a")):
        encoded = encode_template(BPE, parse_template(text), joins=space_joins_next(BPE))
        assert encoded == [BPE.encode(kept), Gap(1, 1)]


@pytest.mark.parametrize("alphabet", ["где мы", "ab", "天地"])
def test_a_char_tokenizer_without_a_or_space_reads_templates_too(alphabet):
    tokenizer = CharTokenizer(alphabet)
    assert not space_joins_next(tokenizer)
    assert encode_template(tokenizer, [alphabet, Gap(1, 1)], joins=False) == [tokenizer.encode(alphabet), Gap(1, 1)]


def test_gaps_of_1_to_2_and_3_to_4_can_have_4_pairs_of_lengths():
    encoded = [[1], Gap(1, 2), [2, 3], Gap(3, 4)]
    assert length_choices(encoded) == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert length_choices([[1], Gap(5, 5)]) == [(5,)]
    tokens, gaps = lay_out(encoded, (2, 3), 9)
    assert tokens == [1, 9, 9, 2, 3, 9, 9, 9]
    assert gaps == [slice(1, 3), slice(5, 8)]


def test_64_choices_of_lengths_are_compared_and_65_refused():
    assert len(length_choices([Gap(1, 8), Gap(1, 8)])) == 64
    with pytest.raises(UserError, match="65 combinations of lengths; at most 64"):
        length_choices([Gap(1, 65)])
    with pytest.raises(UserError, match="1,000,000,000,000 combinations"):
        length_choices([Gap(1, 10**6), Gap(1, 10**6)])


NEARLY = {
    "a [mask] b": ["[mask]"],
    "[MASK 3] and [ Mask:2 ]": ["[MASK 3]", "[ Mask:2 ]"],
    "<mask> or <mask:3>": ["<mask>", "<mask:3>"],
    "[MASK:2": ["[MASK:2"],
    "[MASK] [MASK:3-8] [[MASK]]": [],
    "[masked] [MASKING] mask [a mask]": [],
}


@pytest.mark.parametrize("text", NEARLY)
def test_what_looks_like_a_gap_and_is_none_is_found(text):
    assert nearly_gaps(text) == NEARLY[text]


def test_a_text_with_nearly_a_gap_is_told_so():
    with pytest.raises(UserError, match=r"has no gap: 'the \[mask\]'; \[mask\] is none; expected \[MASK\]"):
        parse_template("the [mask]")
