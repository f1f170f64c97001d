"""`atat train --init` of a network that reads left to right, with a method that has it fill gaps too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from others import logits_behind, make, save

from mdlm_atat import CausalLM, MaskedDiffusionLM, load_lm
from mdlm_atat.cli.main import main
from mdlm_atat.config.build import build_model
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.runs.initial import MOST_TOKENS, Initial, with_start_vector
from tiny_runs import write_text

END, SIZE = 256, 257
SHORT = {
    "train.num_steps": 3,
    "train.batch_size": 8,
    "train.num_micro_batches": 1,
    "train.eval_interval_steps": 3,
    "data.length": 32,
    "eval.num_draws": 32,
    "eval.final_num_draws": 32,
    "eval.num_samples": 0,
}

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """Theirs, and the folder that it is published in."""
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    theirs = make("Llama", max_position_embeddings=1024)
    return theirs, save(theirs, tmp_path / "llama")


def started(folder: Path, method: str | None, **model: Any) -> tuple[Any, RunConfig]:
    """The network that a run begins with."""
    from dataclasses import replace

    initial = Initial.open(folder)
    config = initial.run_config(None, method, ())
    config = replace(config, model=replace(config.model, **model))
    tokenizer = load_tokenizer(config.data.tokenizer)
    network = build_model(config, tokenizer.vocab_size)
    initial.load_into(network, config, tokenizer)
    return network.eval(), config


@pytest.mark.parametrize("alignment", ["shifted", "own"])
def test_at_step_0_a_text_left_to_right_costs_exactly_what_it_costs_the_causal_network(llama, alignment):
    theirs, folder = llama
    x = torch.randint(0, SIZE, (2, 40), generator=torch.Generator().manual_seed(1))
    causal = load_lm(folder, device="cpu").network
    network, config = started(folder, "atat", alignment=alignment)
    assert network.modes == {"masked", "causal"}
    with torch.no_grad():
        assert network(x).equal(causal(x))
        torch.testing.assert_close(network(x), logits_behind(theirs, END, x)[..., :SIZE], rtol=0, atol=1e-4)
    assert not network.mode_vector.any()
    assert config.objective.causal_share == 0.625


def test_a_method_gives_the_times_and_leaves_the_network_and_its_optimizer_as_they_are(llama, tmp_path):
    _, folder = llama
    _, config = started(folder, "atat")
    before = Initial.open(folder).config
    assert (config.model.kind, config.model.alignment) == ("masked", "shifted")
    assert not config.model.qk_norm  # which the method has
    assert config.model.num_kv_heads == before.model.num_kv_heads == 2
    assert config.objective.time_sampling == "beta"
    assert config.optim == before.optim  # a method's are for random weights
    assert config.data.length == MOST_TOKENS < before.data.length
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: atat\noptim:\n  kind: muon\n")
    assert started(folder, str(mine))[1].optim == replace(before.optim, kind="muon")
    assert Initial.open(folder).run_config("tiny", "atat", ()).optim.kind == "adamw"


def test_without_a_method_it_goes_on_reading_left_to_right_and_mdlm_alone_makes_it_fill_gaps(llama):
    _, folder = llama
    assert started(folder, None)[0].modes == {"causal"}
    network, config = started(folder, "mdlm")
    assert network.modes == {"masked"}
    assert config.model.alignment == "shifted"


def test_the_mask_is_as_long_as_a_token_and_points_where_their_mean_does_and_the_start_is_kept():
    weights = {"embedding.weight": torch.randn(9, 4, generator=torch.Generator().manual_seed(0))}
    found = dict(with_start_vector(weights.items()))
    tokens, mask = found["embedding.weight"][:-1], found["embedding.weight"][-1]
    assert tokens.equal(weights["embedding.weight"][:-1])
    assert found["start_vector"].equal(weights["embedding.weight"][-1])
    assert float(mask.norm()) == pytest.approx(float(tokens.norm(dim=1).mean()))
    assert float(torch.cosine_similarity(mask, tokens.mean(0), dim=0)) == pytest.approx(1)


def test_a_mask_is_filled_and_what_was_forgotten_of_an_unknown_text_is_not_measured(llama, tmp_path, capsys):
    _, folder = llama
    text = write_text(tmp_path / "new.txt")
    words = [f"--{name}={value}" for name, value in {**SHORT, "data.source": text}.items()]
    out = tmp_path / "out"
    assert main(["train", "--init", str(folder), "--method", "atat", "--out", str(out), *words]) == 0
    said = capsys.readouterr().out
    assert "of 1,024 tokens that it takes, a sequence has 32; to fill masks is new to them" in said
    assert f"forgetting not measured: what {folder} was trained on is not stored with it" in said
    lm = MaskedDiffusionLM.from_pretrained(out, device="cpu")
    assert str(lm.infill("the cat[MASK:5]on a mat", seed=0)).startswith("the cat")
    assert json.loads((out / "run.json").read_text())["init"]["length"] == 1024


def test_a_plain_run_that_reads_left_to_right_is_a_start_too(runs, llama):
    causal = CausalLM.from_pretrained(runs / "causal", device="cpu").network
    x = torch.randint(0, causal.vocab_size, (2, 16), generator=torch.Generator().manual_seed(1))
    network, config = started(runs / "causal", "atat")
    with torch.no_grad():
        assert network(x).equal(causal(x))
    assert (config.model.alignment, config.data.length, config.optim.lr) == ("shifted", 16, 6e-3)


def test_a_method_of_ones_own_that_asks_for_another_network_is_told_that_it_does_not_fit(llama, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: atat\nmodel:\n  num_layers: 3\n")
    with pytest.raises(UserError, match=r"model\.num_layers: 2 there, 3 here"):
        started(llama[1], str(mine))
    mine.write_text("base: atat\nmodel:\n  kind: causal\n")
    with pytest.raises(UserError, match="masks nothing, so no method applies"):
        started(llama[1], str(mine))
    mine.write_text("base: atat\nobjective:\n  causal_share: 2\n")
    with pytest.raises(UserError, match=r"objective\.causal_share is 2"):
        started(llama[1], str(mine))
    with pytest.raises(UserError, match="unknown method 'atta'; did you mean atat"):
        started(llama[1], "atta")
