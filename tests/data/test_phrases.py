"""How long phrases are: stretches of tokens, the kinds of their ends, and which of them are one unit."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mdlm_atat.data.phrases import (
    LONGEST,
    NUM_KINDS,
    PHRASE,
    SAMPLED_TOKENS,
    SENTENCE,
    WORD,
    count_phrases,
    kind_at_end,
    kind_at_start,
    read_phrases,
)
from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer
from mdlm_atat.errors import UserError

TEXT = "The cat sat, and it slept. It was — as ever — warm; so\nit stayed there. End"


def counted(text: str, tokenizer: CharTokenizer | ByteTokenizer | None = None):
    tokenizer = tokenizer or CharTokenizer.from_texts([text])
    return count_phrases(np.array(tokenizer.encode(text)), tokenizer)


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ("The ", " sat", (WORD, WORD)),
        ("un", "able", (0, 0)),
        ("She ", ", and left.", (WORD, PHRASE)),
        ("sat, ", ". End", (PHRASE, SENTENCE)),
        ("He left. ", " Then", (SENTENCE, WORD)),
        ('"Go!" ', "\n\nHe", (SENTENCE, SENTENCE)),
        ("3.", "5", (SENTENCE, 0)),  # a gap may begin with the space
        ("one line\r\n", "\r\nother", (SENTENCE, SENTENCE)),
        ("one line\r", " \rother", (SENTENCE, SENTENCE)),  # as it is read: a line end
        ("彼は、", "。", (PHRASE, SENTENCE)),
        ("it — ", " — is", (PHRASE, PHRASE)),
        ("", "", (SENTENCE, SENTENCE)),
        ("a" * 1000 + ": ", "x" * 1000, (PHRASE, 0)),
    ],
)
def test_the_ends_of_a_gap_are_of_the_kind_of_what_stands_around_it(before: str, after: str, kinds: tuple[int, int]):
    assert (kind_at_end(before), kind_at_start(after)) == kinds


def of_each(text: str, a: int, b: int) -> tuple[int, int, bool]:
    """The kinds of a stretch's ends and whether it is one unit, from the text before, in and behind it."""
    left, right = kind_at_end(text[:a] or "x"), kind_at_start(text[b:] or "x")
    left = left or (WORD if text[a : a + 1] == " " else 0)
    right = right or (WORD if text[b - 1 : b] == " " else 0)
    unit = WORD if left == right == 0 else max(left, right, PHRASE)
    inside = {WORD: " ,;\n—", PHRASE: ",;.\n—", SENTENCE: ".\n"}[unit]
    return left, right, not any(mark in text[a:b].strip(" ") for mark in inside)


def test_every_stretch_of_characters_between_letters_is_counted_once_with_its_ends():
    found = counted(TEXT)
    assert found.stretches.shape == (LONGEST, NUM_KINDS, NUM_KINDS)
    assert [int(of_length.sum()) for of_length in found.stretches] == [len(TEXT) + 1 - n for n in range(1, LONGEST + 1)]
    expected, units = np.zeros((2, *found.stretches.shape), int)
    letters = [place for place in range(1, len(TEXT)) if TEXT[place - 1].isalpha() and TEXT[place].isalpha()]
    for a in letters:
        for b in (place for place in letters if 0 < place - a <= LONGEST):
            left, right, is_unit = of_each(TEXT, a, b)
            expected[b - a - 1, left, right] += 1
            units[b - a - 1, left, right] += is_unit
    assert (found.stretches[:, 0, 0] >= expected[:, 0, 0]).all()
    assert expected[:, 0, 0].sum() == expected.sum() > 500
    assert (found.units[:, 0, 0] >= units[:, 0, 0]).all()
    assert found.units[:, 0, 0][7:].sum() == 0  # no word is so long


@pytest.mark.parametrize(
    ("text", "ends", "stretch", "is_unit"),
    [
        ("x, ab cd. y", (PHRASE, SENTENCE), "ab cd", True),
        ("x ab cd, y", (WORD, PHRASE), "ab cd", True),
        ("x ab, cd, y", (WORD, PHRASE), "ab, cd", False),
        ("x ab. cd, y", (WORD, PHRASE), "ab. cd", False),
        ("x. ab, cd; e\ny", (SENTENCE, SENTENCE), "ab, cd; e", True),
        ("x. ab! cd, e\ny", (SENTENCE, SENTENCE), "ab! cd, e", False),
        ("x — ab cd — y", (PHRASE, PHRASE), "ab cd", True),
        ("x ab cdef y", (WORD, WORD), "ab cdef", True),
        ("x ab,cd y", (WORD, WORD), "ab,cd", True),
        ("xabcdey", (0, 0), "abcde", True),
        ("xab cdey", (0, 0), "ab cde", False),
        ("彼は、今日。は", (PHRASE, SENTENCE), "今日", True),
    ],
)
def test_a_stretch_is_one_unit_where_no_separator_as_strong_as_those_at_its_ends_lies_inside(
    text: str, ends: tuple[int, int], stretch: str, is_unit: bool
):
    found = counted(text)
    place = len(stretch) - 1, *ends
    num = 1 if ends != (0, 0) else len(text) + 1 - len(stretch)
    assert 1 <= found.stretches[place] <= num
    assert found.units[place] == is_unit * found.stretches[place]
    assert found.nats(ends, len(stretch)) == -math.log((found.units[place] + 1) / (found.stretches[place] + 2))


def test_words_are_as_likely_one_unit_in_bytes_as_in_characters():
    in_bytes, in_characters = counted(TEXT.replace("—", "-"), ByteTokenizer()), counted(TEXT.replace("—", "-"))
    assert (in_bytes.stretches == in_characters.stretches).all()
    assert (in_bytes.units == in_characters.units).all()


def test_of_a_long_text_131072_tokens_are_counted_and_what_is_longer_than_64_is_as_64(tmp_path: Path):
    text = ("one two three, four five. " * 20_000)[: 3 * SAMPLED_TOKENS]
    found = counted(text)
    assert found.num_tokens == SAMPLED_TOKENS
    assert found.nats((WORD, WORD), 100) == found.nats((WORD, WORD), LONGEST)
    found.write(tmp_path)
    again = read_phrases(tmp_path)
    assert again is not None
    assert (again.stretches == found.stretches).all()
    assert (again.units == found.units).all()
    assert read_phrases(tmp_path / "none") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"num_tokens": 1, "stretches": [[1]], "units": [[1]]}'])
def test_a_damaged_file_of_phrases_is_named(content: str, tmp_path: Path):
    (tmp_path / "phrases.json").write_text(content)
    with pytest.raises(UserError, match=r"phrases\.json is damaged"):
        read_phrases(tmp_path)
