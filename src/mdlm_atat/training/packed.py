"""Weights in a file: as they are, in bfloat16, or in 8 bits with a scale for every row of a matrix."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int8
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mdlm_atat.atomic import written_aside
from mdlm_atat.checks import did_you_mean
from mdlm_atat.errors import UserError
from mdlm_atat.formats import data_size
from mdlm_atat.small_files import MOST_BYTES, RESTORE, check_file

Packing = Literal["float32", "bf16", "int8"]
"""How weights are stored: as they are; every one in bfloat16; or matrices in 8 bits and all else (norms, vectors) in
float32."""
SCALE = ".scale"
"""What the name of a matrix's scales ends in, behind the name of the matrix."""
LARGEST = 127
FLOATS = ("F32", "BF16", "F16", "F64")


def check_packing(packing: str) -> None:
    """Raises UserError for a packing that there is not."""
    known = list(get_args(Packing))
    if packing not in known:
        hint = did_you_mean(packing, known)
        raise UserError(f"`weights={packing!r}`: expected one of {', '.join(known)}{hint}")


def quantise(matrix: Float[Tensor, "rows columns"]) -> tuple[Int8[Tensor, "rows columns"], Float[Tensor, " rows"]]:
    """Round a matrix to whole numbers from -127 to 127 times a scale for each row, max |row| / 127: no entry is off by
    more than half of its row's scale. Returns the numbers and the scales."""
    largest = matrix.float().abs().amax(dim=1)
    scales = torch.where(largest > 0, largest / LARGEST, 1.0)
    return (matrix.float() / scales[:, None]).round().to(torch.int8), scales


def write_weights(weights: Mapping[str, Tensor], file: Path, packing: Packing = "float32") -> None:
    """Write weights by name as safetensors. Raises UserError for a matrix that is to be stored in 8 bits and is not
    finite: it has no scale."""
    stored: dict[str, Tensor] = {}
    for name, weight in weights.items():
        weight = weight.detach().cpu().contiguous()
        if packing == "int8" and weight.ndim == 2:
            if not weight.isfinite().all():
                raise UserError(f"{name} has weights that are not finite: they cannot be stored with `weights='int8'`")
            stored[name], stored[name + SCALE] = quantise(weight)
        else:
            stored[name] = weight.bfloat16() if packing == "bf16" else weight
    save_tensors(stored, file)


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write tensors by name as safetensors, atomically. Raises OSError where the disk is full, say, as all writing
    does: safetensors itself has the system's error in words only."""
    with written_aside(file) as aside:
        try:
            save_file(tensors, aside)
        except SafetensorError as error:
            if (found := re.search(r"\(os error (\d+)\)", str(error))) is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from error


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read tensors by name from a safetensors file."""
    with named_in_utf8(file) as name:
        return load_file(name)


@contextmanager
def named_in_utf8(file: Path) -> Iterator[str]:
    """A name of `file` that safetensors takes within the block: its own, or where that has bytes that are no UTF-8, as
    only Linux allows, the one that Linux gives to an open file."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        with file.open("rb") as stream:
            yield f"/proc/self/fd/{stream.fileno()}"
    else:
        yield str(file)


Shapes = dict[str, tuple[int, ...]]
"""Of tensors, by name."""


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read weights by name, those that were packed as float32 again. Raises UserError as `read_shapes` does."""
    return dict(each_weight(file))


def each_weight(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield what `read_weights` reads one by one: what is packed takes 4 bytes a weight only where it is kept."""
    shapes = read_shapes(file)
    stored = load_tensors(file)  # in the file's pages, which the system drops when it needs them
    for name in shapes:
        weight = stored[name]
        if weight.dtype == torch.int8:
            yield name, weight.float() * stored[name + SCALE][:, None]
        else:
            yield name, weight.float() if weight.dtype == torch.bfloat16 else weight


def packing_of(file: Path) -> Packing:
    """How the weights in a file are stored, from its header. Raises UserError for a file that is damaged."""
    types = {dtype for dtype, _ in read_header(file).values()}
    return "int8" if "I8" in types else "bf16" if types == {"BF16"} else "float32"


def read_shapes(file: Path) -> Shapes:
    """The shapes of the weights in a file, packed or not, from its header: no weight is read. Raises UserError for a
    file that is damaged, or holds what are no weights."""
    header = read_header(file)
    shapes: Shapes = {}
    for name, (dtype, shape) in header.items():
        packed, scales = name.removesuffix(SCALE), header.get(name + SCALE)
        if packed != name and packed in header and header[packed][0] == "I8":
            continue
        if dtype == "I8" and (len(shape) != 2 or scales != ("F32", shape[:1])):
            raise UserError(f"{file} is damaged: {name!r:.80} has no scale for each row; {RESTORE}")
        if dtype not in ("I8", *FLOATS):
            raise UserError(
                f"{file} is damaged: {name!r:.80} is of type {dtype}, and weights are of {', '.join(FLOATS)} or I8; "
                f"{RESTORE}"
            )
        shapes[name] = shape
    return shapes


def read_header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor in a safetensors file, which is as long as they need. Raises UserError for a file
    that is damaged, or that `check_file` does not allow."""
    check_file(file, most_bytes=math.inf)
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
    if size > MOST_BYTES:
        raise UserError(f"{file} is damaged: its header claims {data_size(size)}; {RESTORE}")
    try:
        # it checks that the tensors fill the file and do not overlap
        with named_in_utf8(file) as name, safe_open(name, "pt") as opened:
            parts = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118  # it is no mapping
            return {key: (part.get_dtype(), tuple(part.get_shape())) for key, part in parts.items()}
    except SafetensorError as error:
        raise UserError(f"{file} is damaged ({error}); {RESTORE}") from None
