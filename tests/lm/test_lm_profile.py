"""The validation profile: measured by atat eval --profile, kept beside the weights, used by sizes=optimal."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from mdlm_atat import MaskedDiffusionLM, UserError
from mdlm_atat.cli.main import main
from mdlm_atat.samplers.sizes import as_profile, boundaries
from mdlm_atat.scoring.records import MaskRateProfile

OPTIMAL = "first_hitting:sizes=optimal"
STEEP = MaskRateProfile(  # all is decided by the first tokens: optimal groups begin small
    mask_rate=(0.05, 0.3, 0.5, 0.7, 0.95),
    nats_per_masked_token=(0.01, 0.02, 0.05, 0.3, 3.0),
    standard_error=(0.01,) * 5,
    num_masked_tokens=(100,) * 5,
)


@pytest.fixture
def run(runs, cache, tmp_path) -> Path:
    """A copy of a run, to be changed."""
    return Path(shutil.copytree(runs / "masked", tmp_path / "run"))


@pytest.fixture
def lm(run) -> MaskedDiffusionLM:
    return MaskedDiffusionLM.from_pretrained(run)


def test_eval_keeps_the_profile_of_its_record_beside_the_weights_and_says_where(run, lm, tmp_path, capsys):
    assert lm.profile() is None
    assert main(["eval", str(run), "--profile", "--num_draws", "64", "--json", str(tmp_path / "r.json")]) == 0
    file = run / "checkpoints" / "step-00000150" / "profile.json"
    assert f"profile    {file}" in capsys.readouterr().out
    record = json.loads((tmp_path / "r.json").read_text())
    stored = json.loads(file.read_text())
    assert stored["profile"] == record["profile"]
    assert stored["num_draws"] == 64
    assert lm.profile() == as_profile(record["profile"])
    again = MaskedDiffusionLM.from_pretrained(run)  # the checkpoint is sound with it
    assert again.generate([""], sampler=OPTIMAL, steps=4)[0].nfe == 4


@pytest.mark.parametrize("sampler", [OPTIMAL, "uncertainty:amount=optimal"])
def test_sizes_optimal_reveals_groups_of_the_profiles_sizes(lm, sampler):
    lm.save_profile(STEEP, num_draws=64)
    profile = lm.profile()
    expected = np.diff(boundaries("optimal", 16, 4, profile, 16)).tolist()
    assert expected != [4, 4, 4, 4]
    (text,) = lm.generate([""], sampler=sampler, steps=4, return_trace=True)
    assert text.trace is not None
    assert np.bincount(text.trace.revealed_at_step)[1:].tolist() == expected
    assert expected[0] < expected[-1]


def test_a_profile_of_another_model_is_refused_with_what_to_do(lm, runs, tmp_path):
    other = Path(shutil.copytree(runs / "adaptive", tmp_path / "other"))
    file = lm.save_profile(STEEP, num_draws=64)
    shutil.copy(file, next(iter(other.glob("checkpoints/step-*"))))
    copied = MaskedDiffusionLM.from_pretrained(other)
    with pytest.raises(UserError, match="belongs to another model: it was measured on other weights; measure it anew"):
        copied.generate([""], sampler=OPTIMAL)
    assert copied.generate([""], sampler="first_hitting:sizes=cosine", steps=4)[0].nfe == 4  # nobody asked for it


def test_one_checkpoint_has_its_own_profile_and_the_other_none(lm, run):
    lm.save_profile(STEEP, num_draws=64)
    earlier = MaskedDiffusionLM.from_pretrained(run / "checkpoints" / "step-00000075")
    assert earlier.profile() is None
    for sampler in (OPTIMAL, "uncertainty:amount=optimal"):
        with pytest.raises(UserError, match=r"needs the model's validation profile; measure it with `evaluate"):
            earlier.generate([""], sampler=sampler)


def test_a_model_in_no_folder_has_nowhere_to_keep_a_profile(masked):
    nowhere = MaskedDiffusionLM(masked.network, masked.tokenizer, masked.config)
    with pytest.raises(UserError, match="in no folder yet: save it first"):
        nowhere.save_profile(STEEP, num_draws=64)


def test_a_saved_model_carries_its_profile_and_may_have_it_measured_anew(lm, runs, tmp_path):
    lm.save_profile(STEEP, num_draws=64)
    folder = lm.save_pretrained(tmp_path / "saved")
    saved = MaskedDiffusionLM.from_pretrained(folder)
    assert saved.profile() == lm.profile() == as_profile(asdict(STEEP))
    command = ["eval", str(folder), "--profile", "--num_draws", "64", "--data", str(runs / "text.txt")]
    assert main(command) == 0
    again = MaskedDiffusionLM.from_pretrained(folder)  # its checksums hold
    assert again.profile() != lm.profile()
    assert again.generate([""], sampler=OPTIMAL, steps=4)[0].nfe == 4


def test_mask_rates_of_a_single_draw_have_no_error_and_are_left_out_and_one_rate_is_too_few(lm):
    nan = float("nan")
    lm.save_profile(replace(STEEP, standard_error=(nan, 0.01, 0.01, 0.0, 0.01)), num_draws=7)
    profile = lm.profile()
    assert profile is not None
    assert profile.mask_rate == (0.3, 0.5, 0.95)
    assert lm.generate([""], sampler=OPTIMAL, steps=4)[0].nfe == 4
    with pytest.raises(UserError, match="7 draws are too few for a profile"):
        lm.save_profile(replace(STEEP, standard_error=(nan, nan, 0.01, 0.0, nan)), num_draws=7)
    assert lm.profile() == profile


def test_a_causal_model_has_no_profile(runs, cache, capsys):
    assert main(["eval", str(runs / "causal"), "--profile"]) == 2
    assert "a causal model reveals in one order" in capsys.readouterr().err
