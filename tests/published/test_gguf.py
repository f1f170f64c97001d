"""Networks in .gguf files, as llama.cpp's converter writes them."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from others import logits_behind, make, write_tokenizer
from test_llama import network_of, tokens

from mdlm_atat.errors import UserError
from mdlm_atat.lm import load_lm
from mdlm_atat.published import files
from mdlm_atat.published.gguf import NAMES
from mdlm_atat.published.place import find_model, folder_of
from mdlm_atat.published.read import read_published

gguf = pytest.importorskip("gguf")
SIZE, END = 257, 256


def permuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """As llama.cpp wants the rows of queries and keys: the two halves of a head in turns."""
    return weight.reshape(num_heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write(
    network: Any,
    file: Path,
    *,
    packing: str = "F32",
    words: bool = False,
    endian: str = "LITTLE",
    most: int = 0,
    **more: Any,
) -> Path:
    """`packing`: of the matrices. `words`: with a tokenizer inside. `most`: weights in one part. `more`: keys and
    weights, dots as two underscores; None leaves a key out."""
    config = network.config
    arch = config.model_type
    writer = gguf.GGUFWriter(file, arch, endianess=gguf.GGUFEndian[endian], split_max_tensors=most)
    scale = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.dimension_count": config.head_dim if arch == "llama" else None,
        "attention.key_length": getattr(config, "head_dim", None),
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }
    extra = {name: value for name, value in more.items() if isinstance(value, np.ndarray)}
    scale |= {name.replace("__", "."): value for name, value in more.items() if name not in extra}
    for key, value in scale.items():
        adds = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, bool: writer.add_bool}
        add = adds.get(type(value))
        if add is not None:
            add(f"{arch}.{key}", value)
    writer.add_string("general.license", "apache-2.0")
    if words:
        from tokenizers.pre_tokenizers import ByteLevel

        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([*sorted(ByteLevel.alphabet())[:-1], "ab", "<|endoftext|>"])
        writer.add_token_types([1] * 256 + [3])
        writer.add_token_merges(["a b"])
        writer.add_eos_token_id(END)
    theirs = {value: key for key, value in NAMES.items()}
    for name, weight in network.state_dict().items():
        place, _, part = name.rpartition(".")
        block = f"blk.{place.split('.')[2]}." if "layers" in place else ""
        found = theirs[place.removeprefix(f"model.layers.{block[4:-1]}.") if block else place]
        numbers = weight.numpy()
        if arch == "llama" and found in ("attn_q", "attn_k"):
            numbers = permuted(numbers, config.num_attention_heads if found == "attn_q" else config.num_key_value_heads)
        if f"{found}__{part}" in extra or (found == "output" and config.tie_word_embeddings):
            continue
        kind = gguf.GGMLQuantizationType[packing if numbers.ndim == 2 else "F32"]
        writer.add_tensor(f"{block}{found}.{part}", gguf.quantize(numbers, kind), raw_dtype=kind)
    for name, numbers in extra.items():
        writer.add_tensor(name.replace("__", "."), numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_file_of_4_bits_is_refused_where_its_weights_do_not_fit_at_the_6_bytes_that_reading_takes(
    tmp_path, monkeypatch
):
    theirs = make("Llama", intermediate_size=64)  # rows of whole blocks of 32
    write_tokenizer(tmp_path)
    file = write(theirs, tmp_path / "model.gguf", packing="Q4_0")
    needed = 6 * sum(parameter.numel() for parameter in theirs.parameters())
    monkeypatch.setattr(files, "machine_memory", lambda: needed)
    read_published(file)
    monkeypatch.setattr(files, "machine_memory", lambda: needed - 1)
    with pytest.raises(UserError, match=r"model\.gguf has [\d,.]+.* weights, which take .* to read; this machine has "):
        read_published(file)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("Llama", {}),
        ("Llama", {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}),
        ("Llama", {"head_dim": 16, "num_key_value_heads": 8}),
        ("Qwen2", {}),
        ("Qwen3", {"head_dim": 16}),
    ],
)
def test_the_network_is_the_one_that_was_written_with_8_heads_to_2_and_9_to_3(kind, more, tmp_path):
    theirs = make(kind, **more)
    write_tokenizer(tmp_path)
    found, x = read_published(write(theirs, tmp_path / "model.gguf")), tokens()
    with torch.no_grad():
        torch.testing.assert_close(network_of(found)(x), logits_behind(theirs, END, x)[..., :SIZE], rtol=0, atol=1e-4)
    assert (found.origin.licence, found.origin.source, found.packing) == ("apache-2.0", "model", "float32")


def test_weights_packed_in_8_bits_are_what_transformers_makes_of_them_and_the_tokenizer_is_inside(tmp_path):
    import transformers

    theirs = make("Llama", vocab_size=SIZE, intermediate_size=64)
    file = write(theirs, tmp_path / "model.gguf", packing="Q8_0", words=True)
    unpacked = transformers.LlamaForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    found, x = read_published(file), tokens()
    with torch.no_grad():
        ours = network_of(found)(x)
    torch.testing.assert_close(ours, logits_behind(unpacked, END, x), rtol=0, atol=1e-4)
    assert not torch.allclose(ours, logits_behind(theirs, END, x), atol=1e-3)
    assert found.tokenizer.eos_id == END
    ids = found.tokenizer.encode("a ab ä")
    assert (len(ids), found.tokenizer.decode(ids)) == (6, "a ab ä")


def test_llama_3s_scaling_is_told_from_its_frequencies_and_another_one_is_refused(tmp_path):
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"rope_theta": 5e5, "original_max_position_embeddings": 8192}
    theirs = make("Llama", rope_parameters=scaling, head_dim=16, max_position_embeddings=1100)
    plain = 5e5 ** (-torch.arange(0, 16, 2) / 16)
    divisors = (plain / theirs.model.rotary_emb.inv_freq).numpy()
    assert divisors.max() == pytest.approx(8)
    write_tokenizer(tmp_path)
    found, x = read_published(write(theirs, tmp_path / "a.gguf", rope_freqs__weight=divisors)), tokens(1100, 1)
    with torch.no_grad():
        torch.testing.assert_close(network_of(found)(x), logits_behind(theirs, END, x)[..., :SIZE], rtol=0, atol=1e-4)
    with pytest.raises(UserError, match=r"rope_freqs\.weight\) in another way than Llama 3 does"):
        read_published(write(theirs, tmp_path / "b.gguf", rope_freqs__weight=divisors[::-1].copy()))


@pytest.mark.parametrize(
    "keys", [{"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, {"rope__scale_linear": 4.0}]
)
def test_linear_scaling_is_read_which_transformers_passes_over(keys, tmp_path):
    write_tokenizer(tmp_path)
    file = write(make("Llama"), tmp_path / "a.gguf", **keys)
    model = read_published(file).config.model
    assert (model.rotary_scaling, model.rotary_factor) == ("linear", 4.0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "experts": ({"expert_count": 8}, "a network of 8 experts, which cannot be read"),
    "window": ({"attention__sliding_window": 32}, "a sliding window of 32 tokens"),
    "part": ({"rope__dimension_count": 2}, "turns 2 of 4 numbers of a head"),
    "yarn": ({"rope__scaling__type": "yarn"}, "of the type yarn"),
    "bias": ({"blk__0__attn_output__bias": np.zeros(32, np.float32)}, "does not ask for: .*o_proj.bias"),
    "other": ({"blk__0__attn_sinks__weight": np.zeros(8, np.float32)}, "has the weight 'blk.0.attn_sinks.weight'"),
    "no key": ({"block_count": None}, "is damaged"),
    "both ways": ({"attention__causal": False}, "that reads in both directions"),
    "scale": ({"attention__scale": 0.5}, "whose attention is scaled by 0.5"),
    "whole numbers": (
        {"blk__0__attn_q__bias": np.zeros(32, np.int8)},
        "attn_q.bias' packed as I8, which cannot",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_network_cannot_represent_is_refused_by_its_name(what, tmp_path):
    more, said = REFUSED[what]
    write_tokenizer(tmp_path)
    with pytest.raises(UserError, match=said):
        read_published(write(make("Llama"), tmp_path / "model.gguf", **more))


def test_another_architecture_a_cut_file_and_a_missing_extra_are_one_message_each(tmp_path, monkeypatch):
    write_tokenizer(tmp_path)
    file = write(make("Llama"), tmp_path / "model.gguf")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is damaged"):
        read_published(file)
    file.write_bytes(content.replace(b"llama", b"gemma"))
    with pytest.raises(UserError, match="architecture 'gemma', which cannot be read; known are llama, qwen2, qwen3"):
        read_published(file)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'mdlm-atat\[hub\]'"):
        read_published(file)


@pytest.mark.parametrize(
    "content", [b"GGUF" + bytes(40), b"GGUFs are models of llama.cpp\n", b"PK\x03\x04\x03" + bytes(40), b"GG"]
)
def test_a_file_that_is_none_of_the_format_is_called_so_and_not_one_of_another_machine(content: bytes, tmp_path):
    (tmp_path / "notes.gguf").write_bytes(content)
    with pytest.raises(
        UserError, match=r"notes\.gguf is no \.gguf file, which begins with the letters GGUF and the ver"
    ):
        read_published(tmp_path / "notes.gguf")


def test_numbers_in_the_other_order_of_bytes_are_told_with_what_turns_them(tmp_path):
    write_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"the other order of bytes .*: turn its bytes around by `gguf-convert-endian"):
        read_published(write(make("Llama"), tmp_path / "model.gguf", endian="BIG"))


@pytest.mark.parametrize("named", ["a-00001-of-00003.gguf", "a-00003-of-00003.gguf", "link.gguf"])
@pytest.mark.parametrize("words", [False, True])
def test_three_parts_of_a_network_are_the_whole_by_whichever_part_it_is_named(named, words, tmp_path):
    theirs = make("Llama", vocab_size=SIZE)
    whole = write(theirs, tmp_path / "whole.gguf", words=words)
    (tmp_path / "parts").mkdir()
    write(theirs, tmp_path / "parts/a.gguf", words=words, most=8)
    assert len(list((tmp_path / "parts").iterdir())) == 3
    (tmp_path / "parts/link.gguf").symlink_to("a-00002-of-00003.gguf")
    for folder in () if words else (tmp_path, tmp_path / "parts"):
        write_tokenizer(folder)
    one, several = read_published(whole), read_published(tmp_path / "parts" / named)
    assert one.config == several.config
    assert one.tokenizer.encode("a ab ä") == several.tokenizer.encode("a ab ä")
    assert one.weights.keys() == several.weights.keys()
    assert all(weight.equal(several.weights[name]) for name, weight in one.weights.items())


def test_parts_that_are_missing_or_misnamed_or_swapped_are_one_message_each(tmp_path):
    write_tokenizer(tmp_path)
    write(make("Llama"), tmp_path / "a.gguf", most=12)
    first, second = sorted(tmp_path.glob("*.gguf"))
    second.rename(tmp_path / "kept")
    with pytest.raises(UserError, match=r"is part 1 of 2 of a network, and a-00002-of-00002\.gguf is not beside it"):
        read_published(first)
    (tmp_path / "b.gguf").write_bytes((tmp_path / "kept").read_bytes())
    with pytest.raises(
        UserError, match=r"b\.gguf is part 2 of 2 .*, and is not called so: .* or join them into one file"
    ):
        read_published(tmp_path / "b.gguf")
    second.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=r"a-00002-of-00002\.gguf says that it is part 1 of 2, and is called otherwise"):
        read_published(first)
    other = write(make("Llama", num_hidden_layers=1), tmp_path / "c.gguf", most=6)
    assert not other.exists()
    second.write_bytes((tmp_path / "c-00002-of-00002.gguf").read_bytes())
    with pytest.raises(UserError, match=r"and its other parts have 18 weights of 21"):
        read_published(first)


def test_a_whole_file_that_is_only_called_a_part_is_read(tmp_path):
    write_tokenizer(tmp_path)
    assert read_published(write(make("Llama"), tmp_path / "a-00001-of-00003.gguf")).weights


LINKS = ["absolute", "relative", "of a link", "of a name without an ending", "in a folder that is a link"]


@pytest.mark.parametrize("kind", LINKS)
def test_a_link_to_a_file_is_read_with_the_tokenizer_beside_what_it_leads_to_and_once(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    home, elsewhere, told = tmp_path / "home", tmp_path / "elsewhere", []
    home.mkdir()
    elsewhere.mkdir()
    write_tokenizer(home)
    blob = home / ("0123abc" if "ending" in kind else "model.gguf")
    write(make("Llama", vocab_size=SIZE), tmp_path / "a.gguf").rename(blob)
    link = elsewhere / "link.gguf"
    link.symlink_to("../home/model.gguf" if kind == "relative" else blob)
    if kind == "of a link":
        link = tmp_path / "again.gguf"
        link.symlink_to("elsewhere/link.gguf")
    if kind == "in a folder that is a link":
        (tmp_path / "folder").symlink_to(elsewhere)
        link = tmp_path / "folder/link.gguf"
    folder = folder_of(find_model(link), tell=told.append)
    assert load_lm(link).tokenizer.vocab_size == SIZE
    assert [f"reading {link} as Llama" in text for text in told] == [True]
    if blob.suffix:
        assert folder_of(find_model(blob), tell=told.append) == folder
        assert len(told) == 1


def test_a_tokenizer_beside_the_link_is_its_own_and_not_one_that_was_kept_for_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("ATAT_CACHE", str(tmp_path / "cache"))
    for name in ("home", "elsewhere"):
        (tmp_path / name).mkdir()
        write_tokenizer(tmp_path / name, more=("<|im_end|>",) if name == "elsewhere" else ())
    file, link = write(make("Llama"), tmp_path / "home/model.gguf"), tmp_path / "elsewhere/model.gguf"
    link.symlink_to(file)
    assert [load_lm(path).tokenizer.vocab_size for path in (file, link)] == [SIZE, SIZE + 1]


@pytest.mark.parametrize("target", ["nowhere.gguf", "/nowhere/model.gguf", "link.gguf", "nowhere", "../nowhere"])
def test_a_link_to_nothing_is_one_message(target, tmp_path):
    (tmp_path / "link.gguf").symlink_to(target)
    with pytest.raises(
        UserError, match=rf"link\.gguf is a link to {re.escape(target)}, where nothing is: mend the link"
    ):
        load_lm(tmp_path / "link.gguf")


def test_a_type_that_is_newer_than_the_package_is_told_and_numbers_of_64_bits_are_read(tmp_path):
    write_tokenizer(tmp_path)
    theirs = make("Llama")
    file = write(theirs, tmp_path / "a.gguf")
    content, name = file.read_bytes(), b"blk.0.attn_norm.weight"
    kind = content.index(name) + len(name) + 4 + 8  # after the number of dimensions, and the only one
    file.write_bytes(content[:kind] + struct.pack("<I", 999) + content[kind + 4 :])
    with pytest.raises(UserError, match=r"'blk.0.attn_norm.weight' packed as type 999, which cannot be unpacked here"):
        read_published(file)
    expected = read_published(write(theirs, tmp_path / "b.gguf")).weights["norm.weight"]
    norm = theirs.model.norm.weight.detach().double().numpy()
    wide = read_published(write(theirs, tmp_path / "c.gguf", output_norm__weight=norm)).weights["norm.weight"]
    assert wide.dtype == torch.float32
    assert wide.equal(expected)


def test_a_list_that_claims_more_values_than_any_vocabulary_has_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "list.gguf"
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q1s", 1, b"a")
    file.write_bytes(head + struct.pack("<IIQ", 9, 4, 10**9) + bytes(64))  # 10^9 whole numbers
    with pytest.raises(UserError, match="its lists have more than 8,388,608 values"):
        read_published(file)
