"""The time of a training step, from steps that were measured: the share of a GPU's rate by width, and exchange."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mdlm_atat.config.schema import RunConfig
from mdlm_atat.scaling.measured import GPU, Measured, Step
from mdlm_atat.scaling.memory import Way, checkpoint_bytes, optimizer_bytes
from mdlm_atat.scaling.sizes import Sizes, orthogonalisation_flops


@dataclass(frozen=True)
class Machines:
    """The GPUs of a run."""

    num_gpus: int
    per_machine: int
    """GPUs of one machine."""
    network_bytes_per_s: float
    """What a machine's network carries one way for each of its GPUs: an assumption, for none was measured."""

    @property
    def num(self) -> int:
        """Machines."""
        return -(-self.num_gpus // self.per_machine)

    @property
    def gpus_here(self) -> int:
        """GPUs of a machine that are used."""
        return min(self.num_gpus, self.per_machine)


@dataclass(frozen=True)
class Speed:
    """Seconds of one training step, and what follows."""

    compute_s: float
    """Forward and backward pass, by the measured share of the GPU's rate."""
    optimizer_s: float
    muon_s: float
    exchange_s: float
    """Beyond what the passes hide."""
    loader_s: float
    """Of the CPU, beside the GPU: it counts where it is longer than all of the above."""
    step_s: float
    tokens_per_s: float
    """Of all GPUs."""
    utilisation: float
    """Operations that the mathematics needs over what the GPUs' measured rate is."""

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def speed_of(
    config: RunConfig,
    sizes: Sizes,
    way: Way,
    machines: Machines,
    num_micro_batches: int,
    flops_per_token: float,
    gpu: GPU,
    measured: Measured,
) -> Speed:
    """The speed of a step on all of the machines' GPUs."""
    tokens = config.train.batch_size * config.data.length
    here = tokens / machines.num_gpus
    num_parts = machines.num_gpus if way.kind == "sharded" else 1
    share = utilisation(config.model.width, config.data.length, measured.alone(gpu.kind), measured, gpu)
    compute_s = here * flops_per_token / (share * gpu.flops_per_s)
    if way.recompute:
        compute_s *= recompute_ratio(config.model.width, measured)
    optimizer_s = measured.adamw_s_per_parameter * sizes.num_parameters / num_parts
    muon_s = 0.0
    if config.optim.kind == "muon":
        muon_s = measured.muon.added_s * sizes.muon_flops / muon_flops(measured)
    exchange_s = exchange(sizes, way, machines, num_micro_batches, gpu, measured)
    loader_s = measured.host.load_s_per_token * here
    step_s = max(compute_s + optimizer_s + muon_s + exchange_s, loader_s)
    rate = tokens / step_s
    return Speed(
        compute_s=compute_s,
        optimizer_s=optimizer_s,
        muon_s=muon_s,
        exchange_s=exchange_s,
        loader_s=loader_s,
        step_s=step_s,
        tokens_per_s=rate,
        utilisation=rate * flops_per_token / (gpu.flops_per_s * machines.num_gpus),
    )


def utilisation(width: int, length: int, steps: Sequence[Step], measured: Measured, gpu: GPU) -> float:
    """The share of a GPU's rate that forward and backward pass reach at a width: a straight line over log(width)
    between measured steps. Of a width's the one with the nearest length counts, a recorded one first. Beyond the
    narrowest and the widest it stays what it is there: nothing is extrapolated."""
    near: dict[int, Step] = {}
    for step in sorted(steps, key=lambda step: (step.tokens_per_gpu, not step.recorded)):
        if step.step_s is None:
            continue
        before = near.get(step.width)
        if before is None or distance(step, length) < distance(before, length):
            near[step.width] = step
    widths = sorted(near)
    shares = [share_of(near[w], measured, gpu) for w in widths]
    return float(np.interp(math.log(width), np.log(widths), shares))


def distance(step: Step, length: int) -> float:
    return abs(math.log(step.length / length))


def share_of(step: Step, measured: Measured, gpu: GPU) -> float:
    """The share of the GPU's rate that a measured step reaches without its optimizer."""
    assert step.step_s is not None
    passes_s = step.step_s - measured.adamw_s_per_parameter * step.num_parameters
    return step.tokens_per_gpu * step.flops_per_token / (passes_s * gpu.flops_per_s)


def recompute_ratio(width: int, measured: Measured) -> float:
    """How many times as long a step is where blocks are computed again, at the measured width that is nearest."""
    pairs = [
        (abs(math.log(step.width / width)), not twin.recorded, step.step_s / twin.step_s)
        for step in measured.steps
        for twin in measured.alone(step.gpu)
        if step.recompute and step.num_gpus == 1 and step.step_s and twin.step_s and is_twin(step, twin)
    ]
    return min(pairs)[2]


def is_twin(step: Step, other: Step) -> bool:
    """Whether two steps are of the same network and as many tokens."""
    return (step.num_parameters, step.length, step.tokens_per_gpu) == (
        other.num_parameters,
        other.length,
        other.tokens_per_gpu,
    )


def muon_flops(measured: Measured) -> float:
    """Operations of the orthogonalisations whose time was measured."""
    width, num_layers = measured.muon.width, measured.muon.num_layers
    return num_layers * (4 * orthogonalisation_flops(width, width) + 2 * orthogonalisation_flops(width, 4 * width))


def ring_bytes(num_parameters: float, num: int) -> float:
    """Bytes that each of `num` members of a ring sends when float32 gradients are added up over all: 2 (num - 1) / num
    of them."""
    return 2 * (num - 1) / num * 4 * num_parameters


def link_rate(measured: Measured, num_parameters: float) -> float:
    """Bytes a second of the exchange of gradients between two GPUs, as far as the passes did not hide it."""
    pair = measured.together(shard=False, num_parameters=num_parameters)
    assert pair.step_s is not None
    assert pair.alone_s is not None
    return ring_bytes(pair.num_parameters, pair.num_gpus) / max(pair.step_s - pair.alone_s, 1e-4)


def slowest_link(machines: Machines, gpu: GPU, measured: Measured, num_parameters: float) -> float:
    """Bytes a second of the exchange: of two GPUs of a machine, as measured, or of the network between machines, which
    is taken to be used as well as the link was, if that is slower."""
    within = link_rate(measured, num_parameters)
    if machines.num == 1:
        return within
    used = within / gpu.link_bytes_per_s
    return min(within, used * machines.network_bytes_per_s * machines.gpus_here)


def exchange(sizes: Sizes, way: Way, machines: Machines, num_micro_batches: int, gpu: GPU, measured: Measured) -> float:
    """Seconds that exchange adds to a step.

    Data-parallel: the bytes of a ring over the measured rate. Sharded: weights are gathered in every forward and
    every backward pass and gradients cut at the last, each half of a ring's bytes, over the same rate; and each block
    takes a time of its own for it, which is what the measured sharded step took beyond its bytes.
    """
    if machines.num_gpus == 1 or way.kind == "one GPU":
        return 0.0
    rate = slowest_link(machines, gpu, measured, sizes.num_parameters)
    bytes_of_all = ring_bytes(sizes.num_parameters, machines.num_gpus)
    if way.kind == "data-parallel":
        return bytes_of_all / rate
    passes = (2 * num_micro_batches + 1) / 2
    return passes * bytes_of_all / rate + passes / 1.5 * sizes.num_blocks * shard_s_per_block(
        measured, sizes.num_parameters
    )


def shard_s_per_block(measured: Measured, num_parameters: float) -> float:
    """Seconds a block that a sharded step of one micro-batch took beyond one GPU's and beyond its bytes."""
    pair = measured.together(shard=True, num_parameters=num_parameters)
    assert pair.step_s is not None
    assert pair.alone_s is not None
    of_bytes = 1.5 * ring_bytes(pair.num_parameters, pair.num_gpus) / link_rate(measured, pair.num_parameters)
    return max(0.0, pair.step_s - pair.alone_s - of_bytes) / pair.num_layers


def ddp_bytes_per_parameter(measured: Measured, num_parameters: float, *, recorded: bool) -> float:
    """What two GPUs with whole weights needed more than one, by the measured pair that is nearest in size."""
    found = [s for s in measured.steps if s.num_gpus > 1 and not s.shard and s.peak_gib and s.alone_peak_gib]
    found = [s for s in found if s.recorded == recorded] or found
    pair = min(found, key=lambda step: abs(math.log(step.num_parameters / num_parameters)))
    assert pair.peak_gib is not None
    assert pair.alone_peak_gib is not None
    return (pair.peak_gib - pair.alone_peak_gib) * 2**30 / pair.num_parameters


@dataclass(frozen=True)
class Stored:
    """A checkpoint."""

    num_bytes: int
    seconds: float
    in_parts: bool
    """Whether every process writes its part."""
    gathered_bytes: int
    """What one process holds of it in its memory at a time."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def checkpoint_of(config: RunConfig, sizes: Sizes, way: Way, machines: Machines, measured: Measured) -> Stored:
    """How a checkpoint is written, and how long that takes at the measured rate: by one process; in parts, by all at
    once, after which one reads all for their checksums."""
    num_bytes = checkpoint_bytes(config, sizes)
    if way.kind != "sharded" or num_bytes <= config.train.whole_checkpoint_gib * 2**30:
        nearest = min(measured.checkpoints, key=lambda each: abs(math.log(each.num_bytes / num_bytes)))
        largest = max(4 * sizes.num_parameters, optimizer_bytes(config, sizes))
        return Stored(num_bytes, num_bytes * nearest.whole_s / nearest.num_bytes, False, largest)
    # as one process writes, where nobody measured parts
    found = [each for each in measured.checkpoints if each.parts_s is not None] or list(measured.checkpoints)
    nearest = min(found, key=lambda each: abs(math.log(each.num_bytes / num_bytes)))
    seconds, writers = (nearest.whole_s, 1) if nearest.parts_s is None else (nearest.parts_s, nearest.num_gpus)
    sums_s = nearest.num_bytes / measured.host.checksum_bytes_per_s
    written_s = max(0.0, seconds - sums_s) * writers / machines.num_gpus
    return Stored(num_bytes, num_bytes / nearest.num_bytes * (written_s + sums_s), True, 0)
