"""Which family a published model is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mdlm_atat.errors import UserError
from mdlm_atat.published.imported import Imported
from mdlm_atat.published.llama import read_llama
from mdlm_atat.published.mdlm import read_mdlm
from mdlm_atat.small_files import read_object

Reader = Callable[[Path], Imported | None]
"""Reads a folder in the hub's format, or a file of weights; None where that is of another family. Raises UserError for
one of its family that is damaged or cannot be represented."""

READERS: dict[str, Reader] = {
    "Llama, SmolLM2, Mistral, Qwen2 and Qwen3": read_llama,
    "MDLM and its left-to-right baseline": read_mdlm,
}
"""By the name of the family, in the order in which they are asked."""


def read_published(path: Path) -> Imported:
    """Read the model that others have published in a folder (config.json and safetensors) or a file (.ckpt, .gguf).
    Raises UserError where it is of no family that is known."""
    for read in READERS.values():
        found = read(path)
        if found is not None:
            return found
    raise UserError(f"{path} is {_kind_of(path)}, which cannot be read; known are {', '.join(READERS)}")


def _kind_of(path: Path) -> str:
    """What a folder says that it holds, for a message."""
    if path.is_file():
        return f"a {path.suffix} file of another kind"
    config = read_object(path / "config.json")
    classes = config.get("architectures")
    named = ", ".join(map(str, classes)) if isinstance(classes, list) else ""
    kind = str(config.get("model_type", ""))
    return f"a model of the architecture {named or kind or 'unknown'}{f' ({kind})' if named and kind else ''}"
