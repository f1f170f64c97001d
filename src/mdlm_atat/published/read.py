"""Which family a published model is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mdlm_atat.errors import UserError
from mdlm_atat.published.imported import Imported
from mdlm_atat.published.llama import is_llama, read_llama
from mdlm_atat.published.mdlm import is_mdlm, read_mdlm
from mdlm_atat.small_files import read_object

Reader = Callable[[Path], Imported | None]
"""Reads a folder in the hub's format, or a file of weights; None where that is of another family. Raises UserError for
one of its family that is damaged or cannot be represented."""


class Family(NamedTuple):
    is_one: Callable[[Path], bool]
    """Whether a folder in the hub's format is of this family, by its config.json alone. Raises UserError for one of its
    family that cannot be represented."""
    read: Reader


FAMILIES: dict[str, Family] = {
    "Llama, SmolLM2, Mistral, Qwen2 and Qwen3": Family(is_llama, read_llama),
    "MDLM and its left-to-right baseline": Family(is_mdlm, read_mdlm),
}
"""By the name of the family, in the order in which they are asked."""


def check_family(folder: Path) -> None:
    """Raise UserError where the config.json of a folder says that the model cannot be read. Weights are not looked at,
    so they need not be there yet."""
    if not any(family.is_one(folder) for family in FAMILIES.values()):
        raise _unknown(folder)


def read_published(path: Path) -> Imported:
    """Read the model that others have published in a folder (config.json and safetensors) or a file (.ckpt, .gguf).
    Raises UserError where it is of no family that is known."""
    for family in FAMILIES.values():
        found = family.read(path)
        if found is not None:
            return found
    raise _unknown(path)


def _unknown(path: Path) -> UserError:
    return UserError(f"{path} is {_kind_of(path)}, which cannot be read; known are {', '.join(FAMILIES)}")


def _kind_of(path: Path) -> str:
    """What a folder says that it holds, for a message."""
    if path.is_file():
        return f"a {path.suffix} file of another kind"
    config = read_object(path / "config.json")
    classes = config.get("architectures")
    named = ", ".join(map(str, classes)) if isinstance(classes, list) else ""
    kind = str(config.get("model_type") or "")
    return f"a model of the architecture {named or kind or 'unknown'}{f' ({kind})' if named and kind else ''}"
