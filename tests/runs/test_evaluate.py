"""`evaluate` from Python: which models, texts and places it takes, and what it returns."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import mdlm_atat as ma
from mdlm_atat import MaskedDiffusionLM, UserError
from mdlm_atat.data.tokenizers import CharTokenizer
from mdlm_atat.runs.zero_shot import evaluate_zero_shot

DRAWS: dict[str, Any] = {"num_draws": 64, "progress": False}


@pytest.fixture
def run(runs, cache, tmp_path) -> Path:
    """A copy of a run, to write evaluations in."""
    return Path(shutil.copytree(runs / "masked", tmp_path / "masked"))


def test_a_run_a_folder_and_a_model_give_the_same_numbers_and_one_file(run):
    found = ma.evaluate(ma.Run(run), **DRAWS)
    again = [ma.evaluate(model, **DRAWS) for model in (run, str(run), MaskedDiffusionLM.from_pretrained(run))]
    assert all(one == found for one in again)
    assert isinstance(found, ma.Evaluation)
    assert found.num_draws == 64
    assert found.bits_per_character == pytest.approx(found.nats_per_token / math.log(2))  # a token is a character
    assert [bound.num_steps for bound in found.t_step] == [64, 256, 1000]
    assert found.file is not None
    assert ma.Evaluation.load(found.file) == found
    assert len(list((run / "evals").glob("*-64-0.json"))) == 1


def test_nothing_is_stored_where_that_is_not_wanted_and_one_file_where_it_is_named(run, tmp_path):
    before = sorted((run / "evals").iterdir())
    assert ma.evaluate(run, save=False, **DRAWS).file is None
    found = ma.evaluate(run, save=tmp_path / "mine.json", **DRAWS)
    assert (found.file, sorted((run / "evals").iterdir())) == (tmp_path / "mine.json", before)
    with pytest.raises(UserError, match=r"`save=`: .* is a folder"):
        ma.evaluate(run, save=tmp_path, **DRAWS)


def test_progress_is_told_to_a_function_up_to_the_end(run):
    heard: list[tuple[int, int]] = []
    ma.evaluate(run, num_draws=64, batch_size=16, save=False, progress=lambda *done: heard.append(done))
    assert heard[-1] == (4, 4)


def test_texts_from_python_a_prepared_folder_and_a_file_are_scored(run, tmp_path):
    texts = ["that old man was so kind\n" * 20, "the cat sat on a mat\n" * 20]
    found = ma.evaluate(run, texts, **DRAWS)
    assert found.counts.num_characters == sum(map(len, texts))
    (tmp_path / "a.txt").write_text("".join(texts))
    assert ma.evaluate(run, tmp_path / "a.txt", **DRAWS).counts.num_characters == sum(map(len, texts))
    corpus = ma.prepare(tmp_path / "a.txt", tokenizer="byte", out=tmp_path / "bytes", whole=True)
    with pytest.raises(UserError, match=r"was prepared with another tokenizer \(byte\)"):
        ma.evaluate(run, corpus, **DRAWS)


def test_another_model_is_compared_over_the_same_draws_and_the_result_holds_it(run, runs, tmp_path):
    other = Path(shutil.copytree(runs / "causal", tmp_path / "causal"))
    found = ma.evaluate(run, against=other, **DRAWS)
    assert found.against is not None
    assert found.against.name == str(other)
    theirs = ma.evaluate(other, **DRAWS)
    assert found.against.nats_per_token == theirs.nats_per_token
    assert found.against.uniform == found.compare(theirs)
    assert found.file is not None
    assert json.loads(found.file.read_text())["against"]["uniform"]["kinds"] == ["nelbo", "exact"]
    by_file = ma.evaluate(run, against=theirs.file, **DRAWS)
    assert by_file.against is not None
    assert by_file.against.uniform == found.against.uniform
    assert ma.evaluate(run, against=theirs, **DRAWS).against == by_file.against


def test_what_cannot_be_scored_is_said_in_python(run, runs):
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"num_draws": 31}, "31 draws are too few .*: `num_draws=32`"),
        ({"num_draws": 0}, "`num_draws=` is 0, expected at least 1"),
        ({"num_steps": [0]}, "`num_steps` is 0, expected at least 1"),
        ({"split": "nope"}, "`split='nope'`: the run's own text has train and valid"),
        ({"column": "body"}, "`column=`: the text of a run is prepared already: it goes with `data=`"),
        ({"against": "nowhere"}, "`against=`: there is no folder nowhere"),
    )
    for wrong, message in cases:
        with pytest.raises(UserError, match=message):
            ma.evaluate(run, **{**DRAWS, **wrong})
    misspelt: dict[str, Any] = {"colum": "body"}
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument 'colum'; did you mean column"):
        ma.evaluate(run, **misspelt)
    with pytest.raises(UserError, match="`num_steps=`: a causal model takes one step a token"):
        ma.evaluate(runs / "causal", num_steps=[64])
    with pytest.raises(UserError, match="`profile=`: a causal model reveals in one order"):
        ma.evaluate(runs / "causal", profile=True)


def test_a_profile_that_is_asked_for_lies_beside_the_weights(run, tmp_path):
    lm = MaskedDiffusionLM.from_pretrained(MaskedDiffusionLM.from_pretrained(run).save_pretrained(tmp_path / "saved"))
    assert lm.profile() is None
    ma.evaluate(lm, ["the cat sat on a mat " * 9], profile=True, **DRAWS)
    assert lm.profile() is not None


def test_a_saved_model_stores_its_evaluations_in_its_folder_also_by_a_relative_path(run, tmp_path, monkeypatch):
    MaskedDiffusionLM.from_pretrained(run).save_pretrained(tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    found = ma.evaluate("saved", ["the cat sat on a mat " * 9], **DRAWS)
    assert found.file is not None
    assert found.file.parent == Path("saved/evals")
    with pytest.raises(UserError, match="only a run has a validation text of its own; name a text with `data=`"):
        ma.evaluate("saved", **DRAWS)


def test_a_bare_network_is_scored_on_texts_and_nothing_is_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))

    def uniform(z_t, t):
        return torch.zeros(*z_t.shape, 3)

    lm = MaskedDiffusionLM(uniform, CharTokenizer("ab"), max_length=8)
    found = ma.evaluate(lm, ["abba" * 16, "baab" * 16], **DRAWS)
    assert found.nats_per_token == pytest.approx(math.log(3), abs=1e-6)
    assert (found.file, found.unigram, found.deciles) == (None, None, None)
    assert found.own_bound.nats_per_token == found.nats_per_token
    with pytest.raises(UserError, match="name a text with `data=`"):
        ma.evaluate(lm, **DRAWS)


def test_zero_shot_texts_are_named_results(run, tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on a mat\n" * 30)
    found = evaluate_zero_shot(run, [str(tmp_path / "a.txt")], **DRAWS)
    (result,) = found.values()
    assert result.zero_shot == str(tmp_path / "a.txt")
    assert result.file is not None
    assert "zero-shot" in result.file.name
