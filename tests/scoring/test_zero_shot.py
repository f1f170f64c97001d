from pathlib import Path

import pytest

from mdlm_atat.data.detokenizers import DETOKENIZERS
from mdlm_atat.errors import UserError
from mdlm_atat.scoring.zero_shot import ZERO_SHOT_SETS, ZeroShotSet, zero_shot_set


def test_the_eight_sets_of_the_field_are_known_with_split_column_and_detokenizer():
    assert list(ZERO_SHOT_SETS) == [
        "wikitext-2", "wikitext-103", "ptb", "lambada", "lm1b", "ag_news", "pubmed", "arxiv"
    ]  # fmt: skip
    for name, part in ZERO_SHOT_SETS.items():
        assert part.name == name
        assert part.source.startswith("hub:")
        assert part.detokenize is None or part.detokenize in DETOKENIZERS
        assert part.mode == "wrap"
    assert {name for name, part in ZERO_SHOT_SETS.items() if part.detokenize is None} == {"ag_news"}
    assert {name for name, part in ZERO_SHOT_SETS.items() if part.split == "test"} == {"lambada", "lm1b", "ag_news"}


def test_what_is_given_overrides_what_is_known():
    found = zero_shot_set("ptb", detokenizer="none", mode="pad", split="test")
    assert (found.detokenize, found.mode, found.split, found.column) == (None, "pad", "test", "sentence")
    assert zero_shot_set("ptb") == ZERO_SHOT_SETS["ptb"]


def test_ones_own_text_is_taken_as_it_is_a_document_a_sequence(tmp_path: Path):
    file = tmp_path / "mine.txt"
    file.write_text("a")
    assert zero_shot_set(str(file)) == ZeroShotSet(name=str(file), source=str(file), mode="pad")
    assert zero_shot_set("hub:me/mine", detokenizer="lm1b", column="body") == ZeroShotSet(
        name="hub:me/mine", source="hub:me/mine", detokenize="lm1b", column="body", mode="pad"
    )


def test_a_name_that_is_nothing_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"no file or folder pbt, and no zero-shot set of that name; .* ptb, lambada"):
        zero_shot_set("pbt")
