"""Networks in .gguf files, which llama.cpp reads: their weights by the names, and their numbers by the keys, of
config.json.

transformers reads such files too, but passes over what it has no place for: biases, scaled rotary positions. Weights
that are packed in 2 to 8 bits become float32 here, which is what they stand for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.tokenizers import HFTokenizer, Tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.nets.layers import Layout, slowed_down
from mdlm_atat.published.files import check_fits
from mdlm_atat.published.hub import BYTES_TO_READ
from mdlm_atat.published.parts import parts_of, tokenizer_beside
from mdlm_atat.small_files import RESTORE, check_file, taken_apart

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""By `general.architecture`. Those of SmolLM2 and Mistral are llama."""
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MOST_LISTED = 1 << 23
"""Values in lists: tokens, their scores and kinds, and merges, of a vocabulary of two million."""
MOST_VERSION = 1 << 16
"""Of the format: 3 is the newest, and its bytes turned around are 3 << 24."""
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of every Llama from 3.1 on; a .gguf file has the frequencies that come of it (rope_freqs.weight), and not these."""


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], Tokenizer, str | None]:
    """What a .gguf file holds, or several that are the parts of one network, of which `path` is any: the configuration
    and the weights as a folder of the hub has them, the tokenizer, and the licence where the file says one. Raises
    UserError for one of another architecture, for a part that is missing, and for what the network cannot represent."""
    parts = _parts(path)
    first, readers = next(iter(parts)), list(parts.values())
    with taken_apart(first):
        for number, (file, reader) in enumerate(parts.items()):
            if (found := (_value(reader, "split.no", 0), _value(reader, "split.count", 1))) != (number, len(parts)):
                raise UserError(
                    f"{file} says that it is part {found[0] + 1} of {found[1]}, and is called otherwise; {RESTORE}"
                )
        stored = [tensor for reader in readers for tensor in reader.tensors]
        if (num_expected := _value(readers[0], "split.tensors.count", len(stored))) != len(stored):
            raise UserError(f"{first} and its other parts have {len(stored)} weights of {num_expected}; {RESTORE}")
        config = _config(first, readers[0], stored)
    check_fits(str(path), sum(int(tensor.n_elements) for tensor in stored), BYTES_TO_READ["gguf"])
    with taken_apart(first):
        tensors = _tensors(first, stored, config)
    return config, tensors, _tokenizer(first), _value(readers[0], "general.license")


def _parts(path: Path) -> dict[Path, GGUFReader]:
    """The files of the network that a file is a part of, in order, each with its reader: to open one takes seconds
    where the vocabulary is large. Raises UserError where one of them is missing."""
    reader = _open(path)
    with taken_apart(path):
        if (num_parts := _value(reader, "split.count", 1)) <= 1:
            return {path: reader}
        files, number = parts_of(path), _value(reader, "split.no", 0) + 1
    remedy = "or join them into one file (llama-gguf-split --merge FIRST_PART WHOLE, of llama.cpp)"
    if len(files) != num_parts:
        raise UserError(
            f"{path} is part {number} of {num_parts} of a network, and is not called so: call them "
            f"NAME-00001-of-{num_parts:05d}.gguf and so on, {remedy}"
        )
    if missing := [file.name for file in files if not file.exists()]:
        raise UserError(
            f"{path} is part {number} of {num_parts} of a network, and {missing[0]} is not beside it: put all parts "
            f"into one folder, {remedy}"
        )
    return {file: reader if file == path else _open(file) for file in files}


def _open(path: Path) -> GGUFReader:
    """The keys of a file, and its weights, which are read from the disk as they are used."""
    try:
        from gguf import GGML_QUANT_SIZES, GGUFReader, GGUFValueType
    except ImportError:
        raise UserError(f"{path}: .gguf files need an extra: pip install 'mdlm-atat[hub]'") from None
    check_file(path.resolve(), most_bytes=math.inf)  # a link was named, or made by the hub's client

    class Reader(GGUFReader):
        """Counts the values of lists, of which it makes an object each, however many a damaged file claims, and knows
        numbers that are packed in a way that is newer than it."""

        num_left = MOST_LISTED

        def _build_tensors(self, start_offs: int, fields: Any) -> None:
            known = {int(kind) for kind in GGML_QUANT_SIZES}
            for field in fields:
                if (kind := int(field.parts[4][0])) not in known:
                    raise _packed(path, str(bytes(field.parts[1]), "utf-8"), f"type {kind}")
            super()._build_tensors(start_offs, fields)

        def _get_field_parts(self, orig_offs: int, raw_type: Any) -> Any:
            if raw_type == GGUFValueType.ARRAY:
                listed = bytes(self.data[orig_offs + 4 : orig_offs + 12])
                self.num_left -= int.from_bytes(listed, sys.byteorder)
                if self.num_left < 0:
                    raise ValueError(f"its lists have more than {MOST_LISTED:,} values")
            return super()._get_field_parts(orig_offs, raw_type)

    with taken_apart(path):
        _check_start(path)
        return Reader(path)


def _check_start(path: Path) -> None:
    """Raise UserError for a file that is none of the format, and for one whose numbers are in the other order of bytes:
    the version, which is small and not 0, tells."""
    with path.open("rb") as file:
        start = file.read(8)
    here, there = (int.from_bytes(version, sys.byteorder) for version in (start[4:], start[:3:-1]))
    if not start.startswith(b"GGUF") or not (0 < here < MOST_VERSION or 0 < there < MOST_VERSION):
        raise UserError(
            f"{path} is no .gguf file, which begins with the letters GGUF and the version of its format: {RESTORE}, or "
            "name another file"
        )
    if not 0 < here < MOST_VERSION:
        order = "little" if sys.byteorder == "little" else "big"
        raise UserError(
            f"{path} was made for machines of the other order of bytes (endianness): turn its bytes around by "
            f"`gguf-convert-endian FILE {order}`, which comes with the package gguf"
        )


def _packed(path: Path, name: str, kind: str) -> UserError:
    """The error of a weight that is packed in a way that is not known."""
    return UserError(
        f"{path} has the weight {name!r:.80} packed as {kind}, which cannot be unpacked here: take a file of the same "
        "model that is packed otherwise (Q8_0, Q4_K_M or F16, say), or a newer package gguf"
    )


def _value(reader: GGUFReader, key: str, default: Any = None) -> Any:
    field = reader.get_field(key)
    return default if field is None else field.contents()


def _config(path: Path, reader: GGUFReader, stored: Sequence[ReaderTensor]) -> dict[str, Any]:
    """As config.json would hold it. `stored`: the weights of all parts."""
    kind = _value(reader, "general.architecture")
    if kind not in ARCHITECTURES:
        raise UserError(
            f"{path} holds a network of the architecture {kind!r:.80}, which cannot be read; known are "
            f"{', '.join(ARCHITECTURES)}"
        )

    def value(key: str, default: Any = None) -> Any:
        return _value(reader, f"{kind}.{key}", default)

    width, num_heads = value("embedding_length"), value("attention.head_count")
    longest = value("context_length")
    rotated = value("rope.dimension_count")
    head_width = value("attention.key_length") or rotated or width // num_heads
    window = value("attention.sliding_window", 0)
    scaling, factor = value("rope.scaling.type", "none"), value("rope.scaling.factor", 1.0)
    if (slowed := value("rope.scale_linear")) and scaling == "none":  # as files of before 2023-11 say it
        scaling, factor = ("linear", slowed) if slowed != 1 else ("none", 1.0)
    refused = {
        f"of {value('expert_count')} experts": value("expert_count"),
        f"with a sliding window of {window} tokens": 0 < window < longest,
        "with values of another width than keys": value("attention.value_length", head_width) != head_width,
        f"that turns {rotated} of {head_width} numbers of a head": rotated not in (None, head_width),
        f"with rotary positions of the type {scaling}": scaling not in ("none", "linear"),
        "that reads in both directions": value("attention.causal", True) is False,
        f"whose attention is scaled by {value('attention.scale')}": value("attention.scale"),
    }
    for what, is_so in refused.items():
        if is_so:
            raise UserError(f"{path} holds a network {what}, which cannot be read")
    named = {tensor.name: tensor for tensor in stored}
    config = {
        "model_type": kind,
        "hidden_size": width,
        "num_attention_heads": num_heads,
        "num_key_value_heads": value("attention.head_count_kv", num_heads),
        "head_dim": head_width,
        "num_hidden_layers": value("block_count"),
        "intermediate_size": value("feed_forward_length"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon", 1e-6),
        "max_position_embeddings": longest,
        "rope_theta": value("rope.freq_base", 10_000.0),
        "tie_word_embeddings": "output.weight" not in named,
        "bos_token_id": _value(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _value(reader, "tokenizer.ggml.eos_token_id"),
    }
    if scaling == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    if "rope_freqs.weight" in named:
        config["rope_scaling"] = _scaling_of(path, torch.tensor(named["rope_freqs.weight"].data), config)
    return config


def _scaling_of(path: Path, divisors: Tensor, config: dict[str, Any]) -> dict[str, Any]:
    """Llama 3's scaling of the rotary positions, from what each frequency is divided by. Raises UserError where it is
    another."""
    factor = float(divisors.max())
    low, high, length = LLAMA_3.values()
    layout = Layout(rotary_scaling="llama3", rotary_factor=factor, rotary_range=(low, high), rotary_length=int(length))
    frequency = config["rope_theta"] ** (
        -torch.arange(0, config["head_dim"], 2, dtype=torch.float32) / config["head_dim"]
    )
    if not torch.allclose(frequency / divisors, slowed_down(frequency, layout), rtol=1e-3, atol=0):
        raise UserError(f"{path} scales rotary positions (rope_freqs.weight) in another way than Llama 3 does")
    return {"rope_type": "llama3", "factor": factor, **LLAMA_3}


def _tensors(path: Path, weights: Sequence[ReaderTensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The weights by the names that a folder of the hub has."""
    from gguf import GGMLQuantizationType, dequantize

    tensors: dict[str, Tensor] = {}
    for stored in weights:
        if stored.name == "rope_freqs.weight":
            continue
        place, _, part = stored.name.rpartition(".")
        block, _, name = place.rpartition(".")
        layer = f"model.layers.{block.removeprefix('blk.')}." if block else ""
        if name not in NAMES:
            raise UserError(f"{path} has the weight {stored.name!r:.80}, which a network of its kind does not have")
        kind = stored.tensor_type
        try:
            numbers = stored.data if kind == GGMLQuantizationType.F64 else dequantize(stored.data, kind)
        except NotImplementedError:
            raise _packed(path, stored.name, kind.name) from None
        weight = torch.from_numpy(np.array(numbers, np.float32))
        if config["model_type"] == "llama" and name in ("attn_q", "attn_k"):
            heads = config["num_attention_heads" if name == "attn_q" else "num_key_value_heads"]
            weight = _halves(weight, heads)
        tensors[f"{layer}{NAMES[name]}.{part}"] = weight
    return tensors


def _halves(weight: Tensor, num_heads: int) -> Tensor:
    """llama.cpp turns neighbouring numbers of a head against each other, and its files of Llama have them in that
    order: rows 0, 1, 2, 3, ... of a head back into the order 0, 2, ..., 1, 3, ..., in which its halves are turned."""
    return weight.view(num_heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _tokenizer(path: Path) -> Tokenizer:
    """The one that lies beside the file (or link) as tokenizer.json, or beside what a link leads to, else the file's
    own, as transformers reads it."""
    if (beside := tokenizer_beside(path)) is not None:
        return load_tokenizer(beside)
    try:
        import transformers
    except ImportError:
        raise UserError(f"{path}: .gguf files need an extra: pip install 'mdlm-atat[hub]'") from None
    read: Any
    try:
        read = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        inner = read.backend_tokenizer
    except Exception as error:  # the libraries raise all kinds, and bare ones
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"the tokenizer in {path} cannot be read ({reason}); put a tokenizer.json beside it") from None
    roles = {f"{role}_id": getattr(read, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    for role in ("bos_id", "pad_id"):  # a role of its own or none
        if roles[role] == roles["eos_id"]:
            roles[role] = None
    return HFTokenizer(inner, name=path.stem, **roles)
