"""examples/plugin, installed: one plugin of each kind is used by the command line and from Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import torch

import mdlm_atat as ma
from mdlm_atat import plugins
from mdlm_atat.cli.main import main
from mdlm_atat.core.schedules import Schedule
from mdlm_atat.core.times import TimeDensity
from mdlm_atat.data.tokenizers import Tokenizer
from mdlm_atat.nets.protocol import Backbone
from mdlm_atat.samplers.loop import StepRule
from tiny_runs import TINY

PACKAGE = Path(__file__).parents[1] / "examples" / "plugin"
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
NUM_LETTERS = 27
BY_NAME = {
    "data.source": "numbers:900",
    "data.tokenizer": "letters",
    "masking.strategy": "vowels_last",
    "masking.options.strength": 0.5,
    "model.time_conditioning": "true",
    "model.time_through": "embedding",
    "objective.schedule": "sine",
    "objective.time_sampling": "triangle",
    "objective.time_options.peak": 0.4,
    "optim.kind": "lion",
    "optim.lr": 1e-3,
}


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package as pip puts it there, which takes that seconds: its names are found there, and its modules."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(PACKAGE / "atat_example", folder / "atat_example")
    about = folder / f"mdlm_atat_example-{PROJECT['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n")
    (about / "top_level.txt").write_text("atat_example\n")
    (about / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
            for group, entries in PROJECT["entry-points"].items()
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("ATAT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(plugins, "_allowed", set())
        patch.setattr("mdlm_atat.runs.train.write_report", lambda folder: folder / "report.html")
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "atat_example"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def run(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run by the command line: source, tokenizer, masking, schedule, times and optimizer of the package."""
    folder = tmp_path_factory.mktemp("runs") / "vowels"
    flags = [f"--{path}={value}" for path, value in {**TINY, **BY_NAME, "train.num_steps": 2}.items()]
    assert main(["train", "demo", "--out", str(folder), *flags]) == 0
    return folder


@pytest.mark.slow
def test_pip_installs_its_modules_and_its_names(tmp_path: Path) -> None:
    source = tmp_path / "plugin"
    shutil.copytree(PACKAGE, source)  # the build leaves files beside the sources
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    folder = tmp_path / "installed"
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", folder, source], check=True, timeout=120)
    (found,) = distributions(path=[str(folder)])
    assert (found.name, found.version) == (PROJECT["name"], PROJECT["version"])
    named = {(entry.group, entry.name): entry.value for entry in found.entry_points}
    expected = PROJECT["entry-points"].items()
    assert named == {(group, name): value for group, entries in expected for name, value in entries.items()}
    for module in (PACKAGE / "atat_example").glob("*.py"):
        assert (folder / "atat_example" / module.name).read_text() == module.read_text()


def test_every_kind_is_offered_and_every_plugin_fits_its_protocol(installed: Path) -> None:
    offered = {kind: [name for name in plugins.names(kind) if plugins.is_plugin(kind, name)] for kind in plugins.KINDS}
    assert {kind: len(names) for kind, names in offered.items()} == dict.fromkeys(plugins.KINDS, 1)
    with plugins.trusted():
        found: dict[str, Any] = {kind: plugins.resolve(kind, offered[kind][0]) for kind in plugins.KINDS}
    assert isinstance(found["schedule"](), Schedule)
    assert isinstance(found["times"](), TimeDensity)
    assert isinstance(found["sampler"](), StepRule)
    assert isinstance(found["tokenizer"](), Tokenizer)
    assert isinstance(found["backbone"](5, 8, num_layers=1, width=8, dropout=0.0), Backbone)


def test_the_run_folder_says_which_plugins_it_needs_and_of_which_version(run: Path) -> None:
    needed = json.loads((run / "plugins.json").read_text())
    assert {(one["kind"], one["name"]) for one in needed} >= {
        ("masking", "vowels_last"), ("schedule", "sine"), ("times", "triangle"), ("optimizer", "lion"),
    }  # fmt: skip
    assert {(one["distribution"], one["version"]) for one in needed} == {("mdlm-atat-example", "0.1.0")}


