import os
import subprocess
import sys

import pytest

from mdlm_atat.environment import environment_variable
from mdlm_atat.model_folder import cache_home


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


def test_what_tests_prepare_is_not_left_in_the_users_cache(tmp_path_factory):
    assert cache_home().is_relative_to(tmp_path_factory.getbasetemp())
    code = "from mdlm_atat.model_folder import cache_home; print(cache_home())"
    started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert started.stdout.strip() == str(cache_home())
