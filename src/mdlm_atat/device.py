"""Which device and arithmetic a network runs in, and what to say when the device's memory is not enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from mdlm_atat.errors import UserError

Precision = Literal["auto", "float32", "bf16"]


def choose_device(wanted: torch.device | str | None = None) -> torch.device:
    """The device asked for, if this machine has it; None: a GPU if there is one."""
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UserError(f"unknown device {wanted}; expected cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"device {wanted} is not available here; use --device cpu")
    return device


def choose_precision(wanted: Precision, device: torch.device) -> Literal["float32", "bf16"]:
    """auto: bf16 on a GPU that has it, float32 elsewhere."""
    if wanted != "auto":
        return wanted
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turn the device's out-of-memory error into a message that says what to try."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"out of memory on the device; {advice}") from error
    except RuntimeError as error:  # the CPU's allocator has no error class of its own
        if "can't allocate memory" not in str(error):
            raise
        raise UserError(f"out of memory; {advice}") from error
