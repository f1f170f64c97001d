"""What was measured: training steps, checkpoints and the host's own work, from measured.json, with where and when.

The file is data and no more: `benchmarks.scale --refresh` writes what it has measured into it. A training step has, for
the network and the number of GPUs that took it, seconds, tokens and the peak of memory; everything that a plan says of
speed is worked out from these.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from mdlm_atat.errors import UserError

SWITCHES: dict[str, Any] = {"compile": True, "fused_loss": True, "deterministic": False, "precision": "auto"}
"""What the measured steps were taken with, of the section `train`."""
FOUND = {
    "num_steps": "follows from `tokens=`, the batch and the length",
    "num_micro_batches": "is found by the plan",
    "recompute": "is found by the plan, which lists both ways",
    "shard": "is found by the plan, which lists both ways",
}
"""What a plan finds, of the section `train`."""


@dataclass(frozen=True, kw_only=True)
class GPU:
    """A kind of GPU that steps were measured on."""

    kind: str
    name: str
    memory_gib: float
    """All of it."""
    flops_per_s: float
    """Of a square bf16 product of random matrices: see `training.flops.matrix_rate`."""
    link_bytes_per_s: float
    """What its link to the GPUs of its machine carries one way, by its data sheet."""
    where: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step of masked diffusion with all that the loop does, compiled, bf16, with the fused loss."""

    name: str
    preset: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What is changed of the preset, by dotted path."""
    vocab_size: int
    gpu: str
    num_gpus: int = 1
    shard: bool = False
    recompute: bool = False
    recorded: bool = False
    """As a CUDA graph."""
    optimizer: str = "adamw"
    method: str = "mdlm"
    width: int
    num_layers: int
    length: int
    num_parameters: int
    flops_per_token: float
    """By `training.flops.training_flops_per_token`."""
    tokens_per_gpu: int
    step_s: float | None
    """None: memory alone was measured."""
    alone_s: float | None = None
    """The step of one GPU with as many tokens: for steps of several."""
    peak_gib: float | None = None
    """Of one GPU, by torch's allocator."""
    alone_peak_gib: float | None = None
    """The same of one GPU alone: for steps of several."""
    where: str


@dataclass(frozen=True, kw_only=True)
class Host:
    """Work of the CPU and the disk."""

    load_s_per_token: float
    """Reading rows of tokens from a mapped file."""
    order_s_per_row: float
    """Drawing and sorting an epoch's order."""
    order_rows: int
    """Of the epoch whose order was timed."""
    checksum_bytes_per_s: float
    """SHA-256 of a file."""
    where: str


@dataclass(frozen=True, kw_only=True)
class CheckpointTime:
    """A checkpoint, from the call to the last byte on the disk."""

    num_bytes: float
    whole_s: float
    """Written by one process."""
    num_gpus: int = 1
    parts_s: float | None = None
    """Written by all, each its part."""
    where: str


@dataclass(frozen=True, kw_only=True)
class Muon:
    """What Muon adds to a step with AdamW."""

    added_s: float
    width: int
    num_layers: int
    where: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that was measured."""

    gpus: tuple[GPU, ...]
    steps: tuple[Step, ...]
    host: Host
    checkpoints: tuple[CheckpointTime, ...]
    muon: Muon
    adamw_s_per_parameter: float
    """AdamW, the average and clipping, which are part of every step."""
    adamw_where: str

    def gpu(self, kind: str) -> GPU:
        """The GPU of a kind that is among `kinds`."""
        return next(gpu for gpu in self.gpus if gpu.kind == kind)

    def alone(self, kind: str, *, recompute: bool = False) -> list[Step]:
        """Steps of plain masked diffusion on one GPU of a kind, with AdamW."""
        return [
            step
            for step in self.steps
            if step.gpu == kind
            and step.num_gpus == 1
            and step.recompute == recompute
            and (step.optimizer, step.method) == ("adamw", "mdlm")
        ]

    def together(self, *, shard: bool, num_parameters: float) -> Step:
        """The step of several GPUs, beside its twin on one, whose network is nearest in size; a
        recorded one before another."""
        found = [s for s in self.steps if s.num_gpus > 1 and s.shard == shard and s.alone_s and s.optimizer == "adamw"]
        return min(found, key=lambda s: (abs(math.log(s.num_parameters / num_parameters)), not s.recorded))


@cache
def measured() -> Measured:
    """What comes with the package."""
    return from_json(json.loads(files("mdlm_atat.scaling").joinpath("measured.json").read_text(encoding="utf-8")))


def from_json(stored: dict[str, Any]) -> Measured:
    """Raises KeyError and TypeError for what is not of this form."""
    return Measured(
        gpus=tuple(GPU(**gpu) for gpu in stored["gpus"]),
        steps=tuple(Step(**step) for step in stored["steps"]),
        host=Host(**stored["host"]),
        checkpoints=tuple(CheckpointTime(**each) for each in stored["checkpoints"]),
        muon=Muon(**stored["muon"]),
        adamw_s_per_parameter=stored["adamw_s_per_parameter"],
        adamw_where=stored["adamw_where"],
    )


def gpu_kinds() -> Sequence[str]:
    """The kinds of GPU that a plan can be made for."""
    return [gpu.kind for gpu in measured().gpus]


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise UserError where a setting, by its dotted path, is one that a plan finds, or one that its steps were not
    measured with."""
    for name, why in FOUND.items():
        if f"train.{name}" in settings:
            raise UserError(f"`train.{name}=` {why}: leave it out")
    for name, value in SWITCHES.items():
        if (asked := settings.get(f"train.{name}", value)) != value:
            raise UserError(
                f"`train.{name}={asked!r}` cannot be planned: steps were measured with `train.{name}={value!r}` alone; "
                "leave it out"
            )
