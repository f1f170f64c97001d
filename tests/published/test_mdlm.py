"""Published networks of MDLM's family: ours give their logits, whichever format they come in."""

from __future__ import annotations

import functools
import json
import operator
import os
import random
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from ddit import (
    NUM_TOKENS,
    DDiT,
    hyperparameters,
    installed,
    log_p,
    make,
    omegaconf,
    own_loss,
    save_checkpoint,
    save_folder,
)
from others import edit, write_tokenizer
from safetensors.torch import load_file, save_file

from mdlm_atat.cli.main import main
from mdlm_atat.config.build import build_model
from mdlm_atat.errors import UserError
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM, load_lm
from mdlm_atat.published import files, hub
from mdlm_atat.published.imported import Imported
from mdlm_atat.published.mdlm import read_mdlm
from mdlm_atat.published.mdlm_weights import Shape, folded
from mdlm_atat.published.pickles import read_pickle
from mdlm_atat.published.place import find_model, folder_of
from mdlm_atat.published.read import read_published
from mdlm_atat.runs.train import train
from mdlm_atat.runs.zero_shot import evaluate_zero_shot
from test_docs import ROOT, commands_of, run_blocks
from tiny_runs import TINY, as_flags

END, MASK = 256, 257
TEXT = "It was a dark night; the rain fell in torrents.\n"


@pytest.fixture(scope="module")
def theirs() -> DDiT:
    return make()


