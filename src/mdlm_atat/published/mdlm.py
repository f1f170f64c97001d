"""Networks of MDLM's family: masked diffusion in the DDiT that MDLM (arXiv 2406.07524) took over from SEDD, and the
left-to-right baseline of the same code; from a folder in the hub's format (config.json, safetensors) or a checkpoint of
PyTorch Lightning (.ckpt).

What a mere renaming of the weights would get wrong, silently:

- A network with `time_conditioning: false` has adaLN all the same and always sees sigma = 0. What that makes of every
  block is constant, and is folded into its norms, layers and biases (`folded`): the same function without a time,
  which is trained on as any network without one.
- With `time_conditioning: true` it is told features of sigma = -log(1 - 0.999 t), not of 1000 t
  (`model.time_features`).
- Where [MASK] is a token of the vocabulary (BERT's, 103), its embedding is copied to the end, where ours is, and its
  output is closed: no text and no bound ever gives probability to it.
- Rows began with a token (`<|endoftext|>` or [CLS]): it is shown before every text (`model.bos_id`).
- A checkpoint has the weights of the last step in `state_dict`, and the average, which is what was published, as a list
  in the order of the network's parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdlm_atat.config.build import shapes_of
from mdlm_atat.config.schema import (
    MOST_OF_MODEL,
    DataConfig,
    ModelConfig,
    RunConfig,
)
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.settings import MOST_LENGTH
from mdlm_atat.data.tokenizers import HUB_VOCABULARIES, HFTokenizer, Tokenizer
from mdlm_atat.errors import UserError
from mdlm_atat.published.files import check_fits, licence_of, name_of_published, read_tensors, weight_files
from mdlm_atat.published.hub import BYTES_TO_READ
from mdlm_atat.published.imported import Imported, Origin, run_config_of
from mdlm_atat.published.mdlm_weights import Shape, causal_weights, folded, renamed
from mdlm_atat.published.pickles import plain, read_pickle
from mdlm_atat.small_files import read_object, taken_apart
from mdlm_atat.training.checkpoint import check_shapes

PICKLED = "pytorch_model.bin"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.bpe", "merges.txt", "tokenizer_config.json")
BY_VOCABULARY = {
    HUB_VOCABULARIES["gpt2"] + 1: "gpt2",  # and [MASK], which BERT has
    **{size: name for name, size in HUB_VOCABULARIES.items()},
}
"""Rows of the embedding: the tokenizer. Published folders of this family hold none."""
TEXTS = {"gpt2": "openwebtext", "bert-base-uncased": "lm1b"}
"""What networks with these tokens were trained on."""
PREFIX = "backbone."
UNUSED = ("rotary_emb.inv_freq", "sampling_eps_min", "sampling_eps_max")
"""Buffers, which our network computes or does not need."""
OTHERS = {
    "bd3lm": "BD3LM's block mask, over a clean and a noisy copy of the text",
    "duo": "Duo's noise, which replaces tokens by random ones and masks none",
    "udlm": "UDLM's noise, which replaces tokens by random ones and masks none",
    "uniform": "noise that replaces tokens by random ones and masks none",
    "sedd": "SEDD's head, which gives ratios of probabilities (scores) and no distribution over tokens",
    "dimamba": "DiMamba, which has state-space layers and no attention",
}
"""What our networks cannot be, in words."""
LOG_LINEAR = ("loglinear", "log-linear")
"""The schedule of the noise whose total is -log(1 - 0.999 t), as MDLM's and Duo's settings name it."""
NUM_LISTED = 5


def read_mdlm(path: Path) -> Imported | None:
    """Read a folder in the hub's format or a .ckpt of MDLM's family; None for another family.

    The tokenizer is the one whose files lie in the folder, or in a folder `tokenizer` in it or beside the checkpoint;
    else GPT-2's or BERT's, by the number of tokens. Raises UserError for weights that are missing, not used, or of
    other shapes than the configuration says, for a tokenizer that does not fit, for a checkpoint that is no plain one,
    and for what our networks cannot be, by its name.
    """
    if path.is_file():
        return _read_checkpoint(path) if path.suffix == ".ckpt" else None
    if not (path / "config.json").is_file() or not is_mdlm(path):
        return None
    config = read_object(path / "config.json")
    return _imported(path, config, _without_prefix(path, _folder_tensors(path)), notes=[], licence=licence_of(path))


def is_mdlm(folder: Path) -> bool:
    """Whether a folder's config.json is MDLM's. Raises UserError for one of its relatives that our networks cannot
    represent."""
    kind = _kind_of(read_object(folder / "config.json"))
    if kind in OTHERS:
        raise _refusal(folder, kind)
    return kind == "mdlm"


def _kind_of(config: Mapping[str, Any]) -> str | None:
    """Which family a folder's config.json is of: "mdlm", one of OTHERS, or None for any other."""
    kind = config.get("model_type")
    if isinstance(kind, str):
        kind = kind.lower()  # Duo's is DUO
        return kind if kind == "mdlm" or kind in OTHERS else None
    if isinstance(config.get("graph"), dict) and isinstance(config.get("noise"), dict):
        return "sedd"
    return "mdlm" if {"hidden_dim", "n_blocks", "cond_dim"} <= config.keys() else None


