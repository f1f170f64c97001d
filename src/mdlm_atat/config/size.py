"""How much memory a configuration asks for at least, told from its numbers before anything is built."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from mdlm_atat.config.schema import ModelConfig, RunConfig
from mdlm_atat.errors import UserError
from mdlm_atat.formats import count, data_size

if TYPE_CHECKING:
    import torch

MOST_DEVICE_BYTES = 1 << 42
"""Memory that no device has more of."""


def block_weights(model: ModelConfig) -> int:
    """The numbers in the matrices of one transformer block: of queries, keys, values and what mixes the heads, and of
    the MLP."""
    head_width = model.head_width or model.width // model.num_heads
    heads = 2 * (model.num_heads + (model.num_kv_heads or model.num_heads))
    mlp = (2 if model.mlp == "gelu" else 3) * (model.mlp_width or model.mlp_ratio * model.width)
    return (heads * head_width + mlp) * model.width


def least_weights(config: RunConfig) -> int:
    """The weights of a configuration's network without its vocabulary's, its norms and its biases: there are more. 0
    for a plugin's network, which says itself what its settings mean."""
    model, importance = config.model, config.importance
    if model.kind not in ("masked", "causal"):
        return 0
    num_weights = model.num_layers * block_weights(model)
    if model.kind == "masked":
        if model.time_conditioning and model.time_through == "adaln":
            num_weights += model.time_width * (model.time_width + 6 * model.num_layers * model.width)
        if not model.tied:
            num_weights += model.extra_outputs * model.width
        if importance.has_estimator:
            num_weights += importance.num_layers * 12 * importance.width**2
    return num_weights


def most_weights(config: RunConfig) -> float:
    """More weights than the configuration's network has with any vocabulary of up to 2^21 tokens; no limit for a
    plugin's network."""
    if config.model.kind not in ("masked", "causal"):
        return math.inf
    rows = 4 * ((1 << 21) + config.model.extra_outputs + config.data.length)
    return 2 * least_weights(config) + rows * config.model.width + (1 << 24)


def check_memory(config: RunConfig, vocab_size: int = 0, device_memory: float | None = None) -> None:
    """Raise UserError, with what to change, for a network whose weights alone take more than the memory of this
    machine, or for a batch whose rows alone take more than that of a device: nobody has to wait until it is built.
    `device_memory`: of the device that is trained on, in bytes; None: it is not known yet, and may be large."""
    weights_bytes = 4 * (least_weights(config) + vocab_size * config.model.width)
    memory = machine_memory() or math.inf
    if weights_bytes > memory:
        raise UserError(
            f"model.num_layers = {config.model.num_layers:,} and model.width = {config.model.width:,} make a network "
            f"of {count(weights_bytes / 4)} weights or more, which take {data_size(weights_bytes)}; this machine has "
            f"{data_size(memory)} of memory"
        )
    available = max(memory, MOST_DEVICE_BYTES) if device_memory is None else device_memory
    num_processes = max(1, int(os.environ.get("WORLD_SIZE", "1")))
    num_rows = config.train.batch_size // num_processes // config.train.least_micro_batches
    if config.train.num_micro_batches == "auto":
        num_rows = 1
    row_bytes = 2 * config.data.length * config.model.width  # of each block, to say the least: in bf16, one tensor
    for path, rows, num_kept in (
        ("train.batch_size", num_rows, config.model.num_layers),
        ("eval.batch_size", config.eval.batch_size, 1),
    ):
        if config.model.kind in ("masked", "causal") and rows * row_bytes * num_kept > available:
            fits = max(1, int(available / (row_bytes * num_kept)))
            micro = ", or `train.num_micro_batches='auto'`" if path.startswith("train") else ""
            raise UserError(
                f"{path}: {rows:,} sequences at once need at least {data_size(rows * row_bytes * num_kept)}, and there "
                f"are {data_size(available)} of memory, so at most {fits:,}; try `{path}={min(fits, 64)}`{micro}"
            )


def memory_of(device: torch.device) -> float:
    """Bytes of memory of a device; a GPU's own, else this machine's."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    return machine_memory() or math.inf


def machine_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