@pytest.fixture(scope="module")
def published(theirs: DDiT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(theirs, tmp_path_factory.mktemp("mdlm") / "owt")


@pytest.fixture(scope="module")
def ours(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read") / "owt"
    read_published(published).write(folder)
    return folder


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """A folder to do harm to."""
    return Path(shutil.copytree(published, tmp_path / "owt"))


def network_of(found: Imported) -> Any:
    network = build_model(found.config, found.tokenizer.vocab_size)
    network.load_state_dict(dict(found.weights))
    return network.eval()


def tokens(length: int = 16, num_rows: int = 3, high: int = MASK + 1) -> torch.Tensor:
    return torch.randint(0, high, (num_rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def largest_difference(theirs: DDiT, found: Imported, sigma: float = 0.0, t: float = 0.3) -> float:
    z_t = tokens()
    expected = theirs(z_t, torch.full((3,), sigma))[..., :NUM_TOKENS]
    assert expected.std() > 0.3
    return (network_of(found)(z_t, torch.full((3,), t)) - expected).abs().max().item()


@pytest.mark.parametrize("how", [{}, {"parts": 3}, {"pickled": True}], ids=["one file", "three", "a pickle of tensors"])
def test_the_logits_are_the_published_networks_to_1e_5_whatever_the_time(theirs, tmp_path, how):
    found = read_published(save_folder(theirs, tmp_path / "owt", **how))
    assert largest_difference(theirs, found) < 1e-5
    assert largest_difference(theirs, found, t=1.0) < 1e-5
    assert found.origin.family == "MDLM"


def test_what_sigma_0_makes_of_the_network_is_folded_and_no_time_is_left(theirs, published):
    found = read_published(published)
    assert not found.config.model.time_conditioning
    assert not [name for name in found.weights if "modulation" in name or "time" in name]
    changed = dict(found.weights)  # the mutant: the constant part of one block's attention is left out
    changed["blocks.0.attention.qkv.bias"] = torch.zeros(48)
    network = network_of(found)
    network.load_state_dict(changed)
    with torch.no_grad():
        off = network(tokens(), torch.zeros(3)) - theirs(tokens(), torch.zeros(3))[..., :NUM_TOKENS]
    assert off.abs().max() > 0.1


@pytest.mark.parametrize(("t", "sigma"), [(0.0, 0.0), (0.5, 0.69214768), (1.0, 6.90775528)])
def test_a_conditioned_network_is_told_the_total_noise_and_not_the_time(theirs, tmp_path, t, sigma):
    found = read_published(save_folder(theirs, tmp_path / "owt", time_conditioning=True))
    assert largest_difference(theirs, found, sigma=sigma, t=t) < 2e-5
    if t:
        assert largest_difference(theirs, found, sigma=1000 * t, t=t) > 0.01


def test_a_mask_among_the_tokens_has_a_row_of_its_own_behind_them_and_no_probability(tmp_path):
    theirs = make(258)
    write_tokenizer(tmp_path / "lm1b", more=("[MASK]",))  # token 257, of 258
    found = read_published(save_folder(theirs, tmp_path / "lm1b"))
    assert found.tokenizer.vocab_size == 258
    z_t = tokens(high=257)
    z_t[:, ::3] = 257
    with torch.no_grad():
        expected = log_p(theirs, z_t, torch.zeros(3), 257)
        logits = network_of(found)(z_t.masked_fill(z_t == 257, 258), torch.zeros(3))
    assert logits[..., 257].max() < -1e5
    given = logits.log_softmax(-1)
    torch.testing.assert_close(given[..., :257], expected[..., :257], rtol=0, atol=1e-5)
    found.write(tmp_path / "read")
    lm = load_lm(tmp_path / "read")
    made = [text.tokens for text in lm.generate([""] * 8, length=15, seed=3)]
    assert 257 not in functools.reduce(operator.iadd, made, [])


def test_text_is_written_and_scored_behind_the_token_that_the_rows_began_with(theirs, ours, monkeypatch):
    lm = load_lm(ours)
    assert isinstance(lm, MaskedDiffusionLM)
    assert (lm.bos_id, lm.max_length) == (END, 15)
    shown, hidden = [], lm.network.hidden
    monkeypatch.setattr(lm.network, "hidden", lambda z_t, *more: shown.append(z_t) or hidden(z_t, *more))
    assert len(lm.generate("It", length=15, steps=4).tokens) == 15
    assert all(z_t.shape[1] == 16 and (z_t[:, 0] == END).all() for z_t in shown)
    z_t, t = tokens(15), torch.zeros(3)
    with torch.no_grad():
        expected = theirs(torch.cat([torch.full((3, 1), END), z_t], 1), t)[:, 1:, :NUM_TOKENS]
        torch.testing.assert_close(lm.denoise(z_t, t), expected, rtol=0, atol=1e-5)


def test_the_bound_is_that_of_their_own_loss_within_errors(theirs, ours):
    lm = load_lm(ours)
    text = TEXT[:15]
    found = lm.score(text, num_draws=2048)
    draws = own_loss(theirs, torch.tensor(lm.tokenizer.encode(text)), first=END, mask_id=MASK, num_draws=4096)
    error = (found.standard_error**2 + draws.var() / len(draws)) ** 0.5
    assert abs(found.nats - draws.mean().item()) < 4 * error
    assert error < 0.02 * found.nats


def test_it_is_stored_and_loaded_again_to_the_bit(ours, tmp_path):
    lm = load_lm(ours)
    again = load_lm(lm.save_pretrained(tmp_path / "saved"))
    assert again.fingerprint() == lm.fingerprint()
    assert again.bos_id == END


def test_it_is_trained_on_from_a_folder_and_in_place_and_learns(ours, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 60)
    settings: dict[str, Any] = {
        "train": {"num_steps": 12, "batch_size": 8, "log_interval_steps": 1, "num_micro_batches": 1},
        "optim": {"lr": 0.01, "warmup_steps": 1},
        "eval": {"num_draws": 64, "final_num_draws": 64, "num_samples": 0},
    }
    lm = load_lm(ours)
    before = lm.score(TEXT[:15], num_draws=256).nats
    lm.fit(str(tmp_path / "text.txt"), progress=False, settings=settings)
    assert lm.score(TEXT[:15], num_draws=256).nats < 0.8 * before
    run = train(
        init=ours,
        out=tmp_path / "run",
        progress=False,
        settings=settings | {"data": {"source": str(tmp_path / "text.txt")}},
    )
    trained = load_lm(tmp_path / "run")
    assert run is not None
    assert trained.bos_id is None  # the rows that it was trained on did not begin with it
    assert trained.score(TEXT[:15], num_draws=256).nats < 0.8 * before


def test_it_is_evaluated_zero_shot(ours, tmp_path):
    (tmp_path / "text.txt").write_text("the cat 's 5 @-@ year plan , he said .\n" * 30)
    lm = load_lm(ours)
    found = evaluate_zero_shot(
        lm, [str(tmp_path / "text.txt")], detokenizer="wikitext", mode="wrap", num_draws=64, save=False, progress=False
    )
    (record,) = found.values()
    assert record.text.detokenizer == "wikitext"
    assert record.nats_per_token > 1


def checkpoint(tmp_path: Path, **more: Any) -> tuple[Path, DDiT]:
    """A checkpoint whose last weights differ from the average; and the network of the average."""
    last, average = make(), make()
    with torch.no_grad():
        for parameter in last.parameters():
            parameter += 0.05
    config, modules = omegaconf(hyperparameters(**more))
    with installed(modules):
        return save_checkpoint(last, tmp_path / "last.ckpt", average=average, config=config), average


def test_of_a_lightning_checkpoint_the_average_is_taken_and_its_settings_are_read_without_their_package(tmp_path):
    file, average = checkpoint(tmp_path, data={"wrap": False})
    found = read_published(file)
    assert largest_difference(average, found) < 1e-5
    assert (found.config.data.length, found.config.data.mode) == (16, "pad")
    assert "the averaged weights" in found.origin.notes


def test_a_checkpoint_is_judged_by_its_weights_and_not_by_what_its_optimizer_keeps(tmp_path, monkeypatch):
    network = make()
    needed = int(6.5 * sum(parameter.numel() for parameter in network.parameters()))
    more = {"optimizer_states": [torch.zeros(needed)]}
    file = save_checkpoint(network, tmp_path / "last.ckpt", average=None, **more)
    for module in (hub, files):
        monkeypatch.setattr(module, "machine_memory", lambda: needed)
    assert file.stat().st_size > 2 * needed
    assert largest_difference(network, read_published(folder_checked(file))) < 1e-5
    for module in (hub, files):
        monkeypatch.setattr(module, "machine_memory", lambda: needed - 1)
    with pytest.raises(UserError, match=r"last\.ckpt has [\d,]+ weights, which take .*; this machine has .* of memory"):
        read_published(folder_checked(file))


def folder_checked(file: Path) -> Path:
    place = find_model(file)
    place.check_memory()
    return place.path


def test_folding_copies_no_weight_that_stays_as_it_is():
    shape = Shape(
        num_rows=9, length=4, width=8, num_layers=1, num_heads=2, condition_width=4, mlp_width=32, dropout=0.0,
        is_causal=False, sees_time=False,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(size, generator=rng) for name, size in shape.tensors.items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    found = folded(shape, tensors)
    same = {name for name, tensor in found.items() if name in tensors and tensor is tensors[name]}
    assert same == {
        "vocab_embed.embedding",
        "blocks.0.attn_qkv.weight",
        "blocks.0.mlp.0.weight",
        "output_layer.linear.weight",
    }
    assert all(tensor.equal(before[name]) for name, tensor in tensors.items())


def test_a_checkpoint_without_settings_tells_its_shape_by_its_tensors_and_one_without_an_average_has_its_last(tmp_path):
    network = make()
    found = read_published(save_checkpoint(network, tmp_path / "last.ckpt", average=None))
    assert largest_difference(network, found) < 1e-5
    assert any("holds no average" in note for note in found.origin.notes)
    assert any("taken to be 1,024" in note for note in found.origin.notes)


@pytest.mark.parametrize("change", ["one less", "out of order"])
def test_an_average_that_is_not_one_of_each_weight_in_order_is_refused(tmp_path, change):
    network = make()
    shadow = [parameter.detach() for parameter in network.parameters()]
    shadow = shadow[:-1] if change == "one less" else [shadow[1], shadow[0], *shadow[2:]]
    file = save_checkpoint(network, tmp_path / "last.ckpt", average=None, ema={"shadow_params": shadow})
    with pytest.raises(UserError, match=r"has an average \(ema\)"):
        read_published(file)


def test_the_left_to_right_baseline_is_read_as_a_causal_model(tmp_path):
    network = make(causal=True)
    config = hyperparameters(backbone="ar", parameterization="ar")
    found = read_published(save_checkpoint(network, tmp_path / "ar.ckpt", average=network, config=config))
    x = tokens(15, high=NUM_TOKENS)
    with torch.no_grad():
        expected = network(torch.cat([torch.full((3, 1), END), x[:, :-1]], 1))[..., :NUM_TOKENS]
        torch.testing.assert_close(network_of(found)(x), expected, rtol=0, atol=1e-5)
    found.write(tmp_path / "read")
    assert isinstance(load_lm(tmp_path / "read"), CausalLM)


@pytest.mark.parametrize(("is_causal", "said"), [(True, "none of the .* and does not say"), (False, "the .* and says")])
def test_a_network_of_which_it_cannot_be_told_whether_it_reads_left_to_right_is_refused(tmp_path, is_causal, said):
    """One of masks without layers for a time was read as the baseline, and would have had its likelihoods."""
    network = make(causal=is_causal)
    folder = save_folder(network, tmp_path / "owt", causal=not is_causal)
    config = hyperparameters(parameterization="subs" if is_causal else "ar")
    file = save_checkpoint(network, tmp_path / "last.ckpt", average=network, config=config)
    for path in (folder, file):
        with pytest.raises(UserError, match=f"has {said} that it is that"):
            read_published(path)
    if is_causal:
        named = save_folder(network, tmp_path / "ar", causal=True)
        told: list[dict[str, Any]] = [{"parameterization": "ar"}, {"algo": {"parameterization": "ar"}}]
        told.append({"algo": {"name": "ar", "parameterization": "mean"}})
        files = [tmp_path / f"{number}.ckpt" for number in range(len(told))]
        for path, settings in zip(files, told, strict=True):
            config = hyperparameters(**{"parameterization": "subs", **settings})
            save_checkpoint(network, path, average=network, config=config)
        assert {read_published(path).config.model.kind for path in (named, *files)} == {"causal"}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "bd3lm", "block_size": 4}, "BD3LM's block mask"),
        ({"model_type": "DUO"}, "Duo's noise"),
        ({"model_type": "udlm"}, "UDLM's noise"),
        ({"model_type": None, "graph": {"type": "absorb"}, "noise": {"type": "loglinear"}}, "SEDD's head"),
    ],
)
def test_what_cannot_be_represented_is_named(copy, config, named):
    edit(copy / "config.json", **config)
    with pytest.raises(UserError, match=named):
        read_published(copy)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"parameterization": "sedd"}, "SEDD's head"),
        ({"backbone": "dimamba"}, "DiMamba"),
        ({"diffusion": "uniform"}, "random ones"),
        ({"algo": {"name": "duo_base"}}, "Duo's noise"),
    ],
)
def test_so_it_is_in_a_checkpoint(tmp_path, settings, named):
    file = save_checkpoint(make(), tmp_path / "last.ckpt", average=None, config=hyperparameters(**settings))
    with pytest.raises(UserError, match=named):
        read_published(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 3}, "n_heads = 3, and its width 16 cannot be split"),
        ({"n_heads": 4}, "n_heads = 4, and the rotary frequencies beside its weights are those of 2 heads"),
        ({"n_heads": "two"}, "n_heads = 'two', expected a whole number"),
        ({"hidden_dim": 32}, "describes another network than its weights are of"),
        ({"n_blocks": 3}, r"lacks backbone.blocks.2.norm1.weight"),
        ({"n_blocks": 1}, r"not used: backbone.blocks.1"),
        ({"n_blocks": 10**9}, "n_blocks = 1000000000, expected a whole number from 1 to 10,000"),
        ({"vocab_size": 300}, "describes another network than its weights are of"),
        ({"model_length": None}, "model_length = None"),
    ],
)
def test_a_configuration_of_another_network_is_refused(copy, change, message):
    edit(copy / "config.json", **change)
    with pytest.raises(UserError, match=message):
        read_published(copy)


