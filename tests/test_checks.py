"""Checks of numbers that are given from Python, where nothing has read them as text before."""

import re

import numpy as np
import pytest

from mdlm_atat.checks import did_you_mean, whole
from mdlm_atat.errors import UserError


@pytest.mark.parametrize("value", [1.5, "4", True, float("nan"), [4]])
def test_what_is_no_whole_number_is_refused_by_name(value):
    with pytest.raises(UserError, match=re.escape(f"steps is {value!r}, expected a whole number from 1")):
        whole("steps", value, 1)


def test_whole_numbers_from_the_lowest_on_are_taken_whoever_made_them_and_0_is_refused():
    for value in (None, 1, np.int64(4)):
        whole("steps", value, 1)
    with pytest.raises(UserError, match="steps is 0, expected at least 1"):
        whole("steps", 0, 1)


@pytest.mark.parametrize(("word", "meant"), [("ANY", "any"), ("Qwen", "qwen2"), ("sst", "SST-2"), ("xyz", None)])
def test_what_was_meant_is_found_whatever_the_capitals(word, meant):
    assert did_you_mean(word, ["any", "qwen2", "SST-2"]) == (f"; did you mean {meant}?" if meant else "")
