"""A trained model from its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from mdlm_atat import model_folder
from mdlm_atat.config.build import build_model, shapes_of
from mdlm_atat.config.files import folder_config
from mdlm_atat.data.open_tokenizer import load_tokenizer
from mdlm_atat.data.phrases import read_phrases
from mdlm_atat.device import Precision, choose_device
from mdlm_atat.errors import UserError
from mdlm_atat.lm.causal import CausalLM
from mdlm_atat.lm.folder import Located, locate, read_stage
from mdlm_atat.lm.masked import MaskedDiffusionLM
from mdlm_atat.plugins import trusted
from mdlm_atat.training.checkpoint import check_shapes, load_weights
from mdlm_atat.training.folder import check_plugins, read_counts


def load_lm(
    folder: str | Path | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    say: Callable[[str], None] = lambda _: None,
    trust_plugins: bool = False,
) -> MaskedDiffusionLM | CausalLM:
    """Load the model in a folder, or on the hub as hub:OWNER/NAME: a CausalLM if its network reads left to right only,
    else a MaskedDiffusionLM. Without a folder, or as "box" where there is no model of that name, it is the model that
    comes with this package. The arguments, and what is raised, are those of LanguageModel.from_pretrained."""
    name = model_folder.BOX if folder is None else Path(folder)
    while True:
        found = locate(name, say, revision=revision, cache_dir=cache_dir)
        try:
            with trusted(trust_plugins):
                return load_located(found, choose_device(device), precision, say)
        except (OSError, UserError):
            if found.checkpoint is None or not found.checkpoint.is_gone:
                raise  # else a run at work there has a newer one


def load_located(
    found: Located, device: torch.device, precision: Precision, say: Callable[[str], None]
) -> MaskedDiffusionLM | CausalLM:
    """Load a model whose folder has been found and checked; see `load_lm`."""
    config = folder_config(found.home)
    check_plugins(found.home, config, say)
    tokenizer = load_tokenizer(str(found.home / "tokenizer"))
    counts = read_counts(found.home)
    shapes = shapes_of(config, tokenizer.vocab_size)
    if shapes is not None:
        check_shapes(shapes, found.shapes(), Path(found.name))
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten at once
        network = build_model(config, tokenizer.vocab_size, counts)
    if found.checkpoint is not None:
        found.checkpoint.load_weights(network, average=True)
        _ = found.checkpoint.checksum  # now: when numbers are stored with it, the checkpoint may be gone
    else:
        load_weights(network, found.home / "model.safetensors")
    kind = MaskedDiffusionLM if "masked" in network.modes else CausalLM
    lm = kind(network, tokenizer, config, device=device, precision=precision)
    lm.home, lm.checkpoint = found.home, found.checkpoint
    lm.counts, lm.stage, lm.phrases = counts, read_stage(found), read_phrases(found.home)
    return lm
