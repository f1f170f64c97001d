"""Texts and pairs as tokens of a model."""

from __future__ import annotations

import numpy as np
import pytest

from mdlm_atat.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.finetuning.encode import (
    EncodedTexts,
    Separator,
    choose_separator,
    cut_longest,
    encode_texts,
    fit_alphabet,
)


def encode(texts: list[tuple[str, ...]], tokenizer: Tokenizer, separator: Separator, max_length: int) -> EncodedTexts:
    return encode_texts(texts, tokenizer, separator, max_length, place=lambda number: f"line {number}")


def test_a_pair_is_joined_by_the_separator_and_a_single_text_stands_alone():
    tokenizer = ByteTokenizer()
    found = encode([("ab", "c")], tokenizer, Separator((256,), "eos"), 16)
    assert found.ids[0].tolist() == [97, 98, 256, 99]
    assert encode([("ab",)], tokenizer, Separator((256,), "eos"), 16).ids[0].tolist() == [97, 98]


def test_the_longer_of_a_pair_is_cut_and_how_many_were_is_counted():
    found = encode([("abcdefgh", "xy"), ("a", "b")], ByteTokenizer(), Separator((256,), "eos"), 8)
    assert bytes(found.ids[0][found.ids[0] < 256].astype(np.uint8)) == b"abcdexy"
    assert (found.num_cut, found.num_tokens) == (1, 12)


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        ([9], 5, [5]),
        ([2, 3], 5, [2, 3]),
        ([9, 2], 7, [5, 2]),
        ([2, 9], 7, [2, 5]),
        ([9, 9], 7, [4, 3]),
        ([9, 4], 8, [4, 4]),
    ],
)
def test_what_is_kept_fills_the_room(lengths: list[int], room: int, kept: list[int]):
    assert cut_longest(lengths, room) == kept


def test_no_room_for_two_texts_is_told():
    with pytest.raises(UserError, match="`max_length=` leaves room for 1 tokens of 2 texts"):
        cut_longest([4, 4], 1)


def test_the_separator_is_the_end_of_document_only_if_the_model_has_seen_one():
    tokenizer = CharTokenizer("ab\n")  # ids: newline, a, b, end
    assert choose_separator(tokenizer, None).ids == (3,)
    assert choose_separator(tokenizer, np.array([5, 5, 5, 1])).ids == (3,)
    assert choose_separator(tokenizer, np.array([5, 5, 5, 0])).ids == (0,)
    assert choose_separator(CharTokenizer("ab|"), np.zeros(4, np.int64)) == Separator((2,), "'|'")
    assert choose_separator(CharTokenizer("ab"), np.zeros(3, np.int64)).ids == (2,)  # for want of another


def test_characters_that_an_alphabet_lacks_are_written_in_the_other_case_as_a_space_or_left_out_and_counted():
    assert fit_alphabet("Dog, Ünder 7", "abcdefghijklmnopqrstuvwxyz ü") == ("dog  ünder  ", 4)
    assert fit_alphabet("a7b", "ab") == ("ab", 1)
    assert fit_alphabet("ab", "ab") == ("ab", 0)
    found = encode([("a7B",), ("b",)], CharTokenizer("ab "), Separator((3,), "eos"), 8)
    assert [row.tolist() for row in found.ids] == [[1, 0, 2], [2]]
    assert (found.num_replaced, found.num_characters) == (2, 4)


def test_a_text_without_a_token_is_told_with_its_line():
    with pytest.raises(UserError, match="line 1: the text has no token in the model's vocabulary"):
        encode([("a",), ("7",)], CharTokenizer("ab"), Separator((2,), "eos"), 8)


def test_a_batch_is_padded_to_a_multiple_of_8_but_never_beyond_the_model():
    found = encode([("a" * 9,), ("b" * 3,)], ByteTokenizer(), Separator((256,), "eos"), 12)
    ids, lengths = found.batch([1, 0], 12)
    assert ids.shape == (2, 12)
    assert found.batch([1], 12)[0].shape == (1, 8)
    assert lengths.tolist() == [3, 9]
    assert found.by_length() == [1, 0]
