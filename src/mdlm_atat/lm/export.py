"""A saved model as others load it: the files that transformers reads, beside ours.

`model.safetensors` serves both. `config.json` says what network it is and, as `auto_map`, that its classes are in
`modeling_mdlm_atat.py`, which needs torch and transformers alone; `tokenizer.json` and `tokenizer_config.json` are the
tokenizer with [MASK] as a token of its own. None of these files is read when mdlm_atat loads the folder, and
checksums.json does not list them: they may be changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mdlm_atat.atomic import write_json, write_text
from mdlm_atat.config.build import build_schedule
from mdlm_atat.config.schema import RunConfig
from mdlm_atat.core.schedules import Linear, Schedule
from mdlm_atat.data.tokenizers import (
    END_OF_TEXT,
    ByteTokenizer,
    CharTokenizer,
    HFTokenizer,
    Tokenizer,
    byte_level,
    characters_of_bytes,
    other_case,
)
from mdlm_atat.lm.amid_unknown import NUM_AROUND
from mdlm_atat.lm.given import space_joins_next
from mdlm_atat.nets.causal_transformer import CausalTransformer
from mdlm_atat.nets.dit import ATATDiT
from mdlm_atat.training.packed import Packing

MODELLING_FILE = "modeling_mdlm_atat.py"
MODELLING = Path(__file__).parents[1] / "hf" / MODELLING_FILE
MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>", "<|mdlm_mask|>")
"""What [MASK] is called: the first of these that the vocabulary does not have."""
NUM_SHARES = 256
FIRST_WITHOUT_CASE = 0x1F000  # no character from here on has capitals
AUTO_CLASSES = {"masked": {"AutoModelForMaskedLM": "ForMaskedLM"}, "causal": {"AutoModelForCausalLM": "ForCausalLM"}}


SAME = ("norm", "norm_eps", "qk_norm", "qkv_bias", "mlp", "dropout")
SAME += ("rotary_base", "rotary_scaling", "rotary_factor", "rotary_range", "rotary_length")
"""Settings of `model` that have the same name in config.json."""
Ours = ATATDiT | CausalTransformer
"""The networks that have a class in the modelling file."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What a classifier's head says, beside the network."""

    names: Sequence[str]
    """Of the head's outputs. Empty: a regression."""
    pooling: str
    temperature: float
    mean: float
    spread: float
    """A regression's score is mean + spread * the head's output."""
    head_file: str
    max_length: int
    separator: Sequence[int]
    """Tokens between the two texts of a pair."""


def write_export(
    folder: Path,
    config: RunConfig,
    network: Any,
    tokenizer: Tokenizer,
    *,
    packing: Packing = "float32",
    labels: Labels | None = None,
) -> None:
    """Write what transformers needs beside the weights. Nothing is written of a network, or of a tokenizer, that
    cannot be exported; see `left_out`."""
    if not isinstance(network, Ours):
        return
    bos_id = config.model.bos_id if labels is None and "masked" in network.modes else None
    inner = exported_tokenizer(tokenizer, labels, bos_id)
    tokens = None if inner is None else tokenizer_config(inner, tokenizer, network, labels)
    described = network_config(config, network, tokenizer, packing, labels)
    write_json(folder / "config.json", described)
    write_text(folder / MODELLING_FILE, MODELLING.read_text(encoding="utf-8"))
    if inner is not None:
        write_text(folder / "tokenizer.json", json.dumps(inner, ensure_ascii=False))
        write_json(folder / "tokenizer_config.json", tokens)


def left_out(network: Any, tokenizer: Tokenizer) -> list[str]:
    """What of a model transformers does not get, as sentences; empty where it gets all."""
    if not isinstance(network, Ours):
        kind = type(network).__name__
        return [f"transformers has no class for the network {kind}: the folder opens with mdlm_atat alone."]
    notes = []
    if isinstance(network, ATATDiT):
        parts = {"importance": network.has_importance, "speed head": network.speed_head is not None}
        parts["position table"] = network.position_table is not None
        found = [name for name, is_there in parts.items() if is_there]
        if found:
            serves, them = ("serves", "it") if len(found) == 1 else ("serve", "them")
            notes.append(f"Its {' and '.join(found)} {serves} mdlm_atat's samplers; transformers leaves {them} out.")
    if exported_tokenizer(tokenizer) is None:
        notes.append(f"The tokenizer {tokenizer.name} has no tokenizer.json: give transformers token ids.")
    return notes