def without(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without("backbone.blocks.1.mlp.2.bias", t), "lacks backbone.blocks.1.mlp.2.bias"),
        (lambda t: t | {"backbone.extra": torch.ones(2)}, "not used: backbone.extra"),
        (lambda t: t | {"head.weight": torch.ones(2)}, "not used: head.weight"),
        (lambda t: {key.removeprefix("backbone."): x for key, x in t.items()}, "do not begin with backbone., as MDLM"),
        (lambda t: t | {"backbone.rotary_emb.inv_freq": torch.ones(4)}, "another base than 10,000"),
    ],
    ids=["a key is missing", "one too many", "one outside", "no prefix", "another base"],
)
def test_weights_are_taken_strictly(copy, change, message):
    save_file(change(load_file(copy / "model.safetensors")), copy / "model.safetensors")
    with pytest.raises(UserError, match=message):
        read_published(copy)


def test_a_truncated_file_and_a_config_that_is_a_list_are_each_one_message(copy):
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        read_published(copy)
    (copy / "config.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="holds no object of names and values"):
        read_published(copy)


class Runs:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("what", [os.mkdir, exec, eval, getattr])
@pytest.mark.parametrize("where", ["last.ckpt", "folder/pytorch_model.bin"])
def test_a_pickle_that_calls_something_is_refused_and_nothing_is_called(theirs, tmp_path, where, what):
    made = str(tmp_path / "made")
    argument = (f"import os; os.mkdir({made!r})",) if what in (exec, eval) else (made, 0o777)
    save_folder(theirs, tmp_path / "folder")
    (tmp_path / "folder/model.safetensors").unlink()
    torch.save({"state_dict": {}, "call": Runs(what, argument)}, tmp_path / where)
    path = tmp_path / where
    with pytest.raises(UserError, match="is a pickle that would run"):
        read_published(path if path.suffix == ".ckpt" else path.parent)
    assert not Path(made).exists()


@pytest.mark.parametrize("seed", range(8))
def test_a_pickle_of_which_bytes_are_wrong_is_read_or_is_one_message(theirs, tmp_path, seed):
    whole = zipfile.ZipFile(save_checkpoint(theirs, tmp_path / "whole.ckpt", average=theirs))
    chance = random.Random(seed)
    for _ in range(12):
        with zipfile.ZipFile(tmp_path / "last.ckpt", "w") as harmed:
            for name in whole.namelist():
                content = bytearray(whole.read(name))
                if name.endswith("data.pkl"):
                    for _ in range(chance.choice((1, 2, 5))):
                        content[chance.randrange(len(content))] = chance.randrange(256)
                harmed.writestr(name, bytes(content))
        with suppress(UserError):
            read_pickle(tmp_path / "last.ckpt")


@pytest.mark.parametrize("package", ["lightning.fabric.utilities.data", "lightning_utilities.core.rank_zero"])
def test_a_dictionary_of_lightnings_is_a_plain_one(theirs, tmp_path, package):
    kind: Any = type("AttributeDict", (dict,), {"__module__": package, "__qualname__": "AttributeDict"})
    parts = package.split(".")
    modules = [ModuleType(".".join(parts[: i + 1])) for i in range(len(parts))]
    vars(modules[-1])["AttributeDict"] = kind
    with installed(modules):
        file = save_checkpoint(theirs, tmp_path / "last.ckpt", average=theirs, more=kind(lr=0.1))
    assert read_pickle(file)["more"] == {"lr": 0.1}
    elsewhere: Any = type("AttributeDict", (dict,), {"__module__": "elsewhere", "__qualname__": "AttributeDict"})
    other = ModuleType("elsewhere")
    vars(other)["AttributeDict"] = elsewhere
    with installed([other]):
        refused = save_checkpoint(theirs, tmp_path / "refused.ckpt", average=theirs, more=elsewhere(lr=0.1))
    with pytest.raises(UserError, match=r"would run elsewhere\.AttributeDict"):
        read_pickle(refused)
    strange: Any = type("Numbers", (list,), {"__module__": package, "__qualname__": "Numbers"})
    vars(modules[-1])["Numbers"] = strange
    with installed(modules):
        other = save_checkpoint(theirs, tmp_path / "other.ckpt", average=theirs, more=strange([1]))
    with pytest.raises(UserError, match=r"Can only (extend|append to) lists|would run"):
        read_pickle(other)  # and not torch's advice how to read it without restriction
    assert largest_difference(theirs, read_published(file)) < 1e-5


@pytest.mark.parametrize("timed", [True, False])
def test_tensors_of_a_pickle_that_share_memory_or_lie_in_another_order_are_the_same_network(tmp_path, timed):
    theirs = make()
    with torch.no_grad():
        theirs.output_layer["linear"].weight = theirs.vocab_embed["embedding"]
        folder = save_folder(theirs, tmp_path / "owt", pickled=True, time_conditioning=timed)
        tensors = {f"backbone.{name}": value for name, value in theirs.state_dict().items()}
        turned = "backbone.blocks.0.attn_qkv.weight"
        tensors[turned] = tensors[turned].t().contiguous().t()
        torch.save(tensors, folder / "pytorch_model.bin")
    found = read_published(folder)
    assert largest_difference(theirs, found, t=0.0) < 2e-5
    found.write(tmp_path / "read")
    assert load_lm(tmp_path / "read").fingerprint()


@pytest.mark.parametrize("where", ["at the top", "of the method"])
def test_a_checkpoint_that_is_told_the_time_is_told_it_here_wherever_its_settings_say_so(theirs, tmp_path, where):
    """D3PM of the code of BD3LM and Duo has it among the settings of `algo`; unread, logits are off by up to 1."""
    told = {"time_conditioning": True}
    config = hyperparameters(**(told if where == "at the top" else {"algo": {"name": "d3pm", **told}}))
    config["noise"] = {"type": "log-linear"}
    found = read_published(save_checkpoint(theirs, tmp_path / "last.ckpt", average=theirs, config=config))
    assert largest_difference(theirs, found, sigma=0.69214768, t=0.5) < 2e-5
    config["noise"] = {"type": "geometric"}
    with pytest.raises(UserError, match="told the total noise of the schedule 'geometric'"):
        read_published(save_checkpoint(theirs, tmp_path / "other.ckpt", average=theirs, config=config))


def test_a_pickle_or_a_tokenizer_beside_it_that_has_changed_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))

    def kept(path: Path) -> Path:
        return folder_of(find_model(path), tell=lambda _: None)

    theirs = make()
    folder = save_folder(theirs, tmp_path / "owt", pickled=True)
    first = kept(folder)
    with torch.no_grad():
        theirs.vocab_embed["embedding"] += 0.1
    (save_folder(theirs, tmp_path / "later", pickled=True) / "pytorch_model.bin").replace(folder / "pytorch_model.bin")
    assert first != kept(folder) == kept(folder)
    file = save_checkpoint(theirs, tmp_path / "last.ckpt", average=theirs)
    first = kept(file)
    write_tokenizer(tmp_path / "tokenizer", more=("<a>",))
    with pytest.raises(UserError, match="they do not belong together"):
        kept(file)


