"""Low-rank training beside the weights of a run: what is trained, what is stored, and what is loaded again."""

from __future__ import annotations

import builtins
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mdlm_atat import load_lm, train
from mdlm_atat.cli.main import main
from mdlm_atat.config.low_rank_schema import LoraConfig
from mdlm_atat.errors import UserError
from mdlm_atat.runs.initial import with_start_vector
from mdlm_atat.runs.request import RunRequest
from mdlm_atat.training.checkpoint import all_checkpoints
from mdlm_atat.training.low_rank import add_low_rank, merged, num_trained
from mdlm_atat.training.packed import read_header
from tiny_runs import leave_out_reports, losses_of

STEPS: dict[str, Any] = {
    "num_steps": 8,
    "eval_interval_steps": 4,
    "checkpoint_interval_steps": 4,
    "log_interval_steps": 1,
    "lr": 3e-2,
    "num_samples": 0,
}
RANK = 4
LORA: dict[str, Any] = {"rank": RANK, "alpha": 6.0}


@pytest.fixture(autouse=True)
def cache(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATAT_CACHE", str(runs / "cache"))
    leave_out_reports(monkeypatch)


@pytest.fixture(scope="module")
def adapted(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of rank 4 beside the weights of `masked`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATAT_CACHE", str(runs / "cache"))
        leave_out_reports(patch)
        folder = tmp_path_factory.mktemp("low-rank") / "run"
        train(init=runs / "masked", out=folder, lora=LORA, progress=False, settings={}, **STEPS)
    return folder


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    block = nn.ModuleDict({"qkv": nn.Linear(6, 18), "down": nn.Linear(12, 6), "modulation": nn.Linear(3, 9)})
    return nn.ModuleDict({"blocks": nn.ModuleList([block]), "embedding": nn.Embedding(5, 6), "out": nn.Linear(6, 5)})


def test_only_the_narrow_matrices_are_trained_and_the_sum_is_what_peft_computes() -> None:
    network = tiny_network()
    before = {name: p.clone() for name, p in network.named_parameters()}
    assert add_low_rank(network, LoraConfig(rank=2, alpha=3.0)) == 2 * (6 + 18) + 2 * (12 + 6)
    assert {name.split(".")[-3] for name, p in network.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    generator = torch.Generator().manual_seed(1)
    for p in network.parameters():
        if p.requires_grad:
            p.data = torch.randn(p.shape, generator=generator)
    weights = merged(dict(network.named_parameters()), alpha=3.0)
    assert weights.keys() == before.keys()
    plain = tiny_network()
    plain.load_state_dict(weights)
    for name, width in (("qkv", 6), ("down", 12)):
        x = torch.randn(7, width, generator=generator)
        torch.testing.assert_close(plain.blocks[0][name](x), network.blocks[0][name](x), rtol=1e-5, atol=1e-5)  # type: ignore[index,operator]
        assert not weights[f"blocks.0.{name}.weight"].equal(before[f"blocks.0.{name}.weight"])
    unchanged = ("embedding.weight", "out.weight", "out.bias", "blocks.0.modulation.weight", "blocks.0.qkv.bias")
    assert all(weights[name].equal(before[name]) for name in unchanged)


def test_targets_are_layers_of_the_blocks_by_name() -> None:
    network = tiny_network()
    assert add_low_rank(network, LoraConfig(rank=2, targets=("down",))) == 2 * (12 + 6)
    with pytest.raises(UserError, match=r"no linear layer 'qkx'; expected some of down, modulation, qkv.*qkv"):
        add_low_rank(tiny_network(), LoraConfig(rank=2, targets=("qkx",)))
    with pytest.raises(UserError, match="has no blocks of linear layers"):
        add_low_rank(nn.Linear(3, 3), LoraConfig(rank=2))


def test_a_run_is_loaded_merged_and_leaves_embeddings_norms_and_biases_as_they_were(runs: Path, adapted: Path) -> None:
    before, after = load_lm(runs / "masked"), load_lm(adapted)
    old, new = (dict(lm.network.named_parameters()) for lm in (before, after))
    assert old.keys() == new.keys()
    changed = {name for name in old if not old[name].equal(new[name])}
    assert changed == {name for name in old if "blocks" in name and name.endswith("weight") and old[name].ndim == 2}
    assert changed
    network: Any = copy.deepcopy(before.network)
    add_low_rank(network, LoraConfig(**LORA))
    checkpoint = all_checkpoints(adapted / "checkpoints")[-1]
    stored = checkpoint.read("model", lambda _: None) | checkpoint.read("ema", lambda _: None)
    network.load_state_dict(stored)
    x, t = torch.full((2, 8), before.tokenizer.mask_id), torch.ones(2)
    x[:, :4] = torch.arange(8).view(2, 4)
    torch.testing.assert_close(after.network(x, t), network.eval()(x, t), rtol=1e-5, atol=1e-5)


def test_averages_and_moments_are_kept_of_what_is_trained_alone(adapted: Path) -> None:
    folder = all_checkpoints(adapted / "checkpoints")[-1].folder
    sizes = {
        kind: sum(torch.Size(shape).numel() for _, shape in read_header(folder / f"{kind}.safetensors").values())
        for kind in ("model", "ema", "optimizer")
    }
    network: Any = copy.deepcopy(load_lm(adapted).network)
    trained = add_low_rank(network, LoraConfig(**LORA))
    assert sizes["model"] == sum(p.numel() for p in network.parameters())
    assert sizes["ema"] == trained == num_trained(network)
    assert 2 * trained < sizes["optimizer"] < 2.1 * trained  # two moments, and counts of steps


def test_a_saved_model_is_plain(adapted: Path, tmp_path: Path) -> None:
    lm = load_lm(adapted)
    again = load_lm(lm.save_pretrained(tmp_path / "saved"))
    for name, p in lm.network.named_parameters():
        assert p.equal(dict(again.network.named_parameters())[name])
    assert main(["generate", str(tmp_path / "saved"), "--length", "8"]) == 0


def test_what_was_trained_so_is_trained_on_as_any_network_is(adapted: Path, text: Path) -> None:
    lm = load_lm(adapted)
    lm.fit(text, num_steps=1, batch_size=4, progress=False)
    with pytest.raises(UserError, match=r"`lora.rank=`: fit\(\) trains the network itself"):
        lm.fit(text, num_steps=1, lora_rank=2, progress=False)


def test_a_low_rank_run_resumes_bit_for_bit(runs: Path, adapted: Path, tmp_path: Path) -> None:
    settings = {**STEPS, "lora": LORA}
    stopped = train(
        init=runs / "masked", out=tmp_path / "run", progress=False, on_step=lambda step, _: step == 3, **settings
    )
    assert stopped.stopped
    train(resume=tmp_path / "run", progress=False)
    assert losses_of(tmp_path / "run") == losses_of(adapted)
    mine, whole = (all_checkpoints(folder / "checkpoints")[-1] for folder in (tmp_path / "run", adapted))
    for kind in ("model", "ema", "optimizer"):
        found, expected = mine.read(kind, lambda _: None), whole.read(kind, lambda _: None)
        assert found.keys() == expected.keys()
        assert all(found[name].equal(expected[name]) for name in found)


@pytest.mark.parametrize(
    ("init", "settings"),
    [
        ("causal", {"lora": {"rank": 2, "targets": ["qkv"], "input_dropout": 0.1}, "fused_loss": False}),
        ("adaptive", {"lora": {"rank": 2, "alpha": 4}, "num_micro_batches": 2, "optimizer": "adamw"}),
        ("masked", {"lora_rank": 2, "causal_share": 0.5, "ema_decay": 0.0}),
        ("masked", {"lora_rank": 2, "recompute": True}),
    ],
)
def test_other_networks_and_ways_of_training_take_low_rank_weights_too(
    init: str, settings: dict[str, Any], runs: Path, tmp_path: Path
) -> None:
    run = train(
        init=runs / init, out=tmp_path / "run", progress=False, **{**STEPS, "num_steps": 2, "batch_size": 4, **settings}
    )
    assert run.stopped is None
    new, old = (dict(load_lm(folder).network.named_parameters()) for folder in (tmp_path / "run", runs / init))
    assert any(not new[name].equal(old[name]) for name in old)
    assert ("mode_vector" in new and new["mode_vector"].abs().sum() > 0) == ("causal_share" in settings)


def test_a_network_that_only_read_learns_the_vectors_of_mask_and_start_too_and_goes_on_with_them_bit_for_bit(
    runs: Path, tmp_path: Path
) -> None:
    settings = {**STEPS, "num_steps": 4, "checkpoint_interval_steps": 2, "batch_size": 8, "lora_rank": 2}
    how = {"init": runs / "causal", "method": "two_way", "progress": False, **settings, "optimizer": "adamw"}
    train(out=tmp_path / "whole", **how)
    train(out=tmp_path / "run", on_step=lambda step, _: step == 3, **how)
    train(resume=tmp_path / "run", progress=False)
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "whole")
    start, run = (load_lm(folder).network for folder in (runs / "causal", tmp_path / "run"))
    old, new = (network.get_parameter("embedding.weight") for network in (start, run))
    assert new[:-1].equal(old[:-1])
    vectors = {"[MASK]": new[-1], "start": run.get_parameter("start_vector")}
    begun = dict(with_start_vector(start.named_parameters()))
    before = {"[MASK]": begun["embedding.weight"][-1], "start": begun["start_vector"]}
    assert all((vectors[name] - before[name]).norm() > 0.02 * before[name].norm() for name in vectors)


def test_a_run_that_begins_with_a_low_rank_one_trains_all_weights_unless_it_is_asked_not_to(adapted: Path) -> None:
    def settings_of(**more: Any) -> LoraConfig:
        return RunRequest(init=adapted, method=None, settings=more).run_config().lora

    assert settings_of() == LoraConfig()
    assert settings_of(**{"lora.rank": 2}) == LoraConfig(rank=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config": "demo", "lora_rank": 4}, "this run begins with random ones: name a run or a model .* `init=`"),
        ({"init": "masked", "lora_rank": 4, "optimizer": "muon"}, "set `optim.kind='adamw'`"),
        ({"init": "masked", "lora_rank": 4, "shard": True}, "leave out `train.shard=`"),
        (
            {"init": "masked", "lora": {"rank": 4, "targets": ["heads"]}},
            "lora.targets: the blocks of .* no linear layer",
        ),
        ({"init": "masked", "lora_rank": -1}, "lora.rank"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(
    settings: dict[str, Any], message: str, runs: Path, tmp_path: Path
) -> None:
    if "init" in settings:
        settings = {**settings, "init": runs / settings["init"]}
    with pytest.raises(UserError, match=message):
        train(out=tmp_path / "run", progress=False, **settings)
    assert not (tmp_path / "run").exists()


def test_without_peft_the_message_is_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'mdlm-atat\[lora\]'"):
        add_low_rank(tiny_network(), LoraConfig(rank=2))


def test_a_run_says_how_few_numbers_it_trains(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--lora.rank", "2", "--train.num_steps", "1", "--eval.num_samples", "0"]
    assert main(["train", "--init", str(runs / "masked"), "--out", str(tmp_path / "run"), *flags]) == 0
    said = capsys.readouterr()
    assert "of rank 2: " in said.out + said.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["lora"]["rank"] == 2