def _refusal(path: Path, kind: str) -> UserError:
    return UserError(
        f"{path} cannot be read: it has {OTHERS[kind]}, which our networks cannot represent; of this family MDLM, D3PM "
        "with masks, and the left-to-right baseline can be"
    )


def _folder_tensors(folder: Path) -> dict[str, Tensor]:
    has_safetensors = any(folder.glob("model*.safetensors*"))
    if has_safetensors or not (folder / PICKLED).is_file():
        return read_tensors(weight_files(folder))
    return _tensors_only(folder / PICKLED, read_pickle(folder / PICKLED))


def _tensors_only(file: Path, found: Any) -> dict[str, Tensor]:
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{file} holds no weights by name")
    _check_plain(file, found.values())
    return {str(name): value for name, value in found.items()}


def _check_plain(file: Path, tensors: Iterable[Tensor]) -> None:
    if any(tensor.layout != torch.strided or tensor.device.type != "cpu" for tensor in tensors):
        raise UserError(f"{file} has a tensor that is sparse or has no numbers (meta): save it with plain ones")


def _without_prefix(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's tensors by their names in it. Raises UserError where some are named so and others not."""
    strange = [name for name in tensors if not name.startswith(PREFIX) and name not in UNUSED]
    if "vocab_embed.embedding" in strange:
        raise UserError(
            f"{path} has weights whose names do not begin with {PREFIX}, as MDLM's do, such as vocab_embed.embedding: "
            f"SEDD's are named so, and {OTHERS['sedd']} our networks cannot represent"
        )
    if strange:
        raise UserError(f"{path} has weights that are not used: {_listed(strange)}")
    return {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}


def _read_checkpoint(file: Path) -> Imported | None:
    """A checkpoint of PyTorch Lightning."""
    content = read_pickle(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("state_dict"), Mapping):
        return None
    state = _tensors_only(file, content["state_dict"])
    if f"{PREFIX}vocab_embed.embedding" not in state:
        return None
    with taken_apart(file):
        config = _part(plain(_part(content, "hyper_parameters")), "config")
    _check_method(file, config)
    tensors = _without_prefix(file, {name: value for name, value in state.items() if not name.startswith("noise.")})
    model, data, algorithm = (_part(config, name) for name in ("model", "data", "algo"))
    known = {
        "vocab_size": len(tensors["vocab_embed.embedding"]),
        "model_length": model.get("length"),
        "hidden_dim": model.get("hidden_size"),
        "cond_dim": model.get("cond_dim"),
        "n_blocks": model.get("n_blocks"),
        "n_heads": model.get("n_heads"),
        "dropout": model.get("dropout"),
        "time_conditioning": _sees_time(config),
        "causal": "ar" in (config.get("parameterization"), algorithm.get("parameterization"), algorithm.get("name")),
        "wrap": data.get("wrap"),
        "tokenizer": data.get("tokenizer_name_or_path"),
    }
    notes = []
    if config.get("parameterization") == "d3pm":
        notes.append("its output for [MASK] is left out, so that what is left sums to 1")
    ema = content.get("ema")
    average = None if not isinstance(ema, Mapping) else ema.get("shadow_params")
    notes.append("the weights of the last step: it holds no average" if average is None else "the averaged weights")
    if average is not None and not (isinstance(average, list) and all(isinstance(part, Tensor) for part in average)):
        raise UserError(f"{file} has an average (ema) that is no list of tensors")
    _check_plain(file, average or ())
    licence = licence_of(file.parent)
    return _imported(file, known, tensors, notes=notes, licence=licence, average=average)


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of settings; empty where there is none."""
    found = settings.get(name)
    return found if isinstance(found, Mapping) else {}


def _check_method(file: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError where the hyperparameters name a method that our networks cannot represent."""
    algorithm = _part(config, "algo")
    named = [config.get(name) for name in ("parameterization", "backbone", "diffusion")]
    named += [algorithm.get(name) for name in ("name", "parameterization", "backbone", "diffusion_type")]
    found = next((kind for kind in OTHERS for name in named if str(name).startswith(kind)), None)
    if found is not None:
        raise _refusal(file, found)
    noise = _part(config, "noise").get("type", LOG_LINEAR[0])
    if _sees_time(config) and noise not in LOG_LINEAR:
        raise UserError(
            f"{file} is told the total noise of the schedule {noise!r:.40}, and ours can be told that of "
            f"{LOG_LINEAR[0]} alone"
        )


def _sees_time(config: Mapping[str, Any]) -> bool:
    """Whether hyperparameters say that the network is told the time: MDLM's own in the first place, those of BD3LM's
    and Duo's code among the settings of the method."""
    return any(of.get("time_conditioning") is True for of in (config, _part(config, "algo")))


def _imported(
    path: Path,
    config: Mapping[str, Any],
    tensors: dict[str, Tensor],
    *,
    notes: list[str],
    licence: str | None,
    average: list[Tensor] | None = None,
) -> Imported:
    shape = _shape_of(path, config, tensors, notes)
    buffer = tensors.pop("rotary_emb.inv_freq", None)
    tensors = {name: value for name, value in tensors.items() if name not in UNUSED}
    check_fits(str(path), sum(value.numel() for value in tensors.values()), BYTES_TO_READ["mdlm"])
    _check_tensors(path, shape, tensors, buffer)
    if average is not None:
        tensors = _averaged(path, shape, average)
    # each in memory of its own: in a pickle they may share it
    tensors = {name: value.to(torch.float32, copy=True) for name, value in tensors.items()}
    tokenizer = _tokenizer_of(path, config, shape.num_rows)
    mask_id = _mask_of(path, tokenizer, shape.num_rows)
    bos_id = next((i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None), None)
    if mask_id < tokenizer.vocab_size:
        notes.append(f"[MASK], token {mask_id} there, has its embedding at the end and no output")
    if bos_id is not None:
        notes.append(f"token {bos_id} is shown before every text, as it began the rows of the training")
    run = _run_config(config, shape, tokenizer, mask_id, bos_id)
    if shape.is_causal:
        weights = causal_weights(path, tensors, tokenizer, mask_id, bos_id)
    elif shape.sees_time:
        weights = renamed(tensors, tokenizer, mask_id)
    else:
        weights = renamed(folded(shape, tensors), tokenizer, mask_id)
        notes.append("it sees no time: what its adaLN makes of sigma = 0 is folded into the other weights")
    shapes = shapes_of(run, tokenizer.vocab_size)
    assert shapes is not None
    check_shapes(shapes, {name: tuple(weight.shape) for name, weight in weights.items()}, path)
    family = "the left-to-right baseline of MDLM" if shape.is_causal else "MDLM"
    origin = Origin(source=name_of_published(path), family=family, licence=licence, notes=tuple(notes))
    return Imported(config=run, weights=weights, tokenizer=tokenizer, origin=origin)


def _shape_of(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], notes: list[str]) -> Shape:
    """What the configuration says or, of a checkpoint without hyperparameters, the tensors themselves."""
    embedding = tensors.get("vocab_embed.embedding")
    if embedding is None or embedding.ndim != 2:
        raise UserError(f"{path} has no weight {PREFIX}vocab_embed.embedding with a row for each token")
    num_blocks = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    inv_freq, up = tensors.get("rotary_emb.inv_freq"), tensors.get("blocks.0.mlp.0.weight")
    sigma = tensors.get("sigma_map.mlp.2.bias")
    width = int(embedding.shape[1])

    def number(name: str, of_tensors: int | None, most: int) -> int:
        value = config.get(name)
        value = of_tensors if value is None and path.is_file() else value
        if type(value) is not int or not 1 <= value <= most:
            raise UserError(f"{path} says {name} = {value!r:.40}, expected a whole number from 1 to {most:,}")
        return value

    length_guess = 128 if len(embedding) == HUB_VOCABULARIES["bert-base-uncased"] else 1024
    if path.is_file() and config.get("model_length") is None:
        notes.append(f"it does not say its length: taken to be {length_guess:,}")
    width = number("hidden_dim", width, MOST_OF_MODEL["width"])
    of_rotary = None if inv_freq is None or inv_freq.ndim != 1 or not len(inv_freq) else width // (2 * len(inv_freq))
    num_heads = number("n_heads", of_rotary, MOST_OF_MODEL["num_heads"])
    if width % num_heads or (width // num_heads) % 2:
        raise UserError(
            f"{path} says n_heads = {num_heads}, and its width {width} cannot be split over so many heads of even width"
        )
    is_causal = sigma is None and not any("adaLN_modulation" in name for name in tensors)
    if is_causal != (config.get("causal") is True):
        has, says = ("none of the", "does not say") if is_causal else ("the", "says")
        raise UserError(
            f"{path} has {has} layers for a time (adaLN) that all of this family have but the left-to-right baseline, "
            f"and {says} that it is that (causal, or parameterization: ar): what it is cannot be told"
        )
    dropout = config.get("dropout")
    return Shape(
        num_rows=number("vocab_size", len(embedding), 1 << 30),
        length=number("model_length", length_guess, MOST_LENGTH),
        width=width,
        num_layers=number("n_blocks", num_blocks, MOST_OF_MODEL["num_layers"]),
        num_heads=num_heads,
        condition_width=1 if is_causal else number("cond_dim", None if sigma is None else len(sigma), 1 << 20),
        mlp_width=4 * width if up is None or up.ndim != 2 else int(up.shape[0]),
        dropout=dropout if isinstance(dropout, float) and 0 <= dropout < 1 else 0.0,
        is_causal=is_causal,
        sees_time=config.get("time_conditioning") is True and not is_causal,
    )


def _check_tensors(path: Path, shape: Shape, tensors: Mapping[str, Tensor], inv_freq: Tensor | None) -> None:
    """Raise UserError unless the tensors are those of the network that is described, every one of them."""
    expected = shape.tensors
    missing = [name for name in expected if name not in tensors]
    unused = [name for name in tensors if name not in expected]
    if missing or unused:
        parts = [f"lacks {_listed([PREFIX + name for name in missing])}"] if missing else []
        parts += [f"has weights that are not used: {_listed([PREFIX + name for name in unused])}"] if unused else []
        raise UserError(f"{path} {' and '.join(parts)}: these are not the weights of the network that it describes")
    for name, wanted in expected.items():
        if tuple(tensors[name].shape) != wanted:
            raise UserError(
                f"{path} describes another network than its weights are of: {PREFIX}{name} has the shape "
                f"{tuple(tensors[name].shape)}, and {wanted} follows from the configuration"
            )
        if not tensors[name].is_floating_point():
            raise UserError(
                f"{path} has {PREFIX}{name} as {tensors[name].dtype}, and weights are floating-point numbers"
            )
    pairs = shape.width // shape.num_heads // 2
    if inv_freq is not None and tuple(inv_freq.shape) != (pairs,):
        raise UserError(
            f"{path} says n_heads = {shape.num_heads}, and the rotary frequencies beside its weights are those of "
            f"{shape.width // (2 * max(1, inv_freq.numel()))} heads"
        )
    if inv_freq is not None:
        ours = 10_000.0 ** (-torch.arange(pairs, dtype=torch.float32) / pairs)
        if not torch.allclose(inv_freq.float(), ours, rtol=0.01, atol=0):  # it may be stored in 16 bits
            raise UserError(f"{path} has rotary frequencies of another base than 10,000, which this family does not")


def _averaged(path: Path, shape: Shape, average: list[Tensor]) -> dict[str, Tensor]:
    """The averaged weights by name. Raises UserError where the list is not one of each, in order."""
    expected = shape.tensors
    if len(average) != len(expected):
        raise UserError(f"{path} has an average (ema) of {len(average)} tensors, and the network has {len(expected)}")
    for (name, wanted), tensor in zip(expected.items(), average, strict=True):
        if tuple(tensor.shape) != wanted:
            raise UserError(
                f"{path} has an average (ema) in which {PREFIX}{name} should be of the shape {wanted}, and is "
                f"{tuple(tensor.shape)}"
            )
    return dict(zip(expected, average, strict=True))


def _tokenizer_of(path: Path, config: Mapping[str, Any], num_rows: int) -> Tokenizer:
    """The tokenizer beside the weights, or the known one with so many tokens."""
    home = path.parent if path.is_file() else path
    here = [home / "tokenizer"] if path.is_file() else [home, home / "tokenizer"]
    for folder in here:
        if any((folder / name).exists() for name in TOKENIZER_FILES):
            return load_tokenizer(folder)
    known = config.get("tokenizer") or BY_VOCABULARY.get(num_rows)
    if not isinstance(known, str) or known not in BY_VOCABULARY.values():
        raise UserError(
            f"{path} has {num_rows:,} tokens and no tokenizer, and those known by their size are "
            f"{', '.join(dict.fromkeys(BY_VOCABULARY.values()))}: put its files (tokenizer.json) into a folder "
            f"{home / 'tokenizer'}"
        )
    try:
        return load_tokenizer(known)
    except UserError as error:
        raise UserError(
            f"{path} has no tokenizer beside its weights, and with {num_rows:,} tokens it is {known}'s: {error}; here "
            f"{home / 'tokenizer'}"
        ) from error


def _mask_of(path: Path, tokenizer: Tokenizer, num_rows: int) -> int:
    """The row of [MASK] in their embedding: behind all tokens, or one of them. Raises UserError for a tokenizer that
    does not fit the network."""
    size = tokenizer.vocab_size
    if num_rows == size + 1:
        return size
    if num_rows == size and isinstance(tokenizer, HFTokenizer):
        for name in ("[MASK]", "<mask>"):
            if (found := tokenizer.inner.token_to_id(name)) is not None:
                return found
    raise UserError(
        f"the tokenizer {tokenizer.name} has {size:,} tokens and the network of {path} {num_rows:,} rows, where "
        f"{size + 1:,} would be those with [MASK]{', and it has no token [MASK]' if num_rows == size else ''}: they do "
        "not belong together; put the files of the one that it was trained with into a folder `tokenizer` in its folder"
    )


def _run_config(
    config: Mapping[str, Any], shape: Shape, tokenizer: Tokenizer, mask_id: int, bos_id: int | None
) -> RunConfig:
    """The settings of our network, and those that a run begins with which goes on from it."""
    is_outside = mask_id == tokenizer.vocab_size
    wraps = config.get("wrap")
    model = ModelConfig(
        kind="causal" if shape.is_causal else "masked",
        num_layers=shape.num_layers,
        width=shape.width,
        num_heads=shape.num_heads,
        mlp_width=None if shape.mlp_width == 4 * shape.width else shape.mlp_width,
        dropout=shape.dropout,
        tied=False,
    )
    if shape.sees_time:
        model = replace(model, time_conditioning=True, time_width=shape.condition_width, time_features="sigma")
    elif not shape.is_causal:
        model = replace(model, qkv_bias=True)
    if not shape.is_causal:
        model = replace(model, extra_outputs=int(is_outside), bos_id=bos_id)
    data = DataConfig(
        source=TEXTS.get(tokenizer.name, "shakespeare"),
        tokenizer=tokenizer.name,
        length=shape.length - shape.is_causal,  # whose first place is the beginning's
        mode="pad" if wraps is False or (wraps is None and tokenizer.name == "bert-base-uncased") else "wrap",
    )
    return run_config_of(model, data)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NUM_LISTED} more" if len(names) > NUM_LISTED else ""
    return ", ".join(name[:80] for name in names[:NUM_LISTED]) + more
