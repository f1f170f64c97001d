"""Folders made by the code before its modules were moved (commit 62652fe) still open, and say the same.

tests/fixtures holds a run of 400 steps (`importance_rates`, which was called `atat` then; 13,234 parameters), the model
saved from it, the corpus prepared for it and, in expected.json, what that code said of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mdlm_atat import MaskedDiffusionLM
from mdlm_atat.cli.main import main
from mdlm_atat.data.tokens import TokenDataset

FIXTURES = Path(__file__).parent / "fixtures"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text())
MODELS = ["old_run", "old_run/checkpoints/last", "old_model"]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the folders, from where they were made: a run names its corpus by a relative path."""
    folder = tmp_path_factory.mktemp("old") / "folders"
    shutil.copytree(FIXTURES, folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.mark.parametrize("name", MODELS)
def test_an_old_model_has_the_same_weights_and_scores(old: Path, name: str) -> None:
    lm = MaskedDiffusionLM.from_pretrained(old / name)
    expected = EXPECTED["score"]
    # a text shorter than the model was shown without [MASK] around it then, as a bare network still is
    bare = MaskedDiffusionLM(lm.network, lm.tokenizer, max_length=lm.max_length)
    score = bare.score(expected["text"], seed=expected["seed"], num_draws=expected["num_draws"])
    assert lm.fingerprint() == EXPECTED["fingerprint"]
    assert score.num_tokens == expected["num_tokens"]
    assert score.nats == pytest.approx(expected["nats"], rel=1e-4)
    assert score.standard_error == pytest.approx(expected["standard_error"], rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_an_old_model_writes_the_same_text_by_the_old_rule_for_seeds(old: Path, name: str) -> None:
    expected = EXPECTED["generate"]
    how = {key: expected[key] for key in ("length", "steps", "seed")}
    text = MaskedDiffusionLM.from_pretrained(old / name).generate(expected["prompt"], seed_rule="add", **how)
    assert (text.text, text.nfe) == (expected["text"], expected["nfe"])


def test_an_old_run_is_evaluated_as_it_was(old: Path) -> None:
    assert main(["eval", "old_run", "--json", "evaluation.json"]) == 0
    found = json.loads((old / "evaluation.json").read_text())
    stored = json.loads(next((old / "old_run/evals").glob("*.json")).read_text())
    for name, value in EXPECTED["evaluation"].items():
        assert stored[name] == value
        for key, number in (value if isinstance(value, dict) else {None: value}).items():
            now = found[name] if key is None else found[name][key]
            assert now == (number if isinstance(number, str) else pytest.approx(number, rel=1e-4))


def test_an_old_corpus_opens(old: Path) -> None:
    expected = EXPECTED["corpus"]
    for split in ("train", "valid"):
        tokens = TokenDataset.open(old / "old_corpus", split, length=16)
        assert tokens.num_tokens == expected[f"num_{split}_tokens"]
        assert tokens.tokenizer.vocab_size == expected["vocab_size"]
        assert tokens.tokenizer.fingerprint() == expected["tokenizer_hash"]
        content = (old / f"old_corpus/{split}.bin").read_bytes()
        assert hashlib.sha256(content).hexdigest() == expected[f"{split}_sha256"]


def test_an_old_text_is_prepared_into_the_same_tokens(old: Path) -> None:
    flags: str = "data prepare old.txt --tokenizer char --validation_fraction 0.1 --out new_corpus"
    assert main([*flags.split()]) == 0
    for split in ("train", "valid"):
        content = (old / f"new_corpus/{split}.bin").read_bytes()
        assert hashlib.sha256(content).hexdigest() == EXPECTED["corpus"][f"{split}_sha256"]


def test_an_old_run_goes_on_with_the_losses_it_would_have_had(old: Path, tmp_path: Path, no_report: None) -> None:
    run = tmp_path / "run"
    shutil.copytree(old / "old_run", run, symlinks=True)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("source: old_corpus", f"source: {old / 'old_corpus'}"))
    num_steps = EXPECTED["resume"]["num_steps"]
    resume = ["train", "--resume", str(run), "--train.num_steps", str(num_steps), "--train.log_interval_steps", "1"]
    assert main(resume) == 0
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    losses = {str(line["step"]): line["train/loss"] for line in lines if "train/loss" in line and line["step"] > 400}
    assert losses == pytest.approx(EXPECTED["resume"]["loss"], rel=1e-4)