@pytest.mark.parametrize(("file", "said"), [("cache/x", "set ATAT_CACHE to a folder that can"), ("owt/x", None)])
def test_only_of_the_cache_it_is_said_that_it_cannot_be_written(copy, tmp_path, monkeypatch, file, said):
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / file))

    monkeypatch.setattr("mdlm_atat.published.place._convert", refuse)
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError if said else PermissionError, match=said):
        folder_of(find_model(copy))


def test_a_folder_named_by_one_letter_is_called_so_once(copy, monkeypatch):
    monkeypatch.chdir(copy.parent)
    edit(copy.rename("m") / "config.json", n_heads=3)
    with pytest.raises(UserError, match=r"^m says n_heads = 3, and its width 16 cannot be split over so many heads"):
        folder_of(find_model("./m"))


@pytest.mark.parametrize("content", [b"", b"weights", b"PK\x03\x04"])
def test_what_is_no_checkpoint_is_one_message(tmp_path, content):
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"last.ckpt is damaged"):
        read_published(tmp_path / "last.ckpt")


@pytest.mark.parametrize("how", ["meta", "sparse", "average", "within itself", "doubled"])
def test_tensors_without_numbers_and_settings_that_hold_each_other_are_one_message_at_once(theirs, tmp_path, how):
    file = save_checkpoint(theirs, tmp_path / "last.ckpt", average=theirs)
    content = torch.load(file)
    state, settings = content["state_dict"], []
    embedding = state["backbone.vocab_embed.embedding"]
    match how:
        case "meta" | "sparse":
            state["backbone.vocab_embed.embedding"] = embedding.to("meta") if how == "meta" else embedding.to_sparse()
        case "average":
            content["ema"]["shadow_params"][0] = embedding.to("meta")
        case "within itself":
            settings.append(settings)
        case _:
            for _ in range(40):  # 2^40 lists, once they are taken apart
                settings = [settings, settings]
    torch.save({**content, "hyper_parameters": {"config": {"model": settings}}}, file)
    said = r"last.ckpt is damaged" if settings else "tensor that is sparse or has no numbers"
    with pytest.raises(UserError, match=said):
        read_published(file)


