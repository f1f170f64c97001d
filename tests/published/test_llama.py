"""Networks of Llama's layout, published by transformers and read as ours: the logits are theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from others import VARIANTS, edit, logits_behind, make, save, write_tokenizer
from safetensors.torch import load_file, save_file

from mdlm_atat.config.build import build_model
from mdlm_atat.errors import UserError
from mdlm_atat.lm import CausalLM, load_lm
from mdlm_atat.published.imported import Imported
from mdlm_atat.published.read import read_published

END, SIZE = 256, 257


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    network = make("Llama")
    return network, save(network, tmp_path_factory.mktemp("published") / "llama")


@pytest.fixture
def copy(llama: tuple[Any, Path], tmp_path: Path) -> Path:
    """A folder to do harm to."""
    folder = tmp_path / "llama"
    folder.mkdir()
    for file in llama[1].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def network_of(found: Imported) -> Any:
    network = build_model(found.config, found.tokenizer.vocab_size)
    network.load_state_dict(dict(found.weights))
    return network.eval()


def tokens(length: int = 64, num_rows: int = 2) -> torch.Tensor:
    return torch.randint(0, SIZE, (num_rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_logits_are_transformers_own_within_1e_4_and_a_cache_reads_what_one_pass_does(variant, tmp_path):
    kind, more = VARIANTS[variant]
    theirs = make(kind, **more)
    found = read_published(save(theirs, tmp_path / "model"))
    ours, x = network_of(found), tokens()
    expected = logits_behind(theirs, END, x)[..., :SIZE]
    assert expected.std() > 0.3
    with torch.no_grad():
        whole = ours(x)
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-4)
        cache = ours.empty_cache(2, 64)
        assert cache.keys[0].shape[1] == theirs.config.num_key_value_heads
        symbols = torch.nn.functional.pad(x[:, :-1], (1, 0), value=SIZE)
        places = torch.arange(64).expand(2, 64)
        parts = [ours.read(symbols[:, part], places[:, part], cache) for part in (slice(20), slice(20, 64))]
        torch.testing.assert_close(ours.logits(torch.cat(parts, 1)), whole, rtol=0, atol=1e-4)
    assert found.origin.family == kind
    assert found.config.model.kind == "causal"
    assert found.config.data.length == 64


@pytest.mark.parametrize("variant", ["base 500,000", "llama3"])
def test_the_rotary_positions_are_theirs_2000_tokens_on(variant, tmp_path):
    kind, more = VARIANTS[variant]
    theirs = make(kind, **{**more, "max_position_embeddings": 2100})
    ours, x = network_of(read_published(save(theirs, tmp_path / "model"))), tokens(2100, 1)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), logits_behind(theirs, END, x)[..., :SIZE], rtol=0, atol=1e-4)


def test_as_transformers_4_wrote_it_rope_theta_and_rope_scaling_are_read_too(copy, llama):
    plain = read_published(copy).config.model
    scaling = {"type": "linear", "factor": 2.0}
    edit(copy / "config.json", rope_parameters=None, rope_theta=5e4, rope_scaling=scaling)
    found = read_published(copy).config.model
    assert (plain.rotary_base, plain.rotary_scaling) == (10_000, "none")
    assert (found.rotary_base, found.rotary_scaling, found.rotary_factor) == (50_000, "linear", 2)


def test_shards_and_an_old_index_beside_one_file_hold_the_same(llama, tmp_path, copy):
    theirs, _ = llama
    folder = save(theirs, tmp_path / "sharded", max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    one, several = (read_published(path).weights for path in (copy, folder))
    assert all(several[name].equal(weight) for name, weight in one.items())
    (copy / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00009.safetensors"}})
    )
    assert read_published(copy).weights.keys() == one.keys()
    (shard, *_) = sorted(folder.glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(UserError, match=f"has lost {shard.name}"):
        read_published(folder)


def test_a_model_published_in_bf16_is_kept_in_bf16_and_loads_as_a_language_model(tmp_path):
    from transformers import LlamaForCausalLM

    found = read_published(save(make("Llama").bfloat16(), tmp_path / "model"))
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    found.write(tmp_path / "ours")
    assert (tmp_path / "ours" / "model.safetensors").stat().st_size < 2.2 * sum(
        w.numel() for w in found.weights.values()
    )
    lm = load_lm(tmp_path / "ours", device="cpu")
    assert isinstance(lm, CausalLM)
    x = tokens(20)
    with torch.no_grad():
        torch.testing.assert_close(lm.network(x), logits_behind(theirs, END, x)[..., :SIZE], rtol=0, atol=1e-4)
    text = "It was so."
    ids = torch.tensor([lm.tokenizer.encode(text)])
    expected = -logits_behind(theirs, END, ids)[..., :SIZE].log_softmax(-1).gather(2, ids[..., None]).sum()
    assert lm.score(text).nats == pytest.approx(float(expected), rel=1e-4)
    assert str(lm.generate("It", max_new_tokens=4, seed=0)).startswith("It")


def test_a_text_begins_behind_what_its_tokenizer_puts_there_else_behind_the_end_of_another_one(copy, llama):
    theirs, x = llama[0], tokens(8)
    embedding = theirs.get_input_embeddings().weight
    cases: list[tuple[dict[str, Any], int]] = [
        ({"bos": "<s>"}, 257),  # it puts bos there
        ({"more": ("<|im_start|>",)}, 256),  # it puts nothing, and bos begins a turn of a chat
        ({"end": "</s>"}, 256),  # there is only an eos
    ]
    for more, start in cases:
        write_tokenizer(copy, **more)
        if "more" in more:
            edit(copy / "tokenizer_config.json", bos_token="<|im_start|>")
        found = read_published(copy)
        size = found.tokenizer.vocab_size
        assert found.weights["embedding.weight"][size].equal(embedding[start])
        with torch.no_grad():
            expected = logits_behind(theirs, start, x)[..., :size]
            torch.testing.assert_close(network_of(found)(x), expected, rtol=0, atol=1e-4)
        assert found.tokenizer.eos_id == 256


def test_rows_of_the_vocabulary_that_are_no_token_s_are_left_out_and_said_to_be(llama):
    found = read_published(llama[1])
    assert found.tokenizer.vocab_size == SIZE
    assert found.weights["output.weight"].shape == (SIZE, 32)
    assert "9 rows of the vocabulary that are no token's are left out" in found.origin.notes


def test_an_output_layer_is_the_embedding_only_where_it_is_the_same(copy):
    edit(copy / "config.json", tie_word_embeddings=True)  # and the stored one is another
    assert not read_published(copy).config.model.tied
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    found = read_published(copy)
    assert found.config.model.tied
    assert "output.weight" not in found.weights


def test_the_licence_and_the_name_come_along(copy):
    (copy / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\nlicense: mine\n")
    found = read_published(copy)
    assert (found.origin.licence, found.origin.source, found.tokenizer.name) == ("apache-2.0", "llama", "llama")


LACKS = {
    "head": (("lm_head.weight", None), "lacks 1 or more weights: lm_head.weight"),
    "layer": (("model.layers.1.mlp.up_proj.weight", None), "lacks .* model.layers.1.mlp.up_proj.weight"),
    "bias": (
        ("model.layers.0.self_attn.o_proj.bias", torch.zeros(32)),
        "does not ask for: model.layers.0.self_attn.o_proj",
    ),
    "experts": (("model.layers.0.mlp.experts.0.w1.weight", torch.zeros(3, 3)), "does not ask for: .*experts"),
    "shape": (
        ("model.layers.0.mlp.up_proj.weight", torch.zeros(40, 32)),
        "mlp.up.weight has shape .40, 32. in the file",
    ),
    "norm": (
        ("model.layers.0.self_attn.q_norm.weight", torch.zeros(4)),
        "norm_q.weight has shape .4,. in the file, missing",
    ),
}


@pytest.mark.parametrize("what", LACKS)
def test_a_weight_too_few_or_too_many_or_of_another_shape_is_named(copy, what):
    (name, tensor), said = LACKS[what]
    weights = load_file(copy / "model.safetensors")
    if tensor is None:
        del weights[name]
    else:
        weights[name] = tensor
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=said):
        read_published(copy)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"hidden_act": "gelu"}, "of the activation gelu"),
    "attention_bias": ({"attention_bias": True}, "biases in its attention"),
    "mlp_bias": ({"mlp_bias": True}, "biases in its MLP"),
    "window": ({"model_type": "mistral", "architectures": None, "sliding_window": 32}, "a sliding window of 32 tokens"),
    "some layers": ({"layer_types": ["full_attention", "sliding_attention"]}, "layers of sliding_attention"),
    "classifier": (
        {"architectures": ["LlamaForSequenceClassification"]},
        "LlamaForSequenceClassification.* known is Llama",
    ),
    "quantised": ({"quantization_config": {"quant_method": "gptq"}}, r"quantised \(gptq\)"),
    "yarn": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'; known are default, linear, llama3"),
    "part": ({"partial_rotary_factor": 0.5}, "rotary positions with partial_rotary_factor"),
    "option": ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta": 1}}, "rotary positions with beta"),
    "heads": ({"num_attention_heads": 7, "head_dim": 4}, "7 heads of queries cannot share"),
    "no width": ({"hidden_size": None}, "is damaged"),
    "layers": ({"num_hidden_layers": 10**6}, r"makes no network: model\.num_layers"),
    "advice": ({"num_attention_heads": 7, "head_dim": 4}, "values equally; it is damaged or of another model"),
    "kind": ({"model_type": ["llama"]}, "which cannot be read; known are Llama"),
    "layer kinds": ({"layer_types": 5}, r"config.json is damaged \(layer_types is 5\)"),
    "classes": ({"architectures": 7}, r"config.json is damaged \(architectures is 7\)"),
    "mixtral": ({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}, "known are Llama"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_network_cannot_represent_is_refused_by_its_name(copy, what):
    values, said = REFUSED[what]
    edit(copy / "config.json", **values)
    with pytest.raises(UserError, match=said):
        read_published(copy)


def test_a_tokenizer_of_more_tokens_than_the_network_has_is_of_another_model(copy):
    write_tokenizer(copy, more=tuple(f"<{i}>" for i in range(20)))
    with pytest.raises(
        UserError, match="has 277 tokens and the network 266: they do not belong together; take both anew"
    ):
        read_published(copy)


INDICES = {
    "empty": ({}, "names none"),
    "parent": ({"a": "../model.safetensors"}, r"damaged \(it names the file '../model.safetensors'"),
    "root": ({"a": "/model.safetensors"}, r"damaged \(it names the file"),
    "long": ({"a": "a" * 5000 + ".safetensors"}, r"damaged \(it names the file '.{,100}\);"),
    "list": (["a"], r"damaged \('list' object has no"),
    "100,000 files": ({str(i): f"{i}.safetensors" for i in range(100_000)}, "has lost 0.safetensors"),
}


@pytest.mark.parametrize("what", INDICES)
def test_an_index_that_is_damaged_or_leads_out_is_named_at_once(copy, what):
    listed, said = INDICES[what]
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(UserError, match=said):
        read_published(copy)


def test_a_link_to_a_folder_is_read_and_links_out_of_one_or_to_nothing_are_one_message_each(copy, tmp_path):
    (tmp_path / "link").symlink_to(copy)
    assert read_published(tmp_path / "link").weights.keys() == read_published(copy).weights.keys()
    weights = copy / "model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is a link to .*elsewhere\.safetensors, .* put a copy in"):
        read_published(copy)
    (tmp_path / "elsewhere.safetensors").rename(copy / "kept.safetensors")
    with pytest.raises(
        UserError, match=r"model\.safetensors is a link to .*, where nothing is; put a copy in its place"
    ):
        read_published(copy)
    weights.unlink()
    weights.symlink_to("kept.safetensors")
    assert read_published(copy).weights


def test_a_file_of_no_weights_and_roles_of_tokens_that_are_no_texts_are_named(copy):
    (copy / "tokenizer_config.json").write_text('{"bos_token": 5}')
    with pytest.raises(UserError, match=r"tokenizer_config.json is damaged \(bos_token is 5"):
        read_published(copy)
    (copy / "tokenizer_config.json").unlink()
    save_file({}, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"holds no weights"):
        read_published(copy)


def test_weights_that_are_pickled_or_missing_or_too_large_are_told_before_any_is_read(copy, monkeypatch):
    from mdlm_atat.published import files

    monkeypatch.setattr(files, "machine_memory", lambda: 1000)
    monkeypatch.setattr(files, "load_tensors", None)
    with pytest.raises(UserError, match=r"weights, which take .* this machine has .* of memory"):
        read_published(copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin is a pickle"):
        read_published(copy)
    index = {"weight_map": {"a": "../other.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"names the file '\.\./other\.safetensors'"):
        read_published(copy)
