"""The comparison of the model in the box with the demo's, with a judge that pays a bit for each letter."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lm.made_models import two_way_lm
from mdlm_atat.scoring.judge import Judgement

RECIPE = Path(__file__).parents[1] / "models" / "box"


class BitALetter:
    name = "a bit a letter"

    def __call__(self, texts: Sequence[str]) -> Judgement:
        letters = torch.tensor([sum(map(str.isalpha, text)) for text in texts])
        return Judgement(letters.double() * math.log(2), letters + 1)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    module = importlib.import_module("beside_demo")
    for name, value in {"NUM_PASSAGES": 2, "NUM_CHARACTERS": 12, "NUM_GIVEN": 4, "GAP": (6, 8)}.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_a_judge_is_asked_for_what_was_written_and_not_for_what_was_given(beside: ModuleType):
    lm = two_way_lm(letters="abcdef \n", length=16)
    passages = ["abcdef abcde", "fed  abc def"]
    found = beside.quality(BitALetter(), lm, passages, passages)
    assert found["judge_bits"][0] == pytest.approx((7 + 6) / 16)
    assert beside.more_than(BitALetter(), passages, passages) == [0, 0]
    more, error = beside.more_than(BitALetter(), ["abcdefaabcde", passages[1]], passages)
    assert (more, error) == (pytest.approx(0.5), pytest.approx(0.5))
    written = beside.written(lm, lm, BitALetter(), passages)
    assert [len(text) for text in written["texts"]] == [12, 12]
    assert [text[:4] for text in written["texts"]] == ["abcd", "fed "]


def test_passages_begin_behind_the_end_of_a_paragraph_at_even_distances(beside: ModuleType, tmp_path: Path):
    plays = tmp_path / "plays.jsonl"
    text = "\n\n".join(f"{number:02} " + "x" * 20 for number in range(20))
    plays.write_text(json.dumps({"text": text}) + "\n")
    assert beside.evenly_spaced(plays) == ["01 xxxxxxxxx", "11 xxxxxxxxx"]
