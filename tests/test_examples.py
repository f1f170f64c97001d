"""The examples run, and do what they say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tiny_runs import TINY, write_text
from toys import Joint, uniform_denoiser

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def minimal() -> ModuleType:
    return load("minimal")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_in_minimal_a_denoiser_that_knows_nothing_costs_log_vocab_nats_per_token(minimal: ModuleType) -> None:
    x0, log_vocab = torch.randint(5, (4096, 8), generator=seeded()), torch.tensor(5.0).log().item()
    nats, standard_error = minimal.bound(uniform_denoiser(5), x0, 5, seeded())
    assert (nats, standard_error) == (pytest.approx(log_vocab, rel=1e-6), pytest.approx(0.0, abs=1e-6))
    assert minimal.training_loss(uniform_denoiser(5), x0, 5, seeded()).item() == pytest.approx(log_vocab, rel=0.02)


def test_in_minimal_bound_and_training_loss_of_an_exact_denoiser_are_the_entropy(minimal: ModuleType) -> None:
    joint = Joint.random(length=4, vocab=3)
    x0 = joint.sequences.repeat_interleave(joint.counts, dim=0).repeat(200, 1)  # (19200, 4)
    nats, standard_error = minimal.bound(joint.denoise, x0, joint.mask_id, seeded())
    assert standard_error < 0.01
    assert nats == pytest.approx(joint.entropy_nats / 4, abs=3 * standard_error)
    loss = minimal.training_loss(joint.denoise, x0, joint.mask_id, seeded()).item()
    assert loss == pytest.approx(joint.entropy_nats / 4, rel=0.03)


@pytest.mark.slow
def test_in_minimal_ancestral_sampling_draws_from_the_joint(minimal: ModuleType) -> None:
    joint = Joint.random(length=3, vocab=2)
    blank = torch.full((5000, 3), joint.mask_id)
    drawn = minimal.ancestral(joint.denoise, blank, joint.mask_id, 100, seeded())
    index = (drawn * torch.tensor([4, 2, 1])).sum(1)
    frequency = torch.bincount(index, minlength=8) / len(drawn)
    expected = torch.zeros(8, dtype=torch.float64)
    expected[(joint.sequences * torch.tensor([4, 2, 1])).sum(1)] = joint.probs
    assert frequency.tolist() == pytest.approx(expected.tolist(), abs=0.03)


@pytest.mark.slow
def test_train_stops_when_the_bound_no_longer_falls_evaluates_and_writes(
    tmp_path: Path, no_report: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mdlm_atat

    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    train, example = mdlm_atat.train, load("train")

    def train_a_little(*given: Any, **keywords: Any) -> mdlm_atat.Run:
        hopeless = {"train.eval_interval_steps": 1, "optim.lr": 1.0}  # no bound after the first is lower
        return train(*given, **keywords, progress=False, settings={**TINY, **hopeless})

    monkeypatch.setattr(mdlm_atat, "train", train_a_little)
    text = write_text(tmp_path / "text.txt")
    example.main(f"{text} --preset demo --method mdlm --num_steps 40 --prompt the --out {tmp_path / 'run'}".split())
    printed = capsys.readouterr().out
    run = mdlm_atat.Run(tmp_path / "run")
    assert "stopped by on_step" in printed
    assert example.PATIENCE < run.num_steps_taken < 40
    stored = run.evaluations[-1]
    bits, error = stored.bits_per_character, stored.bits_per_character_standard_error
    assert stored.num_draws == 4096
    assert f"at most {bits:.3f} ± {error:.3f} bits per character" in printed
    assert "\nthe" in printed


def test_minimal_trains_on_a_text_and_prints_loss_bound_and_samples(
    minimal: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 400)
    minimal.main(f"--text {text} --length 16 --width 16 --num_layers 1 --num_steps 150".split())
    printed = capsys.readouterr().out
    losses = [float(found) for found in re.findall(r"loss ([\d.]+)", printed)]
    bound, unigram = (float(re.findall(rf"{name} ([\d.]+)", printed)[-1]) for name in ("bound", "unigram"))
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert bound < 0.8 * unigram
    for sampler in ("ancestral", "spread"):
        written = re.findall(rf"{sampler}: +'(.*)'", printed)[-1]
        assert len(written) == 16
        assert "_" not in written
