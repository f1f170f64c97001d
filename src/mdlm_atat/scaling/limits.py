"""What breaks first: each limit of a run as what it needs over what there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mdlm_atat.scaling.measured import Measured
from mdlm_atat.scaling.memory import Way
from mdlm_atat.scaling.sizes import Sizes
from mdlm_atat.scaling.speed import Speed, Stored

WAIT_S = 1800.0
"""How long processes wait for each other: the time limit of torch.distributed."""
LONGEST_S = 90 * 86_400.0
"""A run that takes longer is counted as broken: an assumption."""
ORDER_BYTES_PER_ROW = 24
"""Of an epoch's order: the draws, their order, and the order before, which is kept."""


@dataclass(frozen=True)
class Limit:
    """What a run needs of something, and what there is of it."""

    what: str
    needs: float
    has: float
    unit: Literal["bytes", "seconds"]
    remedy: str
    is_mended: bool = False
    """Whether the way that is planned does without it."""

    @property
    def ratio(self) -> float:
        """Above 1 it breaks."""
        return self.needs / self.has


def limits_of(
    *,
    sizes: Sizes,
    way: Way,
    state_bytes: float,
    smallest_bytes: float,
    bf16_bytes: float,
    usable_bytes: float,
    host_bytes: float,
    gpus_here: int,
    checkpoint: Stored,
    whole_checkpoint: Stored,
    token_bytes: float,
    num_rows: float,
    speed: Speed | None,
    total_s: float | None,
    measured: Measured,
) -> tuple[Limit, ...]:
    """The limits of a run: those that are broken, the worst first; then those that hold, the nearest to breaking first;
    then those that the planned `way` does without, what was broken worst first."""
    shards, in_parts = way.kind == "sharded", checkpoint.in_parts
    found = [
        Limit(
            "weights, average, gradients and optimizer state on one GPU, without sharding",
            state_bytes,
            usable_bytes,
            "bytes",
            "train.shard cuts them over the GPUs",
            is_mended=shards,
        ),
        Limit(
            "copies of the blocks' weights in bf16 for the backward pass, which sharding does not cut",
            bf16_bytes,
            usable_bytes,
            "bytes",
            "train.recompute keeps those of one block at a time",
            is_mended=way.recompute,
        ),
        Limit(
            "the least that any way needs on a GPU",
            smallest_bytes,
            usable_bytes,
            "bytes",
            "more GPUs to shard over, or a smaller network",
        ),
        Limit(
            "the networks that every process of a machine builds before they are moved or cut",
            4 * sizes.num_parameters * gpus_here,
            host_bytes,
            "bytes",
            "more memory in a machine",
        ),
        Limit(
            "the loader's order of an epoch's rows, in every process of a machine",
            ORDER_BYTES_PER_ROW * num_rows * gpus_here,
            host_bytes,
            "bytes",
            "longer rows, or the text in parts, a run after the other",
        ),
        Limit(
            "the checksum of the token file, which every process reads whole the first time; who is done waits",
            token_bytes / measured.host.checksum_bytes_per_s,
            WAIT_S,
            "seconds",
            "open the text in one process before: what was found right is remembered",
        ),
        Limit(
            "a checkpoint by one process, for which the others wait",
            whole_checkpoint.seconds,
            WAIT_S,
            "seconds",
            "train.shard, which writes large ones in parts",
            is_mended=in_parts,
        ),
        Limit(
            "a checkpoint's largest file in the memory of one process",
            whole_checkpoint.gathered_bytes,
            host_bytes,
            "bytes",
            "train.shard and train.whole_checkpoint_gib, which write it in parts",
            is_mended=in_parts,
        ),
    ]
    if in_parts:
        found.append(
            Limit(
                "a checkpoint in parts, which one process reads again for their checksums while the others wait",
                checkpoint.seconds,
                WAIT_S,
                "seconds",
                "a faster disk",
            )
        )
    beside = (
        {}
        if speed is None
        else {
            "Muon's orthogonalisations, which every process does whole, beside the passes": speed.muon_s,
            "exchange between GPUs, beside the passes": speed.exchange_s,
        }
    )
    for what, seconds in beside.items():
        if speed is not None and seconds > 0:
            found.append(Limit(what, seconds, speed.compute_s, "seconds", "a larger batch, or fewer GPUs"))
    if total_s is not None:
        found.append(Limit("the time of the run, beside three months", total_s, LONGEST_S, "seconds", "more GPUs"))
    return tuple(sorted(found, key=lambda limit: (limit.is_mended, -limit.ratio)))
