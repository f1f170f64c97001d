"""Checkpoints in parts, for networks whose weights are shared out: every process writes what it holds.

Writing and reading is left to torch.distributed.checkpoint, in its form of safetensors: a file for each process, whose
header says where in the whole each of its tensors belongs. No process gathers anything, any number of processes reads
what any other number wrote, also a single one, and nothing is pickled.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdlm_atat.errors import UserError

PATTERN = "shard-*.safetensors"


def are_in(folder: Path) -> bool:
    """Whether a folder holds a checkpoint in parts."""
    return any(folder.glob(PATTERN))


def files_in(folder: Path) -> list[str]:
    """The names of the files that are read as parts of what a folder holds: all of this ending."""
    return sorted(file.name for file in folder.glob("*.safetensors"))


def num_weights(headers: Iterable[Mapping[str, tuple[str, tuple[int, ...]]]], kind: str = "model") -> int:
    """How many numbers of a `kind` (model, ema, optimizer) the parts with these headers hold together (see
    `packed.read_header`)."""
    found = (item for header in headers for item in header.items())
    return sum(math.prod(shape) for name, (_, shape) in found if name.startswith(f"{kind}/"))


def write(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write this process's parts of tensors, by name, and flush them to the disk. Every process must call it, with the
    same names, on one file system; the folder is there once one of them does. Raises OSError in all of them where one
    could not write."""
    torch.distributed.barrier()
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    known = inspect.signature(HuggingFaceStorageWriter).parameters
    in_parts = "save_distributed" if "save_distributed" in known else "save_sharded"  # torch 2.8
    options: dict[str, Any] = {in_parts: True}
    try:
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), **options))
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise OSError(f"process {rank}: {cause}") if isinstance(cause, OSError) else cause from error


def stored(folder: Path) -> dict[str, Tensor]:
    """What the parts in a folder make up: tensors without content (on the device "meta"), by name. Raises UserError
    where a part is missing."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    found: dict[str, Tensor] = {}
    try:
        metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(f"{folder} cannot be read ({error!r:.200}); restore it from a copy") from error
    for name, whole in metadata.state_dict_metadata.items():
        assert isinstance(whole, TensorStorageMetadata)
        if sum(math.prod(chunk.sizes) for chunk in whole.chunks) != math.prod(whole.size):
            raise UserError(f"{folder} holds no more than a part of {name}; restore it from a copy")
        found[name] = torch.empty(whole.size, dtype=whole.properties.dtype, device="meta")
    return found


def read(into: Mapping[str, Tensor], folder: Path) -> None:
    """Fill tensors by name, each with what this process holds of it: all of it, or its part where it is a DTensor.
    Raises UserError where they cannot be read."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # no process waits for another
        try:
            load(dict(into), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
        except CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            raise UserError(f"{folder} cannot be read ({cause}); restore it from a copy") from error
