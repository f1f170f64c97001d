"""Networks in the layout of Llama, read left to right: Llama, SmolLM2, Mistral, Qwen2 and Qwen3, from a folder in the
hub's format or a .gguf file.

They differ from our plain network in the settings of `nets.layers.Layout` and in no operation, so that the logits are
those of transformers' own classes within rounding (1e-4 in float32).

Our networks read a text behind a start symbol. Its embedding is that of the token that the model has seen before texts:
the one that its tokenizer puts there, else `<|endoftext|>`, which stood between the documents that it was trained on,
else its bos or eos. SmolLM2-135M-Instruct names `<|im_start|>`, which begins a turn of a chat, as its bos: plain
sentences cost more behind that than behind `<|endoftext|>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdlm_atat.config.build import shapes_of
from mdlm_atat.config.schema import (
    DataConfig,
    ModelConfig,
    RunConfig,
)
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.tokenizers import END_OF_TEXT, HFTokenizer, Tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.published.files import licence_of, name_of_published, read_tensors, weight_files
from mdlm_atat.published.gguf import read_gguf
from mdlm_atat.published.imported import Imported, Origin, run_config_of
from mdlm_atat.small_files import check_kinds, read_object, taken_apart
from mdlm_atat.training.checkpoint import check_shapes

FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
"""By the `model_type` of config.json. SmolLM2 is a Llama."""
WITHOUT_A_KEY: dict[str, dict[str, Any]] = {"mistral": {"sliding_window": 4096}, "qwen3": {"head_dim": 128}}
"""What a missing key of config.json stands for, where that is no plain default."""
PLAIN_ROPE = {"rope_type", "type", "rope_theta"}
ROPE_KEYS = {
    "default": PLAIN_ROPE,
    "linear": {*PLAIN_ROPE, "factor"},
    "llama3": {
        *PLAIN_ROPE,
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    },
}
NUM_LISTED = 5


def read_llama(path: Path) -> Imported | None:
    """Read a folder in the hub's format (config.json, weights in safetensors, tokenizer files) or a .gguf file; None
    for another family. Raises UserError for weights that are missing, not used, or of other shapes than config.json
    says, for a tokenizer that does not fit, and for what the network cannot represent, by its name."""
    if path.suffix == ".gguf" and path.is_file():
        return _imported(path, *read_gguf(path))
    if not (path / "config.json").is_file() or not is_llama(path):
        return None
    config = read_object(path / "config.json")
    tokenizer = load_tokenizer(path)
    return _imported(path, config, read_tensors(weight_files(path)), tokenizer, licence_of(path))


def is_llama(folder: Path) -> bool:
    """Whether a folder's config.json is of this family. Raises UserError for what the network cannot represent."""
    config = read_object(folder / "config.json")
    if config.get("model_type") not in [*FAMILIES]:  # which may be no text
        return False
    with taken_apart(folder / "config.json"):
        check_kinds(config, architectures=list, layer_types=list)
        _check_known(folder, config)
    return True


def _imported(
    path: Path, config: dict[str, Any], tensors: dict[str, Tensor], tokenizer: Tokenizer, licence: str | None
) -> Imported:
    name = name_of_published(path)
    if isinstance(tokenizer, HFTokenizer):
        tokenizer.name = name
    start, start_name = start_token(tokenizer, config)
    tied, notes = _tied(config, tensors), [f"its start symbol has the embedding of {start_name} (token {start})"]
    with taken_apart(path / "config.json" if path.is_dir() else path):
        run = run_config(path, config, tied)
        num_layers, num_rows = run.model.num_layers, len(tensors["model.embed_tokens.weight"])
    is_bf16 = all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
    size = tokenizer.vocab_size
    if num_rows < size:
        raise UserError(
            f"the tokenizer in {path} has {size:,} tokens and the network {num_rows:,}: they do not belong together; "
            "take both anew from where they were published"
        )
    if num_rows > size:
        notes.append(f"{num_rows - size:,} rows of the vocabulary that are no token's are left out")
    weights = _by_our_names(path, tensors, num_layers, tied, size, start)
    shapes = shapes_of(run, size)
    assert shapes is not None
    check_shapes(shapes, {name: tuple(weight.shape) for name, weight in weights.items()}, path)
    family = FAMILIES[config["model_type"]]
    origin = Origin(source=name, family=family, licence=licence, notes=tuple(notes))
    packing = "bf16" if is_bf16 else "float32"
    return Imported(config=run, weights=weights, tokenizer=tokenizer, origin=origin, packing=packing)


