"""Files of torch.save, read without running anything that is in them.

A pickle says which functions to call. torch's own restricted reader (`weights_only=True`) calls those alone that make
tensors. The checkpoints of PyTorch Lightning also hold the settings of the training, as objects of other packages
(omegaconf, transformers); the few that are known to stand there are replaced by `Inert` objects, which keep what they
are given and do nothing. Any other name is an error.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mdlm_atat.errors import UserError
from mdlm_atat.small_files import DAMAGE

KNOWN = (
    "omegaconf.",
    "transformers.",
    "tokenizers.",
    "lightning.",
    "pytorch_lightning.",
    "numpy.",
    "pathlib.",
    "typing.",
)
"""Beginnings of names that hyperparameters are made of. Nothing of these packages is imported."""
KNOWN_NAMES = {f"builtins.{name}" for name in ("int", "float", "str", "bool", "list", "dict", "tuple", "NoneType")}
DICTIONARIES = ("defaultdict", "AttributeDict")
"""Last parts of the names of dictionaries, of Python and of Lightning."""


class Inert:
    """What stands in for an object of another package: its state, and no behaviour."""

    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Dictionary:
    """What stands in for a dictionary of another class: a plain one."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return {}


def read_pickle(file: Path) -> Any:
    """What torch.save has written: tensors, which are read from the disk as they are used, and plain Python. Raises
    UserError for a file that is damaged, and for one that names anything but tensors and known settings; nothing that
    it names is called."""
    try:
        if not zipfile.is_zipfile(file):
            raise UserError(f"{file} is damaged or is no file of torch.save of PyTorch 1.6 or later")
        named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        if strange := sorted(name for name in named if not _is_known(name)):
            raise UserError(
                f"{file} is a pickle that would run {strange[0]:.120}, and is not read: whoever made it can save its "
                "weights as safetensors"
            )
        stand_ins: list[Any] = [(Dictionary if _is_dictionary(name) else Inert, name) for name in named]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (*DAMAGE, RuntimeError, OSError, EOFError, AssertionError, pickle.UnpicklingError) as error:
        # torch begins with how to read it unrestricted, which nobody should
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{file} is damaged, or a pickle that is not read: {reason:.160}") from None


def _is_known(name: str) -> bool:
    return name.startswith(KNOWN) or name in KNOWN_NAMES or _is_dictionary(name)


def _is_dictionary(name: str) -> bool:
    package, _, kind = name.rpartition(".")
    return kind in DICTIONARIES and (package == "collections" or name.startswith(("lightning", "pytorch_lightning.")))


MOST_SETTINGS = 100_000


def plain(value: Any) -> Any:
    """Settings as dictionaries, lists and values, also out of what stands in for OmegaConf's objects; None for any
    other object. Raises ValueError where they are more than 100,000, as a few lists are that hold each other."""
    num_read = 0

    def read(value: Any) -> Any:
        nonlocal num_read
        num_read += 1
        if num_read > MOST_SETTINGS:
            raise ValueError(f"its settings are more than {MOST_SETTINGS:,}")
        if isinstance(value, Inert):
            state = value.state if isinstance(value.state, Mapping) else {}
            return read(state["_content"] if "_content" in state else state.get("_val"))
        if isinstance(value, Mapping):
            return {str(name): read(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [read(part) for part in value]
        return value if isinstance(value, str | int | float | bool) else None

    return read(value)
