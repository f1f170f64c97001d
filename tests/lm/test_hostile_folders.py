"""Saved models, runs, classifiers, corpora and experiments from somebody who means harm: each is one message, within
two seconds and 500 MB, nothing outside of the folder is read, and there is no traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mdlm_atat.errors import UserError
from mdlm_atat.lm import load_lm
from mdlm_atat.training.checkpoint import write_checksums

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux does")
def test_hostile_folders_are_answered_within_2_seconds_and_500_MB_each(tmp_path: Path):
    words = [sys.executable, str(Path(__file__).with_name("hostile.py")), str(FIXTURES), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) >= 60
    for name, elapsed_s, num_bytes, said in found:
        assert said is not None, name
        assert "TRACEBACK" not in said, (name, said)
        assert "password" not in said, (name, said)
        assert "root:" not in said, (name, said)
        assert len(said) < 1000, (name, said)
        assert elapsed_s < 2, (name, elapsed_s)
        assert num_bytes < 500e6, (name, num_bytes)


def test_no_network_is_built_for_weights_that_do_not_fit_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / "old_model", folder)
    weights = load_file(folder / "model.safetensors")
    lost = min(weights)
    save_file({name: weight for name, weight in weights.items() if name != lost}, folder / "model.safetensors")
    (folder / "checksums.json").unlink()
    write_checksums(folder)
    monkeypatch.setattr("mdlm_atat.lm.load.build_model", lambda *_: pytest.fail("it was built"))
    with pytest.raises(UserError, match=f"does not fit this model: {lost} has shape missing in the file"):
        load_lm(folder)