def _check_known(path: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError for what such a network may have and ours has not."""
    kind = config["model_type"]
    known = f"{FAMILIES[kind]}ForCausalLM"
    classes = config.get("architectures")
    layers = {layer for layer in config.get("layer_types") or () if layer != "full_attention"}
    window = config.get("sliding_window", WITHOUT_A_KEY.get(kind, {}).get("sliding_window"))
    slides = window is not None and (config.get("use_sliding_window") or kind == "mistral")
    refused = {
        f"of the architecture {', '.join(map(str, classes or ()))}": classes is not None and known not in classes,
        f"quantised ({_name_of(config.get('quantization_config'))})": config.get("quantization_config"),
        f"of the activation {config.get('hidden_act')}": config.get("hidden_act", "silu") not in ("silu", "swish"),
        "with biases in its attention (attention_bias)": kind != "qwen2" and config.get("attention_bias"),
        "with biases in its MLP (mlp_bias)": config.get("mlp_bias"),
        f"with a sliding window of {window} tokens": slides and not _reaches(window, config),
        f"with layers of {', '.join(map(str, sorted(layers, key=str)))}": layers,
    }
    for what, is_so in refused.items():
        if is_so:
            raise UserError(
                f"{path} holds a network {what}, which cannot be read; known is {known}, with full attention and "
                "SwiGLU, not quantised"
            )


def _name_of(quantisation: Any) -> str:
    return str(quantisation.get("quant_method", "?")) if isinstance(quantisation, dict) else "?"


def _reaches(window: Any, config: Mapping[str, Any]) -> bool:
    """Whether a sliding window is as long as the longest text."""
    longest = config.get("max_position_embeddings")
    return isinstance(window, int) and isinstance(longest, int) and window >= longest


def run_config(path: Path, config: Mapping[str, Any], tied: bool) -> RunConfig:
    """The settings of our network, and those that a run begins with which goes on from it."""
    kind = config["model_type"]
    width, num_heads = config["hidden_size"], config["num_attention_heads"]
    head_width = config.get("head_dim") or WITHOUT_A_KEY.get(kind, {}).get("head_dim") or width // num_heads
    try:
        model = ModelConfig(
            kind="causal",
            num_layers=config["num_hidden_layers"],
            width=width,
            num_heads=num_heads,
            norm="rms",
            qk_norm=kind == "qwen3",
            tied=tied,
            num_kv_heads=config.get("num_key_value_heads") or num_heads,
            head_width=head_width,
            qkv_bias=kind == "qwen2",
            mlp="swiglu",
            mlp_width=config["intermediate_size"],
            norm_eps=config.get("rms_norm_eps", 1e-6),
            **rotary_settings(path, config),
        )
        data = DataConfig(length=config.get("max_position_embeddings", 2048))
    except UserError as error:
        reason = str(error).partition("; try ")[0]  # which is for settings of one's own
        raise UserError(
            f"{path}: its configuration makes no network: {reason}; it is damaged or of another model: take both anew "
            "from where they were published"
        ) from None
    return run_config_of(model, data)


def rotary_settings(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the rotary positions, from `rope_theta` and `rope_scaling` or, as transformers 5 writes them,
    `rope_parameters`. Raises UserError for a type or an option that is not known: left out, it would not be noticed in
    short texts."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = found.get("rope_type", found.get("type", "default"))
    if kind not in ROPE_KEYS:
        raise UserError(f"{path} has rotary positions of the type {kind!r:.80}; known are {', '.join(ROPE_KEYS)}")
    unknown = sorted(found.keys() - ROPE_KEYS[kind])
    if config.get("partial_rotary_factor", 1.0) != 1.0:
        unknown.append("partial_rotary_factor")
    if unknown:
        raise UserError(f"{path} has rotary positions with {', '.join(unknown)}, which are not known")
    base = found.get("rope_theta") or config.get("rope_theta") or 10_000.0
    settings: dict[str, Any] = {"rotary_base": base}
    if kind != "default":
        settings |= {"rotary_scaling": kind, "rotary_factor": found["factor"]}
    if kind == "llama3":
        longest = config.get("original_max_position_embeddings", config.get("max_position_embeddings"))
        settings["rotary_range"] = (found["low_freq_factor"], found["high_freq_factor"])
        settings["rotary_length"] = found.get("original_max_position_embeddings", longest)
    return settings


def start_token(tokenizer: Tokenizer, config: Mapping[str, Any]) -> tuple[int, str]:
    """The token that the model has seen before texts, and what it is called; see the module."""
    if isinstance(tokenizer, HFTokenizer):
        added = tokenizer.inner.encode("", add_special_tokens=True).ids
        named = tokenizer.inner.token_to_id(END_OF_TEXT)
        if added:
            return added[0], tokenizer.inner.id_to_token(added[0])
        if named is not None:
            return named, END_OF_TEXT
    for role in ("bos", "eos"):
        for found in (getattr(tokenizer, f"{role}_id"), config.get(f"{role}_token_id")):
            if isinstance(found, int) and 0 <= found < tokenizer.vocab_size:
                return found, role
    raise UserError(
        f"the tokenizer {tokenizer.name} names no token that a text begins or ends with; name one as bos_token in its "
        "tokenizer_config.json"
    )


def _tied(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> bool:
    """Whether the output layer is the embedding: as config.json says, but where both are stored and differ. One that is
    stored twice is dropped."""
    head, embedding = tensors.get("lm_head.weight"), tensors.get("model.embed_tokens.weight")
    if not config.get("tie_word_embeddings", False):
        return False
    if head is None or embedding is None:
        return True
    if not head.equal(embedding):
        return False
    del tensors["lm_head.weight"]
    return True


def _by_our_names(
    path: Path, tensors: dict[str, Tensor], num_layers: int, tied: bool, size: int, start: int
) -> dict[str, Tensor]:
    """Our network's weights, made of theirs, all of which have to be used: those of `size` tokens, and the start
    symbol's embedding, which is that of token `start`."""
    rest = {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    missing: list[str] = []

    def take(name: str) -> Tensor:
        if name not in rest:
            missing.append(name)
        return rest.pop(name, torch.empty(0))

    def joined(layer: str, names: str, part: str) -> Tensor:
        return torch.cat([take(f"{layer}.self_attn.{name}_proj.{part}") for name in names])

    embedding = take("model.embed_tokens.weight")
    weights = {"norm.weight": take("model.norm.weight")}
    weights["embedding.weight"] = torch.cat([embedding[:size], embedding[start : start + 1]])
    if not tied:
        weights["output.weight"] = take("lm_head.weight")[:size]
        weights["output.bias"] = torch.zeros(size, dtype=weights["output.weight"].dtype)  # which theirs do not have
    for index in range(num_layers):
        theirs, ours = f"model.layers.{index}", f"blocks.{index}"
        is_grouped = f"{theirs}.self_attn.q_proj.weight" in rest and len(
            rest[f"{theirs}.self_attn.q_proj.weight"]
        ) != len(rest.get(f"{theirs}.self_attn.k_proj.weight", ()))
        has_bias = f"{theirs}.self_attn.q_proj.bias" in rest
        for names in ("q", "kv") if is_grouped else ("qkv",):
            for part in ("weight", "bias") if has_bias else ("weight",):
                weights[f"{ours}.attention.{names}.{part}"] = joined(theirs, names, part)
        weights[f"{ours}.attention.out.weight"] = take(f"{theirs}.self_attn.o_proj.weight")
        for name in "qk":
            if f"{theirs}.self_attn.{name}_norm.weight" in rest:
                weights[f"{ours}.attention.norm_{name}.weight"] = take(f"{theirs}.self_attn.{name}_norm.weight")
        for name in ("gate", "up", "down"):
            weights[f"{ours}.mlp.{name}.weight"] = take(f"{theirs}.mlp.{name}_proj.weight")
        weights[f"{ours}.norm_attention.weight"] = take(f"{theirs}.input_layernorm.weight")
        weights[f"{ours}.norm_mlp.weight"] = take(f"{theirs}.post_attention_layernorm.weight")
        if len(missing) > NUM_LISTED:
            break
    if missing:
        raise UserError(f"{path} lacks {len(missing)} or more weights: {_listed(missing)}; was it cut short?")
    if rest:
        raise UserError(
            f"{path} has {len(rest)} weights that its configuration does not ask for: {_listed(sorted(rest))}; they "
            "are of another network, or of parts that cannot be read"
        )
    return weights


def _listed(names: list[str]) -> str:
    return ", ".join(f"{name:.80}" for name in names[:NUM_LISTED]) + (", ..." if len(names) > NUM_LISTED else "")