def test_a_checkpoint_of_something_else_is_left_to_others(tmp_path):
    torch.save({"state_dict": {"encoder.weight": torch.ones(2)}}, tmp_path / "other.ckpt")
    assert read_mdlm(tmp_path / "other.ckpt") is None


def test_a_tokenizer_that_does_not_fit_is_refused_and_an_unknown_one_is_asked_for(copy):
    write_tokenizer(copy, more=("<a>", "<b>", "<c>"))
    with pytest.raises(UserError, match=r"260 tokens and the network of .* 258 rows, where 261"):
        read_published(copy)
    write_tokenizer(copy, more=("<a>",))
    with pytest.raises(UserError, match=r"it has no token \[MASK\]: they do not belong together; put the files"):
        read_published(copy)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    with pytest.raises(UserError, match=r"258 tokens and no tokenizer.*put its files"):
        read_published(copy)


def test_gpt2s_tokenizer_is_looked_for_by_its_50258_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = save_folder(make(50_258, hidden_dim=8), tmp_path / "owt", hidden_dim=8)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    asked = []
    monkeypatch.setattr("mdlm_atat.published.mdlm.load_tokenizer", lambda name: asked.append(name) or refuse())

    def refuse() -> None:
        raise UserError("it could not be fetched")

    with pytest.raises(UserError, match=r"with 50,258 tokens it is gpt2's: it could not be fetched"):
        read_published(folder)
    assert asked == ["gpt2"]
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 50_258


def test_its_page_does_what_it_says(theirs, tmp_path, monkeypatch, capsys, no_report):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    save_folder(theirs, tmp_path / "mdlm-owt", model_length=48)
    save_checkpoint(theirs, tmp_path / "last.ckpt", average=theirs, config=hyperparameters())
    (tmp_path / "other.txt").write_text("the cat 's 5 @-@ year plan , he said .\n" * 30)
    (tmp_path / "mine.txt").write_text(TEXT * 60)
    page = ROOT / "docs/howto/mdlm.md"
    little = {name: value for name, value in TINY.items() if name.startswith(("train.", "eval.", "optim."))}
    flags = as_flags(little, {"train__num_steps": 2, "eval__num_samples": 0})
    commands = commands_of(page)
    for arguments in commands:
        assert main([*arguments, *(flags if arguments[0] == "train" else ())]) == 0, arguments
    assert [arguments[0] for arguments in commands] == ["generate", "infill", "eval", "generate", "train"]
    run_blocks(page, tmp_path)
    assert "256 47" in capsys.readouterr().out
    assert len(list((tmp_path / "cache/models").iterdir())) == 2