def network_config(
    config: RunConfig, network: Ours, tokenizer: Tokenizer, packing: Packing, labels: Labels | None
) -> dict[str, Any]:
    """What config.json holds."""
    model, modes = config.model, sorted(network.modes, reverse=True)
    classes = {"AutoModel": "Model"}
    for mode in modes:
        classes |= AUTO_CLASSES[mode]
    if labels is not None:
        classes = {"AutoModelForSequenceClassification": "ForSequenceClassification"}
    described: dict[str, Any] = {
        "model_type": "mdlm_atat",
        "architectures": [f"MdlmAtat{list(classes.values())[-1 if labels else 1]}"],
        "auto_map": {
            "AutoConfig": "modeling_mdlm_atat.MdlmAtatConfig",
            **{auto: f"modeling_mdlm_atat.MdlmAtat{name}" for auto, name in classes.items()},
        },
        "dtype": "bfloat16" if packing == "bf16" else "float32",
        "vocab_size": tokenizer.vocab_size + 1,
        "mask_token_id": tokenizer.mask_id,
        "bos_token_id": start_id(tokenizer, network),
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": pad_id(tokenizer),
        "hidden_size": model.width,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_width,
        "intermediate_size": model.mlp_width or model.mlp_ratio * model.width,
        "max_position_embeddings": config.data.length,
        "modes": modes,
        **{name: getattr(model, name) for name in SAME},
        "tie_word_embeddings": network.output is None,
        "packing": packing if packing == "int8" else None,
    }
    if isinstance(network, ATATDiT):
        schedule, is_piece = build_schedule(config.objective), config.data.mode == "wrap"  # of longer texts
        described |= {
            "masks_before": NUM_AROUND if is_piece and model.bos_id is None else 0,
            "masks_behind": NUM_AROUND if is_piece else 0,
            "alignment": network.alignment,
            "extra_outputs": model.extra_outputs,
            "time_through": model.time_through if model.time_conditioning else None,
            "time_width": model.time_width,
            "time_features": model.time_features,
            "time_of_share": times_of_shares(schedule) if model.time_conditioning else None,
        }
    if labels is not None:
        names = dict(enumerate(labels.names or ["score"]))
        described |= {
            "problem_type": "single_label_classification" if labels.names else "regression",
            "id2label": names,
            "label2id": {name: index for index, name in names.items()},
            "pooling": labels.pooling,
            "label_temperature": labels.temperature,
            "score_mean": labels.mean,
            "score_spread": labels.spread,
            "head_file": labels.head_file,
        }
    return {name: value for name, value in described.items() if value is not None}


def times_of_shares(schedule: Schedule) -> list[float] | None:
    """The times at which 0, 1/n, .. 1 of a text is masked, n = NUM_SHARES; None where share and time are the same."""
    if isinstance(schedule, Linear):
        return None
    shares = torch.linspace(0, 1, NUM_SHARES + 1, dtype=torch.float64)
    low, high = torch.zeros_like(shares), torch.ones_like(shares)
    for _ in range(60):
        middle = (low + high) / 2
        is_below = schedule.mask_rate(middle) < shares
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return high.tolist()


def start_id(tokenizer: Tokenizer, network: Ours) -> int | None:
    """What a text begins with that has no prompt: of a network that reads left to right its start symbol, [MASK]."""
    return tokenizer.mask_id if "causal" in network.modes else tokenizer.bos_id


def pad_id(tokenizer: Tokenizer) -> int:
    """What texts are filled up with: eos where there is no padding, [MASK] where there is neither. Attention masks say
    what is padding."""
    return next(i for i in (tokenizer.pad_id, tokenizer.eos_id, tokenizer.mask_id) if i is not None)


