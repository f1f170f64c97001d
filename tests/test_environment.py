import os

import pytest

from mdlm_atat.environment import environment_variable


@pytest.mark.parametrize("before", [None, "mine"])
def test_a_variable_has_its_value_in_the_block_and_after_it_what_it_had_whatever_happens(before, monkeypatch):
    if before is None:
        monkeypatch.delenv("ATAT_TRIED", raising=False)
    else:
        monkeypatch.setenv("ATAT_TRIED", before)
    with pytest.raises(ZeroDivisionError), environment_variable("ATAT_TRIED", "ours"):
        assert os.environ["ATAT_TRIED"] == "ours"
        _ = 1 / 0
    assert os.environ.get("ATAT_TRIED") == before