def test_vowels_are_masked_earlier_than_other_letters_by_their_ids(installed: Path) -> None:
    from mdlm_atat.core.schedules import Linear
    from mdlm_atat.core.strategies.rates import Clean

    letters = import_module("atat_example.tokenizer").Letters()
    strategy = import_module("atat_example.masking").VowelsLast(Linear(), letters, strength=0.5)
    tokens = torch.tensor([letters.encode("Ab eX")])
    rates = strategy(torch.tensor([0.5], dtype=torch.float64), Clean(torch.ones_like(tokens, dtype=torch.bool), tokens))
    vowel, other = 0.5 ** torch.tensor(-0.5).exp().item(), 0.5
    assert rates.mask_rate[0].tolist() == pytest.approx([vowel, other, other, vowel, other])


def test_the_command_line_generates_with_the_sampler_by_its_name(run: Path, tmp_path: Path) -> None:
    how = ["--sampler", "right_to_left:group=3", "--length", "10", "--trust_plugins"]
    assert main(["generate", str(run), *how, "--out", str(tmp_path / "texts.jsonl")]) == 0
    text = json.loads((tmp_path / "texts.jsonl").read_text())
    assert (len(text["text"]), text["nfe"]) == (10, 4)


@pytest.mark.slow
def test_a_backbone_and_a_sampler_train_score_and_generate_from_python_by_reference(
    installed: Path, tmp_path: Path
) -> None:
    module = {name: import_module(f"atat_example.{name}") for name in ("backbone", "source", "tokenizer", "sampler")}
    made = ma.train(
        "demo",
        data="atat_example.source:Numbers:950",
        tokenizer="atat_example.tokenizer:Letters",
        backbone=module["backbone"].Convolutions,
        optimizer="adamw",
        causal_share=0.0,
        model={"num_layers": 1, "width": 16, "options": {"kernel_size": 3}},
        settings={name: value for name, value in TINY.items() if not name.startswith(("model.", "data.tok"))},
        num_steps=2,
        out=tmp_path / "run",
        progress=False,
    )
    assert isinstance(made.model, ma.MaskedDiffusionLM)
    assert sum(p.numel() for p in made.model.network.parameters()) == (
        (NUM_LETTERS + 1) * 16 + (16 * 16 * 3 + 16) + 2 * 16 + (16 + 1) * NUM_LETTERS
    )
    rule = module["sampler"].RightToLeft(group=2)
    text = made.model.generate("one ", length=16, sampler=rule, seed=1)
    assert text.text.startswith("one ")
    assert text.nfe == 6
    assert made.model.score(text.text, order=rule).nats > 0


def test_fine_tuning_takes_the_metric_by_its_name(
    masked: ma.MaskedDiffusionLM, installed: Path, tmp_path: Path
) -> None:
    from finetuning.examples import cat_examples

    train, dev = ([{"text": e.texts[0], "label": e.label} for e in cat_examples(n, n)] for n in (32, 16))
    result = ma.finetune(masked, data=(train, dev), metric="kappa", seeds=1, epochs=1, out=tmp_path, progress=False)
    assert -1 <= result["kappa"].mean <= 1
    kappa = import_module("atat_example.metric").kappa
    assert kappa(torch.tensor([0, 1, 1, 0]).numpy(), torch.tensor([0, 1, 0, 0]).numpy()) == pytest.approx(0.5)


@pytest.fixture
def elsewhere(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run in another process's eyes: nobody there has named a plugin."""
    monkeypatch.setattr(plugins, "_allowed", set())
    return Path(shutil.copytree(run, tmp_path / "run", symlinks=True))


def test_a_folder_that_names_plugins_opens_only_where_it_is_trusted(elsewhere: Path) -> None:
    with pytest.raises(ma.UserError, match="trust_plugins=True"):
        ma.load_lm(elsewhere)
    assert ma.Run(elsewhere, trust_plugins=True).model.tokenizer.vocab_size == NUM_LETTERS


def test_a_folder_that_names_plugins_says_what_to_install_where_they_are_missing(
    elsewhere: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(installed)])
    invalidate_caches()
    with pytest.raises(ma.UserError, match=r"pip install mdlm-atat-example==0\.1\.0"):
        _ = ma.Run(elsewhere, trust_plugins=True).model


@pytest.mark.slow
def test_a_tokenizer_comes_back_from_the_run_and_from_a_saved_model_alone(elsewhere: Path, tmp_path: Path) -> None:
    lm = ma.Run(elsewhere, trust_plugins=True).model
    saved = lm.save_pretrained(tmp_path / "model")
    again = ma.load_lm(saved, trust_plugins=True)
    assert again.tokenizer.encode("Zoo!") == lm.tokenizer.encode("zoo ") == [26, 15, 15, 0]
