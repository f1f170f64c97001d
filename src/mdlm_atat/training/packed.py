"""Weights in a file: as they are, in bfloat16, or in 8 bits with a scale for every row of a matrix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int8
from safetensors.torch import load_file, save_file
from torch import Tensor

from mdlm_atat.atomic import written_aside
from mdlm_atat.checks import did_you_mean
from mdlm_atat.errors import UserError

Packing = Literal["float32", "bf16", "int8"]
"""How weights are stored: as they are; every one in bfloat16; or matrices in 8 bits and all else (norms, vectors) in
float32."""
SCALE = ".scale"
"""What the name of a matrix's scales ends in, behind the name of the matrix."""
LARGEST = 127


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
    """Write tensors by name as safetensors, atomically."""
    with written_aside(file) as aside:
        save_file(tensors, aside)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read weights by name, those that were packed as float32 again."""
    stored = load_file(file)
    weights: dict[str, Tensor] = {}
    for name, weight in stored.items():
        if weight.dtype == torch.int8:
            weights[name] = weight.float() * stored[name + SCALE][:, None]
        elif not (name.endswith(SCALE) and _is_packed(stored, name.removesuffix(SCALE))):
            weights[name] = weight.float() if weight.dtype == torch.bfloat16 else weight
    return weights


def _is_packed(stored: Mapping[str, Tensor], name: str) -> bool:
    return name in stored and stored[name].dtype == torch.int8
