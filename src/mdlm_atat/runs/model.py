"""A trained model, however a caller names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from mdlm_atat.device import Precision
from mdlm_atat.lm import CausalLM, MaskedDiffusionLM, load_lm
from mdlm_atat.runs.run import Run


@runtime_checkable
class HasFolder(Protocol):
    """A run, or anything else that is kept in a folder."""

    @property
    def folder(self) -> Path: ...


Model = str | Path | Run | HasFolder | MaskedDiffusionLM | CausalLM


def open_model(
    model: Model,
    *,
    device: torch.device | str | None = None,
    precision: Precision = "auto",
    trust_plugins: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> MaskedDiffusionLM | CausalLM:
    """The language model of a run, of a folder (see `load_lm`), or the model itself where it is one already.

    `device`, `precision`: of a model that is loaded from a folder; one that is there already is moved to the device.
    `trust_plugins`: import the plugins that the folder names. `say` hears of damaged checkpoints that were passed over.
    Raises UserError for a folder that holds no model.
    """
    if isinstance(model, (MaskedDiffusionLM, CausalLM)):
        return model if device is None else model.to(device)
    if isinstance(model, Run):
        if device is None and precision == "auto":
            return model.model
        trust_plugins = trust_plugins or model.trust_plugins
    folder = model if isinstance(model, (str, Path)) else model.folder
    return load_lm(folder, device=device, precision=precision, say=say, trust_plugins=trust_plugins)
