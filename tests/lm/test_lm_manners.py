"""What a caller from Python may expect: one str is one text, keywords are checked, lengths count as is usual."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

import pytest

from mdlm_atat import UserError
from mdlm_atat.lm import Generated, How, HowOptions, Infilled, Score

TEMPLATE = "the [MASK:3] on"


def test_one_str_is_one_text_and_a_sequence_of_1_a_list_of_1(masked, adaptive):
    one = masked.generate("the cat", seed=3)
    assert isinstance(one, Generated)
    assert one.text.startswith("the cat")
    assert masked.generate(["the cat"], seed=3) == masked.generate(("the cat",), seed=3) == [one]
    assert masked.generate(text for text in ("the cat",)) == [masked.generate("the cat")]
    assert masked.generate(seed=3) == masked.generate("", seed=3)
    filled = masked.infill(TEMPLATE)
    assert isinstance(filled, Infilled)
    assert masked.infill([TEMPLATE]) == [filled]
    score = masked.score("the cat", num_draws=32)
    assert isinstance(score, Score)
    assert masked.score(["the cat"], num_draws=32) == [score]
    assert score.num_tokens == 7
    (found,), alone = adaptive.inspect(["a cat"], num_draws=1), adaptive.inspect("a cat", num_draws=1)
    assert found.tokens.tolist() == alone.tokens.tolist()


def test_with_alternatives_a_template_is_a_list_of_ways_and_2_templates_a_list_of_lists(masked):
    ways = masked.infill(TEMPLATE, alternatives=2, seed=1)
    assert [type(way) for way in ways] == [Infilled, Infilled]
    assert masked.infill([TEMPLATE], alternatives=2, seed=1) == [ways]
    assert masked.infill(TEMPLATE, alternatives=1, seed=1) == ways[:1]
    assert [len(group) for group in masked.infill([TEMPLATE, "a [MASK]"], alternatives=2)] == [2, 2]


WRONG = {
    "bytes": (b"the", "prompts: expected a str or a sequence of str, got bytes; decode it first"),
    "bytes in a list": (["a", b"the"], "got bytes; decode it first"),
    "number": (5, "got int"),
    "numbers": ([1, 2], "got int"),
    "None": (None, "got NoneType"),
    "nested": ([["a"]], "got list"),
    "set": ({"a", "b"}, "prompts: a set has no order, by which to tell what is whose: give a list"),
    "mapping": ({"prompt": "a"}, "got dict"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_text_is_refused_by_its_type(masked, adaptive, case):
    given, message = WRONG[case]
    with pytest.raises(TypeError, match=message):
        masked.generate(given)
    for method in (masked.infill, masked.score, adaptive.inspect):
        with pytest.raises(TypeError, match=r"expected a str or a sequence of str, got \w+|a set has no order"):
            method(given)


def test_a_misspelled_keyword_is_a_type_error_with_the_likeliest_name(masked):
    for method, given, name, close in (
        (masked.generate, "a", "temprature", "temperature"),
        (masked.generate, "a", "max_tokens", "max_new_tokens"),
        (masked.generate, "a", "lenght", "length"),
        (masked.infill, TEMPLATE, "alternative", "alternatives"),
        (masked.infill, TEMPLATE, "topp", "top_p"),
        (masked.stream, "a", "sampelr", "sampler"),
        (masked.fill, masked.prompt_canvas(["a"]), "seeds", "seed"),
    ):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'; did you mean {close}"):
            method(given, **{name: 1})
    with pytest.raises(TypeError, match="'zzz'; it takes sampler, steps, temperature"):
        masked.generate("a", zzz=1)


def test_the_typed_keywords_are_the_7_that_are_checked():
    assert list(get_type_hints(HowOptions)) == [field.name for field in fields(How)]
    assert get_type_hints(HowOptions) == get_type_hints(How)


def test_max_new_tokens_does_not_count_the_prompt(masked, causal):
    for lm in (masked, causal):
        made = lm.generate(["the cat", "", "a"], max_new_tokens=5, seed=2)
        assert [len(text.tokens) for text in made] == [12, 5, 6]
        again = [lm.generate("", **{name: 5}, seed=[made[1].seed]) for name in ("max_new_tokens", "length")]
        assert again == [made[1]] * 2
        assert len(lm.generate("the cat sat on a mat", max_new_tokens=30).tokens) == 50
    assert [*masked.stream("a", max_new_tokens=4)][-1].tokens == masked.generate("a", max_new_tokens=4).tokens


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"length": 9, "max_new_tokens": 5}, "`length=`, .* or `max_new_tokens=`, .*, not both"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0, expected at least 1"),
    ],
)
def test_lengths_that_contradict_or_add_nothing_are_refused(masked, how, message):
    for method in (masked.generate, masked.stream):
        with pytest.raises(UserError, match=message):
            method("a", **how)


def test_a_stream_checks_what_it_is_asked_before_the_first_frame_is_taken(masked):
    with pytest.raises(UserError, match="a template has its own length"):
        masked.stream(TEMPLATE, length=30)
    with pytest.raises(UserError, match="top_p is 2"):
        masked.stream("a", top_p=2)
