"""The memory of a training step on one GPU, part by part, told from numbers of parameters and tokens.

Weights, their average, gradients and the optimizer's state are counted to the byte. Activations are what the compiled
blocks keep for the backward pass, tensor by tensor (`tests/scaling/test_planned_memory.py` holds them to torch's
hooks); what lives for a moment (a chunk of logits, the gradients within a block) is counted at the moments that can
be the peak.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

from mdlm_atat.config.build import causal_rows, masking_traits, modes_of
from mdlm_atat.config.schema import ModelConfig, RunConfig
from mdlm_atat.core.fused_loss import CHUNK_ELEMENTS, MULTIPLE
from mdlm_atat.core.objective import CONTENT_MARGIN
from mdlm_atat.scaling.sizes import Sizes

Kind = Literal["one GPU", "data-parallel", "sharded"]
BACKWARD_OF_BLOCK = 12
"""Bytes a token and width of a block's own gradients, beyond what it frees: the residual's in float32, and the larger
of the MLP's two in bf16."""
MUON_STEP = 16
"""Bytes a number of the matrices that are orthogonalised together: their gradients with momentum, all of them whole
beside each other, the result, and the result times the rate, each in float32."""


@dataclass(frozen=True)
class Way:
    """How a network is laid over the GPUs."""

    kind: Kind
    recompute: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}, recomputed" if self.recompute else self.kind

    @property
    def is_recorded(self) -> bool:
        """Whether its steps can be recorded as a CUDA graph."""
        return self.kind != "sharded" and not self.recompute


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. They are not all there at one moment: `peak` says how much is at most."""

    weights: int
    average: int
    gradients: int
    optimizer: int
    exchange: int
    """Gathered weights (sharded), or what DDP keeps beside the gradients."""
    activations: int
    """What the blocks keep for the backward pass, with copies of their weights in bf16."""
    output_layer: int
    """The last states, a chunk of logits, and the gradient of the output layer's weights."""
    moment: int
    """What else is there at the peak: gradients within a block, the optimizer's step."""
    peak: int

    @property
    def state(self) -> int:
        """What is there between two steps."""
        return self.weights + self.average + self.optimizer

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def block_bytes_per_token(model: ModelConfig, *, residual_bytes: int = 4) -> float:
    """Bytes that a compiled block keeps for its backward pass, for one token, in bf16 arithmetic.

    The input of the block; the inputs of its matrix products; queries, keys, values and what attention gives, with its
    float32 log-sums; the two numbers of each norm; of dropout one byte an element; with adaLN, what the MLP gives.
    """
    width, heads = model.width, model.num_heads
    heads_width = heads * (model.head_width or width // heads)
    kv_width = heads_width // heads * (model.num_kv_heads or heads)
    hidden = model.mlp_width or model.mlp_ratio * width
    found = residual_bytes * width + 2 * 2 * width  # x, and after both norms
    found += 2 * (8 if model.norm == "layer" else 4)
    found += 4 * 2 * heads_width + 4 * heads  # q, k, v (each as wide as q), attention's answer, log-sums
    if model.qk_norm:  # what the norms were given
        found += 2 * (heads_width + 2 * kv_width) + 4 * (heads + (model.num_kv_heads or heads))
    found += 2 * width  # the projection of the heads: with x it gives the residual stream again
    found += 2 * hidden * (2 if model.mlp == "gelu" else 3)
    if model.dropout > 0:
        found += 2 * width
    if conditions_blocks(model):
        found += 2 * width
    return found


def block_bytes_per_row(model: ModelConfig) -> int:
    """Bytes that a block keeps for one sequence, whatever its length: adaLN's vectors."""
    return 12 * model.width + 2 * model.time_width if conditions_blocks(model) else 0


def conditions_blocks(model: ModelConfig) -> bool:
    """Whether blocks are told the time by adaLN."""
    return model.kind == "masked" and model.time_conditioning and model.time_through == "adaln"


def optimizer_bytes(config: RunConfig, sizes: Sizes) -> int:
    """Bytes of the optimizer's state: two float32 moments of every parameter and a count of steps for every tensor;
    with Muon one moment of the matrices that it has, and no count."""
    if config.optim.kind == "muon":
        rest, tensors = sizes.num_parameters - sizes.muon, sizes.num_tensors - sizes.muon_tensors
        return 4 * sizes.muon + 8 * rest + 4 * tensors
    return 8 * sizes.num_parameters + 4 * sizes.num_tensors


def checkpoint_bytes(config: RunConfig, sizes: Sizes) -> int:
    """Bytes of a checkpoint: weights, their average, the optimizer's state."""
    copies = 2 if config.train.ema_decay > 0 else 1
    return 4 * copies * sizes.num_parameters + optimizer_bytes(config, sizes)


def memory_of(
    config: RunConfig,
    sizes: Sizes,
    vocab_size: int,
    way: Way,
    num_gpus: int,
    num_micro_batches: int,
    ddp_bytes_per_parameter: float,
) -> Memory:
    """The memory of a step on each of `num_gpus`, whose share of the batch is cut into `num_micro_batches`.

    `ddp_bytes_per_parameter`: what two processes with whole weights were measured to need more than one.
    """
    model, width = config.model, config.model.width
    num_parts = num_gpus if way.kind == "sharded" else 1
    rows = config.train.batch_size // (num_gpus if way.kind != "one GPU" else 1) // num_micro_batches
    tokens = rows * config.data.length
    state = 4 * sizes.num_parameters
    average = state if config.train.ema_decay > 0 else 0
    weights, average, optimizer = (_share(part, num_parts) for part in (state, average, optimizer_bytes(config, sizes)))

    # FSDP adds up micro-batches in whole gradients, and cuts these at the last
    gradients = state if num_micro_batches > 1 else _share(state, num_parts)
    stay = way.kind == "data-parallel" or num_micro_batches > 1
    exchange = 0
    if way.kind == "data-parallel":
        exchange = max(0, round(ddp_bytes_per_parameter * sizes.num_parameters) - gradients)
    if way.kind == "sharded":
        exchange = 4 * (sizes.outside_blocks + 2 * sizes.in_block)

    residual_bytes = 2 if config.train.residual == "bf16" else 4
    modes = modes_of(config)
    of_block = round(tokens * block_bytes_per_token(model, residual_bytes=residual_bytes))
    of_block += rows * block_bytes_per_row(model) + len(modes) * 2 * sizes.block_matrices
    within = 0
    if way.recompute:
        activations, within = sizes.num_blocks * tokens * width * residual_bytes, of_block
    else:
        activations = sizes.num_blocks * of_block
    activations += estimator_bytes(config, rows)

    padded = -(-vocab_size // MULTIPLE) * MULTIPLE
    scored = scored_positions(config, rows)
    states = tokens * width * (residual_bytes + 4) + scored * width * 10  # x, hidden; scored ones, and their gradient
    kept = len(modes) * 4 * padded * width  # gradients of the output layer's weights
    num_chunks = max(1, math.ceil(scored * padded / CHUNK_ELEMENTS))
    logits = 2 * 2 * math.ceil(scored / num_chunks) * padded + 4 * padded * width
    output_layer = states + kept + logits

    in_block = tokens * width * BACKWARD_OF_BLOCK + within + 4 * vocab_size * width
    there = gradients if stay else 0
    step = MUON_STEP * sizes.largest_alike if config.optim.kind == "muon" else 0
    at_loss = activations + output_layer + there
    at_backward = activations + kept + in_block + there
    at_step = gradients + step
    peak = weights + average + optimizer + exchange + max(at_loss, at_backward, at_step)
    moment = step if peak == weights + average + optimizer + exchange + at_step else in_block
    return Memory(
        weights=weights,
        average=average,
        gradients=gradients,
        optimizer=optimizer,
        exchange=exchange,
        activations=activations,
        output_layer=output_layer,
        moment=moment,
        peak=peak,
    )


def scored_positions(config: RunConfig, rows: int) -> int:
    """Positions of so many sequences that the output layer has room for: of masked ones about half, with four standard
    deviations of the coins (see `core.objective.FusedLoss`); all of those that are read left to right."""
    length = config.data.length
    share = causal_rows(config.objective) if "masked" in modes_of(config) else 1
    causal = round(rows * share)
    masked = rows - causal
    if masked == 0:
        return causal * length
    rate = 0.5 + 0.5 / masked + 2 / math.sqrt(masked * length)
    rate += CONTENT_MARGIN * masking_traits(config).reads_content
    return causal * length + min(masked * length, math.ceil(rate * masked * length))


def estimator_bytes(config: RunConfig, rows: int) -> int:
    """Bytes that the importance estimator keeps for its backward pass: two passes over a share of the rows."""
    importance = config.importance
    if not importance.has_estimator:
        return 0
    shape = ModelConfig(num_layers=1, width=importance.width, num_heads=importance.num_heads)
    tokens = 2 * max(1, round(importance.train_share * rows)) * config.data.length
    return round(importance.num_layers * tokens * block_bytes_per_token(shape))


def _share(num_bytes: int, num_parts: int) -> int:
    return -(-num_bytes // num_parts)