def exported_tokenizer(
    tokenizer: Tokenizer, labels: Labels | None = None, bos_id: int | None = None
) -> dict[str, Any] | None:
    """The tokenizer as tokenizer.json, with [MASK] as its last token: it gives every text the ids that ours gives,
    behind `bos_id` if that is given, but for texts in which the names of special tokens stand. None where there is
    none, as for a plugin's."""
    match tokenizer:
        case HFTokenizer():
            inner = json.loads(tokenizer.inner.to_str())
        case ByteTokenizer():
            inner = _of_bytes()
        case CharTokenizer():
            inner = _of_characters(tokenizer, is_lenient=labels is not None)
        case _:
            return None
    from tokenizers import Tokenizer as Inner

    if not isinstance(tokenizer, HFTokenizer) and tokenizer.eos_id is not None:
        inner["added_tokens"].append(_special(tokenizer.eos_id, END_OF_TEXT))
    known = Inner.from_str(json.dumps(inner)).get_vocab(with_added_tokens=True)
    mask = next(name for name in MASK_NAMES if name not in known)
    inner["added_tokens"].append(_special(tokenizer.mask_id, mask, lstrip=space_joins_next(tokenizer)))
    inner |= {"truncation": None, "padding": None, "post_processor": None}
    made = Inner.from_str(json.dumps(inner))
    if made.token_to_id(mask) != tokenizer.mask_id:  # a vocabulary with gaps, behind which it has another id
        return None
    if bos_id is not None or (labels is not None and labels.separator):
        separator = () if labels is None else labels.separator
        inner["post_processor"] = _between(made, [] if bos_id is None else [bos_id], separator)
    return inner


def tokenizer_config(
    inner: dict[str, Any], tokenizer: Tokenizer, network: Ours, labels: Labels | None
) -> dict[str, Any]:
    """What tokenizer_config.json holds. `inner`: the exported tokenizer."""
    from tokenizers import Tokenizer as Inner

    made = Inner.from_str(json.dumps(inner))
    bos_id = start_id(tokenizer, network)
    ids = {"mask": tokenizer.mask_id, "bos": bos_id, "eos": tokenizer.eos_id, "pad": pad_id(tokenizer)}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": made.id_to_token(i) for role, i in ids.items() if i is not None},
        "model_max_length": network.max_length if labels is None else labels.max_length,
        "padding_side": "left" if "causal" in network.modes else "right",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }


def _of_bytes() -> dict[str, Any]:
    """Each byte as the character that GPT-2 writes it as, and no merges."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import models, pre_tokenizers

    written = characters_of_bytes()
    assert set(written) == set(pre_tokenizers.ByteLevel.alphabet())
    inner = byte_level(Inner(models.BPE({character: byte for byte, character in enumerate(written)}, [])))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return json.loads(inner.to_str())


def _of_characters(tokenizer: CharTokenizer, *, is_lenient: bool) -> dict[str, Any]:
    """Each character as a word. One that is not in the alphabet is an error, as it is to ours; with `is_lenient` it is
    written in the other case, else as a space, else left out, as a classifier does."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Inner

    alphabet = tokenizer.alphabet
    inner = Inner(models.WordLevel({character: i for i, character in enumerate(alphabet)}))  # pyright: ignore
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    if is_lenient:
        others = "[^" + "".join(f"\\x{{{ord(character):X}}}" for character in alphabet) + "]"
        cased = {c for c in map(chr, range(FIRST_WITHOUT_CASE)) if c.lower() != c.upper()} - set(alphabet)
        rest = other_case("\0", alphabet.replace("\0", ""))
        instead = {c: other_case(c, alphabet) for c in sorted(cased)}
        cases = [normalizers.Replace(c, new) for c, new in instead.items() if new != rest]
        inner.normalizer = normalizers.Sequence([*cases, normalizers.Replace(Regex(others), rest)])
    return json.loads(inner.to_str())


def _special(token_id: int, content: str, *, lstrip: bool = False) -> dict[str, Any]:
    """An added token. `lstrip`: it takes the spaces before it, which are part of the token that is to stand there."""
    others = dict.fromkeys(("single_word", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, **others, "lstrip": lstrip, "special": True}


def _between(made: Any, begin: Sequence[int], separator: Sequence[int]) -> dict[str, Any]:
    """A post-processor that puts tokens before a text, and others between the two texts of a pair."""
    ids = {"begin": begin, "separator": separator}
    special = {
        name: {"id": name, "ids": [*of], "tokens": [*map(made.id_to_token, of)]} for name, of in ids.items() if of
    }
    shown = {name: [{"SpecialToken": {"id": name, "type_id": 0}}] if ids[name] else [] for name in ids}
    first, second = ([{"Sequence": {"id": name, "type_id": 0}}] for name in "AB")
    single = [*shown["begin"], *first]
    pair = [*single, *shown["separator"], *second]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
